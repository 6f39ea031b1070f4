//! Snapshots: all that is held, piece by piece, while decisions go on.
//!
//! A piece is copied under the lock, so it is whole, but pieces are of different moments. Shelves
//! and blocks hold states, which the journal behind the snapshot sets again in order. Counts and
//! histories are changed by differences: each part says up to which record it has them. So a
//! snapshot counts only once the journal behind it has come as far as its last piece.

use std::io;
use std::time::{Duration, Instant};

use super::writer::Writer;
use crate::frames::Head;

/// The frame of a snapshot behind the last of its pieces; in it is how many frames came before.
pub(super) const END: u64 = u64::MAX;

/// Pieces are gathered to frames of at least so many bytes.
const FRAME_BYTES_LEAST: usize = if cfg!(test) { 256 } else { 64 << 10 };
/// Group commits go on at this pace while a snapshot is written.
const COMMIT_EVERY: Duration = Duration::from_millis(30);
/// So much is written before it is made durable, so that no group commit waits behind all of it.
const SYNC_BYTES: u64 = 2 << 20;
/// After each frame the thread rests: a decision on the same core is not kept from it for long.
const REST: Duration = Duration::from_micros(100);

impl Writer {
    /// Writes a snapshot and begins a new journal behind it.
    pub(super) fn snapshot(&mut self) -> io::Result<()> {
        if self.has_failed() {
            return Err(journal_failed());
        }
        let lost = {
            let mut inner = self.shared.lock();
            let lost = std::mem::take(&mut inner.lost);
            if lost {
                // From here on every change counts again.
                inner.pending = Vec::new();
                self.records = Vec::new();
                self.taken = inner.tables.records;
                self.committed = self.taken;
            }
            lost
        };
        if !lost {
            self.commit();
        }
        let number = self.number;
        let written = if self.has_failed() {
            Err(journal_failed())
        } else {
            self.begin_journal(lost).and_then(|()| self.write_snapshot())
        };
        if written.is_err() {
            self.directory.drop_unfinished();
            if lost {
                // If a new journal was begun, what it has follows on nothing.
                self.is_used &= self.number == number;
                self.shared.lock().lost = true;
            }
        } else {
            self.wants_snapshot = false;
            let mut inner = self.shared.lock();
            inner.has_gap = inner.lost;
        }
        written
    }

    fn write_snapshot(&mut self) -> io::Result<()> {
        let head =
            Head { seed: self.seed, number: self.number, records: self.committed, has_gap: false };
        let (pieces, expected_bytes) = {
            let inner = self.shared.lock();
            (inner.tables.pieces(), inner.tables.saved_bytes())
        };
        let mut file = self.directory.begin_snapshot(head)?;
        let mut frame = Vec::with_capacity(2 * FRAME_BYTES_LEAST);
        let (mut frames, mut synced_bytes, mut committed) = (0, 0, Instant::now());
        for piece in 0..pieces {
            {
                let inner = self.shared.lock();
                inner.tables.save(piece, inner.now_ms, &mut frame);
            }
            if frame.len() < FRAME_BYTES_LEAST && piece + 1 < pieces {
                continue;
            }
            file.frame(frames, &frame)?;
            frame.clear();
            frames += 1;
            if file.bytes() > synced_bytes + SYNC_BYTES {
                synced_bytes = file.bytes();
                file.sync()?;
            }
            if committed.elapsed() > COMMIT_EVERY {
                self.commit();
                if self.has_failed() {
                    return Err(journal_failed());
                }
                committed = Instant::now();
            }
            std::thread::sleep(REST);
        }
        file.frame(END, &frames.to_le_bytes())?;
        // The last pieces know of changes that the journal behind the snapshot may not have yet.
        self.commit();
        if self.has_failed() {
            return Err(journal_failed());
        }
        self.snapshot_bytes = file.bytes();
        self.directory.finish_snapshot(file, self.number)?;
        self.scale = scale(self.snapshot_bytes, expected_bytes);
        let bytes = self.directory.drop_before(self.number)?;
        self.other_bytes = bytes.saturating_sub(self.journal.bytes());
        self.shared.lock().disk_bytes = bytes;
        Ok(())
    }
}

fn journal_failed() -> io::Error {
    io::Error::other("the journal could not be written")
}

/// How many times larger a snapshot was than expected; at least once, since what has run out is
/// expected and not written.
fn scale(bytes: u64, expected_bytes: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a rough share")]
    let scale = bytes as f64 / expected_bytes.max(1 << 16) as f64;
    scale.max(1.0)
}
