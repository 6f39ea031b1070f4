//! Access lists: what is allowed or denied by client, verified name, HELO, sender or recipient.
//!
//! An allow entry spares a transaction all that is about reputation (blocks, thresholds, traps,
//! greylisting); it does not make an unknown recipient exist. A sender address is easily forged:
//! allow a sender only together with a client that is known.

use std::sync::Arc;

use hashbrown::HashSet;
use mpp_settings::Reader;

use super::{Check, Context, Kind};
use crate::address;
use crate::decide::{Pause, Round, Value};
use crate::facts::{Facts, Stage};
use crate::identity::Keyring;
use crate::network::{self, NetworkSet};
use crate::policy::Pattern;
use crate::verdict::{Action, Cause, Verdict};

/// The check as data.
pub const KIND: Kind = Kind {
    name: "access",
    summary: "Allow or deny by client network, verified name, HELO, sender or recipient",
    stages: &Stage::EVERY,
    default_mode: "enforce",
    read: |table, context| Arc::new(Access::read(table, context)),
};

#[derive(Debug)]
struct Access {
    allow: List,
    deny: List,
}

/// One list in all its dimensions. An entry of any of them is a hit.
#[derive(Debug, Default)]
struct List {
    client: NetworkSet,
    name: Names,
    helo: Names,
    sender: Names,
    recipient: Names,
}

/// Addresses and domains as hashes, so that a million of them cost eight bytes each and a look-up
/// costs one probe a label.
#[derive(Debug, Default)]
struct Names {
    hashes: HashSet<u64>,
    has_parents: bool,
}

impl Access {
    fn read(table: &mut Reader<'_>, context: &Context<'_>) -> Self {
        let allow = List::read(&mut table.table("allow"), context.ring);
        let deny = List::read(&mut table.table("deny"), context.ring);
        Self { allow, deny }
    }
}

impl List {
    fn read(table: &mut Reader<'_>, ring: Keyring) -> Self {
        let list = Self {
            client: table.list("client", &[], network::parse).into_iter().collect(),
            name: Names::read(table, "name", ring),
            helo: Names::read(table, "helo", ring),
            sender: Names::read(table, "sender", ring),
            recipient: Names::read(table, "recipient", ring),
        };
        table.finish();
        list
    }

    /// The dimension in which the transaction is on the list.
    fn hit(&self, facts: &Facts<'_>, ring: Keyring) -> Option<&'static str> {
        if !self.client.is_empty() && self.client.contains(facts.client) {
            return Some("client");
        }
        let dimensions = [
            ("name", &self.name, facts.client_name, 0),
            ("helo", &self.helo, facts.helo, 0),
            ("sender", &self.sender, facts.sender, facts.keys.sender),
            ("recipient", &self.recipient, facts.recipient, facts.keys.recipient),
        ];
        let on = dimensions.iter().find(|(_, names, text, hash)| names.holds(text, *hash, ring));
        on.map(|(dimension, ..)| *dimension)
    }
}

impl Names {
    fn read(table: &mut Reader<'_>, name: &'static str, ring: Keyring) -> Self {
        let mut names = Self::default();
        names.hashes = table
            .list(name, &[], |text| {
                Ok(match Pattern::parse(text)? {
                    Pattern::Address(address) => ring.text(&address),
                    Pattern::Domain(domain) => ring.pair(ring.text(&domain), 1),
                    Pattern::Below(domain) => {
                        names.has_parents = true;
                        ring.pair(ring.text(&domain), 2)
                    }
                })
            })
            .into_iter()
            .collect();
        names
    }

    /// Whether an address or a name is on the list; `hash` is its own if that is known, else 0.
    fn holds(&self, text: &str, hash: u64, ring: Keyring) -> bool {
        if self.hashes.is_empty() || text.is_empty() {
            return false;
        }
        let (local, domain) = address::split(text);
        // A bare name is a domain: `split` takes what has no `@` for a local part.
        let domain = if domain.is_empty() { local } else { domain };
        if (hash != 0 && self.hashes.contains(&hash))
            || self.hashes.contains(&ring.pair(ring.text(domain), 1))
        {
            return true;
        }
        let mut parent = if self.has_parents { domain } else { "" };
        while !parent.is_empty() {
            if self.hashes.contains(&ring.pair(ring.text(parent), 2)) {
                return true;
            }
            parent = parent.split_once('.').map_or("", |(_, above)| above);
        }
        false
    }
}

impl Check for Access {
    fn judge(&self, facts: &Facts<'_>, round: &mut Round<'_>) -> Result<Option<Verdict>, Pause> {
        if let Some(dimension) = self.allow.hit(facts, round.ring) {
            round.remark("allowed", Value::Word(dimension));
            round.allow();
            return Ok(None);
        }
        if let Some(dimension) = self.deny.hit(facts, round.ring) {
            round.remark("denied", Value::Word(dimension));
            return Ok(Some(Verdict::new(Action::Reject, Cause::Denied)));
        }
        Ok(None)
    }
}
