//! Sets of networks, and names that give away an address of a customer line.

use std::net::{IpAddr, Ipv6Addr};

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;

/// A set of networks; a look-up costs one probe per distinct prefix length, however many there are.
#[derive(Clone, Debug, Default)]
pub struct NetworkSet {
    lengths: Vec<(bool, u8)>,
    networks: HashSet<(u128, u8, bool)>,
}

impl NetworkSet {
    /// Adds a network.
    pub fn insert(&mut self, network: IpNet) {
        let network = network.trunc();
        let is_v6 = matches!(network, IpNet::V6(_));
        let length = (is_v6, network.prefix_len());
        if let Err(at) = self.lengths.binary_search(&length) {
            self.lengths.insert(at, length);
        }
        self.networks.insert((bits(network.addr()), network.prefix_len(), is_v6));
    }

    /// Whether an address lies in one of them. An IPv4 address mapped into IPv6 is taken as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let (is_v6, bits) = (address.is_ipv6(), bits(address));
        let width = if is_v6 { 128 } else { 32 };
        self.lengths.iter().any(|&(v6, length)| {
            v6 == is_v6 && self.networks.contains(&(masked(bits, width, length), length, v6))
        })
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }
}

impl FromIterator<IpNet> for NetworkSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        let mut set = Self::default();
        networks.into_iter().for_each(|network| set.insert(network));
        set
    }
}

/// Numbers by network; a look-up costs one probe per distinct prefix length.
#[derive(Clone, Debug, Default)]
pub struct NetworkMap {
    /// Longest prefix first.
    lengths: Vec<u8>,
    numbers: HashMap<(u128, u8, bool), Vec<u32>>,
}

impl NetworkMap {
    /// Adds a number to those of a network.
    pub fn add(&mut self, network: IpNet, number: u32) {
        let network = network.trunc();
        let length = network.prefix_len();
        if let Err(at) = self.lengths.binary_search_by(|other| length.cmp(other)) {
            self.lengths.insert(at, length);
        }
        let key = (bits(network.addr()), length, network.addr().is_ipv6());
        self.numbers.entry(key).or_default().push(number);
    }

    /// Changes the numbers of each network.
    pub fn for_each(&mut self, change: impl FnMut(&mut Vec<u32>)) {
        self.numbers.values_mut().for_each(change);
    }

    /// The numbers of the networks that hold an address, longest prefix first.
    pub fn containing(&self, address: IpAddr) -> impl Iterator<Item = &Vec<u32>> {
        let address = address.to_canonical();
        let (is_v6, bits) = (address.is_ipv6(), bits(address));
        let width = if is_v6 { 128 } else { 32 };
        let fitting = self.lengths.iter().filter(move |length| **length <= width);
        fitting.filter_map(move |&length| {
            self.numbers.get(&(masked(bits, width, length), length, is_v6))
        })
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn masked(bits: u128, width: u8, length: u8) -> u128 {
    let host_bits = u32::from(width.saturating_sub(length));
    if host_bits >= 128 { 0 } else { bits >> host_bits << host_bits }
}

/// The network of an address: `v4_length` bits of it, or `v6_length`.
pub fn network_of(address: IpAddr, v4_length: u8, v6_length: u8) -> IpNet {
    let length = if address.is_ipv6() { v6_length } else { v4_length };
    IpNet::new(address, length).unwrap_or(IpNet::from(address)).trunc()
}

/// Reads a network, or an address as a network of one.
///
/// # Errors
/// What is wrong, for people.
pub fn parse(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let network: IpNet = text.parse().map_err(|_| {
        format!("`{text}` is neither an address nor a network such as 192.0.2.0/24")
    })?;
    if network.addr() != network.network() {
        return Err(format!("`{text}` has host bits set; did you mean `{}`?", network.trunc()));
    }
    Ok(network)
}

/// Whether a host name is one that providers give to customer lines rather than to servers: it
/// spells the address, or says "dynamic", "pool" and the like. The name of a mail server may be
/// shared by a pool; the name of a line says nothing about its neighbours.
pub fn is_line_name(name: &str, address: IpAddr) -> bool {
    const WORDS: [&str; 20] = [
        "dyn",
        "dynamic",
        "dynip",
        "dsl",
        "adsl",
        "vdsl",
        "xdsl",
        "pool",
        "pools",
        "dhcp",
        "cable",
        "ppp",
        "pppoe",
        "dial",
        "dialup",
        "dialin",
        "broadband",
        "cpe",
        "customer",
        "client",
    ];
    let mut words = name.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
    if words.any(|word| WORDS.contains(&word)) {
        return true;
    }
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            let mut found = [false; 4];
            for number in name.split(|c: char| !c.is_ascii_digit()) {
                let Ok(number) = number.parse::<u8>() else { continue };
                for (seen, octet) in found.iter_mut().zip([a, b, c, d]) {
                    *seen |= number == octet;
                }
            }
            let digits = format_hex(v4.to_bits());
            let spelled = std::str::from_utf8(&digits).is_ok_and(|hex| name.contains(hex));
            let [_, _, third, fourth] = found;
            spelled || (third && fourth && found.iter().filter(|seen| **seen).count() >= 3)
        }
        IpAddr::V6(v6) => spells_v6(name, v6),
    }
}

fn format_hex(value: u32) -> [u8; 8] {
    let mut out = [0; 8];
    for (place, digit) in out.iter_mut().zip((0..8).rev()) {
        let nibble = (value >> (digit * 4)) & 15;
        *place = b"0123456789abcdef".get(nibble as usize).copied().unwrap_or(b'0');
    }
    out
}

fn spells_v6(name: &str, address: Ipv6Addr) -> bool {
    let [.., g, h] = address.segments();
    let low = format_hex(u32::from(g) << 16 | u32::from(h));
    let digits: String = name.chars().filter(char::is_ascii_hexdigit).collect();
    g != 0 && std::str::from_utf8(&low).is_ok_and(|hex| digits.contains(hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_contain_their_addresses() {
        let set: NetworkSet = ["127.0.0.0/8", "::1", "192.0.2.7", "2001:db8::/32", "0.0.0.0/32"]
            .iter()
            .map(|n| parse(n).unwrap())
            .collect();
        for inside in
            ["127.9.9.9", "::1", "192.0.2.7", "2001:db8:1::5", "0.0.0.0", "::ffff:127.0.0.1"]
        {
            assert!(set.contains(ip(inside)), "{inside}");
        }
        for outside in ["128.0.0.1", "::2", "192.0.2.8", "2001:db9::", "::"] {
            assert!(!set.contains(ip(outside)), "{outside}");
        }
        assert!(!NetworkSet::default().contains(ip("::1")));
        let all: NetworkSet = [parse("0.0.0.0/0").unwrap()].into_iter().collect();
        assert!(all.contains(ip("8.8.8.8")) && !all.contains(ip("::1")));
    }

    #[test]
    fn the_longest_prefix_comes_first() {
        let mut map = NetworkMap::default();
        for (number, network) in
            ["10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "::/0", "10.1.2.3"].iter().enumerate()
        {
            map.add(parse(network).unwrap(), u32::try_from(number).unwrap());
        }
        map.add(parse("10.1.0.0/16").unwrap(), 9);
        let of = |address| map.containing(ip(address)).flatten().copied().collect::<Vec<_>>();
        assert_eq!(of("10.1.2.3"), [4, 1, 9, 0, 2]);
        assert_eq!(of("::ffff:10.2.0.1"), [0, 2]);
        assert_eq!(of("2001:db8::1"), [3]);
    }

    #[test]
    fn a_network_with_host_bits_is_a_slip() {
        assert_eq!(
            parse("192.0.2.1/24").unwrap_err(),
            "`192.0.2.1/24` has host bits set; did you mean `192.0.2.0/24`?"
        );
        assert!(parse("example.org").is_err());
    }

    #[test]
    fn customer_lines_are_told_from_servers() {
        for (name, address) in [
            ("dyn-11-22-33-44.pool.isp.example", "11.22.33.44"),
            ("44.33.22.11.isp.example", "11.22.33.44"),
            ("p0b16212c.isp.example", "11.22.33.44"),
            ("cpe7.isp.example", "11.22.33.44"),
            ("static-11-22-33-44.isp.example", "11.22.33.44"),
        ] {
            assert!(is_line_name(name, ip(address)), "{name}");
        }
        for (name, address) in [
            ("mx1.example.org", "11.22.33.1"),
            ("mail-44.example.org", "11.22.33.44"),
            ("o33-44.mailer.example", "11.22.33.44"),
            ("poolside.example.org", "11.22.33.44"),
        ] {
            assert!(!is_line_name(name, ip(address)), "{name}");
        }
    }
}
