//! Ids of decisions: ten letters and digits that stand in the SMTP reply and find the log line.
//!
//! An id is the time in milliseconds and a counter, in Crockford's base 32, so ids of one machine
//! grow, and the log is sorted by them.

use std::sync::atomic::{AtomicU64, Ordering};

/// The letters, in the order of their values: without I, L, O and U, which people misread.
const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// 2020-01-01 in milliseconds since 1970; ids count from here and last until 2054.
const EPOCH_MS: u64 = 1_577_836_800_000;

/// How many ids one millisecond has, as a power of two. A busier millisecond borrows of the next.
const COUNTER_BITS: u32 = 10;

/// Draws ids.
#[derive(Debug, Default)]
pub struct Ids {
    last: AtomicU64,
}

/// An id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

impl Ids {
    /// Those that come after an id, whatever the clock says.
    pub fn after(id: Id) -> Self {
        Self { last: AtomicU64::new(id.0) }
    }

    /// The next id at a time.
    pub fn next(&self, now_ms: u64) -> Id {
        let least = now_ms.saturating_sub(EPOCH_MS) << COUNTER_BITS;
        let taken = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some((last + 1).max(least)))
            .unwrap_or_default();
        Id((taken + 1).max(least))
    }
}

impl Id {
    /// The least id of a time, in milliseconds since 1970.
    pub fn at(ms: u64) -> Self {
        Self(ms.saturating_sub(EPOCH_MS) << COUNTER_BITS)
    }

    /// The time in it, in milliseconds since 1970.
    pub fn ms(self) -> u64 {
        (self.0 >> COUNTER_BITS).saturating_add(EPOCH_MS)
    }

    /// As a number; ids grow with time.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The id of a number.
    pub fn of(number: u64) -> Self {
        Self(number)
    }

    /// Its ten letters.
    pub fn letters(self) -> [u8; 10] {
        let mut text = [b'0'; 10];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            *place = LETTERS.get((rest & 31) as usize).copied().unwrap_or(b'0');
            rest >>= 5;
        }
        text
    }

    /// Reads an id as people type it: small letters, I and L for 1, O for 0.
    pub fn parse(text: &str) -> Option<Self> {
        let mut value = 0_u64;
        if text.len() != 10 {
            return None;
        }
        for byte in text.bytes() {
            let byte = match byte.to_ascii_uppercase() {
                b'I' | b'L' => b'1',
                b'O' => b'0',
                other => other,
            };
            let digit = LETTERS.iter().position(|letter| *letter == byte)?;
            value = value << 5 | u64::try_from(digit).ok()?;
        }
        Some(Self(value))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.letters().iter().try_for_each(|letter| write!(f, "{}", char::from(*letter)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_and_are_read_back() {
        let ids = Ids::default();
        let mut last = ids.next(EPOCH_MS);
        for step in 0..5_000 {
            let next = ids.next(1_800_000_000_000 + step / 3_000);
            assert!(next > last && next.to_string() > last.to_string());
            assert_eq!(Id::parse(&next.to_string().to_lowercase()), Some(next));
            last = next;
        }
        assert!(ids.next(0) > last, "a clock that goes back draws no id twice");
        assert_eq!(Id::parse("short"), None);
        assert_eq!(Id::parse("not an id!"), None);
    }
}
