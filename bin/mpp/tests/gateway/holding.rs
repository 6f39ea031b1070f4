//! Who says nothing, or little, holds nothing that others need.

use std::time::{Duration, Instant};

use mpp_tests::real::ledger::Ledger;
use mpp_tests::real::raw_smtp::RawSmtp;
use mpp_tests::real::until;

use crate::{RULES, gateway};

fn at_data(listen: &str, client: &str) -> RawSmtp {
    let mut raw = RawSmtp::connect(listen);
    raw.become_client(&format!("ADDR={client}"));
    raw.expect("EHLO c.example", "250");
    raw.expect("MAIL FROM:<a@b.example>", "250");
    raw.expect("RCPT TO:<bob@test.example>", "250");
    raw.expect("DATA", "354");
    raw
}

#[test]
fn the_next_hop_is_told_of_a_text_when_there_is_one() {
    let hop = Ledger::start(|| None);
    let (_mpp, listen) = gateway(hop.address(), "", RULES);
    let mut raw = at_data(&listen, "198.51.100.7");
    raw.send(b"Serial: slow\r\n\r\n");
    assert_eq!(hop.count("DATA"), 0, "none of it is worth a connection yet");
    // Whoever stays silent gives the connection to the hop back, and it is of use to others.
    until("the hop to be free", || (hop.count("RSET") == 1).then_some(()));
    assert!(raw.say("x\r\n.").starts_with("250"));
    let heard = hop.heard();
    let named = heard.iter().filter(|line| line.starts_with("RCPT TO:<bob@")).count();
    assert_eq!((named, hop.count("DATA")), (2, 1), "{heard:?}");
    hop.settle(&["slow".to_owned()]);
    // More than is kept back streams.
    let mut raw = at_data(&listen, "198.51.100.7");
    raw.send(format!("Serial: big\r\n\r\n{}", "x\r\n".repeat(60_000)).as_bytes());
    until("the hop to hear of it", || (hop.count("DATA") == 2).then_some(()));
    assert!(raw.say(".").starts_with("250"));
}

#[test]
fn a_client_and_a_network_have_a_share_of_the_next_hop() {
    let hop = Ledger::start(|| None);
    let (_mpp, listen) = gateway(hop.address(), "hop_connections = 8\n", RULES);
    let rcpt = |client: &str| {
        let mut raw = RawSmtp::connect(&listen);
        raw.become_client(&format!("ADDR={client}"));
        raw.expect("EHLO c.example", "250");
        raw.expect("MAIL FROM:<a@b.example>", "250");
        let begun = Instant::now();
        let reply = raw.say("RCPT TO:<bob@test.example>");
        assert!(begun.elapsed() < Duration::from_secs(3), "told at once");
        (raw, reply)
    };
    let held: Vec<_> = (0..4).map(|_| rcpt("198.51.100.7")).collect();
    assert!(held.iter().all(|(_, reply)| reply.starts_with("250")));
    let (mut over, reply) = rcpt("198.51.100.7");
    assert!(reply.starts_with("451 4.3.2"), "{reply}");
    assert!(rcpt("198.51.100.8").1.starts_with("451 4.3.2"), "a neighbour has no share of his own");
    assert!(rcpt("203.0.113.9").1.starts_with("250"), "others have theirs");
    // Who was told so is not lost: when there is a place, he has it.
    until("a place", || over.say("RCPT TO:<bob@test.example>").starts_with("250").then_some(()));
}

#[test]
fn silent_clients_keep_nobody_from_the_next_hop() {
    let hop = Ledger::start(|| None);
    let settings = "hop_connections = 10\nclient_connections = 20\n";
    let (_mpp, listen) = gateway(hop.address(), settings, RULES);
    let _silent: Vec<RawSmtp> = ["192.0.2.7", "198.51.100.7"]
        .into_iter()
        .flat_map(|client| (0..5).map(move |_| client))
        .map(|client| at_data(&listen, client))
        .collect();
    until("a message of somebody else", || {
        let mut raw = RawSmtp::connect(&listen);
        raw.become_client("ADDR=203.0.113.9");
        raw.expect("EHLO c.example", "250");
        let reply = raw.message("a@b.example", "bob@test.example", "Serial: other\r\n\r\nx");
        reply.starts_with("250").then_some(())
    });
}
