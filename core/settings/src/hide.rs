//! The text of a configuration as it may be shown: without what nobody is to see.
//!
//! What was read as a secret is hidden by its place, whatever it is called. What was never read,
//! because a name is misspelt or the text is no TOML, is hidden by what its key looks like; there
//! too much is hidden rather than too little. Lengths stay what they are, and so do places.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Words of keys whose values are secrets.
const WORDS: [&str; 6] = ["password", "passwd", "secret", "token", "credential", "passphrase"];

/// A text with these pieces hidden, and all that looks like a secret.
pub fn hide(text: &str, secrets: &[Range<usize>]) -> String {
    let mut spans = secrets.to_vec();
    let (table, errors) = DeTable::parse_recoverable(text);
    walk(table.get_ref(), (text, false), &mut spans);
    if !errors.is_empty() {
        guess(text, &mut spans);
    }
    spans.extend(user_infos(text));
    starred(text, &spans)
}

/// The same of a text that is no configuration: what stands before the `@` of a URL is hidden.
pub fn hide_users(text: &str) -> String {
    starred(text, &user_infos(text).collect::<Vec<_>>())
}

/// Whether a key looks like that of a secret, typing errors included.
fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let is_near = |part: &str| {
        WORDS.iter().any(|word| part.len() > 4 && strsim::damerau_levenshtein(part, word) <= 2)
    };
    WORDS.iter().any(|word| key.contains(word))
        || is_near(&key)
        || key.split(['_', '-', '.']).any(is_near)
        || key.contains("passw")
}

fn walk(table: &DeTable<'_>, (text, inside): (&str, bool), spans: &mut Vec<Range<usize>>) {
    for (key, value) in table {
        note(value, (text, inside || is_secret(key.get_ref())), spans);
    }
}

fn note(value: &Spanned<DeValue<'_>>, (text, hidden): (&str, bool), spans: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::Table(table) => {
            // A table with a head of its own only has an unlucky name.
            let is_inline = text.get(value.span()).is_some_and(|it| it.starts_with('{'));
            walk(table, (text, hidden && is_inline), spans);
        }
        DeValue::Array(list) => list.iter().for_each(|it| note(it, (text, hidden), spans)),
        DeValue::String(said) if said.starts_with("file:") || said.starts_with("env:") => {}
        _ if hidden => spans.push(value.span()),
        _ => {}
    }
}

/// What may be a secret in a text that is no TOML: the rest of each line behind such a key, and what
/// a string that is not closed goes on with.
fn guess(text: &str, spans: &mut Vec<Range<usize>>) {
    let mut start = 0;
    let mut open: Option<&str> = None;
    for line in text.split_inclusive('\n') {
        let whole = start..start + line.len();
        start = whole.end;
        let from = match open {
            Some(quote) if quote.len() == 1 && is_setting(line) => None,
            Some(_) => Some(0),
            None => None,
        };
        let from = from.or_else(|| behind_key(line));
        let Some(hidden) = from.and_then(|from| line.get(from..)) else {
            open = None;
            continue;
        };
        spans.push(whole.end - hidden.len()..whole.end);
        open = still_open(hidden, if from == Some(0) { open } else { None });
    }
}

/// Where the value of a secret begins in a line.
fn behind_key(line: &str) -> Option<usize> {
    let mut at = 0;
    for word in line.split_inclusive(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')) {
        at += word.len();
        let key = word.trim_end_matches(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'));
        if is_secret(key) {
            return Some(at.min(line.len()));
        }
    }
    None
}

/// Whether a line begins something else.
fn is_setting(line: &str) -> bool {
    let line = line.trim_start();
    let key = line.split_once('=').map(|(key, _)| key.trim());
    let is_key = |key: &str| {
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
    };
    line.is_empty() || line.starts_with(['[', '#']) || key.is_some_and(is_key)
}

/// The quotes of a string that a text leaves open.
fn still_open<'q>(text: &str, mut open: Option<&'q str>) -> Option<&'q str> {
    let mut rest = text;
    while !rest.is_empty() {
        let step = match open {
            Some(quote) if rest.starts_with(quote) => {
                open = None;
                quote.len()
            }
            Some("\"" | "\"\"\"") if rest.starts_with('\\') => 2,
            None => {
                open = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|it| rest.starts_with(it));
                open.map_or(1, str::len)
            }
            Some(_) => 1,
        };
        let next = rest.char_indices().map(|(at, _)| at).find(|at| *at >= step);
        rest = next.and_then(|at| rest.get(at..)).unwrap_or_default();
    }
    open
}

/// What stands between `://` and `@` in URLs.
fn user_infos(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    text.match_indices("://").filter_map(|(at, mark)| {
        let start = at + mark.len();
        // A password may hold what ends a host: the last `@` counts.
        let line = text.get(start..)?.lines().next().unwrap_or_default();
        let url = line.get(..line.find(['"', '\'', '`', ' ']).unwrap_or(line.len()))?;
        let length = url.rfind('@')?;
        (length > 0).then_some(start..start + length)
    })
}

/// The text with a star for each byte of these pieces; line ends stay.
fn starred(text: &str, spans: &[Range<usize>]) -> String {
    let mut shown = String::with_capacity(text.len());
    for (at, letter) in text.char_indices() {
        let is_hidden = letter != '\n' && letter != '\r' && spans.iter().any(|it| it.contains(&at));
        if is_hidden {
            (0..letter.len_utf8()).for_each(|_| shown.push('*'));
        } else {
            shown.push(letter);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_hidden_as_toml_has_it() {
        for (text, shown) in [
            (r#"password = "abc\"def""#, "password = **********"),
            ("password = \"pässt\"\nx = 1", "password = ********\nx = 1"),
            ("t = { password='a\"b', bad = 1 }", "t = { password=*****, bad = 1 }"),
            ("password = \"file:pw\"", "password = \"file:pw\""),
            ("password = \"env:PW\"", "password = \"env:PW\""),
            ("\"password\" = \"\"\"a\nb\"\"\"", "\"password\" = ****\n****"),
            ("password = '''a\\\nb'''\nx = 'c'", "password = *****\n****\nx = 'c'"),
            ("store.password = 12345", "store.password = *****"),
            ("password = [\"a\", 'b']", "password = [***, ***]"),
            ("password = { a = \"b\" }", "password = { a = *** }"),
            ("pasword = \"x\"", "pasword = ***"),
            ("PassWord = \"x\"", "PassWord = ***"),
            ("sentinel_password = \"x\"\nsecret = \"y\"", "sentinel_password = ***\nsecret = ***"),
            ("u = \"redis://me:s3cret@h:1/0\"", "u = \"redis://*********@h:1/0\""),
            ("u = \"redis://:p@ss/w@h:1\"", "u = \"redis://*******@h:1\""),
            ("u = \"https://h/a@b\"", "u = \"https://***@b\""),
            ("[directory.secret]\nkind = \"sql\"", "[directory.secret]\nkind = \"sql\""),
            ("no password here = 1", "no password ********"),
        ] {
            assert_eq!(hide(text, &[]), shown, "{text}");
            assert_eq!(hide(text, &[]).len(), text.len(), "places stay what they are");
        }
        assert_eq!(
            hide("pw = \"x\"", std::slice::from_ref(&(5..8))),
            "pw = ***",
            "by its place, whatever its name"
        );
    }

    #[test]
    fn what_is_no_toml_hides_more() {
        for text in [
            "password = hunter2\nx = 1",
            "password = \"hunter2\nx = 1",
            "password: hunter2",
            "password = \"\"\"a\nhunter2\n\nhunter2",
            "password = \"a\nhunter2\"\n",
            "x = = 1\npassword = \"ab\\\"hunter2\"\n",
            "t = { password = \"hunter2\", y = }",
            "password = 'a'hunter2",
            "password \"hunter2\"",
            "password = \"\"\"\n[hunter2]\nx = hunter2",
        ] {
            let shown = hide(text, &[]);
            assert!(!shown.contains("hunter2"), "{shown}");
            assert_eq!(shown.len(), text.len());
        }
        assert!(hide("password = \"open\nx = 1\ny = = 2", &[]).contains("y = = 2"));
    }

    proptest::proptest! {
        #[test]
        fn no_secret_is_seen_however_it_is_spelled(
            secret in "[ -~é]{4,12}", broken in 0..4_usize, form in 0..4_usize,
        ) {
            let basic = toml::Value::String(secret.clone()).to_string();
            let spelled = match form {
                0 if !secret.contains('\'') => format!("'{secret}'"),
                1 => format!("\"\"\"{}\"\"\"", secret.replace('\\', "\\\\").replace('"', "\\\"")),
                2 if !secret.contains('\'') => format!("'''{secret}'''"),
                _ => basic,
            };
            let text = match broken {
                0 => format!("zz = 1\npassword = {spelled}\n"),
                1 => format!("zz = = 1\npassword = {spelled}\n"),
                2 => format!("t = {{ password = {spelled}, zz = }}\n"),
                _ => format!("t = {{ password = {spelled} }}\n[zz\n"),
            };
            proptest::prop_assume!(!secret.starts_with("file:") && !secret.starts_with("env:"));
            let shown = hide(&text, &[]);
            let kept = |it: &str| it.trim().len() > 3 && shown.contains(it.trim());
            proptest::prop_assert!(secret.chars().all(|c| c == '*') || !kept(&secret), "{}", shown);
            proptest::prop_assert_eq!(shown.len(), text.len());
        }
    }
}
