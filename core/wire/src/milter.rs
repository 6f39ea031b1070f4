//! The filter's side of the milter protocol, version 6 (Sendmail's `mfdef.h`, Postfix's
//! `src/milter/milter8.c`): what a mail server says, and what it is answered.
//!
//! A packet is a length of 32 bits, a command of one byte and its payload. A server that announces
//! more than [`PACKET_BYTES_MAX`] is not listened to any more.
//!
//! ```
//! use mpp_wire::milter::{Decoder, Event};
//!
//! let mut decoder = Decoder::default();
//! decoder.feed(b"\0\0\0\x0fR<b@x.example>\0");
//! let event = decoder.next_event().unwrap().unwrap();
//! assert_eq!(event, Event::Recipient { address: b"<b@x.example>", parameters: vec![] });
//! ```

use memchr::memchr;

/// No packet may be longer, in bytes with its command. A piece of a body has 65,535 at the most; a
/// header field of Postfix 102,400 (`header_size_limit`).
pub const PACKET_BYTES_MAX: usize = 256 * 1024;

/// The version that is spoken.
pub const VERSION: u32 = 6;

/// What a filter may do to a message (`SMFIF_*`).
pub mod actions {
    /// Put it into quarantine.
    pub const QUARANTINE: u32 = 1 << 5;
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
    /// Commands that it does not know.
    pub const NO_UNKNOWN: u32 = 1 << 8;
    /// DATA.
    pub const NO_DATA: u32 = 1 << 9;
    /// No answer to a connection.
    pub const QUIET_CONNECT: u32 = 1 << 12;
    /// No answer to HELO.
    pub const QUIET_HELO: u32 = 1 << 13;
    /// No answer to MAIL.
    pub const QUIET_MAIL: u32 = 1 << 14;
}

/// Which step macros belong to (`SMFIM_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacroStage {
    /// The connection.
    Connect = 0,
    /// HELO.
    Helo = 1,
    /// MAIL.
    Mail = 2,
    /// RCPT.
    Recipient = 3,
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
    /// Names and values that belong to the command that follows.
    Macros(Vec<(&'b [u8], &'b [u8])>),
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
        parameters: Vec<&'b [u8]>,
    },
    /// RCPT TO.
    Recipient {
        /// The address, in angle brackets.
        address: &'b [u8],
        /// ESMTP parameters.
        parameters: Vec<&'b [u8]>,
    },
    /// DATA.
    Data,
    /// A header field, or the end of all, or a piece of the body.
    Content,
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

/// Why a server is not listened to any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A packet of more than [`PACKET_BYTES_MAX`], or of none.
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
}

impl Decoder {
    /// Takes bytes. Take all events out before feeding more: only that bounds what is held.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.held.drain(..self.taken);
        self.taken = 0;
        self.held.extend_from_slice(bytes);
    }

    /// How many bytes wait for the rest of their packet.
    pub fn held(&self) -> usize {
        self.held.len() - self.taken
    }

    /// The next whole event.
    ///
    /// # Errors
    /// What came is no milter protocol. Close the connection.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, Malformed> {
        let rest = self.held.get(self.taken..).unwrap_or_default();
        let Some((length, _)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length == 0 || length > PACKET_BYTES_MAX {
            return Err(Malformed::Length(length));
        }
        let start = self.taken + 4;
        if self.held.len() < start + length {
            return Ok(None);
        }
        self.taken = start + length;
        let packet = self.held.get(start..self.taken).unwrap_or_default();
        let (command, payload) = packet.split_first().ok_or(Malformed::Length(0))?;
        event(*command, payload).map(Some)
    }
}

fn event(command: u8, payload: &[u8]) -> Result<Event<'_>, Malformed> {
    let wrong = || Malformed::Payload(char::from(command));
    let addressed = || {
        let mut texts = texts(payload).ok_or_else(wrong)?;
        if texts.is_empty() {
            return Err(wrong());
        }
        let parameters = texts.split_off(1);
        Ok((texts.first().copied().unwrap_or_default(), parameters))
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
            let (_, lists) = payload.split_first().ok_or_else(wrong)?;
            let texts = texts(lists).ok_or_else(wrong)?;
            let pairs = texts.chunks(2);
            Event::Macros(
                pairs
                    .map(|pair| match *pair {
                        [name, value] => (name, value),
                        [name] => (name, &b""[..]),
                        _ => (&b""[..], &b""[..]),
                    })
                    .collect(),
            )
        }
        b'C' => connect(payload).ok_or_else(wrong)?,
        b'H' => Event::Helo(first(payload).ok_or_else(wrong)?),
        b'M' => {
            let (address, parameters) = addressed()?;
            Event::Mail { address, parameters }
        }
        b'R' => {
            let (address, parameters) = addressed()?;
            Event::Recipient { address, parameters }
        }
        b'T' => Event::Data,
        b'L' | b'N' | b'B' => Event::Content,
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

/// Texts that each end with NUL.
fn texts(mut payload: &[u8]) -> Option<Vec<&[u8]>> {
    let mut texts = Vec::new();
    while !payload.is_empty() {
        let end = memchr(0, payload)?;
        texts.push(payload.get(..end)?);
        payload = payload.get(end + 1..)?;
    }
    Some(texts)
}

/// What a server is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// What the filter will do and wants to see, and which macros it wants.
    Negotiated {
        /// The version, never above the server's.
        version: u32,
        /// The actions that it may take.
        actions: u32,
        /// The steps that are to be left out.
        protocol: u32,
        /// Macros for some steps; only where [`actions::MACROS`] is among the actions.
        macros: &'a [(MacroStage, &'a str)],
    },
    /// Nothing against it: go on.
    Continue,
    /// Throw the message away, and say that it was taken.
    Discard,
    /// A reply of our own: code, enhanced code and text.
    Reply {
        /// Three digits from 400 to 599; 421 ends the connection.
        code: u16,
        /// The enhanced status code.
        status: &'a str,
        /// The text, one line.
        text: &'a str,
    },
    /// Keep the message in the queue for a person to look at; only at the end of a message.
    Quarantine(&'a str),
}

impl Answer<'_> {
    /// Appends the packet.
    pub fn push(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        match *self {
            Self::Negotiated { version, actions, protocol, macros } => {
                out.push(b'O');
                for number in [version, actions, protocol] {
                    out.extend_from_slice(&number.to_be_bytes());
                }
                for (stage, names) in macros {
                    out.extend_from_slice(&(*stage as u32).to_be_bytes());
                    push_text(names, out);
                }
            }
            Self::Continue => out.push(b'c'),
            Self::Discard => out.push(b'd'),
            Self::Reply { code, status, text } => {
                out.push(b'y');
                // A percent sign has a meaning in replies (milter8.c), and is itself when doubled.
                let text = text.replace('%', "%%");
                push_text(&format!("{code} {status} {text}"), out);
            }
            Self::Quarantine(reason) => {
                out.push(b'q');
                push_text(reason, out);
            }
        }
        let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
        if let Some(place) = out.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// A text without what would end it early or begin another line.
fn push_text(text: &str, out: &mut Vec<u8>) {
    out.extend(
        text.bytes().map(|byte| if matches!(byte, 0 | b'\r' | b'\n') { b' ' } else { byte }),
    );
    out.push(0);
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
    fn answers_are_packets() {
        for (answer, bytes) in [
            (Answer::Continue, &b"\0\0\0\x01c"[..]),
            (Answer::Discard, b"\0\0\0\x01d"),
            (
                Answer::Reply { code: 450, status: "4.7.1", text: "5% of\r\nit" },
                b"\0\0\0\x16y450 4.7.1 5%% of  it\0",
            ),
            (Answer::Quarantine("held"), b"\0\0\0\x06qheld\0"),
            (
                Answer::Negotiated {
                    version: 6,
                    actions: actions::QUARANTINE | actions::MACROS,
                    protocol: protocol::NO_BODY,
                    macros: &[(MacroStage::Mail, "i")],
                },
                b"\0\0\0\x13O\0\0\0\x06\0\0\x01\x20\0\0\0\x10\0\0\0\x02i\0",
            ),
        ] {
            let mut out = Vec::new();
            answer.push(&mut out);
            assert_eq!(out, bytes, "{answer:?}");
        }
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
