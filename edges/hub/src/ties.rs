//! What ties the requests of one transaction together, and those of several doors.

use mpp_config::Configuration;
use mpp_engine::facts::Facts;
use mpp_engine::identity::Keyring;

/// The hashes that tie requests together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ties {
    /// This very request; 0 if it cannot be known again.
    pub(crate) request: u64,
    /// The transaction; 0 without one.
    pub(crate) instance: u64,
    /// That a recipient of it was let through; 0 without one.
    pub(crate) transaction: u64,
    /// The client's connection; 0 if not known.
    pub(crate) connection: u64,
    /// The listener that asks.
    pub(crate) context: u64,
    /// The message in the queue; 0 before it has an id.
    pub(crate) queued: u64,
    /// That mpp has refused this recipient of this connection as nobody; 0 where nobody asks.
    pub(crate) unknown: u64,
}

impl Ties {
    pub(crate) fn of(facts: &Facts<'_>, configuration: &Configuration) -> Self {
        let ring = configuration.ring;
        let instance = ring.text(facts.instance);
        let context = if facts.context.is_empty() { 1 } else { ring.text(facts.context) };
        let stage = 1 + facts.stage as u64;
        let place = ring.pair(facts.keys.recipient.max(1), context ^ stage);
        let connection = if facts.client_port == 0 {
            0
        } else {
            ring.pair(ring.host(facts.client), 0x10_0000 + u64::from(facts.client_port))
        };
        let transaction = ring.pair(instance, 0x20_0000);
        let queue_id = facts.queue_id;
        let queued = queue_tie(ring, queue_id);
        let request = ring.pair(instance, place);
        let unknown = if configuration.listen.milter_rejected && connection != 0 {
            ring.pair(ring.pair(connection, facts.keys.recipient), 0x80_0000)
        } else {
            0
        };
        Self { request, instance, transaction, connection, context, queued, unknown }
    }
}

/// What ties those together who see a message by its queue id; 0 without one.
pub(crate) fn queue_tie(ring: Keyring, queue_id: &str) -> u64 {
    if queue_id.is_empty() { 0 } else { ring.pair(ring.text(queue_id), 0x40_0000) }
}
