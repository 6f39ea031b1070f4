//! For tests: a fixed history of changes, and what a store must say after each prefix of it.
//!
//! Each operation makes exactly one record, so the number of records that a store came back with is
//! the length of the prefix that it must equal.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use mpp_engine::question::{
    Answer, BlockReason, Effect, IdentityKind, Key, Lesson, NewBlock, Question, Shelf, Subject,
};
use mpp_hub::store::Store;

use super::{EmbeddedStore, Options};
use crate::tables::Tables;

pub(super) const T0: u64 = 1_795_528_230_007;
pub(super) const SEED: u64 = 77;
const KEYS: u64 = 16;
const HOUR_MS: u64 = 3_600_000;

pub(super) fn options() -> Options {
    Options { seed: Some(SEED), ..Options::default() }
}

fn key(number: u64) -> Key {
    Key((number % KEYS + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn kind(number: u64) -> IdentityKind {
    if number.is_multiple_of(2) { IdentityKind::Client } else { IdentityKind::SenderDomain }
}

/// Performs operation `number` of the history.
pub(super) fn perform(store: &dyn Store, number: u64) {
    let now_ms = T0 + number * 1_000;
    let key = key(number * 7 + number / 5);
    let keep_ms = HOUR_MS;
    let effect = match number % 8 {
        0 | 5 => Effect::Remember { shelf: Shelf::Greylisted, key, keep_ms, again: true, mark: 0 },
        1 => Effect::Remember { shelf: Shelf::Proven, key, keep_ms, again: true, mark: 0 },
        2 => {
            let question = Question::Count { key, per_ms: HOUR_MS, amount: 1 };
            assert!(store.ask(now_ms, &[question], &mut Vec::new()).is_none());
            return;
        }
        3 => Effect::Observe { key, lesson: Lesson::Spam, weight: 1.0 },
        4 => Effect::Block(NewBlock {
            kind: kind(number / 8),
            key,
            subject: Subject::Name(format!("number {number}").into()),
            reason: BlockReason::Trap,
            for_ms: HOUR_MS,
            grow: 1.0,
            up_to_ms: HOUR_MS,
        }),
        6 => Effect::Unblock { kind: kind(number / 8), key },
        _ => Effect::GiveBack { key, at_ms: now_ms - 5_000, amount: 1 },
    };
    store.perform(now_ms, &[effect]);
}

fn questions() -> Vec<Question> {
    let mut questions = Vec::new();
    for key in (0..KEYS).map(key) {
        questions.extend(Shelf::ALL.map(|shelf| Question::Since { shelf, key }));
        questions.extend([0, 1].map(|number| Question::Blocked { kind: kind(number), key }));
        questions.push(Question::Count { key, per_ms: HOUR_MS, amount: 0 });
        questions.push(Question::History { key });
    }
    questions
}

/// All that a store says.
pub(super) fn state(store: &dyn Store) -> Vec<Answer> {
    let mut answers = Vec::new();
    assert!(store.ask(T0 + 3_000_000, &questions(), &mut answers).is_none());
    answers
}

/// The same of tables.
pub(super) fn state_of(tables: &mut Tables) -> Vec<Answer> {
    let now_ms = T0 + 3_000_000;
    questions().iter().map(|question| tables.answer(now_ms, question, &mut None)).collect()
}

/// What a store must say after each prefix of the history; the first is that of no operation.
pub(super) struct Oracle(Vec<Vec<Answer>>);

impl Oracle {
    pub(super) fn new(length: u64) -> Self {
        let store = EmbeddedStore::in_memory(SEED);
        let mut states = vec![state(&*store)];
        for number in 0..length {
            perform(&*store, number);
            states.push(state(&*store));
            assert_eq!(records(&store), number + 1, "one record an operation");
        }
        Self(states)
    }

    /// The state after so many operations.
    pub(super) fn state(&self, length: u64) -> &Vec<Answer> {
        &self.0[usize::try_from(length).unwrap()]
    }

    /// Holds tables against the prefix that they say they have; returns its length.
    pub(super) fn check(&self, tables: &mut Tables, context: &str) -> u64 {
        let length = tables.records;
        let wanted = self.state(length);
        assert!(state_of(tables) == *wanted, "not the state after {length} records: {context}");
        length
    }
}

/// Records that a store has made.
pub(super) fn records(store: &Arc<EmbeddedStore>) -> u64 {
    store.shared.lock().tables.records
}

/// Copies the files of a store; its subdirectories are left out.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
