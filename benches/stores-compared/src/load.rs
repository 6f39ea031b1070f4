//! The load: nine of ten decisions are about a triplet that nobody has seen, each reads and writes
//! three small entries, and for each entry that comes one runs out.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

/// The virtual time of decision 0. Decision n is n milliseconds later.
pub const T0: u64 = 1_795_528_230_000;
/// Changes are made durable this often.
pub const COMMIT_EVERY: Duration = Duration::from_millis(50);
/// Triplets that come back.
const HOT: u64 = 10_000;
/// Clients with a history, and with a count.
const CLIENTS: u64 = 50_000;

/// The tables of a library store.
#[derive(Clone, Copy)]
pub enum Table {
    /// Key of a triplet: when it came first, how often too early.
    Grey,
    /// Key of a client: weights and time.
    History,
    /// Key of a client: two windows.
    Count,
    /// When an entry runs out: its key.
    Ends,
}

pub const TABLES: [&str; 4] = ["grey", "history", "count", "ends"];

/// What the load needs of a library store.
pub trait Tables {
    fn get(&mut self, table: Table, key: u64, value: &mut Vec<u8>) -> bool;
    fn put(&mut self, table: Table, key: u64, value: &[u8]);
    fn delete(&mut self, table: Table, key: u64);
}

/// What the load needs of ours.
pub trait Decide {
    fn decide(&mut self, now_ms: u64, triplet: u64, client: u64, keep_ms: u64);
}

/// A bijection that spreads numbers as hashes are.
pub fn hash(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The key of the triplet that decision `number` is about.
pub fn triplet(number: u64) -> u64 {
    if is_new(number) { hash(number) } else { hash(u64::MAX - hash(number) % HOT) }
}

fn is_new(number: u64) -> bool {
    number % 10 != 9
}

fn client(number: u64) -> u64 {
    hash(hash(number ^ 0x5555) % CLIENTS)
}

/// How the decisions of a phase went.
pub struct Load {
    /// The next decision.
    pub next: u64,
    /// The first one that is no longer made.
    pub end: u64,
    /// Entries that are held.
    pub live: u64,
    until: Option<Instant>,
    begun: Instant,
    ended: Instant,
    committed: Instant,
    waited: Duration,
    progress: Option<File>,
    /// Nanoseconds in steps of a sixteenth.
    histogram: Vec<u64>,
    max: Duration,
    first: u64,
}

impl Load {
    pub fn new(next: u64, end: u64, live: u64, seconds: Option<u64>) -> Self {
        let now = Instant::now();
        Self {
            next,
            end,
            live,
            until: seconds.map(|seconds| now + Duration::from_secs(seconds)),
            begun: now,
            ended: now,
            committed: now,
            waited: Duration::ZERO,
            progress: None,
            histogram: vec![0; 1024],
            max: Duration::ZERO,
            first: next,
        }
    }

    /// Writes the number of each decision to a file when it is made.
    pub fn note_progress(&mut self, file: File) {
        self.progress = Some(file);
    }

    pub fn is_done(&self) -> bool {
        self.next >= self.end || self.until.is_some_and(|until| self.committed >= until)
    }

    /// Makes one decision. False: make the changes durable now, then call [`Load::waited`].
    pub fn step(&mut self, make: impl FnOnce(u64)) -> bool {
        if self.next >= self.end {
            return false;
        }
        let begun = Instant::now();
        make(self.next);
        let now = Instant::now();
        let took = now - begun + std::mem::take(&mut self.waited);
        if let Some(file) = &self.progress {
            file.write_all_at(&self.next.to_le_bytes(), 0).expect("progress");
        }
        self.next += 1;
        self.max = self.max.max(took);
        self.histogram[slot(took)] += 1;
        now < self.committed + COMMIT_EVERY
    }

    /// The changes have become durable, and the next decision had to wait for that.
    pub fn waited(&mut self, begun: Instant) {
        self.committed = Instant::now();
        self.ended = self.committed;
        self.waited += self.committed - begun;
    }

    /// What a library store does for a decision, and for the entry that runs out meanwhile.
    pub fn decide(tables: &mut impl Tables, number: u64, live: u64) {
        let now_ms = T0 + number;
        let (triplet, client) = (triplet(number), client(number));
        let mut value = Vec::with_capacity(24);
        if tables.get(Table::Grey, triplet, &mut value) {
            value[7] = value[7].saturating_add(1);
            tables.put(Table::Grey, triplet, &value);
        } else {
            value = now_ms.to_be_bytes().to_vec();
            tables.put(Table::Grey, triplet, &value);
            if is_new(number) {
                tables.put(Table::Ends, number, &triplet.to_be_bytes());
            }
        }
        for table in [Table::History, Table::Count] {
            let had = tables.get(table, client, &mut value);
            value.resize(16, 0);
            value[..8].copy_from_slice(&now_ms.to_be_bytes());
            value[15] = if had { value[15].wrapping_add(1) } else { 1 };
            tables.put(table, client, &value);
        }
        if let Some(over) = number.checked_sub(live).filter(|over| is_new(*over)) {
            if tables.get(Table::Ends, over, &mut value) {
                tables.delete(Table::Ends, over);
                tables.delete(Table::Grey, u64::from_be_bytes(value[..8].try_into().unwrap()));
            }
        }
    }

    /// What ours does.
    pub fn decide_ours(ours: &mut impl Decide, number: u64, live: u64) {
        let keep_ms = if is_new(number) { live } else { live * 1_000 };
        ours.decide(T0 + number, triplet(number), client(number), keep_ms);
    }

    /// Decisions a second, then p50, p99, p99.9 and the longest in microseconds.
    pub fn figures(&self) -> [f64; 5] {
        let count = self.next - self.first;
        let rate = count as f64 / (self.ended - self.begun).as_secs_f64();
        let share = |share: f64| {
            let wanted = (count as f64 * share) as u64;
            let mut sum = 0;
            let at = self.histogram.iter().position(|held| {
                sum += held;
                sum > wanted
            });
            at.map_or(0.0, |at| nanoseconds(at) / 1e3)
        };
        [rate, share(0.5), share(0.99), share(0.999), self.max.as_secs_f64() * 1e6]
    }
}

fn slot(took: Duration) -> usize {
    let nanoseconds = (took.as_nanos() as u64).max(16);
    let power = nanoseconds.ilog2();
    (power as usize * 16 + (nanoseconds >> (power - 4) & 15) as usize).min(1023)
}

fn nanoseconds(slot: usize) -> f64 {
    (1.0 + (slot % 16) as f64 / 16.0) * 2_f64.powi((slot / 16) as i32)
}
