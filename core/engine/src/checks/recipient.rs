//! Recipient verification from lists, and the harvest rule.
//!
//! A list says which users of which domains exist; a recipient of such a domain who is not on it
//! is refused before DATA. Domains on no list are nobody's business here. `postmaster` exists
//! everywhere (RFC 5321 section 4.5.1).
//!
//! Whoever asks for many users that do not exist is guessing: it is blocked, and from then on gets
//! the same answer for every recipient. Senders with a good history keep their 550, which is how
//! their lists are cleaned.

use std::sync::Arc;

use hashbrown::HashSet;
use mpp_settings::Reader;

use super::blame::{self, Term};
use super::{Check, Context, Kind};
use crate::address;
use crate::decide::{Event, Pause, Round, Value};
use crate::facts::{Direction, Facts, Repeat, Stage};
use crate::identity::Keyring;
use crate::question::{BlockReason, IdentityKind};
use crate::verdict::{Action, Cause, Verdict};

/// The check as data.
pub const KIND: Kind = Kind {
    name: "recipient",
    summary: "Refuse recipients who do not exist, and block hosts that guess at them",
    stages: &[Stage::Rcpt, Stage::Vrfy],
    default_mode: "enforce",
    read: |table, context| Arc::new(Recipient::read(table, context)),
};

/// The recipient lists of a configuration, `[recipients.NAME]`.
#[derive(Debug, Default)]
pub struct Lists {
    /// Domains whose users are listed.
    domains: HashSet<u64>,
    /// Users, and domains in which everybody exists.
    known: HashSet<u64>,
    delimiters: String,
}

/// What the lists say of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its domain is on no list.
    Foreign,
    /// It exists.
    Known,
    /// It does not.
    Unknown,
}

impl Lists {
    /// Adds one list. Its domains are those it names, or without any those of its addresses.
    pub fn add(&mut self, table: &mut Reader<'_>, ring: Keyring) {
        let domains = table.list("domains", &[], |domain| {
            let domain = domain.trim_start_matches('@').to_ascii_lowercase();
            if domain.is_empty() || domain.contains(['@', ' ', '\t']) {
                return Err(format!("`{domain}` is not a domain"));
            }
            Ok(ring.text(&domain))
        });
        let without_domains = domains.is_empty();
        self.domains.extend(domains);
        let mut add = |line: &str| -> Result<(), String> {
            // The Postfix table form `user@example.org  OK`: what follows the address is ignored.
            let entry = key_of(line).to_ascii_lowercase();
            let (local, domain) = address::split(&entry);
            if domain.is_empty() {
                return Err(format!("`{entry}` is not an address"));
            }
            if without_domains {
                self.domains.insert(ring.text(domain));
            }
            let hash = if local.is_empty() {
                catch_all(ring, ring.text(domain))
            } else {
                ring.text(&entry)
            };
            self.known.insert(hash);
            Ok(())
        };
        table.files("file", &mut add);
        table.list("addresses", &[], &mut add);
        self.delimiters.push_str(&table.text("delimiter", "+"));
    }

    /// Whether no domain is listed.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Whether a domain, by its hash, is one of ours.
    pub fn covers(&self, domain: u64) -> bool {
        self.domains.contains(&domain)
    }

    /// What the lists say of a recipient.
    pub fn standing(&self, facts: &Facts<'_>, ring: Keyring) -> Standing {
        let keys = &facts.keys;
        if self.domains.is_empty() || !self.domains.contains(&keys.recipient_domain) {
            return Standing::Foreign;
        }
        let (local, domain) = address::split(facts.recipient);
        if self.known.contains(&keys.recipient)
            || local == "postmaster"
            || self.known.contains(&catch_all(ring, keys.recipient_domain))
        {
            return Standing::Known;
        }
        // user+detail@: the longest stem that exists.
        let mut stem = local;
        while let Some(at) = stem.rfind(|c| self.delimiters.contains(c)) {
            stem = stem.get(..at).unwrap_or_default();
            if !stem.is_empty() && self.known.contains(&ring.text(&format!("{stem}@{domain}"))) {
                return Standing::Known;
            }
        }
        Standing::Unknown
    }
}

/// The first word of a line; a quoted local part may hold spaces.
fn key_of(line: &str) -> &str {
    let mut is_quoted = false;
    let mut is_escaped = false;
    let end = line.find(|letter: char| {
        is_quoted ^= letter == '"' && !is_escaped;
        is_escaped = letter == '\\' && !is_escaped;
        letter.is_whitespace() && !is_quoted
    });
    line.get(..end.unwrap_or(line.len())).unwrap_or(line)
}

fn catch_all(ring: Keyring, domain: u64) -> u64 {
    ring.pair(domain, 1)
}

#[derive(Debug)]
struct Recipient {
    lists: Arc<Lists>,
    harvest_limit: u64,
    harvest_per_ms: u64,
    term: Term,
    space: u64,
}

impl Recipient {
    fn read(table: &mut Reader<'_>, context: &Context<'_>) -> Self {
        let mut harvest = table.table("harvest");
        let check = Self {
            lists: Arc::clone(context.recipients),
            harvest_limit: harvest.count("limit", 4, (0, 1_000_000)),
            harvest_per_ms: harvest.duration_ms("per", "1d"),
            term: Term::read(&mut harvest, "6h", 2.0, "7d"),
            space: blame::space(context, "harvest"),
        };
        harvest.finish();
        check
    }
}

impl Check for Recipient {
    fn judge(&self, facts: &Facts<'_>, round: &mut Round<'_>) -> Result<Option<Verdict>, Pause> {
        if facts.recipient.is_empty() {
            return Ok(None);
        }
        match self.lists.standing(facts, round.ring) {
            Standing::Foreign => Ok(None),
            Standing::Known => {
                round.remark("is", Value::Word("known"));
                Ok(None)
            }
            Standing::Unknown => {
                round.remark("is", Value::Word("unknown"));
                if facts.repeat == Repeat::No {
                    round.event(Event::UnknownRecipient);
                }
                Ok(Some(Verdict::new(Action::Reject, Cause::UnknownRecipient)))
            }
        }
    }

    fn learn(&self, facts: &Facts<'_>, event: Event, round: &mut Round<'_>) -> Result<(), Pause> {
        if event != Event::UnknownRecipient
            || facts.direction == Direction::Outbound
            || facts.is_null_sender()
            || round.is_allowed()
        {
            return Ok(());
        }
        // Asked before anything is counted: what counts as it answers must not count old news.
        if blame::is_old_news(facts, event, round)? {
            return Ok(());
        }
        let key = round.ring.key(self.space, facts.keys.client);
        let (counted, culprits) = (
            round.count(key, self.harvest_per_ms, 1),
            blame::culprits(facts, IdentityKind::Client, round),
        );
        let (counted, culprits) = (counted?, culprits?);
        round.remark("unknown", Value::Number(counted.used));
        round.remark("limit", Value::Number(self.harvest_limit));
        if counted.used > self.harvest_limit {
            blame::block(facts, culprits, (BlockReason::Harvest, self.term), round);
        }
        Ok(())
    }
}
