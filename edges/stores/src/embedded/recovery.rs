//! Opening what a process has left: the newest snapshot, then the journals behind it.
//!
//! A crash can cut the last group of a journal short; it was not acknowledged. Everything else that
//! does not fit is damage: each journal says how many records came before it, each group as well,
//! so a file that is missing or ends too early is found by the one behind it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use mpp_hub::store::StoreError;

use super::Options;
use super::snapshot::END;
use crate::files::{Directory, unusable};
use crate::frames::{
    Bad, FRAME_BYTES, FrameHead, HEAD_BYTES, Head, JOURNAL, SNAPSHOT, find_frame, take_frame,
};
use crate::record::{Bytes, Record};
use crate::tables::Tables;

/// So many journals are worth a snapshot whatever their size.
const JOURNALS_MAX: usize = 32;
/// No frame is longer.
const FRAME_BYTES_MAX: usize = 1 << 30;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) tables: Tables,
    pub(super) seed: u64,
    /// The number of the next journal.
    pub(super) next_number: u64,
    /// Bytes of the snapshot, and of it and the journals.
    pub(super) snapshot_bytes: u64,
    pub(super) bytes: u64,
    /// Journals that nothing is in.
    pub(super) empty: Vec<u64>,
    /// What is on disk is not what was found, or comes in too many files.
    pub(super) wants_snapshot: bool,
}

/// Why a file is not taken as it is.
enum Trouble {
    Io(io::Error),
    Bad(Bad),
    /// Records are missing before it.
    Gap,
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Bad> for Trouble {
    fn from(bad: Bad) -> Self {
        Self::Bad(bad)
    }
}

fn damage(at: usize, what: &'static str) -> Trouble {
    Trouble::Bad(Bad::Damage(at as u64, what))
}

/// Reads the files of a directory.
pub(super) fn recover(directory: &Directory, options: &Options) -> Result<Recovered, StoreError> {
    directory.drop_unfinished();
    let (journals, snapshots) = directory.list().map_err(|error| {
        let path = directory.path().display();
        StoreError::Unusable(format!("cannot read the store directory {path}: {error}"))
    })?;
    let mut recovery = Recovery {
        directory,
        sets_aside: options.set_aside_damaged,
        tables: Tables::default(),
        seed: None,
        position: Some(0),
        torn: None,
        wants_snapshot: journals.len() > JOURNALS_MAX,
    };
    let mut recovered = Recovered::default();
    let first = snapshots.last().copied().unwrap_or(0);
    if !snapshots.is_empty() {
        recovery.snapshot(first)?;
        recovered.snapshot_bytes =
            std::fs::metadata(directory.snapshot(first)).map_or(0, |data| data.len());
    }
    for number in journals.iter().filter(|number| **number >= first) {
        let is_empty = recovery.journal(*number)?;
        recovered.empty.extend((is_empty && *number > first).then_some(*number));
    }
    // A crash may have come between a new snapshot and the end of the old files. Its name must be
    // on the disk before they go.
    if journals.iter().chain(&snapshots).any(|number| *number < first) {
        directory.sync_names().map_err(|error| unusable(directory.path(), "write to", &error))?;
    }
    recovered.bytes = directory.drop_before(first).unwrap_or(recovered.snapshot_bytes);
    recovered.next_number = journals.iter().chain(&snapshots).max().map_or(1, |last| last + 1);
    recovered.seed = match (recovery.seed, options.seed) {
        (Some(seed), _) | (None, Some(seed)) => seed,
        (None, None) => draw_seed()
            .map_err(|error| StoreError::Unusable(format!("no random numbers: {error}")))?,
    };
    recovered.wants_snapshot = recovery.wants_snapshot;
    recovered.tables = recovery.tables;
    Ok(recovered)
}

/// A secret, from the system's random numbers.
pub(crate) fn draw_seed() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

struct Recovery<'d> {
    directory: &'d Directory,
    sets_aside: bool,
    tables: Tables,
    seed: Option<u64>,
    /// The number of the last record; nothing if a damaged file hides it.
    position: Option<u64>,
    /// The journal read last, and where it stops making sense, if it does.
    torn: Option<(PathBuf, usize)>,
    wants_snapshot: bool,
}

impl Recovery<'_> {
    fn snapshot(&mut self, number: u64) -> Result<(), StoreError> {
        let path = self.directory.snapshot(number);
        let mut tables = Tables::default();
        let read = read_snapshot(&path, number, &mut tables);
        match read {
            Ok(head) => {
                self.seed = Some(head.seed);
                self.position = Some(head.records);
                self.tables = tables;
            }
            Err(trouble) => {
                let bytes = self.deal_with(&path, trouble)?;
                self.seed = Head::from_bytes(SNAPSHOT, &bytes).ok().map(|head| head.seed);
                salvage(&bytes, |_, pieces| {
                    self.tables.load(pieces);
                });
                self.position = None;
            }
        }
        self.tables.records = self.tables.records.max(self.position.unwrap_or(0));
        if !self.directory.journal(number).exists() {
            let missing = damage(0, "it is missing; the snapshot of that number needs it");
            self.deal_with(&self.directory.journal(number), missing)?;
        }
        Ok(())
    }

    /// Reads a journal. Whether there is nothing in it.
    fn journal(&mut self, number: u64) -> Result<bool, StoreError> {
        let path = self.directory.journal(number);
        let torn = self.torn.take();
        let read = std::fs::read(&path).map_err(Trouble::Io);
        let mut replayed = read.and_then(|bytes| self.replay(number, &bytes));
        if let (Err(Trouble::Gap), Some((torn, at))) = (&replayed, torn) {
            // What is missing was there: the end of that one is not what a crash has left.
            self.deal_with(&torn, damage(at, "the checksum of a group does not fit"))?;
            self.position = None;
            replayed = std::fs::read(&path)
                .map_err(Trouble::Io)
                .and_then(|bytes| self.replay(number, &bytes));
        }
        match replayed {
            Ok(any) => Ok(!any),
            Err(trouble) => {
                let bytes = self.deal_with(&path, trouble)?;
                if let Ok(head) = Head::from_bytes(JOURNAL, &bytes) {
                    self.seed.get_or_insert(head.seed);
                }
                salvage(&bytes, |before, records| {
                    apply(&mut self.tables, before, records);
                });
                self.position = None;
                Ok(false)
            }
        }
    }

    /// Applies the records of a journal. Whether there were any.
    fn replay(&mut self, number: u64, bytes: &[u8]) -> Result<bool, Trouble> {
        if is_just_begun(bytes) {
            return Ok(false);
        }
        let head = Head::from_bytes(JOURNAL, bytes)?;
        if head.number != number || *self.seed.get_or_insert(head.seed) != head.seed {
            return Err(damage(0, "it belongs to another store or has another's name"));
        }
        if !head.has_gap && self.position.is_some_and(|position| head.records > position) {
            return Err(Trouble::Gap);
        }
        let mut position = head.records;
        let mut rest = Bytes(bytes.get(HEAD_BYTES..).unwrap_or_default());
        let mut any = false;
        while !rest.0.is_empty() {
            let at = bytes.len() - rest.0.len();
            let Some((before, records)) = take_frame(&mut rest) else {
                if find_frame(rest.0).is_some() {
                    return Err(damage(at, "the checksum of a group does not fit"));
                }
                // Nothing whole behind it: a crash or a failing disk has cut the last group short.
                self.torn = Some((self.directory.journal(number), at));
                break;
            };
            if before != position {
                return Err(damage(at, "a group is missing before it"));
            }
            position = apply(&mut self.tables, before, records)
                .ok_or(damage(at, "a record makes no sense"))?;
            any = true;
        }
        self.position = Some(position);
        self.tables.records = self.tables.records.max(position);
        Ok(any || head.has_gap)
    }

    /// Refuses to start over a bad file, or keeps it aside if that was asked for and gives what is
    /// in it.
    fn deal_with(&mut self, path: &Path, trouble: Trouble) -> Result<Vec<u8>, StoreError> {
        let file = path.display().to_string();
        let bad = match trouble {
            Trouble::Bad(bad) => bad,
            Trouble::Gap => {
                Bad::Damage(0, "records are missing before it: another journal ends too early")
            }
            Trouble::Io(error) => {
                return Err(StoreError::Unusable(format!("cannot read {file}: {error}")));
            }
        };
        let error = match bad {
            Bad::Newer(version) => {
                return Err(StoreError::Unusable(format!(
                    "{file} was written by a newer mpp (format {version}); start that one, or \
                     name another directory with `server.state` or --state"
                )));
            }
            Bad::Damage(offset, what) => StoreError::Damaged {
                file,
                offset,
                what: format!(
                    "{what}; `mpp serve --set-aside-damaged` starts with what can be read and \
                     keeps the file aside"
                ),
            },
        };
        if !self.sets_aside {
            return Err(error);
        }
        self.wants_snapshot = true;
        if !path.exists() {
            mpp_hub::say(&error.to_string());
            return Ok(Vec::new());
        }
        let refused = |trouble: io::Error| {
            StoreError::Unusable(format!("cannot keep {} aside: {trouble}", path.display()))
        };
        let aside = self.directory.keep_aside(path).map_err(refused)?;
        mpp_hub::say(&format!("{error}: kept aside as {}", aside.display()));
        std::fs::read(path).map_err(refused)
    }
}

/// Whether a process was stopped while it began this journal, before it could write into it.
fn is_just_begun(bytes: &[u8]) -> bool {
    let is_prefix = bytes.iter().zip(JOURNAL).all(|(byte, of_magic)| *byte == of_magic);
    let is_blank = bytes.iter().all(|byte| *byte == 0);
    (bytes.len() < HEAD_BYTES && is_prefix) || (bytes.len() <= HEAD_BYTES && is_blank)
}

/// Applies the records of one group; `position` is the number of the last record before it. Returns
/// the number of the last in it.
fn apply(tables: &mut Tables, mut position: u64, records: &[u8]) -> Option<u64> {
    let mut bytes = Bytes(records);
    while !bytes.0.is_empty() {
        let record = Record::take(&mut bytes)?;
        position = position.checked_add(1)?;
        tables.apply(record, position, 0);
    }
    tables.records = tables.records.max(position);
    Some(position)
}

/// Gives every whole frame in a damaged file to `each`.
fn salvage(bytes: &[u8], mut each: impl FnMut(u64, &[u8])) {
    let mut rest = Bytes(bytes);
    while let Some(gap) = find_frame(rest.0) {
        rest.slice(gap);
        while let Some((number, body)) = take_frame(&mut rest) {
            each(number, body);
        }
    }
}

/// Reads a snapshot.
fn read_snapshot(path: &Path, number: u64, tables: &mut Tables) -> Result<Head, Trouble> {
    let mut file = File::open(path)?;
    let cut = |at: usize| {
        move |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damage(at, "it ends too early"),
            _ => Trouble::Io(error),
        }
    };
    let mut head = [0; HEAD_BYTES];
    file.read_exact(&mut head).map_err(cut(0))?;
    let head = Head::from_bytes(SNAPSHOT, &head)?;
    if head.number != number {
        return Err(damage(0, "another snapshot has this name"));
    }
    let (mut at, mut frames, mut body) = (HEAD_BYTES, 0_u64, Vec::new());
    loop {
        let mut bytes = [0; FRAME_BYTES];
        file.read_exact(&mut bytes).map_err(cut(at))?;
        let frame = FrameHead::take(&mut Bytes(&bytes)).filter(|it| it.length <= FRAME_BYTES_MAX);
        let frame = frame.ok_or(damage(at, "the checksum of a section's head does not fit"))?;
        body.resize(frame.length, 0);
        file.read_exact(&mut body).map_err(cut(at))?;
        if !frame.fits(&body) {
            return Err(damage(at, "the checksum of a section does not fit"));
        }
        at += FRAME_BYTES + frame.length;
        if frame.number == END && body == frames.to_le_bytes() {
            break;
        }
        if frame.number != frames || tables.load(&body).is_none() {
            return Err(damage(at, "a section is missing or makes no sense"));
        }
        frames += 1;
    }
    match file.read(&mut [0]) {
        Ok(0) => Ok(head),
        Ok(_) => Err(damage(at, "something was appended to it")),
        Err(error) => Err(error.into()),
    }
}
