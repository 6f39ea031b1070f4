//! `mpp replay`: recorded requests, or a simulator, against a configuration in virtual time.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use mpp_doors::listen::{Connection, Listener, Place, Places};
use mpp_doors::policy::{self, Door};
use mpp_hub::clock::VirtualClock;
use mpp_hub::log::DecisionLog;
use mpp_hub::statistics::Statistics;
use mpp_hub::{Hub, Parts};
use mpp_stores::embedded::EmbeddedStore;
use mpp_wire::policy::Request;
use serde_json::Value;

use super::{Failure, state};
use crate::place::Config;
use crate::{load, print, wiring};

/// Keys of a replay are made with a fixed seed, so that it repeats to the bit.
const SEED: u64 = 0x6d70_7021;

/// How often the progress line is drawn.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Run recorded requests against a configuration, in virtual time.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mpp replay requests.jsonl --config mpp.toml\n  \
    mpp replay --listen 127.0.0.1:10050 --config examples/recommended.toml\n\n\
    A line of the file is a JSON object of policy attributes, such as\n  \
    {\"mpp_time\": 1764000000.5, \"client_address\": \"203.0.113.7\", \"sender\": \"a@example.com\",\n   \
    \"recipient\": \"bob@example.org\"}; with \"request\": \"mpp_verdict\" and \"verdict\": \"spam\" it\n  \
    is an observation. With --listen every request carries mpp_time itself.")]
pub(crate) struct Replay {
    /// The recorded requests, one JSON object a line
    #[arg(required_unless_present = "listen", conflicts_with = "listen")]
    file: Option<PathBuf>,
    /// Answer as a policy service in virtual time instead
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH")]
    listen: Option<String>,
    #[command(flatten)]
    config: Config,
    /// Keep the decision log in this directory, for `mpp explain --state DIR ID`
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

impl Replay {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let loaded = load::load(self.config.path()?.as_deref(), SEED).map_err(Failure)?;
        let clock = Arc::new(VirtualClock::default());
        let log = match &self.state {
            Some(state) => {
                let bytes_max = loaded.configuration.server.log_bytes_max;
                Some(DecisionLog::open(&state.join(wiring::LOG), bytes_max)?)
            }
            None => None,
        };
        let parts = Parts {
            store: EmbeddedStore::in_memory(SEED),
            clock: Arc::<VirtualClock>::clone(&clock),
            log,
            statistics: Statistics::default(),
            outside: Some(wiring::outside()?),
            scanners: None,
        };
        let hub = Arc::new(Hub::new(parts, loaded.configuration));
        let door = Door { hub: Arc::clone(&hub), virtual_clock: Some(clock) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match (&self.listen, &self.file) {
            (Some(address), _) => runtime.block_on(listen(address, door))?,
            (None, Some(file)) => runtime.block_on(play(file, door))?,
            (None, None) => return Err(Failure("error: a file or --listen".into())),
        }
        let report = hub.statistics().report();
        print::out(&if self.json { report.to_string() } else { state::statistics(&report) });
        Ok(())
    }
}

async fn listen(address: &str, door: Door) -> Result<(), Failure> {
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let listener = Listener::bind(address)?;
    mpp_hub::say(&format!("policy service in virtual time on {}", listener.address()));
    let serve = move |io: Connection, peer: Option<SocketAddr>, place: Place| {
        let door = door.clone();
        async move {
            door.serve(io, peer.map(|peer| peer.ip())).await;
            drop(place);
        }
    };
    let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        () = listener.accept(Places::new(1000), serve) => {}
        _ = stop.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}

async fn play(path: &Path, door: Door) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| format!("error: cannot read {}: {error}", path.display());
    let file = File::open(path).map_err(cannot)?;
    let bytes = file.metadata().map_err(cannot)?.len();
    let mut reader = BufReader::new(file);
    let mut replay = policy::Replay::new(door);
    let (mut line, mut text) = (String::new(), String::new());
    let (mut read, mut number) = (0_u64, 0_u64);
    let mut drawn = Instant::now();
    loop {
        line.clear();
        let length = reader.read_line(&mut line).map_err(cannot)?;
        if length == 0 {
            break;
        }
        read += length as u64;
        number += 1;
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |what: &str| format!("error: {}:{number}: {what}", path.display());
        let object: Value =
            serde_json::from_str(&line).map_err(|error| wrong(&error.to_string()))?;
        attributes(&object, &mut text).map_err(|what| wrong(&what))?;
        let request = Request::parse(text.as_bytes()).map_err(|what| wrong(&what.to_string()))?;
        replay.answer(&request).await.map_err(|what| wrong(&what.to_string()))?;
        if print::has_audience() && drawn.elapsed() > PROGRESS_EVERY {
            drawn = Instant::now();
            let done = print::percent(read, bytes.max(read));
            print::progress(&format!(
                "{done} of {}, {} requests",
                path.display(),
                print::count(number)
            ));
        }
    }
    if print::has_audience() {
        print::progress("");
    }
    Ok(())
}

/// The attributes of a request in the form that the policy protocol has.
fn attributes(object: &Value, text: &mut String) -> Result<(), String> {
    let object = object.as_object().ok_or("a line is a JSON object")?;
    text.clear();
    if !object.contains_key("request") {
        text.push_str("request=smtpd_access_policy\n");
    }
    for (name, value) in object {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        if name.contains(['=', '\n']) || value.contains('\n') {
            return Err(format!("`{name}` has a line end in it"));
        }
        text.push_str(name);
        text.push('=');
        text.push_str(&value);
        text.push('\n');
    }
    Ok(())
}
