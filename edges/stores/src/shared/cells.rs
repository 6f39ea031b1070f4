//! How one remembered thing is written to a server: as few bytes as possible, the same for every
//! server.

use mpp_engine::question::{History, Key, Lesson, Moment, Shelf};

use crate::moments::{holds, keep_of};
use crate::part::{Known, Set};
use crate::record::Record;
use crate::tables::key_bits;
use crate::tally::{Bucket, Tally};

/// A key of a point in time, as it is written: only those of its bits that the embedded store keeps as
/// well, so that entries can be copied from one to the other.
pub(crate) fn moment_key(shelf: Shelf, key: Key) -> Key {
    Key(key.0 & u64::MAX << (64 - key_bits(shelf)))
}

/// A point in time: when in six bytes, the class of how long, and how often tried if at all.
pub(crate) fn write_moment(moment: Moment, class: u8) -> Vec<u8> {
    let mut cell = Vec::with_capacity(8);
    push_six(moment.at_ms, &mut cell);
    cell.push(class);
    if moment.tries > 0 {
        cell.push(moment.tries.min(15));
    }
    cell
}

/// Reads a point in time with its class. Nothing if it is no such thing.
pub(crate) fn read_moment(cell: &[u8]) -> Option<(Moment, u8)> {
    let (at, rest) = cell.split_first_chunk::<6>()?;
    let at_ms = six(at);
    let (class, tries) = match rest {
        [class] => (*class, 0),
        [class, tries] => (*class, (*tries).min(15)),
        _ => return None,
    };
    Some((Moment { at_ms, tries }, class))
}

/// A point in time that holds now.
pub(crate) fn held_moment(cell: &[u8], now_ms: u64) -> Option<Moment> {
    let (moment, class) = read_moment(cell)?;
    holds(moment.at_ms, keep_of(class), now_ms).then_some(moment)
}

/// A point in time as a record.
pub(crate) fn moment_record(shelf: Shelf, key: Key, cell: &[u8]) -> Option<Record> {
    let (moment, class) = read_moment(cell)?;
    Some(Record::Moment { shelf, key, moment, class })
}

/// Reads a history: when it was last changed, in seconds, in four bytes, and its three weights.
pub(crate) fn read_history(cell: &[u8]) -> Option<(History, u32)> {
    let (at, weights) = cell.split_first_chunk::<4>()?;
    let [clean, spam, bad] = weights.as_chunks::<4>().0 else { return None };
    let [clean, spam, bad] = [clean, spam, bad].map(|bytes| f32::from_le_bytes(*bytes));
    Some((History { clean, spam, bad }, u32::from_be_bytes(*at)))
}

/// A history as records: as of when it was last changed.
pub(crate) fn history_records(key: Key, cell: &[u8]) -> Option<Vec<Record>> {
    let (History { clean, spam, bad }, at_s) = read_history(cell)?;
    let lessons = [(Lesson::Clean, clean), (Lesson::Spam, spam), (Lesson::Bad, bad)];
    let at_ms = u64::from(at_s) * 1_000;
    let record = |(lesson, weight)| Record::Observe { key, lesson, weight, at_ms };
    Some(lessons.into_iter().filter(|(_, weight)| *weight > 0.0).map(record).collect())
}

/// Writes a history.
pub(crate) fn write_history(known: &Known) -> Vec<u8> {
    let mut cell = known.at.to_be_bytes().to_vec();
    for weight in known.weights {
        cell.extend_from_slice(&weight.to_le_bytes());
    }
    cell
}

/// Reads a count: the window in six bytes, then buckets, each its last moment and what it holds in six.
pub(crate) fn read_tally(cell: &[u8]) -> Tally {
    let Some((per, buckets)) = cell.split_first_chunk::<6>() else { return Tally::default() };
    let bucket = |bucket: &[u8; 12]| {
        let (last, amount) = bucket.split_at(6);
        Bucket { last_ms: six(last), amount: six(amount) }
    };
    let buckets = buckets.as_chunks::<12>().0.iter().map(bucket).collect();
    Tally::from_buckets(buckets, six(per))
}

/// Writes a count.
pub(crate) fn write_tally(tally: &Tally) -> Vec<u8> {
    let mut cell = Vec::new();
    push_six(tally.per_ms(), &mut cell);
    for bucket in tally.buckets() {
        push_six(bucket.last_ms, &mut cell);
        push_six(bucket.amount, &mut cell);
    }
    cell
}

/// Reads a set: the window in six bytes, then members in eight, each with when it came in six.
pub(crate) fn read_set(cell: &[u8]) -> Set {
    let Some((per, members)) = cell.split_first_chunk::<6>() else { return Set::default() };
    let member = |it: &[u8; 14]| {
        let (member, at) = it.split_at(8);
        (member.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)), six(at))
    };
    Set { members: members.as_chunks::<14>().0.iter().map(member).collect(), per_ms: six(per) }
}

/// Writes a set.
pub(crate) fn write_set(set: &Set) -> Vec<u8> {
    let mut cell = Vec::new();
    push_six(set.per_ms, &mut cell);
    for (member, at_ms) in &set.members {
        cell.extend_from_slice(&member.to_be_bytes());
        push_six(*at_ms, &mut cell);
    }
    cell
}

fn push_six(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(value.min((1 << 48) - 1).to_be_bytes().get(2..).unwrap_or(&[]));
}

/// A time or an amount in six bytes.
fn six(bytes: &[u8]) -> u64 {
    bytes.iter().take(6).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// A count as records.
pub(crate) fn count_records(key: Key, cell: &[u8]) -> Vec<Record> {
    let tally = read_tally(cell);
    let per_ms = tally.per_ms();
    let held = tally.buckets().filter(|bucket| bucket.amount > 0);
    let record = |Bucket { last_ms, amount }| {
        let amount = u32::try_from(amount).unwrap_or(u32::MAX);
        Record::Count { key, per_ms, at_ms: last_ms, amount }
    };
    held.map(record).collect()
}

/// A set as records.
pub(crate) fn set_records(key: Key, cell: &[u8]) -> Vec<Record> {
    let Set { members, per_ms } = read_set(cell);
    let record = |(member, at_ms)| Record::Member { key, member, per_ms, at_ms };
    members.into_iter().map(record).collect()
}
