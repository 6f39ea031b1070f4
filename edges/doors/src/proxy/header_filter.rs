//! Takes header fields out of a message while it streams through.

use mpp_engine::edits::HeaderNames;

/// A name may be so long, in bytes; a line that has no colon by then is no field, and stays.
const NAME_BYTES_MAX: usize = 1000;

/// Where in a header it stands.
#[derive(Debug, Default)]
pub(crate) struct HeaderFilter {
    at: At,
    /// What has come of a name, before it is known whose it is.
    name: Vec<u8>,
    /// Whether the field under way is left out; its folded lines go with it.
    is_dropped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    LineStart,
    Name,
    Value,
    Body,
}

impl HeaderFilter {
    /// Leaves out the fields of these names. What cannot be told yet is kept back: at most
    /// [`NAME_BYTES_MAX`] bytes.
    pub(crate) fn pass(&mut self, text: &mut Vec<u8>, names: &HeaderNames) {
        if self.at == At::Body || names.is_empty() {
            return;
        }
        let whole = std::mem::take(text);
        let mut rest = &*whole;
        while let Some(first) = rest.first().copied() {
            let end_of_line = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            let taken = match self.at {
                At::Body => rest.len(),
                At::LineStart => {
                    self.at = if matches!(first, b' ' | b'\t') { At::Value } else { At::Name };
                    continue;
                }
                At::Value => end_of_line,
                At::Name => {
                    let line = rest.get(..end_of_line).unwrap_or(rest);
                    let end = memchr::memchr(b':', line).map_or(line.len(), |at| at + 1);
                    let room = NAME_BYTES_MAX.saturating_sub(self.name.len());
                    self.take_name(line.get(..end.min(room)).unwrap_or_default(), names, text);
                    rest = rest.get(end.min(room)..).unwrap_or_default();
                    continue;
                }
            };
            let part = rest.get(..taken).unwrap_or(rest);
            if self.at == At::Body || !self.is_dropped {
                text.extend_from_slice(part);
            }
            if self.at == At::Value && part.ends_with(b"\n") {
                self.at = At::LineStart;
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
    }

    /// A part of a name, or of what looks like one.
    fn take_name(&mut self, part: &[u8], names: &HeaderNames, text: &mut Vec<u8>) {
        self.name.extend_from_slice(part);
        let (is_named, is_line) = (self.name.ends_with(b":"), self.name.ends_with(b"\n"));
        if !is_named && !is_line && self.name.len() < NAME_BYTES_MAX {
            return;
        }
        let name = self.name.strip_suffix(b":").unwrap_or_default().trim_ascii_end();
        self.is_dropped = is_named && names.contains(name);
        self.at = match (&*self.name, is_line) {
            (b"\r\n", _) => At::Body,
            (_, true) => At::LineStart,
            (_, false) => At::Value,
        };
        if !self.is_dropped {
            text.extend_from_slice(&self.name);
        }
        self.name.clear();
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
        let text = format!(
            "x-spam-flag : YES\r\n\tfolded\r\nSubject: a\r\n b\r\nBCC:c\r\n{long}no field\r\n\r\n\
             X-Spam-Flag: NO\r\n"
        );
        let wanted = format!("Subject: a\r\n b\r\n{long}no field\r\n\r\nX-Spam-Flag: NO\r\n");
        for piece in (1..40).chain([text.len()]) {
            let mut filter = HeaderFilter::default();
            let mut out = Vec::new();
            for bytes in text.as_bytes().chunks(piece) {
                let mut bytes = bytes.to_vec();
                filter.pass(&mut bytes, &names);
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
