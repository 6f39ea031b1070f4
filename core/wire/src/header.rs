//! The header of a message, and where it ends: one notion for everything that adds to it, marks it, takes
//! fields out of it, counts them or reads them.
//!
//! It is that of Postfix (`is_header.c`, `mime_state.c`): a field begins with a name of printable ASCII
//! (RFC 5322 section 2.2), blanks may stand before its colon (section 4.5), and lines that begin with a
//! blank belong to the field before them. The header ends at an empty line, and at the first line that
//! is none of these: what follows is text, whatever it looks like.
//!
//! ```
//! use mpp_wire::header::{fields, value};
//!
//! let message = b"From: a\r\nSubject :\r\n b\r\nno field\r\nSubject: text\r\n";
//! let mut fields = fields(message);
//! assert_eq!(fields.next().unwrap().name, b"From");
//! assert_eq!(fields.next().unwrap().value(), b"\r\n b\r\n");
//! assert!(fields.next().is_none());
//! assert_eq!(fields.rest(), b"no field\r\nSubject: text\r\n");
//! assert_eq!(value(message, "SUBJECT"), Some(&b"\r\n b\r\n"[..]));
//! ```

use memchr::memchr;

/// A name may be so long with the blanks behind it, in bytes: a line that has no colon by then is no
/// field. Postfix looks no further than 2048 (`line_length_limit`).
pub const NAME_BYTES_MAX: usize = 4096;

/// What a line of a header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// The first one of a field.
    Field {
        /// How long its name is.
        name: usize,
        /// How many bytes there are up to the colon, that included.
        colon: usize,
    },
    /// One that goes on with a field.
    Fold,
    /// One before all fields that a mailbox had before the message (`From `): servers make a field of
    /// it, or leave it out.
    Mailbox,
    /// The empty one at the end.
    Empty,
    /// The first one of a text that no empty line stands before.
    Text,
}

/// Tells the lines of a header apart, one after the other, as they come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines {
    has_field: bool,
}

impl Lines {
    /// What the next line is, by its beginning or by all of it; nothing where more of it must be seen,
    /// of [`NAME_BYTES_MAX`] bytes at most. Not to be asked behind the end of the header.
    pub fn tell(&mut self, line: &[u8]) -> Option<Line> {
        let told = self.told(line)?;
        self.has_field |= matches!(told, Line::Field { .. });
        Some(told)
    }

    fn told(self, line: &[u8]) -> Option<Line> {
        match line {
            [] | [b'\r'] => return None,
            [b'\n', ..] | [b'\r', b'\n', ..] => return Some(Line::Empty),
            [b' ' | b'\t', ..] if self.has_field => return Some(Line::Fold),
            _ => {}
        }
        if !self.has_field {
            const WORD: &[u8] = b"From ";
            let behind = line.iter().position(|byte| *byte != b'>').unwrap_or(line.len());
            let rest = line.get(behind..).unwrap_or_default();
            if rest.starts_with(WORD) {
                return Some(Line::Mailbox);
            }
            if WORD.starts_with(rest) && line.len() < NAME_BYTES_MAX {
                return None;
            }
        }
        let is_of_name = |byte: &u8| byte.is_ascii_graphic() && *byte != b':';
        let name = line.iter().position(|byte| !is_of_name(byte)).unwrap_or(line.len());
        let blanks = line.get(name..).unwrap_or_default();
        let blanks = blanks.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        match line.get(name + blanks) {
            Some(b':') if name > 0 && name + blanks < NAME_BYTES_MAX => {
                Some(Line::Field { name, colon: name + blanks + 1 })
            }
            None if name > 0 && line.len() < NAME_BYTES_MAX => None,
            _ => Some(Line::Text),
        }
    }
}

/// A field of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'h> {
    /// All of it as it stands there, with its folds and line ends.
    pub bytes: &'h [u8],
    /// Its name, without blanks; empty for a line of a mailbox before all fields.
    pub name: &'h [u8],
    colon: usize,
}

impl<'h> Field<'h> {
    /// All before the value: name, blanks and colon.
    pub fn label(&self) -> &'h [u8] {
        self.bytes.get(..self.colon).unwrap_or_default()
    }

    /// All behind the colon, with its folds and line ends.
    pub fn value(&self) -> &'h [u8] {
        self.bytes.get(self.colon..).unwrap_or_default()
    }

    /// Whether it has this name.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The fields of a message, or of its beginning.
#[derive(Clone, Debug)]
pub struct Fields<'h> {
    rest: &'h [u8],
    lines: Lines,
}

/// The fields of a message or of its beginning, in their order. A last one that has no line end is left
/// out: nobody knows what else belongs to it.
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields { rest: message, lines: Lines::default() }
}

impl<'h> Fields<'h> {
    /// What follows behind the fields that were taken out: behind the last one the empty line, or what
    /// stands in its place.
    pub fn rest(&self) -> &'h [u8] {
        self.rest
    }

    /// Whether the header ends where the fields that were taken out end. It does not where the rest may
    /// be the beginning of another field.
    pub fn is_over(&self) -> bool {
        let mut lines = self.lines;
        self.rest.is_empty() || matches!(lines.tell(self.rest), Some(Line::Empty | Line::Text))
    }
}

impl<'h> Iterator for Fields<'h> {
    type Item = Field<'h>;

    fn next(&mut self) -> Option<Field<'h>> {
        let mut lines = self.lines;
        let mut end = memchr(b'\n', self.rest)? + 1;
        let (name, colon) = match lines.tell(self.rest.get(..end)?)? {
            Line::Field { name, colon } => (name, colon),
            Line::Mailbox => (0, 0),
            Line::Fold | Line::Empty | Line::Text => return None,
        };
        while lines.has_field && matches!(self.rest.get(end), Some(b' ' | b'\t')) {
            end += memchr(b'\n', self.rest.get(end..)?)? + 1;
        }
        let (bytes, rest) = self.rest.split_at_checked(end)?;
        (self.rest, self.lines) = (rest, lines);
        Some(Field { bytes, name: bytes.get(..name)?, colon })
    }
}

/// The value of the first field of a name, with its folds and line ends.
pub fn value<'h>(message: &'h [u8], name: &str) -> Option<&'h [u8]> {
    fields(message).find(|field| field.is(name)).map(|field| field.value())
}

/// What stands behind the header of a whole message: its text, without the empty line before it.
pub fn text(message: &[u8]) -> &[u8] {
    let mut fields = fields(message);
    fields.by_ref().for_each(drop);
    let rest = fields.rest();
    rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")).unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(message: &str) -> (Vec<&str>, &str) {
        let mut fields = fields(message.as_bytes());
        let names = fields.by_ref().map(|field| std::str::from_utf8(field.name).unwrap()).collect();
        (names, std::str::from_utf8(fields.rest()).unwrap())
    }

    #[test]
    fn the_header_ends_where_a_mail_server_ends_it() {
        for (message, wanted, rest) in [
            ("A: b\r\nC:d\r\n\r\nE: f\r\n", &["A", "C"][..], "\r\nE: f\r\n"),
            ("A: b\r\n c: d\r\n\te\r\nF: g\r\n", &["A", "F"], ""),
            ("A : b\r\nC \t:d\r\n\r\n", &["A", "C"], "\r\n"),
            ("A: b\r\nno field\r\nC: d\r\n\r\n", &["A"], "no field\r\nC: d\r\n\r\n"),
            ("A: b\r\nFirst line of the text: x\r\n", &["A"], "First line of the text: x\r\n"),
            ("A: b\r\n: c\r\n", &["A"], ": c\r\n"),
            ("A: b\r\n\u{e4}: c\r\n", &["A"], "\u{e4}: c\r\n"),
            ("A: b\r\nC\u{b}: d\r\n", &["A"], "C\u{b}: d\r\n"),
            // Nothing goes on with what is not there.
            (" A: b\r\nC: d\r\n", &[], " A: b\r\nC: d\r\n"),
            // What a mailbox had before the message; behind a field it is text.
            ("From a@b Tue\r\n>From c\r\nA: b\r\n", &["", "", "A"], ""),
            ("From a@b Tue\r\n b\r\nA: b\r\n", &[""], " b\r\nA: b\r\n"),
            ("A: b\r\nFrom c\r\nD: e\r\n", &["A"], "From c\r\nD: e\r\n"),
            ("From: a\r\n>From: b\r\n>>: c\r\n", &["From", ">From", ">>"], ""),
            ("A: b\nC: d\n\ne", &["A", "C"], "\ne"),
            ("A: b\r\nC: cut o", &["A"], "C: cut o"),
            ("A: b\r\nC: d\r\n cut o", &["A"], "C: d\r\n cut o"),
            ("", &[], ""),
            ("\r\nA: b\r\n", &[], "\r\nA: b\r\n"),
            ("\rA: b\r\n", &[], "\rA: b\r\n"),
        ] {
            assert_eq!(names(message), (wanted.to_vec(), rest), "{message:?}");
        }
        for (message, is_over) in [("A: b\r\n", true), ("A: b\r\nC", false), ("A: b\r\nC d", true)]
        {
            let mut fields = fields(message.as_bytes());
            fields.by_ref().for_each(drop);
            assert_eq!(fields.is_over(), is_over, "{message:?}");
        }
        assert_eq!(text(b"A: b\r\n\r\n\r\nc"), b"\r\nc");
        assert_eq!(text(b"A: b\r\nc d\r\n\r\ne"), b"c d\r\n\r\ne");
        assert_eq!(value(b"A: b\r\na:c\r\nno field\r\nD: e\r\n", "D"), None);
        assert_eq!(value(b"A: b\r\na:c\r\n\r\n", "a"), Some(&b" b\r\n"[..]));
    }

    #[test]
    fn a_name_has_a_limit() {
        let field = |length: usize| format!("{}: x\r\n", "n".repeat(length));
        assert_eq!(fields(field(NAME_BYTES_MAX - 1).as_bytes()).count(), 1);
        assert_eq!(fields(field(NAME_BYTES_MAX).as_bytes()).count(), 0);
        let text = "n".repeat(NAME_BYTES_MAX);
        assert_eq!(Lines::default().tell(text.as_bytes()), Some(Line::Text));
        assert_eq!(Lines::default().tell(&text.as_bytes()[1..]), None);
        let marks = ">".repeat(NAME_BYTES_MAX);
        assert_eq!(Lines::default().tell(marks.as_bytes()), Some(Line::Text));
    }

    proptest! {
        #[test]
        fn a_line_is_told_by_its_beginning_as_by_all_of_it(
            line in "[>From A:\t\r\u{e4}]{0,12}\n", has_field: bool,
        ) {
            let lines = Lines { has_field };
            let whole = lines.told(line.as_bytes());
            prop_assert!(whole.is_some());
            for end in 0..=line.len() {
                let told = lines.told(&line.as_bytes()[..end]);
                prop_assert!(told.is_none() || told == whole, "{end}");
            }
        }

        #[test]
        fn fields_and_rest_are_the_message(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut fields = fields(&bytes);
            let mut all: Vec<u8> = fields.by_ref().flat_map(|field| field.bytes.to_vec()).collect();
            all.extend_from_slice(fields.rest());
            prop_assert_eq!(all, bytes);
        }
    }
}
