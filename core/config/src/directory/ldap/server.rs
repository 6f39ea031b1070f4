//! Where an LDAP server is, as a URL says it (RFC 4516, without what searches have behind it).

use std::net::IpAddr;

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// As it is shown in messages.
    pub text: String,
    /// Where it is.
    pub place: Place,
    /// Whether and how the connection is encrypted.
    pub tls: Tls,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A host, by name or address, and a port.
    Tcp(String, u16),
    /// A socket of this machine.
    Unix(String),
}

/// How a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// It is not.
    None,
    /// From its first byte on.
    Direct,
    /// After an operation of LDAP.
    Start,
}

impl Server {
    /// Reads a URL.
    ///
    /// # Errors
    /// It is none of a server; the text says why.
    pub fn parse(url: &str) -> Result<Self, String> {
        let help = "write ldaps://HOST, ldap://HOST:PORT or ldapi:///PATH";
        let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("no URL: {help}"))?;
        let (tls, port) = match scheme.to_ascii_lowercase().as_str() {
            "ldap" => (Tls::None, 389),
            "ldaps" => (Tls::Direct, 636),
            "ldapi" => return Self::unix(rest),
            _ => return Err(format!("`{scheme}` is none of `ldap`, `ldaps`, `ldapi`: {help}")),
        };
        if rest.contains('@') {
            return Err("a name or password in a URL: write `bind_dn` and `password`".into());
        }
        let (host, behind) = rest.split_once('/').unwrap_or((rest, ""));
        if !behind.is_empty() {
            return Err("something behind the host: the base has a setting, `base`".into());
        }
        let (host, port) = split_port(host, port)?;
        let is_address = host.parse::<IpAddr>().is_ok();
        let is_name = host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if host.is_empty() || !(is_address || is_name) {
            return Err(format!("`{host}` is no host: {help}"));
        }
        let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let text = format!("{}://{shown}:{port}", scheme.to_ascii_lowercase());
        Ok(Self { text, place: Place::Tcp(host, port), tls })
    }

    fn unix(rest: &str) -> Result<Self, String> {
        let path = if rest.contains('%') {
            percent_decoded(rest.trim_end_matches('/'))
                .ok_or("after `%` two hexadecimal digits are needed")?
        } else {
            rest.to_owned()
        };
        if !path.starts_with('/') || path.len() < 2 || path.contains('\0') {
            return Err("a socket has a path from the root: ldapi:///run/slapd/ldapi".into());
        }
        Ok(Self { text: format!("ldapi://{path}"), place: Place::Unix(path), tls: Tls::None })
    }

    /// Whether others could listen in.
    pub(super) fn is_in_the_clear(&self) -> bool {
        match &self.place {
            Place::Unix(_) => false,
            Place::Tcp(host, _) => {
                let address = host.parse::<IpAddr>();
                let is_here = host == "localhost" || address.is_ok_and(|ip| ip.is_loopback());
                self.tls == Tls::None && !is_here
            }
        }
    }
}

fn split_port(host: &str, default: u16) -> Result<(String, u16), String> {
    let (host, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, behind) = rest.split_once(']').ok_or("a `]` is missing")?;
            (address, behind.strip_prefix(':'))
        }
        None => match host.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host, None),
        },
    };
    let port = match port {
        None => default,
        Some(text) => match text.parse() {
            Ok(0) | Err(_) => return Err(format!("`{text}` is no port")),
            Ok(port) => port,
        },
    };
    Ok((host.to_ascii_lowercase(), port))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut pieces = text.split('%');
    bytes.extend_from_slice(pieces.next()?.as_bytes());
    for piece in pieces {
        bytes.push(u8::from_str_radix(piece.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(piece.get(2..)?.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let read = |url| Server::parse(url).unwrap();
        let tcp = |host: &str, port| Place::Tcp(host.into(), port);
        assert_eq!(read("ldap://A.example").place, tcp("a.example", 389));
        assert_eq!(read("ldaps://a.example/").place, tcp("a.example", 636));
        assert_eq!(read("ldap://[::1]:1389").place, tcp("::1", 1389));
        assert_eq!(read("ldap://[::1]:1389").text, "ldap://[::1]:1389");
        assert_eq!(read("ldaps://192.0.2.1").tls, Tls::Direct);
        for url in ["ldapi:///run/slapd/ldapi", "ldapi://%2Frun%2fslapd%2Fldapi/"] {
            assert_eq!(read(url).place, Place::Unix("/run/slapd/ldapi".into()));
        }
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for (url, word) in [
            ("ldap.example.org", "no URL"),
            ("http://a.example", "`http` is none of"),
            ("ldap://cn=x:secret@a.example", "`bind_dn` and `password`"),
            ("ldap://a.example/dc=example", "`base`"),
            ("ldap://a.example:0", "`0` is no port"),
            ("ldap://a.example:70000", "`70000` is no port"),
            ("ldap://", "`` is no host"),
            ("ldap://a b", "`a b` is no host"),
            ("ldapi://run/slapd", "a path from the root"),
            ("ldapi://%2", "two hexadecimal digits"),
        ] {
            let said = Server::parse(url).unwrap_err();
            assert!(said.contains(word), "{url}: {said}");
            assert!(!said.contains("secret"), "{url}: {said}");
        }
    }

    #[test]
    fn loopback_is_not_in_the_clear() {
        let clear = |url| Server::parse(url).unwrap().is_in_the_clear();
        assert!(clear("ldap://a.example") && clear("ldap://192.0.2.1"));
        for url in
            ["ldap://localhost", "ldap://127.1.2.3", "ldap://[::1]", "ldaps://a", "ldapi:///x"]
        {
            assert!(!clear(url), "{url}");
        }
    }
}
