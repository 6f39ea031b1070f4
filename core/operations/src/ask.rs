//! What a decision about a made-up transaction was given to know.

use serde::{Deserialize, Serialize};

/// One thing that the store was asked, and what it said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "kebab-case")]
pub enum Known {
    /// Since when something is remembered.
    Remembered {
        /// As what: `greylisted`, `proven`, `correspondents`, `faults`, `looked_up`.
        shelf: String,
        /// For how many milliseconds; nothing: it is not.
        age_ms: Option<u64>,
        /// Tries that came too early.
        tries: u8,
    },
    /// Whether an identity is blocked.
    Block {
        /// What kind of identity.
        identity: String,
        /// For how many milliseconds more; nothing: it is not.
        left_ms: Option<u64>,
        /// Why.
        reason: Option<String>,
    },
    /// What a count holds.
    Count {
        /// How much.
        used: u64,
        /// What it must not pass, if it is asked about that.
        limit: Option<u64>,
    },
    /// How many different ones there were.
    Different {
        /// How many.
        used: u64,
    },
    /// What was learnt of somebody.
    History {
        /// Clean messages.
        clean: f32,
        /// Spam.
        spam: f32,
        /// Other facts against him.
        bad: f32,
    },
    /// The store could not say.
    Unavailable,
}

impl Known {
    /// In words; `about` says how long a time is.
    pub fn words(&self, about: impl Fn(u64) -> String) -> String {
        match self {
            Self::Remembered { shelf, age_ms: None, .. } => format!("{shelf}: no"),
            Self::Remembered { shelf, age_ms: Some(age_ms), tries: 0 } => {
                format!("{shelf}: since {}", about(*age_ms))
            }
            Self::Remembered { shelf, age_ms: Some(age_ms), tries } => {
                format!("{shelf}: since {}, {tries} tries too early", about(*age_ms))
            }
            Self::Block { identity, left_ms: None, .. } => format!("block of {identity}: none"),
            Self::Block { identity, left_ms: Some(left_ms), reason } => format!(
                "block of {identity}: {} more ({})",
                about(*left_ms),
                reason.as_deref().unwrap_or("-")
            ),
            Self::Count { used, limit: None } => format!("counted so far: {used}"),
            Self::Count { used, limit: Some(limit) } => format!("used: {used} of {limit}"),
            Self::Different { used } => format!("different ones so far: {used}"),
            Self::History { clean, spam, bad } => {
                format!(
                    "history: {clean:.0} clean, {spam:.0} spam, {bad:.0} other facts against it"
                )
            }
            Self::Unavailable => "the store could not say".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_said_in_words() {
        let days = |ms: u64| format!("{} days", ms / 86_400_000);
        let of = |known: Known| known.words(days);
        let remembered =
            |age_ms, tries| Known::Remembered { shelf: "proven".into(), age_ms, tries };
        assert_eq!(of(remembered(None, 0)), "proven: no");
        assert_eq!(of(remembered(Some(259_200_000), 0)), "proven: since 3 days");
        assert_eq!(of(remembered(Some(0), 2)), "proven: since 0 days, 2 tries too early");
        assert_eq!(
            of(Known::History { clean: 12.0, spam: 1.0, bad: 0.0 }),
            "history: 12 clean, 1 spam, 0 other facts against it"
        );
        let block = |left_ms| Known::Block {
            identity: "client".into(),
            left_ms,
            reason: Some("trap".into()),
        };
        assert_eq!(of(block(None)), "block of client: none");
        assert_eq!(of(block(Some(86_400_000))), "block of client: 1 days more (trap)");
        let json = serde_json::to_string(&Known::Count { used: 3, limit: Some(5) }).unwrap();
        assert_eq!(json, r#"{"about":"count","used":3,"limit":5}"#);
    }
}
