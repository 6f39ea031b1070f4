//! The contract of a store, held against every backend.
//!
//! The cases say in words what must hold; the histories compare random work, restarts included, with
//! the model; and several nodes work on one shared store at once. A new backend is one file beside
//! `redis.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers as well"
)]

mod board;
mod cases;
mod history;
mod local;
mod nodes;
mod redis;
mod sql;

use std::sync::Arc;
use std::task::{Context, Waker};

use mpp_engine::question::{
    Answer, Block, Counted, Effect, History, IdentityKind, Key, Moment, Question, Shelf,
};
use mpp_hub::store::{Counts, Later, Store};
use mpp_stores::memory::MemoryStore;

pub(crate) const T0: u64 = 1_795_528_230_007;
pub(crate) const SECOND: u64 = 1_000;
pub(crate) const HOUR: u64 = 3_600 * SECOND;
pub(crate) const DAY: u64 = 24 * HOUR;
pub(crate) const SEED: u64 = 77;

/// A way to keep a store between two openings.
pub(crate) trait Backend {
    /// Opens it, as a process that starts would.
    fn open(&self) -> Arc<dyn Store>;

    /// Brings what is kept into its settled form, if the backend has one.
    fn compact(&self) {}
}

impl<S: Store + 'static> Backend for Arc<S> {
    fn open(&self) -> Arc<dyn Store> {
        self.clone()
    }
}

/// Runs every case, each on a backend of its own.
pub(crate) fn keeps_the_contract(name: &str, backend: impl Fn() -> Box<dyn Backend>) {
    for (case, run) in cases::ALL {
        let name = format!("{name}: {case}");
        let backend = backend();
        let store = backend.open();
        run(&mut Session { name: &name, backend: &*backend, store, now_ms: T0 });
    }
}

/// Waits for a store that does not answer at once.
pub(crate) fn wait_for(mut later: Later<'_>) {
    let mut context = Context::from_waker(Waker::noop());
    while later.as_mut().poll(&mut context).is_pending() {
        std::thread::yield_now();
    }
}

/// One backend under test.
pub(crate) struct Session<'b> {
    pub(crate) name: &'b str,
    pub(crate) backend: &'b dyn Backend,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) now_ms: u64,
}

impl Session<'_> {
    pub(crate) fn ask(&self, questions: &[Question]) -> Vec<Answer> {
        let mut answers = vec![Answer::Unavailable];
        let later = self.store.ask(self.now_ms, questions, &mut answers);
        later.into_iter().for_each(wait_for);
        assert_eq!(answers.len(), questions.len());
        answers
    }

    pub(crate) fn answer(&self, question: Question) -> Answer {
        self.ask(&[question])[0]
    }

    pub(crate) fn perform(&self, effect: Effect) {
        self.store.perform(self.now_ms, &[effect]);
    }

    pub(crate) fn since(&self, shelf: Shelf, key: Key) -> Option<Moment> {
        match self.answer(Question::Since { shelf, key }) {
            Answer::Since(moment) => moment,
            other => panic!("{other:?} from {}", self.name),
        }
    }

    pub(crate) fn counted(&self, question: Question) -> Counted {
        match self.answer(question) {
            Answer::Counted(counted) => counted,
            other => panic!("{other:?} from {}", self.name),
        }
    }

    pub(crate) fn used(&self, key: Key, per_ms: u64) -> u64 {
        self.counted(Question::Count { key, per_ms, amount: 0 }).used
    }

    pub(crate) fn blocked(&self, kind: IdentityKind, key: Key) -> Option<Block> {
        match self.answer(Question::Blocked { kind, key }) {
            Answer::Blocked(block) => block,
            other => panic!("{other:?} from {}", self.name),
        }
    }

    pub(crate) fn history(&self, key: Key) -> History {
        match self.answer(Question::History { key }) {
            Answer::History(history) => history,
            other => panic!("{other:?} from {}", self.name),
        }
    }

    pub(crate) fn restart(&mut self) {
        self.store.settle().unwrap();
        let gone = std::mem::replace(&mut self.store, Arc::new(MemoryStore::new(0)));
        drop(gone);
        self.store = self.backend.open();
    }

    /// A whole round over all that is held.
    pub(crate) fn expire(&self) -> u64 {
        let gone: u64 = (0..201).map(|_| self.store.expire(self.now_ms)).sum();
        // A server that others share is swept behind the scenes.
        self.store.settle().unwrap();
        let gone = gone + self.store.expire(self.now_ms);
        // And no sweep of this moment is left for later.
        self.store.settle().unwrap();
        gone
    }

    /// How much is held now.
    pub(crate) fn counts(&self) -> Counts {
        self.store.settle().unwrap();
        self.store.counts()
    }
}
