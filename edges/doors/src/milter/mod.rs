//! The milter door: what Postfix or Sendmail say about a connection and its messages, answered with
//! the same judgements as everywhere.
//!
//! A filter of envelopes: the body is negotiated away, the header too unless a policy removes fields
//! of it, and so are the answers to steps at which nothing is asked, so that they cost no round trip.
//! Nothing is said that was not agreed on: where a message cannot be held or changed as its policy
//! wants it, it is deferred.

mod agreement;
mod collected;
mod message;
mod scan;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mpp_engine::facts::Stage;
use mpp_engine::verdict::Action;
use mpp_hub::quarantine::{Quarantine, RELEASED_FIELD};
use mpp_hub::spool::Spool;
use mpp_hub::trace::Speaker;
use mpp_hub::{Desk, Hub, Judged, Order};
use mpp_wire::milter::{Decoder, Event, Texts, protocol};
use mpp_wire::milter_answer::Answer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};

use self::agreement::{Agreement, Offer, Wishes};
use self::message::{Client, Fate, Known, Message, UNKNOWN, joined, readable, resolved};
use self::scan::Outcome;
use crate::dialogue;
use crate::listen::Connection;
use crate::mark;
use crate::scanning::Named;

/// Bytes read at once.
const READ_BYTES: usize = 4096;
/// A peer that does not take its answer for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// A packet that has begun is whole within this time.
const PACKET_TIME: Duration = Duration::from_mins(1);
/// What the hub calls this door when it ties requests together.
const CONTEXT: &str = "milter";

/// To a message that cannot be held or changed here as its policy wants it.
const CANNOT: Answer<'static> =
    Answer::Reply { code: 451, status: "4.3.0", text: "Cannot be done now" };
/// To one more recipient than can be remembered.
const TOO_MANY_RECIPIENTS: Answer<'static> =
    Answer::Reply { code: 452, status: "4.5.3", text: "Too many recipients" };
/// To a message with more header fields that may have to be removed than can be.
const TOO_MANY_FIELDS: Answer<'static> =
    Answer::Reply { code: 554, status: "5.6.0", text: "Too many header fields of one kind" };

/// What a listener of this door knows.
#[derive(Clone)]
pub struct Door {
    /// Where questions go.
    pub hub: Arc<Hub>,
    /// The stages at which something is asked.
    pub stages: Arc<[Stage]>,
    /// Where messages wait that are looked into.
    pub spool: Arc<Spool>,
    /// Where messages are held, if they can be.
    pub quarantine: Option<Arc<dyn Quarantine>>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("stages", &self.stages).finish_non_exhaustive()
    }
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

struct Session {
    door: Door,
    number: u64,
    messages: u64,
    /// What was agreed on, once it was.
    agreement: Option<Agreement>,
    known: Known,
    /// How the mail of the recipient is scanned that was judged last.
    order: Option<Order>,
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
            agreement: None,
            known: Known::default(),
            order: None,
            desk: Desk::default(),
        }
    }

    /// Answers until the peer closes; returns what was wrong if something was.
    async fn run(&mut self, io: &mut Connection) -> io::Result<Option<String>> {
        let mut decoder = Decoder::default();
        let mut bytes = vec![0; READ_BYTES];
        let mut out = Vec::new();
        let mut began = None;
        loop {
            // What is held of a packet costs memory, and no server takes so long to say it.
            let length = if decoder.is_inside() {
                let until = *began.get_or_insert_with(Instant::now) + PACKET_TIME;
                let Ok(read) = timeout_at(until, io.read(&mut bytes)).await else {
                    return Ok(Some("a packet that does not end".to_owned()));
                };
                read?
            } else {
                began = None;
                io.read(&mut bytes).await?
            };
            if length == 0 {
                return Ok(decoder.is_inside().then(|| "it ended inside a packet".to_owned()));
            }
            decoder.feed(bytes.get(..length).unwrap_or_default());
            let end = loop {
                match decoder.next_event() {
                    Ok(Some(Event::Quit)) => break Some(None),
                    Ok(Some(event)) => {
                        began = None;
                        let (step, before) = (self.watched_step(&event), out.len());
                        if let Err(wrong) = self.answer(event, &mut out).await {
                            break Some(Some(wrong));
                        }
                        if self.agreement.as_ref().is_some_and(|agreement| agreement.collects) {
                            decoder.hand_out_content();
                        }
                        if let Some((client, step)) = step {
                            self.show((client, &step), out.get(before..).unwrap_or_default());
                        }
                    }
                    Ok(None) => break None,
                    Err(malformed) => break Some(Some(malformed.to_string())),
                }
            };
            if out.is_empty() {
                // Postfix goes on with the next step, to which there may be an answer.
                io.acknowledge();
            }
            // What was answered before the fault is still sent.
            timeout(WRITE_TIMEOUT, io.write_all(&out)).await.map_err(io::Error::other)??;
            out.clear();
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Answers what a server says.
    ///
    /// # Errors
    /// It has no place here. Only a server can be to blame: a client cannot change the order.
    async fn answer(&mut self, event: Event<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        if let Some(what) = self.out_of_place(&event) {
            return Err(format!("{what} out of place"));
        }
        match event {
            Event::Negotiate { version, actions, protocol } => {
                self.negotiate(Offer { version, actions, protocol }, out)?;
            }
            Event::Macros { command, pairs } => self.known.noted.note(command, pairs),
            Event::Connect { name, port, address } => {
                self.known.client = Some(self.connected(name, port, address));
                self.step(Stage::Connect, protocol::QUIET_CONNECT, out).await;
            }
            Event::Helo(name) => {
                if let Some(client) = &mut self.known.client {
                    client.helo = readable(name);
                }
                self.step(Stage::Helo, protocol::QUIET_HELO, out).await;
            }
            Event::Mail { address, parameters } => {
                self.begin(address, parameters);
                self.step(Stage::Mail, protocol::QUIET_MAIL, out).await;
            }
            Event::Recipient { address, parameters } => {
                self.recipient((address, parameters), out).await;
            }
            Event::Data => drop(self.step(Stage::Data, 0, out).await),
            Event::Header { name, is_cut, size_bytes } => {
                self.header((name, is_cut), size_bytes, out);
            }
            Event::Body { size_bytes, is_last } => self.body((size_bytes, is_last), out),
            Event::EndOfMessage => self.end(out).await,
            // Negotiated away; a server that cannot leave them out wants an answer to each.
            Event::EndOfHeaders | Event::Unknown => Answer::Continue.push(out),
            Event::Content { bytes, is_last } => {
                if let Some(message) = &mut self.known.message {
                    message.collected.content(bytes, is_last);
                }
            }
            Event::Abort => {
                self.leave();
                self.known.noted.forget_message();
            }
            Event::NextClient => {
                self.leave();
                self.known = Known::default();
            }
            // Ends the loop before it comes here.
            Event::Quit => {}
        }
        Ok(())
    }

    /// A step in words and whose it is, if somebody watches the client or whoever it may turn out
    /// to be.
    fn watched_step(&self, event: &Event<'_>) -> Option<(Option<IpAddr>, String)> {
        let (hub, client) = (&self.door.hub, self.client());
        let is_watched = hub.is_watched() && client.is_none_or(|client| hub.traces(client));
        is_watched.then(|| Some((client, dialogue::step(event)?))).flatten()
    }

    /// To those who watch the client: a step, and the answer to it.
    fn show(&self, (client, step): (Option<IpAddr>, &str), answer: &[u8]) {
        let Some(client) = self.client().or(client) else { return };
        let session = format!("milter.{:x}", self.number);
        self.door.hub.trace(client, &session, Speaker::Client, step);
        if let Some(answer) = dialogue::answers(answer) {
            self.door.hub.trace(client, &session, Speaker::Server, &answer);
        }
    }

    fn client(&self) -> Option<IpAddr> {
        self.known.client.as_ref().and_then(|client| client.address)
    }

    /// What it is, if it has no place at this point of the conversation.
    fn out_of_place(&self, event: &Event<'_>) -> Option<&'static str> {
        let (is_agreed, has_client) = (self.agreement.is_some(), self.known.client.is_some());
        let has_message = self.known.message.is_some();
        let (what, is_fine) = match event {
            Event::Negotiate { .. } => ("negotiation", !is_agreed),
            Event::Macros { .. } => ("macros", is_agreed),
            Event::Connect { .. } => ("a client", is_agreed && !has_client),
            Event::Helo(_) => ("HELO", has_client),
            Event::Mail { .. } => ("MAIL", has_client),
            Event::Recipient { .. } => ("RCPT", has_message),
            Event::Data => ("DATA", has_message),
            Event::Header { .. } | Event::EndOfHeaders => ("a header", has_message),
            Event::Body { .. } | Event::Content { .. } => ("a body", has_message),
            Event::EndOfMessage => ("the end of a message", has_message),
            Event::Unknown => ("a command", has_client),
            Event::Abort => ("an abort", is_agreed),
            Event::NextClient => ("another client", is_agreed),
            Event::Quit => ("an end", true),
        };
        (!is_fine).then_some(what)
    }

    fn negotiate(&mut self, offer: Offer, out: &mut Vec<u8>) -> Result<(), String> {
        let live = self.door.hub.live();
        let wishes = Wishes {
            stages: &self.door.stages,
            rejected: live.configuration.listen.milter_rejected,
            needs: live.configuration.policies.needs(),
            size: live.configuration.policies.count_bytes(),
            scans: live.configuration.policies.scan(),
            marks: self.door.quarantine.is_some(),
        };
        let agreement = Agreement::new(offer, &wishes)?;
        agreement.push(out);
        self.agreement = Some(agreement);
        Ok(())
    }

    /// Whether the server does not wait for an answer to a step.
    fn is_quiet(&self, step: u32) -> bool {
        self.agreement.as_ref().is_some_and(|agreement| agreement.is_quiet(step))
    }

    fn connected(&mut self, name: &[u8], port: u16, address: &[u8]) -> Client {
        let name = readable(name);
        let is_name = !name.starts_with('[') && name != "unknown" && !self.known.noted.is_forged;
        Client {
            address: readable(address).parse().ok(),
            port,
            name: if is_name { name } else { String::new() },
            reverse_name: std::mem::take(&mut self.known.noted.reverse_name),
            ..Client::default()
        }
    }

    /// A message begins.
    fn begin(&mut self, address: &[u8], mut parameters: Texts<'_>) {
        self.leave();
        self.messages += 1;
        let size = parameters.find_map(|parameter| {
            let (name, value) = parameter.split_at_checked(5)?;
            name.eq_ignore_ascii_case(b"SIZE=").then_some(value)
        });
        let size = size.and_then(|size| std::str::from_utf8(size).ok()?.parse().ok());
        let instance = format!("milter.{:x}.{:x}", self.number, self.messages);
        let all = joined(parameters.clone());
        let fate = self.known.client.as_ref().map(|client| client.fate).unwrap_or_default();
        let sender = resolved(&self.known.noted.sender, address);
        let mut message = Message::begin(instance, sender, size.unwrap_or(0), fate);
        message.parameters = all;
        message.is_believed = self.door.quarantine.is_some()
            && (self.client().is_some_and(|client| client.is_loopback())
                || mark::is_believed(self.client(), &self.door.hub.live().configuration));
        self.known.message = Some(message);
    }

    /// The message is over, and was not taken.
    fn leave(&mut self) {
        if let Some(message) = self.known.message.take() {
            self.door.hub.leave(self.door.hub.transaction(&message.instance));
        }
    }

    async fn recipient(&mut self, said: (&[u8], Texts<'_>), out: &mut Vec<u8>) {
        let (address, parameters) = said;
        let recipient = self.known.noted.recipient(address);
        let agreement = self.agreement.as_ref();
        let hears = agreement.is_some_and(Agreement::hears_of_rejected);
        let is_named = agreement.is_some_and(Agreement::names_recipients);
        if let Some(status) = self.known.noted.refused().filter(|_| hears) {
            // No question: the server has refused it, and only wants it to be known.
            if UNKNOWN.contains(&&*status)
                && let Some(asked) = self.known.asked(Stage::Rcpt, &recipient)
            {
                self.door.hub.note_refused(&asked, &mut self.desk).await;
            }
            return Answer::Continue.push(out);
        }
        if is_named && self.known.message.as_ref().is_some_and(|message| !message.has_room(address))
        {
            return TOO_MANY_RECIPIENTS.push(out);
        }
        let passes = self.step_about(Stage::Rcpt, &recipient, (0, out)).await;
        if let Some(message) = self.known.message.as_mut().filter(|_| passes) {
            message.recipients += 1;
            message.last_recipient = recipient;
            message.collected.named.push(Named {
                path: String::from_utf8_lossy(address).into_owned(),
                parameters: joined(parameters),
                order: self.order.take(),
                held_by: None,
            });
            if is_named {
                message.name(address);
            }
        }
    }

    fn header(&mut self, field: (&[u8], bool), size_bytes: usize, out: &mut Vec<u8>) {
        let is_mark = field.0.trim_ascii_end().eq_ignore_ascii_case(RELEASED_FIELD.as_bytes());
        if let Some(message) = self.known.message.as_mut().filter(|_| is_mark) {
            message.collected.has_mark |= message.is_believed;
        }
        self.begin_collecting();
        if let (Some(message), Some(agreement)) = (&mut self.known.message, &self.agreement) {
            message.see(field, &agreement.removed);
            message.collected.field(field.0);
            message.measure(size_bytes);
        }
        if !self.is_quiet(protocol::QUIET_HEADERS) {
            Answer::Continue.push(out);
        }
    }

    fn body(&mut self, (size_bytes, is_last): (usize, bool), out: &mut Vec<u8>) {
        self.begin_collecting();
        if let Some(message) = &mut self.known.message {
            message.collected.body();
            message.measure(size_bytes);
        }
        // What comes with the end of the message is answered with it.
        if !is_last && !self.is_quiet(protocol::QUIET_BODY) {
            Answer::Continue.push(out);
        }
    }

    async fn end(&mut self, out: &mut Vec<u8>) {
        if self.known.message.as_ref().is_some_and(Message::has_too_many_fields) {
            TOO_MANY_FIELDS.push(out);
            self.leave();
            return self.known.noted.forget_message();
        }
        if let (Some(message), Some(agreement)) = (&mut self.known.message, &self.agreement) {
            message.weigh(agreement);
        }
        let judged = self.judge(Stage::EndOfMessage, "").await;
        let is_refused = judged.as_ref().is_some_and(|judged| judged.reply.is_some());
        let is_thrown_away = fate_of(judged.as_ref()) == Fate::Discarded;
        let has_mark =
            self.known.message.as_ref().is_some_and(|message| message.collected.has_mark);
        let looks_into = judged.is_some() && !is_refused && (!is_thrown_away || has_mark);
        let is_collected = looks_into
            && self.known.message.as_ref().is_some_and(|message| message.collected.is_begun());
        let outcome = if is_collected { Some(self.look_into().await) } else { None };
        self.answer_end((judged, outcome), out);
        self.known.noted.forget_message();
    }

    /// Says what becomes of a message that has ended.
    fn answer_end(
        &mut self,
        (judged, outcome): (Option<Judged>, Option<Outcome>),
        out: &mut Vec<u8>,
    ) {
        let (Some(message), Some(agreement)) = (&mut self.known.message, &self.agreement) else {
            return;
        };
        let text = &self.desk.reply;
        let reply = judged.as_ref().and_then(|judged| judged.reply);
        let fate = message.fate.max(fate_of(judged.as_ref()));
        let mut is_taken = reply.is_none();
        match (reply, &outcome) {
            (Some(reply), _) => {
                Answer::Reply { code: reply.code, status: reply.status, text }.push(out);
            }
            (None, Some(Outcome::Refused(code, status))) => {
                is_taken = false;
                Answer::Reply { code: *code, status, text }.push(out);
            }
            (None, Some(Outcome::NotNow)) => {
                is_taken = false;
                CANNOT.push(out);
            }
            (None, Some(Outcome::Gone)) => Answer::Discard.push(out),
            (None, Some(Outcome::AsItCame)) => Answer::Continue.push(out),
            (None, _) if fate == Fate::Discarded => Answer::Discard.push(out),
            (None, Some(Outcome::Passes(_)) | None) => {
                let additions = match &outcome {
                    Some(Outcome::Passes(additions)) => Some(additions),
                    _ => None,
                };
                let edits = judged.as_ref().and_then(|judged| judged.edits.as_ref());
                let what = (fate == Fate::Held, additions);
                if message.push(edits, what, agreement, out) {
                    Answer::Continue.push(out);
                } else {
                    crate::warn(
                        "milter: the mail server does not let a message be held or changed",
                    );
                    is_taken = false;
                    CANNOT.push(out);
                }
            }
        }
        if !is_taken {
            // What was not taken, whatever the reason, uses nothing up.
            self.door.hub.take_back(&message.instance, &mut self.desk);
        }
        if judged.is_some() {
            // Over: what it held stays counted, or was given back by the judgement.
            self.known.message = None;
        } else {
            self.leave();
        }
    }

    /// Asks if anything is to be asked at this step, and answers if the server waits for it.
    /// Returns whether nothing stands against it.
    async fn step(&mut self, stage: Stage, quiet: u32, out: &mut Vec<u8>) -> bool {
        self.step_about(stage, "", (quiet, out)).await
    }

    /// The same about a recipient.
    async fn step_about(
        &mut self,
        stage: Stage,
        recipient: &str,
        (quiet, out): (u32, &mut Vec<u8>),
    ) -> bool {
        let judged = self.judge(stage, recipient).await;
        if let Some(reply) = judged.as_ref().and_then(|judged| judged.reply) {
            let text = &self.desk.reply;
            Answer::Reply { code: reply.code, status: reply.status, text }.push(out);
            return false;
        }
        // It can be held in the queue or thrown away only when it is there.
        let fate = fate_of(judged.as_ref());
        if let Some(message) = &mut self.known.message {
            message.fate = message.fate.max(fate);
        } else if let Some(client) = &mut self.known.client {
            client.fate = client.fate.max(fate);
        }
        if !self.is_quiet(quiet) {
            Answer::Continue.push(out);
        }
        true
    }

    /// Asks the hub, if anything is to be asked at this stage.
    async fn judge(&mut self, stage: Stage, recipient: &str) -> Option<Judged> {
        if !self.door.asks(stage) {
            return None;
        }
        let asked = self.known.asked(stage, recipient)?;
        let mut judged = self.door.hub.judge(&asked, &mut self.desk).await;
        self.order = judged.scan.take();
        Some(judged)
    }
}

fn fate_of(judged: Option<&Judged>) -> Fate {
    match judged.map(|judged| judged.decision.verdict.action) {
        Some(Action::Hold) => Fate::Held,
        Some(Action::Discard) => Fate::Discarded,
        _ => Fate::Passes,
    }
}
