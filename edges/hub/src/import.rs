//! What another greylist remembers, as what a store of this one remembers.

use mpp_config::Configuration;
use mpp_engine::checks::greylist::{self, ByAddress};
use mpp_engine::facts::{Direction, Facts, Stage};
use mpp_engine::foreign::{Known, Origin};
use mpp_engine::question::{Key, Shelf};

use crate::facts::facts;
use crate::hub::Asked;

/// A network is taken for so many smaller ones, or addresses, at the most.
pub const PARTS_MAX: usize = 256;

/// Why something that is known is of no use here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unwanted {
    /// A network with too many parts.
    TooWide,
    /// Clients that are never greylisted.
    Local,
}

impl Unwanted {
    /// The reason for people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooWide => "a network of another size, with too many parts",
            Self::Local => "local or trusted, which never waits",
        }
    }
}

/// Makes keys as decisions do, with the names of nobody known.
#[derive(Debug)]
pub struct Importer<'c> {
    configuration: &'c Configuration,
    lower: String,
    scratch: String,
}

impl<'c> Importer<'c> {
    /// One for this configuration, which was read with the secret of the store.
    pub fn new(configuration: &'c Configuration) -> Self {
        Self { configuration, lower: String::new(), scratch: String::new() }
    }

    /// Where that is remembered.
    ///
    /// # Errors
    /// It is of no use here.
    pub fn keys(&mut self, known: &Known) -> Result<Vec<(Shelf, Key)>, Unwanted> {
        let (origin, sender, recipient) = match known {
            Known::FirstTry { origin, sender, recipient, .. } => (origin, &**sender, &**recipient),
            Known::Passed { origin, .. } => (origin, "", ""),
        };
        let is_try = matches!(known, Known::FirstTry { .. });
        let (addresses, is_network) = self.addresses(*origin, is_try)?;
        let ring = self.configuration.ring;
        let mut keys = Vec::with_capacity(addresses.len());
        for client in addresses {
            let asked = asked(client, sender, recipient);
            let facts: Facts<'_> =
                facts(self.configuration, &asked, &mut self.lower, &mut self.scratch);
            if facts.direction == Direction::Outbound || facts.is_spared {
                continue;
            }
            keys.push(if is_try {
                (Shelf::Greylisted, greylist::triplet_key(&facts, ring))
            } else if is_network {
                (Shelf::Proven, ByAddress::of(&facts, ring).network)
            } else {
                (Shelf::Proven, greylist::prover_key(&facts, ring))
            });
        }
        if keys.is_empty() { Err(Unwanted::Local) } else { Ok(keys) }
    }

    /// Addresses that stand for a client, and whether each stands for all of its network: as networks
    /// are cut here, which need not be as they were cut there.
    fn addresses(
        &self,
        origin: Origin,
        is_try: bool,
    ) -> Result<(Vec<std::net::IpAddr>, bool), Unwanted> {
        let network = match origin {
            Origin::Host(address) => return Ok((vec![address], false)),
            Origin::Network(network) => network,
        };
        let own = self.configuration.ring.network_of(network.addr());
        if own.prefix_len() == network.prefix_len() {
            return Ok((vec![network.addr()], true));
        }
        if own.prefix_len() < network.prefix_len() {
            // A first try is kept by network, so any part of it says enough.
            let parts = if is_try { network.prefix_len() } else { network.max_prefix_len() };
            return Ok((parts_of(network, parts)?, false));
        }
        Ok((parts_of(network, own.prefix_len())?, true))
    }
}

/// The first addresses of all parts of that length.
fn parts_of(network: ipnet::IpNet, length: u8) -> Result<Vec<std::net::IpAddr>, Unwanted> {
    let parts = network.subnets(length).map_err(|_| Unwanted::TooWide)?;
    let parts: Vec<_> = parts.take(PARTS_MAX + 1).map(|part| part.addr()).collect();
    if parts.len() > PARTS_MAX { Err(Unwanted::TooWide) } else { Ok(parts) }
}

fn asked<'a>(client: std::net::IpAddr, sender: &'a str, recipient: &'a str) -> Asked<'a> {
    Asked { sender, recipient, ..Asked::about("import", Stage::Rcpt, client) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn configuration() -> Configuration {
        let text = "[networks]\nlocal = [\"127.0.0.0/8\"]\n";
        mpp_config::compile("x", text, &BTreeMap::new(), 7).configuration.unwrap()
    }

    fn passed(text: &str) -> Known {
        let origin = text.parse().map(Origin::Network);
        let origin = origin.unwrap_or_else(|_| Origin::Host(text.parse().unwrap()));
        Known::Passed { origin, at_s: 1 }
    }

    fn first_try(text: &str) -> Known {
        let Known::Passed { origin, .. } = passed(text) else { panic!() };
        let (sender, recipient) = ("A@X.example".to_owned(), "b@y.example".to_owned());
        Known::FirstTry { origin, sender, recipient, at_s: 1 }
    }

    #[test]
    fn networks_are_cut_as_they_are_here() {
        let configuration = configuration();
        let mut importer = Importer::new(&configuration);
        let mut keys = |known: &Known| importer.keys(known);
        let network = keys(&passed("192.0.2.0/24")).unwrap();
        assert_eq!(network.len(), 1);
        assert_ne!(network, keys(&passed("192.0.2.0")).unwrap(), "an address is no network");
        assert_eq!(keys(&passed("192.0.2.0/23")).map(|keys| keys.len()), Ok(2));
        assert!(keys(&passed("192.0.2.0/23")).unwrap().contains(&network[0]));
        assert_eq!(keys(&passed("192.0.2.32/27")).map(|keys| keys.len()), Ok(32));
        assert_eq!(keys(&passed("10.0.0.0/8")), Err(Unwanted::TooWide));
        assert_eq!(keys(&passed("2001:db8::/96")), Err(Unwanted::TooWide));
        let tried = keys(&first_try("192.0.2.0/24")).unwrap();
        for same in ["192.0.2.7", "192.0.2.32/27"] {
            assert_eq!(keys(&first_try(same)), Ok(tried.clone()), "{same}");
        }
        assert_eq!(keys(&passed("127.0.0.1")), Err(Unwanted::Local));
    }
}
