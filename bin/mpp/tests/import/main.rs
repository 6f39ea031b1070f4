//! `mpp store import`: real greylists let senders wait and pass, then mpp takes over from them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers as well"
)]

mod damage;
mod programs;
mod tables;

use std::time::Duration;

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::greylists::Greylist;
use mpp_tests::real::policy::request;
use mpp_tests::real::until;
use serde_json::Value;

pub(crate) const MPP: &str = env!("CARGO_BIN_EXE_mpp");

/// Settings of a node that takes over, with this store.
pub(crate) fn settings(store: &str) -> String {
    format!("{store}\n[policy.default.greylist]\ndelay = \"2s\"\nimported = true\n")
}

/// A client with a name or none, that writes to Bob.
pub(crate) fn mail(client: &str, name: &str, sender: &str) -> String {
    request(&[
        ("request", "smtpd_access_policy"),
        ("protocol_state", "RCPT"),
        ("client_address", client),
        ("client_name", name),
        ("reverse_client_name", name),
        ("helo_name", "client.example"),
        ("sender", sender),
        ("recipient", "bob@test.example"),
        ("instance", ""),
    ])
}

/// Whether an answer lets mail through, so or so.
fn is_through(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    let waits = said.starts_with("defer_if_permit") || said.starts_with("450");
    assert!(waits || said.starts_with("dunno") || said.starts_with("prepend"), "{said}");
    !waits
}

/// Brings mail through another greylist, which must let it wait first.
pub(crate) fn pass(greylist: &Greylist, mail: &str) {
    assert!(!is_through(&greylist.ask(mail)), "it waits first");
    until("mail that has waited", || {
        std::thread::sleep(Duration::from_millis(300));
        is_through(&greylist.ask(mail)).then_some(())
    });
}

/// Whether mpp lets mail through.
pub(crate) fn lets_through(daemon: &Daemon, mail: &str) -> bool {
    is_through(&daemon.client().ask(mail))
}

/// A number of a report.
pub(crate) fn number(report: &Value, path: &str) -> u64 {
    report.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path}: {report}"))
}

/// What a report notes.
pub(crate) fn notes(report: &Value) -> String {
    report["notes"].to_string()
}
