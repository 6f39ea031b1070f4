//! What stands behind MAIL and RCPT: a path and parameters (RFC 5321 section 4.1.2).

use mpp_address::Path;

/// How MAIL and RCPT are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// By the letter of RFC 5321: for whoever faces strangers.
    Strict,
    /// As Postfix reads them by default: for whoever stands behind it and gets what clients of it
    /// wrote.
    Forgiving,
}

/// Why a line is neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// What should be a path is none.
    Address,
    /// It is no MAIL or RCPT at all, or its parameters are none.
    Syntax,
}

/// The path behind a word, and the parameters behind the path.
pub(crate) fn named<'b>(
    rest: &'b [u8],
    word: &str,
    syntax: Syntax,
) -> Result<(Path, &'b str), Malformed> {
    let (head, rest) = rest.split_at_checked(word.len()).ok_or(Malformed::Syntax)?;
    if !head.eq_ignore_ascii_case(word.as_bytes()) {
        return Err(Malformed::Syntax);
    }
    let rest = rest.trim_ascii_start();
    let read = match syntax {
        Syntax::Strict => Path::parse(rest),
        Syntax::Forgiving => {
            let (path, rest) = first_word(rest).ok_or(Malformed::Address)?;
            Path::resolve(path).map(|path| (path, rest))
        }
    };
    let (path, rest) = read.map_err(|_| Malformed::Address)?;
    if !rest.is_empty() && !rest.starts_with(b" ") {
        return Err(Malformed::Address);
    }
    let parameters = std::str::from_utf8(rest.trim_ascii()).map_err(|_| Malformed::Syntax)?;
    let mut words = parameters.split(' ').filter(|word| !word.is_empty());
    if words.all(is_parameter) { Ok((path, parameters)) } else { Err(Malformed::Syntax) }
}

/// Whether a word is a parameter of MAIL or RCPT (RFC 5321 section 4.1.2, `esmtp-param`; a value may
/// hold `=`, which some write).
fn is_parameter(word: &str) -> bool {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    let is_first = |byte: &u8| byte.is_ascii_alphanumeric();
    name.as_bytes().first().is_some_and(is_first)
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !value.chars().any(|letter| letter.is_control() || letter.is_whitespace())
}

/// The word at the beginning, and what follows it, as Postfix cuts them apart: blanks within quotes
/// and brackets are of the word.
fn first_word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut wanted: Vec<u8> = Vec::new();
    let mut place = 0;
    while let Some(byte) = text.get(place).copied() {
        place += 1;
        match (byte, wanted.last().copied()) {
            (b'\\', _) => place += 1,
            (byte, Some(end)) if byte == end => drop(wanted.pop()),
            (b'"', _) => wanted.push(b'"'),
            (b'<', None | Some(b'>')) => wanted.push(b'>'),
            (b' ' | b'\t', None) => {
                place -= 1;
                break;
            }
            _ => {}
        }
    }
    if !wanted.is_empty() {
        return None;
    }
    text.split_at_checked(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_postfix_paths_are_read_as_it_does() {
        for (rest, wanted) in [
            ("TO:<bob@x.example (x)> NOTIFY=NEVER", Ok("NOTIFY=NEVER")),
            ("TO:< bob @ x.example. >", Ok("")),
            ("TO: bob@x.example NOTIFY=NEVER", Ok("NOTIFY=NEVER")),
            ("TO:bob@x.example", Ok("")),
            ("TO:<Foo <bob@x.example>> NOTIFY=NEVER", Ok("NOTIFY=NEVER")),
            ("TO:<\"Foo > \" <bob@x.example>>", Ok("")),
            ("TO:<bob@x.example", Err(Malformed::Address)),
            ("TO:<a@x.example, b@x.example>", Err(Malformed::Address)),
            ("TO:<bob@x.example> \u{1b}", Err(Malformed::Syntax)),
            ("FROM:<bob@x.example>", Err(Malformed::Syntax)),
        ] {
            let bob = Path::parse_bare("bob@x.example").unwrap();
            let wanted = wanted.map(|parameters| (bob, parameters));
            assert_eq!(named(rest.as_bytes(), "TO:", Syntax::Forgiving), wanted, "{rest}");
        }
    }
}
