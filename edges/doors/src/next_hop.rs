//! The client's side of a proxy: one connection to the next hop, command by command.

use std::io;
use std::time::Duration;

use mpp_wire::smtp::{Decoder, Reply};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A next hop that does not let connect for so long is dead.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take (RFC 5321 section 4.5.3.2: five minutes, ten for the last).
const REPLY_TIMEOUT: Duration = Duration::from_mins(5);
const END_TIMEOUT: Duration = Duration::from_mins(10);
/// A next hop that takes nothing for so long is dead.
const WRITE_TIMEOUT: Duration = Duration::from_mins(3);

/// A connection to the next hop that has been greeted.
pub(crate) struct NextHop {
    stream: TcpStream,
    decoder: Decoder,
    /// What it offers, as its answer to EHLO says.
    pub(crate) offers: Reply,
}

impl NextHop {
    /// Connects to the first that answers, and greets it.
    ///
    /// # Errors
    /// None does; the text is for the log.
    pub(crate) async fn open(addresses: &[String], name: &str) -> Result<Self, String> {
        let mut troubles = Vec::new();
        for address in addresses {
            match Self::connect(address, name).await {
                Ok(hop) => return Ok(hop),
                Err(error) => troubles.push(format!("{address}: {error}")),
            }
        }
        Err(troubles.join("; "))
    }

    async fn connect(address: &str, name: &str) -> io::Result<Self> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let offers = Reply { code: 250, enhanced: None, lines: Vec::new() };
        let mut hop = Self { stream, decoder: Decoder::default(), offers };
        let greeting = hop.reply(REPLY_TIMEOUT).await?;
        if greeting.code != 220 {
            return Err(io::Error::other(format!("it says {} {}", greeting.code, greeting.text())));
        }
        hop.offers = hop.say(&format!("EHLO {name}\r\n")).await?;
        if hop.offers.code != 250 {
            hop.offers = hop.say(&format!("HELO {name}\r\n")).await?;
        }
        if hop.offers.code == 250 {
            Ok(hop)
        } else {
            Err(io::Error::other(format!("it says {} {}", hop.offers.code, hop.offers.text())))
        }
    }

    /// Says a line and waits for the answer.
    pub(crate) async fn say(&mut self, line: &str) -> io::Result<Reply> {
        self.write(line.as_bytes()).await?;
        self.reply(REPLY_TIMEOUT).await
    }

    /// Passes text on.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(WRITE_TIMEOUT, self.stream.write_all(bytes)).await?
    }

    /// Ends the text of a message, and waits for what becomes of it.
    pub(crate) async fn end(&mut self) -> io::Result<Reply> {
        self.write(b".\r\n").await?;
        self.reply(END_TIMEOUT).await
    }

    async fn reply(&mut self, patience: Duration) -> io::Result<Reply> {
        let mut bytes = [0; 2048];
        let read = async {
            loop {
                match self.decoder.next_reply() {
                    Some(Ok(reply)) if self.decoder.held() == 0 => return Ok(reply),
                    // What was not asked for would be taken for the answer to the next question.
                    Some(Ok(_)) => return Err(io::Error::other("it answers more than was asked")),
                    Some(Err(fault)) => return Err(io::Error::other(format!("it sends {fault}"))),
                    None => {}
                }
                match self.stream.read(&mut bytes).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    length => self.decoder.feed(bytes.get(..length).unwrap_or_default()),
                }
            }
        };
        timeout(patience, read).await?
    }
}
