//! The thread that has the files: group commits, and what happens when the disk fails.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::recovery::Recovered;
use super::{Shared, Trouble};
use crate::files::{Directory, Output};
use crate::frames::Head;

/// How often the thread thinks about a snapshot.
const LOOK_EVERY: Duration = pace(Duration::from_secs(1));
/// The same while nothing is written and nothing is wrong: nobody is woken up for nothing.
const LOOK_EVERY_IDLE: Duration = pace(Duration::from_secs(10));
/// After a failure the disk is tried again after this time, then after twice as long, and so on.
const RETRY_FIRST: Duration = pace(Duration::from_millis(500));
/// But at least this often.
const RETRY_MOST: Duration = pace(Duration::from_secs(5));
/// A journal below this is not worth a snapshot.
const JOURNAL_BYTES_LEAST: u64 = 4 << 20;
/// Files that are hollow by less than this are not worth one either.
const HOLLOW_BYTES_LEAST: u64 = 256 << 10;
/// A journal above this is read slowly enough to be worth a snapshot before a stop.
const STOP_JOURNAL_BYTES: u64 = 8 << 20;
/// Time between two snapshots that only save room.
const HOLLOW_EVERY: Duration = Duration::from_secs(10);
/// Time before the next snapshot after one failed while the journal can still be written.
const SNAPSHOT_RETRY: Duration = pace(Duration::from_mins(1));
/// A buffer above this is given back after a burst.
const BUFFER_KEEP: usize = 4 << 20;

/// Tests do not wait that long.
const fn pace(real: Duration) -> Duration {
    if cfg!(test) { Duration::from_millis(10) } else { real }
}

#[allow(clippy::struct_excessive_bools, reason = "independent facts about the files")]
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) directory: Directory,
    pub(super) seed: u64,
    every: Duration,
    pub(super) journal: Output,
    /// The number of the journal.
    pub(super) number: u64,
    /// Whether the journal has anything in it that counts.
    pub(super) is_used: bool,
    /// Records that were taken from `pending`, and the number of the last of them.
    pub(super) records: Vec<u8>,
    pub(super) taken: u64,
    /// When that was.
    taken_at: Instant,
    /// Records up to this number are on disk.
    pub(super) committed: u64,
    /// Bytes of the newest snapshot, and of all files but the journal.
    pub(super) snapshot_bytes: u64,
    pub(super) other_bytes: u64,
    /// How many times larger than expected the last snapshot was.
    pub(super) scale: f64,
    /// The next snapshot is due whatever the sizes say.
    pub(super) wants_snapshot: bool,
    not_before: Instant,
    snapshot_failed: bool,
    /// Somebody waits for a snapshot.
    was_asked: bool,
    /// When to try a disk again that failed, and how long to wait after that.
    retry_at: Option<Instant>,
    pause: Duration,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        directory: Directory,
        every: Duration,
        recovered: &Recovered,
    ) -> io::Result<Self> {
        let committed = shared.lock().committed;
        let number = recovered.next_number;
        let head = Head {
            seed: recovered.seed,
            number,
            records: committed,
            has_gap: recovered.wants_snapshot,
        };
        let journal = directory.begin_journal(head)?;
        // The new one has their seed.
        recovered.empty.iter().for_each(|number| directory.drop_journal(*number));
        shared.lock().disk_bytes = recovered.bytes + journal.bytes();
        Ok(Self {
            shared,
            directory,
            seed: recovered.seed,
            every,
            journal,
            number,
            is_used: false,
            records: Vec::new(),
            taken: committed,
            taken_at: Instant::now(),
            committed,
            snapshot_bytes: recovered.snapshot_bytes,
            other_bytes: recovered.bytes,
            scale: 1.0,
            wants_snapshot: recovered.wants_snapshot,
            not_before: Instant::now(),
            snapshot_failed: false,
            was_asked: false,
            retry_at: None,
            pause: RETRY_FIRST,
        })
    }

    /// Works until the store is closed.
    pub(super) fn run(&mut self) {
        let mut looked = None::<Instant>;
        loop {
            let stop = self.wait();
            match self.retry_at {
                None => self.commit(),
                Some(at) if stop || Instant::now() >= at => self.try_again(),
                Some(_) => {}
            }
            if stop || self.was_asked || looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                looked = Some(Instant::now());
                self.look(stop);
            }
            if stop {
                let mut inner = self.shared.lock();
                inner.is_durable = false;
                inner.pending = Vec::new();
                self.shared.done.notify_all();
                return;
            }
        }
    }

    /// Waits for something to write, and then until the next group commit is due. Whether it is the
    /// last.
    fn wait(&mut self) -> bool {
        let mut inner = self.shared.lock();
        if inner.pending.is_empty() && !inner.is_urgent() {
            let has_work =
                self.retry_at.is_some() || self.wants_snapshot || !self.records.is_empty();
            let every = if has_work { LOOK_EVERY } else { LOOK_EVERY_IDLE };
            inner.is_idle = true;
            (inner, _) = self
                .shared
                .wake
                .wait_timeout_while(inner, every, |inner| inner.is_idle && !inner.is_urgent())
                .unwrap_or_else(PoisonError::into_inner);
            inner.is_idle = false;
        }
        if !inner.pending.is_empty() {
            // Counted from when the last group was taken: what came while a slow disk was busy has
            // waited for that long already.
            let left = self.every.saturating_sub(self.taken_at.elapsed());
            (inner, _) = self
                .shared
                .wake
                .wait_timeout_while(inner, left, |inner| !inner.is_urgent())
                .unwrap_or_else(PoisonError::into_inner);
        }
        inner.wanted = false;
        self.was_asked = std::mem::take(&mut inner.wants_snapshot);
        inner.stop
    }

    /// Makes the changes so far durable. What cannot be written stays with the writer.
    pub(super) fn commit(&mut self) {
        {
            let mut inner = self.shared.lock();
            if inner.lost {
                // Too much to keep: a snapshot comes instead.
                self.wants_snapshot = true;
                return;
            }
            if self.records.is_empty() {
                std::mem::swap(&mut self.records, &mut inner.pending);
            } else {
                self.records.append(&mut inner.pending);
            }
            self.taken = inner.tables.records;
            self.taken_at = Instant::now();
        }
        if !self.records.is_empty() {
            let written = self.journal.frame(self.committed, &self.records);
            if let Err(error) = written.and_then(|()| self.journal.sync()) {
                self.fail(&error);
                return;
            }
            self.is_used = true;
            self.records.clear();
            if self.records.capacity() > BUFFER_KEEP {
                self.records = Vec::new();
            }
        }
        self.committed = self.taken;
        let mut inner = self.shared.lock();
        inner.committed = self.committed;
        inner.disk_bytes = self.other_bytes + self.journal.bytes();
        drop(inner);
        self.shared.done.notify_all();
    }

    /// The disk does not take it: on from memory.
    fn fail(&mut self, error: &io::Error) {
        self.retry_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(RETRY_MOST);
        let why = format!("cannot write to {}: {error}", self.directory.path().display());
        let mut inner = self.shared.lock();
        let since = inner.trouble.as_ref().map_or_else(Instant::now, |trouble| trouble.since);
        inner.trouble = Some(Trouble { why, since });
        drop(inner);
        self.shared.done.notify_all();
    }

    pub(super) fn has_failed(&self) -> bool {
        self.retry_at.is_some()
    }

    /// Tries a disk again that failed: what waits goes to a new journal, since nobody knows what
    /// has become of the old one; if too much waited, a snapshot is the way back.
    fn try_again(&mut self) {
        self.retry_at = None;
        let lost = self.shared.lock().lost;
        let tried = if lost { self.snapshot() } else { self.begin_journal(false) };
        match tried {
            Ok(()) => self.commit(),
            Err(error) => self.fail(&error),
        }
        if !self.has_failed() {
            self.pause = RETRY_FIRST;
            let mut inner = self.shared.lock();
            if !inner.has_gap {
                inner.trouble = None;
            }
        }
    }

    /// Begins the next journal; changes go to it from now on.
    pub(super) fn begin_journal(&mut self, has_gap: bool) -> io::Result<()> {
        let number = self.number + 1;
        let head = Head { seed: self.seed, number, records: self.committed, has_gap };
        let journal = self.directory.begin_journal(head)?;
        if self.is_used {
            self.other_bytes += self.journal.bytes();
        } else {
            // Many attempts must not leave many files.
            self.directory.drop_journal(self.number);
        }
        (self.journal, self.number, self.is_used) = (journal, number, false);
        Ok(())
    }

    /// Whether a snapshot is due, and if so makes one.
    fn look(&mut self, stop: bool) {
        if !self.has_failed() && self.journal.is_removed() {
            // What is written goes nowhere, and what was written before may be gone as well.
            self.shared.lock().lose();
            self.fail(&io::Error::other("somebody has removed its files"));
        }
        let saved_bytes = {
            let inner = self.shared.lock();
            self.wants_snapshot |= inner.lost;
            inner.tables.saved_bytes()
        };
        let is_due = self.wants_snapshot || self.is_due(saved_bytes, stop);
        let is_time = Instant::now() >= self.not_before || stop || self.shared.lock().lost;
        if !self.was_asked && (self.has_failed() || !is_due || !is_time) {
            return;
        }
        let tried = self.snapshot();
        {
            let mut inner = self.shared.lock();
            inner.snapshots += 1;
            inner.snapshot_trouble = tried.as_ref().err().map(ToString::to_string);
            if !inner.has_gap && tried.is_ok() {
                inner.trouble = None;
            }
        }
        self.shared.done.notify_all();
        match tried {
            Ok(()) => {
                self.snapshot_failed = false;
                self.not_before = Instant::now();
            }
            // The journal has failed as well, and that is dealt with.
            Err(_) if self.has_failed() => {}
            Err(error) if self.shared.lock().lost => self.fail(&error),
            Err(error) => {
                self.not_before = Instant::now() + SNAPSHOT_RETRY;
                if !std::mem::replace(&mut self.snapshot_failed, true) {
                    let path = self.directory.path().display();
                    mpp_hub::say(&format!(
                        "cannot write a snapshot of the store to {path}: {error}; the journal \
                         grows until that works"
                    ));
                }
            }
        }
    }

    fn is_due(&self, saved_bytes: u64, stop: bool) -> bool {
        let disk_bytes = self.other_bytes + self.journal.bytes();
        let journal_bytes = disk_bytes.saturating_sub(self.snapshot_bytes);
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a size that is only compared roughly"
        )]
        let live_bytes = (saved_bytes as f64 * self.scale * 1.2) as u64;
        let is_grown = journal_bytes > (self.snapshot_bytes / 2).max(JOURNAL_BYTES_LEAST);
        let is_hollow = disk_bytes > live_bytes + HOLLOW_BYTES_LEAST
            && self.not_before.elapsed() >= HOLLOW_EVERY;
        is_grown || is_hollow || (stop && journal_bytes > STOP_JOURNAL_BYTES)
    }
}
