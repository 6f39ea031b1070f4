//! Reading a configuration from disk, with the files it names, and showing what is wrong with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use mpp_config::{Compiled, Configuration, compile};
use mpp_settings::{Diagnostic, Place, Severity, hide, text};

/// A sound configuration and where it came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) configuration: Configuration,
    /// Warnings, ready to be shown.
    pub(crate) warnings: String,
    /// Every setting with the value that holds.
    pub(crate) effective: Vec<(String, String)>,
    /// The list files, with the state they were read in.
    pub(crate) lists: Lists,
}

/// The state of the list files when they were read.
pub(crate) type Lists = Vec<ListFile>;

/// A file that a setting names, as it was read.
#[derive(Clone, Debug)]
pub(crate) struct ListFile {
    pub(crate) path: PathBuf,
    pub(crate) stamp: Stamp,
    /// How many entries it has; nothing: it is no list.
    pub(crate) entries: Option<usize>,
    /// Whether its last line has an end.
    pub(crate) is_ended: bool,
}

/// What a list file has lost.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Loss {
    /// All of it.
    #[error("{path} holds nothing any more; it had {before} {}", entries(*.before))]
    Everything {
        /// Which file.
        path: String,
        /// Its entries before.
        before: usize,
    },
    /// More than half.
    #[error("{path} has lost more than half of its entries: {now} of {before} are left")]
    MoreThanHalf {
        /// Which file.
        path: String,
        /// Its entries before.
        before: usize,
        /// Its entries now.
        now: usize,
    },
    /// Its end, in the middle of a line.
    #[error("{path} ends in the middle of a line: {now} of {before} entries are left")]
    CutOff {
        /// Which file.
        path: String,
        /// Its entries before.
        before: usize,
        /// Its entries now.
        now: usize,
    },
}

fn entries(count: usize) -> &'static str {
    if count == 1 { "entry" } else { "entries" }
}

/// What lists have lost that much of that a program which writes them has probably failed. Half a
/// list of users refuses the others for good.
pub(crate) fn losses(before: &Lists, now: &Lists) -> Vec<Loss> {
    let mut losses = Vec::new();
    for file in now {
        let same = before.iter().find(|then| then.path == file.path);
        let Some((then, now)) =
            same.and_then(|then| Some(((then.entries?, then.is_ended), file.entries?)))
        else {
            continue;
        };
        let (before, was_ended) = then;
        let path = file.path.display().to_string();
        if now == 0 && before > 0 {
            losses.push(Loss::Everything { path, before });
        } else if now * 2 < before {
            losses.push(Loss::MoreThanHalf { path, before, now });
        } else if now < before && was_ended && !file.is_ended {
            losses.push(Loss::CutOff { path, before, now });
        }
    }
    losses
}

/// What tells whether a file was changed.
pub(crate) type Stamp = Option<(SystemTime, u64)>;

/// The stamp of a file now.
pub(crate) fn stamp(path: &Path) -> Stamp {
    let data = std::fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len()))
}

/// Reads a configuration; without a file, the defaults. `seed` is the secret of the store.
///
/// # Errors
/// Everything that is wrong, ready to be shown.
pub(crate) fn load(path: Option<&Path>, seed: u64) -> Result<Loaded, String> {
    let name = path.map_or_else(|| "defaults".into(), |path| path.display().to_string());
    let bytes = match path {
        Some(path) => std::fs::read(path)
            .map_err(|error| format!("error: cannot read the configuration {name}: {error}"))?,
        None => Vec::new(),
    };
    let text = text::decode(&bytes);
    let base = path.and_then(Path::parent).unwrap_or(Path::new(""));
    let mut files = BTreeMap::new();
    let mut lists: Vec<(String, ListFile)> = Vec::new();
    let mut unreadable: Vec<Diagnostic> = foreign(&text).into_iter().collect();
    loop {
        let compiled = compile(&name, &text, &files, seed);
        if compiled.wanted.is_empty() {
            return finish(compiled, unreadable, lists);
        }
        for (file, place) in &compiled.wanted {
            if let Some(name) = file.strip_prefix("env:") {
                let value = std::env::var(name).unwrap_or_else(|_| {
                    let message = format!("the environment has no variable `{name}`");
                    unreadable.push(Diagnostic::error(place.clone(), message));
                    String::new()
                });
                files.insert(file.clone(), value);
                continue;
            }
            let path = base.join(file);
            let stamp = stamp(&path);
            let text = std::fs::read(&path).map(|bytes| text::decode(&bytes));
            let text = text.unwrap_or_else(|error| {
                let message = format!("cannot read {}: {error}", path.display());
                unreadable.push(Diagnostic::error(place.clone(), message));
                String::new()
            });
            let is_ended = text.is_empty() || text.ends_with('\n');
            lists.push((file.clone(), ListFile { path, stamp, entries: None, is_ended }));
            files.insert(file.clone(), text);
        }
    }
}

/// What is no text in a configuration. TOML has its own word for control characters.
fn foreign(text: &str) -> Option<Diagnostic> {
    if text::is_utf16(text) {
        let place = Place { file: 0, span: 0..0 };
        return Some(Diagnostic::error(place, text::Fault::Utf16.to_string()));
    }
    let at = text.find(char::REPLACEMENT_CHARACTER)?;
    let place = Place { file: 0, span: at..at + char::REPLACEMENT_CHARACTER.len_utf8() };
    Some(Diagnostic::error(place, text::Fault::NotUtf8.to_string()))
}

fn finish(
    compiled: Compiled,
    unreadable: Vec<Diagnostic>,
    lists: Vec<(String, ListFile)>,
) -> Result<Loaded, String> {
    let sized = |(name, file): (String, ListFile)| {
        let entries = compiled.entries.get(&name).copied();
        ListFile { entries, ..file }
    };
    let lists: Lists = lists.into_iter().map(sized).collect();
    let is_readable = unreadable.is_empty();
    let all: Vec<Diagnostic> = unreadable.into_iter().chain(compiled.diagnostics.clone()).collect();
    let shown = show(&all, &compiled);
    match compiled.configuration {
        Some(configuration) if is_readable => {
            Ok(Loaded { configuration, warnings: shown, effective: compiled.effective, lists })
        }
        _ => Err(shown),
    }
}

/// The settings that say where the daemon is, of a configuration that may be wrong elsewhere.
pub(crate) fn peek(path: &Path) -> Option<(String, String)> {
    let bytes = std::fs::read(path).ok()?;
    let document = mpp_settings::Document::parse("", &text::decode(&bytes));
    let of = |table: &str, name: &str| {
        let mpp_settings::Kind::Table(table) = &document.root.entries.get(table)?.1.kind else {
            return None;
        };
        match &table.entries.get(name)?.1.kind {
            mpp_settings::Kind::Text(text) => Some(text.clone()),
            _ => None,
        }
    };
    Some((of("server", "state").unwrap_or_default(), of("listen", "admin").unwrap_or_default()))
}

/// Problems as people read them: file, line, column, the text and what to do.
fn show(diagnostics: &[Diagnostic], compiled: &Compiled) -> String {
    let renderer = Renderer::plain();
    let secrets = |number: usize| {
        let here = compiled.secrets.iter().filter(|place| place.file == number);
        here.map(|place| place.span.clone()).collect::<Vec<_>>()
    };
    let shown = compiled.files.iter().enumerate();
    let shown: Vec<String> =
        shown.map(|(number, file)| hide::hide(&file.text, &secrets(number))).collect();
    let mut text = String::new();
    for diagnostic in diagnostics {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(&*diagnostic.message));
        let places = diagnostic
            .place
            .iter()
            .map(|place| (place, AnnotationKind::Primary, diagnostic.label.as_str()))
            .chain(
                diagnostic
                    .also
                    .iter()
                    .map(|(place, label)| (place, AnnotationKind::Context, label.as_str())),
            );
        for (place, kind, label) in places {
            let Some(file) = compiled.files.get(place.file) else { continue };
            let Some(source) = shown.get(place.file) else { continue };
            // A span at the very end of a text, or inside a letter, must not upset the renderer.
            let end = place.span.end.min(file.text.len());
            let start = place.span.start.min(end);
            let span = if file.text.get(start..end).is_some() { start..end } else { 0..0 };
            let annotation = kind.span(span);
            let annotation = if label.is_empty() { annotation } else { annotation.label(label) };
            group =
                group.element(Snippet::source(&**source).path(&*file.name).annotation(annotation));
        }
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(&**help));
        }
        text.push_str(&renderer.render(&[group]));
        text.push_str("\n\n");
    }
    // A message may quote a URL.
    hide::hide_users(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: usize, is_ended: bool) -> Lists {
        vec![ListFile { path: "users.txt".into(), stamp: None, entries: Some(entries), is_ended }]
    }

    #[test]
    fn a_list_that_loses_too_much_is_told_from_one_that_shrinks() {
        for (before, now, is_ended, said) in [
            (0, 0, true, None),
            (1, 1, true, None),
            (0, 5, true, None),
            (4, 2, true, None),
            (5, 3, true, None),
            (10, 12, false, None),
            (1, 0, true, Some("users.txt holds nothing any more; it had 1 entry")),
            (9, 0, true, Some("users.txt holds nothing any more; it had 9 entries")),
            (5, 2, true, Some("users.txt has lost more than half of its entries: 2 of 5 are left")),
            (
                10,
                9,
                false,
                Some("users.txt ends in the middle of a line: 9 of 10 entries are left"),
            ),
        ] {
            let losses = losses(&list(before, true), &list(now, is_ended));
            let told = losses.first().map(ToString::to_string);
            assert_eq!(told.as_deref(), said, "{before} {now} {is_ended}");
        }
        assert!(losses(&list(10, false), &list(9, false)).is_empty(), "it never had an end");
        assert!(losses(&Lists::new(), &list(0, true)).is_empty(), "it is new");
    }
}
