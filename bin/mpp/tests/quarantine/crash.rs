//! kill -9 in the middle of mail: what was answered 250 is at the destination or held, once.

use std::collections::BTreeMap;
use std::time::Duration;

use mpp_tests::real::raw_smtp::RawSmtp;

use crate::{HELD, Scene, text};

/// How often it is killed.
const LIVES: u64 = 12;
const SENDERS: u64 = 4;

/// One message; whether it was answered 250.
fn deliver(listen: &str, recipient: &str, serial: &str) -> bool {
    let Some(mut raw) = RawSmtp::try_open(listen) else { return false };
    if !raw.reply().starts_with("220") || !raw.say("EHLO c.example").starts_with("250") {
        return false;
    }
    raw.message("a@good.example", recipient, &text(serial, &"x".repeat(3_000))).starts_with("250")
}

#[test]
fn whatever_was_promised_is_there_exactly_once() {
    let mut scene = Scene::start(HELD);
    let mut promised: Vec<String> = Vec::new();
    let mut dice = 7_u64;
    for life in 0..LIVES {
        let threads: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let listen = scene.listen.clone();
                std::thread::spawn(move || {
                    let mut taken = Vec::new();
                    let is_held = sender < 3;
                    for number in 0.. {
                        let way = if is_held { "held" } else { "free" };
                        let serial = format!("{way}-{life}-{sender}-{number}");
                        let recipient =
                            if is_held { "held@test.example" } else { "bob@test.example" };
                        if !deliver(&listen, recipient, &serial) {
                            return taken;
                        }
                        taken.push(serial);
                    }
                    taken
                })
            })
            .collect();
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(60 + (dice >> 33) % 250));
        scene.mpp.kill();
        promised.extend(threads.into_iter().flat_map(|thread| thread.join().expect("a sender")));
        scene.mpp.launch();
    }
    let mut counts: BTreeMap<String, u32> = scene.hop.taken().clone();
    for row in scene.rows(&["list", "--most", "1000000"]) {
        let subject = row["subject"].as_str().expect("a subject");
        let serial = subject.strip_prefix("minutes of ").expect("one of ours").to_owned();
        *counts.entry(serial).or_default() += 1;
        // What the index has can be read.
        let id = row["id"].as_str().expect("an id");
        assert!(scene.mpp.tell(&["quarantine", "show", id]).contains("please find the minutes"));
    }
    let held = promised.iter().filter(|serial| serial.starts_with("held")).count();
    assert!(held > 50, "a load worth the name: {held}");
    for serial in &promised {
        assert_eq!(counts.get(serial), Some(&1), "{serial} was answered 250");
    }
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    println!("{} promised, {held} of them held, {} there", promised.len(), counts.len());
}
