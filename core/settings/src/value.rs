//! The TOML tree as owned values that know where they stood.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Place};

/// A value and its place.
#[derive(Clone)]
pub struct Value {
    /// Where it stands.
    pub place: Place,
    /// What it is.
    pub kind: Kind,
}

/// What a value can be.
#[derive(Clone)]
pub enum Kind {
    /// A string.
    Text(String),
    /// A whole number.
    Whole(i64),
    /// Any other number.
    Fraction(f64),
    /// true or false.
    Flag(bool),
    /// A list.
    List(Vec<Value>),
    /// A table.
    Table(Table),
    /// A date, which no setting takes.
    Date,
}

/// A table and the places of its keys.
#[derive(Clone, Debug)]
pub struct Table {
    /// Where its head stands.
    pub place: Place,
    /// Its entries: the place of the key, and the value.
    pub entries: BTreeMap<String, (Place, Value)>,
}

/// A file that a configuration was read from.
#[derive(Clone)]
pub struct File {
    /// Its name as given.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// A parsed configuration file; with mistakes in its form it holds what could be read.
#[derive(Clone, Debug)]
pub struct Document {
    /// The whole as one table.
    pub root: Table,
    /// The file, as number 0.
    pub files: Vec<File>,
    /// Mistakes in the form of the text.
    pub mistakes: Vec<Diagnostic>,
}

impl Document {
    /// Parses a text.
    pub fn parse(name: &str, text: &str) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mistakes = errors
            .into_iter()
            .map(|error| {
                let span = error.span().unwrap_or(0..0);
                Diagnostic::error(place(span), format!("this is not TOML: {}", error.message()))
            })
            .collect();
        let root = read_table(table.span(), table.get_ref());
        let file = File { name: name.to_owned(), text: text.to_owned() };
        Self { root, files: vec![file], mistakes }
    }
}

fn place(span: Range<usize>) -> Place {
    Place { file: 0, span }
}

fn read_table(span: Range<usize>, table: &DeTable<'_>) -> Table {
    let entries = table
        .iter()
        .map(|(key, value)| (key.get_ref().to_string(), (place(key.span()), read_value(value))))
        .collect();
    Table { place: place(span), entries }
}

fn read_value(value: &Spanned<DeValue<'_>>) -> Value {
    let kind = match value.get_ref() {
        DeValue::String(text) => Kind::Text(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(&number.as_str().replace('_', ""), number.radix())
                .map_or(Kind::Fraction(f64::INFINITY), Kind::Whole)
        }
        DeValue::Float(number) => {
            Kind::Fraction(number.as_str().replace('_', "").parse().unwrap_or(f64::NAN))
        }
        DeValue::Boolean(flag) => Kind::Flag(*flag),
        DeValue::Datetime(_) => Kind::Date,
        DeValue::Array(list) => Kind::List(list.iter().map(read_value).collect()),
        DeValue::Table(table) => Kind::Table(read_table(value.span(), table)),
    };
    Value { place: place(value.span()), kind }
}

// Any of them may be a password: none is ever printed by accident.

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {:?}", self.described(), self.place)
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.described())
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Kind {
    fn described(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Whole(_) => "a whole number",
            Self::Fraction(_) => "a number",
            Self::Flag(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Date => "a date",
        }
    }
}

impl Value {
    /// What it is, for a message.
    pub fn described(&self) -> &'static str {
        self.kind.described()
    }
}
