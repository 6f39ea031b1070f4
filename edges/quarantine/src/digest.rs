//! Digests: a message to a user that lists what was held for him since the last one, and what was
//! refused at the border.

use std::fmt::Write as _;
use std::sync::Arc;

use mail_builder::MessageBuilder;
use mail_builder::headers::raw::Raw;
use mpp_hub::html::escaped;
use mpp_hub::id::Id;
use serde_json::Value;
use sqlx::Row as _;

use crate::clean;
use crate::index::{Index, signed, trouble, unsigned};
use crate::record::{Row, domain};
use crate::seal::Seal;
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
    /// The envelope sender; empty is the null sender.
    pub sender: String,
    /// What the client was told.
    pub why: String,
}

impl Refused {
    /// Reads a line of the decision log, or what [`Refused::to_json`] made of one; nothing if it
    /// tells of something else.
    pub fn of(line: &Value) -> Option<Self> {
        let text = |name: &str| line.get(name).and_then(Value::as_str);
        Some(Self {
            id: Id::parse(text("id")?)?,
            sender: clean::line(text("sender")?, LETTERS_MAX),
            why: clean::line(text("reply").or_else(|| text("reason"))?, LETTERS_MAX),
        })
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "id": self.id.to_string(), "sender": self.sender, "reply": self.why
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

/// A digest that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// For whom.
    pub user: String,
    /// Messages in it.
    pub count: usize,
    /// Where his mail goes, as [`Row::route`].
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

    /// The digest of a user; nothing if nothing was held since the last one. Of what was refused it
    /// lists what is newer than in the last one.
    ///
    /// # Errors
    /// The index cannot be read.
    pub async fn digest(
        &self,
        user: &str,
        mut refused: Vec<Refused>,
    ) -> Result<Option<Digest>, String> {
        let user = user.to_lowercase();
        let make = |inner: Arc<Inner>| async move {
            let keep_ms = inner.settings().limits.keep_ms;
            let known = inner.index.digest_until(&user).await?;
            let search = Search {
                scope: Scope::User(user.clone()),
                after: Some(known.held.to_string()),
                most: LISTED_MAX,
                ..Search::default()
            };
            let page = inner.index.list(&search).await?;
            let Some(newest) = page.rows.first() else { return Ok(None) };
            let route = newest.route.clone();
            refused.retain(|it| it.id > known.refused);
            refused.sort_by_key(|it| std::cmp::Reverse(it.id));
            let until = Known {
                held: Id::parse(&newest.id).unwrap_or(known.held),
                refused: refused.first().map_or(known.refused, |it| it.id),
            };
            let settings = inner.settings();
            let made = Made {
                links: (!settings.links.is_empty()).then_some((&*settings.links, &inner.seal)),
                user: &user,
                rows: &page.rows,
                refused: &refused,
                is_more: page.cursor.is_some(),
                now_ms: inner.clock.now_ms(),
                keep_ms,
            };
            let text = made.message(until.held).map_err(|error| error.to_string())?;
            let count = page.rows.len();
            Ok(Some(Digest { user, count, route, text, until }))
        };
        self.run(make).await
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

/// What a digest is made of.
struct Made<'a> {
    /// What links begin with, and what signs them; nothing: there are none.
    links: Option<(&'a str, &'a Seal)>,
    user: &'a str,
    rows: &'a [Row],
    /// Newest first.
    refused: &'a [Refused],
    is_more: bool,
    now_ms: u64,
    keep_ms: u64,
}

impl Made<'_> {
    fn message(&self, until: Id) -> std::io::Result<Vec<u8>> {
        let domain = domain(self.user);
        let count = self.rows.len();
        let plural = if count == 1 { "message was" } else { "messages were" };
        let subject = format!("{count} {plural} held for you");
        let seconds = i64::try_from(self.now_ms / 1000).unwrap_or(0);
        MessageBuilder::new()
            .from(("Quarantine", format!("postmaster@{domain}").as_str()))
            .to(self.user)
            .subject(subject.as_str())
            .date(seconds)
            .message_id(format!("digest.{until}.{}@{domain}", self.now_ms))
            // No holiday reply answers it (RFC 3834), and no list takes it.
            .header("Auto-Submitted", Raw::new("auto-generated"))
            .header("X-Auto-Response-Suppress", Raw::new("All"))
            .text_body(self.plain())
            .html_body(self.html())
            .write_to_vec()
    }

    /// The link that lets a message out.
    fn link(&self, row: &Row) -> Option<String> {
        let (base, seal) = self.links?;
        let until_ms = row.at_ms.saturating_add(self.keep_ms);
        let token = seal.token(Id::parse(&row.id)?, self.user, until_ms);
        Some(format!("{base}?t={token}"))
    }

    fn how(&self) -> String {
        if self.links.is_some() {
            return format!(
                "A link opens a page where you can have the message delivered. They are kept for {}.",
                mpp_settings::form::duration_text(self.keep_ms)
            );
        }
        format!(
            "To have one of them delivered, ask postmaster@{} and name its id. They are kept for {}.",
            domain(self.user),
            mpp_settings::form::duration_text(self.keep_ms)
        )
    }

    fn plain(&self) -> String {
        let mut out = format!("Held for {} since the last digest:\n", self.user);
        for row in self.rows {
            // Writing to a string cannot fail.
            let _ = write!(
                out,
                "\n{}  {}\n  From:    {}\n  Subject: {}\n  Why:     {}\n",
                row.id,
                time_text(row.at_ms),
                sender(&row.sender),
                row.subject,
                row.reason
            );
            if let Some(link) = self.link(row) {
                let _ = writeln!(out, "  Deliver: {link}");
            }
        }
        if self.is_more {
            out.push_str("\nThere are more.\n");
        }
        let _ = write!(out, "\n{}\n", self.how());
        if !self.refused.is_empty() {
            let _ = write!(out, "\n{REFUSED}\n");
        }
        for refused in self.refused {
            let _ = write!(
                out,
                "\n{}  {}\n  From:    {}\n  Why:     {}\n",
                refused.id,
                time_text(refused.id.ms()),
                sender(&refused.sender),
                refused.why
            );
        }
        out
    }

    fn html(&self) -> String {
        let mut out = format!(
            "<!DOCTYPE html>\n<html><body>\n<p>Held for {} since the last digest:</p>\n\
             <table border=\"1\" cellpadding=\"4\">\n<tr><th>Id</th><th>When</th><th>From</th>\
             <th>Subject</th><th>Why</th></tr>\n",
            escaped(self.user)
        );
        for row in self.rows {
            out.push_str("<tr>");
            let (when, from) = (time_text(row.at_ms), sender(&row.sender));
            cells(&[&row.id, &when, from, &row.subject, &row.reason], &mut out);
            if let Some(link) = self.link(row) {
                let _ = write!(out, "<td><a href=\"{}\">deliver</a></td>", escaped(&link));
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</table>\n");
        if self.is_more {
            out.push_str("<p>There are more.</p>\n");
        }
        let _ = writeln!(out, "<p>{}</p>", escaped(&self.how()));
        if !self.refused.is_empty() {
            let _ = write!(
                out,
                "<p>{REFUSED}</p>\n<table border=\"1\" cellpadding=\"4\">\n<tr><th>Id</th>\
                 <th>When</th><th>From</th><th>Why</th></tr>\n"
            );
            for refused in self.refused {
                let (id, when) = (refused.id.to_string(), time_text(refused.id.ms()));
                out.push_str("<tr>");
                cells(&[&id, &when, sender(&refused.sender), &refused.why], &mut out);
                out.push_str("</tr>\n");
            }
            out.push_str("</table>\n");
        }
        out.push_str("</body></html>\n");
        out
    }
}

/// What stands above what was refused.
const REFUSED: &str = "Refused for you, newest first. Whoever sent these was told so, and nothing \
    of them was kept:";

fn sender(envelope: &str) -> &str {
    if envelope.is_empty() { "(nobody)" } else { envelope }
}

fn cells(texts: &[&str], out: &mut String) {
    for text in texts {
        // Writing to a string cannot fail.
        let _ = write!(out, "<td>{}</td>", escaped(text));
    }
}

/// A time for people, in UTC.
pub fn time_text(ms: u64) -> String {
    let (days, minutes) = (ms / 86_400_000, ms / 60_000 % 1440);
    let day = mpp_hub::statistics::day_text(days);
    format!("{day} {:02}:{:02} UTC", minutes / 60, minutes % 60)
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
