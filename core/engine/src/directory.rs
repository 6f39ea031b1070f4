//! Directories: who knows whether a recipient, a domain or a member exists, and for how long what
//! it said holds.
//!
//! What a directory said is kept in the store, on [`Shelf::Looked`](crate::question::Shelf), so it
//! comes with the same trip as everything else of a decision and is shared by all front ends. Only
//! what the store does not know is looked up, by the hub; nothing here waits.

use std::sync::Arc;

use crate::decide::{Pause, Round};
use crate::identity::Keyring;
use crate::question::{Effect, Key, Moment, Shelf};

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
    /// Whether it can say which domains are ours.
    pub knows_domains: bool,
}

impl Source {
    /// Under which key it is kept whether a recipient exists, by the hash of its address.
    pub fn recipient_key(&self, ring: Keyring, address: u64) -> Key {
        ring.key(self.space, address)
    }

    /// Under which key it is kept whether a domain is ours.
    pub fn domain_key(&self, ring: Keyring, domain: &str) -> Key {
        ring.key(ring.pair(self.space, 1), ring.text(domain))
    }

    /// The name space of who is in a group.
    pub fn group_space(&self, ring: Keyring, group: &str) -> u64 {
        ring.pair(self.space, ring.text(group) | 2)
    }
}

/// How long the answers of a directory hold, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

    /// What a kept moment says, and how long ago it was said, in milliseconds; nothing if it is
    /// none of ours. One that lies ahead of a clock that was put back is as old as it is far.
    pub fn of(moment: Moment, now_ms: u64) -> Option<(Self, u64)> {
        let mut all = [Self::Yes, Self::No, Self::NotNow].into_iter();
        let found = all.find(|found| found.mark() == moment.tries)?;
        Some((found, now_ms.abs_diff(moment.at_ms)))
    }
}

/// What is to be made of what is kept of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It holds; past half of its time it is looked up again in the background.
    Holds(Found, bool),
    /// It has to be looked up; where that is not possible now, `true` says that it exists.
    RanOut(bool),
}

impl Lifetimes {
    /// Judges what is kept of somebody, with its age in milliseconds. Where a directory can say
    /// nothing now, what is kept of somebody who exists holds longer; of nobody else.
    pub fn judge(&self, kept: Option<(Found, u64)>) -> Kept {
        match kept {
            Some((Found::Yes, age_ms)) if age_ms < self.known_ms => {
                Kept::Holds(Found::Yes, age_ms >= self.known_ms / 2)
            }
            Some((Found::No, age_ms)) if age_ms < self.unknown_ms => Kept::Holds(Found::No, false),
            Some((Found::Yes, age_ms)) => Kept::RanOut(age_ms < self.stale_ms),
            Some((Found::No | Found::NotNow, _)) | None => Kept::RanOut(false),
        }
    }

    /// What a directory says of somebody: what is kept of it with its age, else what it says now.
    ///
    /// # Errors
    /// It has to be looked up first.
    pub fn say(
        &self,
        look_up: LookUp,
        kept: Option<(Found, u64)>,
        round: &mut Round<'_>,
    ) -> Result<(Found, Option<u64>), Pause> {
        let age_ms = kept.map(|(_, age_ms)| age_ms);
        match self.judge(kept) {
            Kept::Holds(found, wants_refresh) => {
                if wants_refresh {
                    round.refresh(look_up);
                }
                Ok((found, age_ms))
            }
            Kept::RanOut(exists) => match round.look_up(look_up)? {
                Found::NotNow if exists => Ok((Found::Yes, age_ms)),
                found => Ok((found, None)),
            },
        }
    }

    /// Keeps what was said just now under a key.
    pub fn remember(&self, key: Key, found: Found) -> Effect {
        let (shelf, keep_ms, mark) = (Shelf::Looked, self.keep_ms(found), found.mark());
        Effect::Remember { shelf, key, keep_ms, again: true, mark }
    }

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

/// That somebody is in a group, as a policy asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Membership {
    /// Who.
    pub side: Side,
    /// The number of the directory.
    pub source: u16,
    /// The number of the group in the configuration.
    pub group: u16,
    /// The name space of what is kept of it.
    pub space: u64,
}

impl Membership {
    /// The look-up of somebody, by the hash of the text.
    pub fn look_up(&self, ring: Keyring, who: u64) -> LookUp {
        let about = About::Member { side: self.side, group: self.group };
        LookUp { source: self.source, about, key: ring.key(self.space, who) }
    }
}

/// What is known of memberships while a policy is looked for.
#[derive(Debug, Default)]
pub struct Memberships {
    /// What has been answered.
    pub answers: Vec<(LookUp, bool)>,
    /// What has to be answered first.
    pub missing: Vec<LookUp>,
}

impl Memberships {
    /// Whether somebody is a member; what nobody has asked yet is noted, and counts as no.
    pub fn is_member(&mut self, look_up: LookUp) -> bool {
        if let Some((_, is_member)) = self.answers.iter().find(|(known, _)| *known == look_up) {
            return *is_member;
        }
        if !self.missing.contains(&look_up) {
            self.missing.push(look_up);
        }
        false
    }
}
