//! The policy service door: what Postfix asks about a transaction, stage by stage.
//!
//! Connections are persistent and mostly silent: one that says nothing holds no buffer. What is
//! read is worked on with a desk that the thread lends it, and the desk goes back before the next
//! wait.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use mpp_engine::facts::Stage;
use mpp_engine::verdict::Action;
use mpp_hub::clock::VirtualClock;
use mpp_hub::trace::Speaker;
use mpp_hub::{Asked, Desk, Hub, Judged, Observed};
use mpp_wire::policy::{Decoder, Malformed, Request, push_answer};
use tokio::io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, timeout_at};

use crate::dialogue;
use crate::listen::Connection;

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;
/// A peer that does not take its answer for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Tables that a thread keeps for the next connections that speak; as many are in use at once while
/// decisions wait for a store on a server.
const TABLES_MAX: usize = 64;
/// An output buffer larger than this after a burst is given back.
const OUT_BYTES_KEPT: usize = 4 * 1024;
/// Output buffers that a thread keeps.
const OUTS_MAX: usize = 64;

/// How often housekeeping is done in virtual time, in milliseconds.
const VIRTUAL_TICK_MS: u64 = 10_000;

/// What one read and its answers are worked on with.
struct Table {
    read: Box<[u8]>,
    out: Vec<u8>,
    text: String,
    texts: String,
    desk: Desk,
}

impl Table {
    fn new() -> Box<Self> {
        Box::new(Self {
            read: vec![0; READ_BYTES].into_boxed_slice(),
            out: Vec::new(),
            text: String::new(),
            texts: String::new(),
            desk: Desk::default(),
        })
    }
}

thread_local! {
    #[allow(clippy::vec_box, reason = "tables move between the list and tasks: by pointer")]
    static TABLES: RefCell<Vec<Box<Table>>> = const { RefCell::new(Vec::new()) };
    static OUTS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn borrow_table() -> Box<Table> {
    TABLES.with_borrow_mut(Vec::pop).unwrap_or_else(Table::new)
}

fn return_table(table: Box<Table>) {
    TABLES.with_borrow_mut(|tables| {
        if tables.len() < TABLES_MAX {
            tables.push(table);
        }
    });
}

fn return_out(mut out: Vec<u8>) {
    out.clear();
    OUTS.with_borrow_mut(|outs| {
        if outs.len() < OUTS_MAX && out.capacity() <= OUT_BYTES_KEPT {
            outs.push(out);
        }
    });
}

/// A request that has begun is whole within this time.
const REQUEST_TIME: Duration = Duration::from_secs(30);

/// Lets the other connections that have something to say be read and judged first. Answers that
/// are written close together wake a peer that waits for several of them once, and waking costs as
/// much as deciding.
async fn give_way() {
    let mut has_waited = false;
    poll_fn(|context: &mut Context<'_>| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Waits for bytes without holding a buffer; nothing means that the peer has closed.
async fn read(io: &mut Connection) -> io::Result<Option<(Box<Table>, usize)>> {
    poll_fn(|context: &mut Context<'_>| {
        let mut table = borrow_table();
        let mut buffer = ReadBuf::new(&mut table.read);
        let polled = Pin::new(&mut *io).poll_read(context, &mut buffer);
        let length = buffer.filled().len();
        match polled {
            Poll::Ready(Ok(())) if length > 0 => Poll::Ready(Ok(Some((table, length)))),
            other => {
                return_table(table);
                other.map_ok(|()| None)
            }
        }
    })
    .await
}

/// Writes all bytes. Nearly always there is room for them, and no timer is needed.
async fn write(io: &mut Connection, bytes: &[u8]) -> io::Result<()> {
    let at_once =
        poll_fn(|context: &mut Context<'_>| match Pin::new(&mut *io).poll_write(context, bytes) {
            Poll::Pending => Poll::Ready(Ok(0)),
            ready @ Poll::Ready(_) => ready,
        });
    let rest = match at_once.await? {
        length if length >= bytes.len() => return Ok(()),
        length => bytes.get(length..).unwrap_or_default(),
    };
    Box::pin(tokio::time::timeout(WRITE_TIMEOUT, io.write_all(rest)))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// What a listener of this door knows.
#[derive(Clone, Debug)]
pub struct Door {
    /// Where questions go.
    pub hub: Arc<Hub>,
    /// The clock that `mpp_time` sets; nothing in `serve`, which ignores the attribute.
    pub virtual_clock: Option<Arc<VirtualClock>>,
}

impl Door {
    /// Serves a connection until the peer closes it or sends what is no request.
    pub fn serve(
        self,
        mut io: Connection,
        peer: Option<IpAddr>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let mut session = Session::new(self, peer);
        // Not an async function: that would keep its arguments twice.
        async move {
            // An error is a reset or the like, which is how many peers end a connection.
            if let Ok(Some(end)) = session.run(&mut io).await {
                let from = peer.map_or_else(|| "unix".to_owned(), |peer| peer.to_string());
                crate::warn(&format!("policy service: connection from {from} closed: {end}"));
            }
            session.door.hub.leave(session.last_instance);
        }
    }
}

/// One conversation, without its connection: for replays of what was recorded.
pub struct Replay(Session);

impl Replay {
    /// Begins one.
    pub fn new(door: Door) -> Self {
        Self(Session::new(door, None))
    }

    /// The answer to a request, its `action=` and line ends left out.
    ///
    /// # Errors
    /// It is no request.
    pub async fn answer(&mut self, request: &Request<'_>) -> Result<String, Malformed> {
        let mut table = borrow_table();
        table.out.clear();
        self.0.answer(request, &mut table).await?;
        let answer = String::from_utf8_lossy(&table.out).into_owned();
        return_table(table);
        Ok(answer.trim_end().trim_start_matches("action=").to_owned())
    }
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Replay")
    }
}

struct Session {
    door: Door,
    peer: Option<IpAddr>,
    /// The transaction under way, as the hub calls it.
    last_instance: u64,
    /// When housekeeping was last done, in virtual time.
    ticked_ms: u64,
}

impl Session {
    fn new(door: Door, peer: Option<IpAddr>) -> Self {
        Self { door, peer, last_instance: 0, ticked_ms: 0 }
    }

    /// Answers until the peer closes; returns what was wrong if something was.
    async fn run(&mut self, io: &mut Connection) -> io::Result<Option<String>> {
        let mut decoder = Decoder::default();
        let mut began = None;
        loop {
            let next = if decoder.held() == 0 {
                began = None;
                read(io).await?
            } else {
                // What is held of it costs memory, and no server takes so long to say it.
                let until = *began.get_or_insert_with(Instant::now) + REQUEST_TIME;
                let Ok(next) = Box::pin(timeout_at(until, read(io))).await else {
                    return Ok(Some("a request that does not end".to_owned()));
                };
                next?
            };
            let Some((table, length)) = next else { break };
            // In a box of its own: a connection that waits does not keep room for it.
            let work = Box::pin(self.work(&mut decoder, table, length));
            let (out, end) = work.await;
            if !out.is_empty() {
                // What is held now is another one.
                began = None;
            }
            give_way().await;
            // What was answered before the fault is still sent.
            let written = write(io, &out).await;
            return_out(out);
            written?;
            if end.is_some() {
                return Ok(end.map(|malformed| malformed.to_string()));
            }
        }
        let held = decoder.held();
        Ok((held > 0).then(|| format!("it ended inside a request, after {held} bytes")))
    }

    /// Answers what was read; what it ends with is no request.
    async fn work(
        &mut self,
        decoder: &mut Decoder,
        mut table: Box<Table>,
        length: usize,
    ) -> (Vec<u8>, Option<Malformed>) {
        table.out = OUTS.with_borrow_mut(Vec::pop).unwrap_or_default();
        let bytes = std::mem::take(&mut table.read);
        let mut requests = decoder.feed(bytes.get(..length).unwrap_or_default());
        let mut end = None;
        while let Some(request) = requests.next_request() {
            let answered = match request {
                Ok(request) => self.answer(&request, &mut table).await,
                Err(malformed) => Err(malformed),
            };
            if let Err(malformed) = answered {
                end = Some(malformed);
                break;
            }
        }
        drop(requests);
        table.read = bytes;
        let out = std::mem::take(&mut table.out);
        return_table(table);
        (out, end)
    }

    async fn answer(&mut self, request: &Request<'_>, table: &mut Table) -> Result<(), Malformed> {
        if let Some(clock) = &self.door.virtual_clock
            && let Some(now_ms) = virtual_ms(request.mpp_time)
        {
            clock.advance_to(now_ms);
            // Housekeeping changes no answer; in virtual time it need not be done ten times a second.
            if now_ms >= self.ticked_ms.saturating_add(VIRTUAL_TICK_MS) {
                self.ticked_ms = now_ms;
                self.door.hub.tick();
            }
        }
        let mut texts = std::mem::take(&mut table.texts);
        let result = if let Some(asked) = asked(request, &mut texts) {
            self.answer_to(&asked, request, table).await
        } else {
            push_answer("DUNNO", &mut table.out);
            Ok(())
        };
        table.texts = texts;
        result
    }

    async fn answer_to(
        &mut self,
        asked: &Asked<'_>,
        request: &Request<'_>,
        table: &mut Table,
    ) -> Result<(), Malformed> {
        match request.request {
            b"smtpd_access_policy" => {
                let instance = self.door.hub.transaction(asked.instance);
                if instance != self.last_instance {
                    // Before the new one is judged: what the last one gives back is free for it.
                    self.door.hub.leave(self.last_instance);
                    self.last_instance = instance;
                }
                let is_watched = self.door.hub.traces(asked.client);
                if is_watched {
                    self.show(asked, Speaker::Client, &dialogue::request(asked));
                }
                let judged = self.door.hub.judge(asked, &mut table.desk).await;
                table.text.clear();
                spell(&judged, &table.desk.reply, &mut table.text);
                push_answer(&table.text, &mut table.out);
                if is_watched {
                    self.show(asked, Speaker::Server, &table.text);
                }
            }
            b"mpp_verdict" => {
                let observed = match request.verdict {
                    b"spam" => Some(Observed::Spam),
                    b"ham" => Some(Observed::Clean),
                    _ => None,
                };
                match observed {
                    Some(observed) if self.may_report() => {
                        self.door.hub.observe(asked, observed, &mut table.desk).await;
                        push_answer("DUNNO", &mut table.out);
                    }
                    Some(_) => push_answer("DUNNO not a trusted peer", &mut table.out),
                    None => push_answer("DUNNO verdict is neither spam nor ham", &mut table.out),
                }
            }
            _ => return Err(Malformed::NoRequest),
        }
        Ok(())
    }

    /// To those who watch the client.
    #[cold]
    fn show(&self, asked: &Asked<'_>, speaker: Speaker, text: &str) {
        let session = match asked.instance {
            "" => "policy".to_owned(),
            instance => format!("policy.{instance}"),
        };
        self.door.hub.trace(asked.client, &session, speaker, text);
    }

    /// Verdicts count from configured peers; who can open the unix socket is one.
    fn may_report(&self) -> bool {
        let live = self.door.hub.live();
        self.peer.is_none_or(|peer| live.configuration.networks.trusted.contains(peer))
    }
}

/// Milliseconds of `seconds[.decimals]`.
fn virtual_ms(text: &[u8]) -> Option<u64> {
    let seconds: f64 = std::str::from_utf8(text).ok()?.trim().parse().ok()?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative and far below 2^53; the cast saturates"
    )]
    (seconds >= 0.0).then(|| (seconds * 1000.0).round() as u64)
}

/// What is asked, or nothing if the client's address is not known (VRFY and ETRN by local tools).
fn asked<'a>(request: &'a Request<'a>, texts: &'a mut String) -> Option<Asked<'a>> {
    let client: IpAddr = request.text(request.client_address)?.parse().ok()?;
    let stage = match request.protocol_state {
        b"CONNECT" => Stage::Connect,
        b"EHLO" | b"HELO" => Stage::Helo,
        b"MAIL" => Stage::Mail,
        b"DATA" | b"BDAT" => Stage::Data,
        b"END-OF-MESSAGE" => Stage::EndOfMessage,
        b"VRFY" => Stage::Vrfy,
        b"ETRN" => Stage::Etrn,
        _ => Stage::Rcpt,
    };
    let number = |value| request.text(value).and_then(|text| text.trim().parse::<u64>().ok());
    let values = [
        request.client_name,
        request.reverse_client_name,
        request.helo_name,
        request.sender,
        request.recipient,
        request.sasl_username,
        request.instance,
        request.queue_id,
        request.policy_context,
    ];
    let [
        client_name,
        reverse_name,
        helo,
        sender,
        recipient,
        sasl_user,
        instance,
        queue_id,
        context,
    ] = readable(request, values, texts);
    Some(Asked {
        door: "policy",
        stage,
        client,
        client_port: number(request.client_port).and_then(|n| u16::try_from(n).ok()).unwrap_or(0),
        client_name,
        reverse_name,
        helo,
        sender,
        recipient,
        sasl_user,
        instance,
        queue_id,
        context,
        size_bytes: number(request.size).unwrap_or(0),
        recipient_count: number(request.recipient_count)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0),
        is_early: false,
        is_ours: false,
        is_queued: false,
        unknown: &request.unknown,
    })
}

/// The values as text. What is no UTF-8 gets replacement characters, kept in `texts`.
fn readable<'a, const N: usize>(
    request: &Request<'a>,
    values: [&'a [u8]; N],
    texts: &'a mut String,
) -> [&'a str; N] {
    let read = values.map(|value| request.text(value));
    if read.iter().all(Option::is_some) {
        return read.map(Option::unwrap_or_default);
    }
    texts.clear();
    let lengths = values.map(|value| {
        let before = texts.len();
        texts.push_str(&String::from_utf8_lossy(value));
        texts.len() - before
    });
    let mut rest: &'a str = texts;
    lengths.map(|length| {
        let (head, tail) = rest.split_at_checked(length).unwrap_or((rest, ""));
        rest = tail;
        head
    })
}

/// A judgement as a Postfix access(5) action.
pub fn spell(judged: &Judged, text: &str, out: &mut String) {
    let Some(reply) = judged.reply else {
        let wanted = judged.scan.as_ref().filter(|order| order.spared.is_none());
        match (judged.decision.verdict.action, wanted.map(|order| &*order.scanning.filter)) {
            (Action::Hold, _) => out.push_str("HOLD"),
            (Action::Discard, _) => out.push_str("DISCARD"),
            // Only what is undecided goes to whoever scans; Postfix goes on asking the others.
            (_, Some(filter)) if !filter.is_empty() => {
                out.push_str("FILTER ");
                out.push_str(filter);
            }
            _ => out.push_str("DUNNO"),
        }
        return;
    };
    if reply.yields {
        // Lets a later refusal for good win, which spares hopeless mail its retries.
        out.push_str("DEFER_IF_PERMIT");
    } else {
        mpp_engine::reply::push_number(u64::from(reply.code), out);
    }
    out.push(' ');
    out.push_str(reply.status);
    out.push(' ');
    out.push_str(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<F>(_: impl Fn(Door, Connection, Option<IpAddr>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_silent_connection_keeps_little() {
        let size = size_of_future(Door::serve);
        assert!(size <= 400, "{size} bytes for each connection that waits");
    }
}
