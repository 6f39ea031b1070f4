//! `mpp store`: what the store holds, moving it to another one, measuring it. What other greylists
//! remember is taken over by `import`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use mpp_config::store::{Backend, Store as Settings};
use mpp_hub::clock::{Clock as _, RealClock};
use mpp_hub::hex::unhex;
use mpp_hub::store::StoreError;
use mpp_settings::form;
use mpp_stores::embedded;
use mpp_stores::transfer::{Records, Side};
use serde_json::{Value, json};

use super::Failure;
use super::import::Import;
use super::state::{daemon, number, text};
use crate::load;
use crate::place::{Config, Where};
use crate::print::{self, count};

/// How often the progress line is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// Look into the store, move it to another one, measure it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mpp store info --config mpp.toml\n  \
    mpp store copy --from old.toml --to new.toml\n  \
    mpp store copy --from /var/lib/mpp --to new.toml\n  \
    mpp store import --from postgrey --config mpp.toml\n  mpp store bench --config mpp.toml")]
pub(crate) struct Store {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show what the store holds, by kind
    Info(Info),
    /// Copy everything to another store, while both are in use
    Copy(Copying),
    /// Take over what another greylist remembers
    Import(Box<Import>),
    /// Measure how many decisions the configured store answers
    Bench(Bench),
}

#[derive(Debug, Args)]
struct Info {
    #[command(flatten)]
    which: Where,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Copying {
    /// The store to read: a configuration, or a state directory
    #[arg(long, value_name = "FILE|DIR")]
    from: PathBuf,
    /// The store to write: a configuration, or a state directory that no daemon uses
    #[arg(long, value_name = "FILE|DIR")]
    to: PathBuf,
    /// Where is written how far it came, to go on there after an interruption
    #[arg(long, value_name = "FILE", default_value = "mpp-store-copy.json")]
    progress: PathBuf,
}

#[derive(Debug, Args)]
struct Bench {
    #[command(flatten)]
    which: Where,
    /// How many decisions wait at the same time
    #[arg(long, default_value_t = 64)]
    at_once: usize,
    /// How long
    #[arg(long = "for", default_value = "5s", value_name = "DURATION")]
    time: String,
}

impl Store {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        match &self.action {
            Action::Info(info) => info.run(),
            Action::Copy(copy) => copy.run(),
            Action::Import(import) => import.run(),
            Action::Bench(bench) => bench.run(),
        }
    }
}

/// A store that is read: by way of a running daemon, or directly.
enum Source {
    Daemon(Where),
    Side(Box<Side>),
}

impl Source {
    /// The store of a configuration or of a state directory.
    fn open(which: &Where) -> Result<Self, Failure> {
        let (state, socket) = which.find()?;
        let is_used = || mpp_admin::ask(&socket, &json!({ "command": "status" })).is_ok();
        match settings(&which.config)? {
            Settings::Shared(shared) => Ok(Self::Side(Box::new(side(&shared.server, None)?))),
            Settings::Embedded if is_used() => Ok(Self::Daemon(which.clone())),
            Settings::Embedded => {
                let store = embedded::open(&existing(&state)?, &embedded::Options::default());
                Ok(Self::Side(Box::new(Side::Embedded(store.map_err(failed)?))))
            }
        }
    }

    /// The secret, and the records of a page with what to ask for next.
    fn read(&self, from: u64) -> Result<(Records, Option<u64>), Failure> {
        match self {
            Self::Side(side) => side.read(from, RealClock.now_ms()).map_err(failed),
            Self::Daemon(which) => {
                let request = json!({ "command": "store-page", "from": from });
                let page = daemon(which, &request)?;
                let records =
                    unhex(text(&page, "records")).as_deref().and_then(Records::from_bytes);
                let records =
                    records.ok_or("the daemon says something else: is it another version?")?;
                Ok((records, page.get("next").and_then(Value::as_u64)))
            }
        }
    }

    fn seed(&mut self) -> Result<u64, Failure> {
        match self {
            Self::Side(side) => side.seed().map_err(failed),
            Self::Daemon(which) => {
                let request = json!({ "command": "store-page", "from": u64::MAX });
                let page = daemon(which, &request)?;
                Ok(text(&page, "seed")
                    .parse()
                    .map_err(|_| "the daemon tells no secret".to_owned())?)
            }
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it stands where errors are mapped")]
pub(super) fn failed(error: StoreError) -> Failure {
    Failure(format!("error: {error}"))
}

/// `[store]` of a configuration; without one, the embedded store.
pub(super) fn settings(config: &Config) -> Result<Settings, Failure> {
    match config.path()? {
        None => Ok(Settings::Embedded),
        Some(path) => Ok(load::load(Some(&path), 0).map_err(Failure)?.configuration.store),
    }
}

pub(super) fn side(server: &Backend, seed: Option<u64>) -> Result<Side, Failure> {
    match server {
        Backend::Redis(redis) => mpp_stores::redis::side(redis, seed).map_err(failed),
        Backend::Sql(sql) => mpp_stores::sql::side(sql, seed).map_err(failed),
    }
}

fn existing(state: &Path) -> Result<PathBuf, Failure> {
    let store = state.join("store");
    if store.is_dir() {
        return Ok(store);
    }
    Err(Failure(format!("error: there is no store in {}", state.display())))
}

/// What a path on the command line means.
fn which(path: &Path) -> Where {
    if path.is_dir() {
        Where { config: Config::none(), state: Some(path.to_owned()) }
    } else {
        Where { config: Config::named(path), state: None }
    }
}

impl Info {
    fn run(&self) -> Result<(), Failure> {
        let source = Source::open(&self.which)?;
        let mut kinds: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        let (mut from, mut pages, mut drawn) = (Some(0), 0_u64, Instant::now());
        while let Some(at) = from {
            let (records, next) = source.read(at)?;
            for (kind, at_ms) in records.rows() {
                let (many, oldest_ms) = kinds.entry(kind).or_insert((0, u64::MAX));
                *many += 1;
                if at_ms > 0 {
                    *oldest_ms = (*oldest_ms).min(at_ms);
                }
            }
            pages += 1;
            if drawn.elapsed() > DRAW_EVERY {
                print::progress(&format!("{} pages", count(pages)));
                drawn = Instant::now();
            }
            from = next;
        }
        print::progress("");
        let now_ms = RealClock.now_ms();
        let age = |oldest_ms: u64| (oldest_ms < u64::MAX).then(|| now_ms.saturating_sub(oldest_ms));
        if self.json {
            let rows: serde_json::Map<String, Value> = kinds
                .into_iter()
                .map(|(kind, (many, oldest_ms))| {
                    (kind.to_owned(), json!({ "entries": many, "oldest_ms": age(oldest_ms) }))
                })
                .collect();
            print::out(&Value::Object(rows).to_string());
            return Ok(());
        }
        let mut out = String::new();
        let _ = writeln!(out, "{:18} {:>14}  oldest", "", "entries");
        for (kind, (many, oldest_ms)) in kinds {
            let age = age(oldest_ms).map_or("-".into(), form::about);
            let _ = writeln!(out, "{kind:18} {:>14}  {age}", count(many));
        }
        let bytes = mpp_admin::ask(&self.which.find()?.1, &json!({ "command": "status" }));
        if let Ok(status) = bytes {
            let _ = writeln!(
                out,
                "memory {}, {} {}",
                print::size(number(&status, "/store/memory_bytes")),
                if number(&status, "/store/figures/batches") > 0 { "server" } else { "disk" },
                print::size(number(&status, "/store/disk_bytes")),
            );
        }
        print::out(&out);
        Ok(())
    }
}

impl Copying {
    fn run(&self) -> Result<(), Failure> {
        let mut source = Source::open(&which(&self.from))?;
        let seed = source.seed()?;
        let target = self.target(seed)?;
        let mut from = self.begun(seed);
        if from > 0 {
            print::error(&format!("going on where {} says", self.progress.display()));
        }
        let (mut moved, mut drawn) = (0_u64, Instant::now());
        loop {
            let (records, next) = source.read(from)?;
            target.write(&records, RealClock.now_ms()).map_err(failed)?;
            moved += records.len() as u64;
            let Some(next) = next else { break };
            from = next;
            let far = json!({ "seed": seed.to_string(), "to": self.to.display().to_string(), "from": from });
            std::fs::write(&self.progress, far.to_string())
                .map_err(|error| format!("error: {}: {error}", self.progress.display()))?;
            if drawn.elapsed() > DRAW_EVERY {
                print::progress(&format!("{} entries", count(moved)));
                drawn = Instant::now();
            }
        }
        print::progress("");
        // It says how far an interrupted copy came: this one was not interrupted.
        let _ = std::fs::remove_file(&self.progress);
        print::out(&format!("{} entries copied\n", count(moved)));
        Ok(())
    }

    /// How far an earlier copy of the same store to the same place came.
    fn begun(&self, seed: u64) -> u64 {
        let text = std::fs::read_to_string(&self.progress).unwrap_or_default();
        let far: Value = serde_json::from_str(&text).unwrap_or_default();
        let is_same = super::state::text(&far, "seed") == seed.to_string()
            && super::state::text(&far, "to") == self.to.display().to_string();
        if is_same { number(&far, "/from") } else { 0 }
    }

    fn target(&self, seed: u64) -> Result<Side, Failure> {
        let which = which(&self.to);
        let mut target = match settings(&which.config)? {
            Settings::Shared(shared) => side(&shared.server, Some(seed))?,
            Settings::Embedded => {
                let folder = which.find()?.0.join("store");
                let options = embedded::Options { seed: Some(seed), ..Default::default() };
                Side::Embedded(embedded::open(&folder, &options).map_err(failed)?)
            }
        };
        if target.seed().map_err(failed)? != seed {
            return Err(Failure(format!(
                "error: {} holds another store: its keys are made with another secret, and what \
                 it holds cannot be found with this one's\nhelp: copy to an empty store",
                self.to.display()
            )));
        }
        Ok(target)
    }
}

impl Bench {
    fn run(&self) -> Result<(), Failure> {
        let time_ms = form::duration_ms(&self.time)
            .map_err(|why| format!("error: --for {}: {why}", self.time))?;
        let directory = std::env::temp_dir().join(format!("mpp-bench-{}", std::process::id()));
        let settings = settings(&self.which.config)?;
        let (store, remains) = crate::wiring::measured_store(&settings, &directory)?;
        let measured =
            mpp_stores::measure::decisions(&*store, self.at_once, Duration::from_millis(time_ms));
        let place = store.place();
        drop(store);
        // What is left of it is of no use to anybody.
        let _ = std::fs::remove_dir_all(&directory);
        remains.remove().map_err(failed)?;
        let mut out = String::new();
        let _ = writeln!(out, "store          {place}");
        let _ = writeln!(out, "at once        {}", self.at_once);
        let _ = writeln!(out, "decisions/s    {}", count(measured.rate));
        let _ = writeln!(out, "median         {} us", count(measured.p50_us));
        let _ = writeln!(out, "99 of 100      {} us", count(measured.p99_us));
        let _ = writeln!(out, "longest        {} us", count(measured.max_us));
        if measured.late > 0 {
            let _ = writeln!(out, "answered alone {}", count(measured.late));
        }
        print::out(&out);
        Ok(())
    }
}
