//! What all kinds of scanners share: which server is asked, for how long, and how many at once.

use std::collections::HashMap;
use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mpp_config::Spool as Spooling;
use mpp_config::directory::smtp::Server;
use mpp_config::scanner::Scanner as Settings;
use mpp_engine::scan::{Down, Finding};
use mpp_hub::scanner::{Answering, Examined, Letter, Scanner, Trouble};
use mpp_hub::spool::Spool;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::queue::Queue;

/// A server that did not answer is tried again after so long; others are tried first.
const DOWN: Duration = Duration::from_secs(10);
/// A scan that takes longer has it looked whether the scanner is well; so long that look may take.
const PROBE: Duration = Duration::from_secs(5);
/// Between two looks at a scanner that is left alone, at first and at the most.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_LONGEST: Duration = Duration::from_secs(4);
/// Who has not answered by then hangs.
const QUICK: Duration = Duration::from_secs(1);
/// A time-out that comes so late says that this process stood still.
const LATE: Duration = Duration::from_millis(500);

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
pub(crate) struct Station<D>(Arc<Inner<D>>);

/// What scans and the probe that follows a failure share.
struct Inner<D> {
    settings: Arc<Settings>,
    dialect: D,
    places: Semaphore,
    queue: Queue,
    down: Mutex<HashMap<usize, Instant>>,
    /// Whether it is left alone; scans that are under way hear of it.
    health: watch::Sender<Health>,
    /// A probe is under way.
    is_probed: AtomicBool,
    counts: Counts,
}

/// Whether a scanner is worth asking.
#[derive(Clone, Debug)]
enum Health {
    /// It is.
    Works,
    /// It is not, since then and for that reason, until it is found back.
    Down { since: Instant, why: String, hangs: bool },
}

impl Health {
    /// Why it is left alone. One that refuses at once costs nothing to try, and who tries finds it back
    /// first; one that hangs costs everybody his time.
    fn left_alone(&self) -> Option<&str> {
        match self {
            Self::Down { why, hangs: true, .. } => Some(why),
            Self::Down { hangs: false, .. } | Self::Works => None,
        }
    }
}

#[derive(Default)]
struct Counts {
    scans: AtomicU64,
    failed: AtomicU64,
    busy: AtomicU64,
    spared: AtomicU64,
    too_large: AtomicU64,
    bytes: AtomicU64,
    spent_ms: AtomicU64,
    /// Of scans that were done, without the wait for a place.
    scanned_us: AtomicU64,
}

/// Whether this process stood still for so long that a time-out says nothing of the scanner.
fn is_late(end: Instant) -> bool {
    Instant::now().saturating_duration_since(end) > LATE
}

impl<D: Dialect> Station<D> {
    pub(crate) fn new(settings: Arc<Settings>, dialect: D) -> Self {
        let most = settings.scans_max + settings.queue_max;
        Self(Arc::new(Inner {
            places: Semaphore::new(settings.scans_max),
            queue: Queue::new(most),
            settings,
            dialect,
            down: Mutex::default(),
            health: watch::Sender::new(Health::Works),
            is_probed: AtomicBool::new(false),
            counts: Counts::default(),
        }))
    }

    async fn look_into(&self, letter: &Letter) -> Result<Finding, Trouble> {
        let inner = &*self.0;
        let bytes = letter.text.bytes();
        if bytes > inner.settings.message_bytes {
            inner.counts.too_large.fetch_add(1, Ordering::Relaxed);
            return Err(Trouble::TooLarge(bytes));
        }
        let mut health = inner.health.subscribe();
        if let Some(why) = health.borrow_and_update().left_alone() {
            inner.counts.spared.fetch_add(1, Ordering::Relaxed);
            return Err(Trouble::Down(why.to_owned()));
        }
        let Some(waiting) = inner.queue.enter(letter.client) else { return Err(inner.busy()) };
        let (begin, patience) = (Instant::now(), Duration::from_millis(inner.settings.timeout_ms));
        let end = begin + patience;
        let place = tokio::select! {
            place = timeout(patience, inner.places.acquire()) => place,
            why = left_alone(&mut health) => {
                inner.counts.spared.fetch_add(1, Ordering::Relaxed);
                return Err(Trouble::Down(why));
            }
        };
        let Ok(Ok(place)) = place else { return Err(inner.busy()) };
        let begin_scan = Instant::now();
        let asked = std::pin::pin!(inner.ask(letter, end));
        let found = tokio::select! {
            found = self.watched(asked) => found,
            why = left_alone(&mut health) => Err(why),
        };
        let scanned = u64::try_from(begin_scan.elapsed().as_micros()).unwrap_or(u64::MAX);
        let spent = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        inner.counts.spent_ms.fetch_add(spent, Ordering::Relaxed);
        let count = if found.is_ok() { &inner.counts.scans } else { &inner.counts.failed };
        count.fetch_add(1, Ordering::Relaxed);
        if found.is_ok() {
            inner.works();
            inner.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
            inner.counts.scanned_us.fetch_add(scanned, Ordering::Relaxed);
        }
        drop((place, waiting));
        found.map_err(|why| {
            if is_late(end) {
                return Trouble::Late;
            }
            self.doubt(&why);
            Trouble::Down(why)
        })
    }

    /// Waits for a scan, and has it looked whether the scanner is well when that takes long.
    async fn watched(
        &self,
        mut asked: impl Future<Output = Result<Finding, String>> + Unpin,
    ) -> Result<Finding, String> {
        loop {
            match timeout(PROBE, &mut asked).await {
                Ok(found) => return found,
                Err(_) => self.doubt("it takes long"),
            }
        }
    }

    /// Something was wrong with a scan: looks with a message of our own whether the scanner is. A
    /// message that no scanner can read must not have those of others pass unscanned.
    fn doubt(&self, why: &str) {
        if self.0.is_probed.swap(true, Ordering::AcqRel) {
            return;
        }
        let (inner, why) = (Arc::clone(&self.0), why.to_owned());
        tokio::spawn(async move { inner.probe(&why).await });
    }
}

/// Returns when a scanner is left alone, and why.
async fn left_alone(health: &mut watch::Receiver<Health>) -> String {
    let heard = health.wait_for(|health| health.left_alone().is_some()).await;
    // The sender lives as long as the scan.
    let why = heard.ok().and_then(|health| health.left_alone().map(str::to_owned));
    match why {
        Some(why) => why,
        None => std::future::pending().await,
    }
}

impl<D: Dialect> Inner<D> {
    fn down(&self) -> MutexGuard<'_, HashMap<usize, Instant>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn busy(&self) -> Trouble {
        self.counts.busy.fetch_add(1, Ordering::Relaxed);
        Trouble::Busy
    }

    /// It has answered.
    fn works(&self) {
        let mut was_down_for = None;
        self.health.send_if_modified(|health| match health {
            Health::Works => false,
            Health::Down { since, .. } => {
                was_down_for = Some(since.elapsed());
                *health = Health::Works;
                true
            }
        });
        if let Some(time) = was_down_for {
            let (name, for_s) = (&self.settings.name, time.as_secs());
            mpp_hub::say(&format!("scanner {name} answers again after {for_s} s"));
        }
    }

    /// Asks with a message of our own until the scanner answers, once at least.
    async fn probe(self: Arc<Self>, why: &str) {
        let name = &self.settings.name;
        let (mut pause, mut was_down) = (PAUSE, false);
        // Nobody else holds it: it was configured away.
        while Arc::strong_count(&self) > 1 {
            let patience = PROBE.min(Duration::from_millis(self.settings.timeout_ms));
            let begin = Instant::now();
            let found = match probe_letter() {
                Ok(letter) => self.ask(&letter, Instant::now() + patience).await,
                Err(error) => Err(error.to_string()),
            };
            let hangs = begin.elapsed() > QUICK;
            let was = self.health.borrow().clone();
            match (found, was) {
                (Ok(_), Health::Works) => {
                    if !was_down {
                        mpp_hub::say(&format!("scanner {name}: a message was not scanned: {why}"));
                    }
                    break;
                }
                (Ok(_), Health::Down { .. }) => {
                    self.works();
                    break;
                }
                (Err(_), Health::Works) if was_down => {
                    // A scan has found it back meanwhile, and it is gone again.
                    break;
                }
                (Err(trouble), Health::Works) => {
                    was_down = true;
                    let waits = self.settings.down_for(None) == Down::Defer;
                    let then = if waits { "is told to come again" } else { "passes unscanned" };
                    mpp_hub::say(&format!(
                        "scanner {name}: down: {trouble}; until it is back mail {then} where its \
                         policy says nothing else"
                    ));
                    let since = Instant::now();
                    self.health.send_replace(Health::Down { since, why: trouble, hangs });
                }
                (Err(trouble), Health::Down { since, .. }) => {
                    pause = (pause * 2).min(PAUSE_LONGEST);
                    self.health.send_replace(Health::Down { since, why: trouble, hangs });
                }
            }
            tokio::time::sleep(pause).await;
        }
        self.is_probed.store(false, Ordering::Release);
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

    /// Has one server look into a message of our own.
    async fn examine_one(&self, server: &Server) -> Result<String, String> {
        let text = self.dialect.greet(server, &self.settings).await?;
        let letter = probe_letter().map_err(|error| error.to_string())?;
        let found = self.dialect.scan(server, &self.settings, &letter).await?;
        Ok(format!("{text}; a test message is {}", found.class.name()))
    }
}

/// A message that says nothing.
fn probe_letter() -> std::io::Result<Letter> {
    const TEXT: &[u8] = b"From: mpp <postmaster@localhost>\r\nTo: postmaster@localhost\r\n\
        Subject: Does the scanner answer?\r\nMessage-ID: <probe@mpp.invalid>\r\n\
        Date: Thu, 1 Jan 1970 00:00:00 +0000\r\n\r\nThis is a test of mpp.\r\n";
    let bytes = TEXT.len() as u64;
    let settings = Spooling { message_memory: bytes, memory: bytes, size: bytes };
    let mut writer = Spool::new(std::path::Path::new(""), &settings).begin();
    writer.write(TEXT)?;
    Ok(Letter {
        client: Ipv4Addr::LOCALHOST.into(),
        client_name: "localhost".to_owned(),
        helo: "localhost".to_owned(),
        sender: "postmaster@localhost".to_owned(),
        recipients: vec!["postmaster@localhost".to_owned()],
        sasl_user: String::new(),
        queue_id: "probe".to_owned(),
        results: Vec::new(),
        text: writer.finish(),
    })
}

impl<D: Dialect> Scanner for Station<D> {
    fn scan<'a>(&'a self, letter: &'a Letter) -> Answering<'a, Result<Finding, Trouble>> {
        Box::pin(self.look_into(letter))
    }

    fn examine(&self) -> Answering<'_, Vec<Examined>> {
        Box::pin(async move {
            let mut all = Vec::new();
            let patience = Duration::from_millis(self.0.settings.timeout_ms);
            for server in &self.0.settings.servers {
                let begin = Instant::now();
                let examined = self.0.examine_one(server);
                let result = timeout(patience, examined).await.unwrap_or_else(|_| {
                    Err(format!("no answer within {} ms", patience.as_millis()))
                });
                let took_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
                all.push(Examined { server: server.to_string(), result, took_ms });
            }
            all
        })
    }

    fn down(&self) -> Option<(u64, String)> {
        match &*self.0.health.borrow() {
            Health::Works => None,
            Health::Down { since, why, .. } => {
                let ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                Some((ms, why.clone()))
            }
        }
    }

    fn numbers(&self) -> Vec<(&'static str, u64)> {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (now, inner) = (Instant::now(), &*self.0);
        let down = inner.down().values().filter(|until| **until > now).count();
        let counts = &inner.counts;
        vec![
            ("scans", of(&counts.scans)),
            ("failed", of(&counts.failed)),
            ("busy", of(&counts.busy)),
            ("unscanned", of(&counts.failed) + of(&counts.busy) + of(&counts.spared)),
            ("too_large", of(&counts.too_large)),
            ("bytes", of(&counts.bytes)),
            ("spent_ms", of(&counts.spent_ms)),
            ("scanned_us", of(&counts.scanned_us)),
            ("waiting", inner.queue.waiting() as u64),
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
