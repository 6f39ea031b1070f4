//! Putting a node together.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mpp_config::Configuration;
use mpp_config::store::{Backend, Store as Settings};
use mpp_hub::board::Board;
use mpp_hub::clock::{Clock, RealClock};
use mpp_hub::log::DecisionLog;
use mpp_hub::statistics::Statistics;
use mpp_hub::store::{Store, StoreError};
use mpp_hub::{Hub, Outside, Parts};
use mpp_stores::embedded::{self, EmbeddedStore};

use crate::commands::Failure;
use crate::load::Loaded;

/// The file of the statistics in a state directory.
const STATISTICS: &str = "statistics.json";

/// The directory of this node's copy of a shared store in a state directory.
const COPY: &str = "shared-copy";

/// The directory of the decision log in a state directory.
pub(crate) const LOG: &str = "log";

/// A hub with its log and statistics in a state directory.
///
/// # Errors
/// The log cannot be written.
pub(crate) fn hub(
    state: &Path,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    loaded: Loaded,
) -> Result<Hub, Failure> {
    let server = &loaded.configuration.server;
    let log = if server.decision_log {
        let directory = state.join(LOG);
        let log = DecisionLog::open(&directory, server.log_bytes_max).map_err(|error| {
            format!("error: cannot write the decision log in {}: {error}", directory.display())
        })?;
        Some(log)
    } else {
        None
    };
    let statistics = read_statistics(state);
    let parts = Parts {
        store,
        clock,
        log,
        statistics,
        outside: Some(outside()?),
        scanners: Some(Arc::new(mpp_scanners::open)),
    };
    Ok(Hub::new(parts, loaded.configuration))
}

/// The store that the configuration names. A damaged one is refused unless its files may be set aside.
///
/// # Errors
/// It does not open; the message says what to do.
pub(crate) fn store(
    settings: &Settings,
    state: &Path,
    set_aside_damaged: bool,
) -> Result<Arc<dyn Store>, Failure> {
    let failed = |error: StoreError| Failure(format!("error: {error}"));
    match settings {
        Settings::Embedded => {
            let options = embedded::Options { set_aside_damaged, ..Default::default() };
            Ok(embedded::open(&state.join("store"), &options).map_err(failed)?)
        }
        Settings::Shared(shared) => {
            let options = mpp_stores::shared::Options {
                deadline: Duration::from_millis(shared.deadline_ms),
                copy: Some(state.join(COPY)),
                strangers_are_unavailable: shared.strangers_are_unavailable,
                ..Default::default()
            };
            match &shared.server {
                Backend::Redis(redis) => {
                    Ok(mpp_stores::redis::open(redis, &options).map_err(failed)?)
                }
                Backend::Sql(sql) => Ok(mpp_stores::sql::open(sql, &options).map_err(failed)?),
            }
        }
    }
}

/// Where nodes tell each other what they hold: on the server that they share, if they do.
pub(crate) fn board(settings: &Settings) -> Option<Arc<dyn Board>> {
    match settings {
        Settings::Embedded => None,
        Settings::Shared(shared) => Some(match &shared.server {
            Backend::Redis(redis) => Arc::new(mpp_stores::redis::board(redis)),
            Backend::Sql(sql) => Arc::new(mpp_stores::sql::board(sql)),
        }),
    }
}

/// A store of the configured kind with nothing in it, to be measured: on the same server under a name
/// of its own.
///
/// # Errors
/// As [`store`].
pub(crate) fn measured_store(
    settings: &Settings,
    state: &Path,
) -> Result<(Arc<dyn Store>, Remains), Failure> {
    let mut settings = settings.clone();
    let mut remains = Remains(None);
    if let Settings::Shared(shared) = &mut settings {
        let number = std::process::id();
        match &mut shared.server {
            Backend::Redis(redis) => redis.prefix = format!("{}-bench-{number}", redis.prefix),
            Backend::Sql(sql) => {
                sql.prefix = format!("{}_bench_{number}", sql.prefix);
                remains.0 = Some(sql.clone());
            }
        }
    }
    Ok((store(&settings, state, false)?, remains))
}

/// What a measured store leaves behind on a server that does not drop it by itself.
pub(crate) struct Remains(Option<mpp_config::store::Sql>);

impl Remains {
    /// Drops it, when the store is closed.
    ///
    /// # Errors
    /// The server does not answer.
    pub(crate) fn remove(self) -> Result<(), StoreError> {
        self.0.map_or(Ok(()), |sql| mpp_stores::sql::remove(&sql))
    }
}

/// A hub for one command: it remembers nothing, and logs nothing.
///
/// # Errors
/// As [`outside`].
pub(crate) fn passing_hub(configuration: Configuration) -> std::io::Result<Hub> {
    let parts = Parts {
        store: EmbeddedStore::in_memory(1),
        clock: Arc::new(RealClock),
        log: None,
        statistics: Statistics::default(),
        outside: Some(outside()?),
        scanners: Some(Arc::new(mpp_scanners::open)),
    };
    Ok(Hub::new(parts, configuration))
}

/// Where look-ups run: a thread of their own, so that a slow handshake or a large answer keeps no
/// decision of others waiting, and connections outlive whoever asked first.
///
/// # Errors
/// The system gives no thread.
pub(crate) fn outside() -> std::io::Result<Outside> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let forever = move || runtime.block_on(std::future::pending::<()>());
    std::thread::Builder::new().name("directories".into()).spawn(forever)?;
    Ok(Outside { runtime: handle, open: Arc::new(mpp_directories::open) })
}

fn read_statistics(state: &Path) -> Statistics {
    let path = state.join(STATISTICS);
    let Ok(bytes) = std::fs::read(&path) else { return Statistics::default() };
    match serde_json::from_slice(&bytes) {
        Ok(saved) => Statistics::load(&saved),
        Err(error) => {
            mpp_hub::say(&format!("{}: {error}: statistics begin anew", path.display()));
            Statistics::default()
        }
    }
}

/// Writes the statistics if they have changed: to a new file, then in place of the old one.
pub(crate) fn write_statistics(state: &Path, hub: &Hub) {
    let saved = {
        let mut statistics = hub.statistics();
        if !statistics.is_dirty {
            return;
        }
        statistics.is_dirty = false;
        statistics.save()
    };
    let path = state.join(STATISTICS);
    let new = state.join(format!("{STATISTICS}.new"));
    let written =
        std::fs::write(&new, saved.to_string()).and_then(|()| std::fs::rename(&new, &path));
    if let Err(error) = written {
        mpp_hub::say(&format!("cannot write the statistics {}: {error}", path.display()));
    }
}
