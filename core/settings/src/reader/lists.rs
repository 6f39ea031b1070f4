//! Lists of texts: written out, in files of one entry a line, or both.
//!
//! A file is read whole or not at all: an entry that can match nothing is a mistake with its line
//! and column, since a list with a dead entry refuses or admits somebody for good and in silence.

use std::rc::Rc;

use super::Reader;
use crate::diagnostic::{Diagnostic, Place};
use crate::text;
use crate::value::{File, Kind, Value};

/// Mistakes reported of one list file; more of the same would only hide the others.
const MISTAKES_PER_FILE_MAX: usize = 20;

impl<'t> Reader<'t> {
    /// A list of strings: written out, as `"file:NAME"` (one a line, `#` comments), or both mixed.
    /// Each item is read by `parse`; one that is wrong is reported at its own place.
    pub fn list<T>(
        &mut self,
        name: &'static str,
        default: &[&str],
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let mut items = Vec::new();
        let Some((_, value)) = self.value(name) else {
            items.extend(default.iter().filter_map(|item| parse(item).ok()));
            self.note(name, format!("{default:?}"));
            return items;
        };
        for (text, value) in self.texts(name, value, "a string") {
            match text.strip_prefix("file:") {
                Some(file) => {
                    self.list_file(file, value, &mut |line: &str| parse(line.trim()), &mut items);
                }
                None => match text::fault(text) {
                    Some((_, fault)) => self.wrong(value, name, &fault.to_string()),
                    None => match parse(text) {
                        Ok(item) => items.push(item),
                        Err(message) => self.wrong(value, name, &message),
                    },
                },
            }
        }
        items
    }

    /// The items of the files that a setting names, with or without `file:` before the name. The
    /// lines come with the blanks they begin with, which mean something in some tables.
    pub fn files<T>(
        &mut self,
        name: &'static str,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let mut items = Vec::new();
        let Some((_, value)) = self.value(name) else { return items };
        for (text, value) in self.texts(name, value, "a file name") {
            let file = text.strip_prefix("file:").unwrap_or(text);
            self.list_file(file, value, &mut parse, &mut items);
        }
        items
    }

    /// Goes once more through a list that was read, and warns of the entries that `remark` has
    /// something to say about. `is_file` is for settings that name files without `file:`.
    pub fn remark(
        &mut self,
        name: &'static str,
        is_file: bool,
        mut remark: impl FnMut(&str) -> Option<String>,
    ) {
        let Some((_, value)) = self.value(name) else { return };
        let single = std::slice::from_ref(value);
        let written = if let Kind::List(list) = &value.kind { list.as_slice() } else { single };
        for value in written {
            let Kind::Text(text) = &value.kind else { continue };
            let file = text.strip_prefix("file:").or(is_file.then_some(text));
            let Some(file) = file else {
                if let Some(message) = remark(text) {
                    self.report(Diagnostic::warning(value.place.clone(), message));
                }
                continue;
            };
            let number = self.shared.borrow().lists.get(file).copied();
            let Some((number, file)) = number.and_then(|number| Some((number, self.file(number)?)))
            else {
                continue;
            };
            let said = lines(&file.text).filter_map(|(at, line)| Some((at, line, remark(line)?)));
            for (start, line, message) in said.take(MISTAKES_PER_FILE_MAX) {
                let place = Place { file: number, span: start..start + line.len() };
                self.report(Diagnostic::warning(place, message));
            }
        }
    }

    /// The strings of a list, or the only one; what is no string is reported.
    fn texts(&self, name: &str, value: &'t Value, wanted: &str) -> Vec<(&'t str, &'t Value)> {
        let single = std::slice::from_ref(value);
        let written = if let Kind::List(list) = &value.kind { list.as_slice() } else { single };
        let mut texts = Vec::new();
        for value in written {
            if let Kind::Text(text) = &value.kind {
                texts.push((text.as_str(), value));
            } else {
                let found = value.described();
                self.wrong(value, name, &format!("expected {wanted}, found {found}"));
            }
        }
        let shown: Vec<&str> = texts.iter().map(|(text, _)| *text).collect();
        self.note(name, format!("{shown:?}"));
        texts
    }

    /// The items of a file: one a line, blank lines and `#` comments skipped.
    fn list_file<T>(
        &self,
        name: &str,
        value: &Value,
        parse: &mut impl FnMut(&str) -> Result<T, String>,
        items: &mut Vec<T>,
    ) {
        let found = self.shared.borrow().lists.get(name).copied();
        let Some(number) = found else {
            self.shared.borrow_mut().wanted.insert(name.to_owned(), value.place.clone());
            return;
        };
        let Some(file) = self.file(number) else { return };
        let error = |span, message: String| {
            self.report(Diagnostic::error(Place { file: number, span }, message));
        };
        if text::is_utf16(&file.text) {
            return error(0..0, text::Fault::Utf16.to_string());
        }
        let mut wrong = 0;
        let before = items.len();
        let mut mistake = |span, message| {
            wrong += 1;
            if wrong <= MISTAKES_PER_FILE_MAX {
                error(span, message);
            }
        };
        let mut start = 0;
        for line in file.text.split_inclusive('\n') {
            let item = line.trim_end();
            if let Some((at, fault)) = text::fault(item) {
                let length = item.get(at..).and_then(|rest| rest.chars().next());
                let at = start + at;
                mistake(at..at + length.map_or(0, char::len_utf8), fault.to_string());
            } else if is_entry(item) {
                match parse(item) {
                    Ok(item) => items.push(item),
                    Err(message) => mistake(start..start + item.len(), message),
                }
            }
            start += line.len();
        }
        let entries = items.len() - before;
        self.shared.borrow_mut().entries.insert(name.to_owned(), entries);
    }

    fn file(&self, number: usize) -> Option<Rc<File>> {
        self.shared.borrow().files.get(number).cloned()
    }
}

/// Whether a line says anything.
fn is_entry(line: &str) -> bool {
    !line.trim().is_empty() && !line.trim_start().starts_with('#')
}

/// The lines of a file that say something, with the byte at which each begins.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut start = 0;
    text.split_inclusive('\n').filter_map(move |line| {
        let at = start;
        start += line.len();
        let item = line.trim_end();
        is_entry(item).then_some((at, item))
    })
}
