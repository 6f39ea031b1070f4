//! What crosses the floor between the pure engine and the world: questions, answers, effects.
//!
//! A check asks [`Question`]s and names [`Effect`]s; it never performs either. Both are plain
//! data, so they can be batched into one trip to a store, faked in a test and replayed from a log.
//!
//! Everything remembered is found by a [`Key`], a keyed 64-bit hash made from the facts in one
//! place ([`crate::identity`]), so nothing of unbounded length ever reaches a store.

use std::net::IpAddr;

use ipnet::IpNet;

/// The fingerprint of one remembered thing.
///
/// 64 bits, made with the store's secret seed: with ten million entries held, a key never seen
/// before is taken for a known one less than once in 10^11 look-ups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

/// Where a remembered point in time belongs. Each shelf is a name space of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shelf {
    /// First tries that were asked to come back: sender identity, sender, recipient.
    Greylisted,
    /// Identities that came back properly and are not asked again.
    Proven,
    /// Outside people to whom one of our users wrote first.
    Correspondent,
    /// Senders that wrote to a trap or to nobody, with whom they wrote to.
    Fault,
    /// What a directory said of somebody; the mark says what ([`crate::directory::Found`]).
    Looked,
    /// Recipients who have a message that comes again for others.
    Delivered,
}

impl Shelf {
    /// All shelves, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Greylisted,
        Self::Proven,
        Self::Correspondent,
        Self::Fault,
        Self::Looked,
        Self::Delivered,
    ];
}

/// A remembered point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When it was noted, in milliseconds since 1970.
    pub at_ms: u64,
    /// How often it was tried again too early, 0 to 15; more counts as 15. On [`Shelf::Looked`] the
    /// mark it was remembered with.
    pub tries: u8,
}

/// Which kind of identity a block or a count belongs to (DESIGN: "whose reputation counts").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdentityKind {
    /// The client's address.
    Client,
    /// The client's network: /24 or /64 unless configured otherwise.
    Network,
    /// The organisational domain of the client's verified name.
    Organisation,
    /// The account that authenticated.
    SaslUser,
    /// The envelope sender.
    Sender,
    /// The domain of the envelope sender.
    SenderDomain,
    /// The envelope sender's domain, within one sender identity (a pool) only.
    PooledDomain,
    /// The envelope sender, within one sender identity (a pool) only; the senders of one mailing
    /// are one.
    PooledSender,
    /// The HELO name.
    Helo,
    /// The recipient.
    Recipient,
    /// The recipient's domain.
    RecipientDomain,
}

impl IdentityKind {
    /// All kinds, in the order of their numbers, with their names in configuration and log.
    pub const ALL: [(Self, &'static str); 11] = [
        (Self::Client, "client"),
        (Self::Network, "network"),
        (Self::Organisation, "organisation"),
        (Self::SaslUser, "sasl_user"),
        (Self::Sender, "sender"),
        (Self::SenderDomain, "sender_domain"),
        (Self::PooledDomain, "pooled_domain"),
        (Self::PooledSender, "pooled_sender"),
        (Self::Helo, "helo"),
        (Self::Recipient, "recipient"),
        (Self::RecipientDomain, "recipient_domain"),
    ];

    /// The name in configuration, log and commands.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }
}

/// A question that one check needs answered before it can judge.
///
/// All questions of a decision are answered in one atomic step. `Count`, `Reserve` and `Distinct`
/// count the attempt as they answer; the others change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// When was this noted on that shelf? Answer: [`Answer::Since`].
    Since {
        /// Which name space.
        shelf: Shelf,
        /// Of what.
        key: Key,
    },
    /// Is this identity blocked? Answer: [`Answer::Blocked`].
    Blocked {
        /// What kind of identity.
        kind: IdentityKind,
        /// Which one.
        key: Key,
    },
    /// Adds `amount` (0: only look) to a sliding count. Answer: [`Answer::Counted`].
    Count {
        /// Which count.
        key: Key,
        /// Length of the window in milliseconds.
        per_ms: u64,
        /// How much to add.
        amount: u32,
    },
    /// Adds `amount` to a sliding count unless that would pass `limit`. Answer:
    /// [`Answer::Counted`], where `granted` says whether it was added.
    Reserve {
        /// Which count.
        key: Key,
        /// Length of the window in milliseconds.
        per_ms: u64,
        /// How much to add.
        amount: u32,
        /// What the count must not pass.
        limit: u64,
    },
    /// Adds a member to a set and tells how many different ones the window holds. Answer:
    /// [`Answer::Counted`]. Sets hold [`DISTINCT_MAX`] members at the most.
    Distinct {
        /// Which set.
        key: Key,
        /// The member's fingerprint.
        member: u64,
        /// Length of the window in milliseconds.
        per_ms: u64,
    },
    /// What was learnt of an identity. Answer: [`Answer::History`].
    History {
        /// Of whom.
        key: Key,
    },
}

/// Members that a [`Question::Distinct`] set holds at the most; further ones are not added.
pub const DISTINCT_MAX: usize = 64;

/// One answer, at the place of its question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    /// To [`Question::Since`]: nothing if never noted, or no longer remembered.
    Since(Option<Moment>),
    /// To [`Question::Blocked`]: nothing if not blocked now.
    Blocked(Option<Block>),
    /// To [`Question::Count`], [`Question::Reserve`] and [`Question::Distinct`].
    Counted(Counted),
    /// To [`Question::History`]: zeros if nothing is known.
    History(History),
    /// The edge could not answer now; the policy says what follows.
    Unavailable,
}

/// The state of a sliding count after a question about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Whether the amount was added; always true for [`Question::Count`].
    pub granted: bool,
    /// What the window holds now, the amount included if it was added.
    pub used: u64,
    /// When the oldest part of it leaves the window, in milliseconds since 1970; 0 if empty.
    pub frees_at_ms: u64,
}

/// A block that holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The end, in milliseconds since 1970: at that moment it no longer holds.
    pub until_ms: u64,
    /// When it was made or last made longer.
    pub since_ms: u64,
    /// How many blocks this identity had before this one within the store's memory.
    pub strikes: u32,
    /// Why.
    pub reason: BlockReason,
}

/// Why an identity was blocked: a closed list, fit for a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockReason {
    /// Wrote to a spam trap.
    Trap,
    /// Guessed at recipients (directory harvest).
    Harvest,
    /// Went over a threshold's rate.
    Rate,
    /// Went over a threshold's share of spam.
    SpamShare,
    /// Blocked by hand.
    Manual,
}

impl BlockReason {
    /// All reasons, in the order of their numbers, with their names in logs and commands.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Trap, "trap"),
        (Self::Harvest, "harvest"),
        (Self::Rate, "rate"),
        (Self::SpamShare, "spam-share"),
        (Self::Manual, "manual"),
    ];

    /// The name in logs and commands.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(reason, _)| *reason == self).map_or("", |(_, name)| name)
    }
}

/// What was learnt of an identity, as weights that halve every [`HISTORY_HALF_LIFE_MS`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct History {
    /// Messages judged clean.
    pub clean: f32,
    /// Messages judged spam.
    pub spam: f32,
    /// Facts that no honest sender causes often: traps hit, unknown recipients.
    pub bad: f32,
}

/// After this time what was learnt counts half.
pub const HISTORY_HALF_LIFE_MS: u64 = 14 * 24 * 3_600_000;

/// A history of less weight in all is none: a single fact is remembered for 28 days.
pub const HISTORY_LEAST: f32 = 0.25;

/// What an observation says of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lesson {
    /// The message was clean.
    Clean,
    /// The message was spam.
    Spam,
    /// It hit a trap or an unknown recipient.
    Bad,
}

/// An identity in a form that people read, kept beside the block of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A client's address.
    Address(IpAddr),
    /// A network.
    Network(IpNet),
    /// A name, an account or a mail address.
    Name(Box<str>),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Network(network) => write!(f, "{network}"),
            Self::Name(name) => write!(f, "{name}"),
        }
    }
}

/// A block to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBlock {
    /// What kind of identity.
    pub kind: IdentityKind,
    /// Which one.
    pub key: Key,
    /// The same for people.
    pub subject: Subject,
    /// Why.
    pub reason: BlockReason,
    /// How long the first block holds, in milliseconds.
    pub for_ms: u64,
    /// Each further one holds this many times longer than the one before, at least 1.
    pub grow: f32,
    /// No block holds longer than this, in milliseconds.
    pub up_to_ms: u64,
}

impl NewBlock {
    /// How long the block holds if the identity had `strikes` before, in milliseconds.
    ///
    /// A store remembers the strikes of a block for [`STRIKES_KEEP_MS`] after its end.
    pub fn lasts_ms(&self, strikes: u32) -> u64 {
        let factor = f64::from(self.grow.max(1.0)).powi(strikes.min(64).cast_signed());
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float-to-integer cast saturates, and is cut to `up_to_ms` right after"
        )]
        let grown_ms = (self.for_ms as f64 * factor) as u64;
        grown_ms.min(self.up_to_ms.max(self.for_ms))
    }
}

/// How long a store remembers that an identity was blocked after the block has ended.
pub const STRIKES_KEEP_MS: u64 = 14 * 24 * 3_600_000;

/// Work that follows from a decision. The engine names it and never performs it.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Notes `now` on a shelf, to be forgotten after `keep_ms`.
    Remember {
        /// Which name space.
        shelf: Shelf,
        /// Of what.
        key: Key,
        /// How long to keep it, in milliseconds; a store may keep it up to a tenth longer.
        keep_ms: u64,
        /// False: what is still remembered stays as it is. True: its time becomes now.
        again: bool,
        /// What its [`Moment::tries`] begin with, 0 to 15.
        mark: u8,
    },
    /// Counts one more try of a key on [`Shelf::Greylisted`] that came too early.
    TooEarly {
        /// Of what.
        key: Key,
    },
    /// Forgets a key.
    Forget {
        /// Which name space.
        shelf: Shelf,
        /// Of what.
        key: Key,
    },
    /// Blocks an identity; one that is blocked already is not counted as blocked again, only
    /// made to last at least as long as the new block would on its own.
    Block(NewBlock),
    /// Ends a block and forgets its strikes.
    Unblock {
        /// What kind of identity.
        kind: IdentityKind,
        /// Which one.
        key: Key,
    },
    /// Takes back what [`Question::Reserve`] or [`Question::Count`] added at `at_ms`.
    GiveBack {
        /// Which count.
        key: Key,
        /// When it was added.
        at_ms: u64,
        /// How much.
        amount: u32,
    },
    /// Adds to an identity's history.
    Observe {
        /// Of whom.
        key: Key,
        /// What was learnt.
        lesson: Lesson,
        /// How much it weighs; 1 is one message.
        weight: f32,
    },
    /// A line for the statistics; it changes no later decision.
    Note(Note),
}

/// What the greylist statistics count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A client's first try was deferred.
    FirstTry,
    /// A client came back, too early.
    CameBack {
        /// When it first tried.
        first_ms: u64,
    },
    /// A client came back and passed.
    Passed {
        /// When it first tried.
        first_ms: u64,
    },
    /// Mail of a client that did not have to wait was let through.
    NoWait,
    /// A message of the client was judged spam, or it hit a trap.
    Condemned,
}
