//! Either side dies, hangs or talks nonsense, at every byte; mpp itself is killed.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mpp_tests::real::fake_smtp::{Act, FakeSmtp};
use mpp_tests::real::ledger::{Ledger, deliver};
use mpp_tests::real::raw_smtp::RawSmtp;
use mpp_tests::real::until;

use crate::{RULES, gateway};

#[test]
fn a_client_may_leave_at_every_byte() {
    let ledger = Ledger::start(|| None);
    let (mpp, listen) = gateway(ledger.address(), "client_connections = 1000\n", RULES);
    let dialogue = b"EHLO c.example\r\nMAIL FROM:<a@b.example> SIZE=100\r\n\
        RCPT TO:<bob@test.example>\r\nDATA\r\nSerial: left\r\n\r\n..x\r\n.\r\n\
        MAIL FROM:<a@b.example>\r\nRCPT TO:<eve@test.example>\r\nBDAT 20 LAST\r\n\
        Serial: chunk\r\n\r\nx\r\nQUIT\r\n";
    for length in 0..=dialogue.len() {
        let mut raw = RawSmtp::open(&listen);
        raw.send(&dialogue[..length]);
        raw.finish();
        while !raw.reply().is_empty() {}
    }
    // Only whole ones were taken, each as often as it was whole.
    let first = dialogue.windows(5).position(|five| five == b"\r\n.\r\n").unwrap() + 5;
    let whole = u32::try_from(dialogue.len() - first + 1).unwrap();
    assert_eq!(ledger.taken().get("left"), Some(&whole));
    let second = dialogue.len() - b"QUIT\r\n".len();
    let whole = u32::try_from(dialogue.len() - second + 1).unwrap();
    assert_eq!(ledger.taken().get("chunk"), Some(&whole));
    // Nothing is left of those who left.
    until("an end of them", || {
        let status = mpp.json(&["status"]);
        (status["proxies"][0]["open"] == 0).then_some(())
    });
    assert!(deliver(&listen, "last"));
}

#[test]
fn what_was_answered_250_is_there_wherever_either_side_dies() {
    let place = Arc::new(Mutex::new(0_usize));
    let places = Arc::clone(&place);
    let ledger = Ledger::start(move || {
        let mut place = places.lock().unwrap();
        *place += 2;
        (*place < 1000).then_some(*place)
    });
    let (mut mpp, listen) = gateway(ledger.address(), "client_connections = 1000\n", RULES);
    let mut promised = Vec::new();
    for number in 0..520 {
        let serial = format!("hop-{number}");
        if deliver(&listen, &serial) {
            promised.push(serial);
        }
    }
    assert!(promised.len() > 10, "{}", promised.len());
    for round in 0..200_u64 {
        let sender = {
            let listen = listen.clone();
            std::thread::spawn(move || {
                let serials = (0..30).map(|number| format!("kill-{round}-{number}"));
                serials.filter(|serial| deliver(&listen, serial)).collect::<Vec<_>>()
            })
        };
        std::thread::sleep(Duration::from_millis(3 + round % 40));
        mpp.kill();
        promised.extend(sender.join().unwrap());
        mpp.launch();
    }
    ledger.settle(&promised);
    assert!(promised.len() > 300, "{}", promised.len());
    assert!(deliver(&listen, "last"));
}

/// What a next hop does at a step, in place of what it should.
type Deed = fn() -> Act;

const DEEDS: [(&str, Deed); 7] = [
    ("refuses for good", || Act::Say("554 5.0.0 never".into())),
    ("refuses for now", || Act::Say("451 4.0.0 not now".into())),
    ("takes leave", || Act::Say("421 4.3.2 bye".into())),
    ("says what is no reply", || Act::Say("\u{1}\u{2} what?".into())),
    ("says half a line", || Act::Cut(b"250 2.0".to_vec())),
    ("ends", || Act::Cut(Vec::new())),
    ("answers twice", || Act::Say("250 one\r\n250 two".into())),
];

#[test]
fn a_next_hop_that_fails_at_a_step_is_answered_for() {
    for step in ["", "EHLO", "MAIL", "RCPT", "DATA", "."] {
        for (name, deed) in DEEDS {
            let hop = FakeSmtp::start(move |line| {
                let verb = line.split([' ', ':']).next().unwrap_or_default();
                if verb == step {
                    return deed();
                }
                Act::Say(
                    match verb {
                        "" => "220 hop",
                        "EHLO" => "250-hop\r\n250 PIPELINING",
                        "DATA" => "354 go on",
                        "." | "MAIL" | "RCPT" | "RSET" | "HELO" => "250 2.0.0 ok",
                        "QUIT" => "221 bye",
                        _ => return Act::Listen,
                    }
                    .into(),
                )
            });
            let (mpp, listen) = gateway(hop.address(), "", RULES);
            let mut raw = RawSmtp::connect(&listen);
            raw.expect("EHLO c.example", "250");
            let begin = Instant::now();
            let reply = raw.message("a@b.example", "bob@test.example", "x");
            // Two refusals and a reply that is none are all the client sees; a text that is refused
            // for good is the one thing that is told for good.
            let is_told = match (step, name) {
                ("" | "EHLO", "answers twice") => !reply.is_empty(),
                ("MAIL" | "RCPT" | "DATA" | ".", "refuses for good") => reply.starts_with("554"),
                _ => reply.starts_with("45"),
            };
            assert!(is_told, "at {step:?} it {name}: {reply:?}");
            assert!(begin.elapsed() < Duration::from_secs(10), "at {step:?} it {name}");
            raw.expect("NOOP", "250");
            assert!(mpp.runs());
        }
    }
}

#[test]
fn a_next_hop_that_hangs_keeps_nobody_else_waiting() {
    let hop = FakeSmtp::start(|line| match line.split([' ', ':']).next().unwrap_or_default() {
        "" => Act::Say("220 hop".into()),
        "EHLO" => Act::Say("250 hop".into()),
        "MAIL" => Act::Hang,
        _ => Act::Say("250 ok".into()),
    });
    let (mpp, listen) = gateway(hop.address(), "", RULES);
    let mut stuck: Vec<RawSmtp> = (0..20).map(|_| RawSmtp::connect(&listen)).collect();
    for raw in &mut stuck {
        raw.send(b"EHLO c.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<bob@test.example>\r\n");
    }
    let begin = Instant::now();
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    raw.expect("MAIL FROM:<a@b.example>", "250");
    raw.expect("RCPT TO:<nobody@test.example>", "550");
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(mpp.runs());
}
