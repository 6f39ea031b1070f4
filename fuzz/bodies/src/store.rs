//! Store files of arbitrary bytes: the store opens or says what is damaged, and if asked to set
//! that aside it always opens, works and comes back.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mpp_engine::question::{Answer, Effect, Key, Question, Shelf};
use mpp_hub::store::{Store, StoreError};
use mpp_stores::embedded::{self, EmbeddedStore, Options};

const NOW_MS: u64 = 1_795_528_230_007;
const JOURNAL: &str = "journal-0000000001.log";
const SNAPSHOT: &str = "snapshot-0000000001.db";

/// The bytes are files as they are, or what a file with good checksums holds: the first byte says
/// which.
pub fn store(bytes: &[u8]) {
    let Some((form, bytes)) = bytes.split_first() else { return };
    // Memory, where there is such a place: a disk would make it slow.
    let place = Path::new("/dev/shm");
    let made = if place.is_dir() { tempfile::tempdir_in(place) } else { tempfile::tempdir() };
    let Ok(directory) = made else { return };
    let path = directory.path();
    let write = |name: &str, bytes: &[u8]| {
        assert!(fs::write(path.join(name), bytes).is_ok(), "no room to fuzz in");
    };
    match form % 4 {
        0 => write(JOURNAL, bytes),
        1 => write(JOURNAL, &[head(*b"mppJ"), frame(0, bytes)].concat()),
        2 => {
            write(SNAPSHOT, bytes);
            write(JOURNAL, &head(*b"mppJ"));
        }
        _ => {
            let end = frame(u64::MAX, &1_u64.to_le_bytes());
            write(SNAPSHOT, &[head(*b"mppS"), frame(0, bytes), end].concat());
            write(JOURNAL, &head(*b"mppJ"));
        }
    }
    let is_sound = match open(path, false) {
        Ok(store) => {
            work(&store);
            true
        }
        Err(StoreError::Damaged { file, .. }) => {
            assert!(Path::new(&file).starts_with(path), "{file} is not one of ours");
            false
        }
        Err(error) => {
            assert!(error.to_string().contains("newer mpp"), "{error}");
            return;
        }
    };
    if !is_sound {
        let opened = open(path, true);
        assert!(opened.is_ok(), "set aside, but {:?}", opened.err());
        opened.iter().for_each(work);
    }
    let again = open(path, false);
    assert!(again.is_ok(), "worked, but came back as {:?}", again.err());
    assert!(again.is_ok_and(|store| is_known(&*store)), "what was settled is gone");
}

fn open(path: &Path, set_aside_damaged: bool) -> Result<Arc<EmbeddedStore>, StoreError> {
    let commit_every = Duration::from_millis(50);
    embedded::open(path, &Options { commit_every, set_aside_damaged, seed: Some(7) })
}

fn work(store: &Arc<EmbeddedStore>) {
    let (shelf, key) = (Shelf::Proven, Key(0x0123_4567_89ab_cdef));
    store.perform(
        NOW_MS,
        &[Effect::Remember { shelf, key, keep_ms: 3_600_000, again: true, mark: 0 }],
    );
    assert!(is_known(&**store));
    assert!(store.settle().is_ok());
    for block in store.blocks(NOW_MS, 10) {
        assert!(block.block.until_ms > NOW_MS);
    }
    store.expire(NOW_MS);
    assert!(store.compact().is_ok());
    assert!(store.counts().disk_bytes > 0);
}

fn is_known(store: &dyn Store) -> bool {
    let question = Question::Since { shelf: Shelf::Proven, key: Key(0x0123_4567_89ab_cdef) };
    let mut answers = Vec::new();
    assert!(store.ask(NOW_MS, &[question], &mut answers).is_none());
    matches!(answers.first(), Some(Answer::Since(Some(_))))
}

/// The head of file number 1 of a store with seed 7.
fn head(magic: [u8; 4]) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    bytes.extend_from_slice(&1_u32.to_le_bytes());
    for number in [7_u64, 1, 0] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&0_u32.to_le_bytes());
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

fn frame(number: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"mppF".to_vec();
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(0).to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}
