//! Where mail goes on to: the next hop of a proxy, and those of its routes.

use mpp_settings::{Diagnostic, Reader};

use crate::directory::smtp::{Protocol, Server};
use crate::directory::tls::{Security, Tls};

/// A next hop.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hop {
    /// The servers, asked in order until one answers.
    pub servers: Vec<Server>,
    /// What they speak.
    pub protocol: Protocol,
    /// Whether the connection is encrypted, and whom to trust.
    pub security: Security,
    /// The name that a certificate must have; empty for the server's as it is written.
    pub server_name: String,
}

/// Reads the hop of all that no route names, and those of the routes with their domains.
pub(super) fn read_all(table: &mut Reader<'_>) -> Vec<(Hop, Vec<String>)> {
    let mut hops = vec![(read(table), Vec::new())];
    for mut route in table.tables("route") {
        let hop = read(&mut route);
        if route.value("domains").is_none() {
            let problem = Diagnostic::error(route.place(), "a route needs `domains`");
            route.report(problem.help("domains = [\"example.org\"]"));
        }
        let domains = route.list("domains", &[], super::domains::name);
        route.finish();
        hops.push((hop, domains));
    }
    hops
}

fn read(table: &mut Reader<'_>) -> Hop {
    const PROTOCOLS: [(&str, Protocol); 2] = [("smtp", Protocol::Smtp), ("lmtp", Protocol::Lmtp)];
    super::needed(table, "next_hop", "next_hop = [\"127.0.0.1:10026\"]");
    let servers = table.list("next_hop", &[], Server::parse);
    let protocol = table.choice("protocol", "smtp", &PROTOCOLS).unwrap_or_default();
    let security = Security::read(table);
    let server_name = table.text("server_name", "");
    if !server_name.is_empty() && security.tls != Tls::Require {
        table.mistake("server_name", "names are only verified with tls = \"require\"");
    }
    Hop { servers, protocol, security, server_name }
}
