//! Who the client of a session is, as it is seen or as configured peers say.

use std::net::{IpAddr, SocketAddr};

use mpp_config::proxy::Proxy;
use tokio::task::JoinHandle;

use super::names::{Found, Names};

/// What is known of the client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    /// Its name if that leads back to the address.
    pub(crate) name: String,
    /// Its name as its address claims it.
    pub(crate) reverse_name: String,
    pub(crate) helo: String,
    pub(crate) login: String,
    pub(crate) protocol: String,
    pub(crate) queue_id: String,
    /// Whether it is a server of this site that the configuration names, and speaks for itself: its
    /// health checks, bounces and notices are no stranger's.
    pub(crate) is_ours: bool,
    /// Whether it is one of this host (XFORWARD's SOURCE).
    pub(crate) is_local: bool,
    /// The names that are looked up now.
    looking: Option<Looking>,
}

impl Client {
    pub(crate) fn at(peer: Option<SocketAddr>) -> Self {
        let address = peer.map(|peer| peer.ip().to_canonical());
        Self { address, port: peer.map_or(0, |peer| peer.port()), ..Self::default() }
    }

    /// The client of one message that this one, a mail server, begins to tell of: nothing is known of it
    /// yet, and where no address follows it is a program of this server's.
    pub(crate) fn forwarding(&self) -> Self {
        Self { address: self.address, is_ours: self.is_ours, ..Self::default() }
    }

    /// Begins to look its names up.
    pub(crate) fn look_up(&mut self, names: Option<&Names>) {
        if let (Some(names), Some(address)) = (names.cloned(), self.address) {
            self.looking = Some(Looking(tokio::spawn(async move { names.find(address).await })));
        }
    }

    /// Waits for its names, if they are looked up.
    pub(crate) async fn settle(&mut self) {
        let Some(mut looking) = self.looking.take() else { return };
        // A task that was aborted has found nothing.
        let found = (&mut looking.0).await.unwrap_or_default();
        self.name = found.verified;
        self.reverse_name = found.claimed;
    }

    /// Forgets the names that are looked up: a peer has said who it is.
    pub(crate) fn forget_look_up(&mut self) {
        self.looking = None;
    }

    /// Whether a peer may say of whom it speaks by XCLIENT.
    pub(crate) fn may_xclient(peer: Option<IpAddr>, proxy: &Proxy) -> bool {
        peer.is_some_and(|peer| proxy.xclient.iter().any(|network| network.contains(&peer)))
    }
}

/// A look-up that ends with whoever waits for it.
#[derive(Debug)]
struct Looking(JoinHandle<Found>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.abort();
    }
}
