//! How much of everything, and how slowly.

use std::time::{Duration, Instant};

use mpp_tests::real::ledger::Ledger;
use mpp_tests::real::raw_smtp::RawSmtp;
use mpp_tests::real::until;

use crate::{RULES, gateway};

#[test]
fn a_client_and_a_network_have_so_many_connections() {
    let ledger = Ledger::start(|| None);
    let settings = "client_connections = 3\nnetwork_connections = 5\n";
    let (mpp, listen) = gateway(ledger.address(), settings, RULES);
    let open: Vec<RawSmtp> = (0..3).map(|_| RawSmtp::connect(&listen)).collect();
    let mut over = RawSmtp::open(&listen);
    let reply = over.reply();
    assert!(reply.starts_with("421 4.7.0 Too many connections"), "{reply}");
    let id = reply.rsplit_once('(').and_then(|(_, id)| id.strip_suffix(')')).expect("an id");
    assert!(mpp.tell(&["explain", id]).contains("connections"));
    drop(open);
    // A place that is given back is one.
    until("a place", || {
        let mut raw = RawSmtp::open(&listen);
        raw.reply().starts_with("220").then_some(())
    });
    let status = mpp.json(&["status"]);
    assert!(status["proxies"][0]["over_client_limit"].as_u64() >= Some(1), "{status}");
}

#[test]
fn all_connections_together_have_a_limit() {
    let ledger = Ledger::start(|| None);
    let settings = "connections = 4\nclient_connections = 100\n";
    let (_mpp, listen) = gateway(ledger.address(), settings, RULES);
    let _open: Vec<RawSmtp> = (0..4).map(|_| RawSmtp::connect(&listen)).collect();
    assert!(RawSmtp::open(&listen).reply().starts_with("421 4.7.0"));
}

#[test]
fn errors_commands_messages_and_recipients_are_counted() {
    let ledger = Ledger::start(|| None);
    let settings = "errors = 5\ncommands = 20\nmessages = 2\nrecipients = 100\n";
    let (mpp, listen) = gateway(ledger.address(), settings, RULES);
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    raw.expect("MAIL FROM:<a@b.example>", "250");
    // Guessing at users is an error each time.
    for number in 0..5 {
        raw.expect(&format!("RCPT TO:<guess{number}@test.example>"), "550");
    }
    raw.expect("RCPT TO:<guess@test.example>", "550");
    assert!(raw.reply().starts_with("421 4.7.0 Too many errors"));
    assert_eq!(raw.reply(), "");
    let mut raw = RawSmtp::connect(&listen);
    let last = (0..30).map(|_| raw.say("NOOP")).find(|reply| !reply.starts_with("250"));
    assert!(last.is_some_and(|reply| reply.starts_with("421 4.7.0 Too many commands")));
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    for number in 0..2 {
        let text = format!("Serial: m{number}\r\n\r\nx");
        assert!(raw.message("a@b.example", "bob@test.example", &text).starts_with("250"));
    }
    raw.expect("MAIL FROM:<a@b.example>", "421 4.7.0");
    let settings = "recipients = 100\ncommands = 1000\n";
    let (_mpp, listen) = gateway(ledger.address(), settings, RULES);
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    raw.expect("MAIL FROM:<a@b.example>", "250");
    for _ in 0..100 {
        raw.expect("RCPT TO:<bob@test.example>", "250");
    }
    raw.expect("RCPT TO:<bob@test.example>", "452 4.5.3");
    assert!(mpp.json(&["status"])["proxies"][0]["too_wrong"].as_u64() >= Some(2));
}

#[test]
fn who_is_slow_is_told_so() {
    let ledger = Ledger::start(|| None);
    let settings = "command_time = \"1s\"\nmessage_time = \"2s\"\nsession_time = \"4s\"\n";
    let (mpp, listen) = gateway(ledger.address(), settings, RULES);
    // A byte at a time is no command.
    let mut raw = RawSmtp::connect(&listen);
    let begin = Instant::now();
    for byte in b"EHLO c.example" {
        raw.send(&[*byte]);
        std::thread::sleep(Duration::from_millis(100));
    }
    let reply = raw.reply();
    assert!(reply.starts_with("421 4.4.2"), "{reply}");
    assert!(begin.elapsed() < Duration::from_secs(10));
    // A line of text at a time is no message.
    let mut raw = RawSmtp::connect(&listen);
    raw.begin();
    let begin = Instant::now();
    for _ in 0..30 {
        raw.send(b"x\r\n");
        std::thread::sleep(Duration::from_millis(100));
    }
    let reply = raw.reply();
    assert!(reply.starts_with("421 4.4.2"), "{reply}");
    assert!(begin.elapsed() < Duration::from_secs(10));
    // One who says enough, and no more than nothing, for ever.
    let mut raw = RawSmtp::connect(&listen);
    let begin = Instant::now();
    let reply = loop {
        let reply = raw.say("NOOP");
        if !reply.starts_with("250") {
            break reply;
        }
        std::thread::sleep(Duration::from_millis(300));
    };
    assert!(reply.starts_with("421"), "{reply}");
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert!(ledger.taken().is_empty());
    assert!(mpp.json(&["status"])["proxies"][0]["too_slow"].as_u64() >= Some(3));
}

#[test]
fn without_file_descriptors_it_waits_for_some() {
    let ledger = Ledger::start(|| None);
    let (mpp, listen) = gateway(ledger.address(), "client_connections = 1000\n", RULES);
    let limited = std::process::Command::new("prlimit")
        .args(["--pid", &mpp.process(), "--nofile=60:60"])
        .status()
        .expect("prlimit(1) comes with util-linux");
    assert!(limited.success());
    let open: Vec<RawSmtp> = (0..100).filter_map(|_| RawSmtp::try_open(&listen)).collect();
    mpp.wait_for_word("Too many open files");
    drop(open);
    until("mail that passes again", || {
        mpp_tests::real::ledger::deliver(&listen, "after").then_some(())
    });
    ledger.settle(&["after".to_owned()]);
    assert!(mpp.runs());
}
