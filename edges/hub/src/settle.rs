//! The only loop that waits: decide, gather answers, decide again.

use std::time::Duration;

use mpp_engine::decide::{Case, Decision, Event, Step, decide, learn};
use mpp_engine::directory::Found;
use mpp_engine::facts::Facts;
use mpp_engine::identity::Keyring;
use mpp_engine::policy::Policy;
use mpp_engine::question::{Answer, Question};
use tokio::time::Instant;

use crate::directories::{Directories, Texts};
use crate::store::Store;

/// Trips to the store that one decision may need at the most. One is the law; the rest is a bound.
const TRIPS_MAX: u32 = 4;

/// Rounds of look-ups that one decision may need at the most: one a directory of a chain, and one
/// for the domain.
const LOOK_UPS_MAX: u32 = 12;

/// What a decision is made with.
#[derive(Clone, Copy)]
pub(crate) struct Bench<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) policy: &'a Policy,
    pub(crate) ring: Keyring,
    pub(crate) now_ms: u64,
    pub(crate) deadline: Duration,
    pub(crate) directories: &'a Directories,
    pub(crate) texts: Texts<'a>,
    /// When the decision must be there, if it has had to wait already.
    pub(crate) end: Option<Instant>,
}

impl Bench<'_> {
    /// When the decision must be there: the clock begins to run with the first thing to wait for.
    pub(crate) fn end(&mut self) -> Instant {
        let deadline = self.deadline;
        *self.end.get_or_insert_with(|| Instant::now() + deadline)
    }
}

/// Judges; returns the decision and how many trips it took.
pub(crate) async fn settle(
    mut bench: Bench<'_>,
    facts: &Facts<'_>,
    case: &mut Case,
    fresh: &mut Vec<Answer>,
) -> (Decision, u32) {
    let (mut trips, mut rounds) = (0, 0);
    loop {
        match decide(bench.policy, bench.ring, facts, (bench.now_ms, case)) {
            Step::Done(decision) => {
                debug_assert!(trips <= 1, "one decision, one trip: {:?}", case.questions);
                return (decision, trips);
            }
            Step::Ask(from) => trips = gather(bench, (from, trips), case, fresh).await,
            Step::LookUp(from) => {
                rounds += 1;
                let end = bench.end();
                look_up(bench, (from, rounds, end), case).await;
            }
        }
    }
}

async fn look_up(bench: Bench<'_>, (from, rounds, end): (usize, u32, Instant), case: &mut Case) {
    let Case { look_ups, found, .. } = case;
    let open = look_ups.get(from..).unwrap_or_default();
    if rounds <= LOOK_UPS_MAX {
        bench.directories.find(open, &bench.texts, end, found).await;
    }
    found.resize(look_ups.len(), Found::NotNow);
}

/// Works out what follows from an event.
pub(crate) async fn draw_conclusions(
    bench: Bench<'_>,
    facts: &Facts<'_>,
    event: Event,
    case: &mut Case,
    fresh: &mut Vec<Answer>,
) {
    let mut trips = 0;
    loop {
        match learn(bench.policy, bench.ring, facts, event, (bench.now_ms, case)) {
            Step::Done(_) => return,
            Step::Ask(from) => trips = gather(bench, (from, trips), case, fresh).await,
            // No check draws conclusions from a directory.
            Step::LookUp(_) => case.found.resize(case.look_ups.len(), Found::NotNow),
        }
    }
}

async fn gather(
    bench: Bench<'_>,
    (from, trips): (usize, u32),
    case: &mut Case,
    fresh: &mut Vec<Answer>,
) -> u32 {
    let questions: &[Question] = case.questions.get(from..).unwrap_or_default();
    let wanted = questions.len();
    fresh.clear();
    if trips < TRIPS_MAX {
        let is_late = match bench.store.ask(bench.now_ms, questions, fresh) {
            Some(later) => tokio::time::timeout(bench.deadline, later).await.is_err(),
            None => false,
        };
        if is_late {
            fresh.clear();
        }
    }
    fresh.resize(wanted, Answer::Unavailable);
    case.answers.append(fresh);
    trips + 1
}
