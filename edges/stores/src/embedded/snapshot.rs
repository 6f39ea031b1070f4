//! Snapshots: all that is held, section by section, while decisions go on.
//!
//! A section is copied under the lock in one piece, so it is whole, but sections are of different
//! moments. Shelves and blocks hold states, which the journal behind the snapshot sets again in
//! order. Counts and histories are changed by differences: each part says up to which record it
//! has them.

use std::io;
use std::time::{Duration, Instant};

use super::Writer;
use crate::files::Head;
use crate::journal::{Record, push_u48, push_u64};
use crate::moments::{ENTRY_BYTES, Moments};
use crate::tables::{PARTS, Part, Tables};
use mpp_engine::question::Key;

pub(super) const SECTION_SHARD: u8 = 1;
pub(super) const SECTION_PART: u8 = 2;
pub(super) const SECTION_BLOCKS: u8 = 3;

/// Group commits go on at this pace while a snapshot is written.
const COMMIT_EVERY: Duration = Duration::from_millis(40);

/// About how many bytes a snapshot would take.
pub(super) fn live_bytes(tables: &Tables) -> u64 {
    let moments: usize = tables.shelves.iter().map(Moments::len).sum();
    let rest = |part: &Part| {
        let tallies: usize =
            part.tallies.values().map(|tally| 16 + 12 * tally.buckets().len()).sum();
        let sets: usize = part.sets.values().map(|set| 16 + 14 * set.members.len()).sum();
        tallies + sets + 26 * part.histories.len()
    };
    let parts: usize = tables.parts.iter().map(rest).sum();
    (moments * ENTRY_BYTES + parts + tables.blocks.len() * 50 + 64 * 1024) as u64
}

impl Writer {
    /// Writes a snapshot and begins a new journal behind it.
    pub(super) fn write_snapshot(&mut self) -> io::Result<()> {
        let number = self.number + 1;
        self.turn_over(number)?;
        let head = Head { seed: self.seed, number };
        let mut file = self.directory.begin_snapshot(number, head)?;
        let mut section = Vec::new();
        let mut bytes = 0_u64;
        let mut committed = Instant::now();
        let mut piece = 0;
        while self.copy_piece(piece, &mut section) {
            if !section.is_empty() {
                bytes += section.len() as u64;
                file.section(&section)?;
            }
            if committed.elapsed() > COMMIT_EVERY && !self.is_degraded {
                committed = Instant::now();
                self.commit();
                if self.is_degraded {
                    return Err(io::Error::other("the journal could not be written"));
                }
            }
            piece += 1;
        }
        file.finish(&self.directory)?;
        self.directory.drop_before(number)?;
        self.snapshot_bytes = bytes;
        self.journal_bytes = 0;
        let mut inner = self.shared.lock();
        inner.disk_bytes = bytes;
        if self.is_degraded {
            inner.trouble = None;
        }
        Ok(())
    }

    /// From now on changes go to a new journal; those before it to the old one.
    fn turn_over(&mut self, number: u64) -> io::Result<()> {
        // The head needs the number of records before it, so it is written at the turn itself.
        self.commit_if_sound();
        let (last, records) = {
            let mut inner = self.shared.lock();
            std::mem::swap(&mut self.records, &mut inner.pending);
            // From here on every change counts again.
            inner.lost = false;
            (inner.tables.records, inner.tables.records)
        };
        if self.is_degraded {
            self.records.clear();
        } else {
            self.write_records(last);
        }
        let head = Head { seed: self.seed, number: records };
        self.journal = self.directory.begin_journal(number, head)?;
        self.number = number;
        Ok(())
    }

    fn commit_if_sound(&mut self) {
        if !self.is_degraded {
            self.commit();
        }
    }

    /// Copies one piece of the tables; false behind the last.
    fn copy_piece(&self, mut piece: usize, section: &mut Vec<u8>) -> bool {
        section.clear();
        let inner = self.shared.lock();
        let tables = &inner.tables;
        for (shelf, moments) in tables.shelves.iter().enumerate() {
            if piece < moments.shards() {
                section.extend_from_slice(&[SECTION_SHARD, u8::try_from(shelf).unwrap_or(0)]);
                section.extend_from_slice(&u32::try_from(piece).unwrap_or(0).to_le_bytes());
                let head = section.len();
                moments.save(piece, tables.now_ms, section);
                if section.len() == head {
                    section.clear();
                }
                return true;
            }
            piece -= moments.shards();
        }
        if let Some(part) = tables.parts.get(piece) {
            section.extend_from_slice(&[SECTION_PART, u8::try_from(piece).unwrap_or(0)]);
            save_part(part, section);
            return true;
        }
        if piece == PARTS {
            section.push(SECTION_BLOCKS);
            for ((kind, key), (subject, block)) in &tables.blocks {
                let (kind, key) = (*kind, Key(*key));
                Record::Block { kind, key, block: *block, subject: subject.clone() }.push(section);
            }
            return true;
        }
        false
    }
}

fn save_part(part: &Part, out: &mut Vec<u8>) {
    let count = |count: usize, out: &mut Vec<u8>| push_u64(count as u64, out);
    push_u64(part.applied, out);
    count(part.tallies.len(), out);
    for (key, tally) in &part.tallies {
        push_u64(*key, out);
        push_u48(tally.per_ms(), out);
        count(tally.buckets().len(), out);
        for bucket in tally.buckets() {
            push_u48(bucket.last_ms, out);
            push_u64(bucket.amount, out);
        }
    }
    count(part.sets.len(), out);
    for (key, set) in &part.sets {
        push_u64(*key, out);
        push_u48(set.per_ms, out);
        count(set.members.len(), out);
        for (member, at_ms) in &set.members {
            push_u64(*member, out);
            push_u48(*at_ms, out);
        }
    }
    count(part.histories.len(), out);
    for (key, (history, at_ms)) in &part.histories {
        push_u64(*key, out);
        push_u48(*at_ms, out);
        for weight in [history.clean, history.spam, history.bad] {
            out.extend_from_slice(&weight.to_le_bytes());
        }
    }
}
