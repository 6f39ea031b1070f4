//! Redis or Valkey as a store that nodes share: one server, sentinels, or a cluster.
//!
//! A batch of decisions is one call of a script on the server ([`store.lua`](../redis/store.lua)); in a
//! cluster one for each part of the keys, all at the same time. There a decision is atomic for each key,
//! not over all of its keys.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::IntoIter;

use futures_util::future::try_join_all;
use mpp_config::store::Redis as Settings;
use mpp_engine::question::{Answer, Counted, History, Question};
use mpp_hub::store::{Counts, StoreError};
use mpp_wire::resp::{Command, Reply};
use redis::Script;

use self::batch::{Known, Source, Trip, Trips};
use self::keys::{COMMON, Kind, Names, Operation, PARTS};
use self::link::{Commands, Link};
use self::values::{
    all_done, block_record, bytes, entry, error_of, list, news_record, number, only,
};
use crate::part::decayed;
use crate::record::Record;
use crate::shared::cells::{held_moment, moment_record, read_history};
use crate::shared::remote::{
    Batch, Connector, Cursor, Exchanged, Meta, News, Remote, Trouble, Waiting, Wanted,
};
use crate::shared::{self, Options, SharedStore};
use crate::transfer::Side;

mod batch;
mod board;
mod connection;
mod keys;
mod link;
mod values;

pub use self::board::board;

/// What the server runs.
const SCRIPT: &str = include_str!("redis/store.lua");
/// The form of what is on the server; another one is refused.
const VERSION: u64 = 2;
/// Entries of the log that are read at once.
const NEWS_MAX: u64 = 1_000;
/// Tables that one call sweeps: a millisecond of the server's time.
const SWEEP_TABLES: usize = 16;
/// Tables that one piece of a sweep looks at.
const SWEEP_PIECE: usize = 64;
/// One node sweeps, as long as it goes on doing so.
const LEASE_MS: u64 = 5_000;

/// Opens a store on a Redis.
///
/// # Errors
/// Neither the server answers nor is there a copy of the store on this node.
pub fn open(settings: &Settings, options: &Options) -> Result<Arc<SharedStore>, StoreError> {
    let is_thorough = options.sweep_every.is_zero();
    shared::open(Arc::new(Place { settings: settings.clone(), is_thorough }), options)
}

/// One side of moving a store to or from a Redis.
///
/// # Errors
/// It does not answer, or holds something else.
pub fn side(settings: &Settings, seed: Option<u64>) -> Result<Side, StoreError> {
    Side::connect(&Place { settings: settings.clone(), is_thorough: false }, seed)
}

/// How to reach it.
struct Place {
    settings: Settings,
    /// Whoever asks for it sweeps at once, whichever node has the lease.
    is_thorough: bool,
}

impl Place {
    /// Connects.
    async fn server(&self) -> Result<Server, Trouble> {
        let link = Link::open(&self.settings).await?;
        let script = Script::new(SCRIPT);
        let names = Names::new(&self.settings.prefix);
        let (known, is_thorough) = (Mutex::default(), self.is_thorough);
        Ok(Server { link, script, names, known, is_thorough })
    }
}

impl Connector for Place {
    fn connect(&self) -> Waiting<'_, Box<dyn Remote>> {
        Box::pin(async { Ok(Box::new(self.server().await?) as Box<dyn Remote>) })
    }

    fn place(&self) -> String {
        let servers = self.settings.servers.iter().map(ToString::to_string);
        format!("redis {}", servers.collect::<Vec<_>>().join(", "))
    }
}

/// What the parts answered: to plain commands, and to the script.
type Answered = HashMap<usize, (Vec<Reply>, IntoIter<Reply>)>;

/// A question that has to be asked again: of which job, its place there, and when.
type Again<'b> = (usize, usize, &'b Question, u64);

/// A Redis that is connected.
struct Server {
    link: Link,
    script: Script,
    names: Names,
    known: Mutex<Known>,
    is_thorough: bool,
}

impl Server {
    /// Runs operations of the script; returns the answers of those that have one, in their order.
    async fn run(
        &self,
        operations: impl IntoIterator<Item = (u64, Operation)>,
    ) -> Result<Vec<Option<Reply>>, Trouble> {
        let mut trips = Trips::new(self.link.is_cluster());
        let mut asked = Vec::new();
        for (now_ms, operation) in operations {
            let is_asked = operation.is_asked;
            let part = trips.script(now_ms, &operation);
            if is_asked {
                asked.push(part);
            }
        }
        // Nobody's batch: it has no number, and is done however often it comes.
        let mut answered = self.send(trips, (0, 0)).await?;
        let next = |part| answered.get_mut(&part).and_then(|(_, script)| script.next());
        Ok(asked.into_iter().map(next).collect())
    }

    /// Makes all trips at once.
    async fn send(&self, trips: Trips, numbered: (u64, u64)) -> Result<Answered, Trouble> {
        let trips = trips.all.into_iter().map(|trip| self.trip(trip, numbered));
        Ok(try_join_all(trips).await?.into_iter().collect())
    }

    /// One trip: what is read, what is put in, and the script; the answers to what is read, and the
    /// script's.
    async fn trip(
        &self,
        trip: Trip,
        numbered: (u64, u64),
    ) -> Result<(usize, (Vec<Reply>, IntoIter<Reply>)), Trouble> {
        let Trip { part, reads, inserts, script, .. } = trip;
        let mut commands = reads;
        commands.append(&inserts);
        let plain = commands.end();
        if !script.is_empty() {
            let hash = self.script.get_hash().as_bytes();
            commands.push(&self.script_call((b"EVALSHA", hash), part, numbered, &script));
        }
        let mut answers = self.link.send(&commands).await?;
        if error_of(&answers).is_some_and(|text| text.starts_with("NOSCRIPT")) {
            // Nothing of the script was done: the script is sent itself, and the rest again, which
            // changes nothing that is not changed already.
            let text = SCRIPT.as_bytes();
            commands.cut(plain);
            commands.push(&self.script_call((b"EVAL", text), part, numbered, &script));
            answers = self.link.send(&commands).await?;
        }
        all_done(&answers)?;
        let of_script = if script.is_empty() { None } else { answers.pop() };
        let of_script = of_script.map(list).unwrap_or_default();
        Ok((part, (answers, of_script.into_iter())))
    }

    /// Asks the script where plain commands did not find their way.
    async fn ask_again(&self, again: &[Again<'_>], done: &mut Exchanged) -> Result<(), Trouble> {
        if again.is_empty() {
            return Ok(());
        }
        let operations = again.iter().filter_map(|(.., question, now_ms)| {
            Some((*now_ms, Operation::question(&self.names, question)?))
        });
        let answers = self.run(operations).await?;
        for ((job, place, question, now_ms), value) in again.iter().zip(answers) {
            let theirs = answer(question, value, *now_ms, &mut done.seen);
            if let Some(answer) = done.answers.get_mut(*job).and_then(|it| it.get_mut(*place)) {
                *answer = theirs;
            }
        }
        Ok(())
    }

    /// The answers of a batch, and the questions for which a table was split of which that was not known.
    fn gather<'b>(
        &self,
        batch: &Batch<'b>,
        sources: &[Vec<Source>],
        mut answered: Answered,
    ) -> (Exchanged, Vec<Again<'b>>) {
        let mut done = Exchanged::default();
        let mut again = Vec::new();
        let mut known = self.known();
        for (job, sources) in batch.jobs.iter().zip(sources) {
            let mut of_job = Vec::with_capacity(job.questions.len());
            for (question, source) in job.questions.iter().zip(sources) {
                let value = match source {
                    Source::Nowhere => None,
                    Source::Script { part } => {
                        answered.get_mut(part).and_then(|(_, script)| script.next())
                    }
                    Source::Plain { part, from, last, asks_room } => {
                        let answers = answered.get(part).and_then(|(all, _)| all.get(*from..));
                        let answers = answers.unwrap_or_default();
                        if let Ok(found) =
                            known.found(question, (*last, *asks_room), answers, job.now_ms)
                        {
                            Some(found.map_or(Reply::Nil, Reply::Text))
                        } else {
                            again.push((done.answers.len(), of_job.len(), question, job.now_ms));
                            None
                        }
                    }
                };
                of_job.push(answer(question, value, job.now_ms, &mut done.seen));
            }
            done.answers.push(of_job);
        }
        (done, again)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the log from the entry on that was read last.
    fn log(&self, since: &Cursor) -> Command {
        let range = Command::new(b"XRANGE").word(self.names.of(COMMON, "l")).word(&since.0);
        range.word("+").word("COUNT").number(NEWS_MAX)
    }

    /// A call of the script, by its hash or with its text.
    fn script_call(
        &self,
        (how, script): (&[u8], &[u8]),
        part: usize,
        (node, number): (u64, u64),
        operations: &Command,
    ) -> Command {
        let mut command = Command::new(how).word(script).number(1).word(self.names.of(part, "n"));
        command = command.number(node).number(number);
        command.append(operations);
        command
    }

    /// Sends one command that is not of the script.
    async fn ask(&self, command: Command) -> Result<Reply, Trouble> {
        only(self.link.send(&Commands::of(&command)).await?)
    }

    /// The tables that a part has.
    async fn tables(&self, part: usize) -> Result<Vec<Vec<u8>>, Trouble> {
        let found = self.ask(Command::new(b"SMEMBERS").word(self.names.of(part, "t"))).await?;
        Ok(list(found).into_iter().filter_map(bytes).collect())
    }

    async fn fields(&self, key: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Trouble> {
        let found = self.ask(Command::new(b"HGETALL").word(key)).await?;
        let mut parts = list(found).into_iter().filter_map(bytes);
        Ok(std::iter::from_fn(|| Some((parts.next()?, parts.next()?))).collect())
    }

    /// All blocks.
    async fn blocks(&self) -> Result<Vec<Record>, Trouble> {
        let fields = self.fields(self.names.of(COMMON, "b").as_bytes()).await?;
        Ok(fields.iter().filter_map(|(field, cell)| block_record(field, cell)).collect())
    }

    /// What the tables of a part hold.
    async fn part(&self, part: usize, wanted: Wanted) -> Result<Vec<Record>, Trouble> {
        let mut records = Vec::new();
        for table in self.tables(part).await? {
            let Some(kind) = kind_of(&self.names, &table) else { continue };
            if wanted == Wanted::Dear && !is_dear(kind) {
                continue;
            }
            for (field, mut cell) in self.fields(&table).await? {
                let Some((kind, key)) = self.names.key_of(&table, &field) else { continue };
                if cell == b"*" {
                    let name = [table.as_slice(), b"*", field.as_slice()].concat();
                    let found = self.ask(Command::new(b"GET").word(name)).await?;
                    let Some(long) = bytes(found) else { continue };
                    cell = long;
                }
                cell_records(kind, key, &cell, &mut records);
            }
        }
        Ok(records)
    }
}

/// What has come to the log since.
fn read_log(since: &Cursor, reply: Reply) -> News {
    let mut news = News { cursor: since.clone(), ..News::default() };
    let mut entries = list(reply).into_iter().filter_map(entry);
    if since.0 != "0-0" {
        // The entry that was read last is there as long as none behind it was dropped.
        news.has_gap = entries.next().is_none_or(|(id, _)| id != since.0);
    }
    for (id, fields) in entries {
        news.cursor = Cursor(id);
        news.records.extend(news_record(&fields));
    }
    news
}

/// Which kind of table it is; a field of the right length stands for any.
fn kind_of(names: &Names, table: &[u8]) -> Option<Kind> {
    let found = names.key_of(table, &[0; 5]).or_else(|| names.key_of(table, &[0; 7]));
    found.map(|(kind, _)| kind)
}

fn is_dear(kind: Kind) -> bool {
    matches!(kind, Kind::Moment(shelf) if shared::is_dear_shelf(shelf))
}

/// What a cell says, as records for another store.
fn cell_records(kind: Kind, key: mpp_engine::question::Key, cell: &[u8], out: &mut Vec<Record>) {
    match kind {
        Kind::Moment(shelf) => out.extend(moment_record(shelf, key, cell)),
        Kind::History => {
            out.extend(shared::cells::history_records(key, cell).into_iter().flatten());
        }
        Kind::Count => out.extend(shared::cells::count_records(key, cell)),
        Kind::Set => out.extend(shared::cells::set_records(key, cell)),
    }
}

impl Remote for Server {
    fn exchange<'a>(&'a self, batch: &'a Batch<'a>) -> Waiting<'a, Exchanged> {
        Box::pin(async move {
            let mut trips = Trips::new(self.link.is_cluster());
            // In front of all else: what this batch changes is not in it.
            let log = batch.since.map(|since| (since, trips.read(COMMON, &self.log(since))));
            let sources = self.known().build(&self.names, batch, &mut trips);
            let mut answered = self.send(trips, (batch.node, batch.number)).await?;
            let news = log.and_then(|(since, place)| {
                let (replies, _) = answered.get_mut(&COMMON)?;
                let reply = std::mem::replace(replies.get_mut(place)?, Reply::Nil);
                Some(read_log(since, reply))
            });
            let (mut done, again) = self.gather(batch, &sources, answered);
            self.ask_again(&again, &mut done).await?;
            done.news = news.unwrap_or_default();
            Ok(done)
        })
    }

    fn meta(&self, seed: u64, epoch: u64) -> Waiting<'_, Meta> {
        Box::pin(async move {
            let key = self.names.of(COMMON, "m");
            for (name, value) in [("seed", seed), ("epoch", epoch), ("version", VERSION)] {
                self.ask(Command::new(b"HSETNX").word(&key).word(name).number(value)).await?;
            }
            let all = Command::new(b"HMGET").word(&key).word("seed").word("epoch").word("version");
            let found = self.ask(all).await?;
            let numbers: Vec<u64> = list(found).into_iter().filter_map(number).collect();
            let [seed, epoch, version] = *numbers.as_slice() else {
                return Err(Trouble(format!("the key {key} is not what mpp writes")));
            };
            if version != VERSION {
                return Err(Trouble(format!(
                    "its form is version {version}, this mpp knows {VERSION}: start that mpp, or set \
                     another `prefix`"
                )));
            }
            let now = self.ask(Command::new(b"TIME")).await?;
            let now: Vec<u64> = list(now).into_iter().filter_map(number).collect();
            let server_ms = match *now.as_slice() {
                [seconds, micros] => seconds * 1_000 + micros / 1_000,
                _ => 0,
            };
            Ok(Meta { seed, epoch, server_ms })
        })
    }

    fn news(&self, since: Cursor) -> Waiting<'_, News> {
        Box::pin(async move {
            let log = self.names.of(COMMON, "l");
            if since == Cursor::default() {
                let last = Command::new(b"XREVRANGE").word(&log).word("+").word("-");
                let last = self.ask(last.word("COUNT").number(1)).await?;
                let id = list(last).into_iter().next().and_then(entry).map(|(id, _)| id);
                let cursor = Cursor(id.unwrap_or_else(|| "0-0".into()));
                return Ok(News { cursor, ..News::default() });
            }
            let reply = self.ask(self.log(&since)).await?;
            Ok(read_log(&since, reply))
        })
    }

    fn page(&self, from: u64, wanted: Wanted) -> Waiting<'_, (Vec<Record>, Option<u64>)> {
        Box::pin(async move {
            if from == 0 {
                return Ok((self.blocks().await?, Some(1)));
            }
            let part = usize::try_from(from - 1).unwrap_or(PARTS);
            let next = (part + 1 < PARTS).then_some(from + 1);
            Ok((self.part(part, wanted).await?, next))
        })
    }

    fn put(&self, records: Vec<Record>) -> Waiting<'_, ()> {
        Box::pin(async move {
            let put = records.iter().map(|it| Operation::record(&self.names, it));
            let told = records.iter().filter(|it| shared::is_dear_moment(it));
            let told = told.map(|it| (0, Operation::news(&self.names, it)));
            self.run(put.chain(told)).await?;
            Ok(())
        })
    }

    fn sweep(&self, node: u64, now_ms: u64, from: u64) -> Waiting<'_, (u64, u64)> {
        Box::pin(async move {
            if !self.is_thorough && !self.has_lease(node).await? {
                return Ok((0, 0));
            }
            let (part, first) = (usize::try_from(from >> 32).unwrap_or(PARTS), from & 0xffff_ffff);
            if part >= PARTS {
                return Ok((self.sweep_blocks(now_ms).await?, 0));
            }
            let mut tables = self.tables(part).await?;
            // In an order that stays, so that the next piece goes on where this one ends.
            tables.sort_unstable();
            let first = usize::try_from(first).unwrap_or(usize::MAX);
            let rest = tables.get(first..).unwrap_or_default();
            let piece = rest.get(..SWEEP_PIECE).unwrap_or(rest);
            let (mut gone, mut left) = (0, 0);
            for tables in piece.chunks(SWEEP_TABLES) {
                let operations = tables.iter().filter_map(|table| {
                    let kind = kind_of(&self.names, table)?;
                    Some((now_ms, Operation::sweep(part, table, kind)))
                });
                for answer in self.run(operations).await?.into_iter().flatten() {
                    let mut numbers = list(answer).into_iter().filter_map(number);
                    gone += numbers.next().unwrap_or(0);
                    // Tables that are empty leave, and those behind them come forward.
                    left += usize::from(numbers.next() != Some(0));
                }
            }
            let next = if rest.len() > SWEEP_PIECE {
                (part as u64) << 32 | (first + left) as u64
            } else {
                (part as u64 + 1) << 32
            };
            Ok((gone, next))
        })
    }

    fn counts(&self, from: u64) -> Waiting<'_, (Counts, Option<u64>)> {
        Box::pin(async move {
            let mut counts = Counts::default();
            let part = usize::try_from(from).unwrap_or(PARTS);
            if part >= PARTS {
                self.count_common(&mut counts).await?;
                return Ok((counts, None));
            }
            let answers = self.run(vec![(0, Operation::count(&self.names, part))]).await?;
            let sums = answers.into_iter().flatten().flat_map(list).collect::<Vec<_>>();
            for pair in sums.chunks(2) {
                let [Reply::Text(letter), Reply::Number(sum)] = pair else { continue };
                let sum = u64::try_from(*sum).unwrap_or(0);
                match letter.first().copied().and_then(Kind::of) {
                    Some(Kind::Moment(shelf)) => {
                        if let Some(count) = counts.shelves.get_mut(shelf as usize) {
                            *count += sum;
                        }
                    }
                    Some(Kind::Count | Kind::Set) => counts.tallies += sum,
                    Some(Kind::History) => counts.histories += sum,
                    None => {}
                }
            }
            Ok((counts, Some(from + 1)))
        })
    }
}

impl Server {
    /// What is not in the parts: blocks, and what the server says of its memory.
    async fn count_common(&self, counts: &mut Counts) -> Result<(), Trouble> {
        let blocks = self.ask(Command::new(b"HLEN").word(self.names.of(COMMON, "b"))).await?;
        counts.blocks = number(blocks).unwrap_or(0);
        if !self.link.is_cluster() {
            // Not every account may ask for it.
            let said = self.ask(Command::new(b"INFO").word("memory")).await.ok().and_then(bytes);
            let said = said.unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            let used = said.lines().find_map(|line| line.strip_prefix("used_memory:"));
            counts.disk_bytes = used.and_then(|it| it.trim().parse().ok()).unwrap_or(0);
        }
        Ok(())
    }

    /// Whether this node sweeps.
    async fn has_lease(&self, node: u64) -> Result<bool, Trouble> {
        let lease = self.names.of(COMMON, "s");
        let take = Command::new(b"SET").word(&lease).number(node).word("NX");
        if self.ask(take.word("PX").number(LEASE_MS)).await? != Reply::Nil {
            return Ok(true);
        }
        let holder = number(self.ask(Command::new(b"GET").word(&lease)).await?);
        if holder != Some(node) {
            return Ok(false);
        }
        self.ask(Command::new(b"PEXPIRE").word(&lease).number(LEASE_MS)).await?;
        Ok(true)
    }

    async fn sweep_blocks(&self, now_ms: u64) -> Result<u64, Trouble> {
        let (mut gone, mut cursor) = (0, 0);
        loop {
            let operation = Operation::sweep_blocks(&self.names, cursor);
            let answers = self.run(vec![(now_ms, operation)]).await?;
            let answer = answers.into_iter().next().flatten().map(list).unwrap_or_default();
            let numbers: Vec<u64> = answer.into_iter().filter_map(number).collect();
            let [next, some] = *numbers.as_slice() else { return Ok(gone) };
            gone += some;
            cursor = next;
            if cursor == 0 {
                return Ok(gone);
            }
        }
    }
}

/// What the script answers to a question.
fn answer(
    question: &Question,
    value: Option<Reply>,
    now_ms: u64,
    seen: &mut Vec<Record>,
) -> Answer {
    let Some(value) = value else { return Answer::Unavailable };
    match question {
        Question::Since { shelf, key } => {
            let cell = bytes(value).unwrap_or_default();
            let moment = held_moment(&cell, now_ms);
            if moment.is_some() {
                seen.extend(moment_record(*shelf, *key, &cell));
            }
            Answer::Since(moment)
        }
        Question::History { .. } => {
            let known = bytes(value).and_then(|cell| read_history(&cell));
            Answer::History(known.map_or_else(History::default, |(history, at_s)| {
                decayed(history, u64::from(at_s) * 1_000, now_ms)
            }))
        }
        Question::Blocked { .. } => Answer::Unavailable,
        Question::Count { .. } | Question::Reserve { .. } | Question::Distinct { .. } => {
            let numbers: Vec<u64> = list(value).into_iter().filter_map(number).collect();
            match *numbers.as_slice() {
                [granted, used, frees_at_ms] => {
                    Answer::Counted(Counted { granted: granted == 1, used, frees_at_ms })
                }
                _ => Answer::Unavailable,
            }
        }
    }
}
