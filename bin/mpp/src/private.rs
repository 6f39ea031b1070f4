//! Who may read what mpp keeps: nobody but its user.
//!
//! State, log and quarantine hold who wrote to whom, messages, and the secret of the store. So whatever
//! is made is made for its owner only, whatever umask the process was started with; and what an
//! earlier version left open is closed at the start.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::fs::Mode;

/// What belongs to nobody else.
const OTHERS: u32 = 0o077;
/// The folders of a state directory that mpp alone writes to.
const FOLDERS: [&str; 5] = ["log", "store", "shared-copy", "quarantine", "spool"];

/// Has everything that is made from now on be for its owner only. Sockets say themselves who may
/// connect.
pub(crate) fn by_default() {
    rustix::process::umask(Mode::from_raw_mode(OTHERS));
}

/// Closes to others what is there already. Trouble is said and stops nothing: the directory may be
/// somebody else's.
pub(crate) fn close(state: &Path) {
    // Open for a group is meant; open for everybody is what a umask leaves.
    close_one(state, 0o007);
    for folder in FOLDERS.map(|name| state.join(name)) {
        close_one(&folder, OTHERS);
    }
    // The messages of a quarantine lie deeper, behind a folder that is closed now.
    let folders = [state.to_owned()].into_iter().chain(FOLDERS.map(|name| state.join(name)));
    for entry in folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            close_one(&entry.path(), OTHERS);
        }
    }
}

fn close_one(path: &Path, bits: u32) {
    let Ok(data) = fs::metadata(path) else { return };
    let mode = data.permissions().mode() & 0o7777;
    if mode & bits == 0 {
        return;
    }
    if let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(mode & !OTHERS)) {
        mpp_hub::say(&format!("{} can be read by others: {error}", path.display()));
    }
}
