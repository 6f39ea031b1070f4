//! Who waits for a scanner: so many in all, and of one client no more than its share, so that nobody
//! fills the queue alone.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One client has at most one of so many places.
const SHARE: usize = 4;
/// A client of IPv6 is its /64.
const HOST_BITS: u32 = 64;

/// Scans that have a place or wait for one.
pub(crate) struct Queue {
    most: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

/// One that waits, until it is dropped, also by a scan that nobody waits for any more.
pub(crate) struct Waits<'q> {
    queue: &'q Queue,
    client: IpAddr,
}

impl Queue {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, waiting: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().all
    }

    /// A place for a scan of a client's message; nothing if there is none for it. What this host
    /// itself hands in is not one client's.
    pub(crate) fn enter(&self, client: IpAddr) -> Option<Waits<'_>> {
        let client = subject(client);
        let mut waiting = self.lock();
        let own = waiting.of.get(&client).copied().unwrap_or(0);
        let share = if client.is_loopback() { self.most } else { (self.most / SHARE).max(1) };
        if waiting.all >= self.most || own >= share {
            return None;
        }
        waiting.all += 1;
        *waiting.of.entry(client).or_default() += 1;
        Some(Waits { queue: self, client })
    }
}

/// Whose share it is.
fn subject(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(it) if !it.is_loopback() => {
            Ipv6Addr::from_bits(it.to_bits() >> HOST_BITS << HOST_BITS).into()
        }
        other => other,
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        waiting.all = waiting.all.saturating_sub(1);
        if let Some(own) = waiting.of.get_mut(&self.client) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                waiting.of.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_fills_the_queue_alone_and_what_leaves_gives_its_place_back() {
        let queue = Queue::new(16);
        let client = |text: &str| text.parse::<IpAddr>().unwrap();
        for (one, other) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1", "::ffff:192.0.2.1"),
            ("2001:db8::1", "2001:db8::ffff:1"),
        ] {
            let mut held: Vec<_> = (0..4).map(|_| queue.enter(client(one)).unwrap()).collect();
            assert!(queue.enter(client(other)).is_none(), "{other}");
            let others = queue.enter(client("192.0.2.9")).unwrap();
            held.pop();
            assert!(queue.enter(client(other)).is_some());
            drop((held, others));
            assert_eq!(queue.waiting(), 0);
        }
        assert!(queue.lock().of.is_empty(), "nothing is left of who is gone");
    }

    #[test]
    fn it_has_a_bound_and_this_host_may_have_all_of_it() {
        let queue = Queue::new(8);
        let own: Vec<_> = (0..8).map(|_| queue.enter(Ipv6Addr::LOCALHOST.into())).collect();
        assert!(own.iter().all(Option::is_some) && queue.waiting() == 8);
        assert!(queue.enter("192.0.2.1".parse().unwrap()).is_none());
        drop(own);
        let small = Queue::new(2);
        assert!(small.enter("192.0.2.1".parse().unwrap()).is_some(), "one always");
    }
}
