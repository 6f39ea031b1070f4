//! A clock that was wrong and is put right: nobody waits for it.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mpp_engine::facts::Stage;
use mpp_engine::verdict::Action;
use mpp_hub::clock::Clock;
use mpp_hub::statistics::Statistics;
use mpp_hub::{Asked, Desk, Hub, Parts};
use mpp_stores::embedded::EmbeddedStore;

/// A clock that can be put back, as those of machines are.
#[derive(Debug)]
struct Wrong(AtomicU64);

impl Clock for Wrong {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

const MINUTE_MS: u64 = 60_000;
const RIGHT_MS: u64 = 1_780_272_000_000;

fn judge(hub: &Hub, sender: &str, recipient: &str) -> Action {
    let client = [203, 0, 113, 7].into();
    let asked = Asked { sender, recipient, ..Asked::about("test", Stage::Rcpt, client) };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(hub.judge(&asked, &mut Desk::default())).decision.verdict.action
}

#[test]
fn a_first_try_that_lies_in_the_future_is_none() {
    let text = "[policy.default.greylist]\ndelay = \"5m\"\nwindow = \"2d\"\n";
    let day_ms = 24 * 60 * MINUTE_MS;
    for ahead_ms in [1_000, MINUTE_MS, 60 * MINUTE_MS, day_ms, 365 * day_ms] {
        let read = mpp_config::compile("mpp.toml", text, &BTreeMap::new(), 7);
        let clock = Arc::new(Wrong(AtomicU64::new(RIGHT_MS + ahead_ms)));
        let hub = Hub::new(
            Parts {
                store: EmbeddedStore::in_memory(7),
                clock: Arc::<Wrong>::clone(&clock),
                log: None,
                statistics: Statistics::default(),
                outside: None,
                scanners: None,
            },
            read.configuration.unwrap(),
        );
        let at = |ms: u64| {
            clock.0.store(ms, Ordering::Relaxed);
            judge(&hub, "a@x.example", "bob@example.org")
        };
        assert_eq!(at(RIGHT_MS + ahead_ms), Action::Defer, "the first try");
        // The clock is right again: this is the first try now.
        assert_eq!(at(RIGHT_MS), Action::Defer);
        assert_eq!(at(RIGHT_MS + 4 * MINUTE_MS), Action::Defer, "too early");
        assert_eq!(at(RIGHT_MS + 6 * MINUTE_MS), Action::Accept, "{ahead_ms} ms ahead");
        // And it may go back once more: who has come back needs not do so again.
        assert_eq!(at(RIGHT_MS), Action::Accept);
    }
}
