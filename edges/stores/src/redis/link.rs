//! The way to a Redis, however its servers belong together.

use mpp_config::directory::tls::Tls;
use mpp_config::store::{Redis, RedisServer, Topology};
use mpp_settings::Secret;
use mpp_wire::resp::{Command, Decoder, Reply};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, ConnectionAddr, Pipeline, RedisError, TlsCertificates, Value};

use super::connection::{ANSWER_MAX, CONNECT_MAX, Connection, Login};
use super::values::{bytes, only};
use crate::shared::remote::Trouble;

/// Commands that go to a server at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Commands {
    /// As they go over the line.
    pub(super) bytes: Vec<u8>,
    pub(super) count: usize,
}

impl Commands {
    /// One alone.
    pub(super) fn of(command: &Command) -> Self {
        let mut commands = Self::default();
        commands.push(command);
        commands
    }

    /// Where they end now.
    pub(super) fn end(&self) -> (usize, usize) {
        (self.bytes.len(), self.count)
    }

    /// Takes away all behind that.
    pub(super) fn cut(&mut self, (bytes, count): (usize, usize)) {
        self.bytes.truncate(bytes);
        self.count = count;
    }

    /// Puts one at the end.
    pub(super) fn push(&mut self, command: &Command) {
        command.write(&mut self.bytes);
        self.count += 1;
    }

    /// Puts others at the end.
    pub(super) fn append(&mut self, others: &Self) {
        self.bytes.extend_from_slice(&others.bytes);
        self.count += others.count;
    }
}

/// A connection.
pub(super) enum Link {
    /// To the one server that takes changes.
    One(Connection),
    /// To all of a cluster.
    Cluster(ClusterConnection),
}

impl Link {
    /// Connects as it is configured.
    pub(super) async fn open(settings: &Redis) -> Result<Self, Trouble> {
        match &settings.topology {
            Topology::Single => {
                let mut trouble = Trouble("there are no servers".into());
                for server in &settings.servers {
                    match master(settings, server).await {
                        Ok(link) => return Ok(link),
                        Err(error) => trouble = Trouble::of(&server.to_string(), error),
                    }
                }
                Err(trouble)
            }
            Topology::Sentinel(name) => {
                let mut trouble = Trouble("there are no sentinels".into());
                for sentinel in &settings.servers {
                    let found = match ask_sentinel(settings, sentinel, name).await {
                        Ok(server) => {
                            master(settings, &server).await.map_err(|error| (server, error))
                        }
                        Err(error) => Err((sentinel.clone(), error)),
                    };
                    match found {
                        Ok(link) => return Ok(link),
                        Err((server, error)) => trouble = Trouble::of(&server.to_string(), error),
                    }
                }
                Err(trouble)
            }
            Topology::Cluster => cluster(settings).await,
        }
    }

    /// Sends commands, which in a cluster are all of one part; returns a reply to each.
    pub(super) async fn send(&self, commands: &Commands) -> Result<Vec<Reply>, Trouble> {
        match self {
            Self::One(server) => server.send(commands).await,
            Self::Cluster(cluster) => {
                let (commands, mut cluster) = (pipeline(commands), cluster.clone());
                match commands.query_async::<Vec<Value>>(&mut cluster).await {
                    Ok(values) => Ok(values.into_iter().map(reply).collect()),
                    Err(error) => refused(&error).map(|reply| vec![reply]),
                }
            }
        }
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

/// A server that takes changes: of a pair the one that is the master.
async fn master(settings: &Redis, server: &RedisServer) -> Result<Link, Trouble> {
    let login = Login {
        user: settings.user.as_deref(),
        password: settings.password.as_ref().map(Secret::reveal),
        database: settings.database,
    };
    let server = Connection::open(settings, server, login).await?;
    match ask(&server, &Command::new(b"ROLE")).await? {
        Reply::List(parts) if parts.first() == Some(&Reply::Text(b"master".into())) => {
            Ok(Link::One(server))
        }
        _ => Err(Trouble("it is a replica".into())),
    }
}

async fn ask(server: &Connection, command: &Command) -> Result<Reply, Trouble> {
    only(server.send(&Commands::of(command)).await?)
}

/// Where the master is, as a sentinel says.
async fn ask_sentinel(
    settings: &Redis,
    sentinel: &RedisServer,
    name: &str,
) -> Result<RedisServer, Trouble> {
    let password = settings.sentinel_password.as_ref().map(Secret::reveal);
    let server =
        Connection::open(settings, sentinel, Login { user: None, password, database: 0 }).await?;
    let question = Command::new(b"SENTINEL").word("get-master-addr-by-name").word(name);
    match ask(&server, &question).await? {
        Reply::List(parts) => {
            let mut parts = parts.into_iter().filter_map(bytes);
            let (host, port) = (parts.next(), parts.next());
            let host = host.and_then(|host| String::from_utf8(host).ok());
            let port = port.and_then(|port| std::str::from_utf8(&port).ok()?.parse().ok());
            match (host, port) {
                (Some(host), Some(port)) => Ok(RedisServer::Network(host, port)),
                _ => Err(Trouble("what it says is no address".into())),
            }
        }
        _ => Err(Trouble(format!("it knows no master `{name}`"))),
    }
}

async fn cluster(settings: &Redis) -> Result<Link, Trouble> {
    let nodes = settings.servers.iter().map(|server| address(settings, server));
    let mut builder = ClusterClientBuilder::new(nodes.collect::<Vec<_>>())
        .connection_timeout(CONNECT_MAX)
        .response_timeout(ANSWER_MAX)
        // A batch that fails is sent again by whoever sent it, who knows whether it may be.
        .retries(2);
    if let Some(user) = &settings.user {
        builder = builder.username(user);
    }
    if let Some(password) = &settings.password {
        builder = builder.password(password.reveal());
    }
    if settings.security.tls == Tls::Require {
        let root_cert = settings.security.ca.as_ref().map(|text| text.as_bytes().to_vec());
        let certificates = TlsCertificates { client_tls: None, root_cert };
        builder = builder.certs(certificates).tls(redis::cluster::TlsMode::Secure);
    }
    let said = |error: RedisError| Trouble(error.to_string());
    let client = builder.build().map_err(said)?;
    Ok(Link::Cluster(client.get_async_connection().await.map_err(said)?))
}

fn address(settings: &Redis, server: &RedisServer) -> ConnectionAddr {
    match server {
        RedisServer::Socket(path) => ConnectionAddr::Unix(path.into()),
        RedisServer::Network(host, port) if settings.security.tls == Tls::Require => {
            ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            }
        }
        RedisServer::Network(host, port) => ConnectionAddr::Tcp(host.clone(), *port),
    }
}

/// The same commands for a cluster's client, which must find out where each belongs.
fn pipeline(commands: &Commands) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(commands.count);
    let (mut decoder, mut rest) = (Decoder::default(), commands.bytes.as_slice());
    // A command is written as a list of its words, so it is read as one.
    while let Ok((used, Some(Reply::List(words)))) = decoder.take(rest) {
        rest = rest.get(used..).unwrap_or_default();
        let mut command = Cmd::new();
        for word in words.into_iter().filter_map(bytes) {
            command.arg(word);
        }
        pipeline.add_command(command);
    }
    pipeline
}

/// What a cluster's client understood.
fn reply(value: Value) -> Reply {
    match value {
        Value::Int(number) => Reply::Number(number),
        Value::BulkString(bytes) => Reply::Text(bytes),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => {
            Reply::Text(text.into_bytes())
        }
        Value::Okay => Reply::Text(b"OK".into()),
        Value::Array(list) | Value::Set(list) => Reply::List(list.into_iter().map(reply).collect()),
        Value::Map(pairs) => {
            let both = pairs.into_iter().flat_map(|(name, value)| [name, value]);
            Reply::List(both.map(reply).collect())
        }
        Value::ServerError(error) => Reply::Error(error.to_string()),
        _ => Reply::Nil,
    }
}

/// What a server refused is a reply; anything else is trouble with the way to it.
fn refused(error: &RedisError) -> Result<Reply, Trouble> {
    match error.code() {
        Some(code) => Ok(Reply::Error(format!("{code} {}", error.detail().unwrap_or_default()))),
        None => Err(Trouble(error.to_string())),
    }
}
