//! Sliding counts.
//!
//! A window is kept as at most 33 buckets, each a thirty-second of it wide. A bucket leaves when
//! its *last* event is as old as the window, so an event may be counted a thirty-second too long,
//! never too short: in no stretch of time as long as the window is more than the limit let through,
//! and single events are exact.

use mpp_engine::question::Counted;

/// Buckets of a window.
const PARTS: u64 = 32;

/// A sliding count. Nearly all hold one event and need no allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tally {
    /// One bucket.
    One(Bucket, u64),
    /// Several, oldest first, and the length of the window in milliseconds.
    Many(Box<(Vec<Bucket>, u64)>),
}

/// What was counted close together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// When the last of it was.
    pub(crate) last_ms: u64,
    /// How much.
    pub(crate) amount: u64,
}

impl Tally {
    /// An empty count over a window.
    pub(crate) fn new(per_ms: u64) -> Self {
        Self::One(Bucket { last_ms: 0, amount: 0 }, per_ms)
    }

    /// The window in milliseconds.
    pub(crate) fn per_ms(&self) -> u64 {
        match self {
            Self::One(_, per_ms) => *per_ms,
            Self::Many(many) => many.1,
        }
    }

    pub(crate) fn buckets(&self) -> &[Bucket] {
        match self {
            Self::One(bucket, _) => std::slice::from_ref(bucket),
            Self::Many(many) => &many.0,
        }
    }

    /// What the window that ends now holds.
    pub(crate) fn used(&self, now_ms: u64, per_ms: u64) -> Counted {
        let mut counted = Counted { granted: true, ..Counted::default() };
        for bucket in self.buckets() {
            let leaves_ms = bucket.last_ms.saturating_add(per_ms);
            if bucket.amount > 0 && now_ms < leaves_ms {
                counted.used += bucket.amount;
                if counted.frees_at_ms == 0 {
                    counted.frees_at_ms = leaves_ms;
                }
            }
        }
        counted
    }

    /// Adds an event; one that is older than the newest counts as of the same time.
    pub(crate) fn add(&mut self, now_ms: u64, per_ms: u64, amount: u64) {
        let width = (per_ms / PARTS).max(1);
        let newest_ms = self.buckets().last().map_or(0, |bucket| bucket.last_ms);
        let at_ms = now_ms.max(newest_ms);
        let new = Bucket { last_ms: at_ms, amount };
        match self {
            Self::One(bucket, per) => {
                *per = per_ms;
                if bucket.amount == 0 || at_ms >= bucket.last_ms.saturating_add(per_ms) {
                    *bucket = new;
                } else if bucket.last_ms / width == at_ms / width {
                    *bucket = Bucket { last_ms: at_ms, amount: bucket.amount + amount };
                } else {
                    *self = Self::Many(Box::new((vec![*bucket, new], per_ms)));
                }
            }
            Self::Many(many) => {
                let (buckets, per) = &mut **many;
                *per = per_ms;
                buckets.retain(|bucket| {
                    bucket.amount > 0 && at_ms < bucket.last_ms.saturating_add(per_ms)
                });
                match buckets.last_mut() {
                    Some(last) if last.last_ms / width == at_ms / width => {
                        *last = Bucket { last_ms: at_ms, amount: last.amount + amount };
                    }
                    _ => buckets.push(new),
                }
            }
        }
    }

    /// Takes back what was added at a time: from the bucket that it went into.
    pub(crate) fn give_back(&mut self, at_ms: u64, amount: u64) {
        let buckets = match self {
            Self::One(bucket, _) => std::slice::from_mut(bucket),
            Self::Many(many) => &mut many.0,
        };
        if let Some(bucket) = buckets.iter_mut().find(|bucket| bucket.last_ms >= at_ms) {
            bucket.amount = bucket.amount.saturating_sub(amount);
        }
    }

    /// Whether nothing of it is within its window any more.
    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        self.used(now_ms, self.per_ms()).used == 0
    }

    /// A count of saved buckets.
    pub(crate) fn from_buckets(mut buckets: Vec<Bucket>, per_ms: u64) -> Self {
        match (buckets.len(), buckets.pop()) {
            (1, Some(bucket)) => Self::One(bucket, per_ms),
            (_, Some(last)) => {
                buckets.push(last);
                Self::Many(Box::new((buckets, per_ms)))
            }
            (_, None) => Self::new(per_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn single_events_leave_to_the_millisecond() {
        let mut tally = Tally::new(10_000);
        tally.add(500, 10_000, 3);
        assert_eq!(tally.used(10_499, 10_000).used, 3);
        assert_eq!(tally.used(10_499, 10_000).frees_at_ms, 10_500);
        assert_eq!(tally.used(10_500, 10_000).used, 0);
        assert!(tally.is_over(10_500));
    }

    #[test]
    fn what_is_given_back_is_free_again() {
        let mut tally = Tally::new(10_000);
        tally.add(1_000, 10_000, 1);
        tally.add(5_000, 10_000, 4);
        tally.give_back(5_000, 4);
        tally.give_back(77_000, 4);
        assert_eq!(tally.used(6_000, 10_000).used, 1);
        tally.give_back(1_000, 9);
        assert_eq!(tally.used(6_000, 10_000).used, 0);
    }

    proptest! {
        /// The law of thresholds: no window of its length holds more than the limit.
        #[test]
        fn no_window_passes_its_limit(
            per_ms in 1_u64..5_000,
            limit in 1_u64..20,
            gaps in prop::collection::vec((0_u64..800, 1_u64..4), 1..200),
        ) {
            let mut tally = Tally::new(per_ms);
            let mut granted: Vec<(u64, u64)> = Vec::new();
            let mut now_ms = 1;
            for (gap, amount) in gaps {
                now_ms += gap;
                if tally.used(now_ms, per_ms).used + amount <= limit {
                    tally.add(now_ms, per_ms, amount);
                    granted.push((now_ms, amount));
                }
                prop_assert!(tally.buckets().len() <= 33);
                let within: u64 = granted.iter().filter(|(at, _)| at + per_ms > now_ms).map(|(_, n)| n).sum();
                prop_assert!(within <= limit, "{} in a window", within);
                // And it is not too strict: all of it is free a little after a whole window.
                let late = now_ms + per_ms + per_ms / 32 + 1;
                prop_assert_eq!(tally.used(late, per_ms).used, 0);
            }
        }
    }
}
