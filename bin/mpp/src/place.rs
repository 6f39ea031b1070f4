//! Where things are: configuration, state directory and admin socket.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::Args;

use crate::{load, print};

/// The variable that names the configuration of all commands.
const VARIABLE: &str = "MPP_CONFIG";
/// Where the service has its configuration (examples/mpp.service).
const SYSTEM: &str = "/etc/mpp/mpp.toml";

/// Why there is no configuration to read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Missing {
    /// Somebody named a file.
    #[error("error: cannot read the configuration {}: {error}", path.display())]
    Named {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The environment names one.
    #[error("error: cannot read the configuration {} that {VARIABLE} names: {error}", path.display())]
    Variable {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// Which configuration is meant.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Config {
    /// The configuration file; without it that of `MPP_CONFIG`, or /etc/mpp/mpp.toml if it is there
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The defaults are meant, whatever the environment says.
    #[arg(skip)]
    is_none: bool,
}

impl Config {
    /// One that is named.
    pub(crate) fn named(path: &Path) -> Self {
        Self { config: Some(path.to_owned()), is_none: false }
    }

    /// The defaults.
    pub(crate) fn none() -> Self {
        Self { config: None, is_none: true }
    }

    /// The file; nothing: the defaults. One that nobody named on the command line is said once.
    ///
    /// # Errors
    /// It is named and cannot be read: what is meant must not be mistaken for the defaults.
    pub(crate) fn path(&self) -> Result<Option<PathBuf>, Missing> {
        let open = |path: &Path| std::fs::File::open(path).map(drop);
        if self.is_none {
            return Ok(None);
        }
        if let Some(path) = &self.config {
            return match open(path) {
                Ok(()) => Ok(Some(path.clone())),
                Err(error) => Err(Missing::Named { path: path.clone(), error }),
            };
        }
        if let Some(path) = std::env::var_os(VARIABLE).filter(|it| !it.is_empty()) {
            let path = PathBuf::from(path);
            return match open(&path) {
                Ok(()) => Ok(Some(said(path))),
                Err(error) => Err(Missing::Variable { path, error }),
            };
        }
        // One that may not be read is there all the same.
        let system = Path::new(SYSTEM);
        match open(system) {
            Ok(()) => Ok(Some(said(system.to_owned()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Missing::Named { path: system.to_owned(), error }),
        }
    }
}

/// Says which configuration is taken, once.
fn said(path: PathBuf) -> PathBuf {
    static SAID: OnceLock<()> = OnceLock::new();
    if SAID.set(()).is_ok() {
        print::error(&format!("mpp: configuration {}", path.display()));
    }
    path
}

/// Options that say which daemon is meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct Where {
    #[command(flatten)]
    pub(crate) config: Config,
    /// The state directory, instead of `server.state` of the configuration
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

impl Where {
    /// The state directory and the path of the admin socket.
    ///
    /// # Errors
    /// A configuration is named and not there: another daemon must not be taken for its own.
    pub(crate) fn find(&self) -> Result<(PathBuf, PathBuf), Missing> {
        let config = self.config.path()?;
        let (state, admin) = config.as_deref().and_then(load::peek).unwrap_or_default();
        let state =
            self.state.clone().unwrap_or_else(|| state_directory(&state, config.as_deref()));
        let socket = admin_socket(&admin, &state);
        Ok((state, socket))
    }
}

/// The state directory that a configuration means.
pub(crate) fn state_directory(setting: &str, config: Option<&Path>) -> PathBuf {
    if !setting.is_empty() {
        let base = config.and_then(Path::parent).unwrap_or(Path::new(""));
        return base.join(setting);
    }
    // systemd's StateDirectory=, then where a daemon or a user keeps such things.
    if let Some(directory) = std::env::var_os("STATE_DIRECTORY") {
        return directory.into();
    }
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state/mpp"));
    let system = Path::new("/var/lib/mpp");
    if std::fs::create_dir_all(system).is_ok() && is_writable(system) {
        return system.to_owned();
    }
    home().unwrap_or_else(|| "mpp-state".into())
}

fn is_writable(directory: &Path) -> bool {
    let probe = directory.join(".probe");
    let written = std::fs::write(&probe, "").is_ok();
    // A probe that cannot be removed could not be written either.
    let _ = std::fs::remove_file(probe);
    written
}

/// The path of the admin socket.
pub(crate) fn admin_socket(setting: &str, state: &Path) -> PathBuf {
    match setting.strip_prefix("unix:").unwrap_or(setting) {
        "" => state.join("admin.sock"),
        path => path.into(),
    }
}
