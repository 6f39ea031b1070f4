//! A batch as a server likes it best: what is only read, and first tries that are new, as plain commands;
//! all else in one call of the script behind them. A call of a command by the script costs the server
//! three times a plain one, and nearly all that drones make it do is to look and to find nothing.
//!
//! In one batch a thing is first read, then changed. What an earlier job of the same batch changes is read
//! by the script, behind the change.

use hashbrown::{HashMap, HashSet};
use mpp_engine::question::{Effect, Key, Question, Shelf};
use mpp_wire::resp::{Command, Reply};

use super::keys::{COMMON, Field, Kind, Names, Operation, Table, place};
use super::link::Commands;
use crate::moments::{class_of, keep_of};
use crate::shared::cells::{moment_key, write_moment};
use crate::shared::remote::Batch;

/// Entries of a table up to which a new one is put in by a plain command. Other nodes do the same at
/// the same time; the script's bound is 112, and at 128 the server would need more room.
const ENTRIES_MAX: i64 = 96;
/// A table with fewer is not asked how full it is more often than every [`ROOM_MS`].
const ENTRIES_FEW: i64 = 72;
/// So long other nodes cannot fill a table in which there was much room, in milliseconds: it would take
/// a hundred thousand first tries a second.
const ROOM_MS: u64 = 4_000;
/// Tables of which it is known how full they are.
const TABLES_MAX: usize = 1 << 17;
/// Triplets of which it is known that nobody tried them.
const ABSENT_MAX: usize = 1 << 16;

/// What is known of the tables for first tries.
#[derive(Debug, Default)]
pub(super) struct Known {
    tables: HashMap<Table, Room>,
    /// Triplets that were asked for and not found, and not noted since.
    absent: HashSet<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Room {
    /// There are tables behind it.
    is_split: bool,
    entries: i64,
    /// When that was asked.
    asked_ms: u64,
    /// Until when it lives at least, in milliseconds since 1970.
    lives_ms: u64,
}

/// Where the answer to a question comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// Every node answers that itself.
    Nowhere,
    /// The answers of plain commands from this place on, one a table on the way to the last, in a part;
    /// and behind them how full the last is, if that was asked.
    Plain { part: usize, from: usize, last: Table, asks_room: bool },
    /// The next answer of the script in a part.
    Script { part: usize },
}

/// What goes to one part in one trip.
#[derive(Debug, Default)]
pub(super) struct Trip {
    pub(super) part: usize,
    pub(super) reads: Commands,
    pub(super) inserts: Commands,
    /// Operations, one behind the other.
    pub(super) script: Command,
    since_ms: Option<u64>,
}

/// What is ready to be sent: in a cluster a trip for each part, else one for all.
#[derive(Debug, Default)]
pub(super) struct Trips {
    pub(super) all: Vec<Trip>,
    is_cluster: bool,
}

impl Trips {
    pub(super) fn new(is_cluster: bool) -> Self {
        Self { all: Vec::new(), is_cluster }
    }

    /// Which trip what belongs to a part goes with.
    fn way(&self, part: usize) -> usize {
        if self.is_cluster { part } else { COMMON }
    }

    fn trip(&mut self, part: usize) -> &mut Trip {
        let part = self.way(part);
        let place = self.all.iter().position(|trip| trip.part == part);
        let place = place.unwrap_or_else(|| {
            self.all.push(Trip { part, ..Trip::default() });
            self.all.len() - 1
        });
        // It is there: found, or pushed a moment ago.
        #[allow(clippy::indexing_slicing, reason = "the place of something that is there")]
        &mut self.all[place]
    }

    /// Puts something that is read at the end; says which of the answers to what is read is its own.
    pub(super) fn read(&mut self, part: usize, command: &Command) -> usize {
        let reads = &mut self.trip(part).reads;
        reads.push(command);
        reads.count - 1
    }

    /// Puts an operation of the script at the end; says with which trip it goes.
    pub(super) fn script(&mut self, now_ms: u64, operation: &Operation) -> usize {
        let trip = self.trip(operation.part);
        if trip.since_ms != Some(now_ms) {
            trip.since_ms = Some(now_ms);
            trip.script.append(&Operation::now(trip.part, now_ms).words);
        }
        trip.script.append(&operation.words);
        trip.part
    }
}

/// What is read by a plain command.
fn plain(question: &Question) -> Option<(Kind, Key)> {
    match *question {
        Question::Since { shelf, key } => Some((Kind::Moment(shelf), moment_key(shelf, key))),
        Question::History { key } => Some((Kind::History, key)),
        _ => None,
    }
}

/// What an effect changes of that.
fn changed(effect: &Effect) -> Option<(Kind, Key)> {
    match *effect {
        Effect::Remember { shelf, key, .. } | Effect::Forget { shelf, key } => {
            Some((Kind::Moment(shelf), moment_key(shelf, key)))
        }
        Effect::TooEarly { key } => {
            let shelf = Shelf::Greylisted;
            Some((Kind::Moment(shelf), moment_key(shelf, key)))
        }
        Effect::Observe { key, .. } => Some((Kind::History, key)),
        _ => None,
    }
}

impl Known {
    /// The last table that is known in which a field may be.
    fn last(&self, mut table: Table, field: Field) -> Table {
        while self.tables.get(&table).is_some_and(|room| room.is_split)
            && let Some(next) = table.next(field)
        {
            table = next;
        }
        table
    }

    /// Puts a batch into trips; says where the answer to each question of each job comes from.
    pub(super) fn build(
        &mut self,
        names: &Names,
        batch: &Batch<'_>,
        trips: &mut Trips,
    ) -> Vec<Vec<Source>> {
        let mut all_sources = Vec::with_capacity(batch.jobs.len());
        let mut written: HashSet<(u8, u64)> = HashSet::new();
        for job in batch.jobs {
            let mut sources = Vec::with_capacity(job.questions.len());
            for question in &job.questions {
                let read = plain(question)
                    .filter(|(kind, key)| !written.contains(&(kind.letter(), key.0)));
                if let Some((kind, key)) = read {
                    sources.push(self.read(names, trips, (kind, key), job.now_ms));
                } else if let Some(operation) = Operation::question(names, question) {
                    let part = trips.script(job.now_ms, &operation);
                    sources.push(Source::Script { part });
                } else {
                    sources.push(Source::Nowhere);
                }
            }
            all_sources.push(sources);
            for effect in &job.effects {
                let is_new = changed(effect)
                    .is_none_or(|(kind, key)| written.insert((kind.letter(), key.0)));
                if is_new && self.insert(names, trips, (effect, job.now_ms)) {
                    continue;
                }
                if let Some(operation) = Operation::effect(names, job.now_ms, effect) {
                    trips.script(job.now_ms, &operation);
                }
            }
        }
        for record in batch.news {
            trips.script(0, &Operation::news(names, record));
        }
        all_sources
    }

    fn read(
        &self,
        names: &Names,
        trips: &mut Trips,
        (kind, key): (Kind, Key),
        now_ms: u64,
    ) -> Source {
        let (first, field) = place(kind, key);
        let trip = trips.trip(first.part());
        let from = trip.reads.count;
        let last = self.last(first, field);
        let asks_room = kind == Kind::Moment(Shelf::Greylisted) && self.may_be_full(last, now_ms);
        for table in last.chain() {
            let mut read = Command::new(b"HMGET");
            names.push_table(table, &mut read);
            read.push(field.bytes());
            read.push(b"!");
            trip.reads.push(&read);
        }
        if asks_room {
            let mut size = Command::new(b"HLEN");
            names.push_table(last, &mut size);
            trip.reads.push(&size);
        }
        Source::Plain { part: trip.part, from, last, asks_room }
    }

    /// Whether it must be asked how full a table is before something is put in.
    fn may_be_full(&self, table: Table, now_ms: u64) -> bool {
        self.tables.get(&table).is_none_or(|room| {
            let age_ms = now_ms.checked_sub(room.asked_ms);
            !(1..ENTRIES_FEW).contains(&room.entries) || age_ms.is_none_or(|age| age >= ROOM_MS)
        })
    }

    /// Notes a first try by a plain command, if it is known that it is one and that there is room.
    fn insert(
        &mut self,
        names: &Names,
        trips: &mut Trips,
        (effect, now_ms): (&Effect, u64),
    ) -> bool {
        let Effect::Remember { shelf: Shelf::Greylisted, key, keep_ms, again: false, mark } =
            effect
        else {
            return false;
        };
        let shelf = Shelf::Greylisted;
        let key = moment_key(shelf, *key);
        if !self.absent.remove(&key.0) {
            return false;
        }
        let (first, field) = place(Kind::Moment(shelf), key);
        let last = self.last(first, field);
        let class = class_of(*keep_ms);
        let Some(room) = self.tables.get_mut(&last) else { return false };
        let lives = room.lives_ms >= now_ms.saturating_add(keep_of(class));
        if room.is_split || !(1..ENTRIES_MAX).contains(&room.entries) || !lives {
            return false;
        }
        room.entries += 1;
        let moment = mpp_engine::question::Moment { at_ms: now_ms, tries: (*mark).min(15) };
        let mut insert = Command::new(b"HSETNX");
        names.push_table(last, &mut insert);
        insert.push(field.bytes());
        insert.push(&write_moment(moment, class));
        trips.trip(first.part()).inserts.push(&insert);
        true
    }

    /// What plain commands found: the value; or nothing; or that a table is split of which that was not
    /// known, so that the script must look.
    pub(super) fn found(
        &mut self,
        question: &Question,
        (last, asks_room): (Table, bool),
        answers: &[Reply],
        now_ms: u64,
    ) -> Result<Option<Vec<u8>>, ()> {
        let mut found = None;
        let mut answers = answers.iter();
        let mut is_split = false;
        let mut lives_ms = 0;
        for table in last.chain() {
            let Some(Reply::List(fields)) = answers.next() else { return Err(()) };
            if let (Some(Reply::Text(value)), None) = (fields.first(), &found) {
                found = Some(value.clone());
            }
            let lives = match fields.get(1) {
                Some(Reply::Text(text)) => std::str::from_utf8(text).unwrap_or_default(),
                _ => "",
            };
            is_split = lives.starts_with('+');
            if is_split {
                self.room(table).is_split = true;
            }
            lives_ms = lives.trim_start_matches('+').parse().unwrap_or(0);
        }
        if found.is_some() {
            return Ok(found);
        }
        if is_split {
            return Err(());
        }
        if let Question::Since { shelf: Shelf::Greylisted, key } = question {
            let room = self.room(last);
            room.lives_ms = lives_ms;
            if asks_room {
                let entries = answers.next();
                room.entries = if let Some(Reply::Number(it)) = entries { *it } else { 0 };
                room.asked_ms = now_ms;
            }
            if self.absent.len() >= ABSENT_MAX {
                // Their first tries are noted by the script then.
                self.absent.clear();
            }
            self.absent.insert(moment_key(Shelf::Greylisted, *key).0);
        }
        Ok(None)
    }

    fn room(&mut self, table: Table) -> &mut Room {
        if self.tables.len() >= TABLES_MAX {
            // It is learnt again where there are entries.
            self.tables.clear();
        }
        self.tables.entry(table).or_default()
    }
}
