//! The only loop that waits: decide, gather answers, decide again.

use std::time::Duration;

use mpp_engine::decide::{Case, Decision, Event, Step, decide, learn};
use mpp_engine::facts::Facts;
use mpp_engine::identity::Keyring;
use mpp_engine::policy::Policy;
use mpp_engine::question::{Answer, Question};

use crate::store::Store;

/// Trips to the store that one decision may need at the most. One is the law; the rest is a bound.
const TRIPS_MAX: u32 = 4;

/// What a decision is made with.
#[derive(Clone, Copy)]
pub(crate) struct Bench<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) policy: &'a Policy,
    pub(crate) ring: Keyring,
    pub(crate) now_ms: u64,
    pub(crate) deadline: Duration,
}

/// Judges; returns the decision and how many trips it took.
pub(crate) async fn settle(
    bench: Bench<'_>,
    facts: &Facts<'_>,
    case: &mut Case,
    fresh: &mut Vec<Answer>,
) -> (Decision, u32) {
    let mut trips = 0;
    loop {
        match decide(bench.policy, bench.ring, facts, (bench.now_ms, case)) {
            Step::Done(decision) => {
                debug_assert!(trips <= 1, "one decision, one trip: {:?}", case.questions);
                return (decision, trips);
            }
            Step::Ask(from) => trips = gather(bench, (from, trips), case, fresh).await,
        }
    }
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
    while let Step::Ask(from) = learn(bench.policy, bench.ring, facts, event, (bench.now_ms, case))
    {
        trips = gather(bench, (from, trips), case, fresh).await;
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
