//! A client that is not wanted: it opens connections as fast as it can, reads what it is told, and
//! counts how often it was turned away.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

/// Connections that are open at once.
const AT_ONCE: usize = 64;
/// The network that the client comes from: many addresses, so that ports do not run out.
pub const NETWORK: &str = "127.9.0.0/16";

/// What became of the connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Told a 4xx or 5xx, and closed.
    pub turned_away: u64,
    /// Closed without a word.
    pub silent: u64,
    /// Welcomed.
    pub welcomed: u64,
}

struct Caller {
    stream: TcpStream,
    /// The first byte of what it was told.
    told: Option<u8>,
}

enum Heard {
    More,
    Welcome,
    Refusal,
    Nothing,
}

impl Caller {
    /// Reads all that there is: it is said once that there is something.
    fn hear(&mut self, bytes: &mut [u8]) -> Heard {
        loop {
            match self.stream.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::More,
                Ok(1..) => self.told = self.told.or(bytes.first().copied()),
                // A connection that is reset is closed.
                Ok(0) | Err(_) => {
                    let is_refusal = matches!(self.told, Some(b'4' | b'5'));
                    return if is_refusal { Heard::Refusal } else { Heard::Nothing };
                }
            }
            if self.told == Some(b'2') {
                return Heard::Welcome;
            }
        }
    }
}

/// Calls for so long.
///
/// # Errors
/// No sockets, or no ports.
pub fn call(server: SocketAddr, time: Duration) -> io::Result<Count> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut callers = BTreeMap::new();
    let (mut number, mut count) = (0_u32, Count::default());
    let end = Instant::now() + time;
    for place in 0..AT_ONCE {
        callers.insert(place, begin(&poll, server, (place, &mut number))?);
    }
    let mut bytes = [0; 1024];
    while Instant::now() < end {
        poll.poll(&mut events, Some(Duration::from_millis(100)))?;
        for event in &events {
            let place = event.token().0;
            let Some(caller) = callers.get_mut(&place) else { continue };
            match caller.hear(&mut bytes) {
                Heard::More => continue,
                Heard::Welcome => count.welcomed += 1,
                Heard::Refusal => count.turned_away += 1,
                Heard::Nothing => count.silent += 1,
            }
            callers.insert(place, begin(&poll, server, (place, &mut number))?);
        }
    }
    Ok(count)
}

fn begin(
    poll: &Poll,
    server: SocketAddr,
    (place, number): (usize, &mut u32),
) -> io::Result<Caller> {
    *number = number.wrapping_add(1);
    let own = Ipv4Addr::from_bits(0x7f09_0000 | (*number * 7919) & 0xffff | 1);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(IpAddr::V4(own), 0).into())?;
    match socket.connect(&server.into()) {
        Ok(()) => {}
        // It is under way.
        Err(error) if error.raw_os_error() == Some(115) => {}
        Err(error) => return Err(error),
    }
    let mut stream = TcpStream::from_std(socket.into());
    poll.registry().register(&mut stream, Token(place), Interest::READABLE)?;
    Ok(Caller { stream, told: None })
}
