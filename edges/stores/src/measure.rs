//! Measuring a store: decisions as those of a busy site, many at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use mpp_engine::question::{Answer, Effect, Key, Question, Shelf};
use mpp_hub::store::{Later, Store};

/// How it went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// Decisions a second.
    pub rate: u64,
    /// Microseconds from question to answer: the median, 99 of 100, and the longest.
    pub p50_us: u64,
    /// See above.
    pub p99_us: u64,
    /// See above.
    pub max_us: u64,
    /// Decisions that a shared store did not answer in time.
    pub late: u64,
}

/// Asks and notes what drones and proven senders make mpp ask and note, nine in ten new ones.
pub fn decisions(store: &dyn Store, at_once: usize, time: Duration) -> Measured {
    let end = Instant::now() + time;
    let numbers = AtomicU64::new(0);
    let began = Instant::now();
    let mut all: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..at_once).map(|_| scope.spawn(|| one(store, &numbers, end))).collect();
        let each = threads.into_iter().map(|thread| thread.join().unwrap_or_default());
        each.flatten().collect()
    });
    all.sort_unstable();
    let seconds = began.elapsed().as_secs_f64().max(1e-9);
    let at = |share: usize| {
        let place = (all.len() * share / 1_000).min(all.len().saturating_sub(1));
        all.get(place).copied().unwrap_or(0)
    };
    let late = store.figures().into_iter().find(|(name, _)| *name == "late");
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate of some thousands"
    )]
    let rate = (all.len() as f64 / seconds) as u64;
    Measured {
        rate,
        p50_us: at(500),
        p99_us: at(990),
        max_us: at(1_000),
        late: late.map_or(0, |(_, number)| number),
    }
}

/// One asker after the other; returns how long each took, in microseconds.
fn one(store: &dyn Store, numbers: &AtomicU64, end: Instant) -> Vec<u64> {
    let mut taken = Vec::new();
    let mut answers = Vec::new();
    while Instant::now() < end {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let of = |what: u64| {
            Key(spread(
                if number.is_multiple_of(10) { number % 1_000 } else { number } ^ what << 56,
            ))
        };
        let now_ms = 1_795_528_230_000 + number / 100;
        let questions = [
            Question::Since { shelf: Shelf::Proven, key: of(1) },
            Question::History { key: of(2) },
            Question::Count { key: of(3), per_ms: 60_000, amount: 1 },
            Question::Since { shelf: Shelf::Greylisted, key: of(4) },
        ];
        let began = Instant::now();
        if let Some(later) = store.ask(now_ms, &questions, &mut answers) {
            wait(later);
        }
        taken.push(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        if let Some(Answer::Since(None)) = answers.last() {
            let (shelf, key) = (Shelf::Greylisted, of(4));
            let note = Effect::Remember { shelf, key, keep_ms: 60_000, again: false, mark: 0 };
            store.perform(now_ms, &[note]);
        }
    }
    taken
}

/// A key as hashes are.
fn spread(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Waits as a thread of its own can.
fn wait(mut later: Later<'_>) {
    let this = std::thread::current();
    let waker = Waker::from(std::sync::Arc::new(Unpark(this)));
    let mut context = Context::from_waker(&waker);
    while later.as_mut().poll(&mut context).is_pending() {
        std::thread::park();
    }
}

struct Unpark(std::thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}
