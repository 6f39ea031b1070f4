//! A mail server as a milter sees one: it says what a test tells it to, right or wrong.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

use super::PATIENCE;

/// Every action that there is, and every step that can be left out.
pub const ALL: (u32, u32) = (0x1ff, 0x1f_ffff);

/// A packet: a command and its payload.
///
/// # Panics
/// The payload is longer than a packet can be.
pub fn packet(command: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 1).expect("a packet");
    [&length.to_be_bytes()[..], &[command], payload].concat()
}

/// The packet of what a server offers.
pub fn offer(version: u32, (actions, protocol): (u32, u32)) -> Vec<u8> {
    let numbers = [version, actions, protocol].map(u32::to_be_bytes).concat();
    packet(b'O', &numbers)
}

/// The packet of a client that has connected.
pub fn client(address: &str) -> Vec<u8> {
    let family = if address.contains(':') { b'6' } else { b'4' };
    let name = [b"[client]\0", &[family][..], &4242_u16.to_be_bytes()].concat();
    packet(b'C', &[&name, address.as_bytes(), b"\0"].concat())
}

/// The packet of macros for a command.
pub fn macros(command: u8, pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut payload = vec![command];
    for (name, value) in pairs {
        payload.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    packet(b'D', &payload)
}

/// The packet of MAIL or RCPT.
pub fn path(command: u8, address: &str) -> Vec<u8> {
    packet(command, format!("<{address}>\0").as_bytes())
}

/// The packet of a header field.
pub fn header(name: &str, value: &str) -> Vec<u8> {
    packet(b'L', format!("{name}\0{value}\0").as_bytes())
}

/// What the filter answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The letter of the answer.
    pub letter: u8,
    /// The rest.
    pub payload: Vec<u8>,
}

impl Said {
    /// The letter and the texts behind it, for people; numbers are left out.
    pub fn text(&self) -> String {
        let is_numbered = matches!(self.letter, b'i' | b'm');
        let texts = self.payload.get(if is_numbered { 4 } else { 0 }..).unwrap_or_default();
        let texts = texts.strip_suffix(b"\0").unwrap_or(texts);
        let texts = String::from_utf8_lossy(texts).replace('\0', "|");
        format!("{} {texts}", char::from(self.letter)).trim_end().to_owned()
    }

    /// The three numbers of a negotiation: version, actions, protocol.
    ///
    /// # Panics
    /// It is none.
    pub fn agreed(&self) -> [u32; 3] {
        assert_eq!(self.letter, b'O', "{self:?}");
        let (numbers, _) = self.payload.as_chunks::<4>();
        let mut numbers = numbers.iter().map(|number| u32::from_be_bytes(*number));
        [(); 3].map(|()| numbers.next().expect("three numbers"))
    }

    /// Whether nothing more follows as an answer to the same event.
    pub fn is_final(&self) -> bool {
        matches!(self.letter, b'O' | b'c' | b'd' | b'y' | b'a' | b'r' | b't')
    }
}

trait Stream: Read + Write + Send {
    fn finish(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for UnixStream {
    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

fn open(address: &str) -> io::Result<Box<dyn Stream>> {
    if let Some(path) = address.strip_prefix("unix:") {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        return Ok(Box::new(stream));
    }
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

/// One connection to a milter.
pub struct Peer {
    stream: Box<dyn Stream>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Peer")
    }
}

impl Peer {
    /// Connects to `ADDRESS:PORT` or `unix:PATH`.
    ///
    /// # Panics
    /// Nobody listens there.
    pub fn connect(address: &str) -> Self {
        let stream = open(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        Self { stream }
    }

    /// Connects, agrees on everything, and shows a client.
    pub fn with_client(address: &str, client_address: &str) -> Self {
        let mut peer = Self::connect(address);
        peer.send(&offer(6, ALL));
        peer.answer().expect("an agreement");
        peer.send(&client(client_address));
        peer.send(&packet(b'H', b"client.example\0"));
        peer
    }

    /// Sends bytes as they are. Whether they were taken is no matter: the answer tells.
    pub fn send(&mut self, bytes: &[u8]) {
        // The other side may have closed.
        let _ = self.stream.write_all(bytes);
    }

    /// Sends nothing more.
    pub fn finish(&self) {
        // As above.
        let _ = self.stream.finish();
    }

    /// The next answer; nothing if the connection has ended.
    ///
    /// # Panics
    /// No answer comes in time.
    pub fn answer(&mut self) -> Option<Said> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock) => {
                panic!("no answer in time")
            }
            Err(_) => return None,
        }
        let mut packet = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut packet).ok()?;
        let (letter, payload) = packet.split_first().expect("an answer has a letter");
        Some(Said { letter: *letter, payload: payload.to_owned() })
    }

    /// Sends bytes, and reads up to the answer that ends them; what was answered, as text.
    ///
    /// # Panics
    /// No answer comes in time.
    pub fn ask(&mut self, bytes: &[u8]) -> Vec<String> {
        self.send(bytes);
        let mut said = Vec::new();
        while let Some(answer) = self.answer() {
            said.push(answer.text());
            if answer.is_final() {
                break;
            }
        }
        said
    }

    /// All answers until the connection ends.
    pub fn rest(&mut self) -> Vec<Said> {
        std::iter::from_fn(|| self.answer()).collect()
    }
}
