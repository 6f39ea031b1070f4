//! Which next hop a message goes to, and what becomes of it where one is down.

use mpp_tests::real::fake_smtp::{Act, FakeSmtp};
use mpp_tests::real::ledger::{Ledger, deliver};
use mpp_tests::real::raw_smtp::RawSmtp;
use mpp_tests::real::{address, until};

use crate::{RULES, gateway};

fn lmtp_answer(line: &str) -> Act {
    let reply = match line.split(' ').next().unwrap_or_default() {
        "" => "220 lmtp",
        "LHLO" => "250-lmtp\r\n250 PIPELINING",
        "DATA" => "354 go on",
        // Two recipients, two answers, and they disagree.
        "." => "250 2.0.0 one has it\r\n452 4.2.2 the other is full",
        "MAIL" | "RCPT" | "RSET" | "QUIT" => "250 2.0.0 ok",
        _ => return Act::Listen,
    };
    Act::Say(reply.to_owned())
}

#[test]
fn each_domain_has_its_next_hop() {
    let (first, second) = (Ledger::start(|| None), Ledger::start(|| None));
    let lmtp = Ledger::start(|| None);
    let settings = format!(
        "domains = [\"test.example\", \".big.example\"]\n\
         [[proxy.mx.route]]\ndomains = [\"second.example\"]\nnext_hop = [\"{}\"]\n\
         [[proxy.mx.route]]\ndomains = [\"lists.big.example\"]\nnext_hop = [\"{}\"]\n\
         protocol = \"lmtp\"\n",
        second.address(),
        lmtp.address()
    );
    let (_mpp, listen) =
        gateway(first.address(), &settings, "[policy.default.greylist]\nmode = \"off\"\n");
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    for (serial, recipient) in [
        ("first", "bob@TEST.example"),
        ("big", "bob@x.big.example"),
        ("second", "bob@second.example"),
        ("lists", "all@lists.big.example"),
        ("postmaster", "postmaster"),
    ] {
        let text = format!("Serial: {serial}\r\n\r\nx");
        let reply = raw.message("a@b.example", recipient, &text);
        assert!(reply.starts_with("250"), "{recipient}: {reply}");
    }
    let of = |ledger: &Ledger| ledger.taken().keys().cloned().collect::<Vec<_>>();
    assert_eq!(of(&first), ["big", "first", "postmaster"]);
    assert_eq!(of(&second), ["second"]);
    assert_eq!(of(&lmtp), ["lists"]);
    assert!(lmtp.count("LHLO") > 0);
    // One message goes to one hop: the other recipient gets a message of his own.
    raw.expect("MAIL FROM:<a@b.example>", "250");
    raw.expect("RCPT TO:<bob@test.example>", "250");
    raw.expect("RCPT TO:<bob@second.example>", "452 4.5.3");
    raw.expect("RCPT TO:<eve@test.example>", "250");
    raw.expect("DATA", "354");
    raw.expect("Serial: both\r\n\r\nx\r\n.", "250");
    assert_eq!(first.taken().get("both"), Some(&1));
    assert_eq!(second.taken().get("both"), None);
}

#[test]
fn recipients_that_disagree_after_the_text_let_the_message_come_again() {
    let lmtp = FakeSmtp::start(lmtp_answer);
    let (_mpp, listen) = gateway(lmtp.address(), "protocol = \"lmtp\"\n", RULES);
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    raw.expect("MAIL FROM:<a@b.example>", "250");
    raw.expect("RCPT TO:<bob@test.example>", "250");
    raw.expect("RCPT TO:<eve@test.example>", "250");
    raw.expect("DATA", "354");
    raw.expect("Subject: x\r\n.", "452 4.2.2 the other is full");
}

#[test]
fn the_next_server_is_tried_where_one_does_not_answer() {
    let ledger = Ledger::start(|| None);
    let busy = FakeSmtp::start(|_| Act::Say("421 4.3.2 not now".to_owned()));
    let dead = format!("{}:9", address());
    let listed = format!("{dead}\", \"{}\", \"{}", busy.address(), ledger.address());
    let (mpp, listen) = gateway(&listed, "", RULES);
    for number in 0..3 {
        assert!(deliver(&listen, &number.to_string()));
    }
    ledger.settle(&["0", "1", "2"].map(str::to_owned));
    // Who did not answer is not asked each time.
    assert!(busy.connections() <= 2, "{}", busy.connections());
    drop(mpp);
    // Nobody answers: the recipient is told to come again, and comes again.
    let (mpp, listen) = gateway(&dead, "", RULES);
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    raw.expect("MAIL FROM:<a@b.example>", "250");
    raw.expect("RCPT TO:<nobody@test.example>", "550");
    raw.expect("RCPT TO:<bob@test.example>", "451 4.4.1");
    raw.expect("DATA", "554");
    assert!(mpp.json(&["status"])["proxies"][0]["unanswered"].as_u64() >= Some(1));
}

#[test]
fn a_next_hop_that_ended_the_kept_connection_is_connected_anew() {
    // It ends each connection after one message.
    let ledger = Ledger::start(|| Some(1100));
    let (_mpp, listen) = gateway(ledger.address(), "keep = \"1m\"\n", RULES);
    let mut promised = Vec::new();
    for number in 0..20 {
        let serial = format!("kept-{number}");
        if deliver(&listen, &serial) {
            promised.push(serial);
        }
    }
    ledger.settle(&promised);
    assert!(promised.len() >= 10, "{}", promised.len());
    until("an end of what nobody uses", || (ledger.count("EHLO") > 5).then_some(()));
}
