//! The embedded store: compact tables in memory, a journal and snapshots behind them.
//!
//! A decision touches memory only. What changed is appended to a buffer under the same lock, and a
//! thread of the store's own writes and syncs it every [`Options::commit_every`] (group commit). A
//! crash loses what came after the last group commit: 50 ms, and under load at most twice that.
//!
//! When the journal has grown, the thread writes a snapshot, shard by shard under the lock, while
//! decisions and group commits go on, and then drops the journals before it. If the disk fails the
//! store goes on from memory, says so, and writes a new snapshot as soon as the disk is back.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mpp_engine::question::{Answer, Effect, Question};
use mpp_hub::store::{BlockRow, Counts, Health, Later, Store, StoreError};

use crate::files::{Directory, Head};
use crate::journal::push_frame;
use crate::tables::Tables;

mod recovery;
mod snapshot;

/// Changes that wait for the disk at the most, in bytes; beyond it they are in memory only until
/// the next snapshot.
const PENDING_BYTES_MAX: usize = 32 << 20;
/// Calls of `expire` that one round over all tables takes: twenty seconds at ten a second.
const SWEEP_CALLS: usize = 200;
/// How often the thread thinks about a snapshot, or about a disk that failed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A journal below this is not worth a snapshot.
const JOURNAL_BYTES_LEAST: u64 = 4 << 20;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often changes are made durable.
    pub commit_every: Duration,
    /// Put damaged files aside and start with what can be read, instead of not starting.
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

#[derive(Debug)]
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    wake: Condvar,
    done: Condvar,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "four independent facts about one thread's work")]
pub(crate) struct Inner {
    tables: Tables,
    /// Records that are not on disk yet.
    pending: Vec<u8>,
    is_durable: bool,
    /// Changes were dropped from `pending`: only a snapshot makes up for it.
    lost: bool,
    /// Records up to this number are on disk.
    committed: u64,
    wanted: bool,
    stop: bool,
    trouble: Option<String>,
    disk_bytes: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a store in a directory, made if need be.
///
/// # Errors
/// The directory cannot be used, another process has it, or a file is damaged; the message says
/// what to do.
pub fn open(path: &Path, options: &Options) -> Result<Arc<EmbeddedStore>, StoreError> {
    let directory = Directory::open(path)?;
    let recovered = recovery::recover(&directory, options)?;
    let unusable = |error: io::Error| {
        StoreError::Unusable(format!("cannot write to the store {}: {error}", path.display()))
    };
    let head = Head { seed: recovered.seed, number: recovered.tables.records };
    let journal = directory.begin_journal(recovered.next_journal, head).map_err(unusable)?;
    let inner = Inner {
        committed: recovered.tables.records,
        tables: recovered.tables,
        is_durable: true,
        disk_bytes: directory.bytes().unwrap_or(0),
        ..Inner::default()
    };
    let shared =
        Arc::new(Shared { inner: Mutex::new(inner), wake: Condvar::new(), done: Condvar::new() });
    let mut writer = Writer {
        shared: Arc::clone(&shared),
        directory,
        journal,
        number: recovered.next_journal,
        seed: recovered.seed,
        every: options.commit_every,
        journal_bytes: recovered.journal_bytes,
        snapshot_bytes: recovered.snapshot_bytes,
        records: Vec::new(),
        frame: Vec::new(),
        is_degraded: false,
    };
    let thread = std::thread::Builder::new()
        .name("store".into())
        .spawn(move || writer.run())
        .map_err(unusable)?;
    let writer = Mutex::new(Some(thread));
    Ok(Arc::new(EmbeddedStore { shared, writer, seed: recovered.seed }))
}

impl EmbeddedStore {
    /// A store without a disk, for replays: the same tables, and nothing stays.
    pub fn in_memory(seed: u64) -> Arc<Self> {
        let shared = Arc::new(Shared {
            inner: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
        });
        Arc::new(Self { shared, writer: Mutex::new(None), seed })
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_all();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A writer that panicked has nothing left to say.
            let _ = writer.join();
        }
    }
}

impl Inner {
    /// The tables, and where their changes go.
    fn split(&mut self) -> (&mut Tables, Option<&mut Vec<u8>>) {
        if self.pending.len() > PENDING_BYTES_MAX {
            self.pending = Vec::new();
            self.lost = true;
            self.trouble.get_or_insert_with(|| "the disk does not keep up".into());
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
        let (tables, mut sink) = inner.split();
        tables.now_ms = tables.now_ms.max(now_ms);
        answers.extend(questions.iter().map(|question| tables.answer(now_ms, question, &mut sink)));
        None
    }

    fn perform(&self, now_ms: u64, effects: &[Effect]) {
        let mut inner = self.shared.lock();
        let (tables, mut sink) = inner.split();
        tables.now_ms = tables.now_ms.max(now_ms);
        for effect in effects {
            tables.perform(now_ms, effect, &mut sink);
        }
    }

    fn settle(&self) -> Result<(), StoreError> {
        let mut inner = self.shared.lock();
        if !inner.is_durable {
            return Ok(());
        }
        let wanted = inner.tables.records;
        while inner.committed < wanted {
            if let Some(trouble) = &inner.trouble {
                return Err(StoreError::Unusable(trouble.clone()));
            }
            inner.wanted = true;
            self.shared.wake.notify_all();
            inner = self.shared.done.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn blocks(&self, now_ms: u64, most: usize) -> Vec<BlockRow> {
        self.shared.lock().tables.list(now_ms, most)
    }

    fn expire(&self, now_ms: u64) -> u64 {
        self.shared.lock().tables.sweep(now_ms, SWEEP_CALLS)
    }

    fn counts(&self) -> Counts {
        let inner = self.shared.lock();
        Counts { disk_bytes: inner.disk_bytes, ..inner.tables.counts() }
    }

    fn health(&self) -> Health {
        match &self.shared.lock().trouble {
            None => Health::Good,
            Some(trouble) => Health::MemoryOnly(trouble.clone()),
        }
    }

    fn seed(&self) -> u64 {
        self.seed
    }
}

/// The thread that has the files.
struct Writer {
    shared: Arc<Shared>,
    directory: Directory,
    journal: File,
    number: u64,
    seed: u64,
    every: Duration,
    /// Bytes of all journals behind the newest snapshot, and of that.
    journal_bytes: u64,
    snapshot_bytes: u64,
    records: Vec<u8>,
    frame: Vec<u8>,
    is_degraded: bool,
}

impl Writer {
    fn run(&mut self) {
        let mut looked = Instant::now();
        loop {
            let stop = self.wait();
            if self.is_degraded {
                self.forget_pending();
            } else {
                self.commit();
            }
            if stop || looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                self.look(stop);
            }
            if stop {
                return;
            }
        }
    }

    /// Waits for the next group commit; whether it is the last.
    fn wait(&self) -> bool {
        let inner = self.shared.lock();
        let (mut inner, _) = self
            .shared
            .wake
            .wait_timeout_while(inner, self.every, |inner| !inner.wanted && !inner.stop)
            .unwrap_or_else(PoisonError::into_inner);
        inner.wanted = false;
        inner.stop
    }

    /// Makes the changes so far durable.
    fn commit(&mut self) {
        let number = {
            let mut inner = self.shared.lock();
            std::mem::swap(&mut self.records, &mut inner.pending);
            inner.tables.records
        };
        self.write_records(number);
    }

    fn write_records(&mut self, number: u64) {
        let mut written = Ok(());
        if !self.records.is_empty() {
            self.frame.clear();
            push_frame(&self.records, &mut self.frame);
            self.journal_bytes += self.frame.len() as u64;
            written = self.journal.write_all(&self.frame).and_then(|()| self.journal.sync_data());
        }
        let is_burst = self.records.capacity() > 1 << 20;
        self.records.clear();
        if is_burst {
            (self.records, self.frame) = (Vec::new(), Vec::new());
        }
        match written {
            Ok(()) => {
                let mut inner = self.shared.lock();
                if !inner.lost {
                    inner.committed = number;
                }
                inner.disk_bytes = self.journal_bytes + self.snapshot_bytes;
            }
            Err(error) => self.degrade(&error),
        }
        self.shared.done.notify_all();
    }

    /// The disk does not take it: on from memory.
    fn degrade(&mut self, error: &io::Error) {
        self.is_degraded = true;
        let mut inner = self.shared.lock();
        inner.lost = true;
        inner.trouble = Some(error.to_string());
        self.shared.done.notify_all();
    }

    fn forget_pending(&self) {
        let mut inner = self.shared.lock();
        inner.pending.clear();
        inner.lost = true;
        self.shared.done.notify_all();
    }

    /// Whether a snapshot is due, and if so makes one.
    fn look(&mut self, stop: bool) {
        let (lost, live_bytes) = {
            let inner = self.shared.lock();
            (inner.lost, snapshot::live_bytes(&inner.tables))
        };
        let disk_bytes = self.journal_bytes + self.snapshot_bytes;
        let is_grown = self.journal_bytes > self.snapshot_bytes.max(JOURNAL_BYTES_LEAST);
        let is_hollow = disk_bytes > live_bytes + live_bytes / 4 + JOURNAL_BYTES_LEAST / 4;
        // A stop does not wait for a snapshot unless something would be lost without it.
        if self.is_degraded || lost || (!stop && (is_grown || is_hollow)) {
            match self.write_snapshot() {
                Ok(()) => self.is_degraded = false,
                Err(error) => self.degrade(&error),
            }
        }
    }
}
