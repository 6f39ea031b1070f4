//! Recipients looked up in real directories, through a real Postfix, while the directories live and
//! die: OpenLDAP, 389 Directory Server, Samba as Active Directory, MariaDB, PostgreSQL, SQLite, and a
//! Postfix as the next hop. A server is one entry in the table of `servers.rs`.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

mod certificates;
mod dialogues;
mod faults;
mod kept;
mod live;
mod servers;

use std::time::{Duration, Instant};

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::mail_host::MailHost;
use mpp_tests::real::policy::{Client, rcpt};
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::smtp::{Reply, Smtp, Who};
use mpp_tests::real::{address, until};
use serde_json::Value;

const MPP: &str = env!("CARGO_BIN_EXE_mpp");
const CALM: &str = "[policy.default.greylist]\nmode = \"off\"\n\
    [policy.default.recipient.harvest]\nlimit = 1000000\n";
const CLIENT: &str = "198.51.100.7";
/// What a decision may take: its deadline of 2 s, and a busy machine.
const PATIENT: Duration = Duration::from_secs(6);

/// A Postfix that takes everything for every domain, and asks mpp.
fn host(text: &str) -> MailHost {
    let address = address();
    let mpp = Daemon::start(MPP, &address, text);
    let lines = mpp.tell(&["postfix"]);
    let postfix = Postfix::start(
        &address,
        &format!(
            "{lines}\nvirtual_mailbox_domains = static:all\nvirtual_mailbox_maps = static:all/\n"
        ),
    );
    MailHost { mpp, postfix }
}

fn attempt(host: &MailHost, recipient: &str) -> Reply {
    host.attempt(Who::at(CLIENT).named("mx.sender.example"), "a@sender.example", recipient)
}

fn must_be_unknown(host: &MailHost, recipient: &str) {
    let mut smtp = Smtp::connect_as(host.postfix.address(), Who::at(CLIENT));
    smtp.mail("a@sender.example");
    let reply = smtp.rcpt(recipient);
    assert_eq!(reply.code, 550, "{recipient}: {}", reply.text);
    assert!(reply.text.starts_with("5.1.1 "), "{}", reply.text);
}

fn must_be_known(host: &MailHost, recipient: &str) {
    // The message as a whole is accepted.
    let reply = attempt(host, recipient);
    assert_eq!(reply.code, 250, "{recipient}: {}", reply.text);
}

/// One answer of the policy service, which must come in time.
fn answer(client: &mut Client, recipient: &str) -> String {
    let began = Instant::now();
    let answer = client.ask(&rcpt(CLIENT, "a@sender.example", recipient));
    assert!(began.elapsed() < PATIENT, "{recipient}: {:?}", began.elapsed());
    answer
}

/// Asks until a user is known: a server that was just started may take longer than a decision. On
/// the way there he is never refused.
fn until_known(client: &mut Client, recipient: &str) {
    until(&format!("known {recipient}"), || {
        let known = answer(client, recipient);
        assert!(!known.starts_with('5'), "{recipient}: {known}");
        (known == "DUNNO").then_some(())
    });
}

/// Asks until somebody is refused as unknown.
fn until_unknown(client: &mut Client, recipient: &str) {
    until(&format!("unknown {recipient}"), || {
        answer(client, recipient).starts_with("550 5.1.1").then_some(())
    });
}

/// What `mpp status` says of a directory.
fn status(mpp: &Daemon, name: &str) -> Value {
    let status = mpp.json(&["status"]);
    let all = status["directories"].as_array().unwrap();
    all.iter().find(|it| it["name"] == name).unwrap().clone()
}
