//! Spam traps: addresses that nobody writes to in good faith.
//!
//! A host that writes to one is blocked for a time. The answer is the one for an unknown user, so
//! traps cannot be told apart. A hit counts even where another rule refuses first.

use std::sync::Arc;

use hashbrown::HashSet;
use mpp_settings::Reader;
use regex::{RegexSet, RegexSetBuilder};

use super::blame::{self, Term};
use super::{Check, Context, Kind, block};
use crate::address;
use crate::decide::{Event, Pause, Round, Value};
use crate::entry;
use crate::facts::{Direction, Facts, Repeat, Stage};
use crate::question::{BlockReason, Counted, IdentityKind};
use crate::verdict::{Action, Cause, Verdict};

/// The check as data.
pub const KIND: Kind = Kind {
    name: "trap",
    summary: "Block hosts that write to spam traps",
    stages: &[Stage::Rcpt],
    default_mode: "enforce",
    read: |table, context| Arc::new(Trap::read(table, context)),
};

/// Memory that the compiled expressions of one policy may take, in bytes.
const REGEX_BYTES_MAX: usize = 64 << 20;

/// Bounces that go astray are counted for so long, in milliseconds.
const STRAY_MS: u64 = 86_400_000;

#[derive(Debug)]
struct Trap {
    patterns: RegexSet,
    addresses: HashSet<u64>,
    term: Term,
    stray_space: u64,
}

impl Trap {
    fn read(table: &mut Reader<'_>, context: &Context<'_>) -> Self {
        let patterns = table.list("patterns", &[], |pattern| {
            // Compiled alone first, so that a wrong one is named.
            regex::RegexBuilder::new(pattern)
                .case_insensitive(true)
                .size_limit(REGEX_BYTES_MAX)
                .build()
                .map(|_| pattern.to_owned())
                .map_err(|error| format!("not a regular expression: {}", last_line(&error)))
        });
        let place = table.place();
        let patterns = RegexSetBuilder::new(&patterns)
            .case_insensitive(true)
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(8 << 20)
            .build()
            .unwrap_or_else(|error| {
                let message = format!("the trap expressions together: {}", last_line(&error));
                table.report(mpp_settings::Diagnostic::error(place, message));
                RegexSet::empty()
            });
        let addresses = table
            .list("addresses", &[], |text| {
                let text = text.to_ascii_lowercase();
                entry::address(&text).map_err(|fault| fault.to_string())?;
                if text.starts_with('@') {
                    return Err(format!("`{text}` is no address: a trap is one, with its user"));
                }
                Ok(context.ring.text(&address::canonical(&text)))
            })
            .into_iter()
            .collect();
        let stray_space = blame::space(context, "stray traps");
        Self { patterns, addresses, term: Term::read(table, "1d", 2.0, "7d"), stray_space }
    }

    fn is_trap(&self, facts: &Facts<'_>) -> bool {
        (!self.addresses.is_empty() && self.addresses.contains(&facts.keys.recipient))
            || (!self.patterns.is_empty() && self.patterns.is_match(facts.recipient))
    }
}

fn last_line(error: &regex::Error) -> String {
    error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

impl Check for Trap {
    fn judge(&self, facts: &Facts<'_>, round: &mut Round<'_>) -> Result<Option<Verdict>, Pause> {
        if facts.direction == Direction::Outbound || round.is_allowed() || !self.is_trap(facts) {
            return Ok(None);
        }
        if facts.repeat == Repeat::No {
            round.event(Event::TrapHit);
        }
        round.remark("hit", Value::Word("yes"));
        // Who is blocked gets the one answer for everything, and learns nothing from it.
        if round.policy.enforces_blocks && block::refusing(facts, round)?.is_some() {
            return Ok(None);
        }
        Ok(Some(Verdict::new(Action::Reject, Cause::Trap)))
    }

    fn learn(&self, facts: &Facts<'_>, event: Event, round: &mut Round<'_>) -> Result<(), Pause> {
        if event != Event::TrapHit {
            return Ok(());
        }
        // A bounce to a forged sender may hit a trap: one proves nothing.
        let stray = round.ring.key(self.stray_space, facts.keys.client);
        let (is_old_news, culprits, strays) = (
            blame::is_old_news(facts, event, round),
            blame::culprits(facts, IdentityKind::Client, round),
            if facts.is_stray() { round.count(stray, STRAY_MS, 1) } else { Ok(Counted::default()) },
        );
        let strays = strays?;
        if is_old_news? || (facts.is_stray() && strays.used < blame::STRAYS) {
            return Ok(());
        }
        let culprits = culprits?;
        blame::block(facts, culprits, (BlockReason::Trap, self.term), round);
        Ok(())
    }
}
