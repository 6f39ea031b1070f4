//! The floor: reads requests, looks for their ends, and always answers `DUNNO`. One thread, one
//! epoll, no allocation per request.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};

const ANSWER: &[u8] = b"action=DUNNO\n\n";

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

/// Whether the arguments of a benchmark ask it to be the null responder, `null ADDRESS`, as it asks
/// of a second process of itself; then it answers until it is ended.
///
/// # Panics
/// The address cannot be used.
pub fn serve_if_asked(arguments: &[String]) -> bool {
    match arguments {
        [null, address] if null == "null" => {
            serve(address).expect("the null responder");
            true
        }
        _ => false,
    }
}

/// Answers for ever.
///
/// # Errors
/// The address cannot be used.
pub fn serve(address: &str) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let (mut tcp, mut unix) = match address.strip_prefix("unix:") {
        Some(path) => (None, Some(UnixListener::bind(path)?)),
        None => (Some(TcpListener::bind(address.parse().map_err(io::Error::other)?)?), None),
    };
    let listener = Token(usize::MAX);
    if let Some(tcp) = &mut tcp {
        poll.registry().register(tcp, listener, Interest::READABLE)?;
    }
    if let Some(unix) = &mut unix {
        poll.registry().register(unix, listener, Interest::READABLE)?;
    }
    // Connections by token, and whether the last byte read of each was a line end.
    let mut open: BTreeMap<usize, (Box<dyn Stream>, bool)> = BTreeMap::new();
    let (mut next, mut events) = (0, Events::with_capacity(1024));
    let (mut bytes, mut out) = (vec![0; 64 << 10], Vec::new());
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            if event.token() != listener {
                let Some((stream, line_end)) = open.get_mut(&event.token().0) else { continue };
                if !answer(stream, line_end, &mut bytes, &mut out) {
                    open.remove(&event.token().0);
                }
                continue;
            }
            loop {
                let registry = poll.registry();
                let stream: io::Result<Box<dyn Stream>> = match (&tcp, &unix) {
                    (Some(tcp), _) => tcp.accept().and_then(|(mut stream, _)| {
                        registry.register(&mut stream, Token(next), Interest::READABLE)?;
                        Ok(Box::new(stream) as Box<dyn Stream>)
                    }),
                    (_, Some(unix)) => unix.accept().and_then(|(mut stream, _)| {
                        registry.register(&mut stream, Token(next), Interest::READABLE)?;
                        Ok(Box::new(stream) as Box<dyn Stream>)
                    }),
                    _ => return Ok(()),
                };
                let Ok(stream) = stream else { break };
                open.insert(next, (stream, false));
                next += 1;
            }
        }
    }
}

/// Answers what a connection has sent. False: it is over.
fn answer(
    stream: &mut Box<dyn Stream>,
    line_end: &mut bool,
    bytes: &mut [u8],
    out: &mut Vec<u8>,
) -> bool {
    loop {
        match stream.read(bytes) {
            Ok(0) => return false,
            Ok(length) => {
                let read = bytes.get(..length).unwrap_or_default();
                out.clear();
                if *line_end && read.first() == Some(&b'\n') {
                    out.extend_from_slice(ANSWER);
                }
                memchr::memmem::find_iter(read, b"\n\n").for_each(|_| {
                    out.extend_from_slice(ANSWER);
                });
                *line_end = read.last() == Some(&b'\n') && !read.ends_with(b"\n\n");
                if !out.is_empty() && stream.write_all(out).is_err() {
                    return false;
                }
                if length < bytes.len() {
                    return true;
                }
            }
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}
