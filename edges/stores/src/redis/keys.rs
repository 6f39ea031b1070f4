//! Where everything is on a Redis server, and how questions and changes are written for the script.
//!
//! Keys are spread over 64 parts, each with a hash tag of its own, so that a cluster can spread them
//! over its slots and all that an operation touches is in one of them. What is for all nodes alike (the
//! secret, blocks, the log of changes) is a part of its own.

use std::fmt::Display;
use std::hash::{Hash, Hasher};

use mpp_engine::question::{
    DISTINCT_MAX, Effect, IdentityKind, Key, Question, STRIKES_KEEP_MS, Shelf,
};
use mpp_wire::resp::Command;

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
const LOG_MAX: u64 = 20_000;

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

/// A hash with entries of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table {
    letter: u8,
    part: u8,
    root: u8,
    /// How often one was full on the way to it.
    depth: u8,
    /// The bits of the field that led there, the first in front.
    way: u64,
}

impl Hash for Table {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let place = u32::from_be_bytes([self.letter, self.part, self.root, self.depth]);
        state.write_u64(u64::from(place) ^ self.way);
    }
}

impl Table {
    /// The part that it is in.
    pub(super) fn part(self) -> usize {
        usize::from(self.part)
    }

    /// The table behind it in which a field is, if it is full.
    pub(super) fn next(self, field: Field) -> Option<Self> {
        let byte = *field.bytes().get(usize::from(self.depth / 2))?;
        let nibble = if self.depth.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
        let shift = 60_u32.checked_sub(4 * u32::from(self.depth))?;
        let way = self.way | u64::from(nibble) << shift;
        Some(Self { depth: self.depth + 1, way, ..self })
    }

    /// Those on the way to it, and itself.
    pub(super) fn chain(self) -> impl Iterator<Item = Self> {
        (0..=self.depth).map(move |depth| {
            let kept = u64::MAX.checked_shl(64 - 4 * u32::from(depth)).unwrap_or(0);
            Self { depth, way: self.way & kept, ..self }
        })
    }

    /// Its name behind the prefix.
    fn name(self) -> ArrayVec<24> {
        let mut name = ArrayVec::default();
        name.push(b'{');
        name.push_hex(self.part);
        name.push(b'}');
        name.push(self.letter);
        name.push_hex(self.root);
        for place in 0..u32::from(self.depth) {
            let nibble = self.way >> (60 - 4 * place) & 15;
            name.push(b'A' + u8::try_from(nibble).unwrap_or(0));
        }
        name
    }
}

/// A field of a table.
pub(super) type Field = ArrayVec<8>;

/// Some bytes, at most so many; what is too much is left.
#[derive(Clone, Copy, Debug)]
pub(super) struct ArrayVec<const MOST: usize> {
    bytes: [u8; MOST],
    length: usize,
}

impl<const MOST: usize> Default for ArrayVec<MOST> {
    fn default() -> Self {
        Self { bytes: [0; MOST], length: 0 }
    }
}

impl<const MOST: usize> ArrayVec<MOST> {
    fn push(&mut self, byte: u8) {
        if let Some(free) = self.bytes.get_mut(self.length) {
            *free = byte;
            self.length += 1;
        }
    }

    fn push_hex(&mut self, byte: u8) {
        for digit in [byte >> 4, byte & 15] {
            self.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Where something is: the table in which it is first looked for, and its field there.
pub(super) fn place(kind: Kind, key: Key) -> (Table, Field) {
    let root = key.0 >> (64 - PART_BITS - ROOT_BITS) & ((1 << ROOT_BITS) - 1);
    let part = u8::try_from(part_of(key)).unwrap_or(0);
    let root = u8::try_from(root).unwrap_or(0);
    let table = Table { letter: kind.letter(), part, root, depth: 0, way: 0 };
    let bytes = (key.0 << (PART_BITS + ROOT_BITS)).to_be_bytes();
    (table, ArrayVec { bytes, length: kind.field_bytes() })
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

    /// Puts the name of a table at the end of a command.
    pub(super) fn push_table(&self, table: Table, command: &mut Command) {
        command.push_joined(&[self.prefix.as_bytes(), table.name().bytes()]);
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

/// One operation of the script, as its words, and the part that it belongs to.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) part: usize,
    pub(super) words: Command,
    /// Whether the script answers it.
    pub(super) is_asked: bool,
}

impl Operation {
    fn new(part: usize, letter: u8) -> Self {
        Self { part, words: Command::new(&[letter]), is_asked: false }
    }

    fn of_key(names: &Names, letter: u8, kind: Kind, key: Key) -> Self {
        let (table, field) = place(kind, key);
        let mut operation = Self::new(table.part(), letter);
        names.push_table(table, &mut operation.words);
        operation.bytes(field.bytes())
    }

    fn common(names: &Names, letter: u8, name: &str) -> Self {
        Self::new(COMMON, letter).bytes(names.of(COMMON, name))
    }

    /// What the script needs to write to the log.
    fn logged(self, names: &Names) -> Self {
        self.number(LOG_MAX).bytes(names.of(COMMON, "l"))
    }

    fn asked(mut self) -> Self {
        self.is_asked = true;
        self
    }

    fn number(mut self, number: u64) -> Self {
        self.words.push_number(number);
        self
    }

    /// A number with a fraction.
    fn real(self, number: impl Display) -> Self {
        self.bytes(number.to_string())
    }

    /// How many members a set has at the most.
    fn most(self) -> Self {
        self.number(DISTINCT_MAX as u64)
    }

    /// Counts with no limit.
    fn endless(self) -> Self {
        self.bytes(b"-1")
    }

    fn bytes(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.words.push(bytes.as_ref());
        self
    }

    /// The moment of all operations behind it in that part.
    pub(super) fn now(part: usize, now_ms: u64) -> Self {
        Self::new(part, b'N').number(now_ms)
    }

    /// A question; nothing for one that every node answers itself.
    pub(super) fn question(names: &Names, question: &Question) -> Option<Self> {
        let operation = match *question {
            Question::Since { shelf, key } => {
                Self::of_key(names, b'S', Kind::Moment(shelf), moment_key(shelf, key))
            }
            Question::Blocked { .. } => return None,
            Question::History { key } => Self::of_key(names, b'S', Kind::History, key),
            Question::Count { key, per_ms, amount } => Self::of_key(names, b'C', Kind::Count, key)
                .number(per_ms)
                .number(amount.into())
                .endless(),
            Question::Reserve { key, per_ms, amount, limit } => {
                let limit = limit.min(1 << 52);
                Self::of_key(names, b'C', Kind::Count, key)
                    .number(per_ms)
                    .number(amount.into())
                    .number(limit)
            }
            Question::Distinct { key, member, per_ms } => Self::of_key(names, b'D', Kind::Set, key)
                .number(per_ms)
                .bytes(member.to_be_bytes())
                .most(),
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
                Self::common(names, b'B', "b")
                    .bytes(block_field(new.kind, new.key))
                    .number(new.for_ms)
                    // Not a digit less: the nodes reckon with it as well.
                    .real(f64::from(new.grow.max(1.0)))
                    .number(new.up_to_ms)
                    .number(STRIKES_KEEP_MS)
                    .number(new.reason as u64)
                    .bytes(subject)
                    .logged(names)
            }
            Effect::Unblock { kind, key } => Self::unblock(names, *kind, *key),
            Effect::GiveBack { key, at_ms, amount } => {
                Self::of_key(names, b'G', Kind::Count, *key).number(*at_ms).number((*amount).into())
            }
            Effect::Observe { key, lesson, weight } => {
                Self::of_key(names, b'O', Kind::History, *key).number(*lesson as u64).real(*weight)
            }
            Effect::Note(_) => return None,
        })
    }

    fn unblock(names: &Names, kind: IdentityKind, key: Key) -> Self {
        Self::common(names, b'U', "b").bytes(block_field(kind, key)).logged(names)
    }

    /// News for the log.
    pub(super) fn news(names: &Names, record: &Record) -> Self {
        let mut bytes = Vec::new();
        record.push(&mut bytes);
        Self::common(names, b'L', "l").number(LOG_MAX).bytes(bytes)
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
                let operation = Self::common(names, b'P', "b")
                    .bytes(block_field(*kind, *key))
                    .bytes(block_cell(block, subject));
                (block.since_ms, operation.logged(names))
            }
            Record::Unblock { kind, key } => (0, Self::unblock(names, *kind, *key)),
            Record::Count { key, per_ms, at_ms, amount } => {
                let operation = Self::of_key(names, b'C', Kind::Count, *key);
                (*at_ms, operation.number(*per_ms).number((*amount).into()).endless().asked())
            }
            Record::GiveBack { key, at_ms, amount } => (
                *at_ms,
                Self::of_key(names, b'G', Kind::Count, *key)
                    .number(*at_ms)
                    .number((*amount).into()),
            ),
            Record::Member { key, member, per_ms, at_ms } => {
                let operation = Self::of_key(names, b'D', Kind::Set, *key)
                    .number(*per_ms)
                    .bytes(member.to_be_bytes())
                    .most();
                (*at_ms, operation.asked())
            }
            Record::Observe { key, lesson, weight, at_ms } => {
                let operation = Self::of_key(names, b'O', Kind::History, *key);
                (*at_ms, operation.number(*lesson as u64).real(*weight))
            }
        }
    }

    /// Drops what has run out of a table.
    pub(super) fn sweep(part: usize, table: &[u8], kind: Kind) -> Self {
        Self::new(part, b'W').bytes(table).bytes([kind.letter()]).asked()
    }

    /// Drops some of the blocks that nobody need know of.
    pub(super) fn sweep_blocks(names: &Names, cursor: u64) -> Self {
        Self::common(names, b'X', "b").number(cursor).number(STRIKES_KEEP_MS).asked()
    }

    /// How much the tables of a part hold.
    pub(super) fn count(names: &Names, part: usize) -> Self {
        Self::new(part, b'K').bytes(names.of(part, "t")).asked()
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
    use mpp_wire::resp::{Decoder, Reply};

    fn named(names: &Names, table: Table) -> Vec<u8> {
        let mut command = Command::default();
        names.push_table(table, &mut command);
        let mut bytes = Vec::new();
        command.write(&mut bytes);
        let words = Decoder::default().take(&bytes).unwrap().1;
        let Some(Reply::List(words)) = words else { panic!("{words:?}") };
        let [Reply::Text(name)] = words.as_slice() else { panic!("{words:?}") };
        name.clone()
    }

    #[test]
    fn a_key_is_found_again_in_its_place() {
        let names = Names::new("mpp");
        for key in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef].map(Key) {
            for kind in [Kind::Count, Kind::Set, Kind::History] {
                let (table, field) = place(kind, key);
                let name = named(&names, table);
                assert_eq!(names.key_of(&name, field.bytes()), Some((kind, key)));
                let name = String::from_utf8(name).unwrap();
                let root = format!("{}{}", char::from(kind.letter()), &name[name.len() - 2..]);
                assert_eq!(name, names.of(part_of(key), &root));
            }
            for shelf in Shelf::ALL {
                let (kind, key) = (Kind::Moment(shelf), moment_key(shelf, key));
                let (first, field) = place(kind, key);
                let mut chain = vec![first];
                while let Some(next) = chain[chain.len() - 1].next(field) {
                    chain.push(next);
                }
                assert_eq!(chain.len(), 2 * MOMENT_FIELD + 1);
                for (depth, table) in chain.iter().enumerate() {
                    // A table behind a full one has letters behind its name.
                    let name = named(&names, *table);
                    assert_eq!(names.key_of(&name, field.bytes()), Some((kind, key)));
                    let tail = &name[name.len() - depth..];
                    let nibbles = field.bytes().iter().flat_map(|byte| [byte >> 4, byte & 15]);
                    let letters: Vec<u8> = nibbles.map(|it| b'A' + it).take(depth).collect();
                    assert_eq!(tail, letters);
                    assert_eq!(table.chain().collect::<Vec<_>>(), chain[..=depth]);
                }
            }
            let field = block_field(IdentityKind::Sender, key);
            assert_eq!(read_block_field(&field), Some((IdentityKind::Sender, key)));
        }
        assert_eq!(names.key_of(b"other{00}000", b"12345"), None);
        assert_eq!(names.key_of(b"mpp{", b"12345"), None);
    }
}
