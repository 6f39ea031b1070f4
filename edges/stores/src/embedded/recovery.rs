//! Opening what a process has left: the newest snapshot, then the journals behind it.

use std::io::{self, Read as _};
use std::path::Path;

use mpp_engine::question::History;
use mpp_hub::store::StoreError;

use super::Options;
use super::snapshot::{SECTION_BLOCKS, SECTION_PART, SECTION_SHARD};
use crate::files::{Bad, Directory, Head, read_journal, read_snapshot};
use crate::journal::{Bytes, Record};
use crate::tables::{Part, Set, Tables};
use crate::tally::{Bucket, Tally};

/// What was found.
pub(super) struct Recovered {
    pub(super) tables: Tables,
    pub(super) seed: u64,
    pub(super) next_journal: u64,
    pub(super) journal_bytes: u64,
    pub(super) snapshot_bytes: u64,
}

/// Reads the files of a directory.
pub(super) fn recover(directory: &Directory, options: &Options) -> Result<Recovered, StoreError> {
    let (journals, snapshots) = directory.list().map_err(|error| {
        StoreError::Unusable(format!("cannot read the store directory: {error}"))
    })?;
    let mut tables = Tables::default();
    let mut seed = None;
    let mut first = 0;
    let mut snapshot_bytes = 0;
    for number in snapshots.iter().rev() {
        let path = directory.snapshot(*number);
        let mut fresh = Tables::default();
        match read_snapshot(&path, |section| load_section(&mut fresh, section)) {
            Ok(head) => {
                (tables, first, seed) = (fresh, head.number, Some(head.seed));
                snapshot_bytes = file_bytes(&path);
                break;
            }
            Err(bad) => deal_with(directory, options, &path, bad)?,
        }
    }
    tables.records = tables.parts.iter().map(|part| part.applied).max().unwrap_or(0);
    let mut journal_bytes = 0;
    for number in journals.iter().filter(|number| **number >= first) {
        let path = directory.journal(*number);
        let mut position = None;
        let read = read_journal(&path, |head, records| {
            let position = position.get_or_insert(head.number);
            seed.get_or_insert(head.seed);
            replay(&mut tables, head, position, records)
        });
        match read {
            Ok(head) => {
                journal_bytes += file_bytes(&path);
                if let Some(head) = head {
                    seed.get_or_insert(head.seed);
                    tables.records = tables.records.max(head.number);
                }
            }
            Err(bad) => deal_with(directory, options, &path, bad)?,
        }
    }
    let next_journal = journals.iter().chain(&snapshots).max().map_or(1, |last| last + 1);
    let seed = match (seed, options.seed) {
        (Some(seed), _) | (None, Some(seed)) => seed,
        (None, None) => draw_seed()
            .map_err(|error| StoreError::Unusable(format!("no random numbers: {error}")))?,
    };
    Ok(Recovered { tables, seed, next_journal, journal_bytes, snapshot_bytes })
}

fn file_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |data| data.len())
}

/// Refuses to start over a bad file, or puts it aside if that was asked for.
fn deal_with(
    directory: &Directory,
    options: &Options,
    path: &Path,
    bad: Bad,
) -> Result<(), StoreError> {
    let file = path.display().to_string();
    let error = match bad {
        Bad::Io(error) => {
            return Err(StoreError::Unusable(format!("cannot read {file}: {error}")));
        }
        Bad::Newer(version) => {
            return Err(StoreError::Unusable(format!(
                "{file} was written by a newer mpp (format {version}); start that one, or name \
                 another directory"
            )));
        }
        Bad::Damage(offset, what) => StoreError::Damaged {
            file,
            offset,
            what: format!(
                "{what}; `mpp serve --set-aside-damaged` starts with what can be read and keeps \
                 the file aside"
            ),
        },
    };
    if !options.set_aside_damaged {
        return Err(error);
    }
    let aside = directory.set_aside(path).map_err(|trouble| {
        StoreError::Unusable(format!("cannot set {} aside: {trouble}", path.display()))
    })?;
    mpp_hub::say(&format!("{error}: set aside as {}", aside.display()));
    Ok(())
}

/// A secret, from the system's random numbers.
fn draw_seed() -> io::Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Applies the records of one group. `position` is the number of the last record before it.
fn replay(tables: &mut Tables, _: Head, position: &mut u64, records: &[u8]) -> bool {
    let mut bytes = Bytes(records);
    while !bytes.0.is_empty() {
        let Some(record) = Record::take(&mut bytes) else { return false };
        *position += 1;
        tables.apply(record, *position);
        tables.records = tables.records.max(*position);
    }
    true
}

fn load_section(tables: &mut Tables, section: &[u8]) -> bool {
    let mut bytes = Bytes(section);
    let loaded = match bytes.u8() {
        Some(SECTION_SHARD) => load_shard(tables, &mut bytes),
        Some(SECTION_PART) => load_part(tables, &mut bytes),
        Some(SECTION_BLOCKS) => {
            while !bytes.0.is_empty() {
                let Some(record @ Record::Block { .. }) = Record::take(&mut bytes) else {
                    return false;
                };
                tables.apply(record, 0);
            }
            Some(())
        }
        _ => None,
    };
    loaded.is_some()
}

fn load_shard(tables: &mut Tables, bytes: &mut Bytes<'_>) -> Option<()> {
    let shelf = usize::from(bytes.u8()?);
    let shard = usize::try_from(bytes.u32()?).ok()?;
    tables.shelves.get_mut(shelf)?.load(shard, bytes.0).then_some(())
}

fn load_part(tables: &mut Tables, bytes: &mut Bytes<'_>) -> Option<()> {
    let place = tables.parts.get_mut(usize::from(bytes.u8()?))?;
    let mut part = Part { applied: bytes.u64()?, ..Part::default() };
    for _ in 0..bytes.u64()? {
        let (key, per_ms) = (bytes.u64()?, bytes.u48()?);
        let mut buckets = Vec::new();
        for _ in 0..bytes.u64()? {
            buckets.push(Bucket { last_ms: bytes.u48()?, amount: bytes.u64()? });
        }
        part.tallies.insert(key, Tally::from_buckets(buckets, per_ms));
    }
    for _ in 0..bytes.u64()? {
        let (key, per_ms) = (bytes.u64()?, bytes.u48()?);
        let mut members = Vec::new();
        for _ in 0..bytes.u64()? {
            members.push((bytes.u64()?, bytes.u48()?));
        }
        part.sets.insert(key, Set { members, per_ms });
    }
    for _ in 0..bytes.u64()? {
        let (key, at_ms) = (bytes.u64()?, bytes.u48()?);
        let history = History { clean: bytes.f32()?, spam: bytes.f32()?, bad: bytes.f32()? };
        part.histories.insert(key, (history, at_ms));
    }
    *place = part;
    bytes.0.is_empty().then_some(())
}
