//! Directories: who knows whether a user, a domain or a member exists. One file a kind.
//!
//! A directory asks its servers and nothing more: cache, deadline, single flight and the decision
//! to leave a dead one alone are the hub's (`mpp_hub::directory`).

mod ldap;
mod smtp;
mod sql;

use std::sync::Arc;

use mpp_config::directory::{Directory as Configured, Settings};
use mpp_hub::directory::Directory;

pub use self::sql::Tables;

/// The directory of these settings. It connects when it is first asked, and needs a runtime of
/// tokio then.
pub fn open(configured: &Configured) -> Arc<dyn Directory> {
    let timeout = std::time::Duration::from_millis(configured.timeout_ms);
    match &configured.settings {
        Settings::Ldap(settings) => Arc::new(ldap::Ldap::new((**settings).clone(), timeout)),
        Settings::Sql(settings) => Arc::new(sql::Sql::new(settings, timeout)),
        Settings::Smtp(settings) => Arc::new(smtp::Smtp::new(settings.clone(), timeout)),
    }
}
