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
