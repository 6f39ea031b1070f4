//! The text of a message, by DATA or BDAT: it streams through, and ends at the next hop only when
//! nothing stands against it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use mpp_engine::facts::Stage;
use mpp_hub::trace::Speaker;
use mpp_wire::smtp_server::Text;
use tokio::time::Instant;

use super::gate::Tally;
use super::hold::Growth;
use super::reply::{self, Answer, NO_ANSWER, NO_HOP, NOT_NOW, Own, TAKEN};
use super::session::{Next, Session, asked};
use super::trace_header::{RECEIVED_MAX, received};
use crate::mark;

/// A text that does not end its lines as it must; nothing behind it can be trusted.
const BARE_LINE_END: &str = "554 5.6.0 A line does not end with CRLF\r\n";

/// When there is no room for a message that has to wait.
const SPOOL_FULL: Own = Own(452, "4.3.1 No room for messages now");

impl Session {
    pub(super) async fn data(&mut self) -> io::Result<Next> {
        if let Err(answer) = self.begin_text().await {
            self.count_idle();
            return Ok(self.answer(&answer));
        }
        self.say("354 End data with <CR><LF>.<CR><LF>\r\n");
        self.flush().await?;
        self.decoder.begin_text();
        self.growth = Growth::default();
        let until = self.text_ends();
        let mut text = Vec::new();
        loop {
            match self.decoder.text(&mut text) {
                Text::More => {
                    self.pass_on(&mut text).await;
                    if self.read_text(until).await? == 0 {
                        return Ok(Next::Close);
                    }
                }
                Text::End => return self.end_of_message(text).await,
                Text::BareLineEnd => {
                    self.bye(BARE_LINE_END).await?;
                    return Ok(Next::Close);
                }
            }
        }
    }

    /// BDAT: to the next hop it is DATA.
    pub(super) async fn chunk(&mut self, bytes: u64, is_last: bool) -> io::Result<Next> {
        let mut left = bytes;
        let is_going_on = self.transaction.as_ref().is_some_and(|message| message.is_chunked);
        if !is_going_on {
            let begun = self.begin_text().await;
            if let Err(answer) = begun {
                return self.skip(left, &answer).await;
            }
            self.decoder.begin_text();
            if let Some(message) = &mut self.transaction {
                message.is_chunked = true;
            }
        }
        self.growth = Growth::default();
        let until = self.text_ends();
        let mut text = Vec::new();
        loop {
            let state = self.decoder.chunk(&mut left, &mut text);
            match state {
                Text::End => break,
                Text::More => {
                    self.pass_on(&mut text).await;
                    if self.read_text(until).await? == 0 {
                        return Ok(Next::Close);
                    }
                }
                Text::BareLineEnd => {
                    self.bye(BARE_LINE_END).await?;
                    return Ok(Next::Close);
                }
            }
        }
        if !is_last {
            self.pass_on(&mut text).await;
            return Ok(self.say(&format!("250 2.0.0 {bytes} bytes\r\n")));
        }
        if self.decoder.end_of_chunks(&mut text) == Text::BareLineEnd {
            self.bye(BARE_LINE_END).await?;
            return Ok(Next::Close);
        }
        self.end_of_message(text).await
    }

    /// Throws a chunk away that nobody wants: it comes in any case (RFC 3030 section 2).
    async fn skip(&mut self, mut left: u64, answer: &Answer) -> io::Result<Next> {
        let until = self.text_ends();
        while !self.decoder.skip(&mut left) {
            if self.read_text(until).await? == 0 {
                return Ok(Next::Close);
            }
        }
        self.count_idle();
        Ok(self.answer(answer))
    }

    fn text_ends(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.setup.proxy.limits.message_ms)
    }

    /// Has the next hop take a text.
    ///
    /// # Errors
    /// The reply to the client instead.
    async fn begin_text(&mut self) -> Result<(), Answer> {
        let Some(message) = &self.transaction else {
            return Err(Own(503, "5.5.1 MAIL first").into());
        };
        if message.is_chunked {
            return Err(Own(503, "5.5.1 BDAT goes on with BDAT").into());
        }
        if let Some(fault) = message.fault.clone() {
            self.reset();
            return Err(fault);
        }
        if message.recipients == 0 {
            return Err(Own(554, "5.5.1 No valid recipients").into());
        }
        self.order = (None, None);
        if let Some(refusal) = self.judge(Stage::Data).await {
            self.reset();
            return Err(refusal);
        }
        self.hold_all();
        let waits = self.must_be_whole();
        self.trace_it();
        let Some(message) = &mut self.transaction else { return Err(NO_HOP.into()) };
        if message.is_discarded {
            message.hop = None;
            return Ok(());
        }
        if waits || message.is_spooled() {
            return self.begin_spool();
        }
        if self.may_be_parted().await {
            if let Some(message) = &mut self.transaction {
                message.is_parted = true;
            }
            return self.begin_spool();
        }
        if let Err(trouble) = self.edit().await {
            crate::warn(&format!("proxy {}: the next hop: {trouble}", self.setup.proxy.name));
            self.reset();
            return Err(NOT_NOW.into());
        }
        if let Some(message) = &mut self.transaction {
            message.pending = Some(Vec::new());
        }
        Ok(())
    }

    /// Puts the trace header of a gateway before the text.
    fn trace_it(&mut self) {
        let now_ms = self.door.hub.now_ms();
        let is_gateway = self.setup.proxy.is_gateway();
        if let Some(message) = self.transaction.as_mut().filter(|_| is_gateway) {
            message.header = received(
                &self.client,
                (&self.setup.proxy.name_of_host, &message.instance),
                (self.is_extended, self.is_encrypted),
                now_ms,
            );
        }
    }

    /// Whether any message must be there whole before it is passed on: it may be held at its end, or be
    /// one that was released, which is changed in nothing, and only the whole of it tells.
    fn must_be_whole(&self) -> bool {
        let live = self.door.hub.live();
        let policies = &live.configuration.policies;
        policies.hold_at_end() || policies.needs().is_any() && self.believes_marks()
    }

    /// Has the message held for all, if what was judged last says so; returns whether it does.
    fn hold_all(&mut self) -> bool {
        let Some(policy) = self.order.1.take() else { return false };
        let named = self.transaction.iter_mut().flat_map(|message| &mut message.named);
        for named in named {
            named.held_by.get_or_insert_with(|| Arc::clone(&policy));
        }
        true
    }

    /// Has the message wait in the spool, with its header before it.
    fn begin_spool(&mut self) -> Result<(), Answer> {
        let whose: Vec<IpNet> = match self.stranger() {
            Some((client, network)) => vec![IpNet::from(client), network],
            None => Vec::new(),
        };
        let Some(message) = &mut self.transaction else { return Err(NO_HOP.into()) };
        let mut spool = self.door.spool.begin_for(&whose);
        let header = std::mem::take(&mut message.header);
        if let Err(trouble) = spool.write(header.as_bytes()) {
            crate::warn(&format!("spool: {trouble}"));
            self.reset();
            return Err(SPOOL_FULL.into());
        }
        message.header_bytes = header.len() as u64;
        message.spool = Some(spool);
        Ok(())
    }

    /// Learns what is to be done to the message, and does what concerns its recipients.
    async fn edit(&mut self) -> io::Result<()> {
        let Self { door, setup, client, transaction, desk, .. } = self;
        let Some(message) = transaction.as_deref_mut() else { return Ok(()) };
        if let Some(asked) = asked(client, message, Stage::EndOfMessage, false) {
            message.edits = door.hub.editing(&asked, desk).await;
        }
        message.edit_recipients(&setup.proxy, client).await
    }

    /// Passes text on as it comes. A next hop that is gone is noticed at the end: until then the
    /// client speaks on.
    async fn pass_on(&mut self, text: &mut Vec<u8>) {
        self.look_at(text);
        self.put_in_spool(text);
        self.keep_back(text).await;
        if let Some(message) = &mut self.transaction
            && message.spool.is_none()
            && message.is_text
            && let Some(hop) = &mut message.hop
            && !text.is_empty()
            && hop.write(text).await.is_err()
        {
            message.hop = None;
            message.fault = Some(NO_HOP.into());
        }
        text.clear();
    }

    /// Puts text where it waits, if it is looked into.
    fn put_in_spool(&mut self, text: &mut Vec<u8>) {
        let Some(message) = &mut self.transaction else { return };
        let Some(spool) = &mut message.spool else { return };
        message.unstuffing.pass(text);
        if let Err(trouble) = spool.write(text) {
            crate::warn(&format!("spool: {trouble}"));
            message.spool = None;
            message.fault = Some(SPOOL_FULL.into());
        }
        text.clear();
    }

    /// Looks whether text may be passed on, and puts the header before the first of it.
    fn look_at(&mut self, text: &mut Vec<u8>) {
        let believes = self.believes_marks();
        let proxy = &self.setup.proxy;
        let Some(message) = &mut self.transaction else { return };
        let has_header = proxy.is_gateway() || !message.header.is_empty();
        if has_header && message.watch.bytes == 0 && matches!(text.first(), Some(b' ' | b'\t')) {
            // No header, and a text that would go on with ours.
            text.splice(..0, *b"\r\n");
        }
        message.watch.see(text);
        if !believes {
            message.border.pass(text, &mark::FIELD);
        }
        if let Some(edits) = &message.edits {
            message.filter.pass(text, edits.removed());
        }
        if !text.is_empty() && !message.header.is_empty() {
            let header = std::mem::take(&mut message.header);
            text.splice(..0, header.into_bytes());
        }
        if !proxy.is_gateway() || message.fault.is_some() {
            return;
        }
        let takes_eight_bit = message.hop.as_ref().is_none_or(|hop| hop.offers.eight_bit);
        let fault = if message.watch.bytes > proxy.limits.message_bytes {
            Own(552, "5.3.4 Message too big")
        } else if message.watch.received > RECEIVED_MAX {
            Own(554, "5.4.6 Too many hops")
        } else if message.watch.is_eight_bit && !takes_eight_bit {
            Own(554, "5.6.1 The next hop takes no 8-bit text")
        } else {
            return;
        };
        message.fault = Some(fault.into());
        // Without its last line the next hop has no message.
        message.hop = None;
    }

    /// The text is there but for what is left of it: whatever is said now is the answer.
    async fn end_of_message(&mut self, mut rest: Vec<u8>) -> io::Result<Next> {
        self.look_at(&mut rest);
        let bytes = self.transaction.as_ref().map_or(0, |message| message.watch.bytes);
        self.bytes += bytes;
        self.show(Speaker::Note, &format!("a text of {bytes} bytes"));
        let fault = self.transaction.as_ref().and_then(|message| message.fault.clone());
        if let Some(fault) = fault {
            Tally::more(&self.tally().refused);
            return Ok(self.end_message(&fault));
        }
        self.order = (None, None);
        if let Some(refusal) = self.judge(Stage::EndOfMessage).await {
            Tally::more(&self.tally().refused);
            return Ok(self.end_message(&refusal));
        }
        let is_held = self.hold_all();
        let Some(message) = &mut self.transaction else { return Ok(Next::GoOn) };
        if message.is_discarded {
            return Ok(self.end_message(&TAKEN.into()));
        }
        if is_held && message.spool.is_none() {
            // No policy did so when its text began, and that is on its way: next time it waits.
            message.hop = None;
            Tally::more(&self.tally().refused);
            return Ok(self.end_message(&NOT_NOW.into()));
        }
        if message.spool.is_some() {
            self.put_in_spool(&mut rest);
            let is_lost = self.transaction.as_ref().is_none_or(|message| message.spool.is_none());
            if is_lost {
                return Ok(self.end_message(&SPOOL_FULL.into()));
            }
            return Box::pin(self.end_of_spooled()).await;
        }
        self.end_at_hop(rest).await
    }

    /// The next hop gets what is left of a text that streams, and what it says is the answer.
    async fn end_at_hop(&mut self, mut rest: Vec<u8>) -> io::Result<Next> {
        if let Err(answer) = self.begin_at_hop().await {
            Tally::more(&self.tally().unanswered);
            return Ok(self.end_message(&answer));
        }
        let Some(message) = &mut self.transaction else { return Ok(Next::GoOn) };
        let header = std::mem::take(&mut message.header);
        rest.splice(..0, header.into_bytes());
        let ended = match &mut message.hop {
            Some(hop) => hop.end(&mut rest, message.at_hop.unwrap_or(message.recipients)).await,
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        let Some(answer) = ended.ok().and_then(reply::of_all) else {
            message.hop = None;
            Tally::more(&self.tally().unanswered);
            return Ok(self.end_message(&NO_ANSWER.into()));
        };
        let verdict = message.watch.verdict;
        if answer.is_positive() {
            Tally::more(&self.door.gate.tally.passed_on);
            self.passed_on += 1;
            if let Some(id) = reply::queue_id(&answer) {
                self.door.hub.queued(id);
            }
        } else {
            Tally::more(&self.door.gate.tally.refused);
        }
        if let Some(hop) = message.hop.take()
            && answer.code != 421
        {
            self.door.pool.keep(hop, &self.setup);
        }
        if let Some(is_spam) = verdict {
            self.believe(is_spam).await;
        }
        Ok(self.end_message(&Answer::from(&answer)))
    }
}
