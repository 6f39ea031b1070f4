//! What a file of texts may hold: UTF-8 without control characters. Anything else in a list is an
//! entry that looks right and never matches, which nobody would find.

/// What is wrong with a piece of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The whole is in another encoding.
    #[error("this is UTF-16: save it as UTF-8")]
    Utf16,
    /// Bytes that are no letter; they were replaced when the file was read.
    #[error("this is not UTF-8")]
    NotUtf8,
    /// A byte order mark anywhere but at the beginning.
    #[error("a byte order mark in the middle of a text: U+FEFF")]
    ByteOrderMark,
    /// A character that nobody sees.
    #[error("a control character: U+{0:04X}")]
    Control(u32),
}

/// The text of a file. What is no UTF-8 becomes U+FFFD, which [`fault`] finds; a byte order mark at
/// the beginning is no part of it.
pub fn decode(bytes: &[u8]) -> String {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether a text that was read as UTF-8 is UTF-16: every other byte of what people write is NUL then.
pub fn is_utf16(text: &str) -> bool {
    let head: Vec<char> = text.chars().take(64).collect();
    let nuls = head.iter().filter(|letter| **letter == '\0').count();
    let has_mark = head.starts_with(&[char::REPLACEMENT_CHARACTER; 2]);
    nuls > 0 && (has_mark || nuls * 3 >= head.len())
}

/// The first fault of a line, with the byte at which it stands.
pub fn fault(line: &str) -> Option<(usize, Fault)> {
    line.char_indices().find_map(|(at, letter)| {
        let fault = match letter {
            char::REPLACEMENT_CHARACTER => Fault::NotUtf8,
            '\u{feff}' => Fault::ByteOrderMark,
            '\t' => return None,
            letter if letter.is_control() => Fault::Control(letter.into()),
            _ => return None,
        };
        Some((at, fault))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_skipped_at_the_beginning_only() {
        assert_eq!(decode(b"\xef\xbb\xbfbob@example.org\n"), "bob@example.org\n");
        let twice = decode(b"\xef\xbb\xbf\xef\xbb\xbfbob@example.org");
        assert_eq!(fault(&twice), Some((0, Fault::ByteOrderMark)));
    }

    #[test]
    fn what_is_no_text_is_found_with_its_place() {
        for (bytes, found) in [
            (&b"bob@example.org"[..], None),
            ("jörg@bücher.example\t# Käse".as_bytes(), None),
            (b"j\xf6rg@example.org", Some((1, Fault::NotUtf8))),
            (b"bob@example.org\0", Some((15, Fault::Control(0)))),
            (b"bob\x1b@example.org", Some((3, Fault::Control(0x1b)))),
            (b"bob\x7f", Some((3, Fault::Control(0x7f)))),
            ("bob\u{85}".as_bytes(), Some((3, Fault::Control(0x85)))),
            ("b\u{fffd}b".as_bytes(), Some((1, Fault::NotUtf8))),
        ] {
            assert_eq!(fault(&decode(bytes)), found, "{bytes:?}");
        }
    }

    #[test]
    fn utf16_is_told_from_utf8_with_and_without_a_mark() {
        let text = "example.org\r\nexample.net\r\n";
        let wide =
            |order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<_>>();
        for bytes in [wide(u16::to_le_bytes), wide(u16::to_be_bytes)] {
            assert!(is_utf16(&decode(&bytes)));
        }
        let marked: Vec<u8> = [0xff, 0xfe].into_iter().chain(wide(u16::to_le_bytes)).collect();
        assert!(is_utf16(&decode(&marked)));
        assert!(!is_utf16(text) && !is_utf16("") && !is_utf16("bob@example.org\0\n"));
    }
}
