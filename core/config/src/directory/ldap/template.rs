//! Filters as people write them (RFC 4515), with places for what is looked up.
//!
//! A template is read into a tree once, when the configuration is. Values are put into the tree's
//! leaves as bytes, so there is nothing to escape and nothing that a stranger could break out of;
//! text that is put together and read again was refused for that reason.

use mpp_wire::ldap::{Filter, Part};

/// How deep a filter may be nested.
pub const DEPTH_MAX: usize = 16;

/// What a place in a template is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// `{address}`: the whole address, or the name of the account.
    Address,
    /// `{user}`: what stands before the last `@`.
    User,
    /// `{domain}`: what stands behind it.
    Domain,
    /// `{group}`: the group, as the configuration names it.
    Group,
    /// `{dn}`: the name of the user's entry.
    Dn,
}

impl Placeholder {
    /// All of them, as they are written.
    const ALL: [(&'static str, Self); 5] = [
        ("address", Self::Address),
        ("user", Self::User),
        ("domain", Self::Domain),
        ("group", Self::Group),
        ("dn", Self::Dn),
    ];
}

/// A piece of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Filled(Placeholder),
}

/// A filter with places to fill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    tree: Filter<Vec<Piece>>,
}

impl Template {
    /// Reads a template that may use these placeholders.
    ///
    /// # Errors
    /// It is no filter; the text says what is wrong with it.
    pub fn parse(text: &str, allowed: &[Placeholder]) -> Result<Self, String> {
        let text = text.trim();
        // As Postfix takes it: one comparison needs no parentheses.
        let whole = if text.starts_with('(') { text.to_owned() } else { format!("({text})") };
        let mut parser = Parser { rest: &whole, allowed };
        let tree = parser.filter(0)?;
        if parser.rest.is_empty() {
            return Ok(Self { text: whole, tree });
        }
        Err(format!("after the end of the filter there is {:?}", parser.rest))
    }

    /// What every entry fits, in place of a template that could not be read; a configuration with one
    /// is refused anyway.
    pub(super) fn everything() -> Self {
        let tree = Filter::Present("objectClass".into());
        Self { text: "(objectClass=*)".into(), tree }
    }

    /// The template as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The filter with these values in its places.
    pub fn fill(&self, value: impl Fn(Placeholder) -> String) -> Filter<Vec<u8>> {
        self.tree.map(&mut |pieces| {
            let mut bytes = Vec::new();
            for piece in pieces {
                match piece {
                    Piece::Text(text) => bytes.extend_from_slice(text),
                    Piece::Filled(place) => bytes.extend_from_slice(value(*place).as_bytes()),
                }
            }
            bytes
        })
    }

    /// A filter for what this could find if anything were looked up: where a value would be filled
    /// in, any value will do.
    pub fn any(&self) -> Filter<Vec<u8>> {
        any(&self.tree)
    }

    /// Whether it has a place for this.
    pub fn uses(&self, wanted: Placeholder) -> bool {
        let mut found = false;
        let _: Filter<()> = self.tree.map(&mut |pieces| {
            found |= pieces.contains(&Piece::Filled(wanted));
        });
        found
    }
}

fn is_open(pieces: &[Piece]) -> bool {
    pieces.iter().any(|piece| matches!(piece, Piece::Filled(_)))
}

fn any(tree: &Filter<Vec<Piece>>) -> Filter<Vec<u8>> {
    match tree {
        Filter::And(inner) => Filter::And(inner.iter().map(any).collect()),
        Filter::Or(inner) => Filter::Or(inner.iter().map(any).collect()),
        Filter::Equal(attribute, value)
        | Filter::AtLeast(attribute, value)
        | Filter::AtMost(attribute, value)
        | Filter::Approximate(attribute, value)
        | Filter::Extensible { attribute: Some(attribute), value, .. }
            if is_open(value) =>
        {
            Filter::Present(attribute.clone())
        }
        Filter::Substrings(attribute, pieces) if pieces.iter().any(|(_, piece)| is_open(piece)) => {
            Filter::Present(attribute.clone())
        }
        // Whatever is not to be found must not be found for any value: that cannot be said, so
        // nothing is excluded.
        Filter::Not(inner) if uses_any(inner) => Filter::Present("objectClass".into()),
        _ => tree.map(&mut |pieces| {
            let texts = pieces.iter().filter_map(|piece| match piece {
                Piece::Text(text) => Some(text.as_slice()),
                Piece::Filled(_) => None,
            });
            texts.collect::<Vec<_>>().concat()
        }),
    }
}

fn uses_any(tree: &Filter<Vec<Piece>>) -> bool {
    let mut found = false;
    let _: Filter<()> = tree.map(&mut |pieces| found |= is_open(pieces));
    found
}

struct Parser<'t> {
    rest: &'t str,
    allowed: &'t [Placeholder],
}

impl Parser<'_> {
    fn take(&mut self, wanted: char) -> bool {
        let after = self.rest.strip_prefix(wanted);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn filter(&mut self, depth: usize) -> Result<Filter<Vec<Piece>>, String> {
        if depth > DEPTH_MAX {
            return Err(format!("it is nested deeper than {DEPTH_MAX}"));
        }
        if !self.take('(') {
            return Err(if self.rest.is_empty() {
                "the filter ends too early".into()
            } else {
                format!("expected `(` before {:?}", self.rest)
            });
        }
        let filter = if self.take('&') {
            Filter::And(self.list(depth)?)
        } else if self.take('|') {
            Filter::Or(self.list(depth)?)
        } else if self.take('!') {
            self.rest = self.rest.trim_start();
            Filter::Not(Box::new(self.filter(depth + 1)?))
        } else {
            self.comparison()?
        };
        self.rest = self.rest.trim_start();
        if self.take(')') { Ok(filter) } else { Err("a `)` is missing".into()) }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Filter<Vec<Piece>>>, String> {
        let mut list = Vec::new();
        loop {
            self.rest = self.rest.trim_start();
            if self.rest.starts_with(')') || self.rest.is_empty() {
                break;
            }
            list.push(self.filter(depth + 1)?);
        }
        if list.is_empty() { Err("`&` and `|` need filters behind them".into()) } else { Ok(list) }
    }

    fn comparison(&mut self) -> Result<Filter<Vec<Piece>>, String> {
        let split = self.rest.split_once('=').filter(|(left, _)| !left.contains(['(', ')']));
        let Some((left, rest)) = split else {
            return Err(format!("expected `attribute=value` in {:?}", self.rest));
        };
        self.rest = rest;
        let named = |name: &str| name_of(name).map(str::to_owned);
        if let Some(left) = left.strip_suffix(':') {
            let mut parts = left.split(':');
            let attribute = parts.next().filter(|name| !name.is_empty()).map(named).transpose()?;
            let mut parts = parts.peekable();
            let name_counts = parts.next_if(|part| part.eq_ignore_ascii_case("dn")).is_some();
            let rule = parts.next().map(named).transpose()?;
            if parts.next().is_some() || (attribute.is_none() && rule.is_none()) {
                return Err(format!("`{left}:=` is no matching rule"));
            }
            let value = self.single()?;
            return Ok(Filter::Extensible { rule, attribute, name_counts, value });
        }
        if let Some(left) = left.strip_suffix('~') {
            return Ok(Filter::Approximate(named(left)?, self.single()?));
        }
        if let Some(left) = left.strip_suffix('>') {
            return Ok(Filter::AtLeast(named(left)?, self.single()?));
        }
        if let Some(left) = left.strip_suffix('<') {
            return Ok(Filter::AtMost(named(left)?, self.single()?));
        }
        Ok(equality(named(left)?, self.values()?))
    }

    /// A value without a star.
    fn single(&mut self) -> Result<Vec<Piece>, String> {
        let mut values = self.values()?;
        match (values.pop(), values.is_empty()) {
            (Some(value), true) => Ok(value),
            _ => Err("a `*` has no meaning here; for the character itself write `\\2a`".into()),
        }
    }

    /// What stands between the stars of a value, up to its end.
    fn values(&mut self) -> Result<Vec<Vec<Piece>>, String> {
        let (mut values, mut value, mut text) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let mut characters = self.rest.chars();
            let Some(character) = characters.next() else { return Err("a `)` is missing".into()) };
            if character == '(' {
                return Err("a `(` in a value is written `\\28`".into());
            }
            let is_end = matches!(character, ')' | '*' | '{');
            if is_end && !text.is_empty() {
                value.push(Piece::Text(std::mem::take(&mut text)));
            }
            match character {
                ')' => {
                    values.push(value);
                    return Ok(values);
                }
                '*' => values.push(std::mem::take(&mut value)),
                '{' => {
                    value.push(Piece::Filled(self.placeholder()?));
                    continue;
                }
                '\\' => {
                    let digits = characters.as_str().get(..2);
                    let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                    text.push(byte.ok_or("after `\\` two hexadecimal digits are needed")?);
                    self.rest = characters.as_str().get(2..).unwrap_or_default();
                    continue;
                }
                other => text.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
            self.rest = characters.as_str();
        }
    }

    fn placeholder(&mut self) -> Result<Placeholder, String> {
        let inside = self.rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let Some((name, rest)) = inside else {
            return Err("a `}` is missing; for the character `{` itself write `\\7b`".into());
        };
        self.rest = rest;
        let found = Placeholder::ALL.iter().find(|(known, _)| *known == name);
        if let Some((_, place)) = found.filter(|(_, place)| self.allowed.contains(place)) {
            return Ok(*place);
        }
        let allowed = Placeholder::ALL.iter().filter(|(_, place)| self.allowed.contains(place));
        let known: Vec<String> = allowed.map(|(name, _)| format!("{{{name}}}")).collect();
        Err(format!("`{{{name}}}` is none of {}", known.join(", ")))
    }
}

fn name_of(name: &str) -> Result<&str, String> {
    let name = name.trim();
    let is_name = name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ';' | '_'));
    if is_name { Ok(name) } else { Err(format!("`{name}` is no name of an attribute")) }
}

fn equality(attribute: String, mut values: Vec<Vec<Piece>>) -> Filter<Vec<Piece>> {
    if let (1, Some(value)) = (values.len(), values.last_mut()) {
        return Filter::Equal(attribute, std::mem::take(value));
    }
    if values.iter().all(Vec::is_empty) {
        return Filter::Present(attribute);
    }
    let end = values.len() - 1;
    let pieces = values.into_iter().enumerate().filter(|(_, value)| !value.is_empty());
    let pieces = pieces.map(|(number, value)| match number {
        0 => (Part::Initial, value),
        number if number == end => (Part::Final, value),
        _ => (Part::Any, value),
    });
    Filter::Substrings(attribute, pieces.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACES: [Placeholder; 3] = [Placeholder::Address, Placeholder::User, Placeholder::Domain];

    fn filled(template: &str, value: &str) -> Filter<Vec<u8>> {
        Template::parse(template, &PLACES).unwrap().fill(|_| value.to_owned())
    }

    fn mistake(template: &str) -> String {
        Template::parse(template, &PLACES).unwrap_err()
    }

    #[test]
    fn all_forms_are_read() {
        let equal = |name: &str, value: &[u8]| Filter::Equal(name.into(), value.to_vec());
        assert_eq!(filled("mail={address}", "a@b"), equal("mail", b"a@b"));
        assert_eq!(filled("(a=smtp:{user}\\2a\\00)", "x"), equal("a", b"smtp:x*\0"));
        assert_eq!(filled("(a=*)", ""), Filter::Present("a".into()));
        assert_eq!(
            filled("(& (a>=1) (|(b<=2)(c~=3)) (!(d=4)) )", ""),
            Filter::And(vec![
                Filter::AtLeast("a".into(), b"1".to_vec()),
                Filter::Or(vec![
                    Filter::AtMost("b".into(), b"2".to_vec()),
                    Filter::Approximate("c".into(), b"3".to_vec()),
                ]),
                Filter::Not(Box::new(equal("d", b"4"))),
            ])
        );
        assert_eq!(
            filled("(m=a*b*{domain})", "c"),
            Filter::Substrings(
                "m".into(),
                vec![
                    (Part::Initial, b"a".to_vec()),
                    (Part::Any, b"b".to_vec()),
                    (Part::Final, b"c".to_vec()),
                ]
            )
        );
        let rule = |rule: Option<&str>, attribute: Option<&str>, name_counts| Filter::Extensible {
            rule: rule.map(Into::into),
            attribute: attribute.map(Into::into),
            name_counts,
            value: b"2".to_vec(),
        };
        assert_eq!(filled("(u:1.2.3:=2)", ""), rule(Some("1.2.3"), Some("u"), false));
        assert_eq!(filled("(:dn:x:=2)", ""), rule(Some("x"), None, true));
        assert_eq!(filled("(u:=2)", ""), rule(None, Some("u"), false));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(mistake("(mail={addres})"), "`{addres}` is none of {address}, {user}, {domain}");
        assert_eq!(mistake("(m={dn})"), "`{dn}` is none of {address}, {user}, {domain}");
        assert_eq!(mistake("(mail={address}"), "a `)` is missing");
        assert_eq!(mistake("(&(a=b)"), "a `)` is missing");
        assert_eq!(mistake("(a=b))"), "after the end of the filter there is \")\"");
        assert_eq!(mistake("(a=(b))"), "a `(` in a value is written `\\28`");
        assert_eq!(mistake("(a=\\zz)"), "after `\\` two hexadecimal digits are needed");
        assert_eq!(mistake("(&)"), "`&` and `|` need filters behind them");
        assert_eq!(mistake("(mail)"), "expected `attribute=value` in \"mail)\"");
        assert_eq!(mistake("({user}=x)"), "`{user}` is no name of an attribute");
        assert_eq!(mistake(""), "expected `attribute=value` in \")\"");
        assert!(mistake(&"(!".repeat(100)).starts_with("it is nested deeper"));
    }

    #[test]
    fn any_finds_what_could_be_found() {
        let text = "(&(objectClass=p)(|(m=smtp:{address})(m=*@{domain}))(!(c=2))(!(x={user})))";
        let present = |name: &str| Filter::Present(name.into());
        assert_eq!(
            Template::parse(text, &PLACES).unwrap().any(),
            Filter::And(vec![
                Filter::Equal("objectClass".into(), b"p".to_vec()),
                Filter::Or(vec![present("m"), present("m")]),
                Filter::Not(Box::new(Filter::Equal("c".into(), b"2".to_vec()))),
                present("objectClass"),
            ])
        );
    }

    proptest! {
        #[test]
        fn a_value_stays_one_value(value in "\\PC*|[*()\\\\\0{}&|!=\n a-zäß]*") {
            let equal = Filter::Equal("mail".into(), value.clone().into_bytes());
            let wanted = Filter::Or(vec![equal, Filter::Present("x".into())]);
            prop_assert_eq!(filled("(|(mail={address})(x=*))", &value), wanted);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[(){}*\\\\&|!=:a-fä ]*") {
            let _ = Template::parse(&text, &PLACES);
        }
    }
}
