//! A quarantine whose disk is full: "not now" for what should be held, and nothing half remains.

use std::path::{Path, PathBuf};

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::ledger::Ledger;
use mpp_tests::real::small_disk::SmallDisk;

use crate::{HELD, MPP, Scene, gateway, text};

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn what_cannot_be_held_is_not_promised() {
    let (at, hop) = (address(), Ledger::start(|| None));
    let listen = format!("{at}:10025");
    let mut mpp = Daemon::new(MPP, &at, &gateway(&listen, hop.address(), ""));
    let folder = mpp.folder().join("small");
    let disk = SmallDisk::mount(&folder, "8m");
    let rules = format!("{HELD}[quarantine]\nfolder = \"{}\"\n", folder.join("held").display());
    mpp.configure(&gateway(&listen, hop.address(), &rules));
    mpp.launch();
    let scene = Scene { mpp, listen, hop };
    scene.hold(&["held@test.example"], "before");
    let messages = folder.join("held/messages");
    let before = files(&messages);
    let filler = disk.fill();
    // What does not compress does not fit.
    let (mut dice, mut noise) = (1_u64, String::new());
    for _ in 0..1_000 {
        for _ in 0..3 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            noise.push_str(&dice.to_string());
        }
        noise.push_str("\r\n");
    }
    for number in 0..3 {
        let serial = format!("full-{number}");
        let reply = scene.send(&["held@test.example", "bob@test.example"], &text(&serial, &noise));
        assert!(reply.starts_with("451 4.3.0"), "{reply}");
    }
    let trouble = scene.mpp.json(&["status"])["quarantine"]["trouble"].clone();
    assert!(trouble.as_str().is_some_and(|it| !it.is_empty()), "{trouble}");
    assert_eq!(files(&messages), before, "nothing half remains");
    assert!(scene.hop.taken().is_empty(), "nobody got what is to come again");
    assert!(scene.send(&["bob@test.example"], &text("free", "x")).starts_with("250"));
    std::fs::remove_file(filler).unwrap();
    scene.hold(&["held@test.example"], "after");
    assert_eq!(scene.rows(&["list"]).len(), 2);
    assert!(scene.mpp.json(&["status"])["quarantine"]["trouble"].is_null());
    scene.mpp.wait_for_word("quarantine:");
    drop(scene);
    drop(disk);
}
