//! The files of an embedded store: journals and snapshots in one directory, one process at a time.
//!
//! `journal-N.log` holds the changes since `snapshot-N.db` or later; a new journal is begun with
//! each start and each snapshot. A file begins with a head that says what it is, in which version,
//! of which store (its seed), and a number.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use mpp_hub::store::StoreError;

use crate::journal::{Bytes, FRAME_HEAD, push_frame};

/// Version of both formats.
const VERSION: u32 = 1;
/// Bytes of a head: magic, version, seed, number, checksum.
const HEAD: usize = 28;
/// No section or frame is larger.
const LENGTH_MAX: usize = 1 << 30;

const JOURNAL: [u8; 4] = *b"mppJ";
const SNAPSHOT: [u8; 4] = *b"mppS";

/// The directory of a store, locked.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    _lock: File,
}

/// What a head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) seed: u64,
    /// Of a journal: records before it. Of a snapshot: the first journal behind it.
    pub(crate) number: u64,
}

impl Directory {
    /// Makes, opens and locks a directory.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let unusable = |error: &io::Error, what: &str| {
            StoreError::Unusable(format!(
                "cannot {what} the store directory {}: {error}; name another with `server.state` \
                 or --state, or let this user write to it",
                path.display()
            ))
        };
        fs::create_dir_all(path).map_err(|error| unusable(&error, "make"))?;
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path.join("lock"))
            .map_err(|error| unusable(&error, "write to"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => {
                Err(StoreError::Locked(path.display().to_string()))
            }
            Err(fs::TryLockError::Error(error)) => Err(unusable(&error, "lock")),
        }
    }

    pub(crate) fn journal(&self, number: u64) -> PathBuf {
        self.path.join(format!("journal-{number:010}.log"))
    }

    pub(crate) fn snapshot(&self, number: u64) -> PathBuf {
        self.path.join(format!("snapshot-{number:010}.db"))
    }

    /// The numbers of the journals and of the snapshots, in order.
    pub(crate) fn list(&self) -> io::Result<(Vec<u64>, Vec<u64>)> {
        let (mut journals, mut snapshots) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            let number = |prefix: &str, suffix: &str| -> Option<u64> {
                name.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok()
            };
            journals.extend(number("journal-", ".log"));
            snapshots.extend(number("snapshot-", ".db"));
        }
        journals.sort_unstable();
        snapshots.sort_unstable();
        Ok((journals, snapshots))
    }

    /// Bytes of all journals and snapshots.
    pub(crate) fn bytes(&self) -> io::Result<u64> {
        let (journals, snapshots) = self.list()?;
        let paths = journals
            .into_iter()
            .map(|number| self.journal(number))
            .chain(snapshots.into_iter().map(|number| self.snapshot(number)));
        Ok(paths.filter_map(|path| fs::metadata(path).ok()).map(|data| data.len()).sum())
    }

    /// Begins a journal.
    pub(crate) fn begin_journal(&self, number: u64, head: Head) -> io::Result<File> {
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(self.journal(number))?;
        file.write_all(&push_head(JOURNAL, head))?;
        file.sync_data()?;
        self.sync()?;
        Ok(file)
    }

    /// Begins a snapshot; it counts once [`SnapshotWriter::finish`] has given it its name.
    pub(crate) fn begin_snapshot(&self, number: u64, head: Head) -> io::Result<SnapshotWriter> {
        let path = self.path.join("snapshot.new");
        let mut file = BufWriter::with_capacity(1 << 18, File::create(&path)?);
        file.write_all(&push_head(SNAPSHOT, head))?;
        Ok(SnapshotWriter { file, path, name: self.snapshot(number), frame: Vec::new() })
    }

    /// Drops journals and snapshots before the snapshot of that number.
    pub(crate) fn drop_before(&self, number: u64) -> io::Result<()> {
        let (journals, snapshots) = self.list()?;
        for journal in journals.into_iter().filter(|journal| *journal < number) {
            fs::remove_file(self.journal(journal))?;
        }
        for snapshot in snapshots.into_iter().filter(|snapshot| *snapshot < number) {
            fs::remove_file(self.snapshot(snapshot))?;
        }
        Ok(())
    }

    /// Puts a damaged file aside, where nobody looks for it but a person.
    pub(crate) fn set_aside(&self, file: &Path) -> io::Result<PathBuf> {
        let aside = (1..).map(|number| self.path.join(format!("damaged-{number}")));
        let Some(directory) = aside.into_iter().find(|path| !path.exists()) else {
            return Err(io::Error::other("no name left"));
        };
        fs::create_dir(&directory)?;
        let target = directory.join(file.file_name().unwrap_or_default());
        fs::rename(file, &target)?;
        Ok(target)
    }

    /// Makes names durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

fn push_head(magic: [u8; 4], head: Head) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD);
    bytes.extend_from_slice(&magic);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&head.seed.to_le_bytes());
    bytes.extend_from_slice(&head.number.to_le_bytes());
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Why a file is not taken.
#[derive(Debug)]
pub(crate) enum Bad {
    /// It cannot be read.
    Io(io::Error),
    /// It was written by a newer mpp.
    Newer(u32),
    /// It is damaged at this byte.
    Damage(u64, &'static str),
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn take_head(magic: [u8; 4], bytes: &[u8]) -> Result<Head, Bad> {
    let (head, checksum) = bytes.split_at(bytes.len().saturating_sub(4));
    let mut checksum = Bytes(checksum);
    let mut rest = Bytes(head);
    if rest.array() != Some(magic) {
        return Err(Bad::Damage(0, "this is not a file of mpp's store"));
    }
    let version = rest.u32().unwrap_or(0);
    if version > VERSION {
        return Err(Bad::Newer(version));
    }
    if checksum.u32() != Some(crc32fast::hash(head)) {
        return Err(Bad::Damage(4, "the checksum of the head does not fit"));
    }
    match (rest.u64(), rest.u64()) {
        (Some(seed), Some(number)) => Ok(Head { seed, number }),
        _ => Err(Bad::Damage(8, "the head is too short")),
    }
}

/// Reads a journal: its head goes to `begin`, then the records of each whole frame to `each`, which
/// says whether they make sense. What a crash has left of a last frame is cut off.
pub(crate) fn read_journal(
    path: &Path,
    mut each: impl FnMut(Head, &[u8]) -> bool,
) -> Result<Option<Head>, Bad> {
    let bytes = fs::read(path)?;
    let Some((head, mut rest)) = bytes.split_at_checked(HEAD) else {
        // Killed while it was begun: nothing is in it.
        return Ok(None);
    };
    let head = take_head(JOURNAL, head)?;
    while !rest.is_empty() {
        let at = (bytes.len() - rest.len()) as u64;
        let whole = whole_frame(rest);
        match whole {
            Some((records, tail)) => {
                if !each(head, records) {
                    return Err(Bad::Damage(at, "a record makes no sense"));
                }
                rest = tail;
            }
            None if is_cut_short(rest) => {
                OpenOptions::new().write(true).open(path)?.set_len(at)?;
                break;
            }
            None => return Err(Bad::Damage(at, "the checksum of a group does not fit")),
        }
    }
    Ok(Some(head))
}

/// The records of the first frame, if it is whole and its checksum fits.
fn whole_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = Bytes(bytes);
    let (length, checksum) = (rest.u32()?, rest.u32()?);
    let records = rest.slice(usize::try_from(length).ok()?)?;
    (length > 0 && crc32fast::hash(records) == checksum).then_some((records, rest.0))
}

/// Whether what does not fit is a last group that a crash cut short: too short for what its head
/// says, or exactly the last, or a stretch of zeros that the file system put there.
fn is_cut_short(bytes: &[u8]) -> bool {
    let length = Bytes(bytes).u32().and_then(|length| usize::try_from(length).ok());
    let end = length.map_or(usize::MAX, |length| length.saturating_add(FRAME_HEAD));
    end >= bytes.len() || bytes.iter().all(|byte| *byte == 0)
}

/// A snapshot that is being written.
#[derive(Debug)]
pub(crate) struct SnapshotWriter {
    file: BufWriter<File>,
    path: PathBuf,
    name: PathBuf,
    frame: Vec<u8>,
}

impl SnapshotWriter {
    /// Adds a section.
    pub(crate) fn section(&mut self, section: &[u8]) -> io::Result<()> {
        self.frame.clear();
        push_frame(section, &mut self.frame);
        self.file.write_all(&self.frame)
    }

    /// Makes it durable and gives it its name.
    pub(crate) fn finish(mut self, directory: &Directory) -> io::Result<()> {
        self.section(b"end")?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.path, &self.name)?;
        directory.sync()
    }
}

/// Reads a snapshot: each section goes to `each`, which says whether it makes sense.
pub(crate) fn read_snapshot(path: &Path, mut each: impl FnMut(&[u8]) -> bool) -> Result<Head, Bad> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let cut = |at: u64| move |_: io::Error| Bad::Damage(at, "it ends too early");
    let mut head = [0; HEAD];
    file.read_exact(&mut head).map_err(cut(0))?;
    let head = take_head(SNAPSHOT, &head)?;
    let mut at = HEAD as u64;
    let mut section = Vec::new();
    loop {
        let mut frame = [0; FRAME_HEAD];
        file.read_exact(&mut frame).map_err(cut(at))?;
        let mut frame = Bytes(&frame);
        let (length, checksum) = (frame.u32().unwrap_or(0), frame.u32().unwrap_or(0));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > LENGTH_MAX {
            return Err(Bad::Damage(at, "a section is too long"));
        }
        section.resize(length, 0);
        file.read_exact(&mut section).map_err(cut(at))?;
        if crc32fast::hash(&section) != checksum {
            return Err(Bad::Damage(at, "the checksum of a section does not fit"));
        }
        if section == b"end" {
            return Ok(head);
        }
        if !each(&section) {
            return Err(Bad::Damage(at, "a section makes no sense"));
        }
        at += (FRAME_HEAD + length) as u64;
    }
}
