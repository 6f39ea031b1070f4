//! One server of a directory: its idle connections, and whether it is left alone for a while.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mpp_config::directory::ldap::Server as Settings;
use mpp_hub::directory::{Trouble, Wanted, What};
use tokio::sync::Semaphore;

use super::connect::{Connector, Stage};
use super::query;
use super::session::{Fault, Session};

/// How long a server that did not work is asked last.
const REST: Duration = Duration::from_secs(5);
/// An idle connection is not kept longer: what sits between forgets it without a word.
const IDLE_MAX: Duration = Duration::from_mins(2);

/// A server.
pub(super) struct Server {
    pub(super) settings: Settings,
    slots: Semaphore,
    idle: Mutex<Vec<Session>>,
    rests_until: Mutex<Option<Instant>>,
    /// Whether it has shown any user, domain or member since the start.
    finds: Finds,
}

/// What a server has shown. Each for itself: whoever may see domains may still see no users.
#[derive(Default)]
struct Finds {
    users: AtomicBool,
    domains: AtomicBool,
    members: AtomicBool,
}

impl Finds {
    fn of(&self, what: &What) -> &AtomicBool {
        match what {
            What::Recipient => &self.users,
            What::Domain => &self.domains,
            What::Member(_) => &self.members,
        }
    }
}

/// The data is sound after any panic: it is a list or a time.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    pub(super) fn new(settings: Settings, connections: usize) -> Self {
        Self {
            settings,
            slots: Semaphore::new(connections),
            idle: Mutex::default(),
            rests_until: Mutex::default(),
            finds: Finds::default(),
        }
    }

    /// Whether others are to be asked first.
    pub(super) fn rests(&self) -> bool {
        locked(&self.rests_until).is_some_and(|until| Instant::now() < until)
    }

    fn rest(&self) {
        *locked(&self.rests_until) = Some(Instant::now() + REST);
    }

    /// Asks this server; all that it takes is bounded by `timeout`, except waiting for others.
    pub(super) async fn ask(
        &self,
        connector: &Connector,
        wanted: &Wanted,
        timeout: Duration,
    ) -> Result<bool, Trouble> {
        // Never closed, hence never an error.
        let _slot = self.slots.acquire().await;
        let mut watch = Watch { server: self, patience: timeout / 2, since: Some(Instant::now()) };
        let mut stage = Stage::Search;
        let asked = tokio::time::timeout(timeout, self.attempt(connector, wanted, &mut stage));
        let answer = match asked.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Fault::Said(trouble))) => Err(trouble),
            Ok(Err(Fault::Lost(text))) => Err(Trouble::Down(text)),
            Err(_) => {
                // The others hang as well.
                locked(&self.idle).clear();
                Err(Trouble::Down(format!("it {} within {timeout:?}", stage.missing())))
            }
        };
        watch.since = None;
        match &answer {
            Err(Trouble::Down(_)) => self.rest(),
            Ok(_) | Err(Trouble::NotNow(_)) => *locked(&self.rests_until) = None,
        }
        answer.map_err(|trouble| named(&self.settings, trouble))
    }

    async fn attempt(
        &self,
        connector: &Connector,
        wanted: &Wanted,
        stage: &mut Stage,
    ) -> Result<bool, Fault> {
        if let Some(mut session) = self.idle() {
            *stage = Stage::Search;
            match self.answer(&mut session, connector, wanted).await {
                // The server was restarted, or has closed what was idle: no news about it.
                Err(Fault::Lost(_)) => locked(&self.idle).clear(),
                answer => return self.keep(session, answer),
            }
        }
        let mut session = connector.open(&self.settings, stage).await?;
        let answer = self.answer(&mut session, connector, wanted).await;
        self.keep(session, answer)
    }

    /// Asks. The first "no" of a server is believed only once it has shown that it finds anybody at
    /// all: one that hides its entries from whoever asks (389 Directory Server without a bind) finds
    /// nothing, and calls that a success.
    async fn answer(
        &self,
        session: &mut Session,
        connector: &Connector,
        wanted: &Wanted,
    ) -> Result<bool, Fault> {
        let settings = connector.settings();
        let found = query::run(session, settings, wanted, connector.who()).await?;
        let finds = self.finds.of(&wanted.what);
        if !found && !finds.load(Ordering::Relaxed) {
            let who = connector.who();
            if let Some(why) = query::finds_any(session, settings, &wanted.what, who).await? {
                let text = format!("{who} has found nobody yet, so nobody is unknown: {why}");
                return Err(Fault::Said(Trouble::NotNow(text)));
            }
        }
        finds.store(true, Ordering::Relaxed);
        Ok(found)
    }

    fn idle(&self) -> Option<Session> {
        let mut idle = locked(&self.idle);
        idle.retain(|session| session.idle_since.elapsed() < IDLE_MAX);
        idle.pop()
    }

    /// Takes a connection back. One whose look-up was dropped half-way never comes here: nobody
    /// could tell its late answer from the next one.
    fn keep(&self, mut session: Session, answer: Result<bool, Fault>) -> Result<bool, Fault> {
        if !matches!(answer, Err(Fault::Lost(_))) && !session.is_spent {
            session.idle_since = Instant::now();
            locked(&self.idle).push(session);
        }
        answer
    }
}

/// A trouble with the server it comes from.
pub(super) fn named(server: &Settings, trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Down(text) => Trouble::Down(format!("{}: {text}", server.text)),
        Trouble::NotNow(text) => Trouble::NotNow(format!("{}: {text}", server.text)),
    }
}

/// Sees whether an attempt is given up by those who wait for it, which is news about the server
/// too: with a deadline shorter than the timeout nobody else would ever notice.
struct Watch<'a> {
    server: &'a Server,
    patience: Duration,
    since: Option<Instant>,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= self.patience) {
            self.server.rest();
        }
    }
}
