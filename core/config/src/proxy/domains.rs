//! Which domains a gateway takes mail for: those that are named, and nobody else's, ever.

use std::collections::BTreeMap;

use mpp_address::{self as address, Path};
use mpp_engine::policy::Pattern;
use mpp_settings::{Diagnostic, Reader};

use super::Hop;

/// The domains of a gateway, each with the number of its next hop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domains {
    exact: BTreeMap<String, usize>,
    /// With all domains below them.
    parents: BTreeMap<String, usize>,
}

/// Whether a recipient is one to take mail for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taking {
    /// Its mail goes on to the hop of this number.
    Yes(usize),
    /// It is none of ours.
    No,
    /// The address tells the next hop to send it elsewhere (`user%other@example.org`), which would
    /// make a relay of it.
    Routed,
}

impl Domains {
    pub(super) fn read(
        table: &mut Reader<'_>,
        is_gateway: bool,
        hops: &[(Hop, Vec<String>)],
    ) -> Self {
        let own = table.list("domains", &[], name);
        let routed: usize = hops.iter().map(|(_, domains)| domains.len()).sum();
        if !is_gateway {
            if table.value("domains").is_some() || routed > 0 || hops.len() > 1 {
                table.mistake("domains", "a filter takes all recipients: use = \"gateway\"");
            }
            return Self::default();
        }
        if own.is_empty() && routed == 0 {
            let message = "a gateway needs `domains`: it takes mail for no others";
            let problem = Diagnostic::error(table.place(), message);
            table.report(problem.help("domains = [\"example.org\", \".example.net\"]"));
        }
        let mut domains = Self::default();
        let routes = hops.iter().enumerate().skip(1);
        let of_routes =
            routes.flat_map(|(number, (_, names))| names.iter().map(move |n| (n, number)));
        for (name, hop) in own.iter().map(|name| (name, 0)).chain(of_routes) {
            match name.strip_prefix('.') {
                Some(parent) => domains.parents.insert(parent.to_owned(), hop),
                None => domains.exact.insert(name.clone(), hop),
            };
        }
        domains
    }

    /// Whether a recipient is in one of them. That its domain is one at all its type says.
    pub(super) fn takes(&self, recipient: &Path) -> Taking {
        let (local, domain) = address::split(recipient.as_str());
        if domain.is_empty() {
            // RFC 5321 section 4.5.1: every server takes mail for its postmaster.
            let is_postmaster = local.eq_ignore_ascii_case("postmaster");
            return if is_postmaster { Taking::Yes(0) } else { Taking::No };
        }
        let Some(hop) = self.hop(&address::domain(domain)) else { return Taking::No };
        // Quotes protect from nothing: many servers take them away first.
        let is_routed = local.contains(['%', '!', '@', ':']) || local.starts_with('/');
        if is_routed { Taking::Routed } else { Taking::Yes(hop) }
    }

    fn hop(&self, domain: &str) -> Option<usize> {
        if let Some(hop) = self.exact.get(domain) {
            return Some(*hop);
        }
        let mut rest = domain;
        loop {
            if let Some(hop) = self.parents.get(rest) {
                return Some(*hop);
            }
            rest = rest.split_once('.')?.1;
        }
    }

    /// All of them as they are written, each with the number of its hop.
    pub fn all(&self) -> impl Iterator<Item = (String, usize)> {
        let exact = self.exact.iter().map(|(name, hop)| (name.clone(), *hop));
        exact.chain(self.parents.iter().map(|(name, hop)| (format!(".{name}"), *hop)))
    }
}

/// Reads a domain, or one with a leading dot, which stands for all below it too.
pub(super) fn name(text: &str) -> Result<String, String> {
    let is_name = |domain: &str| {
        // One label would be a whole top-level domain, or all there is.
        domain.contains('.')
            && domain.split('.').all(|label| {
                !label.is_empty()
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            })
    };
    let pattern = Pattern::parse(text).map_err(|why| format!("`{text}` is no domain: {why}"))?;
    match pattern {
        Pattern::Domain(domain) if is_name(&domain) => Ok(domain),
        Pattern::Below(domain) if is_name(&domain) => Ok(format!(".{domain}")),
        _ => {
            Err(format!("`{text}` is no domain: a gateway takes mail for domains of its own only"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains() -> Domains {
        let mut domains = Domains::default();
        domains.exact.insert("example.org".into(), 0);
        domains.exact.insert("xn--bcher-kva.example".into(), 1);
        domains.parents.insert("example.net".into(), 2);
        domains
    }

    #[test]
    fn nobody_elses_mail_is_taken() {
        for (recipient, wanted) in [
            ("bob@example.org", Taking::Yes(0)),
            ("bob@EXAMPLE.org", Taking::Yes(0)),
            ("bob@example.org.", Taking::Yes(0)),
            ("bob@bücher.example", Taking::Yes(1)),
            ("bob@example.net", Taking::Yes(2)),
            ("bob@a.b.Example.net", Taking::Yes(2)),
            ("Postmaster", Taking::Yes(0)),
            ("bob@example.com", Taking::No),
            ("bob@sub.example.org", Taking::No),
            ("bob@notexample.net", Taking::No),
            ("bob@[127.0.0.1]", Taking::No),
            ("bob%example.com@example.org", Taking::Routed),
            ("example.com!bob@example.org", Taking::Routed),
            ("\"bob@example.com\"@example.org", Taking::Routed),
            // Where it goes is ours to say: the route that the client wrote is not passed on.
            ("@example.com:bob@example.org", Taking::Yes(0)),
        ] {
            let path = Path::parse_bare(recipient).unwrap();
            assert_eq!(domains().takes(&path), wanted, "{recipient}");
        }
    }

    #[test]
    fn all_there_is_is_no_domain() {
        for text in ["*", ".", "", "org", ".org", "@", "bob@example.org", "a..b", "*.example.org"] {
            assert!(name(text).is_err(), "{text}");
        }
        assert_eq!(name("Example.ORG").unwrap(), "example.org");
        assert_eq!(name(".example.org").unwrap(), ".example.org");
    }
}
