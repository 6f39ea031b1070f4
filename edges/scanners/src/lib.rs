//! Scanners: spamd, rspamd and clamd, each a list of servers with health, deadline and a bound on
//! what is asked at once.

mod call;
mod clamd;
mod connect;
mod queue;
mod rspamd;
mod spamd;
mod station;

use std::sync::Arc;

use mpp_config::scanner::{Kind, Scanner as Settings};
use mpp_hub::scanner::Scanner;

use self::station::Station;

/// Opens a scanner; nothing is connected before it is asked.
pub fn open(settings: &Arc<Settings>) -> Arc<dyn Scanner> {
    let settings = Arc::clone(settings);
    match settings.kind {
        Kind::Spamd => Arc::new(Station::new(settings, spamd::Spamd)),
        Kind::Rspamd => Arc::new(Station::new(settings, rspamd::Rspamd)),
        Kind::Clamd => Arc::new(Station::new(settings, clamd::Clamd)),
    }
}
