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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use mpp_config::Spool as Settings;
    use mpp_hub::spool::Spool;

    use super::*;

    /// Hears all of a question of so many bytes, and answers with how many there were.
    fn answer(mut stream: impl io::Read + io::Write, bytes: u64) -> u64 {
        let mut heard = vec![0; usize::try_from(bytes).unwrap()];
        stream.read_exact(&mut heard).unwrap();
        let sum = heard.iter().map(|byte| u64::from(*byte)).sum();
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(b"done and more").unwrap();
        sum
    }

    #[tokio::test]
    async fn a_question_is_said_whole_however_long_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { message_memory: 100_000, memory: 1 << 30, size: 1 << 30 };
        let spool = Spool::new(&folder.path().join("spool"), &settings);
        let path = folder.path().join("socket");
        let (tcp, unix) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), UnixListener::bind(&path).unwrap());
        let port = tcp.local_addr().unwrap().port();
        let near = Server::Socket(path.to_str().unwrap().into());
        // The name has an address of IPv6 too on most hosts, where nobody listens.
        let far = Server::Network { host: "localhost".into(), port };
        for length in [0_usize, 1, 99_999, 8 << 20] {
            let mut writer = spool.begin();
            let text: Vec<u8> = (0..=250).cycle().take(length).collect();
            text.chunks(30_000).for_each(|piece| writer.write(piece).unwrap());
            let text = writer.finish();
            let head = "POST / HTTP/1.0\r\n\r\n";
            let question = Question { head, text: Some(&text) };
            let bytes = question.bytes();
            let whole = head.bytes().map(u64::from).sum::<u64>()
                + text.head(usize::MAX).unwrap().iter().map(|byte| u64::from(*byte)).sum::<u64>();
            let copies = (tcp.try_clone().unwrap(), unix.try_clone().unwrap());
            let heard = std::thread::spawn(move || {
                let first = answer(copies.0.accept().unwrap().0, bytes);
                (first, answer(copies.1.accept().unwrap().0, bytes))
            });
            for server in [&far, &near] {
                let response = ask(server, question).await.unwrap();
                assert_eq!(response.body(), Ok(&b"done"[..]), "{server}, {length} bytes");
            }
            assert_eq!(heard.join().unwrap(), (whole, whole), "{length} bytes");
        }
        drop((tcp, unix));
        for server in [far, near] {
            let trouble = ask(&server, Question { head: "x", text: None }).await.unwrap_err();
            assert!(trouble.contains("refused"), "{server}: {trouble}");
        }
    }
}
