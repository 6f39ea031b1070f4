//! What all kinds of scanners share: which server is asked, for how long, and how many at once.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mpp_config::directory::smtp::Server;
use mpp_config::scanner::Scanner as Settings;
use mpp_engine::scan::Finding;
use mpp_hub::scanner::{Answering, Examined, Letter, Scanner, Trouble};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// A server that did not answer is tried again after so long; others are tried first.
const DOWN: Duration = Duration::from_secs(10);

/// What one kind of scanner speaks.
pub(crate) trait Dialect: Send + Sync + 'static {
    /// Has one server look into a message.
    ///
    /// # Errors
    /// Why it has not, for people.
    fn scan(
        &self,
        server: &Server,
        settings: &Settings,
        letter: &Letter,
    ) -> impl Future<Output = Result<Finding, String>> + Send;

    /// Whether a server answers at all, and with what.
    ///
    /// # Errors
    /// As [`Dialect::scan`].
    fn greet(
        &self,
        server: &Server,
        settings: &Settings,
    ) -> impl Future<Output = Result<String, String>> + Send;
}

/// A scanner of some kind.
pub(crate) struct Station<D> {
    settings: Arc<Settings>,
    dialect: D,
    places: Semaphore,
    /// Scans that have a place or wait for one.
    wanted: AtomicUsize,
    down: Mutex<HashMap<usize, Instant>>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    scans: AtomicU64,
    failed: AtomicU64,
    busy: AtomicU64,
    too_large: AtomicU64,
    bytes: AtomicU64,
    spent_ms: AtomicU64,
    /// Of scans that were done, without the wait for a place.
    scanned_us: AtomicU64,
}

/// Counts one that is wanted until it is dropped, also by a scan that nobody waits for any more.
struct Wanted<'s>(&'s AtomicUsize);

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<D: Dialect> Station<D> {
    pub(crate) fn new(settings: Arc<Settings>, dialect: D) -> Self {
        Self {
            places: Semaphore::new(settings.scans_max),
            settings,
            dialect,
            wanted: AtomicUsize::new(0),
            down: Mutex::default(),
            counts: Counts::default(),
        }
    }

    fn down(&self) -> MutexGuard<'_, HashMap<usize, Instant>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look_into(&self, letter: &Letter) -> Result<Finding, Trouble> {
        let bytes = letter.text.bytes();
        if bytes > self.settings.message_bytes {
            self.counts.too_large.fetch_add(1, Ordering::Relaxed);
            return Err(Trouble::TooLarge(bytes));
        }
        let before = self.wanted.fetch_add(1, Ordering::Relaxed);
        let wanted = Wanted(&self.wanted);
        if before >= self.settings.scans_max + self.settings.queue_max {
            self.counts.busy.fetch_add(1, Ordering::Relaxed);
            return Err(Trouble::Busy);
        }
        let (begin, patience) = (Instant::now(), Duration::from_millis(self.settings.timeout_ms));
        let Ok(Ok(place)) = timeout(patience, self.places.acquire()).await else {
            self.counts.busy.fetch_add(1, Ordering::Relaxed);
            return Err(Trouble::Busy);
        };
        let begin_scan = Instant::now();
        let found = self.ask(letter, begin + patience).await;
        let scanned = u64::try_from(begin_scan.elapsed().as_micros()).unwrap_or(u64::MAX);
        let spent = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.counts.spent_ms.fetch_add(spent, Ordering::Relaxed);
        let count = if found.is_ok() { &self.counts.scans } else { &self.counts.failed };
        count.fetch_add(1, Ordering::Relaxed);
        if found.is_ok() {
            self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.counts.scanned_us.fetch_add(scanned, Ordering::Relaxed);
        }
        drop((place, wanted));
        found.map_err(Trouble::Down)
    }

    /// Asks the servers in order until one answers, those that did not answer a moment ago last.
    async fn ask(&self, letter: &Letter, end: Instant) -> Result<Finding, String> {
        let mut servers: Vec<(usize, &Server)> = self.settings.servers.iter().enumerate().collect();
        {
            let (down, now) = (self.down(), Instant::now());
            servers.sort_by_key(|(number, _)| down.get(number).is_some_and(|until| *until > now));
        }
        let mut troubles = Vec::new();
        let mut left = servers.len();
        for (number, server) in servers {
            let rest = end.saturating_duration_since(Instant::now());
            // One that hangs leaves time for the others.
            let share = if left > 1 { rest / 2 } else { rest };
            left -= 1;
            let asked = self.dialect.scan(server, &self.settings, letter);
            let found = match timeout(share, asked).await {
                Ok(found) => found,
                Err(_) => Err(format!("no answer within {} ms", share.as_millis())),
            };
            match found {
                Ok(finding) => {
                    self.down().remove(&number);
                    return Ok(finding);
                }
                Err(trouble) => {
                    self.down().insert(number, Instant::now() + DOWN);
                    troubles.push(format!("{server}: {trouble}"));
                }
            }
        }
        Err(troubles.join("; "))
    }
}

impl<D: Dialect> Scanner for Station<D> {
    fn scan<'a>(&'a self, letter: &'a Letter) -> Answering<'a, Result<Finding, Trouble>> {
        Box::pin(self.look_into(letter))
    }

    fn examine(&self) -> Answering<'_, Vec<Examined>> {
        Box::pin(async move {
            let mut all = Vec::new();
            let patience = Duration::from_millis(self.settings.timeout_ms);
            for server in &self.settings.servers {
                let begin = Instant::now();
                let greeted = self.dialect.greet(server, &self.settings);
                let result = timeout(patience, greeted).await.unwrap_or_else(|_| {
                    Err(format!("no answer within {} ms", patience.as_millis()))
                });
                let took_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
                all.push(Examined { server: server.to_string(), result, took_ms });
            }
            all
        })
    }

    fn numbers(&self) -> Vec<(&'static str, u64)> {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let now = Instant::now();
        let down = self.down().values().filter(|until| **until > now).count();
        vec![
            ("scans", of(&self.counts.scans)),
            ("failed", of(&self.counts.failed)),
            ("busy", of(&self.counts.busy)),
            ("too_large", of(&self.counts.too_large)),
            ("bytes", of(&self.counts.bytes)),
            ("spent_ms", of(&self.counts.spent_ms)),
            ("scanned_us", of(&self.counts.scanned_us)),
            ("waiting", self.wanted.load(Ordering::Relaxed) as u64),
            ("servers_down", down as u64),
        ]
    }
}

/// Points of a score, given the score from which on the scanner calls it spam.
pub(crate) fn points(score: f64, spam: f64) -> f32 {
    let points = f64::from(mpp_engine::scan::SPAM) * score / spam.max(0.01);
    #[allow(clippy::cast_possible_truncation, reason = "it lies between the bounds")]
    let points = points.clamp(-1000.0, 1000.0) as f32;
    points
}
