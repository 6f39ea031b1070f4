//! Records of change, as bytes.
//!
//! A record says what became of a decision's questions and effects, so that applying the records
//! again in order leads to the same state. States (a moment, a block) are set; counts and histories
//! are changed by differences, and must not be applied twice.

use mpp_engine::question::{Block, BlockReason, IdentityKind, Key, Lesson, Moment, Shelf, Subject};

/// A change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    Moment { shelf: Shelf, key: Key, moment: Moment, class: u8 },
    Forget { shelf: Shelf, key: Key },
    Block { kind: IdentityKind, key: Key, block: Block, subject: Subject },
    Unblock { kind: IdentityKind, key: Key },
    Count { key: Key, per_ms: u64, at_ms: u64, amount: u32 },
    GiveBack { key: Key, at_ms: u64, amount: u32 },
    Member { key: Key, member: u64, per_ms: u64, at_ms: u64 },
    Observe { key: Key, lesson: Lesson, weight: f32, at_ms: u64 },
}

const TAG_MOMENT: u8 = 1;
const TAG_FORGET: u8 = 2;
const TAG_BLOCK: u8 = 3;
const TAG_UNBLOCK: u8 = 4;
const TAG_COUNT: u8 = 5;
const TAG_GIVE_BACK: u8 = 6;
const TAG_MEMBER: u8 = 7;
const TAG_OBSERVE: u8 = 8;

impl Record {
    /// Appends the record.
    pub(crate) fn push(&self, out: &mut Vec<u8>) {
        match self {
            Self::Moment { shelf, key, moment, class } => {
                // 17 bytes: what a drone costs on disk until the next snapshot.
                out.push(TAG_MOMENT | (*shelf as u8) << 4);
                push_u64(key.0, out);
                push_u48(moment.at_ms, out);
                out.extend_from_slice(&[*class, moment.tries]);
            }
            Self::Forget { shelf, key } => {
                out.push(TAG_FORGET | (*shelf as u8) << 4);
                push_u64(key.0, out);
            }
            Self::Block { kind, key, block, subject } => {
                out.extend_from_slice(&[TAG_BLOCK, *kind as u8, block.reason as u8]);
                push_u64(key.0, out);
                push_u48(block.until_ms, out);
                push_u48(block.since_ms, out);
                out.extend_from_slice(&block.strikes.to_le_bytes());
                push_subject(subject, out);
            }
            Self::Unblock { kind, key } => {
                out.extend_from_slice(&[TAG_UNBLOCK, *kind as u8]);
                push_u64(key.0, out);
            }
            Self::Count { key, per_ms, at_ms, amount } => {
                out.push(TAG_COUNT);
                push_u64(key.0, out);
                push_u48(*per_ms, out);
                push_u48(*at_ms, out);
                out.extend_from_slice(&amount.to_le_bytes());
            }
            Self::GiveBack { key, at_ms, amount } => {
                out.push(TAG_GIVE_BACK);
                push_u64(key.0, out);
                push_u48(*at_ms, out);
                out.extend_from_slice(&amount.to_le_bytes());
            }
            Self::Member { key, member, per_ms, at_ms } => {
                out.push(TAG_MEMBER);
                push_u64(key.0, out);
                push_u64(*member, out);
                push_u48(*per_ms, out);
                push_u48(*at_ms, out);
            }
            Self::Observe { key, lesson, weight, at_ms } => {
                out.extend_from_slice(&[TAG_OBSERVE, *lesson as u8]);
                push_u64(key.0, out);
                out.extend_from_slice(&weight.to_le_bytes());
                push_u48(*at_ms, out);
            }
        }
    }

    /// Reads the next record.
    pub(crate) fn take(bytes: &mut Bytes<'_>) -> Option<Self> {
        let tag = bytes.u8()?;
        let shelf = Shelf::ALL.get(usize::from(tag >> 4)).copied();
        Some(match tag & 15 {
            TAG_MOMENT => Self::Moment {
                shelf: shelf?,
                key: Key(bytes.u64()?),
                moment: Moment { at_ms: bytes.u48()?, tries: 0 },
                class: bytes.u8()?,
            }
            .with_tries(bytes.u8()?),
            TAG_FORGET => Self::Forget { shelf: shelf?, key: Key(bytes.u64()?) },
            TAG_BLOCK => {
                let kind = kind(bytes.u8()?)?;
                let reason = reason(bytes.u8()?)?;
                let key = Key(bytes.u64()?);
                let (until_ms, since_ms) = (bytes.u48()?, bytes.u48()?);
                let block = Block { until_ms, since_ms, strikes: bytes.u32()?, reason };
                Self::Block { kind, key, block, subject: take_subject(bytes)? }
            }
            TAG_UNBLOCK => Self::Unblock { kind: kind(bytes.u8()?)?, key: Key(bytes.u64()?) },
            TAG_COUNT => Self::Count {
                key: Key(bytes.u64()?),
                per_ms: bytes.u48()?,
                at_ms: bytes.u48()?,
                amount: bytes.u32()?,
            },
            TAG_GIVE_BACK => {
                Self::GiveBack { key: Key(bytes.u64()?), at_ms: bytes.u48()?, amount: bytes.u32()? }
            }
            TAG_MEMBER => Self::Member {
                key: Key(bytes.u64()?),
                member: bytes.u64()?,
                per_ms: bytes.u48()?,
                at_ms: bytes.u48()?,
            },
            TAG_OBSERVE => {
                let lesson = match bytes.u8()? {
                    0 => Lesson::Clean,
                    1 => Lesson::Spam,
                    2 => Lesson::Bad,
                    _ => return None,
                };
                let key = Key(bytes.u64()?);
                Self::Observe { key, lesson, weight: bytes.f32()?, at_ms: bytes.u48()? }
            }
            _ => return None,
        })
    }

    fn with_tries(mut self, tries: u8) -> Self {
        if let Self::Moment { moment, .. } = &mut self {
            moment.tries = tries;
        }
        self
    }
}

fn kind(number: u8) -> Option<IdentityKind> {
    IdentityKind::ALL.get(usize::from(number)).map(|(kind, _)| *kind)
}

fn reason(number: u8) -> Option<BlockReason> {
    BlockReason::ALL.get(usize::from(number)).map(|(reason, _)| *reason)
}

/// A block with whom it is of, as servers keep it: when it ends, since when, how often before, why.
pub(crate) fn block_cell(block: &Block, subject: &Subject) -> Vec<u8> {
    let mut cell = Vec::new();
    for at_ms in [block.until_ms, block.since_ms] {
        let bytes = at_ms.min((1 << 48) - 1).to_be_bytes();
        cell.extend_from_slice(bytes.get(2..).unwrap_or_default());
    }
    cell.extend_from_slice(&block.strikes.to_be_bytes());
    cell.push(block.reason as u8);
    push_subject(subject, &mut cell);
    cell
}

/// Reads what [`block_cell`] wrote.
pub(crate) fn read_block_cell(cell: &[u8]) -> Option<(Block, Subject)> {
    let mut bytes = Bytes(cell);
    let time = |bytes: &mut Bytes<'_>| {
        let six: [u8; 6] = bytes.array()?;
        Some(six.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let (until_ms, since_ms) = (time(&mut bytes)?, time(&mut bytes)?);
    let strikes = u32::from_be_bytes(bytes.array()?);
    let reason = reason(bytes.u8()?)?;
    Some((Block { until_ms, since_ms, strikes, reason }, take_subject(&mut bytes)?))
}

/// Appends a subject: what it is, and its text, cut at 64 KiB.
pub(crate) fn push_subject(subject: &Subject, out: &mut Vec<u8>) {
    let tag = match subject {
        Subject::Address(_) => 0,
        Subject::Network(_) => 1,
        Subject::Name(_) => 2,
    };
    let text = subject.to_string();
    let mut cut = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    out.push(tag);
    out.extend_from_slice(&u16::try_from(cut).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(text.as_bytes().get(..cut).unwrap_or_default());
}

pub(crate) fn take_subject(bytes: &mut Bytes<'_>) -> Option<Subject> {
    let tag = bytes.u8()?;
    let length = usize::from(u16::from_le_bytes(bytes.array()?));
    let text = std::str::from_utf8(bytes.slice(length)?).ok()?;
    match tag {
        0 => text.parse().ok().map(Subject::Address),
        1 => text.parse().ok().map(Subject::Network),
        2 => Some(Subject::Name(text.into())),
        _ => None,
    }
}

pub(crate) fn push_u32(value: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn push_u64(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a time or span in milliseconds: 48 bits last for 8,900 years.
pub(crate) fn push_u48(value: u64, out: &mut Vec<u8>) {
    let bytes = value.min((1 << 48) - 1).to_le_bytes();
    out.extend_from_slice(bytes.get(..6).unwrap_or_default());
}

/// Bytes that are read from the front.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes<'b>(pub(crate) &'b [u8]);

impl<'b> Bytes<'b> {
    pub(crate) fn slice(&mut self, length: usize) -> Option<&'b [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u48(&mut self) -> Option<u64> {
        let low = u32::from_le_bytes(self.array()?);
        let high = u16::from_le_bytes(self.array()?);
        Some(u64::from(high) << 32 | u64::from(low))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn f32(&mut self) -> Option<f32> {
        self.array().map(f32::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back() {
        let key = Key(0x0123_4567_89ab_cdef);
        let block =
            Block { until_ms: 9_000, since_ms: 8_000, strikes: 3, reason: BlockReason::Harvest };
        let mut records = vec![
            Record::Moment {
                shelf: Shelf::Proven,
                key,
                moment: Moment { at_ms: 1_795_528_230_007, tries: 9 },
                class: 200,
            },
            Record::Forget { shelf: Shelf::Correspondent, key },
            Record::Unblock { kind: IdentityKind::SaslUser, key },
            Record::Count { key, per_ms: 3_600_000, at_ms: 5, amount: 7 },
            Record::GiveBack { key, at_ms: 5, amount: 7 },
            Record::Member { key, member: 77, per_ms: 1, at_ms: 2 },
            Record::Observe { key, lesson: Lesson::Bad, weight: 0.5, at_ms: 3 },
        ];
        for subject in [
            Subject::Address("2001:db8::1".parse().unwrap()),
            Subject::Network("192.0.2.0/24".parse().unwrap()),
            Subject::Name("jörg@example.org at pool.example".into()),
        ] {
            let kind = IdentityKind::Client;
            records.push(Record::Block { kind, key, block, subject });
        }
        let mut out = Vec::new();
        for record in &records {
            record.push(&mut out);
        }
        let mut bytes = Bytes(&out);
        let back: Vec<Record> = std::iter::from_fn(|| Record::take(&mut bytes)).collect();
        assert_eq!(back, records);
        assert!(bytes.0.is_empty());
        for end in 0..out.len() {
            // Cut anywhere it stops, and never invents a record.
            let mut bytes = Bytes(&out[..end]);
            let some: Vec<Record> = std::iter::from_fn(|| Record::take(&mut bytes)).collect();
            assert_eq!(some, records[..some.len()]);
        }
    }
}
