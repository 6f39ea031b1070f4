//! `[proxy.NAME]`: SMTP taken and passed on, as a filter of one mail server or as the gateway of
//! some domains.

mod domains;
mod hop;
mod limits;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mpp_address::Path;
use mpp_engine::facts::Stage;
use mpp_engine::network;
use mpp_settings::{Diagnostic, Kind as ValueKind, Reader, Secret, Session};

pub use domains::{Domains, Taking};
pub use hop::Hop;
pub use limits::Limits;

use crate::directory::smtp::Server;
use crate::schema::{address, stage};

/// A proxy with its settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proxy {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What it is for.
    pub use_as: UseAs,
    /// Where it answers.
    pub listen: Vec<String>,
    /// Where mail goes on to: the first is for all that no route names.
    pub hops: Vec<Hop>,
    /// Which domains a gateway takes mail for, and the number of the hop for each.
    pub domains: Domains,
    /// Who may use a filter at all; nothing: the trusted peers of `[networks]`.
    pub peers: Option<Vec<IpNet>>,
    /// Who may say of whom it speaks by XCLIENT.
    pub xclient: Vec<IpNet>,
    /// Whose word counts when a message says what another filter found in it.
    pub verdicts_from: Vec<IpNet>,
    /// Who begins with a header of the PROXY protocol; all others never do.
    pub proxy_protocol: Vec<IpNet>,
    /// The name it greets with and goes on under.
    pub name_of_host: String,
    /// The stages at which something is asked.
    pub stages: Vec<Stage>,
    /// With what STARTTLS is offered, if it is.
    pub starttls: Option<Starttls>,
    /// For how long the greeting is held back, in milliseconds.
    pub greet_delay_ms: u64,
    /// Whether the names of clients are looked up.
    pub resolve: bool,
    /// The name servers, `ADDRESS:PORT`; none: those of the system.
    pub resolvers: Vec<std::net::SocketAddr>,
    /// How much of everything.
    pub limits: Limits,
}

/// What a proxy is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UseAs {
    /// Between a mail server and its next hop, for configured peers, whatever the recipients.
    #[default]
    Filter,
    /// Before all mail servers, for everybody, for configured domains.
    Gateway,
}

/// `[proxy.NAME.starttls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starttls {
    /// The certificate and those between it and an authority, as PEM.
    pub certificate: String,
    /// Its key, as PEM.
    pub key: Secret,
    /// Whether mail is taken over an encrypted connection only.
    pub is_required: bool,
}

impl Proxy {
    /// One that takes no mail, and sends what is given to it to these servers.
    pub fn outlet(name: &str, servers: &[Server]) -> Self {
        let hop = Hop { servers: servers.to_vec(), ..Hop::default() };
        let name_of_host = "localhost".to_owned();
        Self { name: name.into(), hops: vec![hop], name_of_host, ..Self::default() }
    }

    /// Whether it is a gateway.
    pub fn is_gateway(&self) -> bool {
        self.use_as == UseAs::Gateway
    }

    /// Whether an address is one of this site's own mail servers, which the settings of a filter name.
    /// At a gateway all are strangers until they have said otherwise.
    pub fn names(&self, address: IpAddr) -> bool {
        if self.is_gateway() {
            return false;
        }
        let peers = self.peers.iter().flatten();
        let all = peers.chain(&self.proxy_protocol).chain(&self.xclient).chain(&self.verdicts_from);
        // A network that holds a great part of all hosts names nobody.
        let is_named = |network: &&IpNet| network.prefix_len() >= 8 && network.contains(&address);
        all.filter(is_named).count() > 0
    }

    /// Whether it takes mail for a recipient, and the number of its next hop.
    pub fn takes(&self, recipient: &Path) -> Taking {
        match self.use_as {
            UseAs::Filter => Taking::Yes(0),
            UseAs::Gateway => self.domains.takes(recipient),
        }
    }
}

/// Reads all proxies, in the order of their names.
pub(crate) fn read(root: &mut Reader<'_>, session: &Session) -> Vec<Arc<Proxy>> {
    let section = root.table("proxy");
    let mut proxies = Vec::new();
    for (name, place, value) in section.names() {
        let ValueKind::Table(table) = &value.kind else {
            let message = format!("`proxy.{name}` is {}, not a table", value.described());
            session.report(Diagnostic::error(place.clone(), message));
            continue;
        };
        let mut reader = session.reader(&format!("proxy.{name}"), vec![table]);
        proxies.push(Arc::new(read_one(&mut reader, name)));
        reader.finish();
    }
    proxies
}

fn read_one(table: &mut Reader<'_>, name: &str) -> Proxy {
    const USES: [(&str, UseAs); 2] = [("filter", UseAs::Filter), ("gateway", UseAs::Gateway)];
    let use_as = table.choice("use", "filter", &USES).unwrap_or_default();
    let is_gateway = use_as == UseAs::Gateway;
    let listen = table.list("listen", &[], address);
    needed(table, "listen", "listen = [\"127.0.0.1:10025\"]");
    let hops = hop::read_all(table);
    let domains = Domains::read(table, is_gateway, &hops);
    let hops: Vec<Hop> = hops.into_iter().map(|(hop, _)| hop).collect();
    let has_peers = table.value("peers").is_some();
    let peers = table.list("peers", &[], network::parse);
    let peers = has_peers.then_some(peers);
    if is_gateway && has_peers {
        table.mistake("peers", "a gateway takes mail from everybody; peers are those of a filter");
    }
    let name_of_host = table.text("name", "localhost");
    if name_of_host.is_empty() || !name_of_host.bytes().all(|byte| byte.is_ascii_graphic()) {
        table.mistake("name", "expected the name of a host");
    }
    let stages: &[&str] = if is_gateway {
        &["CONNECT", "RCPT", "END-OF-MESSAGE"]
    } else {
        &["RCPT", "END-OF-MESSAGE"]
    };
    Proxy {
        name: name.into(),
        use_as,
        listen,
        hops,
        domains,
        peers,
        xclient: table.list("xclient", &[], network::parse),
        verdicts_from: table.list("verdicts_from", &[], network::parse),
        proxy_protocol: table.list("proxy_protocol", &[], network::parse),
        name_of_host,
        stages: table.list("stages", stages, stage),
        starttls: read_starttls(&mut table.table("starttls")),
        greet_delay_ms: table.duration_ms("greet_delay", if is_gateway { "1s" } else { "0s" }),
        resolve: table.flag("resolve", is_gateway),
        resolvers: table.list("resolvers", &[], |text| {
            text.parse().map_err(|_| "expected ADDRESS:PORT, such as \"127.0.0.1:53\"".to_owned())
        }),
        limits: Limits::read(table),
    }
}

fn needed(table: &mut Reader<'_>, name: &'static str, example: &str) {
    if table.value(name).is_none() {
        let problem = Diagnostic::error(table.place(), format!("a proxy needs `{name}`"));
        table.report(problem.help(example));
    }
}

fn read_starttls(table: &mut Reader<'_>) -> Option<Starttls> {
    let is_required = table.flag("required", false);
    let certificate = table.content("certificate");
    let key = table.content("key");
    table.finish();
    if !table.is_own() {
        return None;
    }
    for (name, is_missing) in [("certificate", certificate.is_none()), ("key", key.is_none())] {
        if is_missing && table.value(name).is_none() {
            let problem = Diagnostic::error(table.place(), format!("STARTTLS needs `{name}`"));
            table.report(problem.help(format!("{name} = \"/etc/ssl/private/mx.pem\"")));
        }
    }
    let (certificate, key) = (certificate?, key?);
    if !certificate.contains("-----BEGIN CERTIFICATE-----") {
        table.mistake("certificate", "the file holds no certificate in PEM form");
    }
    if !key.contains("PRIVATE KEY-----") {
        table.mistake("key", "the file holds no private key in PEM form");
    }
    Some(Starttls { certificate, key: Secret::new(&key), is_required })
}
