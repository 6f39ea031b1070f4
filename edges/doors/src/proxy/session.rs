//! The conversation with a client, command by command.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use mpp_engine::facts::Stage;
use mpp_engine::verdict::Action;
use mpp_hub::session::Session as Ended;
use mpp_hub::trace::Speaker;
use mpp_hub::{Asked, Desk, Order};
use mpp_wire::smtp_server::{Command, Decoder, Syntax};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};

use super::Door;
use super::client::Client;
use super::gate::{Setup, Tally};
use super::hold::{Growth, HOLD};
use super::reply::{self, Answer, STOPPING, TOO_SLOW};
use super::said::{Said, own, shown};
use super::transaction::Transaction;
use crate::listen::Connection;

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;
/// A peer that does not take its answer for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_mins(1);
/// So long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_mins(1);
/// Who is told to go may have said more by then: so long, and so much, is read before the connection
/// is closed, since closing with unread bytes would take the reply away.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 64 * 1024;
/// What the hub calls this door when it ties requests together.
const CONTEXT: &str = "proxy";

thread_local! {
    /// Where bytes are read to: one for all sessions of a thread, so that an idle one has none.
    static SCRATCH: std::cell::RefCell<Box<[u8]>> =
        std::cell::RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// Whether the conversation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    GoOn,
    Close,
}

/// One connection.
#[allow(clippy::struct_excessive_bools, reason = "they are facts, each of its own")]
pub(crate) struct Session {
    pub(crate) door: Door,
    pub(crate) setup: Arc<Setup>,
    pub(crate) io: Connection,
    /// Whose connection it is, by what configured balancers and peers say.
    pub(crate) peer: Option<IpAddr>,
    /// Its name everywhere.
    pub(crate) id: String,
    pub(crate) messages: u32,
    pub(crate) errors: u32,
    /// Commands since the last message.
    commands: u32,
    pub(crate) passed_on: u32,
    /// Bytes of all texts.
    pub(crate) bytes: u64,
    /// How it ended, in a word.
    pub(crate) end: &'static str,
    began: Instant,
    pub(super) ends: Instant,
    /// How the text under way has grown.
    pub(super) growth: Growth,
    pub(crate) is_spared: bool,
    pub(crate) is_early: bool,
    /// HELO or EHLO was said.
    pub(crate) is_greeted: bool,
    pub(crate) is_extended: bool,
    pub(crate) is_encrypted: bool,
    /// Whose message it is.
    pub(crate) client: Client,
    /// Whose connection it is, while a message of another client is told of (XFORWARD).
    pub(crate) forwarder: Option<Client>,
    /// Whether what XFORWARD said still holds, if it said anything.
    pub(crate) is_forwarded: bool,
    /// Whose the last message was that was told of.
    last_forwarded: Option<Client>,
    pub(crate) transaction: Option<Box<Transaction>>,
    /// How the recipient's mail is scanned that was judged last, and whether it is held.
    pub(crate) order: (Option<Order>, Option<Arc<str>>),
    pub(crate) decoder: Decoder,
    pub(crate) desk: Box<Desk>,
    pub(crate) out: String,
}

impl Session {
    pub(crate) fn new(
        door: Door,
        setup: Arc<Setup>,
        io: Connection,
        peer: Option<SocketAddr>,
    ) -> Self {
        static SESSIONS: AtomicU64 = AtomicU64::new(0);
        door.hub.asks_at_end(CONTEXT);
        let mut client = Client::at(peer);
        client.is_ours = client.address.is_some_and(|address| setup.proxy.names(address));
        let number = SESSIONS.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        let ends = began + Duration::from_millis(setup.proxy.limits.session_ms);
        let networks = &door.hub.live().configuration.networks;
        // Who can open a unix socket is one of ours.
        let is_spared = client.is_ours
            || client
                .address
                .is_none_or(|it| networks.local.contains(it) || networks.trusted.contains(it));
        let decoder = Decoder::new(syntax(&setup));
        Self {
            id: format!("proxy.{:x}.{number:x}", door.hub.started_ms() / 1000),
            peer: client.address,
            door,
            setup,
            io,
            messages: 0,
            errors: 0,
            commands: 0,
            passed_on: 0,
            bytes: 0,
            end: "left",
            began,
            ends,
            growth: Growth::default(),
            is_spared,
            is_early: false,
            is_greeted: false,
            is_extended: false,
            is_encrypted: false,
            client,
            forwarder: None,
            is_forwarded: true,
            last_forwarded: None,
            transaction: None,
            order: (None, None),
            decoder,
            desk: Box::default(),
            out: String::new(),
        }
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.door.gate.tally
    }

    /// Answers until either side ends it.
    pub(crate) async fn run(&mut self) -> io::Result<()> {
        let greeting = format!("220 {} ESMTP mpp\r\n", self.setup.proxy.name_of_host);
        self.say(&greeting);
        while let Some(said) = self.next().await? {
            self.commands += u32::from(!said.may_lead_to_a_message());
            if self.commands > self.setup.proxy.limits.commands {
                Tally::more(&self.tally().too_wrong);
                self.end = "too-many-commands";
                return self.bye("421 4.7.0 Too many commands without a message\r\n").await;
            }
            match self.command(said).await {
                Ok(Next::GoOn) => {}
                // Who takes leave waits for nothing more.
                Ok(Next::Close) if self.end == "quit" => return Ok(()),
                Ok(Next::Close) => return self.bye("").await,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    Tally::more(&self.tally().too_slow);
                    self.end = "too-slow";
                    return self.bye(TOO_SLOW).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next command; nothing when the connection is over.
    async fn next(&mut self) -> io::Result<Option<Said>> {
        let mut until = None;
        loop {
            match self.decoder.next_command() {
                Ok(Some(command)) => {
                    if let Some(client) = self.client.address
                        && self.door.hub.traces(client)
                    {
                        let hub = &self.door.hub;
                        hub.trace(client, &self.id, Speaker::Client, &shown(&command));
                    }
                    return Ok(Some(own(command)));
                }
                Ok(None) => {}
                Err(fault) => {
                    self.end = "no-smtp";
                    self.bye(reply::to_fault(fault)).await?;
                    return Ok(None);
                }
            }
            self.flush().await?;
            self.decoder.rest();
            let time = self.setup.command_time(&self.door.gate);
            let last = *until.get_or_insert_with(|| (Instant::now() + time).min(self.ends));
            let is_idle = self.transaction.is_none();
            let holds_hop = self.holds_hop();
            let until = if holds_hop { last.min(Instant::now() + HOLD) } else { last };
            let read = tokio::select! {
                read = timeout_at(until, read(&mut self.io, &mut self.decoder)) => Some(read),
                // An error is that nobody is left to say so, which is the same.
                _ = self.door.stopping.wait_for(|is_stopping| *is_stopping), if is_idle => None,
            };
            match read {
                Some(Ok(Ok(0))) => return Ok(None),
                Some(Ok(Ok(_))) => {}
                Some(Ok(Err(error))) => return Err(error),
                // He keeps his place, and not that at the hop.
                Some(Err(_)) if holds_hop && Instant::now() < last => self.release_hop(),
                Some(Err(_)) => {
                    Tally::more(&self.tally().too_slow);
                    self.end = "too-slow";
                    self.bye(TOO_SLOW).await?;
                    return Ok(None);
                }
                None => {
                    self.end = "stopping";
                    self.bye(STOPPING).await?;
                    return Ok(None);
                }
            }
        }
    }

    async fn command(&mut self, said: Said) -> io::Result<Next> {
        if !self.is_forwarded {
            self.forget_forwarded();
        }
        match said {
            Said::Helo(name, is_extended) => self.helo(name, is_extended).await,
            Said::Xforward(attributes) => Ok(self.xforward(&attributes)),
            Said::Xclient(attributes) => self.xclient(&attributes).await,
            Said::Mail(path, parameters) => self.mail(path, parameters).await,
            Said::Rcpt(path, parameters) => Box::pin(self.rcpt(path, parameters)).await,
            Said::Plain(Command::Data) => Box::pin(self.data()).await,
            Said::Plain(Command::Bdat { bytes, is_last }) => {
                Box::pin(self.chunk(bytes, is_last)).await
            }
            Said::Plain(Command::StartTls) => self.starttls().await,
            Said::Plain(Command::Quit) => {
                self.say("221 2.0.0 Bye\r\n");
                self.end = "quit";
                self.flush().await?;
                Ok(Next::Close)
            }
            Said::Plain(Command::Rset) => {
                self.reset();
                Ok(self.say("250 2.0.0 Ok\r\n"))
            }
            Said::Plain(Command::Noop) => Ok(self.say("250 2.0.0 Ok\r\n")),
            Said::Plain(Command::Help) => Ok(self.say("214 2.0.0 See RFC 5321\r\n")),
            Said::Plain(Command::Vrfy) => Ok(self.say("252 2.0.0 Try it\r\n")),
            Said::Plain(Command::Address) => Ok(self.wrong("501 5.1.3 That is no address\r\n")),
            Said::Plain(Command::Syntax) => Ok(self.wrong("501 5.5.4 Syntax error\r\n")),
            Said::Plain(_) => Ok(self.wrong("500 5.5.1 Command not known\r\n")),
        }
    }

    async fn starttls(&mut self) -> io::Result<Next> {
        let Some(acceptor) = self.setup.acceptor.clone().filter(|_| !self.is_encrypted) else {
            return Ok(self.wrong("502 5.5.1 STARTTLS is not offered\r\n"));
        };
        if self.decoder.held() > 0 {
            // What came in the clear must not be taken for what was encrypted (CVE-2011-0411).
            self.bye("501 5.5.4 Nothing may follow STARTTLS\r\n").await?;
            return Ok(Next::Close);
        }
        self.reset();
        self.say("220 2.0.0 Ready to start TLS\r\n");
        self.flush().await?;
        let plain = std::mem::replace(&mut self.io, Connection::Closed);
        let stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(plain)).await??;
        self.io = Connection::Tls(Box::new(stream));
        self.decoder = Decoder::new(syntax(&self.setup));
        self.is_encrypted = true;
        self.is_greeted = false;
        self.client.helo.clear();
        Ok(Next::GoOn)
    }

    /// Asks, if something is asked at this stage; returns the refusal if there is one.
    pub(crate) async fn judge(&mut self, stage: Stage) -> Option<Answer> {
        if !self.setup.proxy.stages.contains(&stage) && !self.is_early {
            return None;
        }
        if self.client.is_ours && matches!(stage, Stage::Connect | Stage::Helo) {
            // A health check: nobody's mail, and nothing to be counted.
            return None;
        }
        if stage != Stage::Connect {
            self.client.settle().await;
        }
        let nothing = Transaction::default();
        let Self { door, client, transaction, desk, order, .. } = self;
        let message = transaction.as_deref().unwrap_or(&nothing);
        let asked = asked(client, message, stage, self.is_early)?;
        let judged = door.hub.judge(&asked, desk).await;
        if let Some(transaction) = transaction.as_deref_mut() {
            transaction.is_discarded |= judged.decision.verdict.action == Action::Discard;
        }
        *order = (judged.scan, judged.held_by);
        let reply = judged.reply?;
        // Before the greeting "not now" is spelled so (RFC 5321 section 4.2.3).
        let is_first = stage == Stage::Connect && reply.code < 500;
        let code = if is_first { 421 } else { reply.code };
        Some(Answer::new(code, &format!("{} {}", reply.status, desk.reply)))
    }

    /// Gives a message up, at the next hop too.
    pub(crate) fn reset(&mut self) {
        self.is_forwarded = self.forwarder.is_none();
        let Some(mut transaction) = self.transaction.take() else { return };
        let hub = &self.door.hub;
        hub.leave(hub.transaction(&transaction.instance));
        // In the middle of a text nothing else ends it.
        if let Some(hop) = transaction.hop.take().filter(|_| !transaction.is_text) {
            self.door.pool.give_back((hop, transaction.is_begun), None, &self.setup);
        }
    }

    /// Every answer to the end of a message goes through here: what was taken stays counted; of what was
    /// not, whatever the reason, nothing does.
    pub(crate) fn end_message(&mut self, answer: &Answer) -> Next {
        if !answer.is_taken() {
            // What it reserved is with the judgement of its end, or still open if it had none.
            if let Some(message) = &self.transaction {
                self.door.hub.take_back(&message.instance, &mut self.desk);
            }
            self.reset();
        }
        self.message_is_over();
        self.answer(answer)
    }

    /// Tells a client what stands in the way. To a mail server behind us it is no error; for strangers
    /// a refusal for good is.
    pub(crate) fn answer(&mut self, answer: &Answer) -> Next {
        if answer.is_permanent() && self.setup.proxy.is_gateway() {
            self.count_error();
        }
        let next = self.say(&answer.text);
        if answer.code == 421 { Next::Close } else { next }
    }

    pub(crate) fn wrong(&mut self, text: &str) -> Next {
        self.count_error();
        self.say(text)
    }

    /// Counts something that went wrong; with too many the connection is closed.
    pub(crate) fn count_error(&mut self) {
        self.errors += 1;
    }

    /// Counts a step that came to nothing.
    pub(crate) fn count_idle(&mut self) {
        self.commands += 1;
    }

    /// Whether there were too many errors, which ends the connection.
    fn is_hopeless(&self) -> bool {
        self.errors > self.setup.proxy.limits.errors
    }

    pub(crate) fn say(&mut self, text: &str) -> Next {
        self.out.push_str(text);
        if self.is_hopeless() {
            self.out.push_str("421 4.7.0 Too many errors\r\n");
            Tally::more(&self.tally().too_wrong);
            self.end = "too-many-errors";
            return Next::Close;
        }
        Next::GoOn
    }

    /// What XFORWARD said is of one message (Postfix, `XFORWARD_README`); it goes when something follows
    /// the message, so that whoever watches the client sees its end.
    pub(crate) fn forget_forwarded(&mut self) {
        self.is_forwarded = true;
        if let Some(client) = self.forwarder.take() {
            self.last_forwarded = Some(std::mem::replace(&mut self.client, client));
        }
    }

    /// A message is over: what follows may be another one.
    pub(crate) fn message_is_over(&mut self) {
        self.transaction = None;
        self.is_forwarded = self.forwarder.is_none();
        self.commands = 0;
    }

    /// To those who watch the client.
    pub(crate) fn show(&self, speaker: Speaker, text: &str) {
        if let Some(client) = self.client.address {
            self.door.hub.trace(client, &self.id, speaker, text);
        }
    }

    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.show(Speaker::Server, &self.out);
        let write = async {
            self.io.write_all(self.out.as_bytes()).await?;
            self.io.flush().await
        };
        timeout(WRITE_TIMEOUT, write).await??;
        self.out.clear();
        Ok(())
    }

    /// Writes down what it came to.
    pub(crate) fn note_end(&self) {
        let client = self.last_forwarded.as_ref().unwrap_or(&self.client);
        let Some(address) = client.address else { return };
        self.show(Speaker::Note, self.end);
        self.door.hub.session_ended(&Ended {
            door: "proxy",
            name: &self.id,
            client: address,
            client_name: &client.name,
            helo: &client.helo,
            is_encrypted: self.is_encrypted,
            messages: self.messages,
            passed_on: self.passed_on,
            errors: self.errors,
            bytes: self.bytes,
            took_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            end: self.end,
        });
    }

    /// Says the last thing and closes.
    pub(crate) async fn bye(&mut self, text: &str) -> io::Result<()> {
        self.out.push_str(text);
        self.flush().await?;
        self.io.shutdown().await?;
        let mut left = LINGER_BYTES;
        let drain = async {
            let mut bytes = [0; 1024];
            while let Ok(length @ 1..) = self.io.read(&mut bytes).await
                && length < left
            {
                left -= length;
            }
        };
        // Who does not close within this time has his reply.
        let _ = timeout(LINGER, drain).await;
        Ok(())
    }
}

/// What is asked about a message; nothing where there is no client to ask about.
pub(crate) fn asked<'a>(
    client: &'a Client,
    message: &'a Transaction,
    stage: Stage,
    is_early: bool,
) -> Option<Asked<'a>> {
    let is_at_end = matches!(stage, Stage::Data | Stage::EndOfMessage);
    let has_one = stage == Stage::Rcpt || is_at_end && message.recipients == 1;
    let announced = message.parameters.size.unwrap_or(0);
    Some(Asked {
        door: "proxy",
        stage,
        client: client.address?,
        client_port: client.port,
        client_name: &client.name,
        reverse_name: &client.reverse_name,
        helo: &client.helo,
        sender: &message.sender,
        recipient: if has_one { &message.last_recipient } else { "" },
        sasl_user: &client.login,
        instance: &message.instance,
        queue_id: &client.queue_id,
        context: CONTEXT,
        // What came, not what was announced: that costs a client nothing.
        size_bytes: if stage == Stage::EndOfMessage { message.watch.bytes } else { announced },
        recipient_count: if is_at_end { message.recipients } else { 0 },
        is_early,
        is_ours: client.is_ours,
        is_queued: !client.queue_id.is_empty(),
        unknown: &[],
    })
}

/// Reads to the decoder by way of the thread's one buffer.
pub(crate) async fn read(io: &mut Connection, decoder: &mut Decoder) -> io::Result<usize> {
    std::future::poll_fn(|context| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *io).poll_read(context, &mut buffer))?;
            decoder.feed(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    })
    .await
}

/// Who faces strangers takes what RFC 5321 allows; who stands behind a mail server takes what that took.
fn syntax(setup: &Setup) -> Syntax {
    if setup.proxy.is_gateway() { Syntax::Strict } else { Syntax::Forgiving }
}
