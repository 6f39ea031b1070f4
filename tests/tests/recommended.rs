//! `examples/recommended.toml` on simulated months of mail: what must be stopped, and that nothing
//! that is wanted is lost for it.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

use std::io;
use std::path::Path;

use mpp_tests::node::Node;
use mpp_tests::site::judge::{Ask, Judge, Reply, encode};
use mpp_tests::site::senders::{Plan, Profile};
use mpp_tests::site::{play, reference};

/// The recommended site as a judge.
struct Recommended {
    node: Node,
    text: String,
}

impl Recommended {
    fn new() -> Self {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let text = std::fs::read_to_string(examples.join("recommended.toml")).unwrap();
        Self { node: Node::new(&text, &examples, None), text: String::new() }
    }
}

impl Judge for Recommended {
    fn ask(&mut self, ask: &Ask<'_>) -> io::Result<Reply> {
        self.text.clear();
        encode(ask, &mut self.text);
        Ok(Reply::of_action(&self.node.answer(&self.text)))
    }
}

/// `gain`: how many hundredths of the spam are refused beyond what a greylister of triplets refuses.
fn holds(profile: Profile, seed: u64, gain: f64) {
    let plan = Plan { profile, seed, days: 16.0, scale: 0.15 };
    let score = play(&plan, &mut Recommended::new(), false).unwrap();
    let triplets = reference(&plan).unwrap().spam_refused();
    let refused = score.spam_refused();
    let table = || score.table(None);
    assert!(refused >= triplets + gain, "{refused} after {triplets}\n{}", table());
    assert_eq!(score.ham_lost(), 0, "wanted mail was lost\n{}", table());
    assert!(score.delayed_later() < 8.0, "too many wait\n{}", table());
    let p95 = score.delay(false)[1] / 60.0;
    assert!(p95 < 45.0, "they wait too long: {p95} minutes\n{}", table());
    assert!(score.outbound_refused() < 1.0, "our own users are refused\n{}", table());
    assert!(score.most_out() <= 15, "a thief got {} out\n{}", score.most_out(), table());
}

#[test]
fn where_hosts_try_once() {
    holds(Profile::Drones, 21, 1.5);
}

#[test]
fn where_most_hosts_try_again() {
    holds(Profile::Retriers, 22, 13.0);
}

#[test]
fn where_spam_comes_from_servers() {
    holds(Profile::Servers, 23, 16.0);
}
