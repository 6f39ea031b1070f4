//! What ties the requests of one transaction together, and those of several doors.

use mpp_config::Configuration;
use mpp_engine::facts::{Facts, Stage};
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
    /// That what the message in the queue uses is counted; 0 before it has an id.
    pub(crate) counted: u64,
    /// That this door has let the recipient of this connection through, and that the other door of the same
    /// mail server has; 0 where there is no other.
    pub(crate) here: u64,
    pub(crate) there: u64,
}

impl Ties {
    pub(crate) fn of(facts: &Facts<'_>, door: &str, configuration: &Configuration) -> Self {
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
        // Postfix may ask by policy service and milter about one recipient, one after the other.
        let envelope = ring.pair(connection, facts.keys.sender.max(1));
        let asked = ring.pair(envelope, facts.keys.recipient);
        let (policy, milter) = (ring.pair(asked, 0x200_0000), ring.pair(asked, 0x400_0000));
        let (here, there) = match (facts.stage, door) {
            (Stage::Rcpt, "policy") => (policy, milter),
            (Stage::Rcpt, "milter") => (milter, policy),
            _ => (0, 0),
        };
        Self {
            request,
            instance,
            transaction,
            connection,
            context,
            queued,
            unknown,
            counted: ring.pair(queued, 0x100_0000),
            here,
            there,
        }
    }
}

/// What ties those together who see a message by its queue id; 0 without one.
pub(crate) fn queue_tie(ring: Keyring, queue_id: &str) -> u64 {
    if queue_id.is_empty() { 0 } else { ring.pair(ring.text(queue_id), 0x40_0000) }
}
