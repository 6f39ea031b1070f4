//! The address of a host, as the peers of a mail server write it.

use std::net::IpAddr;

/// Reads an address: IPv4, IPv6 with or without the tag `IPv6:` (RFC 5321 section 4.1.3), in brackets
/// or not, with the zone of a link or without (RFC 4007 section 11; which link it is no other host
/// needs to know). An IPv4 address that is written as an IPv6 one is what it stands for.
pub fn address(text: &str) -> Option<IpAddr> {
    let text = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let tag = text.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPv6:"));
    let text = tag.and_then(|tag| text.get(tag.len()..)).unwrap_or(text);
    let text = text.split_once('%').map_or(text, |(address, _)| address);
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_however_it_is_written() {
        for (text, wanted) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("[192.0.2.1]", Some("192.0.2.1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("IPV6:2001:db8::1", Some("2001:db8::1")),
            ("[IPv6:2001:db8::1]", Some("2001:db8::1")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("unknown", None),
            ("", None),
            ("192.0.2.1.5", None),
        ] {
            assert_eq!(address(text), wanted.map(|text| text.parse().unwrap()), "{text}");
        }
    }
}
