//! The quarantine, in the words of the domain: hold a message for some of its recipients.

use std::net::IpAddr;
use std::sync::Arc;

use crate::directory::Answering;
use crate::spool::Spooled;

/// What is known of a message that is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// When it came, in milliseconds since 1970.
    pub at_ms: u64,
    /// Its name in the decision log.
    pub instance: String,
    /// The client; none where it is not known.
    pub client: Option<IpAddr>,
    /// Its verified name; may be empty.
    pub client_name: String,
    /// What the client called itself.
    pub helo: String,
    /// The account; may be empty.
    pub sasl_user: String,
    /// The envelope sender; empty is the null sender.
    pub sender: String,
    /// The parameters of MAIL, as they were said, with a space between two; may be empty.
    pub parameters: String,
    /// The recipients that it is held for.
    pub recipients: Vec<HeldFor>,
    /// Why: a word such as `spam`, `virus`, `hold`.
    pub reason: String,
    /// Points, in hundredths.
    pub points: i64,
    /// What scanners said.
    pub tests: String,
    /// Where it goes when it is released: the name of the proxy, and the number of its hop.
    pub route: String,
    /// Header fields to be put before the text, each line with its CRLF.
    pub header: String,
}

/// Somebody that a message is held for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldFor {
    /// The address, as the client named it.
    pub address: String,
    /// Whose it is: the address in lower case, without a detail (`user+detail@`).
    pub user: String,
    /// The policy that wants it held.
    pub policy: String,
    /// The parameters of RCPT, as they were said, with a space between two; may be empty.
    pub parameters: String,
}

/// The field of a message that was released: it is let through everywhere where the same key is.
pub const RELEASED_FIELD: &str = "X-Mpp-Released";

/// The mark of a message that was released, as a door meets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The value of its [`RELEASED_FIELD`].
    pub value: Vec<u8>,
    /// The door. Each lets a recipient's message through once.
    pub door: String,
    /// The recipients, each by all the names that he has: as he is named here, and as he was named
    /// first (RFC 3461, ORCPT).
    pub recipients: Vec<Vec<String>>,
}

/// Keeps messages for people to look at.
pub trait Quarantine: Send + Sync {
    /// Takes a message; returns its id. What it returns is there after a power cut: file and index
    /// are written and synced.
    ///
    /// # Errors
    /// It cannot be kept now, so it must not be answered with 250.
    fn hold<'a>(
        &'a self,
        holding: &'a Holding,
        text: &'a Arc<Spooled>,
    ) -> Answering<'a, Result<String, String>>;

    /// Forgets a message that was held a moment ago and then not answered with 250: it comes again.
    fn withdraw<'a>(&'a self, id: &'a str) -> Answering<'a, ()>;

    /// For which of its recipients somebody has released exactly this message, and it has not passed
    /// this door before.
    fn released<'a>(&'a self, mark: &'a Mark, text: &'a Arc<Spooled>) -> Answering<'a, Vec<bool>>;

    /// A message has passed a door by its mark, for those recipients for whom that is so.
    fn has_passed<'a>(&'a self, mark: &'a Mark, for_whom: &'a [bool]) -> Answering<'a, ()>;
}
