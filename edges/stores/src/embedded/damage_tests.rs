//! Damaged files: whatever happens to one of them, the store comes back as it was at some moment,
//! or says which file is damaged and where. It never invents, and never mixes two moments.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mpp_hub::store::{Store as _, StoreError};
use tempfile::TempDir;

use super::script::{self, Oracle, options, perform, records};
use super::{Options, open, recovery};
use crate::disk::RealDisk;
use crate::files::Directory;

/// Operations of the history: some before the snapshot, some in each of three journals.
const LENGTH: u64 = 72;
/// Those in the newest journal, in groups of four.
const NEWEST: u64 = 16;

/// A store's directory with a snapshot and three journals.
fn make() -> TempDir {
    let directory = TempDir::new().unwrap();
    let groups = |range: std::ops::Range<u64>, compacts_at: u64| {
        let store = open(directory.path(), &options()).unwrap();
        for number in range {
            perform(&*store, number);
            if number % 4 == 3 {
                store.settle().unwrap();
            }
            if number + 1 == compacts_at {
                store.compact().unwrap();
            }
        }
    };
    groups(0..36, 24);
    groups(36..48, 0);
    groups(48..LENGTH - NEWEST, 0);
    groups(LENGTH - NEWEST..LENGTH, 0);
    directory
}

/// The files of a store in order, journals first; the lock is none.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.is_file() && !path.ends_with("lock")).collect();
    files.sort();
    files
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// What is left of a store whose files were changed: the length of the prefix, or the error.
fn recover(directory: &Path, oracle: &Oracle, context: &str) -> Result<u64, StoreError> {
    let locked = Directory::open(directory, Arc::new(RealDisk)).unwrap();
    let mut recovered = recovery::recover(&locked, &options())?;
    assert_eq!(recovered.seed, script::SEED, "{context}");
    Ok(oracle.check(&mut recovered.tables, context))
}

/// Puts other bytes in place of one file of a copy, and opens that.
fn with_bytes(
    original: &Path,
    file: &Path,
    bytes: &[u8],
    oracle: &Oracle,
    context: &str,
) -> Result<u64, StoreError> {
    let copy = TempDir::new().unwrap();
    script::copy(original, copy.path());
    fs::write(copy.path().join(name(file)), bytes).unwrap();
    recover(copy.path(), oracle, context)
}

fn is_damaged(result: Result<u64, StoreError>) -> bool {
    match result {
        Ok(_) => false,
        Err(StoreError::Damaged { .. }) => true,
        Err(other) => panic!("{other}"),
    }
}

/// Places all over a file: each byte of its head and its last group, and some between.
fn places(length: usize) -> impl Iterator<Item = usize> {
    (0..length).filter(move |at| *at < 70 || length - at < 40 || at % 13 == 0)
}

#[test]
fn a_file_cut_short_is_found_unless_a_crash_could_have_cut_it() {
    let (store, oracle) = (make(), Oracle::new(LENGTH));
    let files = files(store.path());
    assert_eq!(files.len(), 5, "{files:?}");
    for file in &files {
        let bytes = fs::read(file).unwrap();
        let is_newest = name(file) == name(&files[3]);
        for cut in places(bytes.len()) {
            let context = format!("{} cut at {cut}", name(file));
            let result = with_bytes(store.path(), file, &bytes[..cut], &oracle, &context);
            if is_newest {
                let length = result.unwrap();
                assert!(length >= LENGTH - NEWEST, "{context}: {length}");
                assert_eq!(length % 4, 0, "{context}: groups are whole or not there");
            } else {
                assert!(is_damaged(result), "{context}");
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_found_or_ends_the_newest_journal() {
    let (store, oracle) = (make(), Oracle::new(LENGTH));
    let files = files(store.path());
    for file in &files {
        let bytes = fs::read(file).unwrap();
        for at in places(bytes.len()) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            let context = format!("{} flipped at {at}", name(file));
            match with_bytes(store.path(), file, &flipped, &oracle, &context) {
                // Its last group might have been on its way to the disk.
                Ok(length) => {
                    assert_eq!(name(file), name(&files[3]), "{context}");
                    assert_eq!(length, LENGTH - 4, "{context}");
                }
                Err(error) => assert!(is_damaged(Err(error)), "{context}"),
            }
        }
    }
}

#[test]
fn blank_stretches_as_power_failures_leave_them_are_found() {
    let (store, oracle) = (make(), Oracle::new(LENGTH));
    let files = files(store.path());
    for file in &files {
        let bytes = fs::read(file).unwrap();
        for from in places(bytes.len()) {
            let mut blank = bytes.clone();
            blank[from..].fill(0);
            let context = format!("{} blank from {from}", name(file));
            match with_bytes(store.path(), file, &blank, &oracle, &context) {
                Ok(length) => {
                    assert!(name(file) == name(&files[3]) || blank == bytes, "{context}");
                    assert!(length >= LENGTH - NEWEST, "{context}");
                }
                Err(error) => assert!(is_damaged(Err(error)), "{context}"),
            }
        }
    }
}

#[test]
fn a_file_that_is_gone_or_in_anothers_place_is_found() {
    let (store, oracle) = (make(), Oracle::new(LENGTH));
    let files = files(store.path());
    for file in &files[..3] {
        let copy = TempDir::new().unwrap();
        script::copy(store.path(), copy.path());
        fs::remove_file(copy.path().join(name(file))).unwrap();
        let context = format!("{} is gone", name(file));
        assert!(is_damaged(recover(copy.path(), &oracle, &context)), "{context}");
    }
    let snapshot = &files[4];
    let copy = TempDir::new().unwrap();
    script::copy(store.path(), copy.path());
    fs::remove_file(copy.path().join(name(snapshot))).unwrap();
    assert!(is_damaged(recover(copy.path(), &oracle, "no snapshot")));
    for (file, other) in [(0, 1), (1, 2), (2, 3), (3, 0), (3, 4), (4, 0)] {
        let (file, other) = (&files[file], &files[other]);
        let context = format!("{} in place of {}", name(other), name(file));
        let bytes = fs::read(other).unwrap();
        assert!(is_damaged(with_bytes(store.path(), file, &bytes, &oracle, &context)), "{context}");
    }
}

#[test]
fn groups_in_another_order_twice_or_of_another_store_are_found() {
    let (store, oracle) = (make(), Oracle::new(LENGTH));
    let files = files(store.path());
    for file in &files[..4] {
        let bytes = fs::read(file).unwrap();
        let starts: Vec<usize> =
            (0..bytes.len() - 3).filter(|at| &bytes[*at..at + 4] == b"mppF").collect();
        let (first, second) = (starts[0], starts[1]);
        let third = starts.get(2).copied().unwrap_or(bytes.len());
        let cut = |from: usize, to: usize| bytes[from..to].to_vec();
        let whole = |parts: &[Vec<u8>]| parts.concat();
        let (head, rest) = (cut(0, first), cut(third, bytes.len()));
        let (one, two) = (cut(first, second), cut(second, third));
        for (what, parts) in [
            ("swapped", vec![head.clone(), two.clone(), one.clone(), rest.clone()]),
            ("twice", vec![head.clone(), one.clone(), one, two.clone(), rest.clone()]),
            ("without its first", vec![head, two, rest]),
        ] {
            let context = format!("{}: {what}", name(file));
            let result = with_bytes(store.path(), file, &whole(&parts), &oracle, &context);
            assert!(is_damaged(result), "{context}");
        }
    }
    let other = TempDir::new().unwrap();
    let stranger = Options { seed: Some(78), ..options() };
    drop(open(other.path(), &stranger).unwrap());
    let bytes = fs::read(other.path().join("journal-0000000001.log")).unwrap();
    let copy = TempDir::new().unwrap();
    script::copy(store.path(), copy.path());
    let numbered = crate::frames::Head::from_bytes(crate::frames::JOURNAL, &bytes).unwrap();
    let head = crate::frames::Head { number: 5, records: LENGTH, ..numbered };
    let head = head.to_bytes(crate::frames::JOURNAL);
    fs::write(copy.path().join("journal-0000000005.log"), head).unwrap();
    assert!(is_damaged(recover(copy.path(), &oracle, "a stranger's journal")));
}

#[test]
fn damaged_files_are_set_aside_and_the_rest_goes_on() {
    let store = make();
    let asked = Options { set_aside_damaged: true, ..options() };
    let files = files(store.path());
    for file in &files {
        let bytes = fs::read(file).unwrap();
        for at in [1, 30, 50, bytes.len() / 2, bytes.len() - 1] {
            let copy = TempDir::new().unwrap();
            script::copy(store.path(), copy.path());
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            let place = copy.path().join(name(file));
            fs::write(&place, &flipped).unwrap();
            let context = format!("{} flipped at {at}", name(file));
            let refused = open(copy.path(), &options()).map(drop);
            let opened = open(copy.path(), &asked).unwrap_or_else(|why| panic!("{context}: {why}"));
            let kept = copy.path().join("damaged-1").join(name(file));
            match refused {
                Err(StoreError::Damaged { file: named, .. }) => {
                    assert_eq!(Path::new(&named), place);
                    assert!(fs::read(&kept).unwrap() == flipped, "{context}: kept as it was");
                }
                Err(other) => panic!("{context}: {other}"),
                Ok(()) => assert!(!kept.exists(), "{context}: nothing was damaged"),
            }
            let had = records(&opened);
            assert!(at < 40 || had >= 24, "{context}: {had} records");
            opened.compact().unwrap();
            let before = script::state(&*opened);
            drop(opened);
            let again =
                open(copy.path(), &options()).unwrap_or_else(|why| panic!("{context}: {why}"));
            assert!(script::state(&*again) == before, "{context}: it stays as it was salvaged");
        }
    }
}

#[test]
fn a_missing_file_is_no_reason_not_to_start_if_that_was_asked_for() {
    let store = make();
    let files = files(store.path());
    for file in &files {
        let copy = TempDir::new().unwrap();
        script::copy(store.path(), copy.path());
        fs::remove_file(copy.path().join(name(file))).unwrap();
        let asked = Options { set_aside_damaged: true, ..options() };
        let opened = open(copy.path(), &asked).unwrap();
        opened.compact().unwrap();
        drop(opened);
        open(copy.path(), &options()).unwrap();
    }
}

#[test]
fn files_of_a_newer_version_are_named_and_left_alone() {
    let store = make();
    for file in files(store.path()) {
        let mut bytes = fs::read(&file).unwrap();
        bytes[4..8].copy_from_slice(&2_u32.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..36]).to_le_bytes();
        bytes[36..40].copy_from_slice(&checksum);
        let copy = TempDir::new().unwrap();
        script::copy(store.path(), copy.path());
        let place = copy.path().join(name(&file));
        fs::write(&place, &bytes).unwrap();
        for set_aside_damaged in [false, true] {
            let asked = Options { set_aside_damaged, ..options() };
            let Err(StoreError::Unusable(text)) = open(copy.path(), &asked) else {
                panic!("{}: a newer version was taken", name(&file));
            };
            assert!(text.contains(name(&file)) && text.contains("newer mpp"), "{text}");
        }
        assert!(fs::read(&place).unwrap() == bytes);
    }
}

#[test]
fn what_is_not_the_stores_is_left_alone() {
    let (store, oracle) = (make(), Oracle::new(LENGTH));
    for name in ["README", "journal-x.log", "snapshot-1.db.bak", "snapshot.new"] {
        fs::write(store.path().join(name), b"not ours").unwrap();
    }
    assert_eq!(recover(store.path(), &oracle, "strangers").unwrap(), LENGTH);
    assert!(store.path().join("README").exists());
}

#[test]
fn one_directory_serves_one_store() {
    let directory = TempDir::new().unwrap();
    let first = open(directory.path(), &options()).unwrap();
    let Err(StoreError::Locked(named)) = open(directory.path(), &options()) else {
        panic!("two stores on one directory");
    };
    assert_eq!(Path::new(&named), directory.path());
    drop(first);
    open(directory.path(), &options()).unwrap();
}
