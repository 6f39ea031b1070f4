//! What is too old or too much goes, the oldest first and in small pieces, so that nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use mpp_hub::id::Id;
use sqlx::Row as _;

use crate::index::{Index, signed, trouble, unsigned};
use crate::record::State;
use crate::{Inner, blocking};

/// How often it is looked at, if nothing is held.
const EVERY: Duration = Duration::from_mins(1);
/// After something was held it is looked at this soon, and not more often.
const SOON: Duration = Duration::from_secs(2);
/// Messages that go in one transaction.
const AT_ONCE: i64 = 100;
/// Between two such pieces, others have their turn.
const PAUSE: Duration = Duration::from_millis(5);

/// What went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Messages that were too old.
    pub too_old: u64,
    /// Messages for which there was no room any more.
    pub too_many: u64,
    /// Recipients who had more than they may, counted for each message of theirs that went.
    pub of_users: u64,
}

/// Looks at it for ever.
pub(crate) async fn keep(inner: &Arc<Inner>) {
    loop {
        if let Err(trouble) = expire(inner).await {
            mpp_hub::say(&format!("quarantine: nothing expires: {trouble}"));
        }
        // That nobody has rung is as good.
        let _ = tokio::time::timeout(EVERY, inner.held.notified()).await;
        tokio::time::sleep(SOON).await;
    }
}

/// Throws away what is too old or too much.
pub(crate) async fn expire(inner: &Arc<Inner>) -> Result<Expired, String> {
    let settings = inner.settings();
    let mut expired = Expired::default();
    let now_ms = inner.clock.now_ms();
    let oldest = signed(Id::at(now_ms.saturating_sub(settings.keep_ms)).number());
    loop {
        let ids = inner
            .index
            .oldest("SELECT id, 0 FROM message WHERE id < ?1 ORDER BY id LIMIT ?2", oldest);
        let ids: Vec<Id> = ids.await?.into_iter().map(|(id, _)| id).collect();
        if ids.is_empty() {
            break;
        }
        remove(inner, &ids).await?;
        expired.too_old += ids.len() as u64;
        tokio::time::sleep(PAUSE).await;
    }
    loop {
        let mut over = inner.index.disk_bytes().await?.saturating_sub(settings.size);
        if over == 0 {
            break;
        }
        let rows = inner
            .index
            .oldest(
                "SELECT id, disk_bytes FROM message WHERE waiting > 0 AND id < ?1 ORDER BY id LIMIT ?2",
                i64::MAX,
            )
            .await?;
        let mut ids = Vec::new();
        for (id, bytes) in rows {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(bytes);
            ids.push(id);
        }
        if ids.is_empty() {
            break;
        }
        remove(inner, &ids).await?;
        expired.too_many += ids.len() as u64;
        tokio::time::sleep(PAUSE).await;
    }
    while let Some((recipient, bytes)) = inner.index.over(settings.user_size).await? {
        let went = shorten(inner, &recipient, bytes.saturating_sub(settings.user_size)).await?;
        if went == 0 {
            break;
        }
        expired.of_users += went;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(expired)
}

/// Files first: a row without one is dropped at the next start, a file without a row would come back.
async fn remove(inner: &Arc<Inner>, ids: &[Id]) -> Result<(), String> {
    let (files, all) = (Arc::clone(inner), ids.to_vec());
    blocking(move || {
        for id in all {
            files.files.remove(id).map_err(|error| error.to_string())?;
        }
        Ok(())
    })
    .await?;
    inner.index.remove(ids).await
}

/// Takes so many bytes away from a recipient, the oldest first; others may still wait for them.
async fn shorten(inner: &Arc<Inner>, recipient: &str, mut over: u64) -> Result<u64, String> {
    let mut went = 0;
    for (id, bytes) in inner.index.oldest_of(recipient).await? {
        if over == 0 {
            break;
        }
        over = over.saturating_sub(bytes);
        let changes = [(recipient.to_owned(), State::Deleted)];
        if inner.index.change(id, &changes, inner.clock.now_ms()).await? {
            inner.remove(id).await;
        }
        went += 1;
    }
    Ok(went)
}

impl Index {
    /// Messages with their bytes, as a query with an id and a count finds them.
    async fn oldest(&self, query: &'static str, before: i64) -> Result<Vec<(Id, u64)>, String> {
        let mut read = self.read.lock().await;
        let rows = sqlx::query(query).bind(before).bind(AT_ONCE);
        pairs(rows.fetch_all(&mut *read).await).map_err(trouble)
    }

    /// The oldest messages that wait for a recipient.
    async fn oldest_of(&self, recipient: &str) -> Result<Vec<(Id, u64)>, String> {
        let mut read = self.read.lock().await;
        let rows = sqlx::query(
            "SELECT m.id, m.disk_bytes FROM held h CROSS JOIN message m ON m.id = h.message \
             WHERE h.recipient = ?1 AND h.state = 0 ORDER BY h.message LIMIT ?2",
        );
        let rows = rows.bind(recipient).bind(AT_ONCE);
        pairs(rows.fetch_all(&mut *read).await).map_err(trouble)
    }

    /// A recipient who has more than so many bytes here.
    async fn over(&self, most: u64) -> Result<Option<(String, u64)>, String> {
        let mut read = self.read.lock().await;
        let row = sqlx::query(
            "SELECT recipient, bytes FROM room WHERE bytes > ?1 AND recipient <> '' LIMIT 1",
        );
        let row = row.bind(signed(most)).fetch_optional(&mut *read).await.map_err(trouble)?;
        let row = row.map(|row| Ok((row.try_get(0)?, unsigned(row.try_get(1)?))));
        row.transpose().map_err(trouble)
    }
}

fn pairs(
    rows: Result<Vec<sqlx::sqlite::SqliteRow>, sqlx::Error>,
) -> Result<Vec<(Id, u64)>, sqlx::Error> {
    let of = |row: &sqlx::sqlite::SqliteRow| {
        Ok((Id::of(unsigned(row.try_get(0)?)), unsigned(row.try_get(1)?)))
    };
    rows?.iter().map(of).collect()
}
