//! MariaDB, MySQL or PostgreSQL as a store that nodes share.
//!
//! A batch of decisions is one transaction: it takes the row that all batches take, reads every cell
//! that the batch touches, reckons here what becomes of them, and writes what has changed, each in a
//! statement for many. So batches of all nodes come one after the other, and the busier a node is, the
//! more of its decisions share one. A batch that changes nothing reads a snapshot and takes no row.
//!
//! First tries, which nearly all entries are, lie in a table for all that end within the same half-day
//! (or some days, if they are kept long). Such a table is dropped when its time is over; no first try is
//! ever deleted.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mpp_config::store::Sql as Settings;
use mpp_hub::store::{Counts, StoreError};
use tokio::sync::Mutex;

use self::link::Link;
use self::state::State;
use crate::record::Record;
use crate::shared::remote::{
    Batch, Connector, Cursor, Exchanged, Meta, News, Remote, Trouble, Waiting, Wanted,
};
use crate::shared::{self, Options, SharedStore};
use crate::transfer::Side;

mod board;
mod link;
mod mysql;
mod names;
mod page;
mod postgres;
mod schema;
mod state;
mod sweep;
mod work;

pub use self::board::board;

/// A node asks for news all the time: of one that says nothing for so many seconds its machine hangs,
/// perhaps in the middle of a batch.
const IDLE_S: u32 = 5;
/// Whoever copies may have to wait for the other side.
const SIDE_IDLE_S: u32 = 60;

/// Opens a store in a database.
///
/// # Errors
/// Neither the server answers nor is there a copy of the store on this node.
pub fn open(settings: &Settings, options: &Options) -> Result<Arc<SharedStore>, StoreError> {
    // Who sweeps all the time wants all to be gone that has run out.
    let is_thorough = options.sweep_every.is_zero();
    let place = Place { settings: settings.clone(), is_thorough, idle_s: IDLE_S };
    shared::open(Arc::new(place), options)
}

/// One side of moving a store to or from a database.
///
/// # Errors
/// It does not answer, or holds something else.
pub fn side(settings: &Settings, seed: Option<u64>) -> Result<Side, StoreError> {
    let idle_s = SIDE_IDLE_S;
    Side::connect(&Place { settings: settings.clone(), is_thorough: false, idle_s }, seed)
}

/// Drops all tables of a store.
///
/// # Errors
/// The server does not answer, or does not let it.
pub fn remove(settings: &Settings) -> Result<(), StoreError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| StoreError::Unusable(error.to_string()))?;
    let removed = runtime.block_on(async {
        let mut link = Link::open(settings, IDLE_S).await?;
        schema::drop_all(&mut link, &settings.prefix).await?;
        Ok::<_, Trouble>(())
    });
    removed.map_err(|trouble| StoreError::Unusable(trouble.to_string()))
}

/// How to reach it.
struct Place {
    settings: Settings,
    is_thorough: bool,
    idle_s: u32,
}

impl Connector for Place {
    fn connect(&self) -> Waiting<'_, Box<dyn Remote>> {
        Box::pin(async {
            let link = Link::open(&self.settings, self.idle_s).await?;
            let state = State::new(link, &self.settings.prefix);
            Ok(Box::new(Server {
                state: Mutex::new(state),
                settings: self.settings.clone(),
                is_thorough: self.is_thorough,
                drops: Arc::new(AtomicBool::new(false)),
            }) as Box<dyn Remote>)
        })
    }

    fn place(&self) -> String {
        let servers = self.settings.servers.iter().map(ToString::to_string);
        let engine = self.settings.servers.first().map_or("sql", |it| it.engine.name());
        format!("{engine} {}", servers.collect::<Vec<_>>().join(", "))
    }
}

/// A database that is connected.
struct Server {
    state: Mutex<State>,
    settings: Settings,
    is_thorough: bool,
    /// Tables are being dropped, on a connection of their own.
    drops: Arc<AtomicBool>,
}

impl Remote for Server {
    fn exchange<'a>(&'a self, batch: &'a Batch<'a>) -> Waiting<'a, Exchanged> {
        Box::pin(async move { self.state.lock().await.exchange(batch).await })
    }

    fn meta(&self, seed: u64, epoch: u64) -> Waiting<'_, Meta> {
        Box::pin(async move { self.state.lock().await.meta(seed, epoch).await })
    }

    fn news(&self, since: Cursor) -> Waiting<'_, News> {
        Box::pin(async move { self.state.lock().await.news(since).await })
    }

    fn page(&self, from: u64, wanted: Wanted) -> Waiting<'_, (Vec<Record>, Option<u64>)> {
        Box::pin(async move { self.state.lock().await.page(from, wanted).await })
    }

    fn put(&self, records: Vec<Record>) -> Waiting<'_, ()> {
        Box::pin(async move { self.state.lock().await.put(&records).await })
    }

    fn sweep(&self, node: u64, now_ms: u64, from: u64) -> Waiting<'_, (u64, u64)> {
        Box::pin(self.sweep_some(node, now_ms, from))
    }

    fn counts(&self, _from: u64) -> Waiting<'_, (Counts, Option<u64>)> {
        // The sums are kept with every change: all of it is one piece.
        Box::pin(async move { Ok((self.state.lock().await.counts().await?, None)) })
    }
}
