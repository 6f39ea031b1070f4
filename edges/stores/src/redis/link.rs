//! A connection to a Redis, however its servers belong together.

use std::time::Duration;

use mpp_config::directory::tls::Tls;
use mpp_config::store::{Redis, RedisServer, Topology};
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _,
    Pipeline, RedisConnectionInfo, RedisError, TlsCertificates, Value,
};

use crate::shared::remote::Trouble;

/// One server may take so long to take a connection before the next is tried.
const CONNECT_MAX: Duration = Duration::from_millis(800);
/// An answer that takes longer is given up with its connection.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A connection.
#[derive(Clone)]
pub(super) enum Link {
    /// To the one server that takes changes.
    One(MultiplexedConnection),
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

    /// Sends one command.
    pub(super) async fn send(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        match self {
            Self::One(link) => command.query_async(link).await,
            Self::Cluster(link) => command.query_async(link).await,
        }
    }

    /// Sends several commands at once; returns an answer each. All are of one part.
    pub(super) async fn send_all(&mut self, commands: &Pipeline) -> Result<Vec<Value>, RedisError> {
        match self {
            Self::One(link) => commands.query_async(link).await,
            Self::Cluster(link) => commands.query_async(link).await,
        }
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

/// A server that takes changes: of a pair the one that is the master.
async fn master(settings: &Redis, server: &RedisServer) -> Result<Link, Trouble> {
    let info = connection_info(settings, server)?;
    let mut link = connect(settings, info).await?;
    let role: Value = redis::cmd("ROLE").query_async(&mut link).await.map_err(said)?;
    let is_master = matches!(&role, Value::Array(parts) if matches!(parts.first(),
        Some(Value::BulkString(name)) if name == b"master"));
    if is_master { Ok(Link::One(link)) } else { Err(Trouble("it is a replica".into())) }
}

async fn connect(settings: &Redis, info: ConnectionInfo) -> Result<MultiplexedConnection, Trouble> {
    let client = if settings.security.tls == Tls::Require {
        Client::build_with_tls(info, certificates(settings)).map_err(said)?
    } else {
        Client::open(info).map_err(said)?
    };
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_MAX))
        .set_response_timeout(Some(ANSWER_MAX));
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(said)
}

/// Where the master is, as a sentinel says.
async fn ask_sentinel(
    settings: &Redis,
    sentinel: &RedisServer,
    name: &str,
) -> Result<RedisServer, Trouble> {
    let mut login = RedisConnectionInfo::default();
    if let Some(password) = &settings.sentinel_password {
        login = login.set_password(password.reveal());
    }
    let info = address(settings, sentinel).into_connection_info().map_err(said)?;
    let mut link = connect(settings, info.set_redis_settings(login)).await?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("get-master-addr-by-name").arg(name);
    let found: Option<(String, u16)> = question.query_async(&mut link).await.map_err(said)?;
    let (host, port) = found.ok_or_else(|| Trouble(format!("it knows no master `{name}`")))?;
    Ok(RedisServer::Network(host, port))
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
        builder = builder.certs(certificates(settings)).tls(redis::cluster::TlsMode::Secure);
    }
    let client = builder.build().map_err(said)?;
    Ok(Link::Cluster(client.get_async_connection().await.map_err(said)?))
}

fn certificates(settings: &Redis) -> TlsCertificates {
    let root_cert = settings.security.ca.as_ref().map(|text| text.as_bytes().to_vec());
    TlsCertificates { client_tls: None, root_cert }
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

fn connection_info(settings: &Redis, server: &RedisServer) -> Result<ConnectionInfo, Trouble> {
    let mut login = RedisConnectionInfo::default().set_db(settings.database.into());
    if let Some(user) = &settings.user {
        login = login.set_username(user);
    }
    if let Some(password) = &settings.password {
        login = login.set_password(password.reveal());
    }
    let info = address(settings, server).into_connection_info().map_err(said)?;
    Ok(info.set_redis_settings(login))
}

/// What a server or the way to it says.
#[allow(clippy::needless_pass_by_value, reason = "it stands where errors are mapped")]
pub(super) fn said(error: RedisError) -> Trouble {
    Trouble(error.to_string())
}
