//! A piece of network between a client and a server, that fails as networks do.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What the network does to every byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Each piece comes so much later.
    Slow(Duration),
    /// What is sent arrives nowhere, and nobody is told: a cable that was pulled.
    HalfOpen,
    /// One byte at a time, with so much between them.
    Trickle(Duration),
    /// Connections are reset, and new ones too.
    Reset,
}

/// A relay to one server.
#[derive(Debug)]
pub struct Wire {
    place: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    fault: Mutex<Fault>,
    open: Mutex<Vec<TcpStream>>,
    is_over: AtomicBool,
    server: String,
}

impl Shared {
    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire {
    /// Listens on a free port, and relays to a server.
    pub fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let place = listener.local_addr().expect("it is bound").to_string();
        let shared = Arc::new(Shared {
            fault: Mutex::new(Fault::None),
            open: Mutex::default(),
            is_over: AtomicBool::new(false),
            server: server.to_owned(),
        });
        let relay = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if relay.is_over.load(Ordering::Relaxed) {
                    return;
                }
                relay_one(client, &relay);
            }
        });
        Self { place, shared }
    }

    /// Where to connect to.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// From now on the network does this.
    pub fn fail(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        if fault == Fault::Reset {
            for stream in self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..)
            {
                // It may be over already.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.fail(Fault::Reset);
        // Wakes the relay, so that it sees that it is over.
        let _ = TcpStream::connect(&self.place);
    }
}

fn relay_one(client: TcpStream, shared: &Arc<Shared>) {
    if shared.fault() == Fault::Reset {
        return;
    }
    let Ok(server) = TcpStream::connect(&shared.server) else { return };
    let (Ok(to_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) else { return };
    for stream in [&client, &server] {
        if let Ok(copy) = stream.try_clone() {
            shared.open.lock().unwrap_or_else(PoisonError::into_inner).push(copy);
        }
    }
    for (from, to) in [(client, to_server), (server, to_client)] {
        let shared = Arc::clone(shared);
        std::thread::spawn(move || pass_on(from, to, &shared));
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(length) = from.read(&mut bytes) {
        if length == 0 {
            break;
        }
        let read = bytes.get(..length).unwrap_or_default();
        let passed = match shared.fault() {
            Fault::None => to.write_all(read),
            Fault::Slow(by) => {
                std::thread::sleep(by);
                to.write_all(read)
            }
            Fault::HalfOpen => Ok(()),
            Fault::Trickle(between) => read.iter().try_for_each(|byte| {
                // A fault that is over lets the rest through at once.
                if matches!(shared.fault(), Fault::Trickle(_)) {
                    std::thread::sleep(between);
                }
                to.write_all(&[*byte])
            }),
            Fault::Reset => break,
        };
        if passed.is_err() {
            break;
        }
    }
    // Either side may have ended it already.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
