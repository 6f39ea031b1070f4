//! `kind = "ldap"`: looks up by searches, fails over between servers, keeps connections.
//!
//! That something is not there is said only if the server has searched all of it: every result that
//! is less than that is a trouble.

mod connect;
mod query;
mod said;
mod server;
mod session;

use std::time::{Duration, Instant};

use mpp_config::directory::ldap as settings;
use mpp_hub::directory::{Answering, Directory, Examined, Trouble, Wanted, What};

use connect::{Connector, Stage};
use server::Server;
use session::Fault;

/// The directory.
pub(crate) struct Ldap {
    connector: Connector,
    servers: Vec<Server>,
    timeout: Duration,
}

impl Ldap {
    pub(crate) fn new(settings: settings::Ldap, timeout: Duration) -> Self {
        let servers = settings.servers.iter().cloned();
        let servers = servers.map(|server| Server::new(server, settings.connections)).collect();
        let seconds = timeout.as_secs_f64().ceil().clamp(1.0, 3_600.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see the clamp")]
        let connector = Connector::new(settings, seconds as u32);
        Self { connector, servers, timeout }
    }

    async fn ask(&self, wanted: &Wanted) -> Result<bool, Trouble> {
        let (resting, awake): (Vec<_>, Vec<_>) =
            self.servers.iter().partition(|server| server.rests());
        let mut troubles = Vec::new();
        for server in awake.into_iter().chain(resting) {
            match server.ask(&self.connector, wanted, self.timeout).await {
                Ok(is_known) => return Ok(is_known),
                Err(trouble) => troubles.push(trouble),
            }
        }
        let is_down = troubles.iter().all(|trouble| matches!(trouble, Trouble::Down(_)));
        let texts: Vec<String> = troubles.iter().map(ToString::to_string).collect();
        let text = texts.join("; ");
        Err(if is_down { Trouble::Down(text) } else { Trouble::NotNow(text) })
    }

    async fn examine_one(&self, server: &settings::Server) -> Examined {
        let begun = Instant::now();
        let mut stage = Stage::Connect;
        let result =
            match tokio::time::timeout(self.timeout, self.try_out(server, &mut stage)).await {
                Ok(Ok(text)) => Ok(text),
                Ok(Err(Fault::Lost(text))) => Err(text),
                Ok(Err(Fault::Said(trouble))) => Err(trouble.to_string()),
                Err(_) => Err(format!("it {} within {:?}", stage.missing(), self.timeout)),
            };
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Examined { server: server.text.clone(), result, took_ms }
    }

    async fn try_out(&self, server: &settings::Server, stage: &mut Stage) -> Result<String, Fault> {
        let settings = self.connector.settings();
        let mut session = self.connector.open(server, stage).await?;
        let (what, who) = (What::Recipient, self.connector.who());
        let found = query::finds_any(&mut session, settings, &what, who).await;
        session.close().await;
        let sample = found?.map_or_else(
            || "the filter finds entries".to_owned(),
            |why| format!("whether the filter finds anybody it does not say: {why}"),
        );
        let tls = match (&server.tls, &server.place) {
            (settings::Tls::Direct, _) => "TLS",
            (settings::Tls::Start, _) => "StartTLS",
            (settings::Tls::None, settings::Place::Unix(_)) => "local socket",
            (settings::Tls::None, settings::Place::Tcp(..)) => "no TLS",
        };
        let who = match settings.bind {
            Some(_) => format!("bound as {}", self.connector.who()),
            None => "anonymous".into(),
        };
        Ok(format!("{tls}, {who}, base found, {sample}"))
    }
}

impl Directory for Ldap {
    fn look_up<'a>(&'a self, wanted: &'a Wanted) -> Answering<'a, Result<bool, Trouble>> {
        Box::pin(self.ask(wanted))
    }

    fn examine(&self) -> Answering<'_, Vec<Examined>> {
        Box::pin(async {
            let mut examined = Vec::new();
            for server in &self.servers {
                examined.push(self.examine_one(&server.settings).await);
            }
            examined
        })
    }
}
