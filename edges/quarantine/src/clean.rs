//! Texts of strangers, made fit for a terminal, a page and an index.

/// Letters that change how others are shown, or that a terminal could take for a command.
fn is_plain(letter: char) -> bool {
    !letter.is_control()
        && !matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// One line of at most so many letters.
pub(crate) fn line(text: &str, most: usize) -> String {
    let mut out = String::new();
    let mut count = 0;
    for word in text.split(|letter: char| letter.is_whitespace() || letter.is_control()) {
        let letters = word.chars().filter(|letter| is_plain(*letter));
        let is_gap = count > 0 && !word.is_empty();
        for letter in is_gap.then_some(' ').into_iter().chain(letters) {
            if count == most {
                out.push('…');
                return out;
            }
            out.push(letter);
            count += 1;
        }
    }
    out
}

/// Several lines of at most so many letters in all, and whether there was more.
pub(crate) fn lines(text: &str, most: usize) -> (String, bool) {
    let mut out = String::new();
    let mut empty = 0;
    for (count, letter) in text.chars().enumerate() {
        if count == most {
            return (out, true);
        }
        match letter {
            '\n' => {
                empty += 1;
                if empty <= 2 {
                    out.push('\n');
                }
            }
            '\t' => out.push(' '),
            letter if is_plain(letter) => {
                empty = 0;
                out.push(letter);
            }
            _ => {}
        }
    }
    (out, false)
}

/// The words of a text, as they are searched for.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> {
    let parts = text.split(|letter: char| !letter.is_alphanumeric());
    parts.filter(|word| !word.is_empty()).map(str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_that_a_terminal_takes_for_a_command() {
        assert_eq!(line("a\u{1b}[31m\r\n  b\u{9b}c\u{202e}d\0", 50), "a [31m b cd");
        assert_eq!(line("abcdef", 3), "abc…");
        assert_eq!(lines("a\r\n\n\n\n\nb\u{7}\tc", 50), ("a\n\nb c".into(), false));
        assert_eq!(lines("abc", 2), ("ab".into(), true));
        let found: Vec<String> = words("Re: [x] Größe-2 \"OR\" *").collect();
        assert_eq!(found, ["re", "x", "größe", "2", "or"]);
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_harmless_and_short(text in "\\PC*|[\\x00-\\x20a]{0,40}", most in 0_usize..20) {
            let one = line(&text, most);
            proptest::prop_assert!(one.chars().count() <= most + 1);
            proptest::prop_assert!(one.chars().all(is_plain));
            let (many, _) = lines(&text, most);
            proptest::prop_assert!(many.chars().count() <= most);
            proptest::prop_assert!(many.chars().all(|letter| letter == '\n' || is_plain(letter)));
        }
    }
}
