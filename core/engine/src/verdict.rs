//! What is decided: an action, and a cause from a closed list with its numbers.

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Nothing stands against it.
    Accept,
    /// A temporary failure: a real mail server comes back.
    Defer,
    /// A permanent failure: a real mail server tells its user.
    Reject,
    /// A temporary failure after which the connection is closed.
    Disconnect,
    /// Accepted and thrown away.
    Discard,
    /// Accepted and kept in the queue for a person to look at.
    Hold,
}

impl Action {
    /// All actions with their names in log and configuration.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Accept, "accept"),
        (Self::Defer, "defer"),
        (Self::Reject, "reject"),
        (Self::Disconnect, "disconnect"),
        (Self::Discard, "discard"),
        (Self::Hold, "hold"),
    ];

    /// The name in log and configuration.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(action, _)| *action == self).map_or("", |(_, name)| name)
    }

    /// Whether the client is told no, for now or for good.
    pub fn refuses(self) -> bool {
        matches!(self, Self::Defer | Self::Reject | Self::Disconnect)
    }
}

/// Why: a closed list, fit for a metric's label. [`crate::reply`] says what the peer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Nothing was found.
    None,
    /// An identity of the transaction is blocked.
    Blocked,
    /// A deny list names it.
    Denied,
    /// It wrote to a spam trap.
    Trap,
    /// There is no such recipient.
    UnknownRecipient,
    /// Nobody can say now whether there is such a recipient.
    DirectoryDown,
    /// An inbound threshold was passed.
    Rate,
    /// An account's quota was passed.
    Quota,
    /// The first contact, or back too early.
    Greylisted,
    /// It spoke before it was greeted.
    EarlyTalker,
    /// It asks for mail to be passed on to strangers.
    Relay,
    /// It has too many connections, or all of them are taken.
    Connections,
    /// A scanner calls it spam.
    Content,
    /// A scanner found what does harm.
    Virus,
    /// A piece of mpp that the policy insists on is down.
    Unavailable,
}

impl Cause {
    /// All causes with their names in log and metrics.
    pub const ALL: [(Self, &'static str); 15] = [
        (Self::None, "none"),
        (Self::Blocked, "blocked"),
        (Self::Denied, "denied"),
        (Self::Trap, "trap"),
        (Self::UnknownRecipient, "unknown-recipient"),
        (Self::DirectoryDown, "directory-down"),
        (Self::Rate, "rate"),
        (Self::Quota, "quota"),
        (Self::Greylisted, "greylisted"),
        (Self::EarlyTalker, "early-talker"),
        (Self::Relay, "relay"),
        (Self::Connections, "connections"),
        (Self::Content, "content"),
        (Self::Virus, "virus"),
        (Self::Unavailable, "unavailable"),
    ];

    /// The name in log and metrics.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(cause, _)| *cause == self).map_or("", |(_, name)| name)
    }
}

/// The numbers that a reply may tell: all of them things the peer knows or may know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// In how many milliseconds a new try makes sense; 0 if that cannot be said.
    pub wait_ms: u64,
    /// The limit that was passed.
    pub limit: u64,
    /// What was used of it.
    pub used: u64,
    /// The time that the limit is for, in milliseconds.
    pub per_ms: u64,
}

/// What is decided and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What is to be done.
    pub action: Action,
    /// Why.
    pub cause: Cause,
    /// The numbers that the reply may tell.
    pub numbers: Numbers,
}

impl Verdict {
    /// Nothing stands against it.
    pub const ACCEPT: Self = Self::new(Action::Accept, Cause::None);

    /// A verdict without numbers.
    pub const fn new(action: Action, cause: Cause) -> Self {
        let numbers = Numbers { wait_ms: 0, limit: 0, used: 0, per_ms: 0 };
        Self { action, cause, numbers }
    }
}
