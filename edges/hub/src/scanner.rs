//! A scanner, in the words of the domain: look into a message. What is found is the engine's
//! business; here is who is asked, and what becomes known of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mpp_engine::scan::{Down, Finding, Scanned, Scanning};

use serde_json::{Value, json};

pub use crate::directory::{Answering, Examined};
use crate::hub::Hub;
use crate::spool::Spooled;

/// A message as scanners get it.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The client.
    pub client: IpAddr,
    /// Its verified name; may be empty.
    pub client_name: String,
    /// What it called itself.
    pub helo: String,
    /// The envelope sender; empty is the null sender.
    pub sender: String,
    /// The recipients that were let through.
    pub recipients: Vec<String>,
    /// The account; may be empty.
    pub sasl_user: String,
    /// The name of the message in log and queue.
    pub queue_id: String,
    /// What mpp knows of it: names and values of header fields, which scanners may use.
    pub results: Vec<(String, String)>,
    /// The message.
    pub text: Arc<Spooled>,
}

/// Why a scanner has not said anything. Texts are for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The message is larger than it wants to see.
    #[error("a message of {0} bytes is too large for it")]
    TooLarge(u64),
    /// Too many are waiting.
    #[error("too many scans are waiting")]
    Busy,
    /// This process itself stood still meanwhile: what the scanner said is not known.
    #[error("mpp itself stood still while it was asked")]
    Late,
    /// No server has answered, or none with anything that can be read.
    #[error("{0}")]
    Down(String),
}

/// A program that looks into messages.
///
/// An implementation fails over between its servers, keeps the time and the number of scans that are
/// configured, and survives that a scan is dropped half-way.
pub trait Scanner: Send + Sync {
    /// Looks into a message.
    ///
    /// # Errors
    /// Nothing is known of the message.
    fn scan<'a>(&'a self, letter: &'a Letter) -> Answering<'a, Result<Finding, Trouble>>;

    /// Connects to every server anew and says what works.
    fn examine(&self) -> Answering<'_, Vec<Examined>>;

    /// Since how many milliseconds it is left alone, and why; nothing: it answers.
    fn down(&self) -> Option<(u64, String)> {
        None
    }

    /// Numbers for status and metrics: scans done, failed, busy, too large; milliseconds in all, waits
    /// included; microseconds of those done, without waits; which servers are down.
    fn numbers(&self) -> Vec<(&'static str, u64)>;
}

/// How scanners are opened: wiring says, so that the hub knows none.
pub type OpenScanner =
    Arc<dyn Fn(&Arc<mpp_config::scanner::Scanner>) -> Arc<dyn Scanner> + Send + Sync>;

/// The scanners of a configuration, by name.
#[derive(Clone, Default)]
pub struct Scanners {
    all: Vec<(Arc<mpp_config::scanner::Scanner>, Arc<dyn Scanner>)>,
    /// Messages that were shown to any, since the start.
    letters: Arc<AtomicU64>,
}

impl std::fmt::Debug for Scanners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scanners")
    }
}

impl Scanners {
    /// Those of a configuration; one that has not changed is taken over with its connections.
    pub fn open(
        settings: &[Arc<mpp_config::scanner::Scanner>],
        before: &Self,
        open: Option<&OpenScanner>,
    ) -> Self {
        let Some(open) = open else { return Self::default() };
        let all = settings.iter().map(|settings| {
            let same = before.all.iter().find(|(known, _)| known == settings);
            let scanner = same.map_or_else(|| open(settings), |(_, scanner)| Arc::clone(scanner));
            (Arc::clone(settings), scanner)
        });
        Self { all: all.collect(), letters: Arc::clone(&before.letters) }
    }

    /// Each with its settings.
    pub fn iter(&self) -> impl Iterator<Item = (&mpp_config::scanner::Scanner, &Arc<dyn Scanner>)> {
        self.all.iter().map(|(settings, scanner)| (&**settings, scanner))
    }

    /// Has a message looked into as several policies want it, each scanner once: the first ones side
    /// by side, the others only where those are not sure.
    pub async fn scan(&self, all: &[&Scanning], letter: &Arc<Letter>) -> Vec<Scanned> {
        self.letters.fetch_add(1, Ordering::Relaxed);
        let mut asked = Vec::new();
        let mut results = Vec::new();
        for scanning in all {
            let first = self.ask((&scanning.with, scanning.down), letter, &mut asked).await;
            if scanning.then.is_empty() || (!scanning.with.is_empty() && scanning.is_sure(&first)) {
                results.push(first);
                continue;
            }
            let more = self.ask((&scanning.then, scanning.down), letter, &mut asked).await;
            let findings = first.findings.into_iter().chain(more.findings).collect();
            let missing = [(first.missing, first.waits), (more.missing, more.waits)];
            let missing = missing.iter().flat_map(|(all, waits)| all.iter().map(|it| (it, *waits)));
            let all = Scanned::of(findings);
            results.push(missing.fold(all, |all, (it, waits)| all.without(it, waits)));
        }
        results
    }

    /// Asks those of these scanners that were not asked yet, at once.
    async fn ask(
        &self,
        (names, down): (&[Arc<str>], Option<Down>),
        letter: &Arc<Letter>,
        asked: &mut Vec<(Arc<str>, Result<Finding, Trouble>)>,
    ) -> Scanned {
        let mut wanted = Vec::new();
        for name in names.iter().filter(|name| !asked.iter().any(|(known, _)| known == *name)) {
            let known = self.all.iter().find(|(settings, _)| settings.name == *name);
            wanted.extend(known.map(|(_, scanner)| (name, scanner)));
        }
        let mut all = Vec::new();
        if let [(name, scanner)] = *wanted {
            // It needs no task of its own: nothing else is done meanwhile.
            all.push((name, scanner.scan(letter).await));
        } else {
            let scans = wanted.into_iter().map(|(name, scanner)| {
                let (scanner, letter) = (Arc::clone(scanner), Arc::clone(letter));
                (name, tokio::spawn(async move { scanner.scan(&letter).await }))
            });
            for (name, scan) in scans.collect::<Vec<_>>() {
                let down = |error: tokio::task::JoinError| Err(Trouble::Down(error.to_string()));
                all.push((name, scan.await.unwrap_or_else(down)));
            }
        }
        asked.extend(all.into_iter().map(|(name, found)| (Arc::clone(name), found)));
        let of = asked.iter().filter(|(name, _)| names.contains(name));
        let findings = of.clone().filter_map(|(_, found)| found.as_ref().ok().cloned()).collect();
        of.fold(Scanned::of(findings), |all, (name, found)| match found {
            // That a message is large is a setting, not a fault.
            Ok(_) | Err(Trouble::TooLarge(_)) => all,
            // Whoever has much to do is asked again a little later, whatever holds while it is away.
            Err(Trouble::Busy | Trouble::Late) => all.without(name, true),
            Err(Trouble::Down(_)) => all.without(name, self.waits_for(name, down)),
        })
    }

    /// Whether mail of a policy waits for a scanner that is away.
    fn waits_for(&self, name: &str, policy: Option<Down>) -> bool {
        let known = self.all.iter().find(|(settings, _)| *settings.name == *name);
        known.is_some_and(|(settings, _)| settings.down_for(policy) == Down::Defer)
    }
}

impl Hub {
    /// What is counted of each scanner since it was opened.
    pub fn scanner_numbers(&self) -> Value {
        let live = self.live();
        let rows = live.scanners.iter().map(|(settings, scanner)| {
            let mut row = serde_json::Map::new();
            row.insert("name".into(), json!(&*settings.name));
            row.insert("kind".into(), json!(settings.kind.name()));
            let down = scanner.down();
            row.insert("state".into(), json!(if down.is_some() { "down" } else { "works" }));
            row.insert("down_ms".into(), json!(down.as_ref().map(|(ms, _)| ms)));
            row.insert("trouble".into(), json!(down.map(|(_, text)| text)));
            row.extend(scanner.numbers().into_iter().map(|(name, n)| (name.into(), json!(n))));
            Value::Object(row)
        });
        rows.collect()
    }

    /// What the scanners were spared, of what the statistics report; see [`crate::spared`].
    pub fn spared(&self, report: &Value) -> Value {
        let letters = self.live().scanners.letters.load(Ordering::Relaxed);
        crate::spared::spared(report, letters)
    }

    /// Connects to every server of every scanner anew and says what works: rows as
    /// [`Hub::examine_directories`] has them.
    pub async fn examine_scanners(&self) -> Value {
        let live = self.live();
        let mut rows = Vec::new();
        for (settings, scanner) in live.scanners.iter() {
            for Examined { server, result, took_ms } in scanner.examine().await {
                let (works, text) = match result {
                    Ok(text) => (true, text),
                    Err(text) => (false, text),
                };
                rows.push(json!({
                    "scanner": &*settings.name,
                    "kind": settings.kind.name(),
                    "server": server,
                    "works": works,
                    "result": text,
                    "took_ms": took_ms,
                }));
            }
        }
        Value::Array(rows)
    }
}
