//! `mpp postfix`: the lines that make Postfix ask.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::{load, print};

/// Print the main.cf lines for a configuration.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mpp postfix\n  \
    mpp postfix --config /etc/mpp/mpp.toml --mode milter")]
pub(crate) struct Postfix {
    /// The configuration; without one, the defaults
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How Postfix is to ask
    #[arg(long, value_enum, default_value = "policy")]
    mode: Mode,
}

/// How Postfix asks.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Mode {
    /// The policy service, at RCPT and at the end of the message
    Policy,
    /// The milter
    Milter,
}

impl Postfix {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let loaded = load::load(self.config.as_deref(), 0).map_err(Failure)?;
        let listen = &loaded.configuration.listen;
        print::out(&match self.mode {
            Mode::Policy => lines(listen.policy.first().ok_or("error: `listen.policy` is empty")?),
            Mode::Milter => {
                milter_lines(listen.milter.first().ok_or(
                    "error: `listen.milter` is empty\nhelp: milter = [\"127.0.0.1:10041\"]",
                )?)
            }
        });
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

fn milter_lines(address: &str) -> String {
    let service = service(address);
    format!(
        "# main.cf: let mpp see every connection and message as a milter, beside others if need be.
#
# Milters are asked about recipients that Postfix itself would take; keep relay access refused. Mail
# from your own networks and authenticated users is asked about too. `default_action=accept` lets
# mail pass while mpp is down or restarted.
smtpd_relay_restrictions =
    permit_mynetworks,
    permit_sasl_authenticated,
    reject_unauth_destination
smtpd_milters = {{ {service}, connect_timeout=10s, command_timeout=10s, default_action=accept }}
milter_protocol = 6"
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
