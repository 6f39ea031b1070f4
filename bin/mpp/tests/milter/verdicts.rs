//! A real Postfix asks through the milter, and the same transactions get the same verdicts as through
//! the policy service.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::mail_host::MailHost;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::sendmail::Sendmail;
use mpp_tests::real::smtp::{Reply, Smtp, Who, attempt as attempt_at};
use mpp_tests::real::{address, until};

use crate::MPP;

const DRONE: &str = "192.0.2.66";

/// Which door Postfix uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Policy,
    Milter,
    MilterOverUnix,
}

/// A mail host that asks through a door.
fn host(door: Door, text: &str) -> MailHost {
    let at = address();
    let mut mpp = Daemon::new(MPP, &at, "");
    let milter = match door {
        Door::MilterOverUnix => format!("unix:{}", mpp.folder().join("milter").display()),
        Door::Policy | Door::Milter => format!("{at}:10041"),
    };
    mpp.configure(&format!(
        "[listen]\npolicy = [\"{}\"]\nmilter = [\"{milter}\"]\n\n{text}",
        mpp.address()
    ));
    mpp.launch();
    let lines = match door {
        Door::Policy => mpp.tell(&["postfix"]),
        Door::Milter | Door::MilterOverUnix => mpp.tell(&["postfix", "--mode", "milter"]),
    };
    let postfix = Postfix::start(&at, &lines);
    MailHost { mpp, postfix }
}

/// A refusal without its id and without what Postfix puts before it.
fn bare(reply: &Reply) -> String {
    let text = reply.text.rsplit_once(" (").map_or(&*reply.text, |(text, _)| text);
    let (status, text) = text.split_once(' ').unwrap_or(("", text));
    let text = text.rsplit_once("rejected: ").map_or(text, |(_, text)| text);
    if reply.code == 250 { "250".into() } else { format!("{} {status} {text}", reply.code) }
}

const POLICY: &str = r#"
[networks]
local = ["127.0.0.0/8", "10.0.0.0/8"]

[recipients.main]
addresses = ["bob@test.example", "eve@test.example", "held@test.example", "gone@test.example"]

[policy.default.greylist]
delay = "1h"

[policy.default.trap]
addresses = ["trap@test.example"]
block = "1h"

[policy.default.access]
deny.client = ["192.0.2.13"]
allow.client = ["198.51.100.0/24"]

[[policy.default.threshold]]
name = "account"
direction = "outbound"
key = "sasl_user"
count = "recipients"
limit = 3
per = "1h"

[policy.held]
match = { recipient = ["held@test.example"] }
greylist.mode = "off"

[[policy.held.threshold]]
name = "hold"
key = "client"
count = "recipients"
limit = 0
per = "1h"
then = "hold"
"#;

/// The same transactions; what each was answered.
fn play(server: &str, has_accounts: bool) -> Vec<String> {
    let good = Who::at("198.51.100.7").named("mx.good.example");
    let mut said = Vec::new();
    let mut attempt = |who: Who<'_>, sender: &str, recipient: &str| {
        said.push(bare(&attempt_at(server, who, sender, recipient)));
    };
    attempt(good, "a@good.example", "bob@test.example");
    attempt(good, "a@good.example", "nobody@test.example");
    attempt(good, "", "bob@test.example");
    attempt(Who::at("203.0.113.5"), "a@x.example", "bob@test.example");
    attempt(Who::at("203.0.113.5"), "a@x.example", "nobody@test.example");
    attempt(Who::at("192.0.2.13"), "a@x.example", "bob@test.example");
    attempt(Who::at(DRONE), "a@x.example", "trap@test.example");
    attempt(Who::at(DRONE), "b@y.example", "bob@test.example");
    attempt(Who::at("203.0.113.30"), "a@x.example", "held@test.example");
    // An account: three recipients an hour. What is refused uses nothing up.
    let account = Who::at("203.0.113.9").as_user("fred");
    for recipient in ["bob", "nobody", "bob", "eve", "bob"].iter().filter(|_| has_accounts) {
        attempt(account, "fred@test.example", &format!("{recipient}@test.example"));
    }
    // Recipients of one message each get their answer, and the message goes to those who are left.
    let mut smtp = Smtp::connect_as(server, good);
    said.push(bare(&smtp.mail("a@good.example")));
    for recipient in ["bob@test.example", "nobody@test.example", "eve@test.example"] {
        said.push(bare(&smtp.rcpt(recipient)));
    }
    said.push(bare(&smtp.data()));
    // Another message on the same connection, abandoned, and one more.
    smtp.mail("b@good.example");
    said.push(bare(&smtp.rcpt("bob@test.example")));
    smtp.say("RSET");
    said.push(bare(&smtp.mail("c@good.example")));
    said.push(bare(&smtp.rcpt("gone@test.example")));
    said.push(bare(&smtp.data()));
    said
}

#[test]
fn every_door_gives_the_same_verdicts() {
    let by_policy = host(Door::Policy, POLICY);
    let through_policy = play(by_policy.postfix.address(), true);
    assert_eq!(through_policy[0], "250");
    assert_eq!(through_policy[1], "550 5.1.1 User unknown");
    for door in [Door::Milter, Door::MilterOverUnix] {
        let host = host(door, POLICY);
        assert_eq!(play(host.postfix.address(), true), through_policy, "{door:?}");
        // What is held lies in Postfix's own hold queue, and nothing else does.
        until("the held message", || {
            let held =
                std::fs::read_dir(host.postfix.queue().join("hold")).map_or(0, Iterator::count);
            (held == 1).then_some(())
        });
        let said = host.mpp.tell(&["stats"]);
        assert!(said.contains("recipient reject"), "{said}");
        let explained = host.attempt(Who::at("203.0.113.77"), "a@x.example", "bob@test.example");
        let told = host.mpp.tell(&["explain", explained.id()]);
        assert!(told.contains("greylist") && told.contains("milter"), "{told}");
    }
}

#[test]
fn and_so_does_a_proxy_in_both_uses() {
    let through_policy =
        |has_accounts| play(host(Door::Policy, POLICY).postfix.address(), has_accounts);
    let back = Postfix::start(&address(), "");
    // XFORWARD says nothing of accounts: Postfix keeps them to itself before a filter.
    let at = address();
    let filter = format!(
        "[proxy.filter]\nlisten = [\"{at}:10025\"]\nnext_hop = [\"{}\"]\n{POLICY}",
        back.address()
    );
    let _mpp = Daemon::start(MPP, &at, &filter);
    let front = Postfix::start(&at, &format!("smtpd_proxy_filter = {at}:10025\n"));
    assert_eq!(play(front.address(), false), through_policy(false), "filter");
    let at = address();
    let gateway = format!(
        "[proxy.mx]\nuse = \"gateway\"\nlisten = [\"{at}:10025\"]\nnext_hop = [\"{}\"]\n\
         domains = [\"test.example\"]\nxclient = [\"127.0.0.0/8\"]\nresolve = false\n\
         stages = [\"RCPT\", \"END-OF-MESSAGE\"]\n{POLICY}",
        back.address()
    );
    let _mpp = Daemon::start(MPP, &at, &gateway);
    assert_eq!(play(&format!("{at}:10025"), true), through_policy(true), "gateway");
}

#[test]
fn what_an_abandoned_message_reserved_is_given_back_at_once() {
    let host = host(Door::Milter, POLICY);
    let account = Who::at("203.0.113.9").as_user("fred");
    for _ in 0..5 {
        let mut smtp = Smtp::connect_as(host.postfix.address(), account);
        smtp.mail("fred@test.example");
        assert_eq!(smtp.rcpt("bob@test.example").code, 250);
        assert_eq!(smtp.rcpt("eve@test.example").code, 250);
        // No DATA: RSET, or the connection just ends.
        smtp.say("RSET");
    }
    let mut smtp = Smtp::connect_as(host.postfix.address(), account);
    smtp.mail("fred@test.example");
    for recipient in ["bob@test.example", "eve@test.example", "gone@test.example"] {
        assert_eq!(smtp.rcpt(recipient).code, 250, "{recipient}");
    }
    assert_eq!(smtp.data().code, 250);
    assert_eq!(host.attempt(account, "fred@test.example", "bob@test.example").code, 450);
}

#[test]
fn stages_that_are_asked_about_are_answered() {
    let text = format!("{POLICY}\n").replace("[networks]", "# nothing\n[networks]");
    let at = address();
    let mut mpp = Daemon::new(MPP, &at, "");
    mpp.configure(&format!(
        "[listen]\npolicy = [\"{}\"]\nmilter = [\"{at}:10041\"]\n\
         milter_stages = [\"CONNECT\", \"HELO\", \"MAIL\", \"RCPT\", \"DATA\", \"END-OF-MESSAGE\"]\n\
         {text}",
        mpp.address()
    ));
    mpp.launch();
    let lines = mpp.tell(&["postfix", "--mode", "milter"]);
    let postfix = Postfix::start(&at, &lines);
    let host = MailHost { mpp, postfix };
    assert_eq!(host.attempt(Who::at("198.51.100.7"), "a@x.example", "bob@test.example").code, 250);
    // Who wrote to a trap is turned away before a recipient is named.
    assert_eq!(host.attempt(Who::at(DRONE), "a@x.example", "trap@test.example").code, 550);
    let mut smtp = Smtp::connect(host.postfix.address());
    smtp.say("EHLO drone.example");
    let reply = smtp.say(&format!("XCLIENT ADDR={DRONE}"));
    assert!(reply.code == 220 || reply.code / 100 == 4, "{}", reply.text);
    let reply = smtp.say("EHLO drone.example");
    let reply = if reply.code == 250 { smtp.mail("b@y.example") } else { reply };
    assert_eq!(reply.code / 100, 4, "{}", reply.text);
}

#[test]
fn mail_flows_while_mpp_is_down_and_is_judged_again_when_it_is_back() {
    let mut host = host(Door::Milter, POLICY);
    assert_eq!(host.attempt(Who::at(DRONE), "a@x.example", "nobody@test.example").code, 550);
    host.mpp.kill();
    assert_eq!(host.attempt(Who::at(DRONE), "a@x.example", "nobody@test.example").code, 250);
    host.mpp.launch();
    until("a judgement", || {
        let reply = host.attempt(Who::at(DRONE), "a@x.example", "nobody@test.example");
        (reply.code == 550).then_some(())
    });
}

#[test]
fn sendmail_asks_as_postfix_does() {
    let at = address();
    let mut mpp = Daemon::new(MPP, &at, "");
    // Its clients come from loopback here, and are to be strangers.
    let text = POLICY
        .replace("\"127.0.0.0/8\", ", "")
        .replace("[networks]\n", "[networks]\ntrusted = []\n");
    let text = text.replace("delay = \"1h\"", "mode = \"off\"");
    mpp.configure(&format!(
        "[listen]\npolicy = [\"{}\"]\nmilter = [\"{at}:10041\"]\n{text}",
        mpp.address()
    ));
    mpp.launch();
    let hop = Postfix::start(&address(), "");
    let sendmail = Sendmail::start(&format!("{at}:10041"), hop.address());
    let mut smtp = Smtp::connect(&sendmail.address());
    assert_eq!(smtp.say("EHLO client.example").code, 250);
    assert_eq!(smtp.mail("a@x.example").code, 250);
    assert_eq!(smtp.rcpt("bob@test.example").code, 250);
    let reply = smtp.rcpt("nobody@test.example");
    // Sendmail puts the address before the text.
    assert_eq!(reply.code, 550);
    assert!(reply.text.starts_with("5.1.1 ") && reply.text.contains("User unknown ("));
    assert_eq!(smtp.data().code, 250);
    // Another message on the same connection, given up, and one more.
    assert_eq!(smtp.mail("a@x.example").code, 250);
    assert_eq!(smtp.rcpt("eve@test.example").code, 250);
    assert_eq!(smtp.say("RSET").code, 250);
    assert_eq!(smtp.mail("b@x.example").code, 250);
    assert_eq!(smtp.rcpt("eve@test.example").code, 250);
    assert_eq!(smtp.data().code, 250);
    hop.wait_for_delivered(2);
    // A trap blocks whoever wrote to it.
    assert_eq!(smtp.mail("c@x.example").code, 250);
    assert_eq!(smtp.rcpt("trap@test.example").code, 550);
    assert_eq!(smtp.rcpt("bob@test.example").code, 450);
    mpp.kill();
    let mut smtp = Smtp::connect(&sendmail.address());
    // F=T: without its filter it takes nothing.
    smtp.say("EHLO client.example");
    assert_eq!(smtp.mail("a@x.example").code / 100, 4);
}

#[test]
fn what_is_no_milter_protocol_harms_nobody_else() {
    let host = host(Door::Milter, POLICY);
    let milter = host.mpp.address().replace(":10040", ":10041");
    for bytes in [
        &b"EHLO mail.example\r\n"[..],
        b"\0\0\0\0",
        b"\xff\xff\xff\xffO",
        b"\0\0\0\x01?",
        b"\0\0\0\x03O12",
        // Half a packet, and the end.
        b"\0\0\x10\0C",
        // A message out of nowhere.
        b"\0\0\0\x06M<a>\0\0\0\0\x06R<b>\0\0\0\0\x01E\0\0\0\x01Q",
    ] {
        let mut stream = TcpStream::connect(&milter).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 100, "{answer:?}");
    }
    assert_eq!(host.attempt(Who::at(DRONE), "a@x.example", "nobody@test.example").code, 550);
    host.mpp.wait_for_word("milter: connection from");
}
