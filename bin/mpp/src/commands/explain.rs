//! `mpp explain ID`: why a message was refused.

use clap::Args;
use mpp_engine::checks::KINDS;
use mpp_hub::id::Id;
use serde_json::{Value, json};

use super::Failure;
use crate::place::Where;
use crate::{print, wiring};

/// Say why a message was refused, by the id in the reply.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mpp explain 66ZP1K0A00\n  mpp explain 66ZP1K0A00 --json\n\n\
    It works while the daemon is stopped too, as far back as `server.log_size` reaches.")]
pub(crate) struct Explain {
    /// The id: ten letters and digits at the end of the reply
    id: String,
    #[command(flatten)]
    daemon: Where,
    /// Print the line of the log as it is
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let id = self.id.trim_matches(['(', ')', ' ']);
        let id = Id::parse(id)
            .ok_or_else(|| format!("error: `{id}` is no id: it has ten letters and digits"))?;
        let (state, socket) = self.daemon.find()?;
        // A daemon may have lines in memory still. Without one all are in the files.
        drop(mpp_admin::ask(&socket, &json!({ "command": "settle" })));
        let directory = state.join(wiring::LOG);
        let line = mpp_hub::log::find(&directory, &id.to_string()).ok_or_else(|| {
            format!(
                "error: no decision {id} in {}\nhelp: older ones leave as `server.log_size` says",
                directory.display()
            )
        })?;
        if self.json {
            print::out(&line);
        } else {
            let line: Value = serde_json::from_str(&line)?;
            print::out(&shown(&line));
        }
        Ok(())
    }
}

fn shown(line: &Value) -> String {
    let mut lines = Vec::new();
    let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
    for (name, value) in line.as_object().into_iter().flatten() {
        let shown = match value {
            Value::String(text) if text.is_empty() => "<>".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if name != "trace" {
            lines.push(format!("{name:14} {shown}"));
        }
    }
    lines.extend(walk(text("trace"), text("stage"), text("check")));
    lines.join("\n")
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
