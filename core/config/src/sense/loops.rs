//! Mail that would be handed to ourselves, again and again.

use std::net::{IpAddr, SocketAddr};

use mpp_settings::Diagnostic;

use super::{Tree, error};
use crate::directory::Settings;
use crate::directory::smtp::Server;
use crate::proxy::Proxy;
use crate::schema::Configuration;

pub(super) fn look(tree: Tree<'_>, configuration: &Configuration) -> Vec<Diagnostic> {
    let own = Own::of(configuration);
    let mut problems = Vec::new();
    for proxy in &configuration.proxies {
        for hop in &proxy.hops {
            for server in &hop.servers {
                let Some(listener) = own.is(server, &proxy.name_of_host) else { continue };
                // A gateway may well hand its mail to a filter of the same daemon.
                if !comes_back(proxy, (&listener, &own), configuration) {
                    continue;
                }
                let message =
                    format!("the next hop {server} is mpp itself, which listens on {listener}");
                let place = tree.place(&["proxy", &proxy.name, "next_hop"]);
                let help = "name the server that delivers the mail, on another port or host";
                problems.push(error(place, message, help));
            }
        }
    }
    for directory in &configuration.directories {
        let Settings::Smtp(smtp) = &directory.settings else { continue };
        for server in &smtp.servers {
            let Some(listener) = own.is(server, "") else { continue };
            let name = &directory.source.name;
            let message = format!(
                "`directory.{name}` asks mpp itself who exists: {server} is its own {listener}"
            );
            let place = tree.place(&["directory", name, "servers"]);
            problems.push(error(place, message, "name the server that knows the users"));
        }
    }
    problems
}

/// Whether mail that a proxy hands to a listener of ours comes to that proxy again, or to what takes no
/// mail.
fn comes_back(proxy: &Proxy, (listener, own): (&str, &Own), configuration: &Configuration) -> bool {
    let mut seen: Vec<String> = Vec::new();
    let mut to_see = vec![listener.to_owned()];
    while let Some(listener) = to_see.pop() {
        let is_it = |text: &String| {
            *text == listener
                || text.parse::<SocketAddr>().is_ok_and(|it| it.to_string() == listener)
        };
        let next = configuration.proxies.iter().find(|it| it.listen.iter().any(is_it));
        let Some(next) = next.filter(|next| next.name != proxy.name) else { return true };
        let servers = next.hops.iter().flat_map(|hop| &hop.servers);
        let more = servers.filter_map(|server| own.is(server, &next.name_of_host));
        let more: Vec<String> = more.filter(|it| *it != listener && !seen.contains(it)).collect();
        seen.push(listener);
        to_see.extend(more);
    }
    false
}

/// Where we listen.
struct Own {
    addresses: Vec<SocketAddr>,
    sockets: Vec<String>,
}

impl Own {
    fn of(configuration: &Configuration) -> Self {
        let listen = &configuration.listen;
        let doors = [&listen.policy, &listen.milter, &listen.pages].into_iter().flatten();
        let all = doors.chain(configuration.proxies.iter().flat_map(|proxy| &proxy.listen));
        let (mut addresses, mut sockets) = (Vec::new(), Vec::new());
        for text in all {
            match (text.strip_prefix("unix:"), text.parse()) {
                (Some(path), _) => sockets.push(path.to_owned()),
                (None, Ok(address)) => addresses.push(address),
                (None, Err(_)) => {}
            }
        }
        Self { addresses, sockets }
    }

    /// The listener that a server is, if it is one. `name` is what this host is called.
    fn is(&self, server: &Server, name: &str) -> Option<String> {
        let (host, port) = match server {
            Server::Socket(path) => {
                return self.sockets.iter().find(|it| *it == path).map(|it| format!("unix:{it}"));
            }
            Server::Network { host, port } => (host.as_str(), *port),
        };
        let is_local_name = host.eq_ignore_ascii_case("localhost");
        let is_own_name = !name.is_empty() && name.contains('.') && host.eq_ignore_ascii_case(name);
        let address: Option<IpAddr> = host.parse().ok().map(|it: IpAddr| it.to_canonical());
        let leads_here = |listener: &&SocketAddr| {
            let at = listener.ip().to_canonical();
            if listener.port() != port {
                return false;
            }
            match address {
                Some(address) if at.is_unspecified() => {
                    let is_known = self.addresses.iter().any(|it| it.ip() == address);
                    // Any of ours is reached; of those that nobody wrote down we know nothing.
                    (address.is_loopback() || address.is_unspecified() || is_known)
                        && (at.is_ipv6() || address.is_ipv4())
                }
                Some(address) => at == address || address.is_unspecified() && at.is_loopback(),
                None if is_local_name => at.is_loopback() || at.is_unspecified(),
                None => is_own_name && (at.is_unspecified() || !at.is_loopback()),
            }
        };
        self.addresses.iter().find(leads_here).map(ToString::to_string)
    }
}
