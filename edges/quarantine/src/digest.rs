//! Digests: a message to a user that lists what was held for him since the last one, and what was
//! refused at the border.

use std::collections::BTreeMap;
use std::sync::Arc;

use mpp_hub::id::Id;
use serde_json::Value;
use sqlx::Row as _;

use crate::clean;
use crate::index::{Index, signed, trouble, unsigned};
use crate::letter::Made;
use crate::search::{Scope, Search};
use crate::{Inner, Quarantine};

/// Messages that a digest lists; more are only said to be there.
const LISTED_MAX: usize = 200;
/// Users that are looked at for one answer.
const USERS_MAX: usize = 500;

/// Letters of what a stranger or a rule said.
const LETTERS_MAX: usize = 200;

/// A recipient that was refused: what the decision log says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The decision.
    pub id: Id,
    /// For whom it was.
    pub recipient: String,
    /// The envelope sender; empty is the null sender.
    pub sender: String,
    /// What the client was told.
    pub why: String,
}

impl Refused {
    /// Reads a line of the decision log that tells of a refusal, or what [`Refused::to_json`] made of
    /// one; nothing if it lacks something.
    pub fn of(line: &Value) -> Option<Self> {
        let text = |name: &str| line.get(name).and_then(Value::as_str);
        Some(Self {
            id: Id::parse(text("id")?)?,
            recipient: text("recipient")?.to_lowercase(),
            sender: clean::line(text("sender")?, LETTERS_MAX),
            why: clean::line(text("reply").or_else(|| text("reason"))?, LETTERS_MAX),
        })
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "id": self.id.to_string(), "recipient": self.recipient, "sender": self.sender,
            "reply": self.why
        })
    }
}

/// What a user has been told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    /// The last message that was held.
    held: Id,
    /// The last that was refused.
    refused: Id,
}

/// What is wanted of a digest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Whose.
    pub user: String,
    /// What was refused for him.
    pub refused: Vec<Refused>,
    /// Only what came before; nothing: up to now.
    pub before: Option<Id>,
    /// Where his mail goes, if he is to be told although nothing was held.
    pub route_alone: Option<String>,
}

/// A digest that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// For whom.
    pub user: String,
    /// Messages in it.
    pub count: usize,
    /// Where his mail goes, as a row of the index says.
    pub route: String,
    /// The message, with CRLF line ends.
    pub text: Vec<u8>,
    /// What it knows of.
    until: Known,
}

impl Quarantine {
    /// Users for whom something was held since their last digest, in the order of their names, and
    /// the name behind which to go on if there may be more.
    ///
    /// # Errors
    /// The index cannot be read.
    pub async fn digest_users(&self, after: &str) -> Result<(Vec<String>, Option<String>), String> {
        let after = after.to_owned();
        self.run(move |inner| async move { inner.index.digest_users(after).await }).await
    }

    /// The digest of a user; nothing if there is nothing to tell. Of what was refused it lists what is
    /// newer than in the last one.
    ///
    /// # Errors
    /// The index cannot be read.
    pub async fn digest(&self, wanted: Wanted) -> Result<Option<Digest>, String> {
        self.run(|inner| async move { inner.digest(wanted).await }).await
    }

    /// Notes that a digest was sent.
    ///
    /// # Errors
    /// The index cannot be written.
    pub async fn digest_sent(&self, digest: &Digest) -> Result<(), String> {
        let (user, until) = (digest.user.clone(), digest.until);
        self.run(move |inner| async move { inner.index.digest_sent(&user, until).await }).await
    }
}

impl Inner {
    async fn digest(self: Arc<Self>, wanted: Wanted) -> Result<Option<Digest>, String> {
        let Wanted { user, mut refused, before, route_alone } = wanted;
        let user = user.to_lowercase();
        let known = self.index.digest_until(&user).await?;
        let search = Search {
            scope: Scope::User(user.clone()),
            after: Some(known.held.to_string()),
            cursor: before.map(|before| before.to_string()),
            most: LISTED_MAX,
            ..Search::default()
        };
        // Of its own: other nodes send theirs.
        let mut page = self.index.list(&search).await?;
        if let Some(shared) = &self.shared {
            page.rows.iter_mut().for_each(|row| shared.node().clone_into(&mut row.node));
        }
        refused.retain(|it| it.id > known.refused && before.is_none_or(|before| it.id < before));
        refused.sort_by_key(|it| std::cmp::Reverse(it.id));
        let newest = page.rows.first();
        let route = newest.map(|row| row.route.clone());
        let route_alone = route_alone.filter(|_| !refused.is_empty());
        let Some(route) = route.or(route_alone) else { return Ok(None) };
        let until = Known {
            held: newest.and_then(|row| Id::parse(&row.id)).unwrap_or(known.held),
            refused: refused.first().map_or(known.refused, |it| it.id),
        };
        let settings = self.settings();
        let mut times = BTreeMap::new();
        let moments = page.rows.iter().map(|row| row.at_ms);
        for ms in moments.chain(refused.iter().map(|it| it.id.ms())) {
            times.insert(ms, self.index.local_text(ms).await?);
        }
        let made = Made {
            links: (!settings.links.is_empty()).then_some((&*settings.links, &self.seal)),
            user: &user,
            rows: &page.rows,
            refused: &refused,
            is_more: page.cursor.is_some(),
            now_ms: self.clock.now_ms(),
            times: &times,
            quarantine: &settings,
        };
        let Known { held, refused: last } = until;
        let tag = self.seal.tag(&format!("digest {held} {last} {user}"));
        let name = format!("{held}.{}", tag.get(..16).unwrap_or_default());
        let text = made.message(&name).map_err(|error| error.to_string())?;
        let count = if page.rows.is_empty() { refused.len() } else { page.rows.len() };
        Ok(Some(Digest { user, count, route, text, until }))
    }
}

impl Index {
    async fn digest_users(
        &self,
        mut after: String,
    ) -> Result<(Vec<String>, Option<String>), String> {
        let mut users = Vec::new();
        for _ in 0..USERS_MAX {
            let mut read = self.read.lock().await;
            let row = sqlx::query(
                "SELECT h.user, EXISTS (SELECT 1 FROM held n WHERE n.user = h.user \
                 AND n.state = 0 AND n.message > coalesce((SELECT d.message FROM digest d \
                 WHERE d.user = h.user), 0)) \
                 FROM held h WHERE h.user > ?1 ORDER BY h.user LIMIT 1",
            );
            let row = row.bind(&after).fetch_optional(&mut *read).await.map_err(trouble)?;
            let Some(row) = row else { return Ok((users, None)) };
            after = row.try_get(0).map_err(trouble)?;
            if row.try_get::<i64, _>(1).map_err(trouble)? > 0 {
                users.push(after.clone());
            }
        }
        Ok((users, Some(after)))
    }

    async fn digest_until(&self, user: &str) -> Result<Known, String> {
        let mut read = self.read.lock().await;
        let row = sqlx::query("SELECT message, refused FROM digest WHERE user = ?1");
        let row = row.bind(user).fetch_optional(&mut *read).await.map_err(trouble)?;
        let Some(row) = row else { return Ok(Known { held: Id::of(0), refused: Id::of(0) }) };
        let id = |column: usize| -> Result<Id, String> {
            Ok(Id::of(unsigned(row.try_get(column).map_err(trouble)?)))
        };
        Ok(Known { held: id(0)?, refused: id(1)? })
    }

    async fn digest_sent(&self, user: &str, until: Known) -> Result<(), String> {
        let mut write = self.write.lock().await;
        let row = sqlx::query(
            "INSERT INTO digest VALUES (?1, ?2, ?3) ON CONFLICT (user) DO UPDATE \
             SET message = excluded.message, refused = excluded.refused",
        );
        let row = row.bind(user).bind(signed(until.held.number()));
        let row = row.bind(signed(until.refused.number()));
        row.execute(&mut *write).await.map(drop).map_err(trouble)
    }
}
