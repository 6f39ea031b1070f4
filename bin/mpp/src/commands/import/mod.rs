//! `mpp store import`: what another greylist remembers, so that nobody waits anew after a switch.

mod postgrey;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use mpp_config::Configuration;
use mpp_config::store::Store as Settings;
use mpp_engine::foreign::{Known, Useless};
use mpp_engine::question::{Key, Shelf};
use mpp_hub::clock::{Clock as _, RealClock};
use mpp_hub::hex::hex;
use mpp_hub::import::Importer;
use mpp_settings::form;
use mpp_stores::embedded;
use mpp_stores::transfer::{Records, Side};
use serde_json::json;

use super::Failure;
use super::state::{daemon, number, text};
use super::store::{failed, settings, side};
use crate::load;
use crate::place::Where;
use crate::print::{self, count};

/// Records that are written at once: a request to the daemon holds no more.
const AT_ONCE: usize = 1000;
/// How often the progress line is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(200);
/// Lines between two looks at the clock.
const LOOK_EVERY: u64 = 256;

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Greylist {
    /// postgrey: its directory
    Postgrey,
    /// sqlgrey: its database
    Sqlgrey,
    /// policyd 1: its database
    Policyd,
    /// cluebringer (policyd 2): its database
    Cluebringer,
}

impl Greylist {
    fn name(self) -> &'static str {
        match self {
            Self::Postgrey => "postgrey",
            Self::Sqlgrey => "sqlgrey",
            Self::Policyd => "policyd",
            Self::Cluebringer => "cluebringer",
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mpp store import --from postgrey --config mpp.toml --dry-run\n  \
    mpp store import --from sqlgrey --database sqlite:/var/lib/sqlgrey/sqlgrey.db\n  \
    mpp store import --from cluebringer --database mysql://mpp@db.example.org/policyd \\\n      \
    --password file:/etc/mpp/policyd.password --config mpp.toml\n\n\
    docs/moving.md says what is taken over.")]
pub(super) struct Import {
    /// Which greylist it was
    #[arg(long, value_enum)]
    from: Greylist,
    #[command(flatten)]
    which: Where,
    /// postgrey: where its files are (--dbdir)
    #[arg(long, value_name = "DIR", default_value = "/var/lib/postgrey")]
    directory: PathBuf,
    /// postgrey: how long it let senders wait (--delay)
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    delay: String,
    /// postgrey: the networks that it made (--ipv4cidr)
    #[arg(long, value_name = "BITS", default_value_t = 24, value_parser = clap::value_parser!(u8).range(1..=32))]
    ipv4cidr: u8,
    /// postgrey: the same for IPv6 (--ipv6cidr)
    #[arg(long, value_name = "BITS", default_value_t = 64, value_parser = clap::value_parser!(u8).range(1..=128))]
    ipv6cidr: u8,
    /// The others: `mysql://USER@HOST/DATABASE`, `postgres://USER@HOST/DATABASE`, `sqlite:/PATH`
    #[arg(long, value_name = "URL", required_if_eq_any = [
        ("from", "sqlgrey"), ("from", "policyd"), ("from", "cluebringer")])]
    database: Option<String>,
    /// Where the password of the database is: `file:PATH` or `env:NAME`
    #[arg(long, value_name = "WHERE")]
    password: Option<String>,
    /// Whether the connection to the database is encrypted: off, prefer, require
    #[arg(long, value_name = "WORD", default_value = "prefer")]
    tls: String,
    /// sqlgrey on PostgreSQL: the time zone of its times; else that of the server's log
    #[arg(long, value_name = "NAME")]
    time_zone: Option<String>,
    /// Write nothing, and say what would be written
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Where it is written.
enum Target {
    Daemon(Where),
    Side(Box<Side>),
    /// There is no store yet; it is made when something is written.
    Missing(PathBuf),
}

impl Target {
    fn open(which: &Where) -> Result<Self, Failure> {
        let (state, socket) = which.find()?;
        let is_used = || mpp_admin::ask(&socket, &json!({ "command": "status" })).is_ok();
        let folder = state.join("store");
        match settings(&which.config)? {
            Settings::Shared(shared) => Ok(Self::Side(Box::new(side(&shared.server, None)?))),
            Settings::Embedded if is_used() => Ok(Self::Daemon(which.clone())),
            Settings::Embedded if !folder.is_dir() => Ok(Self::Missing(folder)),
            Settings::Embedded => {
                let store = embedded::open(&folder, &embedded::Options::default());
                Ok(Self::Side(Box::new(Side::Embedded(store.map_err(failed)?))))
            }
        }
    }

    /// The secret of the store. One that is to be made gets it now, unless nothing will be written.
    fn seed(&mut self, is_dry: bool) -> Result<u64, Failure> {
        match self {
            Self::Missing(_) if is_dry => Ok(0),
            Self::Missing(folder) => {
                let store = embedded::open(folder, &embedded::Options::default());
                *self = Self::Side(Box::new(Side::Embedded(store.map_err(failed)?)));
                self.seed(is_dry)
            }
            Self::Side(side) => side.seed().map_err(failed),
            Self::Daemon(which) => {
                let page = daemon(which, &json!({ "command": "store-page", "from": u64::MAX }))?;
                let seed = text(&page, "seed").parse();
                Ok(seed.map_err(|_| "the daemon tells no secret".to_owned())?)
            }
        }
    }

    /// Writes records; says how many were new.
    fn write(&mut self, records: &Records, seed: u64) -> Result<u64, Failure> {
        match self {
            Self::Missing(_) => Ok(0),
            Self::Side(side) => side.import(records, RealClock.now_ms()).map_err(failed),
            Self::Daemon(which) => {
                let records = hex(&records.to_bytes());
                let request = json!({
                    "command": "store-import", "seed": seed.to_string(), "records": records,
                });
                Ok(number(&daemon(which, &request)?, "/new"))
            }
        }
    }

    /// Waits until it is as durable as it will be.
    fn settle(&self) -> Result<(), Failure> {
        match self {
            Self::Daemon(which) => daemon(which, &json!({ "command": "settle" })).map(|_| ()),
            Self::Side(_) | Self::Missing(_) => Ok(()),
        }
    }
}

/// How long things are remembered, and whether decisions ask for what is imported.
struct Memory {
    window_ms: u64,
    proven_ms: u64,
    is_asked: bool,
}

impl Memory {
    /// The longest of all policies: who is judged by which is not known.
    fn of(effective: &[(String, String)]) -> Self {
        let all = |name: &str| {
            let tail = format!(".greylist.{name}");
            let values = effective.iter().filter(move |(setting, _)| setting.ends_with(&tail));
            values.map(|(_, value)| value.trim_matches('"').to_owned()).collect::<Vec<_>>()
        };
        let longest = |name: &str| {
            let lengths = all(name).into_iter().filter_map(|text| form::duration_ms(&text).ok());
            lengths.max().unwrap_or(0)
        };
        Self {
            window_ms: longest("window").max(mpp_engine::checks::greylist::WINDOW_LEAST_MS),
            proven_ms: longest("memory"),
            is_asked: all("imported").iter().any(|value| value == "true"),
        }
    }
}

/// What was read so far, as it will be written.
struct Gathered<'c> {
    importer: Importer<'c>,
    memory: Memory,
    now_ms: u64,
    kept: BTreeMap<(Shelf, Key), u64>,
    lines: u64,
    first_tries: u64,
    passed: u64,
    too_old: u64,
    useless: BTreeMap<&'static str, u64>,
    notes: BTreeSet<String>,
    drawn: Instant,
}

impl<'c> Gathered<'c> {
    fn new(configuration: &'c Configuration, memory: Memory) -> Self {
        Self {
            importer: Importer::new(configuration),
            memory,
            now_ms: RealClock.now_ms(),
            kept: BTreeMap::new(),
            lines: 0,
            first_tries: 0,
            passed: 0,
            too_old: 0,
            useless: BTreeMap::new(),
            notes: BTreeSet::new(),
            drawn: Instant::now(),
        }
    }

    /// Takes a line.
    fn take(&mut self, line: Result<Known, Useless>) {
        self.lines += 1;
        if self.lines.is_multiple_of(LOOK_EVERY) && self.drawn.elapsed() > DRAW_EVERY {
            progress(&format!("{} lines read", count(self.lines)));
            self.drawn = Instant::now();
        }
        let known = match line {
            Ok(known) => known,
            Err(why) => return self.useless(why.reason()),
        };
        let (at_s, length_ms, is_try) = match &known {
            Known::FirstTry { at_s, .. } => (*at_s, self.memory.window_ms, true),
            Known::Passed { at_s, .. } => (*at_s, self.memory.proven_ms, false),
        };
        // A clock that was ahead: it was not later than now.
        let at_ms = at_s.saturating_mul(1000).min(self.now_ms);
        if self.now_ms - at_ms >= length_ms {
            self.too_old += 1;
            return;
        }
        let keys = match self.importer.keys(&known) {
            Ok(keys) => keys,
            Err(why) => return self.useless(why.reason()),
        };
        *(if is_try { &mut self.first_tries } else { &mut self.passed }) += 1;
        for key in keys {
            let kept = self.kept.entry(key).or_insert(at_ms);
            *kept = if is_try { at_ms.min(*kept) } else { at_ms.max(*kept) };
        }
    }

    /// Counts a line that is of no use.
    fn useless(&mut self, why: &'static str) {
        *self.useless.entry(why).or_default() += 1;
    }

    /// Something to tell at the end.
    fn note(&mut self, text: String) {
        self.notes.insert(text);
    }

    /// Entries on a shelf.
    fn on(&self, shelf: Shelf) -> impl Iterator<Item = (&(Shelf, Key), &u64)> {
        self.kept.iter().filter(move |((other, _), _)| *other == shelf)
    }

    /// Writes what belongs on a shelf; says how much of it was new.
    fn write(&self, target: &mut Target, seed: u64, shelf: Shelf) -> Result<u64, Failure> {
        let keep_ms = match shelf {
            Shelf::Greylisted => self.memory.window_ms,
            _ => self.memory.proven_ms,
        };
        let (mut new, mut records, mut written) = (0, Records::default(), 0_u64);
        let mut rest = self.on(shelf).peekable();
        let mut drawn = Instant::now();
        while let Some((key, at_ms)) = rest.next() {
            records.push_moment(*key, *at_ms, keep_ms);
            if records.len() == AT_ONCE || rest.peek().is_none() {
                new += target.write(&records, seed)?;
                written += records.len() as u64;
                records = Records::default();
            }
            if drawn.elapsed() > DRAW_EVERY {
                progress(&format!("{} entries written", count(written)));
                drawn = Instant::now();
            }
        }
        Ok(new)
    }
}

fn progress(text: &str) {
    if print::has_audience() {
        print::progress(text);
    }
}

impl Import {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut target = Target::open(&self.which)?;
        let seed = target.seed(self.dry_run)?;
        let loaded = load::load(self.which.config.path()?.as_deref(), seed).map_err(Failure)?;
        let memory = Memory::of(&loaded.effective);
        let is_asked = memory.is_asked;
        let mut gathered = Gathered::new(&loaded.configuration, memory);
        let place = self.read(&mut gathered)?;
        let mut new = [None; 2];
        if !self.dry_run {
            for (shelf, new) in [Shelf::Greylisted, Shelf::Proven].into_iter().zip(&mut new) {
                *new = Some(gathered.write(&mut target, seed, shelf)?);
            }
            target.settle()?;
        }
        if !is_asked {
            gathered.note(
                "no policy asks for what was imported, so servers with a name are not found; set \
                 `imported = true` below [policy.default.greylist]"
                    .to_owned(),
            );
        }
        progress("");
        print::out(&self.report(&gathered, &place, new));
        Ok(())
    }

    /// Reads all of it; says where from.
    fn read(&self, gathered: &mut Gathered<'_>) -> Result<String, Failure> {
        match (self.from, &self.database) {
            (Greylist::Postgrey, _) => {
                let delay_ms = form::duration_ms(&self.delay)
                    .map_err(|why| format!("error: --delay {}: {why}", self.delay))?;
                let how = mpp_engine::foreign::Postgrey {
                    delay_s: delay_ms / 1000,
                    v4_length: self.ipv4cidr,
                    v6_length: self.ipv6cidr,
                };
                postgrey::read(&self.directory, &how, gathered)?;
                Ok(self.directory.display().to_string())
            }
            (_, None) => Err(Failure("error: --database says where its tables are".to_owned())),
            (from, Some(url)) => {
                let options = tables::Options {
                    url,
                    password: self.password.as_deref(),
                    tls: &self.tls,
                    time_zone: self.time_zone.as_deref(),
                };
                tables::read(from, &options, gathered)
            }
        }
    }

    fn report(&self, gathered: &Gathered<'_>, place: &str, new: [Option<u64>; 2]) -> String {
        let [tries, proven] =
            [Shelf::Greylisted, Shelf::Proven].map(|shelf| gathered.on(shelf).count() as u64);
        if self.json {
            let of =
                |lines, entries, new| json!({ "lines": lines, "entries": entries, "new": new });
            let report = json!({
                "from": self.from.name(),
                "place": place,
                "dry_run": self.dry_run,
                "lines": gathered.lines,
                "first_tries": of(gathered.first_tries, tries, new[0]),
                "proven": of(gathered.passed, proven, new[1]),
                "too_old": gathered.too_old,
                "useless": gathered.useless,
                "notes": gathered.notes,
            });
            return report.to_string();
        }
        let mut out = String::new();
        // A string takes whatever is written to it.
        let _ = writeln!(out, "{} in {place}", self.from.name());
        let _ = writeln!(out, "{:34} {:>12}", "lines read", count(gathered.lines));
        for (label, lines, entries, new) in [
            ("first tries", gathered.first_tries, tries, new[0]),
            ("came back", gathered.passed, proven, new[1]),
        ] {
            let done = match new {
                Some(new) => format!("{} entries, {} of them new", count(entries), count(new)),
                None => format!("would be {} entries", count(entries)),
            };
            let _ = writeln!(out, "{label:34} {:>12}  {done}", count(lines));
        }
        let _ = writeln!(out, "{:34} {:>12}", "too old", count(gathered.too_old));
        for (why, many) in &gathered.useless {
            let _ = writeln!(out, "{:34} {:>12}  {why}", "not taken over", count(*many));
        }
        for note in &gathered.notes {
            let _ = writeln!(out, "note: {note}");
        }
        if self.dry_run {
            out.push_str("nothing was written\n");
        }
        out
    }
}
