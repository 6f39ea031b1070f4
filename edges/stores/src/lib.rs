//! What is remembered between decisions.
//!
//! [`embedded`] is the store that needs nothing installed: compact tables in memory, and behind
//! them a journal and snapshots on disk. [`memory`] is the same contract in the plainest form, the
//! model that every backend is tested against.
//!
//! ```
//! use mpp_engine::question::{Answer, Effect, Key, Question, Shelf};
//! use mpp_hub::store::Store as _;
//! use mpp_stores::embedded::EmbeddedStore;
//!
//! let store = EmbeddedStore::in_memory(1);
//! let (shelf, key) = (Shelf::Greylisted, Key(7));
//! store.perform(1_000, &[Effect::Remember { shelf, key, keep_ms: 60_000, again: false, mark: 0 }]);
//! let mut answers = Vec::new();
//! assert!(store.ask(2_000, &[Question::Since { shelf, key }], &mut answers).is_none());
//! assert!(matches!(answers[0], Answer::Since(Some(moment)) if moment.at_ms == 1_000));
//! ```

mod disk;
pub mod embedded;
mod files;
mod frames;
mod held;
pub mod measure;
pub mod memory;
mod moments;
mod ordered;
mod part;
mod record;
pub mod redis;
pub mod shared;
pub mod sql;
mod tables;
mod tally;
pub mod transfer;
