//! What is too old or too much goes, the oldest first and in small pieces, so that nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use mpp_config::quarantine::Limits;
use mpp_hub::id::Id;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Row as _};
use tokio::time::Instant;

use crate::index::{Change, Index, signed, trouble, unsigned};
use crate::record::State;
use crate::room::ALL;
use crate::{Inner, blocking};

/// How often all of it is looked at.
const EVERY: Duration = Duration::from_mins(1);
/// After something was held it is looked at this soon whether there is too much, and not more often.
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

/// A message that is held for somebody.
struct Held {
    id: Id,
    recipient: String,
    state: State,
    bytes: u64,
}

/// Looks at it for ever: at whose mail was held, soon; at everything, once in a while.
pub(crate) async fn keep(inner: &Arc<Inner>) {
    let mut last: Option<Instant> = None;
    loop {
        let touched = inner.take_touched();
        let done = if last.is_none_or(|last| last.elapsed() >= EVERY) {
            last = Some(Instant::now());
            expire(inner).await
        } else {
            shorten(inner, touched.iter().map(String::as_str).chain([ALL])).await
        };
        if let Err(trouble) = done {
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
    let before = |keep_ms: u64| signed(Id::at(now_ms.saturating_sub(keep_ms)).number());
    loop {
        let ids = inner.index.oldest(before(settings.limits.keep_ms)).await?;
        if ids.is_empty() {
            break;
        }
        let ids: Vec<Id> = ids.into_iter().map(|(id, _)| id).collect();
        remove(inner, &ids).await?;
        expired.too_old += ids.len() as u64;
        tokio::time::sleep(PAUSE).await;
    }
    let mut policy = String::new();
    while let Some(next) = inner.index.policy_after(&policy).await? {
        policy = next;
        let keep_ms = settings.terms(&policy).limits.keep_ms;
        if keep_ms < settings.limits.keep_ms {
            expired.too_old += too_old(inner, &policy, before(keep_ms)).await?;
        }
        expired.add(shorten(inner, [&*policy]).await?);
    }
    expired.add(shorten(inner, [ALL]).await?);
    Ok(expired)
}

impl Expired {
    fn add(&mut self, other: Self) {
        let Self { too_old, too_many, of_users } = other;
        self.too_old += too_old;
        self.too_many += too_many;
        self.of_users += of_users;
    }
}

/// Throws away what a policy has held for too long, and forgets it: first for those who wait, then the
/// file, then the row. Whatever a crash leaves of that is gone on with.
async fn too_old(inner: &Arc<Inner>, policy: &str, before: i64) -> Result<u64, String> {
    let mut count = 0;
    loop {
        let held = inner.index.older(policy, before).await?;
        if held.is_empty() {
            return Ok(count);
        }
        let waiting = held.iter().filter(|it| it.state <= State::Releasing);
        delete(inner, waiting).await?;
        inner.index.forget(&held).await?;
        count += held.len() as u64;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Throws away what policies, or all together, hold too much of.
async fn shorten<'p>(
    inner: &Arc<Inner>,
    policies: impl IntoIterator<Item = &'p str>,
) -> Result<Expired, String> {
    let settings = inner.settings();
    let mut expired = Expired::default();
    for policy in policies {
        let all = settings.limits;
        let mut limits = if policy == ALL { all } else { settings.terms(policy).limits };
        if policy != ALL {
            // What holds for all is looked at once.
            let own = |limit: u64, all: u64| if limit < all { limit } else { u64::MAX };
            limits.size = own(limits.size, all.size);
            limits.user_size = own(limits.user_size, all.user_size);
        }
        expired.add(shorten_one(inner, policy, limits).await?);
    }
    Ok(expired)
}

async fn shorten_one(inner: &Arc<Inner>, policy: &str, limits: Limits) -> Result<Expired, String> {
    let mut expired = Expired::default();
    loop {
        let went = shorten_all(inner, policy, limits.size).await?;
        if went == 0 {
            break;
        }
        expired.too_many += went;
        tokio::time::sleep(PAUSE).await;
    }
    loop {
        let went = shorten_user(inner, policy, limits.user_size).await?;
        if went == 0 {
            return Ok(expired);
        }
        expired.of_users += went;
        tokio::time::sleep(PAUSE).await;
    }
}

/// One piece of what a policy holds too much of; how many went.
async fn shorten_all(inner: &Arc<Inner>, policy: &str, size: u64) -> Result<u64, String> {
    if size == u64::MAX {
        return Ok(0);
    }
    match inner.index.bytes_of(policy).await?.saturating_sub(size) {
        0 => Ok(0),
        over if policy == ALL => drop_oldest(inner, over).await,
        over => {
            let held = inner.index.oldest_of(policy, None).await?;
            delete(inner, enough(&held, over)).await
        }
    }
}

/// The same of a user who has too much by a policy.
async fn shorten_user(inner: &Arc<Inner>, policy: &str, size: u64) -> Result<u64, String> {
    if size == u64::MAX {
        return Ok(0);
    }
    let Some((user, bytes)) = inner.index.over(policy, size).await? else { return Ok(0) };
    let held = inner.index.oldest_of(policy, Some(&user)).await?;
    delete(inner, enough(&held, bytes.saturating_sub(size))).await
}

/// So many of these as take so many bytes, each message once and as a whole.
fn enough(held: &[Held], mut over: u64) -> impl Iterator<Item = &Held> {
    let mut last: Option<Id> = None;
    held.iter().take_while(move |it| {
        let is_new = last.replace(it.id) != Some(it.id);
        let is_wanted = !is_new || over > 0;
        if is_new {
            over = over.saturating_sub(it.bytes);
        }
        is_wanted
    })
}

/// Drops the oldest of all, so many bytes of them and a hundred messages at the most.
async fn drop_oldest(inner: &Arc<Inner>, mut over: u64) -> Result<u64, String> {
    let mut ids = Vec::new();
    for (id, bytes) in inner.index.oldest_waiting().await? {
        if over == 0 {
            break;
        }
        over = over.saturating_sub(bytes);
        ids.push(id);
    }
    remove(inner, &ids).await?;
    Ok(ids.len() as u64)
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

/// Takes messages away from those they wait for; others may still wait for them. Rows first: a file
/// that nobody waits for is removed at the next start.
async fn delete<'h>(
    inner: &Arc<Inner>,
    held: impl Iterator<Item = &'h Held>,
) -> Result<u64, String> {
    let deleted = |it: &'h Held| -> Change<'h> { (it.id, &it.recipient, State::Deleted) };
    let changes: Vec<Change<'_>> = held.map(deleted).collect();
    if changes.is_empty() {
        return Ok(0);
    }
    for id in inner.index.change_all(&changes, inner.clock.now_ms()).await? {
        inner.remove(id).await;
    }
    Ok(changes.len() as u64)
}

impl Index {
    /// The oldest messages that came before one of this number, with their bytes.
    async fn oldest(&self, before: i64) -> Result<Vec<(Id, u64)>, String> {
        let mut read = self.read.lock().await;
        let rows = sqlx::query("SELECT id, 0 FROM message WHERE id < ?1 ORDER BY id LIMIT ?2");
        let rows = rows.bind(before).bind(AT_ONCE);
        pairs(rows.fetch_all(&mut *read).await).map_err(trouble)
    }

    /// The oldest that anybody waits for.
    async fn oldest_waiting(&self) -> Result<Vec<(Id, u64)>, String> {
        let mut read = self.read.lock().await;
        let rows = sqlx::query(
            "SELECT id, disk_bytes FROM message WHERE waiting > 0 ORDER BY id LIMIT ?1",
        );
        let rows = rows.bind(AT_ONCE);
        pairs(rows.fetch_all(&mut *read).await).map_err(trouble)
    }

    /// The oldest of a policy that came before one of this number, whatever has become of them.
    async fn older(&self, policy: &str, before: i64) -> Result<Vec<Held>, String> {
        let mut read = self.read.lock().await;
        let rows = sqlx::query(
            "SELECT message, recipient, state, 0 FROM held \
             WHERE policy = ?1 AND message < ?2 ORDER BY message LIMIT ?3",
        );
        let rows = rows.bind(policy).bind(before).bind(AT_ONCE);
        held(rows.fetch_all(&mut *read).await).map_err(trouble)
    }

    /// The oldest that wait for a user, by one policy or by any; without a user, for anybody.
    async fn oldest_of(&self, policy: &str, user: Option<&str>) -> Result<Vec<Held>, String> {
        let mut read = self.read.lock().await;
        let rows = match user {
            Some(user) => sqlx::query(
                "SELECT h.message, h.recipient, h.state, m.disk_bytes \
                 FROM held h CROSS JOIN message m ON m.id = h.message \
                 WHERE h.user = ?1 AND h.state = 0 AND (h.policy = ?2 OR ?2 = '') \
                 ORDER BY h.message LIMIT ?3",
            )
            .bind(user),
            None => sqlx::query(
                "SELECT h.message, h.recipient, h.state, m.disk_bytes \
                 FROM held h INDEXED BY held_waiting CROSS JOIN message m ON m.id = h.message \
                 WHERE h.policy = ?1 AND h.state = 0 AND h.policy = ?2 ORDER BY h.message LIMIT ?3",
            )
            .bind(policy),
        };
        let rows = rows.bind(policy).bind(AT_ONCE);
        held(rows.fetch_all(&mut *read).await).map_err(trouble)
    }

    /// Forgets these, for these recipients, and a message that was held for no others altogether.
    async fn forget(&self, all: &[Held]) -> Result<(), String> {
        let mut write = self.write.lock().await;
        forget(&mut write, all).await.map_err(trouble)
    }
}

async fn forget(write: &mut SqliteConnection, held: &[Held]) -> Result<(), sqlx::Error> {
    let mut all = write.begin().await?;
    for it in held {
        let id = signed(it.id.number());
        let row = sqlx::query("DELETE FROM held WHERE message = ?1 AND recipient = ?2");
        row.bind(id).bind(&it.recipient).execute(&mut *all).await?;
        let row = sqlx::query(
            "DELETE FROM message WHERE id = ?1 AND NOT EXISTS \
             (SELECT 1 FROM held WHERE message = ?1)",
        );
        if row.bind(id).execute(&mut *all).await?.rows_affected() > 0 {
            sqlx::query("DELETE FROM words WHERE rowid = ?1").bind(id).execute(&mut *all).await?;
        }
    }
    all.commit().await
}

fn held(rows: Result<Vec<SqliteRow>, sqlx::Error>) -> Result<Vec<Held>, sqlx::Error> {
    let of = |row: &SqliteRow| {
        Ok(Held {
            id: Id::of(unsigned(row.try_get(0)?)),
            recipient: row.try_get(1)?,
            state: State::of(row.try_get(2)?),
            bytes: unsigned(row.try_get(3)?),
        })
    };
    rows?.iter().map(of).collect()
}

fn pairs(rows: Result<Vec<SqliteRow>, sqlx::Error>) -> Result<Vec<(Id, u64)>, sqlx::Error> {
    let of = |row: &SqliteRow| Ok((Id::of(unsigned(row.try_get(0)?)), unsigned(row.try_get(1)?)));
    rows?.iter().map(of).collect()
}
