//! What is remembered beside points in time: counts, sets, histories, blocks.
//!
//! They are few beside the drones, but a flood can bring one or two for each of its hosts, so
//! counts and histories are compact as well: 24 bytes each. They are divided into many parts by the
//! first bits of the key; a part is saved, swept and grown in one go.

use hashbrown::HashMap;
use mpp_engine::question::{
    Block, Counted, DISTINCT_MAX, HISTORY_HALF_LIFE_MS, HISTORY_LEAST, History, IdentityKind, Key,
    Lesson, STRIKES_KEEP_MS, Subject,
};

use crate::moments::holds;
use crate::ordered::{Ordered, Slot};
use crate::record::{Bytes, Record, push_u32, push_u48, push_u64};
use crate::tally::{Bucket, Counter, Tally};

/// How many parts there are, as a power of two.
pub(crate) const PART_BITS: u32 = 10;
/// How many parts there are.
pub(crate) const PARTS: usize = 1 << PART_BITS;

/// Histories know time in steps of so many milliseconds.
const STEP_MS: u64 = 1_000;

/// Which part a key belongs to.
pub(crate) fn part_of(key: Key) -> usize {
    usize::try_from(key.0 >> (64 - PART_BITS)).unwrap_or(0)
}

/// One part.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    counters: Ordered<Counter>,
    histories: Ordered<Known>,
    sets: HashMap<u64, Set>,
    pub(crate) blocks: HashMap<(IdentityKind, Key), (Subject, Block)>,
    /// Records up to this number are in it, as far as they change by differences.
    applied: u64,
}

/// A set of different members within a window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Set {
    /// Fingerprint and time of each, oldest first.
    pub(crate) members: Vec<(u64, u64)>,
    pub(crate) per_ms: u64,
}

impl Set {
    /// Adds a member, or makes it new.
    pub(crate) fn add(&mut self, member: u64, per_ms: u64, at_ms: u64) {
        self.per_ms = per_ms;
        self.members
            .retain(|(other, since_ms)| *other != member && holds(*since_ms, per_ms, at_ms));
        if self.members.len() < DISTINCT_MAX {
            self.members.push((member, at_ms));
        }
    }

    /// How many members it has, and when the first of them leaves.
    pub(crate) fn counted(&self, now_ms: u64, per_ms: u64) -> Counted {
        let mut counted = Counted { granted: true, ..Counted::default() };
        for (_, at_ms) in self.members.iter().filter(|(_, at_ms)| holds(*at_ms, per_ms, now_ms)) {
            let leaves_ms = at_ms.saturating_add(per_ms);
            counted.used += 1;
            if counted.frees_at_ms == 0 || leaves_ms < counted.frees_at_ms {
                counted.frees_at_ms = leaves_ms;
            }
        }
        counted
    }

    /// Whether a member counts now.
    pub(crate) fn is_held(&self, now_ms: u64) -> bool {
        self.members.iter().any(|(_, at_ms)| holds(*at_ms, self.per_ms, now_ms))
    }
}

/// What is known of an identity, as it lies in a table.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    pub(crate) print: u64,
    pub(crate) weights: [f32; 3],
    /// In steps since 1970, at least 1.
    pub(crate) at: u32,
}

impl Known {
    fn at_ms(&self) -> u64 {
        u64::from(self.at) * STEP_MS
    }

    pub(crate) fn history(&self, now_ms: u64) -> History {
        let [clean, spam, bad] = self.weights;
        decayed(History { clean, spam, bad }, self.at_ms(), now_ms)
    }

    pub(crate) fn learn(&mut self, lesson: Lesson, weight: f32, now_ms: u64) {
        let at = u32::try_from(now_ms / STEP_MS).unwrap_or(u32::MAX).max(self.at).max(1);
        let History { clean, spam, bad } = self.history(u64::from(at) * STEP_MS);
        self.at = at;
        self.weights = [clean, spam, bad];
        if let Some(of) = self.weights.get_mut(lesson as usize) {
            *of += weight;
        }
    }
}

impl Slot for Known {
    const BITS: u32 = 64;

    fn print(&self) -> u64 {
        self.print
    }

    fn is_empty(&self) -> bool {
        self.at == 0
    }

    fn ends_ms(&self) -> u64 {
        let sum: f32 = self.weights.iter().sum();
        let half_lives = (sum / HISTORY_LEAST).log2().clamp(0.0, 1_000.0);
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and a thousand half-lives, and to the millisecond it does not matter"
        )]
        let lasts_ms = (half_lives * HISTORY_HALF_LIFE_MS as f32) as u64;
        self.at_ms() + lasts_ms
    }
}

/// What is left of a history after a time.
pub(crate) fn decayed(history: History, at_ms: u64, now_ms: u64) -> History {
    #[allow(clippy::cast_precision_loss, reason = "a factor between 0 and 1")]
    let half_lives = now_ms.saturating_sub(at_ms) as f32 / HISTORY_HALF_LIFE_MS as f32;
    let factor = 0.5_f32.powf(half_lives);
    let [clean, spam, bad] = [history.clean, history.spam, history.bad].map(|part| part * factor);
    if clean + spam + bad < HISTORY_LEAST {
        return History::default();
    }
    History { clean, spam, bad }
}

/// The fingerprint of a key within its part.
fn print_of(key: Key) -> u64 {
    key.0 << PART_BITS
}

impl Part {
    /// What a count holds.
    pub(crate) fn used(&self, now_ms: u64, key: Key, per_ms: u64) -> Counted {
        match self.counters.get(print_of(key)) {
            Some(counter) => counter.tally.used(now_ms, per_ms),
            None => Counted { granted: true, ..Counted::default() },
        }
    }

    /// How many members a set has.
    pub(crate) fn members(&self, now_ms: u64, key: Key, per_ms: u64) -> Counted {
        let nothing = Counted { granted: true, ..Counted::default() };
        self.sets.get(&key.0).map_or(nothing, |set| set.counted(now_ms, per_ms))
    }

    /// What is known of an identity.
    pub(crate) fn history(&self, now_ms: u64, key: Key) -> History {
        let known = self.histories.get(print_of(key));
        known.map_or_else(History::default, |known| known.history(now_ms))
    }

    /// Applies a record of that number, unless it is in it already. What is old may be dropped as
    /// of `now_ms` where there is need of room.
    pub(crate) fn apply(&mut self, record: &Record, number: u64, now_ms: u64) {
        if number <= self.applied {
            return;
        }
        self.applied = number;
        match *record {
            Record::Count { key, per_ms, at_ms, amount } => {
                let print = print_of(key);
                let add = |tally: &mut Tally| tally.add(at_ms, per_ms, u64::from(amount));
                if !self.counters.change(print, |counter| add(&mut counter.tally)) {
                    let mut tally = Tally::Empty;
                    add(&mut tally);
                    self.counters.set(Counter { print, tally }, now_ms);
                }
            }
            Record::GiveBack { key, at_ms, amount } => {
                let give_back = |counter: &mut Counter| {
                    counter.tally.give_back(at_ms, u64::from(amount));
                };
                self.counters.change(print_of(key), give_back);
            }
            Record::Member { key, member, per_ms, at_ms } => {
                self.sets.entry(key.0).or_default().add(member, per_ms, at_ms);
            }
            Record::Observe { key, lesson, weight, at_ms } => {
                let print = print_of(key);
                if !self.histories.change(print, |known| known.learn(lesson, weight, at_ms)) {
                    let mut known = Known { print, ..Known::default() };
                    known.learn(lesson, weight, at_ms);
                    self.histories.set(known, now_ms);
                }
            }
            Record::Moment { .. }
            | Record::Forget { .. }
            | Record::Block { .. }
            | Record::Unblock { .. } => {}
        }
    }

    /// The number of the last record that changed it by a difference.
    pub(crate) fn applied(&self) -> u64 {
        self.applied
    }

    /// Drops what has run out; returns how much, and names the kinds of blocks among it.
    pub(crate) fn sweep(&mut self, now_ms: u64, mut gone: impl FnMut(IdentityKind)) -> u64 {
        let before = self.sets.len() + self.blocks.len();
        let swept = self.counters.sweep(now_ms) + self.histories.sweep(now_ms);
        self.sets.retain(|_, set| set.is_held(now_ms));
        self.blocks.retain(|(kind, _), (_, block)| {
            let stays = now_ms < block.until_ms.saturating_add(STRIKES_KEEP_MS);
            if !stays {
                gone(*kind);
            }
            stays
        });
        shrink(&mut self.sets);
        shrink(&mut self.blocks);
        (before + swept - self.sets.len() - self.blocks.len()) as u64
    }

    /// How many counts and sets it holds, how many histories, and how many bytes they take.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let sets = self.sets.capacity() * size_of::<(u64, Set)>() + self.sets.len() * 64;
        let blocks = self.blocks.capacity() * size_of::<(IdentityKind, Key, Subject, Block)>();
        let bytes = self.counters.bytes() + self.histories.bytes() + sets + blocks;
        (self.counters.len() + self.sets.len(), self.histories.len(), bytes)
    }

    /// Appends all of it.
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        let count = |count: usize, out: &mut Vec<u8>| {
            push_u32(u32::try_from(count).unwrap_or(u32::MAX), out);
        };
        push_u64(self.applied, out);
        count(self.counters.len(), out);
        for Counter { print, tally } in self.counters.iter() {
            push_u64(*print, out);
            push_u48(tally.per_ms(), out);
            out.push(u8::try_from(tally.buckets().count()).unwrap_or(u8::MAX));
            for bucket in tally.buckets() {
                push_u48(bucket.last_ms, out);
                push_u64(bucket.amount, out);
            }
        }
        count(self.histories.len(), out);
        for known in self.histories.iter() {
            push_u64(known.print, out);
            push_u32(known.at, out);
            for weight in known.weights {
                out.extend_from_slice(&weight.to_le_bytes());
            }
        }
        count(self.sets.len(), out);
        for (key, set) in &self.sets {
            push_u64(*key, out);
            push_u48(set.per_ms, out);
            out.push(u8::try_from(set.members.len()).unwrap_or(u8::MAX));
            for (member, at_ms) in &set.members {
                push_u64(*member, out);
                push_u48(*at_ms, out);
            }
        }
        for ((kind, key), (subject, block)) in &self.blocks {
            let (kind, key, block) = (*kind, *key, *block);
            Record::Block { kind, key, block, subject: subject.clone() }.push(out);
        }
    }

    /// Appends what has not run out as records for another store. Histories are as of now.
    pub(crate) fn export(&self, number: usize, now_ms: u64, out: &mut Vec<Record>) {
        let key_of = |print: u64| Key(print >> PART_BITS | (number as u64) << (64 - PART_BITS));
        for Counter { print, tally } in self.counters.iter() {
            let per_ms = tally.per_ms();
            for Bucket { last_ms, amount } in tally.buckets() {
                if amount > 0 && holds(last_ms, per_ms, now_ms) {
                    let amount = u32::try_from(amount).unwrap_or(u32::MAX);
                    out.push(Record::Count { key: key_of(*print), per_ms, at_ms: last_ms, amount });
                }
            }
        }
        for known in self.histories.iter() {
            let History { clean, spam, bad } = known.history(now_ms);
            let lessons = [(Lesson::Clean, clean), (Lesson::Spam, spam), (Lesson::Bad, bad)];
            for (lesson, weight) in lessons.into_iter().filter(|(_, weight)| *weight > 0.0) {
                out.push(Record::Observe {
                    key: key_of(known.print),
                    lesson,
                    weight,
                    at_ms: now_ms,
                });
            }
        }
        for (key, set) in &self.sets {
            for (member, at_ms) in &set.members {
                if holds(*at_ms, set.per_ms, now_ms) {
                    let (key, per_ms) = (Key(*key), set.per_ms);
                    out.push(Record::Member { key, member: *member, per_ms, at_ms: *at_ms });
                }
            }
        }
        for ((kind, key), (subject, block)) in &self.blocks {
            let (kind, key, block) = (*kind, *key, *block);
            out.push(Record::Block { kind, key, block, subject: subject.clone() });
        }
    }

    /// Whether there is anything to save.
    pub(crate) fn is_empty(&self) -> bool {
        self.applied == 0 && self.blocks.is_empty()
    }

    /// Reads what [`Part::save`] wrote; nothing if that is not what it is.
    pub(crate) fn load(saved: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(saved);
        let mut part = Self { applied: bytes.u64()?, ..Self::default() };
        let mut counters = Vec::new();
        for _ in 0..bytes.u32()? {
            let (print, per_ms) = (bytes.u64()?, bytes.u48()?);
            let mut buckets = Vec::new();
            for _ in 0..bytes.u8()? {
                buckets.push(Bucket { last_ms: bytes.u48()?, amount: bytes.u64()? });
            }
            counters.push(Counter { print, tally: Tally::from_buckets(buckets, per_ms) });
        }
        part.counters = Ordered::from_sorted(counters.into_iter())?;
        let mut histories = Vec::new();
        for _ in 0..bytes.u32()? {
            let (print, at) = (bytes.u64()?, bytes.u32()?);
            histories.push(Known {
                print,
                at,
                weights: [bytes.f32()?, bytes.f32()?, bytes.f32()?],
            });
        }
        part.histories = Ordered::from_sorted(histories.into_iter())?;
        for _ in 0..bytes.u32()? {
            let (key, per_ms) = (bytes.u64()?, bytes.u48()?);
            let mut members = Vec::new();
            for _ in 0..bytes.u8()? {
                members.push((bytes.u64()?, bytes.u48()?));
            }
            part.sets.insert(key, Set { members, per_ms });
        }
        while !bytes.0.is_empty() {
            let Record::Block { kind, key, block, subject } = Record::take(&mut bytes)? else {
                return None;
            };
            part.blocks.insert((kind, key), (subject, block));
        }
        Some(part)
    }
}

/// Gives memory back when most of a table is free.
fn shrink<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > 32 && map.len() < map.capacity() / 4 {
        map.shrink_to(map.len() * 2);
    }
}
