//! `[store]`: where state is kept: by this node alone, or by a server that several nodes share.

use mpp_settings::{Diagnostic, Reader, Secret};

use crate::directory::host_and_port;
use crate::directory::sql::server::{Engine, Server};
use crate::directory::tls::Security;

/// What every key on a Redis server, and every table of a database, begins with if nothing is said.
const PREFIX: &str = "mpp";

/// Where state is kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Store {
    /// In the state directory; nothing is shared.
    Embedded,
    /// On a server that nodes share.
    Shared(Box<Shared>),
}

/// A store that nodes share.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// The server.
    pub server: Backend,
    /// So long a decision waits for it at the most, in milliseconds.
    pub deadline_ms: u64,
    /// Without the server a sender whom this node does not know is a matter of his policy's
    /// `unavailable`; else he waits as a stranger does.
    pub strangers_are_unavailable: bool,
}

/// The servers that can keep it.
#[derive(Clone, Debug, PartialEq)]
pub enum Backend {
    /// Redis or Valkey.
    Redis(Redis),
    /// MariaDB, MySQL or PostgreSQL.
    Sql(Sql),
}

/// Redis or Valkey.
#[derive(Clone, Debug, PartialEq)]
pub struct Redis {
    /// How its servers belong together.
    pub topology: Topology,
    /// The servers, or the sentinels.
    pub servers: Vec<RedisServer>,
    /// The account; the default one if there is none.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// The password of the sentinels.
    pub sentinel_password: Option<Secret>,
    /// Whether connections are encrypted, and whom to trust.
    pub security: Security,
    /// Which database; 0 in a cluster.
    pub database: u16,
    /// What every key begins with.
    pub prefix: String,
}

/// How the servers of a Redis belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// One server; of several the first that answers and takes changes.
    Single,
    /// Sentinels say which server is the master of this name.
    Sentinel(String),
    /// A cluster.
    Cluster,
}

/// How a Redis server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisServer {
    /// Over the network.
    Network(String, u16),
    /// By a unix socket.
    Socket(String),
}

impl std::fmt::Display for RedisServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Network(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Network(host, port) => write!(f, "{host}:{port}"),
            Self::Socket(path) => write!(f, "unix:{path}"),
        }
    }
}

/// An SQL database.
#[derive(Clone, Debug, PartialEq)]
pub struct Sql {
    /// The servers; the first that answers and takes changes is used. All are of one kind.
    pub servers: Vec<Server>,
    /// The password of the account.
    pub password: Option<Secret>,
    /// Whether connections are encrypted, and whom to trust.
    pub security: Security,
    /// What the name of every table begins with.
    pub prefix: String,
}

/// Reads `[store]`.
pub(crate) fn read(table: &mut Reader<'_>) -> Store {
    const KINDS: [(&str, u8); 3] = [("embedded", 0), ("redis", 1), ("sql", 2)];
    const STRANGERS: [(&str, bool); 2] = [("wait", false), ("unavailable", true)];
    let kind = table.choice("kind", "embedded", &KINDS).unwrap_or(0);
    let server = match kind {
        0 => None,
        1 => Some(Backend::Redis(read_redis(table))),
        _ => Some(Backend::Sql(read_sql(table))),
    };
    let store = match server {
        None => Store::Embedded,
        Some(server) => {
            let deadline_ms = table.duration_ms("deadline", "250ms").max(10);
            let strangers = table.choice("strangers", "wait", &STRANGERS);
            let strangers_are_unavailable = strangers.unwrap_or(false);
            Store::Shared(Box::new(Shared { server, deadline_ms, strangers_are_unavailable }))
        }
    };
    table.finish();
    store
}

fn read_redis(table: &mut Reader<'_>) -> Redis {
    const TOPOLOGIES: [(&str, u8); 3] = [("single", 0), ("sentinel", 1), ("cluster", 2)];
    let topology = table.choice("topology", "single", &TOPOLOGIES).unwrap_or(0);
    let port = if topology == 1 { 26379 } else { 6379 };
    let servers = table.list("servers", &[], |text| server(text, port));
    needs_servers(table, servers.is_empty(), "servers = [\"10.0.0.1:6379\"]");
    let topology = match topology {
        0 => Topology::Single,
        1 => Topology::Sentinel(table.text("master", "mymaster")),
        _ => Topology::Cluster,
    };
    let user = table.text("user", "");
    let password = table.secret("password");
    let sentinel_password = if matches!(topology, Topology::Sentinel(_)) {
        table.secret("sentinel_password")
    } else {
        None
    };
    let security = Security::read_strict(table);
    let database = if topology == Topology::Cluster {
        0
    } else {
        u16::try_from(table.count("database", 0, (0, 65_535))).unwrap_or(0)
    };
    let is_plain = |text: &str| {
        let is_plain = |it: char| it.is_ascii_alphanumeric() || "_-:.".contains(it);
        let is_sound = !text.is_empty() && text.len() <= 32 && text.chars().all(is_plain);
        is_sound
            .then(|| text.to_owned())
            .ok_or("up to 32 letters, digits, `-`, `_`, `.`, `:`".to_owned())
    };
    let prefix = if table.has_own("prefix") {
        table.form("prefix", "a prefix", is_plain).unwrap_or_default()
    } else {
        table.text("prefix", PREFIX)
    };
    let user = Some(user).filter(|user| !user.is_empty());
    Redis { topology, servers, user, password, sentinel_password, security, database, prefix }
}

fn read_sql(table: &mut Reader<'_>) -> Sql {
    let mut first: Option<Engine> = None;
    let servers = table.list("servers", &[], |text| {
        let server = Server::parse(text)?;
        if server.engine == Engine::Sqlite {
            return Err("a file of SQLite is not shared: use kind = \"embedded\"".to_owned());
        }
        let engine = *first.get_or_insert(server.engine);
        if engine == server.engine {
            return Ok(server);
        }
        Err(format!("it is {}, the first is {}", server.engine.name(), engine.name()))
    });
    needs_servers(table, servers.is_empty(), "servers = [\"mysql://mpp@db.example.org/mpp\"]");
    let password = table.secret("password");
    let security = Security::read(table);
    // Names of tables must be the same in databases that fold them and in those that do not, and
    // short enough for those that cut them.
    let is_plain = |text: &str| {
        let is_plain = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '_';
        let is_sound = text.starts_with(|it: char| it.is_ascii_lowercase())
            && text.len() <= 24
            && text.chars().all(is_plain);
        is_sound
            .then(|| text.to_owned())
            .ok_or("up to 24 small letters, digits and `_`, a letter at the beginning".to_owned())
    };
    let prefix = if table.has_own("prefix") {
        table.form("prefix", "a prefix", is_plain).unwrap_or_default()
    } else {
        table.text("prefix", PREFIX)
    };
    Sql { servers, password, security, prefix }
}

fn needs_servers(table: &mut Reader<'_>, are_missing: bool, example: &str) {
    if are_missing && !table.has_own("servers") {
        let problem = Diagnostic::error(table.place(), "a shared store needs `servers`");
        table.report(problem.help(example.to_owned()));
    }
}

fn server(text: &str, port: u16) -> Result<RedisServer, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let is_path = path.starts_with('/');
        return if is_path {
            Ok(RedisServer::Socket(path.to_owned()))
        } else {
            Err("expected unix:/PATH".into())
        };
    }
    if text.contains('@') || text.contains("//") {
        return Err(
            "expected HOST:PORT or unix:/PATH; account and password have settings of their own"
                .into(),
        );
    }
    host_and_port(text, Some(port)).map(|(host, port)| RedisServer::Network(host, port))
}
