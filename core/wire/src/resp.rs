//! The protocol of Redis and Valkey, the client's side: RESP version 2
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).
//!
//! ```
//! use mpp_wire::resp::{Command, Decoder, Reply};
//!
//! let mut bytes = Vec::new();
//! Command::new(b"HGET").word(b"table").number(7).write(&mut bytes);
//! assert_eq!(bytes, b"*3\r\n$4\r\nHGET\r\n$5\r\ntable\r\n$1\r\n7\r\n");
//!
//! let mut decoder = Decoder::default();
//! assert_eq!(decoder.take(b"*2\r\n:12\r\n$-1\r\n"), Ok((14, Some(Reply::List(vec![
//!     Reply::Number(12), Reply::Nil,
//! ])))));
//! ```

/// A text in a reply is no longer, in bytes: what a server may hold in one value (redis.conf,
/// `proto-max-bulk-len`) is eight times that, what mpp writes is far less.
pub const TEXT_BYTES_MAX: usize = 64 << 20;
/// A list in a reply has no more elements.
pub const LIST_MAX: usize = 1 << 22;
/// Lists in lists, at the most.
const DEPTH_MAX: usize = 8;
/// The line before a text or a list is no longer, in bytes; errors are the longest.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Room that is made for a list before its elements are there.
const ROOM_MAX: usize = 1024;

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing is there.
    Nil,
    /// A number.
    Number(i64),
    /// A word of the protocol such as `OK`, or a value.
    Text(Vec<u8>),
    /// Several.
    List(Vec<Self>),
    /// It was not done; the text begins with a code.
    Error(String),
}

/// Something that is no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what it says is no reply: {0}")]
pub struct Malformed(&'static str);

/// Words for a server, as they go over the line: a command, or what belongs to one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    bytes: Vec<u8>,
    words: usize,
}

impl Command {
    /// A command with its name.
    pub fn new(name: &[u8]) -> Self {
        // Most are short.
        Self { bytes: Vec::with_capacity(96), words: 0 }.word(name)
    }

    /// With one word more.
    #[must_use]
    pub fn word(mut self, word: impl AsRef<[u8]>) -> Self {
        self.push(word.as_ref());
        self
    }

    /// With a number more.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        self.push_number(number);
        self
    }

    /// Puts a word at the end.
    pub fn push(&mut self, word: &[u8]) {
        self.push_joined(&[word]);
    }

    /// Puts a word at the end that has several parts.
    pub fn push_joined(&mut self, parts: &[&[u8]]) {
        let length = parts.iter().map(|part| part.len() as u64).sum();
        push_length(b'$', length, &mut self.bytes);
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.bytes.extend_from_slice(b"\r\n");
        self.words += 1;
    }

    /// Puts a number at the end.
    pub fn push_number(&mut self, number: u64) {
        let mut digits = [0; 20];
        self.push(digits_of(number, &mut digits));
    }

    /// Puts all words of another one at the end.
    pub fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
        self.words += other.words;
    }

    /// Whether it has no words.
    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// Writes it as it goes to the server.
    pub fn write(&self, out: &mut Vec<u8>) {
        push_length(b'*', self.words as u64, out);
        out.extend_from_slice(&self.bytes);
    }
}

fn push_length(kind: u8, length: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    out.push(kind);
    out.extend_from_slice(digits_of(length, &mut digits));
    out.extend_from_slice(b"\r\n");
}

/// The decimal digits of a number.
fn digits_of(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut from = digits.len();
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        // Below ten.
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        from = place;
        if number == 0 {
            break;
        }
    }
    digits.get(from..).unwrap_or_default()
}

/// Takes replies out of what a server sends, in pieces as they come.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Lists that are not whole yet, each within the one before it.
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    missing: usize,
    list: Vec<Reply>,
}

impl Decoder {
    /// Takes what is whole at the front, up to the end of a reply: says how many bytes that was, and
    /// the reply if it is there. What is left is to be given again, with more behind it.
    ///
    /// # Errors
    /// It is no reply. Nothing that follows can be understood then.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(usize, Option<Reply>), Malformed> {
        let mut used = 0;
        while let Some((length, element)) = element(bytes.get(used..).unwrap_or_default())? {
            used += length;
            let whole = match element {
                Element::List(count) if count > 0 => {
                    if self.open.len() >= DEPTH_MAX {
                        return Err(Malformed("lists in lists without end"));
                    }
                    let list = Vec::with_capacity(count.min(ROOM_MAX));
                    self.open.push(Open { missing: count, list });
                    None
                }
                Element::List(_) => self.put(Reply::List(Vec::new())),
                Element::Whole(reply) => self.put(reply),
            };
            if whole.is_some() {
                return Ok((used, whole));
            }
        }
        Ok((used, None))
    }

    /// Puts a whole reply into the list that waits for it; returns what is whole by that.
    fn put(&mut self, mut reply: Reply) -> Option<Reply> {
        while let Some(mut open) = self.open.pop() {
            open.list.push(reply);
            open.missing -= 1;
            if open.missing > 0 {
                self.open.push(open);
                return None;
            }
            reply = Reply::List(open.list);
        }
        Some(reply)
    }
}

/// What begins at some place.
enum Element {
    Whole(Reply),
    /// A list of so many.
    List(usize),
}

/// The element at the front and its length, if it is all there.
fn element(bytes: &[u8]) -> Result<Option<(usize, Element)>, Malformed> {
    let Some((kind, rest)) = bytes.split_first() else { return Ok(None) };
    let end = rest.iter().position(|byte| *byte == b'\n');
    if end.unwrap_or(rest.len()) > LINE_BYTES_MAX {
        return Err(Malformed("a line without end"));
    }
    let Some(end) = end else { return Ok(None) };
    let line = rest.get(..end).and_then(|line| line.strip_suffix(b"\r"));
    let line = line.ok_or(Malformed("a line that does not end with CR LF"))?;
    let head = end + 2;
    let whole = |reply| Ok(Some((head, Element::Whole(reply))));
    match kind {
        b'+' => whole(Reply::Text(line.to_vec())),
        b'-' => whole(Reply::Error(String::from_utf8_lossy(line).into_owned())),
        b':' => whole(Reply::Number(number(line)?)),
        b'$' => {
            let Some(length) = length(line, TEXT_BYTES_MAX)? else { return whole(Reply::Nil) };
            let Some(text) = bytes.get(head..head + length + 2) else { return Ok(None) };
            let text = text.strip_suffix(b"\r\n").ok_or(Malformed("a text longer than it says"))?;
            Ok(Some((head + length + 2, Element::Whole(Reply::Text(text.to_vec())))))
        }
        b'*' => match length(line, LIST_MAX)? {
            None => whole(Reply::Nil),
            Some(count) => Ok(Some((head, Element::List(count)))),
        },
        _ => Err(Malformed("a kind that is not known")),
    }
}

fn number(digits: &[u8]) -> Result<i64, Malformed> {
    let text = std::str::from_utf8(digits).ok();
    text.and_then(|text| text.parse().ok()).ok_or(Malformed("a number that is none"))
}

/// A length; nothing for -1, which is how this protocol says that nothing is there.
fn length(digits: &[u8], most: usize) -> Result<Option<usize>, Malformed> {
    match number(digits)? {
        -1 => Ok(None),
        length => match usize::try_from(length) {
            Ok(length) if length <= most => Ok(Some(length)),
            _ => Err(Malformed("a length that cannot be")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind, each in another list.
    const SAMPLE: &[u8] = b"+OK\r\n-ERR no such thing\r\n:-12\r\n$-1\r\n*-1\r\n$0\r\n\r\n*0\r\n\
                            *3\r\n*1\r\n$4\r\na\r\nb\r\n:1\r\n*2\r\n$2\r\nxy\r\n+z\r\n";

    fn sample() -> Vec<Reply> {
        let text = |text: &[u8]| Reply::Text(text.to_vec());
        vec![
            text(b"OK"),
            Reply::Error("ERR no such thing".into()),
            Reply::Number(-12),
            Reply::Nil,
            Reply::Nil,
            text(b""),
            Reply::List(Vec::new()),
            Reply::List(vec![
                Reply::List(vec![text(b"a\r\nb")]),
                Reply::Number(1),
                Reply::List(vec![text(b"xy"), text(b"z")]),
            ]),
        ]
    }

    #[test]
    fn replies_are_the_same_however_they_are_cut() {
        for piece in 1..=SAMPLE.len() {
            let (mut decoder, mut held, mut replies) = (Decoder::default(), Vec::new(), Vec::new());
            for bytes in SAMPLE.chunks(piece) {
                held.extend_from_slice(bytes);
                loop {
                    let (used, reply) = decoder.take(&held).unwrap();
                    held.drain(..used);
                    let Some(reply) = reply else { break };
                    replies.push(reply);
                }
            }
            assert_eq!(replies, sample(), "in pieces of {piece}");
            assert!(held.is_empty());
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let deep = b"*1\r\n".repeat(9);
        let long = [b"+".as_slice(), &b"x".repeat(LINE_BYTES_MAX + 1)].concat();
        for bytes in [
            b"?\r\n".as_slice(),
            b"+OK\n",
            b":1x\r\n",
            b":\r\n",
            b"$-2\r\n",
            b"$999999999999\r\n",
            b"*99999999\r\n",
            b"$1\r\nab\r\n",
            b"$99999999999999999999\r\n",
            &deep,
            &long,
        ] {
            assert!(Decoder::default().take(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_command_is_read_as_a_list_of_its_words() {
        let mut command = Command::new(b"SET").word(b"a b\r\n").number(u64::MAX);
        command.append(&Command::default().number(0).number(1_234_567_890));
        assert!(!command.is_empty() && Command::default().is_empty());
        let mut bytes = Vec::new();
        command.write(&mut bytes);
        let words = ["SET", "a b\r\n", "18446744073709551615", "0", "1234567890"]
            .map(|it| Reply::Text(it.into()));
        let read = Decoder::default().take(&bytes).unwrap();
        assert_eq!(read, (bytes.len(), Some(Reply::List(words.to_vec()))));
    }
}
