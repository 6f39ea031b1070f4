//! A disk that fails, and crashes at every step: the store goes on from memory, says so, and comes
//! back by itself; nothing that `settle` has acknowledged is lost.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use mpp_hub::store::{Health, Store as _, StoreError};
use tempfile::TempDir;

use super::script::{Oracle, copy, options, perform, records, state};
use super::{EmbeddedStore, open_on, recovery};
use crate::disk::{Disk, RealDisk};
use crate::files::Directory;

/// What a step does to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Create,
    Write,
    Sync,
    Rename,
}

const KINDS: [Kind; 4] = [Kind::Create, Kind::Write, Kind::Sync, Kind::Rename];

/// What would be there after a crash at one step.
struct Image {
    directory: TempDir,
    context: String,
    /// Operations that were acknowledged by then, and performed by then.
    acknowledged: u64,
    performed: u64,
}

/// What a power failure leaves: contents as they were synced last, names likewise.
#[derive(Debug, Default)]
struct Durable {
    contents: BTreeMap<u64, Vec<u8>>,
    names: BTreeMap<PathBuf, u64>,
    /// Files whose sync has failed: what they get later is never durable.
    broken: Vec<u64>,
    /// Keeps the numbers of removed files from being used again.
    open: Vec<File>,
}

/// A disk that counts its steps, fails some of them, and takes images before each.
#[derive(Default)]
struct FaultDisk {
    path: PathBuf,
    steps: AtomicU64,
    /// Steps of one kind fail, from one number on until another.
    fails: Mutex<Option<(Kind, std::ops::Range<u64>)>>,
    takes_images: AtomicBool,
    images: Mutex<Vec<Image>>,
    durable: Mutex<Durable>,
    /// While it is set, the disk performs an operation before each step: decisions go on.
    is_busy: AtomicBool,
    store: Mutex<Weak<EmbeddedStore>>,
    acknowledged: AtomicU64,
    performed: AtomicU64,
}

impl std::fmt::Debug for FaultDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FaultDisk")
    }
}

fn inode(file: &File) -> u64 {
    file.metadata().unwrap().ino()
}

impl FaultDisk {
    fn new(path: &Path) -> Arc<Self> {
        Arc::new(Self { path: path.to_owned(), ..Self::default() })
    }

    fn fail(&self, kind: Kind, steps: std::ops::Range<u64>) {
        *self.fails.lock().unwrap() = Some((kind, steps));
    }

    fn heal(&self) {
        *self.fails.lock().unwrap() = None;
    }

    /// Begins a step; an error if it is to fail.
    fn step(&self, kind: Kind) -> io::Result<()> {
        let store = self.store.lock().unwrap().upgrade();
        if let Some(store) = store.filter(|_| self.is_busy.load(SeqCst)) {
            perform(&*store, self.performed.fetch_add(1, SeqCst));
        }
        let number = self.steps.fetch_add(1, SeqCst);
        if self.takes_images.load(SeqCst) {
            self.take_images(number, kind);
        }
        match &*self.fails.lock().unwrap() {
            Some((which, steps)) if *which == kind && steps.contains(&number) => Err(match kind {
                Kind::Create => io::ErrorKind::ReadOnlyFilesystem.into(),
                Kind::Write => io::ErrorKind::StorageFull.into(),
                Kind::Sync | Kind::Rename => io::Error::from_raw_os_error(5),
            }),
            _ => Ok(()),
        }
    }

    fn take_images(&self, number: u64, kind: Kind) {
        let image = |what: &str| Image {
            directory: TempDir::new().unwrap(),
            context: format!("{what} before step {number}, {kind:?}"),
            acknowledged: self.acknowledged.load(SeqCst),
            performed: self.performed.load(SeqCst),
        };
        let killed = image("killed");
        copy(&self.path, killed.directory.path());
        let cut = image("power failed");
        let durable = self.durable.lock().unwrap();
        for (name, inode) in &durable.names {
            let bytes = durable.contents.get(inode).map(Vec::as_slice).unwrap_or_default();
            fs::write(cut.directory.path().join(name.file_name().unwrap()), bytes).unwrap();
        }
        self.images.lock().unwrap().extend([killed, cut]);
    }
}

impl Disk for FaultDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.step(Kind::Create)?;
        let file = File::create(path)?;
        let mut durable = self.durable.lock().unwrap();
        durable.contents.insert(inode(&file), Vec::new());
        durable.open.push(file.try_clone()?);
        Ok(file)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        let step = self.step(Kind::Write);
        if step.is_err() {
            file.write_all(&bytes[..bytes.len() / 2])?;
        }
        step.and_then(|()| file.write_all(bytes))
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let step = self.step(Kind::Sync);
        let mut durable = self.durable.lock().unwrap();
        if step.is_err() {
            durable.broken.push(inode(file));
            return step;
        }
        if self.path.parent().unwrap().metadata()?.ino() == inode(file) {
            return Ok(());
        }
        let entries = fs::read_dir(&self.path).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<(PathBuf, u64)> =
            entries.map(|path| (path.clone(), fs::metadata(path).unwrap().ino())).collect();
        if file.metadata()?.is_dir() {
            durable.names = files.into_iter().collect();
        } else if !durable.broken.contains(&inode(file)) {
            let found = files.into_iter().find(|(_, number)| *number == inode(file));
            if let Some((path, number)) = found {
                durable.contents.insert(number, fs::read(path)?);
            }
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Kind::Rename)?;
        fs::rename(from, to)
    }
}

/// A store on a disk that fails, and what is known of it.
struct Trial {
    disk: Arc<FaultDisk>,
    store: Arc<EmbeddedStore>,
}

impl Trial {
    fn open(disk: &Arc<FaultDisk>) -> Result<Self, StoreError> {
        let store = open_on(Arc::<FaultDisk>::clone(disk), &disk.path, &options())?;
        *disk.store.lock().unwrap() = Arc::downgrade(&store);
        Ok(Self { disk: Arc::clone(disk), store })
    }

    fn perform(&self, operations: u64) {
        for _ in 0..operations {
            perform(&*self.store, self.disk.performed.fetch_add(1, SeqCst));
        }
    }

    fn settle(&self) -> Result<(), StoreError> {
        let performed = self.disk.performed.load(SeqCst);
        let settled = self.store.settle();
        if settled.is_ok() {
            self.disk.acknowledged.store(performed, SeqCst);
        }
        settled
    }

    /// A snapshot while decisions go on.
    fn compact(&self) -> Result<(), StoreError> {
        self.disk.is_busy.store(true, SeqCst);
        let compacted = self.store.compact();
        self.disk.is_busy.store(false, SeqCst);
        compacted
    }

    fn wait_until_good(&self, context: &str) {
        let begun = Instant::now();
        while self.store.health() != Health::Good {
            assert!(begun.elapsed() < Duration::from_secs(20), "{context}: not back");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// A short life, with all that a store does to its files. What fails is not minded.
    fn live(&self) {
        for round in 0..3 {
            self.perform(6);
            drop(self.settle());
            if round == 1 {
                drop(self.compact());
            }
        }
    }

    /// Answers come from memory, whatever the disk does.
    fn assert_answers(&self, oracle: &Oracle, context: &str) {
        let performed = records(&self.store);
        assert_eq!(performed, self.disk.performed.load(SeqCst), "{context}");
        assert!(state(&*self.store) == *oracle.state(performed), "{context}");
    }
}

/// Opens what a crash has left, writes to it, and crashes again.
fn check(image: &Image, oracle: &Oracle) {
    let context = &image.context;
    let path = image.directory.path();
    let length = {
        let locked = Directory::open(path, Arc::new(RealDisk)).unwrap();
        let mut recovered = recovery::recover(&locked, &options())
            .unwrap_or_else(|error| panic!("{context}: {error}"));
        oracle.check(&mut recovered.tables, context)
    };
    assert!(image.acknowledged <= length && length <= image.performed, "{context}: {length}");
    let disk = FaultDisk::new(path);
    disk.performed.store(length, SeqCst);
    let trial = Trial::open(&disk).unwrap_or_else(|error| panic!("{context}, again: {error}"));
    trial.perform(2);
    trial.settle().unwrap();
    let again = TempDir::new().unwrap();
    copy(path, again.path());
    let locked = Directory::open(again.path(), Arc::new(RealDisk)).unwrap();
    let mut recovered = recovery::recover(&locked, &options())
        .unwrap_or_else(|error| panic!("{context}, once more: {error}"));
    assert_eq!(oracle.check(&mut recovered.tables, context), length + 2);
}

fn check_images(disk: &FaultDisk, oracle: &Oracle) {
    for image in disk.images.lock().unwrap().drain(..) {
        check(&image, oracle);
    }
}

/// Plays a life on a disk where steps of one kind fail; afterwards all must be well and durable.
/// Returns whether the failure came to pass.
fn survive(kind: Kind, steps: std::ops::Range<u64>, takes_images: bool, oracle: &Oracle) -> bool {
    let context = format!("{kind:?} fails at {steps:?}");
    let directory = TempDir::new().unwrap();
    let disk = FaultDisk::new(directory.path());
    let first = steps.start;
    disk.fail(kind, steps);
    disk.takes_images.store(takes_images, SeqCst);
    let trial = match Trial::open(&disk) {
        Ok(trial) => trial,
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("the store directory"), "{context}: {text}");
            disk.heal();
            Trial::open(&disk).unwrap_or_else(|error| panic!("{context}, healed: {error}"))
        }
    };
    trial.live();
    trial.assert_answers(oracle, &context);
    let came = disk.steps.load(SeqCst) > first;
    disk.heal();
    trial.wait_until_good(&context);
    trial.perform(3);
    trial.settle().unwrap_or_else(|error| panic!("{context}: {error}"));
    trial.store.compact().unwrap_or_else(|error| panic!("{context}: {error}"));
    trial.perform(3);
    trial.settle().unwrap();
    trial.assert_answers(oracle, &context);
    let performed = disk.performed.load(SeqCst);
    drop(trial);
    let files = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(files, 3, "{context}: a snapshot, a journal and the lock");
    let locked = Directory::open(directory.path(), Arc::new(RealDisk)).unwrap();
    let mut recovered = recovery::recover(&locked, &options()).unwrap();
    assert_eq!(oracle.check(&mut recovered.tables, &context), performed);
    check_images(&disk, oracle);
    came
}

const LENGTH: u64 = 400;

#[test]
fn whatever_step_it_crashes_at_what_was_acknowledged_is_there() {
    let oracle = Oracle::new(LENGTH);
    assert!(!survive(Kind::Rename, u64::MAX - 1..u64::MAX, true, &oracle));
}

#[test]
fn any_one_step_may_fail() {
    let oracle = Oracle::new(LENGTH);
    for kind in KINDS {
        let mut first = 0;
        while survive(kind, first..first + 1, first % 11 == 3, &oracle) {
            first += 1;
        }
        assert!(first > 20, "{first} steps");
    }
}

#[test]
fn the_disk_may_fail_for_long_from_any_step_on() {
    let oracle = Oracle::new(LENGTH);
    for kind in KINDS {
        let mut first = 0;
        while survive(kind, first..u64::MAX, first % 13 == 5, &oracle) {
            first += 1;
        }
    }
}

#[test]
fn it_says_that_it_goes_on_from_memory_and_comes_back_by_itself() {
    let oracle = Oracle::new(LENGTH);
    for (kind, words) in
        [(Kind::Write, "cannot write to"), (Kind::Sync, "nothing has become durable for 0 s")]
    {
        let directory = TempDir::new().unwrap();
        let disk = FaultDisk::new(directory.path());
        let trial = Trial::open(&disk).unwrap();
        trial.perform(5);
        trial.settle().unwrap();
        assert_eq!(trial.store.health(), Health::Good);
        disk.fail(kind, 0..u64::MAX);
        trial.perform(5);
        let Err(StoreError::Unusable(why)) = trial.settle() else { panic!("{kind:?} was settled") };
        assert!(why.contains(words), "{why}");
        let Health::MemoryOnly(why) = trial.store.health() else { panic!("{kind:?} is good") };
        assert!(why.contains(words), "{why}");
        trial.assert_answers(&oracle, "while the disk fails");
        disk.heal();
        trial.wait_until_good("healed");
        trial.settle().unwrap();
    }
}

#[test]
fn what_was_too_much_to_keep_comes_back_with_a_snapshot() {
    let oracle = Oracle::new(LENGTH * 4);
    let directory = TempDir::new().unwrap();
    let disk = FaultDisk::new(directory.path());
    let trial = Trial::open(&disk).unwrap();
    trial.perform(10);
    trial.settle().unwrap();
    disk.fail(Kind::Sync, 0..u64::MAX);
    trial.perform(2 * LENGTH);
    assert!(trial.settle().is_err());
    assert!(trial.store.shared.lock().lost, "not enough to be too much");
    trial.assert_answers(&oracle, "while the disk fails");
    // Back for a while, but not for long enough to finish a snapshot.
    let back = disk.steps.load(SeqCst);
    disk.fail(Kind::Rename, back..u64::MAX);
    while disk.steps.load(SeqCst) < back + 40 {
        trial.perform(1);
        for _ in 0..20 {
            assert!(trial.settle().is_err(), "what came before is on no disk");
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    disk.is_busy.store(true, SeqCst);
    disk.heal();
    trial.wait_until_good("healed");
    disk.is_busy.store(false, SeqCst);
    trial.settle().unwrap();
    trial.assert_answers(&oracle, "healed");
    let performed = disk.performed.load(SeqCst);
    drop(trial);
    let locked = Directory::open(directory.path(), Arc::new(RealDisk)).unwrap();
    let mut recovered = recovery::recover(&locked, &options()).unwrap();
    assert_eq!(oracle.check(&mut recovered.tables, "in the end"), performed);
}

#[test]
fn a_store_whose_files_were_removed_makes_new_ones() {
    let oracle = Oracle::new(LENGTH);
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store");
    let disk = FaultDisk::new(&path);
    let trial = Trial::open(&disk).unwrap();
    trial.perform(5);
    trial.settle().unwrap();
    fs::remove_file(path.join("journal-0000000001.log")).unwrap();
    let begun = Instant::now();
    while !path.join("journal-0000000002.log").exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody noticed");
        std::thread::sleep(Duration::from_millis(2));
    }
    trial.wait_until_good("made anew");
    trial.perform(5);
    trial.settle().unwrap();
    drop(trial);
    let locked = Directory::open(&path, Arc::new(RealDisk)).unwrap();
    let mut recovered = recovery::recover(&locked, &options()).unwrap();
    assert_eq!(oracle.check(&mut recovered.tables, "made anew"), 10);
}
