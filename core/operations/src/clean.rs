//! Text of strangers as people may see it on a terminal.

/// A text without what would move a cursor, turn the direction of writing, begin a line or hide.
pub fn line(text: &str) -> String {
    text.chars().map(|letter| if is_unsafe(letter) { '\u{fffd}' } else { letter }).collect()
}

/// The same of a text of several lines: line ends and tabs stay.
pub fn lines(text: &str) -> String {
    let is_fine = |letter: char| letter == '\n' || letter == '\t' || !is_unsafe(letter);
    text.chars().map(|letter| if is_fine(letter) { letter } else { '\u{fffd}' }).collect()
}

/// C0, DEL, C1, marks of direction, separators of lines and what is invisible.
fn is_unsafe(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        let bad = (0..0x20).chain(0x7f..0xa0).chain(0x202a..0x202f).chain(0x2066..0x206a);
        for code in bad.chain([0x2028, 0x2029, 0x200e, 0x200f, 0x61c, 0xfeff, 0xe0041]) {
            let letter = char::from_u32(code).unwrap();
            assert_eq!(line(&format!("a{letter}b")), "a\u{fffd}b", "U+{code:04X}");
        }
        for text in ["Grüße, 世界", "a b", "مرحبا", "", "\u{fffd}"] {
            assert_eq!(line(text), text);
        }
        assert_eq!(lines("a\n\tb\r\x1b[m"), "a\n\tb\u{fffd}\u{fffd}[m");
    }
}
