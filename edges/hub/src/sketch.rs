//! How many different clients: exact for the first few thousand, then within about 1 %.
//!
//! A day may bring a million drones; a set of them all would cost more than greylisting them. A
//! small set is kept as it is; a large one as a `HyperLogLog` of 16 KiB, with the bias correction of
//! Ertl ("New cardinality estimation algorithms for `HyperLogLog` sketches", 2017, section 4).

use hashbrown::HashSet;

/// Members kept exactly.
const EXACT_MAX: usize = 4096;
/// Bits of a hash that choose a register.
const BITS: u32 = 14;
const REGISTERS: usize = 1 << BITS;

/// A set that can only be counted.
#[derive(Clone, Debug)]
pub(crate) enum Sketch {
    /// All members.
    Exact(HashSet<u64>),
    /// The registers of a `HyperLogLog`.
    Registers(Box<[u8]>),
}

impl Default for Sketch {
    fn default() -> Self {
        Self::Exact(HashSet::new())
    }
}

impl Sketch {
    /// Adds a member, by its hash.
    pub(crate) fn insert(&mut self, hash: u64) {
        match self {
            Self::Exact(members) => {
                members.insert(hash);
                if members.len() > EXACT_MAX {
                    let mut registers = vec![0; REGISTERS].into_boxed_slice();
                    for member in members.drain() {
                        note(&mut registers, member);
                    }
                    *self = Self::Registers(registers);
                }
            }
            Self::Registers(registers) => note(registers, hash),
        }
    }

    /// How many members it has, about.
    pub(crate) fn count(&self) -> u64 {
        match self {
            Self::Exact(members) => members.len() as u64,
            Self::Registers(registers) => estimate(registers),
        }
    }

    /// Adds all members of another sketch.
    pub(crate) fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (_, Self::Exact(members)) => {
                let mut sorted: Vec<u64> = members.iter().copied().collect();
                sorted.sort_unstable();
                for member in sorted {
                    self.insert(member);
                }
            }
            (Self::Registers(own), Self::Registers(theirs)) => {
                for (own, theirs) in own.iter_mut().zip(theirs) {
                    *own = (*own).max(*theirs);
                }
            }
            (Self::Exact(_), Self::Registers(theirs)) => {
                let mut merged = Self::Registers(theirs.clone());
                merged.merge(self);
                *self = merged;
            }
        }
    }
}

fn note(registers: &mut [u8], hash: u64) {
    let place = usize::try_from(hash >> (64 - BITS)).unwrap_or(0);
    let rank = ((hash << BITS) | 1 << (BITS - 1)).leading_zeros() + 1;
    if let Some(register) = registers.get_mut(place) {
        *register = (*register).max(u8::try_from(rank).unwrap_or(u8::MAX));
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate of a count: not negative, and precise enough as a float"
)]
fn estimate(registers: &[u8]) -> u64 {
    const TOP: usize = 64 - BITS as usize;
    let m = REGISTERS as f64;
    let mut counts = [0.0_f64; TOP + 2];
    for register in registers {
        if let Some(count) = counts.get_mut(usize::from(*register).min(TOP + 1)) {
            *count += 1.0;
        }
    }
    let [zeros, middle @ .., saturated] = &counts;
    let mut z = m * tau(1.0 - saturated / m);
    for count in middle.iter().rev() {
        z = 0.5 * (z + count);
    }
    z += m * sigma(zeros / m);
    (m * m / (2.0 * std::f64::consts::LN_2 * z)).round() as u64
}

fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if (z - before).abs() < f64::EPSILON * z.abs().max(1.0) {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if (z - before).abs() < f64::EPSILON {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_64;

    fn of(members: std::ops::Range<u64>) -> Sketch {
        let mut sketch = Sketch::default();
        members.for_each(|member| sketch.insert(xxh3_64(&member.to_le_bytes())));
        sketch
    }

    #[test]
    fn small_sets_are_exact() {
        assert_eq!(Sketch::default().count(), 0);
        assert_eq!(of(0..4096).count(), 4096);
        let mut twice = of(0..100);
        twice.merge(&of(50..150));
        assert_eq!(twice.count(), 150);
    }

    #[test]
    fn large_sets_are_within_three_percent() {
        for size in [4_097_u64, 10_000, 47_615, 1_000_000] {
            let count = of(0..size).count();
            assert!(count.abs_diff(size) * 100 <= size * 3, "{count} of {size}");
        }
    }

    #[test]
    fn merged_is_as_if_added() {
        let mut merged = of(0..3_000);
        merged.merge(&of(2_000..60_000));
        assert_eq!(merged.count(), of(0..60_000).count());
    }
}
