//! LDAP version 3 (RFC 4511) as far as somebody needs it who looks things up: bind, search,
//! `StartTLS` and unbind out, their answers in. It is no general LDAP library: nothing here writes to
//! a directory.
//!
//! A filter is a tree and its values are bytes, never text that is put together: what a stranger
//! sends cannot become a part of the tree. BER is read with a bound on length and without recursion,
//! so that a server that sends garbage costs a connection and nothing more.
//!
//! ```
//! use mpp_wire::ldap::{Decoder, Message, Request};
//!
//! let bind = Request::Bind { dn: "cn=reader", password: "secret" }.encode(1);
//! assert_eq!(&bind[..7], b"\x30\x1b\x02\x01\x01\x60\x16");
//!
//! let mut decoder = Decoder::default();
//! decoder.feed(b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00");
//! let received = decoder.next_message().unwrap().unwrap();
//! assert!(matches!(received.message, Message::Bound(outcome) if outcome.code == 0));
//! ```

/// The longest answer that is taken. An entry without its attributes has a few hundred bytes.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// The extended operation that starts TLS (RFC 4511, 4.14).
const START_TLS: &str = "1.3.6.1.4.1.1466.20037";

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
const SEQUENCE: u8 = 0x30;

/// How far below the base a search goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The base itself.
    Base,
    /// What is directly below the base.
    One,
    /// The base and everything below it.
    Sub,
}

/// A search filter (RFC 4511, 4.5.1.7); `V` is a value, which are bytes when it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter<V> {
    /// All of these hold.
    And(Vec<Self>),
    /// One of these holds.
    Or(Vec<Self>),
    /// This does not hold.
    Not(Box<Self>),
    /// The attribute has this value.
    Equal(String, V),
    /// The attribute has a value with these pieces in it, in this order.
    Substrings(String, Vec<(Part, V)>),
    /// The attribute has a value of at least this.
    AtLeast(String, V),
    /// The attribute has a value of at most this.
    AtMost(String, V),
    /// The attribute has a value like this.
    Approximate(String, V),
    /// The attribute has any value.
    Present(String),
    /// A matching rule says so.
    Extensible {
        /// The rule; the attribute's own for equality without one.
        rule: Option<String>,
        /// The attribute; all that know the rule without one.
        attribute: Option<String>,
        /// Whether the parts of the entry's name count as attributes.
        name_counts: bool,
        /// The value.
        value: V,
    },
}

/// Where in a value a piece stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// At its beginning.
    Initial,
    /// Anywhere.
    Any,
    /// At its end.
    Final,
}

impl<V> Filter<V> {
    /// The same tree with other values.
    #[must_use]
    pub fn map<W>(&self, change: &mut dyn FnMut(&V) -> W) -> Filter<W> {
        match self {
            Self::And(inner) => Filter::And(inner.iter().map(|one| one.map(change)).collect()),
            Self::Or(inner) => Filter::Or(inner.iter().map(|one| one.map(change)).collect()),
            Self::Not(inner) => Filter::Not(Box::new(inner.map(change))),
            Self::Equal(attribute, value) => Filter::Equal(attribute.clone(), change(value)),
            Self::Substrings(attribute, pieces) => {
                let pieces = pieces.iter().map(|(part, value)| (*part, change(value))).collect();
                Filter::Substrings(attribute.clone(), pieces)
            }
            Self::AtLeast(attribute, value) => Filter::AtLeast(attribute.clone(), change(value)),
            Self::AtMost(attribute, value) => Filter::AtMost(attribute.clone(), change(value)),
            Self::Approximate(attribute, value) => {
                Filter::Approximate(attribute.clone(), change(value))
            }
            Self::Present(attribute) => Filter::Present(attribute.clone()),
            Self::Extensible { rule, attribute, name_counts, value } => Filter::Extensible {
                rule: rule.clone(),
                attribute: attribute.clone(),
                name_counts: *name_counts,
                value: change(value),
            },
        }
    }
}

impl Filter<Vec<u8>> {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::And(inner) => within(out, 0xa0, |out| inner.iter().for_each(|f| f.encode(out))),
            Self::Or(inner) => within(out, 0xa1, |out| inner.iter().for_each(|f| f.encode(out))),
            Self::Not(inner) => within(out, 0xa2, |out| inner.encode(out)),
            Self::Equal(attribute, value) => assertion(out, 0xa3, attribute, value),
            Self::Substrings(attribute, pieces) => within(out, 0xa4, |out| {
                put(out, OCTETS, attribute.as_bytes());
                within(out, SEQUENCE, |out| {
                    for (part, value) in pieces {
                        let tag = match part {
                            Part::Initial => 0x80,
                            Part::Any => 0x81,
                            Part::Final => 0x82,
                        };
                        put(out, tag, value);
                    }
                });
            }),
            Self::AtLeast(attribute, value) => assertion(out, 0xa5, attribute, value),
            Self::AtMost(attribute, value) => assertion(out, 0xa6, attribute, value),
            Self::Present(attribute) => put(out, 0x87, attribute.as_bytes()),
            Self::Approximate(attribute, value) => assertion(out, 0xa8, attribute, value),
            Self::Extensible { rule, attribute, name_counts, value } => within(out, 0xa9, |out| {
                if let Some(rule) = rule {
                    put(out, 0x81, rule.as_bytes());
                }
                if let Some(attribute) = attribute {
                    put(out, 0x82, attribute.as_bytes());
                }
                put(out, 0x83, value);
                if *name_counts {
                    put(out, 0x84, &[0xff]);
                }
            }),
        }
    }
}

/// What is searched for.
#[derive(Clone, Debug)]
pub struct Search<'a> {
    /// The name of the entry to start at.
    pub base: &'a str,
    /// How far to go.
    pub scope: Scope,
    /// Which entries.
    pub filter: &'a Filter<Vec<u8>>,
    /// Which attributes of them; `1.1` alone is none (RFC 4511, 4.5.1.8).
    pub attributes: &'a [&'a str],
    /// After how many entries the server is to stop.
    pub entries_max: u32,
    /// After how many seconds the server is to stop; 0 is its own limit.
    pub seconds_max: u32,
}

/// What a client sends.
#[derive(Clone, Debug)]
pub enum Request<'a> {
    /// Says who it is, with a password. RFC 4513, 5.1.2: with an empty one the server takes it for
    /// anonymous and says that all is well.
    Bind {
        /// The name.
        dn: &'a str,
        /// The password.
        password: &'a str,
    },
    /// Looks entries up. Aliases are not followed.
    Search(Search<'a>),
    /// Goes on with TLS on this connection.
    StartTls,
    /// Ends the connection.
    Unbind,
}

impl Request<'_> {
    /// The bytes of the request. Answers carry the same `id`, which is never 0.
    pub fn encode(&self, id: u32) -> Vec<u8> {
        let mut message = Vec::new();
        within(&mut message, SEQUENCE, |out| {
            number(out, INTEGER, id);
            match self {
                Self::Bind { dn, password } => within(out, 0x60, |out| {
                    number(out, INTEGER, 3);
                    put(out, OCTETS, dn.as_bytes());
                    put(out, 0x80, password.as_bytes());
                }),
                Self::Search(search) => within(out, 0x63, |out| search.encode(out)),
                Self::StartTls => within(out, 0x77, |out| put(out, 0x80, START_TLS.as_bytes())),
                Self::Unbind => put(out, 0x42, &[]),
            }
        });
        message
    }
}

impl Search<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let scope = match self.scope {
            Scope::Base => 0,
            Scope::One => 1,
            Scope::Sub => 2,
        };
        put(out, OCTETS, self.base.as_bytes());
        number(out, ENUMERATED, scope);
        number(out, ENUMERATED, 0);
        number(out, INTEGER, self.entries_max);
        number(out, INTEGER, self.seconds_max);
        put(out, 0x01, &[0]);
        self.filter.encode(out);
        within(out, SEQUENCE, |out| {
            for attribute in self.attributes {
                put(out, OCTETS, attribute.as_bytes());
            }
        });
    }
}

fn assertion(out: &mut Vec<u8>, tag: u8, attribute: &str, value: &[u8]) {
    within(out, tag, |out| {
        put(out, OCTETS, attribute.as_bytes());
        put(out, OCTETS, value);
    });
}

fn within(out: &mut Vec<u8>, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut content = Vec::new();
    fill(&mut content);
    put(out, tag, &content);
}

fn number(out: &mut Vec<u8>, tag: u8, number: u32) {
    let bytes = u64::from(number).to_be_bytes();
    // As short as can be, with a first bit that says that it is not negative.
    let start = bytes.windows(2).take_while(|pair| matches!(pair, [0, 0..=0x7f])).count();
    put(out, tag, bytes.get(start..).unwrap_or_default());
}

fn put(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    if let Ok(length @ 0..=0x7f) = u8::try_from(content.len()) {
        out.push(length);
    } else {
        let bytes = content.len().to_be_bytes();
        let used = bytes.iter().skip_while(|byte| **byte == 0);
        out.push(0x80 | u8::try_from(used.clone().count()).unwrap_or_default());
        out.extend(used);
    }
    out.extend(content);
}

/// What a server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The request that it answers; 0 if the server speaks unasked, which it does before it closes.
    pub id: u32,
    /// What it says.
    pub message: Message,
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The end of a bind.
    Bound(Outcome),
    /// An entry that was found.
    Entry(Entry),
    /// More may be found at other servers.
    Reference,
    /// The end of a search.
    Done(Outcome),
    /// The end of an extended operation, or something unasked.
    Extended(Outcome),
    /// Something that a client may skip.
    Intermediate,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub dn: String,
    /// Those of its attributes that were asked for and are text.
    pub attributes: Vec<(String, Vec<String>)>,
}

/// How an operation ended (RFC 4511, 4.1.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The result code; 0 is success.
    pub code: u32,
    /// What the server says about it; may be anything.
    pub text: String,
}

/// Why a connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// An answer longer than [`MESSAGE_BYTES_MAX`].
    #[error("an answer of more than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    /// Something that RFC 4511 does not know.
    #[error("something that is not LDAP")]
    NotLdap,
}

/// From bytes to answers.
#[derive(Debug, Default)]
pub struct Decoder {
    held: Vec<u8>,
}

impl Decoder {
    /// Takes bytes. Take all messages out before feeding more: only that bounds what is held.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// How many bytes wait for the rest of their message.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// The next whole message.
    ///
    /// # Errors
    /// What came is no LDAP, or too long. Close the connection.
    pub fn next_message(&mut self) -> Result<Option<Received>, Malformed> {
        let Some((length, header)) = frame(&self.held)? else { return Ok(None) };
        let whole = length.saturating_add(header);
        if whole > MESSAGE_BYTES_MAX {
            return Err(Malformed::TooLong);
        }
        let Some(content) = self.held.get(header..whole) else { return Ok(None) };
        let received = Received::parse(content)?;
        self.held.drain(..whole);
        Ok(Some(received))
    }
}

/// The length of the content of the next message and of what stands before it.
fn frame(held: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let Some(tag) = held.first() else { return Ok(None) };
    if *tag != SEQUENCE {
        return Err(Malformed::NotLdap);
    }
    let Some(first) = held.get(1) else { return Ok(None) };
    if *first < 0x80 {
        return Ok(Some((usize::from(*first), 2)));
    }
    // RFC 4511, 5.1: only the definite form. Four bytes are more than we ever take.
    let bytes = usize::from(*first & 0x7f);
    if !(1..=4).contains(&bytes) {
        return Err(Malformed::NotLdap);
    }
    let length = held.get(2..2 + bytes);
    Ok(length.map(|length| (big_endian(length), 2 + bytes)))
}

fn big_endian(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte))
}

/// A run of BER elements.
struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    fn next(&mut self) -> Result<(u8, &'a [u8]), Malformed> {
        let (tag, rest) = self.0.split_first().ok_or(Malformed::NotLdap)?;
        let (first, mut rest) = rest.split_first().ok_or(Malformed::NotLdap)?;
        let mut length = usize::from(*first);
        if length >= 0x80 {
            let bytes = length & 0x7f;
            if !(1..=4).contains(&bytes) {
                return Err(Malformed::NotLdap);
            }
            let (size, after) = rest.split_at_checked(bytes).ok_or(Malformed::NotLdap)?;
            (length, rest) = (big_endian(size), after);
        }
        let (content, rest) = rest.split_at_checked(length).ok_or(Malformed::NotLdap)?;
        self.0 = rest;
        Ok((*tag, content))
    }

    fn expect(&mut self, wanted: u8) -> Result<&'a [u8], Malformed> {
        match self.next()? {
            (tag, content) if tag == wanted => Ok(content),
            _ => Err(Malformed::NotLdap),
        }
    }

    fn number(&mut self, tag: u8) -> Result<u32, Malformed> {
        match self.expect(tag)? {
            // Five with a first one that only says that the number is not negative.
            bytes @ ([0..=0x7f] | [0..=0x7f, _] | [0..=0x7f, _, _] | [0..=0x7f, _, _, _]) => {
                u32::try_from(big_endian(bytes)).map_err(|_| Malformed::NotLdap)
            }
            _ => Err(Malformed::NotLdap),
        }
    }

    fn text(&mut self) -> Result<String, Malformed> {
        Ok(String::from_utf8_lossy(self.expect(OCTETS)?).into_owned())
    }
}

impl Received {
    fn parse(content: &[u8]) -> Result<Self, Malformed> {
        let mut elements = Elements(content);
        let id = elements.number(INTEGER)?;
        let (tag, content) = elements.next()?;
        // What follows are controls, or the name of a notice of disconnection that Active Directory
        // puts there; neither changes an answer.
        let message = match tag {
            0x61 => Message::Bound(Outcome::parse(content)?),
            0x64 => Message::Entry(Entry::parse(content)?),
            0x65 => Message::Done(Outcome::parse(content)?),
            0x73 => Message::Reference,
            0x78 => Message::Extended(Outcome::parse(content)?),
            0x79 => Message::Intermediate,
            _ => return Err(Malformed::NotLdap),
        };
        Ok(Self { id, message })
    }
}

impl Outcome {
    fn parse(content: &[u8]) -> Result<Self, Malformed> {
        let mut elements = Elements(content);
        let code = elements.number(ENUMERATED)?;
        elements.expect(OCTETS)?;
        Ok(Self { code, text: elements.text()? })
    }
}

impl Entry {
    fn parse(content: &[u8]) -> Result<Self, Malformed> {
        let mut elements = Elements(content);
        let dn = elements.expect(OCTETS)?;
        let dn = String::from_utf8(dn.to_vec()).map_err(|_| Malformed::NotLdap)?;
        let mut list = Elements(elements.expect(SEQUENCE)?);
        let mut attributes = Vec::new();
        while !list.0.is_empty() {
            let mut attribute = Elements(list.expect(SEQUENCE)?);
            let name = attribute.text()?;
            let mut set = Elements(attribute.expect(0x31)?);
            let mut values = Vec::new();
            while !set.0.is_empty() {
                values.extend(String::from_utf8(set.expect(OCTETS)?.to_vec()));
            }
            attributes.push((name, values));
        }
        Ok(Self { dn, attributes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<Received>, Malformed> {
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for byte in bytes {
            decoder.feed(&[*byte]);
            while let Some(received) = decoder.next_message()? {
                seen.push(received);
            }
        }
        Ok(seen)
    }

    #[test]
    fn numbers_are_as_short_as_can_be() {
        for (value, bytes) in [
            (0, &[2, 1, 0][..]),
            (127, &[2, 1, 127]),
            (128, &[2, 2, 0, 128]),
            (256, &[2, 2, 1, 0]),
            (u32::MAX, &[2, 5, 0, 255, 255, 255, 255]),
        ] {
            let mut out = Vec::new();
            number(&mut out, INTEGER, value);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn a_search_is_what_the_rfc_says() {
        let filter = Filter::And(vec![
            Filter::Equal("mail".into(), b"a*)(\0@b".to_vec()),
            Filter::Not(Box::new(Filter::Present("c".into()))),
        ]);
        let search = Search {
            base: "o=x",
            scope: Scope::Sub,
            filter: &filter,
            attributes: &["1.1"],
            entries_max: 2,
            seconds_max: 1,
        };
        let wanted = b"\x30\x38\x02\x01\x07\x63\x33\x04\x03o=x\x0a\x01\x02\x0a\x01\x00\x02\x01\x02\
            \x02\x01\x01\x01\x01\x00\xa0\x16\xa3\x0f\x04\x04mail\x04\x07a*)(\0@b\xa2\x03\x87\x01c\
            \x30\x05\x04\x031.1";
        assert_eq!(Request::Search(search).encode(7), wanted);
    }

    #[test]
    fn a_long_value_has_a_long_length() {
        let mut out = Vec::new();
        let long = vec![7; 70_000];
        put(&mut out, OCTETS, &long);
        assert_eq!(out.get(..5), Some(&[4, 0x83, 1, 0x11, 0x70][..]));
        assert_eq!(Elements(&out).expect(OCTETS), Ok(&long[..]));
    }

    #[test]
    fn answers_are_read_however_they_are_cut() {
        let bytes = b"\x30\x1f\x02\x01\x02\x64\x1a\x04\x03o=x\x30\x13\x30\x11\x04\x03uid\x31\x0a\
            \x04\x03bob\x04\x03\xff\xff\xff\
            \x30\x05\x02\x01\x02\x73\x00\
            \x30\x0f\x02\x01\x02\x65\x0a\x0a\x01\x04\x04\x00\x04\x03big";
        let entry =
            Entry { dn: "o=x".into(), attributes: vec![("uid".into(), vec!["bob".into()])] };
        let wanted = [
            Received { id: 2, message: Message::Entry(entry) },
            Received { id: 2, message: Message::Reference },
            Received { id: 2, message: Message::Done(Outcome { code: 4, text: "big".into() }) },
        ];
        assert_eq!(all(bytes).unwrap(), wanted);
    }

    #[test]
    fn garbage_ends_early() {
        assert_eq!(all(b"HTTP/1.1 400 Bad Request\r\n"), Err(Malformed::NotLdap));
        assert_eq!(all(b"\x30\x84\x7f\xff\xff\xff"), Err(Malformed::TooLong));
        assert_eq!(all(b"\x30\x80\x02\x01\x01"), Err(Malformed::NotLdap));
        assert_eq!(all(b"\x30\x03\x02\x01\x01"), Err(Malformed::NotLdap));
        // Deep nesting is nothing that a fixed grammar descends into.
        assert_eq!(all(&[0x30, 2].repeat(10_000)), Err(Malformed::NotLdap));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_hold_much(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut decoder = Decoder::default();
            decoder.feed(&bytes);
            while let Ok(Some(_)) = decoder.next_message() {}
            prop_assert!(decoder.held() <= bytes.len());
        }

        #[test]
        fn what_is_put_is_read(tag: u8, content in proptest::collection::vec(any::<u8>(), 0..1000)) {
            let mut out = Vec::new();
            put(&mut out, tag, &content);
            let mut elements = Elements(&out);
            prop_assert_eq!(elements.next(), Ok((tag, &content[..])));
            prop_assert!(elements.0.is_empty());
        }
    }
}
