//! Moving what one store holds to another, piece by piece, while both go on.

use std::sync::Arc;
use std::time::Duration;

use mpp_engine::question::{Answer, Key, Moment, Question, Shelf};
use mpp_hub::store::{Store as _, StoreError};
use tokio::runtime::Runtime;

use crate::embedded::EmbeddedStore;
use crate::moments::class_of;
use crate::record::{Bytes, Record};
use crate::shared::remote::{Batch, Connector, Job, Meta, Remote, Trouble, Wanted};

/// A request to a server may take so long.
const PATIENCE: Duration = Duration::from_mins(1);
/// Records that are written at once.
const AT_ONCE: usize = 500;

/// What one piece holds; only stores look into it.
#[derive(Clone, Debug, Default)]
pub struct Records(Vec<Record>);

impl Records {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What each is and since when, in milliseconds since 1970; 0 where that means nothing.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|record| match record {
            Record::Moment { shelf, moment, .. } => {
                let name = match shelf {
                    Shelf::Greylisted => "greylisted",
                    Shelf::Proven => "proven",
                    Shelf::Correspondent => "correspondents",
                    Shelf::Fault => "faults",
                    Shelf::Looked => "looked up",
                    Shelf::Delivered => "delivered",
                };
                (name, moment.at_ms)
            }
            Record::Block { block, .. } => ("blocks", block.since_ms),
            Record::Count { at_ms, .. } => ("counts", *at_ms),
            Record::Member { at_ms, .. } => ("members of sets", *at_ms),
            Record::Observe { .. } => ("histories", 0),
            Record::Forget { .. } | Record::Unblock { .. } | Record::GiveBack { .. } => ("", 0),
        })
    }

    /// Adds a point in time that is kept for so long.
    pub fn push_moment(&mut self, (shelf, key): (Shelf, Key), at_ms: u64, keep_ms: u64) {
        let moment = Moment { at_ms, tries: 0 };
        self.0.push(Record::Moment { shelf, key, moment, class: class_of(keep_ms) });
    }

    /// Whether they are first tries and identities that came back, and nothing else.
    pub fn is_greylist(&self) -> bool {
        self.0.iter().all(|record| {
            let Record::Moment { shelf, .. } = record else { return false };
            matches!(shelf, Shelf::Greylisted | Shelf::Proven)
        })
    }

    /// What to ask a store to know which of them it has.
    fn questions(&self) -> Vec<Question> {
        let question = |record: &Record| match record {
            Record::Moment { shelf, key, .. } => Some(Question::Since { shelf: *shelf, key: *key }),
            _ => None,
        };
        self.0.iter().filter_map(question).collect()
    }

    /// Those that say more than a store knows: a first try that was earlier, or an identity that was
    /// seen later.
    fn better_than(&self, answers: &[Answer]) -> Self {
        let is_better = |(record, answer): &(&Record, &Answer)| match (record, answer) {
            (Record::Moment { shelf, moment, .. }, Answer::Since(Some(known))) => match shelf {
                Shelf::Greylisted => moment.at_ms < known.at_ms,
                _ => moment.at_ms > known.at_ms,
            },
            (_, answer) => matches!(answer, Answer::Since(None)),
        };
        let better = self.0.iter().zip(answers).filter(is_better);
        Self(better.map(|(record, _)| record.clone()).collect())
    }

    /// All of them as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in &self.0 {
            record.push(&mut bytes);
        }
        bytes
    }

    /// Reads what [`Records::to_bytes`] wrote; nothing if it is not that.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(bytes);
        let mut records = Vec::new();
        while !bytes.0.is_empty() {
            records.push(Record::take(&mut bytes)?);
        }
        Some(Self(records))
    }
}

/// One piece of an embedded store, or nothing behind the last. Pieces are numbered from 0.
pub fn export(store: &EmbeddedStore, piece: usize, now_ms: u64) -> Option<Records> {
    store.records(piece, now_ms).map(Records)
}

/// Takes in what an embedded store does not know better; says how many that were.
pub(crate) fn import(store: &EmbeddedStore, records: &Records, now_ms: u64) -> u64 {
    let mut answers = Vec::new();
    // It answers at once.
    let _ = store.ask(now_ms, &records.questions(), &mut answers);
    let better = records.better_than(&answers);
    store.take_over(now_ms, &better.0);
    better.len() as u64
}

/// A store that is read from or written to.
pub enum Side {
    /// An embedded one that this process has open.
    Embedded(Arc<EmbeddedStore>),
    /// One on a server.
    Server(Box<Server>),
}

/// A server with what it takes to talk to it.
pub struct Server {
    runtime: Runtime,
    remote: Box<dyn Remote>,
    meta: Option<Meta>,
    /// Who asks, and how many batches of questions it has sent.
    node: u64,
    batches: u64,
}

impl Side {
    /// Reaches a server. A store that is not there yet is made with the secret of another one.
    ///
    /// # Errors
    /// It does not answer, or holds something else.
    pub(crate) fn connect(
        connector: &dyn Connector,
        seed: Option<u64>,
    ) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| StoreError::Unusable(error.to_string()))?;
        let remote = within(&runtime, async { connector.connect().await });
        let remote = remote.map_err(|why| at(&connector.place(), &why))?;
        let epoch = crate::embedded::recovery::draw_seed().unwrap_or(1);
        let meta = match seed {
            Some(seed) => {
                let meta = within(&runtime, async { remote.meta(seed, epoch).await });
                Some(meta.map_err(|why| at(&connector.place(), &why))?)
            }
            None => None,
        };
        let node = crate::embedded::recovery::draw_seed().unwrap_or(1);
        Ok(Self::Server(Box::new(Server { runtime, remote, meta, node, batches: 0 })))
    }

    /// The secret that its keys are made with.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn seed(&mut self) -> Result<u64, StoreError> {
        match self {
            Self::Embedded(store) => Ok(store.seed()),
            Self::Server(server) => {
                if let Some(meta) = &server.meta {
                    return Ok(meta.seed);
                }
                let drawn = || crate::embedded::recovery::draw_seed().unwrap_or(1);
                let meta =
                    within(&server.runtime, async { server.remote.meta(drawn(), drawn()).await });
                Ok(server.meta.insert(meta.map_err(|why| at("the server", &why))?).seed)
            }
        }
    }

    /// Reads a piece, and says what to read next: nothing behind the last.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn read(&self, from: u64, now_ms: u64) -> Result<(Records, Option<u64>), StoreError> {
        match self {
            Self::Embedded(store) => {
                let piece = usize::try_from(from).unwrap_or(usize::MAX);
                let records = export(store, piece, now_ms);
                let next = records.is_some().then_some(from + 1);
                Ok((records.unwrap_or_default(), next))
            }
            Self::Server(server) => {
                let read =
                    within(&server.runtime, async { server.remote.page(from, Wanted::All).await });
                let (records, next) = read.map_err(|why| at("reading", &why))?;
                Ok((Records(records), next))
            }
        }
    }

    /// Writes a piece.
    ///
    /// # Errors
    /// The server or the disk does not take it.
    pub fn write(&self, records: &Records, now_ms: u64) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => {
                store.take_over(now_ms, &records.0);
                store.settle()
            }
            Self::Server(server) => {
                for some in records.0.chunks(AT_ONCE) {
                    let written =
                        within(&server.runtime, async { server.remote.put(some.to_vec()).await });
                    written.map_err(|why| at("writing", &why))?;
                }
                Ok(())
            }
        }
    }

    /// Takes in what another greylist had, unless it is known better; says how many that were.
    ///
    /// # Errors
    /// The server or the disk does not take it.
    pub fn import(&mut self, records: &Records, now_ms: u64) -> Result<u64, StoreError> {
        let server = match self {
            Self::Embedded(store) => {
                let many = import(store, records, now_ms);
                return store.settle().map(|()| many);
            }
            Self::Server(server) => server,
        };
        let mut many = 0;
        for some in records.0.chunks(AT_ONCE) {
            let some = Records(some.to_vec());
            let jobs = [Job { now_ms, questions: some.questions(), effects: Vec::new() }];
            server.batches += 1;
            let (node, number) = (server.node, server.batches);
            let batch = Batch { node, number, jobs: &jobs, news: &[], since: None };
            let asked = within(&server.runtime, async { server.remote.exchange(&batch).await });
            let answers = asked.map_err(|why| at("reading", &why))?.answers;
            let better = some.better_than(answers.first().map_or(&[], Vec::as_slice));
            many += better.len() as u64;
            let written = within(&server.runtime, async { server.remote.put(better.0).await });
            written.map_err(|why| at("writing", &why))?;
        }
        Ok(many)
    }
}

fn within<T>(
    runtime: &Runtime,
    request: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    runtime.block_on(async {
        let answered = tokio::time::timeout(PATIENCE, request).await;
        answered.unwrap_or_else(|_| Err(Trouble("it does not answer".into())))
    })
}

fn at(place: &str, why: &Trouble) -> StoreError {
    StoreError::Unusable(format!("{place}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_better_is_left() {
        const DAY_MS: u64 = 86_400_000;
        let store = EmbeddedStore::in_memory(1);
        let (tried, proven) = ((Shelf::Greylisted, Key(7 << 40)), (Shelf::Proven, Key(9 << 40)));
        let import = |tried_ms, proven_ms| {
            let mut records = Records::default();
            records.push_moment(tried, tried_ms, 2 * DAY_MS);
            records.push_moment(proven, proven_ms, 35 * DAY_MS);
            store.import(&records.to_bytes(), 9_000).unwrap()
        };
        let known = |(shelf, key), now_ms| {
            let mut answers = Vec::new();
            assert!(store.ask(now_ms, &[Question::Since { shelf, key }], &mut answers).is_none());
            match answers.first() {
                Some(Answer::Since(moment)) => moment.map(|moment| moment.at_ms),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(import(5_000, 5_000), 2);
        assert_eq!(import(6_000, 4_000), 0, "a later first try, an earlier last time");
        assert_eq!((known(tried, 9_000), known(proven, 9_000)), (Some(5_000), Some(5_000)));
        assert_eq!(import(4_000, 6_000), 2);
        assert_eq!((known(tried, 9_000), known(proven, 9_000)), (Some(4_000), Some(6_000)));
        assert_eq!(known(tried, 3 * DAY_MS), None, "it ends as others do");
        assert!(known(proven, 34 * DAY_MS).is_some());
        assert!(store.import(b"something else", 9_000).is_err());
    }
}
