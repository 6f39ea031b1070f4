//! Where everything is on a Redis server, and how questions and changes are written for the script.
//!
//! Keys are spread over 64 parts, each with a hash tag of its own, so that a cluster can spread them
//! over its slots and all that an operation touches is in one of them. What is for all nodes alike (the
//! secret, blocks, the log of changes) is a part of its own.

use mpp_engine::question::{
    DISTINCT_MAX, Effect, IdentityKind, Key, Question, STRIKES_KEEP_MS, Shelf,
};
use redis::Cmd;

use crate::moments::{class_of, keep_of};
use crate::record::{Record, block_cell, push_subject};
use crate::shared::cells::{moment_key, write_moment};

/// How many parts there are, as a power of two.
const PART_BITS: u32 = 6;
/// How many parts there are.
pub(super) const PARTS: usize = 1 << PART_BITS;
/// The part of what is for all nodes.
pub(super) const COMMON: usize = PARTS;
/// Tables of each kind in a part, as a power of two.
const ROOT_BITS: u32 = 8;
/// Bytes of a field for a point in time: with part and table 54 bits of its key.
const MOMENT_FIELD: usize = 5;
/// Bytes of a field for anything else: the whole key.
const WHOLE_FIELD: usize = 7;
/// Entries of the log at the most, about.
const LOG_MAX: u32 = 20_000;

/// What a table holds, as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Moment(Shelf),
    Count,
    Set,
    History,
}

impl Kind {
    pub(super) fn letter(self) -> u8 {
        match self {
            Self::Moment(shelf) => b'0' + shelf as u8,
            Self::Count => b'c',
            Self::Set => b'd',
            Self::History => b'h',
        }
    }

    pub(super) fn of(letter: u8) -> Option<Self> {
        match letter {
            b'c' => Some(Self::Count),
            b'd' => Some(Self::Set),
            b'h' => Some(Self::History),
            b'0'..=b'9' => Shelf::ALL.get(usize::from(letter - b'0')).copied().map(Self::Moment),
            _ => None,
        }
    }

    fn field_bytes(self) -> usize {
        if let Self::Moment(_) = self { MOMENT_FIELD } else { WHOLE_FIELD }
    }
}

/// The names of keys.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// A key of a part.
    pub(super) fn of(&self, part: usize, name: &str) -> String {
        if part == COMMON {
            format!("{}{{all}}{name}", self.prefix)
        } else {
            format!("{}{{{part:02x}}}{name}", self.prefix)
        }
    }

    /// The part of a key, its table, and its field there.
    pub(super) fn place(&self, kind: Kind, key: Key) -> (usize, String, Vec<u8>) {
        let root = key.0 >> (64 - PART_BITS - ROOT_BITS) & ((1 << ROOT_BITS) - 1);
        let name = format!("{}{root:02x}", char::from(kind.letter()));
        let bytes = (key.0 << (PART_BITS + ROOT_BITS)).to_be_bytes();
        let field = bytes.get(..kind.field_bytes()).unwrap_or_default().to_vec();
        let part = part_of(key);
        (part, self.of(part, &name), field)
    }

    /// The key of a field in a table, as far as it is known, and what kind it is.
    pub(super) fn key_of(&self, table: &[u8], field: &[u8]) -> Option<(Kind, Key)> {
        let rest = table.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b"{")?;
        let number =
            |digits: &[u8]| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        let (part, rest) = (number(rest.get(..2)?)?, rest.get(3..)?);
        let (kind, root) = (Kind::of(*rest.first()?)?, number(rest.get(1..3)?)?);
        if field.len() != kind.field_bytes() {
            return None;
        }
        let mut bytes = [0; 8];
        bytes.get_mut(..field.len())?.copy_from_slice(field);
        let known = u64::from_be_bytes(bytes) >> (PART_BITS + ROOT_BITS);
        let key = part << (64 - PART_BITS) | root << (64 - PART_BITS - ROOT_BITS) | known;
        Some((kind, Key(key)))
    }
}

/// Which part a key belongs to.
fn part_of(key: Key) -> usize {
    usize::try_from(key.0 >> (64 - PART_BITS)).unwrap_or(0)
}

/// One operation of the script, as its arguments, and the part that it belongs to.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) part: usize,
    arguments: Vec<Vec<u8>>,
    /// Whether the script answers it.
    pub(super) is_asked: bool,
}

impl Operation {
    /// Puts it at the end of a command.
    pub(super) fn push(&self, command: &mut Cmd) {
        for argument in &self.arguments {
            command.arg(argument.as_slice());
        }
    }

    fn of_key(names: &Names, letter: u8, kind: Kind, key: Key) -> Self {
        let (part, table, field) = names.place(kind, key);
        let arguments = vec![vec![letter], table.into_bytes(), field];
        Self { part, arguments, is_asked: false }
    }

    fn common(letter: u8, arguments: Vec<Vec<u8>>) -> Self {
        let mut all = vec![vec![letter]];
        all.extend(arguments);
        Self { part: COMMON, arguments: all, is_asked: false }
    }

    fn asked(mut self) -> Self {
        self.is_asked = true;
        self
    }

    fn number(mut self, number: impl std::fmt::Display) -> Self {
        self.arguments.push(number.to_string().into_bytes());
        self
    }

    fn bytes(mut self, bytes: Vec<u8>) -> Self {
        self.arguments.push(bytes);
        self
    }

    /// The moment of all operations behind it in that part.
    pub(super) fn now(part: usize, now_ms: u64) -> Self {
        let arguments = vec![vec![b'N'], now_ms.to_string().into_bytes()];
        Self { part, arguments, is_asked: false }
    }

    /// A question; nothing for one that every node answers itself.
    pub(super) fn question(names: &Names, question: &Question) -> Option<Self> {
        let operation = match *question {
            Question::Since { shelf, key } => {
                Self::of_key(names, b'S', Kind::Moment(shelf), moment_key(shelf, key))
            }
            Question::Blocked { .. } => return None,
            Question::History { key } => Self::of_key(names, b'S', Kind::History, key),
            Question::Count { key, per_ms, amount } => {
                Self::of_key(names, b'C', Kind::Count, key).number(per_ms).number(amount).number(-1)
            }
            Question::Reserve { key, per_ms, amount, limit } => {
                let limit = limit.min(1 << 52);
                Self::of_key(names, b'C', Kind::Count, key)
                    .number(per_ms)
                    .number(amount)
                    .number(limit)
            }
            Question::Distinct { key, member, per_ms } => {
                let member = member.to_be_bytes().to_vec();
                Self::of_key(names, b'D', Kind::Set, key)
                    .number(per_ms)
                    .bytes(member)
                    .number(DISTINCT_MAX)
            }
        };
        Some(operation.asked())
    }

    /// An effect; nothing for one that changes nothing.
    pub(super) fn effect(names: &Names, now_ms: u64, effect: &Effect) -> Option<Self> {
        Some(match effect {
            Effect::Remember { shelf, key, keep_ms, again, mark } => {
                let moment = mpp_engine::question::Moment { at_ms: now_ms, tries: (*mark).min(15) };
                let class = class_of(*keep_ms);
                let letter = if *again { b'M' } else { b'R' };
                Self::of_key(names, letter, Kind::Moment(*shelf), moment_key(*shelf, *key))
                    .bytes(write_moment(moment, class))
                    .number(keep_of(class))
            }
            Effect::TooEarly { key } => {
                let shelf = Shelf::Greylisted;
                Self::of_key(names, b'E', Kind::Moment(shelf), moment_key(shelf, *key))
            }
            Effect::Forget { shelf, key } => {
                Self::of_key(names, b'F', Kind::Moment(*shelf), moment_key(*shelf, *key))
            }
            Effect::Block(new) => {
                let mut subject = Vec::new();
                push_subject(&new.subject, &mut subject);
                Self::common(
                    b'B',
                    vec![names.of(COMMON, "b").into_bytes(), block_field(new.kind, new.key)],
                )
                .number(new.for_ms)
                .number(f64::from(new.grow.max(1.0)))
                .number(new.up_to_ms)
                .number(STRIKES_KEEP_MS)
                .number(new.reason as u8)
                .bytes(subject)
                .number(LOG_MAX)
                .bytes(names.of(COMMON, "l").into_bytes())
            }
            Effect::Unblock { kind, key } => Self::unblock(names, *kind, *key),
            Effect::GiveBack { key, at_ms, amount } => {
                Self::of_key(names, b'G', Kind::Count, *key).number(at_ms).number(amount)
            }
            Effect::Observe { key, lesson, weight } => {
                Self::of_key(names, b'O', Kind::History, *key).number(*lesson as u8).number(weight)
            }
            Effect::Note(_) => return None,
        })
    }

    fn unblock(names: &Names, kind: IdentityKind, key: Key) -> Self {
        Self::common(b'U', vec![names.of(COMMON, "b").into_bytes(), block_field(kind, key)])
            .number(LOG_MAX)
            .bytes(names.of(COMMON, "l").into_bytes())
    }

    /// News for the log.
    pub(super) fn news(names: &Names, record: &Record) -> Self {
        let mut bytes = Vec::new();
        record.push(&mut bytes);
        Self::common(b'L', vec![names.of(COMMON, "l").into_bytes()]).number(LOG_MAX).bytes(bytes)
    }

    /// A record of another store, with the moment that it is of.
    pub(super) fn record(names: &Names, record: &Record) -> (u64, Self) {
        match record {
            Record::Moment { shelf, key, moment, class } => {
                let operation =
                    Self::of_key(names, b'M', Kind::Moment(*shelf), moment_key(*shelf, *key))
                        .bytes(write_moment(*moment, *class))
                        .number(keep_of(*class));
                (moment.at_ms, operation)
            }
            Record::Forget { shelf, key } => {
                (0, Self::of_key(names, b'F', Kind::Moment(*shelf), moment_key(*shelf, *key)))
            }
            Record::Block { kind, key, block, subject } => {
                let operation = Self::common(
                    b'P',
                    vec![
                        names.of(COMMON, "b").into_bytes(),
                        block_field(*kind, *key),
                        block_cell(block, subject),
                    ],
                );
                let log = names.of(COMMON, "l").into_bytes();
                (block.since_ms, operation.number(LOG_MAX).bytes(log))
            }
            Record::Unblock { kind, key } => (0, Self::unblock(names, *kind, *key)),
            Record::Count { key, per_ms, at_ms, amount } => {
                let operation = Self::of_key(names, b'C', Kind::Count, *key);
                (*at_ms, operation.number(per_ms).number(amount).number(-1).asked())
            }
            Record::GiveBack { key, at_ms, amount } => {
                (*at_ms, Self::of_key(names, b'G', Kind::Count, *key).number(at_ms).number(amount))
            }
            Record::Member { key, member, per_ms, at_ms } => {
                let operation = Self::of_key(names, b'D', Kind::Set, *key)
                    .number(per_ms)
                    .bytes(member.to_be_bytes().to_vec())
                    .number(DISTINCT_MAX);
                (*at_ms, operation.asked())
            }
            Record::Observe { key, lesson, weight, at_ms } => {
                let operation = Self::of_key(names, b'O', Kind::History, *key);
                (*at_ms, operation.number(*lesson as u8).number(weight))
            }
        }
    }

    /// Drops what has run out of a table.
    pub(super) fn sweep(part: usize, table: &[u8], kind: Kind) -> Self {
        let arguments = vec![vec![b'W'], table.to_vec(), vec![kind.letter()]];
        Self { part, arguments, is_asked: true }
    }

    /// Drops some of the blocks that nobody need know of.
    pub(super) fn sweep_blocks(names: &Names, cursor: u64) -> Self {
        let operation = Self::common(b'X', vec![names.of(COMMON, "b").into_bytes()]);
        operation.number(cursor).number(STRIKES_KEEP_MS).asked()
    }

    /// How much the tables of a part hold.
    pub(super) fn count(names: &Names, part: usize) -> Self {
        let arguments = vec![vec![b'K'], names.of(part, "t").into_bytes()];
        Self { part, arguments, is_asked: true }
    }
}

/// A block's field: its kind and its key.
fn block_field(kind: IdentityKind, key: Key) -> Vec<u8> {
    let mut field = vec![kind as u8];
    field.extend_from_slice(&key.0.to_be_bytes());
    field
}

/// What a block's field says.
pub(super) fn read_block_field(field: &[u8]) -> Option<(IdentityKind, Key)> {
    let (kind, key) = field.split_first()?;
    let (kind, _) = IdentityKind::ALL.get(usize::from(*kind))?;
    Some((*kind, Key(u64::from_be_bytes(key.try_into().ok()?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_again_in_its_place() {
        let names = Names::new("mpp");
        for key in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef].map(Key) {
            for kind in [Kind::Count, Kind::Set, Kind::History] {
                let (_, table, field) = names.place(kind, key);
                assert_eq!(names.key_of(table.as_bytes(), &field), Some((kind, key)));
            }
            for shelf in Shelf::ALL {
                let (kind, key) = (Kind::Moment(shelf), moment_key(shelf, key));
                let (_, table, field) = names.place(kind, key);
                assert_eq!(names.key_of(table.as_bytes(), &field), Some((kind, key)));
                // A table behind a full one has letters behind its name.
                assert_eq!(
                    names.key_of(format!("{table}AC").as_bytes(), &field),
                    Some((kind, key))
                );
            }
            let field = block_field(IdentityKind::Sender, key);
            assert_eq!(read_block_field(&field), Some((IdentityKind::Sender, key)));
        }
        assert_eq!(names.key_of(b"other{00}000", b"12345"), None);
        assert_eq!(names.key_of(b"mpp{", b"12345"), None);
    }
}
