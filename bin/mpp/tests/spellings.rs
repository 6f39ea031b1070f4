//! One address, written in all the ways in which a real Postfix delivers it to one mailbox, through every
//! door: the verdict is that of the address, not of its spelling.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::raw_smtp::RawSmtp;

const MPP: &str = env!("CARGO_BIN_EXE_mpp");

const RULES: &str = "[recipients.main]\naddresses = [\"bob@test.example\", \"eve@test.example\"]\n\
    [policy.default.greylist]\nmode = \"off\"\n[policy.default.recipient.harvest]\nlimit = 100000\n\
    [policy.default.access]\ndeny.sender = [\"@spam.example\", \"denied@other.example\"]\n\
    deny.helo = [\"helo.bad.example\"]\n";

/// Ways to write `LOCAL@DOMAIN`; `strict` ones are paths of RFC 5321, but for the dot.
fn spellings(local: &str, domain: &str, is_strict: bool) -> Vec<String> {
    let upper = domain.to_uppercase();
    let (first, rest) = local.split_at(1);
    let mut all = vec![
        format!("<{local}@{domain}>"),
        format!("<{local}@{upper}>"),
        format!("<{local}@{domain}.>"),
        format!("<\"{local}\"@{domain}>"),
        format!("<\"{first}\\{rest}\"@{domain}>"),
        format!("<@relay.example:{local}@{domain}>"),
        format!("<@a.example,@b.example:{local}@{domain}.>"),
    ];
    if !is_strict {
        all.extend([
            format!("{local}@{domain}"),
            format!("< {local}@{domain} >"),
            format!("<{local} @ {domain}>"),
            format!("<{local}@{domain} (x)>"),
            format!("<(x){local}@{domain}>"),
            format!("<{local}(a(b)c)@{domain}.>"),
            format!("<Foo <{local}@{domain}>>"),
            format!("<\"Foo, Bar\" <{local}@{domain}>>"),
            format!("<{local}@{domain},>"),
            format!("<{first}\\{rest}@{domain}>"),
            format!("{domain}!{local}"),
            format!("{local}%{domain}"),
        ]);
    }
    all
}

/// What is said to a recipient of a sender.
fn code(at: &str, helo: &str, sender: &str, recipient: &str) -> String {
    let mut raw = RawSmtp::connect(at);
    for line in [format!("EHLO {helo}"), format!("MAIL FROM:{sender}")] {
        let reply = raw.say(&line);
        if !reply.starts_with("250") {
            return reply;
        }
    }
    raw.say(&format!("RCPT TO:{recipient}"))
}

fn judged_alike(at: &str, is_strict: bool) {
    let alike = |wanted: &str, what: &str, reply: String| {
        assert!(reply.starts_with(wanted), "{what} must get {wanted}: {reply}");
    };
    let (good, bob) = ("<a@good.example>", "<bob@test.example>");
    for (local, wanted) in [("bob", "250"), ("nobody", "550 5.1.1")] {
        for recipient in spellings(local, "test.example", is_strict) {
            alike(wanted, &recipient, code(at, "mx.good.example", good, &recipient));
        }
    }
    for (local, domain) in [("x", "spam.example"), ("denied", "other.example")] {
        for sender in spellings(&format!("{local}y"), "good.example", is_strict) {
            alike("250", &sender, code(at, "mx.good.example", &sender, bob));
        }
        let local = if local == "x" { "xy" } else { local };
        for sender in spellings(local, domain, is_strict) {
            alike("554", &sender, code(at, "mx.good.example", &sender, bob));
        }
    }
    for helo in ["helo.bad.example", "HELO.Bad.example", "helo.bad.example."] {
        alike("554", helo, code(at, helo, good, bob));
    }
}

/// What no door may take for an address of ours.
fn strangers_stay_strangers(at: &str) {
    for recipient in [
        "<victim@evil.example(.test.example>",
        "<victim@evil.example (.test.example>",
        "<victim@(x)evil.example(y.test.example>",
        "<victim@(a)(b.test.example>",
        "<victim@evil.example(\\\")> ORCPT=rfc822;x\".test.example>",
        "<bob(\\\")> NOTIFY=NEVER ORCPT=rfc822;x\"@test.example>",
        "<victim@evil.example,.test.example>",
        "<victim@evil.example;.test.example>",
        "<victim@evil.example\t.test.example>",
        "<victim@evil.example\u{b}.test.example>",
        "<victim@evil.example\u{1b}.test.example>",
        "<victim@\"evil.example\".test.example>",
        "<victim@[127.0.0.1].test.example>",
        "<victim(@test.example>",
        "<bob@test.example..>",
        "<bob@test..example>",
        "<bob @test.example>",
        "<bob@test.example (x)>",
        "bob@test.example",
        "<bob@test.example> ORCPT=rfc822;a\u{b}b",
    ] {
        let reply = code(at, "mx.good.example", "<a@good.example>", recipient);
        assert!(reply.starts_with("501 5."), "{recipient:?}: {reply}");
        let reply = code(at, "mx.good.example", recipient, "<bob@test.example>");
        assert!(reply.starts_with("501 5."), "MAIL {recipient:?}: {reply}");
    }
}

#[test]
fn the_policy_service_judges_the_address_not_its_spelling() {
    let at = address();
    let mpp = Daemon::start(MPP, &at, RULES);
    // What the printed lines refuse before mpp is asked, an administrator may allow.
    let lines = mpp.tell(&["postfix"]).replace("reject_non_fqdn_recipient", "");
    let postfix = Postfix::start(&at, &lines);
    judged_alike(postfix.address(), false);
}

#[test]
fn the_milter_judges_the_address_not_its_spelling() {
    // Once with what Postfix tells of itself, once where an administrator has left that out.
    for macros in ["", "milter_mail_macros = i\nmilter_rcpt_macros = i\n"] {
        let at = address();
        let milter = format!("[listen]\nmilter = [\"{at}:8899\"]\n{RULES}");
        let _mpp = Daemon::start(MPP, &at, &milter);
        let postfix = Postfix::start(&at, &format!("smtpd_milters = inet:{at}:8899\n{macros}"));
        judged_alike(postfix.address(), false);
    }
}

#[test]
fn the_filter_judges_the_address_not_its_spelling() {
    let (at, back) = (address(), Postfix::start(&address(), ""));
    let next = back.address();
    let rules =
        format!("[proxy.filter]\nlisten = [\"{at}:10025\"]\nnext_hop = [\"{next}\"]\n{RULES}");
    let _mpp = Daemon::start(MPP, &at, &rules);
    let front = Postfix::start(&at, &format!("smtpd_proxy_filter = {at}:10025\n"));
    judged_alike(front.address(), false);
}

#[test]
fn the_gateway_judges_the_address_and_takes_nothing_that_is_none() {
    let (at, back) = (address(), Postfix::start(&address(), ""));
    let next = back.address();
    let rules = format!(
        "[proxy.mx]\nuse = \"gateway\"\nlisten = [\"{at}:2526\"]\nname = \"mx.test.example\"\n\
         domains = [\".test.example\"]\nnext_hop = [\"{next}\"]\n{RULES}"
    );
    let mpp = Daemon::start(MPP, &at, &rules);
    let listen = format!("{at}:2526");
    judged_alike(&listen, true);
    strangers_stay_strangers(&listen);
    let said = mpp.tell(&["check"]);
    assert!(said.contains("were tried and are refused"), "{said}");
}
