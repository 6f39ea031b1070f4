//! The files of a postgrey.

use std::cell::Cell;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use mpp_engine::foreign::{Known, Postgrey, Useless};
use mpp_wire::btree::{Btree, HEAD_BYTES, Page};

use super::super::Failure;
use super::Gathered;

/// What every postgrey has, and what it has unless it was told to keep no clients.
const TRIPLETS: &str = "postgrey.db";
const CLIENTS: &str = "postgrey_clients.db";
/// A log that was written so much later than the files holds what they do not.
const LATER: Duration = Duration::from_secs(2);

/// Reads both files of a directory.
pub(super) fn read(
    directory: &Path,
    how: &Postgrey,
    gathered: &mut Gathered<'_>,
) -> Result<(), Failure> {
    let triplets = directory.join(TRIPLETS);
    if !triplets.is_file() {
        return Err(Failure(format!(
            "error: there is no {TRIPLETS} in {}\nhelp: name postgrey's --dbdir with --directory",
            directory.display()
        )));
    }
    if is_running(directory) {
        gathered.note(
            "postgrey is running: what it has not yet written to its files is missing; stop it, \
             then import again"
                .to_owned(),
        );
    } else if is_log_newer(directory) {
        gathered.note(
            "postgrey did not end well: its log holds what its files lack and is not read; start \
             it and stop it, then import again"
                .to_owned(),
        );
    }
    tree(&triplets, gathered, |key, value| how.triplet(key, value))?;
    let clients = directory.join(CLIENTS);
    if clients.is_file() {
        tree(&clients, gathered, Postgrey::client)?;
    }
    Ok(())
}

/// A postgrey holds a lock as long as it runs.
fn is_running(directory: &Path) -> bool {
    let lock = File::open(directory.join("postgrey.lock"));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Whether the log was written after the files: a postgrey that ends writes them last.
fn is_log_newer(directory: &Path) -> bool {
    let (mut log, mut files) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
    for entry in directory.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Ok(at) = entry.metadata().and_then(|data| data.modified()) else { continue };
        if name.starts_with("log.") {
            log = log.max(at);
        } else if name == TRIPLETS || name == CLIENTS {
            files = files.max(at);
        }
    }
    log > files + LATER
}

/// Reads the pairs of a file, a page at a time.
fn tree(
    path: &Path,
    gathered: &mut Gathered<'_>,
    mut line: impl FnMut(&[u8], &[u8]) -> Result<Known, Useless>,
) -> Result<(), Failure> {
    let name = path.display();
    let unreadable = |error: io::Error| Failure(format!("error: cannot read {name}: {error}"));
    let file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    if length == 0 {
        // It was made and nothing written yet.
        return Ok(());
    }
    let mut head = [0; HEAD_BYTES];
    file.read_exact_at(&mut head, 0)
        .map_err(|_| Failure(format!("error: {name} is cut off within its first page")))?;
    let tree = Btree::parse(&head).map_err(|why| Failure(format!("error: {name}: {why}")))?;
    let bytes = tree.page_bytes() as u64;
    let page_at = |number: u32| {
        let mut page = vec![0; tree.page_bytes()];
        file.read_exact_at(&mut page, u64::from(number) * bytes).ok()?;
        Some(page)
    };
    let pages = u32::try_from(length / bytes).unwrap_or(u32::MAX);
    let is_cut = length % bytes != 0 || tree.last_page() >= pages;
    let (mut damaged, mut broken) = (0_u64, 0_u64);
    // A page of a long key or value belongs to that alone: more of them than there are pages are made
    // up, and would take for ever.
    let left = Cell::new(pages);
    let more = |number: u32| {
        left.set(left.get().checked_sub(1)?);
        page_at(number)
    };
    for number in 1..pages {
        let Some(page) = page_at(number) else {
            damaged += 1;
            continue;
        };
        let leaf = match tree.page(number, &page) {
            Page::Leaf(leaf) => leaf,
            Page::Other => continue,
            Page::Damaged => {
                damaged += 1;
                continue;
            }
        };
        for pair in leaf {
            let whole = pair
                .ok()
                .and_then(|(key, value)| Some((tree.whole(key, more)?, tree.whole(value, more)?)));
            match whole {
                Some((key, value)) => gathered.take(line(&key, &value)),
                None => broken += 1,
            }
        }
    }
    if is_cut {
        gathered.note(format!("{name} is shorter than it says: what is there was read"));
    }
    if damaged + broken > 0 {
        gathered.note(format!("{name} is damaged: {damaged} pages and {broken} lines were left"));
    }
    Ok(())
}
