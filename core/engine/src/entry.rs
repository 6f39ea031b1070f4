//! What an entry of a list may be: an address, a domain, or nothing that could ever match.
//!
//! A pattern that nobody's address can have is a slip of the pen (`*.example.org`, `a@b@c`), and who
//! wrote it trusts in it; so it is a mistake with a suggestion, not a dead entry.

use crate::address;

/// Octets of a domain at the most (RFC 1035 section 2.3.4), and of one label.
const DOMAIN_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// Why an entry can never match.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is nothing of it.
    #[error("expected an address, a domain or a domain with a leading dot")]
    Empty,
    /// Blanks where none can be.
    #[error("`{0}` holds blanks: expected an address, a domain or a domain with a leading dot")]
    Blank(String),
    /// A star, which is no wildcard here, and what was probably meant.
    #[error("`{typed}` matches nothing: a `*` is no wildcard here; did you mean `{meant}`?")]
    Star {
        /// The entry.
        typed: String,
        /// What says what was probably meant.
        meant: String,
    },
    /// A star that has no other form.
    #[error("`{0}` matches nothing: a `*` is no wildcard here")]
    Wildcard(String),
    /// Two `@`, of which none is in quotes.
    #[error("`{0}` is not an address: there is more than one `@`")]
    TwoAts(String),
    /// A domain that nobody can have.
    #[error("`{0}` is not a domain")]
    Domain(String),
    /// A local part that nobody can have.
    #[error("`{0}` is not an address")]
    Address(String),
}

/// Whether a name may be a domain: labels of letters, digits, `-` and `_`, in any script, or an
/// address literal (RFC 5321 section 4.1.3).
pub fn is_domain(name: &str) -> bool {
    if let Some(inside) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return !inside.is_empty()
            && inside.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-%".contains(&b));
    }
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.chars().all(|c| c == '-' || c == '_' || c.is_alphanumeric() || !c.is_ascii())
    };
    name.len() <= DOMAIN_BYTES_MAX && name.split('.').all(is_label)
}

/// Looks at a domain, which may have a leading dot.
///
/// # Errors
/// It can be nobody's.
pub fn domain(text: &str) -> Result<(), Fault> {
    let name = text.strip_prefix('.').unwrap_or(text);
    // A dot at the end is the root: the same domain, fully spelled.
    let name = name.strip_suffix('.').unwrap_or(name);
    if let Some(fault) = star(text, "") {
        return Err(fault);
    }
    match text {
        "" | "." => Err(Fault::Empty),
        _ if text.contains(char::is_whitespace) => Err(Fault::Blank(text.to_owned())),
        _ if is_domain(name) => Ok(()),
        _ => Err(Fault::Domain(text.to_owned())),
    }
}

/// Looks at an address, or at `@DOMAIN`, which stands for all of a domain.
///
/// # Errors
/// It can be nobody's.
pub fn address(text: &str) -> Result<(), Fault> {
    let (local, name) = address::split(text);
    if name.is_empty() {
        return Err(Fault::Address(text.to_owned()));
    }
    let is_quoted = local.len() > 1 && local.starts_with('"') && local.ends_with('"');
    match local {
        "" => domain(name),
        "*" => Err(star(name, "@")
            .unwrap_or_else(|| Fault::Star { typed: text.to_owned(), meant: format!("@{name}") })),
        _ if is_quoted => domain(name),
        _ if local.contains('@') => Err(Fault::TwoAts(text.to_owned())),
        _ if local.contains(char::is_whitespace) => Err(Fault::Blank(text.to_owned())),
        _ if local.contains(['<', '>', '(', ')', ',', ';', ':', '"', '[', ']']) => {
            Err(Fault::Address(text.to_owned()))
        }
        _ => domain(name),
    }
}

/// The fault of a domain with a star in it.
fn star(text: &str, before: &str) -> Option<Fault> {
    if !text.contains('*') {
        return None;
    }
    let below = text.strip_prefix("*.").or_else(|| text.strip_prefix(".*."));
    let meant = below.filter(|rest| is_domain(rest));
    Some(match meant {
        Some(rest) => Fault::Star { typed: text.to_owned(), meant: format!("{before}.{rest}") },
        None => Fault::Wildcard(text.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_may_have_is_taken() {
        for text in [
            "bob@example.org",
            "\"bob@home\"@example.org",
            "\"bob smith\"@example.org",
            "o'hara+x=y@example.org",
            "jörg@bücher.example",
            "@example.org",
            "@.example.org",
            "bob@[192.0.2.1]",
            "bob@[IPv6:2001:db8::1]",
            "bob@localhost",
            "a*b@example.org",
        ] {
            assert_eq!(address(text), Ok(()), "{text}");
        }
        for text in ["example.org", ".example.org", "localhost", "a_b.example", "example.org."] {
            assert_eq!(domain(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_can_never_match_is_told_with_what_was_meant() {
        for (text, said) in [
            ("foo@bar@baz", "more than one `@`"),
            ("foo@bar@", "is not an address"),
            ("bob", "is not an address"),
            ("bob@", "is not an address"),
            ("bob@example..org", "is not a domain"),
            ("bob@exa mple.org", "blanks"),
            ("bob smith@example.org", "blanks"),
            ("<bob@example.org>", "is not a"),
            ("bob@example.org,", "is not a domain"),
            ("*@example.org", "did you mean `@example.org`?"),
            ("*@*.example.org", "did you mean `@.example.org`?"),
            ("@*.example.org", "did you mean `.example.org`?"),
            ("bob@*", "no wildcard"),
        ] {
            let fault = address(text).unwrap_err().to_string();
            assert!(fault.contains(said), "{text}: {fault}");
        }
        let long = "x".repeat(64);
        for (text, said) in [
            ("*.wild.example", "did you mean `.wild.example`?"),
            (".*.wild.example", "did you mean `.wild.example`?"),
            ("wild.*", "no wildcard"),
            ("*", "no wildcard"),
            ("", "expected"),
            (".", "expected"),
            ("..example", "is not a domain"),
            ("a/b", "is not a domain"),
            ("http://example.org", "is not a domain"),
            (&long, "is not a domain"),
        ] {
            let fault = domain(text).unwrap_err().to_string();
            assert!(fault.contains(said), "{text}: {fault}");
        }
    }
}
