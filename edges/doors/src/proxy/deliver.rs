//! A message that lies in the spool goes to the next hop, to those recipients who want it so.

use std::borrow::Cow;
use std::io;

use mpp_engine::edits::Edits;
use mpp_hub::spool::Spooled;
use mpp_wire::smtp::Reply;

use super::rewrite::{HEAD_BYTES_MAX, Rewrite};
use super::session::Session;
use super::strip::{Cut, MESSAGE_BYTES_MAX, cuts};
use super::transaction::Said;

/// Bytes that are read from the spool, and written, at once.
const PIECE_BYTES: usize = 32 * 1024;

/// Room for the dots that are doubled in what is mostly all of a message, and for its end.
const STUFFING_BYTES: usize = 256;

/// Recipients who get a message in the same way.
#[derive(Default)]
pub(crate) struct Group {
    /// Path and parameters of each.
    pub(crate) recipients: Vec<(String, String)>,
    /// Put before the header; lines with their CRLF.
    pub(crate) before: String,
    /// What stands before the subject.
    pub(crate) mark: String,
    /// Attachments that are taken out: ends of their names, and types.
    pub(crate) strip: Vec<String>,
    /// What their policy does to messages.
    pub(crate) edits: Option<Edits>,
    /// Whether it goes to somebody else than the client named.
    pub(crate) is_redirected: bool,
    /// Whether nothing at all is done to it.
    pub(crate) is_as_it_came: bool,
}

impl Session {
    /// Delivers to a group; returns the answer, or by LMTP one for each recipient. The next hop may know
    /// its recipients already.
    ///
    /// # Errors
    /// The next hop is gone, or the spool cannot be read.
    pub(super) async fn deliver(
        &mut self,
        group: &Group,
        (text, is_as_named): (&Spooled, bool),
    ) -> io::Result<Vec<Reply>> {
        if !is_as_named && let Some(refusal) = self.name_again(group).await? {
            return Ok(vec![refusal]);
        }
        let host = self.setup.proxy.name_of_host.clone();
        let Some(message) = &mut self.transaction else { return Err(gone()) };
        let Some(hop) = &mut message.hop else { return Err(gone()) };
        if let Some(refusal) = hop.data().await? {
            return Ok(vec![refusal]);
        }
        message.is_text = true;
        let cuts = cuts_of(text, &group.strip)?;
        let mut before = group.before.clone();
        if !cuts.is_empty() {
            let names: Vec<&str> =
                cuts.iter().map(|cut| &*cut.name).filter(|name| !name.is_empty()).collect();
            let names: String = names.join("; ").chars().take(900).collect();
            // Whoever verifies signatures behind us is told why they fail.
            for part in ["X-Mpp-Taken-Out: ", &names, "\r\n"] {
                before.push_str(part);
            }
        }
        let rewrite = Rewrite {
            before,
            removed: group.edits.as_ref().map(Edits::removed),
            host: &host,
            mark: &group.mark,
        };
        // The header ends before the first part that could go, but for what goes of itself.
        let (of_header, cuts): (Vec<Cut>, Vec<Cut>) =
            cuts.into_iter().partition(|cut| cut.name.is_empty());
        let first = cuts.first().map_or(HEAD_BYTES_MAX, |cut| cut.range.start);
        let head = text.head(HEAD_BYTES_MAX.min(first))?;
        let mut place = head.len() as u64;
        let head = without(&head, &of_header);
        let rewritten = if group.is_as_it_came { head.into_owned() } else { rewrite.of(&head) };
        let mut stuffed = Vec::with_capacity(rewritten.len() + STUFFING_BYTES);
        let mut stuffing = Stuffing::default();
        stuffing.push(&rewritten, &mut stuffed);
        drop(rewritten);
        // Most messages lie in memory and have gone with their header.
        let mut piece = if place < text.bytes() { vec![0; PIECE_BYTES] } else { Vec::new() };
        let mut cuts = cuts.into_iter().peekable();
        loop {
            if let Some(cut) = cuts.next_if(|cut| cut.range.start as u64 == place) {
                stuffing.push(cut.text.as_bytes(), &mut stuffed);
                place = cut.range.end as u64;
            }
            let room = cuts.peek().map_or(u64::MAX, |cut| cut.range.start as u64 - place);
            let room = usize::try_from(room).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            // With no room the next piece that is taken out begins here.
            if place >= text.bytes() && room > 0 {
                break;
            }
            let length = text.read_at(place, piece.get_mut(..room).unwrap_or_default())?;
            place += length as u64;
            stuffing.push(piece.get(..length).unwrap_or_default(), &mut stuffed);
            hop.write(&stuffed).await?;
            stuffed.clear();
        }
        stuffing.end(&mut stuffed);
        let count = message.at_hop.unwrap_or(message.recipients);
        let replies = hop.end(&mut stuffed, count).await?;
        message.is_text = false;
        message.is_begun = false;
        if replies.is_empty() { Err(gone()) } else { Ok(replies) }
    }

    /// Names sender and recipients of a group to the next hop; returns what it has against one.
    async fn name_again(&mut self, group: &Group) -> io::Result<Option<Reply>> {
        let Self { door, setup, client, transaction, .. } = self;
        let Some(message) = transaction.as_deref_mut() else { return Err(gone()) };
        if let Some(hop) = &mut message.hop
            && message.is_begun
        {
            hop.forget().await?;
        }
        message.is_begun = false;
        if message.hop.is_none() {
            let route = message.route.unwrap_or(0);
            let opened = door.pool.take(&door.gate, setup, route).await;
            message.hop = Some(opened.map_err(io::Error::other)?);
        }
        let mut named: Vec<(&str, &str)> = Vec::new();
        match &group.edits {
            Some(edits) if edits.is_redirected() => {}
            _ => named.extend(group.recipients.iter().map(|(path, rest)| (&**path, &**rest))),
        }
        named.extend(group.edits.iter().flat_map(Edits::recipients).map(|path| (path, "")));
        let mut count = 0;
        for (path, parameters) in named {
            match message.name(&setup.proxy, client, (path, parameters)).await? {
                Said::Reply(reply) if reply.is_positive() => count += 1,
                Said::Reply(reply) => return Ok(Some(reply)),
                Said::Cannot(answer) => {
                    return Err(io::Error::other(answer.text.trim_end().to_owned()));
                }
            }
        }
        message.at_hop = Some(count);
        Ok(None)
    }
}

/// The beginning of a message without what goes of it.
fn without<'h>(head: &'h [u8], cuts: &[Cut]) -> Cow<'h, [u8]> {
    if cuts.is_empty() {
        return head.into();
    }
    let (mut out, mut place) = (Vec::with_capacity(head.len()), 0);
    for cut in cuts {
        out.extend_from_slice(head.get(place..cut.range.start).unwrap_or_default());
        out.extend_from_slice(cut.text.as_bytes());
        place = cut.range.end;
    }
    out.extend_from_slice(head.get(place..).unwrap_or_default());
    out.into()
}

/// What is taken out of a message.
fn cuts_of(text: &Spooled, wanted: &[String]) -> io::Result<Vec<Cut>> {
    if wanted.is_empty() || text.bytes() > MESSAGE_BYTES_MAX {
        return Ok(Vec::new());
    }
    let bytes = text.head(usize::try_from(text.bytes()).unwrap_or(usize::MAX))?;
    Ok(cuts(&bytes, wanted))
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// Doubles the dots at the beginning of lines (RFC 5321 section 4.5.2).
#[derive(Debug)]
pub(crate) struct Stuffing {
    is_at_start: bool,
}

impl Default for Stuffing {
    fn default() -> Self {
        Self { is_at_start: true }
    }
}

impl Stuffing {
    /// Appends a piece of a message.
    pub(crate) fn push(&mut self, text: &[u8], out: &mut Vec<u8>) {
        if self.is_at_start && text.starts_with(b".") {
            out.push(b'.');
        }
        let mut done = 0;
        for at in memchr::memmem::find_iter(text, b"\n.") {
            out.extend_from_slice(text.get(done..=at).unwrap_or_default());
            out.push(b'.');
            done = at + 1;
        }
        out.extend_from_slice(text.get(done..).unwrap_or_default());
        self.is_at_start = text.last().map_or(self.is_at_start, |last| *last == b'\n');
    }

    /// Ends the last line, if it has no end.
    pub(crate) fn end(&mut self, out: &mut Vec<u8>) {
        if !self.is_at_start {
            out.extend_from_slice(b"\r\n");
            self.is_at_start = true;
        }
    }
}

/// Takes the doubled dots out again.
#[derive(Debug)]
pub(crate) struct Unstuffing {
    is_at_start: bool,
}

impl Default for Unstuffing {
    fn default() -> Self {
        Self { is_at_start: true }
    }
}

impl Unstuffing {
    /// Takes them out of a piece.
    pub(crate) fn pass(&mut self, text: &mut Vec<u8>) {
        if self.is_at_start && text.starts_with(b".") {
            text.remove(0);
        } else if text.is_empty() {
            return;
        }
        let is_at_start = text.last().is_some_and(|last| *last == b'\n');
        if let Some(first) = memchr::memmem::find(text, b"\n.") {
            let rest = text.split_off(first + 1);
            let mut rest = &*rest;
            // It begins with a dot that goes.
            while let Some((_, line)) = rest.split_first() {
                let next = memchr::memmem::find(line, b"\n.").map_or(line.len(), |at| at + 1);
                let (kept, behind) = line.split_at_checked(next).unwrap_or((line, b""));
                text.extend_from_slice(kept);
                rest = behind;
            }
        }
        self.is_at_start = is_at_start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_is_stuffed_is_unstuffed(
            lines in proptest::collection::vec("[.a]{0,3}\r\n", 0..10),
            piece in 1_usize..7,
        ) {
            let text = lines.concat();
            let (mut stuffing, mut stuffed) = (Stuffing::default(), Vec::new());
            text.as_bytes().chunks(piece).for_each(|piece| stuffing.push(piece, &mut stuffed));
            stuffing.end(&mut stuffed);
            proptest::prop_assert!(!stuffed.starts_with(b".\r\n"));
            proptest::prop_assert!(!stuffed.windows(5).any(|five| five == b"\r\n.\r\n"));
            let (mut unstuffing, mut back) = (Unstuffing::default(), Vec::new());
            for piece in stuffed.chunks(piece) {
                let mut piece = piece.to_vec();
                unstuffing.pass(&mut piece);
                back.extend(piece);
            }
            proptest::prop_assert_eq!(String::from_utf8(back).unwrap(), text);
        }
    }
}
