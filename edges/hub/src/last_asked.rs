//! When each door was asked last, and about whom: whether a mail server asks at all is the first thing
//! to know of a node that seems to do nothing.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use mpp_operations::status::LastAsked;

use crate::hub::Asked;

/// The doors, as the log calls them.
const DOORS: [&str; 3] = ["policy", "milter", "proxy"];

/// One slot a door. They are written at every decision, so nothing is locked: a reader may see the time
/// of one question with the client of another, a moment apart.
#[derive(Debug, Default)]
pub(crate) struct Doors([Slot; DOORS.len()]);

#[derive(Debug, Default)]
struct Slot {
    at_ms: AtomicU64,
    client: [AtomicU64; 2],
}

impl Doors {
    /// Notes a question.
    pub(crate) fn note(&self, asked: &Asked<'_>, now_ms: u64) {
        let door = DOORS.iter().position(|door| *door == asked.door);
        let Some(slot) = door.and_then(|door| self.0.get(door)) else { return };
        let bits = match asked.client {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        };
        let [high, low] = &slot.client;
        let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or_default();
        high.store(half(bits >> 64), Ordering::Relaxed);
        low.store(half(bits), Ordering::Relaxed);
        slot.at_ms.store(now_ms, Ordering::Relaxed);
    }

    /// What is known of each door.
    pub(crate) fn report(&self, now_ms: u64) -> Vec<LastAsked> {
        let of = |(door, slot): (&&str, &Slot)| {
            let at_ms = slot.at_ms.load(Ordering::Relaxed);
            let [high, low] = [0, 1].map(|half| {
                slot.client.get(half).map_or(0, |half: &AtomicU64| half.load(Ordering::Relaxed))
            });
            let client = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
            let is_asked = at_ms > 0;
            LastAsked {
                door: (*door).to_owned(),
                ago_ms: is_asked.then(|| now_ms.saturating_sub(at_ms)),
                client: is_asked.then(|| IpAddr::from(client).to_canonical().to_string()),
            }
        };
        DOORS.iter().zip(&self.0).map(of).collect()
    }
}
