//! A disk that is full while mpp runs: it goes on from memory, says so, refuses nobody for it, and
//! makes up for it when there is room again.

#![allow(
    clippy::expect_used,
    reason = "helpers of tests, too: what is not as expected ends the test"
)]

use std::fs;

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::policy::{Client, rcpt};
use mpp_tests::real::small_disk::SmallDisk;
use mpp_tests::real::{address, until};

const MPP: &str = env!("CARGO_BIN_EXE_mpp");

fn ask(client: &mut Client, network: u32) -> String {
    let host = format!("10.{}.{}.1", network >> 8 & 0xff, network & 0xff);
    client.ask(&rcpt(&host, "a@x.example", "bob@test.example"))
}

fn is_known(mpp: &Daemon, network: u32) -> bool {
    let host = format!("10.{}.{}.1", network >> 8 & 0xff, network & 0xff);
    let triplet = ["--client", &host, "--from", "a@x.example", "--to", "bob@test.example"];
    mpp.json(&[&["greylist", "show"], &triplet[..]].concat())
        .pointer("/greylisted/since_ms")
        .is_some()
}

#[test]
fn a_full_disk_refuses_nobody_and_is_made_up_for() {
    let text = "[server]\nstate = \"state\"\nlog_size = \"1 MiB\"\n\
                [policy.default.greylist]\ndelay = \"1h\"\n";
    let mut mpp = Daemon::new(MPP, &address(), text);
    let disk = SmallDisk::mount(&mpp.folder().join("state"), "8m");
    mpp.launch();
    let mut client = mpp.client();
    for network in 0..1_000 {
        assert!(ask(&mut client, network).contains("Greylisted"));
    }
    let filler = disk.fill();
    let health = || mpp.json(&["status"])["store"]["health"].as_str().unwrap_or("").to_owned();
    let mut network = 999;
    let trouble = until("a store that says it is in trouble", || {
        for _ in 0..500 {
            network += 1;
            assert!(ask(&mut client, network).contains("Greylisted"), "refused for the disk");
        }
        Some(health()).filter(|health| health != "good")
    });
    assert!(trouble.contains("memory only") && trouble.contains("No space left"), "{trouble}");
    mpp.wait_for_word("the store goes on from memory only");
    // What was learnt before and meanwhile is known.
    assert!(is_known(&mpp, 500) && is_known(&mpp, network));
    assert!(mpp.json(&["stats"])["total"]["clients"]["seen"].as_u64() > Some(1_000));

    fs::remove_file(filler).expect("our own file");
    until("a store that is well again", || (health() == "good").then_some(()));
    mpp.wait_for_word("the store is durable again");
    mpp.tell_in_vain(&["explain", "0000000000"]);
    mpp.kill();
    mpp.launch();
    for network in [1, 500, 1_001, network / 2, network] {
        assert!(is_known(&mpp, network), "network {network}");
    }
    drop(mpp);
    drop(disk);
}

#[test]
fn a_disk_that_is_full_at_the_start_is_named() {
    let mpp = Daemon::new(MPP, &address(), "");
    let disk = SmallDisk::mount(&mpp.folder().join("state"), "1m");
    disk.fill();
    let said = mpp.refused();
    assert!(said.starts_with("error:") && said.contains("No space left"), "{said}");
    assert!(said.contains("state"), "{said}");
}
