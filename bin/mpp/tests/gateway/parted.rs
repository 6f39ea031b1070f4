//! Recipients who are answered apart: who has a message does not get it again, and the last answer is
//! that of who has not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mpp_tests::real::ledger::Ledger;
use mpp_tests::real::raw_smtp::RawSmtp;

use crate::{RULES, gateway};

const LMTP: &str = "protocol = \"lmtp\"\n";

/// The answer to a message of `a@b.example` to these.
fn send(listen: &str, recipients: &[&str], text: &str) -> String {
    let mut raw = RawSmtp::connect(listen);
    raw.expect("EHLO c.example", "250");
    raw.expect("MAIL FROM:<a@b.example>", "250");
    for recipient in recipients {
        raw.expect(&format!("RCPT TO:<{recipient}>"), "250");
    }
    raw.expect("DATA", "354");
    raw.say(&format!("Message-ID: <1@b.example>\r\n\r\n{text}\r\n."))
}

/// How often the hop was told a recipient and went on to the text with him.
fn ends_for(hop: &Ledger, recipient: &str) -> usize {
    hop.count(&format!("RCPT TO:<{recipient}>"))
}

#[test]
fn a_full_mailbox_costs_the_others_no_copies() {
    let hop = Ledger::saying(|said| {
        (said == ". eve@test.example").then(|| "552 5.2.2 Mailbox is full".to_owned())
    });
    let (_mpp, listen) = gateway(hop.address(), LMTP, RULES);
    let both = ["bob@test.example", "eve@test.example"];
    assert!(send(&listen, &both, "x").starts_with("451"), "one reply cannot speak for two");
    assert_eq!(hop.taken().values().sum::<u32>(), 1);
    let before = ends_for(&hop, "bob@test.example");
    // The second try is for who has not got it, and the answer is his.
    let reply = send(&listen, &both, "x");
    assert!(reply.starts_with("552 5.2.2"), "{reply}");
    let again: Vec<String> = hop.heard().into_iter().rev().take_while(|it| it != "RSET").collect();
    assert!(again.iter().any(|line| line.contains("eve@")), "{again:?}");
    assert!(!again.iter().any(|line| line.contains("RCPT TO:<bob@")), "{again:?}");
    assert!(before >= 1);
    // Alone and in another order it is the same message; another text is another message.
    assert!(send(&listen, &["bob@test.example"], "x").starts_with("250"));
    let texts = hop.count("| x");
    assert!(send(&listen, &["bob@test.example"], "x").starts_with("250"));
    assert_eq!(hop.count("| x"), texts, "he has it");
    assert!(send(&listen, &["bob@test.example"], "another").starts_with("250"));
    assert_eq!(hop.count("| another"), 1);
}

#[test]
fn who_was_not_to_be_had_gets_it_when_he_is_and_all_once() {
    let tries = Arc::new(AtomicU32::new(0));
    let of_hop = Arc::clone(&tries);
    let hop = Ledger::saying(move |said| {
        let is_first = said == ". eve@test.example" && of_hop.fetch_add(1, Ordering::Relaxed) < 2;
        is_first.then(|| "451 4.2.0 Not now".to_owned())
    });
    let (_mpp, listen) = gateway(hop.address(), LMTP, RULES);
    let both = ["eve@test.example", "bob@test.example"];
    assert!(send(&listen, &both, "y").starts_with("451"));
    assert!(send(&listen, &both, "y").starts_with("451"));
    assert!(send(&listen, &both, "y").starts_with("250"));
    assert_eq!(tries.load(Ordering::Relaxed), 3);
    // Three texts: to both, and two to the one that was left.
    assert_eq!(hop.count("| y"), 3);
}
