//! One directory as the hub uses it: one look-up under way per key however many ask, a bound on how
//! many at once, and a breaker that leaves a dead one alone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use mpp_config::directory::Directory as Configured;
use mpp_engine::directory::Found;
use mpp_engine::question::Key;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::directory::{Directory, Trouble, Wanted, found};
use crate::room::Room;
use crate::say;
use crate::store::Store;

/// Look-ups of one directory under way or waiting at the most; beyond it the answer is "not now".
const FLIGHTS_MAX: usize = 10_000;
/// Answers kept here at the most, which the store is not to keep.
const RECENT_MAX: usize = 16_384;
/// So many failures in a row open the breaker.
const FAILURES_MAX: u32 = 3;
/// The first pause of a dead directory, in milliseconds; it doubles up to the longest.
const PAUSE_MS: u64 = 500;
/// The longest pause: so soon after it has come back a directory is used again.
const PAUSE_LONGEST_MS: u64 = 4_000;
/// How many time-outs of one server a look-up may take in all: some for servers that hang.
const TIMEOUTS: u32 = 4;

/// A directory in service.
pub(crate) struct Station {
    pub(crate) configured: Configured,
    directory: Arc<dyn Directory>,
    gate: Semaphore,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    flights: HashMap<Key, watch::Receiver<Option<Found>>>,
    /// What the store does not keep: that it cannot be said now, and strangers beyond the room.
    recent: HashMap<Key, (Found, u64)>,
    breaker: Breaker,
    numbers: Numbers,
    last_trouble: Option<(String, u64)>,
    notices: Vec<String>,
}

/// What a directory has done since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    look_ups: u64,
    known: u64,
    unknown: u64,
    not_now: u64,
    failed: u64,
    refreshed: u64,
    joined: u64,
    spared: u64,
    took_ms: u64,
}

/// Whether a directory is worth asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Breaker {
    /// It is; so many failures in a row so far.
    #[default]
    Works,
    Fails(u32),
    /// It is not until then, in milliseconds since 1970; the pause, and since when it is down.
    Down {
        until_ms: u64,
        pause_ms: u64,
        since_ms: u64,
    },
    /// One look-up is under way to see.
    Trying {
        pause_ms: u64,
        since_ms: u64,
    },
}

impl Breaker {
    /// Whether a look-up may go. The first after a pause is the one that tries.
    fn admits(&mut self, now_ms: u64) -> bool {
        match *self {
            Self::Works | Self::Fails(_) => true,
            Self::Trying { .. } => false,
            Self::Down { until_ms, pause_ms, since_ms } => {
                let tries = now_ms >= until_ms;
                if tries {
                    *self = Self::Trying { pause_ms, since_ms };
                }
                tries
            }
        }
    }

    /// Notes a success; since when it was down if it was.
    fn works(&mut self) -> Option<u64> {
        match std::mem::take(self) {
            Self::Works | Self::Fails(_) => None,
            Self::Down { since_ms, .. } | Self::Trying { since_ms, .. } => Some(since_ms),
        }
    }

    /// Notes a failure; whether it is the one that opens the breaker.
    fn fails(&mut self, now_ms: u64) -> bool {
        let (next, opens) = match *self {
            Self::Works => (Self::Fails(1), false),
            Self::Fails(failures) if failures + 1 < FAILURES_MAX => {
                (Self::Fails(failures + 1), false)
            }
            Self::Fails(_) => {
                let until_ms = now_ms + PAUSE_MS;
                (Self::Down { until_ms, pause_ms: PAUSE_MS, since_ms: now_ms }, true)
            }
            // One that began before the breaker opened.
            down @ Self::Down { .. } => (down, false),
            Self::Trying { pause_ms, since_ms } => {
                let pause_ms = (pause_ms * 2).min(PAUSE_LONGEST_MS);
                (Self::Down { until_ms: now_ms + pause_ms, pause_ms, since_ms }, false)
            }
        };
        *self = next;
        opens
    }

    fn is_down(self) -> bool {
        matches!(self, Self::Down { .. } | Self::Trying { .. })
    }
}

/// What a look-up needs of the node.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) runtime: Handle,
    pub(crate) room: Arc<Room>,
}

impl Station {
    pub(crate) fn new(configured: Configured, directory: Arc<dyn Directory>) -> Self {
        let gate = Semaphore::new(configured.look_ups_max);
        Self { configured, directory, gate, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn name(&self) -> &str {
        &self.configured.source.name
    }

    /// The directory itself, for examinations.
    pub(crate) fn directory(&self) -> &Arc<dyn Directory> {
        &self.directory
    }

    /// Begins a look-up, or joins the one that is under way.
    ///
    /// # Errors
    /// What is to be answered at once: the directory is left alone, or has too much to do.
    pub(crate) fn begin(
        self: &Arc<Self>,
        key: Key,
        is_refresh: bool,
        around: &Surroundings,
        make: impl FnOnce() -> Vec<Wanted>,
    ) -> Result<watch::Receiver<Option<Found>>, Found> {
        let now_ms = around.clock.now_ms();
        let mut inner = self.inner();
        if let Some(flight) = inner.flights.get(&key).cloned() {
            inner.numbers.joined += 1;
            return Ok(flight);
        }
        match inner.recent.get(&key) {
            Some((found, until_ms)) if now_ms < *until_ms => return Err(*found),
            _ => {}
        }
        if inner.flights.len() >= FLIGHTS_MAX || !inner.breaker.admits(now_ms) {
            inner.numbers.spared += 1;
            return Err(Found::NotNow);
        }
        inner.numbers.refreshed += u64::from(is_refresh);
        let (sender, receiver) = watch::channel(None);
        inner.flights.insert(key, receiver.clone());
        drop(inner);
        let flight = Flight { station: Arc::clone(self), key, around: around.clone(), sender };
        around.runtime.spawn(flight.fly(make()));
        Ok(receiver)
    }

    /// Asks the directory, and no cache: for people who want to know.
    pub(crate) async fn probe(&self, wanted: &[Wanted]) -> Result<bool, Trouble> {
        let wait = Duration::from_millis(self.configured.timeout_ms) * TIMEOUTS;
        let asked = async {
            for wanted in wanted {
                if self.directory.look_up(wanted).await? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        timeout(wait, asked)
            .await
            .unwrap_or_else(|_| Err(Trouble::Down(format!("no answer within {wait:?}"))))
    }

    fn land(&self, key: Key, answer: Result<bool, Trouble>, took_ms: u64, around: &Surroundings) {
        let now_ms = around.clock.now_ms();
        let lifetimes = self.configured.source.lifetimes;
        let mut inner = self.inner();
        inner.numbers.look_ups += 1;
        inner.numbers.took_ms += took_ms;
        let found = found(&answer);
        match &answer {
            Ok(true) => inner.numbers.known += 1,
            Ok(false) => inner.numbers.unknown += 1,
            Err(Trouble::NotNow(_)) => inner.numbers.not_now += 1,
            Err(Trouble::Down(_)) => inner.numbers.failed += 1,
        }
        let is_down = matches!(answer, Err(Trouble::Down(_)));
        let mut news = None;
        if is_down {
            if inner.breaker.fails(now_ms) {
                news = Some("is down");
            }
        } else if let Some(since_ms) = inner.breaker.works() {
            let for_s = now_ms.saturating_sub(since_ms) / 1000;
            say(&format!("directory {} answers again after {for_s} s", self.name()));
        }
        if let Err(Trouble::NotNow(text) | Trouble::Down(text)) = answer {
            if let Some(news) = news {
                crate::warn(&format!(
                    "directory {} {news}: {text}; known recipients are known from what is kept, \
                     for the rest the policy's `unavailable` holds",
                    self.name()
                ));
            }
            inner.last_trouble = Some((text, now_ms));
        }
        let is_kept = found == Found::Yes || found == Found::No && around.room.take();
        if !is_kept && !is_down {
            inner.remember(key, found, (now_ms, now_ms + lifetimes.keep_ms(found)));
        }
        drop(inner);
        if is_kept {
            around.store.perform(now_ms, &[lifetimes.remember(key, found)]);
        }
    }

    /// Forgets what is not in the store.
    pub(crate) fn forget(&self, key: Key) {
        self.inner().recent.remove(&key);
    }

    /// Says what is new and worth the operator's attention.
    pub(crate) fn look_around(&self) {
        let notices = self.directory.notices();
        let mut inner = self.inner();
        for notice in notices.iter().filter(|notice| !inner.notices.contains(notice)) {
            say(&format!("directory {}: {notice}", self.name()));
        }
        for gone in inner.notices.iter().filter(|notice| !notices.contains(notice)) {
            say(&format!("directory {}: no longer: {gone}", self.name()));
        }
        inner.notices = notices;
    }

    /// How it is, for people and for monitoring.
    pub(crate) fn status(&self, now_ms: u64) -> Value {
        let notices = self.directory.notices();
        let inner = self.inner();
        let numbers = inner.numbers;
        json!({
            "name": self.name(),
            "kind": self.configured.settings.kind(),
            "state": if inner.breaker.is_down() { "down" } else { "works" },
            "under_way": inner.flights.len(),
            "look_ups": numbers.look_ups,
            "known": numbers.known,
            "unknown": numbers.unknown,
            "not_now": numbers.not_now,
            "failed": numbers.failed,
            "refreshed": numbers.refreshed,
            "joined": numbers.joined,
            "spared": numbers.spared,
            "mean_ms": numbers.took_ms.checked_div(numbers.look_ups),
            "last_trouble": inner.last_trouble.as_ref().map(|(text, at_ms)| json!({
                "text": text,
                "age_ms": now_ms.saturating_sub(*at_ms),
            })),
            "notices": notices,
        })
    }
}

impl Inner {
    fn remember(&mut self, key: Key, found: Found, (now_ms, until_ms): (u64, u64)) {
        if self.recent.len() >= RECENT_MAX {
            self.recent.retain(|_, (_, until_ms)| now_ms < *until_ms);
        }
        if self.recent.len() < RECENT_MAX {
            self.recent.insert(key, (found, until_ms));
        }
    }
}

/// A look-up under way. However it ends, nobody waits for it for ever.
struct Flight {
    station: Arc<Station>,
    key: Key,
    around: Surroundings,
    sender: watch::Sender<Option<Found>>,
}

impl Flight {
    async fn fly(self, wanted: Vec<Wanted>) {
        let began = tokio::time::Instant::now();
        let wait = Duration::from_millis(self.station.configured.timeout_ms) * TIMEOUTS;
        let Ok(Ok(permit)) = timeout(wait, self.station.gate.acquire()).await else {
            // Too many are waiting: that says nothing about the one who was asked about.
            return;
        };
        let answer = self.station.probe(&wanted).await;
        drop(permit);
        let found = found(&answer);
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.station.land(self.key, answer, took_ms, &self.around);
        self.sender.send_replace(Some(found));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut inner = self.station.inner();
        inner.flights.remove(&self.key);
        // A try that ended without an answer must not be the last one.
        if let Breaker::Trying { .. } = inner.breaker {
            inner.breaker.fails(self.around.clock.now_ms());
        }
    }
}
