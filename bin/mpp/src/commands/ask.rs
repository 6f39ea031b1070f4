//! `mpp ask`: judge a made-up transaction.

use clap::Args;
use mpp_admin::AskError;
use mpp_operations::ask::Known;
use mpp_operations::clean;
use mpp_settings::form;
use serde_json::{Value, json};

use super::Failure;
use crate::place::Where;
use crate::{load, print, wiring};

/// A transaction, as far as it is known.
#[derive(Clone, Debug, Args)]
pub(crate) struct Transaction {
    /// The client's address
    #[arg(long, value_name = "ADDRESS")]
    client: String,
    /// The envelope sender; empty is the null sender
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    from: String,
    /// The recipient
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    to: String,
    /// The client's verified name
    #[arg(long, value_name = "NAME", default_value = "")]
    name: String,
    /// The HELO name
    #[arg(long, value_name = "NAME", default_value = "")]
    helo: String,
    /// The account
    #[arg(long, value_name = "USER", default_value = "")]
    user: String,
    /// The stage
    #[arg(long, default_value = "RCPT")]
    stage: String,
}

impl Transaction {
    pub(crate) fn request(&self, command: &str) -> Value {
        json!({
            "command": command, "client": self.client, "sender": self.from, "recipient": self.to,
            "name": self.name, "helo": self.helo, "sasl_user": self.user, "stage": self.stage,
        })
    }
}

/// Judge one made-up transaction, print the trace, change nothing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mpp ask --client 203.0.113.7 --from a@example.com --to bob@example.org\n  \
    mpp ask --client 192.0.2.9 --user fred --from fred@example.org --to a@example.com --json")]
pub(crate) struct Ask {
    #[command(flatten)]
    transaction: Transaction,
    #[command(flatten)]
    daemon: Where,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print what the store was asked as the program has it, too
    #[arg(long, short)]
    verbose: bool,
}

impl Ask {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let request = self.transaction.request("ask");
        let (_, socket) = self.daemon.find()?;
        let mut answer = match mpp_admin::ask(&socket, &request) {
            Ok(answer) => answer,
            Err(AskError::Refused(text)) => return Err(Failure(text)),
            Err(AskError::NotRunning(_)) => {
                print::error("no daemon is running: judged with an empty memory");
                self.without_daemon(&request)?
            }
        };
        if let Some(answer) = answer.as_object_mut().filter(|_| !self.verbose && !self.json) {
            // Programs may have got used to it.
            answer.remove("asked");
        }
        print::out(&if self.json { answer.to_string() } else { shown(&answer) });
        Ok(())
    }

    fn without_daemon(&self, request: &Value) -> Result<Value, Failure> {
        let loaded = load::load(self.daemon.config.path()?.as_deref(), 1).map_err(Failure)?;
        let hub = wiring::passing_hub(loaded.configuration)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(mpp_admin::judge(&hub, request)).map_err(Failure)
    }
}

fn shown(answer: &Value) -> String {
    let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    let checks = answer.get("checks").and_then(Value::as_array).into_iter().flatten();
    let checks: Vec<String> = checks
        .map(|check| {
            let of = |name: &str| check.get(name).and_then(Value::as_str).unwrap_or_default();
            format!("{} ({})", of("check"), of("mode"))
        })
        .collect();
    let mut lines = vec![
        format!("verdict    {} ({})", text("verdict"), text("reason")),
        format!("by check   {}", text("check")),
        format!("reply      {}", text("reply")),
        format!("policy     {}, {}", text("policy"), text("direction")),
        format!("checks     {}", checks.join(", ")),
    ];
    for part in text("trace").split("; ").filter(|part| !part.is_empty()) {
        lines.push(format!("           {part}"));
    }
    let known = answer.get("known").cloned().unwrap_or_default();
    let known: Vec<Known> = serde_json::from_value(known).unwrap_or_default();
    for known in known {
        lines.push(format!("known      {}", known.words(form::about)));
    }
    for pair in answer.get("asked").and_then(Value::as_array).into_iter().flatten() {
        let of = |place: usize| pair.get(place).and_then(Value::as_str).unwrap_or_default();
        lines.push(format!("asked      {}\n           = {}", of(0), of(1)));
    }
    clean::lines(&lines.join("\n"))
}
