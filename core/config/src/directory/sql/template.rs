//! Queries with placeholders. A placeholder is never replaced by text: it becomes a parameter that
//! the database gets beside the query, so that no address can be part of it.

use std::fmt::Write as _;

use mpp_settings::diagnostic::nearest;

/// What a query asks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// `{address}`: the whole address; the account's name if that is asked about.
    Address,
    /// `{user}`: what stands before the last `@`.
    User,
    /// `{domain}`: what stands behind it.
    Domain,
    /// `{catch_all}`: `@` and the domain, the way in which tables name a catch-all.
    CatchAll,
    /// `{group}`: the group, as the configuration names it.
    Group,
}

/// Their names.
pub const PLACEHOLDERS: [(&str, Placeholder); 5] = [
    ("address", Placeholder::Address),
    ("user", Placeholder::User),
    ("domain", Placeholder::Domain),
    ("catch_all", Placeholder::CatchAll),
    ("group", Placeholder::Group),
];

/// How a database counts the parameters of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// `?`, one value for each.
    Question,
    /// `$1`, `$2`: a value may be used again.
    Dollar,
    /// `?1`, `?2`: the same.
    NumberedQuestion,
}

/// A query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Placeholder),
}

/// Where in a query a character stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Plain,
    Quotes(char),
    LineComment,
    BlockComment,
}

impl Template {
    /// Reads a query.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("the query is empty".to_owned());
        }
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut within = Within::Plain;
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            let follows = rest.get(character.len_utf8()..).unwrap_or_default();
            if let Some((placeholder, behind)) = placeholder(rest, within)? {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
                pieces.push(Piece::Value(placeholder));
                rest = behind;
                continue;
            }
            within = next(within, character, follows);
            plain.push(character);
            rest = follows;
        }
        if let Within::Quotes(quote) = within {
            return Err(format!("a quote {quote} is opened and not closed"));
        }
        pieces.push(Piece::Text(plain));
        Ok(Self { text: text.to_owned(), pieces })
    }

    /// A query that finds nothing.
    pub(super) fn nothing() -> Self {
        let text = "SELECT 1 WHERE 1 = 0".to_owned();
        Self { pieces: vec![Piece::Text(text.clone())], text }
    }

    /// The query as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it asks with this.
    pub fn uses(&self, placeholder: Placeholder) -> bool {
        self.pieces.contains(&Piece::Value(placeholder))
    }

    /// The query for a database that counts parameters this way, and what to hand over for them.
    pub fn render(&self, marks: Marks) -> (String, Vec<Placeholder>) {
        let mut query = String::new();
        let mut values: Vec<Placeholder> = Vec::new();
        for piece in &self.pieces {
            let placeholder = match piece {
                Piece::Text(text) => {
                    query.push_str(text);
                    continue;
                }
                Piece::Value(placeholder) => *placeholder,
            };
            let known = values.iter().position(|value| *value == placeholder);
            match (marks, known) {
                (Marks::Question, _) | (_, None) => values.push(placeholder),
                (_, Some(_)) => {}
            }
            let number = known.map_or(values.len(), |index| index + 1);
            match marks {
                Marks::Question => query.push('?'),
                Marks::Dollar => drop(write!(query, "${number}")),
                Marks::NumberedQuestion => drop(write!(query, "?{number}")),
            }
        }
        (query, values)
    }
}

/// The placeholder that a text begins with, and what stands behind it.
fn placeholder(text: &str, within: Within) -> Result<Option<(Placeholder, &str)>, String> {
    if matches!(within, Within::LineComment | Within::BlockComment) {
        return Ok(None);
    }
    if let Some(letter) = text.strip_prefix('%').and_then(|rest| rest.chars().next()) {
        let ours = match letter {
            's' => "{address}",
            'u' => "{user}",
            'd' => "{domain}",
            _ => return Ok(None),
        };
        let is_word = text.get(2..).is_some_and(|rest| rest.starts_with(char::is_alphanumeric));
        return if is_word {
            Ok(None)
        } else {
            Err(format!("Postfix's %{letter} is written {ours} here, without quotes around it"))
        };
    }
    let Some((name, behind)) = text.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
        return Ok(None);
    };
    let found = PLACEHOLDERS.iter().find(|(known, _)| *known == name);
    match (within, found) {
        (Within::Quotes(quote), Some(_)) => Err(format!(
            "`{{{name}}}` stands inside quotes: write it without {quote}, it is handed over as a \
             parameter; texts are joined with CONCAT or ||"
        )),
        (Within::Quotes(_), None) => Ok(None),
        (_, Some((_, placeholder))) => Ok(Some((*placeholder, behind))),
        (_, None) => {
            let known = || PLACEHOLDERS.iter().map(|(known, _)| *known);
            Err(match nearest(name, known()) {
                Some(near) => {
                    format!("unknown placeholder `{{{name}}}`; did you mean `{{{near}}}`?")
                }
                None => format!(
                    "unknown placeholder `{{{name}}}`; known are {}",
                    known().map(|name| format!("{{{name}}}")).collect::<Vec<_>>().join(", ")
                ),
            })
        }
    }
}

/// Where the next character stands. A doubled quote closes and opens again, which is the same.
fn next(within: Within, character: char, follows: &str) -> Within {
    match within {
        Within::Plain => match character {
            '\'' | '"' | '`' => Within::Quotes(character),
            '-' if follows.starts_with('-') => Within::LineComment,
            '/' if follows.starts_with('*') => Within::BlockComment,
            _ => Within::Plain,
        },
        Within::Quotes(quote) if character == quote => Within::Plain,
        Within::LineComment if character == '\n' => Within::Plain,
        // The slash of `/*` cannot end it: what closes is a slash whose star came before.
        Within::BlockComment if character == '*' && follows.starts_with('/') => Within::Plain,
        same => same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_become_parameters() {
        use Placeholder::{Address, CatchAll};

        let query = "SELECT 1 FROM u WHERE a = {address} OR a = {catch_all} OR b = {address}";
        let template = Template::parse(query).unwrap();
        assert_eq!(
            template.render(Marks::Question),
            (
                "SELECT 1 FROM u WHERE a = ? OR a = ? OR b = ?".to_owned(),
                vec![Address, CatchAll, Address]
            )
        );
        assert_eq!(
            template.render(Marks::Dollar),
            (
                "SELECT 1 FROM u WHERE a = $1 OR a = $2 OR b = $1".to_owned(),
                vec![Address, CatchAll]
            )
        );
        assert_eq!(
            template.render(Marks::NumberedQuestion).0,
            "SELECT 1 FROM u WHERE a = ?1 OR a = ?2 OR b = ?1"
        );
        assert_eq!(template.text(), query);
        assert!(template.uses(CatchAll) && !template.uses(Placeholder::Group));
    }

    #[test]
    fn what_is_quoted_or_a_comment_stays() {
        for query in [
            "SELECT '{\"a\": 1}' -- {whatever} it's",
            "SELECT 'it''s {x}'",
            "/* '{address}' */ SELECT 1",
            "SELECT `{odd}`, \"{odd}\" FROM t WHERE x LIKE 'a%'",
            "SELECT 7 %salt",
        ] {
            let template = Template::parse(query).unwrap();
            assert_eq!(template.render(Marks::Dollar), (query.to_owned(), Vec::new()));
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (query, message) in [
            ("SELECT {adress}", "did you mean `{address}`?"),
            ("SELECT {zzzzzzzz}", "known are {address}, {user}"),
            ("SELECT '{address}'", "stands inside quotes"),
            ("SELECT '@{domain}'", "stands inside quotes"),
            ("SELECT '%s'", "%s is written {address}"),
            ("SELECT x LIKE '%d'", "%d is written {domain}"),
            ("SELECT 'x", "not closed"),
            ("  ", "empty"),
        ] {
            let wrong = Template::parse(query).unwrap_err();
            assert!(wrong.contains(message), "{query}: {wrong}");
        }
    }
}
