//! What is done on one connection: transactions, each in the turn of all nodes.

use std::time::{Duration, Instant};

use mpp_engine::question::Shelf;
use mpp_hub::clock::{Clock as _, RealClock};
use mpp_hub::store::Counts;

use super::link::{Fault, Link};
use super::names::{BUCKETS_MAX, Bucket, Kind, Name, SUMS, read_node, write_node};
use super::schema;
use super::work::{Needs, Work};
use crate::record::{Bytes, Record};
use crate::shared::is_dear_moment;
use crate::shared::remote::{Batch, Cursor, Exchanged, Meta, News, Trouble};

/// A batch that others get in the way of is done anew so often.
const TRIES_MAX: u32 = 6;
/// Entries of the log at the most, about.
const LOG_MAX: u64 = 20_000;
/// How many entries of the log are written between two looks at its length.
const LOG_TRIM: u64 = 256;
/// Entries of the log that are read at once.
const NEWS_MAX: usize = 1_000;
/// How often the database is asked how large it is.
const SIZE_EVERY: Duration = Duration::from_secs(14);

/// The connection, and what was read on it.
pub(super) struct State {
    pub(super) link: Link,
    pub(super) prefix: String,
    /// Of which state of the list the tables below are.
    lists: Option<i64>,
    /// The tables of first tries that are looked into.
    pub(super) buckets: Vec<Bucket>,
    size: Option<(Instant, u64)>,
}

/// What the row says that all batches take.
#[derive(Clone, Debug, Default)]
pub(super) struct Head {
    lists: i64,
    pub(super) logged: u64,
    pub(super) sums: [i64; SUMS],
}

/// What becomes of it besides the cells.
#[derive(Debug, Default)]
pub(super) struct After {
    pub(super) logged: u64,
    pub(super) sums: [i64; SUMS],
    pub(super) firsts: Vec<(Bucket, i64)>,
}

impl State {
    pub(super) fn new(link: Link, prefix: &str) -> Self {
        Self { link, prefix: prefix.to_owned(), lists: None, buckets: Vec::new(), size: None }
    }

    fn head_text(&self) -> String {
        let sums: Vec<String> = (0..SUMS).map(|sum| format!("h{sum}")).collect();
        format!("SELECT lists, logged, {} FROM {}_meta WHERE id = 1", sums.join(", "), self.prefix)
    }

    /// Begins a transaction, and brings the list of tables up to date. Whoever writes takes the row
    /// that all take; whoever reads has a snapshot.
    pub(super) async fn begin(&mut self, is_write: bool) -> Result<Head, Fault> {
        let head = self.head_text();
        let text = match (is_write, self.link.is_mysql()) {
            (true, _) => format!("BEGIN; {head} FOR UPDATE"),
            (false, true) => format!(
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; \
                 START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY; {head}"
            ),
            (false, false) => format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {head}"),
        };
        let rows = self.link.numbers(text).await?;
        let head = read_head(&rows)
            .ok_or_else(|| Fault::Broken(Trouble("its tables are empty".into())))?;
        if self.lists != Some(head.lists) {
            let id = if self.link.is_mysql() { "id" } else { "id::int8" };
            let prefix = &self.prefix;
            let text = format!("SELECT {id} FROM {prefix}_buckets WHERE is_over = 0 ORDER BY id");
            let rows = self.link.numbers(text).await?;
            let ids = rows.iter().flatten().filter_map(|id| u32::try_from(*id).ok());
            self.buckets = ids.map(Bucket::of_id).collect();
            self.lists = Some(head.lists);
        }
        Ok(head)
    }

    /// Ends a transaction with what is to be noted in the common rows.
    pub(super) async fn commit(&mut self, after: Option<After>) -> Result<(), Fault> {
        let mut text = String::new();
        if let Some(After { logged, sums, firsts }) = after {
            let prefix = &self.prefix;
            // Always written: in a cluster it is what shows that two were at it.
            let mut parts = vec![format!("turn = turn + 1, logged = {logged}")];
            let sums = sums.iter().enumerate().filter(|(_, more)| **more != 0);
            parts.extend(sums.map(|(sum, more)| format!("h{sum} = h{sum} + {more}")));
            text = format!("UPDATE {prefix}_meta SET {} WHERE id = 1; ", parts.join(", "));
            let firsts = firsts.into_iter().filter(|(_, more)| *more != 0);
            let notes = firsts.map(|(bucket, more)| {
                let id = bucket.id();
                format!("UPDATE {prefix}_buckets SET held = held + {more} WHERE id = {id}; ")
            });
            text.extend(notes);
        }
        self.link.run(text + "COMMIT").await?;
        Ok(())
    }

    /// After a transaction that failed: it is to be done again if others got in the way.
    pub(super) async fn again(&mut self, fault: Fault, tries: &mut u32) -> Result<(), Trouble> {
        *tries += 1;
        match fault {
            Fault::Broken(trouble) => return Err(trouble),
            fault if *tries == TRIES_MAX => return Err(fault.trouble()),
            Fault::Again(_) => {}
            // A table that has just been dropped: the list says so by now.
            Fault::NoTable(_) => self.lists = None,
        }
        self.link.run("ROLLBACK".into()).await?;
        Ok(())
    }

    /// Makes the tables that new first tries need, as far as there may be more.
    async fn make_buckets(&mut self, needs: &Needs) -> Result<(), Trouble> {
        if self.lists.is_none() && !needs.buckets.is_empty() {
            self.begin(false).await?;
            self.commit(None).await?;
        }
        let known = self.buckets.len();
        let missing = needs.buckets.iter().filter(|bucket| !self.buckets.contains(bucket));
        let missing: Vec<Bucket> =
            missing.copied().take(BUCKETS_MAX.saturating_sub(known)).collect();
        for bucket in missing {
            schema::make_bucket(&mut self.link, &self.prefix, bucket).await?;
        }
        Ok(())
    }

    /// Reads all that a batch touches.
    async fn know(
        &mut self,
        work: &mut Work<'_>,
        buckets: &[Bucket],
        (needs, head): (&Needs, &Head),
        node: Option<Name>,
    ) -> Result<(), Fault> {
        let has_other_firsts = head.sums.first().is_some_and(|sum| *sum != 0);
        let in_cells = |name: &&Name| !name.is_first() || has_other_firsts;
        let names = needs.names.iter().filter(in_cells).chain(&node);
        let names: Vec<Vec<u8>> = names.map(|name| name.to_bytes()).collect();
        for (name, cell) in self.link.cells(&names).await? {
            if let Some(name) = Name::of_bytes(&name) {
                work.know(name, cell, None);
            }
        }
        let firsts = needs.names.iter().filter(|name| name.is_first());
        let keys: Vec<u64> = firsts.map(|name| name.key).collect();
        let kind = Kind::Moment(Shelf::Greylisted);
        for (bucket, key, cell) in self.link.firsts(buckets, &keys).await? {
            work.know(Name { kind, key }, cell, Some(bucket));
        }
        Ok(())
    }

    /// Writes what a batch has changed, and ends the transaction.
    async fn write(&mut self, work: Work<'_>, head: &Head) -> Result<(), Fault> {
        let changes = work.changes();
        self.link.drop_cells(&changes.cells_gone).await?;
        self.link.put_cells(&changes.cells).await?;
        let mut after = After { logged: head.logged, sums: changes.sums, firsts: Vec::new() };
        for (bucket, firsts) in changes.firsts {
            self.link.drop_firsts(bucket, &firsts.gone).await?;
            self.link.put_firsts(bucket, &firsts.cells).await?;
            after.firsts.push((bucket, firsts.more));
        }
        if !changes.log.is_empty() {
            self.link.put_log(head.logged + 1, &changes.log).await?;
            after.logged += changes.log.len() as u64;
            if after.logged / LOG_TRIM != head.logged / LOG_TRIM {
                let (prefix, last) = (&self.prefix, after.logged.saturating_sub(LOG_MAX));
                self.link.run(format!("DELETE FROM {prefix}_log WHERE id <= {last}")).await?;
            }
        }
        self.commit(Some(after)).await
    }

    pub(super) async fn exchange(&mut self, batch: &Batch<'_>) -> Result<Exchanged, Trouble> {
        let mut needs = Needs::of_jobs(batch.jobs);
        needs.is_write |= !batch.news.is_empty();
        self.make_buckets(&needs).await?;
        let mut tries = 0;
        loop {
            match self.exchange_once(batch, &needs).await {
                Ok(done) => return Ok(done),
                Err(fault) => self.again(fault, &mut tries).await?,
            }
        }
    }

    async fn exchange_once(
        &mut self,
        batch: &Batch<'_>,
        needs: &Needs,
    ) -> Result<Exchanged, Fault> {
        let head = self.begin(needs.is_write).await?;
        let buckets = self.buckets.clone();
        let mut work = Work::new(&buckets);
        let node = Name { kind: Kind::Node, key: batch.node };
        let node = needs.is_write.then_some(node);
        self.know(&mut work, &buckets, (needs, &head), node).await?;
        if let Some(node) = node {
            if read_node(work.cell(node)).is_some_and(|(done, _)| done >= batch.number) {
                self.commit(None).await?;
                return Ok(Exchanged::default());
            }
            work.put(node, write_node(batch.number, RealClock.now_ms()));
        }
        let mut done = Exchanged::default();
        if let Some(since) = batch.since
            && since.0.parse() != Ok(head.logged)
        {
            done.news = self.log_since(since).await?;
        }
        for job in batch.jobs {
            let questions = job.questions.iter();
            done.answers.push(questions.map(|it| work.answer(job.now_ms, it)).collect());
            job.effects.iter().for_each(|it| work.perform(job.now_ms, it));
        }
        batch.news.iter().for_each(|it| work.news(it));
        done.seen = std::mem::take(&mut work.seen);
        if needs.is_write {
            self.write(work, &head).await?;
        } else {
            self.commit(None).await?;
        }
        Ok(done)
    }

    pub(super) async fn put(&mut self, records: &[Record]) -> Result<(), Trouble> {
        let needs = Needs::of_records(records);
        self.make_buckets(&needs).await?;
        let mut tries = 0;
        loop {
            match self.put_once(records, &needs).await {
                Ok(()) => return Ok(()),
                Err(fault) => self.again(fault, &mut tries).await?,
            }
        }
    }

    async fn put_once(&mut self, records: &[Record], needs: &Needs) -> Result<(), Fault> {
        let head = self.begin(true).await?;
        let buckets = self.buckets.clone();
        let mut work = Work::new(&buckets);
        self.know(&mut work, &buckets, (needs, &head), None).await?;
        for record in records {
            work.record(record);
            if is_dear_moment(record) {
                work.news(record);
            }
        }
        self.write(work, &head).await
    }

    pub(super) async fn meta(&mut self, seed: u64, epoch: u64) -> Result<Meta, Trouble> {
        let (prefix, is_mysql) = (&self.prefix, self.link.is_mysql());
        let (ignore, conflict, now) = if is_mysql {
            ("IGNORE ", "", "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)")
        } else {
            let now = "(extract(epoch from clock_timestamp()) * 1000)::int8";
            ("", " ON CONFLICT DO NOTHING", now)
        };
        let text = format!("SELECT seed, epoch, {now} FROM {prefix}_meta WHERE id = 1");
        let mut rows = self.link.numbers(text.clone()).await?;
        if rows.is_empty() {
            let (seed, epoch) = (seed.cast_signed(), epoch.cast_signed());
            let make = format!(
                "INSERT {ignore}INTO {prefix}_meta (id, seed, epoch) VALUES (1, {seed}, {epoch})\
                 {conflict}; INSERT {ignore}INTO {prefix}_lease (id, node, until_ms) \
                 VALUES (1, 0, 0){conflict}"
            );
            self.link.run(make).await?;
            rows = self.link.numbers(text).await?;
        }
        let found = rows.into_iter().next().unwrap_or_default();
        let [seed, epoch, server_ms] = *found.as_slice() else {
            return Err(Trouble(format!("the table {prefix}_meta is not what mpp writes")));
        };
        let server_ms = u64::try_from(server_ms).unwrap_or(0);
        Ok(Meta { seed: seed.cast_unsigned(), epoch: epoch.cast_unsigned(), server_ms })
    }

    pub(super) async fn news(&mut self, since: Cursor) -> Result<News, Trouble> {
        if since == Cursor::default() {
            let rows = self.link.numbers(self.head_text()).await?;
            let head = read_head(&rows).unwrap_or_default();
            return Ok(News { cursor: Cursor(head.logged.to_string()), ..News::default() });
        }
        Ok(self.log_since(&since).await?)
    }

    /// What has come to the log since.
    async fn log_since(&mut self, since: &Cursor) -> Result<News, Fault> {
        let known: u64 = since.0.parse().unwrap_or(0);
        let mut news = News { cursor: since.clone(), ..News::default() };
        // The entry that was read last stays as long as none behind it was dropped.
        let entries = self.link.log(known.max(1), NEWS_MAX).await?;
        let first = entries.first().map(|(id, _)| *id);
        news.has_gap = match first {
            Some(first) => first != known.max(1),
            None => known > 0,
        };
        for (id, record) in entries.into_iter().filter(|(id, _)| *id > known) {
            news.cursor = Cursor(id.to_string());
            news.records.extend(Record::take(&mut Bytes(&record)));
        }
        Ok(news)
    }

    pub(super) async fn counts(&mut self) -> Result<Counts, Trouble> {
        let head = read_head(&self.link.numbers(self.head_text()).await?).unwrap_or_default();
        let cast = if self.link.is_mysql() {
            "CAST(COALESCE(SUM(held), 0) AS SIGNED)"
        } else {
            "COALESCE(SUM(held), 0)::int8"
        };
        let text = format!("SELECT {cast} FROM {}_buckets WHERE is_over = 0", self.prefix);
        let firsts = self.link.numbers(text).await?.into_iter().flatten().next().unwrap_or(0);
        let mut counts = Counts::default();
        let sum =
            |place: usize| head.sums.get(place).map_or(0, |sum| u64::try_from(*sum).unwrap_or(0));
        for (place, count) in counts.shelves.iter_mut().enumerate() {
            *count = sum(place);
        }
        if let Some(count) = counts.shelves.first_mut() {
            *count += u64::try_from(firsts).unwrap_or(0);
        }
        let of = |kind: Kind| kind.sum().map_or(0, sum);
        counts.tallies = of(Kind::Count) + of(Kind::Set);
        counts.histories = of(Kind::History);
        counts.blocks = sum(SUMS - 1);
        counts.disk_bytes = self.size().await?;
        Ok(counts)
    }

    /// How large all tables are with their indexes; asked now and then.
    async fn size(&mut self) -> Result<u64, Trouble> {
        if let Some((at, bytes)) = self.size
            && at.elapsed() < SIZE_EVERY
        {
            return Ok(bytes);
        }
        let prefix = self.prefix.replace('_', "\\_");
        let text = if self.link.is_mysql() {
            format!(
                "SELECT CAST(COALESCE(SUM(data_length + index_length), 0) AS SIGNED) FROM \
                 information_schema.tables WHERE table_schema = DATABASE() AND table_name LIKE \
                 '{}\\_%'",
                prefix.replace('\\', "\\\\")
            )
        } else {
            format!(
                "SELECT COALESCE(SUM(pg_total_relation_size(oid)), 0)::int8 FROM pg_class WHERE \
                 relkind = 'r' AND relnamespace = current_schema()::regnamespace AND relname LIKE \
                 '{prefix}\\_%'"
            )
        };
        let bytes = self.link.numbers(text).await?.into_iter().flatten().next().unwrap_or(0);
        let bytes = u64::try_from(bytes).unwrap_or(0);
        self.size = Some((Instant::now(), bytes));
        Ok(bytes)
    }
}

/// What the common row says.
fn read_head(rows: &[Vec<i64>]) -> Option<Head> {
    let [lists, logged, sums @ ..] = rows.first()?.as_slice() else { return None };
    let (lists, logged) = (*lists, u64::try_from(*logged).unwrap_or(0));
    Some(Head { lists, logged, sums: sums.try_into().ok()? })
}
