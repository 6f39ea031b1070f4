//! What a mail server says of its clients to the filter behind it: of one message, and as far as it can be
//! read.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::ledger::Ledger;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::raw_smtp::RawSmtp;
use mpp_tests::real::{address, until};
use serde_json::Value;

const MPP: &str = env!("CARGO_BIN_EXE_mpp");

const RULES: &str = "[networks]\nlocal = [\"10.0.0.0/8\"]\ntrusted = [\"127.0.0.0/8\"]\n\
    [policy.default.greylist]\nmode = \"off\"\n[policy.default.access]\n\
    deny.client = [\"192.0.2.66\"]\n";

fn filter(next_hop: &str) -> (Daemon, String) {
    let at = address();
    let listen = format!("{at}:10025");
    let text =
        format!("[proxy.filter]\nlisten = [\"{listen}\"]\nnext_hop = [\"{next_hop}\"]\n{RULES}");
    (Daemon::start(MPP, &at, &text), listen)
}

/// Lines of the log about messages: the client, its HELO, the queue id.
fn judged(mpp: &Daemon, count: usize) -> Vec<(String, String, String)> {
    until("lines of the log", || {
        mpp.json(&["status"]);
        let files = std::fs::read_dir(mpp.folder().join("state/log")).unwrap();
        let text: String =
            files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
        let lines: Vec<Value> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let of = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let all: Vec<_> = lines
            .iter()
            .filter(|line| line["stage"] == "RCPT")
            .map(|line| (of(line, "client"), of(line, "helo"), of(line, "queue_id")))
            .collect();
        (all.len() >= count).then_some(all)
    })
}

#[test]
fn what_is_told_of_one_message_is_not_used_for_the_next() {
    let offers = "250-ledger\r\n250 XFORWARD NAME ADDR PROTO HELO IDENT SOURCE";
    let hop = Ledger::offering(offers, || None);
    let (mpp, listen) = filter(hop.address());
    for between in ["", "RSET", "EHLO mx.example"] {
        let mut raw = RawSmtp::connect(&listen);
        raw.expect("EHLO mx.example", "250");
        raw.expect("XFORWARD NAME=mx.evil.example ADDR=192.0.2.77 HELO=evil IDENT=4Abc", "250");
        if between.is_empty() {
            assert!(
                raw.message("a@b.example", "bob@test.example", "Serial: 1\r\n\r\nx")
                    .starts_with("250")
            );
        } else {
            raw.expect(between, "250");
        }
        // A program's own mail: nothing is said of a client.
        assert!(
            raw.message("c@b.example", "bob@test.example", "Serial: 2\r\n\r\nx").starts_with("250")
        );
        // What is left out of the second is not what the first had.
        raw.expect("XFORWARD ADDR=192.0.2.78", "250");
        assert!(
            raw.message("d@b.example", "bob@test.example", "Serial: 3\r\n\r\nx").starts_with("250")
        );
        // A denied client's refusal is not the next one's.
        raw.expect("XFORWARD ADDR=192.0.2.66", "250");
        assert!(raw.message("e@b.example", "bob@test.example", "x").starts_with("554"));
        raw.expect("RSET", "250");
        assert!(
            raw.message("f@b.example", "bob@test.example", "Serial: 5\r\n\r\nx").starts_with("250")
        );
    }
    let all = judged(&mpp, 13);
    let strangers: Vec<_> = all.iter().filter(|(client, ..)| client == "192.0.2.77").collect();
    assert_eq!(strangers.len(), 1, "its own message only: {all:?}");
    let of_its_own = all.iter().filter(|(client, ..)| client.starts_with("127."));
    assert!(of_its_own.clone().count() >= 6, "{all:?}");
    assert!(
        of_its_own.clone().all(|(_, helo, id)| helo == "mx.example" && id.is_empty()),
        "{all:?}"
    );
    let third: Vec<_> = all.iter().filter(|(client, ..)| client == "192.0.2.78").collect();
    assert!(third.iter().all(|(_, helo, id)| helo.is_empty() && id.is_empty()), "{all:?}");
    // Nor does the hop behind hear of it.
    let heard = hop.heard();
    let told = heard.iter().filter(|line| line.contains("ADDR=192.0.2.77")).count();
    assert_eq!(told, 1, "{heard:?}");
}

/// A real Postfix hands on whatever a client calls itself.
#[test]
fn a_client_that_calls_itself_oddly_hides_nothing() {
    for mode in ["before", "after"] {
        let back = Postfix::start(&address(), "smtpd_authorized_xforward_hosts = 127.0.0.0/8\n");
        let (mpp, listen) = filter(back.address());
        let (host, port) = listen.rsplit_once(':').unwrap();
        let lines = match mode {
            "before" => format!("smtpd_proxy_filter = {listen}\n"),
            _ => {
                format!("content_filter = smtp:[{host}]:{port}\nsmtp_send_xforward_command = yes\n")
            }
        };
        let front = Postfix::start(&address(), &lines);
        let long = "x".repeat(250);
        let names = ["ärzte-pc.example", "my pc", "a=b+c", &*long, "<script>", "[192.0.2.1]"];
        for (number, helo) in names.iter().enumerate() {
            let mut raw = RawSmtp::connect(front.address());
            raw.become_client("ADDR=198.51.100.7 NAME=mx.good.example");
            let reply = raw.say(&format!("EHLO {helo}"));
            assert!(reply.starts_with("250"), "{reply}");
            let reply = raw.message("a@b.example", "bob@test.example", "Subject: x\r\n\r\nx");
            assert!(reply.starts_with("250"), "{mode}, {helo}: {reply}");
            back.wait_for_delivered(number + 1);
        }
        let all = judged(&mpp, names.len());
        assert!(all.iter().all(|(client, ..)| client == "198.51.100.7"), "{mode}: {all:?}");
        assert!(all.iter().any(|(_, helo, _)| helo.contains("rzte-pc")), "{all:?}");
        assert_eq!(all.iter().all(|(.., id)| !id.is_empty()), mode == "after", "{all:?}");
        assert!(!front.log().contains("status=bounced"), "{}", front.log());
    }
}
