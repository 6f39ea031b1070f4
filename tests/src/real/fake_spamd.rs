//! A spamd that keeps what it was shown, byte for byte, and says as many points as a test wants.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use super::address;

/// The scanner; its threads end with the test.
#[derive(Debug)]
pub struct FakeSpamd {
    address: String,
    shown: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl FakeSpamd {
    /// Starts one. `points` gets each message whole.
    pub fn start(points: impl Fn(&[u8]) -> f32 + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((address(), 0)).expect("an address of our own");
        let address = listener.local_addr().expect("it listens").to_string();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (log, points) = (Arc::clone(&shown), Arc::new(points));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, points) = (Arc::clone(&log), Arc::clone(&points));
                std::thread::spawn(move || serve(stream, &log, &*points));
            }
        });
        Self { address, shown }
    }

    /// What the configuration says of it: a scanner of the name `fake`.
    pub fn lines(&self) -> String {
        format!("[scanner.fake]\nkind = \"spamd\"\nservers = [\"{}\"]\n", self.address)
    }

    /// Every message that it was shown.
    pub fn shown(&self) -> Vec<Vec<u8>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(mut stream: TcpStream, log: &Mutex<Vec<Vec<u8>>>, points: &dyn Fn(&[u8]) -> f32) {
    let mut bytes = Vec::new();
    // The client ends its side when all is said; who has gone has said nothing.
    let _ = stream.read_to_end(&mut bytes);
    let text = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| &bytes[at + 4..]);
    let Some(text) = text.filter(|_| !bytes.starts_with(b"PING")) else {
        let _ = stream.write_all(b"SPAMD/1.5 0 PONG\r\n");
        return;
    };
    log.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    let points = points(text);
    let word = if points >= 5.0 { "True" } else { "False" };
    let said = format!(
        "SPAMD/1.1 0 EX_OK\r\nContent-length: 4\r\nSpam: {word} ; {points} / 5.0\r\n\r\nFAKE"
    );
    let _ = stream.write_all(said.as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
}
