//! What a process takes, from `/proc`; and on which core it runs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// The core of the servers, and of whoever measures them.
pub const SERVER_CORE: &str = "0";
const OWN_CORE: &str = "1";
/// Says that this process is where it belongs.
const MOVED: &str = "MPP_BENCH_MOVED";

/// Goes on with this program on the core of whoever measures.
pub fn move_to_own_core() {
    if std::env::var_os(MOVED).is_none() {
        let program = std::env::current_exe().expect("this program");
        let failed = Command::new("taskset")
            .args(["-c", OWN_CORE])
            .arg(program)
            .args(std::env::args_os().skip(1))
            .env(MOVED, "1")
            .exec();
        panic!("taskset (Debian: util-linux) does not start, or there is one core: {failed}");
    }
}

/// Lets servers run on any core from now on: where several of them and whoever measures share two
/// cores, pinning some would measure the pinning.
pub fn use_all_cores() {
    USES_ALL.store(true, Ordering::Relaxed);
}

static USES_ALL: AtomicBool = AtomicBool::new(false);

/// A command that runs on the core of the servers.
pub fn on_server_core(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if USES_ALL.load(Ordering::Relaxed) {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", SERVER_CORE]).arg(program);
    command
}

/// Nanoseconds that all threads of a process have run.
pub fn cpu_ns(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let of = |path: std::path::PathBuf| -> Option<u64> {
        fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
    };
    threads.flatten().filter_map(|thread| of(thread.path())).sum()
}

/// Seconds of processor time, user's and system's, that a process and all below it have taken, those
/// included that have ended and were waited for. In steps of a hundredth of a second.
pub fn tree_cpu_s(pid: u32) -> f64 {
    let (user, system) = tree_cpu_parts_s(pid);
    user + system
}

/// The same, the user's time and the system's.
pub fn tree_cpu_parts_s(pid: u32) -> (f64, f64) {
    let mut parents = BTreeMap::new();
    let mut ticks = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(own) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name before it may hold anything, a parenthesis included.
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let numbers: Vec<u64> = rest.split(' ').map(|word| word.parse().unwrap_or(0)).collect();
        let number = |place: usize| numbers.get(place).copied().unwrap_or(0);
        parents.insert(own, number(1));
        // utime, stime, cutime, cstime: fields 14 to 17 of proc(5).
        ticks.insert(own, (number(11) + number(13), number(12) + number(14)));
    }
    let is_below = |mut process: u32| {
        while process != pid && process > 1 {
            let parent = parents.get(&process).and_then(|it| u32::try_from(*it).ok());
            process = parent.unwrap_or(0);
        }
        process == pid
    };
    let all = ticks.iter().filter(|(own, _)| is_below(**own)).map(|(_, ticks)| *ticks);
    let (user, system) = all.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
    (user as f64 / 100.0, system as f64 / 100.0)
}

/// Seconds of processor time that whoever else has taken on this machine: all that was used, without
/// that of this process and all below it.
pub fn others_cpu_s() -> f64 {
    let stat = fs::read_to_string("/proc/stat").expect("Linux");
    let line = stat.lines().next().unwrap_or_default();
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal.
    let busy = |place: usize| numbers.get(place).copied().unwrap_or(0);
    let used: u64 = [0, 1, 2, 5, 6, 7].into_iter().map(busy).sum();
    used as f64 / 100.0 - tree_cpu_s(std::process::id())
}

/// Lets this process and those that it starts open as many files as is allowed at all.
pub fn open_many_files() {
    let limits = fs::read_to_string("/proc/self/limits").expect("Linux");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let most = line.and_then(|line| line.split_whitespace().nth(1)).expect("a limit");
    let own = std::process::id().to_string();
    let limit = format!("--nofile={most}:{most}");
    let status = Command::new("prlimit").args(["--pid", &own, &limit]).status();
    assert!(status.is_ok_and(|status| status.success()), "prlimit (Debian: util-linux)");
}

/// Bytes of memory that a process has resident, files mapped into it included.
pub fn resident_bytes(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:") * 1024
}

/// The most that it ever had.
pub fn peak_bytes(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:") * 1024
}

fn status_kib(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Bytes of the files in a directory and below.
pub fn disk_bytes(path: &std::path::Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => disk_bytes(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}
