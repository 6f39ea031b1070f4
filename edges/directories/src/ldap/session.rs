//! One connection that is open and bound: requests out, answers in, one at a time.

use std::time::Instant;

use mpp_hub::directory::Trouble;
use mpp_wire::ldap::{Decoder, Entry, Filter, Message, Outcome, Request, Scope, Search};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::said;

/// More entries than this are never asked for; the rest of an answer that has more is not read.
pub(super) const ENTRIES_MAX: u32 = 500;

/// Bytes both ways: TCP, TLS or a socket of this machine.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why a session gives no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection is of no use any more. If it had been idle, another one may be.
    Lost(String),
    /// The server has answered, and it is no answer.
    Said(Trouble),
}

/// What a search found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) entries: Vec<Entry>,
    /// Whether there cannot be more.
    pub(super) is_whole: bool,
}

/// What to search for.
pub(super) struct Wanted<'a> {
    pub(super) base: &'a str,
    pub(super) scope: Scope,
    pub(super) filter: &'a Filter<Vec<u8>>,
    pub(super) attributes: &'a [&'a str],
    pub(super) entries_max: u32,
}

/// No attribute: that there is an entry says it all (RFC 4511, 4.5.1.8).
pub(super) const NONE: &[&str] = &["1.1"];

/// What holds for all searches of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Manner {
    /// After how many seconds the server is to give up.
    pub(super) seconds_max: u32,
    /// Whether references to other servers are passed over, as those of Active Directory to its
    /// own configuration have to be.
    pub(super) passes_over_references: bool,
    /// What must not be repeated.
    pub(super) hidden: Option<String>,
}

/// A connection.
pub(super) struct Session {
    stream: Box<dyn Stream>,
    decoder: Decoder,
    last_id: u32,
    pub(super) manner: Manner,
    /// Since when nobody uses it.
    pub(super) idle_since: Instant,
    /// An answer was not read to its end: nobody could tell the rest from the next one.
    pub(super) is_spent: bool,
}

impl Session {
    pub(super) fn new(stream: impl Stream + 'static, manner: Manner) -> Self {
        let stream = Box::new(stream);
        let (decoder, idle_since) = (Decoder::default(), Instant::now());
        Self { stream, decoder, last_id: 0, manner, idle_since, is_spent: false }
    }

    async fn send(&mut self, request: &Request<'_>) -> Result<u32, Fault> {
        self.last_id = self.last_id % 0x7fff_ffff + 1;
        let bytes = request.encode(self.last_id);
        let sent = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| Fault::Lost(format!("the connection breaks: {error}")))?;
        Ok(self.last_id)
    }

    async fn receive(&mut self, id: u32) -> Result<Message, Fault> {
        let mut bytes = [0; 4096];
        loop {
            let next = self.decoder.next_message();
            let next = next.map_err(|wrong| Fault::Lost(format!("it answers {wrong}")))?;
            match next {
                Some(received) if received.id == id => return Ok(received.message),
                // RFC 4511, 4.4.1: unasked, and the last that it says.
                Some(received) if received.id == 0 => {
                    return Err(Fault::Lost("it ends the connection".into()));
                }
                Some(_) => return Err(Fault::Lost("it answers what was not asked".into())),
                None => {}
            }
            match self.stream.read(&mut bytes).await {
                Ok(0) if self.decoder.held() > 0 => {
                    return Err(Fault::Lost("it closes the connection in the middle".into()));
                }
                Ok(0) => return Err(Fault::Lost("it closes the connection".into())),
                Ok(count) => self.decoder.feed(bytes.get(..count).unwrap_or_default()),
                Err(error) => return Err(Fault::Lost(format!("the connection breaks: {error}"))),
            }
        }
    }

    /// Says who asks.
    pub(super) async fn bind(&mut self, dn: &str, password: &str) -> Result<(), Fault> {
        let id = self.send(&Request::Bind { dn, password }).await?;
        match self.receive(id).await? {
            Message::Bound(outcome) if outcome.code == said::SUCCESS => Ok(()),
            Message::Bound(outcome) => Err(Fault::Said(said::bind(&outcome, dn, Some(password)))),
            _ => Err(Fault::Lost("it answers what was not asked".into())),
        }
    }

    /// Searches, and tells an answer from none.
    pub(super) async fn search(&mut self, wanted: &Wanted<'_>) -> Result<Found, Fault> {
        let request = Request::Search(Search {
            base: wanted.base,
            scope: wanted.scope,
            filter: wanted.filter,
            attributes: wanted.attributes,
            entries_max: wanted.entries_max,
            seconds_max: self.manner.seconds_max,
        });
        let id = self.send(&request).await?;
        let (mut entries, mut has_references) = (Vec::new(), false);
        let outcome = loop {
            match self.receive(id).await? {
                // Samba 4.17 heeds no size limit: what is found is found, and the rest is not read.
                Message::Entry(_) if entries.len() >= wanted.entries_max as usize => {
                    self.is_spent = true;
                    return Ok(Found { entries, is_whole: false });
                }
                Message::Entry(entry) => entries.push(entry),
                Message::Reference => has_references = true,
                Message::Intermediate => {}
                Message::Done(outcome) => break outcome,
                Message::Bound(_) | Message::Extended(_) => {
                    return Err(Fault::Lost("it answers what was not asked".into()));
                }
            }
        };
        self.found(wanted, entries, &outcome, has_references)
    }

    fn found(
        &self,
        wanted: &Wanted<'_>,
        entries: Vec<Entry>,
        outcome: &Outcome,
        has_references: bool,
    ) -> Result<Found, Fault> {
        let has_references = has_references && !self.manner.passes_over_references;
        let is_whole = outcome.code == said::SUCCESS && !has_references;
        if is_whole || !entries.is_empty() {
            return Ok(Found { entries, is_whole });
        }
        if outcome.code == said::SUCCESS {
            let base = wanted.base;
            let text = format!("a part of what is below {base} is at another server: ask that one");
            return Err(Fault::Said(Trouble::NotNow(text)));
        }
        Err(Fault::Said(said::search(outcome, wanted.base, self.manner.hidden.as_deref())))
    }

    /// Whether an entry is there and can be read.
    pub(super) async fn check_base(&mut self, base: &str, who: &str) -> Result<(), Fault> {
        let filter = Filter::Present("objectClass".into());
        let (scope, attributes) = (Scope::Base, NONE);
        let wanted = Wanted { base, scope, filter: &filter, attributes, entries_max: 1 };
        if self.search(&wanted).await?.entries.is_empty() {
            // 389 Directory Server and OpenLDAP find nothing for those who may see nothing, and
            // call that a success.
            return Err(Fault::Said(Trouble::Down(format!(
                "{who} cannot read {base}: it would find nobody"
            ))));
        }
        Ok(())
    }

    /// Ends it. A server that does not care is left to find out by itself.
    pub(super) async fn close(mut self) {
        let _ = self.send(&Request::Unbind).await;
        let _ = self.stream.shutdown().await;
    }
}
