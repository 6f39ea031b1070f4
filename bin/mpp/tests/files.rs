//! The files of a running mpp: who may read them, and what becomes of a log that is removed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::policy::rcpt;
use mpp_tests::real::{address, until};

const MPP: &str = env!("CARGO_BIN_EXE_mpp");
const PROXY: &str =
    "[proxy.filter]\nlisten = [\"ADDRESS:10025\"]\nnext_hop = [\"ADDRESS:10026\"]\n";

fn walk(path: &Path, all: &mut Vec<PathBuf>) {
    all.push(path.to_owned());
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            walk(&entry.path(), all);
        } else {
            all.push(entry.path());
        }
    }
}

fn logs(mpp: &Daemon) -> Vec<PathBuf> {
    let entries = fs::read_dir(mpp.folder().join("state/log")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[test]
fn nobody_else_reads_what_mpp_keeps_whatever_the_umask() {
    let address = address();
    let mut mpp = Daemon::new(MPP, &address, &PROXY.replace("ADDRESS", &address));
    mpp.launch();
    mpp.client().ask(&rcpt("192.0.2.66", "a@x.example", "bob@test.example"));
    mpp.stop();
    let mode = |path: &Path| fs::metadata(path).map_or(0, |it| it.permissions().mode()) & 0o777;
    let mut all = Vec::new();
    walk(&mpp.folder().join("state"), &mut all);
    assert!(all.len() > 6, "{all:?}");
    for path in &all {
        assert_eq!(mode(path) & 0o077, 0, "{} {:o}", path.display(), mode(path));
        // As an earlier version left it.
        let open = if path.is_dir() { 0o755 } else { 0o644 };
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(open));
    }
    mpp.launch();
    for name in ["", "log", "store", "quarantine", "statistics.json", "store/journal"] {
        let path = mpp.folder().join("state").join(name);
        assert_eq!(mode(&path) & 0o077, 0, "{name} {:o}", mode(&path));
    }
}

#[test]
fn a_removed_log_gives_its_room_back_and_goes_on_in_a_new_file() {
    let mpp = Daemon::start(MPP, &address(), "[policy.default.greylist]\ndelay = \"1h\"\n");
    let refused = |client: &str| {
        let answer = mpp.client().ask(&rcpt(client, "a@x.example", "bob@test.example"));
        answer.rsplit('(').next().unwrap_or_default().trim_end_matches(')').to_owned()
    };
    let first = refused("192.0.2.1");
    mpp.tell(&["explain", &first]);
    for path in logs(&mpp) {
        let _ = fs::remove_file(path);
    }
    let descriptors = format!("/proc/{}/fd", mpp.process());
    until("the room given back", || {
        let open = fs::read_dir(&descriptors).into_iter().flatten().flatten();
        let mut open = open.filter_map(|it| fs::read_link(it.path()).ok());
        let is_open = |path: PathBuf| {
            let path = path.to_string_lossy().into_owned();
            path.contains("decisions-") && path.ends_with("(deleted)")
        };
        (!open.any(is_open)).then_some(())
    });
    mpp.tell(&["explain", &refused("192.0.2.2")]);
    assert_eq!(logs(&mpp).len(), 1);
    // Renamed, as programs that turn logs over do, and told so.
    for (number, tell) in [(3, true), (4, false)] {
        for path in logs(&mpp) {
            let _ = fs::rename(&path, mpp.folder().join(format!("old-{number}")));
        }
        if tell {
            mpp.hang_up();
            mpp.wait_for_word("configuration 2 taken");
        } else {
            mpp.tell(&["reload"]);
        }
        let id = refused(&format!("192.0.2.{number}"));
        mpp.tell(&["explain", &id]);
    }
}
