//! A message as the mail server shows it, collected for scanners and the quarantine byte for byte: names,
//! colons, blanks and folds of header fields as they came.

use std::io;
use std::sync::Arc;

use mpp_hub::spool::{Spooled, Writer};

use crate::scanning::{self, Named};

/// So much of a subject is kept to be marked. A longer one is not marked: cut it would be another one.
const SUBJECT_BYTES_MAX: usize = 32 * 1024;

/// A message that is collected.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "they are facts, each of its own")]
pub(super) struct Collected {
    /// The recipients, with what their policies want.
    pub(super) named: Vec<Named>,
    spool: Option<Writer>,
    /// Why it could not be collected.
    trouble: Option<String>,
    /// Whether values come with the blank behind the colon.
    has_blanks: bool,
    /// Whether it carries the mark of a released message that is to be looked at.
    pub(super) has_mark: bool,
    is_in_body: bool,
    is_subject: bool,
    subject: Option<Subject>,
    last: u8,
}

/// The first subject, as it came.
#[derive(Debug, Default)]
struct Subject {
    name: Vec<u8>,
    value: Vec<u8>,
    is_cut: bool,
}

/// What becomes of a subject.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Marked {
    /// It gets another value.
    Changed {
        /// As the message has it, without blanks.
        name: Vec<u8>,
        /// As it is said to the server.
        value: Vec<u8>,
    },
    /// There is none: this one is put in.
    New(String),
}

impl Collected {
    /// Whether it has to be collected.
    pub(super) fn is_wanted(&self) -> bool {
        self.has_mark || scanning::is_spooled(&self.named)
    }

    /// Whether it is collected, or should have been.
    pub(super) fn is_begun(&self) -> bool {
        self.spool.is_some() || self.trouble.is_some()
    }

    /// Begins to collect.
    pub(super) fn begin(&mut self, spool: Writer, has_blanks: bool) {
        self.spool = Some(spool);
        self.has_blanks = has_blanks;
    }

    /// A header field begins.
    pub(super) fn field(&mut self, name: &[u8]) {
        if self.spool.is_none() {
            return;
        }
        // Blanks before the colon are part of the name that the server says.
        let bare = name.trim_ascii_end();
        self.is_subject = bare.eq_ignore_ascii_case(b"subject") && self.subject.is_none();
        if self.is_subject {
            self.subject = Some(Subject { name: bare.to_owned(), ..Subject::default() });
        }
        self.write(name);
        // Older servers take one blank away, and tell nobody whether there was one.
        self.write(if self.has_blanks { b":" } else { b": " });
        self.last = 0;
    }

    /// A part of a value or of the body.
    pub(super) fn content(&mut self, bytes: &[u8], is_last: bool) {
        if self.spool.is_none() {
            return;
        }
        if self.is_in_body {
            return self.write(bytes);
        }
        let value = if is_last { bytes.strip_suffix(&[0]).unwrap_or(bytes) } else { bytes };
        if let Some(subject) = self.subject.as_mut().filter(|_| self.is_subject) {
            let room = SUBJECT_BYTES_MAX.saturating_sub(subject.value.len());
            subject.is_cut |= value.len() > room;
            subject.value.extend_from_slice(value.get(..room).unwrap_or(value));
        }
        // Folded lines come with LF alone.
        let mut text = Vec::with_capacity(value.len() + 2);
        for byte in value {
            if *byte == b'\n' && self.last != b'\r' {
                text.push(b'\r');
            }
            text.push(*byte);
            self.last = *byte;
        }
        if is_last {
            text.extend_from_slice(b"\r\n");
        }
        self.write(&text);
    }

    /// The body begins, if it has not.
    pub(super) fn body(&mut self) {
        if !std::mem::replace(&mut self.is_in_body, true) {
            self.write(b"\r\n");
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        let Some(spool) = &mut self.spool else { return };
        if let Err(error) = spool.write(bytes) {
            self.trouble = Some(error.to_string());
            self.spool = None;
        }
    }

    pub(super) fn finish(&mut self) -> io::Result<Arc<Spooled>> {
        self.body();
        match (self.spool.take(), self.trouble.take()) {
            (Some(spool), _) => Ok(spool.finish()),
            (None, trouble) => Err(io::Error::other(trouble.unwrap_or_default())),
        }
    }

    /// The subject with a mark before it and the rest as it came; nothing where it has the mark, and
    /// where it cannot be said to the server as it came.
    pub(super) fn marked(&self, mark: &str) -> Option<Marked> {
        let Some(Subject { name, value, is_cut }) = &self.subject else {
            return Some(Marked::New(mark.to_owned()));
        };
        // It may come back to us, marked.
        let is_marked = value.trim_ascii_start().starts_with(mark.as_bytes());
        let old = folds(value).filter(|_| !is_marked && !is_cut)?;
        let blank: &[u8] = if self.has_blanks { b" " } else { b"" };
        let old = old.strip_prefix(blank).unwrap_or(&old);
        let gap: &[u8] = if old.trim_ascii().is_empty() { b"" } else { b" " };
        let value = [blank, mark.as_bytes(), gap, old].concat();
        Some(Marked::Changed { name: name.clone(), value })
    }
}

/// A value with its folds as they are said to a server, with LF alone; nothing if there is a line end in
/// it that is no fold.
fn folds(value: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        match (byte, rest.peek()) {
            (b'\r', Some(b'\n')) => continue,
            (b'\n', Some(b' ' | b'\t')) => {}
            (b'\r' | b'\n' | 0, _) => return None,
            _ => {}
        }
        out.push(byte);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(has_blanks: bool, name: &[u8], value: &[u8]) -> (Collected, Vec<u8>) {
        let settings =
            mpp_config::Spool { message_memory: 1 << 20, memory: 1 << 20, size: 1 << 20 };
        let spool = mpp_hub::spool::Spool::new(std::path::Path::new("/nowhere"), &settings);
        let mut collected = Collected::default();
        collected.begin(spool.begin(), has_blanks);
        collected.field(name);
        let packet = [value, b"\0"].concat();
        let pieces = packet.chunks(3);
        let count = pieces.len();
        for (number, piece) in pieces.enumerate() {
            collected.content(piece, number + 1 == count);
        }
        let text = collected.finish().unwrap();
        let text = text.head(1 << 20).unwrap().into_owned();
        (collected, text)
    }

    #[test]
    fn a_field_is_collected_as_it_came() {
        for (name, value, wanted) in [
            (&b"Subject"[..], &b"x"[..], &b"Subject:x\r\n\r\n"[..]),
            (b"SUBJECT ", b"  x ", b"SUBJECT :  x \r\n\r\n"),
            (b"Message-ID", b"\n <a@b>", b"Message-ID:\r\n <a@b>\r\n\r\n"),
            (b"A\t", b"\t\xef\n\t\n b", b"A\t:\t\xef\r\n\t\r\n b\r\n\r\n"),
            (b"Empty", b"", b"Empty:\r\n\r\n"),
        ] {
            assert_eq!(collected(true, name, value).1, wanted);
        }
        // What a server has taken away is put back.
        assert_eq!(collected(false, b"A", b"x").1, b"A: x\r\n\r\n");
    }

    #[test]
    fn a_subject_is_marked_and_stays_byte_for_byte() {
        let long = vec![b'x'; SUBJECT_BYTES_MAX];
        let longer = vec![b'x'; SUBJECT_BYTES_MAX + 1];
        for (value, wanted) in [
            (&b" \xcf\xf0\xe8"[..], Some(&b" [SPAM] \xcf\xf0\xe8"[..])),
            (b"x", Some(b" [SPAM] x")),
            (b"  x", Some(b" [SPAM]  x")),
            (b" a\n\tb \n c", Some(b" [SPAM] a\n\tb \n c")),
            (b"\n a", Some(b" [SPAM] \n a")),
            (b"", Some(b" [SPAM]")),
            (b" ", Some(b" [SPAM]")),
            (b" [SPAM] x", None),
            (b" a\rb", None),
            (b" a\r\n\tb", Some(b" [SPAM] a\n\tb")),
            (&long, Some(&[b" [SPAM] ", &*long].concat())),
            (&longer, None),
        ] {
            let wanted = wanted
                .map(|value| Marked::Changed { name: b"SUBJECT".to_vec(), value: value.to_vec() });
            assert_eq!(collected(true, b"SUBJECT ", value).0.marked("[SPAM]"), wanted);
        }
        let (of_older, _) = collected(false, b"Subject", b"x");
        let value = b"[SPAM] x".to_vec();
        let wanted = Marked::Changed { name: b"Subject".to_vec(), value };
        assert_eq!(of_older.marked("[SPAM]"), Some(wanted));
        let none = Collected::default().marked("[SPAM]");
        assert_eq!(none, Some(Marked::New("[SPAM]".into())));
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_subject_is_its_bytes_are_behind_the_mark(
            value in proptest::collection::vec(proptest::num::u8::ANY, 0..60),
        ) {
            let (collected, _) = collected(true, b"Subject", &value);
            if let Some(Marked::Changed { value: said, .. }) = collected.marked("[M]") {
                proptest::prop_assert!(said.starts_with(b" [M]"));
                let kept: Vec<u8> = value.strip_prefix(b" ").unwrap_or(&value).to_vec();
                let mut unfolded = kept;
                let is_cr = |at: usize, all: &[u8]| all.get(at..at + 2) == Some(b"\r\n");
                let mut at = 0;
                while at < unfolded.len() {
                    if is_cr(at, &unfolded) { unfolded.remove(at); } else { at += 1; }
                }
                proptest::prop_assert!(said.ends_with(&unfolded));
            }
        }
    }
}
