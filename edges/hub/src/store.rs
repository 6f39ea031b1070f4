//! The store, in the words of the domain: ask, perform, list, expire, count. Never get and put.

use std::future::Future;
use std::pin::Pin;

use mpp_engine::question::{Answer, Block, Effect, IdentityKind, Key, Question, Shelf, Subject};

/// An answer that has to be waited for.
pub type Later<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What is remembered between decisions.
///
/// Every backend keeps the same contract and passes the same suite
/// (`edges/stores/tests/conformance`). Time is an argument: a store has no clock of its own for
/// anything that a decision can see, and an entry is judged at the `now_ms` of the question, so an
/// entry that has run out is never seen even if nothing has swept it yet.
pub trait Store: Send + Sync {
    /// Answers all questions of one decision in one atomic step: no other decision's questions or
    /// effects fall between them. `answers` is emptied, then holds one answer a question, in order.
    /// A store on a server may be weaker: each question is atomic, and what is only read may be a
    /// moment older than what is counted.
    ///
    /// Returns `None` if the answers are there already, as with a store in memory; else what to
    /// await. A store that cannot answer gives [`Answer::Unavailable`].
    fn ask<'a>(
        &'a self,
        now_ms: u64,
        questions: &'a [Question],
        answers: &'a mut Vec<Answer>,
    ) -> Option<Later<'a>>;

    /// Performs effects in order. Returns at once; a durable store has them on disk after its
    /// group commit (at most 100 ms), or earlier after [`Store::settle`].
    fn perform(&self, now_ms: u64, effects: &[Effect]);

    /// Returns when all that was performed before is as durable as it will be. Blocks.
    ///
    /// # Errors
    /// The disk or server does not take it; the store goes on from memory.
    fn settle(&self) -> Result<(), StoreError>;

    /// The blocks that hold at `now_ms`, at most `most` of them, soonest to end first.
    fn blocks(&self, now_ms: u64, most: usize) -> Vec<BlockRow>;

    /// Drops what has run out, a bounded piece a call so that no decision waits for it; call it
    /// often (ten times a second). Returns how many entries left.
    fn expire(&self, now_ms: u64) -> u64;

    /// How much is held.
    fn counts(&self) -> Counts;

    /// Whether what is performed becomes durable at the moment.
    fn health(&self) -> Health;

    /// The secret with which keys of this store are made. It is drawn once, when the store is
    /// made, and stays with it.
    fn seed(&self) -> u64;

    /// A piece of what is held, for another store, in a form that only stores know; nothing behind the
    /// last piece. Pieces are numbered from 0. A store that can be read by whoever wants to has none.
    fn export(&self, piece: u64, now_ms: u64) -> Option<Vec<u8>> {
        let _ = (piece, now_ms);
        None
    }

    /// Where state is kept, for people.
    fn place(&self) -> String {
        "this node".into()
    }

    /// What else there is to count, by name: of the server that nodes share, if there is one.
    fn figures(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// A block for people to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRow {
    /// What kind of identity.
    pub kind: IdentityKind,
    /// Which one.
    pub key: Key,
    /// The same for people.
    pub subject: Subject,
    /// Since when, until when, how often, why.
    pub block: Block,
}

/// How much a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries on each shelf, in the order of [`Shelf::ALL`]; some may have run out already.
    pub shelves: [u64; Shelf::ALL.len()],
    /// Blocks, the remembered strikes of ended ones included.
    pub blocks: u64,
    /// Sliding counts, distinct sets.
    pub tallies: u64,
    /// Histories of identities.
    pub histories: u64,
    /// Bytes on disk; 0 if there is none.
    pub disk_bytes: u64,
    /// Bytes of memory that entries take.
    pub memory_bytes: u64,
}

/// Whether a store does what it promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Good,
    /// It goes on from memory; the text says why and since when nothing became durable.
    MemoryOnly(String),
    /// The server that nodes share is away, and this node goes on alone; the text says why and since
    /// when.
    Alone(String),
}

/// Why a store does not open, or does not take what it was given.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or a file in it cannot be used; the message names it and says what to do.
    #[error("{0}")]
    Unusable(String),
    /// Another process has it open.
    #[error("the store {0} is in use by another mpp")]
    Locked(String),
    /// A file is damaged in a way that a crash cannot explain.
    #[error("the store file {file} is damaged at byte {offset}: {what}")]
    Damaged {
        /// Which file.
        file: String,
        /// Where.
        offset: u64,
        /// What does not fit.
        what: String,
    },
}
