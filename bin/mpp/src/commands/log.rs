//! `mpp log`: decisions, found by what is known of them.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use mpp_hub::clock::{Clock as _, RealClock};
use mpp_operations::clean;
use mpp_operations::log::{Query, Row, Wanted};
use mpp_settings::form;
use serde_json::json;

use super::Failure;
use crate::place::Where;
use crate::{print, wiring};

/// How often the log is looked at while somebody follows it.
const FOLLOW_EVERY: Duration = Duration::from_millis(300);

/// Find decisions by sender, recipient, client, and whatever else is known of them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mpp log --recipient bob@example.org --since 2h\n  \
    mpp log --sender @example.com --verdict reject\n  \
    mpp log --client 192.0.2.0/24 --follow\n  mpp log --queue-id 4bX1Yz3q9Wz --json\n\n\
    The newest come last. It works while the daemon is stopped too, as far back as \
    `server.log_size` reaches.")]
pub(crate) struct Log {
    /// The envelope sender: an address, @DOMAIN, .DOMAIN (and all below), or <>
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<String>,
    /// The recipient, in the same forms
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// The client, or its network
    #[arg(long, value_name = "ADDRESS")]
    client: Option<String>,
    /// The client's name, or .DOMAIN for all below
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The account
    #[arg(long, value_name = "USER")]
    account: Option<String>,
    /// The id of the decision
    #[arg(long)]
    id: Option<String>,
    /// The queue id of the mail server
    #[arg(long, value_name = "ID")]
    queue_id: Option<String>,
    /// What was decided: accept, defer, reject, hold, discard
    #[arg(long)]
    verdict: Option<String>,
    /// The check that decided
    #[arg(long)]
    check: Option<String>,
    /// Not before: 2026-11-25, 2026-11-25T11:03 (UTC), or so long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Not after, in the same forms
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// So many at the most, the newest
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
    /// Go on with what is decided from now on
    #[arg(long, short)]
    follow: bool,
    /// Print the lines of the log as they are, an object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Where,
}

impl Log {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let query = Query {
            sender: self.sender.clone(),
            recipient: self.recipient.clone(),
            client: self.client.clone(),
            name: self.name.clone(),
            account: self.account.clone(),
            id: self.id.as_deref().map(|id| id.trim_matches(['(', ')', ' ']).to_owned()),
            queue_id: self.queue_id.clone(),
            instance: None,
            verdict: self.verdict.clone(),
            check: self.check.clone(),
            since: self.since.as_deref().map(moment),
            until: self.until.as_deref().map(moment),
            limit: self.limit,
        };
        let wanted = query.compile().map_err(|fault| Failure(format!("error: {fault}")))?;
        let (state, socket) = self.daemon.find()?;
        let settle = || drop(mpp_admin::ask(&socket, &json!({ "command": "settle" })));
        // A daemon may have lines in memory still. Without one all are in the files.
        settle();
        let folder = state.join(wiring::LOG);
        let mut place = mpp_hub::log::Reader::at_end(&folder);
        for line in find(&folder, &wanted)? {
            self.show(&line);
        }
        if !self.follow {
            return Ok(());
        }
        loop {
            std::thread::sleep(FOLLOW_EVERY);
            settle();
            place.read(&folder, |line| {
                if row(line).is_some_and(|row| wanted.fits(&row)) {
                    self.show(line);
                }
            })?;
        }
    }

    fn show(&self, line: &str) {
        match row(line).filter(|_| !self.json) {
            Some(row) => print::out(&shown(&row)),
            None => print::out(line),
        }
    }
}

/// The newest lines of the log that are wanted, oldest first.
///
/// # Errors
/// The log cannot be read.
pub(super) fn find(folder: &Path, wanted: &Wanted) -> Result<VecDeque<String>, Failure> {
    let mut found = VecDeque::new();
    let most = wanted.query().rows();
    mpp_hub::log::each_line(folder, |line| {
        if row(line).is_some_and(|row| wanted.fits(&row)) {
            found.push_back(line.to_owned());
            if found.len() > most {
                found.pop_front();
            }
        }
    })
    .map_err(|error| unreadable(folder, &error))?;
    Ok(found)
}

fn unreadable(folder: &Path, error: &std::io::Error) -> Failure {
    Failure(format!("error: the decision log {}: {error}", PathBuf::from(folder).display()))
}

fn row(line: &str) -> Option<Row> {
    serde_json::from_str(line).ok()
}

/// A time as it is written, or so long ago.
fn moment(text: &str) -> String {
    match form::duration_ms(text) {
        Ok(ago_ms) => mpp_hub::time_text(RealClock.now_ms().saturating_sub(ago_ms)),
        Err(_) => text.to_owned(),
    }
}

/// One line for people.
fn shown(row: &Row) -> String {
    let or =
        |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
    let client = match &*row.name {
        "" => row.client.clone(),
        name => format!("{name}[{}]", row.client),
    };
    let mut line = format!(
        "{} {} {} {client} {} -> {}",
        row.time,
        row.id,
        row.verdict,
        or(&row.sender, "<>"),
        or(&row.recipient, "-"),
    );
    for (label, text) in [("account", &row.sasl_user), ("queue", &row.queue_id)] {
        if !text.is_empty() {
            line.extend([" ", label, "=", text]);
        }
    }
    let why = [&row.check, &row.reason].into_iter().filter(|it| !it.is_empty() && **it != "none");
    let why: Vec<&str> = why.map(String::as_str).collect();
    if !why.is_empty() {
        line.extend([" (", &*why.join(": "), ")"]);
    }
    clean::line(&line)
}
