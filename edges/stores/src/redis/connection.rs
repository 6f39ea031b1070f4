//! A connection to one server. What goes there at once comes back in its order.

use std::time::Duration;

use mpp_config::directory::tls::Tls;
use mpp_config::store::{Redis, RedisServer};
use mpp_hub::tls;
use mpp_wire::resp::{Command, Decoder, Reply};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::link::Commands;
use super::values::all_done;
use crate::shared::remote::Trouble;

/// One server may take so long to take a connection before the next is tried.
pub(super) const CONNECT_MAX: Duration = Duration::from_millis(800);
/// An answer that takes longer is given up with its connection.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Room for what a server sends, at a time.
const ROOM: usize = 16 << 10;

/// Whom a connection is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Login<'s> {
    pub(super) user: Option<&'s str>,
    pub(super) password: Option<&'s str>,
    pub(super) database: u16,
}

/// A connection. One that was left in the middle of an answer is of no more use.
pub(super) struct Connection(Mutex<Option<Open>>);

struct Open {
    stream: Box<dyn Stream>,
    held: Vec<u8>,
    /// How much of that was understood.
    used: usize,
    decoder: Decoder,
}

/// TCP, TLS or a unix socket.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Connection {
    /// Connects and logs in.
    pub(super) async fn open(
        settings: &Redis,
        server: &RedisServer,
        login: Login<'_>,
    ) -> Result<Self, Trouble> {
        let opening = async {
            let stream = connect(settings, server).await?;
            let connection = Self(Mutex::new(Some(Open {
                stream,
                held: Vec::new(),
                used: 0,
                decoder: Decoder::default(),
            })));
            connection.log_in(login).await?;
            Ok(connection)
        };
        let late = |_| Err(Trouble("it takes no connection in time".into()));
        timeout(CONNECT_MAX, opening).await.unwrap_or_else(late)
    }

    async fn log_in(&self, login: Login<'_>) -> Result<(), Trouble> {
        let mut commands = Commands::default();
        if let Some(password) = login.password {
            let command = Command::new(b"AUTH");
            let command = login.user.into_iter().fold(command, Command::word);
            commands.push(&command.word(password));
        }
        if login.database > 0 {
            commands.push(&Command::new(b"SELECT").number(login.database.into()));
        }
        all_done(&self.send(&commands).await?)
    }

    /// Sends commands; returns a reply to each.
    pub(super) async fn send(&self, commands: &Commands) -> Result<Vec<Reply>, Trouble> {
        let mut held = self.0.lock().await;
        let mut open = held.take().ok_or_else(|| Trouble("the connection was given up".into()))?;
        let replies = timeout(ANSWER_MAX, open.send(commands)).await;
        let replies = replies.map_err(|_| Trouble("it does not answer".into()))??;
        *held = Some(open);
        Ok(replies)
    }
}

impl Open {
    async fn send(&mut self, commands: &Commands) -> Result<Vec<Reply>, Trouble> {
        let broken = |error: std::io::Error| Trouble(format!("the connection breaks: {error}"));
        self.stream.write_all(&commands.bytes).await.map_err(broken)?;
        self.stream.flush().await.map_err(broken)?;
        let mut replies = Vec::with_capacity(commands.count);
        while replies.len() < commands.count {
            if let Some(reply) = self.take()? {
                replies.push(reply);
                continue;
            }
            self.held.drain(..self.used);
            self.used = 0;
            self.held.reserve(ROOM);
            if self.stream.read_buf(&mut self.held).await.map_err(broken)? == 0 {
                return Err(Trouble("it closes the connection".into()));
            }
        }
        Ok(replies)
    }

    fn take(&mut self) -> Result<Option<Reply>, Trouble> {
        let rest = self.held.get(self.used..).unwrap_or_default();
        let (used, reply) = self.decoder.take(rest).map_err(|it| Trouble(it.to_string()))?;
        self.used += used;
        Ok(reply)
    }
}

async fn connect(settings: &Redis, server: &RedisServer) -> Result<Box<dyn Stream>, Trouble> {
    let refused = |error: std::io::Error| Trouble(error.to_string());
    let (host, port) = match server {
        RedisServer::Socket(path) => {
            return Ok(Box::new(UnixStream::connect(path).await.map_err(refused)?));
        }
        RedisServer::Network(host, port) => (host, *port),
    };
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(refused)?;
    stream.set_nodelay(true).map_err(refused)?;
    if settings.security.tls != Tls::Require {
        return Ok(Box::new(stream));
    }
    let ca = settings.security.ca.as_deref();
    let client = tls::client(ca).map_err(Trouble)?;
    let name = ServerName::try_from(host.clone())
        .map_err(|_| Trouble(format!("{host} is no name that a certificate could hold")))?;
    let encrypted = TlsConnector::from(client).connect(name, stream).await;
    let failed = |error| Trouble(tls::failure(&error, host, ca.is_some()));
    Ok(Box::new(encrypted.map_err(failed)?))
}
