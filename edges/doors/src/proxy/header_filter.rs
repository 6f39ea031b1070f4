//! Takes header fields out of a message while it streams through.

use mpp_engine::edits::HeaderNames;
use mpp_wire::header::{Line, Lines};

/// Where in a header it stands.
#[derive(Debug, Default)]
pub(crate) struct HeaderFilter {
    at: At,
    lines: Lines,
    /// What has come of a line, before it is known what it is.
    begun: Vec<u8>,
    /// Whether the field under way is left out; its folded lines go with it.
    is_dropped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    LineStart,
    /// Behind what tells the line apart.
    Line,
    Text,
}

impl HeaderFilter {
    /// Leaves out the fields of these names. What cannot be told yet is kept back: at most
    /// [`mpp_wire::header::NAME_BYTES_MAX`] bytes.
    pub(crate) fn pass(&mut self, text: &mut Vec<u8>, names: &HeaderNames) {
        if self.at == At::Text || names.is_empty() {
            return;
        }
        let whole = std::mem::take(text);
        let mut rest = &*whole;
        while !rest.is_empty() {
            let end_of_line = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            let taken = if self.at == At::Text { rest.len() } else { end_of_line };
            let (part, behind) = rest.split_at_checked(taken).unwrap_or((rest, b""));
            rest = behind;
            if self.at == At::LineStart {
                self.begin_line(part, names, text);
            } else if self.at == At::Text || !self.is_dropped {
                text.extend_from_slice(part);
            }
            if self.at == At::Line && part.ends_with(b"\n") {
                self.at = At::LineStart;
            }
        }
    }

    /// A part of a line of which nobody knows yet what it is.
    fn begin_line(&mut self, part: &[u8], names: &HeaderNames, text: &mut Vec<u8>) {
        self.begun.extend_from_slice(part);
        let Some(told) = self.lines.tell(&self.begun) else { return };
        self.at = At::Line;
        match told {
            Line::Field { name, .. } => {
                self.is_dropped = self.begun.get(..name).is_some_and(|name| names.contains(name));
            }
            Line::Fold => {}
            Line::Mailbox => self.is_dropped = false,
            Line::Empty | Line::Text => (self.at, self.is_dropped) = (At::Text, false),
        }
        if !self.is_dropped {
            text.extend_from_slice(&self.begun);
        }
        self.begun = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> HeaderNames {
        let list: Vec<String> = list.iter().map(|name| format!("{name:?}")).collect();
        let text = format!("[policy.default.message]\nremove_headers = [{}]\n", list.join(","));
        let read = mpp_config::compile("x", &text, &std::collections::BTreeMap::new(), 1);
        read.configuration.unwrap().policies.needs().removed.clone()
    }

    #[test]
    fn fields_are_left_out_in_pieces_as_in_one() {
        let names = names(&["X-Spam-*", "Bcc"]);
        let long = format!("{}\r\n", "l".repeat(3000));
        // The header ends where a mail server ends it; what is text stays.
        for text in ["\r\nX-Spam-Flag: NO\r\n", &format!("{long}BCC: d\r\n"), " x\r\nBcc: y\r\n"] {
            let is_text = text.starts_with(' ');
            let head = "x-spam-flag : YES\r\n\tfolded\r\nSubject: a\r\n b\r\nBCC:c\r\n";
            let head = if is_text { "" } else { head };
            let kept = if is_text { "" } else { "Subject: a\r\n b\r\n" };
            left_out(&names, &format!("{head}{text}"), &format!("{kept}{text}"));
        }
        left_out(&names, "From a@b\r\nBcc: c\r\n", "From a@b\r\n");
        left_out(&names, "A: b\r\nFrom a@b\r\nBcc: c\r\n", "A: b\r\nFrom a@b\r\nBcc: c\r\n");
    }

    fn left_out(names: &HeaderNames, text: &str, wanted: &str) {
        for piece in (1..40).chain([text.len()]) {
            let mut filter = HeaderFilter::default();
            let mut out = Vec::new();
            for bytes in text.as_bytes().chunks(piece) {
                let mut bytes = bytes.to_vec();
                filter.pass(&mut bytes, names);
                out.extend(bytes);
            }
            assert_eq!(String::from_utf8(out).unwrap(), wanted, "in pieces of {piece}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_else_is_changed(text in "([A-Za-z: \t.]{0,8}(\r\n)?){0,30}", piece in 1_usize..9) {
            let names = names(&["Never-There"]);
            let whole = format!("{text}\r\n");
            let mut filter = HeaderFilter::default();
            let mut out = Vec::new();
            for bytes in whole.as_bytes().chunks(piece) {
                let mut bytes = bytes.to_vec();
                filter.pass(&mut bytes, &names);
                out.extend(bytes);
            }
            proptest::prop_assert_eq!(String::from_utf8(out).unwrap(), whole);
        }
    }
}
