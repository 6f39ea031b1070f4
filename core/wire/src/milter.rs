//! What a mail server says to a filter: the milter protocol, version 6 (Sendmail's `mfdef.h`,
//! Postfix's `src/milter/milter8.c`). What it is answered is in [`crate::milter_answer`].
//!
//! A packet is a length of 32 bits, a command of one byte and its payload. Of header fields only the
//! names are held, and nothing of a body; of all else a server that announces more than
//! [`PACKET_BYTES_MAX`] is not listened to any more.
//!
//! ```
//! use mpp_wire::milter::{Decoder, Event};
//!
//! let mut decoder = Decoder::default();
//! decoder.feed(b"\0\0\0\x0fR<b@x.example>\0");
//! let Some(Event::Recipient { address, .. }) = decoder.next_event().unwrap() else { panic!() };
//! assert_eq!(address, b"<b@x.example>");
//! ```

use memchr::memchr;

/// No packet that is held whole may be longer, in bytes with its command. Addresses, macros and
/// names have a few hundred (Postfix: `line_length_limit` 2048).
pub const PACKET_BYTES_MAX: usize = 64 * 1024;

/// No header field and no piece of a body may be longer. They are not held: this only tells them
/// from what is no milter protocol. A piece of a body has 65,535 bytes, of Sendmail at most 2^20; a
/// header field of Postfix 102,400 (`header_size_limit`).
pub const CONTENT_BYTES_MAX: usize = 16 << 20;

/// So much of the name of a header field is held. RFC 5322 section 2.1.1 allows no longer line.
pub const HEADER_NAME_BYTES_MAX: usize = 998;

/// What is left of a buffer that has grown beyond it is given back once it is empty.
const HELD_BYTES_KEPT: usize = 8 * 1024;

/// The version that is spoken.
pub const VERSION: u32 = 6;

/// What a filter may do to a message (`SMFIF_*`).
pub mod actions {
    /// Add and insert header fields.
    pub const ADD_HEADERS: u32 = 1;
    /// Add recipients.
    pub const ADD_RECIPIENTS: u32 = 1 << 2;
    /// Remove recipients.
    pub const REMOVE_RECIPIENTS: u32 = 1 << 3;
    /// Change and remove header fields.
    pub const CHANGE_HEADERS: u32 = 1 << 4;
    /// Put it into quarantine.
    pub const QUARANTINE: u32 = 1 << 5;
    /// Change the envelope sender.
    pub const CHANGE_SENDER: u32 = 1 << 6;
    /// Add recipients with ESMTP parameters.
    pub const ADD_RECIPIENTS_WITH_PARAMETERS: u32 = 1 << 7;
    /// Say which macros it wants.
    pub const MACROS: u32 = 1 << 8;
}

/// What a server need not send, or need not wait for (`SMFIP_*`).
pub mod protocol {
    /// The body.
    pub const NO_BODY: u32 = 1 << 4;
    /// Header fields.
    pub const NO_HEADERS: u32 = 1 << 5;
    /// That the header has ended.
    pub const NO_END_OF_HEADERS: u32 = 1 << 6;
    /// No answer to header fields.
    pub const QUIET_HEADERS: u32 = 1 << 7;
    /// Commands that it does not know.
    pub const NO_UNKNOWN: u32 = 1 << 8;
    /// DATA.
    pub const NO_DATA: u32 = 1 << 9;
    /// Recipients too that the server itself refuses. Wanted, not left out.
    pub const REJECTED_RECIPIENTS: u32 = 1 << 11;
    /// No answer to a connection.
    pub const QUIET_CONNECT: u32 = 1 << 12;
    /// No answer to HELO.
    pub const QUIET_HELO: u32 = 1 << 13;
    /// No answer to MAIL.
    pub const QUIET_MAIL: u32 = 1 << 14;
    /// No answer to the body.
    pub const QUIET_BODY: u32 = 1 << 19;
    /// Values of header fields come and go with the blank behind the colon, if there is one. Wanted,
    /// not left out.
    pub const LEADING_BLANK: u32 = 1 << 20;
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'b> {
    /// What it can, before anything else.
    Negotiate {
        /// Its version.
        version: u32,
        /// The actions that it allows.
        actions: u32,
        /// The steps that it can leave out.
        protocol: u32,
    },
    /// Macros that belong to a command, which follows.
    Macros {
        /// The letter of that command.
        command: u8,
        /// Names and values, one after the other.
        pairs: Texts<'b>,
    },
    /// A client has connected.
    Connect {
        /// Its name as far as it is known.
        name: &'b [u8],
        /// Its port; 0 where there is none.
        port: u16,
        /// Its address as text, or the path of a socket.
        address: &'b [u8],
    },
    /// HELO or EHLO.
    Helo(&'b [u8]),
    /// MAIL FROM.
    Mail {
        /// The address, in angle brackets.
        address: &'b [u8],
        /// ESMTP parameters.
        parameters: Texts<'b>,
    },
    /// RCPT TO.
    Recipient {
        /// The address, in angle brackets.
        address: &'b [u8],
        /// ESMTP parameters.
        parameters: Texts<'b>,
    },
    /// DATA.
    Data,
    /// A header field.
    Header {
        /// Its name.
        name: &'b [u8],
        /// The name is longer than [`HEADER_NAME_BYTES_MAX`], and this is its beginning.
        is_cut: bool,
        /// How long the field is, its line end included.
        size_bytes: usize,
    },
    /// The end of the header.
    EndOfHeaders,
    /// A part of what a header field or a piece of the body holds, if that is wanted
    /// ([`Decoder::hand_out_content`]): it comes behind [`Event::Header`] or [`Event::Body`].
    Content {
        /// The bytes; the value of a header field ends with NUL.
        bytes: &'b [u8],
        /// Whether nothing of it is to come.
        is_last: bool,
    },
    /// A piece of the body.
    Body {
        /// So many bytes.
        size_bytes: usize,
        /// It came with the end of the message, which follows: only that is answered.
        is_last: bool,
    },
    /// The message has ended.
    EndOfMessage,
    /// The message is given up; the connection goes on.
    Abort,
    /// The connection has ended.
    Quit,
    /// The connection of the client has ended, and another one follows.
    NextClient,
    /// A command that the server does not know.
    Unknown,
}

/// Texts that each end with NUL, taken out one by one: nothing is allocated for what a peer sends
/// by the thousand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts<'b>(&'b [u8]);

impl<'b> Texts<'b> {
    /// Takes texts, if the last one ends with NUL as well.
    fn of(payload: &'b [u8]) -> Option<Self> {
        payload.last().is_none_or(|last| *last == 0).then_some(Self(payload))
    }
}

impl<'b> Iterator for Texts<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        let end = memchr(0, self.0)?;
        let (text, rest) = self.0.split_at_checked(end)?;
        self.0 = rest.get(1..).unwrap_or_default();
        Some(text)
    }
}

/// Why a server is not listened to any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A packet of more than its command may have, or of none.
    #[error("a packet of {0} bytes")]
    Length(usize),
    /// A command that this protocol does not have.
    #[error("the command {0:#04x}, which there is not")]
    Command(u8),
    /// A payload that is not what its command has.
    #[error("a payload that is none of its command {0:?}")]
    Payload(char),
}

/// From bytes to events.
#[derive(Debug, Default)]
pub struct Decoder {
    held: Vec<u8>,
    /// Bytes at the beginning that have been handed out.
    taken: usize,
    /// Bytes of content still to come.
    skipped: usize,
    /// Whether the end of the message follows them.
    is_ending: bool,
    /// Whether somebody wants them.
    wants_content: bool,
}

impl Decoder {
    /// Takes bytes. Take all events out before feeding more: only that bounds what is held.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.held.drain(..self.taken);
        self.taken = 0;
        if self.held.is_empty() && self.held.capacity() > HELD_BYTES_KEPT {
            self.held = Vec::new();
        }
        self.held.extend_from_slice(bytes);
    }

    /// Has content handed out, as it comes; by default it is left out.
    pub fn hand_out_content(&mut self) {
        self.wants_content = true;
    }

    /// How many bytes wait for the rest of their packet.
    pub fn held(&self) -> usize {
        self.held.len() - self.taken
    }

    /// Whether the rest of a packet is still to come.
    pub fn is_inside(&self) -> bool {
        self.held() > 0 || self.skipped > 0 || self.is_ending
    }

    /// The next event.
    ///
    /// # Errors
    /// What came is no milter protocol. Close the connection.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, Malformed> {
        let gone = self.skipped.min(self.held());
        let start = self.taken;
        self.taken += gone;
        self.skipped -= gone;
        if gone > 0 && self.wants_content {
            let bytes = self.held.get(start..start + gone).unwrap_or_default();
            return Ok(Some(Event::Content { bytes, is_last: self.skipped == 0 }));
        }
        if self.is_ending && self.skipped == 0 {
            self.is_ending = false;
            return Ok(Some(Event::EndOfMessage));
        }
        let rest = self.held.get(self.taken..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length == 0 || length > CONTENT_BYTES_MAX {
            return Err(Malformed::Length(length));
        }
        let Some(command) = rest.first().copied() else { return Ok(None) };
        let start = self.taken + 5;
        match command {
            b'L' => return self.header(start, length - 1),
            // The end of a message may carry the last piece of its body (`SMFIC_BODYEOB`).
            b'B' | b'E' if command == b'B' || length > 1 => {
                self.is_ending = command == b'E';
                self.skip(start, length - 1);
                return Ok(Some(Event::Body { size_bytes: length - 1, is_last: self.is_ending }));
            }
            _ if length > PACKET_BYTES_MAX => return Err(Malformed::Length(length)),
            _ if rest.len() < length => return Ok(None),
            _ => {}
        }
        self.taken = start + length - 1;
        event(command, self.held.get(start..self.taken).unwrap_or_default()).map(Some)
    }

    /// The name of a header field, as soon as it is there.
    fn header(&mut self, start: usize, size: usize) -> Result<Option<Event<'_>>, Malformed> {
        let seen = self.held.get(start..).unwrap_or_default();
        let seen = seen.get(..size.min(HEADER_NAME_BYTES_MAX + 1)).unwrap_or(seen);
        let (length, is_cut) = match memchr(0, seen) {
            Some(end) => (end, false),
            None if seen.len() > HEADER_NAME_BYTES_MAX => (HEADER_NAME_BYTES_MAX, true),
            None if seen.len() == size => return Err(Malformed::Payload('L')),
            None => return Ok(None),
        };
        // The NUL behind the name belongs to it.
        let behind = if self.wants_content { (length + usize::from(!is_cut)).min(size) } else { 0 };
        self.skip(start + behind, size - behind);
        let name = self.held.get(start..start + length).unwrap_or_default();
        // Two NUL stand for the colon with its space, and CRLF.
        Ok(Some(Event::Header { name, is_cut, size_bytes: size + 2 }))
    }

    /// Leaves out a payload, as far as it is there and as it comes.
    fn skip(&mut self, start: usize, size: usize) {
        let there = size.min(self.held.len().saturating_sub(start));
        let there = if self.wants_content { 0 } else { there };
        self.taken = start + there;
        self.skipped = size - there;
    }
}

fn event(command: u8, payload: &[u8]) -> Result<Event<'_>, Malformed> {
    let wrong = || Malformed::Payload(char::from(command));
    let addressed = || {
        let mut texts = Texts::of(payload)?;
        Some((texts.next()?, texts))
    };
    Ok(match command {
        b'O' => {
            let (version, rest) = payload.split_first_chunk::<4>().ok_or_else(wrong)?;
            let (actions, rest) = rest.split_first_chunk::<4>().ok_or_else(wrong)?;
            let (protocol, _) = rest.split_first_chunk::<4>().ok_or_else(wrong)?;
            Event::Negotiate {
                version: u32::from_be_bytes(*version),
                actions: u32::from_be_bytes(*actions),
                protocol: u32::from_be_bytes(*protocol),
            }
        }
        b'D' => {
            let (command, pairs) = payload.split_first().ok_or_else(wrong)?;
            Event::Macros { command: *command, pairs: Texts::of(pairs).ok_or_else(wrong)? }
        }
        b'C' => connect(payload).ok_or_else(wrong)?,
        b'H' => Event::Helo(first(payload).ok_or_else(wrong)?),
        b'M' => {
            let (address, parameters) = addressed().ok_or_else(wrong)?;
            Event::Mail { address, parameters }
        }
        b'R' => {
            let (address, parameters) = addressed().ok_or_else(wrong)?;
            Event::Recipient { address, parameters }
        }
        b'T' => Event::Data,
        b'N' => Event::EndOfHeaders,
        b'E' => Event::EndOfMessage,
        b'A' => Event::Abort,
        b'Q' => Event::Quit,
        b'K' => Event::NextClient,
        b'U' => Event::Unknown,
        other => return Err(Malformed::Command(other)),
    })
}

/// Name, family (`4`, `6`, `L` or `U`), port and address.
fn connect(payload: &[u8]) -> Option<Event<'_>> {
    let end = memchr(0, payload)?;
    let name = payload.get(..end)?;
    let (family, rest) = payload.get(end + 1..)?.split_first()?;
    if *family == b'U' {
        return Some(Event::Connect { name, port: 0, address: b"" });
    }
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let address = first(rest)?;
    // Sendmail writes the family before the address.
    let address = address.strip_prefix(b"IPv6:").unwrap_or(address);
    Some(Event::Connect { name, port: u16::from_be_bytes(*port), address })
}

/// The text before the first NUL, which must be there.
fn first(payload: &[u8]) -> Option<&[u8]> {
    payload.get(..memchr(0, payload)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(command: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len() + 1).unwrap();
        [&length.to_be_bytes()[..], &[command], payload].concat()
    }

    /// All events as text, fed in pieces of this many bytes.
    fn events(bytes: &[u8], piece: usize) -> Result<Vec<String>, Malformed> {
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for piece in bytes.chunks(piece.max(1)) {
            decoder.feed(piece);
            while let Some(event) = decoder.next_event()? {
                seen.push(format!("{event:?}"));
            }
            assert!(decoder.held() <= PACKET_BYTES_MAX + 4);
        }
        Ok(seen)
    }

    #[test]
    fn a_conversation_is_read_however_it_is_cut() {
        let bytes = [
            packet(b'O', b"\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff"),
            packet(b'D', b"Cj\0mx.example\0{client_ptr}\0a.example\0"),
            packet(b'C', b"a.example\x004\x10\x92198.51.100.7\0"),
            packet(b'C', b"[x]\x006\0\0IPv6:2001:db8::1\0"),
            packet(b'C', b"local\0U"),
            packet(b'H', b"mail.example\0"),
            packet(b'M', b"<a@x.example>\0SIZE=5\0"),
            packet(b'R', b"<b@y.example>\0"),
            packet(b'T', b""),
            packet(b'L', b"Subject\0hi\0"),
            packet(b'N', b""),
            packet(b'B', b"text"),
            packet(b'E', b""),
            packet(b'A', b""),
            packet(b'K', b""),
            packet(b'U', b"XYZZY\0"),
            packet(b'Q', b""),
        ]
        .concat();
        let whole = events(&bytes, bytes.len()).unwrap();
        assert_eq!(whole.len(), 17);
        assert!(whole[2].contains("port: 4242"), "{}", whole[2]);
        for piece in [1, 2, 3, 7, 64] {
            assert_eq!(events(&bytes, piece).unwrap(), whole);
        }
    }

    #[test]
    fn content_is_handed_out_where_it_is_wanted_however_it_is_cut() {
        let bytes = [
            packet(b'L', b"Subject\0 hi\n\tthere\0"),
            packet(b'L', b"X-Empty\0\0"),
            packet(b'B', b"some text\r\n"),
            packet(b'B', b""),
            packet(b'E', b""),
        ]
        .concat();
        for piece in [1, 2, 5, 64] {
            let mut decoder = Decoder::default();
            decoder.hand_out_content();
            let (mut text, mut ends) = (Vec::new(), 0);
            for piece in bytes.chunks(piece) {
                decoder.feed(piece);
                while let Some(event) = decoder.next_event().unwrap() {
                    match event {
                        Event::Header { name, .. } => text.extend([name, b":"].concat()),
                        Event::Content { bytes, is_last } => {
                            text.extend_from_slice(bytes);
                            ends += usize::from(is_last);
                        }
                        Event::Body { .. } => text.push(b'|'),
                        _ => text.push(b'.'),
                    }
                }
            }
            let text = String::from_utf8(text).unwrap();
            assert_eq!(text, "Subject: hi\n\tthere\0X-Empty:\0|some text\r\n|.", "{piece}");
            assert_eq!(ends, 3);
            assert!(!decoder.is_inside());
        }
    }

    #[test]
    fn the_end_of_a_message_may_carry_the_last_piece_of_its_body() {
        let text = vec![b'x'; PACKET_BYTES_MAX + 5];
        let bytes = [packet(b'B', b"a"), packet(b'E', &text), packet(b'Q', b"")].concat();
        for (piece, wants_content) in [(1, true), (7, true), (bytes.len(), true), (4096, false)] {
            let mut decoder = Decoder::default();
            if wants_content {
                decoder.hand_out_content();
            }
            let (mut seen, mut content) = (Vec::new(), Vec::new());
            for piece in bytes.chunks(piece) {
                decoder.feed(piece);
                while let Some(event) = decoder.next_event().unwrap() {
                    match event {
                        Event::Content { bytes, .. } => content.extend_from_slice(bytes),
                        Event::Body { size_bytes, is_last } => seen.push((size_bytes, is_last)),
                        Event::EndOfMessage => seen.push((0, true)),
                        other => assert_eq!(other, Event::Quit),
                    }
                }
            }
            assert_eq!(seen, [(1, false), (text.len(), true), (0, true)], "in pieces of {piece}");
            assert_eq!(content.len(), if wants_content { 1 + text.len() } else { 0 });
            assert!(!decoder.is_inside());
        }
        // Without one it is as ever.
        assert_eq!(events(&packet(b'E', b""), 1).unwrap(), ["EndOfMessage"]);
    }

    #[test]
    fn what_is_no_milter_protocol_ends_the_connection() {
        for (bytes, wrong) in [
            (&b"\0\0\0\0"[..], Malformed::Length(0)),
            (b"\xff\xff\xff\xffO", Malformed::Length(0xffff_ffff)),
            (b"EHLO mail.example\r\n", Malformed::Length(0x4548_4c4f)),
            (b"\0\0\0\x01?", Malformed::Command(b'?')),
            (b"\0\0\0\x03O12", Malformed::Payload('O')),
            (b"\0\0\0\x03M<a", Malformed::Payload('M')),
            (b"\0\0\0\x01M", Malformed::Payload('M')),
            (b"\0\0\0\x01R", Malformed::Payload('R')),
            (b"\0\0\0\x01D", Malformed::Payload('D')),
            (b"\0\0\0\x03Cab", Malformed::Payload('C')),
            (b"\0\0\0\x04Ca\x004", Malformed::Payload('C')),
            (b"\0\0\0\x03Hab", Malformed::Payload('H')),
        ] {
            assert_eq!(events(bytes, 1), Err(wrong), "{bytes:?}");
        }
    }

    #[test]
    fn content_is_not_held_and_everything_else_is_bound() {
        let mut decoder = Decoder::default();
        let field = [&b"X-Long\0"[..], &vec![b'x'; 5_000_000]].concat();
        let field = packet(b'L', &field);
        let mut seen = 0;
        for piece in field.chunks(4096) {
            decoder.feed(piece);
            while let Some(event) = decoder.next_event().unwrap() {
                let size_bytes = field.len() - 5 + 2;
                assert_eq!(event, Event::Header { name: b"X-Long", is_cut: false, size_bytes });
                seen += 1;
            }
            assert_eq!(decoder.held(), 0);
            assert!(decoder.held.capacity() <= 2 * HELD_BYTES_KEPT);
        }
        assert_eq!(seen, 1);
        assert!(!decoder.is_inside());
        // At the limit, and one past it.
        let text = vec![b'x'; PACKET_BYTES_MAX - 2];
        let helo = packet(b'H', &[&text[..], b"\0"].concat());
        assert_eq!(helo.len(), PACKET_BYTES_MAX + 4);
        assert_eq!(events(&helo, 4096).unwrap().len(), 1);
        let longer = packet(b'H', &[&text[..], b"x\0"].concat());
        assert_eq!(events(&longer, 4096), Err(Malformed::Length(PACKET_BYTES_MAX + 1)));
        let announced = |length: usize, command: u8| {
            let length = u32::try_from(length).unwrap();
            [&length.to_be_bytes()[..], &[command]].concat()
        };
        assert_eq!(
            events(&announced(CONTENT_BYTES_MAX, b'B'), 9).unwrap(),
            ["Body { size_bytes: 16777215, is_last: false }"]
        );
        let longer = CONTENT_BYTES_MAX + 1;
        assert_eq!(events(&announced(longer, b'B'), 9), Err(Malformed::Length(longer)));
    }

    #[test]
    fn a_long_name_of_a_header_field_is_cut() {
        let named = |length: usize| packet(b'L', &[&vec![b'n'; length][..], b"\0v\0"].concat());
        for piece in [1, 997, 4096] {
            let seen = events(&named(HEADER_NAME_BYTES_MAX), piece).unwrap();
            assert!(seen[0].contains("is_cut: false"), "{seen:?}");
            let cut = [named(HEADER_NAME_BYTES_MAX + 1), packet(b'Q', b"")].concat();
            let seen = events(&cut, piece).unwrap();
            assert!(seen[0].contains("is_cut: true") && seen[1] == "Quit", "{seen:?}");
        }
        assert_eq!(events(&packet(b'L', b"name"), 3), Err(Malformed::Payload('L')));
    }

    #[test]
    fn a_buffer_that_has_grown_is_given_back() {
        let mut decoder = Decoder::default();
        decoder.feed(&packet(b'H', &[&vec![b'x'; 60_000][..], b"\0"].concat()));
        assert!(matches!(decoder.next_event(), Ok(Some(Event::Helo(_)))));
        decoder.feed(b"\0");
        assert!(decoder.held.capacity() <= HELD_BYTES_KEPT);
    }

    #[test]
    fn macros_are_taken_out_one_by_one() {
        let bytes = packet(b'D', &[&b"M"[..], &b"i\0\0"[..].repeat(20_000)].concat());
        let mut decoder = Decoder::default();
        decoder.feed(&bytes);
        let event = decoder.next_event().unwrap();
        let Some(Event::Macros { command: b'M', pairs }) = event else { panic!("{event:?}") };
        assert_eq!(pairs.count(), 40_000);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_pieces_make_no_difference(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), piece in 1_usize..9,
        ) {
            prop_assert_eq!(events(&bytes, piece), events(&bytes, bytes.len()));
        }
    }
}
