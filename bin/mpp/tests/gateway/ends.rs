//! What is answered to the end of a message, and what counts then: only what was taken.

use mpp_tests::real::ledger::Ledger;
use mpp_tests::real::raw_smtp::RawSmtp;

use crate::{RULES, gateway};

/// Messages that may be taken of one client.
const LIMIT: usize = 3;

fn limited(extra: &str) -> String {
    format!(
        "{RULES}{extra}\n[[policy.default.threshold]]\nname = \"mails\"\nkey = \"client\"\n\
         count = \"messages\"\nlimit = {LIMIT}\nper = \"1h\"\nthen = {{ block = \"1d\" }}\n"
    )
}

fn send(listen: &str, text: &str) -> String {
    let mut raw = RawSmtp::connect(listen);
    raw.expect("EHLO c.example", "250");
    for line in ["MAIL FROM:<a@b.example>", "RCPT TO:<bob@test.example>"] {
        let reply = raw.say(line);
        if !reply.starts_with("250") {
            return reply;
        }
    }
    let reply = raw.say("DATA");
    if reply.starts_with("354") { raw.say(&format!("{text}\r\n.")) } else { reply }
}

/// Whatever the hop answers, it uses nothing of a limit unless it takes the message, and nobody is told
/// that a message was taken that was not.
#[test]
fn what_was_not_taken_counts_for_nothing_whatever_the_reason() {
    for (command, answer) in [
        (".", "451 4.3.0 Not now"),
        (".", "550 5.7.1 Not that"),
        (".", "354 What?"),
        (".", "421 4.3.2 Leaving"),
        ("DATA", "451 4.3.0 Not now"),
        ("DATA", "550 5.7.1 Not that"),
        ("DATA", "250 Ok"),
        ("DATA", "220 Hello"),
        ("DATA", "302 Elsewhere"),
        ("RCPT TO:<bob@test.example>", "354 Go on"),
        ("RCPT TO:<bob@test.example>", "450 4.2.0 Not now"),
        ("MAIL FROM:<a@b.example>", "354 Go on"),
    ] {
        for extra in ["", SPOOLED] {
            let hop = Ledger::saying(move |said| (said == command).then(|| answer.to_owned()));
            let (mpp, listen) = gateway(hop.address(), "", &limited(extra));
            for _ in 0..LIMIT * 2 {
                let reply = send(&listen, "Subject: x\r\n\r\nx");
                let is_refusal = reply.starts_with('4') || reply.starts_with('5');
                assert!(is_refusal, "{command} {answer} {extra}: {reply}");
                assert!(!reply.contains("Too much mail"), "{command} {answer} {extra}: {reply}");
                let wanted = if answer.starts_with('5') { "5" } else { "4" };
                assert!(reply.starts_with(wanted), "{command} {answer} {extra}: {reply}");
            }
            let blocks = mpp.json(&["blocks", "list"]);
            assert!(!blocks.to_string().contains("127."), "{blocks}");
        }
    }
}

/// A rule that could hold messages at their end, so that they wait in the spool.
const SPOOLED: &str = "[[policy.default.threshold]]\nname = \"hold\"\nkey = \"client\"\n\
    count = \"messages\"\nlimit = 100000\nper = \"1h\"\nthen = \"hold\"\n";

#[test]
fn the_largest_that_is_promised_passes() {
    let many: Vec<String> = (0..1000).map(|number| format!("u{number}@test.example")).collect();
    let list: String = many.iter().map(|user| format!("\"{user}\", ")).collect();
    let rules = RULES.replace("addresses = [\"bob@test", &format!("addresses = [{list}\"bob@test"));
    let hop = Ledger::start(|| None);
    let (_mpp, listen) = gateway(hop.address(), "message_size = \"1 MiB\"\n", &rules);
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    // As many recipients as `recipients` says, and as many more as there may be in another message.
    raw.expect("MAIL FROM:<a@b.example>", "250");
    for user in &many {
        raw.expect(&format!("RCPT TO:<{user}>"), "250");
    }
    for user in many.iter().take(200) {
        raw.expect(&format!("RCPT TO:<{user}>"), "452");
    }
    raw.expect("DATA", "354");
    assert!(raw.say("Serial: many\r\n\r\nx\r\n.").starts_with("250"));
    // As many chunks as bytes.
    raw.expect("MAIL FROM:<a@b.example>", "250");
    raw.expect("RCPT TO:<bob@test.example>", "250");
    for byte in "Serial: chunks\r\n\r\n".bytes().chain([b'x'; 500]) {
        raw.send(b"BDAT 1\r\n");
        raw.send(&[byte]);
        assert!(raw.reply().starts_with("250"));
    }
    raw.expect("BDAT 0 LAST", "250");
    // A message of the greatest size.
    raw.expect("MAIL FROM:<a@b.example> SIZE=1048576", "250");
    raw.expect("RCPT TO:<bob@test.example>", "250");
    raw.expect("DATA", "354");
    let head = "Serial: size\r\n\r\n";
    let line = format!("{}\r\n", "x".repeat(62));
    let body = line.repeat((1_048_576 - head.len()) / line.len());
    raw.send(format!("{head}{body}").as_bytes());
    assert!(raw.say(".").starts_with("250"));
    // And many messages, each with what a client may say between them.
    for number in 0..300 {
        raw.expect("NOOP", "250");
        raw.expect("RSET", "250");
        raw.expect("MAIL FROM:<a@b.example>", "250");
        raw.expect("RCPT TO:<bob@test.example>", "250");
        raw.expect("DATA", "354");
        assert!(raw.say(&format!("Serial: n{number}\r\n\r\nx\r\n.")).starts_with("250"));
    }
    assert_eq!(hop.taken().len(), 303);
}

#[test]
fn a_message_to_many_strangers_is_greylisted_and_passes_at_the_second_try() {
    let many: Vec<String> = (0..150).map(|number| format!("u{number}@test.example")).collect();
    let list: String = many.iter().map(|user| format!("\"{user}\", ")).collect();
    let rules = RULES
        .replace("addresses = [\"bob@test", &format!("addresses = [{list}\"bob@test"))
        .replace("mode = \"off\"", "delay = \"1s\"");
    let hop = Ledger::start(|| None);
    let (_mpp, listen) = gateway(hop.address(), "", &rules);
    let send = || {
        let mut raw = RawSmtp::connect(&listen);
        raw.expect("EHLO c.example", "250");
        raw.expect("MAIL FROM:<a@b.example>", "250");
        let codes: Vec<String> = many
            .iter()
            .map(|user| raw.say(&format!("RCPT TO:<{user}>")).get(..3).unwrap_or("gone").to_owned())
            .collect();
        codes
    };
    let first = send();
    assert!(first.iter().all(|code| code == "450"), "{first:?}");
    mpp_tests::real::until("the delay to pass", || {
        send().iter().all(|code| code == "250").then_some(())
    });
}

#[test]
fn who_does_nothing_but_idle_is_sent_away() {
    let hop = Ledger::start(|| None);
    let (_mpp, listen) = gateway(hop.address(), "commands = 20\n", RULES);
    for idle in ["NOOP", "RSET", "VRFY bob", "EHLO c.example", "BDAT 0"] {
        let mut raw = RawSmtp::connect(&listen);
        raw.expect("EHLO c.example", "250");
        let last = (0..100).map(|_| raw.say(idle)).find(|reply| reply.starts_with("421"));
        assert!(last.is_some(), "{idle} for ever");
    }
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    let last = (0..100).find_map(|_| {
        raw.say("MAIL FROM:<a@b.example>");
        Some(raw.say("RSET")).filter(|reply| reply.starts_with("421"))
    });
    assert!(last.is_some(), "MAIL and RSET for ever");
}
