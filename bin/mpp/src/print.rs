//! Output for a terminal and for a pipe.

use std::io::{self, IsTerminal as _, Write as _};

/// Writes lines to standard output; a reader that has seen enough, such as `head`, is no error.
pub(crate) fn out(text: &str) {
    let mut stdout = io::stdout().lock();
    // The reader has gone: what follows has no reader either.
    let _ = writeln!(stdout, "{}", text.trim_end_matches('\n'));
}

/// Writes bytes to standard output as they are.
pub(crate) fn bytes(bytes: &[u8]) {
    // As above.
    let _ = io::stdout().lock().write_all(bytes);
}

/// Writes an error to standard error.
pub(crate) fn error(text: &str) {
    // If standard error is gone there is nobody left to tell.
    let _ = writeln!(io::stderr().lock(), "{}", mpp_operations::clean::lines(text));
}

/// Whether people look at standard error.
pub(crate) fn has_audience() -> bool {
    io::stderr().is_terminal()
}

/// Draws a progress line over the last one.
pub(crate) fn progress(text: &str) {
    let mut stderr = io::stderr().lock();
    // As above.
    let _ = write!(stderr, "\r\u{1b}[K{text}").and_then(|()| stderr.flush());
}

/// A count with thin groups of three: 47 615.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun: "1 policy", "2 policies".
pub(crate) fn many(count: usize, noun: &str) -> String {
    match noun.strip_suffix('y') {
        _ if count == 1 => format!("1 {noun}"),
        Some(stem) if !stem.ends_with(['a', 'e', 'o']) => format!("{count} {stem}ies"),
        _ => format!("{count} {noun}s"),
    }
}

/// A share of a whole in percent.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".into();
    }
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let share = part as f64 * 100.0 / whole as f64;
    format!("{share:.1} %")
}

/// A size for people.
pub(crate) fn size(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let (value, unit) = match bytes {
        0..=0x3ff => return format!("{bytes} B"),
        0x400..=0xf_ffff => (bytes as f64 / 1024.0, "KiB"),
        0x10_0000..=0x3fff_ffff => (bytes as f64 / 1_048_576.0, "MiB"),
        _ => (bytes as f64 / 1_073_741_824.0, "GiB"),
    };
    format!("{value:.1} {unit}")
}
