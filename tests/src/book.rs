//! A directory in memory that tests write in, and read what it was asked from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mpp_hub::Open;
use mpp_hub::directory::{Answering, Directory, Examined, Trouble, Wanted, What};

/// The directories of a test, by name.
#[derive(Clone, Debug, Default)]
pub struct Shelf(Arc<Mutex<BTreeMap<String, Book>>>);

/// One directory.
#[derive(Clone, Debug, Default)]
pub struct Book(Arc<Mutex<Pages>>);

#[derive(Debug, Default)]
struct Pages {
    entries: BTreeSet<String>,
    trouble: Option<Trouble>,
    hangs: bool,
    takes: Duration,
    asked: Vec<String>,
}

impl Shelf {
    /// The directory of that name.
    pub fn book(&self, name: &str) -> Book {
        let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        books.entry(name.to_owned()).or_default().clone()
    }

    /// The names of all directories that were spoken of.
    pub fn names(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// How a hub opens them.
    pub fn open(&self) -> Open {
        let shelf = self.clone();
        Arc::new(move |configured| Arc::new(shelf.book(&configured.source.name)))
    }
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an entry: an address, `domain NAME`, or `member WHO of GROUP`.
    pub fn add(&self, entry: &str) {
        self.pages().entries.insert(entry.to_owned());
    }

    /// Strikes an entry out.
    pub fn remove(&self, entry: &str) {
        self.pages().entries.remove(entry);
    }

    /// Answers with trouble from now on, or with what is written.
    pub fn trouble(&self, trouble: Option<Trouble>) {
        self.pages().trouble = trouble;
    }

    /// Answers never from now on, or again.
    pub fn hangs(&self, hangs: bool) {
        self.pages().hangs = hangs;
    }

    /// How long an answer takes from now on.
    pub fn takes(&self, takes: Duration) {
        self.pages().takes = takes;
    }

    /// What it was asked since the last call, in order.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.pages().asked)
    }
}

impl Directory for Book {
    fn look_up<'a>(&'a self, wanted: &'a Wanted) -> Answering<'a, Result<bool, Trouble>> {
        Box::pin(async move {
            let entry = match &wanted.what {
                What::Recipient => wanted.address.clone(),
                What::Domain => format!("domain {}", wanted.domain),
                What::Member(group) => format!("member {} of {group}", wanted.address),
            };
            let (hangs, takes) = {
                let mut pages = self.pages();
                pages.asked.push(entry.clone());
                (pages.hangs, pages.takes)
            };
            if hangs {
                std::future::pending::<()>().await;
            }
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            let pages = self.pages();
            match &pages.trouble {
                Some(trouble) => Err(trouble.clone()),
                None => Ok(pages.entries.contains(&entry)),
            }
        })
    }

    fn examine(&self) -> Answering<'_, Vec<Examined>> {
        Box::pin(async { Vec::new() })
    }
}
