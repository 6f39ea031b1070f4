//! Connections to scanners, and the pieces of a message that go over them.

use std::io;

use mpp_config::directory::smtp::Server;
use mpp_hub::spool::Spooled;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

/// Bytes that are read from the spool at once.
pub(crate) const PIECE_BYTES: usize = 32 * 1024;

/// What a connection can do.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to a server.
pub(crate) async fn connect(server: &Server) -> io::Result<Box<dyn Stream>> {
    Ok(match server {
        Server::Network { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Server::Socket(path) => Box::new(UnixStream::connect(path).await?),
    })
}

/// What a scanner says to a word; no scanner says much.
///
/// # Errors
/// Why not, for people.
pub(crate) async fn said_to(server: &Server, word: &[u8]) -> Result<Vec<u8>, String> {
    let said = async {
        let mut stream = connect(server).await?;
        stream.write_all(word).await?;
        stream.flush().await?;
        read_all(&mut *stream, 1000).await
    };
    said.await.map_err(|error: io::Error| error.to_string())
}

/// Reads to the end, or up to a bound.
pub(crate) async fn read_all(stream: &mut dyn Stream, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = stream.take(most as u64 + 1).read_to_end(&mut bytes).await?;
    if read > most {
        return Err(io::Error::other("it says too much"));
    }
    Ok(bytes)
}

/// The next piece of a message; empty at its end.
pub(crate) fn piece<'b>(
    text: &Spooled,
    place: &mut u64,
    buffer: &'b mut [u8],
) -> io::Result<&'b [u8]> {
    let length = text.read_at(*place, buffer)?;
    *place += length as u64;
    Ok(buffer.get(..length).unwrap_or_default())
}
