//! Reading settings out of tables: every mistake is collected, nothing stops at the first.

mod lists;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::diagnostic::{Diagnostic, Place, Severity, nearest};
use crate::form;
use crate::secret::Secret;
use crate::value::{File, Kind, Table, Value};

/// One reading of a configuration: the files it may name, and what was found wrong so far.
#[derive(Debug, Default)]
pub struct Session {
    shared: Rc<RefCell<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    files: Vec<Rc<File>>,
    lists: BTreeMap<String, usize>,
    /// How many entries each list file has.
    entries: BTreeMap<String, usize>,
    wanted: BTreeMap<String, Place>,
    /// Where secrets are written out.
    secrets: Vec<Place>,
    diagnostics: Vec<Diagnostic>,
    effective: Vec<(String, String)>,
}

impl Session {
    /// Starts a reading of these files; number 0 is the configuration.
    pub fn new(files: Vec<File>) -> Self {
        let shared =
            Shared { files: files.into_iter().map(Rc::new).collect(), ..Shared::default() };
        Self { shared: Rc::new(RefCell::new(shared)) }
    }

    /// Hands in the text of a file that a setting names as `file:NAME`.
    pub fn give(&mut self, name: &str, mut text: String) {
        if text.starts_with('\u{feff}') {
            // What editors of Windows put before a text.
            text.remove(0);
        }
        let mut shared = self.shared.borrow_mut();
        let number = shared.files.len();
        shared.files.push(Rc::new(File { name: name.to_owned(), text }));
        shared.lists.insert(name.to_owned(), number);
    }

    /// Files that settings name and nobody has handed in, with the place that names them.
    pub fn wanted(&self) -> BTreeMap<String, Place> {
        self.shared.borrow().wanted.clone()
    }

    /// The list files that were read as lists, with the number of entries of each.
    pub fn entries(&self) -> BTreeMap<String, usize> {
        self.shared.borrow().entries.clone()
    }

    /// The entries of a list file that was handed in, with their places.
    pub fn lines(&self, name: &str) -> Vec<(String, Place)> {
        let shared = self.shared.borrow();
        let number = shared.lists.get(name).copied();
        let Some((number, file)) = number.and_then(|it| Some((it, shared.files.get(it)?))) else {
            return Vec::new();
        };
        let line = |(start, line): (usize, &str)| {
            let place = Place { file: number, span: start..start + line.len() };
            (line.trim().to_owned(), place)
        };
        lists::lines(&file.text).map(line).collect()
    }

    /// Where secrets are written out: nothing may show what stands there.
    pub fn secrets(&self) -> Vec<Place> {
        self.shared.borrow().secrets.clone()
    }

    /// A reader of the first table of `chain`; what it does not hold is looked for in the next.
    /// `path` names it in messages.
    pub fn reader<'t>(&self, path: &str, chain: Vec<&'t Table>) -> Reader<'t> {
        Reader { shared: Rc::clone(&self.shared), path: path.to_owned(), chain, asked: Vec::new() }
    }

    /// Adds a problem found outside a reader.
    pub fn report(&self, diagnostic: Diagnostic) {
        self.shared.borrow_mut().diagnostics.push(diagnostic);
    }

    /// All problems found, errors first, each kind in the order of the text.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut all = self.shared.borrow().diagnostics.clone();
        let place = |d: &Diagnostic| d.place.as_ref().map(|p| (p.file, p.span.start));
        all.sort_by_key(|problem| (problem.severity, place(problem)));
        all.dedup();
        all
    }

    /// Whether nothing worse than a warning was found.
    pub fn is_sound(&self) -> bool {
        self.shared.borrow().diagnostics.iter().all(|d| d.severity != Severity::Error)
    }

    /// Every setting that was read with the value that holds, as TOML: `path.name` and value.
    pub fn effective(&self) -> Vec<(String, String)> {
        self.shared.borrow().effective.clone()
    }

    /// Name and text of the files, by number.
    pub fn files(&self) -> Vec<Rc<File>> {
        self.shared.borrow().files.clone()
    }
}

/// Reads one table, falling back on the tables it inherits from.
#[derive(Debug)]
pub struct Reader<'t> {
    shared: Rc<RefCell<Shared>>,
    path: String,
    chain: Vec<&'t Table>,
    asked: Vec<&'static str>,
}

impl<'t> Reader<'t> {
    /// What messages call this table.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the table itself holds anything of its own.
    pub fn is_own(&self) -> bool {
        self.chain.first().is_some_and(|table| !table.entries.is_empty())
    }

    /// Whether the table itself, not one that it inherits from, holds a key.
    pub fn has_own(&mut self, name: &'static str) -> bool {
        self.value(name);
        self.chain.first().is_some_and(|table| table.entries.contains_key(name))
    }

    /// Where the table stands.
    pub fn place(&self) -> Place {
        self.chain.first().map_or(Place { file: 0, span: 0..0 }, |table| table.place.clone())
    }

    /// The value of a key, inherited if need be, with the place of the key.
    pub fn value(&mut self, name: &'static str) -> Option<(&'t Place, &'t Value)> {
        if !self.asked.contains(&name) {
            self.asked.push(name);
        }
        self.chain.iter().find_map(|table| table.entries.get(name)).map(|(at, value)| (at, value))
    }

    /// A duration in milliseconds. `default` is in the form that people write.
    pub fn duration_ms(&mut self, name: &'static str, default: &str) -> u64 {
        let read = self.form(name, "a duration such as \"1m\"", form::duration_ms);
        let value = read.unwrap_or_else(|| form::duration_ms(default).unwrap_or(0));
        self.note(name, format!("{:?}", form::duration_text(value)));
        value
    }

    /// A duration that must be longer than nothing, in milliseconds.
    pub fn period_ms(&mut self, name: &'static str, default: &str) -> u64 {
        let value = self.duration_ms(name, default);
        if value == 0 {
            self.mistake(name, "it must be longer than nothing");
        }
        value.max(1)
    }

    /// A share from 0 to 1.
    pub fn share(&mut self, name: &'static str, default: &str) -> f64 {
        let read = self.form(name, "a share such as \"30%\"", form::share);
        let value = read.unwrap_or_else(|| form::share(default).unwrap_or(0.0));
        self.note(name, format!("\"{}%\"", value * 100.0));
        value
    }

    /// A size in bytes.
    pub fn size_bytes(&mut self, name: &'static str, default: &str) -> u64 {
        let read = self.form(name, "a size such as \"25 MiB\"", form::size_bytes);
        let value = read.unwrap_or_else(|| form::size_bytes(default).unwrap_or(0));
        self.note(name, format!("{:?}", form::size_text(value)));
        value
    }

    /// A string read by `parse`, if it is there.
    pub fn form<T>(
        &mut self,
        name: &'static str,
        wanted: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (_, value) = self.value(name)?;
        let result = match &value.kind {
            Kind::Text(text) => parse(text),
            _ => Err(format!("expected {wanted}, found {}", value.described())),
        };
        result.map_err(|message| self.wrong(value, name, &message)).ok()
    }

    /// A string.
    pub fn text(&mut self, name: &'static str, default: &str) -> String {
        let read = self.form(name, "a string", |text| Ok(text.to_owned()));
        let value = read.unwrap_or_else(|| default.to_owned());
        self.note(name, format!("{value:?}"));
        value
    }

    /// One of the words of `choices`.
    pub fn choice<T: Copy>(
        &mut self,
        name: &'static str,
        default: &str,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let find = |text: &str| choices.iter().find(|(word, _)| *word == text).map(|(_, t)| *t);
        let words = || choices.iter().map(|(word, _)| *word);
        let read = self.form(name, "a word", |text| {
            find(text).map(|value| (text.to_owned(), value)).ok_or_else(|| {
                let known = words().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
                match nearest(text, words()) {
                    Some(near) => format!("`{text}` is none of {known}; did you mean `{near}`?"),
                    None => format!("`{text}` is none of {known}"),
                }
            })
        });
        let (text, value) = match read {
            Some((text, value)) => (text, Some(value)),
            None => (default.to_owned(), find(default)),
        };
        self.note(name, format!("{text:?}"));
        value
    }

    /// A whole number between `least` and `most`.
    pub fn count(&mut self, name: &'static str, default: u64, (least, most): (u64, u64)) -> u64 {
        let read = self.value(name).and_then(|(_, value)| match value.kind {
            Kind::Whole(number) if u64::try_from(number).is_ok_and(|n| n >= least && n <= most) => {
                u64::try_from(number).ok()
            }
            Kind::Whole(_) => {
                self.wrong(value, name, &format!("it must lie between {least} and {most}"));
                None
            }
            _ => {
                let found = value.described();
                self.wrong(value, name, &format!("expected a whole number, found {found}"));
                None
            }
        });
        let value = read.unwrap_or(default);
        self.note(name, value.to_string());
        value
    }

    /// A number of at least `least`.
    pub fn number(&mut self, name: &'static str, default: f64, least: f64) -> f64 {
        let read = self.value(name).and_then(|(_, value)| {
            #[allow(clippy::cast_precision_loss, reason = "settings are small numbers")]
            let number = match value.kind {
                Kind::Whole(number) => number as f64,
                Kind::Fraction(number) => number,
                _ => f64::NAN,
            };
            if number.is_finite() && number >= least {
                return Some(number);
            }
            self.wrong(value, name, &format!("expected a number of at least {least}"));
            None
        });
        let value = read.unwrap_or(default);
        self.note(name, value.to_string());
        value
    }

    /// true or false.
    pub fn flag(&mut self, name: &'static str, default: bool) -> bool {
        let read = self.value(name).and_then(|(_, value)| {
            if let Kind::Flag(flag) = value.kind {
                return Some(flag);
            }
            let found = value.described();
            self.wrong(value, name, &format!("expected true or false, found {found}"));
            None
        });
        let value = read.unwrap_or(default);
        self.note(name, value.to_string());
        value
    }

    /// The whole text of the file that a setting names, with or without `file:` before the name.
    pub fn content(&mut self, name: &'static str) -> Option<String> {
        let (_, value) = self.value(name)?;
        let Kind::Text(text) = &value.kind else {
            let found = value.described();
            self.wrong(value, name, &format!("expected a file name, found {found}"));
            return None;
        };
        self.note(name, format!("{text:?}"));
        self.given(text.strip_prefix("file:").unwrap_or(text), value)
    }

    /// A secret: written out, as `"file:NAME"` (the first line of the file) or as `"env:NAME"` (a
    /// variable of the environment). Nothing that shows settings shows it.
    pub fn secret(&mut self, name: &'static str) -> Option<Secret> {
        let (_, value) = self.value(name)?;
        let Kind::Text(text) = &value.kind else {
            self.shared.borrow_mut().secrets.push(value.place.clone());
            let found = value.described();
            self.wrong(value, name, &format!("expected a string, found {found}"));
            return None;
        };
        let file = text.strip_prefix("file:");
        let is_named = file.is_some() || text.starts_with("env:");
        self.note(name, format!("{:?}", if is_named { text } else { "env:NOT_SHOWN" }));
        if !is_named {
            self.shared.borrow_mut().secrets.push(value.place.clone());
            return Some(Secret::new(text));
        }
        let given = self.given(file.unwrap_or(text), value)?;
        if let Some((_, fault)) = crate::text::fault(given.lines().next().unwrap_or_default()) {
            self.wrong(value, name, &format!("what it names cannot be read: {fault}"));
        }
        Some(Secret::new(given.lines().next().unwrap_or_default().trim_end()))
    }

    /// The text handed in under a name; asked for if it was not.
    fn given(&self, name: &str, value: &Value) -> Option<String> {
        let mut shared = self.shared.borrow_mut();
        let Some(number) = shared.lists.get(name).copied() else {
            shared.wanted.insert(name.to_owned(), value.place.clone());
            return None;
        };
        shared.files.get(number).map(|file| file.text.clone())
    }

    /// Reports a mistake in the value of a key; without the key, at the head of the table.
    pub fn mistake(&mut self, name: &'static str, message: &str) {
        match self.value(name) {
            Some((_, value)) => self.wrong(value, name, message),
            None => self.report(Diagnostic::error(self.place(), message)),
        }
    }

    /// A table below this one, with what it inherits. It is there even if nobody wrote it.
    #[must_use]
    pub fn table(&mut self, name: &'static str) -> Self {
        self.value(name);
        let mut chain = Vec::new();
        for table in &self.chain {
            match table.entries.get(name).map(|(_, value)| value) {
                Some(Value { kind: Kind::Table(below), .. }) => chain.push(below),
                Some(value) => {
                    let found = value.described();
                    self.wrong(value, name, &format!("expected a table, found {found}"));
                }
                None => {}
            }
        }
        Self {
            shared: Rc::clone(&self.shared),
            path: if self.path.is_empty() {
                name.to_owned()
            } else {
                format!("{}.{name}", self.path)
            },
            chain,
            asked: Vec::new(),
        }
    }

    /// The tables of an array such as `[[policy.default.threshold]]`, of the first in the chain
    /// that has it, or of all from the farthest to the nearest if `all`.
    pub fn tables(&mut self, name: &'static str) -> Vec<Self> {
        let mut readers = Vec::new();
        self.value(name);
        for table in self.chain.iter().rev() {
            let Some((_, value)) = table.entries.get(name) else { continue };
            let Kind::List(list) = &value.kind else {
                self.wrong(value, name, &format!("expected [[{}.{name}]] tables", self.path));
                continue;
            };
            for value in list {
                let Kind::Table(below) = &value.kind else {
                    self.wrong(value, name, &format!("expected [[{}.{name}]] tables", self.path));
                    continue;
                };
                readers.push(Self {
                    shared: Rc::clone(&self.shared),
                    path: format!("{}.{name}", self.path),
                    chain: vec![below],
                    asked: Vec::new(),
                });
            }
        }
        readers
    }

    /// The names of the tables below this one, in order, with the place of each.
    pub fn names(&self) -> Vec<(&'t str, &'t Place, &'t Value)> {
        self.chain
            .first()
            .map(|table| {
                table.entries.iter().map(|(name, (at, value))| (name.as_str(), at, value)).collect()
            })
            .unwrap_or_default()
    }

    /// Reports every key that nobody asked for.
    pub fn finish(&mut self) {
        let Some(table) = self.chain.first() else { return };
        for (name, (place, _)) in &table.entries {
            if self.asked.iter().any(|asked| asked == name) {
                continue;
            }
            let inside =
                if self.path.is_empty() { String::new() } else { format!(" in `{}`", self.path) };
            let mut problem =
                Diagnostic::error(place.clone(), format!("unknown setting `{name}`{inside}"));
            problem.help = Some(if let Some(near) = nearest(name, self.asked.iter().copied()) {
                format!("did you mean `{near}`?")
            } else {
                let mut known = self.asked.clone();
                known.sort_unstable();
                format!("known here: {}", known.join(", "))
            });
            self.report(problem);
        }
    }

    /// Adds a problem at a place.
    pub fn report(&self, diagnostic: Diagnostic) {
        self.shared.borrow_mut().diagnostics.push(diagnostic);
    }

    fn wrong(&self, value: &Value, name: &str, message: &str) {
        let head = format!("wrong value for `{name}`");
        self.report(Diagnostic::error(value.place.clone(), head).label(message));
    }

    fn note(&self, name: &str, value: String) {
        let path =
            if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        self.shared.borrow_mut().effective.push((path, value));
    }
}
