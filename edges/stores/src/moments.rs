//! Points in time by key, in twelve bytes each.
//!
//! A flood of drones fills this table, so an entry is as small as it can be: of the key only what
//! the place does not tell, the time, how long to keep it, and how often it was tried. The table is
//! many small ordered ones ([`crate::ordered`]), chosen by the first bits of the key.

use mpp_engine::question::{Key, Moment, Shelf};

use crate::ordered::{Ordered, Slot};
use crate::record::Record;

/// Bits of the fingerprint within a shard: with 2^12 shards 54 bits of a key tell it apart, so with
/// ten million entries one new key in 10^9 is taken for a known one.
pub(crate) const PRINT_BITS: u32 = 42;
/// Bits of a time in milliseconds: good until the year 2109.
const TIME_BITS: u32 = 42;

/// One entry: fingerprint 42 bits, time 42, class 8, tries 4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry([u32; 3]);

/// An entry on disk, in bytes.
pub(crate) const ENTRY_BYTES: usize = 12;

impl Entry {
    fn new(print: u64, at_ms: u64, class: u8, tries: u8) -> Self {
        // No entry is at time 0: that is what an empty slot looks like.
        let at = at_ms.clamp(1, (1 << TIME_BITS) - 1);
        let whole = u128::from(print) << (96 - PRINT_BITS)
            | u128::from(at) << 12
            | u128::from(class) << 4
            | u128::from(tries.min(15));
        Self([low(whole >> 64), low(whole >> 32), low(whole)])
    }

    fn at_ms(self) -> u64 {
        let [_, middle, low] = self.0;
        (u64::from(middle) << 32 | u64::from(low)) >> 12 & ((1 << TIME_BITS) - 1)
    }

    fn class(self) -> u8 {
        let [.., low] = self.0;
        (low >> 4 & 0xff) as u8
    }

    fn tries(self) -> u8 {
        let [.., low] = self.0;
        (low & 15) as u8
    }

    fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        for (place, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            *place = word.to_be_bytes();
        }
        bytes
    }

    fn from_bytes(bytes: [u8; ENTRY_BYTES]) -> Self {
        let mut words = [0; 3];
        for (word, place) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_be_bytes(*place);
        }
        Self(words)
    }
}

impl Slot for Entry {
    const BITS: u32 = PRINT_BITS;

    fn print(&self) -> u64 {
        let [high, middle, _] = self.0;
        (u64::from(high) << 32 | u64::from(middle)) >> (64 - PRINT_BITS)
    }

    fn is_empty(&self) -> bool {
        self.0 == [0; 3]
    }

    fn ends_ms(&self) -> u64 {
        self.at_ms().saturating_add(keep_of(self.class()))
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the low 32 bits are what is wanted")]
fn low(whole: u128) -> u32 {
    whole as u32
}

/// How long class 0 is kept, in milliseconds, and by how much each further class longer.
const CLASS_ZERO_MS: f64 = 1_000.0;
const CLASS_RATIO: f64 = 1.09;

/// The class that keeps at least so long, and at most nine percent longer (or a second).
pub(crate) fn class_of(keep_ms: u64) -> u8 {
    CLASSES.partition_point(|kept| *kept < keep_ms).min(255).try_into().unwrap_or(u8::MAX)
}

/// How long a class is kept, in milliseconds.
pub(crate) fn keep_of(class: u8) -> u64 {
    CLASSES.get(usize::from(class)).copied().unwrap_or(u64::MAX)
}

static CLASSES: [u64; 256] = classes();

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    reason = "worked out by the compiler, which would stop at a slip"
)]
const fn classes() -> [u64; 256] {
    let mut classes = [0; 256];
    let mut value = CLASS_ZERO_MS;
    let mut class = 0;
    while class < 256 {
        classes[class] = value as u64;
        value *= CLASS_RATIO;
        class += 1;
    }
    classes
}

/// Whether something of `at_ms` that counts for `length_ms` counts now. What claims to be of a time
/// further ahead than that was noted while the clock was wrong, and must not count for years.
pub(crate) fn holds(at_ms: u64, length_ms: u64, now_ms: u64) -> bool {
    now_ms < at_ms.saturating_add(length_ms) && at_ms <= now_ms.saturating_add(length_ms)
}

/// A table of points in time.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    shards: Vec<Ordered<Entry>>,
    shard_bits: u32,
    entries: usize,
}

impl Moments {
    /// An empty table of 2^`shard_bits` shards.
    pub(crate) fn new(shard_bits: u32) -> Self {
        Self { shards: vec![Ordered::default(); 1 << shard_bits], shard_bits, entries: 0 }
    }

    fn place(&self, key: Key) -> (usize, u64) {
        let shard = usize::try_from(key.0.unbounded_shr(64 - self.shard_bits)).unwrap_or(0);
        (shard, key.0 << self.shard_bits >> (64 - PRINT_BITS))
    }

    fn entry(&self, key: Key) -> Option<Entry> {
        let (shard, print) = self.place(key);
        self.shards.get(shard)?.get(print).copied()
    }

    /// What is remembered of a key at a time.
    pub(crate) fn get(&self, key: Key, now_ms: u64) -> Option<Moment> {
        let entry = self.entry(key)?;
        let (at_ms, keep_ms) = (entry.at_ms(), keep_of(entry.class()));
        holds(at_ms, keep_ms, now_ms).then(|| Moment { at_ms, tries: entry.tries() })
    }

    /// The class of a key's entry, run out or not.
    pub(crate) fn class(&self, key: Key) -> Option<u8> {
        Some(self.entry(key)?.class())
    }

    /// Remembers a key in place of what was remembered of it.
    pub(crate) fn set(&mut self, key: Key, moment: Moment, class: u8, now_ms: u64) {
        let (shard, print) = self.place(key);
        if let Some(shard) = self.shards.get_mut(shard) {
            let before = shard.len();
            shard.set(Entry::new(print, moment.at_ms, class, moment.tries), now_ms);
            self.entries = self.entries + shard.len() - before;
        }
    }

    /// Forgets a key.
    pub(crate) fn remove(&mut self, key: Key) {
        let (shard, print) = self.place(key);
        if self.shards.get_mut(shard).is_some_and(|shard| shard.remove(print)) {
            self.entries -= 1;
        }
    }

    /// Drops what has run out of one shard; returns how much.
    pub(crate) fn sweep(&mut self, shard: usize, now_ms: u64) -> u64 {
        let Some(shard) = self.shards.get_mut(shard) else { return 0 };
        let dropped = shard.sweep(now_ms);
        self.entries -= dropped;
        dropped as u64
    }

    /// How many shards there are.
    pub(crate) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// How many entries it holds; some may have run out.
    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    /// Bytes of memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        let slots: usize = self.shards.iter().map(Ordered::bytes).sum();
        slots + self.shards.capacity() * size_of::<Ordered<Entry>>()
    }

    /// Appends the entries of a shard that have not run out, in order.
    pub(crate) fn save(&self, shard: usize, now_ms: u64, out: &mut Vec<u8>) {
        let Some(shard) = self.shards.get(shard) else { return };
        out.reserve(shard.len() * ENTRY_BYTES);
        for entry in shard.iter().filter(|entry| now_ms < entry.ends_ms()) {
            out.extend_from_slice(&entry.to_bytes());
        }
    }

    /// Appends the entries of a shard that have not run out as records, with as much of their keys as
    /// is known.
    pub(crate) fn export(
        &self,
        shard: usize,
        (shelf, now_ms): (Shelf, u64),
        out: &mut Vec<Record>,
    ) {
        let Some(entries) = self.shards.get(shard) else { return };
        let place = (shard as u64) << PRINT_BITS;
        for entry in entries.iter().filter(|entry| now_ms < entry.ends_ms()) {
            let known = place | entry.print();
            let key = Key(known << (64 - PRINT_BITS - self.shard_bits));
            let moment = Moment { at_ms: entry.at_ms(), tries: entry.tries() };
            out.push(Record::Moment { shelf, key, moment, class: entry.class() });
        }
    }

    /// Puts saved entries in place of a shard. False if they are not what [`Moments::save`] gave.
    pub(crate) fn load(&mut self, shard: usize, saved: &[u8]) -> bool {
        let (entries, rest) = saved.as_chunks::<ENTRY_BYTES>();
        let loaded = Ordered::from_sorted(entries.iter().map(|bytes| Entry::from_bytes(*bytes)));
        let (Some(place), Some(loaded), true) =
            (self.shards.get_mut(shard), loaded, rest.is_empty())
        else {
            return false;
        };
        self.entries = self.entries + loaded.len() - place.len();
        *place = loaded;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(at_ms: u64, tries: u8) -> Moment {
        Moment { at_ms, tries }
    }

    /// A made-up key; different for each number.
    fn key(number: u64) -> Key {
        Key(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[test]
    fn classes_keep_at_least_as_long_and_at_most_a_tenth_longer() {
        for keep_ms in [1_000, 1_001, 60_000, 86_400_000, 35 * 86_400_000, 36_600 * 86_400_000] {
            let kept = keep_of(class_of(keep_ms));
            assert!(kept >= keep_ms && kept <= keep_ms + keep_ms / 10, "{keep_ms}: {kept}");
        }
        assert_eq!(class_of(0), 0);
        assert_eq!(class_of(u64::MAX), 255);
    }

    #[test]
    fn an_entry_keeps_what_it_was_given() {
        let last = (1 << PRINT_BITS) - 1;
        for (print, at_ms, class, tries) in
            [(0, 1, 0, 0), (last, 1_795_528_230_007, 255, 15), (12_345, 1_000, 7, 3)]
        {
            let entry = Entry::from_bytes(Entry::new(print, at_ms, class, tries).to_bytes());
            assert_eq!(
                (entry.print(), entry.at_ms(), entry.class(), entry.tries()),
                (print, at_ms, class, tries)
            );
        }
    }

    #[test]
    fn key_zero_and_the_last_key_are_keys() {
        let mut moments = Moments::new(4);
        for key in [Key(0), Key(u64::MAX)] {
            assert_eq!(moments.get(key, 5_000), None);
            moments.set(key, moment(5_000, 2), class_of(60_000), 5_000);
            assert_eq!(moments.get(key, 6_000), Some(moment(5_000, 2)));
        }
        moments.remove(Key(0));
        assert_eq!((moments.get(Key(0), 6_000), moments.len()), (None, 1));
    }

    #[test]
    fn what_is_far_ahead_does_not_count() {
        let mut moments = Moments::new(0);
        moments.set(Key(1), moment(9_000_000, 0), class_of(60_000), 0);
        assert_eq!(moments.get(Key(1), 1_000_000), None);
        assert_eq!(moments.get(Key(1), 8_990_000), Some(moment(9_000_000, 0)));
    }

    #[test]
    fn a_million_entries_cost_less_than_sixteen_bytes_each_and_leave_nothing() {
        let mut moments = Moments::new(12);
        for number in 0..1_000_000 {
            moments.set(key(number), moment(1_000, 0), class_of(86_400_000), 1_000);
        }
        assert_eq!(moments.len(), 1_000_000);
        let each = moments.bytes() / moments.len();
        assert!(each < 16, "{each} bytes each");
        for shard in 0..moments.shards() {
            moments.sweep(shard, 1_000 + 2 * 86_400_000);
        }
        assert_eq!(moments.len(), 0);
        assert!(moments.bytes() < 1 << 18, "{} bytes after all has gone", moments.bytes());
    }

    #[test]
    fn a_shard_is_saved_and_loaded_without_what_has_run_out() {
        let mut moments = Moments::new(0);
        for number in 0..1_000 {
            moments.set(key(number), moment(1_000 + number, 0), class_of(1_000), 0);
        }
        let mut saved = Vec::new();
        moments.save(0, 2_500, &mut saved);
        let mut other = Moments::new(0);
        assert!(other.load(0, &saved));
        assert_eq!(other.len(), 499);
        assert_eq!(other.get(key(999), 2_500), Some(moment(1_999, 0)));
        assert!(!other.load(1, &saved), "no such shard");
        assert!(!other.load(0, saved.get(1..).unwrap()), "not whole entries");
        saved.rotate_left(ENTRY_BYTES);
        assert!(!other.load(0, &saved), "not in order");
        assert_eq!(other.len(), 499);
    }
}
