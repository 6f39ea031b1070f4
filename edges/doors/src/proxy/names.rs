//! The name of a client: what its address claims, and whether that leads back to the address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

/// Names that one address is asked about; a host with a thousand of them is none to wait for.
const NAMES_MAX: usize = 3;
/// How long the whole may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks name servers.
#[derive(Clone)]
pub(crate) struct Names(Arc<TokioResolver>);

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// A name that leads back to the address; empty if none does.
    pub(crate) verified: String,
    /// What the address claims.
    pub(crate) claimed: String,
}

impl Names {
    /// With these name servers, or with those of the system.
    pub(crate) fn new(servers: &[SocketAddr]) -> Result<Self, String> {
        let builder = if servers.is_empty() {
            TokioResolver::builder_tokio()
                .map_err(|error| format!("the name servers of this system: {error}"))?
        } else {
            let servers = servers.iter().map(|server| {
                let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
                for connection in &mut connections {
                    connection.port = server.port();
                }
                NameServerConfig::new(server.ip(), true, connections)
            });
            let config = ResolverConfig::from_name_servers(servers.collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let mut builder = builder;
        let options = builder.options_mut();
        options.timeout = TIMEOUT / 2;
        options.attempts = 2;
        options.cache_size = 8192;
        let resolver = builder.build().map_err(|error| format!("name servers: {error}"))?;
        Ok(Self(Arc::new(resolver)))
    }

    /// The names of an address. Whatever fails, there is none.
    pub(crate) async fn find(&self, address: IpAddr) -> Found {
        tokio::time::timeout(TIMEOUT, self.ask(address)).await.unwrap_or_default()
    }

    async fn ask(&self, address: IpAddr) -> Found {
        let Ok(answer) = self.0.lookup(Name::from(address), RecordType::PTR).await else {
            return Found::default();
        };
        let names = answer.answers().iter().filter_map(|record| match &record.data {
            RData::PTR(name) => Some(&name.0),
            _ => None,
        });
        let mut found = Found::default();
        for name in names.take(NAMES_MAX) {
            let Some(text) = plain(name) else { continue };
            if found.claimed.is_empty() {
                found.claimed.clone_from(&text);
            }
            let leads_back = self.0.lookup_ip(name.clone()).await;
            if leads_back.is_ok_and(|all| all.iter().any(|other| other.to_canonical() == address)) {
                found.verified = text;
                break;
            }
        }
        found
    }
}

/// A name as it stands in a reply and a header: what is no plain name is none.
fn plain(name: &Name) -> Option<String> {
    let text = name.to_utf8().trim_end_matches('.').to_ascii_lowercase();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (!text.is_empty() && text.len() <= 253 && text.bytes().all(is_plain)).then_some(text)
}
