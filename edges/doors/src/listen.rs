//! Listening sockets, TCP and unix, and the connections that they take.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::server::TlsStream;

/// Connections that wait to be taken, at the most.
const BACKLOG: i32 = 4096;

/// A socket that takes connections. It can be copied for each worker thread.
#[derive(Debug)]
pub enum Listener {
    /// `ADDRESS:PORT`.
    Tcp(std::net::TcpListener),
    /// `unix:PATH`; the file is removed with the last copy.
    Unix(std::os::unix::net::UnixListener, Arc<SocketFile>),
}

/// The file of a unix socket, removed when nobody listens any more.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already; there is nobody to tell.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Listens on `ADDRESS:PORT` or `unix:PATH`. A unix socket may be used by everybody who can
    /// reach its directory, as Postfix's own are; one that a dead process left is replaced.
    ///
    /// # Errors
    /// The address is taken or not ours; the message names it.
    pub fn bind(address: &str) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        match address.strip_prefix("unix:") {
            Some(path) => bind_unix(Path::new(path), 0o666).map_err(named),
            None => bind_tcp(address).map_err(named),
        }
    }

    /// Where it listens: a port 0 has become a real one.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| String::new(), |address| address.to_string())
            }
            Self::Unix(_, file) => format!("unix:{}", file.0.display()),
        }
    }

    /// Another handle of the same socket.
    ///
    /// # Errors
    /// No more file descriptors.
    pub fn copy(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(listener) => Ok(Self::Tcp(listener.try_clone()?)),
            Self::Unix(listener, file) => Ok(Self::Unix(listener.try_clone()?, Arc::clone(file))),
        }
    }

    /// Takes connections for ever; `serve` gets each with its peer's address.
    pub async fn accept<F: Future<Output = ()> + Send + 'static>(
        self,
        open: Arc<Places>,
        serve: impl Fn(Connection, Option<SocketAddr>, Place) -> F,
    ) {
        let taker = match Taker::new(&self) {
            Ok(taker) => taker,
            Err(error) => return crate::warn(&format!("{}: {error}", self.address())),
        };
        loop {
            match taker.take().await {
                Ok((connection, peer)) => match Places::take(&open) {
                    Some(place) => drop(tokio::spawn(serve(connection, peer, place))),
                    None => crate::warn(&format!(
                        "{}: over {} connections, one closed",
                        self.address(),
                        open.most
                    )),
                },
                // Out of file descriptors: wait for some to come back, do not spin.
                Err(error) => {
                    crate::warn(&format!("{}: {error}", self.address()));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

fn bind_tcp(address: &str) -> io::Result<Listener> {
    let address: SocketAddr = address.parse().map_err(|_| io::Error::other("not ADDRESS:PORT"))?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        // `[::]` beside `0.0.0.0`, as administrators write it: each takes its own.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(Listener::Tcp(socket.into()))
}

/// Listens on a path with these permissions.
///
/// # Errors
/// The path cannot be used, or somebody listens there.
pub fn bind_unix(path: &Path, mode: u32) -> io::Result<Listener> {
    if let Ok(data) = std::fs::symlink_metadata(path) {
        if !data.file_type().is_socket() {
            return Err(io::Error::other("there is a file that is no socket"));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody listens there"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(Listener::Unix(listener, Arc::new(SocketFile(path.to_owned()))))
}

enum Taker {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Taker {
    fn new(listener: &Listener) -> io::Result<Self> {
        Ok(match listener {
            Listener::Tcp(tcp) => Self::Tcp(TcpListener::from_std(tcp.try_clone()?)?),
            Listener::Unix(unix, _) => Self::Unix(UnixListener::from_std(unix.try_clone()?)?),
        })
    }

    async fn take(&self) -> io::Result<(Connection, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Connection::Tcp(stream), Some(peer)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Connection::Unix(stream), None))
            }
        }
    }
}

/// How many connections may be open at once.
#[derive(Debug)]
pub struct Places {
    most: usize,
    taken: AtomicUsize,
}

/// The place of one connection, free again when dropped.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Places {
    /// Room for so many.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: AtomicUsize::new(0) })
    }

    fn take(places: &Arc<Self>) -> Option<Place> {
        let before = places.taken.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(places));
        (before < places.most).then_some(place)
    }

    /// How many are open.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection of either kind.
#[derive(Debug)]
pub enum Connection {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
    /// Either of them, encrypted.
    Tls(Box<TlsStream<Self>>),
    /// None any more.
    Closed,
}

impl Connection {
    /// Says at once that what was read has come, where no answer says it. A peer that has more to send
    /// holds it back until then (RFC 896), and the kernel would take 40 ms over it (RFC 1122
    /// section 4.2.3.2).
    pub(crate) fn acknowledge(&self) {
        #[cfg(target_os = "linux")]
        if let Self::Tcp(stream) = self {
            // Without it everything is as slow as it would be.
            let _ = stream.set_quickack(true);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }
}
