//! Dropping what has run out: whole tables of first tries, and of everything else a piece at a time.
//!
//! One node does it, as long as it goes on doing so.

use mpp_hub::clock::{Clock as _, RealClock};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::link::{Fault, Link};
use super::names::{Bucket, Name, SUMS, position};
use super::schema::drop_bucket;
use super::state::{After, State};
use super::work::add;
use super::{IDLE_S, Server};
use crate::shared::remote::Trouble;

/// Cells that are looked at in one piece.
const PIECE: usize = 2_000;
/// Whoever sweeps does so for so long before another may, in milliseconds.
const LEASE_MS: u64 = 10_000;

impl Server {
    /// Drops some of what has run out; says how much left, and where to go on.
    pub(super) async fn sweep_some(
        &self,
        node: u64,
        now_ms: u64,
        from: u64,
    ) -> Result<(u64, u64), Trouble> {
        let mut state = self.state.lock().await;
        if !self.is_thorough && !state.has_lease(node).await? {
            return Ok((0, 0));
        }
        let mut gone = 0;
        if from == 0 {
            let (held, over) = state.end_buckets(now_ms).await?;
            gone += held;
            self.drop_buckets(&mut state, over).await?;
            if self.is_thorough {
                for bucket in state.buckets.clone() {
                    gone += state.sweep_firsts(bucket, now_ms).await?;
                }
            }
        }
        let (cells, next) = state.sweep_cells(now_ms, from).await?;
        Ok((gone + cells, next))
    }

    /// Drops tables, on a connection of its own: a large one takes a while, and no decision waits.
    async fn drop_buckets(&self, state: &mut State, over: Vec<Bucket>) -> Result<(), Trouble> {
        if self.is_thorough {
            for bucket in over {
                drop_bucket(&mut state.link, &state.prefix, bucket).await?;
            }
            return Ok(());
        }
        if over.is_empty() || self.drops.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let (settings, drops) = (self.settings.clone(), Arc::clone(&self.drops));
        tokio::spawn(async move {
            if let Ok(mut link) = Link::open(&settings, IDLE_S).await {
                for bucket in over {
                    // What is still there is tried again with the next sweep.
                    let _ = drop_bucket(&mut link, &settings.prefix, bucket).await;
                }
            }
            drops.store(false, Ordering::Release);
        });
        Ok(())
    }
}

impl State {
    /// Whether this node sweeps, by the server's clock.
    async fn has_lease(&mut self, node: u64) -> Result<bool, Trouble> {
        let now = if self.link.is_mysql() {
            "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)"
        } else {
            "(extract(epoch from clock_timestamp()) * 1000)::int8"
        };
        let (prefix, node) = (&self.prefix, node.cast_signed());
        let text = format!(
            "UPDATE {prefix}_lease SET node = {node}, until_ms = {now} + {LEASE_MS} WHERE id = 1 \
             AND (node = {node} OR until_ms < {now} OR until_ms > {now} + 2 * {LEASE_MS})"
        );
        Ok(self.link.run(text).await? > 0)
    }

    /// Lets nobody look any more into tables in which all has run out; says how much that was, and
    /// which tables are to be dropped.
    async fn end_buckets(&mut self, now_ms: u64) -> Result<(u64, Vec<Bucket>), Trouble> {
        let known = self.buckets_there().await?;
        let is_due = known.iter().any(|(it, _, is_over)| !is_over && it.ends_ms() <= now_ms);
        let mut gone = 0;
        if is_due {
            let mut tries = 0;
            gone = loop {
                match self.end_buckets_once(now_ms).await {
                    Ok(gone) => break gone,
                    Err(fault) => self.again(fault, &mut tries).await?,
                }
            };
        }
        let is_over = |(it, _, is_over): &&(Bucket, i64, bool)| *is_over || it.ends_ms() <= now_ms;
        Ok((gone, known.iter().filter(is_over).map(|(it, ..)| *it).collect()))
    }

    async fn end_buckets_once(&mut self, now_ms: u64) -> Result<u64, Fault> {
        self.begin(true).await?;
        let known = self.buckets_there().await?;
        let due = known.iter().filter(|(it, _, is_over)| !is_over && it.ends_ms() <= now_ms);
        let (mut gone, mut text) = (0, String::new());
        let prefix = &self.prefix;
        text.extend(due.map(|(bucket, held, _)| {
            gone += u64::try_from(*held).unwrap_or(0);
            format!("UPDATE {prefix}_buckets SET is_over = 1 WHERE id = {}; ", bucket.id())
        }));
        let lists = format!("UPDATE {prefix}_meta SET lists = lists + 1 WHERE id = 1; COMMIT");
        text.push_str(&lists);
        self.link.run(text).await?;
        Ok(gone)
    }

    /// The tables there are, how much they hold, and whether they are to be dropped.
    async fn buckets_there(&mut self) -> Result<Vec<(Bucket, i64, bool)>, Fault> {
        let columns = if self.link.is_mysql() {
            "id, held, is_over"
        } else {
            "id::int8, held, is_over::int8"
        };
        let text = format!("SELECT {columns} FROM {}_buckets", self.prefix);
        let rows = self.link.numbers(text).await?;
        let row = |row: &Vec<i64>| {
            let [id, held, is_over] = *row.as_slice() else { return None };
            Some((Bucket::of_id(u32::try_from(id).ok()?), held, is_over != 0))
        };
        Ok(rows.iter().filter_map(row).collect())
    }

    /// Drops a piece of what is not in tables of first tries.
    async fn sweep_cells(&mut self, now_ms: u64, from: u64) -> Result<(u64, u64), Trouble> {
        let kind = u8::try_from(from >> 56).unwrap_or(u8::MAX);
        let (start, end) = (position(kind, from << 8), position(u8::MAX, u64::MAX));
        let rows = self.link.scan_cells(&start, &end, PIECE).await?;
        let next = match rows.last() {
            Some((name, _)) if rows.len() == PIECE => {
                let place = name.first_chunk::<8>().map_or(u64::MAX, |it| u64::from_be_bytes(*it));
                // On in any case, though all should begin alike.
                place.max(from + 1)
            }
            _ => 0,
        };
        let clocks = (now_ms, RealClock.now_ms());
        let is_over = |(name, cell): &(Vec<u8>, Vec<u8>)| {
            Name::of_bytes(name).is_none_or(|name| name.kind.is_over(cell, clocks))
        };
        let over: Vec<Vec<u8>> = rows.into_iter().filter(is_over).map(|(name, _)| name).collect();
        if over.is_empty() {
            return Ok((0, next));
        }
        let mut tries = 0;
        loop {
            match self.drop_over(&over, clocks).await {
                Ok(gone) => return Ok((gone, next)),
                Err(fault) => self.again(fault, &mut tries).await?,
            }
        }
    }

    /// Drops those of these cells that have run out and were not made new meanwhile.
    async fn drop_over(&mut self, names: &[Vec<u8>], clocks: (u64, u64)) -> Result<u64, Fault> {
        let head = self.begin(true).await?;
        let (mut over, mut sums, mut gone) = (Vec::new(), [0; SUMS], 0);
        for (bytes, cell) in self.link.cells(names).await? {
            let name = Name::of_bytes(&bytes);
            if let Some(name) = name {
                if !name.kind.is_over(&cell, clocks) {
                    continue;
                }
                add(&mut sums, name.kind, -1);
                gone += u64::from(name.kind.sum().is_some());
            }
            over.push(bytes);
        }
        self.link.drop_cells(&over).await?;
        self.commit(Some(After { logged: head.logged, sums, firsts: Vec::new() })).await?;
        Ok(gone)
    }

    /// Deletes what has run out of a table of first tries though others in it have not: for those who
    /// want to see all gone.
    async fn sweep_firsts(&mut self, bucket: Bucket, now_ms: u64) -> Result<u64, Trouble> {
        let mut tries = 0;
        loop {
            match self.sweep_firsts_once(bucket, now_ms).await {
                Ok(gone) => return Ok(gone),
                Err(fault) => self.again(fault, &mut tries).await?,
            }
        }
    }

    async fn sweep_firsts_once(&mut self, bucket: Bucket, now_ms: u64) -> Result<u64, Fault> {
        let head = self.begin(true).await?;
        let kind = super::names::Kind::Moment(mpp_engine::question::Shelf::Greylisted);
        let mut over = Vec::new();
        if self.buckets.contains(&bucket) {
            let rows = self.link.scan_firsts(bucket, 0, usize::MAX >> 1).await?;
            let rows = rows.into_iter().filter(|(_, cell)| kind.is_over(cell, (now_ms, 0)));
            over.extend(rows.map(|(key, _)| key));
            self.link.drop_firsts(bucket, &over).await?;
        }
        let more = -i64::try_from(over.len()).unwrap_or(0);
        let after = After { logged: head.logged, sums: [0; SUMS], firsts: vec![(bucket, more)] };
        self.commit(Some(after)).await?;
        Ok(over.len() as u64)
    }
}
