//! A daemon that has nothing to do wakes nobody up.

use std::time::Duration;

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;

const MPP: &str = env!("CARGO_BIN_EXE_mpp");

/// How often the threads of a process have gone to sleep by themselves.
fn switches(process: &str) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let of = |task: std::fs::DirEntry| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|it| it.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    tasks.map(of).sum()
}

#[test]
fn an_idle_daemon_wakes_up_once_a_second_at_most() {
    let mpp = Daemon::start(MPP, &address(), "[policy.default.greylist]\nmode = \"off\"\n");
    // What the start has left to do.
    std::thread::sleep(Duration::from_secs(2));
    let before = switches(&mpp.process());
    assert!(before > 0);
    // Time itself is measured here.
    let seconds = 6;
    std::thread::sleep(Duration::from_secs(seconds));
    let woken = switches(&mpp.process()) - before;
    assert!(woken <= seconds + 1, "{woken} times in {seconds} s");
}
