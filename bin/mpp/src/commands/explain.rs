//! `mpp explain ID`: why a message was refused.

use std::path::Path;

use clap::Args;
use mpp_engine::checks::KINDS;
use mpp_hub::id::Id;
use mpp_operations::clean;
use mpp_operations::log::Query;
use serde_json::{Value, json};

use super::Failure;
use crate::place::Where;
use crate::{print, wiring};

/// Say why a message was refused, by the id in the reply.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mpp explain 66ZP1K0A00\n  mpp explain 66ZP1K0A00 --json\n\n\
    It works while the daemon is stopped too, as far back as `server.log_size` reaches.")]
pub(crate) struct Explain {
    /// The id: ten letters and digits at the end of the reply; or the queue id of the mail server, or the
    /// id of a message in the quarantine
    id: String,
    #[command(flatten)]
    daemon: Where,
    /// Print the line of the log as it is
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let typed = self.id.trim_matches(['(', ')', ' ']);
        let (state, socket) = self.daemon.find()?;
        // A daemon may have lines in memory still. Without one all are in the files.
        drop(mpp_admin::ask(&socket, &json!({ "command": "settle" })));
        let directory = state.join(wiring::LOG);
        let id = Id::parse(typed);
        let by_id = id.and_then(|id| mpp_hub::log::find(&directory, &id.to_string()));
        let line = match by_id {
            Some(line) => line,
            None => self.elsewhere(typed, (&directory, &socket))?,
        };
        if self.json {
            print::out(&line);
        } else {
            let line: Value = serde_json::from_str(&line)?;
            print::out(&shown(&line));
        }
        Ok(())
    }
}

impl Explain {
    /// The last decision about what a mail server or the quarantine calls so.
    fn elsewhere(
        &self,
        typed: &str,
        (directory, socket): (&Path, &Path),
    ) -> Result<String, Failure> {
        let newest = |query: Query| -> Result<Option<String>, Failure> {
            let query = Query { limit: Some(1), ..query };
            let wanted = query.compile().map_err(|fault| Failure(format!("error: {fault}")))?;
            Ok(super::log::find(directory, &wanted)?.pop_back())
        };
        let queued = Query { queue_id: Some(typed.to_owned()), ..Query::default() };
        if let Some(line) = newest(queued)? {
            return Ok(line);
        }
        let show = json!({ "command": "quarantine-show", "id": typed });
        if let Ok(held) = mpp_admin::ask(socket, &show)
            && let Some(instance) = held.get("instance").and_then(Value::as_str)
        {
            let of_held = Query { instance: Some(instance.to_owned()), ..Query::default() };
            if let Some(line) = newest(of_held)? {
                return Ok(line);
            }
        }
        let is_id = Id::parse(typed).is_some();
        let is_word = typed.len() > 4 && typed.bytes().all(|it| it.is_ascii_alphanumeric());
        if !is_id && !is_word {
            let text = format!("error: `{}` is no id: it has ten letters and digits", self.id);
            return Err(Failure(clean::lines(&text)));
        }
        Err(Failure(format!(
            "error: no decision {typed} in {}\nhelp: older ones leave as `server.log_size` says",
            directory.display()
        )))
    }
}

fn shown(line: &Value) -> String {
    let mut lines = Vec::new();
    let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
    for (name, value) in line.as_object().into_iter().flatten() {
        let shown = match value {
            Value::String(text) if text.is_empty() => "<>".to_owned(),
            Value::String(text) => clean::line(text),
            other => other.to_string(),
        };
        if name != "trace" {
            lines.push(format!("{name:14} {shown}"));
        }
    }
    lines.extend(walk(text("trace"), text("stage"), text("check")));
    clean::lines(&lines.join("\n"))
}

/// What each check had to say, in the order in which they are asked.
fn walk(trace: &str, stage: &str, decided: &str) -> Vec<String> {
    let said = |check: &str| {
        let of = |part: &str| {
            part.strip_prefix(check)?.strip_prefix(':').map(|said| said.trim().to_owned())
        };
        trace.split("; ").filter_map(of).collect::<Vec<_>>().join("; ")
    };
    let mut lines = Vec::new();
    let mut is_decided = decided == "observed";
    for kind in KINDS {
        let is_asked = kind.stages.iter().any(|at| at.name() == stage);
        let words = match said(kind.name) {
            words if !words.is_empty() => words,
            _ if is_decided || !is_asked => "not asked".into(),
            _ => "nothing against it".into(),
        };
        is_decided |= kind.name == decided;
        let head = if lines.is_empty() { "checks" } else { "" };
        lines.push(format!("{head:14} {:10} {words}", kind.name));
    }
    // No checks, but they have their say.
    for other in ["observed", "scan"] {
        let words = said(other);
        if !words.is_empty() {
            lines.push(format!("{:14} {other:10} {words}", ""));
        }
    }
    lines
}
