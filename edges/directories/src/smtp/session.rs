//! One connection to a next hop: greeted, encrypted if that is wanted, and asked transaction by
//! transaction. DATA is not among the things that it can say.

use mpp_config::directory::smtp::{Protocol, Server, Smtp as Settings};
use mpp_config::directory::tls::Tls;
use mpp_wire::smtp::{Decoder, Path, Reply};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::verdict::{Verdict, judge};

/// A text of a server may be so long in a message, in characters.
const TEXT_CHARS_MAX: usize = 200;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why a connection is of no use, in one line.
pub(super) struct Failure {
    /// For people.
    pub(super) text: String,
    /// Whether the server works, and only does not want this now.
    pub(super) is_not_now: bool,
}

impl Failure {
    pub(super) fn down(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_not_now: false }
    }

    fn refused(what: &str, reply: &Reply) -> Self {
        Self::down(format!("{what} is answered {}", said(reply)))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::down(error.to_string())
    }
}

/// What came of one recipient.
pub(super) struct Asked {
    /// What the server says.
    pub(super) verdict: Verdict,
    /// In its words.
    pub(super) text: String,
}

/// An open connection.
pub(super) struct Session {
    stream: Box<dyn Stream>,
    decoder: Decoder,
    can_pipeline: bool,
    knows_utf8: bool,
    is_encrypted: bool,
    asked: usize,
    refused: usize,
}

impl Session {
    /// Connects, greets, and encrypts.
    pub(super) async fn open(
        server: &Server,
        settings: &Settings,
        tls: Option<&TlsConnector>,
    ) -> Result<Self, Failure> {
        let stream: Box<dyn Stream> = match server {
            Server::Network { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await;
                let stream =
                    stream.map_err(|error| Failure::down(format!("no connection: {error}")))?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Server::Socket(path) => {
                let stream = UnixStream::connect(path).await;
                Box::new(stream.map_err(|error| Failure::down(format!("no connection: {error}")))?)
            }
        };
        let mut session = Self {
            stream,
            decoder: Decoder::default(),
            can_pipeline: false,
            knows_utf8: false,
            is_encrypted: false,
            asked: 0,
            refused: 0,
        };
        let greeting = session.reply().await?;
        if greeting.code != 220 {
            return Err(Failure::refused("connecting", &greeting));
        }
        let offers = session.greet(settings).await?;
        let Some(tls) = tls else { return Ok(session) };
        if offers.offers("STARTTLS") {
            let name = verified_name(server, settings);
            return session.encrypt(tls, name, settings).await;
        }
        match settings.security.tls {
            Tls::Require => Err(Failure::down("STARTTLS is not offered, and tls = \"require\"")),
            Tls::Off | Tls::Prefer => Ok(session),
        }
    }

    /// What works, for `mpp check`.
    pub(super) fn described(&self) -> String {
        let tls = if self.is_encrypted { ", STARTTLS" } else { "" };
        let pipelining = if self.can_pipeline { ", PIPELINING" } else { "" };
        format!("connected, greeted{tls}{pipelining}")
    }

    /// How many recipients it may still be asked about at once.
    pub(super) fn room(&self, settings: &Settings) -> usize {
        let left = settings.probes.saturating_sub(self.asked);
        left.min(settings.refusals.saturating_sub(self.refused))
    }

    /// One transaction, for as many of the recipients as the server lets in: the answers are those
    /// of the first ones.
    pub(super) async fn ask(
        &mut self,
        sender: &str,
        recipients: &[&Path],
    ) -> Result<Vec<Asked>, Failure> {
        let is_utf8 = self.knows_utf8 && recipients.iter().any(|path| path.needs_utf8);
        let mail = format!("MAIL FROM:<{sender}>{}\r\n", if is_utf8 { " SMTPUTF8" } else { "" });
        let sayable: Vec<&Path> =
            recipients.iter().filter(|path| self.knows_utf8 || !path.needs_utf8).copied().collect();
        let replies = self.transaction(mail, &sayable).await?;
        self.asked += sayable.len();
        let mut replies = replies.into_iter();
        let mut all = Vec::new();
        for path in recipients {
            if path.needs_utf8 && !self.knows_utf8 {
                // A server that cannot be told the address takes no mail for it (RFC 6531).
                let text = "the next hop does not know SMTPUTF8".to_owned();
                all.push(Asked { verdict: Verdict::Unknown, text });
                continue;
            }
            let Some(reply) = replies.next() else { break };
            let verdict = judge(&reply);
            if verdict == Verdict::Over {
                return Err(Failure::refused("RCPT", &reply));
            }
            self.refused += usize::from(!reply.is_positive());
            all.push(Asked { verdict, text: said(&reply) });
        }
        Ok(all)
    }

    /// A transaction without recipients: whether the sender is taken.
    pub(super) async fn try_sender(&mut self, sender: &str) -> Result<(), Failure> {
        let mail = self.say(&format!("MAIL FROM:<{sender}>\r\n")).await?;
        if !mail.is_positive() {
            return Err(Failure::refused("MAIL", &mail));
        }
        let reset = self.say("RSET\r\n").await?;
        if reset.is_positive() { Ok(()) } else { Err(Failure::refused("RSET", &reset)) }
    }

    /// MAIL, a RCPT for each, RSET; the replies to RCPT.
    async fn transaction(&mut self, mail: String, paths: &[&Path]) -> Result<Vec<Reply>, Failure> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = vec![mail];
        commands.extend(paths.iter().map(|path| format!("RCPT TO:{}\r\n", path.text)));
        commands.push("RSET\r\n".to_owned());
        let mut replies = Vec::new();
        if self.can_pipeline {
            self.stream.write_all(commands.concat().as_bytes()).await?;
            self.stream.flush().await?;
        }
        for (number, command) in commands.iter().enumerate() {
            if !self.can_pipeline {
                self.stream.write_all(command.as_bytes()).await?;
                self.stream.flush().await?;
            }
            let reply = self.reply().await?;
            if number == 0 && !reply.is_positive() {
                // A 4xx is about the moment; anything else about what we are.
                let is_not_now = reply.is_transient() && reply.code != 421;
                return Err(Failure { is_not_now, ..Failure::refused("MAIL", &reply) });
            }
            if reply.code == 421 {
                return Err(Failure::refused("a command", &reply));
            }
            replies.push(reply);
        }
        if !replies.pop().is_some_and(|reply| reply.is_positive()) {
            return Err(Failure::down("RSET is refused"));
        }
        Ok(replies.split_off(1))
    }

    /// Takes leave; whether the server hears it does not matter.
    pub(super) async fn quit(mut self) {
        let _ = self.stream.write_all(b"QUIT\r\n").await;
        let _ = self.stream.shutdown().await;
    }

    async fn greet(&mut self, settings: &Settings) -> Result<Reply, Failure> {
        let verb = match settings.protocol {
            Protocol::Smtp => "EHLO",
            Protocol::Lmtp => "LHLO",
        };
        let name = if settings.helo.is_empty() { host_name() } else { settings.helo.clone() };
        let mut reply = self.say(&format!("{verb} {name}\r\n")).await?;
        if matches!(reply.code, 500 | 502) && settings.protocol == Protocol::Smtp {
            reply = self.say(&format!("HELO {name}\r\n")).await?;
            reply.lines.truncate(1);
        }
        if reply.code != 250 {
            return Err(Failure::refused(verb, &reply));
        }
        self.can_pipeline = reply.offers("PIPELINING");
        self.knows_utf8 = reply.offers("SMTPUTF8");
        Ok(reply)
    }

    async fn encrypt(
        mut self,
        tls: &TlsConnector,
        name: String,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        let reply = self.say("STARTTLS\r\n").await?;
        if reply.code != 220 {
            return Err(Failure::refused("STARTTLS", &reply));
        }
        // Text sent before the handshake would be taken for encrypted afterwards (CVE-2011-0411).
        if self.decoder.held() > 0 || self.decoder.next_reply().is_some() {
            return Err(Failure::down("text behind the answer to STARTTLS"));
        }
        let server_name = ServerName::try_from(name.clone())
            .map_err(|_| Failure::down("its name is none that a certificate can have"))?;
        let stream = tls.connect(server_name, self.stream).await;
        let has_ca = settings.security.ca.is_some();
        let stream = stream.map_err(|error| {
            Failure::down(format!("STARTTLS: {}", mpp_hub::tls::failure(&error, &name, has_ca)))
        })?;
        let mut session = Self {
            stream: Box::new(stream),
            decoder: Decoder::default(),
            is_encrypted: true,
            ..self
        };
        session.greet(settings).await?;
        Ok(session)
    }

    async fn say(&mut self, line: &str) -> Result<Reply, Failure> {
        self.stream.write_all(line.as_bytes()).await?;
        self.stream.flush().await?;
        self.reply().await
    }

    async fn reply(&mut self) -> Result<Reply, Failure> {
        loop {
            match self.decoder.next_reply() {
                Some(Ok(reply)) => return Ok(reply),
                Some(Err(fault)) => return Err(Failure::down(format!("it sends {fault}"))),
                None => {}
            }
            let mut buffer = [0; 2048];
            let length = self.stream.read(&mut buffer).await?;
            if length == 0 {
                return Err(Failure::down("it closed the connection"));
            }
            self.decoder.feed(buffer.get(..length).unwrap_or_default());
        }
    }
}

/// A reply as messages show it.
fn said(reply: &Reply) -> String {
    let enhanced = reply.enhanced.map(|(a, b, c)| format!("{a}.{b}.{c} ")).unwrap_or_default();
    let text: String = reply.text().chars().take(TEXT_CHARS_MAX).collect();
    format!("{} {enhanced}{text}", reply.code).trim_end().to_owned()
}

fn verified_name(server: &Server, settings: &Settings) -> String {
    match server {
        _ if !settings.server_name.is_empty() => settings.server_name.clone(),
        Server::Network { host, .. } => host.clone(),
        Server::Socket(_) => "localhost".to_owned(),
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    if name.is_empty() || !name.chars().all(is_plain) {
        "localhost".to_owned()
    } else {
        name.to_owned()
    }
}
