//! Where a decision meets the world: the store trait, the clock, and the one loop that waits.
//!
//! A door makes an [`Asked`] of what it read and hands it to [`Hub::judge`]: lower-case texts and
//! keys become facts, a policy is found, the engine decides with the answers of the store, effects
//! are performed, statistics counted and a line logged. Doors know no check, and checks know no
//! door.

mod asked;
pub mod board;
pub mod clock;
pub mod delivered;
mod directories;
pub mod directory;
mod dry;
mod facts;
mod funnel;
pub mod hex;
pub mod html;
mod hub;
pub mod id;
pub mod import;
mod known;
mod last_asked;
mod line;
pub mod log;
mod passing;
pub mod quarantine;
mod resolve;
mod room;
mod say;
pub mod scanner;
pub mod session;
mod settle;
mod sketch;
mod spared;
pub mod spool;
pub mod sql;
mod station;
pub mod statistics;
pub mod store;
mod ties;
pub mod tls;
pub mod trace;
mod verification;

pub use directories::{Open, Outside};
pub use dry::Dry;
pub use hub::{Asked, Desk, Hub, Judged, Live, Observed, Order, Parts};
pub use say::{Severity, fail, say, warn, warn_of_strangers};

/// A point in time, in milliseconds since 1970, as the decision log writes it (RFC 3339).
pub fn time_text(at_ms: u64) -> String {
    let mut text = String::new();
    line::Stamp::default().push(at_ms, &mut text);
    text
}
