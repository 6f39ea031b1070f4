//! What is known of a transaction when a question is asked, in the words of RFC 5321.

use std::net::IpAddr;

use crate::identity::Keys;

/// When a question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The client has connected.
    Connect,
    /// It has said HELO or EHLO.
    Helo,
    /// MAIL FROM.
    Mail,
    /// RCPT TO: asked once a recipient.
    Rcpt,
    /// DATA (or BDAT).
    Data,
    /// The whole message is there.
    EndOfMessage,
    /// VRFY.
    Vrfy,
    /// ETRN.
    Etrn,
}

impl Stage {
    /// All stages, with the names that Postfix, log and commands use.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Connect, "CONNECT"),
        (Self::Helo, "HELO"),
        (Self::Mail, "MAIL"),
        (Self::Rcpt, "RCPT"),
        (Self::Data, "DATA"),
        (Self::EndOfMessage, "END-OF-MESSAGE"),
        (Self::Vrfy, "VRFY"),
        (Self::Etrn, "ETRN"),
    ];

    /// All stages, in the order in which they come.
    pub const EVERY: [Self; 8] = [
        Self::Connect,
        Self::Helo,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::EndOfMessage,
        Self::Vrfy,
        Self::Etrn,
    ];

    /// The name that log and commands use.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(stage, _)| *stage == self).map_or("", |(_, name)| name)
    }
}

/// Which way the mail goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From outside.
    Inbound,
    /// From a local network or an authenticated user, whoever the recipient is.
    Outbound,
}

impl Direction {
    /// The name in configuration and log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What is known of a transaction at a stage; it does not change while it is judged. Names and
/// addresses are in lower case (ASCII letters only); what is not known is empty.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "they are facts, each of its own")]
pub struct Facts<'a> {
    /// The stage.
    pub stage: Stage,
    /// Which way the mail goes.
    pub direction: Direction,
    /// The client's address.
    pub client: IpAddr,
    /// The client's port; 0 if not known.
    pub client_port: u16,
    /// The client's name if it leads back to the address, else empty.
    pub client_name: &'a str,
    /// The client's name as its address claims it: fit for suspicion, never for trust.
    pub reverse_name: &'a str,
    /// What the client called itself.
    pub helo: &'a str,
    /// The envelope sender; empty is the null sender, from MAIL on.
    pub sender: &'a str,
    /// The recipient; empty before RCPT, and behind it when there are several.
    pub recipient: &'a str,
    /// The account, if the client has authenticated.
    pub sasl_user: &'a str,
    /// What ties the requests of one transaction together; may be empty.
    pub instance: &'a str,
    /// The queue id, once there is one.
    pub queue_id: &'a str,
    /// What the front end calls the listener that asks (`policy_context`).
    pub context: &'a str,
    /// The size of the message in bytes: announced at RCPT, real at END-OF-MESSAGE.
    pub size_bytes: u64,
    /// How many recipients were accepted; known at DATA and END-OF-MESSAGE only.
    pub recipient_count: u32,
    /// Whether the same request was answered a moment ago.
    pub repeat: Repeat,
    /// A recipient of this transaction was let through a moment ago.
    pub has_accepted: bool,
    /// What the mail server itself says of the recipient.
    pub server_says: ServerSays,
    /// It is the first request seen of this connection.
    pub is_new_connection: bool,
    /// It spoke before it was greeted.
    pub is_early: bool,
    /// Client and network are ours or of a configured peer: never blocked.
    pub is_spared: bool,
    /// Whether a mail server has taken the message already: whoever is refused now is not told; a sender
    /// who may be forged is.
    pub is_queued: bool,
    /// What this transaction has reserved so far.
    pub reserved: Reserved,
    /// The hashes of all identities.
    pub keys: Keys,
}

/// What the mail server itself says of a recipient before it asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerSays {
    /// Nothing: it would take it.
    #[default]
    Nothing,
    /// It has refused it, since it knows no such user. That counts as if a directory had said so.
    NoSuchUser,
}

/// Whether the very same request was answered a moment ago. Postfix asks again when it lost the
/// connection before the answer; nothing counts twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repeat {
    /// It is new.
    #[default]
    No,
    /// It was let through, so what it uses is counted already.
    LetThrough,
    /// It was refused, so it used nothing.
    Refused,
}

/// What a transaction holds of counts that are confirmed only when its message is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// The message itself is counted.
    pub message: bool,
    /// So many recipients are.
    pub recipients: u32,
}

impl Facts<'_> {
    /// Whether the sender is the null sender, as of bounces.
    pub fn is_null_sender(&self) -> bool {
        self.sender.is_empty()
    }

    /// Whether it says that it is a bounce for one of ours. Spammers say so, too.
    pub fn is_stray(&self) -> bool {
        self.direction == Direction::Inbound && self.is_null_sender()
    }

    /// Whether the mail server itself has refused the recipient already.
    pub fn is_refused(&self) -> bool {
        self.server_says == ServerSays::NoSuchUser
    }
}
