//! The proxy door: SMTP taken, judged and passed on, as a filter between a mail server and its next
//! hop, or as the gateway of some domains.
//!
//! Nothing is said to a next hop before a recipient has passed: who is refused never gets there.
//! From then on the next hop's answers are the answers. The text of a message streams through; its
//! last line goes on only when nothing stands against the message, and "250" is said only after the
//! next hop has said so. So a proxy that is killed at any byte has promised nothing.

mod attachment;
mod attributes;
mod client;
mod deliver;
mod envelope;
mod gate;
mod greeting;
mod header_filter;
mod hold;
mod inject;
mod names;
mod next_hop;
mod offers;
mod parted;
mod pool;
mod reply;
pub(crate) mod rewrite;
mod said;
mod scan;
mod session;
mod strip;
mod text;
pub(crate) mod trace_header;
mod transaction;

use std::net::SocketAddr;
use std::sync::Arc;

use mpp_hub::Hub;
use mpp_hub::quarantine::Quarantine;
use mpp_hub::spool::Spool;
use tokio::sync::watch;

pub use gate::{Change, Gate, Tally};
pub use inject::{Envelope, Injected};
pub use pool::Pool;

use crate::listen::Connection;

/// What a listener of this door knows.
#[derive(Clone)]
pub struct Door {
    /// Where questions go.
    pub hub: Arc<Hub>,
    /// The proxy.
    pub gate: Arc<Gate>,
    /// Connections to next hops that nobody uses now; those of this thread.
    pub pool: Arc<Pool>,
    /// Where messages wait that are looked into.
    pub spool: Arc<Spool>,
    /// Where messages are held, if they can be.
    pub quarantine: Option<Arc<dyn Quarantine>>,
    /// Whether the daemon is about to stop: messages under way are finished, and no more begun.
    pub stopping: watch::Receiver<bool>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("gate", &self.gate).finish_non_exhaustive()
    }
}

impl Door {
    /// Serves a connection until either side ends it.
    pub async fn serve(self, io: Connection, peer: Option<SocketAddr>) {
        let gate = Arc::clone(&self.gate);
        gate.tally.began();
        // An error is a reset or the like, which is how many peers end a connection.
        let _ = greeting::serve(self, io, peer).await;
        gate.tally.ended();
    }
}
