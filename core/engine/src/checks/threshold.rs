//! Thresholds: how much of something an identity may do in a time, and what share of its mail may
//! be spam.
//!
//! Windows slide exactly: in no stretch of time as long as `per` is more than `limit` let through.
//! Messages, recipients and bytes are reserved when asked and given back when the request is
//! refused or the transaction abandoned. A share is judged by the lower bound of what it may be
//! (Wilson, one-sided 90 %), not by three of five. The null sender counts for hosts, but a bounce to
//! somebody who has sent something is not refused for it.

use std::sync::Arc;

use mpp_settings::{Diagnostic, Kind as ValueKind, Reader};

use super::blame::{self, Term};
use super::{Check, Context, Kind, Mode, greylist};
use crate::decide::{Event, Pause, Round, Value};
use crate::facts::{Direction, Facts, Repeat, Stage};
use crate::question::{BlockReason, Counted, IdentityKind, Key};
use crate::verdict::{Action, Cause, Numbers, Verdict};

/// The check as data.
pub const KIND: Kind = Kind {
    name: "threshold",
    summary: "Limit rates, and block streams with too much spam",
    stages: &[Stage::Connect, Stage::Mail, Stage::Rcpt, Stage::Data, Stage::EndOfMessage],
    default_mode: "enforce",
    // A policy's thresholds are an array of tables, read by `read_all`.
    read: |_, _| Arc::new(Thresholds { rules: Vec::new() }),
};

/// What a threshold counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Messages,
    Recipients,
    Bytes,
    Connections,
    Networks,
    UnknownRecipients,
    Traps,
    Spam,
    SpamNetworks,
    Clean,
}

const WHATS: [(&str, What); 10] = [
    ("messages", What::Messages),
    ("recipients", What::Recipients),
    ("bytes", What::Bytes),
    ("connections", What::Connections),
    ("networks", What::Networks),
    ("unknown_recipients", What::UnknownRecipients),
    ("traps", What::Traps),
    ("spam", What::Spam),
    ("spam_networks", What::SpamNetworks),
    ("clean", What::Clean),
];

/// When it is passed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    /// More than so many.
    Count(What, u64),
    /// At least this share of the messages judged is spam, once there are at least `over`.
    SpamShare { share: f64, over: u64 },
}

/// What happens then.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Block(Term),
    Act(Action),
    Notify,
}

#[derive(Clone, Debug)]
struct Rule {
    name: String,
    mode: Mode,
    direction: Option<Direction>,
    key: IdentityKind,
    limit: Limit,
    per_ms: u64,
    then: Then,
    space: u64,
    spam_space: u64,
}

/// The thresholds of a policy.
#[derive(Debug)]
pub struct Thresholds {
    rules: Vec<Rule>,
}

impl Thresholds {
    /// Reads `[[policy.NAME.threshold]]` tables; a later one replaces an earlier of its name.
    pub fn read_all(tables: Vec<Reader<'_>>, context: &Context<'_>) -> Self {
        let mut rules: Vec<Rule> = Vec::new();
        for mut table in tables {
            let Some(rule) = Rule::read(&mut table, context) else { continue };
            table.finish();
            match rules.iter_mut().find(|other| other.name == rule.name) {
                Some(other) => *other = rule,
                None => rules.push(rule),
            }
        }
        Self { rules }
    }
}

impl Rule {
    fn read(table: &mut Reader<'_>, context: &Context<'_>) -> Option<Self> {
        let name = table.text("name", "");
        let directions = [("inbound", Direction::Inbound), ("outbound", Direction::Outbound)];
        let direction = match table.value("direction") {
            Some(_) => table.choice("direction", "inbound", &directions),
            None => None,
        };
        let key = blame::read_kind(table, "client");
        let per_ms = table.period_ms("per", "1h");
        let what = match table.value("count") {
            Some(_) => table.choice("count", "messages", &WHATS),
            None => None,
        };
        let share = table.value("share").map(|_| table.choice("share", "spam", &[("spam", ())]));
        let over = if share.is_some() { table.count("over", 20, (1, 1_000_000_000)) } else { 0 };
        let mode = table.choice("mode", "enforce", &Mode::ALL).unwrap_or(Mode::Enforce);
        let limit = blame::read_limit(table);
        let then = Then::read(table);
        let limit = match (what, share, limit) {
            (Some(what), None, Some(Ok(limit))) => Limit::Count(what, limit),
            (None, Some(_), Some(Err(share))) => Limit::SpamShare { share, over },
            (_, _, limit) => {
                let problem =
                    wrong_limit(table, (what.is_some(), share.is_some()), limit.is_some());
                table.report(problem);
                return None;
            }
        };
        if name.is_empty() {
            let problem = Diagnostic::error(table.place(), "a threshold needs a `name`");
            table.report(problem.help("it stands in the log and lets other policies replace it"));
            return None;
        }
        let space = blame::space(context, &name);
        let spam_space = context.ring.pair(space, 1);
        Some(Self { name, mode, direction, key, limit, per_ms, then, space, spam_space })
    }

    fn applies(&self, facts: &Facts<'_>) -> bool {
        // Nobody is a sender then, and whom a forged one fills with bounces must not be without mail.
        let is_bounce = facts.is_stray()
            && !matches!(facts.stage, Stage::Connect | Stage::Helo)
            && !blame::is_host(self.key)
            && self.key != IdentityKind::Helo;
        self.mode != Mode::Off
            && !is_bounce
            && self.direction.is_none_or(|direction| direction == facts.direction)
    }

    fn key(&self, facts: &Facts<'_>, round: &Round<'_>) -> Option<Key> {
        let hash = facts.keys.of(self.key, round.ring);
        let way = if facts.direction == Direction::Inbound { 1 } else { 2 };
        (hash != 0).then(|| round.ring.key(self.space, round.ring.pair(hash, way)))
    }

    fn spam_key(&self, facts: &Facts<'_>, round: &Round<'_>) -> Key {
        let hash = facts.keys.of(self.key, round.ring);
        let way = if facts.direction == Direction::Inbound { 1 } else { 2 };
        round.ring.key(self.spam_space, round.ring.pair(hash, way))
    }

    /// Asks the store; how much is used if the rule is passed.
    fn passed(
        &self,
        facts: &Facts<'_>,
        round: &mut Round<'_>,
    ) -> Result<Option<(u64, Counted)>, Pause> {
        let Some(key) = self.key(facts, round) else { return Ok(None) };
        let (what, limit) = match self.limit {
            Limit::Count(what, limit) => (what, limit),
            Limit::SpamShare { .. } if matches!(self.then, Then::Act(_)) => {
                return self.share(facts, round, None);
            }
            Limit::SpamShare { .. } => return Ok(None),
        };
        let amount = match what {
            What::Messages | What::Recipients | What::Bytes => amount(what, facts),
            What::Connections => Some(u32::from(facts.is_new_connection)),
            What::Networks => {
                if facts.stage != Stage::Rcpt || facts.is_spared {
                    return Ok(None);
                }
                let counted = round.distinct(key, facts.keys.network, self.per_ms)?;
                return Ok((counted.used > limit).then_some((limit, counted)));
            }
            _ if matches!(self.then, Then::Act(_)) => {
                let counted = round.count(key, self.per_ms, 0)?;
                return Ok((counted.used > limit).then_some((limit, counted)));
            }
            _ => return Ok(None),
        };
        let Some(amount) = amount else { return Ok(None) };
        if facts.repeat == Repeat::LetThrough {
            // Counted when it was asked the first time; that answer holds.
            return Ok(None);
        }
        let counted = round.reserve(key, self.per_ms, amount, limit)?;
        Ok((!counted.granted).then_some((limit, counted)))
    }

    /// Counts a judged message, or only looks, and says whether the share is passed.
    fn share(
        &self,
        facts: &Facts<'_>,
        round: &mut Round<'_>,
        is_spam: Option<bool>,
    ) -> Result<Option<(u64, Counted)>, Pause> {
        let Limit::SpamShare { share, over } = self.limit else { return Ok(None) };
        let Some(key) = self.key(facts, round) else { return Ok(None) };
        let spam_key = self.spam_key(facts, round);
        let (all, spam) = (
            round.count(key, self.per_ms, u32::from(is_spam.is_some())),
            round.count(spam_key, self.per_ms, u32::from(is_spam == Some(true))),
        );
        let (all, spam) = (all?, spam?);
        if all.used < over || lower_bound(spam.used, all.used) < share {
            return Ok(None);
        }
        #[allow(clippy::cast_possible_truncation, reason = "a share lies between 0 and 1")]
        round.remark("share", Value::Share(lower_bound(spam.used, all.used) as f32));
        Ok(Some((over, spam)))
    }
}

/// How much a request adds to a count of messages, recipients or bytes, if it adds at this stage.
fn amount(what: What, facts: &Facts<'_>) -> Option<u32> {
    let is_end = matches!(facts.stage, Stage::Data | Stage::EndOfMessage);
    let amount = match what {
        What::Messages if is_end || facts.stage == Stage::Rcpt => {
            u32::from(!facts.reserved.message)
        }
        What::Recipients if facts.stage == Stage::Rcpt => 1,
        // Asked at the end only: the recipients that were not reserved one by one.
        What::Recipients if is_end => {
            facts.recipient_count.saturating_sub(facts.reserved.recipients)
        }
        What::Bytes if facts.stage == Stage::EndOfMessage => {
            u32::try_from(facts.size_bytes).unwrap_or(u32::MAX)
        }
        _ => 0,
    };
    (amount > 0).then_some(amount)
}

impl Then {
    fn read(table: &mut Reader<'_>) -> Self {
        const WORDS: [(&str, Then); 5] = [
            ("defer", Then::Act(Action::Defer)),
            ("reject", Then::Act(Action::Reject)),
            ("hold", Then::Act(Action::Hold)),
            ("discard", Then::Act(Action::Discard)),
            ("notify", Then::Notify),
        ];
        match table.value("then").map(|(_, value)| &value.kind) {
            Some(ValueKind::Table(_)) => {
                let mut then = table.table("then");
                let term = Term::read(&mut then, "1h", 1.0, "7d");
                then.finish();
                Self::Block(term)
            }
            _ => table.choice("then", "defer", &WORDS).unwrap_or(Self::Act(Action::Defer)),
        }
    }
}

fn wrong_limit(table: &mut Reader<'_>, (count, share): (bool, bool), limit: bool) -> Diagnostic {
    let place = table.value("limit").map(|(_, value)| value.place.clone());
    let place = place.unwrap_or_else(|| table.place());
    let message = match (count, share, limit) {
        (true, true, _) => "a threshold has either `count` or `share`, not both",
        (false, false, _) => "a threshold needs `count` or `share`",
        (_, _, false) => "a threshold needs a `limit`: a whole number, or a share such as \"30%\"",
        (true, ..) => "the limit of a `count` is a whole number",
        (false, ..) => "the limit of a `share` is a share such as \"30%\"",
    };
    Diagnostic::error(place, message)
}

/// The lower end of what the true share may be, given `part` of `all` seen: the one-sided 90 %
/// Wilson score bound.
pub fn lower_bound(part: u64, all: u64) -> f64 {
    const Z: f64 = 1.281_551_6;
    if all == 0 {
        return 0.0;
    }
    #[allow(clippy::cast_precision_loss, reason = "counts of messages are far below 2^52")]
    let (part, all) = (part.min(all) as f64, all as f64);
    let share = part / all;
    let spread = Z * (share * (1.0 - share) / all + Z * Z / (4.0 * all * all)).sqrt();
    ((share + Z * Z / (2.0 * all) - spread) / (1.0 + Z * Z / all)).max(0.0)
}

impl Check for Thresholds {
    fn judge(&self, facts: &Facts<'_>, round: &mut Round<'_>) -> Result<Option<Verdict>, Pause> {
        if self.rules.is_empty() || round.is_allowed() {
            return Ok(None);
        }
        let mut pause = None;
        let mut opinion = None;
        let is_expected = greylist::is_expected_bounce(facts, round).unwrap_or_else(|missing| {
            pause = Some(missing);
            false
        });
        for (number, rule) in self.rules.iter().enumerate() {
            if !rule.applies(facts) {
                continue;
            }
            match rule.passed(facts, round) {
                Err(missing) => pause = Some(missing),
                Ok(Some(_)) if is_expected => {}
                Ok(Some((limit, counted))) => {
                    round.remark("limit", Value::Number(limit));
                    round.remark("used", Value::Number(counted.used));
                    round.remark("per", Value::Period(rule.per_ms));
                    if rule.mode == Mode::Shadow {
                        round.remark("would", Value::Word("refuse"));
                        continue;
                    }
                    let number = u16::try_from(number).unwrap_or(u16::MAX);
                    opinion = opinion.or(rule.act(facts, (limit, counted), round));
                    if !matches!(rule.then, Then::Act(_)) {
                        round.event(Event::OverLimit(number));
                    }
                }
                Ok(None) => {}
            }
        }
        match pause {
            Some(pause) => Err(pause),
            None => Ok(opinion),
        }
    }

    fn learn(&self, facts: &Facts<'_>, event: Event, round: &mut Round<'_>) -> Result<(), Pause> {
        if self.rules.is_empty() || blame::is_old_news(facts, event, round)? {
            return Ok(());
        }
        let mut pause = None;
        for (number, rule) in self.rules.iter().enumerate() {
            if !rule.applies(facts) || (facts.is_spared && facts.sasl_user.is_empty()) {
                continue;
            }
            if let Err(missing) = rule.learn(facts, (event, number), round) {
                pause = Some(missing);
            }
        }
        pause.map_or(Ok(()), Err)
    }
}

impl Rule {
    fn act(
        &self,
        facts: &Facts<'_>,
        (limit, counted): (u64, Counted),
        round: &Round<'_>,
    ) -> Option<Verdict> {
        let action = match self.then {
            Then::Act(action) => action,
            Then::Block(_) => Action::Defer,
            Then::Notify => return None,
        };
        let cause = match facts.direction {
            Direction::Inbound => Cause::Rate,
            Direction::Outbound => Cause::Quota,
        };
        let wait_ms = match self.then {
            Then::Block(term) => term.for_ms,
            _ => counted.frees_at_ms.saturating_sub(round.now_ms),
        };
        let numbers = Numbers { wait_ms, limit, used: counted.used, per_ms: self.per_ms };
        Some(Verdict { action, cause, numbers })
    }

    fn learn(
        &self,
        facts: &Facts<'_>,
        (event, number): (Event, usize),
        round: &mut Round<'_>,
    ) -> Result<(), Pause> {
        let is_over = match (self.limit, event) {
            (_, Event::OverLimit(which)) => usize::from(which) == number,
            (Limit::SpamShare { .. }, Event::Spam | Event::Clean) => {
                self.share(facts, round, Some(event == Event::Spam))?.is_some()
                    && event == Event::Spam
            }
            (Limit::Count(what, limit), _) if what.is_event(event) => {
                let Some(key) = self.key(facts, round) else { return Ok(()) };
                let counted = if what == What::SpamNetworks {
                    round.distinct(key, facts.keys.network, self.per_ms)?
                } else {
                    round.count(key, self.per_ms, 1)?
                };
                round.remark("used", Value::Number(counted.used));
                counted.used > limit
            }
            _ => false,
        };
        let Then::Block(term) = self.then else { return Ok(()) };
        if !is_over {
            return Ok(());
        }
        if self.mode == Mode::Shadow {
            round.remark("would", Value::Word("block"));
            return Ok(());
        }
        let culprits = blame::culprits(facts, self.key, round)?;
        let reason = match self.limit {
            Limit::SpamShare { .. } | Limit::Count(What::Spam | What::SpamNetworks, _) => {
                BlockReason::SpamShare
            }
            Limit::Count(What::Traps, _) => BlockReason::Trap,
            Limit::Count(What::UnknownRecipients, _) => BlockReason::Harvest,
            Limit::Count(..) => BlockReason::Rate,
        };
        blame::block(facts, culprits, (reason, term), round);
        Ok(())
    }
}

impl What {
    fn is_event(self, event: Event) -> bool {
        matches!(
            (self, event),
            (Self::UnknownRecipients, Event::UnknownRecipient)
                | (Self::Traps, Event::TrapHit)
                | (Self::Spam | Self::SpamNetworks, Event::Spam)
                | (Self::Clean, Event::Clean)
        )
    }
}

impl Thresholds {
    /// The names of the rules, by their numbers.
    pub fn names(&self) -> Vec<String> {
        self.rules.iter().map(|rule| rule.name.clone()).collect()
    }

    /// Whether any rule counts the bytes of messages.
    pub fn counts_bytes(&self) -> bool {
        let counts = |rule: &Rule| matches!(rule.limit, Limit::Count(What::Bytes, _));
        self.rules.iter().any(|rule| rule.mode != Mode::Off && counts(rule))
    }

    /// Whether any rule holds messages for their bytes, which are known at their end only.
    pub fn holds_at_end(&self) -> bool {
        self.rules.iter().any(|rule| {
            rule.mode == Mode::Enforce
                && rule.then == Then::Act(Action::Hold)
                && matches!(rule.limit, Limit::Count(What::Bytes, _))
        })
    }

    /// Whether any rule counts what a transaction holds until it is over.
    pub fn holds(&self) -> bool {
        self.rules.iter().any(|rule| {
            matches!(
                rule.limit,
                Limit::Count(
                    What::Messages | What::Recipients | What::Bytes | What::Connections,
                    _
                )
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::lower_bound;

    #[test]
    fn few_messages_prove_little() {
        assert!(lower_bound(3, 5) < 0.4, "three of five is not yet 40 %");
        assert!(lower_bound(60, 100) > 0.5, "sixty of a hundred is more than half");
        assert!((lower_bound(0, 100)).abs() < 1e-9);
        assert!(lower_bound(0, 0).abs() < 1e-9);
        for all in 1..50 {
            for part in 1..=all {
                assert!(lower_bound(part, all) >= lower_bound(part - 1, all));
            }
        }
    }
}
