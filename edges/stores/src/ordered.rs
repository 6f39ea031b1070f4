//! A small table of entries in the order of their fingerprints.
//!
//! The stores keep thousands of these, each some kilobytes large, so that what is held grows,
//! shrinks, is swept and is saved in pieces that no decision notices. An entry lies at the place
//! that its fingerprint asks for or a little behind it (linear probing in order: Amble and Knuth,
//! "Ordered hash tables", 1974). So nine tenths of the slots can be in use, a search for what is
//! not there ends early, growing is one pass, and saving is writing the entries as they lie.

/// What lies in a slot. The default is an empty one.
pub(crate) trait Slot: Clone + Default {
    /// Bits of a fingerprint.
    const BITS: u32;

    /// The fingerprint: what is looked up, and what the order is.
    fn print(&self) -> u64;

    /// Whether nothing lies here.
    fn is_empty(&self) -> bool;

    /// From when on nobody needs it, in milliseconds since 1970.
    fn ends_ms(&self) -> u64;
}

/// Entries per ten slots at the most.
const LOAD_TENTHS: usize = 9;
/// A full table grows by this part of itself.
const GROWTH: usize = 8;
/// A table with less than this part of its slots in use gives memory back.
const ROOMY: usize = 2;

/// The table.
#[derive(Clone, Debug)]
pub(crate) struct Ordered<S> {
    slots: Vec<S>,
    /// Slots that fingerprints are spread over; a few more lie behind for the last run.
    capacity: usize,
    entries: usize,
    /// No entry ends before this.
    soonest_ms: u64,
}

impl<S> Default for Ordered<S> {
    fn default() -> Self {
        Self { slots: Vec::new(), capacity: 0, entries: 0, soonest_ms: u64::MAX }
    }
}

impl<S: Slot> Ordered<S> {
    /// A table of entries that come in the order of their fingerprints; nothing if they do not.
    pub(crate) fn from_sorted(entries: impl ExactSizeIterator<Item = S>) -> Option<Self> {
        let count = entries.len();
        // Room for some more, so that not the first new entry of each table makes it grow.
        let mut table = Self::with_capacity(if count == 0 { 0 } else { count + count / 6 + 2 });
        let mut before = None;
        for entry in entries {
            let print = entry.print();
            if entry.is_empty() || before.is_some_and(|before| before >= print) {
                return None;
            }
            before = Some(print);
            table.append(entry);
        }
        table.pad();
        Some(table)
    }

    fn with_capacity(capacity: usize) -> Self {
        let slots = if capacity == 0 { Vec::new() } else { Vec::with_capacity(end_of(capacity)) };
        Self { slots, capacity, ..Self::default() }
    }

    /// How many entries it holds.
    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    /// Bytes of memory that its slots take.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<S>()
    }

    /// The entries, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &S> {
        self.slots.iter().filter(|slot| !slot.is_empty())
    }

    /// The entry of a fingerprint.
    pub(crate) fn get(&self, print: u64) -> Option<&S> {
        self.slots.get(self.find(print).ok()?)
    }

    /// Changes the entry of a fingerprint in place, if there is one; it may end later or sooner.
    pub(crate) fn change(&mut self, print: u64, change: impl FnOnce(&mut S)) -> bool {
        let Ok(place) = self.find(print) else { return false };
        if let Some(slot) = self.slots.get_mut(place) {
            change(slot);
            self.soonest_ms = self.soonest_ms.min(slot.ends_ms());
        }
        true
    }

    /// Puts an entry in, in place of one with the same fingerprint.
    pub(crate) fn set(&mut self, entry: S, now_ms: u64) {
        let print = entry.print();
        self.soonest_ms = self.soonest_ms.min(entry.ends_ms());
        match self.find(print) {
            Ok(place) => {
                if let Some(slot) = self.slots.get_mut(place) {
                    *slot = entry;
                }
            }
            Err(place) if has_room(self.entries, self.capacity) => self.insert(place, entry),
            Err(_) => {
                self.make_room(now_ms);
                // It may have been there, run out, and have gone just now.
                let (Ok(place) | Err(place)) = self.find(print);
                self.soonest_ms = self.soonest_ms.min(entry.ends_ms());
                self.insert(place, entry);
            }
        }
    }

    /// Takes the entry of a fingerprint out.
    pub(crate) fn remove(&mut self, print: u64) -> bool {
        let Ok(mut hole) = self.find(print) else { return false };
        // What lies behind moves up until one lies where it belongs.
        while let Some(next) = self.slots.get(hole + 1)
            && !next.is_empty()
            && self.home(next.print()) <= hole
        {
            self.slots.swap(hole, hole + 1);
            hole += 1;
        }
        if let Some(slot) = self.slots.get_mut(hole) {
            *slot = S::default();
        }
        self.entries -= 1;
        true
    }

    /// Drops what has run out and returns how many those were. Gives memory back when much is free.
    pub(crate) fn sweep(&mut self, now_ms: u64) -> usize {
        if now_ms < self.soonest_ms {
            return 0;
        }
        let before = self.entries;
        self.drop_over(now_ms);
        if self.entries == 0 {
            *self = Self::default();
        } else if self.capacity > 16 && self.entries * ROOMY < self.capacity {
            self.rebuild(self.entries + self.entries / GROWTH + 2);
        }
        before - self.entries
    }

    fn home(&self, print: u64) -> usize {
        let place = (u128::from(print) * self.capacity as u128) >> S::BITS;
        usize::try_from(place).unwrap_or(0)
    }

    /// The slot that holds a fingerprint, or else the one where it would go.
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

    /// Puts an entry at its place; those from there to the next gap move down by one.
    fn insert(&mut self, place: usize, entry: S) {
        let rest = self.slots.get(place..).unwrap_or_default();
        let gap = rest.iter().position(Slot::is_empty).map(|gap| place + gap);
        let gap = gap.unwrap_or_else(|| {
            self.slots.reserve_exact(8);
            self.slots.push(S::default());
            self.slots.len() - 1
        });
        if let Some(run) = self.slots.get_mut(place..=gap) {
            run.rotate_right(1);
            if let Some(first) = run.first_mut() {
                *first = entry;
            }
            self.entries += 1;
        }
    }

    /// Makes room for one more: drops what has run out, and grows if that was not much.
    fn make_room(&mut self, now_ms: u64) {
        if now_ms >= self.soonest_ms {
            self.drop_over(now_ms);
        }
        // With less than a tenth gained the next pass would come too soon.
        if !has_room(self.entries + self.entries / 10, self.capacity) {
            self.rebuild(self.capacity + (self.capacity / GROWTH).max(4));
        }
    }

    /// Drops what has run out; those behind move up.
    fn drop_over(&mut self, now_ms: u64) {
        let mut free = 0;
        self.entries = 0;
        self.soonest_ms = u64::MAX;
        for place in 0..self.slots.len() {
            let slot = self.slots.get_mut(place).map(std::mem::take).unwrap_or_default();
            if slot.is_empty() || now_ms >= slot.ends_ms() {
                continue;
            }
            self.soonest_ms = self.soonest_ms.min(slot.ends_ms());
            self.entries += 1;
            let target = self.home(slot.print()).max(free);
            free = target + 1;
            if let Some(place) = self.slots.get_mut(target) {
                *place = slot;
            }
        }
    }

    /// Lays the entries out anew over `capacity` slots.
    fn rebuild(&mut self, capacity: usize) {
        let old = std::mem::replace(self, Self::with_capacity(capacity));
        for slot in old.slots {
            if !slot.is_empty() {
                self.append(slot);
            }
        }
        self.pad();
    }

    /// Appends the next entry in order, behind as many empty slots as it asks for.
    fn append(&mut self, entry: S) {
        let home = self.home(entry.print());
        if self.slots.len() < home {
            self.slots.resize(home, S::default());
        }
        self.soonest_ms = self.soonest_ms.min(entry.ends_ms());
        self.entries += 1;
        self.slots.push(entry);
    }

    fn pad(&mut self) {
        let end = if self.capacity == 0 { 0 } else { end_of(self.capacity) };
        if self.slots.len() < end {
            self.slots.resize(end, S::default());
        }
    }
}

/// Slots of a table that spreads its entries over `capacity`.
fn end_of(capacity: usize) -> usize {
    capacity + capacity / 64 + 4
}

/// Whether one more entry keeps the load.
fn has_room(entries: usize, capacity: usize) -> bool {
    (entries + 1) * 10 <= capacity * LOAD_TENTHS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    struct Thing {
        print: u64,
        ends_ms: u64,
    }

    impl Slot for Thing {
        const BITS: u32 = 16;

        fn print(&self) -> u64 {
            self.print
        }

        fn is_empty(&self) -> bool {
            self.ends_ms == 0
        }

        fn ends_ms(&self) -> u64 {
            self.ends_ms
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(u64, u64),
        Change(u64, u64),
        Remove(u64),
        Sweep(u64),
        Reload,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Spread evenly, close together, and at the very end where runs leave the table.
        let print = prop_oneof![0_u64..1 << 16, 0_u64..300, (0_u64..60).prop_map(|n| 0xffff - n)];
        let step = prop_oneof![
            8 => (print.clone(), 1_u64..1_000).prop_map(|(print, ends)| Step::Set(print, ends)),
            2 => (print.clone(), 1_u64..1_000).prop_map(|(print, ends)| Step::Change(print, ends)),
            2 => print.prop_map(Step::Remove),
            1 => (1_u64..1_100).prop_map(Step::Sweep),
            1 => Just(Step::Reload),
        ];
        prop::collection::vec(step, 0..500)
    }

    proptest! {
        #[test]
        fn it_is_a_map_in_order(steps in steps()) {
            let mut table = Ordered::<Thing>::default();
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Set(print, ends_ms) => {
                        table.set(Thing { print, ends_ms }, 0);
                        model.insert(print, ends_ms);
                    }
                    Step::Change(print, ends_ms) => {
                        let known = table.change(print, |thing| thing.ends_ms = ends_ms);
                        prop_assert_eq!(known, model.contains_key(&print));
                        model.entry(print).and_modify(|ends| *ends = ends_ms);
                    }
                    Step::Remove(print) => {
                        prop_assert_eq!(table.remove(print), model.remove(&print).is_some());
                    }
                    Step::Sweep(now_ms) => {
                        let before = model.len();
                        model.retain(|_, ends_ms| *ends_ms > now_ms);
                        prop_assert_eq!(table.sweep(now_ms), before - model.len());
                    }
                    Step::Reload => {
                        let all: Vec<Thing> = table.iter().copied().collect();
                        table = Ordered::from_sorted(all.into_iter()).unwrap();
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                for (print, ends_ms) in &model {
                    let thing = Thing { print: *print, ends_ms: *ends_ms };
                    prop_assert_eq!(table.get(*print), Some(&thing));
                }
                let all: Vec<u64> = table.iter().map(|thing| thing.print).collect();
                prop_assert_eq!(all, model.keys().copied().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_full_table_makes_room_of_what_has_run_out() {
        let mut table = Ordered::<Thing>::default();
        for print in 0..1_000 {
            table.set(Thing { print: print * 60, ends_ms: 10 }, 0);
        }
        let bytes = table.bytes();
        for print in 0..1_000 {
            table.set(Thing { print: print * 60 + 1, ends_ms: 99 }, 20);
        }
        assert_eq!((table.len(), table.bytes()), (1_000, bytes));
    }

    #[test]
    fn what_does_not_come_in_order_is_no_table() {
        let thing = |print| Thing { print, ends_ms: 1 };
        assert!(Ordered::from_sorted([thing(1), thing(2)].into_iter()).is_some());
        assert!(Ordered::from_sorted([thing(2), thing(2)].into_iter()).is_none());
        assert!(Ordered::from_sorted([thing(2), thing(1)].into_iter()).is_none());
        assert!(Ordered::from_sorted([Thing::default()].into_iter()).is_none());
    }
}
