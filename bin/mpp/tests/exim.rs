//! The proxy door beside another mail server than Postfix: Exim as its next hop, and as its client.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::exim::Exim;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::smtp::Smtp;
use mpp_tests::real::{address, until};

const MPP: &str = env!("CARGO_BIN_EXE_mpp");
const RULES: &str = "[recipients.main]\naddresses = [\"bob@test.example\", \"eve@test.example\", \
    \"not-here@test.example\"]\n[policy.default.greylist]\nmode = \"off\"\n";
/// A text that is no ASCII, with a line that begins with a dot.
const TEXT: &[u8] =
    "From: a@x.example\r\nSubject: 8bit\r\n\r\nGr\u{fc}\u{df}e\r\n..dot\r\n".as_bytes();
const AS_KEPT: &[u8] = "\n\nGr\u{fc}\u{df}e\n.dot\n".as_bytes();

/// A daemon with a proxy in front of this next hop; its address.
fn proxy(next_hop: &str) -> (Daemon, String) {
    let at = address();
    let listen = format!("{at}:10025");
    let text =
        format!("[proxy.filter]\nlisten = [\"{listen}\"]\nnext_hop = [\"{next_hop}\"]\n{RULES}");
    (Daemon::start(MPP, &at, &text), listen)
}

/// Sends one message to these, all commands of its envelope at once; what each was answered, and
/// last the message.
fn send(server: &str, recipients: &[&str]) -> Vec<(u16, String)> {
    let mut smtp = Smtp::connect(server);
    let to: Vec<String> = recipients.iter().map(|to| format!("RCPT TO:<{to}>\r\n")).collect();
    let envelope = format!("MAIL FROM:<a@x.example> BODY=8BITMIME\r\n{}DATA\r\n", to.concat());
    smtp.send(envelope.as_bytes());
    assert_eq!(smtp.reply().code, 250, "the sender");
    let mut said = Vec::new();
    for _ in recipients {
        let reply = smtp.reply();
        said.push((reply.code, reply.text));
    }
    assert_eq!(smtp.reply().code, 354);
    smtp.send(&[TEXT, b".\r\nQUIT\r\n"].concat());
    let reply = smtp.reply();
    said.push((reply.code, reply.text));
    assert_eq!(smtp.reply().code, 221);
    said
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn exim_is_a_next_hop() {
    let exim = Exim::storing(&address());
    let (mpp, listen) = proxy(exim.address());
    let recipients =
        ["bob@test.example", "nobody@test.example", "not-here@test.example", "eve@test.example"];
    let said = send(&listen, &recipients);
    let codes: Vec<u16> = said.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [250, 550, 550, 250, 250], "{said:?}");
    assert!(said[1].1.starts_with("5.1.1 User unknown"), "mpp's own answer: {said:?}");
    assert!(said[2].1.contains("Not here, says Exim"), "Exim's answer: {said:?}");
    assert!(said[4].1.starts_with("OK id="), "Exim's answer: {said:?}");
    let messages = exim.wait_for_messages(2);
    for name in ["bob", "eve"] {
        let to = format!("Envelope-to: {name}@test.example\n");
        let count = messages.iter().filter(|message| contains(message, to.as_bytes())).count();
        assert_eq!(count, 1, "{name}");
    }
    for message in &messages {
        assert!(contains(message, AS_KEPT), "{}", message.escape_ascii());
        assert!(contains(message, b"Return-path: <a@x.example>\n"), "{}", message.escape_ascii());
    }
    // Exim is told that the text is no ASCII, and the daemon knows what it decided.
    let log = exim.log();
    assert!(log.contains(" M8S=8"), "{log}");
    assert!(mpp.tell(&["stats"]).contains("recipient reject"));
}

#[test]
fn exim_is_a_client() {
    let back = Postfix::start(&address(), "");
    let (mpp, listen) = proxy(back.address());
    let exim = Exim::start(&address(), &listen);
    let recipients = ["bob@test.example", "nobody@test.example", "eve@test.example"];
    let said = send(exim.address(), &recipients);
    assert!(said.iter().all(|(code, _)| *code == 250), "Exim takes all: {said:?}");
    until("the end of it", || exim.log().contains(" Completed").then_some(()));
    let log = exim.log();
    let delivered = |name: &str| {
        log.lines()
            .find(|line| {
                let line = line.split(' ').collect::<Vec<_>>();
                matches!(line.get(3), Some(&("=>" | "->"))) && line[4].starts_with(name)
            })
            .unwrap_or_else(|| panic!("{name} is not delivered: {log}"))
    };
    // Several commands at once, and Postfix's own answer at the end of it.
    assert!(delivered("bob@").contains(" L ") && delivered("eve@").contains(" L "), "{log}");
    assert!(delivered("bob@").contains("2.0.0 Ok: queued as "), "{log}");
    let refused = log.lines().find(|line| line.contains("** nobody@test.example"));
    assert!(refused.is_some_and(|line| line.contains("550 5.1.1 User unknown")), "{log}");
    until("both", || (back.delivered() >= 2).then_some(()));
    let kept = back.messages();
    assert_eq!(kept.len(), 2, "no message too many");
    for message in &kept {
        assert!(contains(message, AS_KEPT), "{}", message.escape_ascii());
    }
    assert!(mpp.tell(&["stats"]).contains("recipient reject"));
}
