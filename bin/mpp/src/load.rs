//! Reading a configuration from disk, with the files it names, and showing what is wrong with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use mpp_config::{Compiled, Configuration, compile};
use mpp_settings::{Diagnostic, Severity};

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
pub(crate) type Lists = Vec<(PathBuf, Stamp)>;

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
    let text = match path {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| format!("error: cannot read the configuration {name}: {error}"))?,
        None => String::new(),
    };
    let base = path.and_then(Path::parent).unwrap_or(Path::new(""));
    let mut files = BTreeMap::new();
    let mut lists = Lists::new();
    let mut unreadable = Vec::new();
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
            let text =
                std::fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            let text = text.unwrap_or_else(|error| {
                let message = format!("cannot read {}: {error}", path.display());
                unreadable.push(Diagnostic::error(place.clone(), message));
                String::new()
            });
            lists.push((path, stamp));
            files.insert(file.clone(), text);
        }
    }
}

fn finish(compiled: Compiled, unreadable: Vec<Diagnostic>, lists: Lists) -> Result<Loaded, String> {
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
    let text = std::fs::read_to_string(path).ok()?;
    let document = mpp_settings::Document::parse("", &text);
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
    let shown: Vec<String> = compiled.files.iter().map(|file| masked(&file.text)).collect();
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
    text
}

/// The text of a configuration as it may be shown: a password or a secret that is written out is as many
/// stars.
/// The text may be wrong in any way, so this goes by what it looks like.
fn masked(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    let first = |rest: &str| {
        let places = ["password", "secret"].map(|word| rest.find(word).map(|at| at + word.len()));
        places.into_iter().flatten().min()
    };
    while let Some(end) = first(rest) {
        let (head, tail) = rest.split_at(end);
        shown.push_str(head);
        rest = tail;
        let behind = tail.trim_start_matches(['"', '\'', ' ', '\t']);
        let Some(value) = behind.strip_prefix('=').map(str::trim_start) else { continue };
        let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| value.starts_with(quote));
        let inside = quote.and_then(|quote| value.strip_prefix(quote)).unwrap_or(value);
        if inside.starts_with("file:") || inside.starts_with("env:") {
            continue;
        }
        let end = quote.and_then(|quote| inside.find(quote));
        let end = end.or_else(|| inside.find('\n')).unwrap_or(inside.len());
        let Some((secret, behind)) = inside.split_at_checked(end) else { continue };
        shown.push_str(tail.get(..tail.len() - inside.len()).unwrap_or_default());
        shown.push_str(&"*".repeat(secret.len()));
        rest = behind;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn no_password_is_shown() {
        for (text, shown) in [
            ("password = \"pässt\"\nx = 1", "password = \"******\"\nx = 1"),
            ("{ password='a\"b', bad = 1 }", "{ password='***', bad = 1 }"),
            ("password = \"file:pw\"", "password = \"file:pw\""),
            ("password = \"env:PW\"", "password = \"env:PW\""),
            ("\"password\" = \"\"\"a\nb\"\"\"", "\"password\" = \"\"\"***\"\"\""),
            ("password = hunter2\nx", "password = *******\nx"),
            ("password = \"unfinished\nx", "password = \"**********\nx"),
            ("no password here", "no password here"),
            ("secret = \"abc\"\npassword = \"d\"", "secret = \"***\"\npassword = \"*\""),
        ] {
            assert_eq!(masked(text), shown);
            assert_eq!(masked(text).len(), text.len(), "places stay what they are");
        }
    }
}
