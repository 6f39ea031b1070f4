//! Commands that look at and change the state of a running daemon.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use clap::{Args, Subcommand};
use mpp_admin::AskError;
use mpp_settings::form;
use serde_json::{Value, json};

use super::Failure;
use super::ask::Transaction;
use crate::place::Where;
use crate::print::{self, count, percent};

pub(super) fn daemon(daemon: &Where, request: &Value) -> Result<Value, Failure> {
    let (_, socket) = daemon.find()?;
    mpp_admin::ask(&socket, request).map_err(|error| match error {
        AskError::Refused(text) => Failure(text),
        AskError::NotRunning(error) => not_running(&socket, &error),
    })
}

pub(super) fn not_running(socket: &Path, error: &io::Error) -> Failure {
    Failure(format!(
        "error: no daemon answers on {}: {error}\nhelp: name its configuration with --config, or \
         its state directory with --state",
        socket.display()
    ))
}

pub(super) fn number(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

pub(super) fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Show what came and what became of it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mpp stats\n  mpp stats --json | jq .total.clients")]
pub(crate) struct Stats {
    #[command(flatten)]
    daemon: Where,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Stats {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let report = daemon(&self.daemon, &json!({ "command": "stats" }))?;
        print::out(&if self.json { report.to_string() } else { statistics(&report) });
        Ok(())
    }
}

/// The statistics as tables.
pub(crate) fn statistics(report: &Value) -> String {
    let mut out = String::new();
    let total = &report["total"];
    let seen = number(total, "/clients/seen");
    let _ = writeln!(out, "Greylisting, by clients");
    for (name, label) in [
        ("seen", "clients seen"),
        ("never_tried_again", "never tried again"),
        ("never_passed", "tried again, never passed"),
        ("passed", "passed"),
        ("legitimate", "legitimate (passed, no spam seen)"),
    ] {
        let value = number(total, &format!("/clients/{name}"));
        let _ = writeln!(out, "  {label:34} {:>12}  {:>8}", count(value), percent(value, seen));
    }
    let no_wait = number(total, "/clients/did_not_wait");
    let _ = writeln!(out, "  {:34} {:>12}", "did not have to wait", count(no_wait));
    let delay = |name: &str| form::about(number(total, &format!("/delay_ms/{name}")));
    if number(total, "/delay_ms/passed") > 0 {
        let _ = writeln!(
            out,
            "  delay given: p50 {}, p95 {}, p99 {}",
            delay("p50"),
            delay("p95"),
            delay("p99")
        );
    }
    for (list, title) in [("decisions", "Decisions"), ("shadow", "In shadow mode, would have been")]
    {
        let rows = total[list].as_array().cloned().unwrap_or_default();
        if rows.is_empty() {
            continue;
        }
        let all: u64 = rows.iter().map(|row| number(row, "/count")).sum();
        let _ = writeln!(out, "\n{title}, by check");
        for row in &rows {
            let value = number(row, "/count");
            let name = format!("{} {}", text(row, "check"), text(row, "action"));
            let _ = writeln!(out, "  {name:34} {:>12}  {:>8}", count(value), percent(value, all));
        }
    }
    push_funnel(&total["funnel"], &mut out);
    for scanner in report["scanners"].as_array().into_iter().flatten() {
        let unscanned = number(scanner, "/unscanned");
        if unscanned > 0 {
            let label = format!("not scanned by {}", text(scanner, "name"));
            let _ = writeln!(out, "  {label:34} {:>12}", count(unscanned));
        }
    }
    push_spared(&report["spared"], &mut out);
    let directories = report["directories"].as_array().cloned().unwrap_or_default();
    if !directories.is_empty() {
        let _ = writeln!(out, "\nDirectories, since the start");
    }
    for directory in &directories {
        push_directory(directory, &mut out);
    }
    for proxy in report["proxies"].as_array().into_iter().flatten() {
        push_proxy(proxy, &mut out);
    }
    push_days(report, &mut out);
    out
}

/// What each step stopped, and what scanners had to look into.
fn push_funnel(funnel: &Value, out: &mut String) {
    let steps = funnel["steps"].as_array().cloned().unwrap_or_default();
    let stopped: u64 = steps.iter().map(|step| number(step, "/stopped")).sum();
    let passed = number(funnel, "/passed/messages");
    if stopped + passed == 0 {
        return;
    }
    // Writing to a string cannot fail.
    let _ = writeln!(out, "\nStopped by step, of all that came");
    for step in steps.iter().filter(|step| number(step, "/stopped") > 0) {
        let value = number(step, "/stopped");
        let share = percent(value, stopped + passed);
        let _ = writeln!(out, "  {:34} {:>12}  {share:>8}", text(step, "step"), count(value));
    }
    let _ = writeln!(
        out,
        "  {:34} {:>12}  {:>8}",
        "messages that passed the SMTP level",
        count(passed),
        percent(passed, stopped + passed)
    );
    let scanned = number(funnel, "/scanned/messages");
    if scanned == 0 {
        return;
    }
    let bytes = (number(funnel, "/scanned/bytes"), number(funnel, "/passed/bytes"));
    for (label, value, of) in [
        ("scanned, of these", scanned, passed),
        ("  of their bytes", bytes.0, bytes.1),
        ("caught by scanners, of the scanned", number(funnel, "/caught_by_scanners"), scanned),
    ] {
        let shown = if label.contains("bytes") { print::size(value) } else { count(value) };
        let _ = writeln!(out, "  {label:34} {shown:>12}  {:>8}", percent(value, of.max(value)));
    }
}

/// What scanners did not have to look into, and what that would have taken.
fn push_spared(spared: &Value, out: &mut String) {
    let scanners = spared["scanners"].as_array().map_or(&[][..], Vec::as_slice);
    if scanners.is_empty() {
        return;
    }
    let of = |path: &str| number(spared, path);
    let share = |path: &str| {
        let share = spared.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
        format!("{:.1} %", share * 100.0)
    };
    // Writing to a string cannot fail.
    let _ = writeln!(out, "\nSpared the scanners (an estimate)");
    for (label, value, share) in [
        ("messages that never reached one", count(of("/messages/all")), share("/messages/share")),
        ("  refused for good", count(of("/messages/refused")), String::new()),
        ("  of clients that greylisting lost", count(of("/messages/never_passed")), String::new()),
        ("  let through without a scan", count(of("/messages/unscanned")), String::new()),
        ("bytes of those let through", print::size(of("/bytes/unscanned")), share("/bytes/share")),
    ] {
        let line = format!("  {label:34} {value:>12}  {share:>8}");
        let _ = writeln!(out, "{}", line.trim_end());
    }
    for scanner in scanners {
        let name = text(scanner, "name");
        let (mean, spared) = (number(scanner, "/mean_us"), number(scanner, "/spared_ms"));
        #[allow(clippy::cast_precision_loss, reason = "a time for people")]
        let mean_ms = mean as f64 / 1000.0;
        let _ = writeln!(
            out,
            "  time of {name:26} {:>12}  at {mean_ms:.1} ms a scan",
            form::about(spared)
        );
    }
    if scanners.len() > 1 {
        let _ = writeln!(out, "  {:34} {:>12}", "time of all", form::about(of("/spared_ms")));
    }
}

/// A row for each day and policy.
fn push_days(report: &Value, out: &mut String) {
    let days = report["days"].as_array().cloned().unwrap_or_default();
    if !days.is_empty() {
        let _ = writeln!(
            out,
            "\n{:10}  {:16} {:>10} {:>12} {:>10} {:>10} {:>10}",
            "day", "policy", "seen", "never again", "no pass", "passed", "legitimate"
        );
    }
    for day in &days {
        let of = |name: &str| count(number(day, &format!("/clients/{name}")));
        let _ = writeln!(
            out,
            "{:10}  {:16} {:>10} {:>12} {:>10} {:>10} {:>10}",
            text(day, "day"),
            text(day, "policy"),
            of("seen"),
            of("never_tried_again"),
            of("never_passed"),
            of("passed"),
            of("legitimate")
        );
    }
}

fn push_proxy(proxy: &Value, out: &mut String) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "\nProxy {}, since the start", text(proxy, "name"));
    for (name, value) in proxy.as_object().into_iter().flatten() {
        if let Some(value) = value.as_u64() {
            let _ = writeln!(out, "  {:34} {:>12}", name.replace('_', " "), count(value));
        }
    }
}

pub(super) fn push_directory(directory: &Value, out: &mut String) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "directory      {} ({}): {}",
        text(directory, "name"),
        text(directory, "kind"),
        text(directory, "state")
    );
    let of = |name: &str| count(number(directory, &format!("/{name}")));
    let _ = writeln!(
        out,
        "  {} look-ups: {} known, {} unknown, {} not now, {} failed; {} ms each",
        of("look_ups"),
        of("known"),
        of("unknown"),
        of("not_now"),
        of("failed"),
        of("mean_ms")
    );
    if let Some(trouble) = directory.get("last_trouble").filter(|trouble| !trouble.is_null()) {
        let age = form::about(number(trouble, "/age_ms"));
        let _ = writeln!(out, "  last trouble, {age} ago: {}", text(trouble, "text"));
    }
    for notice in directory.get("notices").and_then(Value::as_array).into_iter().flatten() {
        let _ = writeln!(out, "  notice: {}", notice.as_str().unwrap_or_default());
    }
}

/// List, add and remove blocks.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  mpp blocks list\n  mpp blocks add client 203.0.113.7 --for 1d\n  \
    mpp blocks add sasl_user fred --for 2h\n  mpp blocks remove client 203.0.113.7"
)]
pub(crate) struct Blocks {
    #[command(subcommand)]
    action: BlocksAction,
}

#[derive(Debug, Subcommand)]
enum BlocksAction {
    /// Show the blocks that hold, soonest to end first
    List {
        #[command(flatten)]
        daemon: Where,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Block an identity: `client`, `network`, `organisation`, `sasl_user`, `sender`, `sender_domain`
    Add {
        /// What kind of identity
        kind: String,
        /// Which one
        identity: String,
        /// How long
        #[arg(long = "for", value_name = "TIME", default_value = "1d")]
        period: String,
        #[command(flatten)]
        daemon: Where,
    },
    /// Lift a block
    Remove {
        /// What kind of identity, as the list shows it
        kind: String,
        /// Which one, as the list shows it
        identity: String,
        #[command(flatten)]
        daemon: Where,
    },
}

impl Blocks {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        match &self.action {
            BlocksAction::List { daemon: at, json } => {
                let rows = daemon(at, &json!({ "command": "blocks" }))?;
                print::out(&if *json { rows.to_string() } else { block_table(&rows) });
            }
            BlocksAction::Add { kind, identity, period, daemon: at } => {
                let for_ms = form::duration_ms(period).map_err(|text| format!("error: {text}"))?;
                let request = json!({
                    "command": "blocks-add", "kind": kind, "identity": identity, "for_ms": for_ms,
                });
                print::out(daemon(at, &request)?.as_str().unwrap_or_default());
            }
            BlocksAction::Remove { kind, identity, daemon: at } => {
                let request =
                    json!({ "command": "blocks-remove", "kind": kind, "identity": identity });
                print::out(daemon(at, &request)?.as_str().unwrap_or_default());
            }
        }
        Ok(())
    }
}

fn block_table(rows: &Value) -> String {
    let rows = rows.as_array().cloned().unwrap_or_default();
    if rows.is_empty() {
        return "nothing is blocked".into();
    }
    let now_ms = mpp_hub::clock::Clock::now_ms(&mpp_hub::clock::RealClock);
    let mut out =
        format!("{:14} {:40} {:10} {:>12} {:>7}\n", "kind", "identity", "reason", "left", "before");
    for row in &rows {
        let left = form::about(number(row, "/until_ms").saturating_sub(now_ms));
        let _ = writeln!(
            out,
            "{:14} {:40} {:10} {left:>12} {:>7}",
            text(row, "kind"),
            text(row, "identity"),
            text(row, "reason"),
            number(row, "/strikes")
        );
    }
    out
}

/// Show and forget what greylisting remembers of a transaction.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mpp greylist show --client 203.0.113.7 --from a@example.com --to bob@example.org\n  \
    mpp greylist forget --client 203.0.113.7 --from a@example.com --to bob@example.org")]
pub(crate) struct Greylist {
    #[command(subcommand)]
    action: GreylistAction,
}

#[derive(Debug, Subcommand)]
enum GreylistAction {
    /// Show since when a triplet waits, and whether its client has proved itself
    Show {
        #[command(flatten)]
        transaction: Transaction,
        #[command(flatten)]
        daemon: Where,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget it: the next try is a first try
    Forget {
        #[command(flatten)]
        transaction: Transaction,
        #[command(flatten)]
        daemon: Where,
    },
}

impl Greylist {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        match &self.action {
            GreylistAction::Show { transaction, daemon: at, json } => {
                let state = daemon(at, &transaction.request("greylist-show"))?;
                if *json {
                    print::out(&state.to_string());
                    return Ok(());
                }
                let line = |name: &str| match state.pointer(name).unwrap_or(&Value::Null) {
                    Value::Null => "no".to_owned(),
                    moment => format!(
                        "since {} ago, {} tries too early",
                        form::about(number(moment, "/age_ms")),
                        number(moment, "/tries_too_early")
                    ),
                };
                print::out(&format!(
                    "greylisted  {}\nproven      {}",
                    line("/greylisted"),
                    line("/proven")
                ));
                for name in ["greylisted", "proven"] {
                    let path = format!("/imported/{name}");
                    if state.pointer(&path).is_some_and(|moment| !moment.is_null()) {
                        print::out(&format!("by address: {name} {}", line(&path)));
                    }
                }
            }
            GreylistAction::Forget { transaction, daemon: at } => {
                let done = daemon(at, &transaction.request("greylist-forget"))?;
                print::out(done.as_str().unwrap_or_default());
            }
        }
        Ok(())
    }
}

/// Take a new configuration, or say why not.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mpp reload\n  mpp reload --config /etc/mpp/mpp.toml\n\n\
    SIGHUP does the same. A wrong configuration leaves the running one in place, and so does a list \
    file that has become empty or lost more than half of its entries.")]
pub(crate) struct Reload {
    /// Take lists that have lost most of their entries
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    daemon: Where,
}

impl Reload {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let done = daemon(&self.daemon, &json!({ "command": "reload", "force": self.force }))?;
        print::out(done.as_str().unwrap_or_default());
        Ok(())
    }
}
