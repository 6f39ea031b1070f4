//! The embedded store: compact tables in memory, a journal and snapshots behind them.
//!
//! A decision touches memory only. What changed is appended to a buffer under the same lock, and a
//! thread of the store's own writes and syncs it every [`Options::commit_every`] (group commit). A
//! crash loses what came after the last group commit: 50 ms and the time of one write.
//!
//! When the journal has grown, the thread writes a snapshot, piece by piece under the lock, while
//! decisions and group commits go on, and then drops the journals before it. If the disk fails the
//! store goes on from memory and says so; when the disk is back it writes what waited, or a new
//! snapshot if that had become too much.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mpp_engine::question::{Answer, Effect, Key, Moment, Question, Shelf};
use mpp_hub::store::{BlockRow, Counts, Health, Later, Store, StoreError};

use self::writer::Writer;
use crate::disk::{Disk, RealDisk};
use crate::files::{Directory, unusable};
use crate::record::Record;
use crate::tables::Tables;
use crate::transfer;

pub(crate) mod recovery;
mod snapshot;
mod writer;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod script;

/// Changes that wait for the disk at the most, in bytes: a million first tries. Beyond it they are
/// in memory only until the next snapshot.
const PENDING_BYTES_MAX: usize = if cfg!(test) { 8 << 10 } else { 16 << 20 };
/// Calls of `expire` that one round over all tables takes: ten seconds at ten a second.
const SWEEP_CALLS: usize = 100;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often changes are made durable.
    pub commit_every: Duration,
    /// Keep damaged files aside and start with what can be read of them, instead of not starting.
    pub set_aside_damaged: bool,
    /// The secret of a new store, for tests; else it is drawn.
    pub seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { commit_every: Duration::from_millis(50), set_aside_damaged: false, seed: None }
    }
}

/// The embedded store.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    seed: u64,
}

/// What decisions and the writer share.
#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Inner>,
    /// Wakes the writer.
    wake: Condvar,
    /// Wakes those who wait for a group commit.
    done: Condvar,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts about one thread's work")]
struct Inner {
    tables: Tables,
    /// The time of the latest question or effect.
    now_ms: u64,
    /// Whether anybody writes what is pending.
    is_durable: bool,
    /// Records that the writer has not taken yet.
    pending: Vec<u8>,
    /// Changes were dropped from `pending`: only a snapshot makes up for it.
    lost: bool,
    /// Changes were dropped, and no snapshot since is finished.
    has_gap: bool,
    /// Records up to this number are on disk.
    committed: u64,
    /// The writer sleeps until there is something to write.
    is_idle: bool,
    /// Somebody waits for a group commit.
    wanted: bool,
    /// Somebody waits for a snapshot.
    wants_snapshot: bool,
    /// Snapshots that were tried so far, and why the last one failed if it did.
    snapshots: u64,
    snapshot_trouble: Option<String>,
    stop: bool,
    trouble: Option<Trouble>,
    disk_bytes: u64,
}

/// What keeps changes from becoming durable.
#[derive(Clone, Debug)]
struct Trouble {
    why: String,
    since: Instant,
}

impl Trouble {
    fn new(why: String) -> Self {
        Self { why, since: Instant::now() }
    }

    fn text(&self) -> String {
        let seconds = self.since.elapsed().as_secs();
        format!("{}; nothing has become durable for {seconds} s", self.why)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a change: the writer hears of it if it sleeps.
    fn release(&self, mut inner: MutexGuard<'_, Inner>) {
        let wakes = inner.is_idle && !inner.pending.is_empty();
        if wakes {
            inner.is_idle = false;
        }
        drop(inner);
        if wakes {
            self.wake.notify_one();
        }
    }
}

/// Tells everybody if the writer ends when it should not: nobody may wait for it for ever.
struct Watch(Arc<Shared>);

impl Drop for Watch {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        if std::mem::take(&mut inner.is_durable) {
            inner.pending = Vec::new();
            inner.trouble = Some(Trouble::new("the store's writer has stopped by a fault".into()));
        }
        drop(inner);
        self.0.done.notify_all();
    }
}

/// Opens a store in a directory, made if need be.
///
/// # Errors
/// The directory cannot be used, another process has it, or a file is damaged; the message says
/// what to do.
pub fn open(path: &Path, options: &Options) -> Result<Arc<EmbeddedStore>, StoreError> {
    open_on(Arc::new(RealDisk), path, options)
}

fn open_on(
    disk: Arc<dyn Disk>,
    path: &Path,
    options: &Options,
) -> Result<Arc<EmbeddedStore>, StoreError> {
    let directory = Directory::open(path, disk)?;
    let mut recovered = recovery::recover(&directory, options)?;
    let inner = Inner {
        committed: recovered.tables.records,
        tables: std::mem::take(&mut recovered.tables),
        is_durable: true,
        ..Inner::default()
    };
    let shared = Arc::new(Shared { inner: Mutex::new(inner), ..Shared::default() });
    let seed = recovered.seed;
    let refused = |error: io::Error| unusable(path, "write to", &error);
    let mut writer = Writer::new(Arc::clone(&shared), directory, options.commit_every, &recovered)
        .map_err(refused)?;
    let watch = Watch(Arc::clone(&shared));
    let thread = std::thread::Builder::new()
        .name("store".into())
        .spawn(move || {
            let _watch = watch;
            writer.run();
        })
        .map_err(refused)?;
    let writer = Mutex::new(Some(thread));
    Ok(Arc::new(EmbeddedStore { shared, writer, seed }))
}

impl EmbeddedStore {
    /// A store without a disk, for replays: the same tables, and nothing stays.
    pub fn in_memory(seed: u64) -> Arc<Self> {
        let shared = Arc::default();
        Arc::new(Self { shared, writer: Mutex::new(None), seed })
    }

    /// Writes a snapshot now instead of when the files have grown. Blocks.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn compact(&self) -> Result<(), StoreError> {
        let mut inner = self.shared.lock();
        let before = inner.snapshots;
        inner.wants_snapshot = true;
        while inner.is_durable && inner.snapshots == before {
            self.shared.wake.notify_all();
            inner = self.shared.done.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.snapshot_trouble.clone().map_or(Ok(()), |why| Err(StoreError::Unusable(why)))
    }

    /// Takes over what another store says, in one step.
    pub(crate) fn take_over(&self, now_ms: u64, records: &[Record]) {
        let mut inner = self.shared.lock();
        let (tables, mut sink) = inner.split();
        for record in records {
            tables.take_over(now_ms, record.clone(), &mut sink);
        }
        self.shared.release(inner);
    }

    /// One piece of everything as records, or nothing behind the last.
    pub(crate) fn records(&self, piece: usize, now_ms: u64) -> Option<Vec<Record>> {
        self.shared.lock().tables.export(piece, now_ms)
    }

    /// When a key was noted, if that holds.
    pub(crate) fn noted(&self, now_ms: u64, shelf: Shelf, key: Key) -> Option<Moment> {
        self.shared.lock().tables.noted(now_ms, shelf, key)
    }

    /// Whether noting a moment is news to others: it is new, or a sixteenth of its time later.
    pub(crate) fn is_news(
        &self,
        (shelf, key): (Shelf, Key),
        again: bool,
        (now_ms, keep_ms): (u64, u64),
    ) -> bool {
        match self.noted(now_ms, shelf, key) {
            None => true,
            Some(known) => again && now_ms.abs_diff(known.at_ms) > keep_ms / 16,
        }
    }

    /// The time of the latest question or effect.
    pub(crate) fn latest_ms(&self) -> u64 {
        self.shared.lock().now_ms
    }

    /// Makes all that was performed durable and ends the writer; what is performed later stays in
    /// memory. Blocks. Dropping the store does the same.
    pub fn close(&self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_all();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A writer that panicked has nothing left to say.
            let _ = writer.join();
        }
        self.shared.done.notify_all();
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    /// Whether somebody waits for the writer.
    fn is_urgent(&self) -> bool {
        self.wanted || self.wants_snapshot || self.stop
    }

    /// Gives up writing changes one by one: the next snapshot has them all.
    fn lose(&mut self) {
        self.pending = Vec::new();
        self.lost = true;
        self.has_gap = true;
    }

    /// The tables, and where their changes go.
    fn split(&mut self) -> (&mut Tables, Option<&mut Vec<u8>>) {
        if self.pending.len() > PENDING_BYTES_MAX {
            self.lose();
            self.trouble.get_or_insert_with(|| Trouble::new("the disk does not keep up".into()));
        }
        let takes_changes = self.is_durable && !self.lost;
        (&mut self.tables, takes_changes.then_some(&mut self.pending))
    }
}

impl Store for EmbeddedStore {
    fn ask<'a>(
        &'a self,
        now_ms: u64,
        questions: &'a [Question],
        answers: &'a mut Vec<Answer>,
    ) -> Option<Later<'a>> {
        answers.clear();
        let mut inner = self.shared.lock();
        inner.now_ms = now_ms;
        let (tables, mut sink) = inner.split();
        answers.extend(questions.iter().map(|question| tables.answer(now_ms, question, &mut sink)));
        self.shared.release(inner);
        None
    }

    fn perform(&self, now_ms: u64, effects: &[Effect]) {
        let mut inner = self.shared.lock();
        inner.now_ms = now_ms;
        let (tables, mut sink) = inner.split();
        for effect in effects {
            tables.perform(now_ms, effect, &mut sink);
        }
        self.shared.release(inner);
    }

    fn settle(&self) -> Result<(), StoreError> {
        let mut inner = self.shared.lock();
        let wanted = inner.tables.records;
        while inner.is_durable && (inner.committed < wanted || inner.has_gap) {
            if let Some(trouble) = &inner.trouble {
                return Err(StoreError::Unusable(trouble.text()));
            }
            inner.wanted = true;
            self.shared.wake.notify_all();
            inner = self.shared.done.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        match &inner.trouble {
            Some(trouble) if !inner.is_durable => Err(StoreError::Unusable(trouble.text())),
            _ => Ok(()),
        }
    }

    fn blocks(&self, now_ms: u64, most: usize) -> Vec<BlockRow> {
        let mut ends = Vec::new();
        let mut part = 0;
        // Part by part, so that a long list keeps no decision waiting.
        while let Some(held) = self.shared.lock().tables.block_ends(part, now_ms) {
            ends.extend(held);
            part += 1;
        }
        ends.sort_unstable_by_key(|(until_ms, _, key)| (*until_ms, *key));
        ends.truncate(most);
        let row = |(_, kind, key)| self.shared.lock().tables.block_row(kind, key);
        ends.into_iter().filter_map(row).collect()
    }

    fn expire(&self, now_ms: u64) -> u64 {
        let pieces = self.shared.lock().tables.pieces().div_ceil(SWEEP_CALLS);
        (0..pieces).map(|_| self.shared.lock().tables.sweep(now_ms)).sum()
    }

    fn counts(&self) -> Counts {
        let inner = self.shared.lock();
        Counts { disk_bytes: inner.disk_bytes, ..inner.tables.counts() }
    }

    fn health(&self) -> Health {
        match &self.shared.lock().trouble {
            None => Health::Good,
            Some(trouble) => Health::MemoryOnly(trouble.text()),
        }
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn export(&self, piece: u64, now_ms: u64) -> Option<Vec<u8>> {
        let piece = usize::try_from(piece).unwrap_or(usize::MAX);
        transfer::export(self, piece, now_ms).map(|records| records.to_bytes())
    }

    fn import(&self, records: &[u8], now_ms: u64) -> Result<u64, StoreError> {
        let records = transfer::Records::from_bytes(records).filter(transfer::Records::is_greylist);
        let strange = || StoreError::Unusable("these are no records of a greylist".into());
        Ok(transfer::import(self, &records.ok_or_else(strange)?, now_ms))
    }
}
