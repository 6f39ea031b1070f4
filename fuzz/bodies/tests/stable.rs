//! The fuzz targets on a stable toolchain: each gets its seeds, then mutations of them from a fixed
//! seed, for a few seconds. What fails is printed as a Rust byte string, to become a named test.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, in its helpers as well"
)]

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::{Duration, Instant};

/// Each target runs for so long.
const TIME: Duration = Duration::from_secs(4);

/// A small generator of numbers that look random (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound.max(1) as u64).unwrap_or(0)
    }
}

/// Bytes that formats care about.
const ODD: [&[u8]; 12] =
    [b"\n\n", b"\n", b"\0", b"=", b"\r\n", b"@", b"\"", b"\xff\xfe", b"\xc3", b"[[", b"1 y", b"#"];

fn mutate(bytes: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        let to = (at + chance.below(24)).min(bytes.len());
        match chance.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            1 if at < bytes.len() => bytes[at] = u8::try_from(chance.below(256)).unwrap(),
            2 => drop(bytes.drain(at..to)),
            3 => drop(bytes.splice(at..at, ODD[chance.below(ODD.len())].iter().copied())),
            4 => {
                let copy = bytes[at..to].to_vec();
                let place = chance.below(bytes.len() + 1);
                drop(bytes.splice(place..place, copy));
            }
            5 => {
                let from = chance.below(other.len() + 1);
                let end = (from + chance.below(64)).min(other.len());
                drop(bytes.splice(at..to, other[from..end].iter().copied()));
            }
            6 => bytes.truncate(at),
            _ if bytes.len() < 200_000 && chance.below(50) == 0 => {
                let copy = bytes[at..to].repeat(4_000);
                drop(bytes.splice(at..at, copy));
            }
            _ => {}
        }
    }
}

fn run(name: &str, body: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds").join(name);
    let mut paths: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|it| it.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(!seeds.is_empty(), "no seeds for {name}");
    let check = |bytes: &[u8]| {
        let done = panic::catch_unwind(AssertUnwindSafe(|| body(bytes)));
        assert!(done.is_ok(), "the target `{name}` fails on b\"{}\"", bytes.escape_ascii());
    };
    for seed in &seeds {
        check(seed);
    }
    check(b"");
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let begun = Instant::now();
    let mut runs = 0_u32;
    while begun.elapsed() < TIME {
        let mut bytes = seeds[chance.below(seeds.len())].clone();
        let other = &seeds[chance.below(seeds.len())];
        mutate(&mut bytes, other, &mut chance);
        check(&bytes);
        runs += 1;
    }
    println!("{name}: {runs} inputs");
    assert!(runs > 20, "{name} is too slow to say anything: {runs} inputs");
}

#[test]
fn policy() {
    run("policy", mpp_fuzz_bodies::policy);
}

#[test]
fn policy_split() {
    run("policy_split", mpp_fuzz_bodies::policy_split);
}

#[test]
fn ldap() {
    run("ldap", mpp_fuzz_bodies::ldap);
}

#[test]
fn config() {
    run("config", mpp_fuzz_bodies::config);
}

#[test]
fn address() {
    run("address", mpp_fuzz_bodies::address);
}

#[test]
fn store() {
    run("store", mpp_fuzz_bodies::store);
}

#[test]
fn smtp() {
    run("smtp", mpp_fuzz_bodies::smtp);
}

#[test]
fn milter() {
    run("milter", mpp_fuzz_bodies::milter);
}

#[test]
fn milter_answer() {
    run("milter_answer", mpp_fuzz_bodies::milter_answer);
}

#[test]
fn smtp_server() {
    run("smtp_server", mpp_fuzz_bodies::smtp_server);
}

#[test]
fn proxy_protocol() {
    run("proxy_protocol", mpp_fuzz_bodies::proxy_protocol);
}

#[test]
fn spamd() {
    run("spamd", mpp_fuzz_bodies::spamd);
}

#[test]
fn clamd() {
    run("clamd", mpp_fuzz_bodies::clamd);
}

#[test]
fn resp() {
    run("resp", mpp_fuzz_bodies::resp);
}

#[test]
fn header() {
    run("header", mpp_fuzz_bodies::header);
}

#[test]
fn http() {
    run("http", mpp_fuzz_bodies::http);
}

#[test]
fn btree() {
    run("btree", mpp_fuzz_bodies::btree);
}
