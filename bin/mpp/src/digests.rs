//! Digests that go out by themselves, when policies say so.
//!
//! What is due the quarantine knows; here users are told, one after the other. Trouble with the next hop
//! leaves a run open: it is gone on with later, and who was told already is not told again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mpp_hub::id::Id;
use mpp_quarantine::{Place, Refused, Run, Wanted};
use tokio::time::Instant;

use crate::keeper::{Keeper, Untold};
use crate::refusals;

/// How often it is looked whether a digest is due.
const EVERY: Duration = Duration::from_secs(1);
/// Users for whom the decision log is read once.
const USERS_MAX: usize = 5_000;
/// Users of one run who are told although nothing was held for them.
const ALONE_MAX: usize = 10_000;
/// So many users who cannot be told end a pass: the next hop is not well.
const FAILURES_MAX: usize = 20;
/// After a pass with trouble, at first and at the most.
const PAUSE: Duration = Duration::from_mins(1);
const PAUSE_LONGEST: Duration = Duration::from_hours(1);

type Refusals = BTreeMap<String, VecDeque<Refused>>;

/// Who sends digests.
pub(crate) struct Digests {
    keeper: Arc<Keeper>,
    /// The directory of the decision log.
    log: PathBuf,
    /// Runs with trouble: which, when to go on, and after which pause.
    later: BTreeMap<String, (Id, Instant, Duration)>,
    trouble: String,
}

/// How a pass went.
#[derive(Debug, Default)]
struct Pass {
    told: usize,
    failures: usize,
    last_failure: String,
    /// Users whom the next hop does not want to hear of.
    refused: usize,
    last_refusal: String,
}

impl Pass {
    fn note(&mut self, done: Result<Option<(usize, String)>, Untold>) {
        match done {
            Ok(told) => self.told += usize::from(told.is_some()),
            Err(Untold { is_for_good: true, text }) => {
                self.refused += 1;
                self.last_refusal = text;
            }
            Err(Untold { text, .. }) => {
                self.failures += 1;
                self.last_failure = text;
            }
        }
    }

    /// Whether the rest would fare no better.
    fn is_hopeless(&self) -> bool {
        self.failures >= FAILURES_MAX
    }
}

impl Digests {
    pub(crate) fn new(keeper: Arc<Keeper>, log: PathBuf) -> Self {
        Self { keeper, log, later: BTreeMap::new(), trouble: String::new() }
    }

    /// Sends them for ever.
    pub(crate) async fn keep(mut self) {
        loop {
            tokio::time::sleep(EVERY).await;
            match self.look().await {
                Ok(()) => self.trouble.clear(),
                Err(trouble) if trouble == self.trouble => {}
                Err(trouble) => {
                    mpp_hub::say(&format!("digests: {trouble}"));
                    self.trouble = trouble;
                }
            }
        }
    }

    async fn look(&mut self) -> Result<(), String> {
        let runs = self.keeper.quarantine().runs().await?;
        self.later.retain(|policy, _| runs.iter().any(|run| run.policy == *policy));
        for run in runs {
            let later = self.later.get(&run.policy).filter(|(until, ..)| *until == run.until);
            if later.is_some_and(|(_, at, _)| Instant::now() < *at) {
                continue;
            }
            let pass = self.carry_out(&run).await?;
            if self.keeper.is_stopping() {
                // It is gone on with at the next start.
                return Ok(());
            }
            let Pass { told, failures, last_failure, refused, last_refusal } = pass;
            if refused > 0 {
                mpp_hub::say(&format!(
                    "digests of policy {}: {refused} refused by the next hop: {last_refusal}",
                    run.policy
                ));
            }
            if failures == 0 {
                self.keeper.quarantine().run_done(&run).await?;
                if told > 0 {
                    mpp_hub::say(&format!("digests of policy {}: {told} sent", run.policy));
                }
                continue;
            }
            let pause = later.map_or(PAUSE, |(_, _, pause)| (*pause * 2).min(PAUSE_LONGEST));
            mpp_hub::say(&format!(
                "digests of policy {}: {told} sent, {failures} not yet, tried again in {} minutes: \
                 {last_failure}",
                run.policy,
                pause.as_secs() / 60
            ));
            self.later.insert(run.policy, (run.until, Instant::now() + pause, pause));
        }
        Ok(())
    }

    /// Tells all users that a run is about.
    async fn carry_out(&self, run: &Run) -> Result<Pass, String> {
        let live = self.keeper.hub().live();
        let digest = live.configuration.quarantine.terms(&run.policy).digest.as_ref();
        let wants_refused = digest.is_some_and(|digest| digest.refused);
        drop(live);
        let (mut place, mut pass) = (Some(Place::default()), Pass::default());
        while place.is_some() {
            let mut users = BTreeSet::new();
            while let Some(from) = place.take() {
                let (page, next) = self.keeper.quarantine().run_users(run, from).await?;
                users.extend(page);
                place = next;
                if users.len() >= USERS_MAX {
                    break;
                }
            }
            let is_last = place.is_none();
            let (mut refused, alone) = self.refusals(&users, run, is_last && wants_refused).await?;
            for user in users {
                let his = refused.remove(&user).unwrap_or_default().into();
                let wanted = self.keeper.wanted(&user, his).await;
                let before = Some(run.until);
                pass.note(self.keeper.tell(Wanted { before, ..wanted }).await);
                if pass.is_hopeless() {
                    return Ok(pass);
                }
            }
            self.tell_alone(run, alone, &mut pass).await;
        }
        Ok(pass)
    }

    /// Tells users for whom nothing was held and something was refused, if they are users at all.
    async fn tell_alone(&self, run: &Run, refused: Refusals, pass: &mut Pass) {
        let mut of_users: Refusals = BTreeMap::new();
        for (recipient, refused) in refused {
            let user = self.keeper.hub().user_of(&recipient).await;
            of_users.entry(user).or_default().extend(refused);
        }
        for (user, refused) in of_users {
            let Some(route) = self.keeper.route_of(&user) else { continue };
            if self.keeper.hub().is_user(&user).await == Some(false) {
                continue;
            }
            let (before, route_alone) = (Some(run.until), Some(route));
            let wanted = Wanted { user, refused: refused.into(), before, route_alone };
            pass.note(self.keeper.tell(wanted).await);
            if pass.is_hopeless() {
                return;
            }
        }
    }

    /// What was refused for these users; and, if that is wanted, for others that a run is about, by
    /// recipients.
    async fn refusals(
        &self,
        users: &BTreeSet<String>,
        run: &Run,
        is_alone_wanted: bool,
    ) -> Result<(Refusals, Refusals), String> {
        if users.is_empty() && !is_alone_wanted {
            return Ok(Default::default());
        }
        let (users, run, log) = (users.clone(), run.clone(), self.log.clone());
        let keeper = Arc::clone(&self.keeper);
        let read = tokio::task::spawn_blocking(move || {
            if let Some(log) = keeper.hub().log() {
                log.settle();
            }
            let mut alone = BTreeSet::new();
            let all = refusals::read(&log, |refused, policy| {
                let mut owners = refusals::owners(&refused.recipient);
                if let Some(owner) = owners.find(|owner| users.contains(owner)) {
                    return Some(owner);
                }
                let is_its = is_alone_wanted
                    && (run.since..run.until).contains(&refused.id)
                    && keeper.quarantine().run_policy(policy) == run.policy;
                let recipient = refused.recipient.clone();
                let has_room = alone.len() < ALONE_MAX || alone.contains(&recipient);
                (is_its && has_room).then(|| {
                    alone.insert(recipient.clone());
                    recipient
                })
            });
            all.map(|all| all.into_iter().partition(|(key, _)| users.contains(key)))
        });
        let read = read.await.map_err(|error| error.to_string())?;
        read.map_err(|error| format!("the decision log: {error}"))
    }
}
