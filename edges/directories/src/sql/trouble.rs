//! What can go wrong with a database, in one line that holds no secret.

use std::time::Duration;

use mpp_hub::sql::tidied;

/// Why a database did not answer.
pub(super) struct Fault(String);

impl Fault {
    /// The text for an error of the client.
    pub(super) fn of(error: sqlx::Error) -> Self {
        let text = match error {
            sqlx::Error::Database(error) => error.message().to_owned(),
            sqlx::Error::Io(error) => format!("no connection: {error}"),
            sqlx::Error::Tls(error) => format!("TLS: {error}"),
            sqlx::Error::Protocol(text) => format!("an answer that makes no sense: {text}"),
            sqlx::Error::WorkerCrashed => "the database file's thread has ended".to_owned(),
            other => other.to_string(),
        };
        Self(tidied(&text))
    }

    /// A fault in words of our own.
    pub(super) fn said(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text.
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

/// The text for no answer in time.
pub(super) fn too_slow(timeout: Duration) -> String {
    format!("no answer within {} ms", timeout.as_millis())
}
