//! All that the embedded store remembers, in memory, and how questions and effects touch it.
//!
//! Every change is a [`Record`], applied by one function here whether it comes from a decision or
//! from the journal after a restart, so both lead to the same state.

use mpp_engine::question::{
    Answer, Block, BlockReason, Counted, Effect, History, IdentityKind, Key, Moment, NewBlock,
    Question, STRIKES_KEEP_MS, Shelf,
};
use mpp_hub::store::{BlockRow, Counts};

use crate::moments::{ENTRY_BYTES, Moments, PRINT_BITS, class_of};
use crate::part::{PARTS, Part, part_of};
use crate::record::{Record, push_u32};
use crate::tally::Counter;

/// Shards of each shelf, as powers of two: drones fill the first.
const SHARD_BITS: [u32; Shelf::ALL.len()] = [12, 10, 10, 10, 10, 10];

/// How many of a key's first bits are known of a point in time.
pub(crate) fn key_bits(shelf: Shelf) -> u32 {
    SHARD_BITS.get(shelf as usize).map_or(0, |bits| bits + PRINT_BITS)
}

/// Everything.
#[derive(Debug)]
pub(crate) struct Tables {
    shelves: [Moments; Shelf::ALL.len()],
    parts: Vec<Part>,
    /// Blocks of each kind, so that asking for a kind without any costs nothing.
    kinds: [u32; IdentityKind::ALL.len()],
    /// Records made so far.
    pub(crate) records: u64,
    /// Where the sweep goes on.
    cursor: usize,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            shelves: SHARD_BITS.map(Moments::new),
            parts: vec![Part::default(); PARTS],
            kinds: [0; IdentityKind::ALL.len()],
            records: 0,
            cursor: 0,
        }
    }
}

/// What becomes of records: the journal takes them, or nobody.
pub(crate) type Sink<'s> = Option<&'s mut Vec<u8>>;

/// So many blocks are remembered, with those that have ended; some hundred bytes each. A flood of hosts
/// that each earn one must not fill the memory.
const BLOCKS_MAX: usize = 1 << 18;

/// Behind the shelves' numbers in [`Tables::save`].
const TAG_PART: u8 = 16;

/// One of the many pieces that are swept and saved on their own.
enum Piece {
    Shard(usize, usize),
    Part(usize),
}

impl Tables {
    fn part(&self, key: Key) -> Option<&Part> {
        self.parts.get(part_of(key))
    }

    /// Answers one question.
    pub(crate) fn answer(
        &mut self,
        now_ms: u64,
        question: &Question,
        sink: &mut Sink<'_>,
    ) -> Answer {
        match *question {
            Question::Since { shelf, key } => Answer::Since(self.moment(now_ms, shelf, key)),
            Question::Blocked { kind, key } => Answer::Blocked(self.block(now_ms, kind, key)),
            Question::Count { key, per_ms, amount } => {
                if amount > 0 {
                    self.change(now_ms, Record::Count { key, per_ms, at_ms: now_ms, amount }, sink);
                }
                Answer::Counted(self.used(now_ms, key, per_ms))
            }
            Question::Reserve { key, per_ms, amount, limit } => {
                let used = self.used(now_ms, key, per_ms);
                if used.used.saturating_add(u64::from(amount)) > limit {
                    return Answer::Counted(Counted { granted: false, ..used });
                }
                if amount > 0 {
                    self.change(now_ms, Record::Count { key, per_ms, at_ms: now_ms, amount }, sink);
                }
                Answer::Counted(self.used(now_ms, key, per_ms))
            }
            Question::Distinct { key, member, per_ms } => {
                self.change(now_ms, Record::Member { key, member, per_ms, at_ms: now_ms }, sink);
                let nothing = Counted { granted: true, ..Counted::default() };
                let part = self.part(key);
                Answer::Counted(part.map_or(nothing, |part| part.members(now_ms, key, per_ms)))
            }
            Question::History { key } => {
                let part = self.part(key);
                Answer::History(part.map_or(History::default(), |part| part.history(now_ms, key)))
            }
        }
    }

    fn moment(&self, now_ms: u64, shelf: Shelf, key: Key) -> Option<Moment> {
        self.shelves.get(shelf as usize)?.get(key, now_ms)
    }

    fn block(&self, now_ms: u64, kind: IdentityKind, key: Key) -> Option<Block> {
        if self.kinds.get(kind as usize).is_none_or(|count| *count == 0) {
            return None;
        }
        let (_, block) = self.part(key)?.blocks.get(&(kind, key))?;
        is_held(block, now_ms).then_some(*block)
    }

    fn used(&self, now_ms: u64, key: Key, per_ms: u64) -> Counted {
        let nothing = Counted { granted: true, ..Counted::default() };
        self.part(key).map_or(nothing, |part| part.used(now_ms, key, per_ms))
    }

    /// Performs one effect.
    pub(crate) fn perform(&mut self, now_ms: u64, effect: &Effect, sink: &mut Sink<'_>) {
        let record = match *effect {
            Effect::Remember { shelf, key, keep_ms, again, mark } => {
                if !again && self.moment(now_ms, shelf, key).is_some() {
                    return;
                }
                let moment = Moment { at_ms: now_ms, tries: mark.min(15) };
                Record::Moment { shelf, key, moment, class: class_of(keep_ms) }
            }
            Effect::TooEarly { key } => match self.tried_again(now_ms, key) {
                Some(record) => record,
                None => return,
            },
            Effect::Forget { shelf, key } => Record::Forget { shelf, key },
            Effect::Block(ref new) => self.new_block(now_ms, new),
            Effect::Unblock { kind, key } => Record::Unblock { kind, key },
            Effect::GiveBack { key, at_ms, amount } => Record::GiveBack { key, at_ms, amount },
            Effect::Observe { key, lesson, weight } => {
                Record::Observe { key, lesson, weight, at_ms: now_ms }
            }
            Effect::Note(_) => return,
        };
        let made = match &record {
            Record::Block { kind, key, .. } => Some((*kind, *key)),
            _ => None,
        };
        self.change(now_ms, record, sink);
        if let Some((kind, key)) = made
            && let Some((kind, key)) = self.least_of_too_many((kind, key), now_ms)
        {
            self.change(now_ms, Record::Unblock { kind, key }, sink);
        }
    }

    /// The block that goes first, if there are too many beside a new one: such as have ended, then those
    /// with the fewest before them, then those that end soonest. Whoever blocked by hand meant it, and the
    /// new one stays.
    fn least_of_too_many(
        &self,
        new: (IdentityKind, Key),
        now_ms: u64,
    ) -> Option<(IdentityKind, Key)> {
        let blocks = &self.part(new.1)?.blocks;
        if blocks.len() <= BLOCKS_MAX / PARTS {
            return None;
        }
        let others = blocks.iter().filter(|(whose, (_, block))| {
            **whose != new && (block.reason != BlockReason::Manual || !is_held(block, now_ms))
        });
        let least = others.min_by_key(|((kind, key), (_, block))| {
            (is_held(block, now_ms), block.strikes, block.until_ms, *kind, *key)
        });
        least.map(|(whose, _)| *whose)
    }

    fn tried_again(&self, now_ms: u64, key: Key) -> Option<Record> {
        let shelf = Shelf::Greylisted;
        let moment = self.moment(now_ms, shelf, key)?;
        let class = self.shelves.get(shelf as usize)?.class(key)?;
        let tries = moment.tries + 1;
        (tries <= 15).then_some(Record::Moment {
            shelf,
            key,
            moment: Moment { tries, ..moment },
            class,
        })
    }

    fn new_block(&self, now_ms: u64, new: &NewBlock) -> Record {
        let (kind, key) = (new.kind, new.key);
        let before = self.part(key).and_then(|part| part.blocks.get(&(kind, key)));
        let block = next_block(before.map(|(_, block)| *block), new, now_ms);
        Record::Block { kind, key, block, subject: new.subject.clone() }
    }

    /// Takes over what another store says, unless it is so already.
    pub(crate) fn take_over(&mut self, now_ms: u64, record: Record, sink: &mut Sink<'_>) {
        let is_so = match &record {
            Record::Moment { shelf, key, moment, class } => {
                let known = self.shelves.get(*shelf as usize);
                known.is_some_and(|known| {
                    known.get(*key, now_ms) == Some(*moment) && known.class(*key) == Some(*class)
                })
            }
            Record::Block { kind, key, block, .. } => {
                let known = self.part(*key).and_then(|part| part.blocks.get(&(*kind, *key)));
                known.is_some_and(|(_, known)| known == block)
            }
            _ => false,
        };
        if !is_so {
            self.change(now_ms, record, sink);
        }
    }

    /// When a key was noted, if that holds.
    pub(crate) fn noted(&self, now_ms: u64, shelf: Shelf, key: Key) -> Option<Moment> {
        self.moment(now_ms, shelf, key)
    }

    /// One piece of everything as records for another store, or nothing behind the last.
    pub(crate) fn export(&self, piece: usize, now_ms: u64) -> Option<Vec<Record>> {
        let mut records = Vec::new();
        let mut before = 0;
        for (shelf, moments) in Shelf::ALL.into_iter().zip(&self.shelves) {
            if piece < before + moments.shards() {
                moments.export(piece - before, (shelf, now_ms), &mut records);
                return Some(records);
            }
            before += moments.shards();
        }
        self.parts.get(piece - before)?.export(piece - before, now_ms, &mut records);
        Some(records)
    }

    fn change(&mut self, now_ms: u64, record: Record, sink: &mut Sink<'_>) {
        self.records += 1;
        if let Some(journal) = sink {
            record.push(journal);
        }
        self.apply(record, self.records, now_ms);
    }

    /// Applies a record of that number. What ran out before `now_ms` may be dropped for it.
    pub(crate) fn apply(&mut self, record: Record, number: u64, now_ms: u64) {
        match record {
            Record::Moment { shelf, key, moment, class } => {
                if let Some(moments) = self.shelves.get_mut(shelf as usize) {
                    moments.set(key, moment, class, now_ms);
                }
            }
            Record::Forget { shelf, key } => {
                if let Some(moments) = self.shelves.get_mut(shelf as usize) {
                    moments.remove(key);
                }
            }
            Record::Block { kind, key, block, subject } => {
                let Some(part) = self.parts.get_mut(part_of(key)) else { return };
                if part.blocks.insert((kind, key), (subject, block)).is_none() {
                    count_kind(&mut self.kinds, kind, 1);
                }
            }
            Record::Unblock { kind, key } => {
                let Some(part) = self.parts.get_mut(part_of(key)) else { return };
                if part.blocks.remove(&(kind, key)).is_some() {
                    count_kind(&mut self.kinds, kind, -1);
                }
            }
            Record::Count { key, .. }
            | Record::GiveBack { key, .. }
            | Record::Member { key, .. }
            | Record::Observe { key, .. } => {
                if let Some(part) = self.parts.get_mut(part_of(key)) {
                    part.apply(&record, number, now_ms);
                }
            }
        }
    }

    /// How many pieces there are; each is swept and saved in one go.
    pub(crate) fn pieces(&self) -> usize {
        self.shelves.iter().map(Moments::shards).sum::<usize>() + self.parts.len()
    }

    fn piece(&self, mut number: usize) -> Piece {
        for (shelf, moments) in self.shelves.iter().enumerate() {
            if number < moments.shards() {
                return Piece::Shard(shelf, number);
            }
            number -= moments.shards();
        }
        Piece::Part(number)
    }

    /// Drops what has run out in the next piece; returns how much.
    pub(crate) fn sweep(&mut self, now_ms: u64) -> u64 {
        let number = self.cursor;
        self.cursor = (self.cursor + 1) % self.pieces();
        match self.piece(number) {
            Piece::Shard(shelf, shard) => {
                self.shelves.get_mut(shelf).map_or(0, |moments| moments.sweep(shard, now_ms))
            }
            Piece::Part(number) => {
                let Some(part) = self.parts.get_mut(number) else { return 0 };
                part.sweep(now_ms, |kind| count_kind(&mut self.kinds, kind, -1))
            }
        }
    }

    /// Appends a piece: what it is, its length, what is in it. Nothing if it is empty.
    pub(crate) fn save(&self, number: usize, now_ms: u64, out: &mut Vec<u8>) {
        let (tag, index) = match self.piece(number) {
            Piece::Shard(shelf, shard) => (u8::try_from(shelf).unwrap_or(u8::MAX), shard),
            Piece::Part(number) => (TAG_PART, number),
        };
        let start = out.len();
        out.push(tag);
        push_u32(u32::try_from(index).unwrap_or(u32::MAX), out);
        push_u32(0, out);
        let body = out.len();
        match self.piece(number) {
            Piece::Shard(shelf, shard) => {
                if let Some(moments) = self.shelves.get(shelf) {
                    moments.save(shard, now_ms, out);
                }
            }
            Piece::Part(number) => {
                if let Some(part) = self.parts.get(number).filter(|part| !part.is_empty()) {
                    part.save(out);
                }
            }
        }
        let length = u32::try_from(out.len() - body).unwrap_or(u32::MAX);
        if length == 0 {
            out.truncate(start);
        } else if let Some(place) = out.get_mut(body - 4..body) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }

    /// Takes over pieces that [`Tables::save`] wrote; nothing if that is not what they are.
    pub(crate) fn load(&mut self, saved: &[u8]) -> Option<()> {
        let mut bytes = crate::record::Bytes(saved);
        while !bytes.0.is_empty() {
            let tag = bytes.u8()?;
            let index = usize::try_from(bytes.u32()?).ok()?;
            let length = usize::try_from(bytes.u32()?).ok()?;
            let body = bytes.slice(length)?;
            if tag == TAG_PART {
                let part = Part::load(body)?;
                for (kind, _) in part.blocks.keys() {
                    count_kind(&mut self.kinds, *kind, 1);
                }
                self.records = self.records.max(part.applied());
                *self.parts.get_mut(index)? = part;
            } else if !self.shelves.get_mut(usize::from(tag))?.load(index, body) {
                return None;
            }
        }
        Some(())
    }

    /// About how many bytes all of it takes when it is saved.
    pub(crate) fn saved_bytes(&self) -> u64 {
        let moments: usize = self.shelves.iter().map(Moments::len).sum();
        let part = |part: &Part| {
            let (tallies, histories, _) = part.counts();
            (tallies + histories) * size_of::<Counter>() + part.blocks.len() * 50
        };
        let parts: usize = self.parts.iter().map(part).sum();
        (moments * ENTRY_BYTES + parts) as u64
    }

    /// When the blocks of one part that hold end, or nothing behind the last part.
    pub(crate) fn block_ends(
        &self,
        number: usize,
        now_ms: u64,
    ) -> Option<impl Iterator<Item = (u64, IdentityKind, Key)>> {
        let held = self.parts.get(number)?.blocks.iter();
        Some(
            held.filter(move |(_, (_, block))| is_held(block, now_ms))
                .map(|((kind, key), (_, block))| (block.until_ms, *kind, *key)),
        )
    }

    /// A block for people to read.
    pub(crate) fn block_row(&self, kind: IdentityKind, key: Key) -> Option<BlockRow> {
        let (subject, block) = self.part(key)?.blocks.get(&(kind, key))?;
        Some(BlockRow { kind, key, subject: subject.clone(), block: *block })
    }

    /// How much is held; the disk is left out.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (count, moments) in counts.shelves.iter_mut().zip(&self.shelves) {
            *count = moments.len() as u64;
            counts.memory_bytes += moments.bytes() as u64;
        }
        counts.blocks = self.kinds.iter().map(|count| u64::from(*count)).sum();
        counts.memory_bytes += (self.parts.capacity() * size_of::<Part>()) as u64;
        for part in &self.parts {
            let (tallies, histories, bytes) = part.counts();
            counts.tallies += tallies as u64;
            counts.histories += histories as u64;
            counts.memory_bytes += bytes as u64;
        }
        counts
    }
}

fn count_kind(kinds: &mut [u32], kind: IdentityKind, by: i32) {
    if let Some(count) = kinds.get_mut(kind as usize) {
        *count = count.saturating_add_signed(by);
    }
}

/// Whether a block holds. One from far ahead was made while the clock was wrong.
pub(crate) fn is_held(block: &Block, now_ms: u64) -> bool {
    let length_ms = block.until_ms.saturating_sub(block.since_ms);
    now_ms < block.until_ms && block.since_ms <= now_ms.saturating_add(length_ms)
}

/// Whether a block is of use to the next one, though it may have ended.
pub(crate) fn is_remembered(block: &Block, now_ms: u64) -> bool {
    now_ms < block.until_ms.saturating_add(STRIKES_KEEP_MS)
}

/// The block that follows from the one before and a new one.
pub(crate) fn next_block(before: Option<Block>, new: &NewBlock, now_ms: u64) -> Block {
    let reason = new.reason;
    let Some(before) = before else {
        let until_ms = now_ms.saturating_add(new.lasts_ms(0));
        return Block { until_ms, since_ms: now_ms, strikes: 0, reason };
    };
    if is_held(&before, now_ms) {
        let until_ms = now_ms.saturating_add(new.lasts_ms(before.strikes)).max(before.until_ms);
        return Block { until_ms, since_ms: now_ms, strikes: before.strikes, reason };
    }
    let strikes = if is_remembered(&before, now_ms) { before.strikes.saturating_add(1) } else { 0 };
    let until_ms = now_ms.saturating_add(new.lasts_ms(strikes));
    Block { until_ms, since_ms: now_ms, strikes, reason }
}

#[cfg(test)]
mod tests {
    use mpp_engine::question::Subject;

    use super::*;

    #[test]
    fn a_flood_of_blocks_is_bounded_and_the_least_go_first() {
        let mut tables = Tables::default();
        let now_ms = 1_780_272_000_000;
        let new = |number: u64, reason: BlockReason| NewBlock {
            kind: IdentityKind::Client,
            // All in one part, which is full soonest.
            key: Key(number),
            subject: Subject::Name(number.to_string().into()),
            reason,
            for_ms: 3_600_000,
            grow: 2.0,
            up_to_ms: 86_400_000,
        };
        let mut perform =
            |new: NewBlock, at_ms: u64| tables.perform(at_ms, &Effect::Block(new), &mut None);
        perform(new(1, BlockReason::Manual), now_ms);
        // One that came twice.
        perform(new(2, BlockReason::Trap), now_ms);
        perform(new(2, BlockReason::Trap), now_ms + 2 * 3_600_000);
        for number in 3..2_000 {
            perform(new(number, BlockReason::Trap), now_ms + 2 * 3_600_000 + number);
        }
        let later_ms = now_ms + 2 * 3_600_000 + 2_000;
        let part = tables.part(Key(1)).unwrap();
        assert_eq!(part.blocks.len(), BLOCKS_MAX / PARTS);
        let holds = |number: u64| {
            part.blocks.get(&(IdentityKind::Client, Key(number))).is_some_and(|(_, block)| {
                is_held(block, later_ms) || block.reason == BlockReason::Manual
            })
        };
        assert!(holds(2), "who came again stays");
        assert!(holds(1_999), "the newest is there");
        assert!(!holds(3), "the one that ends soonest went");
    }
}
