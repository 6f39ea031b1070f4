//! A client of the policy service that sends whatever a test wants, well formed or not.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::PATIENCE;

/// The port of the policy service on a test's own address.
pub const PORT: u16 = 10040;

/// One connection to a policy service.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<Stream>,
}

/// A connection of either kind.
#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    /// Connects to `ADDRESS:PORT` or `unix:PATH`.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn try_new(address: &str) -> io::Result<Self> {
        let stream = if let Some(path) = address.strip_prefix("unix:") {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Stream::Unix(stream)
        } else {
            let stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            Stream::Tcp(stream)
        };
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// As [`Client::try_new`], where somebody must listen.
    pub fn new(address: &str) -> Self {
        Self::try_new(address).unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The peer has closed, or takes nothing.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Says that nothing more will be sent; answers can still come.
    pub fn finish_sending(&self) {
        // A connection that is closed already has finished.
        let _ = match self.reader.get_ref() {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    /// The next line, its end included, whatever it says; empty if the peer has closed.
    ///
    /// # Errors
    /// No line in time, or bytes that are no text.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        Ok(line)
    }

    /// The next answer without its `action=`; nothing if the peer has closed instead.
    ///
    /// # Errors
    /// No answer in time, or bytes that are no answer.
    pub fn answer(&mut self) -> io::Result<Option<String>> {
        let line = self.line()?;
        if line.is_empty() {
            return Ok(None);
        }
        let end = self.line()?;
        match line.strip_prefix("action=").and_then(|line| line.strip_suffix('\n')) {
            Some(action) if end == "\n" => Ok(Some(action.to_owned())),
            _ => Err(io::Error::other(format!("no answer: {line:?} {end:?}"))),
        }
    }

    /// Sends a request and returns the answer to it.
    pub fn ask(&mut self, request: &str) -> String {
        self.send(request.as_bytes()).expect("the service takes requests");
        self.answer().expect("an answer").expect("an answer, not the end")
    }

    /// Whether the peer closes the connection without another answer.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = [0; 512];
        match self.reader.read(&mut rest) {
            Ok(length) => length == 0,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => true,
            Err(error) => panic!("neither closed nor answered: {error}"),
        }
    }

    /// Sets how long [`Client::answer`] waits.
    pub fn wait_at_most(&self, time: Duration) {
        // It fails for a time of zero only.
        let _ = match self.reader.get_ref() {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(time)),
            Stream::Unix(stream) => stream.set_read_timeout(Some(time)),
        };
    }

    /// Sets how long [`Client::send`] waits for the peer to take something.
    pub fn push_at_most(&self, time: Duration) {
        // As above.
        let _ = match self.reader.get_ref() {
            Stream::Tcp(stream) => stream.set_write_timeout(Some(time)),
            Stream::Unix(stream) => stream.set_write_timeout(Some(time)),
        };
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A request at RCPT as Postfix 3.7 sends it.
pub fn rcpt(client: &str, sender: &str, recipient: &str) -> String {
    request(&[
        ("request", "smtpd_access_policy"),
        ("protocol_state", "RCPT"),
        ("protocol_name", "ESMTP"),
        ("client_address", client),
        ("client_name", "unknown"),
        ("reverse_client_name", "unknown"),
        ("helo_name", "client.example"),
        ("sender", sender),
        ("recipient", recipient),
        ("recipient_count", "0"),
        ("queue_id", ""),
        ("instance", ""),
        ("size", "0"),
        ("sasl_username", ""),
    ])
}

/// A request of these attributes.
pub fn request(attributes: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in attributes {
        text.push_str(name);
        text.push('=');
        text.push_str(value);
        text.push('\n');
    }
    text.push('\n');
    text
}
