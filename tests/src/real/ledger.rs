//! A next hop that takes mail, counts what it has promised, and dies when told to.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::address;
use super::raw_smtp::RawSmtp;

/// What it offers where nothing else is said.
pub const OFFERS: &str = "250-ledger\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES";

const TAKEN: &str = "250 2.0.0 taken: queued as LEDGER1";

/// A next hop; its threads end with the test.
#[derive(Debug)]
pub struct Ledger {
    address: String,
    shared: Arc<Shared>,
}

/// What a test has it say to a command, or to the end of a text (`.`, by LMTP `. RECIPIENT` for each);
/// nothing where it says what it always does.
type Script = dyn Fn(&str) -> Option<String> + Send + Sync;

struct Shared {
    offers: String,
    script: Box<Script>,
    /// Serial number of a message, and how often it was answered 250.
    taken: Mutex<BTreeMap<String, u32>>,
    /// Commands, and the lines of texts with `| ` before them.
    heard: Mutex<Vec<String>>,
    /// Texts that were answered 250, byte for byte, without their doubled dots.
    texts: Mutex<Vec<Vec<u8>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("offers", &self.offers).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Its connections end after so many bytes, if it is to fail.
    pub fn start(fails_after: impl Fn() -> Option<usize> + Send + 'static) -> Self {
        Self::offering(OFFERS, fails_after)
    }

    /// With another answer to EHLO and LHLO.
    pub fn offering(
        offers: &str,
        fails_after: impl Fn() -> Option<usize> + Send + 'static,
    ) -> Self {
        Self::begin(offers, fails_after, Box::new(|_| None))
    }

    /// One that says what a test wants to some commands.
    pub fn saying(script: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::begin(OFFERS, || None, Box::new(script))
    }

    fn begin(
        offers: &str,
        fails_after: impl Fn() -> Option<usize> + Send + 'static,
        script: Box<Script>,
    ) -> Self {
        let listener = TcpListener::bind((address(), 0)).expect("an address of our own");
        let address = listener.local_addr().expect("it listens").to_string();
        let shared = Arc::new(Shared {
            offers: offers.to_owned(),
            script,
            taken: Mutex::default(),
            heard: Mutex::default(),
            texts: Mutex::default(),
        });
        let of_threads = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, left) = (Arc::clone(&of_threads), fails_after());
                std::thread::spawn(move || serve(stream, &shared, left));
            }
        });
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Serial numbers of messages that were answered 250, and how often each was.
    pub fn taken(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.shared.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it has heard.
    pub fn heard(&self) -> Vec<String> {
        self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Texts of messages that were answered 250, byte for byte.
    pub fn texts(&self) -> Vec<Vec<u8>> {
        self.shared.texts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many lines begin like this.
    pub fn count(&self, head: &str) -> usize {
        self.heard().iter().filter(|line| line.starts_with(head)).count()
    }

    /// Fails unless each of these is there exactly once, and nothing is there twice.
    pub fn settle(&self, promised: &[String]) {
        let taken = self.taken();
        for serial in promised {
            assert_eq!(taken.get(serial), Some(&1), "{serial} was answered 250");
        }
        for (serial, count) in taken.iter() {
            assert_eq!(*count, 1, "{serial} is there more than once");
        }
    }
}

fn serve(stream: TcpStream, shared: &Shared, left: Option<usize>) {
    let mut left = left.unwrap_or(usize::MAX);
    let Ok(mut out) = stream.try_clone() else { return };
    let _ = out.set_nodelay(true);
    let mut lines = BufReader::new(stream);
    let _ = out.write_all(b"220 ledger\r\n");
    let (mut is_text, mut serial) = (false, String::new());
    let mut recipients: Vec<String> = Vec::new();
    let mut is_lmtp = false;
    let (mut bytes, mut text) = (Vec::new(), Vec::new());
    while lines.read_until(b'\n', &mut bytes).unwrap_or(0) > 0 {
        let Some(rest) = left.checked_sub(bytes.len()) else { return };
        left = rest;
        let said = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if is_text && said != "." {
            text.extend_from_slice(bytes.strip_prefix(b".").unwrap_or(&bytes));
        }
        bytes.clear();
        let mark = if is_text { "| " } else { "" };
        let heard = format!("{mark}{said}");
        shared.heard.lock().unwrap_or_else(PoisonError::into_inner).push(heard);
        if is_text && said != "." {
            if let Some(number) = said.strip_prefix("Serial: ") {
                number.clone_into(&mut serial);
            }
            continue;
        }
        let own = |said: &str| (shared.script)(said);
        let mut several: Vec<String> = Vec::new();
        let usual = match (is_text, said.as_str()) {
            (true, _) => {
                is_text = false;
                let mut texts = shared.texts.lock().unwrap_or_else(PoisonError::into_inner);
                texts.push(std::mem::take(&mut text));
                let taken_so = |end: &String| own(end).unwrap_or_else(|| TAKEN.to_owned());
                several = ends(is_lmtp, &recipients).iter().map(taken_so).collect();
                let mut taken = shared.taken.lock().unwrap_or_else(PoisonError::into_inner);
                *taken.entry(serial.clone()).or_default() += 1;
                recipients.clear();
                TAKEN
            }
            (false, "DATA") => {
                is_text = true;
                "354 go on"
            }
            (false, said) if said.starts_with("EHLO") || said.starts_with("LHLO") => {
                is_lmtp = said.starts_with("LHLO");
                &shared.offers
            }
            (false, said) if said.starts_with("RCPT TO:<full") => "452 4.2.2 mailbox full",
            (false, said) => {
                if let Some(path) = said.strip_prefix("RCPT TO:<") {
                    recipients.push(path.split('>').next().unwrap_or_default().to_owned());
                }
                if said == "RSET" {
                    recipients.clear();
                }
                "250 2.0.0 ok"
            }
        };
        if several.is_empty() {
            let answer = own(&said).unwrap_or_else(|| usual.to_owned());
            is_text &= answer.starts_with("354");
            several.push(answer);
        }
        let answers = several.join("\r\n");
        if out.write_all(format!("{answers}\r\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// What the end of a message is answered to: by LMTP it is one for each recipient.
fn ends(is_lmtp: bool, recipients: &[String]) -> Vec<String> {
    if !is_lmtp {
        return vec![".".to_owned()];
    }
    recipients.iter().map(|recipient| format!(". {recipient}")).collect()
}

/// One message with a serial number; whether it was answered 250.
pub fn deliver(listen: &str, serial: &str) -> bool {
    let Some(mut raw) = RawSmtp::try_open(listen) else { return false };
    let mut is_taken = raw.reply().starts_with("220");
    for line in ["EHLO c.example", "MAIL FROM:<a@b.example>", "RCPT TO:<bob@test.example>"] {
        is_taken = is_taken && raw.say(line).starts_with("250");
    }
    if !is_taken || !raw.say("DATA").starts_with("354") {
        return false;
    }
    raw.send(format!("Serial: {serial}\r\n\r\n{}\r\n.\r\n", "x".repeat(500)).as_bytes());
    raw.reply().starts_with("250")
}
