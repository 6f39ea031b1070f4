//! The PROXY protocol of HAProxy, versions 1 and 2, as its receiver: who the client of a connection
//! is, said by a balancer in front (haproxy.org, doc/proxy-protocol.txt).
//!
//! A header is the first thing on its connection or it is not there at all, so there is nothing to
//! guess: whoever is asked for one and begins with anything else is malformed, at the first byte that
//! cannot belong to one. Whether a peer may send a header is not said here.
//!
//! ```
//! use mpp_wire::proxy_protocol::{Reading, read};
//!
//! let bytes = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 25\r\nEHLO a.example\r\n";
//! let source = Some("192.0.2.7:56324".parse().unwrap());
//! assert_eq!(read(bytes), Reading::Header { source, taken: 44 });
//! assert_eq!(read(b"PROXY TC"), Reading::More);
//! assert_eq!(read(b"EHLO a.example\r\n"), Reading::Malformed);
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// No line of version 1 is longer, in bytes with its CRLF (section 2.1).
pub const LINE_BYTES_MAX: usize = 107;

/// What follows the fixed part of version 2 may be so long, in bytes. Addresses and the usual
/// additions fit in 520; certificates of clients, which some balancers add, need more.
pub const ADDITIONS_BYTES_MAX: usize = 4096;

/// No header of either version is longer, in bytes: whoever has read so much is never told
/// [`Reading::More`].
pub const HEADER_BYTES_MAX: usize = FIXED_BYTES + ADDITIONS_BYTES_MAX;

/// What version 2 begins with, and version 1.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const WORD: &[u8] = b"PROXY ";

/// The part of version 2 that every header has.
const FIXED_BYTES: usize = 16;

/// The addition that holds a checksum of the whole header (section 2.2.3).
const CHECKSUM: u8 = 0x03;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The beginning of a header. Read on, and call with all the bytes again.
    More,
    /// A whole header.
    Header {
        /// Address and port of the client; an IPv4 address that is written as IPv6 is IPv4. None if
        /// the balancer speaks for itself (its checks of our health), or does not know: then the
        /// client is the peer.
        source: Option<SocketAddr>,
        /// So many bytes are the header; what follows is the client's.
        taken: usize,
    },
    /// No header of this protocol, and no bytes that follow could make it one. Nothing is to be
    /// answered; end the connection.
    Malformed,
}

/// Reads the header at the beginning of a connection: `bytes` is all that was received so far.
pub fn read(bytes: &[u8]) -> Reading {
    let is_begun = |whole: &[u8]| bytes.iter().zip(whole).all(|(is, should_be)| is == should_be);
    let read = if is_begun(WORD) {
        read_line(bytes)
    } else if is_begun(SIGNATURE) {
        read_binary(bytes)
    } else {
        None
    };
    read.unwrap_or(Reading::Malformed)
}

/// Version 1. None is malformed.
fn read_line(bytes: &[u8]) -> Option<Reading> {
    let end = bytes.iter().take(LINE_BYTES_MAX).position(|byte| matches!(byte, b'\r' | b'\n'));
    let Some(end) = end else {
        return (bytes.len() < LINE_BYTES_MAX).then_some(Reading::More);
    };
    match (bytes.get(end)?, bytes.get(end + 1)) {
        (b'\r', Some(b'\n')) if end + 2 <= LINE_BYTES_MAX => {}
        (b'\r', None) if end + 2 <= LINE_BYTES_MAX => return Some(Reading::More),
        _ => return None,
    }
    let line = bytes.get(WORD.len()..end)?;
    let is_unknown = line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ");
    let source = if is_unknown { None } else { Some(source_of_line(line)?) };
    Some(Reading::Header { source, taken: end + 2 })
}

fn source_of_line(line: &[u8]) -> Option<SocketAddr> {
    let mut words = str::from_utf8(line).ok()?.split(' ');
    let family = words.next()?;
    let mut address = || -> Option<IpAddr> {
        let word = words.next()?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let (source, _destination) = (address()?, address()?);
    let mut port = || port(words.next()?);
    let (source_port, _destination_port) = (port()?, port()?);
    words.next().is_none().then(|| SocketAddr::new(source.to_canonical(), source_port))
}

/// A number without a sign and without leading zeros, which `parse` would let pass.
fn port(word: &str) -> Option<u16> {
    let is_plain = word == "0" || word.starts_with(|first: char| matches!(first, '1'..='9'));
    is_plain.then(|| word.parse().ok()).flatten()
}

/// Version 2. None is malformed.
fn read_binary(bytes: &[u8]) -> Option<Reading> {
    let command = bytes.get(12).copied();
    let is_local = match command {
        None => return Some(Reading::More),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return None,
    };
    let Some((fixed, behind)) = bytes.split_at_checked(FIXED_BYTES) else {
        return Some(Reading::More);
    };
    let [.., kind, high, low] = *fixed else { return None };
    let length = usize::from(u16::from_be_bytes([high, low]));
    // Who speaks for himself may write whatever he likes behind that: it is skipped.
    let addresses_bytes = if is_local { 0 } else { addresses_bytes(kind)? };
    if length > ADDITIONS_BYTES_MAX || length < addresses_bytes {
        return None;
    }
    let Some(body) = behind.get(..length) else { return Some(Reading::More) };
    let taken = FIXED_BYTES + length;
    if is_local {
        return Some(Reading::Header { source: None, taken });
    }
    let (addresses, additions) = body.split_at_checked(addresses_bytes)?;
    // Without addresses there is no telling where additions begin.
    let is_whole = addresses.is_empty() || is_sound(bytes.get(..taken)?, additions);
    is_whole.then(|| Reading::Header { source: source_of(kind, addresses), taken })
}

/// How many bytes the addresses of a family and a transport have, of both ends and with their ports;
/// none for what the protocol does not know. Transports other than TCP are nothing that could come
/// to us, but are said in the same form.
fn addresses_bytes(kind: u8) -> Option<usize> {
    match (kind >> 4, kind & 0xf) {
        (0, 0..=2) | (1..=3, 0) => Some(0),
        (1, 1 | 2) => Some(12),
        (2, 1 | 2) => Some(36),
        (3, 1 | 2) => Some(216),
        _ => None,
    }
}

fn source_of(kind: u8, addresses: &[u8]) -> Option<SocketAddr> {
    let port = |at: usize| addresses.get(at..)?.first_chunk().copied().map(u16::from_be_bytes);
    match kind {
        0x11 => {
            let address = Ipv4Addr::from(*addresses.first_chunk::<4>()?);
            Some(SocketAddr::new(address.into(), port(8)?))
        }
        0x21 => {
            let address = Ipv6Addr::from(*addresses.first_chunk::<16>()?);
            Some(SocketAddr::new(address.to_canonical(), port(32)?))
        }
        _ => None,
    }
}

/// Whether the additions end where the header ends, and a checksum among them is right. What else
/// they say is not for us.
fn is_sound(header: &[u8], additions: &[u8]) -> bool {
    let mut rest = additions;
    while let Some((&[kind, high, low], behind)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some((value, behind)) = behind.split_at_checked(length) else { return false };
        if kind == CHECKSUM {
            let at = header.len() - behind.len() - length;
            let is_right = <[u8; 4]>::try_from(value)
                .is_ok_and(|value| u32::from_be_bytes(value) == checksum(header, at));
            if !is_right {
                return false;
            }
        }
        rest = behind;
    }
    rest.is_empty()
}

/// CRC-32C of a header with its checksum, four bytes from `at` on, taken for zero. Bit by bit: it is
/// made once a connection, of some 100 bytes, and only for balancers that add it.
fn checksum(header: &[u8], at: usize) -> u32 {
    let mut sum = u32::MAX;
    for (index, byte) in header.iter().enumerate() {
        let byte = if (at..at + 4).contains(&index) { 0 } else { *byte };
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg());
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_of(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|digit| *digit != b' ').collect();
        let pairs = digits.chunks(2).map(|pair| str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    }

    /// A header of version 2 with this byte of version and command, and this of family and transport.
    fn binary(command: u8, kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, kind], &length, body].concat()
    }

    fn header(source: Option<&str>, taken: usize) -> Reading {
        Reading::Header { source: source.map(|source| source.parse().unwrap()), taken }
    }

    /// A header reads the same with mail behind it, and every beginning of it wants more.
    fn check(bytes: &[u8], source: Option<&str>) {
        assert_eq!(read(bytes), header(source, bytes.len()), "{}", bytes.escape_ascii());
        let more = [bytes, b"EHLO a.example\r\n\0\xff"].concat();
        assert_eq!(read(&more), header(source, bytes.len()), "{}", bytes.escape_ascii());
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Reading::More, "{}", bytes[..cut].escape_ascii());
        }
    }

    /// What HAProxy 2.6.12 of Debian 12 sent.
    #[test]
    fn headers_of_haproxy() {
        check(
            b"PROXY TCP4 127.0.0.1 127.77.0.1 52926 7001\r\n", // send-proxy
            Some("127.0.0.1:52926"),
        );
        check(b"PROXY TCP6 ::1 ::1 49334 7004\r\n", Some("[::1]:49334"));
        for (hex, source) in [
            // A check of health, then send-proxy-v2 for both families.
            ("0d0a0d0a000d0a515549540a 20 00 0000", None),
            (
                "0d0a0d0a000d0a515549540a 21 11 000c 7f000001 7f4d0001 d030 1b5a",
                Some("127.0.0.1:53296"),
            ),
            (
                "0d0a0d0a000d0a515549540a 21 21 0024 00000000000000000000000000000001
                 00000000000000000000000000000001 e53e 1b5e",
                Some("[::1]:58686"),
            ),
            // With proxy-v2-options crc32c,unique-id.
            (
                "0d0a0d0a000d0a515549540a 21 11 002c 7f000001 7f4d0001 bd5e 1b5b 030004 18c4f674
                 050016 37463030303030313a424435455f3642303731353630",
                Some("127.0.0.1:48478"),
            ),
            (
                "0d0a0d0a000d0a515549540a 21 21 005c 00000000000000000000000000000001
                 00000000000000000000000000000001 867c 1b5b 030004 206e47b3 05002e
                 30303030303030303030303030303030303030303030303030303030303030313a
                 383637435f3642303731353631",
                Some("[::1]:34428"),
            ),
        ] {
            let hex: String = hex.split_whitespace().collect();
            check(&bytes_of(&hex), source);
        }
    }

    #[test]
    fn lines() {
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_BYTES_MAX - 16));
        assert_eq!(longest.len(), LINE_BYTES_MAX);
        let six = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let six_line = format!("PROXY TCP6 {six} {six} 65535 65535\r\n");
        for (line, source) in [
            ("PROXY TCP4 192.0.2.7 198.51.100.1 56324 25\r\n", Some("192.0.2.7:56324")),
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
                Some("255.255.255.255:65535"),
            ),
            ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", Some("0.0.0.0:0")),
            ("PROXY TCP6 2001:db8::7 2001:DB8::1 1 25\r\n", Some("[2001:db8::7]:1")),
            (&*six_line, Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")),
            ("PROXY TCP6 ::ffff:192.0.2.7 ::ffff:c633:6401 1 25\r\n", Some("192.0.2.7:1")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN \0 what ever  it is\r\n", None),
            (&longest, None),
        ] {
            check(line.as_bytes(), source);
        }
    }

    #[test]
    fn what_is_no_line() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_BYTES_MAX - 15));
        let endless = format!("PROXY TCP4 {}", "1".repeat(LINE_BYTES_MAX - 11));
        let half = format!("PROXY UNKNOWN {}\r", "x".repeat(LINE_BYTES_MAX - 15));
        for line in [
            "EHLO a.example\r\n",
            "proxy TCP4 192.0.2.7 198.51.100.1 1 25\r\n",
            "PROXY\r\n",
            "PROXY \r\n",
            "PROXY  TCP4 192.0.2.7 198.51.100.1 1 25\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 25\n",
            "PROXY TCP4 192.0.2.7\n198.51.100.1 1 25\r\n",
            "PROXY TCP4 192.0.2.7\r198.51.100.1 1 25\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 25\r\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 25 \r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 25 0\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1  1 25\r\n",
            "PROXY TCP4 192.0.2.7\t198.51.100.1 1 25\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1\r\n",
            "PROXY TCP4 192.0.2.7 1\r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 192.0.2.7 2001:db8::1 1 25\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 1 25\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.1 1 25\r\n",
            "PROXY TCP6 [2001:db8::7] [2001:db8::1] 1 25\r\n",
            "PROXY TCP6 fe80::1%eth0 fe80::2 1 25\r\n",
            "PROXY TCP6 2001:db8::7 2001:db8:::1 1 25\r\n",
            "PROXY TCP4 192.0.2.07 198.51.100.1 1 25\r\n",
            "PROXY TCP4 192.0.2.256 198.51.100.1 1 25\r\n",
            "PROXY TCP4 192.0.2 198.51.100.1 1 25\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 65536 25\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 025\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +1 25\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 -1 25\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 00 25\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 0x1 25\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.\u{661} 1 25\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 1 25\r\n",
            "PROXY TCP5 192.0.2.7 198.51.100.1 1 25\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY UNKNOWN x\n",
            "\r\n\r\nPROXY UNKNOWN\r\n",
            &long,
            &endless,
            &half,
        ] {
            assert_eq!(read(line.as_bytes()), Reading::Malformed, "{}", line.escape_debug());
        }
        assert_eq!(read(b"PROXY TCP4 \xff 198.51.100.1 1 25\r\n"), Reading::Malformed);
        let shorter = endless.as_bytes().split_last().unwrap().1;
        assert_eq!(read(shorter), Reading::More);
    }

    const FOUR: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 4, 0, 25];

    #[test]
    fn binary_headers() {
        let mut mapped = [0; 36];
        mapped[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 7]);
        mapped[32..34].copy_from_slice(&[0xdc, 4]);
        let additions = [&FOUR[..], &[4, 0, 0], &[0xee, 0, 2, 1, 2]].concat();
        let most = [&FOUR[..], &[4, 0x0f, 0xf1], &[0; 4081]].concat();
        assert_eq!(most.len(), ADDITIONS_BYTES_MAX);
        let four = Some("192.0.2.7:56324");
        for (command, kind, body, source) in [
            (0x21, 0x11, &FOUR[..], four),
            (0x21, 0x21, &mapped, four),
            (0x21, 0x11, &additions, four),
            (0x21, 0x11, &most, four),
            (0x21, 0x12, &FOUR, None),
            (0x21, 0x31, &[b'/'; 216], None),
            (0x21, 0x00, &[], None),
            (0x21, 0x00, &FOUR, None),
            (0x21, 0x01, &[7], None),
            (0x21, 0x10, &FOUR, None),
            (0x20, 0x00, &[], None),
            (0x20, 0x11, &FOUR, None),
            (0x20, 0xff, &[1, 2, 3], None),
        ] {
            check(&binary(command, kind, body), source);
        }
    }

    #[test]
    fn what_is_no_binary_header() {
        let sound = bytes_of(
            "0d0a0d0a000d0a515549540a2111002c7f0000017f4d0001bd5e1b5b03000418c4f674050016\
             37463030303030313a424435455f3642303731353630",
        );
        // One wrong bit is told by the checksum, but where it hides the checksum: its kind is byte 28.
        for bit in (FIXED_BYTES * 8..sound.len() * 8).filter(|bit| bit / 8 != 28) {
            let mut wrong = sound.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&wrong), Reading::Malformed, "bit {bit}");
        }
        let cut = |body: &[u8]| [&FOUR[..], body].concat();
        for (command, kind, body) in [
            (0x11, 0x11, &FOUR[..]),
            (0x31, 0x11, &FOUR),
            (0x22, 0x11, &FOUR),
            (0x2f, 0x11, &FOUR),
            (0x21, 0x13, &FOUR),
            (0x21, 0x41, &FOUR),
            (0x21, 0x11, &FOUR[..11]),
            (0x21, 0x21, &[0; 35]),
            (0x21, 0x31, &[0; 215]),
            (0x21, 0x11, &cut(&[4])),
            (0x21, 0x11, &cut(&[4, 0])),
            (0x21, 0x11, &cut(&[4, 0, 1])),
            (0x21, 0x11, &cut(&[3, 0, 3, 0, 0, 0])),
            (0x21, 0x11, &cut(&[3, 0, 4, 0, 0, 0, 0])),
            (0x20, 0x00, &[0; ADDITIONS_BYTES_MAX + 1]),
        ] {
            let bytes = binary(command, kind, body);
            assert_eq!(read(&bytes), Reading::Malformed, "{}", bytes.escape_ascii());
        }
        // It is said as soon as it is known, before what is announced has come.
        assert_eq!(read(b"\r\n\r\n\0\r\nQUIT\n\x22"), Reading::Malformed);
        assert_eq!(read(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"), Reading::Malformed);
        assert_eq!(read(b"\r\nQ"), Reading::Malformed);
        assert_eq!(read(b""), Reading::More);
    }

    /// Bytes that are nearly a header, or are one.
    fn likely() -> impl Strategy<Value = Vec<u8>> {
        let line = "(PROXY |PROXY)?(TCP4|TCP6|UNKNOWN|UDP4)?( [0-9a-f.:]{1,16}){0,5}[ \r\n]{0,3}[ -~]{0,9}"
            .prop_map(String::into_bytes);
        let body = proptest::collection::vec(any::<u8>(), 0..64);
        let binary = (0x1f_u8..0x23, 0_u8..0x34, 0_u16..64, body).prop_map(
            |(command, kind, length, body)| {
                let length = length.to_be_bytes();
                [SIGNATURE, &[command, kind], &length[..], &body].concat()
            },
        );
        prop_oneof![line, binary, proptest::collection::vec(any::<u8>(), 0..20)]
    }

    proptest! {
        #[test]
        fn an_answer_stays(bytes in likely(), behind in proptest::collection::vec(any::<u8>(), 0..99)) {
            let mut is_over = None;
            for cut in 0..=bytes.len() {
                let now = read(&bytes[..cut]);
                if let Some(before) = is_over {
                    prop_assert_eq!(now, before, "at {}", cut);
                }
                if let Reading::Header { taken, .. } = now {
                    prop_assert!(taken <= cut);
                }
                is_over = (now != Reading::More).then_some(now).or(is_over);
            }
            if let Some(before) = is_over {
                prop_assert_eq!(read(&[&bytes[..], &behind].concat()), before);
            }
        }

        #[test]
        fn both_versions_say_who_it_is(source: SocketAddr, destination: SocketAddr) {
            let (from, to) = match (source.ip(), destination.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => (IpAddr::V4(from), IpAddr::V4(to)),
                (IpAddr::V4(from), to) => (from.to_ipv6_mapped().into(), to),
                (from, IpAddr::V4(to)) => (from, to.to_ipv6_mapped().into()),
                both => both,
            };
            let family = if from.is_ipv4() { 4 } else { 6 };
            let ports = (source.port(), destination.port());
            let line = format!("PROXY TCP{family} {from} {to} {} {}\r\n", ports.0, ports.1);
            let wanted = SocketAddr::new(from.to_canonical(), source.port());
            let is = Reading::Header { source: Some(wanted), taken: line.len() };
            prop_assert_eq!(read(line.as_bytes()), is);
            let octets = |address: IpAddr| match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            let ends = [octets(from), octets(to)].concat();
            let body = [&ends[..], &ports.0.to_be_bytes(), &ports.1.to_be_bytes()].concat();
            let bytes = binary(0x21, if family == 4 { 0x11 } else { 0x21 }, &body);
            let is = Reading::Header { source: Some(wanted), taken: bytes.len() };
            prop_assert_eq!(read(&bytes), is);
        }

        #[test]
        fn nobody_waits_for_ever(bytes in proptest::collection::vec(any::<u8>(), HEADER_BYTES_MAX)) {
            let begun = [SIGNATURE, &[0x21, 0x11], &bytes].concat();
            prop_assert_ne!(read(&begun), Reading::More);
            let line = [b"PROXY TCP4", &bytes[..LINE_BYTES_MAX]].concat();
            prop_assert_ne!(read(&line), Reading::More);
        }
    }
}
