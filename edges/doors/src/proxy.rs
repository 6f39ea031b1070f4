//! The proxy door: an SMTP filter between a mail server and its next hop, before or after the queue.
//!
//! Command by command: what mpp has nothing against is said to the next hop, and what the next hop
//! answers is the answer. The text of a message streams through; its last line goes on only when
//! nothing stands against the message, and "250" is said only after the next hop has said so. So a
//! proxy that is killed at any byte has promised nothing.
//!
//! Only configured peers may use it: it takes whatever recipients its next hop takes.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mpp_config::proxy::Proxy;
use mpp_engine::facts::Stage;
use mpp_hub::{Asked, Desk, Hub};
use mpp_wire::smtp::Reply;
use mpp_wire::smtp_server::{Command, Decoder, Fault, Text};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::listen::Connection;
use crate::next_hop::NextHop;

/// Bytes read at once.
const READ_BYTES: usize = 32 * 1024;
/// A peer that says nothing for so long is gone (RFC 5321 section 4.5.3.2.7: five minutes).
const READ_TIMEOUT: Duration = Duration::from_mins(5);
/// A peer that does not take its answer for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_mins(1);
/// Commands that make no sense, before the connection is closed.
const ERRORS_MAX: u32 = 20;
/// Extensions that are passed through where the next hop offers them.
const PASSED: [&str; 5] = ["SIZE", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN"];
/// To whoever begins something while the daemon is about to stop.
const STOPPING: &str = "421 4.3.2 Stopping\r\n";
/// What the hub calls this door when it ties requests together.
const CONTEXT: &str = "proxy";

/// What a listener of this door knows.
#[derive(Clone, Debug)]
pub struct Door {
    /// Where questions go.
    pub hub: Arc<Hub>,
    /// The settings.
    pub proxy: Arc<Proxy>,
    /// Whether the daemon is about to stop: messages under way are finished, and no more begun.
    pub stopping: watch::Receiver<bool>,
}

impl Door {
    /// Serves a connection until either side ends it.
    pub async fn serve(self, io: Connection, peer: Option<IpAddr>) {
        let mut session = Session::new(self, io, peer);
        // An error is a reset or the like, which is how many peers end a connection.
        let _ = session.run().await;
        session.leave();
    }

    fn is_peer(&self, peer: Option<IpAddr>) -> bool {
        // Who can open a unix socket is one.
        let Some(peer) = peer.map(|peer| peer.to_canonical()) else { return true };
        match &self.proxy.peers {
            Some(peers) => peers.iter().any(|network| network.contains(&peer)),
            None => self.hub.live().configuration.networks.trusted.contains(peer),
        }
    }
}

/// What the peer says of the client (XFORWARD), or what is seen of it.
#[derive(Debug, Default)]
struct Client {
    address: Option<IpAddr>,
    port: u16,
    name: String,
    helo: String,
    queue_id: String,
}

/// The message under way.
#[derive(Debug, Default)]
struct Message {
    instance: String,
    sender: String,
    size_bytes: u64,
    recipients: u32,
    last_recipient: String,
}

/// Whether the conversation goes on.
enum Next {
    GoOn,
    Close,
}

struct Session {
    door: Door,
    io: Connection,
    peer: Option<IpAddr>,
    number: u64,
    messages: u64,
    errors: u32,
    hop: Option<NextHop>,
    client: Client,
    message: Option<Message>,
    desk: Desk,
    out: String,
}

/// A command that owns what it needs, so that the decoder is free while it is worked on.
enum Said {
    Helo(String, bool),
    Mail(String, String),
    Rcpt(String, String),
    Xforward(String),
    Plain(Command<'static>),
}

impl Session {
    fn new(door: Door, io: Connection, peer: Option<IpAddr>) -> Self {
        static SESSIONS: AtomicU64 = AtomicU64::new(0);
        door.hub.asks_at_end(CONTEXT);
        Self {
            door,
            io,
            peer,
            number: SESSIONS.fetch_add(1, Ordering::Relaxed),
            messages: 0,
            errors: 0,
            hop: None,
            client: Client { address: peer, ..Client::default() },
            message: None,
            desk: Desk::default(),
            out: String::new(),
        }
    }

    async fn run(&mut self) -> io::Result<()> {
        if !self.door.is_peer(self.peer) {
            let from = self.peer.map_or_else(String::new, |peer| peer.to_string());
            crate::warn(&format!("proxy: {from} is no configured peer"));
            return self.write("554 5.7.1 Not for you\r\n").await;
        }
        if *self.door.stopping.borrow() {
            return self.write(STOPPING).await;
        }
        if self.connect().await.is_none() {
            return self.write("421 4.3.2 The next hop does not answer\r\n").await;
        }
        let greeting = format!("220 {} ESMTP mpp\r\n", self.door.proxy.name_of_host);
        self.write(&greeting).await?;
        let mut decoder = Decoder::default();
        let mut bytes = vec![0; READ_BYTES];
        loop {
            while let Some(said) = match decoder.next_command() {
                Ok(command) => command.map(own),
                Err(fault) => return self.write(faulty(fault)).await,
            } {
                let next = match said {
                    Said::Plain(Command::Data) => self.data(&mut decoder, &mut bytes).await?,
                    said => self.command(said).await?,
                };
                if matches!(next, Next::Close) {
                    return Ok(());
                }
            }
            let is_idle = self.message.is_none();
            let read = tokio::select! {
                read = timeout(READ_TIMEOUT, self.io.read(&mut bytes)) => Some(read??),
                // An error is that nobody is left to say so, which is the same.
                _ = self.door.stopping.wait_for(|is_stopping| *is_stopping), if is_idle => None,
            };
            let Some(length) = read else { return self.write(STOPPING).await };
            if length == 0 {
                return Ok(());
            }
            decoder.feed(bytes.get(..length).unwrap_or_default());
        }
    }

    /// The next hop, connected if it is not.
    async fn connect(&mut self) -> Option<&mut NextHop> {
        if self.hop.is_none() {
            let proxy = &self.door.proxy;
            match NextHop::open(&proxy.next_hops, &proxy.name_of_host).await {
                Ok(hop) => self.hop = Some(hop),
                Err(trouble) => crate::warn(&format!("proxy {}: {trouble}", proxy.name)),
            }
        }
        self.hop.as_mut()
    }

    async fn command(&mut self, said: Said) -> io::Result<Next> {
        match said {
            Said::Helo(name, is_extended) => self.helo(name, is_extended).await,
            Said::Xforward(attributes) => self.xforward(&attributes).await,
            Said::Mail(path, parameters) => self.mail(path, &parameters).await,
            Said::Rcpt(path, parameters) => self.rcpt(path, &parameters).await,
            Said::Plain(Command::Quit) => {
                if let Some(hop) = &mut self.hop {
                    // Whatever it says to that.
                    let _ = hop.write(b"QUIT\r\n").await;
                }
                self.write("221 2.0.0 Bye\r\n").await?;
                Ok(Next::Close)
            }
            Said::Plain(Command::Rset) => {
                self.reset().await;
                self.say("250 2.0.0 Ok\r\n").await
            }
            Said::Plain(Command::Noop) => self.say("250 2.0.0 Ok\r\n").await,
            Said::Plain(Command::Help) => self.say("214 2.0.0 See RFC 5321\r\n").await,
            Said::Plain(Command::Vrfy) => self.say("252 2.0.0 Try it\r\n").await,
            Said::Plain(Command::Syntax) => self.wrong("501 5.5.4 Syntax error\r\n").await,
            Said::Plain(_) => self.wrong("500 5.5.1 Command not known\r\n").await,
        }
    }

    async fn helo(&mut self, name: String, is_extended: bool) -> io::Result<Next> {
        self.reset().await;
        if self.client.helo.is_empty() {
            self.client.helo = name;
        }
        let host = self.door.proxy.name_of_host.clone();
        if !is_extended {
            return self.say(&format!("250 {host}\r\n")).await;
        }
        let Some(hop) = self.connect().await else { return self.gone().await };
        let offered = hop.offers.lines.iter().skip(1);
        let passed = offered.filter(|line| {
            let keyword = line.split(' ').next().unwrap_or_default();
            PASSED.iter().any(|passed| passed.eq_ignore_ascii_case(keyword))
        });
        let mut text = format!("250-{host}\r\n250-PIPELINING\r\n");
        for line in passed {
            // Writing to a string cannot fail.
            let _ = write!(text, "250-{line}\r\n");
        }
        text.push_str("250 XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE\r\n");
        self.say(&text).await
    }

    /// What a peer says of the client that it speaks for.
    async fn xforward(&mut self, attributes: &str) -> io::Result<Next> {
        if self.message.is_some() {
            return self.wrong("503 5.5.1 Not within a message\r\n").await;
        }
        for attribute in attributes.split(' ').filter(|word| !word.is_empty()) {
            let Some((name, value)) = attribute.split_once('=') else {
                return self.wrong("501 5.5.4 Syntax error\r\n").await;
            };
            let Some(value) = from_xtext(value) else {
                return self.wrong("501 5.5.4 Syntax error\r\n").await;
            };
            let value =
                if value.eq_ignore_ascii_case("[UNAVAILABLE]") { String::new() } else { value };
            match name.to_ascii_uppercase().as_str() {
                "NAME" => self.client.name = value,
                "ADDR" => {
                    let text = value.get(..5).filter(|head| head.eq_ignore_ascii_case("IPV6:"));
                    let text = text.and_then(|head| value.get(head.len()..)).unwrap_or(&value);
                    self.client.address = text.parse().ok().or(self.peer);
                }
                "PORT" => self.client.port = value.parse().unwrap_or(0),
                "HELO" => self.client.helo = value,
                "IDENT" => self.client.queue_id = value,
                "PROTO" | "SOURCE" => {}
                _ => return self.wrong("501 5.5.4 Attribute not known\r\n").await,
            }
        }
        let line = format!("XFORWARD {attributes}\r\n");
        let Some(hop) = self.connect().await else { return self.gone().await };
        if hop.offers.offers("XFORWARD") && hop.say(&line).await.is_err() {
            return self.gone().await;
        }
        self.say("250 2.0.0 Ok\r\n").await
    }

    async fn mail(&mut self, path: String, parameters: &str) -> io::Result<Next> {
        if self.message.is_some() {
            return self.wrong("503 5.5.1 One sender a message\r\n").await;
        }
        let line = line("MAIL FROM", &path, parameters);
        let Some(hop) = self.connect().await else { return self.gone().await };
        let Ok(reply) = hop.say(&line).await else { return self.gone().await };
        if reply.is_positive() {
            self.messages += 1;
            let size = parameters.split(' ').find_map(|word| {
                let (name, value) = word.split_once('=')?;
                name.eq_ignore_ascii_case("SIZE").then(|| value.parse().ok()).flatten()
            });
            self.message = Some(Message {
                instance: format!("proxy.{:x}.{:x}", self.number, self.messages),
                sender: path,
                size_bytes: size.unwrap_or(0),
                ..Message::default()
            });
        }
        self.pass(&reply).await
    }

    async fn rcpt(&mut self, path: String, parameters: &str) -> io::Result<Next> {
        let line = line("RCPT TO", &path, parameters);
        let Some(message) = &mut self.message else {
            return self.wrong("503 5.5.1 MAIL first\r\n").await;
        };
        message.last_recipient = path;
        if let Some(refusal) = self.judge(Stage::Rcpt).await {
            return self.say(&refusal).await;
        }
        let Some(hop) = &mut self.hop else { return self.gone().await };
        let Ok(reply) = hop.say(&line).await else { return self.gone().await };
        if let (true, Some(message)) = (reply.is_positive(), &mut self.message) {
            message.recipients += 1;
        }
        self.pass(&reply).await
    }

    async fn data(&mut self, decoder: &mut Decoder, bytes: &mut [u8]) -> io::Result<Next> {
        let recipients = self.message.as_ref().map(|message| message.recipients);
        match recipients {
            None => return self.wrong("503 5.5.1 MAIL first\r\n").await,
            Some(0) => return self.wrong("554 5.5.1 No valid recipients\r\n").await,
            Some(_) => {}
        }
        let Some(hop) = &mut self.hop else { return self.gone().await };
        let Ok(reply) = hop.say("DATA\r\n").await else { return self.gone().await };
        if reply.code != 354 {
            return self.pass(&reply).await;
        }
        self.pass(&reply).await?;
        let mut text = Vec::new();
        loop {
            let state = decoder.text(&mut text);
            // A next hop that is gone is noticed at the end: until then the client speaks on.
            if let Some(hop) = &mut self.hop
                && hop.write(&text).await.is_err()
            {
                self.hop = None;
            }
            text.clear();
            match state {
                Text::More => {}
                Text::End => return self.end_of_message().await,
                Text::BareLineEnd => {
                    // Not ended, so not taken: the next hop throws it away.
                    self.hop = None;
                    self.write("554 5.6.0 A line does not end with CRLF\r\n").await?;
                    return Ok(Next::Close);
                }
            }
            let length = timeout(READ_TIMEOUT, self.io.read(bytes)).await??;
            if length == 0 {
                self.hop = None;
                return Ok(Next::Close);
            }
            decoder.feed(bytes.get(..length).unwrap_or_default());
        }
    }

    async fn end_of_message(&mut self) -> io::Result<Next> {
        if let Some(refusal) = self.judge(Stage::EndOfMessage).await {
            // Without its last line the next hop has no message.
            self.hop = None;
            self.message = None;
            return self.say(&refusal).await;
        }
        let Some(hop) = &mut self.hop else { return self.gone().await };
        let Ok(reply) = hop.end().await else { return self.gone().await };
        self.message = None;
        self.client.queue_id.clear();
        self.pass(&reply).await
    }

    /// Asks; returns the refusal if there is one.
    async fn judge(&mut self, stage: Stage) -> Option<String> {
        let (message, client) = (self.message.as_ref()?, self.client.address?);
        let is_at_end = stage == Stage::EndOfMessage;
        let asked = Asked {
            door: "proxy",
            stage,
            client,
            client_port: self.client.port,
            client_name: &self.client.name,
            reverse_name: &self.client.name,
            helo: &self.client.helo,
            sender: &message.sender,
            recipient: if is_at_end && message.recipients != 1 {
                ""
            } else {
                &message.last_recipient
            },
            sasl_user: "",
            instance: &message.instance,
            queue_id: &self.client.queue_id,
            context: CONTEXT,
            size_bytes: message.size_bytes,
            recipient_count: if is_at_end { message.recipients } else { 0 },
            unknown: &[],
        };
        let judged = self.door.hub.judge(&asked, &mut self.desk).await;
        let reply = judged.reply?;
        Some(format!("{} {} {}\r\n", reply.code, reply.status, self.desk.reply))
    }

    /// Gives a message up, at the next hop too.
    async fn reset(&mut self) {
        if self.message.is_some() {
            self.leave();
            if let Some(hop) = &mut self.hop
                && !hop.say("RSET\r\n").await.is_ok_and(|reply| reply.is_positive())
            {
                self.hop = None;
            }
        }
    }

    fn leave(&mut self) {
        if let Some(message) = self.message.take() {
            self.door.hub.leave(self.door.hub.transaction(&message.instance));
        }
    }

    /// The next hop is gone in the middle: the message is not taken, and the client may try again.
    async fn gone(&mut self) -> io::Result<Next> {
        self.hop = None;
        self.leave();
        self.say("451 4.3.0 The next hop does not answer\r\n").await
    }

    async fn wrong(&mut self, text: &str) -> io::Result<Next> {
        self.errors += 1;
        if self.errors > ERRORS_MAX {
            self.write("421 4.7.0 Too many errors\r\n").await?;
            return Ok(Next::Close);
        }
        self.say(text).await
    }

    /// The next hop's answer is the answer.
    async fn pass(&mut self, reply: &Reply) -> io::Result<Next> {
        let mut text = std::mem::take(&mut self.out);
        text.clear();
        for (place, line) in reply.lines.iter().enumerate() {
            let mark = if place + 1 == reply.lines.len() { ' ' } else { '-' };
            let _ = write!(text, "{}{mark}", reply.code);
            if let Some((class, subject, detail)) = reply.enhanced {
                let _ = write!(text, "{class}.{subject}.{detail} ");
            }
            let _ = write!(text, "{line}\r\n");
        }
        let next = self.say(&text).await;
        self.out = text;
        if reply.code == 421 {
            self.hop = None;
            self.leave();
        }
        next
    }

    async fn say(&mut self, text: &str) -> io::Result<Next> {
        self.write(text).await?;
        Ok(Next::GoOn)
    }

    async fn write(&mut self, text: &str) -> io::Result<()> {
        timeout(WRITE_TIMEOUT, self.io.write_all(text.as_bytes())).await?
    }
}

fn own(command: Command<'_>) -> Said {
    // Addresses are ASCII or, with SMTPUTF8, UTF-8; what is neither is none, and is not passed on.
    let parts = match command {
        Command::Helo(name) | Command::Ehlo(name) | Command::Xforward(name) => [name, b""],
        Command::Mail { path, parameters } | Command::Rcpt { path, parameters } => {
            [path, parameters]
        }
        _ => [&b""[..], b""],
    };
    if parts.iter().any(|part| std::str::from_utf8(part).is_err()) {
        return Said::Plain(Command::Syntax);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match command {
        Command::Helo(name) => Said::Helo(text(name), false),
        Command::Ehlo(name) => Said::Helo(text(name), true),
        Command::Mail { path, parameters } => Said::Mail(text(path), text(parameters)),
        Command::Rcpt { path, parameters } => Said::Rcpt(text(path), text(parameters)),
        Command::Xforward(attributes) => Said::Xforward(text(attributes)),
        Command::Data => Said::Plain(Command::Data),
        Command::Rset => Said::Plain(Command::Rset),
        Command::Noop => Said::Plain(Command::Noop),
        Command::Quit => Said::Plain(Command::Quit),
        Command::Help => Said::Plain(Command::Help),
        Command::Vrfy => Said::Plain(Command::Vrfy),
        Command::Syntax => Said::Plain(Command::Syntax),
        Command::Unknown => Said::Plain(Command::Unknown),
    }
}

fn faulty(fault: Fault) -> &'static str {
    match fault {
        Fault::TooLong => "500 5.5.2 Line too long\r\n",
        Fault::BareLineEnd => "500 5.5.2 A line does not end with CRLF\r\n",
        Fault::Nul => "500 5.5.2 A NUL in a command\r\n",
    }
}

fn line(command: &str, path: &str, parameters: &str) -> String {
    let space = if parameters.is_empty() { "" } else { " " };
    format!("{command}:<{path}>{space}{parameters}\r\n")
}

/// A value in xtext (RFC 3461 section 4); nothing if it is none, or holds what no value may.
fn from_xtext(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'+' {
            bytes.push(byte);
            continue;
        }
        let (high, low) =
            (char::from(rest.next()?).to_digit(16)?, char::from(rest.next()?).to_digit(16)?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    let is_fine = bytes.iter().all(u8::is_ascii_graphic);
    (is_fine && bytes.len() <= 255).then(|| String::from_utf8(bytes).ok()).flatten()
}
