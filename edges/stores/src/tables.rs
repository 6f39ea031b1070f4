//! All that the embedded store remembers, in memory, and how questions and effects touch it.
//!
//! Every change is a [`Record`], applied by one function here whether it comes from a decision or
//! from the journal after a restart, so both lead to the same state.

use hashbrown::HashMap;
use mpp_engine::question::{
    Answer, Block, Counted, DISTINCT_MAX, Effect, HISTORY_HALF_LIFE_MS, History, IdentityKind, Key,
    Lesson, Moment, NewBlock, Question, STRIKES_KEEP_MS, Shelf, Subject,
};
use mpp_hub::store::{BlockRow, Counts};

use crate::journal::Record;
use crate::moments::{Moments, class_of};
use crate::tally::Tally;

/// Parts of the tables of counts and histories: they are saved and swept one at a time.
pub(crate) const PARTS: usize = 64;

/// Shards of each shelf, as powers of two: drones fill the first.
const SHARD_BITS: [u32; Shelf::ALL.len()] = [12, 8, 8];

/// A history below this weight is nothing worth remembering.
const WEIGHT_LEAST: f32 = 0.05;

/// One part of the tables that are changed by differences: what a record was applied to already
/// is told by its number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    pub(crate) tallies: HashMap<u64, Tally>,
    pub(crate) sets: HashMap<u64, Set>,
    pub(crate) histories: HashMap<u64, (History, u64)>,
    /// Records up to this number are in it.
    pub(crate) applied: u64,
}

/// A set of different members within a window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Set {
    pub(crate) members: Vec<(u64, u64)>,
    pub(crate) per_ms: u64,
}

/// Everything.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) shelves: [Moments; Shelf::ALL.len()],
    pub(crate) blocks: HashMap<(IdentityKind, u64), (Subject, Block)>,
    /// Blocks of each kind, so that asking for a kind without any costs nothing.
    kinds: [u32; IdentityKind::ALL.len()],
    pub(crate) parts: Vec<Part>,
    /// The latest time that anybody came with.
    pub(crate) now_ms: u64,
    /// Records made so far.
    pub(crate) records: u64,
    /// Where the sweep goes on.
    cursor: usize,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            shelves: SHARD_BITS.map(Moments::new),
            blocks: HashMap::new(),
            kinds: [0; IdentityKind::ALL.len()],
            parts: vec![Part::default(); PARTS],
            now_ms: 0,
            records: 0,
            cursor: 0,
        }
    }
}

/// What becomes of records: the journal takes them, or nobody.
pub(crate) type Sink<'s> = Option<&'s mut Vec<u8>>;

impl Tables {
    fn shelf(&mut self, shelf: Shelf) -> Option<&mut Moments> {
        self.shelves.get_mut(shelf as usize)
    }

    fn part(&mut self, key: u64) -> Option<&mut Part> {
        self.parts.get_mut(part_of(key))
    }

    /// Answers one question.
    pub(crate) fn answer(
        &mut self,
        now_ms: u64,
        question: &Question,
        sink: &mut Sink<'_>,
    ) -> Answer {
        match *question {
            Question::Since { shelf, key } => {
                let moments = self.shelves.get(shelf as usize);
                Answer::Since(moments.and_then(|moments| moments.get(key, now_ms)))
            }
            Question::Blocked { kind, key } => Answer::Blocked(self.block(now_ms, kind, key)),
            Question::Count { key, per_ms, amount } => {
                if amount > 0 {
                    self.change(Record::Count { key, per_ms, at_ms: now_ms, amount }, sink);
                }
                Answer::Counted(self.used(now_ms, key, per_ms))
            }
            Question::Reserve { key, per_ms, amount, limit } => {
                let used = self.used(now_ms, key, per_ms);
                if used.used.saturating_add(u64::from(amount)) > limit {
                    return Answer::Counted(Counted { granted: false, ..used });
                }
                self.change(Record::Count { key, per_ms, at_ms: now_ms, amount }, sink);
                Answer::Counted(self.used(now_ms, key, per_ms))
            }
            Question::Distinct { key, member, per_ms } => {
                self.change(Record::Member { key, member, per_ms, at_ms: now_ms }, sink);
                Answer::Counted(self.members(now_ms, key, per_ms))
            }
            Question::History { key } => Answer::History(self.history(now_ms, key)),
        }
    }

    fn block(&self, now_ms: u64, kind: IdentityKind, key: Key) -> Option<Block> {
        if self.kinds.get(kind as usize).is_none_or(|count| *count == 0) {
            return None;
        }
        let (_, block) = self.blocks.get(&(kind, key.0))?;
        (now_ms < block.until_ms).then_some(*block)
    }

    fn used(&self, now_ms: u64, key: Key, per_ms: u64) -> Counted {
        let part = self.parts.get(part_of(key.0));
        let tally = part.and_then(|part| part.tallies.get(&key.0));
        let nothing = Counted { granted: true, ..Counted::default() };
        tally.map_or(nothing, |tally| tally.used(now_ms, per_ms))
    }

    fn members(&self, now_ms: u64, key: Key, per_ms: u64) -> Counted {
        let set = self.parts.get(part_of(key.0)).and_then(|part| part.sets.get(&key.0));
        let mut counted = Counted { granted: true, ..Counted::default() };
        for (_, at_ms) in set.map(|set| set.members.as_slice()).unwrap_or_default() {
            let leaves_ms = at_ms.saturating_add(per_ms);
            if now_ms < leaves_ms {
                counted.used += 1;
                if counted.frees_at_ms == 0 || leaves_ms < counted.frees_at_ms {
                    counted.frees_at_ms = leaves_ms;
                }
            }
        }
        counted
    }

    fn history(&self, now_ms: u64, key: Key) -> History {
        let part = self.parts.get(part_of(key.0));
        let known = part.and_then(|part| part.histories.get(&key.0));
        known.map_or_else(History::default, |(history, at_ms)| decayed(*history, *at_ms, now_ms))
    }

    /// Performs one effect.
    pub(crate) fn perform(&mut self, now_ms: u64, effect: &Effect, sink: &mut Sink<'_>) {
        match *effect {
            Effect::Remember { shelf, key, keep_ms, again } => {
                let known = self.shelves.get(shelf as usize).and_then(|m| m.get(key, now_ms));
                if again || known.is_none() {
                    let moment = Moment { at_ms: now_ms, tries: 0 };
                    let class = class_of(keep_ms);
                    self.change(Record::Moment { shelf, key, moment, class }, sink);
                }
            }
            Effect::TooEarly { key } => self.too_early(now_ms, key, sink),
            Effect::Forget { shelf, key } => self.change(Record::Forget { shelf, key }, sink),
            Effect::Block(ref new) => self.make_block(now_ms, new, sink),
            Effect::Unblock { kind, key } => self.change(Record::Unblock { kind, key }, sink),
            Effect::GiveBack { key, at_ms, amount } => {
                self.change(Record::GiveBack { key, at_ms, amount }, sink);
            }
            Effect::Observe { key, lesson, weight } => {
                self.change(Record::Observe { key, lesson, weight, at_ms: now_ms }, sink);
            }
            Effect::Note(_) => {}
        }
    }

    fn too_early(&mut self, now_ms: u64, key: Key, sink: &mut Sink<'_>) {
        let shelf = Shelf::Greylisted;
        let Some(moments) = self.shelf(shelf) else { return };
        let (Some(moment), Some(class)) = (moments.get(key, now_ms), moments.class(key)) else {
            return;
        };
        if moment.tries < 15 {
            let moment = Moment { tries: moment.tries + 1, ..moment };
            self.change(Record::Moment { shelf, key, moment, class }, sink);
        }
    }

    fn make_block(&mut self, now_ms: u64, new: &NewBlock, sink: &mut Sink<'_>) {
        let before = self.blocks.get(&(new.kind, new.key.0)).map(|(_, block)| *block);
        let block = match before {
            Some(held) if now_ms < held.until_ms => Block {
                until_ms: held.until_ms.max(now_ms.saturating_add(new.lasts_ms(held.strikes))),
                since_ms: now_ms,
                strikes: held.strikes,
                reason: new.reason,
            },
            ended => {
                let remembered =
                    ended.filter(|block| now_ms < block.until_ms.saturating_add(STRIKES_KEEP_MS));
                let strikes = remembered.map_or(0, |block| block.strikes.saturating_add(1));
                let until_ms = now_ms.saturating_add(new.lasts_ms(strikes));
                Block { until_ms, since_ms: now_ms, strikes, reason: new.reason }
            }
        };
        let (kind, key, subject) = (new.kind, new.key, new.subject.clone());
        self.change(Record::Block { kind, key, block, subject }, sink);
    }

    fn change(&mut self, record: Record, sink: &mut Sink<'_>) {
        self.records += 1;
        if let Some(journal) = sink {
            record.push(journal);
        }
        self.apply(record, self.records);
    }

    /// Applies a record of that number.
    pub(crate) fn apply(&mut self, record: Record, number: u64) {
        let now_ms = self.now_ms;
        match record {
            Record::Moment { shelf, key, moment, class } => {
                if let Some(moments) = self.shelf(shelf) {
                    moments.set(key, moment, class, now_ms);
                }
            }
            Record::Forget { shelf, key } => {
                if let Some(moments) = self.shelf(shelf) {
                    moments.remove(key);
                }
            }
            Record::Block { kind, key, block, subject } => {
                if self.blocks.insert((kind, key.0), (subject, block)).is_none() {
                    self.count_kind(kind, 1);
                }
            }
            Record::Unblock { kind, key } => {
                if self.blocks.remove(&(kind, key.0)).is_some() {
                    self.count_kind(kind, -1);
                }
            }
            other => self.apply_to_part(&other, number),
        }
    }

    fn apply_to_part(&mut self, record: &Record, number: u64) {
        let Some(part) = record.key().and_then(|key| self.part(key.0)) else { return };
        if number <= part.applied {
            return;
        }
        part.applied = number;
        match *record {
            Record::Count { key, per_ms, at_ms, amount } => {
                let tally = part.tallies.entry(key.0).or_insert_with(|| Tally::new(per_ms));
                tally.add(at_ms, per_ms, u64::from(amount));
            }
            Record::GiveBack { key, at_ms, amount } => {
                if let Some(tally) = part.tallies.get_mut(&key.0) {
                    tally.give_back(at_ms, u64::from(amount));
                }
            }
            Record::Member { key, member, per_ms, at_ms } => {
                let set = part.sets.entry(key.0).or_default();
                set.per_ms = per_ms;
                set.members.retain(|(other, since)| {
                    *other != member && at_ms < since.saturating_add(per_ms)
                });
                if set.members.len() < DISTINCT_MAX {
                    set.members.push((member, at_ms));
                }
            }
            Record::Observe { key, lesson, weight, at_ms } => {
                let (history, since) = part.histories.entry(key.0).or_default();
                *history = decayed(*history, *since, at_ms);
                *since = at_ms.max(*since);
                match lesson {
                    Lesson::Clean => history.clean += weight,
                    Lesson::Spam => history.spam += weight,
                    Lesson::Bad => history.bad += weight,
                }
            }
            Record::Moment { .. }
            | Record::Forget { .. }
            | Record::Block { .. }
            | Record::Unblock { .. } => {}
        }
    }

    fn count_kind(&mut self, kind: IdentityKind, by: i32) {
        if let Some(count) = self.kinds.get_mut(kind as usize) {
            *count = count.saturating_add_signed(by);
        }
    }

    /// Drops what has run out in the next few pieces of all tables; a full round takes
    /// `calls` calls.
    pub(crate) fn sweep(&mut self, now_ms: u64, calls: usize) -> u64 {
        self.now_ms = self.now_ms.max(now_ms);
        let shards: usize = self.shelves.iter().map(Moments::shards).sum();
        let pieces = shards + PARTS + 1;
        let mut dropped = 0;
        for _ in 0..pieces.div_ceil(calls) {
            dropped += self.sweep_piece(self.cursor, now_ms);
            self.cursor = (self.cursor + 1) % pieces;
        }
        dropped
    }

    fn sweep_piece(&mut self, mut piece: usize, now_ms: u64) -> u64 {
        for moments in &mut self.shelves {
            if piece < moments.shards() {
                return moments.sweep(piece, now_ms);
            }
            piece -= moments.shards();
        }
        match self.parts.get_mut(piece) {
            Some(part) => part.sweep(now_ms),
            None => self.sweep_blocks(now_ms),
        }
    }

    fn sweep_blocks(&mut self, now_ms: u64) -> u64 {
        let before = self.blocks.len();
        let mut gone = Vec::new();
        self.blocks.retain(|(kind, _), (_, block)| {
            let stays = now_ms < block.until_ms.saturating_add(STRIKES_KEEP_MS);
            if !stays {
                gone.push(*kind);
            }
            stays
        });
        for kind in gone {
            self.count_kind(kind, -1);
        }
        shrink(&mut self.blocks);
        (before - self.blocks.len()) as u64
    }

    /// The blocks that hold, soonest to end first.
    pub(crate) fn list(&self, now_ms: u64, most: usize) -> Vec<BlockRow> {
        let held = self.blocks.iter().filter(|(_, (_, block))| now_ms < block.until_ms);
        let mut rows: Vec<BlockRow> = held
            .map(|((kind, key), (subject, block))| BlockRow {
                kind: *kind,
                key: Key(*key),
                subject: subject.clone(),
                block: *block,
            })
            .collect();
        rows.sort_by_key(|row| (row.block.until_ms, row.key));
        rows.truncate(most);
        rows
    }

    /// How much is held; the disk is left out.
    pub(crate) fn counts(&self) -> Counts {
        let sum = |of: fn(&Part) -> usize| self.parts.iter().map(of).sum::<usize>() as u64;
        let moments: usize = self.shelves.iter().map(Moments::bytes).sum();
        let (tallies, histories) =
            (sum(|part| part.tallies.capacity()), sum(|part| part.histories.capacity()));
        Counts {
            shelves: [0, 1, 2].map(|n| self.shelves.get(n).map_or(0, |m| m.len() as u64)),
            blocks: self.blocks.len() as u64,
            tallies: sum(|part| part.tallies.len() + part.sets.len()),
            histories: sum(|part| part.histories.len()),
            disk_bytes: 0,
            memory_bytes: moments as u64
                + tallies * size_of::<(u64, Tally)>() as u64
                + histories * size_of::<(u64, (History, u64))>() as u64
                + self.blocks.capacity() as u64 * 96,
        }
    }
}

impl Part {
    fn sweep(&mut self, now_ms: u64) -> u64 {
        let before = self.tallies.len() + self.sets.len() + self.histories.len();
        self.tallies.retain(|_, tally| !tally.is_over(now_ms));
        self.sets.retain(|_, set| {
            let per_ms = set.per_ms;
            set.members.iter().any(|(_, at_ms)| now_ms < at_ms.saturating_add(per_ms))
        });
        self.histories.retain(|_, (history, at_ms)| {
            let now = decayed(*history, *at_ms, now_ms);
            now.clean + now.spam + now.bad >= WEIGHT_LEAST
        });
        shrink(&mut self.tallies);
        shrink(&mut self.sets);
        shrink(&mut self.histories);
        (before - self.tallies.len() - self.sets.len() - self.histories.len()) as u64
    }
}

/// Gives memory back when most of a table is free.
fn shrink<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > 64 && map.len() < map.capacity() / 4 {
        map.shrink_to(map.len() * 2);
    }
}

fn part_of(key: u64) -> usize {
    usize::try_from(key >> 58).unwrap_or(0)
}

/// What is left of a history after a time.
pub(crate) fn decayed(history: History, at_ms: u64, now_ms: u64) -> History {
    #[allow(clippy::cast_precision_loss, reason = "a factor between 0 and 1")]
    let factor = 0.5_f32.powf(now_ms.saturating_sub(at_ms) as f32 / HISTORY_HALF_LIFE_MS as f32);
    History {
        clean: history.clean * factor,
        spam: history.spam * factor,
        bad: history.bad * factor,
    }
}
