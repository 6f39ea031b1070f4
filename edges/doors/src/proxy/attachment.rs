//! What the header of a part calls it: every name that any program could give the attachment. Programs
//! differ in what they read (RFC 2183, RFC 2231, RFC 2047 and what is none of these), and who sends
//! something bad chooses what they differ in.

use mail_parser::MessageParser;
use mpp_wire::header::{Field, fields};

/// Parameters of a part that are looked at.
const PARAMETERS_MAX: usize = 1000;

/// What the header of a part says of it.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    /// Names in lower case, decoded, without what stands behind them and is forgiven.
    names: Vec<String>,
    /// Types in lower case.
    kinds: Vec<String>,
    /// The lines between its parts.
    boundaries: Vec<Vec<u8>>,
}

impl Labels {
    /// Reads a header.
    pub(crate) fn of(header: &[u8]) -> Self {
        let mut labels = Self::default();
        for field in fields(header).filter(says_what_it_is) {
            let (first, parameters) = split(field.value());
            if field.is("content-type") {
                let kind = String::from_utf8_lossy(&first).to_ascii_lowercase();
                labels.kinds.push(kind.split_whitespace().collect());
            }
            labels.take(&parameters);
        }
        labels
    }

    /// Adds a name, in every form in which it could be meant.
    pub(crate) fn add(&mut self, name: &str) {
        for name in [name.to_owned(), percent_decoded(name), words_decoded(name)] {
            // What stands behind names a stream of the file, and NUL ends a name, on some systems.
            let first = name.split([':', '\0']).next().unwrap_or_default().to_owned();
            let unquoted = first.trim_matches(['"', '\'', '<', '>']).to_owned();
            let word = unquoted.split_whitespace().next().unwrap_or_default().to_owned();
            for name in [name, first, unquoted, word] {
                let name: String = name.chars().filter(|letter| !is_forgiven(*letter)).collect();
                let name = name.trim_end_matches(|it: char| it == '.' || it.is_whitespace());
                let name = name.to_lowercase();
                if !name.is_empty() && !self.names.contains(&name) {
                    self.names.push(name);
                }
            }
        }
    }

    /// The first name or type that ends as is wanted, if any does. `wanted` are ends of file names, and
    /// types, in lower case.
    pub(crate) fn wanted(&self, wanted: &[String]) -> Option<&str> {
        let is_named = |name: &&String| {
            let mut ends = wanted.iter();
            ends.any(|end| name.strip_suffix(end.as_str()).is_some_and(|it| it.ends_with('.')))
        };
        let name = self.names.iter().find(is_named);
        name.or_else(|| self.kinds.iter().find(|kind| wanted.contains(kind))).map(String::as_str)
    }

    /// Whether programs may differ in where its parts begin and end.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.boundaries.iter().any(|boundary| Some(boundary) != self.boundaries.first())
    }

    fn take(&mut self, parameters: &[(String, Vec<u8>)]) {
        // Parts of one name (RFC 2231 section 3), by what they are parts of.
        let mut pieces: Vec<(&str, u32, bool, &[u8])> = Vec::new();
        for (name, value) in parameters {
            let (base, rest) = name.split_once('*').unwrap_or((name, ""));
            match base {
                "name" | "filename" => {
                    let number = rest.trim_end_matches('*').parse().unwrap_or(0);
                    pieces.push((base, number, name.ends_with('*'), value));
                }
                "boundary" => self.boundaries.push(value.clone()),
                _ => {}
            }
        }
        for (.., is_encoded, value) in &pieces {
            self.add(&decoded((*is_encoded, true), value));
            self.add(&decoded((false, false), value));
        }
        pieces.sort_by_key(|(base, number, ..)| (*base, *number));
        for pieces in pieces.chunk_by(|one, other| one.0 == other.0) {
            let parts = pieces.iter().enumerate();
            let text: String = parts
                .map(|(place, (.., is_encoded, value))| decoded((*is_encoded, place == 0), value))
                .collect();
            self.add(&text);
        }
    }
}

/// Whether it is one of those that describe a part.
fn says_what_it_is(field: &Field<'_>) -> bool {
    field.name.get(..8).is_some_and(|begin| begin.eq_ignore_ascii_case(b"content-"))
}

/// A value as its charset has it, for what is compared as ASCII in the end.
fn decoded((is_encoded, is_first): (bool, bool), value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value).into_owned();
    if !is_encoded {
        return text;
    }
    // The charset and the language before it.
    let behind = text.splitn(3, '\'').nth(2).filter(|_| is_first);
    percent_decoded(behind.unwrap_or(&text))
}

/// What is before the first semicolon of a value, and its parameters, names in lower case. Folds are taken
/// out, blanks with them where they stand within a word.
fn split(value: &[u8]) -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
    let mut words: Vec<Vec<u8>> = vec![Vec::new()];
    let (mut is_quoted, mut is_escaped) = (false, false);
    let mut rest = value.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        match byte {
            b'\r' => {}
            b'\n' => while rest.next_if(|byte| matches!(byte, b' ' | b'\t')).is_some() {},
            b'\\' if is_quoted && !is_escaped => {
                is_escaped = true;
                continue;
            }
            b'"' if !is_escaped => is_quoted = !is_quoted,
            b';' if !is_quoted && words.len() < PARAMETERS_MAX => words.push(Vec::new()),
            _ => words.last_mut().into_iter().for_each(|word| word.push(byte)),
        }
        is_escaped = false;
    }
    let mut words = words.into_iter();
    let first = words.next().unwrap_or_default();
    let parameter = |word: Vec<u8>| {
        let at = word.iter().position(|byte| *byte == b'=')?;
        let (name, value) = word.split_at_checked(at)?;
        let name = String::from_utf8_lossy(name.trim_ascii()).to_lowercase();
        Some((name, value.get(1..)?.trim_ascii().to_vec()))
    };
    (first, words.filter_map(parameter).collect())
}

fn percent_decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|it| it.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => bytes.push(byte),
            None => bytes.push(b'%'),
        }
        bytes.extend_from_slice(part.as_bytes().get(digits.map_or(0, str::len)..).unwrap_or(b""));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// With its encoded words decoded (RFC 2047), wherever they stand.
fn words_decoded(text: &str) -> String {
    if !text.contains("=?") {
        return text.to_owned();
    }
    // Blanks between two of them are no part of the text; before and behind one programs differ.
    let apart = text.replace("=?", " =?").replace("?=", "?= ");
    let field = format!("Subject: {}\r\n\r\n", apart.replace(['\r', '\n'], " "));
    let message = MessageParser::default().parse_headers(field.as_bytes());
    let subject = message.as_ref().and_then(|message| message.subject()).unwrap_or_default();
    // Encoded words hold spaces as well; a dot or an end has none.
    subject.split_whitespace().collect()
}

/// What nobody sees and a file name need not have.
fn is_forgiven(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}
