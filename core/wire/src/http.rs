//! HTTP (RFC 9112), the client's side, as far as rspamd's worker needs it: a connection is used for one
//! request, which says 1.0, so that nobody answers in chunks, and for one response.
//!
//! ```
//! use mpp_wire::http::{Response, request};
//!
//! let head = request("POST /checkv2", [("ip", "192.0.2.1")], Some(5));
//! assert_eq!(head, "POST /checkv2 HTTP/1.0\r\nip: 192.0.2.1\r\ncontent-length: 5\r\n\r\n");
//! let mut response = Response::default();
//! assert_eq!(response.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"), Ok(false));
//! assert_eq!(response.feed(b"{}"), Ok(true));
//! assert_eq!(response.body(), Ok(&b"{}"[..]));
//! ```

/// No head of a response is longer, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// No response is longer, in bytes.
pub const RESPONSE_BYTES_MAX: usize = 1 << 20;

/// Why a response is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// What came is no response.
    #[error("what it says is no response")]
    NoResponse,
    /// It is too long.
    #[error("it says too much")]
    TooLong,
    /// It ended before it was whole.
    #[error("its response is cut off")]
    CutOff,
    /// It says no, with this code.
    #[error("it says {0}")]
    Status(u16),
}

/// What stands before the body of a request, which has so many bytes; nothing for none. A field that
/// can be none, since a stranger chose its value, is left out, and so is one without a value.
pub fn request<'f>(
    what: &str,
    fields: impl IntoIterator<Item = (&'f str, &'f str)>,
    bytes: Option<u64>,
) -> String {
    let mut text = String::with_capacity(512);
    for part in [what, " HTTP/1.0\r\n"] {
        text.push_str(part);
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_value = |byte: u8| byte == b'\t' || byte >= b' ' && byte != 0x7f;
    let mut push = |name: &str, value: &str| {
        if !value.is_empty() && name.bytes().all(is_name) && value.bytes().all(is_value) {
            for part in [name, ": ", value, "\r\n"] {
                text.push_str(part);
            }
        }
    };
    for (name, value) in fields {
        push(name, value);
    }
    if let Some(bytes) = bytes {
        push("content-length", &bytes.to_string());
    }
    text.push_str("\r\n");
    text
}

/// A response as it comes.
#[derive(Debug, Default)]
pub struct Response {
    bytes: Vec<u8>,
    head: Option<Head>,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    status: u16,
    /// Where the body begins.
    body: usize,
    /// How long that is; without it, it ends with the connection.
    length: Option<usize>,
}

impl Response {
    /// Takes bytes; returns whether the response is whole.
    ///
    /// # Errors
    /// It is none, or too long.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<bool, Fault> {
        if self.bytes.len() + bytes.len() > RESPONSE_BYTES_MAX {
            return Err(Fault::TooLong);
        }
        // The end of the head may lie across two pieces.
        let seen = self.bytes.len().saturating_sub(3);
        self.bytes.extend_from_slice(bytes);
        if self.head.is_none() {
            let rest = self.bytes.get(seen..).unwrap_or_default();
            match memchr::memmem::find(rest, b"\r\n\r\n") {
                Some(end) if seen + end <= HEAD_BYTES_MAX => {
                    self.head = Some(head(&self.bytes, seen + end)?);
                }
                None if self.bytes.len() <= HEAD_BYTES_MAX => {}
                Some(_) | None => return Err(Fault::TooLong),
            }
        }
        Ok(self.head.is_some_and(|head| {
            head.length.is_some_and(|length| self.bytes.len() - head.body >= length)
        }))
    }

    /// Its body, once it is whole or the connection has ended.
    ///
    /// # Errors
    /// It says no, or is cut off.
    pub fn body(&self) -> Result<&[u8], Fault> {
        let Some(head) = self.head else {
            return Err(if self.bytes.is_empty() { Fault::CutOff } else { Fault::NoResponse });
        };
        if !(200..300).contains(&head.status) {
            return Err(Fault::Status(head.status));
        }
        let body = self.bytes.get(head.body..).unwrap_or_default();
        body.get(..head.length.unwrap_or(body.len())).ok_or(Fault::CutOff)
    }
}

/// Reads a head that ends there.
fn head(bytes: &[u8], end: usize) -> Result<Head, Fault> {
    let text = bytes.get(..end).unwrap_or_default();
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let mut words = lines.next().unwrap_or_default().split(|byte| *byte == b' ');
    let is_http = words.next().is_some_and(|word| word.starts_with(b"HTTP/1."));
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<usize>().ok();
    let status = words.next().filter(|word| word.len() == 3).and_then(number);
    let status = status.filter(|status| is_http && (200..600).contains(status));
    let status = u16::try_from(status.ok_or(Fault::NoResponse)?).map_err(|_| Fault::NoResponse)?;
    let mut length = None;
    for line in lines {
        let Some(colon) = memchr::memchr(b':', line) else { return Err(Fault::NoResponse) };
        let (name, value) = line.split_at_checked(colon).unwrap_or((line, b":"));
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            let said = number(value).ok_or(Fault::NoResponse)?;
            if length.is_some_and(|before| before != said) {
                return Err(Fault::NoResponse);
            }
            if said > RESPONSE_BYTES_MAX {
                return Err(Fault::TooLong);
            }
            length = Some(said);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            // Not to somebody who speaks 1.0.
            return Err(Fault::NoResponse);
        }
    }
    Ok(Head { status, body: end + 4, length })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a response in pieces of so many bytes.
    fn read(bytes: &[u8], piece: usize) -> Result<Vec<u8>, Fault> {
        let mut response = Response::default();
        for piece in bytes.chunks(piece) {
            if response.feed(piece)? {
                break;
            }
        }
        response.body().map(<[u8]>::to_vec)
    }

    #[test]
    fn a_response_is_read_in_pieces_as_in_one() {
        for (bytes, wanted) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: y\r\n\r\nabcdef"[..], Ok(&b"abc"[..])),
            (b"HTTP/1.0 200 OK\r\n\r\nto the end", Ok(b"to the end")),
            (b"HTTP/1.1 200\r\ncontent-length:0\r\n\r\n", Ok(b"")),
            (b"", Err(Fault::CutOff)),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", Err(Fault::CutOff)),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", Err(Fault::NoResponse)),
            (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", Err(Fault::Status(503))),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc", Err(Fault::NoResponse)),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Fault::NoResponse)),
            (b"HTTP/1.1 200 OK\r\nno field\r\n\r\n", Err(Fault::NoResponse)),
            (b"HTTP/1.1 2000 OK\r\n\r\n", Err(Fault::NoResponse)),
            (b"SPAMD/1.1 0 EX_OK\r\n\r\n", Err(Fault::NoResponse)),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n", Err(Fault::TooLong)),
        ] {
            for piece in 1..=bytes.len().max(1) {
                let shown = String::from_utf8_lossy(bytes);
                assert_eq!(read(bytes, piece).as_deref(), wanted.as_ref().map(|it| *it), "{shown}");
            }
        }
        let twice = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab";
        assert_eq!(read(twice, 9), Err(Fault::NoResponse));
    }

    #[test]
    fn it_has_bounds() {
        let mut response = Response::default();
        let line = b"X-A: b\r\n".repeat(HEAD_BYTES_MAX / 8 - 3);
        assert_eq!(response.feed(b"HTTP/1.1 200 OK\r\n"), Ok(false));
        assert_eq!(response.feed(&line), Ok(false));
        assert_eq!(response.feed(b"X-A: b\r\n"), Err(Fault::TooLong));
        let mut response = Response::default();
        assert_eq!(response.feed(b"HTTP/1.1 200 OK\r\n\r\n"), Ok(false));
        let rest = vec![b'x'; RESPONSE_BYTES_MAX - 19];
        assert_eq!(response.feed(&rest), Ok(false));
        assert_eq!(response.feed(b"x"), Err(Fault::TooLong));
    }

    #[test]
    fn what_is_no_field_is_left_out() {
        let fields = [("a", "b"), ("from", "x\r\nIP: 127.0.0.1"), ("helo", ""), ("b c", "d")];
        assert_eq!(request("GET /", fields, None), "GET / HTTP/1.0\r\na: b\r\n\r\n");
        let fields = [("user", "\u{fc}ml\u{e4}ut"), ("to", "a\0b"), ("x", "\u{7f}")];
        let wanted = "GET / HTTP/1.0\r\nuser: \u{fc}ml\u{e4}ut\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(request("GET /", fields, Some(0)), wanted);
    }
}
