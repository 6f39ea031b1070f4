//! Sliding counts.
//!
//! A window is kept as at most 33 buckets, each a thirty-second of it wide. A bucket leaves when
//! its *last* event is as old as the window, so an event may be counted a thirty-second too long,
//! never too short: in no stretch of time as long as the window is more than the limit let through,
//! and single events are exact.

use mpp_engine::question::Counted;

use crate::moments::holds;
use crate::ordered::Slot;

/// Buckets of a window.
const PARTS: u64 = 32;

/// The width of a bucket.
pub(crate) fn width_of(per_ms: u64) -> u64 {
    per_ms.div_ceil(PARTS).max(1)
}

/// A time or span in milliseconds in six bytes: they last for 8,900 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Short([u16; 3]);

impl Short {
    pub(crate) fn new(value_ms: u64) -> Self {
        let word = |shift: u32| (value_ms.min((1 << 48) - 1) >> shift & 0xffff) as u16;
        Self([word(0), word(16), word(32)])
    }

    pub(crate) fn ms(self) -> u64 {
        let [low, middle, high] = self.0.map(u64::from);
        low | middle << 16 | high << 32
    }
}

/// A sliding count. Nearly all hold one event, in sixteen bytes and without an allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tally {
    /// Nothing.
    #[default]
    Empty,
    /// One bucket.
    One {
        /// When the last of it was.
        last: Short,
        /// The length of the window.
        per: Short,
        /// How much.
        amount: u16,
    },
    /// Several, or a large one.
    Many(Box<Window>),
}

const _: () = assert!(size_of::<Tally>() == 16 && size_of::<Counter>() == 24, "grown by mistake");

/// Several buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Its length.
    per_ms: u64,
    /// Oldest first.
    buckets: Vec<Bucket>,
}

/// What was counted close together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// When the last of it was.
    pub(crate) last_ms: u64,
    /// How much.
    pub(crate) amount: u64,
}

impl Bucket {
    fn counts(self, per_ms: u64, now_ms: u64) -> bool {
        self.amount > 0 && holds(self.last_ms, per_ms, now_ms)
    }
}

impl Tally {
    /// The window in milliseconds.
    pub(crate) fn per_ms(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::One { per, .. } => per.ms(),
            Self::Many(window) => window.per_ms,
        }
    }

    /// The buckets, oldest first.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = Bucket> {
        let (one, many) = match self {
            Self::Empty => (None, [].as_slice()),
            Self::One { last, amount, .. } => {
                (Some(Bucket { last_ms: last.ms(), amount: u64::from(*amount) }), [].as_slice())
            }
            Self::Many(window) => (None, window.buckets.as_slice()),
        };
        one.into_iter().chain(many.iter().copied())
    }

    /// What the window that ends now holds.
    pub(crate) fn used(&self, now_ms: u64, per_ms: u64) -> Counted {
        let mut counted = Counted { granted: true, ..Counted::default() };
        for bucket in self.buckets().filter(|bucket| bucket.counts(per_ms, now_ms)) {
            counted.used = counted.used.saturating_add(bucket.amount);
            if counted.frees_at_ms == 0 {
                counted.frees_at_ms = bucket.last_ms.saturating_add(per_ms);
            }
        }
        counted
    }

    /// Adds an event; one that is older than the newest counts as of the same time.
    pub(crate) fn add(&mut self, now_ms: u64, per_ms: u64, amount: u64) {
        let newest =
            self.buckets().filter(|bucket| bucket.counts(per_ms, now_ms)).max_by_key(|b| b.last_ms);
        let Some(newest) = newest else {
            *self = Self::of(Bucket { last_ms: now_ms, amount }, per_ms);
            return;
        };
        let at_ms = now_ms.max(newest.last_ms);
        let width = width_of(per_ms);
        let joins = newest.last_ms / width == at_ms / width;
        match self {
            Self::Many(window) => {
                window.per_ms = per_ms;
                window.buckets.retain(|bucket| bucket.counts(per_ms, now_ms));
                match window.buckets.last_mut() {
                    Some(last) if joins => {
                        let amount = last.amount.saturating_add(amount);
                        *last = Bucket { last_ms: at_ms, amount };
                    }
                    _ => window.buckets.push(Bucket { last_ms: at_ms, amount }),
                }
            }
            Self::One { .. } | Self::Empty if joins => {
                let amount = newest.amount.saturating_add(amount);
                *self = Self::of(Bucket { last_ms: at_ms, amount }, per_ms);
            }
            Self::One { .. } | Self::Empty => {
                let buckets = vec![newest, Bucket { last_ms: at_ms, amount }];
                *self = Self::Many(Box::new(Window { per_ms, buckets }));
            }
        }
    }

    /// Takes back what was added at a time, if the bucket that it went into is still there.
    pub(crate) fn give_back(&mut self, at_ms: u64, amount: u64) {
        let width = width_of(self.per_ms());
        match self {
            Self::Empty => {}
            Self::One { last, amount: held, .. } => {
                if is_of(last.ms(), at_ms, width) {
                    *held = held.saturating_sub(u16::try_from(amount).unwrap_or(u16::MAX));
                }
            }
            Self::Many(window) => {
                let bucket = window.buckets.iter_mut().find(|b| is_of(b.last_ms, at_ms, width));
                if let Some(bucket) = bucket {
                    bucket.amount = bucket.amount.saturating_sub(amount);
                }
            }
        }
    }

    /// A count of one bucket.
    fn of(bucket: Bucket, per_ms: u64) -> Self {
        match u16::try_from(bucket.amount) {
            Ok(amount) => {
                Self::One { last: Short::new(bucket.last_ms), per: Short::new(per_ms), amount }
            }
            Err(_) => Self::Many(Box::new(Window { per_ms, buckets: vec![bucket] })),
        }
    }

    /// A count of saved buckets.
    pub(crate) fn from_buckets(mut buckets: Vec<Bucket>, per_ms: u64) -> Self {
        match (buckets.len(), buckets.pop()) {
            (1, Some(bucket)) => Self::of(bucket, per_ms),
            (_, Some(last)) => {
                buckets.push(last);
                Self::Many(Box::new(Window { per_ms, buckets }))
            }
            (_, None) => Self::Empty,
        }
    }
}

/// Whether an event of `at_ms` went into the bucket whose last event was at `last_ms`.
pub(crate) fn is_of(last_ms: u64, at_ms: u64, width: u64) -> bool {
    at_ms <= last_ms && at_ms / width == last_ms / width
}

/// A count with its key, as it lies in a table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter {
    /// What it is found by.
    pub(crate) print: u64,
    /// The count.
    pub(crate) tally: Tally,
}

impl Slot for Counter {
    const BITS: u32 = 64;

    fn print(&self) -> u64 {
        self.print
    }

    fn is_empty(&self) -> bool {
        matches!(self.tally, Tally::Empty)
    }

    fn ends_ms(&self) -> u64 {
        let newest = self.tally.buckets().filter(|b| b.amount > 0).map(|b| b.last_ms).max();
        newest.map_or(0, |last_ms| last_ms.saturating_add(self.tally.per_ms()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn used(tally: &Tally, now_ms: u64) -> u64 {
        tally.used(now_ms, 10_000).used
    }

    #[test]
    fn single_events_leave_to_the_millisecond() {
        let mut tally = Tally::default();
        tally.add(500, 10_000, 3);
        assert_eq!(used(&tally, 10_499), 3);
        assert_eq!(tally.used(10_499, 10_000).frees_at_ms, 10_500);
        assert_eq!(used(&tally, 10_500), 0);
    }

    #[test]
    fn what_is_given_back_is_free_again() {
        let mut tally = Tally::default();
        tally.add(1_000, 10_000, 1);
        tally.add(5_000, 10_000, 4);
        tally.give_back(5_000, 4);
        tally.give_back(77_000, 4);
        assert_eq!(used(&tally, 6_000), 1);
        tally.give_back(1_000, 9);
        assert_eq!(used(&tally, 6_000), 0);
    }

    #[test]
    fn what_has_left_is_not_given_back_from_what_came_later() {
        let mut tally = Tally::default();
        tally.add(1_000, 10_000, 1);
        tally.add(12_000, 10_000, 1);
        tally.give_back(1_000, 1);
        assert_eq!(used(&tally, 12_000), 1);
    }

    #[test]
    fn large_amounts_and_the_largest_are_counted() {
        let mut tally = Tally::default();
        tally.add(1_000, 10_000, 65_535);
        tally.add(1_001, 10_000, 1);
        assert_eq!(used(&tally, 1_002), 65_536);
        tally.add(1_002, 10_000, u64::MAX);
        tally.add(5_000, 10_000, u64::MAX);
        assert_eq!(used(&tally, 5_000), u64::MAX);
    }

    #[test]
    fn a_clock_that_was_years_ahead_does_no_harm_for_years() {
        let mut tally = Tally::default();
        tally.add(999_999_999, 10_000, 5);
        assert_eq!(used(&tally, 20_000), 0);
        tally.add(20_000, 10_000, 1);
        assert_eq!(used(&tally, 20_001), 1);
        // A little ahead is what other threads are.
        tally.add(19_998, 10_000, 1);
        assert_eq!(used(&tally, 19_999), 2);
        assert_eq!(used(&tally, 30_000), 0);
    }

    #[test]
    fn times_are_kept_in_six_bytes() {
        for ms in [0, 1, 65_536, 1_795_528_230_007, (1 << 48) - 1] {
            assert_eq!(Short::new(ms).ms(), ms);
        }
        assert_eq!(Short::new(u64::MAX).ms(), (1 << 48) - 1);
    }

    proptest! {
        /// The law of thresholds: no window of its length holds more than the limit.
        #[test]
        fn no_window_passes_its_limit(
            per_ms in 1_u64..5_000,
            limit in 1_u64..20,
            gaps in prop::collection::vec((0_u64..800, 1_u64..4), 1..200),
        ) {
            let mut tally = Tally::default();
            let mut granted: Vec<(u64, u64)> = Vec::new();
            let mut now_ms = 1;
            for (gap, amount) in gaps {
                now_ms += gap;
                if tally.used(now_ms, per_ms).used + amount <= limit {
                    tally.add(now_ms, per_ms, amount);
                    granted.push((now_ms, amount));
                }
                prop_assert!(tally.buckets().count() <= 33);
                let within = granted.iter().filter(|(at, _)| at + per_ms > now_ms);
                let within: u64 = within.map(|(_, amount)| amount).sum();
                prop_assert!(within <= limit, "{} in a window", within);
                // And it is not too strict: all of it is free after a whole window.
                prop_assert_eq!(tally.used(now_ms + per_ms, per_ms).used, 0);
            }
        }
    }
}
