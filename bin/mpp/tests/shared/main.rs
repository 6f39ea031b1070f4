//! Several mpp on one store: as one memory while it is there, each alone while it is not.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers as well"
)]

mod faults;
mod moving;
mod nodes;
mod sql;
mod tls;

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::policy::rcpt;
use mpp_tests::real::{address, until};

pub(crate) const MPP: &str = env!("CARGO_BIN_EXE_mpp");

/// Settings of a node: a store, and what all of these tests want.
pub(crate) fn settings(store: &str) -> String {
    format!(
        "[store]\n{store}\n[policy.default.greylist]\ndelay = \"1s\"\n\
         [policy.default.trap]\npatterns = [\"^trap@\"]\nblock = \"1h\"\n\
         [[policy.default.threshold]]\nname = \"account\"\nkey = \"sasl_user\"\n\
         count = \"recipients\"\nlimit = 10\nper = \"1h\"\nthen = \"reject\"\n"
    )
}

/// A Redis at that place.
pub(crate) fn at(place: &str) -> String {
    format!("kind = \"redis\"\nservers = [\"{place}\"]\n")
}

/// Nodes on one store.
pub(crate) fn nodes(many: usize, store: &str) -> Vec<Daemon> {
    (0..many).map(|_| Daemon::start(MPP, &address(), &settings(store))).collect()
}

/// What a node says of a first try or a retry of a stranger.
pub(crate) fn try_at(node: &Daemon, client: &str, sender: &str) -> String {
    node.client().ask(&rcpt(client, sender, "bob@test.example"))
}

/// Whether a node lets a stranger's mail through.
pub(crate) fn lets_through(node: &Daemon, client: &str, sender: &str) -> bool {
    let said = try_at(node, client, sender);
    assert!(
        said == "DUNNO" || said.contains("Greylisted") || said.starts_with("421 4.7.0"),
        "{said}"
    );
    said == "DUNNO"
}

/// Brings a sender through greylisting at a node.
pub(crate) fn prove(node: &Daemon, client: &str, sender: &str) {
    until("a sender who has waited", || lets_through(node, client, sender).then_some(()));
}

/// How a node's store is, in a word.
pub(crate) fn health(node: &Daemon) -> String {
    let status = node.json(&["status"]);
    status.pointer("/store/health").and_then(|it| it.as_str()).unwrap_or_default().to_owned()
}

/// Waits until a node is no longer alone.
pub(crate) fn wait_for_store(node: &Daemon) {
    until("a node that has its store", || (health(node) == "good").then_some(()));
}
