//! `mpp postfix`: the lines that make Postfix ask.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::{load, print};

/// Print the main.cf lines for a configuration.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mpp postfix\n  mpp postfix --config /etc/mpp/mpp.toml")]
pub(crate) struct Postfix {
    /// The configuration; without one, the defaults
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Postfix {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let loaded = load::load(self.config.as_deref(), 0).map_err(Failure)?;
        let listeners = &loaded.configuration.listen.policy;
        let first = listeners.first().ok_or("error: `listen.policy` is empty")?;
        print::out(&lines(first));
        Ok(())
    }
}

/// How Postfix names a listener.
fn service(address: &str) -> String {
    match address.strip_prefix("unix:") {
        // Postfix resolves a unix path below its queue directory where smtpd is chrooted.
        Some(path) => format!("unix:{}", path.strip_prefix("/var/spool/postfix/").unwrap_or(path)),
        None => format!("inet:{address}"),
    }
}

/// The three lines that `serve` prints. None begins with a space: main.cf would take it for the
/// rest of the line before.
pub(crate) fn short_lines(address: &str) -> String {
    let service = service(address);
    format!(
        "smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, \
         reject_unauth_destination\n\
         smtpd_recipient_restrictions = \
         check_policy_service {{ {service}, timeout=10s, default_action=DUNNO }}\n\
         smtpd_end_of_data_restrictions = \
         check_policy_service {{ {service}, timeout=10s, default_action=DUNNO }}"
    )
}

fn lines(address: &str) -> String {
    let service = service(address);
    format!(
        "# main.cf: ask mpp about every recipient, and once more when the message is there.
#
# The order matters: what Postfix itself refuses (relay access) is not asked about. Mail from your
# own networks and authenticated users IS asked about, so that compromised accounts are noticed:
# mpp never greylists them. `default_action=DUNNO` lets mail pass while mpp is down or restarted.
smtpd_recipient_restrictions =
    reject_non_fqdn_recipient,
    check_policy_service {{ {service}, timeout=10s, default_action=DUNNO }},
    permit_mynetworks,
    permit_sasl_authenticated,
    reject_unauth_destination
smtpd_relay_restrictions =
    permit_mynetworks,
    permit_sasl_authenticated,
    reject_unauth_destination
smtpd_end_of_data_restrictions =
    check_policy_service {{ {service}, timeout=10s, default_action=DUNNO }}
smtpd_policy_service_timeout = 10s
smtpd_policy_service_max_idle = 300s
smtpd_policy_service_max_ttl = 1000s
smtpd_policy_service_try_limit = 2
smtpd_policy_service_retry_delay = 1s
smtpd_policy_service_default_action = DUNNO"
    )
}
