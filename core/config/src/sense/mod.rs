//! What a configuration can never do, although each of its settings is fine: pairs that do not fit.
//!
//! What would lose mail, refuse it to everybody or let it pass unscanned is an error, all else a
//! warning.

mod doors;
mod everybody;
mod loops;

use mpp_settings::diagnostic::Place;
use mpp_settings::{Diagnostic, Kind, Session, Table, Value};

use crate::schema::Configuration;

/// Reports all of it.
pub(crate) fn look(root: &Table, configuration: &Configuration, session: &Session) {
    let tree = Tree { root, session };
    let problems = doors::look(tree, configuration)
        .into_iter()
        .chain(loops::look(tree, configuration))
        .chain(everybody::look(tree));
    problems.for_each(|problem| session.report(problem));
}

/// The settings as they were written, found by their paths.
#[derive(Clone, Copy)]
struct Tree<'t> {
    root: &'t Table,
    session: &'t Session,
}

impl<'t> Tree<'t> {
    /// The place of the key of a setting, and its value.
    fn find(self, path: &[&str]) -> Option<(&'t Place, &'t Value)> {
        let (last, tables) = path.split_last()?;
        let mut table = self.root;
        for name in tables {
            match &table.entries.get(*name)?.1.kind {
                Kind::Table(below) => table = below,
                _ => return None,
            }
        }
        table.entries.get(*last).map(|(place, value)| (place, value))
    }

    /// The place of a setting, or of the nearest table above that was written.
    fn place(self, path: &[&str]) -> Place {
        let above = (1..=path.len()).rev().filter_map(|length| path.get(..length));
        let mut found = above.filter_map(|path| self.find(path));
        found.next().map_or_else(|| self.root.place.clone(), |(place, _)| place.clone())
    }

    /// The names of the tables of a section.
    fn names(self, section: &str) -> Vec<&'t str> {
        match self.find(&[section]).map(|(_, value)| &value.kind) {
            Some(Kind::Table(table)) => table.entries.keys().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// A number of a setting.
    fn number(self, path: &[&str]) -> Option<f64> {
        match self.find(path)?.1.kind {
            #[allow(clippy::cast_precision_loss, reason = "settings are small numbers")]
            Kind::Whole(number) => Some(number as f64),
            Kind::Fraction(number) => Some(number),
            _ => None,
        }
    }

    /// The texts of a list and of the files that it names, each with its place.
    fn texts(self, path: &[&str]) -> Vec<(String, Place)> {
        let Some((_, value)) = self.find(path) else { return Vec::new() };
        let single = std::slice::from_ref(value);
        let all = if let Kind::List(list) = &value.kind { list.as_slice() } else { single };
        all.iter()
            .flat_map(|value| match &value.kind {
                Kind::Text(text) => match text.strip_prefix("file:") {
                    Some(file) => self.session.lines(file),
                    None => vec![(text.clone(), value.place.clone())],
                },
                _ => Vec::new(),
            })
            .collect()
    }
}

fn error(place: Place, message: impl Into<String>, help: &str) -> Diagnostic {
    Diagnostic::error(place, message).help(help)
}

fn warning(place: Place, message: impl Into<String>, help: &str) -> Diagnostic {
    Diagnostic::warning(place, message).help(help)
}
