//! Recipient verification, and the harvest rule.
//!
//! Who exists is known to lists and to directories ([`crate::recipients`]). A recipient of a domain
//! of ours of whom all of them say that it does not exist is refused before DATA; one of whom it
//! cannot be said now is deferred or let through, as the policy says, and never refused. Domains of
//! others are nobody's business here.
//!
//! Whoever asks for many users that do not exist is guessing: it is blocked, and from then on gets
//! the same answer for every recipient, without any directory being asked. Senders with a good
//! history keep their 550, which is how their lists are cleaned. Recipients whom the mail server
//! itself has refused count alike, where a door hears of them.

use std::sync::Arc;

use mpp_settings::Reader;

use super::blame::{self, Term};
use super::{Check, Context, Kind};
use crate::decide::{Event, Pause, Round, Value};
use crate::facts::{Direction, Facts, Repeat, Stage};
use crate::question::{BlockReason, IdentityKind};
use crate::recipients::{Recipients, Standing};
use crate::verdict::{Action, Cause, Verdict};

/// The check as data.
pub const KIND: Kind = Kind {
    name: "recipient",
    summary: "Refuse recipients who do not exist, and block hosts that guess at them",
    stages: &[Stage::Rcpt, Stage::Vrfy],
    default_mode: "enforce",
    read: |table, context| Arc::new(Recipient::read(table, context)),
};

#[derive(Debug)]
struct Recipient {
    recipients: Arc<Recipients>,
    /// What holds for a recipient of whom nobody can say now whether it exists.
    unavailable: Option<Verdict>,
    harvest_limit: u64,
    harvest_share: f64,
    harvest_per_ms: u64,
    term: Term,
    space: u64,
    asked_space: u64,
    stray_space: u64,
}

impl Recipient {
    fn read(table: &mut Reader<'_>, context: &Context<'_>) -> Self {
        let down = Verdict::new(Action::Defer, Cause::DirectoryDown);
        let words = [("defer", Some(down)), ("accept", None)];
        let unavailable = table.choice("unavailable", "defer", &words).flatten();
        let mut harvest = table.table("harvest");
        let check = Self {
            recipients: Arc::clone(context.recipients),
            unavailable,
            harvest_limit: harvest.count("limit", 4, (0, 1_000_000)),
            harvest_share: harvest.share("share", "0%"),
            harvest_per_ms: harvest.period_ms("per", "1d"),
            term: Term::read(&mut harvest, "6h", 2.0, "7d"),
            space: blame::space(context, "harvest"),
            asked_space: blame::space(context, "harvest asked"),
            stray_space: blame::space(context, "harvest strays"),
        };
        harvest.finish();
        check
    }

    /// Counts a recipient of ours, where guesses are judged by their share of all.
    fn count_asked(&self, facts: &Facts<'_>, round: &mut Round<'_>) -> Result<(), Pause> {
        let counts = self.harvest_share > 0.0
            && facts.direction == Direction::Inbound
            && facts.repeat == Repeat::No
            && facts.stage == Stage::Rcpt;
        if counts {
            let key = round.ring.key(self.asked_space, facts.keys.client);
            round.count(key, self.harvest_per_ms, 1)?;
        }
        Ok(())
    }
}

fn refuse(facts: &Facts<'_>, round: &mut Round<'_>) -> Verdict {
    if facts.repeat == Repeat::No {
        round.event(Event::UnknownRecipient);
    }
    Verdict::new(Action::Reject, Cause::UnknownRecipient)
}

impl Check for Recipient {
    fn judge(&self, facts: &Facts<'_>, round: &mut Round<'_>) -> Result<Option<Verdict>, Pause> {
        if facts.recipient.is_empty() {
            return Ok(None);
        }
        if facts.is_refused() {
            self.count_asked(facts, round)?;
            round.remark("is", Value::Word("unknown"));
            round.remark("says", Value::Word("mail-server"));
            return Ok(Some(refuse(facts, round)));
        }
        let (asked, standing) =
            (self.count_asked(facts, round), self.recipients.standing(facts, round));
        let (standing, ()) = (standing?, asked?);
        match standing {
            Standing::Foreign => Ok(None),
            Standing::Known(_) => {
                round.remark("is", Value::Word("known"));
                standing.remark(round);
                Ok(None)
            }
            Standing::NotNow(_) => {
                round.remark("is", Value::Word("not-known-now"));
                standing.remark(round);
                Ok(self.unavailable)
            }
            Standing::Unknown(_) => {
                round.remark("is", Value::Word("unknown"));
                standing.remark(round);
                Ok(Some(refuse(facts, round)))
            }
        }
    }

    fn learn(&self, facts: &Facts<'_>, event: Event, round: &mut Round<'_>) -> Result<(), Pause> {
        if event != Event::UnknownRecipient
            || facts.direction == Direction::Outbound
            || round.is_allowed()
        {
            return Ok(());
        }
        // Asked before anything is counted: what counts as it answers must not count old news.
        if blame::is_old_news(facts, event, round)? {
            return Ok(());
        }
        let client = facts.keys.client;
        let (key, asked_key) =
            (round.ring.key(self.space, client), round.ring.key(self.asked_space, client));
        // Bounces that go astray are counted apart: a server sends some now and then.
        let (key, limit) = if facts.is_stray() {
            let limit = self.harvest_limit.saturating_mul(blame::STRAYS);
            (round.ring.key(self.stray_space, client), limit)
        } else {
            (key, self.harvest_limit)
        };
        let (counted, asked, culprits) = (
            round.count(key, self.harvest_per_ms, 1),
            if self.harvest_share > 0.0 {
                round.count(asked_key, self.harvest_per_ms, 0).map(|asked| asked.used)
            } else {
                Ok(0)
            },
            blame::culprits(facts, IdentityKind::Client, round),
        );
        let (counted, asked, culprits) = (counted?, asked?, culprits?);
        round.remark("unknown", Value::Number(counted.used));
        round.remark("limit", Value::Number(limit));
        if self.harvest_share > 0.0 {
            round.remark("asked", Value::Number(asked));
        }
        #[allow(clippy::cast_precision_loss, reason = "a share of a day's recipients")]
        let is_share = counted.used as f64 >= self.harvest_share * asked as f64;
        if counted.used > limit && is_share {
            blame::block(facts, culprits, (BlockReason::Harvest, self.term), round);
        }
        Ok(())
    }
}
