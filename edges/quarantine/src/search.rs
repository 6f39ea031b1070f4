//! Lists and searches, a page at a time.
//!
//! One condition, the one that fits best to an index, leads through the messages from the newest to
//! the oldest; the others are looked at as they come by. A page looks at so many messages and no
//! more, so it costs the same however many there are and however rare what is looked for; it may be
//! short, and then says where to go on.

use mpp_hub::id::Id;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row as _};

use crate::clean;
use crate::index::{Index, signed, trouble, unsigned};
use crate::record::{Row, State, domain};

/// Rows that are read at once at first, and later.
const FIRST_ROWS: u64 = 64;
const MORE_ROWS: u64 = 512;
/// Messages that one page looks at.
const LOOKED_AT_MAX: u64 = 2_000;
/// Rows of a page.
pub(crate) const PAGE_ROWS_MAX: usize = 500;
/// Words that are searched for.
const WORDS_MAX: usize = 16;

/// Who is asking: what others have is not there for him.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// An administrator.
    #[default]
    All,
    /// The owner of an address.
    User(String),
    /// Whoever looks after a domain.
    Domain(String),
}

impl Scope {
    /// Whether he may see what is held for this recipient, whose mail is this owner's.
    pub(crate) fn covers(&self, recipient: &str, owner: &str) -> bool {
        match self {
            Self::All => true,
            Self::User(user) => user.to_lowercase() == owner,
            Self::Domain(name) => name.to_lowercase() == domain(recipient),
        }
    }
}

/// What is looked for; empty: everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Who is asking.
    pub scope: Scope,
    /// An address, or `@domain`.
    pub sender: String,
    /// An address, or `@domain`.
    pub recipient: String,
    /// Words of the subject, all of them; one that ends with `*` is the beginning of one.
    pub words: String,
    /// Why it is held.
    pub reason: String,
    /// Came at this time or later, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Only what came after the message of this id.
    pub after: Option<String>,
    /// Came before this time.
    pub until_ms: Option<u64>,
    /// In one of these states; none: those that wait.
    pub states: Vec<State>,
    /// Where the last page ended.
    pub cursor: Option<String>,
    /// Rows of a page.
    pub most: usize,
}

/// What is found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Newest first.
    pub rows: Vec<Row>,
    /// Where the next page begins; nothing: there is no more.
    pub cursor: Option<String>,
}

/// A word that is searched for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    text: String,
    is_beginning: bool,
}

/// A condition that leads through the messages.
enum Lead {
    All,
    User(String),
    Recipient(String),
    RecipientDomain(String),
    Sender(String),
    SenderDomain(String),
    Words(String),
    Reason(String),
}

impl Search {
    /// The states that are wanted.
    fn wants(&self, state: State) -> bool {
        if self.states.is_empty() {
            state <= State::Releasing
        } else {
            self.states.contains(&state)
        }
    }

    fn is_waiting_only(&self) -> bool {
        State::ALL.into_iter().all(|state| state <= State::Releasing || !self.wants(state))
    }

    fn words(&self) -> Vec<Word> {
        let mut words = Vec::new();
        for part in self.words.split_whitespace() {
            let all: Vec<String> = clean::words(part).collect();
            let last = all.len();
            words.extend(all.into_iter().enumerate().map(|(place, text)| Word {
                text,
                is_beginning: part.ends_with('*') && place + 1 == last,
            }));
        }
        words.truncate(WORDS_MAX);
        words
    }

    fn lead(&self) -> Lead {
        match (&self.scope, &*self.recipient.to_lowercase()) {
            (Scope::User(user), _) => return Lead::User(user.to_lowercase()),
            (_, recipient) if !recipient.is_empty() && !recipient.starts_with('@') => {
                return Lead::Recipient(recipient.to_owned());
            }
            (Scope::Domain(name), _) => return Lead::RecipientDomain(name.to_lowercase()),
            (_, recipient) if !recipient.is_empty() && self.sender.is_empty() => {
                return Lead::RecipientDomain(recipient.trim_start_matches('@').to_owned());
            }
            _ => {}
        }
        let sender = self.sender.to_lowercase();
        let words = self.words();
        match sender.strip_prefix('@') {
            Some(domain) => Lead::SenderDomain(domain.to_owned()),
            None if !sender.is_empty() => Lead::Sender(sender),
            None if !words.is_empty() => Lead::Words(matching(&words)),
            None if !self.reason.is_empty() => Lead::Reason(self.reason.clone()),
            None => Lead::All,
        }
    }

    /// Whether a message is one that is looked for; what its recipients are that may be seen is left.
    fn keeps(&self, row: &mut Row, words: &[Word]) -> bool {
        let is_of = |address: &str, wanted: &str| match wanted.strip_prefix('@') {
            Some(name) => domain(address) == name.to_lowercase(),
            None => wanted.is_empty() || address.to_lowercase() == wanted.to_lowercase(),
        };
        let recipient = &self.recipient;
        let owners = std::mem::take(&mut row.owners);
        let all = std::mem::take(&mut row.recipients).into_iter().zip(owners);
        (row.recipients, row.owners) =
            all.filter(|((address, _), (user, _))| self.scope.covers(address, user)).unzip();
        if let Some((_, policy)) = row.owners.first() {
            row.policy.clone_from(policy);
        }
        let mut shown = row.recipients.iter();
        let is_named =
            shown.any(|(address, state)| is_of(address, recipient) && self.wants(*state));
        let is_about = words.iter().all(|wanted| {
            clean::words(&row.subject).any(|word| {
                let is_it = word == wanted.text;
                is_it || wanted.is_beginning && word.starts_with(&wanted.text)
            })
        });
        is_named
            && is_about
            && is_of(&row.sender, &self.sender)
            && (self.reason.is_empty() || row.reason == self.reason)
    }
}

/// The words as FTS5 wants them: in quotes, so that none is taken for an operator.
fn matching(words: &[Word]) -> String {
    let words = words.iter().map(|word| {
        let star = if word.is_beginning { " *" } else { "" };
        format!("\"{}\"{star}", word.text.replace('"', "\"\""))
    });
    words.collect::<Vec<_>>().join(" ")
}

impl Lead {
    /// The query that leads, and what is bound to it.
    fn query(&self, is_waiting_only: bool) -> (String, Option<&str>) {
        const COLUMNS: &str = "m.id, m.at_ms, m.sender, m.subject, m.reason, m.policy, m.points, \
            m.tests, m.client, m.instance, m.route, m.bytes, \
            (SELECT group_concat(r.state || r.user || char(31) || r.policy || char(31) || r.recipient, \
             char(10)) FROM held r \
             WHERE r.message = m.id)";
        let waiting = if is_waiting_only { "AND m.waiting > 0" } else { "" };
        let held = if is_waiting_only { "AND h.state < 2" } else { "" };
        let of_message = |condition: &str| {
            format!(
                "SELECT {COLUMNS} FROM message m WHERE {condition} m.id < ?1 AND m.id >= ?2 \
                 {waiting} ORDER BY m.id DESC LIMIT ?3"
            )
        };
        let of_held = |condition: &str| {
            format!(
                "SELECT {COLUMNS} FROM held h CROSS JOIN message m ON m.id = h.message \
                 WHERE {condition} AND h.message < ?1 AND h.message >= ?2 {held} \
                 ORDER BY h.message DESC LIMIT ?3"
            )
        };
        match self {
            Self::All => (of_message(""), None),
            Self::Sender(sender) => (of_message("m.sender = ?4 AND"), Some(sender)),
            Self::SenderDomain(name) => (of_message("m.sender_domain = ?4 AND"), Some(name)),
            Self::Reason(reason) => (of_message("m.reason = ?4 AND"), Some(reason)),
            Self::User(user) => (of_held("h.user = ?4"), Some(user)),
            Self::Recipient(recipient) => (of_held("h.recipient = ?4"), Some(recipient)),
            Self::RecipientDomain(name) => (of_held("h.domain = ?4"), Some(name)),
            Self::Words(words) => (
                format!(
                    "SELECT {COLUMNS} FROM words w CROSS JOIN message m ON m.id = w.rowid \
                     WHERE w.words MATCH ?4 AND w.rowid < ?1 AND w.rowid >= ?2 \
                     ORDER BY w.rowid DESC LIMIT ?3"
                ),
                Some(words),
            ),
        }
    }
}

impl Index {
    /// A page of what is looked for.
    ///
    /// # Errors
    /// The index cannot be read, or the cursor is none.
    pub(crate) async fn list(&self, search: &Search) -> Result<Page, String> {
        let number = |ms: u64| signed(Id::at(ms).number());
        let mut before = search.until_ms.map_or(i64::MAX, number);
        if let Some(cursor) = &search.cursor {
            let id = Id::parse(cursor).ok_or_else(|| format!("`{cursor}` is no cursor"))?;
            before = before.min(signed(id.number()));
        }
        let mut since = search.since_ms.map_or(0, number);
        if let Some(after) = search.after.as_deref().and_then(Id::parse) {
            since = since.max(signed(after.number()).saturating_add(1));
        }
        let most = search.most.clamp(1, PAGE_ROWS_MAX);
        let words = search.words();
        let lead = search.lead();
        let (query, bound) = lead.query(search.is_waiting_only());
        // Those that led are met in any case, in the way in which the index understands them.
        let words = if matches!(lead, Lead::Words(_)) { &[][..] } else { &words };
        let mut page = Page::default();
        let (mut looked_at, mut piece) = (0, FIRST_ROWS);
        loop {
            let rows = {
                let mut read = self.read.lock().await;
                let rows = sqlx::query(AssertSqlSafe(query.clone()));
                let rows = rows.bind(before).bind(since).bind(signed(piece));
                let rows = match bound {
                    Some(bound) => rows.bind(bound),
                    None => rows,
                };
                rows.fetch_all(&mut *read).await.map_err(trouble)?
            };
            let count = rows.len() as u64;
            for row in rows {
                let (id, mut row) = read(&row).map_err(trouble)?;
                // A message with several recipients of a domain comes by several times.
                if id < before && search.keeps(&mut row, words) {
                    page.rows.push(row);
                }
                before = id;
                if page.rows.len() == most {
                    page.cursor = Some(Id::of(unsigned(before)).to_string());
                    return Ok(page);
                }
            }
            looked_at += count;
            if count < piece {
                return Ok(page);
            }
            if looked_at >= LOOKED_AT_MAX {
                page.cursor = Some(Id::of(unsigned(before)).to_string());
                return Ok(page);
            }
            piece = MORE_ROWS;
        }
    }

    /// A message as a list has it.
    ///
    /// # Errors
    /// There is none that may be seen, or the index cannot be read.
    pub(crate) async fn find(&self, id: &str, scope: &Scope) -> Result<(Id, Row), String> {
        // Somebody else's is not told from one that is not there.
        self.look(id, scope).await?.ok_or_else(|| format!("no message {id} is here"))
    }

    /// The same, or nothing.
    ///
    /// # Errors
    /// The index cannot be read.
    pub(crate) async fn look(&self, id: &str, scope: &Scope) -> Result<Option<(Id, Row)>, String> {
        let Some(number) = Id::parse(id) else { return Ok(None) };
        let states = State::ALL.to_vec();
        let search = Search { states, scope: scope.clone(), ..Search::default() };
        let (query, _) = Lead::All.query(false);
        let row = {
            let mut read = self.read.lock().await;
            let bound = signed(number.number());
            let row = sqlx::query(AssertSqlSafe(query));
            let row = row.bind(bound.saturating_add(1)).bind(bound).bind(1_i64);
            row.fetch_optional(&mut *read).await.map_err(trouble)?
        };
        let Some(row) = row else { return Ok(None) };
        let (_, mut row) = read(&row).map_err(trouble)?;
        Ok(search.keeps(&mut row, &[]).then_some((number, row)))
    }
}

fn read(row: &SqliteRow) -> Result<(i64, Row), sqlx::Error> {
    let id: i64 = row.try_get(0)?;
    let number = |at: usize| row.try_get::<i64, _>(at).map(unsigned);
    let text = |at: usize| row.try_get::<String, _>(at);
    let recipients: Option<String> = row.try_get(12)?;
    let recipients = recipients.unwrap_or_default();
    let recipients = recipients.lines().filter_map(|line| {
        let mut parts = line.splitn(3, '\u{1f}');
        let (of, policy, address) = (parts.next()?, parts.next()?, parts.next()?);
        let (state, user) = of.split_at_checked(1)?;
        let state = State::of(state.parse().unwrap_or(0));
        Some(((address.to_owned(), state), (user.to_owned(), policy.to_owned())))
    });
    let (recipients, owners) = recipients.unzip();
    let row = Row {
        id: Id::of(unsigned(id)).to_string(),
        at_ms: number(1)?,
        sender: text(2)?,
        recipients,
        owners,
        subject: text(3)?,
        reason: text(4)?,
        policy: text(5)?,
        points: row.try_get(6)?,
        tests: text(7)?,
        client: text(8)?,
        instance: text(9)?,
        route: text(10)?,
        bytes: number(11)?,
        ..Row::default()
    };
    Ok((id, row))
}
