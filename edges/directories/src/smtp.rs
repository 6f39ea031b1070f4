//! `kind = "smtp"`: asks the next hop by RCPT whom it takes mail for, and never sends any.
//!
//! Only the configured servers are connected to: mpp never asks strangers about their users.

mod domains;
mod lane;
mod session;
mod verdict;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mpp_config::directory::smtp as settings;
use mpp_hub::directory::{Answering, Directory, Examined, Trouble, Wanted, What};
use mpp_wire::smtp::path;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;

use self::domains::Habit;
use self::lane::{Probe, Shared};
use self::session::Session;

/// The directory.
pub(crate) struct Smtp {
    shared: Arc<Shared>,
}

impl Smtp {
    pub(crate) fn new(settings: settings::Smtp, timeout: Duration) -> Self {
        let tls = mpp_hub::tls::connector(&settings.security);
        let tls = tls.map(|config| config.map(TlsConnector::from));
        Self { shared: Arc::new(Shared::new(settings, timeout, tls)) }
    }

    async fn ask(&self, wanted: &Wanted) -> Result<bool, Trouble> {
        match wanted.what {
            What::Recipient => {}
            What::Domain | What::Member(_) => {
                let text = "a next hop only knows recipients, no domains and no groups";
                return Err(Trouble::Down(text.to_owned()));
            }
        }
        // What cannot be said to the next hop cannot be mailed to it either.
        let Some(path) = path(&wanted.local, &wanted.domain) else { return Ok(false) };
        if self.shared.domains.habit(&wanted.domain) == Habit::TakesAll {
            return Ok(true);
        }
        let (answer, answered) = oneshot::channel();
        self.shared.put(Probe { path, domain: wanted.domain.clone(), answer });
        // Each server has its time, and whoever is asked before has his.
        let servers = u32::try_from(self.shared.settings.servers.len()).unwrap_or(u32::MAX);
        let patience = self.shared.timeout.saturating_mul(servers.saturating_add(1));
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Trouble::NotNow("the connection's task has ended".to_owned())),
            Err(_) => {
                let text = format!("no answer within {} ms", patience.as_millis());
                Err(Trouble::Down(text))
            }
        }
    }

    async fn examine_one(&self, server: &settings::Server) -> Examined {
        let began = Instant::now();
        let shared = &self.shared;
        let result = match tokio::time::timeout(shared.timeout, self.try_out(server)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} ms", shared.timeout.as_millis())),
        };
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Examined { server: server.to_string(), result, took_ms }
    }

    async fn try_out(&self, server: &settings::Server) -> Result<String, String> {
        let tls = self.shared.tls.as_ref().map_err(Clone::clone)?;
        let settings = &self.shared.settings;
        let session = Session::open(server, settings, tls.as_ref()).await;
        let mut session = session.map_err(|failure| failure.text)?;
        let works = session.described();
        session.try_sender(&settings.sender).await.map_err(|failure| failure.text)?;
        session.quit().await;
        Ok(format!("{works}, MAIL FROM:<{}> taken", settings.sender))
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Directory for Smtp {
    fn look_up<'a>(&'a self, wanted: &'a Wanted) -> Answering<'a, Result<bool, Trouble>> {
        Box::pin(self.ask(wanted))
    }

    fn examine(&self) -> Answering<'_, Vec<Examined>> {
        Box::pin(async move {
            let mut all = Vec::new();
            for server in &self.shared.settings.servers {
                all.push(self.examine_one(server).await);
            }
            all
        })
    }

    fn notices(&self) -> Vec<String> {
        self.shared.domains.notices()
    }
}
