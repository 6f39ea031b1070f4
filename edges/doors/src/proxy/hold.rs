//! For how long a message has a connection to its next hop: none that waits for a client to speak. Whoever
//! is silent gives the connection back and gets another one when he goes on.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::{Instant, timeout_at};

use super::reply::{Answer, NO_HOP, NOT_NOW, Own};
use super::session::{Session, read};
use super::transaction::Said;

/// Text that is kept back before the next hop is told of it, in bytes: most messages are there whole by
/// then.
const PENDING_BYTES_MAX: usize = 64 * 1024;
/// A connection to the hop waits no longer than this for a client that says nothing.
pub(super) const HOLD: Duration = Duration::from_secs(5);
/// In so long a text has to grow by so many bytes: no line is as slow, but who holds places is.
const RATE_TIME: Duration = Duration::from_mins(1);
const RATE_BYTES: usize = 4 * 1024;

/// When all connections to a hop, or a client's share of them, are taken.
const BUSY: Own = Own(451, "4.3.2 Too many messages at once, try again later");

/// How a text has grown of late.
#[derive(Debug)]
pub(crate) struct Growth {
    since: Instant,
    bytes: usize,
}

impl Default for Growth {
    fn default() -> Self {
        Self { since: Instant::now(), bytes: 0 }
    }
}

impl Growth {
    /// Takes so many bytes more; whether it grows too slowly.
    fn is_too_slow(&mut self, bytes: usize, now: Instant) -> bool {
        self.bytes += bytes;
        if now - self.since < RATE_TIME {
            return false;
        }
        let is_slow = self.bytes < RATE_BYTES;
        *self = Self { since: now, bytes: 0 };
        is_slow
    }
}

impl Session {
    /// Reads some bytes of a message before a time, and before the client has been silent for too long.
    pub(crate) async fn read_text(&mut self, until: Instant) -> io::Result<usize> {
        let now = Instant::now();
        let silent = now + self.setup.text_time(&self.door.gate);
        let until = until.min(self.ends).min(silent);
        let mut length = None;
        if self.holds_hop() {
            let held =
                timeout_at(until.min(now + HOLD), read(&mut self.io, &mut self.decoder)).await;
            match held {
                Ok(read) => length = Some(read?),
                Err(_) => self.release_hop(),
            }
        }
        let length = match length {
            Some(length) => length,
            None => timeout_at(until, read(&mut self.io, &mut self.decoder)).await??,
        };
        let is_slow = self.growth.is_too_slow(length, Instant::now());
        if is_slow { Err(io::ErrorKind::TimedOut.into()) } else { Ok(length) }
    }

    /// Whether a connection to the hop waits for the client.
    pub(super) fn holds_hop(&self) -> bool {
        self.transaction.as_ref().is_some_and(|message| {
            message.hop.is_some() && !message.is_text && message.edits.is_none()
        })
    }

    /// Gives the connection to the hop back while the client says nothing.
    pub(super) fn release_hop(&mut self) {
        let Some(message) = &mut self.transaction else { return };
        let Some(hop) = message.hop.take() else { return };
        let (is_begun, place) = (std::mem::take(&mut message.is_begun), message.place.take());
        self.door.pool.give_back((hop, is_begun), place, &self.setup);
    }

    /// Whose share of what all need a message is on: a client and its network. Our own have all of it.
    pub(super) fn stranger(&self) -> Option<(IpAddr, IpNet)> {
        let client = self.client.address.filter(|_| !self.is_spared)?;
        let configuration = &self.door.hub.live().configuration;
        let networks = &configuration.networks;
        let is_ours = networks.local.contains(client) || networks.trusted.contains(client);
        let network = configuration.ring.network_of(client);
        (!is_ours).then(|| (if client.is_ipv6() { network.addr() } else { client }, network))
    }

    /// A place among those who have a connection to the hop, if the message has none.
    ///
    /// # Errors
    /// What to tell the client at once.
    pub(super) fn take_place(&mut self, route: usize) -> Result<(), Answer> {
        let client = self.stranger();
        let Some(message) = &mut self.transaction else { return Ok(()) };
        if message.place.is_some() {
            return Ok(());
        }
        let most = self.setup.proxy.limits.hop_connections;
        message.place = self.door.gate.enter_hop(route, client, most);
        if message.place.is_some() { Ok(()) } else { Err(BUSY.into()) }
    }

    /// Connects to the hop again and says all that it had been told.
    ///
    /// # Errors
    /// What to tell the client.
    pub(super) async fn restore_hop(&mut self) -> Result<(), Answer> {
        let route = match &self.transaction {
            Some(message) if message.hop.is_none() => message.route.unwrap_or(0),
            _ => return Ok(()),
        };
        self.take_place(route)?;
        let Self { door, setup, client, transaction, .. } = self;
        let Some(message) = transaction.as_deref_mut() else { return Err(NO_HOP.into()) };
        let opened = door.pool.take(&door.gate, setup, route).await;
        message.hop = Some(opened.map_err(|trouble| {
            crate::warn(&format!("proxy {}: {trouble}", setup.proxy.name));
            Answer::from(NO_HOP)
        })?);
        let named: Vec<(String, String)> =
            message.named.iter().map(|it| (it.path.clone(), it.parameters.clone())).collect();
        for (path, parameters) in &named {
            match message.name(&setup.proxy, client, (path, parameters)).await {
                Ok(Said::Reply(reply)) if reply.is_positive() => {}
                // It had taken him before: the client is to ask anew, and hear it for that one.
                Ok(Said::Reply(_)) => return Err(NOT_NOW.into()),
                Ok(Said::Cannot(answer)) => return Err(answer),
                Err(_) => return Err(NO_HOP.into()),
            }
        }
        Ok(())
    }

    /// Keeps text back until there is enough of it to tell the next hop.
    pub(super) async fn keep_back(&mut self, text: &mut Vec<u8>) {
        let Some(message) = &mut self.transaction else { return };
        let Some(pending) = &mut message.pending else { return };
        pending.append(text);
        if pending.len() < PENDING_BYTES_MAX || message.fault.is_some() {
            return;
        }
        if let Err(answer) = self.begin_at_hop().await
            && let Some(message) = &mut self.transaction
        {
            message.hop = None;
            message.fault = Some(answer);
        }
    }

    /// Tells the next hop of a text that was kept back, if it was not told yet.
    ///
    /// # Errors
    /// What to tell the client instead.
    pub(super) async fn begin_at_hop(&mut self) -> Result<(), Answer> {
        let pending = self.transaction.as_mut().and_then(|message| message.pending.take());
        let Some(pending) = pending else { return Ok(()) };
        self.restore_hop().await?;
        let Some(message) = &mut self.transaction else { return Err(NO_HOP.into()) };
        let Some(hop) = &mut message.hop else { return Err(NO_HOP.into()) };
        match hop.data().await {
            Ok(None) => {}
            Ok(Some(refusal)) => return Err(Answer::from(&refusal)),
            Err(_) => {
                message.hop = None;
                return Err(NO_HOP.into());
            }
        }
        message.is_text = true;
        if !pending.is_empty() && hop.write(&pending).await.is_err() {
            message.hop = None;
            return Err(NO_HOP.into());
        }
        Ok(())
    }
}
