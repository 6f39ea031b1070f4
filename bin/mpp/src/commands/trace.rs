//! `mpp trace CLIENT`: what a client says and is answered, as it happens.

use std::io::{self, Write as _};

use clap::Args;
use mpp_admin::AskError;
use mpp_settings::form;
use serde_json::{Value, json};

use super::Failure;
use super::state::{not_running, text};
use crate::place::Where;
use crate::print;

/// Show what a client says and is answered, at every door, as it happens.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  mpp trace 203.0.113.7\n  mpp trace 2001:db8::/64 --for 30s\n  \
    mpp trace 203.0.113.7 --json | jq -r .text\n\n\
    C: is the client, S: is mpp. Messages and passwords are never shown. Interrupt it to end it."
)]
pub(crate) struct Trace {
    /// An address, or a network such as 203.0.113.0/24
    client: String,
    /// End after so long
    #[arg(long = "for", value_name = "TIME")]
    period: Option<String>,
    #[command(flatten)]
    daemon: Where,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

impl Trace {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let for_ms = self.period.as_deref().map(form::duration_ms).transpose();
        let for_ms = for_ms.map_err(|text| Failure(format!("error: {text}")))?;
        let request = json!({ "command": "trace", "client": self.client, "for_ms": for_ms });
        let (_, socket) = self.daemon.find()?;
        let begun = || print::error(&format!("watching {}", self.client));
        let followed = mpp_admin::follow(&socket, &request, begun, |line| {
            let shown = if self.json { line.to_string() } else { shown(line) };
            // A reader that has seen enough, such as `head`, ends it.
            writeln!(io::stdout().lock(), "{shown}").is_ok()
        });
        followed.map_err(|error| match error {
            AskError::Refused(text) => Failure(format!("error: {text}")),
            AskError::NotRunning(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Failure("error: the daemon has stopped".into())
            }
            AskError::NotRunning(error) => not_running(&socket, &error),
        })
    }
}

fn shown(line: &Value) -> String {
    if let Some(lost) = line.get("lost") {
        return format!("-- {lost} lines were lost here: they came faster than they were taken");
    }
    let speaker = match text(line, "speaker") {
        "client" => "C:",
        "server" => "S:",
        _ => "--",
    };
    format!(
        "{} {} {} {speaker} {}",
        text(line, "time"),
        text(line, "client"),
        text(line, "session"),
        text(line, "text")
    )
}
