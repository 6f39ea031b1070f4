//! The header of a message that was scanned, as it is delivered: fields of strangers that look like
//! ours are taken out, ours are put in, and the subject is marked. The rest stays byte for byte.

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
    /// The beginning of a message with its header rewritten.
    pub(crate) fn of(&self, head: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(head.len() + self.before.len() + 64);
        out.extend_from_slice(self.before.as_bytes());
        let mut rest = head;
        let mut has_subject = false;
        while let Some(field) = next_field(rest) {
            rest = rest.get(field.len()..).unwrap_or_default();
            let name = name_of(field);
            if name.eq_ignore_ascii_case(b"subject") && !self.mark.is_empty() && !has_subject {
                has_subject = true;
                self.push_marked(field, &mut out);
            } else if !self.is_removed(name, field) {
                out.extend_from_slice(field);
            }
        }
        let is_header_over = rest.starts_with(b"\r\n") || rest.is_empty();
        if !has_subject && !self.mark.is_empty() && is_header_over {
            out.extend_from_slice(b"Subject: ");
            out.extend_from_slice(self.mark.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(rest);
        out
    }

    fn is_removed(&self, name: &[u8], field: &[u8]) -> bool {
        if name.is_empty() {
            return false;
        }
        let is_ours = OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours.as_bytes()));
        let is_forged = name.eq_ignore_ascii_case(b"authentication-results")
            && !self.host.is_empty()
            && authserv_id(field).is_some_and(|id| id.eq_ignore_ascii_case(self.host));
        is_ours || is_forged || self.removed.is_some_and(|names| names.contains(name))
    }

    fn push_marked(&self, field: &[u8], out: &mut Vec<u8>) {
        let end = field.iter().position(|byte| *byte == b':').map_or(field.len(), |at| at + 1);
        let (name, value) = field.split_at_checked(end).unwrap_or((field, b""));
        out.extend_from_slice(name);
        out.push(b' ');
        // It may come back to us, marked.
        if !value.trim_ascii_start().starts_with(self.mark.as_bytes()) {
            out.extend_from_slice(self.mark.as_bytes());
            if !value.trim_ascii().is_empty() {
                out.push(b' ');
            }
        }
        let value = value.strip_prefix(b" ").unwrap_or(value);
        out.extend_from_slice(value);
    }
}

/// The next field with its folded lines; nothing at the end of the header, and at the end of what
/// was read of it.
fn next_field(rest: &[u8]) -> Option<&[u8]> {
    if rest.starts_with(b"\r\n") || rest.is_empty() {
        return None;
    }
    let mut end = 0;
    loop {
        let line = rest.get(end..)?;
        let length = memchr::memchr(b'\n', line)? + 1;
        end += length;
        match rest.get(end) {
            Some(b' ' | b'\t') => {}
            // Whether it goes on cannot be told.
            None => return (end == rest.len() && rest.ends_with(b"\r\n")).then_some(rest),
            Some(_) => return rest.get(..end),
        }
    }
}

/// The value of the first field of a name.
pub(crate) fn field<'h>(head: &'h [u8], name: &str) -> Option<&'h [u8]> {
    let mut rest = head;
    while let Some(field) = next_field(rest) {
        rest = rest.get(field.len()..).unwrap_or_default();
        if name_of(field).eq_ignore_ascii_case(name.as_bytes()) {
            let end = field.iter().position(|byte| *byte == b':')?;
            return field.get(end + 1..);
        }
    }
    None
}

fn name_of(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == b':');
    end.and_then(|end| field.get(..end)).unwrap_or_default().trim_ascii_end()
}

/// Who says what an `Authentication-Results` field says.
fn authserv_id(field: &[u8]) -> Option<&str> {
    let value = std::str::from_utf8(field).ok()?.split_once(':')?.1;
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
            Authentication-Results: other.example; spf=pass\r\nno field\r\n\r\nX-Spam-Flag: NO\r\n";
        assert_eq!(
            rewritten(head),
            "X-Spam-Flag: YES\r\nReceived: a\r\n\tb\r\nSubject: [SPAM]  hello\r\n\
             Authentication-Results: other.example; spf=pass\r\nno field\r\n\r\nX-Spam-Flag: NO\r\n"
        );
    }

    #[test]
    fn a_subject_is_marked_once_and_made_where_there_is_none() {
        for (head, wanted) in [
            ("Subject: [SPAM] x\r\n\r\n", "Subject: [SPAM] x\r\n\r\n"),
            ("Subject:\r\n\r\nx", "Subject: [SPAM]\r\n\r\nx"),
            ("Subject: a\r\n b\r\n\r\n", "Subject: [SPAM] a\r\n b\r\n\r\n"),
            ("From: a\r\n\r\nx", "From: a\r\nSubject: [SPAM]\r\n\r\nx"),
            ("\r\nno header", "Subject: [SPAM]\r\n\r\nno header"),
            ("", "Subject: [SPAM]\r\n"),
            ("From: a\r\nSubject: cut o", "From: a\r\nSubject: cut o"),
        ] {
            assert_eq!(rewritten(head), format!("X-Spam-Flag: YES\r\n{wanted}"), "{head:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost_of_what_is_none_of_ours(head in "([A-Za-z: \\t.]{0,8}(\\r\\n)?){0,20}") {
            let rewrite = Rewrite::default();
            proptest::prop_assert_eq!(String::from_utf8(rewrite.of(head.as_bytes())).unwrap(), head);
        }
    }
}
