//! The header of a message that was scanned, as it is delivered: fields of strangers that look like
//! ours are taken out, ours are put in, and the subject is marked. The rest stays byte for byte.

use mpp_wire::header::{Field, fields};

/// So much of a message is looked at for its header; fields behind that stay as they are.
pub(crate) const HEAD_BYTES_MAX: usize = 256 * 1024;

/// What is done to a header.
#[derive(Debug, Default)]
pub(crate) struct Rewrite<'a> {
    /// Put before everything else; lines with their CRLF.
    pub(crate) before: String,
    /// Whether a field of this name goes.
    pub(crate) removed: Option<&'a mpp_engine::edits::HeaderNames>,
    /// Whose `Authentication-Results` are ours, and forged when they come from outside (RFC 8601
    /// section 5); empty for nobody's.
    pub(crate) host: &'a str,
    /// What stands before the subject; empty for nothing.
    pub(crate) mark: &'a str,
}

/// Names that scanners use, and that filters behind us trust: only we may say them.
const OURS: [&str; 4] = ["x-spam-flag", "x-spam-score", "x-spam-status", "x-spam-level"];

impl Rewrite<'_> {
    /// The beginning of a message with its header rewritten. What is text stays as it is.
    pub(crate) fn of(&self, head: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(head.len() + self.before.len() + 64);
        let mut all = fields(head);
        let is_marked = !self.mark.is_empty();
        let has_subject = is_marked && all.clone().any(|field| field.is("subject"));
        // What a mailbox had before the message stays before it.
        let first = all.clone().take_while(|field| field.name.is_empty()).count();
        for field in all.by_ref().take(first) {
            out.extend_from_slice(field.bytes);
        }
        out.extend_from_slice(self.before.as_bytes());
        let place = out.len();
        let mut is_first = has_subject;
        for field in all.by_ref() {
            if is_first && field.is("subject") {
                is_first = false;
                self.push_marked(&field, &mut out);
            } else if !self.is_removed(&field) {
                out.extend_from_slice(field.bytes);
            }
        }
        if is_marked && !has_subject && all.is_over() {
            let subject = format!("Subject: {}\r\n", self.mark);
            out.splice(place..place, subject.into_bytes());
        }
        let rest = all.rest();
        // It would go on with a field of ours.
        if rest.starts_with(b" ") || rest.starts_with(b"\t") {
            let is_ours = out.last().is_some();
            out.extend_from_slice(if is_ours { b"\r\n" } else { b"" });
        }
        out.extend_from_slice(rest);
        out
    }

    fn is_removed(&self, field: &Field<'_>) -> bool {
        let is_forged = field.is("authentication-results")
            && !self.host.is_empty()
            && authserv_id(field.value()).is_some_and(|id| id.eq_ignore_ascii_case(self.host));
        OURS.iter().any(|ours| field.is(ours))
            || is_forged
            || self.removed.is_some_and(|names| names.contains(field.name))
    }

    fn push_marked(&self, field: &Field<'_>, out: &mut Vec<u8>) {
        let value = field.value();
        out.extend_from_slice(field.label());
        // It may come back to us, marked.
        if value.trim_ascii_start().starts_with(self.mark.as_bytes()) {
            return out.extend_from_slice(value);
        }
        out.push(b' ');
        out.extend_from_slice(self.mark.as_bytes());
        if !value.trim_ascii().is_empty() {
            out.push(b' ');
        }
        out.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
    }
}

/// Who says what an `Authentication-Results` field says.
fn authserv_id(value: &[u8]) -> Option<&str> {
    let value = std::str::from_utf8(value).ok()?;
    value.split(|c: char| c.is_whitespace() || c == ';').find(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(head: &str) -> String {
        let rewrite = Rewrite {
            before: "X-Spam-Flag: YES\r\n".into(),
            removed: None,
            host: "mx.example.org",
            mark: "[SPAM]",
        };
        String::from_utf8(rewrite.of(head.as_bytes())).unwrap()
    }

    #[test]
    fn what_is_forged_goes_and_the_rest_stays() {
        let head = "Received: a\r\n\tb\r\nX-SPAM-Status: No\r\n folded\r\nSubject:  hello\r\n\
            Authentication-Results: MX.example.org; spf=pass\r\n\
            Authentication-Results: other.example; spf=pass\r\n\r\nX-Spam-Flag: NO\r\n";
        assert_eq!(
            rewritten(head),
            "X-Spam-Flag: YES\r\nReceived: a\r\n\tb\r\nSubject: [SPAM]  hello\r\n\
             Authentication-Results: other.example; spf=pass\r\n\r\nX-Spam-Flag: NO\r\n"
        );
    }

    #[test]
    fn a_subject_is_marked_once_and_made_where_there_is_none() {
        for (head, wanted) in [
            ("Subject: [SPAM] x\r\n\r\n", "Subject: [SPAM] x\r\n\r\n"),
            ("Subject:\r\n\r\nx", "Subject: [SPAM]\r\n\r\nx"),
            ("Subject: a\r\n b\r\n\r\n", "Subject: [SPAM] a\r\n b\r\n\r\n"),
            ("SUBJECT :\tx\r\n\r\n", "SUBJECT : [SPAM] \tx\r\n\r\n"),
            ("Subject:[SPAM]x\r\n\r\n", "Subject:[SPAM]x\r\n\r\n"),
            ("From: a\r\n\r\nx", "Subject: [SPAM]\r\nFrom: a\r\n\r\nx"),
            ("\r\nno header", "Subject: [SPAM]\r\n\r\nno header"),
            ("", "Subject: [SPAM]\r\n"),
            ("From: a\r\nSubject: cut o", "From: a\r\nSubject: cut o"),
        ] {
            assert_eq!(rewritten(head), format!("X-Spam-Flag: YES\r\n{wanted}"), "{head:?}");
        }
    }

    #[test]
    fn a_line_of_the_text_is_never_changed() {
        for text in [
            "First line of the text\r\n\r\nSubject: x\r\n",
            "First line\r\nSubject: x\r\nX-Spam-Flag: NO\r\n",
            "\u{e4}\r\nSubject: x\r\n folded\r\n\r\n",
            ": x\r\nSubject: x\r\n",
            "Subject x\r\nSubject: x\r\n",
        ] {
            let head = format!("From: a\r\nX-Mailer:Foo\r\n{text}");
            let wanted = format!("X-Spam-Flag: YES\r\nSubject: [SPAM]\r\n{head}");
            assert_eq!(rewritten(&head), wanted);
            assert_eq!(rewritten(text), format!("X-Spam-Flag: YES\r\nSubject: [SPAM]\r\n{text}"));
        }
        // One that begins with a blank does not become a part of a field of ours.
        let wanted = "X-Spam-Flag: YES\r\nSubject: [SPAM]\r\n\r\n x\r\n";
        assert_eq!(rewritten(" x\r\n"), wanted);
        assert_eq!(
            rewritten("From a@b\r\nFrom: a\r\nX-Spam-Flag: NO\r\n\r\n"),
            "From a@b\r\nX-Spam-Flag: YES\r\nSubject: [SPAM]\r\nFrom: a\r\n\r\n"
        );
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost_of_what_is_none_of_ours(head in "([A-Za-z: \\t.]{0,8}(\\r\\n)?){0,20}") {
            let rewrite = Rewrite::default();
            proptest::prop_assert_eq!(String::from_utf8(rewrite.of(head.as_bytes())).unwrap(), head);
        }

        #[test]
        fn the_text_stays_whatever_is_done_to_the_header(
            head in "([A-C:]{1,2}: ?x\r\n( y\r\n)?|Subject: z\r\n|X-Spam-Flag: NO\r\n){0,5}",
            text in "(\r\n|no field\r\n|: \r\n)([A-C]: x\r\n|Subject: x\r\n|X-Spam-Flag: NO\r\n|\r\n){0,5}",
        ) {
            let out = rewritten(&format!("{head}{text}"));
            proptest::prop_assert!(out.ends_with(&text), "{}", out);
        }
    }
}
