//! The tables of a configuration and what they mean.

use std::sync::Arc;

use mpp_engine::facts::Stage;
use mpp_engine::identity::Keyring;
use mpp_engine::network::{self, NetworkSet};
use mpp_engine::policy::Policies;
use mpp_engine::recipients::Recipients;
use mpp_settings::{Diagnostic, Reader, Session, Table};

use crate::directory::{self, Directory};
use crate::policies;
use crate::proxy::{self, Proxy};
use crate::quarantine::Quarantine;
use crate::scanner::{self, Scanner};
use crate::sense;
use crate::store::{self, Store};

/// All settings.
#[derive(Debug)]
pub struct Configuration {
    /// `[server]`.
    pub server: Server,
    /// `[listen]`.
    pub listen: Listen,
    /// `[proxy.*]`.
    pub proxies: Vec<Arc<Proxy>>,
    /// `[scanner.*]`, in the order of their names.
    pub scanners: Vec<Arc<Scanner>>,
    /// `[store]`.
    pub store: Store,
    /// `[spool]`.
    pub spool: Spool,
    /// `[quarantine]`.
    pub quarantine: Quarantine,
    /// `[networks]`.
    pub networks: Networks,
    /// `[directory.*]`, in the order of their names; look-ups name them by number.
    pub directories: Vec<Directory>,
    /// The groups that policies name; look-ups name them by number.
    pub groups: Vec<Arc<str>>,
    /// `[recipients.*]`.
    pub recipients: Arc<Recipients>,
    /// `[policy.*]`.
    pub policies: Policies,
    /// Makes keys, with the prefix lengths of `[networks]`.
    pub ring: Keyring,
}

/// `[server]`: what the process does and where it keeps things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// What this node is called where nodes know of each other; empty: as its machine.
    pub name: String,
    /// The directory of store and log; empty: the default of the command line.
    pub state: String,
    /// How long one decision may take, in milliseconds.
    pub deadline_ms: u64,
    /// How many threads answer.
    pub workers: usize,
    /// Whether each decision is logged.
    pub decision_log: bool,
    /// How many bytes the decision log may take before its oldest part goes.
    pub log_bytes_max: u64,
}

/// `[listen]`: the doors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where the policy service answers: `ADDRESS:PORT` or `unix:PATH`.
    pub policy: Vec<String>,
    /// Where mail servers find the milter; nowhere by default.
    pub milter: Vec<String>,
    /// The stages at which the milter asks something.
    pub milter_stages: Vec<Stage>,
    /// Whether the milter wants to hear of recipients that the mail server itself refuses.
    pub milter_rejected: bool,
    /// Where the pages of digests' links are served by HTTP, for a web server in front.
    pub pages: Vec<String>,
    /// Where commands reach the daemon, `unix:PATH`; empty: in the state directory.
    pub admin: String,
    /// How many connections may be open at once.
    pub connections_max: usize,
}

/// `[spool]`: where messages wait while they are scanned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spool {
    /// Bytes of one message that are kept in memory; the rest goes to a file.
    pub message_memory: u64,
    /// Bytes of all messages that are kept in memory.
    pub memory: u64,
    /// Bytes of all messages, in memory and in files; what does not fit is told to come again.
    pub size: u64,
}

/// `[networks]`: who is ours.
#[derive(Clone, Debug)]
pub struct Networks {
    /// Ours: mail from here is outbound and never greylisted, its clients are never blocked.
    pub local: NetworkSet,
    /// Peers that may report verdicts; never blocked either.
    pub trusted: NetworkSet,
}

/// Reads the whole. Problems go to the session.
pub(crate) fn read(written: &Table, session: &Session, seed: u64) -> Configuration {
    let mut root = session.reader("", vec![written]);
    let server = read_server(&mut root.table("server"));
    let listen = read_listen(&mut root.table("listen"));
    let proxies = proxy::read(&mut root, session);
    let scanners = scanner::read(&mut root, session);
    let store = store::read(&mut root.table("store"));
    let spool = read_spool(&mut root.table("spool"));
    let mut quarantine = Quarantine::read(&mut root.table("quarantine"));
    let (networks, ring) = read_networks(&mut root.table("networks"), seed);
    let directories = directory::read(&mut root, session, ring);
    let names: Vec<Arc<str>> = scanners.iter().map(|it| Arc::clone(&it.name)).collect();
    let known = policies::Known { directories: &directories, scanners: &names };
    let read = policies::read(&mut root, session, ring, (known, &mut quarantine));
    let policies::Read { policies, recipients, groups } = read;
    let has_proxy = !proxies.is_empty();
    if quarantine.has_digests() && !has_proxy && quarantine.release_to.is_empty() {
        let place = root.table("policy").place();
        let problem = Diagnostic::warning(place, "digests leave by a proxy, and there is none");
        session
            .report(problem.help("add [proxy.NAME] with the `next_hop` that takes mail for users"));
    }
    if let Some(problem) = useless_editing(&mut root, &listen, has_proxy, &policies) {
        session.report(problem);
    }
    root.finish();
    let configuration = Configuration {
        server,
        listen,
        proxies,
        scanners,
        store,
        spool,
        quarantine,
        networks,
        directories,
        groups,
        recipients,
        policies,
        ring,
    };
    sense::look(written, &configuration, session);
    configuration
}

impl Configuration {
    /// Whether a policy has mail held behind the milter that nothing could ever release: there is no
    /// proxy, and [`Quarantine::release_to`] says nothing.
    pub fn holds_for_good(&self) -> bool {
        !self.listen.milter.is_empty()
            && self.proxies.is_empty()
            && self.quarantine.release_to.is_empty()
            && self.policies.hold_scanned()
    }
}

impl Server {
    /// Whether a node may be called so: up to 64 letters, digits, `-`, `_` and `.`, as hosts are.
    pub fn is_name(name: &str) -> bool {
        let is_plain = |it: u8| it.is_ascii_alphanumeric() || b"-_.".contains(&it);
        name.len() <= 64
            && name.bytes().all(is_plain)
            && name.starts_with(|it: char| it.is_ascii_alphanumeric())
    }
}

fn read_server(table: &mut Reader<'_>) -> Server {
    let server = Server {
        name: table.text("name", ""),
        state: table.text("state", ""),
        deadline_ms: table.period_ms("deadline", "2s"),
        workers: usize::try_from(table.count("workers", 1, (1, 64))).unwrap_or(1),
        decision_log: table.flag("decision_log", true),
        log_bytes_max: table.size_bytes("log_size", "512 MiB"),
    };
    if !server.name.is_empty() && !Server::is_name(&server.name) {
        let message =
            "expected up to 64 letters, digits, `-`, `_` and `.`, such as \"mx1.example.org\"";
        table.mistake("name", message);
    }
    table.finish();
    server
}

fn read_spool(table: &mut Reader<'_>) -> Spool {
    let spool = Spool {
        message_memory: table.size_bytes("message_memory", "256 KiB"),
        memory: table.size_bytes("memory", "64 MiB"),
        size: table.size_bytes("size", "4 GiB"),
    };
    table.finish();
    spool
}

fn read_listen(table: &mut Reader<'_>) -> Listen {
    let listen = Listen {
        policy: table.list("policy", &["127.0.0.1:10040"], address),
        milter: table.list("milter", &[], address),
        milter_stages: table.list("milter_stages", &["RCPT", "END-OF-MESSAGE"], stage),
        milter_rejected: table.flag("milter_rejected", false),
        pages: table.list("pages", &[], address),
        admin: table.text("admin", ""),
        connections_max: usize::try_from(table.count("connections", 50_000, (1, 1_000_000)))
            .unwrap_or(50_000),
    };
    table.finish();
    listen
}

/// Settings of messages that no door sees.
fn useless_editing(
    root: &mut Reader<'_>,
    listen: &Listen,
    has_proxy: bool,
    policies: &Policies,
) -> Option<Diagnostic> {
    if !policies.needs().is_any() {
        return None;
    }
    let place = root.table("policy").place();
    if listen.milter.is_empty() && !has_proxy {
        let message = "a policy changes messages, and no door can: the policy service sees none";
        return Some(
            Diagnostic::warning(place, message)
                .help("listen.milter = [\"127.0.0.1:10041\"], and a mail server that asks there"),
        );
    }
    let sees_end = listen.milter_stages.contains(&Stage::EndOfMessage);
    (!listen.milter.is_empty() && !sees_end).then(|| {
        Diagnostic::warning(
            place,
            "a policy changes messages, and the milter does not see their end",
        )
        .help("add \"END-OF-MESSAGE\" to listen.milter_stages")
    })
}

/// Where a door answers.
pub(crate) fn address(text: &str) -> Result<String, String> {
    let is_unix = text.strip_prefix("unix:").is_some_and(|path| !path.is_empty());
    if is_unix || text.parse::<std::net::SocketAddr>().is_ok() {
        Ok(text.to_owned())
    } else {
        Err("expected ADDRESS:PORT, such as \"127.0.0.1:10040\", or \"unix:PATH\"".to_owned())
    }
}

pub(crate) fn stage(text: &str) -> Result<Stage, String> {
    const ASKED: [Stage; 6] =
        [Stage::Connect, Stage::Helo, Stage::Mail, Stage::Rcpt, Stage::Data, Stage::EndOfMessage];
    let of = |stage: &Stage| {
        Stage::ALL.iter().find(|(known, _)| known == stage).map_or("", |(_, name)| *name)
    };
    ASKED.iter().find(|stage| of(stage).eq_ignore_ascii_case(text)).copied().ok_or_else(|| {
        let known: Vec<&str> = ASKED.iter().map(of).collect();
        format!("`{text}` is none of {}", known.join(", "))
    })
}

fn read_networks(table: &mut Reader<'_>, seed: u64) -> (Networks, Keyring) {
    let local = table.list("local", &["127.0.0.0/8", "::1"], network::parse);
    let trusted = table.list("trusted", &["127.0.0.1", "::1"], network::parse);
    let prefix = |length: u64| u8::try_from(length).unwrap_or(u8::MAX);
    let v4_length = prefix(table.count("ipv4_prefix", 24, (8, 32)));
    let v6_length = prefix(table.count("ipv6_prefix", 64, (16, 128)));
    table.finish();
    let networks =
        Networks { local: local.into_iter().collect(), trusted: trusted.into_iter().collect() };
    (networks, Keyring::new(seed, v4_length, v6_length))
}
