//! Where messages are held for people to look at: a file for each, and an index in SQLite.
//!
//! A message is written, synced and renamed before its row is committed, and `hold` returns after
//! both. What a crash leaves between the two is repaired when the quarantine is opened. Everything that
//! waits for the disk runs on a thread of its own, so no connection of a door waits for another.

mod clean;
mod digest;
mod errand;
mod expire;
mod files;
mod index;
mod letter;
mod links;
mod mark;
mod record;
mod release;
mod repair;
mod room;
mod schedule;
mod seal;
mod search;
mod show;
mod skeleton;
mod talk;
mod together;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use mpp_config::Quarantine as Settings;
use mpp_hub::clock::Clock;
use mpp_hub::directory::Answering;
use mpp_hub::id::{Id, Ids};
use mpp_hub::quarantine::{Holding, Mark, Quarantine as Hold};
use mpp_hub::spool::Spooled;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot};

pub use digest::{Digest, Refused, Wanted};
pub use errand::{Answer, Errand, What};
pub use expire::Expired;
pub use letter::time_text;
pub use links::Opened;
pub use record::{Row, State};
pub use release::Release;
pub use schedule::{Place, Run};
pub use search::{Page, Scope, Search};
pub use show::{Attachment, Shown};
pub use together::Together;

use crate::files::Files;
use crate::index::{DAMAGED, Index};
use crate::record::Message;
use crate::seal::Seal;
use crate::together::{Shared, lock};

/// Messages that are written at once.
const WRITERS_MAX: usize = 4;

/// Why nothing can be held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// For people.
    pub text: String,
}

/// The quarantine of a node.
pub struct Quarantine {
    inner: Arc<Inner>,
    runtime: Handle,
    /// Its thread, which ends when this is dropped.
    thread: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

struct Inner {
    files: Files,
    index: Index,
    /// What there is to know of other nodes, if there are any.
    shared: Option<Shared>,
    seal: Seal,
    ids: Ids,
    clock: Arc<dyn Clock>,
    settings: Mutex<Settings>,
    /// Rung when something was held.
    held: Notify,
    /// The policies that have held something since expiry looked at them.
    touched: Mutex<BTreeSet<String>>,
    /// The last run of digests of each policy, as the index has it.
    runs: tokio::sync::Mutex<Option<BTreeMap<String, Run>>>,
    /// Why nothing could be held when it was tried last.
    trouble: Mutex<Option<Trouble>>,
    /// One message is taken apart at a time: each may take some megabytes.
    showing: Semaphore,
}

impl std::fmt::Debug for Quarantine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quarantine")
            .field("folder", &self.inner.files.folder())
            .finish_non_exhaustive()
    }
}

impl Quarantine {
    /// Opens the quarantine of a folder, which is made if it is not there, and repairs what a crash
    /// has left. With others together it tells them what it holds, and knows what they hold. Blocks.
    ///
    /// # Errors
    /// The folder cannot be used, or another process uses it; the text is for people.
    pub fn open(
        folder: &Path,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        together: Option<Together>,
    ) -> Result<Arc<Self>, String> {
        let named = |error: String| format!("quarantine {}: {error}", folder.display());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(WRITERS_MAX)
            .build()
            .map_err(|error| named(error.to_string()))?;
        let inner = runtime.block_on(Inner::open(folder, settings, clock, together));
        let inner = inner.map_err(named)?;
        let inner = Arc::new(inner);
        let (stop, stopped) = oneshot::channel();
        let handle = runtime.handle().clone();
        let keeping = Arc::clone(&inner);
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = expire::keep(&keeping) => {}
                    () = talk::keep(&keeping) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("quarantine".into()).spawn(run);
        let thread = thread.map_err(|error| named(error.to_string()))?;
        Ok(Arc::new(Self { inner, runtime: handle, thread: Some((stop, thread)) }))
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// Takes other limits; the folder stays.
    pub fn configure(&self, settings: &Settings) {
        *lock(&self.inner.settings) = settings.clone();
        self.inner.held.notify_one();
    }

    /// A page of what is held, newest first.
    ///
    /// # Errors
    /// The index cannot be read.
    pub async fn list(&self, search: Search) -> Result<Page, String> {
        self.run(move |inner| async move { inner.list(&search).await }).await
    }

    /// A message as it may be looked at.
    ///
    /// # Errors
    /// There is no such message in this scope, or it cannot be read.
    pub async fn show(&self, id: &str, scope: &Scope) -> Result<Shown, String> {
        let (id, scope) = (id.to_owned(), scope.clone());
        self.run(move |inner| async move { show::show(&inner, &id, &scope).await }).await
    }

    /// A piece of a message as it came, from this place on; empty at its end.
    ///
    /// # Errors
    /// There is no such message in this scope, or it cannot be read.
    pub async fn raw(&self, id: &str, scope: &Scope, place: u64) -> Result<Vec<u8>, String> {
        let (id, scope) = (id.to_owned(), scope.clone());
        self.run(move |inner| async move { show::raw(&inner, (&id, &scope), place).await }).await
    }

    /// A moment, in milliseconds since 1970, for people: by the clock on the wall.
    ///
    /// # Errors
    /// The index does not answer.
    pub async fn local_text(&self, ms: u64) -> Result<String, String> {
        self.run(move |inner| async move { inner.index.local_text(ms).await }).await
    }

    /// Why nothing could be held when it was tried last, if so: such mail is told to come again.
    pub fn trouble(&self) -> Option<Trouble> {
        lock(&self.inner.trouble).clone()
    }

    /// Throws messages away that are too old or too many, now.
    ///
    /// # Errors
    /// The index cannot be written.
    pub async fn expire(&self) -> Result<Expired, String> {
        self.run(|inner| async move { expire::expire(&inner).await }).await
    }

    /// Numbers for status: messages that wait, bytes on disk, releases whose end is not known.
    ///
    /// # Errors
    /// The index cannot be read.
    pub async fn numbers(&self) -> Result<Vec<(&'static str, u64)>, String> {
        self.run(|inner| async move { inner.index.numbers().await }).await
    }

    /// Does something on the quarantine's own thread; it is finished even if nobody waits for it.
    async fn run<T, F, W>(&self, work: W) -> Result<T, String>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, String>> + Send + 'static,
        W: FnOnce(Arc<Inner>) -> F,
    {
        let done = self.runtime.spawn(work(Arc::clone(&self.inner))).await;
        done.unwrap_or_else(|error| Err(error.to_string()))
    }
}

impl Drop for Quarantine {
    fn drop(&mut self) {
        let Some((stop, thread)) = self.thread.take() else { return };
        drop(stop);
        // One that has panicked has ended as well.
        let _ = thread.join();
    }
}

impl Inner {
    async fn open(
        folder: &Path,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        together: Option<Together>,
    ) -> Result<Self, String> {
        let files = Files::open(folder).map_err(|error| error.to_string())?;
        let secret = settings.secret.as_ref().map(mpp_settings::Secret::reveal);
        let seal = Seal::open(folder, secret).map_err(|error| error.to_string())?;
        let (index, last) = match Self::open_index(folder, &files, together.is_some()).await {
            Err(trouble) if trouble.starts_with(DAMAGED) => {
                mpp_hub::say(&format!(
                    "quarantine: {trouble}: it is set aside, and made anew from the messages"
                ));
                Index::set_aside(folder).map_err(|error| error.to_string())?;
                Self::open_index(folder, &files, together.is_some()).await?
            }
            opened => opened?,
        };
        let shared = match together {
            Some(together) => Some(Shared::open(folder, together).await?),
            None => None,
        };
        Ok(Self {
            files,
            index,
            shared,
            seal,
            ids: Ids::after(last),
            clock,
            settings: Mutex::new(settings.clone()),
            held: Notify::new(),
            touched: Mutex::default(),
            runs: tokio::sync::Mutex::default(),
            trouble: Mutex::default(),
            showing: Semaphore::new(1),
        })
    }

    /// The index, in step with the files, and the last id that was drawn.
    async fn open_index(
        folder: &Path,
        files: &Files,
        is_shared: bool,
    ) -> Result<(Index, Id), String> {
        let index = Index::open(folder).await?;
        // Before anything is repaired: others are told of that, too.
        index.note_changes(is_shared).await?;
        let last = repair::repair(files, &index).await?;
        Ok((index, last))
    }

    fn settings(&self) -> Settings {
        lock(&self.settings).clone()
    }

    /// The policies that have held something since this was asked last.
    fn take_touched(&self) -> BTreeSet<String> {
        std::mem::take(&mut *lock(&self.touched))
    }

    async fn hold(self: Arc<Self>, holding: Holding, text: Arc<Spooled>) -> Result<Id, String> {
        let id = self.ids.next(holding.at_ms);
        let inner = Arc::clone(&self);
        let written = blocking(move || {
            let mut message = Message::of(id, holding, &text).map_err(|it| it.to_string())?;
            message.disk_bytes = inner.files.write(&message, &text).map_err(|it| it.to_string())?;
            Ok(message)
        });
        let message = written.await?;
        if let Err(trouble) = self.index.insert(&message).await {
            self.remove(id).await;
            return Err(trouble);
        }
        let policies = message.holding.recipients.into_iter().map(|it| it.policy);
        lock(&self.touched).extend(policies);
        self.held.notify_one();
        Ok(id)
    }

    async fn withdraw(self: Arc<Self>, id: Id) -> Result<(), String> {
        self.remove(id).await;
        self.index.remove(&[id]).await
    }

    /// Removes the file of a message. One that cannot be removed is found again at the next start.
    async fn remove(self: &Arc<Self>, id: Id) {
        let inner = Arc::clone(self);
        let removed = blocking(move || inner.files.remove(id).map_err(|it| it.to_string())).await;
        if let Err(trouble) = removed {
            mpp_hub::say(&format!("quarantine: {id} cannot be removed: {trouble}"));
        }
    }
}

impl Hold for Quarantine {
    fn hold<'a>(
        &'a self,
        holding: &'a Holding,
        text: &'a Arc<Spooled>,
    ) -> Answering<'a, Result<String, String>> {
        let (holding, text) = (holding.clone(), Arc::clone(text));
        Box::pin(async move {
            let at_ms = holding.at_ms;
            let held = self.run(|inner| inner.hold(holding, text)).await;
            let mut trouble = lock(&self.inner.trouble);
            match &held {
                Ok(_) => *trouble = None,
                Err(text) => {
                    let since_ms = trouble.as_ref().map_or(at_ms, |known| known.since_ms);
                    *trouble = Some(Trouble { since_ms, text: text.clone() });
                }
            }
            held.map(|id| id.to_string())
        })
    }

    fn withdraw<'a>(&'a self, id: &'a str) -> Answering<'a, ()> {
        let id = Id::parse(id);
        Box::pin(async move {
            let Some(id) = id else { return };
            if let Err(trouble) = self.run(|inner| inner.withdraw(id)).await {
                mpp_hub::say(&format!("quarantine: {id} cannot be taken back: {trouble}"));
            }
        })
    }

    fn released<'a>(&'a self, mark: &'a Mark, text: &'a Arc<Spooled>) -> Answering<'a, Vec<bool>> {
        let (asked, text) = (mark.clone(), Arc::clone(text));
        Box::pin(async move {
            let released = self.run(|inner| mark::released(inner, asked, text)).await;
            released.unwrap_or_else(|trouble| {
                mpp_hub::say(&format!("quarantine: {trouble}"));
                vec![false; mark.recipients.len()]
            })
        })
    }

    fn has_passed<'a>(&'a self, mark: &'a Mark, for_whom: &'a [bool]) -> Answering<'a, ()> {
        let (mark, for_whom) = (mark.clone(), for_whom.to_vec());
        Box::pin(async move {
            let noted = self.run(|inner| mark::has_passed(inner, mark, for_whom)).await;
            if let Err(trouble) = noted {
                mpp_hub::say(&format!("quarantine: {trouble}"));
            }
        })
    }
}

/// Does what waits for the disk where it keeps nobody waiting.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(error.to_string()))
}

#[cfg(test)]
mod expire_tests;
#[cfg(test)]
mod million_tests;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod together_tests;
