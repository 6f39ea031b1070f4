//! The index: what is held, for whom, and what has become of it.
//!
//! One connection writes, another one reads. Ids grow with time, so they are the order of all lists, and
//! rows of one recipient lie side by side.

use std::path::Path;
use std::{fs, io};

use mpp_hub::id::Id;
use mpp_hub::quarantine::HeldFor;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tokio::sync::Mutex;

use crate::clean;
use crate::record::{Message, State, bounded, domain};
use crate::room::Rooms;

/// Its file, and those that SQLite puts beside it.
const FILES: [&str; 3] = ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"];

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    sender TEXT NOT NULL,
    sender_domain TEXT NOT NULL,
    subject TEXT NOT NULL,
    reason TEXT NOT NULL,
    policy TEXT NOT NULL,
    points INTEGER NOT NULL,
    tests TEXT NOT NULL,
    client TEXT NOT NULL,
    instance TEXT NOT NULL,
    route TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    disk_bytes INTEGER NOT NULL,
    waiting INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS message_waiting ON message (id) WHERE waiting > 0;
CREATE INDEX IF NOT EXISTS message_sender ON message (sender, id);
CREATE INDEX IF NOT EXISTS message_sender_domain ON message (sender_domain, id);
CREATE INDEX IF NOT EXISTS message_reason ON message (reason, id);
CREATE TABLE IF NOT EXISTS held (
    message INTEGER NOT NULL,
    recipient TEXT NOT NULL,
    domain TEXT NOT NULL,
    state INTEGER NOT NULL,
    changed_ms INTEGER NOT NULL,
    user TEXT NOT NULL,
    policy TEXT NOT NULL,
    PRIMARY KEY (message, recipient)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS held_recipient ON held (recipient, message, state);
CREATE INDEX IF NOT EXISTS held_user ON held (user, message, state);
CREATE INDEX IF NOT EXISTS held_policy ON held (policy, message);
CREATE INDEX IF NOT EXISTS held_waiting ON held (policy, message) WHERE state = 0;
CREATE INDEX IF NOT EXISTS held_domain ON held (domain, message, state);
CREATE INDEX IF NOT EXISTS held_releasing ON held (message) WHERE state = 1;
CREATE TABLE IF NOT EXISTS room (
    policy TEXT NOT NULL, user TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (policy, user)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS room_bytes ON room (policy, bytes);
CREATE TABLE IF NOT EXISTS digest (
    user TEXT PRIMARY KEY, message INTEGER NOT NULL, refused INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS run (
    policy TEXT PRIMARY KEY, slot INTEGER NOT NULL, since INTEGER NOT NULL,
    until INTEGER NOT NULL, is_done INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(
    subject, content='', contentless_delete=1,
    tokenize='unicode61 remove_diacritics 0'
);
CREATE TABLE IF NOT EXISTS untold (
    message INTEGER PRIMARY KEY, turn INTEGER NOT NULL, told_ms INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS untold_told ON untold (told_ms, message);
CREATE TABLE IF NOT EXISTS board (
    topic TEXT PRIMARY KEY, next INTEGER NOT NULL, epoch INTEGER NOT NULL, read_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS errand (
    id TEXT PRIMARY KEY, at_ms INTEGER NOT NULL, text TEXT NOT NULL, is_begun INTEGER NOT NULL,
    answer TEXT, is_told INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS used (
    mark TEXT PRIMARY KEY, at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS used_at ON used (at_ms);
PRAGMA user_version = 2;
";

/// The layout above. An index of another one is made anew from the messages.
const LAYOUT: i64 = 2;

/// How the trouble with an index begins that is no sound one any more.
pub(crate) const DAMAGED: &str = "the index is damaged";

/// The index of a folder.
pub(crate) struct Index {
    pub(crate) write: Mutex<SqliteConnection>,
    pub(crate) read: Mutex<SqliteConnection>,
}

/// A text for people of what the database has against something.
#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
pub(crate) fn trouble(error: sqlx::Error) -> String {
    let what = if is_damaged(&error) { DAMAGED } else { "index" };
    format!("{what}: {error}")
}

/// A number as SQLite has them.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl Index {
    /// Opens the index of a folder, and makes it if it is not there.
    ///
    /// # Errors
    /// It cannot be used.
    pub(crate) async fn open(folder: &Path) -> Result<Self, String> {
        let options = SqliteConnectOptions::new()
            .filename(folder.join(FILES[0]))
            .synchronous(SqliteSynchronous::Full)
            .pragma("cache_size", "-16000");
        Self::open_with(options).await
    }

    /// Opens what this node knows of another one's: it can be read again from where it came.
    ///
    /// # Errors
    /// It cannot be used.
    pub(crate) async fn open_other(file: &Path) -> Result<Self, String> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .synchronous(SqliteSynchronous::Normal)
            .pragma("cache_size", "-2000");
        Self::open_with(options).await
    }

    async fn open_with(options: SqliteConnectOptions) -> Result<Self, String> {
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .pragma("temp_store", "memory");
        let mut write = options.clone().connect().await.map_err(trouble)?;
        let layout = sqlx::query("PRAGMA user_version").fetch_one(&mut write).await;
        let layout: i64 = layout.and_then(|row| row.try_get(0)).map_err(trouble)?;
        if layout != 0 && layout != LAYOUT {
            return Err(format!("{DAMAGED}: its layout is of another version"));
        }
        sqlx::raw_sql(SCHEMA).execute(&mut write).await.map_err(trouble)?;
        let read = options.pragma("query_only", "on").connect().await.map_err(trouble)?;
        Ok(Self { write: Mutex::new(write), read: Mutex::new(read) })
    }

    /// Puts a damaged index where it is in nobody's way.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub(crate) fn set_aside(folder: &Path) -> io::Result<()> {
        for name in FILES {
            match fs::rename(folder.join(name), folder.join(format!("{name}.damaged"))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds a message that is held.
    ///
    /// # Errors
    /// The disk is full, or fails; nothing of it is there then.
    pub(crate) async fn insert(&self, message: &Message) -> Result<(), String> {
        let mut write = self.write.lock().await;
        insert(&mut write, message).await.map_err(trouble)
    }

    /// Forgets messages altogether.
    ///
    /// # Errors
    /// The disk is full, or fails; they are all there then.
    pub(crate) async fn remove(&self, ids: &[Id]) -> Result<(), String> {
        let mut write = self.write.lock().await;
        remove(&mut write, ids).await.map_err(trouble)
    }

    /// Numbers for status.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) async fn numbers(&self) -> Result<Vec<(&'static str, u64)>, String> {
        let mut read = self.read.lock().await;
        let row = sqlx::query(
            "SELECT (SELECT count(*) FROM message WHERE waiting > 0), \
             coalesce((SELECT bytes FROM room WHERE policy = '' AND user = ''), 0), \
             (SELECT count(*) FROM held WHERE state = 1)",
        );
        let row = row.fetch_one(&mut *read).await.map_err(trouble)?;
        let of = |at: usize| row.try_get::<i64, _>(at).map(unsigned).map_err(trouble);
        Ok(vec![("messages", of(0)?), ("disk_bytes", of(1)?), ("releasing", of(2)?)])
    }

    /// Changes what has become of a message for some of its recipients; returns whether nobody waits
    /// for it any more.
    ///
    /// # Errors
    /// The disk is full, or fails; nothing has changed then.
    pub(crate) async fn change(
        &self,
        id: Id,
        changes: &[(String, State)],
        now_ms: u64,
    ) -> Result<bool, String> {
        let changes: Vec<Change<'_>> =
            changes.iter().map(|(recipient, state)| (id, recipient.as_str(), *state)).collect();
        Ok(!self.change_all(&changes, now_ms).await?.is_empty())
    }

    /// The same of many messages; returns those for which nobody waits any more.
    ///
    /// # Errors
    /// The disk is full, or fails; nothing has changed then.
    pub(crate) async fn change_all(
        &self,
        changes: &[Change<'_>],
        now_ms: u64,
    ) -> Result<Vec<Id>, String> {
        let mut write = self.write.lock().await;
        change(&mut write, (changes, now_ms)).await.map_err(trouble)
    }
}

/// What becomes of a message for one of its recipients.
pub(crate) type Change<'a> = (Id, &'a str, State);

/// Whether it is no database any more, or not a sound one.
fn is_damaged(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let code = code.and_then(|code| code.parse::<u32>().ok()).unwrap_or(0);
    // SQLITE_CORRUPT, SQLITE_NOTADB; the upper bits say more.
    matches!(code & 0xff, 11 | 26)
}

async fn insert(write: &mut SqliteConnection, message: &Message) -> Result<(), sqlx::Error> {
    let mut all = write.begin().await?;
    insert_into(&mut all, message).await?;
    all.commit().await
}

/// Inserts within a transaction.
pub(crate) async fn insert_into(
    all: &mut SqliteConnection,
    message: &Message,
) -> Result<(), sqlx::Error> {
    let Message { id, holding, subject, bytes, disk_bytes } = message;
    let id = signed(id.number());
    let mut held: Vec<(String, &HeldFor)> =
        holding.recipients.iter().map(|it| (it.address.to_lowercase(), it)).collect();
    held.sort_by(|one, other| one.0.cmp(&other.0));
    held.dedup_by(|one, other| one.0 == other.0);
    let policy = holding.recipients.first().map_or("", |it| &it.policy);
    let row = sqlx::query(
        "INSERT INTO message VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)",
    );
    row.bind(id)
        .bind(signed(holding.at_ms))
        .bind(bounded(&holding.sender.to_lowercase()))
        .bind(bounded(&domain(&holding.sender)))
        .bind(subject)
        .bind(bounded(&holding.reason))
        .bind(bounded(policy))
        .bind(holding.points)
        .bind(bounded(&holding.tests))
        .bind(holding.client.map(|client| client.to_string()).unwrap_or_default())
        .bind(bounded(&holding.instance))
        .bind(&holding.route)
        .bind(signed(*bytes))
        .bind(signed(*disk_bytes))
        .bind(signed(held.len() as u64))
        .execute(&mut *all)
        .await?;
    let mut rooms = Rooms::default();
    for (recipient, of) in &held {
        let row = sqlx::query("INSERT INTO held VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6)");
        row.bind(id)
            .bind(recipient)
            .bind(domain(recipient))
            .bind(signed(holding.at_ms))
            .bind(&of.user)
            .bind(&of.policy)
            .execute(&mut *all)
            .await?;
        rooms.add(&of.policy, &of.user);
    }
    rooms.change(all, signed(*disk_bytes)).await?;
    let words: Vec<String> = clean::words(subject).collect();
    let row = sqlx::query("INSERT INTO words (rowid, subject) VALUES (?1, ?2)");
    row.bind(id).bind(words.join(" ")).execute(&mut *all).await.map(drop)
}

pub(crate) async fn remove(write: &mut SqliteConnection, ids: &[Id]) -> Result<(), sqlx::Error> {
    let mut all = write.begin().await?;
    for id in ids {
        let id = signed(id.number());
        let row = sqlx::query("SELECT disk_bytes, waiting FROM message WHERE id = ?1");
        let Some(row) = row.bind(id).fetch_optional(&mut *all).await? else { continue };
        let (bytes, waiting): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        if waiting > 0 {
            let rows =
                sqlx::query("SELECT policy, user FROM held WHERE message = ?1 AND state < 2");
            let mut rooms = Rooms::default();
            for row in rows.bind(id).fetch_all(&mut *all).await? {
                rooms.add(row.try_get(0)?, row.try_get(1)?);
            }
            rooms.change(&mut all, -bytes).await?;
        }
        for statement in [
            "DELETE FROM held WHERE message = ?1",
            "DELETE FROM words WHERE rowid = ?1",
            "DELETE FROM message WHERE id = ?1",
        ] {
            sqlx::query(statement).bind(id).execute(&mut *all).await?;
        }
    }
    all.commit().await
}

async fn change(
    write: &mut SqliteConnection,
    (changes, now_ms): (&[Change<'_>], u64),
) -> Result<Vec<Id>, sqlx::Error> {
    let mut all = write.begin().await?;
    let mut over = Vec::new();
    for changes in changes.chunk_by(|one, other| one.0 == other.0) {
        let Some((id, ..)) = changes.first() else { continue };
        if change_one(&mut all, (*id, changes), now_ms).await? {
            over.push(*id);
        }
    }
    all.commit().await?;
    Ok(over)
}

/// Whether nobody waits for it any more.
pub(crate) async fn change_one(
    all: &mut SqliteConnection,
    (id, changes): (Id, &[Change<'_>]),
    now_ms: u64,
) -> Result<bool, sqlx::Error> {
    let id = signed(id.number());
    let row = sqlx::query("SELECT disk_bytes, waiting FROM message WHERE id = ?1");
    let row = row.bind(id).fetch_one(&mut *all).await?;
    let (bytes, mut waiting): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let mut rooms = Rooms::default();
    for (_, recipient, state) in changes {
        // From a state in which it waits only; nothing comes back.
        let row = sqlx::query(
            "UPDATE held SET state = ?3, changed_ms = ?4 \
             WHERE message = ?1 AND recipient = ?2 AND state < 2 RETURNING policy, user",
        );
        let row = row.bind(id).bind(recipient).bind(state.number()).bind(signed(now_ms));
        let changed = row.fetch_optional(&mut *all).await?;
        if let Some(row) = changed.filter(|_| *state > State::Releasing) {
            waiting -= 1;
            rooms.add(row.try_get(0)?, row.try_get(1)?);
        }
    }
    // What others wait for takes the room that it took.
    for row in
        sqlx::query("SELECT DISTINCT policy, user FROM held WHERE message = ?1 AND state < 2")
            .bind(id)
            .fetch_all(&mut *all)
            .await?
    {
        rooms.spare(row.try_get(0)?, row.try_get(1)?);
    }
    let is_over = waiting <= 0;
    let row = sqlx::query("UPDATE message SET waiting = ?2 WHERE id = ?1 AND waiting > 0");
    let was_waiting = row.bind(id).bind(waiting).execute(&mut *all).await?.rows_affected() > 0;
    if was_waiting {
        rooms.change(all, -bytes).await?;
    }
    Ok(is_over)
}
