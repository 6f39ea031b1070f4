//! Who is to blame: which identity of a transaction a fact against it counts for.
//!
//! A drone is blamed itself. Behind a shared sender (a mailbox provider, a forwarder) stand people
//! who send clean mail, so the sender's domain within it is blamed, or where that is shared too,
//! the one sender: never the pool.

use super::Context;
use crate::decide::{Pause, Round, Value, identity_key};
use crate::facts::{Direction, Facts};
use crate::policy::Spare;
use crate::question::{BlockReason, Effect, History, IdentityKind, Key, NewBlock, Subject};
use mpp_settings::{Kind as ValueKind, Reader, form};

/// How long a block holds: its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Term {
    pub(super) for_ms: u64,
    pub(super) grow: f32,
    pub(super) up_to_ms: u64,
}

impl Term {
    /// Reads `block`, `grow` and `up_to` of a table.
    pub(super) fn read(table: &mut Reader<'_>, block: &str, grow: f64, up_to: &str) -> Self {
        let for_ms = table.duration_ms("block", block);
        #[allow(clippy::cast_possible_truncation, reason = "a growth factor is a small number")]
        let grow = table.number("grow", grow, 1.0) as f32;
        Self { for_ms, grow, up_to_ms: table.duration_ms("up_to", up_to).max(for_ms) }
    }
}

/// The identity of a kind, if the history of all that stands behind it allows to block it; else a
/// narrower one. Nothing if there is nobody to blame.
pub(super) fn culprit(
    facts: &Facts<'_>,
    wanted: IdentityKind,
    round: &mut Round<'_>,
) -> Result<Option<IdentityKind>, Pause> {
    if facts.direction == Direction::Outbound {
        return Ok((facts.keys.of(wanted, round.ring) != 0).then_some(wanted));
    }
    let is_client =
        matches!(wanted, IdentityKind::Client | IdentityKind::Network | IdentityKind::Organisation);
    if facts.is_spared && is_client {
        return Ok(None);
    }
    let mut of = |kind: IdentityKind| {
        let hash = facts.keys.of(kind, round.ring);
        let key = if hash == 0 { Key(0) } else { identity_key(round.ring, facts.direction, hash) };
        round.history(key)
    };
    let (own, organisation, domain, sender) = (
        of(IdentityKind::Client),
        of(IdentityKind::Organisation),
        of(IdentityKind::PooledDomain),
        of(IdentityKind::PooledSender),
    );
    let (own, organisation, domain, sender) = (own?, organisation?, domain?, sender?);
    let spare = round.policy.spare;
    let has = |kind: IdentityKind| facts.keys.of(kind, round.ring) != 0;
    if !is_client {
        return Ok(has(wanted).then_some(wanted));
    }
    if !is_good(own, spare) && !is_good(organisation, spare) {
        return Ok(has(wanted).then_some(wanted));
    }
    let narrower = [(IdentityKind::PooledDomain, domain), (IdentityKind::PooledSender, sender)];
    let found = narrower
        .into_iter()
        .find(|(kind, history)| has(*kind) && !is_good(*history, spare))
        .map(|(kind, _)| kind);
    round.remark("spared", Value::Word(wanted.name()));
    Ok(found)
}

/// Whether a history is good enough to be spared for.
pub(super) fn is_good(history: History, spare: Spare) -> bool {
    let all = history.clean + history.spam + history.bad;
    history.clean >= spare.clean && history.clean >= spare.share * all
}

/// Blocks the culprit.
pub(super) fn block(
    facts: &Facts<'_>,
    kind: IdentityKind,
    (reason, term): (BlockReason, Term),
    round: &mut Round<'_>,
) {
    let key = identity_key(round.ring, facts.direction, facts.keys.of(kind, round.ring));
    let Term { for_ms, grow, up_to_ms } = term;
    let subject = subject(facts, kind, round);
    round.effect(Effect::Block(NewBlock { kind, key, subject, reason, for_ms, grow, up_to_ms }));
}

fn subject(facts: &Facts<'_>, kind: IdentityKind, round: &Round<'_>) -> Subject {
    let organisation = || round.ring.organisation(facts.client_name, facts.client);
    let pool = || match organisation() {
        Some(name) => name.to_owned(),
        None => round.ring.network_of(facts.client).to_string(),
    };
    let domain = |address: &str| crate::address::split(address).1.to_owned();
    let name = match kind {
        IdentityKind::Client => return Subject::Address(facts.client),
        IdentityKind::Network => return Subject::Network(round.ring.network_of(facts.client)),
        IdentityKind::Organisation => organisation().unwrap_or_default().to_owned(),
        IdentityKind::SaslUser => facts.sasl_user.to_owned(),
        IdentityKind::Sender => facts.sender.to_owned(),
        IdentityKind::SenderDomain => domain(facts.sender),
        IdentityKind::PooledDomain => format!("{} at {}", domain(facts.sender), pool()),
        IdentityKind::PooledSender => format!("{} at {}", facts.sender, pool()),
        IdentityKind::Helo => facts.helo.to_owned(),
        IdentityKind::Recipient => facts.recipient.to_owned(),
        IdentityKind::RecipientDomain => domain(facts.recipient),
    };
    Subject::Name(name.into())
}

/// Reads the setting `key` of a table: an identity.
pub(super) fn read_kind(table: &mut Reader<'_>, default: &'static str) -> IdentityKind {
    let choices: Vec<_> = IdentityKind::ALL.iter().map(|(kind, name)| (*name, *kind)).collect();
    table.choice("key", default, &choices).unwrap_or(IdentityKind::Client)
}

/// The name space of a count of this policy and rule.
pub(super) fn space(context: &Context<'_>, rule: &str) -> u64 {
    context.ring.pair(context.ring.text(context.policy), context.ring.text(rule))
}

/// Reads `limit`, which is a number or a share.
pub(super) fn read_limit(table: &mut Reader<'_>) -> Option<Result<u64, f64>> {
    let (_, value) = table.value("limit")?;
    match &value.kind {
        ValueKind::Whole(_) => Some(Ok(table.count("limit", 0, (0, u64::MAX >> 1)))),
        ValueKind::Text(text) if form::share(text).is_ok() => Some(Err(table.share("limit", "0%"))),
        _ => None,
    }
}
