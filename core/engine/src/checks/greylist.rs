//! Greylisting: ask an unknown sender to come back later (RFC 6647).
//!
//! The key is (sender identity, stable sender, recipient); nothing of the content. The identity is
//! the organisational domain of the verified client name, so that a retry from another member of a
//! mailbox provider's pool is the retry, else the /24 or /64. Whoever came back once in time is
//! done with greylisting for `memory`.
//!
//! Clients that look like a customer's line rather than a mail server (a name that spells the
//! address, or no name and a HELO that is none) wait `line_delay`, doubtful ones a third of it: bots
//! that retry at all rarely do so for long, and meanwhile traps and scanners may tell of them.
//!
//! Local networks and authenticated users are outbound and never come here; nor do people to whom
//! our users wrote first, and senders with a good history.

use std::sync::Arc;

use mpp_settings::{Diagnostic, Reader, form};

use super::{Check, Context, Kind, blame};
use crate::address;
use crate::decide::{Event, Pause, Round, Value};
use crate::facts::{Direction, Facts, Repeat, Stage};
use crate::identity::Keyring;
use crate::network;
use crate::question::{Effect, IdentityKind, Key, Moment, Note, Shelf};
use crate::recipients::Recipients;
use crate::verdict::{Action, Cause, Numbers, Verdict};

/// The check as data.
pub const KIND: Kind = Kind {
    name: "greylist",
    summary: "Ask an unknown sender to come back later",
    stages: &[Stage::Rcpt],
    default_mode: "enforce",
    read: |table, context| Arc::new(Greylist::read(table, context)),
};

/// What makes keys of one shelf differ from those of another.
const TRIPLET_SPACE: u64 = 0x61;
const PROVER_SPACE: u64 = 0x62;
const CORRESPONDENT_SPACE: u64 = 0x63;
/// What makes the key of a user who has sent something differ from those of whom he wrote to.
const SENT_SPACE: u64 = 0x5e27;
/// Bounces come for as long as mail is tried (RFC 5321 section 4.5.4.1: four to five days), and a while
/// longer, in milliseconds.
const SENT_KEEP_MS: u64 = 8 * 86_400_000;

#[derive(Debug)]
struct Greylist {
    delay_ms: u64,
    line_delay_ms: u64,
    window_ms: u64,
    memory_ms: u64,
    correspondents_ms: u64,
    trusts_history: bool,
    asks_imported: bool,
    recipients: Arc<Recipients>,
}

/// No window is shorter, in milliseconds: servers there are that come back once a day.
pub const WINDOW_LEAST_MS: u64 = 86_400_000;

fn read_window(table: &mut Reader<'_>) -> u64 {
    let window_ms = table.duration_ms("window", "2d");
    if window_ms < WINDOW_LEAST_MS
        && let Some((_, value)) = table.value("window")
    {
        let problem = Diagnostic::warning(value.place.clone(), "a window shorter than a day");
        let problem = problem.label("taken as \"1d\"");
        table.report(problem.help("mail of servers that come back later would be lost"));
    }
    window_ms.max(WINDOW_LEAST_MS)
}

impl Greylist {
    fn read(table: &mut Reader<'_>, context: &Context<'_>) -> Self {
        let delay_ms = table.duration_ms("delay", "1m");
        let has_line_delay = table.value("line_delay").is_some();
        let line_delay_ms = table.duration_ms("line_delay", "10m");
        let window_ms = read_window(table);
        for (name, delay_ms) in [("delay", delay_ms), ("line_delay", line_delay_ms)] {
            if delay_ms >= window_ms {
                let window = form::duration_text(window_ms);
                table.mistake(name, &format!("nobody ever passes: the window ends after {window}"));
            }
        }
        Self {
            delay_ms,
            // Whoever sets only the delay means all clients.
            line_delay_ms: if has_line_delay || table.value("delay").is_none() {
                line_delay_ms
            } else {
                delay_ms
            },
            window_ms,
            memory_ms: table.period_ms("memory", "35d"),
            correspondents_ms: table.duration_ms("correspondents", "90d"),
            trusts_history: table.flag("trust_history", true),
            asks_imported: table.flag("imported", false),
            recipients: Arc::clone(context.recipients),
        }
    }

    fn delay_ms(&self, facts: &Facts<'_>) -> u64 {
        match Looks::of(facts) {
            Looks::Server => self.delay_ms,
            Looks::Doubtful => self.delay_ms.max(self.line_delay_ms / 3),
            Looks::Line => self.line_delay_ms,
        }
    }
}

/// What a client looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looks {
    /// A name that leads back to the address and does not spell it; or no name, but a HELO that
    /// fits the sender's organisation or the address's own name.
    Server,
    /// Neither.
    Doubtful,
    /// A name that spells the address, or none and a HELO that is no name.
    Line,
}

impl Looks {
    fn of(facts: &Facts<'_>) -> Self {
        if facts.keys.organisation != 0 {
            return Self::Server;
        }
        let (helo, reverse) = (facts.helo, facts.reverse_name);
        let is_line = |name: &str| network::is_line_name(name, facts.client);
        let no_name = helo.starts_with('[') || !helo.contains('.');
        // A verified name that is no organisation's spells the address.
        if !facts.client_name.is_empty() || is_line(reverse) || no_name || is_line(helo) {
            return Self::Line;
        }
        let own = psl::domain_str(helo);
        let sender = psl::domain_str(address::split(facts.sender).1);
        if own.is_some() && (own == sender || own == psl::domain_str(reverse)) {
            Self::Server
        } else {
            Self::Doubtful
        }
    }
}

/// The key of a first try.
pub fn triplet_key(facts: &Facts<'_>, ring: Keyring) -> Key {
    triplet_of(facts.keys.pool(), facts, ring)
}

fn triplet_of(pool: u64, facts: &Facts<'_>, ring: Keyring) -> Key {
    let sender = ring.pair(facts.keys.stable_sender, facts.keys.recipient);
    ring.key(TRIPLET_SPACE, ring.pair(pool, sender))
}

/// The key of an identity that came back.
pub fn prover_key(facts: &Facts<'_>, ring: Keyring) -> Key {
    ring.key(PROVER_SPACE, facts.keys.prover())
}

/// The keys under which a client is remembered whose name nobody knew: what another greylist had, which
/// keeps addresses and networks alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByAddress {
    /// Of its address, as an identity that came back.
    pub host: Key,
    /// Of its network, as the same.
    pub network: Key,
    /// Of a first try from its network.
    pub triplet: Key,
}

impl ByAddress {
    /// The keys for these facts.
    pub fn of(facts: &Facts<'_>, ring: Keyring) -> Self {
        Self {
            host: ring.key(PROVER_SPACE, facts.keys.client),
            network: ring.key(PROVER_SPACE, facts.keys.network),
            triplet: triplet_of(facts.keys.network, facts, ring),
        }
    }

    /// What is remembered under them: who came back, and the first try.
    fn ask(self, round: &mut Round<'_>) -> Result<(Option<Moment>, Option<Moment>), Pause> {
        let (host, network, tried) = (
            round.since(Shelf::Proven, self.host),
            round.since(Shelf::Proven, self.network),
            round.since(Shelf::Greylisted, self.triplet),
        );
        let (host, network, tried) = (host?, network?, tried?);
        Ok((host.or(network), tried))
    }
}

/// The key of mail between one of our users and somebody outside.
fn correspondent_key(ring: Keyring, ours: u64, theirs: u64) -> Key {
    ring.key(CORRESPONDENT_SPACE, ring.pair(ours, theirs))
}

/// When the recipient last wrote to the sender.
///
/// # Errors
/// As [`Round::since`].
pub(super) fn written_to(
    facts: &Facts<'_>,
    round: &mut Round<'_>,
) -> Result<Option<Moment>, Pause> {
    if facts.is_null_sender() {
        return Ok(None);
    }
    let key = correspondent_key(round.ring, facts.keys.recipient, facts.keys.sender);
    round.since(Shelf::Correspondent, key)
}

/// The key of one of our users as somebody who has sent something.
fn sent_key(ring: Keyring, ours: u64) -> Key {
    ring.key(CORRESPONDENT_SPACE, ring.pair(ours, SENT_SPACE))
}

/// Notes that one of our users sends something: bounces may follow.
pub(super) fn note_sent(facts: &Facts<'_>, round: &mut Round<'_>) {
    if facts.direction == Direction::Outbound
        && facts.stage == Stage::Rcpt
        && facts.keys.sender != 0
    {
        let (shelf, key) = (Shelf::Correspondent, sent_key(round.ring, facts.keys.sender));
        round.effect(Effect::Remember { shelf, key, keep_ms: SENT_KEEP_MS, again: true, mark: 0 });
    }
}

/// Whether a message of the null sender may be the bounce that it says it is: the recipient has sent
/// something lately, and is its only one (RFC 5321 sections 4.5.5 and 6.1).
///
/// # Errors
/// As [`Round::since`].
pub(super) fn is_expected_bounce(facts: &Facts<'_>, round: &mut Round<'_>) -> Result<bool, Pause> {
    let is_alone = facts.stage != Stage::Rcpt || !facts.has_accepted;
    if !facts.is_stray() || !is_alone || facts.keys.recipient == 0 {
        return Ok(false);
    }
    let key = sent_key(round.ring, facts.keys.recipient);
    Ok(round.since(Shelf::Correspondent, key)?.is_some())
}

impl Check for Greylist {
    fn judge(&self, facts: &Facts<'_>, round: &mut Round<'_>) -> Result<Option<Verdict>, Pause> {
        if facts.recipient.is_empty() || facts.is_refused() {
            return Ok(None);
        }
        if facts.direction == Direction::Outbound {
            self.note_correspondent(facts, round);
            return Ok(None);
        }
        if round.is_allowed() || facts.is_spared {
            return Ok(None);
        }
        let (prover, triplet) = (prover_key(facts, round.ring), triplet_key(facts, round.ring));
        let own = round.identity(facts, IdentityKind::Client);
        let organisation = round.identity(facts, IdentityKind::Organisation);
        let by_address = self.asks_imported.then(|| ByAddress::of(facts, round.ring));
        let (proven, tried, imported, written, own, organisation) = (
            round.since(Shelf::Proven, prover),
            round.since(Shelf::Greylisted, triplet),
            by_address.map_or(Ok((None, None)), |keys| keys.ask(round)),
            written_to(facts, round),
            if self.trusts_history { round.history(own) } else { round.history(Key(0)) },
            if self.trusts_history { round.history(organisation) } else { round.history(Key(0)) },
        );
        let (proven, tried, imported, written, own, organisation) =
            (proven?, tried?, imported?, written?, own?, organisation?);
        let spare = round.policy.spare;
        let reason = if proven.is_some() {
            "proven"
        } else if imported.0.is_some() {
            "imported"
        } else if written.is_some() {
            "written-to"
        } else if blame::is_good(own, spare) || blame::is_good(organisation, spare) {
            "good-history"
        } else {
            let (triplet, tried) = match (by_address, tried, imported.1) {
                (Some(keys), None, Some(_)) => (keys.triplet, imported.1),
                _ => (triplet, tried),
            };
            return Ok(self.wait(facts, (triplet, prover, tried), round));
        };
        round.remark("exempt", Value::Word(reason));
        if let Some(moment) = proven {
            self.keep_proven(prover, moment, round);
        } else if imported.0.is_some() {
            // From now on it is known by its own name.
            self.keep_proven(prover, Moment { at_ms: 0, tries: 0 }, round);
        }
        round.effect(Effect::Note(Note::NoWait));
        Ok(None)
    }

    /// Mail that turns out to be spam, or hits a trap, does not speak for who sends it.
    fn learn(&self, facts: &Facts<'_>, event: Event, round: &mut Round<'_>) -> Result<(), Pause> {
        if facts.direction == Direction::Inbound && matches!(event, Event::Spam | Event::TrapHit) {
            round.effect(Effect::Note(Note::Condemned));
        }
        Ok(())
    }
}

impl Greylist {
    /// The state of one triplet, and what follows.
    fn wait(
        &self,
        facts: &Facts<'_>,
        (triplet, prover, tried): (Key, Key, Option<Moment>),
        round: &mut Round<'_>,
    ) -> Option<Verdict> {
        let delay_ms = self.delay_ms(facts);
        // One that lies ahead of a clock that was put back is none, or it would be waited for.
        let age_of = |moment: &Moment| round.now_ms.checked_sub(moment.at_ms);
        let first =
            tried.filter(|moment| age_of(moment).is_some_and(|age_ms| age_ms < self.window_ms));
        let Some(first) = first else {
            let again = tried.is_some();
            let keep_ms = self.window_ms;
            round.effect(Effect::Remember {
                shelf: Shelf::Greylisted,
                key: triplet,
                keep_ms,
                again,
                mark: 0,
            });
            round.effect(Effect::Note(Note::FirstTry));
            round.remark("first", Value::Word("now"));
            round.remark("delay", Value::Period(delay_ms));
            return Some(deferred(delay_ms));
        };
        let age_ms = round.now_ms.saturating_sub(first.at_ms);
        round.remark("age", Value::Period(age_ms));
        round.remark("delay", Value::Period(delay_ms));
        round.remark("tries", Value::Number(u64::from(first.tries)));
        if age_ms < delay_ms {
            if facts.repeat == Repeat::No {
                round.effect(Effect::TooEarly { key: triplet });
                round.effect(Effect::Note(Note::CameBack { first_ms: first.at_ms }));
            }
            return Some(deferred(delay_ms - age_ms));
        }
        let keep_ms = self.memory_ms;
        round.effect(Effect::Remember {
            shelf: Shelf::Proven,
            key: prover,
            keep_ms,
            again: true,
            mark: 0,
        });
        round.effect(Effect::Note(Note::Passed { first_ms: first.at_ms }));
        None
    }

    /// Who keeps sending stays proven. Written once in a tenth of the memory, not for each mail.
    fn keep_proven(&self, prover: Key, moment: Moment, round: &mut Round<'_>) {
        if round.now_ms.abs_diff(moment.at_ms) > self.memory_ms / 10 {
            let keep_ms = self.memory_ms;
            round.effect(Effect::Remember {
                shelf: Shelf::Proven,
                key: prover,
                keep_ms,
                again: true,
                mark: 0,
            });
        }
    }

    /// Our user writes to somebody: the answer will not wait. Not so among ourselves: whoever forges
    /// one of our users would be exempt.
    fn note_correspondent(&self, facts: &Facts<'_>, round: &mut Round<'_>) {
        let keys = &facts.keys;
        if facts.is_null_sender()
            || self.correspondents_ms == 0
            || keys.sender_domain == keys.recipient_domain
            || self.recipients.covers(facts, round.ring)
        {
            return;
        }
        let key = correspondent_key(round.ring, facts.keys.sender, facts.keys.recipient);
        let keep_ms = self.correspondents_ms;
        round.effect(Effect::Remember {
            shelf: Shelf::Correspondent,
            key,
            keep_ms,
            again: true,
            mark: 0,
        });
    }
}

fn deferred(wait_ms: u64) -> Verdict {
    let numbers = Numbers { wait_ms, ..Numbers::default() };
    Verdict { action: Action::Defer, cause: Cause::Greylisted, numbers }
}
