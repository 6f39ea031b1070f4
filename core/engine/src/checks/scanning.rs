//! Whether a message needs to be scanned. No check of its own: it has nothing against anybody, and is
//! asked in the same walk, so that it costs no trip to the store.

use super::{blame, greylist};
use crate::decide::{Pause, Round};
use crate::facts::{Direction, Facts};
use crate::question::IdentityKind;
use crate::scan::{Scanning, Skip};

/// So much clean mail of an account is a history.
const CLEAN: f32 = 3.0;
/// And so little else.
const AGAINST_SHARE: f32 = 0.05;

/// Why the mail of a transaction is not scanned, if so. A share of it is scanned all the same: an
/// account may be stolen, and a correspondent's machine as well.
///
/// # Errors
/// As [`Round::history`].
pub(crate) fn spared(
    scanning: &Scanning,
    facts: &Facts<'_>,
    round: &mut Round<'_>,
) -> Result<Option<Skip>, Pause> {
    let skips = |skip: Skip| scanning.skip.contains(&skip);
    let has_account = !facts.sasl_user.is_empty();
    let by_fact = if skips(Skip::Allowed) && round.is_allowed() {
        Some(Skip::Allowed)
    } else if skips(Skip::Local) && !has_account && facts.direction == Direction::Outbound {
        Some(Skip::Local)
    } else {
        None
    };
    let mut found = by_fact;
    if found.is_none() && has_account && skips(Skip::Authenticated) {
        let known = round.history(round.identity(facts, IdentityKind::SaslUser))?;
        let is_good = known.clean >= CLEAN && blame::against(known) <= AGAINST_SHARE * known.clean;
        found = is_good.then_some(Skip::Authenticated);
    }
    if found.is_none() && !has_account && skips(Skip::Correspondents) {
        found = greylist::written_to(facts, round)?.map(|_| Skip::Correspondents);
    }
    Ok(found.filter(|_| !is_in_sample(scanning, facts, round)))
}

/// Chance that is the same for one message however often it is asked about.
fn is_in_sample(scanning: &Scanning, facts: &Facts<'_>, round: &Round<'_>) -> bool {
    let hash = round.ring.pair(round.ring.text(facts.instance), round.now_ms / 60_000);
    #[allow(clippy::cast_precision_loss, reason = "a share needs no more than that")]
    let place = (hash >> 11) as f64 / (1_u64 << 53) as f64;
    place < scanning.sample
}
