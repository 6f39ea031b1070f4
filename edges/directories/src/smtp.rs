//! `kind = "smtp"`.

use std::time::Duration;

use mpp_config::directory::smtp as settings;
use mpp_hub::directory::{Answering, Directory, Examined, Trouble, Wanted};

/// The directory.
pub(crate) struct Smtp {
    settings: settings::Smtp,
    timeout: Duration,
}

impl Smtp {
    pub(crate) fn new(settings: settings::Smtp, timeout: Duration) -> Self {
        Self { settings, timeout }
    }
}

impl Directory for Smtp {
    fn look_up<'a>(&'a self, _: &'a Wanted) -> Answering<'a, Result<bool, Trouble>> {
        Box::pin(async move {
            let servers = self.settings.servers.len();
            let wait = self.timeout;
            Err(Trouble::Down(format!("not built yet: {servers} servers, {wait:?}")))
        })
    }

    fn examine(&self) -> Answering<'_, Vec<Examined>> {
        Box::pin(async { Vec::new() })
    }
}
