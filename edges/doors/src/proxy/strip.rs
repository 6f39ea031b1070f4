//! Attachments that are taken out of a message: each becomes a short text that says so. What is not
//! taken out stays byte for byte.

use std::ops::Range;

use mail_parser::{Message, MessageParser, MimeHeaders as _, PartType};
use mpp_wire::header;

/// Larger messages are not taken apart; they pass as they are.
pub(crate) const MESSAGE_BYTES_MAX: u64 = 32 << 20;
/// Messages within messages are looked into so deep; what is deeper is taken out whole.
const DEPTH_MAX: u32 = 8;

/// More lines that may begin a message within the message are nested by somebody who means harm: the
/// parser goes down into each, and its stack has an end.
const NESTED_MAX: usize = 1000;

/// A piece of a message that is replaced.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Where it is.
    pub(crate) range: Range<usize>,
    /// What stands there instead.
    pub(crate) text: String,
    /// What it was called, for the header.
    pub(crate) name: String,
}

/// What of a message is to be replaced, in its order. `wanted` are ends of file names and types, in
/// lower case.
pub(crate) fn cuts(message: &[u8], wanted: &[String]) -> Vec<Cut> {
    if is_bottomless(message) {
        return vec![without_body(message)];
    }
    let Some(parsed) = MessageParser::default().parse(message) else { return Vec::new() };
    let mut cuts = Vec::new();
    // The first part is the message itself.
    for part in parsed.parts.iter().skip(1) {
        let range = offset(part.offset_header)..offset(part.offset_end);
        let Some(name) = reason(part, wanted, 0) else { continue };
        let is_inside = cuts.last().is_some_and(|last: &Cut| range.start < last.range.end);
        if is_inside || range.start >= range.end || message.get(range.clone()).is_none() {
            continue;
        }
        let text = format!(
            "Content-Type: text/plain; charset=us-ascii\r\nContent-Disposition: inline\r\n\r\n\
             The attachment {name} was taken out on its way.\r\n"
        );
        cuts.push(Cut { range, text, name });
    }
    cuts
}

/// Whether there are too many lines that may begin a message within the message.
fn is_bottomless(message: &[u8]) -> bool {
    let words = [&b"rfc822"[..], b"global", b"digest"];
    let has_word = |line: &[u8]| {
        words
            .iter()
            .any(|word| line.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word)))
    };
    // However lines end, and folded ones as lines of their own.
    let lines = message.split(|byte| matches!(byte, b'\r' | b'\n'));
    lines.filter(|line| has_word(line)).take(NESTED_MAX + 1).count() > NESTED_MAX
}

/// All of the body goes: nobody can tell what is in it.
fn without_body(message: &[u8]) -> Cut {
    let end = message.len() - header::text(message).len();
    let text = "\r\nWhat was here was nested too deep to be looked into, and was taken out.\r\n";
    Cut { range: end..message.len(), text: text.into(), name: "all of it".into() }
}

/// Why a part goes: the name that it has, or its type.
fn reason(part: &mail_parser::MessagePart<'_>, wanted: &[String], depth: u32) -> Option<String> {
    let kind = part.content_type().map(|kind| {
        format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or("x")).to_ascii_lowercase()
    });
    let name = part.attachment_name().map(safe);
    let lower = part.attachment_name().unwrap_or_default().to_ascii_lowercase();
    // Some programs forgive dots and blanks at the end of a name.
    let lower = lower.trim_end_matches(['.', ' ']);
    let is_named = |end: &String| {
        lower.strip_suffix(end.as_str()).is_some_and(|rest| rest.ends_with('.'))
            || kind.as_ref() == Some(end)
    };
    if wanted.iter().any(is_named) {
        return Some(name.or(kind).unwrap_or_else(|| "without a name".into()));
    }
    match &part.body {
        PartType::Message(inner) => within(inner, wanted, depth),
        _ => None,
    }
}

/// Whether a message that is attached carries one: then it goes whole.
fn within(inner: &Message<'_>, wanted: &[String], depth: u32) -> Option<String> {
    if depth >= DEPTH_MAX {
        return Some("that is nested too deep".into());
    }
    inner.parts.iter().find_map(|part| reason(part, wanted, depth + 1))
}

fn offset(offset: u32) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// A name of a stranger's in a text of ours.
fn safe(name: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "._- ".contains(letter);
    name.chars().take(100).map(|letter| if plain(letter) { letter } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(message: &str) -> (String, Vec<String>) {
        let wanted = ["exe".to_owned(), "application/x-evil".to_owned()];
        let cuts = cuts(message.as_bytes(), &wanted);
        let (mut out, mut place) = (String::new(), 0);
        for cut in &cuts {
            out.push_str(&message[place..cut.range.start]);
            out.push_str(&cut.text);
            place = cut.range.end;
        }
        out.push_str(&message[place..]);
        (out, cuts.into_iter().map(|cut| cut.name).collect())
    }

    fn mail(parts: &[&str]) -> String {
        let mut text = String::from(
            "From: a@b.example\r\nContent-Type: multipart/mixed; boundary=\"x\"\r\n\r\npreamble\r\n",
        );
        for part in parts {
            text.push_str("--x\r\n");
            text.push_str(part);
            text.push_str("\r\n");
        }
        text.push_str("--x--\r\nepilogue\r\n");
        text
    }

    #[test]
    fn what_is_named_goes_and_the_rest_stays() {
        let body = "Content-Type: text/plain\r\n\r\nhello\r\n";
        let evil = "Content-Type: application/octet-stream; name=\"A b.EXE\"\r\n\
            Content-Transfer-Encoding: base64\r\n\r\nTVqQAAMAAAAEAAAA\r\n";
        let typed = "Content-Type: application/x-evil\r\n\r\nx\r\n";
        let fine = "Content-Type: application/pdf\r\n\
            Content-Disposition: attachment; filename=\"an.exe.pdf\"\r\n\r\nx\r\n";
        let (out, names) = stripped(&mail(&[body, evil, typed, fine]));
        assert_eq!(names, ["A b.EXE", "application/x-evil"]);
        assert!(out.contains("hello") && out.contains("an.exe.pdf"), "{out}");
        assert!(!out.contains("TVqQ") && out.contains("A b.EXE was taken out"), "{out}");
        // It is still the same message.
        let parsed = MessageParser::default().parse(out.as_bytes()).unwrap();
        assert_eq!(parsed.parts.len(), 5);
        let (same, names) = stripped(&mail(&[body, fine]));
        assert_eq!((same, names), (mail(&[body, fine]), vec![]));
    }

    #[test]
    fn one_in_an_attached_message_takes_that_along() {
        let inner = mail(&["Content-Type: a/b; name=x.exe\r\n\r\nTVqQ\r\n"]);
        let attached = format!(
            "Content-Type: message/rfc822\r\n\r\n{}",
            inner.replace("\"x\"", "\"y\"").replace("--x", "--y")
        );
        let (out, names) = stripped(&mail(&[&attached]));
        assert_eq!(names, ["x.exe"]);
        assert!(!out.contains("TVqQ"), "{out}");
    }

    #[test]
    fn what_is_nested_without_end_is_not_followed() {
        for head in ["Content-Type: message/rfc822\r\n\r\n", "Content-Type:\n\tmessage/global\n\n"]
        {
            for count in [900, 10_000, 200_000] {
                let text = format!("Subject: x\r\n{}", head.repeat(count));
                let (out, names) = stripped(&text);
                assert!(out.starts_with("Subject: x\r\n"), "{count}");
                assert_eq!(names == ["all of it"], count > NESTED_MAX, "{count}: {names:?}");
            }
        }
        // A digest of many is not deep.
        let parts = vec!["Content-Type: message/rfc822\r\n\r\nSubject: y\r\n\r\nhi\r\n"; 400];
        assert_eq!(stripped(&mail(&parts)).1, Vec::<String>::new());
    }

    #[test]
    fn what_is_no_message_is_left_alone() {
        let deep = (0..10_000)
            .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"));
        let deep: String = deep.collect();
        for text in [
            "",
            "\r\n",
            "no header\0",
            &deep,
            "Content-Type: multipart/mixed; boundary=\r\n\r\n--\r\n",
        ] {
            let (out, _) = stripped(text);
            assert!(!out.is_empty() || text.is_empty());
        }
    }

    proptest::proptest! {
        #[test]
        fn cuts_lie_within_the_message_and_apart(text in "([-a-zA-Z/:;=.\" ]{0,20}(\r\n|--x\r\n)?){0,30}") {
            let mut last = 0;
            for cut in cuts(mail(&[&text, "Content-Type: a/b; name=x.exe\r\n\r\nx\r\n"]).as_bytes(), &["exe".to_owned()]) {
                proptest::prop_assert!(cut.range.start >= last && cut.range.start < cut.range.end);
                last = cut.range.end;
            }
        }
    }
}
