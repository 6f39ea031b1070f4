//! What this node knows of the quarantines of other nodes: an index of each, as it was told on the board
//! that they share, so that lists and searches look at this disk only.
//!
//! The index of this node's own messages knows nothing of them: nothing of others counts in its limits, is
//! expired or repaired with it, or is in its digests.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mpp_config::Server;
use mpp_hub::board::Board;
use mpp_hub::id::Id;
use serde_json::Value;
use tokio::sync::{Notify, oneshot};

use crate::Inner;
use crate::errand::Errand;
use crate::index::Index;
use crate::record::Row;
use crate::search::{PAGE_ROWS_MAX, Page, Scope, Search};

/// Nodes that are followed; more are only said to be there.
pub(crate) const NODES_MAX: usize = 64;

/// How a quarantine is one with those of other nodes.
#[derive(Clone)]
pub struct Together {
    /// Where they tell each other.
    pub board: Arc<dyn Board>,
    /// What this node is called, as [`Server::is_name`] has it; no two are called the same.
    pub node: String,
    /// How often the board is looked at.
    pub every: Duration,
}

impl std::fmt::Debug for Together {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Together").field("node", &self.node).finish_non_exhaustive()
    }
}

/// What the thread that talks to the board shares with those who ask.
pub(crate) struct Shared {
    pub(crate) together: Together,
    /// Where the indexes of others are.
    folder: PathBuf,
    others: Mutex<BTreeMap<String, Arc<Other>>>,
    /// Rung when there is something to tell or to ask.
    pub(crate) wake: Notify,
    /// Rung when another node has asked for something.
    pub(crate) asked: Notify,
    /// Who waits for the answer to an order.
    pub(crate) waiting: Mutex<HashMap<String, oneshot::Sender<Value>>>,
    /// What was asked of any node and is not done yet, by the ids of orders.
    pub(crate) pending: Mutex<BTreeMap<String, (String, Errand)>>,
}

/// What is known of another node.
pub(crate) struct Other {
    pub(crate) name: String,
    pub(crate) index: Index,
    /// How long it keeps messages, as it says.
    pub(crate) keep_ms: AtomicU64,
}

/// A message, wherever it is.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) id: Id,
    pub(crate) row: Row,
    /// Which other node holds it.
    pub(crate) node: Option<String>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// With what was known of others before.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub(crate) async fn open(folder: &Path, together: Together) -> Result<Self, String> {
        let folder = folder.join("others");
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let mut others = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(|error| error.to_string())? {
            let path = entry.map_err(|error| error.to_string())?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.and_then(|name| name.strip_suffix(".sqlite"));
            let Some(name) = name.filter(|it| Server::is_name(it)) else { continue };
            if name == together.node {
                // Another one was called so before.
                Other::remove(&folder, name);
                continue;
            }
            others.insert(name.to_owned(), Arc::new(Other::open(&folder, name).await?));
        }
        Ok(Self {
            together,
            folder,
            others: Mutex::new(others),
            wake: Notify::new(),
            asked: Notify::new(),
            waiting: Mutex::default(),
            pending: Mutex::default(),
        })
    }

    pub(crate) fn node(&self) -> &str {
        &self.together.node
    }

    pub(crate) fn others(&self) -> Vec<Arc<Other>> {
        lock(&self.others).values().cloned().collect()
    }

    /// Another node, which may be new here; nothing if there are too many.
    pub(crate) async fn other(&self, name: &str) -> Result<Option<Arc<Other>>, String> {
        let known = {
            let others = lock(&self.others);
            if !others.contains_key(name) && others.len() >= NODES_MAX {
                return Ok(None);
            }
            others.get(name).cloned()
        };
        if known.is_some() {
            return Ok(known);
        }
        let other = Arc::new(Other::open(&self.folder, name).await?);
        lock(&self.others).insert(name.to_owned(), Arc::clone(&other));
        Ok(Some(other))
    }

    /// Forgets another node and all that it holds.
    pub(crate) fn forget(&self, name: &str) {
        let gone = lock(&self.others).remove(name);
        if gone.is_some() {
            Other::remove(&self.folder, name);
        }
    }

    /// Begins anew with another node.
    pub(crate) async fn begin_anew(&self, name: &str) -> Result<(), String> {
        let keep_ms = lock(&self.others).get(name).map(|it| it.keep_ms.load(Ordering::Relaxed));
        self.forget(name);
        let other = self.other(name).await?;
        if let (Some(other), Some(keep_ms)) = (&other, keep_ms) {
            other.keep_ms.store(keep_ms, Ordering::Relaxed);
        }
        Ok(())
    }

    /// What was asked of a node and is not done yet for a message.
    fn asked_of(&self, node: &str, id: &str) -> String {
        let pending = lock(&self.pending);
        let mut of_it = pending.values().filter(|(of, errand)| of == node && errand.message == id);
        of_it.next().map_or_else(String::new, |(_, errand)| errand.what.name().to_owned())
    }
}

impl Other {
    async fn open(folder: &Path, name: &str) -> Result<Self, String> {
        let file = folder.join(format!("{name}.sqlite"));
        let index = if let Ok(index) = Index::open_other(&file).await {
            index
        } else {
            // Damaged, or of another version: all of it is read again.
            Self::remove(folder, name);
            Index::open_other(&file).await?
        };
        Ok(Self { name: name.to_owned(), index, keep_ms: AtomicU64::new(u64::MAX) })
    }

    /// A file that stays behind is taken up again later.
    fn remove(folder: &Path, name: &str) {
        for end in ["sqlite", "sqlite-wal", "sqlite-shm"] {
            let _ = fs::remove_file(folder.join(format!("{name}.{end}")));
        }
    }
}

impl Inner {
    /// A page of what all nodes hold, newest first.
    pub(crate) async fn list(&self, search: &Search) -> Result<Page, String> {
        let mut page = self.index.list(search).await?;
        let Some(shared) = &self.shared else { return Ok(page) };
        for row in &mut page.rows {
            shared.node().clone_into(&mut row.node);
        }
        for other in shared.others() {
            let theirs = other.index.list(search).await?;
            page.rows.extend(theirs.rows.into_iter().map(|row| {
                let asked = shared.asked_of(&other.name, &row.id);
                Row { node: other.name.clone(), asked, ..row }
            }));
            // Behind the place where one of them ended its page, others wait for its next one.
            page.cursor = page.cursor.max(theirs.cursor);
        }
        let Page { mut rows, mut cursor } = page;
        if let Some(end) = &cursor {
            rows.retain(|row| row.id >= *end);
        }
        rows.sort_by(|one, other| other.id.cmp(&one.id).then_with(|| one.node.cmp(&other.node)));
        let most = search.most.clamp(1, PAGE_ROWS_MAX);
        // Those of one id stay together: a cursor names an id.
        if let Some(last) = rows.get(most - 1).map(|row| row.id.clone()) {
            let whole = rows.partition_point(|row| row.id >= last);
            if whole < rows.len() {
                rows.truncate(whole);
                cursor = Some(last);
            }
        }
        Ok(Page { rows, cursor })
    }

    /// A message by its id, or by `ID@NODE` where nodes hold different ones with the same id.
    ///
    /// # Errors
    /// There is none that may be seen, or there are several; the index cannot be read.
    pub(crate) async fn find(&self, name: &str, scope: &Scope) -> Result<Found, String> {
        let (text, of) = name.split_once('@').map_or((name, None), |(id, of)| (id, Some(of)));
        let none = || format!("no message {name} is here");
        let Some(shared) = &self.shared else {
            let (id, row) = self.index.look(text, scope).await?.ok_or_else(none)?;
            return Ok(Found { id, row, node: None });
        };
        let others = shared.others();
        // A link may name a node that is called otherwise now: then the id alone counts.
        let is_known = |of: &&str| *of == shared.node() || others.iter().any(|it| it.name == **of);
        let of = of.filter(is_known);
        let is_wanted = |node: &str| of.is_none_or(|of| of == node);
        let mut all = Vec::new();
        if is_wanted(shared.node())
            && let Some((id, row)) = self.index.look(text, scope).await?
        {
            let row = Row { node: shared.node().to_owned(), ..row };
            all.push(Found { id, row, node: None });
        }
        for other in others.iter().filter(|other| is_wanted(&other.name)) {
            if let Some((id, row)) = other.index.look(text, scope).await? {
                let asked = shared.asked_of(&other.name, &row.id);
                let row = Row { node: other.name.clone(), asked, ..row };
                all.push(Found { id, row, node: Some(other.name.clone()) });
            }
        }
        if all.len() > 1 {
            let mut names: Vec<String> = all.iter().map(|found| found.row.name()).collect();
            names.sort_unstable();
            return Err(format!("there are several: say which, {}", names.join(" or ")));
        }
        all.pop().ok_or_else(none)
    }
}
