//! Where things are: state directory and admin socket.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::load;

/// Options that say which daemon is meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct Where {
    /// The configuration file of the daemon
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The state directory, instead of `server.state` of the configuration
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

impl Where {
    /// The state directory and the path of the admin socket.
    pub(crate) fn find(&self) -> (PathBuf, PathBuf) {
        let (state, admin) = self.config.as_deref().and_then(load::peek).unwrap_or_default();
        let state =
            self.state.clone().unwrap_or_else(|| state_directory(&state, self.config.as_deref()));
        let socket = admin_socket(&admin, &state);
        (state, socket)
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
