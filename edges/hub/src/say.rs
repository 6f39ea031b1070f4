//! What is said to the operator, on standard error: with a level where systemd's journal listens
//! (sd-daemon(3)), else with time and severity. What strangers cause is bounded.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mpp_operations::clean;

use crate::clock::{Clock as _, RealClock};

/// How bad it is; the numbers are those of syslog(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Something does not work.
    Error = 3,
    /// Something should be looked at.
    Warning = 4,
    /// As it should be.
    Info = 6,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// Says something that is as it should be.
pub fn say(text: &str) {
    tell(Severity::Info, text);
}

/// Says something to be looked at.
pub fn warn(text: &str) {
    tell(Severity::Warning, text);
}

/// Says that something does not work.
pub fn fail(text: &str) {
    tell(Severity::Error, text);
}

fn tell(severity: Severity, text: &str) {
    let time = crate::time_text(RealClock.now_ms());
    let said = written(severity, &time, text, is_journal());
    // If standard error is gone there is nobody left to tell.
    let _ = std::io::stderr().lock().write_all(said.as_bytes());
}

/// The lines of it. In the journal each has its level; elsewhere those behind the first have no head.
fn written(severity: Severity, time: &str, text: &str, is_journal: bool) -> String {
    let text = clean::lines(text);
    let mut said = String::with_capacity(text.len() + 64);
    for (at, line) in text.trim_end().lines().enumerate() {
        // Writing to a string cannot fail.
        let _ = match (is_journal, at) {
            (true, 0) => writeln!(said, "<{}>mpp: {line}", severity as u8),
            (true, _) => writeln!(said, "<{}>{line}", severity as u8),
            (false, 0) => writeln!(said, "{time} {} mpp: {line}", severity.word()),
            (false, _) => writeln!(said, "{line}"),
        };
    }
    said
}

/// Whether standard error is the journal, as systemd says (systemd.exec(5), `JOURNAL_STREAM`).
fn is_journal() -> bool {
    static IS_JOURNAL: OnceLock<bool> = OnceLock::new();
    *IS_JOURNAL.get_or_init(|| {
        let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
        let Ok(data) = std::fs::metadata("/proc/self/fd/2") else { return false };
        stream.to_str() == Some(&*format!("{}:{}", data.dev(), data.ino()))
    })
}

/// Lines of one kind in a time; more of them are counted.
const LINES_MAX: u32 = 20;
const LINES_PER: Duration = Duration::from_mins(1);
/// Kinds that are told apart.
const KINDS_MAX: usize = 64;

/// Says something that anybody out there may cause, as often as he likes: after so many lines of a kind
/// in a minute only their number is told. The kind is what stands before the first colon.
pub fn warn_of_strangers(text: &str) {
    static WINDOWS: OnceLock<Mutex<Windows>> = OnceLock::new();
    let windows = WINDOWS.get_or_init(Mutex::default);
    let kind = text.split(':').next().unwrap_or_default();
    let mut windows = windows.lock().unwrap_or_else(PoisonError::into_inner);
    let (left_out, is_said) = windows.admit(kind, Instant::now());
    drop(windows);
    if left_out > 0 {
        warn(&format!("{kind}: {left_out} more lines of this kind were left out"));
    }
    if is_said {
        warn(text);
    }
}

/// How many lines of each kind there were since when.
#[derive(Debug, Default)]
struct Windows(HashMap<String, (Instant, u32)>);

impl Windows {
    /// How many were left out of a window that is over, and whether one more may be said.
    fn admit(&mut self, kind: &str, now: Instant) -> (u32, bool) {
        if self.0.len() >= KINDS_MAX && !self.0.contains_key(kind) {
            self.0.clear();
        }
        let (since, lines) = self.0.entry(kind.to_owned()).or_insert((now, 0));
        let mut left_out = 0;
        if now.duration_since(*since) >= LINES_PER {
            left_out = lines.saturating_sub(LINES_MAX);
            (*since, *lines) = (now, 0);
        }
        *lines = lines.saturating_add(1);
        (left_out, *lines <= LINES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_level_or_time_and_obey_no_terminal() {
        let of = |text: &str, is_journal| written(Severity::Warning, "T", text, is_journal);
        assert_eq!(of("a: b", false), "T warning mpp: a: b\n");
        assert_eq!(of("a\n b\n\n", false), "T warning mpp: a\n b\n");
        assert_eq!(of("a\nb", true), "<4>mpp: a\n<4>b\n");
        assert_eq!(of("a\u{1b}[m", true), "<4>mpp: a\u{fffd}[m\n");
        assert_eq!(written(Severity::Error, "T", "x", true), "<3>mpp: x\n");
    }

    #[test]
    fn what_strangers_cause_fills_no_log() {
        let (mut windows, now) = (Windows::default(), Instant::now());
        let said = (0..2_000).filter(|_| windows.admit("milter", now).1).count();
        assert_eq!(said, LINES_MAX as usize);
        assert!(windows.admit("policy", now).1, "another kind is another matter");
        let left_out = 2_000 - LINES_MAX;
        assert_eq!(windows.admit("milter", now + LINES_PER), (left_out, true));
        for kind in 0..10_000 {
            windows.admit(&kind.to_string(), now);
            assert!(windows.0.len() <= KINDS_MAX);
        }
    }
}
