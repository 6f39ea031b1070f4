//! The server's side of SMTP (RFC 5321): commands and message text from bytes.
//!
//! Only CRLF ends a line, and only CRLF.CRLF ends a message (RFC 5321 sections 2.3.8 and 4.1.1.4). A
//! CR or an LF that stands alone is a fault wherever it stands, and is never passed on: where one
//! server takes it for the end of a line and the next does not, mail is smuggled (CVE-2023-51764 and
//! its kin).
//!
//! ```
//! use mpp_wire::smtp_server::{Command, Decoder, Syntax, Text};
//!
//! let mut decoder = Decoder::new(Syntax::Strict);
//! decoder.feed(b"MAIL FROM:<a@b.example> SIZE=5\r\n");
//! let Some(Command::Mail { path, parameters }) = decoder.next_command().unwrap() else { panic!() };
//! assert_eq!((path.as_str(), parameters), ("a@b.example", "SIZE=5"));
//! decoder.feed(b"..hi\r\n.\r\nQUIT\r\n");
//! let mut text = Vec::new();
//! assert_eq!(decoder.text(&mut text), Text::End);
//! assert_eq!(text, b"..hi\r\n");
//! assert_eq!(decoder.next_command(), Ok(Some(Command::Quit)));
//! ```

use memchr::memchr2;
use mpp_address::Path;

pub use crate::smtp_envelope::Syntax;
use crate::smtp_envelope::{Malformed, named};

/// No command may be longer, in bytes without its CRLF (Postfix: `line_length_limit`).
pub const COMMAND_BYTES_MAX: usize = 2048;

/// What is wrong with what a client sent. Nothing that follows can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No CRLF within [`COMMAND_BYTES_MAX`].
    #[error("a command of more than {COMMAND_BYTES_MAX} bytes")]
    TooLong,
    /// CR without LF, or LF without CR.
    #[error("a line that does not end with CRLF")]
    BareLineEnd,
    /// A NUL in a command.
    #[error("a NUL in a command")]
    Nul,
}

/// A command. Texts borrow from the decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of RFC 5321")]
pub enum Command<'b> {
    Helo(&'b [u8]),
    Ehlo(&'b [u8]),
    /// The path, and the parameters that follow it, each a keyword of RFC 5321 section 4.1.2 with a
    /// value without blanks and control characters.
    Mail {
        path: Path,
        parameters: &'b str,
    },
    /// As MAIL; never the null path.
    Rcpt {
        path: Path,
        parameters: &'b str,
    },
    Data,
    Rset,
    Noop,
    Quit,
    Help,
    Vrfy,
    /// STARTTLS (RFC 3207).
    StartTls,
    /// BDAT (RFC 3030): so many bytes follow, and whether they are the last.
    Bdat {
        bytes: u64,
        is_last: bool,
    },
    /// XFORWARD with its attributes (Postfix, `XFORWARD_README`).
    Xforward(&'b [u8]),
    /// XCLIENT with its attributes (Postfix, `XCLIENT_README`).
    Xclient(&'b [u8]),
    /// A command that is known and not as it must be.
    Syntax,
    /// MAIL or RCPT with what is no path.
    Address,
    /// One that is not known.
    Unknown,
}

/// What became of the text of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// There is more to come.
    More,
    /// It has ended.
    End,
    /// A line end that is none. The message must not be passed on to its end.
    BareLineEnd,
}

/// Where in a line the text of a message stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Before its first byte.
    #[default]
    Start,
    Inside,
    /// Behind a CR.
    Cr,
    /// Behind a dot at its start.
    Dot,
    /// Behind a dot and a CR at its start.
    DotCr,
}

/// From bytes to commands and text.
#[derive(Debug)]
pub struct Decoder {
    held: Vec<u8>,
    /// Bytes at the beginning that have been handed out.
    taken: usize,
    at: At,
    syntax: Syntax,
}

impl Decoder {
    /// One that reads paths in a certain way.
    pub fn new(syntax: Syntax) -> Self {
        Self { held: Vec::new(), taken: 0, at: At::Start, syntax }
    }

    /// Takes bytes. Take everything out before feeding more: only that bounds what is held.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.held.drain(..self.taken);
        self.taken = 0;
        self.held.extend_from_slice(bytes);
    }

    /// Bytes that have not been handed out.
    pub fn held(&self) -> usize {
        self.held.len() - self.taken
    }

    /// The next command, if it is whole.
    ///
    /// # Errors
    /// What came is no command. Say so and close the connection.
    pub fn next_command(&mut self) -> Result<Option<Command<'_>>, Fault> {
        let rest = self.held.get(self.taken..).unwrap_or_default();
        let end = memchr2(b'\r', b'\n', rest);
        if end.unwrap_or(rest.len()) > COMMAND_BYTES_MAX {
            return Err(Fault::TooLong);
        }
        let Some(end) = end else { return Ok(None) };
        match (rest.get(end), rest.get(end + 1)) {
            (Some(b'\r'), Some(b'\n')) => {}
            (Some(b'\r'), None) => return Ok(None),
            _ => return Err(Fault::BareLineEnd),
        }
        let start = self.taken;
        self.taken += end + 2;
        let line = self.held.get(start..start + end).unwrap_or_default();
        if line.contains(&0) {
            return Err(Fault::Nul);
        }
        Ok(Some(command(line, self.syntax)))
    }

    /// Takes the text of a message as far as it has come, dots doubled as they were sent, to be
    /// passed on as it is. The line with the dot at its end is not among it.
    pub fn text(&mut self, out: &mut Vec<u8>) -> Text {
        while let Some(rest) = self.held.get(self.taken..).filter(|rest| !rest.is_empty()) {
            let (next, taken) = match (self.at, rest.first().copied().unwrap_or_default()) {
                (At::Start, b'.') => (At::Dot, 1),
                (At::Dot, b'\r') => (At::DotCr, 1),
                (At::DotCr, b'\n') => {
                    self.taken += 1;
                    self.at = At::Start;
                    return Text::End;
                }
                (At::Cr, b'\n') => {
                    out.extend_from_slice(b"\r\n");
                    (At::Start, 1)
                }
                (At::DotCr | At::Cr, _) | (At::Start | At::Inside | At::Dot, b'\n') => {
                    return Text::BareLineEnd;
                }
                (At::Start | At::Inside, b'\r') => (At::Cr, 1),
                (At::Start | At::Inside | At::Dot, _) => {
                    if self.at == At::Dot {
                        out.push(b'.');
                    }
                    let end = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                    out.extend_from_slice(rest.get(..end).unwrap_or_default());
                    (At::Inside, end)
                }
            };
            self.at = next;
            self.taken += taken;
        }
        Text::More
    }

    /// Takes what has come of a BDAT chunk of which `left` bytes are still to come, with dots
    /// doubled, so that it can go on behind DATA. [`Text::End`] is the end of the chunk.
    pub fn chunk(&mut self, left: &mut u64, out: &mut Vec<u8>) -> Text {
        let rest = self.held.get(self.taken..).unwrap_or_default();
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
        let mut rest = rest.get(..most).unwrap_or_default();
        self.taken += most;
        *left -= most as u64;
        while let Some(first) = rest.first().copied() {
            let (next, taken) = match (self.at, first) {
                (At::Cr, b'\n') => {
                    out.extend_from_slice(b"\r\n");
                    (At::Start, 1)
                }
                (At::Cr, _) | (_, b'\n') => return Text::BareLineEnd,
                (_, b'\r') => (At::Cr, 1),
                (at, first) => {
                    if at == At::Start && first == b'.' {
                        out.push(b'.');
                    }
                    let end = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                    out.extend_from_slice(rest.get(..end).unwrap_or_default());
                    (At::Inside, end)
                }
            };
            self.at = next;
            rest = rest.get(taken..).unwrap_or_default();
        }
        if *left == 0 { Text::End } else { Text::More }
    }

    /// Ends a message that came in chunks: its last line end, should it have none.
    pub fn end_of_chunks(&mut self, out: &mut Vec<u8>) -> Text {
        match std::mem::take(&mut self.at) {
            At::Start => Text::End,
            At::Cr => Text::BareLineEnd,
            At::Inside | At::Dot | At::DotCr => {
                out.extend_from_slice(b"\r\n");
                Text::End
            }
        }
    }

    /// Throws away what has come of a chunk that nobody wants; returns whether that was all of it.
    pub fn skip(&mut self, left: &mut u64) -> bool {
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(self.held());
        self.taken += most;
        *left -= most as u64;
        *left == 0
    }

    /// Begins the text of another message.
    pub fn begin_text(&mut self) {
        self.at = At::Start;
    }

    /// Gives memory back while nothing is held.
    pub fn rest(&mut self) {
        if self.held() == 0 {
            self.taken = 0;
            self.held = Vec::new();
        }
    }
}

fn command(line: &[u8], syntax: Syntax) -> Command<'_> {
    let line = line.trim_ascii_end();
    let end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    let (verb, rest) = line.split_at_checked(end).unwrap_or((line, b""));
    let rest = rest.trim_ascii_start();
    let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
    if ["HELO", "EHLO", "XFORWARD", "XCLIENT"].into_iter().any(is) && rest.is_empty() {
        Command::Syntax
    } else if is("HELO") {
        Command::Helo(rest)
    } else if is("EHLO") {
        Command::Ehlo(rest)
    } else if is("MAIL") {
        match named(rest, "FROM:", syntax) {
            Ok((path, parameters)) => Command::Mail { path, parameters },
            Err(malformed) => malformed.into(),
        }
    } else if is("RCPT") {
        match named(rest, "TO:", syntax) {
            Ok((path, _)) if path.is_null() => Command::Address,
            Ok((path, parameters)) => Command::Rcpt { path, parameters },
            Err(malformed) => malformed.into(),
        }
    } else if is("XFORWARD") {
        Command::Xforward(rest)
    } else if is("XCLIENT") {
        Command::Xclient(rest)
    } else if is("BDAT") {
        chunk_size(rest).unwrap_or(Command::Syntax)
    } else if let Some((_, bare)) = BARE.iter().find(|(name, _)| is(name)) {
        // RFC 5321 section 4.1.1: DATA, RSET and QUIT take nothing; NOOP, HELP and VRFY do.
        let takes_text = matches!(bare, Command::Noop | Command::Help | Command::Vrfy);
        if rest.is_empty() || takes_text { bare.clone() } else { Command::Syntax }
    } else {
        Command::Unknown
    }
}

impl From<Malformed> for Command<'_> {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Address => Self::Address,
            Malformed::Syntax => Self::Syntax,
        }
    }
}

/// What stands behind BDAT (RFC 3030 section 2).
fn chunk_size(rest: &[u8]) -> Option<Command<'static>> {
    let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
    let (digits, last) = rest.split_at_checked(end)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let bytes = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let last = last.trim_ascii();
    let is_last = last.eq_ignore_ascii_case(b"LAST");
    (is_last || last.is_empty()).then_some(Command::Bdat { bytes, is_last })
}

const BARE: [(&str, Command<'static>); 7] = [
    ("STARTTLS", Command::StartTls),
    ("DATA", Command::Data),
    ("RSET", Command::Rset),
    ("NOOP", Command::Noop),
    ("QUIT", Command::Quit),
    ("HELP", Command::Help),
    ("VRFY", Command::Vrfy),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Text and end of a message that is fed in pieces of this many bytes.
    fn text(bytes: &[u8], piece: usize) -> (Vec<u8>, Text, Vec<u8>) {
        let mut decoder = Decoder::new(Syntax::Strict);
        let mut out = Vec::new();
        let mut pieces = bytes.chunks(piece.max(1));
        let end = loop {
            let Some(piece) = pieces.next() else { break Text::More };
            decoder.feed(piece);
            match decoder.text(&mut out) {
                Text::More => {}
                end => break end,
            }
        };
        let mut rest = decoder.held.get(decoder.taken..).unwrap().to_vec();
        rest.extend(pieces.flatten());
        (out, end, rest)
    }

    #[test]
    fn commands_as_they_come() {
        let mut decoder = Decoder::new(Syntax::Strict);
        for (line, wanted) in [
            ("EHLO mx.example", Command::Ehlo(b"mx.example")),
            ("helo  x ", Command::Helo(b"x")),
            ("EHLO", Command::Syntax),
            ("MAIL FROM:<>", Command::Mail { path: path(""), parameters: "" }),
            (
                "mail from: <a@b.example> BODY=8BITMIME SIZE=5",
                Command::Mail { path: path("a@b.example"), parameters: "BODY=8BITMIME SIZE=5" },
            ),
            (
                "RCPT TO:<\"a>b\\\"c\"@d.example>",
                Command::Rcpt { path: path("\"a>b\\\"c\"@d.example"), parameters: "" },
            ),
            ("RCPT TO:<>", Command::Address),
            ("RCPT TO:a@b.example", Command::Address),
            ("RCPT TO:<a@b.example>x", Command::Address),
            ("RCPT TO:<a@b.example", Command::Address),
            ("RCPT TO:<bob(\\\")> NOTIFY=NEVER ORCPT=rfc822;x\"@d.example>", Command::Address),
            ("RCPT TO:<a@b.example> ORCPT=rfc822;x\u{b}y", Command::Syntax),
            ("RCPT TO:<a@b.example> =x", Command::Syntax),
            ("MAIL TO:<a@b.example>", Command::Syntax),
            ("DATA", Command::Data),
            ("DATA now", Command::Syntax),
            ("NOOP anything", Command::Noop),
            ("VRFY bob", Command::Vrfy),
            ("XFORWARD NAME=x ADDR=1.2.3.4", Command::Xforward(b"NAME=x ADDR=1.2.3.4")),
            ("STARTTLS", Command::StartTls),
            ("STARTTLS now", Command::Syntax),
            ("BDAT 0 LAST", Command::Bdat { bytes: 0, is_last: true }),
            ("bdat 86 last", Command::Bdat { bytes: 86, is_last: true }),
            ("BDAT 1000", Command::Bdat { bytes: 1000, is_last: false }),
            ("BDAT", Command::Syntax),
            ("BDAT -1", Command::Syntax),
            ("BDAT +1", Command::Syntax),
            ("BDAT 1 FIRST", Command::Syntax),
            ("BDAT 99999999999999999999", Command::Syntax),
            ("XCLIENT ADDR=1.2.3.4", Command::Xclient(b"ADDR=1.2.3.4")),
            ("XCLIENT", Command::Syntax),
            ("GET / HTTP/1.1", Command::Unknown),
            ("", Command::Unknown),
        ] {
            decoder.feed(format!("{line}\r\n").as_bytes());
            assert_eq!(decoder.next_command(), Ok(Some(wanted)), "{line}");
            assert_eq!(decoder.held(), 0);
        }
        for (bytes, fault) in [
            (&b"NOOP\n"[..], Fault::BareLineEnd),
            (b"NOOP\rQUIT\r\n", Fault::BareLineEnd),
            (b"NO\0OP\r\n", Fault::Nul),
            (&[b'x'; 3000], Fault::TooLong),
        ] {
            let mut decoder = Decoder::new(Syntax::Strict);
            decoder.feed(bytes);
            assert_eq!(decoder.next_command(), Err(fault));
        }
    }

    fn path(text: &str) -> Path {
        if text.is_empty() { Path::default() } else { Path::parse_bare(text).unwrap() }
    }

    #[test]
    fn only_one_thing_ends_a_message() {
        // What other servers took for the end of a message, in both directions.
        for smuggled in [
            &b"\n.\n"[..],
            b"\n.\r\n",
            b"\r\n.\n",
            b"\r.\r\n",
            b"\r\n.\r",
            b"\r.\r",
            b"\r\n\n.\r\n",
            b"\r\r\n.\r\n",
            b"\n\n.\n\n",
            b"\r\n.\r\r\n",
            b"\r\n.\0\n",
        ] {
            let bytes = [b"Subject: x\r\n\r\nhi", smuggled, b"MAIL FROM:<evil>\r\n.\r\n"].concat();
            for piece in 1..bytes.len() {
                let (out, end, _) = text(&bytes, piece);
                let is_clean = !smuggled.iter().any(|byte| *byte == b'\n' || *byte == b'\r');
                assert!(end == Text::BareLineEnd || is_clean, "{smuggled:?} in pieces of {piece}");
                assert!(!out.windows(5).any(|five| five == b"\r\n.\r\n"), "{smuggled:?}");
            }
        }
        let bytes = b"a\r\n..b\r\n.c\r\n\r\n.\r\nQUIT\r\n";
        for piece in 1..=bytes.len() {
            let (out, end, rest) = text(bytes, piece);
            assert_eq!((&*out, end), (&b"a\r\n..b\r\n.c\r\n\r\n"[..], Text::End));
            assert_eq!(rest, b"QUIT\r\n");
        }
        assert_eq!(text(b".\r\n", 1), (vec![], Text::End, vec![]), "an empty message");
    }

    /// Chunks of these bytes, fed in pieces; what goes on behind DATA.
    fn chunks(chunks: &[&[u8]], piece: usize) -> (Vec<u8>, Text) {
        let mut decoder = Decoder::new(Syntax::Strict);
        let mut out = Vec::new();
        for chunk in chunks {
            let mut left = chunk.len() as u64;
            for bytes in chunk.chunks(piece) {
                decoder.feed(bytes);
                if decoder.chunk(&mut left, &mut out) == Text::BareLineEnd {
                    return (out, Text::BareLineEnd);
                }
            }
            assert_eq!((left, decoder.held()), (0, 0));
        }
        let end = decoder.end_of_chunks(&mut out);
        (out, end)
    }

    #[test]
    fn chunks_become_text() {
        for (given, wanted, end) in [
            (&[&b"a\r\n.b\r\n"[..]][..], &b"a\r\n..b\r\n"[..], Text::End),
            (&[b"a\r", b"\n.", b"\r\n"], b"a\r\n..\r\n", Text::End),
            (&[b".", b".x"], b"...x\r\n", Text::End),
            (&[b"no end"], b"no end\r\n", Text::End),
            (&[b""], b"", Text::End),
            (&[b"a\nb"], b"a", Text::BareLineEnd),
            (&[b"a\r", b"b"], b"a", Text::BareLineEnd),
            (&[b"a\r"], b"a", Text::BareLineEnd),
        ] {
            for piece in 1..6 {
                assert_eq!(chunks(given, piece), (wanted.to_vec(), end), "{given:?}");
            }
        }
        // What follows a chunk is no part of it.
        let mut decoder = Decoder::new(Syntax::Strict);
        decoder.feed(b"abcQUIT\r\n");
        let (mut out, mut left) = (Vec::new(), 3);
        assert_eq!(decoder.chunk(&mut left, &mut out), Text::End);
        assert_eq!(decoder.next_command(), Ok(Some(Command::Quit)));
    }

    proptest! {
        #[test]
        fn chunks_pass_on_no_end_either(
            pieces in proptest::collection::vec(
                prop::sample::select(vec![&b"\r\n"[..], b"\r", b"\n", b".", b"text", b"\0"]),
                0..40,
            ),
            piece in 1_usize..9,
        ) {
            let bytes = pieces.concat();
            let (mut out, end) = chunks(&[&bytes], piece);
            prop_assert!(!out.windows(5).any(|five| five == b"\r\n.\r\n") && !out.starts_with(b".\r\n"));
            if end == Text::End {
                // Read back, it is what was sent.
                out.extend_from_slice(b".\r\n");
                let (text, again, rest) = text(&out, piece);
                prop_assert_eq!((again, rest), (Text::End, vec![]));
                let sent = if bytes.is_empty() || bytes.ends_with(b"\r\n") {
                    bytes
                } else {
                    [&bytes[..], b"\r\n"].concat()
                };
                let mut plain = Vec::new();
                for line in text.split_inclusive(|byte| *byte == b'\n') {
                    plain.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
                }
                prop_assert_eq!(plain, sent);
            }
        }

        #[test]
        fn what_is_passed_on_has_no_bare_line_end_and_no_end(
            pieces in proptest::collection::vec(
                prop::sample::select(vec![&b"\r\n"[..], b"\r", b"\n", b".", b"text", b"\0"]),
                0..40,
            ),
            piece in 1_usize..9,
        ) {
            let bytes = pieces.concat();
            let (out, end, rest) = text(&bytes, piece);
            prop_assert_eq!((&out, end, &rest), {
                let (a, b, c) = text(&bytes, bytes.len());
                (&a.clone(), b, &c.clone())
            });
            let stripped = out.replace_crlf();
            prop_assert!(!stripped.contains(&b'\r') && !stripped.contains(&b'\n'));
            prop_assert!(!out.windows(5).any(|five| five == b"\r\n.\r\n") && !out.starts_with(b".\r\n"));
            if end == Text::End {
                prop_assert_eq!([&out[..], b".\r\n", &rest].concat(), bytes);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new(Syntax::Strict);
            decoder.feed(&bytes);
            while let Ok(Some(_)) = decoder.next_command() {}
            prop_assert!(decoder.held() <= bytes.len());
        }
    }

    trait ReplaceCrlf {
        fn replace_crlf(&self) -> Vec<u8>;
    }

    impl ReplaceCrlf for Vec<u8> {
        fn replace_crlf(&self) -> Vec<u8> {
            let text = String::from_utf8_lossy(self).replace("\r\n", "");
            text.into_bytes()
        }
    }
}
