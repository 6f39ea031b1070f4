//! Blocks: an identity that is refused until a time.
//!
//! Others make blocks (traps, thresholds, the harvest rule, a person); this check enforces them.
//! Expiry is judged at the time of the decision, so a block never outlives its period. Local
//! networks and configured peers are never blocked.

use std::sync::Arc;

use mpp_settings::Reader;

use super::{Check, Kind};
use crate::decide::{Event, Pause, Round, Value, identity_key};
use crate::facts::{Direction, Facts, Stage};
use crate::question::{Block, Effect, IdentityKind, Lesson};
use crate::verdict::{Action, Cause, Numbers, Verdict};

/// The check as data.
pub const KIND: Kind = Kind {
    name: "block",
    summary: "Refuse an identity that was blocked until a time",
    stages: &[
        Stage::Connect,
        Stage::Helo,
        Stage::Mail,
        Stage::Rcpt,
        Stage::Data,
        Stage::EndOfMessage,
        Stage::Vrfy,
        Stage::Etrn,
    ],
    default_mode: "enforce",
    read: |table, _| Arc::new(Blocks::read(table)),
};

/// Identities of a transaction that may be blocked from outside, and from inside.
const INBOUND: [IdentityKind; 7] = [
    IdentityKind::Client,
    IdentityKind::Network,
    IdentityKind::Organisation,
    IdentityKind::Sender,
    IdentityKind::SenderDomain,
    IdentityKind::PooledDomain,
    IdentityKind::PooledSender,
];
const OUTBOUND: [IdentityKind; 4] = [
    IdentityKind::SaslUser,
    IdentityKind::Client,
    IdentityKind::Sender,
    IdentityKind::SenderDomain,
];

#[derive(Debug)]
struct Blocks {
    hang_up: bool,
}

impl Blocks {
    fn read(table: &mut Reader<'_>) -> Self {
        let hang_up = table.flag("disconnect", false);
        // Read by `crate::compile` for the whole policy; named here so that they are known.
        table.number("spare_clean", SPARE_CLEAN, 0.0);
        table.share("spare_share", SPARE_SHARE);
        Self { hang_up }
    }
}

/// Default of `spare_clean`.
pub const SPARE_CLEAN: f64 = 5.0;
/// Default of `spare_share`.
pub const SPARE_SHARE: &str = "60%";

/// The block that holds for a transaction, if any: the one that ends last.
///
/// # Errors
/// As [`Round::blocked`].
pub fn standing(
    facts: &Facts<'_>,
    round: &mut Round<'_>,
) -> Result<Option<(IdentityKind, Block)>, Pause> {
    if round.is_allowed() {
        return Ok(None);
    }
    let kinds: &[IdentityKind] = match facts.direction {
        Direction::Inbound => &INBOUND,
        Direction::Outbound => &OUTBOUND,
    };
    let mut longest: Option<(IdentityKind, Block)> = None;
    let mut pause = None;
    for &kind in kinds {
        let hash = facts.keys.of(kind, round.ring);
        let is_client = matches!(
            kind,
            IdentityKind::Client | IdentityKind::Network | IdentityKind::Organisation
        );
        if hash == 0 || (is_client && facts.is_spared) {
            continue;
        }
        match round.blocked(kind, identity_key(round.ring, facts.direction, hash)) {
            Ok(Some(block)) if longest.is_none_or(|(_, other)| block.until_ms > other.until_ms) => {
                longest = Some((kind, block));
            }
            Ok(_) => {}
            Err(missing) => pause = Some(missing),
        }
    }
    match (longest, pause) {
        (None, Some(pause)) => Err(pause),
        (longest, _) => Ok(longest),
    }
}

impl Check for Blocks {
    fn judge(&self, facts: &Facts<'_>, round: &mut Round<'_>) -> Result<Option<Verdict>, Pause> {
        let Some((kind, block)) = standing(facts, round)? else { return Ok(None) };
        round.remark("identity", Value::Word(kind.name()));
        round.remark("for", Value::Word(block.reason.name()));
        round.remark("until", Value::Number(block.until_ms / 1000));
        round.remark("strikes", Value::Number(u64::from(block.strikes)));
        let wait_ms = block.until_ms.saturating_sub(round.now_ms);
        let action = if self.hang_up { Action::Disconnect } else { Action::Defer };
        let numbers = Numbers { wait_ms, ..Numbers::default() };
        Ok(Some(Verdict { action, cause: Cause::Blocked, numbers }))
    }

    /// Every fact enters the histories of the identities it counts for.
    fn learn(&self, facts: &Facts<'_>, event: Event, round: &mut Round<'_>) -> Result<(), Pause> {
        let lesson = match event {
            Event::Clean => Lesson::Clean,
            Event::Spam => Lesson::Spam,
            // A bounce that goes astray says nothing of the server that sends it.
            Event::TrapHit | Event::UnknownRecipient if !facts.is_null_sender() => Lesson::Bad,
            Event::TrapHit | Event::UnknownRecipient | Event::OverLimit(_) => return Ok(()),
        };
        let kinds: &[IdentityKind] = match facts.direction {
            Direction::Inbound => &[
                IdentityKind::Client,
                IdentityKind::Organisation,
                IdentityKind::PooledDomain,
                IdentityKind::PooledSender,
            ],
            Direction::Outbound => &[IdentityKind::SaslUser],
        };
        for &kind in kinds {
            let hash = facts.keys.of(kind, round.ring);
            if hash != 0 {
                let key = identity_key(round.ring, facts.direction, hash);
                round.effect(Effect::Observe { key, lesson, weight: 1.0 });
            }
        }
        Ok(())
    }
}
