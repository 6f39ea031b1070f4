//! What a crash has left between a file and its row is put right when the quarantine is opened.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mpp_hub::id::Id;
use sqlx::Row as _;

use crate::files::{Files, Found};
use crate::index::{Index, signed, trouble, unsigned};
use crate::record::State;

/// Rows that are removed in one transaction.
const REMOVED_AT_ONCE: usize = 200;

/// What was done.
#[derive(Debug, Default)]
struct Done {
    indexed: u64,
    half: u64,
    left_over: u64,
    damaged: u64,
    without_file: u64,
}

/// Puts files and index in step, says what was done, and returns the last id that was drawn.
///
/// # Errors
/// Files or index cannot be read or written.
pub(crate) async fn repair(files: &Files, index: &Index) -> Result<Id, String> {
    let mut done = Done::default();
    let mut last = index.last().await?;
    let mut seen_to = 0;
    for folder in files.folders().map_err(|error| error.to_string())? {
        let Some((from, to)) = range(&folder) else { continue };
        drop_rows(index, (seen_to, from), &BTreeMap::new(), &mut done).await?;
        seen_to = to;
        last = last.max(one_folder(files, index, (&folder, from, to), &mut done).await?);
    }
    drop_rows(index, (seen_to, i64::MAX), &BTreeMap::new(), &mut done).await?;
    for (count, what) in [
        (done.indexed, "messages without a row were put into the index"),
        (done.half, "messages were not written to their end, and removed: nobody was told 250"),
        (done.left_over, "files of messages that nobody waits for were removed"),
        (done.damaged, "files cannot be read, and were set aside as .damaged"),
        (done.without_file, "rows had no message, and were dropped"),
    ] {
        if count > 0 {
            mpp_hub::say(&format!("quarantine: repaired: {count} {what}"));
        }
    }
    let releasing = index.releasing().await?;
    if !releasing.is_empty() {
        mpp_hub::say(&format!(
            "quarantine: the end of the release of {} is not known: see whether it has arrived, then \
             `mpp quarantine release --force` or `mpp quarantine delete`",
            releasing.join(", ")
        ));
    }
    Ok(last)
}

/// The ids that belong into an outer folder.
fn range(folder: &Path) -> Option<(i64, i64)> {
    let name = folder.file_name()?.to_string_lossy().into_owned();
    let first = Id::parse(&format!("{name}{}", "0".repeat(7)))?;
    let last = Id::parse(&format!("{name}{}", "Z".repeat(7)))?;
    Some((signed(first.number()), signed(last.number()).saturating_add(1)))
}

async fn one_folder(
    files: &Files,
    index: &Index,
    (folder, from, to): (&Path, i64, i64),
    done: &mut Done,
) -> Result<Id, String> {
    let mut there = BTreeMap::new();
    let mut last = Id::of(0);
    for found in Files::find(folder).map_err(|error| error.to_string())? {
        match found {
            Found::Half(path) => {
                fs::remove_file(&path).map_err(|error| error.to_string())?;
                done.half += 1;
            }
            Found::Whole(id) => {
                last = last.max(id);
                there.insert(signed(id.number()), id);
            }
        }
    }
    drop_rows(index, (from, to), &there, done).await?;
    let known = index.known((from, to)).await?;
    for (number, id) in there {
        match known.get(&number) {
            Some(is_waiting) if *is_waiting => {}
            Some(_) => {
                files.remove(id).map_err(|error| error.to_string())?;
                done.left_over += 1;
            }
            None => {
                if let Ok(message) = files.read_whole(id) {
                    index.insert(&message).await?;
                    done.indexed += 1;
                } else {
                    files.set_aside(id).map_err(|error| error.to_string())?;
                    done.damaged += 1;
                }
            }
        }
    }
    Ok(last)
}

/// Drops rows of messages that wait and have no file.
async fn drop_rows(
    index: &Index,
    (from, to): (i64, i64),
    there: &BTreeMap<i64, Id>,
    done: &mut Done,
) -> Result<(), String> {
    let known = index.known((from, to)).await?;
    let lost: Vec<Id> = known
        .into_iter()
        .filter(|(number, is_waiting)| *is_waiting && !there.contains_key(number))
        .map(|(number, _)| Id::of(unsigned(number)))
        .collect();
    done.without_file += lost.len() as u64;
    for ids in lost.chunks(REMOVED_AT_ONCE) {
        index.remove(ids).await?;
    }
    Ok(())
}

impl Index {
    /// The last id of all.
    async fn last(&self) -> Result<Id, String> {
        let mut read = self.read.lock().await;
        let row = sqlx::query("SELECT coalesce(max(id), 0) FROM message");
        let row = row.fetch_one(&mut *read).await.map_err(trouble)?;
        Ok(Id::of(unsigned(row.try_get(0).map_err(trouble)?)))
    }

    /// The ids of a range, and whether somebody waits for them.
    async fn known(&self, (from, to): (i64, i64)) -> Result<BTreeMap<i64, bool>, String> {
        let mut read = self.read.lock().await;
        let rows = sqlx::query("SELECT id, waiting > 0 FROM message WHERE id >= ?1 AND id < ?2");
        let rows = rows.bind(from).bind(to).fetch_all(&mut *read).await.map_err(trouble)?;
        let rows = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        rows.collect::<Result<_, sqlx::Error>>().map_err(trouble)
    }

    /// Messages whose release was begun, and no end of it is known.
    async fn releasing(&self) -> Result<Vec<String>, String> {
        let mut read = self.read.lock().await;
        let rows = sqlx::query("SELECT DISTINCT message FROM held WHERE state = ?1 LIMIT 20");
        let rows = rows.bind(State::Releasing.number());
        let rows = rows.fetch_all(&mut *read).await.map_err(trouble)?;
        let rows = rows.iter().map(|row| row.try_get(0).map(|id| Id::of(unsigned(id)).to_string()));
        rows.collect::<Result<_, sqlx::Error>>().map_err(trouble)
    }
}
