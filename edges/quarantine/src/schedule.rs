//! When digests go out: the last run of each policy, and what follows from it at a time.
//!
//! A run is written down before it begins, with the messages that it is about, and again when all users
//! were told. After a restart it goes on: whom it told already has no more in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use mpp_hub::id::Id;
use sqlx::Row as _;

use crate::index::{Index, signed, trouble, unsigned};
use crate::{Inner, Quarantine};

/// What came within so many milliseconds is for the next run: its row may not be there yet.
const SETTLE_MS: u64 = 3_000;
/// Rows that are looked at for one answer.
const ROWS: usize = 500;
/// Whose run it is for policies that have nothing of their own.
const DEFAULT: &str = "default";

/// Digests of the users of a policy, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The policy; `default` is all that have nothing of their own.
    pub policy: String,
    /// When it was due, in seconds as the clock on the wall counts them.
    slot: i64,
    /// What it is about: from this message on...
    pub since: Id,
    /// ...and what came before this one.
    pub until: Id,
    is_done: bool,
}

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    message: i64,
    recipient: String,
}

/// What follows at a time.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// To be written down, and no more: what was due before there was a schedule is not sent.
    Note(Run),
    /// To be written down and begun.
    Begin(Run),
    /// To be gone on with.
    GoOn(Run),
}

/// What follows when a run of a policy was due `last`, and `until` is the first message that is not for
/// it. A run that was not finished is taken over by the next one; one of the future, by a clock that
/// was wrong, is left in peace.
fn step(policy: &str, known: Option<&Run>, last: i64, until: Id) -> Step {
    let run = |since, is_done| Run { policy: policy.to_owned(), slot: last, since, until, is_done };
    match known {
        None => Step::Note(Run { until: Id::of(0), ..run(Id::of(0), true) }),
        Some(before) if before.slot < last => {
            let since = if before.is_done { before.until } else { before.since };
            Step::Begin(run(since, false))
        }
        Some(before) if before.is_done => Step::Nothing,
        Some(before) => Step::GoOn(before.clone()),
    }
}

impl Quarantine {
    /// The runs that are due, or that were begun and not finished.
    ///
    /// # Errors
    /// The index cannot be read or written.
    pub async fn runs(&self) -> Result<Vec<Run>, String> {
        self.run(|inner| async move { inner.due().await }).await
    }

    /// Users for whom something was held that a run is about, from a place on; may name one several
    /// times. And the place where to go on, if there is more.
    ///
    /// # Errors
    /// The index cannot be read.
    pub async fn run_users(
        &self,
        run: &Run,
        place: Place,
    ) -> Result<(Vec<String>, Option<Place>), String> {
        let run = run.clone();
        self.run(move |inner| async move { inner.run_users(&run, place).await }).await
    }

    /// Notes that all users were told.
    ///
    /// # Errors
    /// The index cannot be written.
    pub async fn run_done(&self, run: &Run) -> Result<(), String> {
        let run = Run { is_done: true, ..run.clone() };
        self.run(move |inner| async move { inner.note_run(run).await }).await
    }

    /// The policy whose runs are for what this one holds, or refuses.
    pub fn run_policy<'p>(&self, policy: &'p str) -> &'p str {
        let has_own = self.inner().settings().policies.contains_key(policy);
        if has_own { policy } else { DEFAULT }
    }
}

impl Inner {
    async fn due(self: Arc<Self>) -> Result<Vec<Run>, String> {
        let settings = self.settings();
        let own = settings.policies.iter().map(|(policy, terms)| (policy.as_str(), terms));
        let all = own.filter(|(policy, _)| *policy != DEFAULT);
        let all = all.chain([(DEFAULT, &settings.default)]);
        let all: Vec<_> =
            all.filter_map(|(policy, terms)| Some((policy, terms.digest.as_ref()?))).collect();
        let mut runs = self.runs.lock().await;
        if all.is_empty() && runs.as_ref().is_some_and(BTreeMap::is_empty) {
            return Ok(Vec::new());
        }
        let mut known = match runs.take() {
            Some(known) => known,
            None => self.index.runs().await?,
        };
        let now_ms = self.clock.now_ms();
        let local_s = self.index.local_s(now_ms / 1000).await?;
        let until = Id::at(now_ms.saturating_sub(SETTLE_MS));
        // One that is turned off begins anew when it is turned on again.
        let gone: Vec<String> = known
            .keys()
            .filter(|policy| !all.iter().any(|(known, _)| known == policy))
            .cloned()
            .collect();
        for policy in gone {
            self.index.forget_run(&policy).await?;
            known.remove(&policy);
        }
        let mut due = Vec::new();
        for (policy, schedule) in all {
            let Some(last) = schedule.last(local_s) else { continue };
            match step(policy, known.get(policy), last, until) {
                Step::Nothing => {}
                Step::Note(run) => {
                    self.index.note_run(&run).await?;
                    known.insert(policy.to_owned(), run);
                }
                Step::Begin(run) => {
                    self.index.note_run(&run).await?;
                    known.insert(policy.to_owned(), run.clone());
                    due.push(run);
                }
                Step::GoOn(run) => due.push(run),
            }
        }
        // After trouble they are read again.
        *runs = Some(known);
        Ok(due)
    }

    async fn note_run(self: Arc<Self>, run: Run) -> Result<(), String> {
        let mut runs = self.runs.lock().await;
        self.index.note_run(&run).await?;
        if let Some(known) = runs.as_mut() {
            known.insert(run.policy.clone(), run);
        }
        Ok(())
    }

    async fn run_users(
        self: Arc<Self>,
        run: &Run,
        place: Place,
    ) -> Result<(Vec<String>, Option<Place>), String> {
        let rows = self.index.run_rows(run, &place).await?;
        let settings = self.settings();
        let is_more = rows.len() == ROWS;
        let last = rows.last().map(|row| row.0.clone()).filter(|_| is_more);
        let is_its = |policy: &str| {
            let has_own = settings.policies.contains_key(policy);
            if run.policy == DEFAULT { policy == DEFAULT || !has_own } else { policy == run.policy }
        };
        let its = rows.into_iter().filter(|(_, _, policy)| is_its(policy));
        let mut users: Vec<String> = its.map(|(_, user, _)| user).collect();
        users.sort_unstable();
        users.dedup();
        Ok((users, last))
    }
}

impl Index {
    /// A moment, in seconds since 1970, as the clock on the wall counts them.
    async fn local_s(&self, seconds: u64) -> Result<i64, String> {
        let mut read = self.read.lock().await;
        let row = sqlx::query("SELECT unixepoch(?1, 'unixepoch', 'localtime')");
        let row = row.bind(signed(seconds)).fetch_one(&mut *read).await.map_err(trouble)?;
        row.try_get(0).map_err(trouble)
    }

    /// A moment, in milliseconds since 1970, for people: by the clock on the wall.
    pub(crate) async fn local_text(&self, ms: u64) -> Result<String, String> {
        let seconds = ms / 1000;
        let local_s = self.local_s(seconds).await?;
        let offset_s = local_s - signed(seconds);
        let local_ms = u64::try_from(local_s).unwrap_or(seconds).saturating_mul(1000);
        Ok(crate::letter::time_text_of(local_ms, offset_s))
    }

    async fn runs(&self) -> Result<BTreeMap<String, Run>, String> {
        let mut read = self.read.lock().await;
        let rows = sqlx::query("SELECT policy, slot, since, until, is_done FROM run");
        let rows = rows.fetch_all(&mut *read).await.map_err(trouble)?;
        let rows = rows.iter().map(|row| {
            let run = Run {
                policy: row.try_get(0)?,
                slot: row.try_get(1)?,
                since: Id::of(unsigned(row.try_get(2)?)),
                until: Id::of(unsigned(row.try_get(3)?)),
                is_done: row.try_get(4)?,
            };
            Ok((run.policy.clone(), run))
        });
        rows.collect::<Result<_, sqlx::Error>>().map_err(trouble)
    }

    async fn note_run(&self, run: &Run) -> Result<(), String> {
        let mut write = self.write.lock().await;
        let row = sqlx::query("INSERT OR REPLACE INTO run VALUES (?1, ?2, ?3, ?4, ?5)");
        row.bind(&run.policy)
            .bind(run.slot)
            .bind(signed(run.since.number()))
            .bind(signed(run.until.number()))
            .bind(i64::from(run.is_done))
            .execute(&mut *write)
            .await
            .map(drop)
            .map_err(trouble)
    }

    async fn forget_run(&self, policy: &str) -> Result<(), String> {
        let mut write = self.write.lock().await;
        let row = sqlx::query("DELETE FROM run WHERE policy = ?1").bind(policy);
        row.execute(&mut *write).await.map(drop).map_err(trouble)
    }

    /// What waits of that a run is about, behind a place: where it is, whose, and by which policy.
    async fn run_rows(
        &self,
        run: &Run,
        place: &Place,
    ) -> Result<Vec<(Place, String, String)>, String> {
        let mut read = self.read.lock().await;
        let from = place.message.max(signed(run.since.number()));
        let rows = if run.policy == DEFAULT {
            sqlx::query(
                "SELECT message, recipient, user, policy FROM held WHERE message >= ?1 \
                 AND message < ?2 AND (message, recipient) > (?3, ?4) AND state = 0 \
                 ORDER BY message, recipient LIMIT ?5",
            )
        } else {
            sqlx::query(
                "SELECT message, recipient, user, policy FROM held WHERE policy = ?6 \
                 AND message >= ?1 AND message < ?2 AND (message, recipient) > (?3, ?4) \
                 AND state = 0 ORDER BY message, recipient LIMIT ?5",
            )
        };
        let rows = rows.bind(from).bind(signed(run.until.number()));
        let rows = rows.bind(place.message).bind(&place.recipient).bind(signed(ROWS as u64));
        let rows = if run.policy == DEFAULT { rows } else { rows.bind(&run.policy) };
        let rows = rows.fetch_all(&mut *read).await.map_err(trouble)?;
        let rows = rows.iter().map(|row| {
            let place = Place { message: row.try_get(0)?, recipient: row.try_get(1)? };
            Ok((place, row.try_get(2)?, row.try_get(3)?))
        });
        rows.collect::<Result<_, sqlx::Error>>().map_err(trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(slot: i64, (since, until): (u64, u64), is_done: bool) -> Run {
        let (since, until) = (Id::of(since), Id::of(until));
        Run { policy: "p".into(), slot, since, until, is_done }
    }

    #[test]
    fn a_time_is_carried_out_once_whatever_happens_between() {
        let at = |known: Option<&Run>, last: i64, until: u64| step("p", known, last, Id::of(until));
        // What was due before there was a schedule is not sent.
        let Step::Note(mut known) = at(None, 100, 50) else { panic!() };
        assert_eq!(known, run(100, (0, 0), true));
        assert_eq!(at(Some(&known), 100, 60), Step::Nothing);
        // Due; killed and started again it goes on with the same messages.
        let Step::Begin(next) = at(Some(&known), 200, 70) else { panic!() };
        assert_eq!(next, run(200, (0, 70), false));
        assert_eq!(at(Some(&next), 200, 80), Step::GoOn(next.clone()));
        // Not finished until the next is due: that one takes over what is left.
        assert_eq!(at(Some(&next), 300, 90), Step::Begin(run(300, (0, 90), false)));
        known = Run { is_done: true, ..next };
        assert_eq!(at(Some(&known), 200, 95), Step::Nothing);
        // Down over several times: one run, about all of them.
        assert_eq!(at(Some(&known), 900, 99), Step::Begin(run(900, (70, 99), false)));
        // A clock that goes back, or is put back in autumn, sends nothing again.
        assert_eq!(at(Some(&run(900, (70, 99), true)), 300, 40), Step::Nothing);
    }
}
