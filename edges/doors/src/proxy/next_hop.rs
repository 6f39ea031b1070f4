//! The client's side of a proxy: one connection to a next hop.

use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use mpp_config::directory::smtp::{Protocol, Server};
use mpp_config::directory::tls::Tls;
use mpp_config::proxy::Hop;
use mpp_wire::smtp::{Decoder, Reply};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::gate::{Gate, Setup};
use super::offers::Offers;

/// A next hop that does not let connect for so long is dead.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take (RFC 5321 section 4.5.3.2: five minutes, ten for the last).
const REPLY_TIMEOUT: Duration = Duration::from_mins(5);
const END_TIMEOUT: Duration = Duration::from_mins(10);
/// How long the greeting and what follows it may take: there may be another server.
const GREETING_TIMEOUT: Duration = Duration::from_secs(30);
/// A next hop that takes nothing for so long is dead.
const WRITE_TIMEOUT: Duration = Duration::from_mins(3);

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// A connection to a next hop that has been greeted.
pub(crate) struct NextHop {
    stream: Box<dyn Stream>,
    decoder: Decoder,
    /// What it offers.
    pub(crate) offers: Offers,
    /// The number of the hop in the settings, and of the settings.
    pub(crate) hop: usize,
    pub(crate) generation: u64,
    /// Whether each recipient gets an answer at the end (RFC 2033).
    pub(crate) is_lmtp: bool,
    /// Whether it was used before: it may have ended since.
    pub(crate) is_used: bool,
    /// For people.
    pub(crate) server: String,
}

impl NextHop {
    /// Connects to the first server of a hop that answers, and greets it. Those that did not answer
    /// a moment ago are tried last.
    ///
    /// # Errors
    /// None does; the text is for the log.
    pub(crate) async fn open(gate: &Gate, setup: &Setup, number: usize) -> Result<Self, String> {
        let hop = setup.proxy.hops.get(number).ok_or("there is no such hop")?;
        let connector = setup.connectors.get(number).and_then(Option::as_ref);
        let mut servers: Vec<(&Server, String)> =
            hop.servers.iter().map(|server| (server, server.to_string())).collect();
        servers.sort_by_key(|(_, name)| gate.is_down(name));
        let mut troubles = Vec::new();
        for (server, name) in servers {
            let opened = Self::connect(server, hop, connector, &setup.proxy.name_of_host).await;
            gate.answers(&name, opened.is_ok());
            match opened {
                Ok(mut opened) => {
                    opened.hop = number;
                    opened.generation = setup.generation;
                    gate.offered(&name, &opened.offers);
                    opened.server = name;
                    return Ok(opened);
                }
                Err(error) => troubles.push(format!("{name}: {error}")),
            }
        }
        Err(troubles.join("; "))
    }

    async fn connect(
        server: &Server,
        hop: &Hop,
        connector: Option<&TlsConnector>,
        name: &str,
    ) -> io::Result<Self> {
        let (stream, is_near) = timeout(CONNECT_TIMEOUT, connect(server)).await??;
        let mut opened = Self {
            stream,
            decoder: Decoder::default(),
            offers: Offers::default(),
            hop: 0,
            generation: 0,
            is_lmtp: hop.protocol == Protocol::Lmtp,
            is_used: false,
            server: String::new(),
        };
        let greeted = async {
            let greeting = opened.reply(GREETING_TIMEOUT).await?;
            if greeting.code != 220 {
                return Err(says(&greeting));
            }
            opened.greet(name).await?;
            // Against listeners; on this host nobody listens.
            let is_wanted = hop.security.tls == Tls::Require || !is_near;
            match connector.filter(|_| is_wanted) {
                Some(connector) if opened.offers.starttls => {
                    opened = opened.encrypt(connector, server, hop).await?;
                    opened.greet(name).await?;
                }
                Some(_) if hop.security.tls == Tls::Require => {
                    return Err(io::Error::other("it offers no STARTTLS, which is required"));
                }
                _ => {}
            }
            Ok(opened)
        };
        timeout(GREETING_TIMEOUT, greeted).await?
    }

    async fn greet(&mut self, name: &str) -> io::Result<()> {
        let verb = if self.is_lmtp { "LHLO" } else { "EHLO" };
        let reply = self.ask(&format!("{verb} {name}\r\n")).await?;
        if reply.code == 250 {
            self.offers = Offers::of(&reply);
            return Ok(());
        }
        if self.is_lmtp || !matches!(reply.code, 500 | 502 | 504) {
            return Err(says(&reply));
        }
        let reply = self.ask(&format!("HELO {name}\r\n")).await?;
        if reply.code == 250 { Ok(()) } else { Err(says(&reply)) }
    }

    async fn encrypt(
        mut self,
        connector: &TlsConnector,
        server: &Server,
        hop: &Hop,
    ) -> io::Result<Self> {
        let reply = self.ask("STARTTLS\r\n").await?;
        if reply.code != 220 {
            return Err(says(&reply));
        }
        let host = match server {
            Server::Network { host, .. } => host.as_str(),
            Server::Socket(_) => "localhost",
        };
        let name = if hop.server_name.is_empty() { host } else { &hop.server_name };
        let server_name = ServerName::try_from(name.to_owned())
            .map_err(|_| io::Error::other(format!("`{name}` is no name for a certificate")))?;
        let has_ca = hop.security.ca.is_some();
        let stream = connector.connect(server_name, self.stream).await.map_err(|error| {
            io::Error::other(format!("STARTTLS: {}", mpp_hub::tls::failure(&error, name, has_ca)))
        })?;
        // Nothing that was said in the clear holds any more.
        Ok(Self {
            stream: Box::new(stream),
            decoder: Decoder::default(),
            offers: Offers::default(),
            ..self
        })
    }

    /// Says a line and waits for the answer, whatever it is.
    async fn ask(&mut self, line: &str) -> io::Result<Reply> {
        self.write(line.as_bytes()).await?;
        self.reply(REPLY_TIMEOUT).await
    }

    /// Says a line and waits for what became of it.
    ///
    /// # Errors
    /// The hop is gone, or answers what is no answer to a command: neither yes nor no.
    pub(crate) async fn say(&mut self, line: &str) -> io::Result<Reply> {
        outcome(self.ask(line).await?)
    }

    /// Has the hop take a text; returns its refusal if it does not. Only 354 lets a text go (RFC 5321
    /// sections 3.3 and 4.2.5).
    ///
    /// # Errors
    /// As [`NextHop::say`].
    pub(crate) async fn data(&mut self) -> io::Result<Option<Reply>> {
        let reply = self.ask("DATA\r\n").await?;
        match reply.code {
            354 => Ok(None),
            400.. => Ok(Some(reply)),
            _ => Err(no_answer(&reply)),
        }
    }

    /// Has the hop forget a message.
    ///
    /// # Errors
    /// As [`NextHop::say`]; also if it does not want to.
    pub(crate) async fn forget(&mut self) -> io::Result<()> {
        let reply = self.say("RSET\r\n").await?;
        if reply.is_positive() { Ok(()) } else { Err(says(&reply)) }
    }

    /// Says several lines, at once where it may be, and waits for the answer to each.
    pub(crate) async fn say_all(&mut self, lines: &[String]) -> io::Result<Vec<Reply>> {
        let mut replies = Vec::with_capacity(lines.len());
        if self.offers.pipelining {
            self.write(lines.concat().as_bytes()).await?;
            for left in (0..lines.len()).rev() {
                replies.push(outcome(self.next_reply(REPLY_TIMEOUT, left == 0).await?)?);
            }
        } else {
            for line in lines {
                replies.push(self.say(line).await?);
            }
        }
        Ok(replies)
    }

    /// Passes text on.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(WRITE_TIMEOUT, write).await?
    }

    /// Ends the text of a message to so many recipients, with what is left of it, and waits for what
    /// becomes of it: an answer for each where the hop speaks LMTP.
    pub(crate) async fn end(&mut self, rest: &mut Vec<u8>, count: u32) -> io::Result<Vec<Reply>> {
        rest.extend_from_slice(b".\r\n");
        self.write(rest).await?;
        let count = if self.is_lmtp { count } else { 1 };
        let mut replies = Vec::new();
        for left in (0..count).rev() {
            replies.push(outcome(self.next_reply(END_TIMEOUT, left == 0).await?)?);
        }
        Ok(replies)
    }

    /// Takes leave; whether the server hears it does not matter.
    pub(crate) async fn quit(mut self) {
        let _ = timeout(Duration::from_secs(1), self.stream.write_all(b"QUIT\r\n")).await;
        let _ = timeout(Duration::from_secs(1), self.stream.shutdown()).await;
    }

    /// Whether nothing has come, not even an end, since the last answer.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        std::future::poll_fn(|context| {
            let read = Pin::new(&mut self.stream).poll_read(context, &mut buffer);
            Poll::Ready(read.is_pending())
        })
        .await
    }

    async fn reply(&mut self, patience: Duration) -> io::Result<Reply> {
        self.next_reply(patience, true).await
    }

    async fn next_reply(&mut self, patience: Duration, is_last: bool) -> io::Result<Reply> {
        let mut bytes = [0; 1024];
        let read = async {
            loop {
                match self.decoder.next_reply() {
                    Some(Ok(reply)) if !is_last || self.decoder.held() == 0 => return Ok(reply),
                    // What was not asked for would be taken for the answer to the next question.
                    Some(Ok(_)) => return Err(io::Error::other("it answers more than was asked")),
                    Some(Err(fault)) => return Err(io::Error::other(format!("it sends {fault}"))),
                    None => {}
                }
                match self.stream.read(&mut bytes).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    length => self.decoder.feed(bytes.get(..length).unwrap_or_default()),
                }
            }
        };
        timeout(patience, read).await?
    }
}

/// A connection, and whether it stays on this host.
async fn connect(server: &Server) -> io::Result<(Box<dyn Stream>, bool)> {
    Ok(match server {
        Server::Network { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            let is_near = stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback());
            (Box::new(stream), is_near)
        }
        Server::Socket(path) => (Box::new(UnixStream::connect(path).await?), true),
    })
}

/// A reply that says what became of a command, which is yes or no.
fn outcome(reply: Reply) -> io::Result<Reply> {
    match reply.code {
        200..300 | 400.. => Ok(reply),
        _ => Err(no_answer(&reply)),
    }
}

fn no_answer(reply: &Reply) -> io::Error {
    io::Error::other(format!("it says {}, which answers nothing that was said", reply.code))
}

fn says(reply: &Reply) -> io::Error {
    io::Error::other(format!("it says {} {}", reply.code, reply.text()))
}
