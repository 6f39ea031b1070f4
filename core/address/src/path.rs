//! What stands between the brackets of MAIL and RCPT, by the letter of RFC 5321 section 4.1.2 and,
//! for letters that are not ASCII, of RFC 6531 section 3.3.
//!
//! Nothing that is not in the grammar passes, so that nobody behind us can read the same text
//! otherwise; and what goes on is written from what was read, not copied.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::form::{is_atext, push_local, without_dot};
use crate::resolve;

/// No domain is longer, in bytes (RFC 5321 section 4.5.3.1.2).
const DOMAIN_BYTES_MAX: usize = 255;
/// No label is longer (RFC 1035 section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// A mailbox, or nobody at all: `local-part@domain` as RFC 5321 has it, without source route, without
/// quotes that say nothing and without a dot behind its domain; empty for the null path `<>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Path(String);

/// The text is no path: `501 5.1.3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPath {
    /// No angle brackets around it.
    #[error("a path stands in angle brackets")]
    Brackets,
    /// The local part is neither a dot-string nor a quoted string.
    #[error("the local part is none of RFC 5321")]
    LocalPart,
    /// The domain is neither a name nor an address literal.
    #[error("the domain is none of RFC 5321")]
    Domain,
    /// It means several mailboxes.
    #[error("more than one address")]
    Several,
}

impl Path {
    /// Reads a path in its brackets from the beginning of a text; returns what follows it. `<>` is
    /// the null path, and `<postmaster>` may do without a domain (RFC 5321 section 4.1.1.3).
    ///
    /// # Errors
    /// What is wrong with it. Nothing may be believed of the line then.
    pub fn parse(text: &[u8]) -> Result<(Self, &[u8]), NoPath> {
        let text = text.strip_prefix(b"<").ok_or(NoPath::Brackets)?;
        if let Some(rest) = text.strip_prefix(b">") {
            return Ok((Self::default(), rest));
        }
        let mut cursor = Cursor { rest: text };
        if text.first() == Some(&b'@') {
            cursor.route()?;
        }
        let local = cursor.local_part()?;
        let mut path = String::with_capacity(text.len().min(320));
        push_local(&local, is_no_dot_string, &mut path);
        if cursor.take(b'>') {
            let is_postmaster = local.eq_ignore_ascii_case("postmaster");
            return if is_postmaster { Ok((Self(path), cursor.rest)) } else { Err(NoPath::Domain) };
        }
        if !cursor.take(b'@') {
            return Err(NoPath::LocalPart);
        }
        let domain = cursor.domain()?;
        if !cursor.take(b'>') {
            return Err(NoPath::Brackets);
        }
        path.push('@');
        path.push_str(&domain);
        Ok((Self(path), cursor.rest))
    }

    /// Reads one path and nothing else, its brackets left out.
    ///
    /// # Errors
    /// As [`Path::parse`].
    pub fn parse_bare(text: &str) -> Result<Self, NoPath> {
        match Self::parse(format!("<{text}>").as_bytes())? {
            (path, b"") => Ok(path),
            _ => Err(NoPath::Brackets),
        }
    }

    /// Reads what a client wrote for a path as Postfix does with `strict_rfc821_envelopes = no`, which
    /// is its default: brackets may be missing; comments, phrases and blanks go; a text in which no
    /// address is left is the null path.
    ///
    /// # Errors
    /// It means several mailboxes, or holds what no address can.
    pub fn resolve(text: &[u8]) -> Result<Self, NoPath> {
        let text = std::str::from_utf8(text).map_err(|_| NoPath::LocalPart)?;
        let internal = resolve::address(text)?;
        if internal.chars().any(char::is_control) {
            return Err(NoPath::LocalPart);
        }
        if internal.is_empty() {
            return Ok(Self::default());
        }
        let Some((local, domain)) = internal.rsplit_once('@') else {
            let mut path = String::new();
            push_local(&internal, is_no_dot_string, &mut path);
            return Ok(Self(path));
        };
        // Whoever reads it behind us must not find anything else in it.
        let is_literal = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let is_fine = is_literal.map_or_else(
            || domain.chars().all(|letter| is_atext(letter) || letter == '.'),
            |inside| inside.chars().all(|letter| is_atext(letter) || ".:".contains(letter)),
        );
        if !is_fine {
            return Err(NoPath::Domain);
        }
        let mut path = String::with_capacity(internal.len() + 2);
        // Nothing before the `@` is a quoted nothing.
        push_local(if local.is_empty() { "\"\"" } else { local }, is_no_dot_string, &mut path);
        path.push('@');
        path.push_str(without_dot(domain));
        Ok(Self(path))
    }

    /// The mailbox, without brackets.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the null path, which bounces come from (RFC 5321 section 4.5.5).
    pub fn is_null(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a local part needs quotes although all its letters are those of atoms.
fn is_no_dot_string(local: &str) -> bool {
    local.split('.').any(str::is_empty)
}

/// What is still to be read.
struct Cursor<'t> {
    rest: &'t [u8],
}

impl<'t> Cursor<'t> {
    fn take(&mut self, byte: u8) -> bool {
        let rest = self.rest.split_first().filter(|(first, _)| **first == byte);
        rest.is_some_and(|(_, rest)| {
            self.rest = rest;
            true
        })
    }

    fn until(&mut self, ends: impl Fn(u8) -> bool) -> &'t [u8] {
        let end = self.rest.iter().position(|byte| ends(*byte)).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, b""));
        self.rest = rest;
        text
    }

    /// `@a,@b:`, which is understood and ignored.
    fn route(&mut self) -> Result<(), NoPath> {
        loop {
            if !self.take(b'@') {
                return Err(NoPath::Domain);
            }
            self.domain()?;
            if self.take(b':') {
                return Ok(());
            }
            if !self.take(b',') {
                return Err(NoPath::Domain);
            }
        }
    }

    fn local_part(&mut self) -> Result<String, NoPath> {
        if self.take(b'"') {
            return self.quoted();
        }
        let text = self.until(|byte| matches!(byte, b'@' | b'>'));
        let text = std::str::from_utf8(text).map_err(|_| NoPath::LocalPart)?;
        let is_dot_string =
            text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext));
        if is_dot_string { Ok(text.to_owned()) } else { Err(NoPath::LocalPart) }
    }

    /// What stands in quotes, of which the first is gone.
    fn quoted(&mut self) -> Result<String, NoPath> {
        let mut bytes = Vec::new();
        loop {
            let (first, rest) = self.rest.split_first().ok_or(NoPath::LocalPart)?;
            self.rest = rest;
            match first {
                b'"' => break,
                b'\\' => {
                    let (escaped, rest) = self.rest.split_first().ok_or(NoPath::LocalPart)?;
                    if !matches!(escaped, b' '..=b'~') {
                        return Err(NoPath::LocalPart);
                    }
                    self.rest = rest;
                    bytes.push(*escaped);
                }
                b' '..=b'~' | 0x80.. => bytes.push(*first),
                _ => return Err(NoPath::LocalPart),
            }
        }
        let text = String::from_utf8(bytes).map_err(|_| NoPath::LocalPart)?;
        if text.chars().any(char::is_control) {
            return Err(NoPath::LocalPart);
        }
        // As it is written, so that it stays a local part.
        Ok(if text.is_empty() { "\"\"".to_owned() } else { text })
    }

    fn domain(&mut self) -> Result<String, NoPath> {
        if self.rest.first() == Some(&b'[') {
            let literal = self.until(|byte| byte == b']');
            if !self.take(b']') {
                return Err(NoPath::Domain);
            }
            let inside = literal.get(1..).and_then(|inside| std::str::from_utf8(inside).ok());
            let inside = inside.filter(|inside| is_address(inside)).ok_or(NoPath::Domain)?;
            return Ok(format!("[{inside}]"));
        }
        let text = self.until(|byte| matches!(byte, b'>' | b',' | b':'));
        let text = std::str::from_utf8(text).map_err(|_| NoPath::Domain)?;
        let name = without_dot(text);
        if name.is_ascii() {
            return if is_name(name) { Ok(name.to_owned()) } else { Err(NoPath::Domain) };
        }
        // Some letters stand for others, dots and brackets among them: what comes of it counts.
        match idna::domain_to_ascii_strict(name) {
            Ok(ascii) if is_name(without_dot(&ascii)) => Ok(name.to_owned()),
            _ => Err(NoPath::Domain),
        }
    }
}

/// Whether a text is a domain: labels of letters, digits, hyphens and, since hosts are called so,
/// underscores.
fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= DOMAIN_BYTES_MAX && name.split('.').all(is_label)
}

/// Whether a text is an address literal without its brackets (RFC 5321 section 4.1.3).
fn is_address(inside: &str) -> bool {
    let six = inside.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPv6:"));
    match six.and_then(|tag| inside.get(tag.len()..)) {
        Some(six) => six.parse::<Ipv6Addr>().is_ok(),
        None => inside.parse::<Ipv4Addr>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<String, NoPath> {
        Path::parse(text.as_bytes()).map(|(path, _)| path.as_str().to_owned())
    }

    #[test]
    fn what_rfc_5321_allows_is_read() {
        for (text, path) in [
            ("<>", ""),
            ("<bob@x.example>", "bob@x.example"),
            ("<Bob@X.Example>", "Bob@X.Example"),
            ("<bob@x.example.>", "bob@x.example"),
            ("<o'neil+a=b/c{d}@x.example>", "o'neil+a=b/c{d}@x.example"),
            ("<bob%y!z@x.example>", "bob%y!z@x.example"),
            ("<\"b\\ob\"@x.example>", "bob@x.example"),
            ("<\"bob smith\"@x.example>", "\"bob smith\"@x.example"),
            ("<\"a>b\\\"c\"@x.example>", "\"a>b\\\"c\"@x.example"),
            ("<\"a..b\"@x.example>", "\"a..b\"@x.example"),
            ("<\"\"@x.example>", "\"\"@x.example"),
            ("<\"@(),:;[]\"@x.example>", "\"@(),:;[]\"@x.example"),
            ("<@a.example:bob@x.example>", "bob@x.example"),
            ("<@a.example,@b.example:bob@x.example>", "bob@x.example"),
            ("<bob@[192.0.2.1]>", "bob@[192.0.2.1]"),
            ("<bob@[IPv6:2001:db8::1]>", "bob@[IPv6:2001:db8::1]"),
            ("<bob@my_host.example>", "bob@my_host.example"),
            ("<bob@localhost>", "bob@localhost"),
            ("<Postmaster>", "Postmaster"),
            ("<jörg@bücher.example>", "jörg@bücher.example"),
        ] {
            assert_eq!(parsed(text).as_deref(), Ok(path), "{text}");
        }
        let (path, rest) = Path::parse(b"<a@b.example> SIZE=5").unwrap();
        assert_eq!((path.to_string(), rest), ("a@b.example".to_owned(), &b" SIZE=5"[..]));
    }

    #[test]
    fn what_it_does_not_allow_is_refused() {
        for text in [
            "bob@x.example",
            "<bob@x.example",
            "<bob>",
            "<@>",
            "<@x.example>",
            "<bob@>",
            "<bob@.>",
            "<bob@x.example..>",
            "<bob@.x.example>",
            "<bob@x..example>",
            "<bob@-x.example>",
            "<bob@x-.example>",
            "<bob@x.example (x)>",
            "<bob(x)@x.example>",
            "<victim@evil.example(.example.net>",
            "<victim@evil.example (.example.net>",
            "<victim@(x)evil.example(y.example.net>",
            "<victim@evil.example(\\\")> ORCPT=rfc822;x\".example.net>",
            "<bob(\\\")> NOTIFY=NEVER ORCPT=rfc822;x\"@x.example>",
            "<victim@\"evil.example\".example.net>",
            "<victim@[127.0.0.1].example.net>",
            "<victim@evil.example,.example.net>",
            "<victim@evil.example;.example.net>",
            "<victim@evil.example\t.example.net>",
            "<victim@evil.example\u{b}.example.net>",
            "<victim@evil.example\u{1b}.example.net>",
            "<victim@evil.example\u{7f}.example.net>",
            "<victim@evil.example@x.example>",
            "<victim@evil.example>.example.net>x",
            "<victim@evil.example（.example.net>",
            "<victim@evil\u{85}.example.net>",
            "< bob@x.example >",
            "<bob @x.example>",
            "<bob@ x.example>",
            "<Foo <bob@x.example>>",
            "<bob.@x.example>",
            "<.bob@x.example>",
            "<b..ob@x.example>",
            "<\"bob@x.example>",
            "<\"b\tob\"@x.example>",
            "<\"bob\"x@x.example>",
            "<bob@[x]>",
            "<bob@[192.0.2.1>",
            "<bob@[192.0.2.1.]>",
            "<@a.example bob@x.example>",
            "<@:bob@x.example>",
            "",
        ] {
            let read = Path::parse(text.as_bytes());
            // The one that ends earlier has something behind it that is no parameter.
            let is_refused = read.is_err() || read.is_ok_and(|(_, rest)| rest.starts_with(b"."));
            assert!(is_refused, "{text}");
        }
        assert!(Path::parse(b"<b\xffb@x.example>").is_err());
        assert!(Path::parse(b"<bob@x\xff.example>").is_err());
        let long = format!("<bob@{}.example>", "x".repeat(64));
        assert!(Path::parse(long.as_bytes()).is_err());
    }

    #[test]
    fn what_postfix_forgives_is_the_same_address() {
        for text in [
            "<bob@x.example>",
            "bob@x.example",
            "<bob@x.example.>",
            "< bob@x.example >",
            "<bob @ x.example>",
            "<bob@x . example>",
            "<bob@x.example (x)>",
            "<(x)bob@x.example>",
            "<bob(a(b)c)@x.example>",
            "<Foo <bob@x.example>>",
            "<\"Foo, Bar\" <bob@x.example>>",
            "<bob@x.example>>",
            "<bob@x.example,>",
            "<,bob@x.example>",
            "<\"bob\"@x.example>",
            "<\"b\\ob\"@x.example>",
            "<b\\ob@x.example>",
            "<@a.example:bob@x.example>",
            "<@a.example,@b.example:bob@x.example>",
        ] {
            let path = Path::resolve(text.as_bytes()).unwrap();
            assert_eq!(path.as_str(), "bob@x.example", "{text}");
        }
        for (text, path) in [
            ("<>", ""),
            ("<(nobody)>", ""),
            ("<\"bob smith\"@x.example>", "\"bob smith\"@x.example"),
            ("<bob>", "bob"),
            ("<<bob@x.example>", "\"<bob\"@x.example"),
            ("<\"\"@x.example>", "\"\"@x.example"),
            ("<bob@[192.0.2.1]>", "bob@[192.0.2.1]"),
            ("<bob@x.example..>", "bob@x.example.."),
        ] {
            assert_eq!(Path::resolve(text.as_bytes()).unwrap().as_str(), path, "{text}");
        }
        for text in [
            "<a@x.example, b@x.example>",
            "<bob alice@x.example>",
            "<b\"o\"b@x.example>",
            "<\"a\tb\"@x.example>",
            "<bob@\"x y\".example>",
            "<bob@x;y.example>",
        ] {
            assert!(Path::resolve(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        /// Whatever is taken is written so that it is read as itself again, by either reader.
        #[test]
        fn what_is_taken_reads_as_itself(
            local in "[ab.\"\\\\ @(>%é]{0,8}",
            name in "[ab.(\\[\\]\\\\ @>-é]{0,12}",
        ) {
            let text = format!("<{local}@{name}.example>");
            if let Ok((path, rest)) = Path::parse(text.as_bytes()) {
                let again = format!("<{path}>");
                let (same, none) = Path::parse(again.as_bytes()).unwrap();
                prop_assert_eq!(&same, &path);
                prop_assert_eq!(none, b"");
                prop_assert_eq!(Path::resolve(again.as_bytes()).unwrap(), path);
                prop_assert!(text.as_bytes().ends_with(rest));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Path::parse(&bytes);
            let _ = Path::resolve(&bytes);
        }

        #[test]
        fn what_is_resolved_is_written_without_trouble(text in "[ab.@<>()\"\\\\,;: \\[\\]]{0,20}") {
            if let Ok(path) = Path::resolve(text.as_bytes()) {
                let again = Path::resolve(format!("<{path}>").as_bytes());
                prop_assert!(again.is_ok(), "{} became {}", text, path);
            }
        }
    }
}
