//! A start that must not succeed says why, and a damaged or foreign store is left as it is.

#![allow(
    clippy::expect_used,
    reason = "helpers of tests, too: what is not as expected ends the test"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::policy::rcpt;

const MPP: &str = env!("CARGO_BIN_EXE_mpp");

fn daemon() -> Daemon {
    Daemon::new(MPP, &address(), "[policy.default.greylist]\ndelay = \"1h\"\n")
}

/// The files of the store, largest first.
fn files(mpp: &Daemon) -> Vec<PathBuf> {
    let folder = fs::read_dir(mpp.folder().join("state/store")).expect("a store");
    let mut files: Vec<PathBuf> = folder.map(|file| file.expect("a file").path()).collect();
    files.sort_by_key(|file| std::cmp::Reverse(fs::metadata(file).map_or(0, |data| data.len())));
    files
}

/// Has everything written: any look at the log does that.
fn settle(mpp: &Daemon) {
    mpp.tell_in_vain(&["explain", "0000000000"]);
}

#[test]
fn a_wrong_configuration_does_not_start() {
    let mpp = daemon();
    mpp.configure("[policy.default.gerylist]\n[policy.default.threshold]\n[lisen]\n");
    let said = mpp.refused();
    for word in ["gerylist", "did you mean `greylist`?", "lisen", "did you mean `listen`?"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(!mpp.folder().join("state").exists(), "nothing was touched");
    mpp.configure("this is not TOML");
    assert!(mpp.refused().contains("mpp.toml:"));
    fs::remove_file(mpp.folder().join("mpp.toml")).expect("our own file");
    assert!(mpp.refused().contains("cannot read the configuration"));
}

#[test]
fn a_state_directory_that_cannot_be_made_is_named() {
    let mpp = daemon();
    mpp.write("state", "a file where a folder is to be");
    let said = mpp.refused();
    assert!(said.starts_with("error:") && said.contains("state"), "{said}");
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    // As another user: root may write everywhere.
    let mpp = daemon();
    let said = mpp.refused_as("nobody");
    assert!(said.starts_with("error:") && said.contains("state"), "{said}");
    let mut mpp = daemon();
    mpp.launch();
    mpp.stop();
    let said = mpp.refused_as("nobody");
    assert!(said.starts_with("error:") && said.contains("state/store"), "{said}");
    // Readable to all, writable to root.
    let state = mpp.folder().join("state");
    for path in [state.clone(), state.join("store"), state.join("log")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own folder");
    }
    for file in files(&mpp) {
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).expect("our own file");
    }
    let said = mpp.refused_as("nobody");
    assert!(said.starts_with("error:") && said.contains("state/store"), "{said}");
}

#[test]
fn a_store_in_use_is_left_alone() {
    let mut mpp = daemon();
    mpp.launch();
    let said = mpp.refused();
    assert!(said.contains("in use by another mpp"), "{said}");
    assert!(mpp.client().ask(&rcpt("192.0.2.1", "a@x.example", "b@y.example")).contains("Grey"));
    // Killed, it holds nothing any more.
    mpp.kill();
    mpp.launch();
}

#[test]
fn a_port_in_use_is_named() {
    let mut mpp = daemon();
    mpp.launch();
    let other =
        Daemon::new(MPP, "127.0.0.1", &format!("[listen]\npolicy = [\"{}\"]\n", mpp.address()));
    let said = other.refused();
    assert!(said.contains(mpp.address()) && said.contains("in use"), "{said}");
    let other = Daemon::new(
        MPP,
        "127.0.0.1",
        &format!("[listen]\npolicy = [\"{}\"]\n", mpp.unix_address()),
    );
    let said = other.refused();
    assert!(said.contains("somebody listens there"), "{said}");
    // The socket file of a dead one is replaced.
    mpp.kill();
    let mut other = other;
    other.launch();
}

#[test]
fn a_damaged_store_is_named_and_set_aside_only_when_told() {
    let mut mpp = daemon();
    mpp.launch();
    let mut client = mpp.client();
    for network in 0..250 {
        client.ask(&rcpt(&format!("10.0.{network}.1"), "a@x.example", "bob@test.example"));
        if network % 50 == 0 {
            // Several commits: a fault in the last one alone may be what a crash left.
            settle(&mpp);
        }
    }
    drop(client);
    mpp.stop();
    let file = files(&mpp).into_iter().next().expect("a file");
    let whole = fs::read(&file).expect("our own file");
    let mut damaged = whole.clone();
    let third = damaged.len() / 3;
    for byte in damaged.iter_mut().skip(third).take(16) {
        *byte ^= 0x55;
    }
    fs::write(&file, &damaged).expect("our own file");
    let said = mpp.refused();
    assert!(said.starts_with("error:") && said.contains("damaged"), "{said}");
    assert!(said.contains(&*file.to_string_lossy()), "{said}");
    assert_eq!(fs::read(&file).expect("our own file"), damaged, "nothing was changed");
    // Mended from a backup, it is as before.
    fs::write(&file, &whole).expect("our own file");
    mpp.launch();
    let triplet = ["--client", "10.0.7.1", "--from", "a@x.example", "--to", "bob@test.example"];
    let shown = mpp.json(&[&["greylist", "show"], &triplet[..]].concat());
    assert!(shown["greylisted"]["since_ms"].is_u64(), "{shown}");
    // On demand it starts with what can be read, and keeps the rest for people to look at.
    mpp.stop();
    fs::write(&file, &damaged).expect("our own file");
    mpp.launch_with(&["--set-aside-damaged"]);
    let folders = files(&mpp).into_iter().filter(|file| file.is_dir());
    let mut aside = folders.flat_map(|folder| fs::read_dir(folder).expect("a folder"));
    assert!(aside.any(|file| fs::read(file.expect("a file").path()).is_ok_and(|b| b == damaged)));
}

#[test]
fn what_a_crash_cut_off_is_no_damage() {
    let mut mpp = daemon();
    mpp.launch();
    let mut client = mpp.client();
    client.ask(&rcpt("10.0.0.1", "a@x.example", "bob@test.example"));
    settle(&mpp);
    client.ask(&rcpt("10.0.1.1", "a@x.example", "bob@test.example"));
    settle(&mpp);
    drop(client);
    mpp.kill();
    let journal = files(&mpp).into_iter().find(|file| {
        file.file_name().is_some_and(|name| name.to_string_lossy().contains("journal"))
    });
    let journal = journal.unwrap_or_else(|| panic!("no journal in {:?}", files(&mpp)));
    let bytes = fs::read(&journal).expect("our own file");
    fs::write(&journal, bytes.get(..bytes.len() - 3).expect("not empty")).expect("our own file");
    mpp.launch();
    let since = |client: &str| {
        let triplet = ["--client", client, "--from", "a@x.example", "--to", "bob@test.example"];
        mpp.json(&[&["greylist", "show"], &triplet[..]].concat())["greylisted"].clone()
    };
    assert!(since("10.0.0.1").is_object(), "what was whole is there");
}
