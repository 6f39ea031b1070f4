//! `mpp recipients`: what is known of an address, and from where.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use mpp_settings::form;
use serde_json::{Value, json};

use super::Failure;
use super::state::{daemon, number, text};
use crate::place::Where;
use crate::print;

/// Show, forget and ask anew what directories said of an address.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mpp recipients show bob@example.org\n  \
    mpp recipients forget bob@example.org\n  mpp recipients probe bob@example.org")]
pub(crate) struct Recipients {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show what is kept of an address: from which directory it came, and when
    Show(Which),
    /// Forget what is kept of an address: the next mail to it is looked up
    Forget(Which),
    /// Ask every directory anew, now, and keep what it says
    Probe(Which),
}

#[derive(Debug, Args)]
struct Which {
    /// The address
    address: String,
    #[command(flatten)]
    daemon: Where,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Which {
    fn ask(&self, command: &str) -> Result<Value, Failure> {
        daemon(&self.daemon, &json!({ "command": command, "address": self.address }))
    }

    fn print(&self, answer: &Value, shown: impl FnOnce(&Value) -> String) {
        print::out(&if self.json { answer.to_string() } else { shown(answer) });
    }
}

impl Recipients {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        match &self.action {
            Action::Show(which) => which.print(&which.ask("recipients-show")?, kept),
            Action::Forget(which) => {
                let said = |answer: &Value| answer.as_str().unwrap_or_default().to_owned();
                which.print(&which.ask("recipients-forget")?, said);
            }
            Action::Probe(which) => which.print(&which.ask("recipients-probe")?, said_now),
        }
        Ok(())
    }
}

fn rows<'v>(answer: &'v Value, name: &str) -> &'v [Value] {
    answer.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn kept(answer: &Value) -> String {
    let mut out = text(answer, "address").to_owned();
    let rows = rows(answer, "kept");
    if rows.is_empty() {
        out.push_str("\n  no directory is asked about it");
    }
    for row in rows {
        let _ = write!(out, "\n  {:16} {:40} ", text(row, "directory"), text(row, "about"));
        let _ = match (text(row, "said"), row.get("holds")) {
            ("", _) => write!(out, "nothing is kept"),
            (said, Some(Value::Bool(true))) => {
                write!(out, "{said}, {} ago", form::about(number(row, "/age_ms")))
            }
            (said, _) => write!(
                out,
                "{said}, {} ago: asked again when it is needed",
                form::about(number(row, "/age_ms"))
            ),
        };
    }
    out
}

pub(super) fn said_now(answer: &Value) -> String {
    let mut out = text(answer, "address").to_owned();
    let rows = rows(answer, "said");
    if rows.is_empty() {
        out.push_str("\n  no directory is asked about it");
    }
    for row in rows {
        let _ = write!(
            out,
            "\n  {:16} {:40} {}, {} ms",
            text(row, "directory"),
            text(row, "about"),
            text(row, "said"),
            number(row, "/took_ms")
        );
        if !text(row, "trouble").is_empty() {
            let _ = write!(out, ": {}", text(row, "trouble"));
        }
    }
    out
}
