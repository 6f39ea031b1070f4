//! Before the greeting: who it is, and who speaks too early.

use std::time::{Duration, Instant};

use mpp_tests::real::dns::NameServer;
use mpp_tests::real::ledger::Ledger;
use mpp_tests::real::raw_smtp::RawSmtp;

use crate::{RULES, gateway};

#[test]
fn who_speaks_before_the_greeting_is_turned_away() {
    let ledger = Ledger::start(|| None);
    let (mpp, listen) = gateway(ledger.address(), "greet_delay = \"1s\"\n", RULES);
    let mut raw = RawSmtp::open(&listen);
    raw.send(b"EHLO c.example\r\nMAIL FROM:<a@b.example>\r\n");
    let reply = raw.reply();
    assert!(reply.starts_with("554 5.5.1 You spoke before the greeting"), "{reply}");
    assert_eq!(raw.reply(), "");
    assert!(mpp.tell(&["stats"]).contains("early_talker"));
    // Who waits is greeted, and need not wait again.
    let begin = Instant::now();
    drop(RawSmtp::connect(&listen));
    assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
    let begin = Instant::now();
    drop(RawSmtp::connect(&listen));
    assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
    // In shadow mode it is counted only.
    let rules = format!("{RULES}\n[policy.default.early_talker]\nmode = \"shadow\"\n");
    let (mpp, listen) = gateway(ledger.address(), "greet_delay = \"1s\"\n", &rules);
    let mut raw = RawSmtp::open(&listen);
    raw.send(b"EHLO c.example\r\n");
    assert!(raw.reply().starts_with("220") && raw.reply().starts_with("250"));
    assert!(mpp.tell(&["stats"]).contains("early_talker"));
    // Local networks never wait.
    let rules = RULES.replace("local = [\"10.0.0.0/8\"]", "local = [\"127.0.0.0/8\"]");
    let (_mpp, listen) = gateway(ledger.address(), "greet_delay = \"10s\"\n", &rules);
    let begin = Instant::now();
    drop(RawSmtp::connect(&listen));
    assert!(begin.elapsed() < Duration::from_secs(5));
}

/// The header of version 2 for a client over IPv4.
fn version_two(client: [u8; 4]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend_from_slice(&client);
    bytes.extend_from_slice(&[192, 0, 2, 1, 0x30, 0x39, 0, 25]);
    bytes
}

#[test]
fn a_balancer_says_who_the_client_is() {
    let ledger = Ledger::start(|| None);
    let (mpp, listen) = gateway(ledger.address(), "proxy_protocol = [\"127.0.0.0/8\"]\n", RULES);
    for (header, denied) in [
        (b"PROXY TCP4 192.0.2.13 192.0.2.1 12345 25\r\n".to_vec(), true),
        (version_two([192, 0, 2, 13]), true),
        (b"PROXY TCP4 198.51.100.7 192.0.2.1 12345 25\r\n".to_vec(), false),
        (version_two([198, 51, 100, 7]), false),
        (b"PROXY UNKNOWN\r\n".to_vec(), false),
    ] {
        let mut raw = RawSmtp::open(&listen);
        // In pieces, as networks do it.
        for byte in &header {
            raw.send(&[*byte]);
        }
        let reply = raw.reply();
        let wanted = if denied { "554 5.7.1 Access denied" } else { "220" };
        assert!(reply.starts_with(wanted), "{:?}: {reply}", String::from_utf8_lossy(&header));
    }
    // Who sends none is no balancer.
    let mut raw = RawSmtp::open(&listen);
    raw.send(b"EHLO c.example\r\n");
    assert_eq!(raw.reply(), "");
    mpp.wait_for_word("a balancer that sends no header");
    // And who is none may not send one.
    let (_mpp, listen) = gateway(ledger.address(), "", RULES);
    let mut raw = RawSmtp::open(&listen);
    raw.send(b"PROXY TCP4 192.0.2.13 192.0.2.1 12345 25\r\n");
    assert!(raw.reply().starts_with("220") || raw.reply().starts_with('5'));
}

#[test]
fn peers_say_who_the_client_is_and_strangers_do_not() {
    let ledger = Ledger::offering("250-ledger\r\n250 XFORWARD NAME ADDR HELO", || None);
    let (_mpp, listen) = gateway(ledger.address(), "", RULES);
    let mut raw = RawSmtp::connect(&listen);
    let reply = raw.become_client("ADDR=198.51.100.7 NAME=mx.good.example HELO=x.example");
    assert!(reply.starts_with("250"), "{reply}");
    assert!(
        raw.message("a@b.example", "bob@test.example", "Serial: x\r\n\r\nx").starts_with("250")
    );
    let heard = ledger.heard().join("\n");
    assert!(heard.contains("NAME=mx.good.example ADDR=198.51.100.7 HELO=c.example"), "{heard}");
    assert!(heard.contains("Received: from c.example (mx.good.example [198.51.100.7])"), "{heard}");
    raw.expect("MAIL FROM:<a@b.example>", "250");
    raw.expect("XCLIENT ADDR=198.51.100.8", "503");
    raw.expect("RSET", "250");
    raw.expect("XCLIENT WHAT=x", "501");
    let text = crate::text("127.0.0.1:1", "127.0.0.1:2", "", RULES);
    let (_mpp, listen) = {
        let at = mpp_tests::real::address();
        let listen = format!("{at}:10025");
        let text = text
            .replace("127.0.0.1:1", &listen)
            .replace("127.0.0.1:2", ledger.address())
            .replace("xclient = [\"127.0.0.0/8\"]", "xclient = [\"192.0.2.1\"]");
        (mpp_tests::real::daemon::Daemon::start(crate::MPP, &at, &text), listen)
    };
    let mut raw = RawSmtp::connect(&listen);
    raw.send(b"EHLO c.example\r\n");
    assert!(!raw.lines().join("").contains("XCLIENT"));
    raw.expect("XCLIENT ADDR=198.51.100.8", "550");
}

#[test]
fn names_are_looked_up_and_have_to_lead_back() {
    let names = NameServer::start(
        &[("198.51.100.7", "mx.good.example"), ("198.51.100.8", "mx.forged.example")],
        &[("mx.good.example", "198.51.100.7"), ("mx.forged.example", "203.0.113.1")],
    );
    let ledger = Ledger::start(|| None);
    let rules = format!(
        "{RULES}\n[policy.x]\nmatch = {{ direction = \"inbound\" }}\n\
         access.deny.name = [\"mx.good.example\", \"mx.forged.example\"]\n"
    );
    let settings = format!("resolve = true\nresolvers = [\"{}\"]\n", names.address());
    let (_mpp, listen) = gateway(ledger.address(), &settings, &rules);
    for (client, wanted) in
        [("198.51.100.7", "554"), ("198.51.100.8", "250"), ("198.51.100.9", "250")]
    {
        let mut raw = RawSmtp::connect(&listen);
        assert!(raw.become_client(&format!("ADDR={client}")).starts_with("250"));
        raw.expect("MAIL FROM:<a@b.example>", "250");
        let reply = raw.say("RCPT TO:<bob@test.example>");
        assert!(reply.starts_with(wanted), "{client}: {reply}");
    }
    assert!(names.asked() >= 4, "{}", names.asked());
    // A name server that answers nothing keeps mail waiting for a while, and no longer.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = silent.local_addr().unwrap();
    let settings = format!("resolve = true\nresolvers = [\"{at}\"]\n");
    let (_mpp, listen) = gateway(ledger.address(), &settings, RULES);
    let mut raw = RawSmtp::connect(&listen);
    raw.become_client("ADDR=198.51.100.7");
    let reply = raw.message("a@b.example", "bob@test.example", "Serial: dns\r\n\r\nx");
    assert!(reply.starts_with("250"), "{reply}");
}

#[test]
fn a_balancer_that_looks_whether_we_are_well_is_no_stranger() {
    let ledger = Ledger::start(|| None);
    let rules = format!(
        "{RULES}\n[[policy.default.threshold]]\nname = \"visits\"\nkey = \"client\"\n\
         count = \"connections\"\nlimit = 3\nper = \"1h\"\nthen = {{ block = \"1d\" }}\n"
    );
    let settings = "proxy_protocol = [\"127.0.0.0/8\"]\nclient_connections = 2\n";
    let (mpp, listen) = gateway(ledger.address(), settings, &rules);
    // Version two, LOCAL (proxy-protocol.txt section 2.2).
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    let unknown = b"PROXY UNKNOWN\r\n".to_vec();
    // Many at once, and more of them than a stranger may make.
    let mut open = Vec::new();
    for number in 0..12 {
        let mut raw = RawSmtp::open(&listen);
        raw.send(if number % 2 == 0 { &local } else { &unknown });
        let reply = raw.reply();
        assert!(reply.starts_with("220"), "check {number}: {reply}");
        raw.expect("EHLO balancer.example", "250");
        open.push(raw);
    }
    drop(open);
    let blocks = mpp.json(&["blocks", "list"]);
    assert!(!blocks.to_string().contains("127."), "{blocks}");
    // Whom it speaks for is judged as ever.
    let mut last = String::new();
    for port in 12_345..12_350 {
        let mut raw = RawSmtp::open(&listen);
        raw.send(format!("PROXY TCP4 198.51.100.7 192.0.2.1 {port} 25\r\n").as_bytes());
        last = raw.reply();
    }
    assert!(last.starts_with('4'), "{last}");
}
