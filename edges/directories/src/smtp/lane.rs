//! Lanes: each keeps one connection and asks for whoever waits, several at a time.
//!
//! Who asks waits for an answer and holds no connection, so one that gives up in the middle leaves
//! no half transaction behind: the lane hears the replies to the end all the same.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mpp_config::directory::smtp::Smtp as Settings;
use mpp_hub::directory::Trouble;
use mpp_wire::smtp::{Path, path};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::domains::{Domains, Habit};
use super::session::{Asked, Failure, Session};
use super::verdict::Verdict;

/// A connection that nobody used for so long is closed: the next hop wants its slot back.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// For so long a server that did not answer is asked only if there is no other.
const REST: Duration = Duration::from_secs(3);
/// So many wait at most; the hub lets fewer come.
const WAITING_MAX: usize = 10_000;

/// Somebody who is asked about.
pub(super) struct Probe {
    pub(super) path: Path,
    pub(super) domain: String,
    pub(super) answer: oneshot::Sender<Result<bool, Trouble>>,
}

/// What all lanes of a directory share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) timeout: Duration,
    pub(super) tls: Result<Option<TlsConnector>, String>,
    pub(super) domains: Domains,
    waiting: Mutex<Waiting>,
    come: Notify,
}

#[derive(Default)]
struct Waiting {
    probes: VecDeque<Probe>,
    lanes: usize,
    idle_lanes: usize,
    rests_until: Vec<Option<Instant>>,
    is_closed: bool,
}

impl Shared {
    pub(super) fn new(
        settings: Settings,
        timeout: Duration,
        tls: Result<Option<TlsConnector>, String>,
    ) -> Self {
        let rests_until = vec![None; settings.servers.len()];
        Self {
            settings,
            timeout,
            tls,
            domains: Domains::default(),
            waiting: Mutex::new(Waiting { rests_until, ..Waiting::default() }),
            come: Notify::new(),
        }
    }

    /// Puts somebody into the queue, and opens another lane if all are busy.
    pub(super) fn put(self: &Arc<Self>, probe: Probe) {
        let mut waiting = self.waiting();
        if waiting.probes.len() >= WAITING_MAX {
            let _ = probe.answer.send(Err(Trouble::NotNow("too many are waiting".to_owned())));
            return;
        }
        waiting.probes.push_back(probe);
        let is_short = waiting.idle_lanes < waiting.probes.len();
        if is_short && waiting.lanes < self.settings.connections {
            waiting.lanes += 1;
            drop(waiting);
            tokio::spawn(lane(Open { shared: Arc::clone(self), is_idle: false }));
        }
        self.come.notify_one();
    }

    /// Lets the lanes end.
    pub(super) fn close(&self) {
        self.waiting().is_closed = true;
        self.come.notify_waiters();
        self.come.notify_one();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, most: usize) -> Vec<Probe> {
        let mut waiting = self.waiting();
        let count = waiting.probes.len().min(most);
        waiting.probes.drain(..count).filter(|probe| !probe.answer.is_closed()).collect()
    }

    /// The numbers of the servers to ask, in order.
    fn order(&self) -> Vec<usize> {
        let now = Instant::now();
        let waiting = self.waiting();
        let rests = |number: &usize| {
            waiting.rests_until.get(*number).is_some_and(|it| it.is_some_and(|until| now < until))
        };
        let (tired, fresh): (Vec<usize>, Vec<usize>) =
            (0..self.settings.servers.len()).partition(rests);
        if fresh.is_empty() { tired } else { fresh }
    }

    fn rest(&self, number: usize, until: Option<Instant>) {
        if let Some(rests) = self.waiting().rests_until.get_mut(number) {
            *rests = until;
        }
    }
}

/// A lane that is counted, and no longer when it ends in whatever way.
struct Open {
    shared: Arc<Shared>,
    is_idle: bool,
}

impl Open {
    fn idle(&mut self, is_idle: bool) {
        if self.is_idle != is_idle {
            let mut waiting = self.shared.waiting();
            if is_idle {
                waiting.idle_lanes += 1;
            } else {
                waiting.idle_lanes = waiting.idle_lanes.saturating_sub(1);
            }
            self.is_idle = is_idle;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.idle(false);
        let mut waiting = self.shared.waiting();
        waiting.lanes = waiting.lanes.saturating_sub(1);
    }
}

async fn lane(mut open: Open) {
    let shared = Arc::clone(&open.shared);
    let mut held: Option<(usize, Session)> = None;
    loop {
        let probes = shared.take(shared.settings.refusals.min(shared.settings.probes));
        if !probes.is_empty() {
            ask(&shared, &mut held, probes).await;
            continue;
        }
        if shared.waiting().is_closed {
            break;
        }
        open.idle(true);
        let woken = timeout(IDLE_MAX, shared.come.notified()).await;
        open.idle(false);
        // The queue is looked into once more: somebody may have come in the last moment.
        if woken.is_err() && shared.waiting().probes.is_empty() {
            break;
        }
    }
    if let Some((_, session)) = held {
        let _ = timeout(shared.timeout, session.quit()).await;
    }
}

/// Answers all of them, by the first server that can.
async fn ask(shared: &Shared, held: &mut Option<(usize, Session)>, mut probes: Vec<Probe>) {
    let mut troubles: Vec<String> = Vec::new();
    let mut is_not_now = false;
    for number in shared.order() {
        let Some(server) = shared.settings.servers.get(number) else { continue };
        let asked = timeout(shared.timeout, ask_server(shared, number, held, &mut probes)).await;
        let failure = match asked {
            Ok(Ok(())) => {
                shared.rest(number, None);
                return;
            }
            Ok(Err(failure)) => failure,
            Err(_) => Failure::down(format!("no answer within {} ms", shared.timeout.as_millis())),
        };
        // In the middle of a transaction, or dead: of no more use.
        *held = None;
        shared.rest(number, Some(Instant::now() + REST));
        is_not_now = failure.is_not_now;
        troubles.push(format!("{server}: {}", failure.text));
    }
    let text = troubles.join("; ");
    for probe in probes {
        let trouble = if is_not_now { Trouble::NotNow } else { Trouble::Down };
        let _ = probe.answer.send(Err(trouble(text.clone())));
    }
}

/// Answers all of them by one server, and takes who is answered out of the list.
async fn ask_server(
    shared: &Shared,
    number: usize,
    held: &mut Option<(usize, Session)>,
    probes: &mut Vec<Probe>,
) -> Result<(), Failure> {
    let is_other = held.as_ref().is_some_and(|(its, _)| *its != number);
    if is_other && let Some((_, session)) = held.take() {
        session.quit().await;
    }
    // A connection that was kept may have died since. A new one may hear a 421 once.
    let mut chances = 2;
    while !probes.is_empty() {
        let is_full = held.as_ref().is_some_and(|(_, it)| it.room(&shared.settings) < 2);
        if is_full && let Some((_, session)) = held.take() {
            session.quit().await;
        }
        if held.is_none() {
            let server = shared.settings.servers.get(number);
            let server = server.ok_or_else(|| Failure::down("no server"))?;
            let tls = shared.tls.as_ref().map_err(|text| Failure::down(text.clone()))?;
            let session = Session::open(server, &shared.settings, tls.as_ref()).await?;
            *held = Some((number, session));
        }
        let Some((_, session)) = held.as_mut() else { continue };
        match transaction(shared, session, probes).await {
            Ok(()) => {}
            Err(failure) if failure.is_not_now => return Err(failure),
            Err(failure) => {
                *held = None;
                chances -= 1;
                if chances == 0 {
                    return Err(failure);
                }
            }
        }
    }
    Ok(())
}

/// One transaction: nobody of each domain that is not known yet, then those who are asked about.
async fn transaction(
    shared: &Shared,
    session: &mut Session,
    probes: &mut Vec<Probe>,
) -> Result<(), Failure> {
    let room = session.room(&shared.settings).max(2);
    let mut nobodies: Vec<(String, Path)> = Vec::new();
    let mut count = 0;
    for probe in probes.iter() {
        let is_new = shared.domains.habit(&probe.domain) == Habit::Open
            && !nobodies.iter().any(|(domain, _)| *domain == probe.domain);
        let nobody = is_new.then(|| path(&nobody(), &probe.domain)).flatten();
        if count + 1 + nobodies.len() + usize::from(nobody.is_some()) > room {
            break;
        }
        nobodies.extend(nobody.map(|nobody| (probe.domain.clone(), nobody)));
        count += 1;
    }
    let somebodies = probes.iter().take(count).map(|probe| &probe.path);
    let recipients: Vec<&Path> = nobodies.iter().map(|(_, path)| path).chain(somebodies).collect();
    let answers = session.ask(&shared.settings.sender, &recipients).await?;
    let is_first_too_many = answers.first().is_some_and(|it| it.verdict == Verdict::TooMany);
    let mut answers = answers.into_iter();
    for ((domain, _), asked) in nobodies.iter().zip(answers.by_ref()) {
        learn(shared, domain, asked.verdict);
    }
    // Who came when the transaction was full waits for the next one, unless it began full.
    let mut later = Vec::new();
    for (probe, asked) in probes.drain(..count).zip(answers) {
        if asked.verdict == Verdict::TooMany && !is_first_too_many {
            later.push(probe);
        } else {
            let known = shared.domains.habit(&probe.domain) == Habit::TakesAll;
            let answer = if known { Ok(true) } else { answer(&asked) };
            let _ = probe.answer.send(answer);
        }
    }
    later.append(probes);
    *probes = later;
    Ok(())
}

fn learn(shared: &Shared, domain: &str, verdict: Verdict) {
    let recheck = Duration::from_millis(shared.settings.recheck_ms);
    match verdict {
        Verdict::Known => shared.domains.learn(domain, Habit::TakesAll, recheck),
        Verdict::Unknown => shared.domains.learn(domain, Habit::Verifies, recheck),
        // A server that defers nobody and takes somebody has told them apart, so its "known" is
        // believed; whether it always does is asked again soon.
        Verdict::NotNow | Verdict::TooMany | Verdict::Over => shared.domains.put_off(domain),
    }
}

fn answer(asked: &Asked) -> Result<bool, Trouble> {
    match asked.verdict {
        Verdict::Known => Ok(true),
        Verdict::Unknown => Ok(false),
        Verdict::NotNow | Verdict::TooMany | Verdict::Over => {
            Err(Trouble::NotNow(asked.text.clone()))
        }
    }
}

/// A local part that nobody has.
fn nobody() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    format!("mpp-check-{:016x}", RandomState::new().hash_one(Instant::now()))
}
