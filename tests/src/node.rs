//! A node of mpp in virtual time, without a network.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use mpp_doors::policy::{Door, Replay};
use mpp_hub::clock::VirtualClock;
use mpp_hub::log::DecisionLog;
use mpp_hub::statistics::Statistics;
use mpp_hub::{Hub, Open, Outside, Parts};
use mpp_settings::{Diagnostic, Severity};
use mpp_stores::embedded::EmbeddedStore;
use mpp_wire::policy::Request;
use tokio::runtime::{Builder, Runtime};

/// Makes keys, the same in every run.
const SEED: u64 = 7;

/// The node.
#[derive(Debug)]
pub struct Node {
    /// What decides.
    pub hub: Arc<Hub>,
    replay: Replay,
    runtime: Runtime,
}

impl Node {
    /// A node with a configuration whose list files lie in `folder`; `log` is where its decisions
    /// are written down, if anywhere.
    ///
    /// # Panics
    /// The configuration is not sound.
    pub fn new(configuration: &str, folder: &Path, log: Option<&Path>) -> Self {
        Self::with_directories(configuration, (folder, log), None)
    }

    /// As [`Node::new`], with directories that are opened by `open`.
    ///
    /// # Panics
    /// The configuration is not sound.
    pub fn with_directories(
        configuration: &str,
        (folder, log): (&Path, Option<&Path>),
        open: Option<Open>,
    ) -> Self {
        let mut files = BTreeMap::new();
        let configuration = loop {
            let mut read = mpp_config::compile("mpp.toml", configuration, &files, SEED);
            if read.wanted.is_empty() {
                // What is only doubtful is what some dialogues are about.
                let is_error = |it: &&Diagnostic| it.severity == Severity::Error;
                let problems: Vec<&Diagnostic> = read.diagnostics.iter().filter(is_error).collect();
                assert!(problems.is_empty(), "{problems:?}");
                break read.configuration.take().expect("sound without a problem");
            }
            for name in read.wanted.keys() {
                let text = std::fs::read_to_string(folder.join(name)).expect("a list file");
                files.insert(name.clone(), text);
            }
        };
        let clock = Arc::new(VirtualClock::default());
        let log = log.map(|folder| DecisionLog::open(folder, 1 << 30).expect("a folder"));
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let parts = Parts {
            store: EmbeddedStore::in_memory(SEED),
            clock: Arc::<VirtualClock>::clone(&clock),
            log,
            statistics: Statistics::default(),
            outside: open.map(|open| Outside { runtime: runtime.handle().clone(), open }),
            scanners: None,
        };
        let hub = Arc::new(Hub::new(parts, configuration));
        let door = Door { hub: Arc::clone(&hub), virtual_clock: Some(clock) };
        Self { hub, replay: Replay::new(door), runtime }
    }

    /// The answer to a request, `mpp_time` and all, in the lines of the protocol.
    ///
    /// # Panics
    /// It is no request.
    pub fn answer(&mut self, lines: &str) -> String {
        let request = Request::parse(lines.trim_end_matches('\n').as_bytes()).expect("a request");
        self.runtime.block_on(async {
            let answer = self.replay.answer(&request).await.expect("a request");
            // What goes on in the background has its turn before the next request.
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            answer
        })
    }
}
