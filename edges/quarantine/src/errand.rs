//! What one node asks of another that holds a message: to release it, or to delete it.
//!
//! An order stands on the board until the other node has carried it out, however long that node is away.
//! There it is written down before anything is done, and so is its answer before the order is taken from
//! the board: it is carried out once. What guards a release against a crash in its middle is the same as
//! where somebody asks for it on the spot.

use mpp_hub::board::{Post, TEXT_BYTES_MAX};
use serde_json::{Value, json};
use sqlx::{Connection as _, Row as _};

use crate::index::{Index, signed, trouble};
use crate::record::bounded;
use crate::search::Scope;
use crate::talk::{ORDER_KEEP_MS, ORDERS};
use crate::together::lock;
use crate::{Inner, Quarantine};

/// Looks at the board for which whoever asks waits for an answer.
const PATIENCE_LOOKS: u32 = 10;
/// Errands that are handed over at once.
const AT_ONCE: i64 = 50;

/// What is to be done with a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum What {
    /// It is to be sent to those it is held for.
    #[default]
    Release,
    /// It is to be thrown away.
    Delete,
}

impl What {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Delete => "delete",
        }
    }

    fn of(name: &str) -> Option<Self> {
        [Self::Release, Self::Delete].into_iter().find(|what| what.name() == name)
    }
}

/// Something that a node is to do with a message of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errand {
    /// What names it; empty as long as nobody was asked.
    pub id: String,
    /// The id of the message.
    pub message: String,
    /// What is to be done.
    pub what: What,
    /// Who has asked for it.
    pub scope: Scope,
    /// Whether it is to be sent though it may have arrived.
    pub is_forced: bool,
}

/// The answer to an errand: what came of it, or why nothing was done.
pub type Answer = Result<Value, String>;

impl Quarantine {
    /// Where a message is: its id, and the other node that holds it, if it is another one. A name is an
    /// id, or `ID@NODE`.
    ///
    /// # Errors
    /// There is no such message in this scope, or there are several.
    pub async fn holder(
        &self,
        name: &str,
        scope: &Scope,
    ) -> Result<(String, Option<String>), String> {
        let (name, scope) = (name.to_owned(), scope.clone());
        let find = |inner: std::sync::Arc<Inner>| async move {
            let found = inner.find(&name, &scope).await?;
            if found.node.is_some() && !found.row.is_waiting() {
                return Err(crate::release::over(&found.row));
            }
            Ok((found.row.id, found.node))
        };
        self.run(find).await
    }

    /// Asks another node to do something with a message that it holds, and waits some seconds for what
    /// comes of it; nothing: it has not answered yet, and does it when it is there.
    ///
    /// # Errors
    /// It cannot be asked now: the board is away.
    pub async fn order(&self, node: &str, errand: Errand) -> Result<Option<Answer>, String> {
        let node = node.to_owned();
        self.run(|inner| async move { inner.order(&node, errand).await }).await
    }

    /// What other nodes have asked this one to do and it has not done yet. Waits until there is
    /// something. One that was begun before and has no answer is not forced again.
    ///
    /// # Errors
    /// The index cannot be read or written.
    pub async fn errands(&self) -> Result<Vec<Errand>, String> {
        loop {
            let errands =
                self.run(|inner| async move { inner.index.begin_errands().await }).await?;
            if !errands.is_empty() {
                return Ok(errands);
            }
            match &self.inner().shared {
                Some(shared) => shared.asked.notified().await,
                None => std::future::pending().await,
            }
        }
    }

    /// Notes what came of an errand; whoever has asked is told.
    ///
    /// # Errors
    /// The index cannot be written.
    pub async fn errand_done(&self, errand: &Errand, answer: &Answer) -> Result<(), String> {
        let text = match answer {
            Ok(value) => json!({ "ok": value }),
            Err(text) => json!({ "error": text }),
        };
        let mut text = text.to_string();
        if text.len() > TEXT_BYTES_MAX {
            // One with very many recipients.
            let note = "it is done; `mpp quarantine show` says what came of it for whom";
            text = json!({ "ok": { "id": errand.message, "recipients": [], "note": note } })
                .to_string();
        }
        let id = errand.id.clone();
        let note = |inner: std::sync::Arc<Inner>| async move {
            inner.index.answer_errand(&id, &text).await?;
            if let Some(shared) = &inner.shared {
                shared.wake.notify_one();
            }
            Ok(())
        };
        self.run(note).await
    }
}

impl Inner {
    async fn order(&self, node: &str, errand: Errand) -> Result<Option<Answer>, String> {
        let shared = self.shared.as_ref().ok_or("this node knows no others")?;
        let now_ms = self.clock.now_ms();
        let id = format!("{}.{}", shared.node(), self.ids.next(now_ms));
        let text = text_of(node, &errand);
        let (sender, answered) = tokio::sync::oneshot::channel();
        lock(&shared.waiting).insert(id.clone(), sender);
        let post = Post { id: id.clone(), text: Some(text), keep_ms: ORDER_KEEP_MS };
        if let Err(trouble) = shared.together.board.post(ORDERS, &[post]).await {
            lock(&shared.waiting).remove(&id);
            return Err(format!(
                "{node} holds {}, and cannot be asked now: the shared store: {trouble}",
                errand.message
            ));
        }
        lock(&shared.pending).insert(id.clone(), (node.to_owned(), errand));
        shared.wake.notify_one();
        let answer = tokio::time::timeout(shared.together.every * PATIENCE_LOOKS, answered).await;
        lock(&shared.waiting).remove(&id);
        Ok(answer.ok().and_then(Result::ok).map(|answer| read_answer(node, &answer)))
    }
}

/// An order as it stands on the board.
fn text_of(node: &str, errand: &Errand) -> Vec<u8> {
    let (user, domain) = match &errand.scope {
        Scope::All => (None, None),
        Scope::User(user) => (Some(user), None),
        Scope::Domain(domain) => (None, Some(domain)),
    };
    let Errand { message, what, is_forced, .. } = errand;
    json!({
        "node": node, "message": message, "what": what.name(), "user": user, "domain": domain,
        "force": is_forced,
    })
    .to_string()
    .into_bytes()
}

/// Reads an order: which node it is for, and what is to be done. One that is not understood is none.
pub(crate) fn read(id: &str, text: &[u8]) -> Option<(String, Errand)> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let scope = match (text("user"), text("domain")) {
        (None, None) => Scope::All,
        (Some(user), None) => Scope::User(user.to_owned()),
        (None, Some(domain)) => Scope::Domain(domain.to_owned()),
        // Whoever asks as two is not served as one of them.
        (Some(_), Some(_)) => return None,
    };
    let errand = Errand {
        id: id.to_owned(),
        message: text("message")?.to_owned(),
        what: What::of(text("what")?)?,
        scope,
        is_forced: value.get("force").and_then(Value::as_bool).unwrap_or(false),
    };
    Some((text("node")?.to_owned(), errand))
}

fn read_answer(node: &str, answer: &Value) -> Answer {
    match (answer.get("ok"), answer.get("error").and_then(Value::as_str)) {
        (Some(value), None) => Ok(cleaned(value)),
        (_, Some(text)) => Err(format!("{node}: {}", bounded(text))),
        (None, None) => Err(format!("{node} has answered what nobody understands")),
    }
}

/// Texts of another machine, fit for people.
fn cleaned(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(bounded(text)),
        Value::Array(values) => values.iter().map(cleaned).collect(),
        Value::Object(all) => {
            let all = all.iter().map(|(name, value)| (bounded(name), cleaned(value)));
            Value::Object(all.collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

impl Index {
    /// Writes an order down that is for this node; says whether it is new.
    pub(crate) async fn take_errand(
        &self,
        (id, text): (&str, &[u8]),
        now_ms: u64,
    ) -> Result<bool, String> {
        let mut write = self.write.lock().await;
        let row = sqlx::query("INSERT OR IGNORE INTO errand VALUES (?1, ?2, ?3, 0, NULL, 0)");
        let row =
            row.bind(id).bind(signed(now_ms)).bind(String::from_utf8_lossy(text).into_owned());
        Ok(row.execute(&mut *write).await.map_err(trouble)?.rows_affected() > 0)
    }

    /// Those that are to be done now, each marked as begun.
    async fn begin_errands(&self) -> Result<Vec<Errand>, String> {
        let mut write = self.write.lock().await;
        let mut all = write.begin().await.map_err(trouble)?;
        let rows = sqlx::query(
            "SELECT id, text, is_begun FROM errand WHERE answer IS NULL ORDER BY at_ms, id LIMIT ?1",
        );
        let rows = rows.bind(AT_ONCE).fetch_all(&mut *all).await.map_err(trouble)?;
        let mut errands = Vec::new();
        for row in rows {
            let (id, text): (String, String) =
                (row.try_get(0).map_err(trouble)?, row.try_get(1).map_err(trouble)?);
            let was_begun: bool = row.try_get(2).map_err(trouble)?;
            let begun = sqlx::query("UPDATE errand SET is_begun = 1 WHERE id = ?1");
            begun.bind(&id).execute(&mut *all).await.map_err(trouble)?;
            if let Some((_, errand)) = read(&id, text.as_bytes()) {
                let is_forced = errand.is_forced && !was_begun;
                errands.push(Errand { is_forced, ..errand });
            }
        }
        all.commit().await.map_err(trouble)?;
        Ok(errands)
    }

    async fn answer_errand(&self, id: &str, answer: &str) -> Result<(), String> {
        let mut write = self.write.lock().await;
        let row = sqlx::query("UPDATE errand SET answer = ?2 WHERE id = ?1").bind(id).bind(answer);
        row.execute(&mut *write).await.map(drop).map_err(trouble)
    }

    /// Whoever has asked is told again, if there is an answer.
    pub(crate) async fn answer_again(&self, id: &str) -> Result<(), String> {
        let mut write = self.write.lock().await;
        let row = sqlx::query("UPDATE errand SET is_told = 0 WHERE id = ?1 AND answer IS NOT NULL");
        row.bind(id).execute(&mut *write).await.map(drop).map_err(trouble)
    }

    /// Answers that whoever asked was not told yet.
    pub(crate) async fn untold_answers(&self) -> Result<Vec<(String, String)>, String> {
        let mut read = self.read.lock().await;
        let rows = sqlx::query(
            "SELECT id, answer FROM errand WHERE answer IS NOT NULL AND is_told = 0 LIMIT ?1",
        );
        let rows = rows.bind(AT_ONCE).fetch_all(&mut *read).await.map_err(trouble)?;
        let rows = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        rows.collect::<Result<_, sqlx::Error>>().map_err(trouble)
    }

    /// They were told.
    pub(crate) async fn answers_told(&self, ids: &[String]) -> Result<(), String> {
        let mut write = self.write.lock().await;
        let mut all = write.begin().await.map_err(trouble)?;
        for id in ids {
            let row = sqlx::query("UPDATE errand SET is_told = 1 WHERE id = ?1").bind(id);
            row.execute(&mut *all).await.map_err(trouble)?;
        }
        all.commit().await.map_err(trouble)
    }

    /// Forgets those that came before a time: their orders do not stand any more.
    pub(crate) async fn forget_errands(&self, before_ms: u64) -> Result<(), String> {
        let text = "DELETE FROM errand WHERE at_ms < ?1 AND is_told = 1";
        self.do_one(text, &[signed(before_ms)]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_back_and_what_is_none_is_left() {
        for scope in [Scope::All, Scope::User("a@x".into()), Scope::Domain("x".into())] {
            for what in [What::Release, What::Delete] {
                let errand = Errand {
                    id: "b.1".into(),
                    message: "6ASZJG9Y00".into(),
                    what,
                    scope: scope.clone(),
                    is_forced: what == What::Release,
                };
                let text = text_of("a", &errand);
                assert_eq!(read("b.1", &text), Some(("a".to_owned(), errand)));
            }
        }
        for odd in [
            "",
            "[]",
            "{}",
            "{\"node\":\"a\",\"message\":\"x\",\"what\":\"sell\"}",
            "{\"node\":\"a\",\"message\":1,\"what\":\"delete\"}",
            "{\"node\":\"a\",\"message\":\"x\",\"what\":\"delete\",\"user\":\"u\",\"domain\":\"d\"}",
        ] {
            assert_eq!(read("b.1", odd.as_bytes()), None, "{odd}");
        }
    }
}
