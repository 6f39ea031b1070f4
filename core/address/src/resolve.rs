//! An address as Postfix takes it from what a client wrote, with its defaults: RFC 822 with all that
//! its parser forgives. A port of the rules (`tok822_parse`, `extract_addr` in smtpd), not of code.
//!
//! The text is cut into words and signs; comments go. Then, from the right, what belongs together is
//! found: what stands within `<` and `>` is an address and what stands before the `<` is a phrase; a
//! comma, or two words without a sign between them, divide addresses.

use crate::path::NoPath;

/// Signs of their own (RFC 822 section 3.3, and those of other worlds that Postfix knows).
const SIGNS: &str = "|%!<>()@,;:\\\".[]";

#[derive(Debug, PartialEq, Eq)]
enum Token {
    /// A word, its quotes and quoted pairs undone.
    Word(String),
    Sign(char),
}

/// The address in what a client wrote, its quotes undone; empty if there is none.
///
/// # Errors
/// There is more than one.
pub(crate) fn address(text: &str) -> Result<String, NoPath> {
    let inside = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    let mut inside = inside.unwrap_or(text);
    if inside.starts_with('@')
        && let Some((_, rest)) = inside.split_once(':')
    {
        inside = rest;
    }
    let tokens = tokens(inside);
    let groups = groups(&tokens);
    let [(start, end)] = groups.as_slice() else {
        return if groups.is_empty() { Ok(String::new()) } else { Err(NoPath::Several) };
    };
    let tokens = tokens.get(*start..*end).unwrap_or_default();
    let mut address = String::with_capacity(text.len());
    for token in behind_route(tokens) {
        match token {
            Token::Word(word) => address.push_str(word),
            Token::Sign(sign) => address.push(*sign),
        }
    }
    Ok(address)
}

/// Without the source route that may stand within other brackets.
fn behind_route(tokens: &[Token]) -> &[Token] {
    let colon = tokens.iter().position(|token| *token == Token::Sign(':'));
    let rest = colon.and_then(|colon| tokens.get(colon + 1..));
    match (tokens.first(), rest) {
        (Some(Token::Sign('@')), Some(rest)) if !rest.is_empty() => rest,
        _ => tokens,
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' | '\r' | '\n' => {}
            '(' => skip_comment(&mut letters),
            '[' => {
                let inside = collect(&mut letters, |letter| letter == ']');
                letters.next();
                tokens.push(Token::Word(format!("[{inside}]")));
            }
            '"' => {
                let inside = collect(&mut letters, |letter| letter == '"');
                letters.next();
                tokens.push(Token::Word(inside));
            }
            sign if sign != '\\' && SIGNS.contains(sign) => tokens.push(Token::Sign(sign)),
            first => {
                let mut word = String::new();
                match (first, letters.peek()) {
                    ('\\', Some(_)) => word.extend(letters.next()),
                    (first, _) => word.push(first),
                }
                let is_over = |letter: char| {
                    letter.is_ascii_whitespace() || letter != '\\' && SIGNS.contains(letter)
                };
                word.push_str(&collect(&mut letters, is_over));
                tokens.push(Token::Word(word));
            }
        }
    }
    tokens
}

type Letters<'t> = std::iter::Peekable<std::str::Chars<'t>>;

/// Letters up to one that ends them, which stays; a backslash hands out what follows it.
fn collect(letters: &mut Letters<'_>, is_over: impl Fn(char) -> bool) -> String {
    let mut text = String::new();
    while let Some(letter) = letters.next_if(|letter| !is_over(*letter)) {
        match letter {
            '\\' => text.extend(letters.next()),
            letter => text.push(letter),
        }
    }
    text
}

/// Comments nest (RFC 822 section 3.3); one that does not end goes on to the end of the text.
fn skip_comment(letters: &mut Letters<'_>) {
    let mut depth = 1_usize;
    while let Some(letter) = letters.next() {
        match letter {
            '(' => depth += 1,
            ')' if depth == 1 => return,
            ')' => depth -= 1,
            '\\' => drop(letters.next()),
            _ => {}
        }
    }
}

/// Where the addresses stand among the tokens, from right to left.
fn groups(tokens: &[Token]) -> Vec<(usize, usize)> {
    let mut groups = Vec::new();
    let mut add = |start: usize, end: usize| {
        if start < end {
            groups.push((start, end));
        }
    };
    let is_sign = |place: usize, signs: &str| matches!(tokens.get(place), Some(Token::Sign(sign)) if signs.contains(*sign));
    // The tokens before `left` are to be looked at; those up to `right` belong together so far.
    let (mut left, mut right) = (tokens.len(), tokens.len());
    let (mut may_be_word, mut is_list) = (true, false);
    while let Some(place) = left.checked_sub(1) {
        match tokens.get(place) {
            Some(Token::Word(_)) => {
                if !may_be_word {
                    add(place + 1, right);
                    right = place + 1;
                }
                may_be_word = false;
            }
            Some(Token::Sign(';')) => {
                add(place + 1, right);
                right = place;
                (may_be_word, is_list) = (true, true);
            }
            Some(Token::Sign(':')) if is_list => {
                add(place + 1, right);
                // The name of a list goes up to the comma before it.
                left = place;
                while left > 0 && !is_sign(left - 1, ",") {
                    left -= 1;
                }
                right = left;
                continue;
            }
            Some(Token::Sign('>')) => {
                add(place + 1, right);
                let mut open = place;
                while open > 0 && !is_sign(open - 1, "<") {
                    open -= 1;
                }
                add(open, place);
                // The phrase before it is nobody's address.
                left = open;
                while left > 0 && !is_sign(left - 1, ">;,:") {
                    left -= 1;
                }
                right = left;
                may_be_word = true;
                continue;
            }
            Some(Token::Sign(',')) => {
                add(place + 1, right);
                right = place;
                may_be_word = true;
            }
            _ => may_be_word = true,
        }
        left = place;
    }
    add(0, right);
    groups
}
