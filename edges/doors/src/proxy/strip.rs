//! Attachments that are taken out of a message: each becomes a short text that says so. What is not
//! taken out stays byte for byte.

use std::ops::Range;

use mail_parser::{Encoding, Message, MessageParser, MessagePart, MimeHeaders as _, PartType};
use mpp_wire::header;

use super::attachment::Labels;

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
    /// What it was called, for the header; empty for what goes with another one.
    pub(crate) name: String,
}

/// What of a message is to be replaced, in its order. `wanted` are ends of file names and types, in
/// lower case.
pub(crate) fn cuts(message: &[u8], wanted: &[String]) -> Vec<Cut> {
    if is_bottomless(message) {
        let text =
            "\r\nWhat was here was nested too deep to be looked into, and was taken out.\r\n";
        return vec![without_text(message, text, "all of it")];
    }
    let Some(parsed) = MessageParser::default().parse(message) else { return Vec::new() };
    let mut cuts = Vec::new();
    for (number, part) in parsed.parts.iter().enumerate() {
        let range = offset(part.offset_header)..offset(part.offset_end);
        let is_inside = cuts.last().is_some_and(|last: &Cut| range.start < last.range.end);
        if is_inside || range.start >= range.end || message.get(range.clone()).is_none() {
            continue;
        }
        match reason(part, (message, wanted), 0) {
            // The message itself is what is to be taken out.
            Some(name) if number == 0 => return all_of_it(message, &name),
            Some(name) => {
                let text = format!(
                    "Content-Type: text/plain; charset=us-ascii\r\nContent-Disposition: inline\r\n\r\n{}",
                    said(&name)
                );
                cuts.push(Cut { range, text, name });
            }
            None => cuts.extend(blocks(part, message, wanted)),
        }
    }
    cuts
}

/// The text of a message goes, and with it what its header says of that.
fn all_of_it(message: &[u8], name: &str) -> Vec<Cut> {
    let mut cuts = Vec::new();
    let mut place = 0;
    for field in header::fields(message) {
        let range = place..place + field.bytes.len();
        place = range.end;
        let is_of_text = ["content-type", "content-transfer-encoding", "content-disposition"];
        if is_of_text.iter().any(|name| field.is(name)) {
            let text =
                if cuts.is_empty() { "Content-Type: text/plain; charset=us-ascii\r\n" } else { "" };
            cuts.push(Cut { range, text: text.into(), name: String::new() });
        }
    }
    cuts.push(without_text(message, &said(name), name));
    cuts
}

fn said(name: &str) -> String {
    format!("The attachment {name} was taken out on its way.\r\n")
}

/// Files within a text (`uuencode`, POSIX): from the line that names one to the one that ends it.
fn blocks(part: &MessagePart<'_>, message: &[u8], wanted: &[String]) -> Vec<Cut> {
    let start = offset(part.offset_body);
    let is_text = matches!(part.body, PartType::Text(_) | PartType::Html(_) | PartType::Binary(_));
    let text = message.get(start..offset(part.offset_end)).filter(|_| is_text);
    let mut cuts: Vec<Cut> = Vec::new();
    let mut place = start;
    let mut open: Option<(usize, String)> = None;
    for line in text.unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
        let begin = place;
        place += line.len();
        if open.is_none() {
            open = block(line, wanted).map(|name| (begin, name));
        } else if line.trim_ascii_end() == b"end" || line.trim_ascii_end() == b"====" {
            cuts.extend(open.take().map(|(begin, name)| Cut {
                range: begin..place,
                text: said(&name),
                name,
            }));
        }
    }
    // One that nothing ends goes to the end of its part.
    cuts.extend(open.map(|(begin, name)| Cut { range: begin..place, text: said(&name), name }));
    cuts
}

/// The name of a file that begins with this line, if it is to go.
fn block(line: &[u8], wanted: &[String]) -> Option<String> {
    let rest = line.strip_prefix(b"begin-base64 ").or_else(|| line.strip_prefix(b"begin "))?;
    let rest = std::str::from_utf8(rest.trim_ascii()).ok();
    let (mode, name) = rest?.split_once(' ')?;
    let is_mode =
        (3..=4).contains(&mode.len()) && mode.bytes().all(|it| (b'0'..=b'7').contains(&it));
    let mut labels = Labels::default();
    labels.add(name.trim());
    labels.wanted(wanted).filter(|_| is_mode).map(safe)
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

/// All of the text goes.
fn without_text(message: &[u8], text: &str, name: &str) -> Cut {
    let end = message.len() - header::text(message).len();
    Cut { range: end..message.len(), text: text.into(), name: name.into() }
}

/// Why a part of a message goes: a name that it has, or its type; or nobody can tell what is in it.
fn reason(part: &MessagePart<'_>, (raw, wanted): (&[u8], &[String]), depth: u32) -> Option<String> {
    let head = raw.get(offset(part.offset_header)..offset(part.offset_body)).unwrap_or_default();
    let mut labels = Labels::of(head);
    // As one more program reads it, and as most will.
    let common = part.attachment_name().unwrap_or_default();
    labels.add(common);
    if let Some(name) = labels.wanted(wanted) {
        let is_common = common.eq_ignore_ascii_case(name);
        // A type that is wanted is one of the settings.
        let is_setting = wanted.iter().any(|it| it == name);
        return Some(match (is_common, is_setting) {
            (true, _) => safe(common),
            (false, true) => name.to_owned(),
            (false, false) => safe(name),
        });
    }
    if labels.is_ambiguous() {
        return Some("of parts that cannot be told apart".into());
    }
    match &part.body {
        PartType::Message(inner) => within(inner, wanted, depth),
        // What stands in an encoded text cannot be cut out of it.
        PartType::Text(text) | PartType::Html(text) if part.encoding != Encoding::None => {
            text.lines().find_map(|line| block(line.as_bytes(), wanted))
        }
        _ => None,
    }
}

/// Whether a message that is attached carries one: then it goes whole.
fn within(inner: &Message<'_>, wanted: &[String], depth: u32) -> Option<String> {
    if depth >= DEPTH_MAX {
        return Some("that is nested too deep".into());
    }
    let raw = &*inner.raw_message;
    inner.parts.iter().find_map(|part| {
        let name = reason(part, (raw, wanted), depth + 1);
        name.or_else(|| blocks(part, raw, wanted).into_iter().next().map(|cut| cut.name))
    })
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
    fn every_way_to_name_an_attachment_is_known() {
        let odd = "Content-Type: application/octet-stream";
        let ways = [
            "name=a.exe",
            "name=\"a.exe\"; filename=\"a.txt\"",
            "NAME = \"a.EXE\"",
            "name=a.txt; name=a.exe",
            "name=\"a.exe.\"",
            "name=\"a.exe . .\"",
            "name=\"a.exe\t\"",
            "name=\"a.exe\u{a0}\"",
            "name=\"a.exe\u{200b}\"",
            "name=\"a\u{200b}.e\u{202e}xe\"",
            "name=\"a.exe::$DATA\"",
            "name=\"a.exe:b.txt\"",
            "name=\"a.txt:b.exe\"",
            "name*=utf-8''a.%65xe",
            "name*=utf-8'en'a%2Eexe",
            "name=\"a%2eexe\"",
            "name*0=a.; name*1=exe",
            "name*1=xe; name*0=\"a.e\"",
            "name*0*=utf-8''a%2E; name*1*=%65xe",
            "name*0*=utf-8''a%2E; name*1=exe",
            "name=\"=?utf-8?q?a=2Eexe?=\"",
            "name=\"=?utf-8?q?a=2Ee?= =?utf-8?b?eGU=?=\"",
            "name=\"=?utf-8?q?a=2Ee?=\r\n =?utf-8?q?xe?=\"",
            "name==?utf-8?b?YS5leGU=?=",
            "name=\"a.e\r\n xe\"",
            "name=\"a.e\r\n\txe\"",
            "name=\"a.\\exe\"",
            "name=a.exe (a comment)",
            "name='a.exe'",
            "name=\"a.exe\\\"\"",
            "x=\"a;b\"; name=a.exe",
            "name=\"a.exe",
            "charset=x;;;name=a.exe",
        ];
        for way in ways {
            let type_says = format!("{odd}; {way}\r\n\r\nTVqQ\r\n");
            let disposition = way.replace("name", "filename").replace("NAME", "FILENAME");
            let disposition_says = format!(
                "{odd}; name=a.txt\r\nContent-Disposition: attachment; {disposition}\r\n\r\nTVqQ\r\n"
            );
            let twice = format!("{odd}; name=a.txt\r\nContent-type : a/b; {way}\r\n\r\nTVqQ\r\n");
            for part in [type_says, disposition_says, twice] {
                let (out, _) =
                    stripped(&mail(&["Content-Type: text/plain\r\n\r\nhello\r\n", &part]));
                assert!(!out.contains("TVqQ") && out.contains("hello"), "{part}");
                // The message itself is the attachment, and one within another message.
                let (out, _) = stripped(&format!("From: a\r\n{part}"));
                assert!(!out.contains("TVqQ") && out.starts_with("From: a\r\n"), "{out}");
                let inner = format!("Content-Type: message/rfc822\r\n\r\nFrom: b\r\n{part}");
                assert!(!stripped(&mail(&[&inner])).0.contains("TVqQ"), "{inner}");
            }
        }
        for fine in ["a.exe.txt", "exe", "an exe", "a.exec", "aexe", "a.exe-list"] {
            let part = format!("{odd}; name=\"{fine}\"\r\n\r\nTVqQ\r\n");
            assert!(stripped(&mail(&[&part])).0.contains("TVqQ"), "{fine}");
        }
    }

    #[test]
    fn a_message_that_is_the_attachment_stays_one_that_can_be_read() {
        let (out, names) = stripped(
            "From: a\r\nContent-Transfer-Encoding: base64\r\nSubject: x\r\n\
             Content-Type: application/x-evil;\r\n name=b.txt\r\n\r\nTVqQ\r\n",
        );
        assert_eq!(
            out,
            "From: a\r\nContent-Type: text/plain; charset=us-ascii\r\nSubject: x\r\n\r\n\
             The attachment application/x-evil was taken out on its way.\r\n"
        );
        assert_eq!(names.concat(), "application/x-evil");
    }

    #[test]
    fn files_within_a_text_go_and_the_text_stays() {
        let block = "begin 644 a.EXE\r\n#TVqQ\r\n`\r\nend\r\n";
        let (out, names) = stripped(&format!("From: a\r\n\r\nhello\r\n{block}bye\r\n"));
        assert_eq!(names, ["a.exe"]);
        assert!(out.contains("hello\r\nThe attachment a.exe was taken out on its way.\r\nbye"));
        let part = format!("Content-Type: text/plain\r\n\r\nhello\r\n{block}");
        assert!(!stripped(&mail(&[&part])).0.contains("TVqQ"));
        let open = "hello\r\nbegin-base64 0755 a.exe\r\nTVqQ\r\n";
        assert!(!stripped(&format!("From: a\r\n\r\n{open}")).0.contains("TVqQ"));
        let encoded = "Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
            begin=20644 a.exe\r\n#TVqQ\r\nend\r\n";
        assert!(!stripped(&mail(&[encoded])).0.contains("TVqQ"));
        for fine in [
            "begin the day with a.exe\r\n",
            "begin 644 a.txt\r\n#TVqQ\r\nend\r\n",
            " begin 644 a.exe\r\n",
        ] {
            let text = format!("From: a\r\n\r\n{fine}");
            assert_eq!(stripped(&text).0, text);
        }
    }

    #[test]
    fn parts_that_cannot_be_told_apart_go() {
        let evil = "--y\r\nContent-Type: a/b; name=x.exe\r\n\r\nTVqQ\r\n--y--\r\n";
        for kind in [
            "Content-Type: multipart/mixed; boundary=x; boundary=y",
            "Content-Type: multipart/mixed; boundary=x\r\nContent-Type: multipart/mixed; boundary=y",
        ] {
            let text = format!("From: a\r\n{kind}\r\n\r\n--x\r\n\r\nhello\r\n--x--\r\n{evil}");
            assert!(!stripped(&text).0.contains("TVqQ"), "{kind}");
        }
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
        fn nothing_else_is_changed(
            text in "([-a-zA-Z/:;=.\" ]{0,20}(\r\n|--x\r\n)?){0,20}", kind in "[a-z.]{0,9}",
        ) {
            let fine = format!("Content-Type: a/{kind}; name={kind}.txt\r\n\r\n{text}\r\n");
            let whole = mail(&[&fine, "Content-Type: a/b; name=x.exe\r\n\r\nTVqQ\r\n", &fine]);
            let cuts = cuts(whole.as_bytes(), &["exe".to_owned()]);
            let (mut kept, mut place) = (String::new(), 0);
            for cut in &cuts {
                kept.push_str(&whole[place..cut.range.start]);
                place = cut.range.end;
            }
            kept.push_str(&whole[place..]);
            // What is cut out is the one part, and nothing but it.
            if !text.contains("exe") && !text.contains("boundary") && cuts.len() == 1 {
                proptest::prop_assert!(!kept.contains("TVqQ"));
                proptest::prop_assert!(kept.contains(&fine));
            }
        }

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
