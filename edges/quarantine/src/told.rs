//! What other nodes are told of a message: its row, and what has become of it. Never its text.
//!
//! Triggers of the index note each message that is new or has changed, in the transaction that changes
//! it, so nothing is forgotten whatever happens between. What was told is kept in mind for a while, since a
//! server that fails over may have lost its last moments.

use mpp_hub::board::{Change, Changes, Post, TEXT_BYTES_MAX};
use mpp_hub::id::Id;
use mpp_hub::quarantine::{HeldFor, Holding};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use crate::clean;
use crate::index::{Index, change_one, insert_into, remove, signed, trouble, unsigned};
use crate::record::{Message, Row, SUBJECT_MAX, State, bounded};
use crate::search::Scope;

/// Messages that are told of at once.
const AT_ONCE: i64 = 300;
/// So many bytes of them at the most; one more may come on top.
const BYTES_AT_ONCE: usize = 1 << 20;
/// The recipients of a row may take so many bytes; those that are left out are with its owner only.
const RECIPIENTS_BYTES_MAX: usize = TEXT_BYTES_MAX - 16 * 1024;
/// The form of a row.
const FORMAT: u64 = 1;

/// What notes changes.
const TRIGGERS: [(&str, &str); 4] = [
    ("tell_held", "AFTER INSERT ON held"),
    ("tell_changed", "AFTER UPDATE OF state ON held"),
    ("tell_forgotten", "AFTER DELETE ON held"),
    ("tell_gone", "AFTER DELETE ON message"),
];

/// A piece of what others do not know yet.
#[derive(Debug, Default)]
pub(crate) struct Untold {
    /// Rows of the index with their turns: which change it is.
    of: Vec<(i64, i64)>,
    /// What others are told.
    pub(crate) posts: Vec<Post>,
    /// There is more.
    pub(crate) is_more: bool,
}

/// A row as others read it.
pub(crate) fn text_of(row: &Row) -> Vec<u8> {
    let (mut recipients, mut bytes) = (Vec::new(), 0);
    for ((address, state), (user, policy)) in row.recipients.iter().zip(&row.owners) {
        let user = (user != address).then_some(user);
        let recipient = json!([address, state.number(), policy, user]);
        bytes += recipient.to_string().len() + 1;
        if bytes > RECIPIENTS_BYTES_MAX {
            break;
        }
        recipients.push(recipient);
    }
    json!([
        FORMAT,
        row.at_ms,
        row.sender,
        row.subject,
        row.reason,
        row.points,
        row.tests,
        row.client,
        row.instance,
        row.route,
        row.bytes,
        recipients
    ])
    .to_string()
    .into_bytes()
}

/// Reads it back: the message, and what has become of it for those who do not wait for it as on the
/// first day. Nothing of it is taken as it is: it comes from another machine.
pub(crate) fn message_of(id: Id, text: &[u8]) -> Option<(Message, Vec<(String, State)>)> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let text = |at: usize| value.get(at).and_then(Value::as_str).map(bounded);
    let number = |at: usize| value.get(at).and_then(Value::as_u64);
    if number(0) != Some(FORMAT) {
        return None;
    }
    let (mut recipients, mut states) = (Vec::new(), Vec::new());
    for recipient in value.get(11)?.as_array()? {
        let text = |at: usize| recipient.get(at).and_then(Value::as_str).map(bounded);
        let address = text(0)?.to_lowercase();
        let state = State::of(recipient.get(1)?.as_i64()?);
        if state != State::Held {
            states.push((address.clone(), state));
        }
        let (user, policy) = (text(3).unwrap_or_else(|| address.clone()), text(2)?);
        recipients.push(HeldFor { address, user, policy, parameters: String::new() });
    }
    let holding = Holding {
        at_ms: number(1)?,
        sender: text(2)?,
        reason: text(4)?,
        points: value.get(5)?.as_i64()?,
        tests: text(6)?,
        client: text(7)?.parse().ok(),
        instance: text(8)?,
        route: text(9)?,
        recipients,
        ..Holding::default()
    };
    let subject = clean::line(value.get(3)?.as_str()?, SUBJECT_MAX);
    let bytes = number(10)?.min(i64::MAX.cast_unsigned());
    Some((Message { id, holding, subject, bytes, disk_bytes: 0 }, states))
}

/// Where reading a topic, or telling one, has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) next: u64,
    pub(crate) epoch: u64,
    pub(crate) read_ms: u64,
}

impl Index {
    /// Notes from now on what changes, or no more.
    pub(crate) async fn note_changes(&self, is_on: bool) -> Result<(), String> {
        let mut write = self.write.lock().await;
        let mut all = write.begin().await.map_err(trouble)?;
        for (name, when) in TRIGGERS {
            let which = if name == "tell_gone" { "OLD.id" } else { "OLD.message" };
            let which = if name == "tell_held" { "NEW.message" } else { which };
            let text = if is_on {
                format!(
                    "CREATE TRIGGER IF NOT EXISTS {name} {when} BEGIN \
                     INSERT INTO untold (message, turn) VALUES ({which}, 1) \
                     ON CONFLICT (message) DO UPDATE SET turn = turn + 1, told_ms = NULL; END"
                )
            } else {
                format!("DROP TRIGGER IF EXISTS {name}")
            };
            sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *all).await.map_err(trouble)?;
        }
        if !is_on {
            // Whoever shares it later begins with all of it.
            for text in ["DELETE FROM untold", "DELETE FROM board", "DELETE FROM errand"] {
                sqlx::query(text).execute(&mut *all).await.map_err(trouble)?;
            }
        }
        all.commit().await.map_err(trouble)
    }

    /// Everything is to be told.
    pub(crate) async fn tell_all(&self) -> Result<(), String> {
        let text = "INSERT INTO untold (message, turn) SELECT id, 1 FROM message WHERE true \
            ON CONFLICT (message) DO UPDATE SET turn = turn + 1, told_ms = NULL";
        self.do_one(text, &[]).await
    }

    /// What was told within the last moments is to be told again.
    pub(crate) async fn tell_again(&self) -> Result<(), String> {
        self.do_one("UPDATE untold SET told_ms = NULL WHERE told_ms IS NOT NULL", &[]).await
    }

    /// What was told before a time is not kept in mind any more.
    pub(crate) async fn forget_told(&self, before_ms: u64) -> Result<(), String> {
        self.do_one("DELETE FROM untold WHERE told_ms < ?1", &[signed(before_ms)]).await
    }

    /// Others are to be told of these, whatever is known of them.
    pub(crate) async fn tell_of(&self, ids: &[Id]) -> Result<(), String> {
        for id in ids {
            let text = "INSERT INTO untold (message, turn) VALUES (?1, 1) \
                ON CONFLICT (message) DO UPDATE SET turn = turn + 1, told_ms = NULL";
            self.do_one(text, &[signed(id.number())]).await?;
        }
        Ok(())
    }

    /// One statement with these numbers.
    pub(crate) async fn do_one(&self, text: &'static str, bound: &[i64]) -> Result<(), String> {
        let mut write = self.write.lock().await;
        let query = bound.iter().fold(sqlx::query(text), |query, number| query.bind(*number));
        query.execute(&mut *write).await.map(drop).map_err(trouble)
    }

    /// Whether there is such a message.
    pub(crate) async fn has(&self, id: Id) -> Result<bool, String> {
        let mut read = self.read.lock().await;
        let row = sqlx::query("SELECT 1 FROM message WHERE id = ?1").bind(signed(id.number()));
        Ok(row.fetch_optional(&mut *read).await.map_err(trouble)?.is_some())
    }

    /// A piece of what is to be told, as it is now. A row stands for so long after the message came.
    pub(crate) async fn untold(&self, (now_ms, keep_ms): (u64, u64)) -> Result<Untold, String> {
        let rows = {
            let mut read = self.read.lock().await;
            let rows = sqlx::query(
                "SELECT message, turn FROM untold WHERE told_ms IS NULL ORDER BY message LIMIT ?1",
            );
            rows.bind(AT_ONCE).fetch_all(&mut *read).await.map_err(trouble)?
        };
        let mut untold =
            Untold { is_more: rows.len() as u64 == AT_ONCE.unsigned_abs(), ..Untold::default() };
        let mut bytes = 0;
        for row in rows {
            if bytes > BYTES_AT_ONCE {
                untold.is_more = true;
                break;
            }
            let number: i64 = row.try_get(0).map_err(trouble)?;
            let id = Id::of(unsigned(number));
            let name = id.to_string();
            let found = self.look(&name, &Scope::All).await?;
            let text = found.map(|(_, row)| text_of(&row)).filter(|it| it.len() <= TEXT_BYTES_MAX);
            bytes += text.as_ref().map_or(0, Vec::len);
            let keep_ms = id.ms().saturating_add(keep_ms).saturating_sub(now_ms).max(1);
            untold.posts.push(Post { id: name, text, keep_ms });
            untold.of.push((number, row.try_get(1).map_err(trouble)?));
        }
        Ok(untold)
    }

    /// A piece was told: what has changed meanwhile waits on.
    pub(crate) async fn told(&self, untold: &Untold, now_ms: u64) -> Result<(), String> {
        let mut write = self.write.lock().await;
        let mut all = write.begin().await.map_err(trouble)?;
        for (message, turn) in &untold.of {
            let row =
                sqlx::query("UPDATE untold SET told_ms = ?3 WHERE message = ?1 AND turn = ?2");
            let row = row.bind(message).bind(turn).bind(signed(now_ms));
            row.execute(&mut *all).await.map_err(trouble)?;
        }
        all.commit().await.map_err(trouble)
    }

    /// How far a topic was read or told.
    pub(crate) async fn mark(&self, topic: &str) -> Result<Mark, String> {
        let mut read = self.read.lock().await;
        let row = sqlx::query("SELECT next, epoch, read_ms FROM board WHERE topic = ?1");
        let row = row.bind(topic).fetch_optional(&mut *read).await.map_err(trouble)?;
        let Some(row) = row else { return Ok(Mark::default()) };
        let number = |at: usize| row.try_get::<i64, _>(at).map_err(trouble);
        Ok(Mark {
            next: unsigned(number(0)?),
            epoch: number(1)?.cast_unsigned(),
            read_ms: unsigned(number(2)?),
        })
    }

    pub(crate) async fn set_mark(&self, topic: &str, mark: Mark) -> Result<(), String> {
        let mut write = self.write.lock().await;
        set_mark(&mut write, topic, mark).await.map_err(trouble)
    }

    /// The topics that begin like this and have a mark.
    pub(crate) async fn topics(&self, head: &str) -> Result<Vec<String>, String> {
        let mut read = self.read.lock().await;
        let rows = sqlx::query("SELECT topic FROM board WHERE substr(topic, 1, length(?1)) = ?1");
        let rows = rows.bind(head).fetch_all(&mut *read).await.map_err(trouble)?;
        let rows = rows.iter().map(|row| row.try_get(0));
        rows.collect::<Result<_, _>>().map_err(trouble)
    }

    pub(crate) async fn drop_mark(&self, topic: &str) -> Result<(), String> {
        let mut write = self.write.lock().await;
        let row = sqlx::query("DELETE FROM board WHERE topic = ?1").bind(topic);
        row.execute(&mut *write).await.map(drop).map_err(trouble)
    }

    /// Takes over what has changed of another node's, and how far it was read, in one step.
    pub(crate) async fn take_over(
        &self,
        topic: &str,
        changes: &Changes,
        now_ms: u64,
    ) -> Result<(), String> {
        let mut write = self.write.lock().await;
        let mut all = write.begin().await.map_err(trouble)?;
        for Change { id, text } in &changes.changes {
            // What is no row of ours is left alone: it may be of a newer version.
            let Some(id) = Id::parse(id) else { continue };
            remove(&mut all, &[id]).await.map_err(trouble)?;
            let Some((message, states)) = text.as_ref().and_then(|it| message_of(id, it)) else {
                continue;
            };
            insert_into(&mut all, &message).await.map_err(trouble)?;
            let states: Vec<_> =
                states.iter().map(|(recipient, state)| (id, &**recipient, *state)).collect();
            if !states.is_empty() {
                change_one(&mut all, (id, &states), now_ms).await.map_err(trouble)?;
            }
        }
        let mark = Mark { next: changes.next, epoch: changes.epoch, read_ms: now_ms };
        set_mark(&mut all, topic, mark).await.map_err(trouble)?;
        all.commit().await.map_err(trouble)
    }

    /// Forgets everything that came before a message of this number, a piece of it; whether there is
    /// more.
    pub(crate) async fn forget_before(&self, id: Id) -> Result<bool, String> {
        let rows = {
            let mut read = self.read.lock().await;
            let rows = sqlx::query("SELECT id FROM message WHERE id < ?1 ORDER BY id LIMIT ?2");
            let rows = rows.bind(signed(id.number())).bind(AT_ONCE);
            rows.fetch_all(&mut *read).await.map_err(trouble)?
        };
        let ids = rows.iter().map(|row| row.try_get(0).map(|id| Id::of(unsigned(id))));
        let ids: Vec<Id> = ids.collect::<Result<_, _>>().map_err(trouble)?;
        self.remove(&ids).await?;
        Ok(ids.len() as u64 == AT_ONCE.unsigned_abs())
    }

    /// Whether nothing is in it.
    pub(crate) async fn is_empty(&self) -> Result<bool, String> {
        let mut read = self.read.lock().await;
        let row = sqlx::query("SELECT 1 FROM message LIMIT 1");
        Ok(row.fetch_optional(&mut *read).await.map_err(trouble)?.is_none())
    }
}

async fn set_mark(
    write: &mut sqlx::SqliteConnection,
    topic: &str,
    mark: Mark,
) -> Result<(), sqlx::Error> {
    let row = sqlx::query("INSERT OR REPLACE INTO board VALUES (?1, ?2, ?3, ?4)");
    let row = row.bind(topic).bind(signed(mark.next)).bind(mark.epoch.cast_signed());
    row.bind(signed(mark.read_ms)).execute(write).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(recipients: usize) -> Row {
        let address = |number: usize| format!("user{number}+x@test.example");
        let states = [State::Held, State::Releasing, State::Released, State::Deleted];
        Row {
            id: Id::at(1_795_528_230_007).to_string(),
            at_ms: 1_795_528_230_007,
            sender: "\"a b\"@x.example".into(),
            recipients: (0..recipients).map(|it| (address(it), states[it % 4])).collect(),
            owners: (0..recipients)
                .map(|it| (format!("user{it}@test.example"), "p".into()))
                .collect(),
            subject: "Größe \"x\"".into(),
            reason: "spam".into(),
            policy: "p".into(),
            points: -150,
            tests: "A,B".into(),
            client: "2001:db8::1".into(),
            instance: "1.1".into(),
            route: "mx/0".into(),
            bytes: 7,
            ..Row::default()
        }
    }

    #[test]
    fn what_others_are_told_is_read_back_and_bounded() {
        let text = text_of(&row(4));
        assert!(text.len() < 400, "{}", text.len());
        let id = Id::at(1_795_528_230_007);
        let (message, states) = message_of(id, &text).unwrap();
        assert_eq!((message.id, &*message.subject, message.bytes), (id, "Größe \"x\"", 7));
        assert_eq!(message.holding.recipients[1].user, "user1@test.example");
        assert_eq!(message.holding.client, "2001:db8::1".parse().ok());
        let states: Vec<_> = states.into_iter().map(|(_, state)| state).collect();
        assert_eq!(states, [State::Releasing, State::Released, State::Deleted]);
        let large = text_of(&row(5_000));
        assert!(large.len() <= TEXT_BYTES_MAX, "{}", large.len());
        assert!(message_of(id, &large).unwrap().0.holding.recipients.len() > 400);
    }

    proptest::proptest! {
        #[test]
        fn nothing_on_the_board_is_too_odd(cut in 0..200_usize, odd in "\\PC{0,40}") {
            let whole = text_of(&row(2));
            let mut text = whole.get(..cut.min(whole.len())).unwrap().to_vec();
            text.extend(odd.bytes());
            drop(message_of(Id::of(1), &text));
            let odd = format!("[1,{odd:?},[],{{}},-1]");
            drop(message_of(Id::of(1), odd.as_bytes()));
        }
    }
}
