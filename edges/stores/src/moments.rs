//! Points in time by key, in twelve bytes each.
//!
//! A flood of drones fills this table, so an entry is as small as it can be: of the key only what
//! the place does not tell, the time, how long to keep it, and how often it was tried. The table is
//! many small ordered ones, so it grows, shrinks and is swept in pieces of some ten kilobytes, and
//! no decision ever waits for a whole.
//!
//! In a shard entries are sorted by fingerprint and lie at or behind the place that the fingerprint
//! asks for (linear probing in order, as in Amble and Knuth, "Ordered hash tables", 1974). So a
//! search for a key that is not there ends after a few entries at a load of nine tenths, growing is
//! one pass, and a snapshot is the entries as they lie.

use mpp_engine::question::{Key, Moment};

/// Bits of the fingerprint within a shard: with 2^12 shards 54 bits of a key tell it apart, so with
/// ten million entries one new key in 10^9 is taken for a known one.
const PRINT_BITS: u32 = 42;
const TIME_BITS: u32 = 42;
/// A shard grows by this share: 1/6 more.
const GROWTH: usize = 6;

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

    fn is_empty(self) -> bool {
        self.0 == [0; 3]
    }

    fn print(self) -> u64 {
        let [high, middle, _] = self.0;
        (u64::from(high) << 32 | u64::from(middle)) >> (64 - PRINT_BITS)
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

    fn is_over(self, now_ms: u64) -> bool {
        now_ms >= self.at_ms().saturating_add(keep_of(self.class()))
    }

    pub(crate) fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        for (place, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            *place = word.to_be_bytes();
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: [u8; ENTRY_BYTES]) -> Self {
        let mut words = [0; 3];
        for (word, place) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_be_bytes(*place);
        }
        Self(words)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the low 32 bits are what is wanted")]
fn low(whole: u128) -> u32 {
    whole as u32
}

/// How long class 0 is kept, in milliseconds, and by how much each further class longer.
const CLASS_ZERO_MS: f64 = 1_000.0;
const CLASS_RATIO: f64 = 1.09;

/// The class that keeps at least so long, and at most nine percent longer.
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

/// One ordered table.
#[derive(Clone, Debug, Default)]
struct Shard {
    slots: Vec<Entry>,
    /// Slots that fingerprints are spread over; a few more lie behind for the last run.
    capacity: usize,
    entries: usize,
}

impl Shard {
    fn home(&self, print: u64) -> usize {
        let place = (u128::from(print) * self.capacity as u128) >> PRINT_BITS;
        usize::try_from(place).unwrap_or(0)
    }

    /// The slot that holds a fingerprint, or the one where it would go.
    fn find(&self, print: u64) -> Result<usize, usize> {
        let home = self.home(print);
        let run = self.slots.get(home..).unwrap_or_default();
        for (step, slot) in run.iter().enumerate() {
            if slot.is_empty() || slot.print() > print {
                return Err(home + step);
            }
            if slot.print() == print {
                return Ok(home + step);
            }
        }
        Err(home + run.len())
    }

    fn get(&self, print: u64) -> Option<Entry> {
        self.slots.get(self.find(print).ok()?).copied()
    }

    fn set(&mut self, entry: Entry, now_ms: u64) {
        let print = entry.print();
        let place = match self.find(print) {
            Ok(place) => {
                if let Some(slot) = self.slots.get_mut(place) {
                    *slot = entry;
                }
                return;
            }
            Err(_) if (self.entries + 1) * 10 > self.capacity * 9 => {
                self.make_room(now_ms);
                self.find(print).unwrap_or_else(|place| place)
            }
            Err(place) => place,
        };
        let rest = self.slots.get(place..).unwrap_or_default();
        let gap = rest.iter().position(|slot| slot.is_empty());
        if let Some(run) = gap.and_then(|gap| self.slots.get_mut(place..=place + gap)) {
            run.rotate_right(1);
            if let Some(first) = run.first_mut() {
                *first = entry;
            }
        } else {
            // The run reaches the end: one slot more behind it.
            self.slots.reserve_exact(1);
            self.slots.insert(place, entry);
        }
        self.entries += 1;
    }

    fn remove(&mut self, print: u64) -> bool {
        let Ok(mut hole) = self.find(print) else { return false };
        loop {
            let next = self.slots.get(hole + 1).copied().unwrap_or_default();
            let stays = next.is_empty() || self.home(next.print()) == hole + 1;
            if let Some(slot) = self.slots.get_mut(hole) {
                *slot = if stays { Entry::default() } else { next };
            }
            if stays {
                break;
            }
            hole += 1;
        }
        self.entries -= 1;
        true
    }

    /// Drops what has run out, and grows if that was not enough.
    fn make_room(&mut self, now_ms: u64) {
        self.sweep(now_ms);
        if (self.entries + 1) * 10 > self.capacity * 9 {
            self.rebuild(self.capacity + (self.capacity / GROWTH).max(4), |_| true);
        }
    }

    /// Drops what has run out; returns how much. Gives memory back when much is free.
    fn sweep(&mut self, now_ms: u64) -> usize {
        let over =
            self.slots.iter().filter(|slot| !slot.is_empty() && slot.is_over(now_ms)).count();
        let left = self.entries - over;
        let is_roomy = self.capacity > 8 && left * 2 < self.capacity;
        if over > 0 || is_roomy {
            let capacity = if is_roomy { left + left / GROWTH + 4 } else { self.capacity };
            self.rebuild(capacity, |entry| !entry.is_over(now_ms));
        }
        over
    }

    /// Lays the entries out anew over `capacity` slots.
    fn rebuild(&mut self, capacity: usize, keep: impl Fn(Entry) -> bool) {
        let old = std::mem::take(&mut self.slots);
        self.capacity = capacity;
        self.entries = 0;
        self.slots.reserve_exact(capacity + capacity / 32 + 4);
        self.fill(old.into_iter().filter(|entry| !entry.is_empty() && keep(*entry)));
    }

    /// Appends entries in the order of their fingerprints, then empty slots to the end.
    fn fill(&mut self, sorted: impl Iterator<Item = Entry>) {
        for entry in sorted {
            let home = self.home(entry.print());
            while self.slots.len() < home {
                self.slots.push(Entry::default());
            }
            self.slots.push(entry);
            self.entries += 1;
        }
        let end = self.capacity + self.capacity / 32 + 4;
        if self.slots.len() < end {
            self.slots.resize(end, Entry::default());
        }
    }
}

/// A table of points in time.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    shards: Vec<Shard>,
    shard_bits: u32,
    entries: usize,
}

impl Moments {
    /// An empty table of 2^`shard_bits` shards.
    pub(crate) fn new(shard_bits: u32) -> Self {
        Self { shards: vec![Shard::default(); 1 << shard_bits], shard_bits, entries: 0 }
    }

    fn place(&self, key: Key) -> (usize, u64) {
        let shard = usize::try_from(key.0 >> (64 - self.shard_bits)).unwrap_or(0);
        (shard, key.0 << self.shard_bits >> (64 - PRINT_BITS))
    }

    /// What is remembered of a key at a time.
    pub(crate) fn get(&self, key: Key, now_ms: u64) -> Option<Moment> {
        let (shard, print) = self.place(key);
        let entry = self.shards.get(shard)?.get(print)?;
        (!entry.is_over(now_ms)).then(|| Moment { at_ms: entry.at_ms(), tries: entry.tries() })
    }

    /// The class of a key's entry, run out or not.
    pub(crate) fn class(&self, key: Key) -> Option<u8> {
        let (shard, print) = self.place(key);
        Some(self.shards.get(shard)?.get(print)?.class())
    }

    /// Remembers a key in place of what was remembered of it.
    pub(crate) fn set(&mut self, key: Key, moment: Moment, class: u8, now_ms: u64) {
        let (shard, print) = self.place(key);
        if let Some(shard) = self.shards.get_mut(shard) {
            let before = shard.entries;
            shard.set(Entry::new(print, moment.at_ms, class, moment.tries), now_ms);
            self.entries = self.entries + shard.entries - before;
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
        let slots: usize = self.shards.iter().map(|shard| shard.slots.capacity()).sum();
        slots * size_of::<Entry>() + self.shards.capacity() * size_of::<Shard>()
    }

    /// Appends the entries of a shard that have not run out, in order.
    pub(crate) fn save(&self, shard: usize, now_ms: u64, out: &mut Vec<u8>) {
        let slots = self.shards.get(shard).map(|shard| shard.slots.as_slice()).unwrap_or_default();
        for entry in slots.iter().filter(|entry| !entry.is_empty() && !entry.is_over(now_ms)) {
            out.extend_from_slice(&entry.to_bytes());
        }
    }

    /// Puts saved entries in place of a shard. False if they are not what [`Moments::save`] gave.
    pub(crate) fn load(&mut self, shard: usize, saved: &[u8]) -> bool {
        let (entries, rest) = saved.as_chunks::<ENTRY_BYTES>();
        let Some(shard) = self.shards.get_mut(shard) else { return false };
        let is_sorted = entries
            .is_sorted_by(|a, b| Entry::from_bytes(*a).print() < Entry::from_bytes(*b).print());
        if !rest.is_empty() || !is_sorted {
            return false;
        }
        self.entries -= shard.entries;
        let capacity = if entries.is_empty() { 0 } else { entries.len() * 10 / 9 + 2 };
        *shard = Shard { slots: Vec::new(), capacity, entries: 0 };
        if capacity > 0 {
            shard.slots.reserve_exact(capacity + capacity / 32 + 4);
            shard.fill(entries.iter().map(|bytes| Entry::from_bytes(*bytes)));
        }
        self.entries += shard.entries;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn moment(at_ms: u64, tries: u8) -> Moment {
        Moment { at_ms, tries }
    }

    #[test]
    fn classes_keep_at_least_as_long_and_at_most_a_tenth_longer() {
        for keep_ms in [1_000, 1_001, 60_000, 86_400_000, 35 * 86_400_000, 36_600 * 86_400_000] {
            let kept = keep_of(class_of(keep_ms));
            assert!(kept >= keep_ms && kept <= keep_ms + keep_ms / 10, "{keep_ms}: {kept}");
        }
        assert_eq!(class_of(0), 0);
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
    fn a_million_entries_cost_less_than_sixteen_bytes_each() {
        let mut moments = Moments::new(12);
        let mut state = 1_u64;
        for _ in 0..1_000_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let key = Key(state ^ state >> 29);
            moments.set(key, moment(1_000, 0), class_of(86_400_000), 1_000);
        }
        let each = moments.bytes() / moments.len();
        assert!(each < 17, "{each} bytes each");
        for shard in 0..moments.shards() {
            moments.sweep(shard, 1_000 + 2 * 86_400_000);
        }
        assert_eq!(moments.len(), 0);
        assert!(moments.bytes() < 1 << 20, "{} bytes after all has gone", moments.bytes());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(u64, u64),
        Remove(u64),
        Sweep(u64),
        Reload,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Few different keys close together, and the extremes: long runs, and runs at the end.
        let key = prop_oneof![
            0_u64..400,
            any::<u64>(),
            Just(u64::MAX),
            (0_u64..40).prop_map(|k| !k << 20)
        ];
        let step = prop_oneof![
            6 => (key.clone(), 1_u64..100_000).prop_map(|(k, t)| Step::Set(k << 9, t)),
            2 => key.prop_map(|k| Step::Remove(k << 9)),
            1 => (1_u64..200_000).prop_map(Step::Sweep),
            1 => Just(Step::Reload),
        ];
        prop::collection::vec(step, 0..400)
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in steps()) {
            let keep_ms = keep_of(class_of(60_000));
            let mut moments = Moments::new(2);
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Set(key, at_ms) => {
                        moments.set(Key(key), moment(at_ms, 1), class_of(60_000), 0);
                        model.insert(key >> 20, (key, at_ms));
                    }
                    Step::Remove(key) => {
                        moments.remove(Key(key));
                        model.remove(&(key >> 20));
                    }
                    Step::Sweep(now_ms) => {
                        (0..moments.shards()).for_each(|shard| { moments.sweep(shard, now_ms); });
                        model.retain(|_, (_, at_ms)| *at_ms + keep_ms > now_ms);
                    }
                    Step::Reload => {
                        let mut other = Moments::new(2);
                        for shard in 0..moments.shards() {
                            let mut saved = Vec::new();
                            moments.save(shard, 0, &mut saved);
                            prop_assert!(other.load(shard, &saved));
                        }
                        moments = other;
                    }
                }
                prop_assert_eq!(moments.len(), model.len());
                for (key, at_ms) in model.values() {
                    prop_assert_eq!(moments.get(Key(*key), 0), Some(moment(*at_ms, 1)));
                }
            }
        }
    }
}
