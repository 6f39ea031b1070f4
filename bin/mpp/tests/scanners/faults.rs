//! Scanners that are down, hang, or say what is no verdict.

use std::time::{Duration, Instant};

use mpp_tests::real::fake_smtp::{Act, FakeSmtp};
use mpp_tests::real::scanners::{Kind, RealScanner, gtube};
use mpp_tests::real::until;

use crate::{Scene, text};

#[test]
fn while_it_is_down_mail_passes_or_waits_as_the_policy_says() {
    let mut scanner = RealScanner::start(Kind::Spamd);
    let rules = "[policy.default.scan]\nwith = [\"spamd\"]\n[policy.careful]\n\
        match = { recipient = [\"eve@test.example\"] }\nscan.down = \"defer\"\n";
    let scene = Scene::start(&scanner.lines(), rules);
    scanner.kill();
    assert!(scene.send("198.51.100.7", "down", &gtube()).starts_with("250"));
    assert!(scene.heard().contains("unscanned"), "{}", scene.heard());
    let mut client = scene.client("198.51.100.7");
    let reply = client.message("a@good.example", "eve@test.example", "x");
    assert!(reply.starts_with("451 4.7.1"), "{reply}");
    scene.mpp.wait_for_word("scanner spamd:");
    scanner.launch();
    until("a verdict again", || {
        scene.send("198.51.100.8", "back", &gtube()).starts_with("550").then_some(())
    });
    scene.hop.settle(&["down".to_owned()]);
}

#[test]
fn one_that_hangs_costs_its_time_and_the_next_server_answers() {
    let (hung, well) = (RealScanner::start(Kind::Rspamd), RealScanner::start(Kind::Rspamd));
    let lines = format!(
        "[scanner.rspamd]\nkind = \"rspamd\"\nservers = [\"{}\", \"{}\"]\ntimeout = \"4s\"\n",
        hung.address(),
        well.address()
    );
    let scene = Scene::start(&lines, "[policy.default.scan]\nwith = [\"rspamd\"]\n");
    hung.freeze();
    let begin = Instant::now();
    assert!(scene.send("198.51.100.7", "one", &gtube()).starts_with("550"));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!(scene.number("rspamd", "servers_down"), 1);
    // It is not waited for each time.
    let begin = Instant::now();
    assert!(scene.send("198.51.100.8", "two", &gtube()).starts_with("550"));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    hung.thaw();
}

#[test]
fn what_is_no_verdict_is_none() {
    type Say = fn() -> Act;
    let cases: [(Kind, &str, Say); 9] = [
        (Kind::Spamd, "garbage", || Act::Cut(b"\x01\x02 what?\r\n\r\n".to_vec())),
        (Kind::Spamd, "half a line", || Act::Cut(b"SPAMD/1.1 0 EX".to_vec())),
        (Kind::Spamd, "an absurd score", || {
            Act::Cut(b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 1e9999 / 5\r\n\r\n".to_vec())
        }),
        (Kind::Spamd, "a wrong length", || {
            Act::Cut(
                b"SPAMD/1.1 0 EX_OK\r\nContent-length: 999\r\nSpam: True ; 9 / 5\r\n\r\nA".to_vec(),
            )
        }),
        (Kind::Clamd, "garbage", || Act::Cut(b"what?\0".to_vec())),
        (Kind::Clamd, "half a line", || Act::Cut(b"stream: Eicar FOU".to_vec())),
        (Kind::Clamd, "too much", || Act::Cut(vec![b'x'; 100_000])),
        (Kind::Rspamd, "no JSON", || {
            Act::Cut(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwhat".to_vec())
        }),
        (Kind::Rspamd, "an error", || {
            Act::Cut(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_vec())
        }),
    ];
    for (kind, what, say) in cases {
        // It answers whatever line comes first, and hangs up.
        let fake = FakeSmtp::start(move |line| if line.is_empty() { Act::Listen } else { say() });
        let name = kind.name();
        let lines = format!(
            "[scanner.{name}]\nkind = \"{name}\"\nservers = [\"{}\"]\ntimeout = \"3s\"\n",
            fake.address()
        );
        let rules = format!("[policy.default.scan]\nwith = [\"{name}\"]\ndown = \"defer\"\n");
        let scene = Scene::start(&lines, &rules);
        let reply = scene.send("198.51.100.7", "x", "hi");
        assert!(reply.starts_with("451 4.7.1"), "{name} says {what}: {reply}");
        assert_eq!(scene.number(name, "failed"), 1, "{name} says {what}");
        assert!(scene.mpp.runs());
    }
}

#[test]
fn more_than_may_wait_are_not_scanned() {
    let scanner = RealScanner::start(Kind::Spamd);
    let lines = format!("{}scans = 1\nqueue = 1\n", scanner.lines());
    let scene =
        Scene::start(&lines, "[policy.default.scan]\nwith = [\"spamd\"]\ndown = \"defer\"\n");
    scanner.freeze();
    let replies: Vec<_> = (0..4)
        .map(|number| {
            let mut client = scene.client(&format!("198.51.100.{}", 7 + number));
            std::thread::spawn(move || {
                let message = text(&number.to_string(), "Regards");
                client.message("a@good.example", "bob@test.example", &message)
            })
        })
        .collect();
    until("two that are not scanned", || (scene.number("spamd", "busy") >= 2).then_some(()));
    scanner.thaw();
    let replies: Vec<String> = replies.into_iter().map(|it| it.join().unwrap()).collect();
    let taken = replies.iter().filter(|reply| reply.starts_with("250")).count();
    assert_eq!(taken, 2, "{replies:?}");
}

/// What the log says of a scanner: how often it is down, and how often back.
fn down_and_back(scene: &Scene, name: &str) -> (usize, usize) {
    let said = scene.mpp.said();
    let count = |word: String| said.matches(&word).count();
    (count(format!("scanner {name}: down:")), count(format!("scanner {name} answers again")))
}

#[test]
fn one_that_hangs_is_left_alone_and_a_virus_waits_for_it() {
    let scanner = RealScanner::start(Kind::Clamd);
    let rules = "[policy.default.scan]\nwith = [\"clamd\"]\n[policy.lenient]\n\
        match = { recipient = [\"eve@test.example\"] }\nscan.down = \"pass\"\n";
    let scene = Scene::start(&scanner.lines(), rules);
    assert!(scene.send("198.51.100.7", "clean", "hi").starts_with("250"));
    scanner.freeze();
    // The usual time-out is 30 s: it is known long before.
    let begin = Instant::now();
    let reply = scene.send("198.51.100.7", "first", "hi");
    assert!(reply.starts_with("451 4.7.1"), "{reply}");
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    for number in 0..20 {
        let begin = Instant::now();
        let reply = scene.send("198.51.100.7", &format!("next {number}"), "hi");
        assert!(reply.starts_with("451 4.7.1"), "{reply}");
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    }
    let mut client = scene.client("198.51.100.8");
    let reply = client.message("a@good.example", "eve@test.example", &text("lenient", "hi"));
    assert!(reply.starts_with("250"), "{reply}");
    assert_eq!(down_and_back(&scene, "clamd"), (1, 0), "{}", scene.mpp.said());
    let log = scene.mpp.folder().join("state/log");
    until("what was not scanned in the log", || {
        let files = std::fs::read_dir(&log).unwrap().flatten();
        let lines: String = files.map(|it| std::fs::read_to_string(it.path()).unwrap()).collect();
        (lines.matches("unscanned=clamd").count() == 22).then_some(())
    });
    assert!(scene.number("clamd", "unscanned") >= 22);
    let told = scene.mpp.tell(&["stats"]);
    assert!(told.contains("not scanned by clamd"), "{told}");
    scanner.thaw();
    until("a verdict again", || {
        scene.send("198.51.100.9", "back", "hi").starts_with("250").then_some(())
    });
    assert_eq!(down_and_back(&scene, "clamd"), (1, 1), "{}", scene.mpp.said());
}

#[test]
fn a_message_that_no_scanner_reads_has_nobody_elses_pass_unscanned() {
    // It answers a probe, and hangs up on what names the poison.
    let fake = FakeSmtp::start(|line| match line {
        "Serial: poison" => Act::Cut(b"what?".to_vec()),
        "This is a test of mpp." | "." => {
            Act::Cut(b"SPAMD/1.1 0 EX_OK\r\nSpam: False ; 0 / 5\r\n\r\n".to_vec())
        }
        _ => Act::Listen,
    });
    let lines = format!("[scanner.s]\nkind = \"spamd\"\nservers = [\"{}\"]\n", fake.address());
    let scene = Scene::start(&lines, "[policy.default.scan]\nwith = [\"s\"]\n");
    for _ in 0..5 {
        assert!(scene.send("198.51.100.7", "poison", "hi").starts_with("250"), "down = pass");
    }
    scene.mpp.wait_for_word("scanner s: a message was not scanned");
    assert_eq!(down_and_back(&scene, "s"), (0, 0));
    let status = scene.mpp.json(&["status"]);
    assert_eq!(status["scanners"][0]["state"], "works", "{status}");
}

#[test]
fn busy_is_not_down() {
    let scanner = RealScanner::start(Kind::Spamd);
    let lines = format!("{}scans = 1\nqueue = 3\n", scanner.lines());
    let scene =
        Scene::start(&lines, "[policy.default.scan]\nwith = [\"spamd\"]\ndown = \"pass\"\n");
    scanner.freeze();
    // One client has a quarter of the places.
    let mut first = scene.client("198.51.100.7");
    let waits = std::thread::spawn(move || {
        first.message("a@good.example", "bob@test.example", &text("first", "hi"))
    });
    until("one that is scanned", || (scene.number("spamd", "waiting") == 1).then_some(()));
    let reply = scene.send("198.51.100.7", "second", &gtube());
    assert!(reply.starts_with("451 4.7.1"), "{reply}");
    scanner.thaw();
    assert!(waits.join().unwrap().starts_with("250"));
    assert!(scene.send("198.51.100.8", "third", &gtube()).starts_with("550"));
}

#[test]
fn what_was_being_scanned_while_mpp_stood_still_is_not_passed() {
    let scanner = RealScanner::start(Kind::Spamd);
    let lines = format!(
        "[scanner.spamd]\nkind = \"spamd\"\nservers = [\"{}\"]\ntimeout = \"2s\"\n",
        scanner.address()
    );
    let scene =
        Scene::start(&lines, "[policy.default.scan]\nwith = [\"spamd\"]\ndown = \"pass\"\n");
    scanner.freeze();
    let mut client = scene.client("198.51.100.7");
    let reply = std::thread::spawn(move || {
        client.message("a@good.example", "bob@test.example", &text("frozen", &gtube()))
    });
    until("a scan under way", || (scene.number("spamd", "waiting") == 1).then_some(()));
    mpp_tests::real::signal("STOP", &scene.mpp.process());
    // A machine that is paused: its time goes on.
    std::thread::sleep(Duration::from_secs(4));
    mpp_tests::real::signal("CONT", &scene.mpp.process());
    let reply = reply.join().unwrap();
    assert!(reply.starts_with("451 4.7.1"), "{reply}");
    scanner.thaw();
}
