//! What things are called in a database: cells by kind and key, and the tables of first tries.

use mpp_engine::question::{IdentityKind, Key, Shelf};

use crate::moments::{holds, keep_of};
use crate::part::Known;
use crate::record::read_block_cell;
use crate::shared::cells::{read_history, read_moment, read_set, read_tally};
use crate::tables::is_remembered;

/// What a cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Moment(Shelf),
    Count,
    Set,
    History,
    Block(IdentityKind),
    /// The number of the last batch of a node.
    Node,
}

/// Kinds of which is counted how many there are.
pub(super) const SUMS: usize = Shelf::ALL.len() + 4;

const COUNT: u8 = 16;
const SET: u8 = 17;
const HISTORY: u8 = 18;
const BLOCK: u8 = 32;
const NODE: u8 = 240;

/// The number of a batch is of use to nobody after so long, in milliseconds of this machine's clock.
const NODE_KEEP_MS: u64 = 24 * 3_600_000;

impl Kind {
    /// All kinds of which other stores want to know, in the order of their numbers.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let blocks = IdentityKind::ALL.into_iter().map(|(kind, _)| Self::Block(kind));
        let shelves = Shelf::ALL.into_iter().map(Self::Moment);
        shelves.chain([Self::Count, Self::Set, Self::History]).chain(blocks)
    }

    pub(super) fn number(self) -> u8 {
        match self {
            Self::Moment(shelf) => shelf as u8,
            Self::Count => COUNT,
            Self::Set => SET,
            Self::History => HISTORY,
            Self::Block(kind) => BLOCK + kind as u8,
            Self::Node => NODE,
        }
    }

    fn of(number: u8) -> Option<Self> {
        match number {
            COUNT => Some(Self::Count),
            SET => Some(Self::Set),
            HISTORY => Some(Self::History),
            NODE => Some(Self::Node),
            BLOCK.. => {
                let kind = IdentityKind::ALL.get(usize::from(number - BLOCK));
                kind.map(|(kind, _)| Self::Block(*kind))
            }
            _ => Shelf::ALL.get(usize::from(number)).copied().map(Self::Moment),
        }
    }

    /// Where the sum of its kind is among [`SUMS`].
    pub(super) fn sum(self) -> Option<usize> {
        let shelves = Shelf::ALL.len();
        match self {
            Self::Moment(shelf) => Some(shelf as usize),
            Self::Count => Some(shelves),
            Self::Set => Some(shelves + 1),
            Self::History => Some(shelves + 2),
            Self::Block(_) => Some(shelves + 3),
            Self::Node => None,
        }
    }

    /// Whether a cell of this kind is of use to nobody any more.
    pub(super) fn is_over(self, cell: &[u8], (now_ms, machine_ms): (u64, u64)) -> bool {
        match self {
            Self::Moment(_) => read_moment(cell).is_none_or(|(moment, class)| {
                now_ms >= moment.at_ms.saturating_add(keep_of(class))
            }),
            Self::Count => {
                let tally = read_tally(cell);
                let per_ms = tally.per_ms();
                let lasts = tally.buckets().filter(|bucket| bucket.amount > 0);
                lasts
                    .map(|it| it.last_ms)
                    .max()
                    .is_none_or(|it| now_ms >= it.saturating_add(per_ms))
            }
            Self::Set => {
                // Those from ahead stay: a sweep may be late, and of a time that is long past.
                let set = read_set(cell);
                let last = set.members.iter().map(|(_, at_ms)| *at_ms).max();
                last.is_none_or(|at_ms| now_ms >= at_ms.saturating_add(set.per_ms))
            }
            Self::History => {
                read_known(cell).is_none_or(|known| now_ms >= crate::ordered::Slot::ends_ms(&known))
            }
            Self::Block(_) => {
                read_block_cell(cell).is_none_or(|(block, _)| !is_remembered(&block, now_ms))
            }
            Self::Node => {
                let at_ms = read_node(cell).map_or(0, |(_, at_ms)| at_ms);
                !holds(at_ms, NODE_KEEP_MS, machine_ms)
            }
        }
    }
}

/// A history as the embedded store keeps it.
pub(super) fn read_known(cell: &[u8]) -> Option<Known> {
    let (history, at) = read_history(cell)?;
    Some(Known { print: 0, weights: [history.clean, history.spam, history.bad], at })
}

/// What was noted of a node: the number of its last batch, and when that was.
pub(super) fn read_node(cell: &[u8]) -> Option<(u64, u64)> {
    let ([number, at_ms], []) = cell.as_chunks::<8>() else { return None };
    Some((u64::from_be_bytes(*number), u64::from_be_bytes(*at_ms)))
}

pub(super) fn write_node(number: u64, at_ms: u64) -> Vec<u8> {
    [number.to_be_bytes(), at_ms.to_be_bytes()].concat()
}

/// The name of a cell: what it is, and its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name {
    pub(super) kind: Kind,
    pub(super) key: u64,
}

impl Name {
    pub(super) fn new(kind: Kind, key: Key) -> Self {
        Self { kind, key: key.0 }
    }

    /// As it lies in the database: nine bytes, in the order of kinds and keys.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        position(self.kind.number(), self.key)
    }

    pub(super) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, key) = bytes.split_first()?;
        Some(Self { kind: Kind::of(*kind)?, key: u64::from_be_bytes(key.try_into().ok()?) })
    }

    /// Whether it may lie in a table of first tries.
    pub(super) fn is_first(self) -> bool {
        self.kind == Kind::Moment(Shelf::Greylisted)
    }
}

/// A place among the names of cells.
pub(super) fn position(kind: u8, key: u64) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&key.to_be_bytes());
    bytes
}

/// How much time the ends of first tries in one table span: more for those that are kept longer, so
/// that a look-up has few tables to look into.
const SPANS_MS: [u64; 4] = [HOUR_MS * 12, HOUR_MS * 48, HOUR_MS * 192, HOUR_MS * 768];
/// Spans that a first try is kept at the most before the next larger one is taken.
const SPANS_MAX: u64 = 8;
/// Tables at the most; a first try that would need one more is kept beside everything else.
pub(super) const BUCKETS_MAX: usize = 48;
const SPAN_BITS: u32 = 24;
const HOUR_MS: u64 = 3_600_000;

/// A table of first tries that end about the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bucket(u32);

impl Bucket {
    /// Where a first try belongs; nothing if it is too far ahead for any.
    pub(super) fn of(at_ms: u64, class: u8) -> Option<Self> {
        let keep_ms = keep_of(class);
        let place = SPANS_MS.iter().position(|span_ms| keep_ms <= span_ms * SPANS_MAX)?;
        let number = at_ms.saturating_add(keep_ms) / SPANS_MS.get(place)?;
        let number = u32::try_from(number).ok().filter(|number| *number < 1 << SPAN_BITS)?;
        Some(Self(u32::try_from(place).ok()? << SPAN_BITS | number))
    }

    pub(super) fn of_id(id: u32) -> Self {
        Self(id)
    }

    pub(super) fn id(self) -> u32 {
        self.0
    }

    /// What its name ends with.
    pub(super) fn name(self) -> String {
        format!("first_{}_{}", self.0 >> SPAN_BITS, self.0 & ((1 << SPAN_BITS) - 1))
    }

    /// When all that is in it has run out.
    pub(super) fn ends_ms(self) -> u64 {
        let span_ms = SPANS_MS.get((self.0 >> SPAN_BITS) as usize).copied().unwrap_or(0);
        (u64::from(self.0 & ((1 << SPAN_BITS) - 1)) + 1) * span_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moments::class_of;

    const DAY: u64 = 24 * 3_600_000;

    #[test]
    fn names_are_read_back_and_in_order() {
        let kinds: Vec<Kind> = Kind::all().chain([Kind::Node]).collect();
        assert!(kinds.is_sorted_by_key(|kind| kind.number()));
        for kind in kinds {
            for key in [0, 1, u64::MAX] {
                let name = Name { kind, key };
                assert_eq!(Name::of_bytes(&name.to_bytes()), Some(name));
            }
        }
        assert_eq!(Name::of_bytes(&position(15, 1)), None);
        assert_eq!(Name::of_bytes(b"short"), None);
    }

    #[test]
    fn a_table_ends_after_all_that_is_in_it_and_not_long_after() {
        for keep_ms in [1_000, DAY / 2, 2 * DAY, 4 * DAY, 5 * DAY, 35 * DAY, 200 * DAY] {
            let class = class_of(keep_ms);
            for at_ms in [1, 1_795_528_230_007, 1_795_528_230_007 + 11 * 3_600_000] {
                let ends_ms = at_ms + keep_of(class);
                let bucket = Bucket::of(at_ms, class).unwrap();
                let span_ms = (bucket.ends_ms() - ends_ms).max(1);
                assert!(bucket.ends_ms() > ends_ms, "{keep_ms}");
                assert!(span_ms <= (keep_ms / 2).max(DAY / 2), "{keep_ms}: {span_ms}");
                assert_eq!(Bucket::of_id(bucket.id()), bucket);
            }
        }
        assert_eq!(Bucket::of(1, 255), None);
        assert_eq!(Bucket::of(u64::MAX, 0), None);
    }
}
