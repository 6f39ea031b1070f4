//! Decisions, found by what is known of them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Rows that are shown if nobody says how many.
pub const LIMIT: usize = 100;

/// Which decisions are wanted. All that is given must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Query {
    /// The envelope sender: an address, `@DOMAIN`, `.DOMAIN` for all below too, or `<>`.
    pub sender: Option<String>,
    /// The recipient, in the same forms.
    pub recipient: Option<String>,
    /// The client's address, or a network.
    pub client: Option<String>,
    /// The client's name, or `.DOMAIN` for all below.
    pub name: Option<String>,
    /// The account.
    pub account: Option<String>,
    /// The id of the decision.
    pub id: Option<String>,
    /// The queue id of the mail server.
    pub queue_id: Option<String>,
    /// What door and mail server call the message.
    pub instance: Option<String>,
    /// What was decided: `accept`, `defer`, `reject`, `hold`, `discard`.
    pub verdict: Option<String>,
    /// The check that decided.
    pub check: Option<String>,
    /// Not before, as the log writes times (`2026-11-25T11:03:41.630Z`), or the beginning of one.
    pub since: Option<String>,
    /// Not after.
    pub until: Option<String>,
    /// So many rows at the most, the newest.
    pub limit: Option<usize>,
}

/// A decision as the log has it; what is not there is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are those of the decision log")]
pub struct Row {
    pub id: String,
    pub time: String,
    pub door: String,
    pub stage: String,
    pub direction: String,
    pub client: String,
    pub name: String,
    pub helo: String,
    pub sender: String,
    pub recipient: String,
    pub sasl_user: String,
    pub queue_id: String,
    pub instance: String,
    pub policy: String,
    pub check: String,
    pub verdict: String,
    pub reason: String,
    pub reply: String,
    pub trace: String,
}

/// Why a query cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A client that is none.
    #[error("`{0}` is neither an address nor a network such as 192.0.2.0/24")]
    Client(String),
    /// A verdict that there is not.
    #[error("`{0}` is none of accept, defer, reject, hold, discard")]
    Verdict(String),
    /// A time that is none.
    #[error("`{0}` is no time: expected 2026-11-25, 2026-11-25T11:03 or a period such as 2h")]
    Time(String),
}

/// A query that can be answered.
#[derive(Clone, Debug)]
pub struct Wanted {
    query: Query,
    client: Option<IpNet>,
}

const VERDICTS: [&str; 5] = ["accept", "defer", "reject", "hold", "discard"];

impl Query {
    /// Reads what has a form.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn compile(&self) -> Result<Wanted, Fault> {
        let client = match &self.client {
            Some(text) => Some(network(text).ok_or_else(|| Fault::Client(text.clone()))?),
            None => None,
        };
        if let Some(verdict) = &self.verdict
            && !VERDICTS.contains(&verdict.as_str())
        {
            return Err(Fault::Verdict(verdict.clone()));
        }
        for time in [&self.since, &self.until].into_iter().flatten() {
            let is_time = time.len() >= 4
                && time.bytes().all(|b| b.is_ascii_digit() || b"-:.TZ".contains(&b));
            if !is_time {
                return Err(Fault::Time(time.clone()));
            }
        }
        Ok(Wanted { query: self.clone(), client })
    }

    /// How many rows at the most.
    pub fn rows(&self) -> usize {
        self.limit.unwrap_or(LIMIT)
    }
}

fn network(text: &str) -> Option<IpNet> {
    let of = |address: IpAddr| IpNet::from(address.to_canonical());
    text.parse().map(of).ok().or_else(|| text.parse::<IpNet>().ok().map(|net| net.trunc()))
}

impl Wanted {
    /// The query.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// Whether a decision is wanted.
    pub fn fits(&self, row: &Row) -> bool {
        let query = &self.query;
        let same = |wanted: &Option<String>, has: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(has))
        };
        let client = || row.client.parse::<IpAddr>().ok().map(|it| it.to_canonical());
        self.client.is_none_or(|net| client().is_some_and(|client| net.contains(&client)))
            && query.sender.as_ref().is_none_or(|wanted| is_address(wanted, &row.sender))
            && query.recipient.as_ref().is_none_or(|wanted| is_address(wanted, &row.recipient))
            && query.name.as_ref().is_none_or(|wanted| is_name(wanted, &row.name))
            && same(&query.account, &row.sasl_user)
            && same(&query.id, &row.id)
            && query.queue_id.as_ref().is_none_or(|wanted| *wanted == row.queue_id)
            && query.instance.as_ref().is_none_or(|wanted| *wanted == row.instance)
            && same(&query.verdict, &row.verdict)
            && same(&query.check, &row.check)
            && query.since.as_ref().is_none_or(|since| *row.time >= **since)
            // The beginning of a time stands for all of it.
            && query.until.as_ref().is_none_or(|until| {
                *row.time <= **until || row.time.starts_with(until.trim_end_matches('Z'))
            })
    }
}

/// Whether an address is the one that is meant, or one of a domain.
fn is_address(wanted: &str, address: &str) -> bool {
    if wanted == "<>" || wanted.is_empty() {
        return address.is_empty();
    }
    let (wanted, address) = (wanted.to_lowercase(), address.to_lowercase());
    let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
    match wanted.strip_prefix('@').or_else(|| (!wanted.contains('@')).then_some(&*wanted)) {
        Some(wanted) => is_name(wanted, domain),
        None => wanted == address,
    }
}

/// Whether a name is the one that is meant, or below it where that begins with a dot.
fn is_name(wanted: &str, name: &str) -> bool {
    let (wanted, name) = (wanted.to_lowercase(), name.to_lowercase());
    match wanted.strip_prefix('.') {
        Some(parent) => {
            name == parent || name.strip_suffix(parent).is_some_and(|it| it.ends_with('.'))
        }
        None => wanted == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            id: "6ASZJG9Y00".into(),
            time: "2026-11-25T11:03:41.630Z".into(),
            client: "192.0.2.66".into(),
            name: "mx.sender.example".into(),
            sender: "alice@sender.example".into(),
            recipient: "Bob@example.org".into(),
            sasl_user: "fred".into(),
            queue_id: "4bX1".into(),
            verdict: "defer".into(),
            check: "greylist".into(),
            ..Row::default()
        }
    }

    #[test]
    fn all_that_is_given_must_fit() {
        type Set = fn(&mut Query, String);
        let cases: [(Set, &[&str], &[&str]); 11] = [
            (
                |query, it| query.sender = Some(it),
                &[
                    "alice@sender.example",
                    "Alice@Sender.example",
                    "@sender.example",
                    "sender.example",
                    ".example",
                ],
                &[
                    "alice@example.org",
                    "@ender.example",
                    "<>",
                    "bob@sender.example",
                    ".der.example",
                ],
            ),
            (
                |query, it| query.recipient = Some(it),
                &["bob@example.org", "@example.org"],
                &["bob"],
            ),
            (
                |query, it| query.client = Some(it),
                &["192.0.2.66", "192.0.2.0/24", "::ffff:192.0.2.66", "0.0.0.0/0", "192.0.2.66/24"],
                &["192.0.2.67", "2001:db8::/32"],
            ),
            (
                |query, it| query.name = Some(it),
                &["MX.sender.example", ".sender.example"],
                &["sender.example"],
            ),
            (|query, it| query.account = Some(it), &["fred", "Fred"], &["fre"]),
            (|query, it| query.id = Some(it), &["6aszjg9y00"], &["6ASZJG9Y01"]),
            (|query, it| query.queue_id = Some(it), &["4bX1"], &["4BX1"]),
            (|query, it| query.verdict = Some(it), &["defer"], &["reject"]),
            (|query, it| query.check = Some(it), &["greylist"], &["trap"]),
            (
                |query, it| query.since = Some(it),
                &["2026", "2026-11-25", "2026-11-25T11:03:41.630Z"],
                &["2026-11-26", "2026-11-25T11:04"],
            ),
            (
                |query, it| query.until = Some(it),
                &["2026-11-25", "2026-11-25T11:03", "2027"],
                &["2026-11-24", "2026-11-25T11:02"],
            ),
        ];
        for (set, fits, others) in cases {
            for (texts, wanted) in [(fits, true), (others, false)] {
                for text in texts {
                    let mut query = Query { account: Some("fred".into()), ..Query::default() };
                    set(&mut query, (*text).to_owned());
                    assert_eq!(query.compile().unwrap().fits(&row()), wanted, "{text}");
                    query.sender = Some("nobody@else.example".into());
                    assert!(!query.compile().unwrap().fits(&row()), "{text} and another sender");
                }
            }
        }
        let bounce = Row { sender: String::new(), ..row() };
        let query = Query { sender: Some("<>".into()), ..Query::default() };
        assert!(query.compile().unwrap().fits(&bounce));
    }

    #[test]
    fn what_cannot_be_asked_is_told() {
        let of = |query: Query| query.compile().unwrap_err().to_string();
        assert!(of(Query { client: Some("x".into()), ..Query::default() }).contains("neither"));
        assert!(
            of(Query { verdict: Some("refuse".into()), ..Query::default() }).contains("none of")
        );
        assert!(of(Query { since: Some("soon".into()), ..Query::default() }).contains("no time"));
        assert!(
            serde_json::from_str::<Query>(r#"{"sendr":"x"}"#).is_err(),
            "nothing is passed over"
        );
    }
}
