//! What a server must do to be a store that several nodes share.

use std::future::Future;
use std::pin::Pin;

use mpp_engine::question::{Answer, Effect, Question};
use mpp_hub::store::Counts;

use crate::record::Record;

/// Something that has to be waited for.
pub(crate) type Waiting<'a, T> = Pin<Box<dyn Future<Output = Result<T, Trouble>> + Send + 'a>>;

/// Why a server did not do what it was asked. Whether it did it all the same is not known.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Trouble(pub(crate) String);

impl Trouble {
    /// Trouble in words for people, with what was being done.
    pub(crate) fn of(what: &str, error: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {error}"))
    }
}

/// The questions of one decision, or effects of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Job {
    /// When, by the clock of the store.
    pub(crate) now_ms: u64,
    /// What is asked. None is about blocks: every node has all of them.
    pub(crate) questions: Vec<Question>,
    /// What is to be done, in order.
    pub(crate) effects: Vec<Effect>,
}

/// What goes to the server in one trip.
#[derive(Debug)]
pub(crate) struct Batch<'b> {
    /// Whose it is: a number that a process draws when it starts.
    pub(crate) node: u64,
    /// Rises by one with each batch of a node. A server that has done a batch does not do it again.
    pub(crate) number: u64,
    /// What is to be done, in order.
    pub(crate) jobs: &'b [Job],
    /// What other nodes are to know of, besides what becomes of blocks.
    pub(crate) news: &'b [Record],
    /// Where the log was read to, if what has come since is to be told with the answers.
    pub(crate) since: Option<&'b Cursor>,
}

/// What a server says to a batch.
#[derive(Debug, Default)]
pub(crate) struct Exchanged {
    /// The answers of each job, in order. A batch that was done before has none.
    pub(crate) answers: Vec<Vec<Answer>>,
    /// Points in time that were asked for and found.
    pub(crate) seen: Vec<Record>,
    /// What the log had before the batch, if that was asked for.
    pub(crate) news: News,
}

/// Where a server's log of changes was read to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor(pub(crate) String);

/// What a server says of its log.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// What has changed, oldest first. The same may come more than once.
    pub(crate) records: Vec<Record>,
    /// Where to go on.
    pub(crate) cursor: Cursor,
    /// Something between may have been dropped already: everything must be read anew.
    pub(crate) has_gap: bool,
}

impl News {
    /// Whether blocks were made or ended.
    pub(crate) fn has_blocks(&self) -> bool {
        let is_block = |it: &Record| matches!(it, Record::Block { .. } | Record::Unblock { .. });
        self.records.iter().any(is_block)
    }
}

/// What kind of store the server holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The secret that keys are made with.
    pub(crate) seed: u64,
    /// Drawn when the store was made: another one is another store, or an empty one.
    pub(crate) epoch: u64,
    /// What time the server says it is, in milliseconds since 1970.
    pub(crate) server_ms: u64,
}

/// One connection to a shared store, or as many as it takes.
pub(crate) trait Remote: Send + Sync {
    /// Does a batch: in order, each job in one atomic step as far as the server can, and the whole
    /// batch once, however often it comes.
    fn exchange<'a>(&'a self, batch: &'a Batch<'a>) -> Waiting<'a, Exchanged>;

    /// What the store is. Makes it with these if there is none.
    fn meta(&self, seed: u64, epoch: u64) -> Waiting<'_, Meta>;

    /// What has changed since. From nowhere: nothing, and where the log ends.
    fn news(&self, since: Cursor) -> Waiting<'_, News>;

    /// A page of what every node should have: blocks, proven identities, correspondents; and what
    /// to ask for next, or nothing behind the last page.
    fn page(&self, from: u64, wanted: Wanted) -> Waiting<'_, (Vec<Record>, Option<u64>)>;

    /// Puts states in place as they are: what another store held. What every node has goes to the log
    /// as well.
    fn put(&self, records: Vec<Record>) -> Waiting<'_, ()>;

    /// Drops what has run out, a bounded piece from there on; says how much left and where to go on,
    /// 0 behind the end.
    fn sweep(&self, node: u64, now_ms: u64, from: u64) -> Waiting<'_, (u64, u64)>;

    /// A piece of how much is held, and where to go on: the sum of all pieces is all of it. Bytes are
    /// the server's, if it tells, and in one of the pieces.
    fn counts(&self, from: u64) -> Waiting<'_, (Counts, Option<u64>)>;
}

/// Which entries a page is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Blocks, proven identities and correspondents: what every node keeps.
    Dear,
    /// Everything.
    All,
}

/// How to reach a shared store.
pub(crate) trait Connector: Send + Sync {
    /// Connects.
    fn connect(&self) -> Waiting<'_, Box<dyn Remote>>;

    /// Where it is, for people; without a password.
    fn place(&self) -> String;
}
