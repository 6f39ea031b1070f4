//! Blocks: an identity that is refused until a time.
//!
//! Others make blocks (traps, thresholds, the harvest rule, a person); this check enforces them.
//! Expiry is judged at the time of the decision, so a block never outlives its period. Local
//! networks and configured peers are never blocked.

use std::sync::Arc;

use mpp_settings::Reader;

use super::{Check, Kind, blame, greylist};
use crate::decide::{Event, Pause, Round, Value, identity_key};
use crate::facts::{Direction, Facts, Stage};
use crate::policy::Spare;
use crate::question::{Block, BlockReason, Effect, History, IdentityKind, Key, Lesson, Shelf};
use crate::verdict::{Action, Cause, Numbers, Verdict};

/// The check as data.
pub const KIND: Kind = Kind {
    name: "block",
    summary: "Refuse an identity that was blocked until a time",
    stages: &Stage::EVERY,
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
        table.duration_ms("patience", PATIENCE);
        Self { hang_up }
    }
}

/// Default of `spare_clean`.
pub const SPARE_CLEAN: f64 = 5.0;
/// Default of `spare_share`.
pub const SPARE_SHARE: &str = "60%";
/// Default of `patience`.
pub const PATIENCE: &str = "30h";

/// A first try during a block is remembered for so long at least, in milliseconds.
const KEEP_LEAST_MS: u64 = 2 * 86_400_000;

/// A sender with so much clean mail, and next to nothing else, is not held responsible for others
/// at its host.
const INNOCENT_CLEAN: f32 = 1.5;
const INNOCENT_SHARE: f32 = 0.9;

/// The block that a transaction is refused for, if any: the one that ends last.
///
/// A block of a host, of an organisation or of a domain at a host may have been earned by others. It
/// does not hold for whom our user wrote to first, for a sender who is known to be good, and for one
/// of whom nothing bad is known and who has tried for `patience`: a real mail server does not lose
/// mail to somebody else's block. Blocks by hand hold for all.
///
/// # Errors
/// As [`Round::blocked`].
pub fn refusing(
    facts: &Facts<'_>,
    round: &mut Round<'_>,
) -> Result<Option<(IdentityKind, Block)>, Pause> {
    // Who was let through at RCPT in spite of a block is not refused for it when the message is there.
    let was_judged = facts.direction == Direction::Inbound && facts.has_accepted;
    if round.is_allowed() || (was_judged && facts.stage != Stage::Rcpt) {
        return Ok(None);
    }
    let innocence = innocence(facts, round);
    let kinds: &[IdentityKind] = match facts.direction {
        Direction::Inbound => &INBOUND,
        Direction::Outbound => &OUTBOUND,
    };
    let mut longest: Option<(IdentityKind, Block)> = None;
    let mut spared = None;
    let mut pause = None;
    for &kind in kinds {
        let hash = facts.keys.of(kind, round.ring);
        if hash == 0 || (blame::is_host(kind) && facts.is_spared) {
            continue;
        }
        match round.blocked(kind, identity_key(round.ring, facts.direction, hash)) {
            Ok(Some(block)) if may_be_anothers(kind, block) && matches!(innocence, Ok(Some(_))) => {
                spared = Some(kind);
            }
            Ok(Some(block)) if longest.is_none_or(|(_, other)| block.until_ms > other.until_ms) => {
                longest = Some((kind, block));
            }
            Ok(_) => {}
            Err(missing) => pause = Some(missing),
        }
    }
    match (longest, pause) {
        (None, Some(pause)) => return Err(pause),
        // Not before it is known whether it holds for this one.
        (Some((kind, block)), _) if may_be_anothers(kind, block) => drop(innocence?),
        (None, None) => {
            if let (Some(kind), Ok(Some(why))) = (spared, innocence) {
                round.remark("spared", Value::Word(kind.name()));
                round.remark("since", Value::Word(why));
            }
        }
        (Some(_), _) => {}
    }
    Ok(longest)
}

/// Whether somebody else may have earned a block.
fn may_be_anothers(kind: IdentityKind, block: Block) -> bool {
    block.reason != BlockReason::Manual
        && (blame::is_host(kind) || kind == IdentityKind::PooledDomain)
}

/// How long a sender has to try, in milliseconds; nothing helps if it is bad itself.
fn patience_ms(known: History, spare: Spare) -> Option<u64> {
    match blame::against(known) {
        0.0..SLIPS => Some(spare.patience_ms),
        SLIPS..DOUBTFUL => Some(spare.patience_ms.max(DOUBTFUL_PATIENCE_MS)),
        _ => None,
    }
}

/// One bad fact may be a slip, or the scanner's; a second one makes a sender doubtful.
const SLIPS: f32 = 1.5;
const DOUBTFUL: f32 = 2.5;
/// The patience of a doubtful sender is no less than this, in milliseconds.
const DOUBTFUL_PATIENCE_MS: u64 = 6 * 3_600_000;

/// Why a transaction is not refused for what others at its host did, if so.
fn innocence(facts: &Facts<'_>, round: &mut Round<'_>) -> Result<Option<&'static str>, Pause> {
    if facts.direction == Direction::Outbound || facts.stage != Stage::Rcpt {
        return Ok(None);
    }
    let sender = round.identity(facts, IdentityKind::PooledSender);
    let triplet = greylist::triplet_key(facts, round.ring);
    let (known, tried, written, is_expected) = (
        round.history(sender),
        round.since(Shelf::Greylisted, triplet),
        greylist::written_to(facts, round),
        greylist::is_expected_bounce(facts, round),
    );
    let (known, tried, written, is_expected) = (known?, tried?, written?, is_expected?);
    if tried.is_some_and(|first| first.at_ms > round.now_ms) {
        remember_try(triplet, true, round);
    }
    let all = known.clean + blame::against(known);
    Ok(if written.is_some() {
        Some("written-to")
    } else if is_expected {
        Some("bounce")
    } else if known.clean >= INNOCENT_CLEAN && known.clean >= INNOCENT_SHARE * all {
        Some("good-sender")
    } else if tried.is_some_and(|first| {
        // One that lies ahead of a clock that was put back shows nothing.
        let age_ms = round.now_ms.checked_sub(first.at_ms);
        let least_ms = patience_ms(known, round.policy.spare);
        age_ms.zip(least_ms).is_some_and(|(age_ms, least_ms)| age_ms >= least_ms)
    }) {
        Some("patient")
    } else {
        None
    })
}

/// Notes a try, the first one of that sender and recipient or, should that be none, this one.
fn remember_try(key: Key, again: bool, round: &mut Round<'_>) {
    let keep_ms = round.policy.spare.patience_ms.saturating_mul(2).max(KEEP_LEAST_MS);
    let shelf = Shelf::Greylisted;
    round.effect(Effect::Remember { shelf, key, keep_ms, again, mark: 0 });
}

impl Check for Blocks {
    fn judge(&self, facts: &Facts<'_>, round: &mut Round<'_>) -> Result<Option<Verdict>, Pause> {
        let Some((kind, block)) = refusing(facts, round)? else {
            greylist::note_sent(facts, round);
            return Ok(None);
        };
        if facts.stage == Stage::Rcpt && may_be_anothers(kind, block) {
            // Who keeps trying shows patience; greylisting takes it for the first try as well.
            let key = greylist::triplet_key(facts, round.ring);
            remember_try(key, false, round);
        }
        round.remark("identity", Value::Word(kind.name()));
        round.remark("for", Value::Word(block.reason.name()));
        round.remark("until", Value::Number(block.until_ms / 1000));
        round.remark("strikes", Value::Number(u64::from(block.strikes)));
        let wait_ms = block.until_ms.saturating_sub(round.now_ms);
        let action = if self.hang_up { Action::Disconnect } else { Action::Defer };
        let numbers = Numbers { wait_ms, ..Numbers::default() };
        Ok(Some(Verdict { action, cause: Cause::Blocked, numbers }))
    }

    /// Every fact enters the histories of the identities it counts for. What is known of a host is
    /// a matter of how many senders there are good or bad, not of how busy one of them is: each
    /// further fact of one sender weighs less for those around it.
    fn learn(&self, facts: &Facts<'_>, event: Event, round: &mut Round<'_>) -> Result<(), Pause> {
        let lesson = match event {
            Event::Clean => Lesson::Clean,
            Event::Spam => Lesson::Spam,
            // A bounce that goes astray says nothing of the server that sends it.
            Event::TrapHit | Event::UnknownRecipient if !facts.is_null_sender() => Lesson::Bad,
            Event::TrapHit | Event::UnknownRecipient | Event::OverLimit(_) => return Ok(()),
        };
        let kinds: &[IdentityKind] = match facts.direction {
            // Drones come once and are many: of a host without an organisation no more is kept
            // than is looked at.
            Direction::Inbound if facts.keys.organisation == 0 => {
                &[IdentityKind::Client, IdentityKind::PooledSender]
            }
            Direction::Inbound => &[
                IdentityKind::Client,
                IdentityKind::Network,
                IdentityKind::Organisation,
                IdentityKind::PooledDomain,
                IdentityKind::PooledSender,
            ],
            Direction::Outbound => &[IdentityKind::SaslUser],
        };
        let sender = round.identity(facts, IdentityKind::PooledSender);
        let (is_old_news, before) =
            (blame::is_old_news(facts, event, round), round.history(sender));
        let (is_old_news, before) = (is_old_news?, before?);
        if lesson == Lesson::Bad {
            blame::note_fault(facts, round);
            if is_old_news {
                return Ok(());
            }
        }
        let same = if lesson == Lesson::Clean { before.clean } else { blame::against(before) };
        for &kind in kinds {
            let key = round.identity(facts, kind);
            if key != Key(0) {
                let is_own = matches!(kind, IdentityKind::PooledSender | IdentityKind::SaslUser);
                let weight = if is_own { 1.0 } else { 1.0 / (1.0 + same) };
                round.effect(Effect::Observe { key, lesson, weight });
            }
        }
        Ok(())
    }
}
