//! `[scanner.NAME]`: programs that look into messages.

use std::sync::Arc;

use mpp_engine::scan::Down;
use mpp_settings::{Diagnostic, Kind as ValueKind, Reader, Secret, Session};

use crate::directory::smtp::Server;

/// A scanner with its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Scanner {
    /// Its name in configuration, log and headers.
    pub name: Arc<str>,
    /// What it speaks.
    pub kind: Kind,
    /// The servers, asked in order until one answers; those that do not answer are asked last.
    pub servers: Vec<Server>,
    /// How long one scan may take in all, in milliseconds.
    pub timeout_ms: u64,
    /// Scans at once.
    pub scans_max: usize,
    /// Scans that wait for their turn; one more is not done.
    pub queue_max: usize,
    /// Messages of more bytes are not scanned.
    pub message_bytes: u64,
    /// From this score on it is spam, on the scanner's own scale; nothing: what the scanner says.
    pub spam: Option<f64>,
    /// Whose settings spamd is to use; empty for its own.
    pub user: String,
    /// What holds while it cannot be asked, if that is written down.
    pub down: Option<Down>,
    /// What rspamd wants to hear.
    pub password: Option<Secret>,
}

/// What a scanner speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `SpamAssassin`'s `spamd`.
    Spamd,
    /// rspamd's normal worker, by HTTP.
    Rspamd,
    /// `ClamAV`'s `clamd`.
    Clamd,
}

impl Scanner {
    /// What holds for mail of a policy while this cannot be asked. A virus that was not looked for does
    /// harm; spam is a nuisance.
    pub fn down_for(&self, policy: Option<Down>) -> Down {
        let usual = if self.kind == Kind::Clamd { Down::Defer } else { Down::Pass };
        Down::of(policy, self.down, usual)
    }
}

impl Kind {
    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spamd => "spamd",
            Self::Rspamd => "rspamd",
            Self::Clamd => "clamd",
        }
    }
}

/// Reads all scanners, in the order of their names.
pub(crate) fn read(root: &mut Reader<'_>, session: &Session) -> Vec<Arc<Scanner>> {
    let section = root.table("scanner");
    let mut scanners = Vec::new();
    for (name, place, value) in section.names() {
        let ValueKind::Table(table) = &value.kind else {
            let message = format!("`scanner.{name}` is {}, not a table", value.described());
            session.report(Diagnostic::error(place.clone(), message));
            continue;
        };
        let mut reader = session.reader(&format!("scanner.{name}"), vec![table]);
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
        if !name.chars().all(is_plain) {
            let problem =
                Diagnostic::error(place.clone(), format!("`{name}` is no name for a scanner"));
            session.report(problem.help("use letters, digits, `-`, `_` and `.`"));
        }
        scanners.extend(read_one(&mut reader, name).map(Arc::new));
        reader.finish();
    }
    scanners
}

fn read_one(table: &mut Reader<'_>, name: &str) -> Option<Scanner> {
    const KINDS: [(&str, Kind); 3] =
        [("spamd", Kind::Spamd), ("rspamd", Kind::Rspamd), ("clamd", Kind::Clamd)];
    for (name, example) in
        [("kind", "kind = \"rspamd\""), ("servers", "servers = [\"127.0.0.1:11333\"]")]
    {
        if table.value(name).is_none() {
            let problem = Diagnostic::error(table.place(), format!("a scanner needs `{name}`"));
            table.report(problem.help(example));
        }
    }
    let has_kind = table.value("kind").is_some();
    let kind = table.choice("kind", "rspamd", &KINDS).filter(|_| has_kind);
    let servers = table.list("servers", &[], Server::parse);
    let timeout_ms = table.period_ms("timeout", "30s");
    let mut many =
        |name, default| usize::try_from(table.count(name, default, (1, 10_000))).unwrap_or(1);
    let (scans_max, queue_max) = (many("scans", 8), many("queue", 64));
    let size = if kind == Some(Kind::Clamd) { "25 MiB" } else { "2 MiB" };
    let message_bytes = table.size_bytes("message_size", size);
    let spam = table.number("spam", 0.0, 0.0);
    let user = table.text("user", "");
    if !user.bytes().all(|byte| byte.is_ascii_graphic()) {
        table.mistake("user", "expected the name of a user");
    }
    let down = Down::read(table);
    let password = table.secret("password");
    Some(Scanner {
        name: name.into(),
        kind: kind?,
        servers,
        timeout_ms,
        scans_max,
        queue_max,
        message_bytes,
        spam: (spam > 0.0).then_some(spam),
        user,
        down,
        password,
    })
}
