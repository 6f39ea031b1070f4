//! How a daemon is: what is wrong with it, and what it is doing.

use serde::{Deserialize, Serialize};

/// Something that does not work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What: `store`, `log`, `reload`, or a kind and a name such as `scanner clamav`.
    pub what: String,
    /// Why, in words.
    pub text: String,
    /// For how many milliseconds, if that is known.
    pub for_ms: Option<u64>,
}

/// When a door was asked last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastAsked {
    /// The door: `policy`, `milter`, `proxy`.
    pub door: String,
    /// How long ago, in milliseconds; nothing: never since the start.
    pub ago_ms: Option<u64>,
    /// About which client.
    pub client: Option<String>,
}

/// How the last attempt at a new configuration ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastReload {
    /// How long ago, in milliseconds.
    pub age_ms: u64,
    /// The first line of the reason, if it was refused.
    pub refused: Option<String>,
}
