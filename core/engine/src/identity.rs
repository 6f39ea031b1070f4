//! Identities and their keys: whose reputation a fact counts for.
//!
//! The one place where facts become [`Key`]s. Every key is a hash with the secret seed of the
//! store, so nobody outside can choose mail that collides.

use std::net::IpAddr;

use ipnet::IpNet;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::address;
use crate::network::{is_line_name, network_of};
use crate::question::{IdentityKind, Key, Subject};

/// Makes keys.
#[derive(Clone, Copy, Debug)]
pub struct Keyring {
    seed: u64,
    v4_length: u8,
    v6_length: u8,
}

/// The hashes of all identities of one transaction; 0 where there is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keys {
    /// The client's address.
    pub client: u64,
    /// Its network.
    pub network: u64,
    /// The organisational domain of its verified name; 0 for the name of a customer line.
    pub organisation: u64,
    /// The account.
    pub sasl_user: u64,
    /// The sender as it is.
    pub sender: u64,
    /// The sender without what changes from message to message.
    pub stable_sender: u64,
    /// The sender without what changes from message to message of one mailing; 0 if null.
    pub steady_sender: u64,
    /// Its domain.
    pub sender_domain: u64,
    /// The recipient.
    pub recipient: u64,
    /// Its domain.
    pub recipient_domain: u64,
    /// The HELO name.
    pub helo: u64,
}

impl Keys {
    /// The identity that greylisting takes for one sender: the organisation where it is known,
    /// else the network. A retry by another member is the retry.
    pub fn pool(&self) -> u64 {
        if self.organisation == 0 { self.network } else { self.organisation }
    }

    /// The identity that is done with greylisting once it came back: the organisation where it is
    /// known, else this one address, since neighbours on customer lines have nothing in common.
    pub fn prover(&self) -> u64 {
        if self.organisation == 0 { self.client } else { self.organisation }
    }

    /// The hash of one kind of identity; 0 if the transaction has none of it.
    pub fn of(&self, kind: IdentityKind, ring: Keyring) -> u64 {
        match kind {
            IdentityKind::Client => self.client,
            IdentityKind::Network => self.network,
            IdentityKind::Organisation => self.organisation,
            IdentityKind::SaslUser => self.sasl_user,
            IdentityKind::Sender => self.sender,
            IdentityKind::SenderDomain => self.sender_domain,
            IdentityKind::PooledDomain => ring.pair(self.pool(), self.sender_domain),
            IdentityKind::PooledSender => ring.pair(self.pool(), self.steady_sender),
            IdentityKind::Helo => self.helo,
            IdentityKind::Recipient => self.recipient,
            IdentityKind::RecipientDomain => self.recipient_domain,
        }
    }
}

/// Odd numbers with as many ones as zeros, from the digits of pi, e and the golden ratio.
const FOLD_FIRST: u64 = 0x243f_6a88_85a3_08d3;
const FOLD_SECOND: u64 = 0xb7e1_5162_8aed_2a6b;
const FOLD_LAST: u64 = 0x9e37_79b9_7f4a_7c15;

/// The halves of a product, one folded onto the other.
fn folded(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    #[allow(clippy::cast_possible_truncation, reason = "the two halves")]
    let (low, high) = (product as u64, (product >> 64) as u64);
    low ^ high
}

impl Keyring {
    /// A key ring with the seed of a store, and the prefix lengths that make a network.
    pub fn new(seed: u64, v4_length: u8, v6_length: u8) -> Self {
        Self { seed, v4_length, v6_length }
    }

    /// The hash of a text; 0 for an empty one.
    pub fn text(self, text: &str) -> u64 {
        if text.is_empty() { 0 } else { xxh3_64_with_seed(text.as_bytes(), self.seed).max(1) }
    }

    /// The hash of a client by its address. Whoever has an IPv6 address has its whole network, and a
    /// new one for each message: there the network is the client.
    pub fn address(self, address: IpAddr) -> u64 {
        match address {
            IpAddr::V4(_) => self.host(address),
            IpAddr::V6(_) => self.host(self.network_of(address).network()),
        }
    }

    /// The hash of an address and of no other.
    pub fn host(self, address: IpAddr) -> u64 {
        match address {
            IpAddr::V4(v4) => xxh3_64_with_seed(&v4.octets(), self.seed).max(1),
            IpAddr::V6(v6) => xxh3_64_with_seed(&v6.octets(), self.seed).max(1),
        }
    }

    /// The network of an address.
    pub fn network_of(self, address: IpAddr) -> IpNet {
        network_of(address, self.v4_length, self.v6_length)
    }

    /// The hash of a network.
    pub fn network(self, network: IpNet) -> u64 {
        self.pair(self.host(network.addr()), u64::from(network.prefix_len()))
    }

    /// The hash of two hashes in this order; 0 if either is missing. Both are hashes with the seed
    /// or small numbers of ours, so folded products mix them well enough, and one decision makes
    /// some forty of these.
    pub fn pair(self, first: u64, second: u64) -> u64 {
        if first == 0 || second == 0 {
            return 0;
        }
        let once = folded(first ^ self.seed ^ FOLD_FIRST, second ^ FOLD_SECOND);
        folded(once ^ self.seed, FOLD_LAST).max(1)
    }

    /// A key in a name space of its own, such as that of one threshold.
    pub fn key(self, space: u64, hash: u64) -> Key {
        Key(self.pair(space, hash))
    }

    /// The organisational domain of a verified client name: what follows the public suffix, plus
    /// one label. Nothing for an unverified name and for the name of a customer line.
    pub fn organisation(self, name: &str, address: IpAddr) -> Option<&str> {
        if name.is_empty() || name == "unknown" || is_line_name(name, address) {
            return None;
        }
        psl::domain_str(name)
    }

    /// All hashes of one transaction. Texts must be in lower case; `scratch` is overwritten.
    pub fn keys(self, of: &Parties<'_>, scratch: &mut String) -> Keys {
        let sender = self.text(of.sender);
        let (mut stable_sender, mut steady_sender) = (sender, sender);
        if address::may_change(of.sender) {
            scratch.clear();
            address::push_stable_sender(of.sender, scratch);
            stable_sender = self.text(scratch);
            if sender != 0 {
                scratch.clear();
                address::push_steady_sender(of.sender, scratch);
                steady_sender = self.text(scratch);
            }
        }
        Keys {
            client: self.address(of.client),
            network: self.network(self.network_of(of.client)),
            organisation: of.organisation.map_or(0, |name| self.text(name)),
            sasl_user: self.text(of.sasl_user),
            sender,
            stable_sender,
            steady_sender,
            sender_domain: self.text(address::split(of.sender).1),
            recipient: self.text(of.recipient),
            recipient_domain: self.text(address::split(of.recipient).1),
            helo: self.text(of.helo),
        }
    }
}

/// The names of a transaction, for [`Keyring::keys`].
#[derive(Clone, Copy, Debug)]
pub struct Parties<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The organisational domain of its verified name, from [`Keyring::organisation`].
    pub organisation: Option<&'a str>,
    /// The account, in lower case.
    pub sasl_user: &'a str,
    /// The sender, in lower case.
    pub sender: &'a str,
    /// The recipient, in lower case.
    pub recipient: &'a str,
    /// The HELO name, in lower case.
    pub helo: &'a str,
}

/// Reads an identity as people write it in commands and lists.
///
/// # Errors
/// What is wrong, for people.
pub fn parse_subject(kind: IdentityKind, text: &str) -> Result<Subject, String> {
    match kind {
        IdentityKind::Client => {
            let address = text.parse::<IpAddr>().map_err(|_| format!("`{text}` is not an address"));
            address.map(|address| Subject::Address(address.to_canonical()))
        }
        IdentityKind::Network => crate::network::parse(text).map(Subject::Network),
        IdentityKind::PooledDomain | IdentityKind::PooledSender => {
            Err(format!("blocks of kind {} are made by mpp only", kind.name()))
        }
        IdentityKind::SaslUser => Ok(Subject::Name(address::account(text).into())),
        _ if text.contains('@') => Ok(Subject::Name(address::canonical(text).into())),
        _ => Ok(Subject::Name(address::host_name(text).into())),
    }
}

impl Keyring {
    /// The hash of an identity that somebody wrote down.
    pub fn subject(self, subject: &Subject) -> u64 {
        match subject {
            Subject::Address(address) => self.address(*address),
            Subject::Network(network) => self.network(*network),
            Subject::Name(name) => self.text(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_spread_evenly_and_differ() {
        let ring = Keyring::new(4711, 24, 64);
        let mut seen = std::collections::BTreeSet::new();
        let mut buckets = [0_u32; 256];
        let mut low = [0_u32; 256];
        for first in 1..=1_000_u64 {
            for second in 1..=300_u64 {
                let pair = ring.pair(ring.text(&format!("{first}")), second);
                assert!(seen.insert(pair), "{first}, {second}");
                buckets[(pair >> 56) as usize] += 1;
                low[(pair & 255) as usize] += 1;
            }
        }
        let mean = 1_000 * 300 / 256;
        for count in buckets.iter().chain(&low) {
            assert!(count.abs_diff(mean) < mean / 5, "{count} of {mean}");
        }
        assert_ne!(ring.pair(5, 7), ring.pair(7, 5));
        assert_ne!(ring.pair(5, 7), Keyring::new(4712, 24, 64).pair(5, 7));
        assert_eq!((ring.pair(0, 7), ring.pair(7, 0)), (0, 0));
    }
}
