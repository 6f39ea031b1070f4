//! A directory, in the words of the domain: look up, examine. Deadline, cache, single flight and
//! health are the hub's; a directory only asks its servers.

use std::future::Future;
use std::pin::Pin;

use mpp_engine::directory::Found;

/// An answer that has to be waited for.
pub type Answering<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is looked up, in the forms that a query may need. Texts are in lower case; the domain is in
/// its ASCII form (RFC 5890 A-labels) or, asked a second time, in its Unicode form. They come from
/// strangers: a directory must bind or escape them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What is asked of it.
    pub what: What,
    /// The whole address, or the account's name; the domain alone if a domain is asked about.
    pub address: String,
    /// What stands before the last `@`; all of it without one.
    pub local: String,
    /// What stands behind it; empty without one.
    pub domain: String,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Whether the address exists.
    Recipient,
    /// Whether the domain is one of ours.
    Domain,
    /// Whether the address or account is a member of this group, as the configuration names it.
    Member(String),
}

/// Why a directory gives no answer. Texts are for the operator and never hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It does not work: not reachable, too slow, refuses the password, answers nonsense. After a
    /// few of these it is left alone for a while.
    #[error("{0}")]
    Down(String),
    /// It works, and cannot say this now: a 4xx to one recipient, a referral.
    #[error("{0}")]
    NotNow(String),
}

/// What an answer comes to for a decision.
pub(crate) fn found(answer: &Result<bool, Trouble>) -> Found {
    match answer {
        Ok(true) => Found::Yes,
        Ok(false) => Found::No,
        Err(_) => Found::NotNow,
    }
}

/// What `mpp check --live` found out about one server of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// Which server.
    pub server: String,
    /// What works, in a few words ("TLS, bound as cn=reader, base found"), or what does not.
    pub result: Result<String, String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// Somebody who knows users, domains or groups.
///
/// An implementation fails over between its servers, keeps connections, reconnects by itself, and
/// survives that a look-up is dropped half-way: the hub gives up on it after a time.
pub trait Directory: Send + Sync {
    /// Whether it exists, is ours, or is a member.
    ///
    /// # Errors
    /// It cannot be said now. That somebody does not exist is never an error, and an error never
    /// says that somebody does not exist.
    fn look_up<'a>(&'a self, wanted: &'a Wanted) -> Answering<'a, Result<bool, Trouble>>;

    /// Connects to every server anew and says what works.
    fn examine(&self) -> Answering<'_, Vec<Examined>>;

    /// What the operator should know although everything works, such as a domain that takes mail
    /// for everybody. For status and log; the same text for the same thing.
    fn notices(&self) -> Vec<String> {
        Vec::new()
    }
}
