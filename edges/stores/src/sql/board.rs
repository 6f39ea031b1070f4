//! The notice board in a database: a table of its own, on a connection of its own.
//!
//! Whoever posts takes the row `PREFIX_board_head` until its transaction ends, so numbers become visible in
//! their order and no reader misses one. No batch of decisions waits for that row.

use std::collections::{BTreeMap, BTreeSet};

use mpp_config::store::Sql as Settings;
use mpp_hub::board::{Board, Change, Changes, GONE_KEEP_MS, Post, check};
use mpp_hub::directory::Answering;
use sqlx::Row as _;

use super::link::{Fault, Link};
use super::mysql::{self, MySql, filled, marks};
use super::postgres::{self, Postgres};
use crate::held::Held;
use crate::shared::remote::Trouble;

/// A node asks about once a second: of one that says nothing for so many seconds its machine hangs.
const IDLE_S: u32 = 30;
/// A post that others get in the way of is done anew so often.
const TRIES_MAX: u32 = 4;
/// Rows that have run out and are dropped with one post.
const OVER_MAX: usize = 200;

/// The board of a store in a database. It connects when it is used.
pub fn board(settings: &Settings) -> impl Board + use<> {
    OnSql { settings: settings.clone(), link: Held::default() }
}

struct OnSql {
    settings: Settings,
    link: Held<Link>,
}

/// A row as the table has it.
struct Line {
    id: Vec<u8>,
    number: i64,
    until_ms: i64,
    text: Option<Vec<u8>>,
}

/// What is read of a row: its id, its number, its text.
type Read = (Vec<u8>, i64, Option<Vec<u8>>);

impl OnSql {
    async fn with<T>(
        &self,
        work: impl AsyncFnOnce(&mut Link, &str) -> Result<T, Trouble>,
    ) -> Result<T, String> {
        let prefix = &self.settings.prefix;
        let connect = Link::open(&self.settings, IDLE_S);
        self.link.with(connect, async |link| work(link, prefix).await).await
    }
}

impl Board for OnSql {
    fn post<'a>(&'a self, topic: &'a str, posts: &'a [Post]) -> Answering<'a, Result<(), String>> {
        Box::pin(async move {
            check(topic, posts)?;
            self.with(async |link, prefix| {
                let mut tries = 0;
                loop {
                    tries += 1;
                    match post_once(link, prefix, (topic, posts)).await {
                        Err(Fault::Again(_)) if tries < TRIES_MAX => {
                            link.run("ROLLBACK".into()).await?;
                        }
                        done => return Ok(done?),
                    }
                }
            })
            .await
        })
    }

    fn changes<'a>(
        &'a self,
        topic: &'a str,
        since: u64,
        most: usize,
    ) -> Answering<'a, Result<Changes, String>> {
        Box::pin(self.with(async move |link, prefix| {
            let epoch = link.numbers(format!("SELECT epoch FROM {prefix}_meta WHERE id = 1"));
            let epoch = epoch.await?.into_iter().flatten().next();
            let epoch = epoch.ok_or_else(|| Trouble("the shared store is not made yet".into()))?;
            let since_number = i64::try_from(since).unwrap_or(i64::MAX);
            let mut rows = link.board_behind(topic, since_number, most.saturating_add(1)).await?;
            let is_more = rows.len() > most;
            rows.truncate(most);
            let next = rows.last().and_then(|(_, number, _)| u64::try_from(*number).ok());
            let change =
                |(id, _, text): Read| Some(Change { id: String::from_utf8(id).ok()?, text });
            Ok(Changes {
                changes: rows.into_iter().filter_map(change).collect(),
                next: next.unwrap_or(since),
                is_more,
                epoch: epoch.cast_unsigned(),
            })
        }))
    }
}

async fn post_once(
    link: &mut Link,
    prefix: &str,
    (topic, posts): (&str, &[Post]),
) -> Result<(), Fault> {
    let now = now_us(link.is_mysql());
    let text =
        format!("BEGIN; SELECT last, {now} FROM {prefix}_board_head WHERE id = 1 FOR UPDATE");
    let rows = link.numbers(text).await?;
    let Some([last, now_us]) = rows.first().map(Vec::as_slice) else {
        return Err(Fault::Broken(Trouble(format!("the table {prefix}_board_head is empty"))));
    };
    let (mut number, now_ms) = (*last.max(now_us), now_us / 1000);
    let ids: BTreeSet<&[u8]> = posts.iter().map(|post| post.id.as_bytes()).collect();
    let ids: Vec<Vec<u8>> = ids.into_iter().map(<[u8]>::to_vec).collect();
    let stands = link.board_rows(topic, &ids).await?.into_iter();
    let mut stands: BTreeMap<Vec<u8>, (i64, Option<Vec<u8>>)> =
        stands.map(|(id, number, text)| (id, (number, text))).collect();
    let mut lines = BTreeMap::new();
    for Post { id, text, keep_ms } in posts {
        let id = id.clone().into_bytes();
        let before = stands.get(&id);
        let same = before.filter(|(_, before)| text.is_some() && before == text);
        let of_it = same.map_or_else(
            || {
                number += 1;
                number
            },
            |(number, _)| *number,
        );
        let keep_ms = if text.is_some() { *keep_ms } else { GONE_KEEP_MS };
        let until_ms = now_ms.saturating_add(i64::try_from(keep_ms).unwrap_or(i64::MAX));
        stands.insert(id.clone(), (of_it, text.clone()));
        lines.insert(id.clone(), Line { id, number: of_it, until_ms, text: text.clone() });
    }
    let lines: Vec<Line> = lines.into_values().collect();
    if !lines.is_empty() {
        link.put_board(topic, &lines).await?;
    }
    let over = if link.is_mysql() {
        format!(
            "DELETE FROM {prefix}_board WHERE until_ms < {now_ms} ORDER BY until_ms LIMIT {OVER_MAX}"
        )
    } else {
        format!(
            "DELETE FROM {prefix}_board WHERE (topic, id) IN (SELECT topic, id FROM {prefix}_board \
             WHERE until_ms < {now_ms} ORDER BY until_ms LIMIT {OVER_MAX})"
        )
    };
    let note = format!("UPDATE {prefix}_board_head SET last = {number} WHERE id = 1; COMMIT");
    link.run(format!("{over}; {note}")).await?;
    Ok(())
}

/// The server's time in microseconds.
fn now_us(is_mysql: bool) -> &'static str {
    if is_mysql {
        "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)"
    } else {
        "(extract(epoch from clock_timestamp()) * 1000000)::int8"
    }
}

impl Link {
    /// Rows of a topic by their ids.
    async fn board_rows(&mut self, topic: &str, ids: &[Vec<u8>]) -> Result<Vec<Read>, Fault> {
        match self {
            _ if ids.is_empty() => Ok(Vec::new()),
            Self::MySql(it) => it.board_rows(topic, ids).await,
            Self::Postgres(it) => it.board_rows(topic, ids).await,
        }
    }

    /// Rows of a topic behind a number, in the order of their numbers.
    async fn board_behind(
        &mut self,
        topic: &str,
        since: i64,
        most: usize,
    ) -> Result<Vec<Read>, Fault> {
        match self {
            Self::MySql(it) => it.board_behind(topic, since, most).await,
            Self::Postgres(it) => it.board_behind(topic, since, most).await,
        }
    }

    async fn put_board(&mut self, topic: &str, lines: &[Line]) -> Result<(), Fault> {
        match self {
            Self::MySql(it) => it.put_board(topic, lines).await,
            Self::Postgres(it) => it.put_board(topic, lines).await,
        }
    }
}

/// What is read of rows, of whichever database they are.
macro_rules! read {
    ($rows:expr) => {{
        let rows = $rows;
        let read = rows.iter().map(|row| {
            let (id, number) = (row.try_get_unchecked(0)?, row.try_get_unchecked(1)?);
            Ok((id, number, row.try_get_unchecked(2)?))
        });
        read.collect::<Result<Vec<Read>, sqlx::Error>>().map_err(Fault::from)
    }};
}

impl MySql {
    async fn board_rows(&mut self, topic: &str, ids: &[Vec<u8>]) -> Result<Vec<Read>, Fault> {
        let list = marks("?", filled(ids).count());
        let text = format!(
            "SELECT id, seq, body FROM {}_board WHERE topic = ? AND id IN ({list})",
            self.prefix
        );
        let asked = mysql::asked(text).bind(topic.as_bytes().to_vec());
        let asked = filled(ids).fold(asked, |asked, id| asked.bind(id.clone()));
        read!(asked.fetch_all(&mut self.link).await?)
    }

    async fn board_behind(
        &mut self,
        topic: &str,
        since: i64,
        most: usize,
    ) -> Result<Vec<Read>, Fault> {
        let text = format!(
            "SELECT id, seq, body FROM {}_board WHERE topic = ? AND seq > ? \
             AND until_ms > {} DIV 1000 ORDER BY seq LIMIT {most}",
            self.prefix,
            now_us(true)
        );
        let asked = mysql::asked(text).bind(topic.as_bytes().to_vec()).bind(since);
        read!(asked.fetch_all(&mut self.link).await?)
    }

    async fn put_board(&mut self, topic: &str, lines: &[Line]) -> Result<(), Fault> {
        let list = marks("(?,?,?,?,?)", filled(lines).count());
        let text = format!(
            "INSERT INTO {}_board (topic, id, seq, until_ms, body) VALUES {list} \
             ON DUPLICATE KEY UPDATE seq = VALUES(seq), until_ms = VALUES(until_ms), \
             body = VALUES(body)",
            self.prefix
        );
        let asked = filled(lines).fold(mysql::asked(text), |asked, line| {
            let asked = asked.bind(topic.as_bytes().to_vec()).bind(line.id.clone());
            asked.bind(line.number).bind(line.until_ms).bind(line.text.clone())
        });
        asked.execute(&mut self.link).await?;
        Ok(())
    }
}

impl Postgres {
    async fn board_rows(&mut self, topic: &str, ids: &[Vec<u8>]) -> Result<Vec<Read>, Fault> {
        let text = format!(
            "SELECT id, seq, body FROM {}_board WHERE topic = $1 AND id = ANY($2)",
            self.prefix
        );
        let asked = postgres::asked(text).bind(topic.as_bytes().to_vec()).bind(ids.to_vec());
        read!(asked.fetch_all(&mut self.link).await?)
    }

    async fn board_behind(
        &mut self,
        topic: &str,
        since: i64,
        most: usize,
    ) -> Result<Vec<Read>, Fault> {
        let text = format!(
            "SELECT id, seq, body FROM {}_board WHERE topic = $1 AND seq > $2 \
             AND until_ms > {} / 1000 ORDER BY seq LIMIT {most}",
            self.prefix,
            now_us(false)
        );
        let asked = postgres::asked(text).bind(topic.as_bytes().to_vec()).bind(since);
        read!(asked.fetch_all(&mut self.link).await?)
    }

    async fn put_board(&mut self, topic: &str, lines: &[Line]) -> Result<(), Fault> {
        let text = format!(
            "INSERT INTO {}_board (topic, id, seq, until_ms, body) SELECT $1, * FROM \
             unnest($2::bytea[], $3::int8[], $4::int8[], $5::bytea[]) ON CONFLICT (topic, id) \
             DO UPDATE SET seq = excluded.seq, until_ms = excluded.until_ms, body = excluded.body",
            self.prefix
        );
        let ids: Vec<Vec<u8>> = lines.iter().map(|line| line.id.clone()).collect();
        let numbers: Vec<i64> = lines.iter().map(|line| line.number).collect();
        let untils: Vec<i64> = lines.iter().map(|line| line.until_ms).collect();
        let texts: Vec<Option<Vec<u8>>> = lines.iter().map(|line| line.text.clone()).collect();
        let asked = postgres::asked(text).bind(topic.as_bytes().to_vec());
        let asked = asked.bind(ids).bind(numbers).bind(untils).bind(texts);
        asked.execute(&mut self.link).await?;
        Ok(())
    }
}
