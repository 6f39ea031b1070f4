//! Marks of released messages as doors meet them: whether one is ours, of this message and of this
//! recipient, and whether it has been used there before.

use std::sync::Arc;

use mpp_hub::quarantine::Mark;
use mpp_hub::spool::Spooled;
use sqlx::Row as _;

use crate::index::{Index, signed, trouble};
use crate::seal::HOLDS_MS;
use crate::{Inner, blocking};

/// For which recipients a message was released, and has not passed the door before.
pub(crate) async fn released(
    inner: Arc<Inner>,
    mark: Mark,
    text: Arc<Spooled>,
) -> Result<Vec<bool>, String> {
    let checking = Arc::clone(&inner);
    let count = mark.recipients.len();
    let uses = blocking(move || {
        let now_ms = checking.clock.now_ms();
        let is_ours = checking.seal.holds(&mark.value, &text, now_ms);
        Ok(if is_ours { uses(&checking, &mark) } else { Vec::new() })
    });
    let mut released = Vec::with_capacity(count);
    for used in uses.await? {
        let is_new = match used {
            Some(used) => !inner.index.is_used(&used).await?,
            None => false,
        };
        released.push(is_new);
    }
    released.resize(count, false);
    Ok(released)
}

/// Notes for whom a message has passed a door.
pub(crate) async fn has_passed(
    inner: Arc<Inner>,
    mark: Mark,
    for_whom: Vec<bool>,
) -> Result<(), String> {
    let uses = uses(&inner, &mark).into_iter().zip(for_whom);
    let used: Vec<String> = uses.filter_map(|(used, is_so)| used.filter(|_| is_so)).collect();
    inner.index.use_up(&used, inner.clock.now_ms()).await
}

/// What is written down when a recipient's message passes a door, for each of them whom the mark
/// names.
fn uses(inner: &Inner, mark: &Mark) -> Vec<Option<String>> {
    let used = |names: &Vec<String>| {
        let tag = names.iter().find_map(|name| inner.seal.tag_of(&mark.value, name));
        tag.map(|tag| format!("{tag} {}", mark.door))
    };
    mark.recipients.iter().map(used).collect()
}

impl Index {
    async fn is_used(&self, used: &str) -> Result<bool, String> {
        let mut read = self.read.lock().await;
        let row = sqlx::query("SELECT count(*) FROM used WHERE mark = ?1").bind(used);
        let row = row.fetch_one(&mut *read).await.map_err(trouble)?;
        row.try_get::<i64, _>(0).map(|count| count > 0).map_err(trouble)
    }

    async fn use_up(&self, used: &[String], now_ms: u64) -> Result<(), String> {
        let mut write = self.write.lock().await;
        for used in used {
            let row = sqlx::query("INSERT OR IGNORE INTO used VALUES (?1, ?2)");
            row.bind(used).bind(signed(now_ms)).execute(&mut *write).await.map_err(trouble)?;
        }
        // No mark holds any longer.
        let old = sqlx::query("DELETE FROM used WHERE at_ms < ?1");
        let old = old.bind(signed(now_ms.saturating_sub(2 * HOLDS_MS)));
        old.execute(&mut *write).await.map(drop).map_err(trouble)
    }
}
