//! From settings to a session: socket, TLS, bind, and a look at the base.

use std::sync::{Arc, OnceLock};

use mpp_config::directory::ldap::{Ldap as Settings, Place, Preset, Server, Tls};
use mpp_hub::directory::Trouble;
use mpp_wire::ldap::{Decoder, Message, Request};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::said;
use super::session::{Fault, Manner, Session};
use mpp_hub::tls;

/// How far an attempt has come, for those who wait in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Connect,
    Tls,
    Bind,
    Search,
}

impl Stage {
    /// What it has not done.
    pub(super) fn missing(self) -> &'static str {
        match self {
            Self::Connect => "does not let connect",
            Self::Tls => "does not answer in TLS",
            Self::Bind => "does not answer to the bind",
            Self::Search => "does not answer to the search",
        }
    }
}

/// Opens sessions.
pub(super) struct Connector {
    settings: Settings,
    manner: Manner,
    /// Made when it is first needed: the system's authorities are many.
    tls: OnceLock<Result<Arc<ClientConfig>, String>>,
}

fn down(text: impl Into<String>) -> Fault {
    Fault::Said(Trouble::Down(text.into()))
}

impl Connector {
    pub(super) fn new(settings: Settings, seconds_max: u32) -> Self {
        let manner = Manner {
            seconds_max,
            passes_over_references: settings.preset == Some(Preset::ActiveDirectory),
            hidden: settings.bind.as_ref().map(|bind| bind.password.reveal().to_owned()),
        };
        Self { settings, manner, tls: OnceLock::new() }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Who asks, in words.
    pub(super) fn who(&self) -> &str {
        self.settings.bind.as_ref().map_or("anonymous", |bind| &bind.dn)
    }

    /// Connects, encrypts, binds, and sees that there is something to search.
    pub(super) async fn open(&self, server: &Server, stage: &mut Stage) -> Result<Session, Fault> {
        *stage = Stage::Connect;
        let cannot = |error: std::io::Error| down(format!("cannot connect: {error}"));
        let manner = self.manner.clone();
        let mut session = match &server.place {
            Place::Unix(path) => {
                Session::new(UnixStream::connect(path).await.map_err(cannot)?, manner)
            }
            Place::Tcp(host, port) => {
                let address = (host.as_str(), *port);
                let mut stream = TcpStream::connect(address).await.map_err(cannot)?;
                // Requests are small and waited for.
                let _ = stream.set_nodelay(true);
                *stage = Stage::Tls;
                match server.tls {
                    Tls::None => Session::new(stream, manner),
                    Tls::Direct => Session::new(self.encrypt(stream, host).await?, manner),
                    Tls::Start => {
                        start_tls(&mut stream).await?;
                        Session::new(self.encrypt(stream, host).await?, manner)
                    }
                }
            }
        };
        *stage = Stage::Bind;
        if let Some(bind) = &self.settings.bind {
            if bind.password.reveal().is_empty() {
                // RFC 4513, 5.1.2: the server would say that all is well, and show little.
                return Err(down(format!("the password of {} is empty", bind.dn)));
            }
            session.bind(&bind.dn, bind.password.reveal()).await?;
        }
        *stage = Stage::Search;
        session.check_base(&self.settings.base, self.who()).await?;
        Ok(session)
    }

    async fn encrypt(&self, stream: TcpStream, host: &str) -> Result<TlsStream<TcpStream>, Fault> {
        let ca = self.settings.ca.as_deref();
        let client = self.tls.get_or_init(|| tls::client(ca)).clone().map_err(down)?;
        let name = self.settings.server_name.as_deref().unwrap_or(host);
        let server_name = ServerName::try_from(name.to_owned())
            .map_err(|_| down(format!("{name} is no name that a certificate could hold")))?;
        let connected = TlsConnector::from(client).connect(server_name, stream).await;
        connected.map_err(|error| down(tls::failure(&error, name, ca.is_some())))
    }
}

/// Asks for TLS (RFC 4511, 4.14). Nothing that came in the clear is kept: whoever sits between
/// could have put it there.
async fn start_tls(stream: &mut TcpStream) -> Result<(), Fault> {
    let broken = |error: std::io::Error| down(format!("the connection breaks: {error}"));
    stream.write_all(&Request::StartTls.encode(1)).await.map_err(broken)?;
    let mut decoder = Decoder::default();
    let mut bytes = [0; 1024];
    let message = loop {
        let count = stream.read(&mut bytes).await.map_err(broken)?;
        if count == 0 {
            return Err(down("it closes the connection"));
        }
        decoder.feed(bytes.get(..count).unwrap_or_default());
        let next = decoder.next_message();
        let next = next.map_err(|wrong| down(format!("it answers {wrong}")))?;
        if let Some(received) = next {
            break received.message;
        }
    };
    match message {
        Message::Extended(outcome) if outcome.code != said::SUCCESS => {
            Err(Fault::Said(said::start_tls(&outcome)))
        }
        Message::Extended(_) if decoder.held() == 0 => Ok(()),
        _ => Err(down("it answers what was not asked")),
    }
}
