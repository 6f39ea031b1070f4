//! The decision log: one JSON object a line for each decision, found again by its id.
//!
//! Lines are made in memory by who decides and written by a thread of the log's own, so no answer
//! waits for a disk. Files are named after their first id and are a fixed part of the bound; the
//! oldest goes when the bound is passed. If the disk does not take the lines, they are dropped and
//! counted, never kept without bound.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use memchr::memmem;

/// Bytes of lines that wait for the disk at the most.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// The writer is woken early when so many bytes wait.
const WAKE_BYTES: usize = 1 << 18;
/// Else it writes so long after the first line that waits; while none does it sleeps.
const WRITE_EVERY: Duration = Duration::from_millis(50);
/// The bound is divided into so many files.
const FILES: u64 = 8;
/// Who wrote to whom is for nobody else to read.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// The decision log of a node.
#[derive(Debug)]
pub struct DecisionLog {
    shared: Arc<Shared>,
    directory: PathBuf,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    written: Condvar,
    dropped: AtomicU64,
    /// The file that is written to.
    current: Mutex<Option<PathBuf>>,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Bytes taken over by the writer and not yet written.
    in_flight: bool,
    stop: bool,
    wish: Wish,
    trouble: Option<String>,
}

/// What the writer is to do before its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    /// Nothing.
    #[default]
    None,
    /// To write: somebody waits for the disk.
    Write,
    /// To write, and to close the file if it is not where it was.
    Look,
}

impl DecisionLog {
    /// Opens the log in a directory, made if need be. It takes `bytes_max` on disk at the most.
    ///
    /// # Errors
    /// The directory cannot be made or written to.
    pub fn open(directory: &Path, bytes_max: u64) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(directory)?;
        let shared = Arc::new(Shared::default());
        let mut files = Files::new(directory.to_owned(), bytes_max)?;
        *shared.current.lock().unwrap_or_else(PoisonError::into_inner) = files.path();
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("decision-log".into())
                .spawn(move || write_lines(&shared, &mut files))?
        };
        let writer = Mutex::new(Some(thread));
        Ok(Self { shared, directory: directory.to_owned(), writer })
    }

    /// Adds a line, its line end included.
    pub fn add(&self, line: &[u8]) {
        let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.lines.len() + line.len() > WAITING_BYTES_MAX {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let before = waiting.lines.len();
        waiting.lines.extend_from_slice(line);
        if before == 0 || before < WAKE_BYTES && waiting.lines.len() >= WAKE_BYTES {
            self.shared.wake.notify_one();
        }
    }

    /// Returns when all lines added before are written, or cannot be.
    pub fn settle(&self) {
        let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while (!waiting.lines.is_empty() || waiting.in_flight)
            && waiting.trouble.is_none()
            && !waiting.stop
        {
            waiting.wish = waiting.wish.max(Wish::Write);
            self.shared.wake.notify_one();
            waiting = self
                .shared
                .written
                .wait_timeout(waiting, WRITE_EVERY)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Lines dropped so far, and why the disk does not take lines now, if it does not.
    pub fn health(&self) -> (u64, Option<String>) {
        let waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        (self.shared.dropped.load(Ordering::Relaxed), waiting.trouble.clone())
    }

    /// Has the file that is written to closed if somebody has removed or renamed it: its room is to
    /// be given back, and what follows goes to a file that can be found. To be called once in a while.
    pub fn look_around(&self) {
        let current = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if current.is_some_and(|path| !path.exists()) {
            self.reopen();
        }
    }

    /// As [`DecisionLog::look_around`], where another file may have the same name.
    pub fn reopen(&self) {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).wish = Wish::Look;
        self.shared.wake.notify_one();
    }

    /// The line of a decision, by its id.
    pub fn find(&self, id: &str) -> Option<String> {
        self.settle();
        find(&self.directory, id)
    }
}

impl Drop for DecisionLog {
    fn drop(&mut self) {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.shared.wake.notify_all();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A writer that panicked has nothing left to say.
            let _ = writer.join();
        }
    }
}

fn write_lines(shared: &Shared, files: &mut Files) {
    let mut lines = Vec::new();
    loop {
        let (stop, wish) = {
            let mut waiting = wait_for_lines(shared);
            std::mem::swap(&mut lines, &mut waiting.lines);
            waiting.in_flight = !lines.is_empty();
            (waiting.stop, std::mem::take(&mut waiting.wish))
        };
        if wish == Wish::Look {
            files.look();
        }
        let trouble = if lines.is_empty() { Ok(()) } else { files.write(&lines) };
        if let Err(_trouble) = &trouble {
            let lost = memchr::memchr_iter(b'\n', &lines).count() as u64;
            shared.dropped.fetch_add(lost, Ordering::Relaxed);
        }
        *shared.current.lock().unwrap_or_else(PoisonError::into_inner) = files.path();
        // After a burst the memory goes back.
        if lines.capacity() > 4 * WAKE_BYTES {
            lines = Vec::new();
        }
        lines.clear();
        let mut waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.in_flight {
            waiting.trouble = trouble.err().map(|error| error.to_string());
        }
        waiting.in_flight = false;
        shared.written.notify_all();
        if stop && waiting.lines.is_empty() {
            return;
        }
    }
}

/// Returns when lines are to be written, or something else is to be done.
fn wait_for_lines(shared: &Shared) -> MutexGuard<'_, Waiting> {
    let mut waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
    while waiting.lines.is_empty() && !waiting.stop && waiting.wish == Wish::None {
        waiting = shared.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
    }
    let end = Instant::now() + WRITE_EVERY;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let is_due = waiting.lines.len() >= WAKE_BYTES || left.is_zero();
        if is_due || waiting.stop || waiting.wish != Wish::None {
            return waiting;
        }
        waiting = shared.wake.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// The files of a log.
struct Files {
    directory: PathBuf,
    bytes_max: u64,
    current: Option<Current>,
}

/// The file that is written to.
struct Current {
    file: File,
    path: PathBuf,
    length: u64,
}

impl Current {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(&path)?;
        let length = file.metadata()?.len();
        Ok(Self { file, path, length })
    }

    /// Whether it still has its name.
    fn is_there(&self) -> bool {
        let (Ok(own), Ok(named)) = (self.file.metadata(), fs::metadata(&self.path)) else {
            return false;
        };
        (own.dev(), own.ino()) == (named.dev(), named.ino())
    }
}

impl Files {
    fn new(directory: PathBuf, bytes_max: u64) -> io::Result<Self> {
        let mut files = Self { directory, bytes_max, current: None };
        // Go on in the newest file, or say at once that the directory does not serve.
        if let Some(newest) = list(&files.directory).pop() {
            files.current = Some(Current::open(newest)?);
        } else {
            let probe = files.directory.join(".probe");
            File::create(&probe)?;
            fs::remove_file(&probe)?;
        }
        Ok(files)
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let is_full = self.current.as_ref().is_none_or(|it| it.length >= self.bytes_max / FILES);
        if is_full {
            let name = format!("decisions-{}.jsonl", id_of(lines).unwrap_or("0000000000"));
            self.current = Some(Current::open(self.directory.join(name))?);
            self.drop_oldest();
        }
        if let Some(current) = &mut self.current {
            current.file.write_all(lines)?;
            current.length += lines.len() as u64;
        }
        Ok(())
    }

    /// Closes the file if it is not where it was.
    fn look(&mut self) {
        if self.current.as_ref().is_some_and(|current| !current.is_there()) {
            self.current = None;
        }
    }

    fn path(&self) -> Option<PathBuf> {
        self.current.as_ref().map(|current| current.path.clone())
    }

    fn drop_oldest(&self) {
        let mut files: Vec<_> = list(&self.directory)
            .into_iter()
            .map(|path| (fs::metadata(&path).map_or(0, |data| data.len()), path))
            .collect();
        let mut bytes: u64 = files.iter().map(|(length, _)| length).sum();
        files.truncate(files.len().saturating_sub(1));
        for (length, path) in files {
            if bytes <= self.bytes_max - self.bytes_max / FILES {
                break;
            }
            if fs::remove_file(path).is_ok() {
                bytes -= length;
            }
        }
    }
}

fn id_of(lines: &[u8]) -> Option<&str> {
    let rest = lines.strip_prefix(b"{\"id\":\"")?;
    std::str::from_utf8(rest.get(..10)?).ok()
}

/// The log files of a directory, oldest first.
fn list(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.strip_prefix("decisions-")?.strip_suffix(".jsonl"))
                .is_some()
        })
        .collect();
    files.sort();
    files
}

/// The line of a decision in the files of a directory, by its id.
pub fn find(directory: &Path, id: &str) -> Option<String> {
    let own = format!("decisions-{id}.jsonl");
    let needle = format!("{{\"id\":\"{id}\"");
    // Ids grow, so it is in the last file that begins before it; concurrent writers may have
    // mixed their last lines, so the one behind is looked at too.
    let files = list(directory);
    let behind = files.partition_point(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name <= own.as_str())
    });
    let around = files.get(behind.saturating_sub(2)..(behind + 1).min(files.len()))?;
    around.iter().rev().find_map(|path| {
        let text = fs::read(path).ok()?;
        let at = memmem::find(&text, needle.as_bytes())?;
        let rest = text.get(at..)?;
        let end = memchr::memchr(b'\n', rest)?;
        String::from_utf8(rest.get(..end)?.to_vec()).ok()
    })
}

/// Reads on from where it was, for those who follow a log.
#[derive(Debug, Default)]
pub struct Reader {
    /// How far each file was read.
    places: BTreeMap<PathBuf, u64>,
}

impl Reader {
    /// Begins at the end of what is there.
    pub fn at_end(directory: &Path) -> Self {
        let length = |path: &PathBuf| fs::metadata(path).map_or(0, |data| data.len());
        let files = list(directory).into_iter();
        Self { places: files.map(|path| (path.clone(), length(&path))).collect() }
    }

    /// Hands out the whole lines that were written since.
    ///
    /// # Errors
    /// A file cannot be read; one that is gone is passed over.
    pub fn read(&mut self, directory: &Path, mut each: impl FnMut(&str)) -> io::Result<()> {
        let files = list(directory);
        self.places.retain(|path, _| files.contains(path));
        for path in files {
            let mut file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            let place = self.places.entry(path).or_default();
            if file.metadata()?.len() <= *place {
                continue;
            }
            file.seek(io::SeekFrom::Start(*place))?;
            let (mut reader, mut line) = (io::BufReader::new(file), Vec::new());
            while reader.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
                *place += line.len() as u64;
                if let Ok(text) = std::str::from_utf8(&line) {
                    each(text.trim_end());
                }
                line.clear();
            }
        }
        Ok(())
    }
}

/// All lines in the files of a directory, oldest first. What is written meanwhile may be missing.
///
/// # Errors
/// A file cannot be read; one that has left by the rule on their size is passed over.
pub fn each_line(directory: &Path, mut each: impl FnMut(&str)) -> io::Result<()> {
    for path in list(directory) {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let (mut reader, mut line) = (io::BufReader::new(file), Vec::new());
        while reader.read_until(b'\n', &mut line)? > 0 {
            if let Ok(text) = std::str::from_utf8(&line) {
                each(text.trim_end());
            }
            line.clear();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64) -> Vec<u8> {
        format!("{{\"id\":\"{number:010}\",\"action\":\"accept\"}}\n").into_bytes()
    }

    #[test]
    fn lines_are_found_also_by_the_next_process() {
        let directory = tempfile::tempdir().unwrap();
        let log = DecisionLog::open(directory.path(), 1 << 20).unwrap();
        (1..=100).for_each(|number| log.add(&line(number)));
        assert_eq!(
            log.find("0000000042").unwrap(),
            String::from_utf8(line(42)).unwrap().trim_end()
        );
        assert_eq!(log.find("0000000101"), None);
        drop(log);
        let log = DecisionLog::open(directory.path(), 1 << 20).unwrap();
        log.add(&line(101));
        log.settle();
        let mut seen = Vec::new();
        each_line(directory.path(), |line| seen.push(line[7..17].parse::<u64>().unwrap())).unwrap();
        assert_eq!(seen, (1..=101).collect::<Vec<_>>());
        assert!(log.find("0000000001").is_some() && log.find("0000000101").is_some());
    }

    #[test]
    fn the_bound_holds_and_the_newest_stay() {
        let directory = tempfile::tempdir().unwrap();
        let bytes_max = 8_000;
        let log = DecisionLog::open(directory.path(), bytes_max).unwrap();
        for number in 1..=2_000 {
            log.add(&line(number));
            if number % 10 == 0 {
                log.settle();
            }
        }
        assert!(log.find("0000002000").is_some() && log.find("0000000001").is_none());
        let bytes: u64 =
            list(directory.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert!(bytes <= bytes_max + 1_000, "{bytes}");
    }

    #[test]
    fn a_file_that_is_removed_or_renamed_gives_its_room_back_and_loses_no_line() {
        let directory = tempfile::tempdir().unwrap();
        let log = DecisionLog::open(directory.path(), 1 << 20).unwrap();
        log.add(&line(1));
        log.settle();
        let first = list(directory.path()).pop().unwrap();
        let is_open = || {
            let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
            let mut open = open.filter_map(|it| fs::read_link(it.path()).ok());
            open.any(|path| path.to_string_lossy().starts_with(&*first.to_string_lossy()))
        };
        assert!(is_open());
        fs::remove_file(&first).unwrap();
        log.look_around();
        log.settle();
        while is_open() {
            std::thread::yield_now();
        }
        log.add(&line(2));
        assert!(log.find("0000000002").is_some(), "it goes to a file that is there");
        let second = list(directory.path()).pop().unwrap();
        fs::rename(&second, directory.path().join("old")).unwrap();
        // Somebody has made another file of the same name meanwhile.
        fs::write(&second, "").unwrap();
        log.reopen();
        log.settle();
        log.add(&line(3));
        assert!(log.find("0000000003").is_some());
        assert_eq!(fs::read(directory.path().join("old")).unwrap(), line(2));
        // One that is where it was is gone on with.
        let files = list(directory.path()).len();
        log.reopen();
        log.look_around();
        log.add(&line(4));
        log.settle();
        assert_eq!(list(directory.path()).len(), files);
    }

    #[test]
    fn nobody_else_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("log");
        let log = DecisionLog::open(&folder, 1 << 20).unwrap();
        log.add(&line(1));
        log.settle();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&list(&folder).pop().unwrap()), 0o600);
    }

    #[test]
    fn a_directory_that_does_not_serve_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(DecisionLog::open(&file, 1_000).is_err());
    }
}
