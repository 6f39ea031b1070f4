//! Watching: what one client says and is answered, at every door, as it happens.
//!
//! Nobody watches nearly always, and then a door pays one load of one number. Whoever watches gets
//! lines out of a queue with a bound; a door never waits for a watcher, who is told how many lines
//! were lost instead. Doors hand over commands and replies, never the text of a message.
//!
//! A door says what it reads and writes like this:
//!
//! ```
//! # fn line(hub: &mpp_hub::Hub, client: std::net::IpAddr, number: u64, reply: &str) {
//! use mpp_hub::trace::Speaker;
//!
//! if hub.traces(client) {
//!     hub.trace(client, &format!("proxy.{number:x}"), Speaker::Server, reply);
//! }
//! # }
//! ```

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mpp_engine::network::{self, NetworkSet};
use tokio::sync::mpsc;

use crate::Hub;
use crate::line::Stamp;

/// Who may watch at once.
pub const WATCHERS_MAX: usize = 8;
/// Lines that wait for a watcher at the most.
pub const LINES_MAX: usize = 1024;
/// A line is cut after so many bytes.
pub const TEXT_BYTES_MAX: usize = 512;
/// A text of more lines is cut.
const TEXT_LINES_MAX: usize = 64;
/// The name of a session is cut after so many bytes: that of a policy request is Postfix's.
const SESSION_BYTES_MAX: usize = 64;

/// Who says a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// The client, or who asks about it.
    Client,
    /// mpp.
    Server,
    /// Nobody: it is what happens, such as the end of a connection.
    Note,
}

impl Speaker {
    /// Its name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Note => "note",
        }
    }
}

/// One line of a dialogue.
#[derive(Debug)]
pub struct Line {
    time_ms: u64,
    /// The client.
    pub client: IpAddr,
    /// Door and number of the session: the beginning of what the decision log calls `instance`.
    pub session: String,
    /// Who says it.
    pub speaker: Speaker,
    /// What is said, printable, at most [`TEXT_BYTES_MAX`] bytes.
    pub text: String,
}

impl Line {
    /// When, as the decision log writes it.
    pub fn time(&self) -> String {
        let mut text = String::new();
        Stamp::default().push(self.time_ms, &mut text);
        text
    }
}

/// What a watcher gets.
#[derive(Clone, Debug)]
pub enum Heard {
    /// A line.
    Line(Arc<Line>),
    /// So many lines were lost here, since they were not taken soon enough.
    Lost(u64),
}

/// All who watch.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    /// How many they are.
    count: AtomicUsize,
    watchers: Mutex<Watchers>,
}

#[derive(Debug, Default)]
struct Watchers {
    list: Vec<Watcher>,
    /// The number of the next one.
    next: u64,
}

#[derive(Debug)]
struct Watcher {
    number: u64,
    clients: NetworkSet,
    /// Each with the number of lines that were lost before it.
    lines: mpsc::Sender<(u64, Arc<Line>)>,
    lost: u64,
}

impl Traces {
    fn is_watched(&self) -> bool {
        // Whoever begins to watch waits for nothing that was said before.
        self.count.load(Ordering::Relaxed) > 0
    }

    fn watchers(&self) -> MutexGuard<'_, Watchers> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hub {
    /// Whether anybody watches anybody: one load. For doors that do not know the client yet.
    pub fn is_watched(&self) -> bool {
        self.traces.is_watched()
    }

    /// Whether somebody watches this client: one load while nobody watches anybody.
    pub fn traces(&self, client: IpAddr) -> bool {
        self.is_watched()
            && self.traces.watchers().list.iter().any(|watcher| watcher.clients.contains(client))
    }

    /// Tells those who watch this client what is said. A session is named by its door and a number,
    /// such as `proxy.1f`. A text of several lines becomes as many; line ends at its end are left
    /// out, and so is what follows the mechanism of AUTH. Never hand over the text of a message, or
    /// an answer to the challenges of AUTH.
    pub fn trace(&self, client: IpAddr, session: &str, speaker: Speaker, text: &str) {
        if !self.traces(client) {
            return;
        }
        let (time_ms, client) = (self.now_ms(), client.to_canonical());
        let said = text.trim_end_matches(['\r', '\n']).split('\n').take(TEXT_LINES_MAX);
        for text in said.map(|line| line.strip_suffix('\r').unwrap_or(line)) {
            let line = Arc::new(Line {
                time_ms,
                client,
                session: printable(session, SESSION_BYTES_MAX),
                speaker,
                text: without_secret(text),
            });
            for watcher in &mut self.traces.watchers().list {
                if watcher.clients.contains(client) {
                    watcher.tell(&line);
                }
            }
        }
    }

    /// Begins to watch an address or a network, until what is returned is dropped.
    ///
    /// # Errors
    /// It is neither, or too many watch already; for people.
    pub fn watch(&self, clients: &str) -> Result<Watch, String> {
        let clients = match clients.parse::<IpAddr>() {
            Ok(address) => network::parse(&address.to_canonical().to_string()),
            Err(_) => network::parse(clients),
        }?;
        let clients = NetworkSet::from_iter([clients]);
        let mut watchers = self.traces.watchers();
        if watchers.list.len() == WATCHERS_MAX {
            return Err(format!("{WATCHERS_MAX} are watching already, which is the most"));
        }
        let number = watchers.next;
        watchers.next += 1;
        let (sender, lines) = mpsc::channel(LINES_MAX);
        watchers.list.push(Watcher { number, clients, lines: sender, lost: 0 });
        self.traces.count.store(watchers.list.len(), Ordering::Relaxed);
        drop(watchers);
        Ok(Watch { traces: Arc::clone(&self.traces), number, lines, held: None })
    }
}

impl Watcher {
    fn tell(&mut self, line: &Arc<Line>) {
        match self.lines.try_send((self.lost, Arc::clone(line))) {
            Ok(()) => self.lost = 0,
            Err(_) => self.lost += 1,
        }
    }
}

/// One who watches. Dropped, he no longer does.
#[derive(Debug)]
pub struct Watch {
    traces: Arc<Traces>,
    number: u64,
    lines: mpsc::Receiver<(u64, Arc<Line>)>,
    /// A line before which others were lost, which was said already.
    held: Option<Arc<Line>>,
}

impl Watch {
    /// What is there already, if anything.
    pub fn next_now(&mut self) -> Option<Heard> {
        if let Some(line) = self.held.take() {
            return Some(Heard::Line(line));
        }
        match self.lines.try_recv() {
            Ok(line) => Some(self.after_loss(line)),
            // Whatever was lost was lost behind all that has been taken.
            Err(_) => self.lost().map(Heard::Lost),
        }
    }

    /// What comes next. It may be given up in the middle, and nothing is lost by that.
    pub async fn next(&mut self) -> Heard {
        if let Some(heard) = self.next_now() {
            return heard;
        }
        match self.lines.recv().await {
            Some(line) => self.after_loss(line),
            // It is closed only when this is dropped.
            None => std::future::pending().await,
        }
    }

    fn after_loss(&mut self, (lost, line): (u64, Arc<Line>)) -> Heard {
        if lost == 0 {
            return Heard::Line(line);
        }
        self.held = Some(line);
        Heard::Lost(lost)
    }

    fn lost(&self) -> Option<u64> {
        let mut watchers = self.traces.watchers();
        let own = watchers.list.iter_mut().find(|watcher| watcher.number == self.number)?;
        let lost = std::mem::take(&mut own.lost);
        (lost > 0).then_some(lost)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watchers = self.traces.watchers();
        watchers.list.retain(|watcher| watcher.number != self.number);
        self.traces.count.store(watchers.list.len(), Ordering::Relaxed);
    }
}

/// A text for a terminal, which no stranger may steer: no control character, nor one that changes
/// the direction of writing. It is cut after so many bytes.
fn printable(text: &str, bytes_max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(bytes_max));
    for character in text.chars() {
        let is_steering = character.is_control()
            || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(character, '\u{2066}'..='\u{2069}');
        let shown = if is_steering { '?' } else { character };
        if out.len() + shown.len_utf8() + '…'.len_utf8() > bytes_max {
            out.push('…');
            break;
        }
        out.push(shown);
    }
    out
}

/// A line of a dialogue that may be shown: of AUTH its mechanism only.
fn without_secret(text: &str) -> String {
    let mut words = text.split_ascii_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(verb), Some(mechanism), Some(_)) if verb.eq_ignore_ascii_case("AUTH") => {
            printable(&format!("{verb} {mechanism} (hidden)"), TEXT_BYTES_MAX)
        }
        _ => printable(text, TEXT_BYTES_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_steers_no_terminal_and_has_an_end() {
        assert_eq!(printable("a\u{1b}[2Jb\rc\0\u{9b}é\u{202e}x", 100), "a?[2Jb?c??é?x");
        assert_eq!(printable(&"x".repeat(9), 12), "x".repeat(9));
        assert_eq!(printable(&"x".repeat(10), 12), format!("{}…", "x".repeat(9)));
        assert_eq!(printable("ééééé", 9).len(), 9);
    }

    #[test]
    fn secrets_are_not_shown() {
        for (said, shown) in [
            ("AUTH PLAIN AGZyZWQAc2VjcmV0", "AUTH PLAIN (hidden)"),
            ("auth  login\tZnJlZA==", "auth login (hidden)"),
            ("AUTH CRAM-MD5", "AUTH CRAM-MD5"),
            ("MAIL FROM:<a@x.example> AUTH=<>", "MAIL FROM:<a@x.example> AUTH=<>"),
        ] {
            assert_eq!(without_secret(said), shown);
        }
    }
}
