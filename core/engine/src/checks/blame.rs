//! Who is to blame: which identity of a transaction a fact against it counts for.
//!
//! A drone is blamed itself. Behind a shared sender (a mailbox provider, a forwarder) stand people
//! who send clean mail, so the sender's domain within it is blamed, or where that is shared too,
//! the one sender: never the pool.

use super::Context;
use crate::decide::{Event, Pause, Round, Value};
use crate::facts::{Direction, Facts};
use crate::identity::Keyring;
use crate::policy::Spare;
use crate::question::{BlockReason, Effect, History, IdentityKind, Key, NewBlock, Shelf, Subject};
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
        let for_ms = table.period_ms("block", block);
        #[allow(clippy::cast_possible_truncation, reason = "a growth factor is a small number")]
        let grow = table.number("grow", grow, 1.0) as f32;
        Self { for_ms, grow, up_to_ms: table.duration_ms("up_to", up_to).max(for_ms) }
    }
}

/// Whom a fact is blamed on: nobody, or one identity and perhaps wider ones around it.
pub(super) type Culprits = [Option<IdentityKind>; 3];

/// Whom to blame where a rule wants to block identities of a kind: that kind if the history of all
/// who stand behind it allows it, else a narrower one, and nobody if the sender itself has always
/// been good. Where an organisation or a network of servers has shown itself bad as a whole, it is
/// blamed as well, so that a spammer with many hosts is not met host by host.
pub(super) fn culprits(
    facts: &Facts<'_>,
    wanted: IdentityKind,
    round: &mut Round<'_>,
) -> Result<Culprits, Pause> {
    let ring = round.ring;
    let has = |kind: IdentityKind| facts.keys.of(kind, ring) != 0;
    let (has_wanted, has_organisation) = (has(wanted), has(IdentityKind::Organisation));
    let only = |kind: IdentityKind| [Some(kind), None, None];
    if facts.direction == Direction::Outbound || !is_host(wanted) {
        return Ok(if has_wanted { only(wanted) } else { Culprits::default() });
    }
    if facts.is_spared {
        return Ok(Culprits::default());
    }
    let known = Known::ask(facts, round)?;
    let spare = round.policy.spare;
    if is_good(known.sender, Spare { share: spare.share.max(SENDER_SHARE), ..spare }) {
        round.remark("spared", Value::Word("pooled_sender"));
        return Ok(Culprits::default());
    }
    if is_good(known.own, spare) || is_good(known.organisation, spare) {
        round.remark("spared", Value::Word(wanted.name()));
        return Ok(
            if has_organisation && has(IdentityKind::PooledDomain) && !is_good(known.domain, spare)
            {
                only(IdentityKind::PooledDomain)
            } else if has(IdentityKind::PooledSender) {
                only(IdentityKind::PooledSender)
            } else {
                Culprits::default()
            },
        );
    }
    let organisation = has_organisation && against(known.organisation) >= ORGANISATION_BAD;
    // Neighbours on customer lines have nothing in common; servers in one network may.
    let network = has_organisation
        && against(known.network) >= NETWORK_BAD
        && known.network.clean < against(known.network);
    Ok([
        has_wanted.then_some(wanted),
        organisation.then_some(IdentityKind::Organisation),
        network.then_some(IdentityKind::Network),
    ])
}

/// A sender is spared by its own history only if so much of it is clean.
const SENDER_SHARE: f32 = 0.8;
/// So much must be known against an organisation before one more fact blocks all of it.
const ORGANISATION_BAD: f32 = 1.5;
/// The same for a network of servers.
const NETWORK_BAD: f32 = 4.5;

/// What is known of all who may stand behind a transaction.
struct Known {
    own: History,
    organisation: History,
    network: History,
    domain: History,
    sender: History,
}

impl Known {
    fn ask(facts: &Facts<'_>, round: &mut Round<'_>) -> Result<Self, Pause> {
        let mut of = |kind: IdentityKind| {
            let key = round.identity(facts, kind);
            round.history(key)
        };
        let (own, organisation, network, domain, sender) = (
            of(IdentityKind::Client),
            of(IdentityKind::Organisation),
            of(IdentityKind::Network),
            of(IdentityKind::PooledDomain),
            of(IdentityKind::PooledSender),
        );
        Ok(Self {
            own: own?,
            organisation: organisation?,
            network: network?,
            domain: domain?,
            sender: sender?,
        })
    }
}

/// Of what goes astray of the null sender only every fourth counts: servers that send bounces to whom a
/// spammer forged are not to blame, but a host that sends nothing else is.
pub(super) const STRAYS: u64 = 4;

/// What makes the keys of faults differ from others.
const FAULT_SPACE: u64 = 0x64;
/// How long a fault is known again, in milliseconds.
const FAULT_KEEP_MS: u64 = 35 * 86_400_000;

fn fault_key(facts: &Facts<'_>, ring: Keyring) -> Key {
    let sender = facts.keys.of(IdentityKind::PooledSender, ring);
    ring.key(FAULT_SPACE, ring.pair(sender, facts.keys.recipient))
}

/// Whether a sender that has sent clean mail too wrote to the same trap or nobody before. A mailing
/// list that keeps a dead member has one fault, not one with each issue.
pub(super) fn is_old_news(
    facts: &Facts<'_>,
    event: Event,
    round: &mut Round<'_>,
) -> Result<bool, Pause> {
    let key = fault_key(facts, round.ring);
    if !matches!(event, Event::TrapHit | Event::UnknownRecipient)
        || facts.direction == Direction::Outbound
        || key == Key(0)
    {
        return Ok(false);
    }
    let sender = round.identity(facts, IdentityKind::PooledSender);
    let (before, known) = (round.since(Shelf::Fault, key), round.history(sender));
    let (before, known) = (before?, known?);
    Ok(before.is_some() && known.clean >= 1.0)
}

/// Notes a fault, to know it again.
pub(super) fn note_fault(facts: &Facts<'_>, round: &mut Round<'_>) {
    let key = fault_key(facts, round.ring);
    if key != Key(0) {
        let (shelf, keep_ms) = (Shelf::Fault, FAULT_KEEP_MS);
        round.effect(Effect::Remember { shelf, key, keep_ms, again: true, mark: 0 });
    }
}

/// Whether a kind of identity is a host or hosts, behind whom others may stand.
pub(super) fn is_host(kind: IdentityKind) -> bool {
    matches!(kind, IdentityKind::Client | IdentityKind::Network | IdentityKind::Organisation)
}

/// What is known against somebody.
pub(super) fn against(history: History) -> f32 {
    history.spam + history.bad
}

/// Whether a history is good enough to be spared for.
pub(super) fn is_good(history: History, spare: Spare) -> bool {
    let all = history.clean + against(history);
    history.clean >= spare.clean && history.clean >= spare.share * all
}

/// Blocks the culprits.
pub(super) fn block(
    facts: &Facts<'_>,
    culprits: Culprits,
    (reason, term): (BlockReason, Term),
    round: &mut Round<'_>,
) {
    for kind in culprits.into_iter().flatten() {
        round.remark("block", Value::Word(kind.name()));
        let key = round.identity(facts, kind);
        let Term { for_ms, grow, up_to_ms } = term;
        let subject = subject(facts, kind, round);
        round.effect(Effect::Block(NewBlock {
            kind,
            key,
            subject,
            reason,
            for_ms,
            grow,
            up_to_ms,
        }));
    }
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
