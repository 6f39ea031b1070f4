//! Files of Berkeley DB that are cut, damaged or made up: what can be read is read, nothing panics or
//! hangs, and memory is bounded.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mpp_tests::real::address;
use mpp_tests::real::folder;
use mpp_tests::real::greylists::{Greylist, Kind};
use mpp_tests::real::policy::Client;
use serde_json::Value;

use crate::{MPP, mail, notes, number};

/// Addresses that an import may use, in KiB. It is more than it takes in memory.
const ADDRESSES_KIB: u32 = 400_000;
/// An import of such a small file may take so long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Imports from a directory without writing: the report, or what it says.
fn import(directory: &Path) -> Result<Value, String> {
    let begun = Instant::now();
    let limited = format!("ulimit -v {ADDRESSES_KIB}; exec timeout 60 \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &limited, MPP, "store", "import", "--from", "postgrey", "--dry-run", "--json"])
        .arg("--directory")
        .arg(directory)
        .arg("--state")
        .arg(directory.join("state"))
        .output()
        .unwrap();
    assert!(begun.elapsed() < PATIENCE, "it took {:?}", begun.elapsed());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        Some(1) if said.starts_with("error: ") => Err(said),
        status => panic!("{status:?}: {said}"),
    }
}

/// What a real postgrey wrote of so many first tries.
fn written(tries: u32) -> Vec<u8> {
    let mut old = Greylist::start(Kind::Postgrey(&[]), &address());
    let mut client = Client::new(&old.address());
    for number in 0..tries {
        let address = format!("10.{}.{}.7", number / 250, number % 250);
        let long = "x".repeat(if number % 100 == 0 { 200 } else { 5 });
        client.ask(&mail(&address, "unknown", &format!("{long}@d{number}.example")));
    }
    old.stop();
    fs::read(old.directory().join("postgrey.db")).unwrap()
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

#[test]
fn damaged_and_cut_files_harm_nobody() {
    const TRIES: u32 = 600;
    let whole = written(TRIES);
    let place = folder();
    let file = place.path().join("postgrey.db");
    let read = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        import(place.path())
    };
    let report = read(&whole).unwrap();
    assert_eq!(number(&report, "/first_tries/entries"), u64::from(TRIES), "{report}");
    assert_eq!(notes(&report).matches("is damaged").count(), 0, "{report}");
    for end in [0, 1, 511, 512, 4095, 4096, 4097, 10_000, whole.len() / 2, whole.len() - 1] {
        match read(&whole[..end]) {
            Ok(report) => {
                assert!(end == 0 || notes(&report).contains("shorter"), "{end}: {report}");
                assert!(number(&report, "/lines") <= u64::from(TRIES), "{end}: {report}");
            }
            Err(said) => assert!(end < 512 && said.contains("cut off"), "{end}: {said}"),
        }
    }
    let mut chance = Chance(4711);
    for _ in 0..60 {
        let mut bytes = whole.clone();
        for _ in 0..=chance.below(200) {
            // The first page seldom, since what it does not allow is refused at once.
            let from = if chance.below(20) == 0 { 0 } else { 4096 };
            let at = from + chance.below(bytes.len() - from);
            bytes[at] = u8::try_from(chance.below(256)).unwrap();
        }
        if let Ok(report) = read(&bytes) {
            assert!(number(&report, "/lines") <= 3 * u64::from(TRIES), "{report}");
        }
    }
    for other in [&b"SQLite format 3\0"[..], b"#!/bin/sh\n", &[0; 9000], &[255; 9000]] {
        let said = read(other).unwrap_err();
        assert!(said.contains("btree") || said.contains("cut off"), "{said}");
    }
    fs::remove_file(&file).unwrap();
    let said = import(place.path()).unwrap_err();
    assert!(said.contains("there is no postgrey.db"), "{said}");
}

/// A file that a stranger made: every item of every leaf is the same long chain of pages.
#[test]
fn made_up_chains_of_pages_end() {
    const PAGE: usize = 512;
    const PAGES: u32 = 2000;
    let mut file = vec![0; PAGE];
    for (at, number) in [(12, 0x0005_3162), (16, 9), (20, 512), (32, PAGES - 1)] {
        file[at..at + 4].copy_from_slice(&u32::to_le_bytes(number));
    }
    file[25] = 9;
    for number in 1..PAGES {
        let mut page = vec![0; PAGE];
        page[8..12].copy_from_slice(&number.to_le_bytes());
        if number == 1 {
            // One byte, then itself again.
            page[16..20].copy_from_slice(&1_u32.to_le_bytes());
            (page[22], page[25]) = (1, 7);
        } else {
            (page[20], page[25]) = (200, 5);
            for place in 0..200 {
                page[26 + place * 2..28 + place * 2].copy_from_slice(&500_u16.to_le_bytes());
            }
            page[502] = 3;
            page[504] = 1;
            page[508..512].copy_from_slice(&60_000_u32.to_le_bytes());
        }
        file.extend(page);
    }
    let place = folder();
    fs::write(place.path().join("postgrey.db"), file).unwrap();
    let report = import(place.path()).unwrap();
    assert_eq!(number(&report, "/lines"), 0, "{report}");
    assert!(notes(&report).contains("is damaged"), "{report}");
}
