//! An SMTP client that sends any bytes, takes any answer, and encrypts when it is told to.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// How long it waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// One connection.
pub struct RawSmtp {
    reader: BufReader<Stream>,
    tcp: TcpStream,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl RawSmtp {
    /// Connects; nothing if nobody listens.
    pub fn try_open(address: &str) -> Option<Self> {
        let tcp = TcpStream::connect(address).ok()?;
        tcp.set_read_timeout(Some(PATIENCE)).ok()?;
        tcp.set_nodelay(true).ok()?;
        let stream = Stream::Plain(tcp.try_clone().ok()?);
        Some(Self { reader: BufReader::new(stream), tcp })
    }

    /// Connects and says nothing; the greeting is the first reply.
    pub fn open(address: &str) -> Self {
        Self::try_open(address).unwrap_or_else(|| panic!("nobody listens on {address}"))
    }

    /// Connects, and is greeted.
    pub fn connect(address: &str) -> Self {
        let mut raw = Self::open(address);
        let greeting = raw.reply();
        assert!(greeting.starts_with("220"), "{greeting}");
        raw
    }

    /// Sends bytes. The other side may have closed: the next reply says so.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.reader.get_mut().write_all(bytes);
        let _ = self.reader.get_mut().flush();
    }

    /// The last line of the next reply; empty if the connection has ended.
    pub fn reply(&mut self) -> String {
        self.lines().pop().unwrap_or_default()
    }

    /// All lines of the next reply.
    pub fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).unwrap_or(0) == 0 {
                return lines;
            }
            let is_last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line.trim_end().to_owned());
            if is_last {
                return lines;
            }
        }
    }

    /// Says a line; the last line of the reply.
    pub fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// Says a line to which the reply is known.
    pub fn expect(&mut self, line: &str, code: &str) -> String {
        let reply = self.say(line);
        assert!(reply.starts_with(code), "to {line:?}: {reply:?}");
        reply
    }

    /// As far as the text of a message.
    pub fn begin(&mut self) {
        self.expect("EHLO c.example", "250");
        self.expect("MAIL FROM:<a@b.example>", "250");
        self.expect("RCPT TO:<bob@test.example>", "250");
        self.expect("DATA", "354");
    }

    /// Becomes somebody else, and greets.
    pub fn become_client(&mut self, attributes: &str) -> String {
        let reply = self.say(&format!("XCLIENT {attributes}"));
        if reply.starts_with("220") { self.say("EHLO c.example") } else { reply }
    }

    /// One message with one recipient: the last reply, to whatever was refused first or to the end.
    pub fn message(&mut self, sender: &str, recipient: &str, text: &str) -> String {
        for (line, code) in [
            (format!("MAIL FROM:<{sender}>"), "250"),
            (format!("RCPT TO:<{recipient}>"), "250"),
            ("DATA".to_owned(), "354"),
        ] {
            let reply = self.say(&line);
            if !reply.starts_with(code) {
                return reply;
            }
        }
        self.say(&format!("{text}\r\n."))
    }

    /// Asks for encryption and does it, trusting this authority; what the certificate must be named.
    pub fn starttls(&mut self, authority: &Path, name: &str) {
        self.expect("STARTTLS", "220");
        self.encrypt(authority, name);
    }

    /// The handshake, after STARTTLS was answered.
    pub fn encrypt(&mut self, authority: &Path, name: &str) {
        let mut roots = RootCertStore::empty();
        let pem = std::fs::read(authority).expect("the file of the authority");
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.expect("a certificate")).expect("a certificate");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the versions of rustls")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a configuration");
        let tcp = self.tcp.try_clone().expect("a socket");
        let mut stream = StreamOwned::new(connection, tcp);
        stream.flush().expect("a handshake");
        self.reader = BufReader::new(Stream::Tls(Box::new(stream)));
    }

    /// Whether the other side has closed.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        matches!(self.reader.read(&mut byte), Ok(0) | Err(_))
    }

    /// Says no more.
    pub fn finish(&self) {
        let _ = self.tcp.shutdown(Shutdown::Write);
    }
}
