//! What other greylists remember, line by line: postgrey, sqlgrey, policyd and cluebringer.
//!
//! They know addresses and networks, never names. What they remember of senders differs in what they
//! cut out of them, so a first try may be told from a retry where it would not have been there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Whom a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// One address.
    Host(IpAddr),
    /// All of a network.
    Network(IpNet),
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Somebody tried and has not come back yet.
    FirstTry {
        /// Who.
        origin: Origin,
        /// In whose name; empty is the null sender.
        sender: String,
        /// Writing to whom.
        recipient: String,
        /// When, in seconds since 1970.
        at_s: u64,
    },
    /// Somebody came back.
    Passed {
        /// Who.
        origin: Origin,
        /// When last seen, in seconds since 1970.
        at_s: u64,
    },
}

/// Why a line says nothing that could be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Useless {
    /// Only a hash of it was kept.
    Hashed,
    /// It is about no address and no network.
    Origin,
    /// It is no such line.
    Form,
}

impl Useless {
    /// The reason for people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Hashed => "kept as a hash only (--privacy)",
            Self::Origin => "neither an address nor a network",
            Self::Form => "not in the known form",
        }
    }
}

/// How a postgrey was started, as far as its lines do not say it.
#[derive(Clone, Copy, Debug)]
pub struct Postgrey {
    /// `--delay`, in seconds.
    pub delay_s: u64,
    /// `--ipv4cidr`.
    pub v4_length: u8,
    /// `--ipv6cidr`.
    pub v6_length: u8,
}

impl Default for Postgrey {
    fn default() -> Self {
        Self { delay_s: 300, v4_length: 24, v6_length: 64 }
    }
}

impl Postgrey {
    /// A line of `postgrey.db`: client, sender and recipient, and when first and last seen.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn triplet(&self, key: &[u8], value: &[u8]) -> Result<Known, Useless> {
        let (key, value) = (plain(key)?, plain(value)?);
        if is_hash(key) {
            return Err(Useless::Hashed);
        }
        let (client, rest) = key.split_once('/').ok_or(Useless::Form)?;
        let (sender, recipient) = sender_and_recipient(rest).ok_or(Useless::Form)?;
        let origin = self.origin(client)?;
        // Behind them may be a third part that says nothing more.
        let mut times = value.split(',');
        let first_s = seconds(times.next())?;
        let last_s = seconds(times.next())?;
        if last_s.saturating_sub(first_s) >= self.delay_s {
            return Ok(Known::Passed { origin, at_s: last_s });
        }
        first_try(origin, sender, recipient, first_s)
    }

    /// A line of `postgrey_clients.db`: an address, how often it passed and when last.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn client(key: &[u8], value: &[u8]) -> Result<Known, Useless> {
        let (key, value) = (plain(key)?, plain(value)?);
        if is_hash(key) {
            return Err(Useless::Hashed);
        }
        let (count, last) = value.split_once(',').ok_or(Useless::Form)?;
        if seconds(Some(count))? == 0 {
            return Err(Useless::Form);
        }
        let origin = Origin::Host(key.parse::<IpAddr>().map_err(|_| Useless::Origin)?);
        Ok(Known::Passed { origin, at_s: seconds(Some(last))? })
    }

    /// It writes the network's first address, without its length. What has more bits than that is an
    /// address of its own (`--lookup-by-host`).
    fn origin(&self, text: &str) -> Result<Origin, Useless> {
        let address = text.parse::<IpAddr>().map_err(|_| Useless::Origin)?;
        let length = if address.is_ipv4() { self.v4_length } else { self.v6_length };
        Ok(network_or_host(address, length))
    }
}

/// sqlgrey's word for nothing there.
const NOTHING: &str = "-undef-";

/// A row of sqlgrey's `connect`: sender, its domain, source, recipient, when.
///
/// # Errors
/// It cannot be used.
pub fn sqlgrey_connect(row: &[Option<String>]) -> Result<Known, Useless> {
    let [local, domain, source, recipient, first] = row else { return Err(Useless::Form) };
    let [local, domain] = [text(local.as_deref())?, text(domain.as_deref())?];
    let sender = match (local, domain) {
        (NOTHING, NOTHING) => String::new(),
        (local, NOTHING) => local.to_owned(),
        (local, domain) => format!("{local}@{domain}"),
    };
    first_try(
        sqlgrey_origin(text(source.as_deref())?)?,
        &sender,
        text(recipient.as_deref())?,
        seconds(first.as_deref())?,
    )
}

/// A row of sqlgrey's `from_awl` or `domain_awl`: source, when last seen.
///
/// # Errors
/// It cannot be used.
pub fn sqlgrey_awl(row: &[Option<String>]) -> Result<Known, Useless> {
    let [source, last] = row else { return Err(Useless::Form) };
    Ok(Known::Passed {
        origin: sqlgrey_origin(text(source.as_deref())?)?,
        at_s: seconds(last.as_deref())?,
    })
}

/// `192.0.2` and four groups of an IPv6 address are networks.
fn sqlgrey_origin(text: &str) -> Result<Origin, Useless> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(if address.is_ipv4() {
            Origin::Host(address)
        } else {
            network_or_host(address, 64)
        });
    }
    if let Ok(address) = format!("{text}::").parse::<Ipv6Addr>() {
        return Ok(Origin::Network(network(IpAddr::V6(address), 64)));
    }
    parts_of_v4(text)
}

/// A row of policyd's `triplet`: host, sender, recipient, when new, when last, how often it passed.
///
/// # Errors
/// It cannot be used.
pub fn policyd_triplet(row: &[Option<String>]) -> Result<Known, Useless> {
    tracked(row, policyd_origin)
}

/// A row of policyd's `whitelist` that it made by itself: whom, and when it was read, since when the
/// host was last seen is not kept.
///
/// # Errors
/// It cannot be used.
pub fn policyd_whitelist(row: &[Option<String>]) -> Result<Known, Useless> {
    let [whom, now] = row else { return Err(Useless::Form) };
    let whom = text(whom.as_deref())?;
    let origin = policyd_origin(whom.strip_suffix(".%").unwrap_or(whom))?;
    Ok(Known::Passed { origin, at_s: seconds(now.as_deref())? })
}

/// A row of either: whose, sender, recipient, when first, when last, how often it passed.
fn tracked(
    row: &[Option<String>],
    origin_of: fn(&str) -> Result<Origin, Useless>,
) -> Result<Known, Useless> {
    let [whose, sender, recipient, first, last, passed] = row else { return Err(Useless::Form) };
    let origin = origin_of(text(whose.as_deref())?)?;
    if seconds(passed.as_deref())? > 0 {
        return Ok(Known::Passed { origin, at_s: seconds(last.as_deref())? });
    }
    first_try(
        origin,
        text(sender.as_deref())?,
        text(recipient.as_deref())?,
        seconds(first.as_deref())?,
    )
}

fn policyd_origin(text: &str) -> Result<Origin, Useless> {
    text.parse().map(Origin::Host).or_else(|_| parts_of_v4(text))
}

/// A row of cluebringer's `greylisting_tracking`: track key, sender, recipient, when first, when last,
/// how often it passed.
///
/// # Errors
/// It cannot be used.
pub fn cluebringer_tracking(row: &[Option<String>]) -> Result<Known, Useless> {
    tracked(row, cluebringer_origin)
}

/// A row of cluebringer's `greylisting_autowhitelist`: track key, when last seen.
///
/// # Errors
/// It cannot be used.
pub fn cluebringer_awl(row: &[Option<String>]) -> Result<Known, Useless> {
    let [key, last] = row else { return Err(Useless::Form) };
    Ok(Known::Passed {
        origin: cluebringer_origin(text(key.as_deref())?)?,
        at_s: seconds(last.as_deref())?,
    })
}

/// `SenderIP:192.0.2.0/24`.
fn cluebringer_origin(text: &str) -> Result<Origin, Useless> {
    let (kind, place) = text.split_once(':').ok_or(Useless::Origin)?;
    if !kind.eq_ignore_ascii_case("SenderIP") {
        return Err(Useless::Origin);
    }
    let network = match place.parse::<IpNet>() {
        Ok(network) => network.trunc(),
        Err(_) => IpNet::from(place.parse::<IpAddr>().map_err(|_| Useless::Origin)?),
    };
    let is_host = network.prefix_len() == network.max_prefix_len();
    Ok(if is_host { Origin::Host(network.addr()) } else { Origin::Network(network) })
}

fn first_try(origin: Origin, sender: &str, recipient: &str, at_s: u64) -> Result<Known, Useless> {
    if recipient.is_empty() {
        return Err(Useless::Form);
    }
    let (sender, recipient) = (sender.to_owned(), recipient.to_owned());
    Ok(Known::FirstTry { origin, sender, recipient, at_s })
}

/// Both parts of `sender/recipient`. A slash may be part of either, but not of a domain.
fn sender_and_recipient(text: &str) -> Option<(&str, &str)> {
    if let Some(recipient) = text.strip_prefix('/') {
        return Some(("", recipient));
    }
    let at = text.find('@')?;
    let has_domain = text.get(at + 1..).is_some_and(|rest| rest.contains('@'));
    let end = if has_domain {
        at + text.get(at..)?.find('/')?
    } else {
        text.get(..at)?.rfind('/').or_else(|| text.rfind('/'))?
    };
    Some((text.get(..end)?, text.get(end + 1..)?))
}

/// One to three numbers of an IPv4 address are the network that they begin.
fn parts_of_v4(text: &str) -> Result<Origin, Useless> {
    let (mut octets, mut count) = ([0_u8; 4], 0_u8);
    for (place, part) in octets.iter_mut().zip(text.split('.')) {
        *place = part.parse().map_err(|_| Useless::Origin)?;
        count += 1;
    }
    if count > 3 || text.split('.').count() > 3 {
        return Err(Useless::Origin);
    }
    Ok(Origin::Network(network(IpAddr::V4(Ipv4Addr::from(octets)), count * 8)))
}

fn network(address: IpAddr, length: u8) -> IpNet {
    IpNet::new(address, length).unwrap_or_else(|_| IpNet::from(address)).trunc()
}

fn network_or_host(address: IpAddr, length: u8) -> Origin {
    let whole = network(address, length);
    let is_host = whole.addr() != address || whole.prefix_len() == whole.max_prefix_len();
    if is_host { Origin::Host(address) } else { Origin::Network(whole) }
}

fn plain(bytes: &[u8]) -> Result<&str, Useless> {
    // Perl writes no NUL behind what it keeps, but other programs do.
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|_| Useless::Form)
}

fn is_hash(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn text(cell: Option<&str>) -> Result<&str, Useless> {
    cell.ok_or(Useless::Form)
}

/// A number that may have a fraction.
fn seconds(text: Option<&str>) -> Result<u64, Useless> {
    let text = text.ok_or(Useless::Form)?.trim();
    let whole = text.split_once('.').map_or(text, |(whole, _)| whole);
    whole.parse().map_err(|_| Useless::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Origin {
        Origin::Host(text.parse().unwrap())
    }

    fn net(text: &str) -> Origin {
        Origin::Network(text.parse().unwrap())
    }

    fn row(cells: &[&str]) -> Vec<Option<String>> {
        cells.iter().map(|cell| Some((*cell).to_owned())).collect()
    }

    fn tried(origin: Origin, sender: &str, recipient: &str, at_s: u64) -> Result<Known, Useless> {
        first_try(origin, sender, recipient, at_s)
    }

    fn passed(origin: Origin, at_s: u64) -> Known {
        Known::Passed { origin, at_s }
    }

    #[test]
    fn lines_of_postgrey() {
        let postgrey = Postgrey::default();
        let read = |key: &str, value: &str| postgrey.triplet(key.as_bytes(), value.as_bytes());
        let known = tried(net("192.0.2.0/24"), "a@x.example", "b@y.example", 100);
        assert_eq!(read("192.0.2.0/a@x.example/b@y.example", "100,399"), known);
        let came = Ok(passed(net("192.0.2.0/24"), 400));
        assert_eq!(read("192.0.2.0/a@x.example/b@y.example", "100,400"), came);
        let came = Ok(passed(net("2001:db8:0:1::/64"), 900));
        assert_eq!(read("2001:db8:0:1:0:0:0:0/a@x.example/b@y.example", "1,900,x"), came);
        assert_eq!(read("192.0.2.7//b@y.example", "1,900"), Ok(passed(host("192.0.2.7"), 900)));
        for (key, sender, recipient) in [
            ("10.0.0.0//b@y.example", "", "b@y.example"),
            ("10.0.0.0/a/c@x.example/b/d@y.example", "a/c@x.example", "b/d@y.example"),
            ("10.0.0.0/root/b@y.example", "root", "b@y.example"),
            ("10.0.0.0/a@x.example/root", "a@x.example", "root"),
        ] {
            let wanted = tried(net("10.0.0.0/24"), sender, recipient, 5);
            assert_eq!(read(key, "5,6"), wanted, "{key}");
        }
        let hash = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
        assert_eq!(read(hash, "5,6"), Err(Useless::Hashed));
        assert_eq!(read("mx.example/a@x.example/b@y.example", "5,6"), Err(Useless::Origin));
        for (key, value) in [
            ("", ""),
            ("10.0.0.0", "5,6"),
            ("10.0.0.0/a@x.example/b@y.example", "5"),
            ("10.0.0.0/a@x.example/b@y.example", "x,6"),
            ("10.0.0.0/a@x.example/", "5,6"),
        ] {
            assert_eq!(read(key, value), Err(Useless::Form), "{key} {value}");
        }
        let wide = Postgrey { v4_length: 27, ..postgrey };
        let known = wide.triplet(b"192.0.2.32/a@x.example/b@y.example", b"1,2000");
        assert_eq!(known, Ok(passed(net("192.0.2.32/27"), 2000)));
        assert_eq!(
            Postgrey::client(b"2001:DB8:0:0:0:0:0:25", b"1,7"),
            Ok(passed(host("2001:db8::25"), 7))
        );
        assert_eq!(Postgrey::client(b"192.0.2.7", b"0,7"), Err(Useless::Form));
        assert_eq!(Postgrey::client(hash.as_bytes(), b"5,7"), Err(Useless::Hashed));
    }

    #[test]
    fn rows_of_sqlgrey() {
        let connect = |sender: &str, domain: &str, source: &str| {
            sqlgrey_connect(&row(&[sender, domain, source, "b@y.example", "100.25"]))
        };
        let wanted = |origin, sender: &str| tried(origin, sender, "b@y.example", 100);
        let known = connect("a", "x.example", "192.0.2");
        assert_eq!(known, wanted(net("192.0.2.0/24"), "a@x.example"));
        assert_eq!(connect("-undef-", "-undef-", "192.0.2.7"), wanted(host("192.0.2.7"), ""));
        let known = connect("root", "-undef-", "2001:0db8:0000:0001");
        assert_eq!(known, wanted(net("2001:db8:0:1::/64"), "root"));
        let known = sqlgrey_awl(&row(&["2001:0db8:0000:0001:0000:0000:0000:0025", "7"]));
        assert_eq!(known, Ok(passed(host("2001:db8:0:1::25"), 7)));
        assert_eq!(sqlgrey_awl(&row(&["mx.example", "7"])), Err(Useless::Origin));
        assert_eq!(sqlgrey_awl(&[Some("192.0.2".into()), None]), Err(Useless::Form));
    }

    #[test]
    fn rows_of_policyd_and_cluebringer() {
        let triplet = |passed: &str| {
            policyd_triplet(&row(&["192.0.2", "a@x.example", "b@y.example", "5", "9", passed]))
        };
        assert_eq!(triplet("0"), tried(net("192.0.2.0/24"), "a@x.example", "b@y.example", 5));
        assert_eq!(triplet("3"), Ok(passed(net("192.0.2.0/24"), 9)));
        assert_eq!(
            policyd_whitelist(&row(&["192.0.2.%", "7"])),
            Ok(passed(net("192.0.2.0/24"), 7))
        );
        assert_eq!(policyd_whitelist(&row(&["192.0.2.9", "7"])), Ok(passed(host("192.0.2.9"), 7)));
        assert_eq!(policyd_whitelist(&row(&["%", "7"])), Err(Useless::Origin));
        let tracking = |key: &str, passed: &str| {
            cluebringer_tracking(&row(&[key, "", "b@y.example", "5", "9", passed]))
        };
        let known = tracking("SenderIP:192.0.2.0/24", "0");
        assert_eq!(known, tried(net("192.0.2.0/24"), "", "b@y.example", 5));
        assert_eq!(tracking("SenderIP:192.0.2.7/32", "1"), Ok(passed(host("192.0.2.7"), 9)));
        assert_eq!(tracking("Sender:@x.example", "1"), Err(Useless::Origin));
        let known = cluebringer_awl(&row(&["SenderIP:2001:db8::/64", "9"]));
        assert_eq!(known, Ok(passed(net("2001:db8::/64"), 9)));
    }

    proptest::proptest! {
        #[test]
        fn no_line_is_too_odd(key in "\\PC{0,60}", value in "[0-9,.]{0,20}") {
            let _ = Postgrey::default().triplet(key.as_bytes(), value.as_bytes());
            let _ = Postgrey::client(key.as_bytes(), value.as_bytes());
            let _ = sqlgrey_connect(&row(&[&key, &key, &key, &key, &value]));
            let _ = policyd_triplet(&row(&[&key, &key, &key, &value, &value, &value]));
            let _ = cluebringer_awl(&row(&[&key, &value]));
        }
    }
}
