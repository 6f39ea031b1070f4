//! One question and one answer over a connection of its own, in as few steps as there are. On this host
//! a connection is open at once; so what is said is handed over before anybody waits, and what is
//! waited for is the answer.

use std::io::{self, IoSlice};

use mpp_config::directory::smtp::Server;
use mpp_hub::spool::Spooled;
use mpp_wire::http::Response;
use socket2::{SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::connect::{PIECE_BYTES, Stream, piece};

/// Bytes of an answer that are read at once.
const READ_BYTES: usize = 4096;

/// What is said: a head, and a message behind it.
#[derive(Clone, Copy)]
pub(crate) struct Question<'q> {
    pub(crate) head: &'q str,
    pub(crate) text: Option<&'q Spooled>,
}

impl Question<'_> {
    fn bytes(self) -> u64 {
        self.head.len() as u64 + self.text.map_or(0, Spooled::bytes)
    }

    /// Says the beginning of it, as far as there is room.
    fn begin(self, socket: &Socket) -> io::Result<u64> {
        let memory = self.text.map_or(&[][..], Spooled::memory);
        let parts = [IoSlice::new(self.head.as_bytes()), IoSlice::new(memory)];
        match socket.send_vectored(&parts) {
            Ok(length) => Ok(length as u64),
            // It is not open yet.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// What comes behind so many bytes, or some of it.
    fn rest<'b>(&'b self, said: u64, buffer: &'b mut Vec<u8>) -> io::Result<&'b [u8]> {
        let place = usize::try_from(said).unwrap_or(usize::MAX);
        match (self.head.as_bytes().get(place..), self.text) {
            (Some(head), _) if !head.is_empty() => Ok(head),
            (_, None) => Ok(&[]),
            (_, Some(text)) => {
                buffer.resize(PIECE_BYTES, 0);
                piece(text, &mut said.saturating_sub(self.head.len() as u64), buffer)
            }
        }
    }
}

/// Asks a server.
///
/// # Errors
/// Why there is no answer, for people.
pub(crate) async fn ask(server: &Server, question: Question<'_>) -> Result<Response, String> {
    let begun = begin(server, question).await;
    let (mut stream, said) = begun.map_err(|error| error.to_string())?;
    let mut response = Response::default();
    let heard = hear((&mut *stream, said), question, &mut response).await;
    heard.map_err(|error| error.to_string())?;
    Ok(response)
}

/// A connection on which so many bytes were said.
type Begun = (Box<dyn Stream>, u64);

/// Connects to the first address of a server that lets us, and begins to speak.
async fn begin(server: &Server, question: Question<'_>) -> io::Result<Begun> {
    let (host, port) = match server {
        Server::Network { host, port } => (host.as_str(), *port),
        Server::Socket(path) => {
            let (socket, said) = open(&SockAddr::unix(path)?, question)?;
            return Ok((Box::new(UnixStream::from_std(socket.into())?), said));
        }
    };
    let mut trouble = io::Error::other("its name has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        match begin_at(&address.into(), question).await {
            Ok(begun) => return Ok(begun),
            Err(error) => trouble = error,
        }
    }
    Err(trouble)
}

async fn begin_at(address: &SockAddr, question: Question<'_>) -> io::Result<Begun> {
    let (socket, said) = open(address, question)?;
    let stream = TcpStream::from_std(socket.into())?;
    if said < question.bytes() {
        // The last piece of many would wait for an acknowledgement (RFC 896).
        stream.set_nodelay(true)?;
    }
    if said == 0 {
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
    }
    Ok((Box::new(stream), said))
}

/// A connection that is open or will be, and how much was said on it.
fn open(address: &SockAddr, question: Question<'_>) -> io::Result<(Socket, u64)> {
    let socket = Socket::new(address.domain(), Type::STREAM.nonblocking(), None)?;
    match socket.connect(address) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let said = question.begin(&socket)?;
    Ok((socket, said))
}

/// Says what is left, and reads the answer.
async fn hear(
    (stream, mut said): (&mut dyn Stream, u64),
    question: Question<'_>,
    response: &mut Response,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    while said < question.bytes() {
        match stream.write(question.rest(said, &mut buffer)?).await {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => said += length as u64,
            // It listens no more, and may have said why.
            Err(_) => break,
        }
    }
    drop(buffer);
    let mut bytes = [0; READ_BYTES];
    loop {
        let length = stream.read(&mut bytes).await?;
        let heard = bytes.get(..length).unwrap_or_default();
        if length == 0 || response.feed(heard).map_err(io::Error::other)? {
            return Ok(());
        }
    }
}
