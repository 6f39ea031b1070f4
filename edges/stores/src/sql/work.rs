//! What a batch does, reckoned here with what the database holds: the same code and so the same
//! answers as those of the embedded store.

use std::collections::{BTreeMap, BTreeSet};

use mpp_engine::question::{Answer, Counted, Effect, History, Key, Moment, Question, Shelf};

use super::names::{Bucket, Kind, Name, SUMS, read_known};
use crate::moments::class_of;
use crate::record::{Record, block_cell, read_block_cell};
use crate::shared::cells::{
    held_moment, moment_key, moment_record, read_moment, read_set, read_tally, write_history,
    write_moment, write_set, write_tally,
};
use crate::shared::remote::Job;
use crate::tables::next_block;
use crate::tally::Tally;

/// What a batch has to do with.
#[derive(Debug, Default)]
pub(super) struct Needs {
    pub(super) names: BTreeSet<Name>,
    /// Where new first tries belong.
    pub(super) buckets: BTreeSet<Bucket>,
    /// Whether it changes anything.
    pub(super) is_write: bool,
}

impl Needs {
    pub(super) fn of_jobs(jobs: &[Job]) -> Self {
        let mut needs = Self::default();
        for job in jobs {
            for question in &job.questions {
                if let Some((name, is_write)) = asked(question) {
                    needs.names.insert(name);
                    needs.is_write |= is_write;
                }
            }
            for effect in &job.effects {
                let Some(name) = touched(effect) else { continue };
                needs.names.insert(name);
                needs.is_write = true;
                if let Effect::Remember { shelf: Shelf::Greylisted, keep_ms, .. } = effect {
                    needs.buckets.extend(Bucket::of(job.now_ms, class_of(*keep_ms)));
                }
            }
        }
        needs
    }

    pub(super) fn of_records(records: &[Record]) -> Self {
        let mut needs = Self { is_write: true, ..Self::default() };
        for record in records {
            needs.names.insert(changed(record));
            if let Record::Moment { shelf: Shelf::Greylisted, moment, class, .. } = record {
                needs.buckets.extend(Bucket::of(moment.at_ms, *class));
            }
        }
        needs
    }
}

fn of_moment(shelf: Shelf, key: Key) -> Name {
    Name::new(Kind::Moment(shelf), moment_key(shelf, key))
}

/// What a question is about, and whether it changes it.
fn asked(question: &Question) -> Option<(Name, bool)> {
    Some(match *question {
        Question::Since { shelf, key } => (of_moment(shelf, key), false),
        Question::Blocked { .. } => return None,
        Question::Count { key, amount, .. } | Question::Reserve { key, amount, .. } => {
            (Name::new(Kind::Count, key), amount > 0)
        }
        Question::Distinct { key, .. } => (Name::new(Kind::Set, key), true),
        Question::History { key } => (Name::new(Kind::History, key), false),
    })
}

fn touched(effect: &Effect) -> Option<Name> {
    Some(match effect {
        Effect::Remember { shelf, key, .. } | Effect::Forget { shelf, key } => {
            of_moment(*shelf, *key)
        }
        Effect::TooEarly { key } => of_moment(Shelf::Greylisted, *key),
        Effect::Block(new) => Name::new(Kind::Block(new.kind), new.key),
        Effect::Unblock { kind, key } => Name::new(Kind::Block(*kind), *key),
        Effect::GiveBack { key, .. } => Name::new(Kind::Count, *key),
        Effect::Observe { key, .. } => Name::new(Kind::History, *key),
        Effect::Note(_) => return None,
    })
}

fn changed(record: &Record) -> Name {
    match record {
        Record::Moment { shelf, key, .. } | Record::Forget { shelf, key } => {
            of_moment(*shelf, *key)
        }
        Record::Block { kind, key, .. } | Record::Unblock { kind, key } => {
            Name::new(Kind::Block(*kind), *key)
        }
        Record::Count { key, .. } | Record::GiveBack { key, .. } => Name::new(Kind::Count, *key),
        Record::Member { key, .. } => Name::new(Kind::Set, *key),
        Record::Observe { key, .. } => Name::new(Kind::History, *key),
    }
}

/// In which table a cell lies: that of all kinds, or one of first tries.
type Place = Option<Bucket>;

/// A cell, before and now; an empty one is none.
#[derive(Debug, Default)]
struct Slot {
    before: Vec<u8>,
    was_in: Place,
    now: Vec<u8>,
    is_in: Place,
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) cells: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) cells_gone: Vec<Vec<u8>>,
    pub(super) firsts: BTreeMap<Bucket, Firsts>,
    /// By how much there are more cells of each kind beside the tables of first tries.
    pub(super) sums: [i64; SUMS],
    pub(super) log: Vec<Vec<u8>>,
}

/// What is to be written to one table of first tries.
#[derive(Debug, Default)]
pub(super) struct Firsts {
    pub(super) cells: Vec<(u64, Vec<u8>)>,
    pub(super) gone: Vec<u64>,
    /// By how much there are more.
    pub(super) more: i64,
}

/// A batch under way.
pub(super) struct Work<'w> {
    slots: BTreeMap<Name, Slot>,
    buckets: &'w [Bucket],
    log: Vec<Vec<u8>>,
    /// Points in time that were asked for and found.
    pub(super) seen: Vec<Record>,
}

impl<'w> Work<'w> {
    /// Begins with nothing known, and these tables of first tries.
    pub(super) fn new(buckets: &'w [Bucket]) -> Self {
        Self { slots: BTreeMap::new(), buckets, log: Vec::new(), seen: Vec::new() }
    }

    /// What the database holds.
    pub(super) fn know(&mut self, name: Name, cell: Vec<u8>, place: Place) {
        let slot = Slot { before: cell.clone(), was_in: place, now: cell, is_in: place };
        self.slots.insert(name, slot);
    }

    pub(super) fn cell(&self, name: Name) -> &[u8] {
        self.slots.get(&name).map(|slot| slot.now.as_slice()).unwrap_or_default()
    }

    /// Puts a cell in its place; an empty one is none.
    pub(super) fn put(&mut self, name: Name, cell: Vec<u8>) {
        self.slots.entry(name).or_default().now = cell;
    }

    fn put_moment(&mut self, name: Name, moment: Moment, class: u8) {
        let bucket = if name.is_first() { Bucket::of(moment.at_ms, class) } else { None };
        let slot = self.slots.entry(name).or_default();
        slot.now = write_moment(moment, class);
        slot.is_in = bucket.filter(|bucket| self.buckets.contains(bucket));
    }

    fn held(&self, name: Name, now_ms: u64) -> Option<Moment> {
        held_moment(self.cell(name), now_ms)
    }

    /// Answers a question. Blocks are answered by each node itself.
    pub(super) fn answer(&mut self, now_ms: u64, question: &Question) -> Answer {
        let Some((name, _)) = asked(question) else { return Answer::Unavailable };
        match *question {
            Question::Since { shelf, key } => {
                let moment = self.held(name, now_ms);
                if moment.is_some() {
                    let record = moment_record(shelf, key, self.cell(name));
                    self.seen.extend(record);
                }
                Answer::Since(moment)
            }
            Question::Blocked { .. } => Answer::Unavailable,
            Question::Count { per_ms, amount, .. } => {
                Answer::Counted(self.count(name, (now_ms, per_ms), amount, u64::MAX))
            }
            Question::Reserve { per_ms, amount, limit, .. } => {
                Answer::Counted(self.count(name, (now_ms, per_ms), amount, limit))
            }
            Question::Distinct { member, per_ms, .. } => {
                let mut set = read_set(self.cell(name));
                set.add(member, per_ms, now_ms);
                self.put(name, write_set(&set));
                Answer::Counted(set.counted(now_ms, per_ms))
            }
            Question::History { .. } => {
                let known = read_known(self.cell(name));
                Answer::History(known.map_or(History::default(), |known| known.history(now_ms)))
            }
        }
    }

    fn count(
        &mut self,
        name: Name,
        (now_ms, per_ms): (u64, u64),
        amount: u32,
        limit: u64,
    ) -> Counted {
        let mut tally = read_tally(self.cell(name));
        let used = tally.used(now_ms, per_ms);
        if used.used.saturating_add(u64::from(amount)) > limit {
            return Counted { granted: false, ..used };
        }
        if amount == 0 {
            return used;
        }
        tally.add(now_ms, per_ms, u64::from(amount));
        self.put(name, write_tally(&tally));
        tally.used(now_ms, per_ms)
    }

    /// Performs an effect.
    pub(super) fn perform(&mut self, now_ms: u64, effect: &Effect) {
        let Some(name) = touched(effect) else { return };
        match effect {
            Effect::Remember { keep_ms, again, mark, .. } => {
                if *again || self.held(name, now_ms).is_none() {
                    let moment = Moment { at_ms: now_ms, tries: (*mark).min(15) };
                    self.put_moment(name, moment, class_of(*keep_ms));
                }
            }
            Effect::TooEarly { .. } => {
                if self.held(name, now_ms).is_some()
                    && let Some((moment, class)) = read_moment(self.cell(name))
                {
                    let tries = (moment.tries + 1).min(15);
                    self.put(name, write_moment(Moment { tries, ..moment }, class));
                }
            }
            Effect::Forget { .. } => self.put(name, Vec::new()),
            Effect::Block(new) => {
                let before = read_block_cell(self.cell(name)).map(|(block, _)| block);
                let block = next_block(before, new, now_ms);
                let (kind, key, subject) = (new.kind, new.key, new.subject.clone());
                self.record(&Record::Block { kind, key, block, subject });
            }
            Effect::Unblock { kind, key } => {
                self.record(&Record::Unblock { kind: *kind, key: *key });
            }
            Effect::GiveBack { key, at_ms, amount } => {
                self.record(&Record::GiveBack { key: *key, at_ms: *at_ms, amount: *amount });
            }
            Effect::Observe { key, lesson, weight } => {
                let (key, lesson, weight) = (*key, *lesson, *weight);
                self.record(&Record::Observe { key, lesson, weight, at_ms: now_ms });
            }
            Effect::Note(_) => {}
        }
    }

    /// Does as a record says.
    pub(super) fn record(&mut self, record: &Record) {
        let name = changed(record);
        match record {
            Record::Moment { moment, class, .. } => self.put_moment(name, *moment, *class),
            Record::Forget { .. } => self.put(name, Vec::new()),
            Record::Block { block, subject, .. } => {
                self.put(name, block_cell(block, subject));
                self.news(record);
            }
            Record::Unblock { .. } => {
                self.put(name, Vec::new());
                self.news(record);
            }
            Record::Count { per_ms, at_ms, amount, .. } => {
                if *amount > 0 {
                    let mut tally = read_tally(self.cell(name));
                    tally.add(*at_ms, *per_ms, u64::from(*amount));
                    self.put(name, write_tally(&tally));
                }
            }
            Record::GiveBack { at_ms, amount, .. } => {
                let mut tally = read_tally(self.cell(name));
                if tally != Tally::Empty {
                    tally.give_back(*at_ms, u64::from(*amount));
                    self.put(name, write_tally(&tally));
                }
            }
            Record::Member { member, per_ms, at_ms, .. } => {
                let mut set = read_set(self.cell(name));
                set.add(*member, *per_ms, *at_ms);
                self.put(name, write_set(&set));
            }
            Record::Observe { lesson, weight, at_ms, .. } => {
                let mut known = read_known(self.cell(name)).unwrap_or_default();
                known.learn(*lesson, *weight, *at_ms);
                self.put(name, write_history(&known));
            }
        }
    }

    /// Something for the log.
    pub(super) fn news(&mut self, record: &Record) {
        let mut bytes = Vec::new();
        record.push(&mut bytes);
        self.log.push(bytes);
    }

    /// What is to be written, in the order of names.
    pub(super) fn changes(self) -> Changes {
        let mut changes = Changes { log: self.log, ..Changes::default() };
        for (name, slot) in self.slots {
            let (had, has) = (!slot.before.is_empty(), !slot.now.is_empty());
            if slot.before == slot.now && slot.was_in == slot.is_in {
                continue;
            }
            let moves = had && has && slot.was_in != slot.is_in;
            if had && (!has || moves) {
                if let Some(bucket) = slot.was_in {
                    let firsts = changes.firsts.entry(bucket).or_default();
                    firsts.gone.push(name.key);
                    firsts.more -= 1;
                } else {
                    changes.cells_gone.push(name.to_bytes());
                    add(&mut changes.sums, name.kind, -1);
                }
            }
            if has {
                let more = i64::from(!had || moves);
                if let Some(bucket) = slot.is_in {
                    let firsts = changes.firsts.entry(bucket).or_default();
                    firsts.cells.push((name.key, slot.now));
                    firsts.more += more;
                } else {
                    changes.cells.push((name.to_bytes(), slot.now));
                    add(&mut changes.sums, name.kind, more);
                }
            }
        }
        changes
    }
}

/// Counts one cell of a kind.
pub(super) fn add(sums: &mut [i64; SUMS], kind: Kind, more: i64) {
    if let Some(sum) = kind.sum().and_then(|sum| sums.get_mut(sum)) {
        *sum += more;
    }
}
