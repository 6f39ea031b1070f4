//! A name server that knows a few names.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::address;

/// A name server over UDP; its thread ends with the test.
#[derive(Debug)]
pub struct NameServer {
    address: String,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    /// One that knows the names of these addresses (PTR) and the addresses of these names (A).
    pub fn start(names: &[(&str, &str)], addresses: &[(&str, &str)]) -> Self {
        let socket = UdpSocket::bind((address(), 0)).expect("an address of our own");
        let at = socket.local_addr().expect("it is bound").to_string();
        let mut known: BTreeMap<(String, u16), Vec<u8>> = BTreeMap::new();
        for (address, name) in names {
            let address: Ipv4Addr = address.parse().expect("an IPv4 address");
            let [a, b, c, d] = address.octets();
            known.insert((format!("{d}.{c}.{b}.{a}.in-addr.arpa"), 12), encode(name));
        }
        for (name, address) in addresses {
            let address: Ipv4Addr = address.parse().expect("an IPv4 address");
            known.insert(((*name).to_owned(), 1), address.octets().to_vec());
        }
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut bytes = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                count.fetch_add(1, Ordering::Relaxed);
                let query = bytes.get(..length).unwrap_or_default();
                if let Some(answer) = answer(query, &known) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { address: at, asked }
    }

    /// Where it answers.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// A name as it stands in a message (RFC 1035 section 3.1).
fn encode(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a short label"));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn answer(query: &[u8], known: &BTreeMap<(String, u16), Vec<u8>>) -> Option<Vec<u8>> {
    let mut place = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(place)?);
        place += 1;
        if length == 0 {
            break;
        }
        let label = query.get(place..place + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        place += length;
    }
    let kind = u16::from_be_bytes([*query.get(place)?, *query.get(place + 1)?]);
    let found = known.get(&(labels.join("."), kind));
    let mut bytes = query.get(..2)?.to_vec();
    // A response, authoritative; "no such name" where nothing is known.
    bytes.extend_from_slice(if found.is_some() { &[0x85, 0x80] } else { &[0x85, 0x83] });
    bytes.extend_from_slice(&[0, 1, 0, u8::from(found.is_some()), 0, 0, 0, 0]);
    bytes.extend_from_slice(query.get(12..place + 4)?);
    if let Some(data) = found {
        bytes.extend_from_slice(&[0xc0, 12]);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
        bytes.extend_from_slice(&u16::try_from(data.len()).ok()?.to_be_bytes());
        bytes.extend_from_slice(data);
    }
    Some(bytes)
}
