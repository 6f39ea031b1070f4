//! A notice board that nodes share: rows that one node posts and all others read.
//!
//! It is for what each node keeps a copy of and looks at by itself, such as the list of what is held. No
//! decision waits for it. Whoever reads goes by numbers that grow with each change, so that a node that
//! was away goes on where it was.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::directory::Answering;

/// Rows of one post, and of one answer, at the most.
pub const ROWS_MAX: usize = 500;
/// Bytes of the text of a row.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a topic and of an id.
pub const NAME_BYTES_MAX: usize = 100;
/// That a row was removed can be read for so long. Whoever has not read since must begin anew, with
/// nothing.
pub const GONE_KEEP_MS: u64 = 7 * 24 * 3_600_000;

/// What is to become of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Post {
    /// Which row of its topic.
    pub id: String,
    /// What it says from now on; nothing: it is removed.
    pub text: Option<Vec<u8>>,
    /// How long it stands, in milliseconds, if nobody removes it.
    pub keep_ms: u64,
}

/// What has become of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Which row.
    pub id: String,
    /// What it says; nothing: it was removed.
    pub text: Option<Vec<u8>>,
}

/// What has changed in a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Each row once, as it is now; those that changed first come first.
    pub changes: Vec<Change>,
    /// Where to go on reading.
    pub next: u64,
    /// There is more already.
    pub is_more: bool,
    /// Drawn when the board was made. Another one is another board, or an empty one: everything is to
    /// be posted and read anew.
    pub epoch: u64,
}

/// Where nodes post what the others are to know.
pub trait Board: Send + Sync {
    /// Changes rows of a topic, all of them in one step, at most [`ROWS_MAX`]. A row that says already
    /// what it is to say is not changed, it only stands longer.
    ///
    /// # Errors
    /// The server does not take it now. It may have done it all the same.
    fn post<'a>(&'a self, topic: &'a str, posts: &'a [Post]) -> Answering<'a, Result<(), String>>;

    /// What has changed in a topic since a number that was said before; since 0 everything that stands.
    /// No change is ever missed: none becomes visible with a smaller number than one that was read. The
    /// numbers are microseconds of the server's clock, or more if there were more changes, so whoever
    /// goes back by some reads the last ones again.
    ///
    /// # Errors
    /// The server does not answer now.
    fn changes<'a>(
        &'a self,
        topic: &'a str,
        since: u64,
        most: usize,
    ) -> Answering<'a, Result<Changes, String>>;
}

/// Whether a post can be taken.
///
/// # Errors
/// What is too long, for people.
pub fn check(topic: &str, posts: &[Post]) -> Result<(), String> {
    let is_name = |name: &str| (1..=NAME_BYTES_MAX).contains(&name.len());
    if posts.len() > ROWS_MAX {
        return Err(format!("{} rows at once are too many", posts.len()));
    }
    if !is_name(topic) || posts.iter().any(|post| !is_name(&post.id)) {
        return Err("a name is empty or too long for the board".into());
    }
    let texts = posts.iter().filter_map(|post| post.text.as_ref());
    match texts.map(Vec::len).max() {
        Some(bytes) if bytes > TEXT_BYTES_MAX => {
            Err(format!("a row of {bytes} bytes is too long for the board"))
        }
        _ => Ok(()),
    }
}

/// A board in memory: the model that servers are tested against.
#[derive(Debug, Default)]
pub struct MemoryBoard {
    state: Mutex<Memory>,
}

/// Rows of a topic: numbers and texts by ids, and ids by numbers.
#[derive(Debug, Default)]
struct Topic {
    rows: BTreeMap<String, (u64, Option<Vec<u8>>)>,
    ids: BTreeMap<u64, String>,
}

#[derive(Debug, Default)]
struct Memory {
    topics: BTreeMap<String, Topic>,
    last: u64,
    epoch: u64,
    is_away: bool,
}

impl MemoryBoard {
    /// Lets it answer no more, or again.
    pub fn set_away(&self, is_away: bool) {
        self.lock().is_away = is_away;
    }

    /// Empties it, as a server that has lost everything.
    pub fn lose_all(&self) {
        let mut memory = self.lock();
        memory.topics.clear();
        memory.epoch += 1;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn post(&mut self, topic: &str, posts: &[Post]) -> Result<(), String> {
        check(topic, posts)?;
        if self.is_away {
            return Err("it is away".into());
        }
        let Topic { rows, ids } = self.topics.entry(topic.to_owned()).or_default();
        for Post { id, text, .. } in posts {
            let before = rows.get(id);
            if text.is_some() && before.is_some_and(|(_, before)| before == text) {
                continue;
            }
            if let Some((number, _)) = before {
                ids.remove(number);
            }
            self.last += 1;
            ids.insert(self.last, id.clone());
            rows.insert(id.clone(), (self.last, text.clone()));
        }
        Ok(())
    }

    fn changes(&self, topic: &str, since: u64, most: usize) -> Result<Changes, String> {
        if self.is_away {
            return Err("it is away".into());
        }
        let mut read = Changes { next: since, epoch: self.epoch + 1, ..Changes::default() };
        let Some(Topic { rows, ids }) = self.topics.get(topic) else { return Ok(read) };
        for (number, id) in ids.range(since.saturating_add(1)..) {
            if read.changes.len() == most {
                read.is_more = true;
                break;
            }
            let text = rows.get(id).and_then(|(_, text)| text.clone());
            read.changes.push(Change { id: id.clone(), text });
            read.next = *number;
        }
        Ok(read)
    }
}

impl Board for MemoryBoard {
    fn post<'a>(&'a self, topic: &'a str, posts: &'a [Post]) -> Answering<'a, Result<(), String>> {
        let done = self.lock().post(topic, posts);
        Box::pin(std::future::ready(done))
    }

    fn changes<'a>(
        &'a self,
        topic: &'a str,
        since: u64,
        most: usize,
    ) -> Answering<'a, Result<Changes, String>> {
        let found = self.lock().changes(topic, since, most);
        Box::pin(std::future::ready(found))
    }
}
