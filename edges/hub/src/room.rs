//! How much room there is for users who do not exist: random addresses must not fill the store.

use std::sync::atomic::{AtomicI64, Ordering};

/// What directories said is kept of so many at the most, about 16 bytes each, once those who do not
/// exist are counted. Beyond it users who exist are kept, and others only for a moment.
const KEPT_MAX: i64 = 2_000_000;

/// Counts down between two looks at the store.
#[derive(Debug)]
pub(crate) struct Room(AtomicI64);

impl Default for Room {
    fn default() -> Self {
        Self(AtomicI64::new(KEPT_MAX))
    }
}

impl Room {
    /// Takes a place; false if there is none.
    pub(crate) fn take(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) > 0
    }

    /// Notes how many the store keeps.
    pub(crate) fn measure(&self, kept: u64) {
        self.0.store(KEPT_MAX - i64::try_from(kept).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_strangers_ends_at_the_bound() {
        let room = Room::default();
        let kept_max = u64::try_from(KEPT_MAX).unwrap();
        room.measure(kept_max - 3);
        assert_eq!((0..10).filter(|_| room.take()).count(), 3);
        room.measure(kept_max + 50);
        assert!(!room.take());
        room.measure(0);
        assert!(room.take());
    }
}
