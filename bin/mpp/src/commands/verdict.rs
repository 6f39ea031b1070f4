//! `mpp verdict`: tell what a message was, from outside.

use clap::{Args, ValueEnum};
use serde_json::json;

use super::Failure;
use super::ask::Transaction;
use super::state::daemon;
use crate::place::Where;
use crate::print;

/// Tell what a message was: it counts as if a scanner had found it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mpp verdict spam --client 203.0.113.7 --from a@example.com --to bob@example.org\n  \
    mpp verdict clean --client 192.0.2.9 --user fred --from fred@example.org --to a@example.com")]
pub(crate) struct Verdict {
    /// What it was
    #[arg(value_enum)]
    what: What,
    #[command(flatten)]
    transaction: Transaction,
    #[command(flatten)]
    daemon: Where,
}

/// What a message was.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// Spam, or worse
    Spam,
    /// Clean
    Clean,
}

impl Verdict {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let mut request = self.transaction.request("verdict");
        let is_spam = matches!(self.what, What::Spam);
        if let Some(request) = request.as_object_mut() {
            request.insert("verdict".into(), json!(if is_spam { "spam" } else { "clean" }));
        }
        let answer = daemon(&self.daemon, &request)?;
        print::out(answer.as_str().unwrap_or_default());
        Ok(())
    }
}
