//! What the hub promises of directories, with one in memory that can be slow, hang and fail: one
//! look-up however many ask, no decision past its deadline, nobody refused by mistake.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mpp_engine::facts::Stage;
use mpp_engine::verdict::{Action, Cause};
use mpp_hub::clock::VirtualClock;
use mpp_hub::directory::Trouble;
use mpp_hub::statistics::Statistics;
use mpp_hub::{Asked, Desk, Hub, Outside, Parts};
use mpp_stores::embedded::EmbeddedStore;
use mpp_tests::book::{Book, Shelf};
use mpp_tests::real::until;
use proptest::prelude::*;
use tokio::runtime::{Builder, Runtime};

const CONFIGURATION: &str = r#"
[server]
deadline = "300ms"

[directory.people]
kind = "sql"
servers = ["postgres://mpp@db.example.org/mail"]
query = "SELECT 1 FROM users WHERE address = {address}"
timeout = "60ms"

[directory.dead]
kind = "sql"
servers = ["postgres://mpp@dead.example.org/mail"]
query = "SELECT 1 FROM users WHERE address = {address}"
timeout = "60ms"

[recipients.main]
domains = ["example.org"]
from = ["people"]

[recipients.other]
domains = ["dead.example"]
from = ["dead"]

[policy.default.greylist]
mode = "off"
[policy.default.recipient.harvest]
limit = 1000000
"#;

struct Site {
    hub: Arc<Hub>,
    clock: Arc<VirtualClock>,
    shelf: Shelf,
    runtime: Runtime,
}

impl Site {
    fn new() -> Self {
        Self::with(CONFIGURATION)
    }

    fn with(text: &str) -> Self {
        let read = mpp_config::compile("mpp.toml", text, &BTreeMap::new(), 7);
        assert_eq!(read.diagnostics, []);
        let clock = Arc::new(VirtualClock::default());
        clock.advance_to(1_780_272_000_000);
        let shelf = Shelf::default();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let parts = Parts {
            store: EmbeddedStore::in_memory(7),
            clock: Arc::<VirtualClock>::clone(&clock),
            log: None,
            statistics: Statistics::default(),
            outside: Some(Outside { runtime: runtime.handle().clone(), open: shelf.open() }),
            scanners: None,
        };
        let hub = Arc::new(Hub::new(parts, read.configuration.unwrap()));
        Self { hub, clock, shelf, runtime }
    }

    fn book(&self) -> Book {
        self.shelf.book("people")
    }

    fn pass(&self, ms: u64) {
        let now_ms = self.hub.now_ms() + ms;
        self.clock.advance_to(now_ms);
    }

    fn judge(&self, recipient: &str) -> Verdict {
        self.runtime.block_on(judge(&self.hub, recipient))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Known,
    Unknown,
    NotNow,
}

async fn judge(hub: &Hub, recipient: &str) -> Verdict {
    let client = [203, 0, 113, 7].into();
    let sender = "a@x.example";
    let asked = Asked { sender, recipient, ..Asked::about("test", Stage::Rcpt, client) };
    let verdict = hub.judge(&asked, &mut Desk::default()).await.decision.verdict;
    match (verdict.action, verdict.cause) {
        (Action::Accept, _) => Verdict::Known,
        (Action::Reject, Cause::UnknownRecipient) => Verdict::Unknown,
        (Action::Defer, Cause::DirectoryDown) => Verdict::NotNow,
        other => panic!("{recipient}: {other:?}"),
    }
}

#[test]
fn however_many_ask_one_look_up_is_under_way() {
    let site = Site::new();
    site.book().add("bob@example.org");
    site.book().takes(Duration::from_millis(20));
    let verdicts = site.runtime.block_on(async {
        let tasks: Vec<_> = (0..200)
            .map(|number| {
                let hub = Arc::clone(&site.hub);
                let recipient = if number % 2 == 0 { "bob@example.org" } else { "x@example.org" };
                tokio::spawn(async move { judge(&hub, recipient).await })
            })
            .collect();
        let mut verdicts = Vec::new();
        for task in tasks {
            verdicts.push(task.await.unwrap());
        }
        verdicts
    });
    for pair in verdicts.chunks(2) {
        assert_eq!(pair, [Verdict::Known, Verdict::Unknown]);
    }
    let mut asked = site.book().asked();
    asked.sort();
    assert_eq!(asked, ["bob@example.org", "x@example.org"]);
}

#[test]
fn a_directory_that_hangs_holds_no_decision_past_the_deadline_and_then_costs_nothing() {
    let site = Site::new();
    site.book().add("bob@example.org");
    let dead = site.shelf.book("dead");
    dead.hangs(true);
    assert_eq!(site.judge("bob@example.org"), Verdict::Known);
    for number in 0..3 {
        let began = Instant::now();
        assert_eq!(site.judge(&format!("u{number}@dead.example")), Verdict::NotNow);
        // The deadline is 300 ms; a busy machine may add to it.
        assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    }
    assert_eq!(dead.asked().len(), 3);
    // The last of the three may still be on its way.
    until("a directory that is down", || {
        site.runtime.block_on(tokio::task::yield_now());
        let states = site.hub.directories();
        (states[0]["name"] == "dead" && states[0]["state"] == "down").then_some(())
    });
    for number in 3..100 {
        assert_eq!(site.judge(&format!("u{number}@dead.example")), Verdict::NotNow);
    }
    assert_eq!(dead.asked(), Vec::<String>::new(), "the breaker is open");
    assert_eq!(site.judge("bob@example.org"), Verdict::Known, "others are not affected");

    dead.hangs(false);
    dead.add("u5@dead.example");
    site.pass(500);
    assert_eq!(site.judge("u5@dead.example"), Verdict::Known, "back within seconds");
    assert_eq!(site.judge("u6@dead.example"), Verdict::Unknown);
}

#[test]
fn pauses_of_a_dead_directory_grow_to_seconds_and_no_further() {
    let site = Site::new();
    site.book().trouble(Some(Trouble::Down("gone".into())));
    let mut tried_at = Vec::new();
    for step in 0..600_u64 {
        assert_eq!(site.judge(&format!("u{step}@example.org")), Verdict::NotNow);
        if !site.book().asked().is_empty() {
            tried_at.push(step * 100);
        }
        site.pass(100);
    }
    let pauses: Vec<u64> = tried_at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses[..6], [100, 100, 500, 1000, 2000, 4000]);
    assert!(pauses[6..].iter().all(|pause| *pause == 4000), "{pauses:?}");
}

#[test]
fn a_refresh_that_fails_takes_nothing_away() {
    let site = Site::new();
    site.book().add("bob@example.org");
    assert_eq!(site.judge("bob@example.org"), Verdict::Known);
    site.book().trouble(Some(Trouble::NotNow("busy".into())));
    site.pass(3 * 3_600_000);
    assert_eq!(site.judge("bob@example.org"), Verdict::Known);
    site.runtime.block_on(tokio::task::yield_now());
    assert_eq!(site.book().asked().len(), 2, "asked, and asked again in the background");
    site.pass(24 * 3_600_000);
    assert_eq!(site.judge("bob@example.org"), Verdict::Known, "kept past its time");
    site.pass(7 * 24 * 3_600_000);
    assert_eq!(site.judge("bob@example.org"), Verdict::NotNow, "and not for ever");
}

#[test]
fn a_new_configuration_keeps_what_is_the_same_and_asks_anew_where_the_question_changed() {
    let site = Site::new();
    site.book().add("bob@example.org");
    assert_eq!(site.judge("bob@example.org"), Verdict::Known);
    let again = |text: &str| {
        let read = mpp_config::compile("mpp.toml", text, &BTreeMap::new(), 7);
        drop(site.hub.replace(read.configuration.unwrap()));
    };
    site.book().asked();
    again(&CONFIGURATION.replace("60ms", "70ms"));
    assert_eq!(site.judge("bob@example.org"), Verdict::Known);
    assert!(site.book().asked().is_empty(), "another time-out is no other question");
    again(&CONFIGURATION.replace("FROM users", "FROM people"));
    assert_eq!(site.judge("bob@example.org"), Verdict::Known);
    assert_eq!(site.book().asked(), ["bob@example.org"]);
}

/// 100,000 users, asked about as mail is: few get most of it; and six of ten are nobody.
#[test]
fn a_large_site_hardly_touches_its_directory() {
    let site = Site::new();
    let book = site.book();
    let users = 100_000_u64;
    for number in 0..users {
        book.add(&format!("u{number}@example.org"));
    }
    let mut state = 88_172_645_463_325_252_u64;
    let mut draw = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut known, mut known_first, mut again, mut again_asked) = (0, 0, 0_u32, 0_u32);
    let (mut seen_users, mut seen_nobodies) = (BTreeSet::new(), BTreeSet::new());
    let rounds = if cfg!(debug_assertions) { 150_000 } else { 1_500_000 };
    for _ in 0..rounds {
        site.pass(5);
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a draw")]
        #[allow(clippy::cast_sign_loss, reason = "a draw")]
        // Zipf with exponent 1: the logarithm of the rank is evenly spread.
        let mut rank = || {
            let share = (draw() % 1_000_000) as f64 / 1e6;
            (users as f64).powf(share) as u64
        };
        if rank() % 10 < 4 {
            let user = rank();
            assert_eq!(site.judge(&format!("u{user}@example.org")), Verdict::Known);
            let asked = book.asked();
            // A user of whom nothing was known has to be asked about once.
            known += 1;
            known_first += u32::from(seen_users.insert(user));
            assert!(asked.len() <= 1, "{asked:?}");
        } else {
            let nobody = format!("x{}@example.org", rank() * 7);
            assert_eq!(site.judge(&nobody), Verdict::Unknown);
            let is_asked = !book.asked().is_empty();
            if !seen_nobodies.insert(nobody) {
                again += 1;
                again_asked += u32::from(is_asked);
            }
        }
    }
    assert!(known > 10_000 && again > 10_000, "{known} {again}");
    assert!(known_first < known / 2, "{known_first} of {known}");
    assert!(again_asked * 10 <= again, "{again_asked} of {again} repeated unknown were looked up");
}

#[derive(Clone, Debug)]
enum Act {
    Judge(u8),
    Pass(u64),
    Add(u8),
    Trouble(u8),
    Work,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever becomes of the directory: a user who exists is never refused, unless it was said of
    /// him within the last hour that he does not.
    #[test]
    fn nobody_who_exists_is_refused_for_what_becomes_of_a_directory(
        acts in prop::collection::vec(
            prop_oneof![
                6 => (0_u8..8).prop_map(Act::Judge),
                2 => prop::sample::select(vec![100, 5_000, 700_000, 15_000_000]).prop_map(Act::Pass),
                1 => (0_u8..8).prop_map(Act::Add),
                1 => (0_u8..2).prop_map(Act::Trouble),
                1 => Just(Act::Work),
            ],
            1..120,
        )
    ) {
        let site = Site::new();
        let book = site.book();
        let mut added_ms = BTreeMap::new();
        let mut works = true;
        for act in acts {
            match act {
                Act::Pass(ms) => site.pass(ms),
                Act::Add(user) => {
                    book.add(&format!("u{user}@example.org"));
                    added_ms.entry(user).or_insert(site.hub.now_ms());
                }
                Act::Trouble(kind) => {
                    works = false;
                    book.trouble(Some(match kind {
                        0 => Trouble::Down("gone".into()),
                        _ => Trouble::NotNow("busy".into()),
                    }));
                }
                Act::Work => {
                    works = true;
                    book.trouble(None);
                }
                Act::Judge(user) => {
                    let verdict = site.judge(&format!("u{user}@example.org"));
                    let asked = book.asked();
                    match added_ms.get(&user) {
                        None => prop_assert_ne!(verdict, Verdict::Known),
                        Some(added_ms) => {
                            let is_new = site.hub.now_ms() - added_ms < 3_600_000;
                            prop_assert!(verdict != Verdict::Unknown || is_new);
                            if works && !asked.is_empty() {
                                prop_assert_eq!(verdict, Verdict::Known);
                            }
                        }
                    }
                }
            }
        }
    }
}
