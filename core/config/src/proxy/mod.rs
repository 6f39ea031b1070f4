//! `[proxy.NAME]`: an SMTP filter between a mail server and its next hop.

use std::sync::Arc;

use ipnet::IpNet;
use mpp_engine::network;
use mpp_settings::{Diagnostic, Kind as ValueKind, Reader, Session};

use crate::directory::host_and_port;
use crate::schema::address;

/// A filter with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Where it answers.
    pub listen: Vec<String>,
    /// Where mail goes on to, `HOST:PORT`, asked in order until one answers.
    pub next_hops: Vec<String>,
    /// Who may use it at all; nothing: the trusted peers of `[networks]`.
    pub peers: Option<Vec<IpNet>>,
    /// The name it greets with and goes on under.
    pub name_of_host: String,
}

/// Reads all filters, in the order of their names.
pub(crate) fn read(root: &mut Reader<'_>, session: &Session) -> Vec<Proxy> {
    let section = root.table("proxy");
    let mut proxies = Vec::new();
    for (name, place, value) in section.names() {
        let ValueKind::Table(table) = &value.kind else {
            let message = format!("`proxy.{name}` is {}, not a table", value.described());
            session.report(Diagnostic::error(place.clone(), message));
            continue;
        };
        let mut reader = session.reader(&format!("proxy.{name}"), vec![table]);
        proxies.push(read_one(&mut reader, name));
        reader.finish();
    }
    proxies
}

fn read_one(table: &mut Reader<'_>, name: &str) -> Proxy {
    let listen = table.list("listen", &[], address);
    let next_hops = table.list("next_hop", &[], |text| {
        let (host, port) = host_and_port(text, None)?;
        let is_v6 = host.contains(':');
        Ok(if is_v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
    });
    for (name, is_missing) in [("listen", listen.is_empty()), ("next_hop", next_hops.is_empty())] {
        if is_missing && table.value(name).is_none() {
            let message = format!("a proxy needs `{name}`");
            let problem = Diagnostic::error(table.place(), message);
            table.report(problem.help(format!("{name} = [\"127.0.0.1:10025\"]")));
        }
    }
    let has_peers = table.value("peers").is_some();
    let peers = table.list("peers", &[], network::parse);
    let peers = has_peers.then_some(peers);
    let name_of_host = table.text("name", "localhost");
    if name_of_host.is_empty() || !name_of_host.bytes().all(|byte| byte.is_ascii_graphic()) {
        table.mistake("name", "expected the name of a host");
    }
    Proxy { name: name.into(), listen, next_hops, peers, name_of_host }
}
