//! A mail server that says what a test tells it to, for what no real one does on demand.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use super::address;

/// What it does with a line.
#[derive(Clone, Debug)]
pub enum Act {
    /// Sends these bytes; CRLF is added.
    Say(String),
    /// Sends these bytes as they are and closes the connection.
    Cut(Vec<u8>),
    /// Says nothing to this, and listens on: to the text of a message.
    Listen,
    /// Says nothing any more.
    Hang,
}

/// A fake server; its threads end with the test.
#[derive(Debug)]
pub struct FakeSmtp {
    address: String,
    heard: Arc<Mutex<Vec<String>>>,
}

impl FakeSmtp {
    /// Starts one. `answer` gets each line, and an empty one for a new connection.
    pub fn start(answer: impl Fn(&str) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((address(), 0)).expect("an address of our own");
        let address = listener.local_addr().expect("it listens").to_string();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&heard), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &log, &*answer));
            }
        });
        Self { address, heard }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Every line that it has heard; an empty one for each connection.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many lines begin like this.
    pub fn count(&self, verb: &str) -> usize {
        self.heard().iter().filter(|line| line.starts_with(verb)).count()
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.heard().iter().filter(|line| line.is_empty()).count()
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<String>>, answer: &dyn Fn(&str) -> Act) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        log.lock().unwrap_or_else(PoisonError::into_inner).push(line.trim_end().to_owned());
        let writer = reader.get_mut();
        let done = match answer(line.trim_end()) {
            Act::Listen => Ok(()),
            Act::Say(text) => writer.write_all(format!("{text}\r\n").as_bytes()),
            // The thread ends with the test, which is when the connection is closed.
            Act::Hang => loop {
                std::thread::park();
            },
            Act::Cut(bytes) => {
                let _ = writer.write_all(&bytes);
                return;
            }
        };
        line.clear();
        if done.is_err() || !reader.read_line(&mut line).is_ok_and(|length| length > 0) {
            return;
        }
    }
}
