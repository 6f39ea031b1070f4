//! The Postfix SMTP access policy delegation protocol (Postfix: `SMTPD_POLICY_README`).
//!
//! A request is lines `name=value`, ended by an empty line; the answer is one line `action=...`
//! and an empty line. Only LF ends a line. Names are known or not; a value may hold `=`.

use memchr::{memchr, memmem};

/// No request may be longer, in bytes. Postfix sends some 700; addresses and certificate names
/// together stay far below.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// So many unknown attributes of a request are kept for the log.
pub const UNKNOWN_MAX: usize = 4;

/// What is wrong with a request. There is no answer to give: the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No empty line within [`REQUEST_BYTES_MAX`].
    #[error("request over {REQUEST_BYTES_MAX} bytes")]
    TooLong,
    /// A line is no `name=value`.
    #[error("line without '='")]
    NoEquals,
    /// A NUL byte.
    #[error("NUL byte")]
    Nul,
    /// There is no `request` attribute, or an empty request.
    #[error("no request attribute")]
    NoRequest,
}

/// One request. What was not sent is empty, as Postfix itself sends what it does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are Postfix's attributes, by their names")]
pub struct Request<'a> {
    pub request: &'a [u8],
    pub protocol_state: &'a [u8],
    pub helo_name: &'a [u8],
    pub queue_id: &'a [u8],
    pub sender: &'a [u8],
    pub recipient: &'a [u8],
    pub recipient_count: &'a [u8],
    pub client_address: &'a [u8],
    pub client_name: &'a [u8],
    pub reverse_client_name: &'a [u8],
    pub client_port: &'a [u8],
    pub instance: &'a [u8],
    pub sasl_username: &'a [u8],
    pub size: &'a [u8],
    pub policy_context: &'a [u8],
    /// Ours: the verdict of an observation, `spam` or `ham`.
    pub verdict: &'a [u8],
    /// Ours: virtual time of a replay, in seconds since 1970 with decimals.
    pub mpp_time: &'a [u8],
    /// Attributes that no Postfix known to us sends: name and value.
    pub unknown: [(&'a [u8], &'a [u8]); UNKNOWN_MAX],
    /// All lines, if they are UTF-8; else empty.
    pub whole: &'a str,
}

impl<'a> Request<'a> {
    /// Reads the lines of a request, its closing empty line left out.
    ///
    /// # Errors
    /// The lines are no request.
    pub fn parse(lines: &'a [u8]) -> Result<Self, Malformed> {
        if memchr(0, lines).is_some() {
            return Err(Malformed::Nul);
        }
        // Looked at once as a whole: a look at each value costs several times as much.
        let whole = std::str::from_utf8(lines).unwrap_or_default();
        let mut request = Self { whole, ..Self::default() };
        let mut rest = lines;
        let mut next = 0;
        while !rest.is_empty() {
            let end = memchr(b'\n', rest).unwrap_or(rest.len());
            let (line, tail) = rest.split_at(end);
            rest = tail.get(1..).unwrap_or_default();
            // They come in Postfix's order, so the one behind the last is tried first.
            let known = NAMES.get(next).and_then(|name| Some((next, value_of(line, name)?)));
            let (number, value) = if let Some(known) = known {
                known
            } else {
                let equals = memchr(b'=', line).ok_or(Malformed::NoEquals)?;
                let (name, value) = line.split_at(equals);
                let value = value.get(1..).unwrap_or_default();
                let Some(number) = NAMES.iter().position(|known| *known == name) else {
                    request.keep_unknown(name, value);
                    continue;
                };
                (number, value)
            };
            if let Some(place) = request.place(number) {
                *place = value;
            }
            next = number + 1;
        }
        if request.request.is_empty() { Err(Malformed::NoRequest) } else { Ok(request) }
    }

    /// A value of this request as text, if it is UTF-8.
    pub fn text(&self, value: &'a [u8]) -> Option<&'a str> {
        // A value is a piece of the lines, so its place says which piece of the text it is.
        let start = value.as_ptr().addr().wrapping_sub(self.whole.as_ptr().addr());
        match self.whole.get(start..start.wrapping_add(value.len())) {
            Some(text) if !value.is_empty() => Some(text),
            _ => std::str::from_utf8(value).ok(),
        }
    }

    /// Where the value of a name belongs, by its number in [`NAMES`]; nothing looks at the others.
    fn place(&mut self, number: usize) -> Option<&mut &'a [u8]> {
        Some(match number {
            0 => &mut self.request,
            1 => &mut self.protocol_state,
            3 => &mut self.client_address,
            4 => &mut self.client_name,
            5 => &mut self.client_port,
            6 => &mut self.reverse_client_name,
            9 => &mut self.helo_name,
            10 => &mut self.sender,
            11 => &mut self.recipient,
            12 => &mut self.recipient_count,
            13 => &mut self.queue_id,
            14 => &mut self.instance,
            15 => &mut self.size,
            19 => &mut self.sasl_username,
            28 => &mut self.policy_context,
            31 => &mut self.verdict,
            32 => &mut self.mpp_time,
            _ => return None,
        })
    }

    fn keep_unknown(&mut self, name: &'a [u8], value: &'a [u8]) {
        if let Some(free) = self.unknown.iter_mut().find(|(name, _)| name.is_empty()) {
            *free = (name, value);
        }
    }
}

/// The value in a line, if it has that name.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    line.strip_prefix(name)?.strip_prefix(b"=")
}

/// The names of all attributes, in the order in which Postfix 3.7 sends them; then ours, and those
/// of other versions.
const NAMES: [&[u8]; 35] = [
    b"request",
    b"protocol_state",
    b"protocol_name",
    b"client_address",
    b"client_name",
    b"client_port",
    b"reverse_client_name",
    b"server_address",
    b"server_port",
    b"helo_name",
    b"sender",
    b"recipient",
    b"recipient_count",
    b"queue_id",
    b"instance",
    b"size",
    b"etrn_domain",
    b"stress",
    b"sasl_method",
    b"sasl_username",
    b"sasl_sender",
    b"ccert_subject",
    b"ccert_issuer",
    b"ccert_fingerprint",
    b"ccert_pubkey_fingerprint",
    b"encryption_protocol",
    b"encryption_cipher",
    b"encryption_keysize",
    b"policy_context",
    b"compatibility_level",
    b"mail_version",
    b"verdict",
    b"mpp_time",
    b"tls_sni",
    b"client_port_name",
];

/// Cuts a stream into requests. It holds only what a read has left of an unfinished one.
#[derive(Debug, Default)]
pub struct Decoder {
    held: Vec<u8>,
    /// Bytes of `held` that were searched for the end already.
    searched: usize,
}

impl Decoder {
    /// Takes what was read; the requests in it come out of [`Requests::next_request`]. What is left
    /// when that is dropped is held for the next call.
    pub fn feed<'d>(&'d mut self, bytes: &'d [u8]) -> Requests<'d> {
        let mut own = std::mem::take(&mut self.held);
        let searched = std::mem::take(&mut self.searched);
        let (own, whole) = if own.is_empty() {
            (None, bytes)
        } else {
            own.extend_from_slice(bytes);
            (Some(own), bytes)
        };
        Requests { decoder: self, own, borrowed: whole, at: 0, searched }
    }

    /// Bytes held of an unfinished request.
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

/// The requests in what was fed last.
#[derive(Debug)]
pub struct Requests<'d> {
    decoder: &'d mut Decoder,
    own: Option<Vec<u8>>,
    borrowed: &'d [u8],
    at: usize,
    searched: usize,
}

impl Requests<'_> {
    /// The next whole request; nothing if more bytes are needed. After an error the stream is
    /// without meaning.
    pub fn next_request(&mut self) -> Option<Result<Request<'_>, Malformed>> {
        let whole = self.own.as_deref().unwrap_or(self.borrowed);
        let rest = whole.get(self.at..).unwrap_or_default();
        if rest.first() == Some(&b'\n') {
            return Some(Err(Malformed::NoRequest));
        }
        // The end may straddle two reads: search again from one byte before.
        let from = self.searched.saturating_sub(1).min(rest.len());
        let found = memmem::find(rest.get(from..).unwrap_or_default(), b"\n\n").map(|at| at + from);
        let Some(end) = found else {
            self.searched = rest.len();
            return (rest.len() > REQUEST_BYTES_MAX).then_some(Err(Malformed::TooLong));
        };
        self.searched = 0;
        self.at += end + 2;
        if end > REQUEST_BYTES_MAX {
            return Some(Err(Malformed::TooLong));
        }
        Some(Request::parse(rest.get(..end).unwrap_or_default()))
    }
}

impl Drop for Requests<'_> {
    fn drop(&mut self) {
        self.decoder.searched = self.searched;
        match self.own.take() {
            Some(mut own) if self.at < own.len() => {
                own.drain(..self.at);
                self.decoder.held = own;
            }
            Some(_) => {}
            None => {
                let left = self.borrowed.get(self.at..).unwrap_or_default();
                self.decoder.held.extend_from_slice(left);
            }
        }
    }
}

/// Appends an answer. Whatever is not printable ASCII becomes `?`, so that it is one line and
/// Postfix takes it (`valid_utf8_action`); it is cut where Postfix would cut the reply.
pub fn push_answer(action: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"action=");
    let cut = action.as_bytes().get(..ACTION_BYTES_MAX).unwrap_or(action.as_bytes());
    out.extend(cut.iter().map(|byte| if matches!(byte, 0x20..=0x7e) { *byte } else { b'?' }));
    out.extend_from_slice(b"\n\n");
}

/// Postfix cuts a reply at 510 bytes; this leaves room for what it puts before our text.
pub const ACTION_BYTES_MAX: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WHOLE: &[u8] =
        b"request=smtpd_access_policy\nprotocol_state=RCPT\nsender=a=b@c.example\n\
        recipient=\nfuture=x=y\nclient_address=192.0.2.1\n\n";

    fn all(pieces: &[&[u8]]) -> (Vec<String>, Option<Malformed>) {
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for piece in pieces {
            let mut requests = decoder.feed(piece);
            while let Some(request) = requests.next_request() {
                match request {
                    Ok(request) => seen.push(format!("{request:?}")),
                    Err(malformed) => return (seen, Some(malformed)),
                }
            }
        }
        (seen, None)
    }

    #[test]
    fn values_may_hold_an_equals_sign_and_unknown_names_are_kept() {
        let lines = WHOLE.strip_suffix(b"\n\n").unwrap();
        let request = Request::parse(lines).unwrap();
        assert_eq!(request.sender, b"a=b@c.example");
        assert_eq!(request.recipient, b"");
        assert_eq!(request.unknown[0], (&b"future"[..], &b"x=y"[..]));
        assert_eq!(request.unknown[1].0, b"");
    }

    #[test]
    fn every_attribute_has_its_place_in_any_order() {
        let mut lines: Vec<String> = NAMES
            .iter()
            .map(|name| format!("{0}=<{0}>\n", String::from_utf8_lossy(name)))
            .collect();
        for _ in 0..2 {
            let text = lines.concat();
            let request = Request::parse(text.trim_end().as_bytes()).unwrap();
            for (value, name) in [
                (request.request, "request"),
                (request.protocol_state, "protocol_state"),
                (request.client_address, "client_address"),
                (request.client_name, "client_name"),
                (request.client_port, "client_port"),
                (request.reverse_client_name, "reverse_client_name"),
                (request.helo_name, "helo_name"),
                (request.sender, "sender"),
                (request.recipient, "recipient"),
                (request.recipient_count, "recipient_count"),
                (request.queue_id, "queue_id"),
                (request.instance, "instance"),
                (request.size, "size"),
                (request.sasl_username, "sasl_username"),
                (request.policy_context, "policy_context"),
                (request.verdict, "verdict"),
                (request.mpp_time, "mpp_time"),
            ] {
                assert_eq!(value, format!("<{name}>").as_bytes());
            }
            assert_eq!(request.unknown[0].0, b"");
            lines.reverse();
        }
    }

    #[test]
    fn values_are_text_where_they_are_utf_8() {
        let lines = "request=x\nsender=jörg@x.example\nrecipient=".as_bytes();
        let request = Request::parse(lines).unwrap();
        assert_eq!(request.text(request.sender), Some("jörg@x.example"));
        assert_eq!(request.text(request.recipient), Some(""));
        assert_eq!(request.text(request.helo_name), Some(""));
        assert_eq!(request.text(b"elsewhere"), Some("elsewhere"));
        let request = Request::parse(b"request=x\nsender=a\xff\nrecipient=b").unwrap();
        assert_eq!(request.text(request.sender), None);
        assert_eq!(request.text(request.recipient), Some("b"));
    }

    #[test]
    fn what_is_no_request_is_malformed() {
        for (bytes, malformed) in [
            (&b"request=x\nsender\n\n"[..], Malformed::NoEquals),
            (b"request=x\nsender=\0\n\n", Malformed::Nul),
            (b"sender=x\n\n", Malformed::NoRequest),
            (b"\n", Malformed::NoRequest),
            (b"\n\n", Malformed::NoRequest),
            (b"\nrequest=x\n\n", Malformed::NoRequest),
        ] {
            assert_eq!(all(&[bytes]).1, Some(malformed), "{bytes:?}");
        }
    }

    #[test]
    fn the_bound_holds_to_the_byte() {
        let mut long = b"request=x\nsender=".to_vec();
        long.resize(REQUEST_BYTES_MAX, b'a');
        assert_eq!(all(&[&long]).1, None, "not yet too long");
        let whole = [&long[..], b"\n\n"].concat();
        assert_eq!(all(&[&whole]), (all(&[&whole]).0, None));
        assert_eq!(all(&[&whole]).0.len(), 1);
        assert_eq!(all(&[&long, b"a"]).1, Some(Malformed::TooLong));
    }

    proptest! {
        #[test]
        fn cut_anywhere_it_reads_the_same(cuts in prop::collection::vec(1_usize..400, 0..8)) {
            let stream = WHOLE.repeat(3);
            let mut pieces = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            pieces.push(rest);
            let (seen, malformed) = all(&pieces);
            prop_assert_eq!(malformed, None);
            prop_assert_eq!(seen, all(&[&stream]).0);
        }

        #[test]
        fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut decoder = Decoder::default();
            for piece in bytes.chunks(7) {
                let mut requests = decoder.feed(piece);
                while let Some(Ok(_)) = requests.next_request() {}
            }
            prop_assert!(decoder.held() <= bytes.len());
        }

        #[test]
        fn an_answer_is_one_printable_line(action in "\\PC{0,600}") {
            let mut out = Vec::new();
            push_answer(&action, &mut out);
            let line = out.strip_prefix(b"action=").unwrap().strip_suffix(b"\n\n").unwrap();
            prop_assert!(line.len() <= ACTION_BYTES_MAX);
            prop_assert!(line.iter().all(|b| (0x20..0x7f).contains(b)));
        }
    }
}
