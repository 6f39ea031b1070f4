//! `mpp status`: how the daemon is, what does not work first.

use std::fmt::Write as _;

use clap::Args;
use mpp_operations::clean;
use mpp_operations::status::{LastAsked, LastReload, Trouble};
use mpp_settings::form;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Failure;
use super::state::{daemon, number, push_directory, text};
use crate::place::Where;
use crate::print::{self, count};

/// Show how the daemon is.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mpp status\n  mpp status --json\n\n\
    Without --json the exit status is 1 where something does not work.")]
pub(crate) struct Status {
    #[command(flatten)]
    daemon: Where,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is counted of a store that nodes share.
fn push_figures(store: &Value, out: &mut String) {
    let figure = |name: &str| number(store, &format!("/figures/{name}"));
    if store.get("figures").and_then(Value::as_object).is_some_and(|all| !all.is_empty()) {
        let _ = writeln!(
            out,
            "  shared: {} batches, the last took {} us; away {} times; {} decisions were late; {} \
             changes wait, {} were dropped",
            count(figure("batches")),
            count(figure("trip_us")),
            count(figure("outages")),
            count(figure("late")),
            count(figure("waiting")),
            count(figure("dropped")),
        );
    }
}

impl Status {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let status = daemon(&self.daemon, &json!({ "command": "status" }))?;
        if self.json {
            print::out(&status.to_string());
            return Ok(());
        }
        let troubles: Vec<Trouble> = part(&status, "troubles").unwrap_or_default();
        let mut out = String::new();
        for trouble in &troubles {
            let time = trouble.for_ms.map(|ms| format!(", for {}", form::about(ms)));
            let time = time.unwrap_or_default();
            let _ = writeln!(out, "TROUBLE        {}{time}: {}", trouble.what, trouble.text);
        }
        push_process(&status, &mut out);
        push_doors(&status, &mut out);
        push_store(&status, &mut out);
        push_helpers(&status, &mut out);
        print::out(&clean::lines(&out));
        match troubles.len() {
            0 => Ok(()),
            many => Err(Failure(format!("error: {}", print::many(many, "trouble")))),
        }
    }
}

fn part<T: DeserializeOwned>(status: &Value, name: &str) -> Option<T> {
    serde_json::from_value(status.get(name)?.clone()).ok()
}

fn push_process(status: &Value, out: &mut String) {
    let _ =
        writeln!(out, "version        {} ({})", text(status, "version"), text(status, "commit"));
    let up = form::about(number(status, "/uptime_ms"));
    let _ = writeln!(out, "process        {}, up {up}", number(status, "/pid"));
    let reload: Option<LastReload> = part(status, "last_reload");
    let reload = reload.map_or(String::new(), |last| {
        let word = if last.refused.is_some() { "reload refused" } else { "reloaded" };
        format!(", {word} {} ago", form::about(last.age_ms))
    });
    let _ = writeln!(
        out,
        "configuration  {} (number {}{reload})",
        text(status, "configuration"),
        number(status, "/generation")
    );
    let _ = writeln!(out, "state          {}", text(status, "state"));
}

/// Where it listens, and when it was asked there.
fn push_doors(status: &Value, out: &mut String) {
    let asked: Vec<LastAsked> = part(status, "asked").unwrap_or_default();
    for (list, door, label) in [
        ("policy_service", "policy", "policy service"),
        ("milter", "milter", "milter"),
        ("proxy", "proxy", "proxy"),
    ] {
        let places: Vec<String> = part(status, list).unwrap_or_default();
        if places.is_empty() {
            continue;
        }
        let last = asked.iter().find(|asked| asked.door == door);
        let last = last.and_then(|it| Some((it.ago_ms?, it.client.as_deref()?)));
        let last = last.map_or("never asked".to_owned(), |(ago_ms, client)| {
            format!("last asked {} ago, about {client}", form::about(ago_ms))
        });
        let _ = writeln!(out, "{label:14} {}; {last}", places.join(", "));
    }
    let pages: Vec<String> = part(status, "pages").unwrap_or_default();
    if !pages.is_empty() {
        let _ = writeln!(out, "pages          {}", pages.join(", "));
    }
    for proxy in status.get("proxies").and_then(Value::as_array).into_iter().flatten() {
        let numbers = proxy.as_object().into_iter().flatten();
        let numbers = numbers.filter_map(|(name, value)| Some((name, value.as_u64()?)));
        let numbers: Vec<String> = numbers
            .filter(|(_, value)| *value > 0)
            .map(|(name, value)| format!("{} {}", count(value), name.replace('_', " ")))
            .collect();
        let numbers = if numbers.is_empty() { "nothing yet".into() } else { numbers.join(", ") };
        let _ = writeln!(out, "  {}: {numbers}", text(proxy, "name"));
    }
}

fn push_store(status: &Value, out: &mut String) {
    let store = status.get("store").unwrap_or(&Value::Null);
    let _ = writeln!(out, "store          {} ({})", text(store, "health"), text(store, "place"));
    for name in [
        "greylisted",
        "proven",
        "correspondents",
        "faults",
        "looked_up",
        "blocks",
        "tallies",
        "histories",
    ] {
        let value = count(number(store, &format!("/{name}")));
        let _ = writeln!(out, "  {name:18} {value:>12}");
    }
    let _ = writeln!(
        out,
        "  memory {}, disk {}",
        print::size(number(store, "/memory_bytes")),
        print::size(number(store, "/disk_bytes"))
    );
    push_figures(store, out);
    let log = status.get("log").unwrap_or(&Value::Null);
    let dropped = number(log, "/lines_dropped");
    let dropped =
        if dropped == 0 { String::new() } else { format!(", {} lines dropped", count(dropped)) };
    let state = match text(log, "trouble") {
        "" => "written".to_owned(),
        why => format!("not written: {why}"),
    };
    let _ = writeln!(out, "decision log   {state}{dropped}");
}

fn push_helpers(status: &Value, out: &mut String) {
    for scanner in status.get("scanners").and_then(Value::as_array).into_iter().flatten() {
        let of = |name: &str| count(number(scanner, &format!("/{name}")));
        let _ = writeln!(
            out,
            "scanner        {} ({}): {}; {} scans, {} unscanned, {} waiting",
            text(scanner, "name"),
            text(scanner, "kind"),
            text(scanner, "state"),
            of("scans"),
            of("unscanned"),
            of("waiting")
        );
    }
    for directory in status.get("directories").and_then(Value::as_array).into_iter().flatten() {
        push_directory(directory, out);
    }
}
