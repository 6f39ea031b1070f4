//! `[directory.NAME]`: where users, domains and groups are looked up. One file a kind of directory;
//! each reads its own settings, and `edges/directories` does what they say.

pub mod ldap;
pub mod smtp;
pub mod sql;
pub mod tls;

use std::sync::Arc;

use mpp_engine::directory::{Lifetimes, Source};
use mpp_engine::identity::Keyring;
use mpp_settings::{Diagnostic, Kind as ValueKind, Reader, Session};

/// A directory with its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Directory {
    /// What the engine knows of it.
    pub source: Source,
    /// How long one server may take for one answer, in milliseconds.
    pub timeout_ms: u64,
    /// How many look-ups may be under way at once; more wait.
    pub look_ups_max: usize,
    /// The settings of its kind.
    pub settings: Settings,
}

/// The settings of one kind of directory.
#[derive(Clone, Debug, PartialEq)]
pub enum Settings {
    /// An LDAP server.
    Ldap(Box<ldap::Ldap>),
    /// An SQL database.
    Sql(sql::Sql),
    /// The next hop of a domain, asked by SMTP.
    Smtp(smtp::Smtp),
}

impl Settings {
    /// The name of the kind in configuration, log and commands.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ldap(_) => "ldap",
            Self::Sql(_) => "sql",
            Self::Smtp(_) => "smtp",
        }
    }

    /// Whether it can say who is in a group.
    ///
    /// # Errors
    /// Why not, for people.
    pub(crate) fn knows_groups(&self) -> Result<(), String> {
        match self {
            Self::Ldap(_) => Ok(()),
            Self::Sql(sql) if sql.member_query.is_some() => Ok(()),
            Self::Sql(_) => Err("it knows no groups: it has no `member_query`".to_owned()),
            Self::Smtp(_) => Err("a next hop asked by SMTP knows no groups".to_owned()),
        }
    }

    /// Whether it can say which domains are ours.
    fn knows_domains(&self) -> bool {
        match self {
            Self::Ldap(ldap) => ldap.domain_filter.is_some(),
            Self::Sql(sql) => sql.domain_query.is_some(),
            Self::Smtp(_) => false,
        }
    }

    /// Everything that changes the meaning of an answer, and nothing else: no password, no
    /// time-out, no list of servers that all say the same.
    fn meaning(&self) -> String {
        match self {
            Self::Ldap(settings) => settings.meaning(),
            Self::Sql(settings) => settings.meaning(),
            Self::Smtp(settings) => settings.meaning(),
        }
    }
}

/// Reads all directories, in the order of their names.
pub(crate) fn read(root: &mut Reader<'_>, session: &Session, ring: Keyring) -> Vec<Directory> {
    let section = root.table("directory");
    let mut directories = Vec::new();
    for (name, place, value) in section.names() {
        let ValueKind::Table(table) = &value.kind else {
            let message = format!("`directory.{name}` is {}, not a table", value.described());
            session.report(Diagnostic::error(place.clone(), message));
            continue;
        };
        let mut reader = session.reader(&format!("directory.{name}"), vec![table]);
        directories.extend(read_one(&mut reader, name, ring));
        reader.finish();
    }
    directories
}

fn read_one(table: &mut Reader<'_>, name: &str, ring: Keyring) -> Option<Directory> {
    const KINDS: [(&str, u8); 3] = [("ldap", 0), ("sql", 1), ("smtp", 2)];
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
    if !name.chars().all(is_plain) {
        let message = format!("`{name}` is no name for a directory");
        let problem = Diagnostic::error(table.place(), message);
        table.report(problem.help("use letters, digits, `-`, `_` and `.`"));
    }
    if table.value("kind").is_none() {
        let problem = Diagnostic::error(table.place(), "a directory needs a `kind`");
        table.report(problem.help("kind = \"ldap\", \"sql\" or \"smtp\""));
    }
    let known_ms = table.duration_ms("known", "4h");
    let lifetimes = Lifetimes {
        known_ms,
        unknown_ms: table.duration_ms("unknown", "1h"),
        not_now_ms: table.duration_ms("not_now", "10s"),
        stale_ms: table.duration_ms("stale", "7d").max(known_ms),
    };
    let kind =
        table.value("kind").is_some().then(|| table.choice("kind", "ldap", &KINDS)).flatten();
    // A mail server may take its time to greet; what comes late is still kept.
    let timeout = if kind == Some(2) { "5s" } else { "1s" };
    let timeout_ms = table.period_ms("timeout", timeout);
    let look_ups_max =
        usize::try_from(table.count("look_ups", 64, (1, 10_000))).unwrap_or(usize::MAX);
    let settings = match kind? {
        0 => Settings::Ldap(Box::new(ldap::Ldap::read(table))),
        1 => Settings::Sql(sql::Sql::read(table)),
        _ => Settings::Smtp(smtp::Smtp::read(table)),
    };
    let space = ring.text(&format!("directory {name} {}", settings.meaning()));
    let knows_domains = settings.knows_domains();
    let source = Source { name: Arc::from(name), space, lifetimes, knows_domains };
    Some(Directory { source, timeout_ms, look_ups_max, settings })
}

/// Reads `HOST:PORT`, `[2001:db8::1]:PORT`, and without a port if there is a default.
pub(crate) fn host_and_port(text: &str, default: Option<u16>) -> Result<(String, u16), String> {
    const FORM: &str = "expected HOST:PORT, an IPv6 address in brackets";
    let (host, rest) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((host, rest)) if host.parse::<std::net::Ipv6Addr>().is_ok() => (host, rest),
        Some(_) => return Err(FORM.to_owned()),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(is_name) {
        return Err(FORM.to_owned());
    }
    let port = match (rest.strip_prefix(':'), default) {
        (Some(port), _) => port.parse().ok().filter(|port| *port > 0),
        (None, Some(default)) if rest.is_empty() => Some(default),
        (None, _) => return Err(FORM.to_owned()),
    };
    let port = port.ok_or("a port is a number from 1 to 65535")?;
    Ok((host.to_owned(), port))
}
