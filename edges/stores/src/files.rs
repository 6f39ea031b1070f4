//! The files of an embedded store: journals and snapshots in one directory, one process at a time.
//!
//! `journal-N.log` holds changes, `snapshot-N.db` all that was held when journal N was begun, or
//! later. A new journal is begun with each start and each snapshot. Both kinds are a head, which
//! says what it is, of which store and where it belongs, and then frames. A crash can only cut the
//! last frame of the last journal short; all else that does not fit is damage.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mpp_hub::store::StoreError;

use crate::disk::Disk;
use crate::frames::{self, Head, JOURNAL, SNAPSHOT};

/// The directory of a store, locked.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    _lock: File,
}

impl Directory {
    /// Makes, opens and locks a directory.
    pub(crate) fn open(path: &Path, disk: Arc<dyn Disk>) -> Result<Self, StoreError> {
        if !path.is_dir() {
            fs::create_dir_all(path)
                .and_then(|()| path.parent().map_or(Ok(()), |parent| sync_names(&*disk, parent)))
                .map_err(|error| unusable(path, "make", &error))?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path.join("lock"))
            .map_err(|error| unusable(path, "write to", &error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), disk, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => {
                Err(StoreError::Locked(path.display().to_string()))
            }
            Err(fs::TryLockError::Error(error)) => Err(unusable(path, "lock", &error)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn journal(&self, number: u64) -> PathBuf {
        self.path.join(format!("journal-{number:010}.log"))
    }

    pub(crate) fn snapshot(&self, number: u64) -> PathBuf {
        self.path.join(format!("snapshot-{number:010}.db"))
    }

    fn unfinished(&self) -> PathBuf {
        self.path.join("snapshot.new")
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

    /// Begins a journal.
    pub(crate) fn begin_journal(&self, head: Head) -> io::Result<Output> {
        let path = self.journal(head.number);
        let begun = Output::begin(Arc::clone(&self.disk), &path, JOURNAL, head)
            .and_then(|mut file| file.sync().map(|()| file))
            .and_then(|file| self.sync_names().map(|()| file));
        if begun.is_err() {
            // Half a journal is no harm, but one for each attempt would be.
            let _ = fs::remove_file(&path);
        }
        begun
    }

    /// Drops a journal that nothing is in, unless a snapshot needs it.
    pub(crate) fn drop_journal(&self, number: u64) {
        if !self.snapshot(number).exists() {
            // It is in nobody's way; after the next snapshot it is tried again.
            let _ = fs::remove_file(self.journal(number));
        }
    }

    /// Begins a snapshot; it counts once it is finished.
    pub(crate) fn begin_snapshot(&self, head: Head) -> io::Result<Output> {
        Output::begin(Arc::clone(&self.disk), &self.unfinished(), SNAPSHOT, head)
    }

    /// Makes a snapshot durable and gives it its name.
    pub(crate) fn finish_snapshot(&self, mut file: Output, number: u64) -> io::Result<()> {
        file.sync()?;
        self.disk.rename(&self.unfinished(), &self.snapshot(number))?;
        self.sync_names()
    }

    /// Drops a snapshot that was not finished.
    pub(crate) fn drop_unfinished(&self) {
        // If it is not there, all the better.
        let _ = fs::remove_file(self.unfinished());
    }

    /// Drops what lies before the snapshot of that number, and says how many bytes all files have
    /// now. What cannot be dropped is tried again after the next snapshot.
    pub(crate) fn drop_before(&self, number: u64) -> io::Result<u64> {
        let (journals, snapshots) = self.list()?;
        let journals = journals.into_iter().map(|it| (it, self.journal(it)));
        let snapshots = snapshots.into_iter().map(|it| (it, self.snapshot(it)));
        let mut bytes = 0;
        for (it, path) in journals.chain(snapshots) {
            if it >= number || fs::remove_file(&path).is_err() {
                bytes += fs::metadata(&path).map_or(0, |data| data.len());
            }
        }
        Ok(bytes)
    }

    /// Keeps a damaged file where nobody but a person looks for it.
    pub(crate) fn keep_aside(&self, file: &Path) -> io::Result<PathBuf> {
        let aside = (1..10_000).map(|number| self.path.join(format!("damaged-{number}")));
        let Some(directory) = aside.into_iter().find(|path| !path.exists()) else {
            return Err(io::Error::other("there are ten thousand of them already"));
        };
        fs::create_dir(&directory)?;
        let target = directory.join(file.file_name().unwrap_or_default());
        // The file stays until a snapshot has taken its place, so a crash now changes nothing.
        fs::hard_link(file, &target).or_else(|_| fs::copy(file, &target).map(drop))?;
        Ok(target)
    }

    /// Makes the names of the files durable.
    pub(crate) fn sync_names(&self) -> io::Result<()> {
        sync_names(&*self.disk, &self.path)
    }
}

/// Makes the names in a directory durable.
fn sync_names(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    disk.sync(&File::open(path)?)
}

/// What to tell about a directory that cannot be used.
pub(crate) fn unusable(path: &Path, what: &str, error: &io::Error) -> StoreError {
    let advice = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on that disk",
        io::ErrorKind::ReadOnlyFilesystem => "mount it writable",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "a file is in the way",
        _ => "let this user write to it",
    };
    StoreError::Unusable(format!(
        "cannot {what} the store directory {}: {error}; {advice}, or name another directory with \
         `server.state` or --state",
        path.display()
    ))
}

/// A file that is being written, frame by frame.
#[derive(Debug)]
pub(crate) struct Output {
    file: File,
    disk: Arc<dyn Disk>,
    frame: Vec<u8>,
    bytes: u64,
}

impl Output {
    fn begin(
        disk: Arc<dyn Disk>,
        path: &Path,
        magic: frames::Magic,
        head: Head,
    ) -> io::Result<Self> {
        let mut file = disk.create(path)?;
        let head = head.to_bytes(magic);
        disk.write(&mut file, &head)?;
        Ok(Self { file, disk, frame: Vec::new(), bytes: head.len() as u64 })
    }

    /// Appends a frame.
    pub(crate) fn frame(&mut self, number: u64, body: &[u8]) -> io::Result<()> {
        self.frame.clear();
        frames::push_frame(number, body, &mut self.frame);
        self.disk.write(&mut self.file, &self.frame)?;
        self.bytes += self.frame.len() as u64;
        if self.frame.capacity() > FRAME_KEEP {
            self.frame = Vec::new();
        }
        Ok(())
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.disk.sync(&self.file)
    }

    /// Whether the file has lost its name: what is written to it is gone when it is closed.
    pub(crate) fn is_removed(&self) -> bool {
        self.file.metadata().is_ok_and(|data| data.nlink() == 0)
    }

    /// How long the file is.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A buffer above this is given back after use.
const FRAME_KEEP: usize = 2 << 20;
