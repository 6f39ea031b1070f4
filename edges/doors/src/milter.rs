//! The milter door: what Postfix or Sendmail say about a connection and its messages, answered with
//! the same judgements as everywhere.
//!
//! A filter of envelopes: header and body are negotiated away, and so are the answers to steps at
//! which nothing is asked, so that they cost no round trip.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mpp_engine::facts::Stage;
use mpp_engine::verdict::Action;
use mpp_hub::trace::Speaker;
use mpp_hub::{Asked, Desk, Hub};
use mpp_wire::milter::{Answer, Decoder, Event, MacroStage, VERSION, actions, protocol};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::dialogue;
use crate::listen::Connection;

/// Bytes read at once.
const READ_BYTES: usize = 4096;
/// A peer that does not take its answer for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a name or address that are kept; more is cut off.
const TEXT_BYTES_MAX: usize = 64 * 1024;
/// What the hub calls this door when it ties requests together.
const CONTEXT: &str = "milter";
/// The macros that are worked with, by the step that they come with.
const MACROS: [(MacroStage, &str); 4] = [
    (MacroStage::Connect, "j {client_ptr} {client_resolve}"),
    (MacroStage::Helo, "{tls_version}"),
    (MacroStage::Mail, "i {auth_authen}"),
    (MacroStage::Recipient, "i"),
];

/// What a listener of this door knows.
#[derive(Clone, Debug)]
pub struct Door {
    /// Where questions go.
    pub hub: Arc<Hub>,
    /// The stages at which something is asked.
    pub stages: Arc<[Stage]>,
}

impl Door {
    /// Serves a connection until the peer closes it or sends what is no milter protocol.
    pub async fn serve(self, mut io: Connection, peer: Option<IpAddr>) {
        let mut session = Session::new(self);
        // An error is a reset or the like, which is how many peers end a connection.
        if let Ok(Some(end)) = session.run(&mut io).await {
            let from = peer.map_or_else(|| "unix".to_owned(), |peer| peer.to_string());
            crate::warn(&format!("milter: connection from {from} closed: {end}"));
        }
        session.leave();
    }

    fn asks(&self, stage: Stage) -> bool {
        self.stages.contains(&stage)
    }
}

/// What is known of the client.
#[derive(Debug, Default)]
struct Client {
    address: Option<IpAddr>,
    port: u16,
    name: String,
    reverse_name: String,
    helo: String,
}

/// What is known of the message.
#[derive(Debug, Default)]
struct Message {
    instance: String,
    sender: String,
    sasl_user: String,
    queue_id: String,
    size_bytes: u64,
    recipients: u32,
    last_recipient: String,
    is_held: bool,
}

struct Session {
    door: Door,
    number: u64,
    messages: u64,
    /// Steps that the server does not wait for.
    quiet: u32,
    client: Client,
    message: Message,
    /// A name that does not lead back to the address proves nothing.
    is_forged: bool,
    desk: Desk,
}

impl Session {
    fn new(door: Door) -> Self {
        static SESSIONS: AtomicU64 = AtomicU64::new(0);
        if door.asks(Stage::EndOfMessage) {
            door.hub.asks_at_end(CONTEXT);
        }
        Self {
            door,
            number: SESSIONS.fetch_add(1, Ordering::Relaxed),
            messages: 0,
            quiet: 0,
            client: Client::default(),
            message: Message::default(),
            is_forged: false,
            desk: Desk::default(),
        }
    }

    /// Answers until the peer closes; returns what was wrong if something was.
    async fn run(&mut self, io: &mut Connection) -> io::Result<Option<String>> {
        let mut decoder = Decoder::default();
        let mut bytes = vec![0; READ_BYTES];
        let mut out = Vec::new();
        loop {
            let length = io.read(&mut bytes).await?;
            if length == 0 {
                let held = decoder.held();
                return Ok(
                    (held > 0).then(|| format!("it ended inside a packet, after {held} bytes"))
                );
            }
            decoder.feed(bytes.get(..length).unwrap_or_default());
            let end = loop {
                match decoder.next_event() {
                    Ok(Some(Event::Quit)) => break Some(None),
                    Ok(Some(event)) => {
                        let (step, before) = (self.watched_step(&event), out.len());
                        self.answer(event, &mut out).await;
                        if let Some((client, step)) = step {
                            self.show((client, &step), out.get(before..).unwrap_or_default());
                        }
                    }
                    Ok(None) => break None,
                    Err(malformed) => break Some(Some(malformed.to_string())),
                }
            };
            // What was answered before the fault is still sent.
            timeout(WRITE_TIMEOUT, io.write_all(&out)).await.map_err(io::Error::other)??;
            out.clear();
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    async fn answer(&mut self, event: Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Negotiate { version, actions, protocol } => {
                self.negotiate((version, actions, protocol), out);
            }
            Event::Macros(pairs) => self.note(&pairs),
            Event::Connect { name, port, address } => {
                let name = readable(name);
                let is_name = !name.starts_with('[') && name != "unknown" && !self.is_forged;
                self.client.name = if is_name { name } else { String::new() };
                self.client.port = port;
                self.client.address = readable(address).parse().ok();
                self.ask(Stage::Connect, protocol::QUIET_CONNECT, out).await;
            }
            Event::Helo(name) => {
                self.client.helo = readable(name);
                self.ask(Stage::Helo, protocol::QUIET_HELO, out).await;
            }
            Event::Mail { address, parameters } => {
                self.begin(address, &parameters);
                self.ask(Stage::Mail, protocol::QUIET_MAIL, out).await;
            }
            Event::Recipient { address, .. } => {
                self.message.last_recipient = bare(address);
                if self.ask(Stage::Rcpt, 0, out).await {
                    self.message.recipients += 1;
                }
            }
            Event::Data => drop(self.ask(Stage::Data, 0, out).await),
            Event::EndOfMessage => {
                self.ask(Stage::EndOfMessage, 0, out).await;
                // Over: what it held stays counted, or was given back by the judgement.
                self.message = Message::default();
            }
            // Negotiated away; a server that cannot leave them out wants an answer to each.
            Event::Content | Event::Unknown => Answer::Continue.push(out),
            Event::Abort => self.leave(),
            Event::NextClient => {
                self.leave();
                self.client = Client::default();
                self.is_forged = false;
            }
            // Ends the loop before it comes here.
            Event::Quit => {}
        }
    }

    fn negotiate(&mut self, (version, offered, can_skip): (u32, u32, u32), out: &mut Vec<u8>) {
        let mut skips = protocol::NO_BODY
            | protocol::NO_HEADERS
            | protocol::NO_END_OF_HEADERS
            | protocol::NO_UNKNOWN;
        for (stage, flag) in [
            (Stage::Connect, protocol::QUIET_CONNECT),
            (Stage::Helo, protocol::QUIET_HELO),
            (Stage::Mail, protocol::QUIET_MAIL),
            (Stage::Data, protocol::NO_DATA),
        ] {
            if !self.door.asks(stage) {
                skips |= flag;
            }
        }
        self.quiet = skips & can_skip;
        let wanted = actions::QUARANTINE | actions::MACROS;
        let actions = wanted & offered;
        let macros: &[(MacroStage, &str)] =
            if actions & actions::MACROS == 0 { &[] } else { &MACROS };
        let protocol = self.quiet;
        Answer::Negotiated { version: version.min(VERSION), actions, protocol, macros }.push(out);
    }

    fn note(&mut self, pairs: &[(&[u8], &[u8])]) {
        for (name, value) in pairs {
            // Sendmail writes long names in braces, Postfix does so for some.
            let name =
                name.strip_prefix(b"{").and_then(|name| name.strip_suffix(b"}")).unwrap_or(name);
            match name {
                b"i" => self.message.queue_id = readable(value),
                b"auth_authen" => self.message.sasl_user = readable(value),
                b"client_ptr" => self.client.reverse_name = readable(value),
                b"client_resolve" => self.is_forged = *value != b"OK",
                _ => {}
            }
        }
    }

    /// A message begins. What came with its macros is kept.
    fn begin(&mut self, address: &[u8], parameters: &[&[u8]]) {
        let sasl_user = std::mem::take(&mut self.message.sasl_user);
        let queue_id = std::mem::take(&mut self.message.queue_id);
        self.leave();
        self.messages += 1;
        let size = parameters.iter().find_map(|parameter| {
            let (name, value) = parameter.split_at_checked(5)?;
            name.eq_ignore_ascii_case(b"SIZE=").then_some(value)
        });
        let size = size.and_then(|size| std::str::from_utf8(size).ok()?.parse().ok());
        self.message = Message {
            instance: format!("milter.{:x}.{:x}", self.number, self.messages),
            sender: bare(address),
            sasl_user,
            queue_id,
            size_bytes: size.unwrap_or(0),
            ..Message::default()
        };
    }

    /// The message is over, whatever became of it.
    fn leave(&mut self) {
        if !self.message.instance.is_empty() {
            self.door.hub.leave(self.door.hub.transaction(&self.message.instance));
        }
        self.message = Message::default();
    }

    /// A step in words and whose it is, if somebody watches the client or whoever it may turn out
    /// to be.
    fn watched_step(&self, event: &Event<'_>) -> Option<(Option<IpAddr>, String)> {
        let (hub, client) = (&self.door.hub, self.client.address);
        let is_watched = hub.is_watched() && client.is_none_or(|client| hub.traces(client));
        is_watched.then(|| Some((client, dialogue::step(event)?))).flatten()
    }

    /// To those who watch the client: a step, and the answer to it.
    fn show(&self, (client, step): (Option<IpAddr>, &str), answer: &[u8]) {
        let Some(client) = self.client.address.or(client) else { return };
        let session = format!("milter.{:x}", self.number);
        self.door.hub.trace(client, &session, Speaker::Client, step);
        if let Some(answer) = dialogue::answers(answer) {
            self.door.hub.trace(client, &session, Speaker::Server, &answer);
        }
    }

    /// Asks if anything is to be asked at this stage, and answers if the server waits for it.
    /// Returns whether nothing stands against it.
    async fn ask(&mut self, stage: Stage, quiet: u32, out: &mut Vec<u8>) -> bool {
        let client = match self.client.address {
            Some(client) if self.door.asks(stage) => client,
            // Mail of local tools has no client; nothing is known of it.
            _ => {
                if self.quiet & quiet == 0 {
                    Answer::Continue.push(out);
                }
                return true;
            }
        };
        let Message { recipients, .. } = self.message;
        let is_at_end = matches!(stage, Stage::Data | Stage::EndOfMessage);
        let asked = Asked {
            door: "milter",
            stage,
            client,
            client_port: self.client.port,
            client_name: &self.client.name,
            reverse_name: &self.client.reverse_name,
            helo: &self.client.helo,
            sender: &self.message.sender,
            // As the policy service has it: at the end only if there is one.
            recipient: if stage == Stage::Rcpt || is_at_end && recipients == 1 {
                &self.message.last_recipient
            } else {
                ""
            },
            sasl_user: &self.message.sasl_user,
            instance: &self.message.instance,
            queue_id: &self.message.queue_id,
            context: CONTEXT,
            size_bytes: self.message.size_bytes,
            recipient_count: if is_at_end { recipients } else { 0 },
            is_early: false,
            unknown: &[],
        };
        let judged = self.door.hub.judge(&asked, &mut self.desk).await;
        match (judged.reply, judged.decision.verdict.action) {
            (Some(reply), _) => {
                let text = &self.desk.reply;
                Answer::Reply { code: reply.code, status: reply.status, text }.push(out);
                return false;
            }
            (None, Action::Discard) => Answer::Discard.push(out),
            (None, action) => {
                // It can be kept in the queue only when it is there.
                self.message.is_held |= action == Action::Hold;
                if stage == Stage::EndOfMessage && self.message.is_held {
                    Answer::Quarantine("held by mpp").push(out);
                }
                Answer::Continue.push(out);
            }
        }
        true
    }
}

/// A text of bounded length. What is no UTF-8 gets replacement characters.
fn readable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..TEXT_BYTES_MAX).unwrap_or(bytes)).into_owned()
}

/// An address without its angle brackets.
fn bare(bytes: &[u8]) -> String {
    let inside = bytes.strip_prefix(b"<").and_then(|rest| rest.strip_suffix(b">"));
    readable(inside.unwrap_or(bytes))
}
