//! `kind = "ldap"`.

use std::time::Duration;

use mpp_config::directory::ldap as settings;
use mpp_hub::directory::{Answering, Directory, Examined, Trouble, Wanted};

/// The directory.
pub(crate) struct Ldap {
    settings: settings::Ldap,
    timeout: Duration,
}

impl Ldap {
    pub(crate) fn new(settings: settings::Ldap, timeout: Duration) -> Self {
        Self { settings, timeout }
    }
}

impl Directory for Ldap {
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
