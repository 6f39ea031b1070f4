//! Directories: who knows whether a recipient, a domain or a member exists, and for how long what
//! it said holds.
//!
//! What a directory said is kept in the store, on [`Shelf::Looked`](crate::question::Shelf), so it
//! comes with the same trip as everything else of a decision and is shared by all front ends. Only
//! what the store does not know is looked up, by the hub; nothing here waits.

use std::sync::Arc;

use crate::question::{Key, Moment};

/// A directory, as far as the engine has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The name space of what it said. It follows from all settings that change the meaning of an
    /// answer, so that another query begins with an empty cache.
    pub space: u64,
    /// How long what it said holds.
    pub lifetimes: Lifetimes,
}

/// How long the answers of a directory hold, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// That somebody exists. Past half of it the answer is looked up again in the background.
    pub known_ms: u64,
    /// That somebody does not exist.
    pub unknown_ms: u64,
    /// That it could not be said now.
    pub not_now_ms: u64,
    /// That somebody exists, if the directory cannot be asked again; at least `known_ms`.
    pub stale_ms: u64,
}

/// What a directory said of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Found {
    /// It exists, or is a member.
    Yes,
    /// It does not, or is not.
    No,
    /// Nobody can say at the moment.
    NotNow,
}

impl Found {
    /// The name in logs and commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::Yes => "known",
            Self::No => "unknown",
            Self::NotNow => "not-now",
        }
    }

    /// The mark under which it is kept in the store.
    pub fn mark(self) -> u8 {
        match self {
            Self::Yes => 1,
            Self::No => 2,
            Self::NotNow => 3,
        }
    }

    /// What a kept moment says; nothing if it is none of ours.
    pub fn of(moment: Moment) -> Option<Self> {
        [Self::Yes, Self::No, Self::NotNow].into_iter().find(|found| found.mark() == moment.tries)
    }
}

impl Lifetimes {
    /// How long the store is to keep an answer, in milliseconds.
    pub fn keep_ms(&self, found: Found) -> u64 {
        match found {
            Found::Yes => self.stale_ms.max(self.known_ms),
            Found::No => self.unknown_ms,
            Found::NotNow => self.not_now_ms,
        }
    }
}

/// Whose look-up it is: which text of a transaction, in which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The recipient.
    Recipient,
    /// The account that authenticated.
    SaslUser,
    /// The envelope sender.
    Sender,
}

/// What is asked of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum About {
    /// Does the recipient exist? `stem` bytes of its local part are meant: fewer than all of them
    /// without what follows a delimiter, as in `user+detail`.
    Recipient {
        /// So many bytes of the local part.
        stem: u16,
    },
    /// Is the recipient's domain one of ours?
    Domain,
    /// Is somebody a member of the group of that number?
    Member {
        /// Who.
        side: Side,
        /// Which group of the configuration.
        group: u16,
    },
}

/// One look-up that the hub is to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookUp {
    /// The number of the directory in the configuration.
    pub source: u16,
    /// What is asked.
    pub about: About,
    /// Under which key the answer is kept.
    pub key: Key,
}
