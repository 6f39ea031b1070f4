//! `kind = "smtp"`: The next hop of a domain, asked by SMTP whom it takes mail for.

use std::fmt;

use mpp_settings::{Diagnostic, Reader};

use super::tls::{Security, Tls};

/// The next hop of a domain, asked by SMTP whom it takes mail for.
#[derive(Clone, Debug, PartialEq)]
pub struct Smtp {
    /// The servers, asked in order until one answers. No other is ever connected to.
    pub servers: Vec<Server>,
    /// What they speak.
    pub protocol: Protocol,
    /// The envelope sender of a question; empty for the null sender.
    pub sender: String,
    /// The name to greet with; empty for that of the host.
    pub helo: String,
    /// Whether a connection is encrypted, and whom to trust.
    pub security: Security,
    /// The name that a certificate must have; empty for the server's as it is written.
    pub server_name: String,
    /// How many connections there may be.
    pub connections: usize,
    /// So many recipients are asked about on one connection.
    pub probes: usize,
    /// So many refusals are heard on one connection.
    pub refusals: usize,
    /// For how long it is believed that a domain takes mail for everybody, or does not, in
    /// milliseconds.
    pub recheck_ms: u64,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// SMTP (RFC 5321).
    #[default]
    Smtp,
    /// LMTP (RFC 2033), as Dovecot and Cyrus do.
    Lmtp,
}

/// A next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// Over the network.
    Network {
        /// The name or address.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket of this host, by its path.
    Socket(String),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Network { host, port } => write!(f, "{host}:{port}"),
            Self::Socket(path) => write!(f, "unix:{path}"),
        }
    }
}

impl Server {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') {
                Ok(Self::Socket(path.to_owned()))
            } else {
                Err("expected unix:/PATH".to_owned())
            };
        }
        let (host, port) = super::host_and_port(text, None)
            .map_err(|message| format!("{message}; the port of SMTP is 25, of LMTP 24"))?;
        Ok(Self::Network { host, port })
    }
}

impl Smtp {
    pub(super) fn read(table: &mut Reader<'_>) -> Self {
        const PROTOCOLS: [(&str, Protocol); 2] =
            [("smtp", Protocol::Smtp), ("lmtp", Protocol::Lmtp)];
        let servers = table.list("servers", &[], Server::parse);
        if servers.is_empty() && !table.has_own("servers") {
            let problem =
                Diagnostic::error(table.place(), "a directory of this kind needs `servers`");
            table.report(problem.help("servers = [\"mail.example.org:25\"]"));
        }
        let protocol = table.choice("protocol", "smtp", &PROTOCOLS).unwrap_or_default();
        let sender = table.text("sender", "");
        if !sender.is_empty() && !is_word(&sender) {
            table.mistake("sender", "expected an address, or nothing for the null sender");
        }
        let helo = table.text("helo", "");
        if !helo.is_empty() && !is_word(&helo) {
            table.mistake("helo", "expected the name of this host");
        }
        let security = Security::read(table);
        let server_name = table.text("server_name", "");
        if !server_name.is_empty() && security.tls != Tls::Require {
            table.mistake("server_name", "names are only verified with tls = \"require\"");
        }
        let mut count = |name, default, most| {
            usize::try_from(table.count(name, default, (1, most))).unwrap_or(1)
        };
        let connections = count("connections", 2, 100);
        let probes = count("probes", 100, 1_000_000);
        let refusals = count("refusals", 9, 1_000_000);
        let recheck_ms = table.period_ms("recheck", "1h");
        Self {
            servers,
            protocol,
            sender,
            helo,
            security,
            server_name,
            connections,
            probes,
            refusals,
            recheck_ms,
        }
    }

    /// What changes the meaning of an answer.
    pub(super) fn meaning(&self) -> String {
        format!("{:?} {}", self.protocol, self.sender)
    }
}

/// Whether a text can stand in a command: one word of plain characters.
fn is_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_as_people_write_them() {
        for text in ["mail.example.org:25", "10.0.0.5:24", "[::1]:25", "unix:/run/lmtp"] {
            assert_eq!(Server::parse(text).unwrap().to_string(), text);
        }
        for text in ["mail.example.org", "::1:25", "a:0", "a:70000", "smtp://a:25", "unix:x", ":25"]
        {
            assert!(Server::parse(text).is_err(), "{text}");
        }
    }
}
