//! The client's side of SMTP (RFC 5321) and LMTP (RFC 2033): replies from bytes, addresses to text.
//! What a reply means to whom is not said here.
//!
//! Only CRLF ends a line (RFC 5321 section 2.3.8). A server that sends anything else is not
//! guessed at: where one side sees a line and the other does not, replies go to the wrong question.
//!
//! ```
//! use mpp_wire::smtp::{Decoder, path};
//!
//! let mut decoder = Decoder::default();
//! decoder.feed(b"550-5.1.1 No such user\r\n550 5.1.1 here\r\n");
//! let reply = decoder.next_reply().unwrap().unwrap();
//! assert_eq!((reply.code, reply.enhanced), (550, Some((5, 1, 1))));
//! assert_eq!(reply.text(), "No such user here");
//! assert_eq!(path("a b", "example.org").unwrap().text, "<\"a b\"@example.org>");
//! ```

use memchr::memchr2;

/// No line of a reply may be longer, in bytes without its CRLF. RFC 5321 section 4.5.3.1.5 says
/// 512; servers that explain themselves with a link go beyond.
pub const LINE_BYTES_MAX: usize = 2048;

/// No reply may have more lines. The longest there are, to EHLO, have some 30.
pub const LINES_MAX: usize = 128;

/// The local part of an address may be so long before it is no address, in bytes. RFC 5321 section
/// 4.5.3.1.1 says 64; some mailing lists put more into it.
pub const LOCAL_BYTES_MAX: usize = 256;

/// The same for its domain (RFC 5321 section 4.5.3.1.2).
pub const DOMAIN_BYTES_MAX: usize = 255;

/// What is wrong with what a server sent. Nothing that follows can be trusted to answer anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No CRLF within [`LINE_BYTES_MAX`].
    #[error("a line over {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    /// More than [`LINES_MAX`] lines.
    #[error("a reply of over {LINES_MAX} lines")]
    TooManyLines,
    /// CR without LF, or LF without CR.
    #[error("a line that does not end with CRLF")]
    BareLineEnd,
    /// A line that does not begin with a code and a space or `-`.
    #[error("a line that is no SMTP reply")]
    NoReply,
    /// The lines of one reply have different codes.
    #[error("a reply with two codes")]
    TwoCodes,
}

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The code, 200 to 599.
    pub code: u16,
    /// The enhanced status code (RFC 3463) of the first line that has one of the same class.
    pub enhanced: Option<(u16, u16, u16)>,
    /// The text of each line behind the codes; what is no printable text is replaced.
    pub lines: Vec<String>,
}

impl Reply {
    /// Whether it says yes (2xx).
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// Whether it says "not now" (4xx).
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// The text in one line.
    pub fn text(&self) -> String {
        self.lines.join(" ")
    }

    /// Whether a reply to EHLO offers an extension, by its keyword in capitals. The first line is
    /// the greeting, whatever it holds.
    pub fn offers(&self, keyword: &str) -> bool {
        let words = self.lines.iter().skip(1).filter_map(|line| line.split(' ').next());
        words.into_iter().any(|word| word.eq_ignore_ascii_case(keyword))
    }
}

/// Reads replies out of bytes, in whatever pieces they come.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// The code and the lines of the reply that has begun, and how many bytes they were.
    code: Option<u16>,
    lines: Vec<String>,
    lines_bytes: usize,
    enhanced: Option<(u16, u16, u16)>,
    fault: Option<Malformed>,
}

impl Decoder {
    /// Takes what was read. Call [`Self::next_reply`] until it has no more before the next.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.fault.is_none() {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Bytes that belong to a reply which is not whole yet.
    pub fn held(&self) -> usize {
        self.bytes.len() + self.lines_bytes
    }

    /// The next whole reply. After a fault there is only that fault.
    pub fn next_reply(&mut self) -> Option<Result<Reply, Malformed>> {
        if let Some(fault) = self.fault {
            return Some(Err(fault));
        }
        loop {
            let line = match take_line(&mut self.bytes) {
                Ok(None) => return None,
                Ok(Some(line)) => self.take(&line),
                Err(fault) => Err(fault),
            };
            match line {
                Ok(None) => {}
                Ok(Some(reply)) => return Some(Ok(reply)),
                Err(fault) => {
                    self.fault = Some(fault);
                    self.bytes = Vec::new();
                    return Some(Err(fault));
                }
            }
        }
    }

    /// Adds a line to the reply; gives the reply if it was the last.
    fn take(&mut self, line: &[u8]) -> Result<Option<Reply>, Malformed> {
        let (code, rest) = line.split_at_checked(3).ok_or(Malformed::NoReply)?;
        let code = code_of(code).ok_or(Malformed::NoReply)?;
        if self.code.is_some_and(|first| first != code) {
            return Err(Malformed::TwoCodes);
        }
        let (is_last, rest) = match rest.split_first() {
            None => (true, rest),
            Some((b' ', rest)) => (true, rest),
            Some((b'-', rest)) => (false, rest),
            Some(_) => return Err(Malformed::NoReply),
        };
        if self.lines.len() == LINES_MAX {
            return Err(Malformed::TooManyLines);
        }
        let text = printable(rest);
        let (enhanced, text) = split_enhanced(code, &text);
        self.enhanced = self.enhanced.or(enhanced);
        self.lines.push(text.to_owned());
        self.lines_bytes += line.len() + 2;
        self.code = Some(code);
        if !is_last {
            return Ok(None);
        }
        self.code = None;
        self.lines_bytes = 0;
        let lines = std::mem::take(&mut self.lines);
        Ok(Some(Reply { code, enhanced: self.enhanced.take(), lines }))
    }
}

/// Cuts a line off, without its CRLF.
fn take_line(bytes: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Malformed> {
    let end = memchr2(b'\r', b'\n', bytes);
    if end.unwrap_or(bytes.len()) > LINE_BYTES_MAX {
        return Err(Malformed::LineTooLong);
    }
    let Some(end) = end else { return Ok(None) };
    match (bytes.get(end), bytes.get(end + 1)) {
        (Some(b'\r'), Some(b'\n')) => {
            let rest = bytes.split_off(end + 2);
            let mut line = std::mem::replace(bytes, rest);
            line.truncate(end);
            Ok(Some(line))
        }
        (Some(b'\r'), None) => Ok(None),
        _ => Err(Malformed::BareLineEnd),
    }
}

fn code_of(digits: &[u8]) -> Option<u16> {
    let mut code = 0;
    for digit in digits {
        code = code * 10 + u16::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    (200..600).contains(&code).then_some(code)
}

/// Text for people and logs: no control characters, no broken UTF-8.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

/// An enhanced status code before a text, if its class is that of the code (RFC 2034).
fn split_enhanced(code: u16, text: &str) -> (Option<(u16, u16, u16)>, &str) {
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    match enhanced(first) {
        Some(found) if found.0 == code / 100 => (Some(found), rest),
        _ => (None, text),
    }
}

fn enhanced(text: &str) -> Option<(u16, u16, u16)> {
    let mut numbers = text.split('.').map(|number| {
        let is_number =
            (1..=3).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| number.parse::<u16>().ok()).flatten()
    });
    let mut next = || numbers.next().flatten();
    let found = (next()?, next()?, next()?);
    (numbers.next().is_none() && matches!(found.0, 2 | 4 | 5)).then_some(found)
}

/// An address as a command names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// With its angle brackets.
    pub text: String,
    /// Whether a server must know SMTPUTF8 (RFC 6531) to be told.
    pub needs_utf8: bool,
}

/// Spells an address for MAIL or RCPT, its local part quoted where RFC 5321 section 4.1.2 wants
/// that. Nothing for what is no address, or cannot be said in one line: control characters above
/// all, with which a stranger would speak commands of his own.
pub fn path(local: &str, domain: &str) -> Option<Path> {
    let is_said = !local.is_empty()
        && local.len() <= LOCAL_BYTES_MAX
        && !local.chars().any(char::is_control)
        && is_domain(domain);
    if !is_said {
        return None;
    }
    let local = if is_dot_string(local) || is_quoted(local) {
        local.to_owned()
    } else {
        let mut quoted = String::from("\"");
        for character in local.chars() {
            if matches!(character, '"' | '\\') {
                quoted.push('\\');
            }
            quoted.push(character);
        }
        quoted.push('"');
        quoted
    };
    let needs_utf8 = !(local.is_ascii() && domain.is_ascii());
    Some(Path { text: format!("<{local}@{domain}>"), needs_utf8 })
}

fn is_domain(domain: &str) -> bool {
    if domain.is_empty() || domain.len() > DOMAIN_BYTES_MAX {
        return false;
    }
    let (inner, is_literal) = match domain.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        Some(inner) => (inner, true),
        None => (domain, false),
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_fine = |c: char| {
        is_plain(c)
            || is_literal && c == ':'
            || !c.is_ascii() && !c.is_whitespace() && !c.is_control()
    };
    !inner.is_empty() && inner.chars().all(is_fine)
}

/// A local part that needs no quotes: `Dot-string` of RFC 5321, with the letters of RFC 6531.
fn is_dot_string(local: &str) -> bool {
    let is_atom =
        |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii();
    local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom))
}

/// A local part that comes with its quotes: `Quoted-string` of RFC 5321.
fn is_quoted(local: &str) -> bool {
    let Some(inner) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return false;
    };
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return false,
            '\\' if characters.next().is_none() => return false,
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(pieces: &[&[u8]]) -> (Vec<Reply>, Option<Malformed>, usize) {
        let mut decoder = Decoder::default();
        let mut replies = Vec::new();
        for piece in pieces {
            decoder.feed(piece);
            while let Some(reply) = decoder.next_reply() {
                match reply {
                    Ok(reply) => replies.push(reply),
                    Err(fault) => return (replies, Some(fault), decoder.held()),
                }
            }
        }
        (replies, None, decoder.held())
    }

    fn one(bytes: &str) -> Reply {
        let (mut replies, fault, held) = decoded(&[bytes.as_bytes()]);
        assert_eq!((replies.len(), fault, held), (1, None, 0), "{bytes:?}");
        replies.remove(0)
    }

    #[test]
    fn replies_of_real_servers() {
        type Case<'a> = (&'a str, u16, Option<(u16, u16, u16)>, &'a str);
        let cases: [Case<'_>; 8] = [
            ("220 mx.example.org ESMTP Postfix\r\n", 220, None, "mx.example.org ESMTP Postfix"),
            ("250 2.1.5 Ok\r\n", 250, Some((2, 1, 5)), "Ok"),
            ("250\r\n", 250, None, ""),
            ("250 \r\n", 250, None, ""),
            (
                "550-5.1.1 The email account that you tried to reach does not exist.\r\n\
                 550 5.1.1 Learn more\r\n",
                550,
                Some((5, 1, 1)),
                "The email account that you tried to reach does not exist. Learn more",
            ),
            // The class of an enhanced code counts only if it is that of the code.
            ("550 4.7.1 odd\r\n", 550, None, "4.7.1 odd"),
            ("550 5.1.1000 odd\r\n", 550, None, "5.1.1000 odd"),
            ("550 5.1.10\r\n", 550, Some((5, 1, 10)), ""),
        ];
        for (bytes, code, enhanced, text) in cases {
            let reply = one(bytes);
            assert_eq!((reply.code, reply.enhanced, &*reply.text()), (code, enhanced, text));
        }
    }

    #[test]
    fn extensions_are_words_behind_the_greeting() {
        let reply = one("250-mx.example.org STARTTLS\r\n250-PIPELINING\r\n250-size 10240\r\n\
                         250 8BITMIME\r\n");
        assert!(reply.offers("PIPELINING") && reply.offers("SIZE") && reply.offers("8BITMIME"));
        assert!(!reply.offers("STARTTLS") && !reply.offers("PIPE") && !reply.offers(""));
        assert!(!one("250 PIPELINING\r\n").offers("PIPELINING"), "that is the greeting");
    }

    #[test]
    fn faults_end_it() {
        let long = format!("250 {}\r\n", "x".repeat(LINE_BYTES_MAX - 3));
        let many = "250-x\r\n".repeat(LINES_MAX) + "250 x\r\n";
        for (bytes, fault) in [
            ("250 a\n", Malformed::BareLineEnd),
            ("250 a\rb\r\n", Malformed::BareLineEnd),
            ("250 a\r\r\n", Malformed::BareLineEnd),
            ("+OK ready\r\n", Malformed::NoReply),
            ("25\r\n", Malformed::NoReply),
            ("2500\r\n", Malformed::NoReply),
            ("150 a\r\n", Malformed::NoReply),
            ("600 a\r\n", Malformed::NoReply),
            ("\r\n", Malformed::NoReply),
            ("250-a\r\n251 b\r\n", Malformed::TwoCodes),
            (&long, Malformed::LineTooLong),
            (&many, Malformed::TooManyLines),
        ] {
            let (replies, found, _) = decoded(&[bytes.as_bytes(), b"250 fine\r\n"]);
            assert_eq!((replies.len(), found), (0, Some(fault)), "{bytes:.60?}");
        }
        let fits = format!("250 {}\r\n", "x".repeat(LINE_BYTES_MAX - 4));
        assert_eq!(one(&fits).text().len(), LINE_BYTES_MAX - 4);
        assert_eq!(one(&("250-x\r\n".repeat(LINES_MAX - 1) + "250 x\r\n")).lines.len(), LINES_MAX);
        let endless = vec![b'2'; 100];
        let mut decoder = Decoder::default();
        for _ in 0..1000 {
            decoder.feed(&endless);
            let _ = decoder.next_reply();
            assert!(decoder.held() <= LINE_BYTES_MAX + endless.len());
        }
    }

    #[test]
    fn paths_are_quoted_where_they_must_be() {
        for (local, domain, wanted) in [
            ("anna", "example.org", "<anna@example.org>"),
            ("a.b+c", "[192.0.2.1]", "<a.b+c@[192.0.2.1]>"),
            ("a b", "example.org", "<\"a b\"@example.org>"),
            ("a@b", "example.org", "<\"a@b\"@example.org>"),
            (".a", "example.org", "<\".a\"@example.org>"),
            ("a..b", "example.org", "<\"a..b\"@example.org>"),
            ("a\"b\\", "example.org", "<\"a\\\"b\\\\\"@example.org>"),
            ("\"a b\"", "example.org", "<\"a b\"@example.org>"),
            ("\"a\"b\"", "example.org", "<\"\\\"a\\\"b\\\"\"@example.org>"),
            ("\"", "example.org", "<\"\\\"\"@example.org>"),
            ("a>b", "example.org", "<\"a>b\"@example.org>"),
        ] {
            let path = path(local, domain).unwrap();
            assert_eq!((&*path.text, path.needs_utf8), (wanted, false));
        }
        assert!(path("ünï", "example.org").unwrap().needs_utf8);
        assert!(path("anna", "bücher.example").unwrap().needs_utf8);
        assert!(path(&"x".repeat(LOCAL_BYTES_MAX), "example.org").is_some());
        for (local, domain) in [
            ("", "example.org"),
            ("anna", ""),
            ("a\r\nDATA", "example.org"),
            ("a\n", "example.org"),
            ("a\0", "example.org"),
            ("a\u{85}", "example.org"),
            ("a", "example.org>\r\nDATA"),
            ("a", "example.org> NOTIFY=NEVER"),
            ("a", "exam ple.org"),
            ("a", "[]"),
            (&"x".repeat(LOCAL_BYTES_MAX + 1), "example.org"),
            ("a", &"x".repeat(DOMAIN_BYTES_MAX + 1)),
        ] {
            assert_eq!(path(local, domain), None, "{local:.40?} {domain:.40?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            text in "((2|5)[0-9]{2}[ -][ -~]{0,20}\r\n|\r|\n|250 x\r\n|550-5.1.1 y\r\n){0,12}",
            cut in 1_usize..9,
        ) {
            let bytes = text.as_bytes();
            let pieces: Vec<&[u8]> = bytes.chunks(cut).collect();
            prop_assert_eq!(decoded(&pieces).0, decoded(&[bytes]).0);
            prop_assert_eq!(decoded(&pieces).1, decoded(&[bytes]).1);
        }

        #[test]
        fn a_path_is_one_word_of_one_line(local in ".{0,40}", domain in ".{0,40}") {
            if let Some(path) = path(&local, &domain) {
                prop_assert!(!path.text.chars().any(char::is_control));
                let behind = path.text.rsplit_once('@').map(|(_, domain)| domain);
                prop_assert!(behind.is_some_and(|it| !it.contains(' ') && it.ends_with('>')));
                prop_assert_eq!(path.text.is_ascii(), !path.needs_utf8);
            }
        }
    }
}
