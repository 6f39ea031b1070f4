//! `mpp postfix`: the lines that make Postfix ask.

use clap::Args;
use mpp_config::proxy::Proxy;

use super::Failure;
use crate::place::Config;
use crate::{load, print};

/// Print the main.cf lines for a configuration.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mpp postfix\n  \
    mpp postfix --config /etc/mpp/mpp.toml --mode milter\n  \
    mpp postfix --config /etc/mpp/mpp.toml --mode before-queue")]
pub(crate) struct Postfix {
    #[command(flatten)]
    config: Config,
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
    /// A proxy before the queue
    BeforeQueue,
    /// A proxy after the queue
    AfterQueue,
    /// The gateway, with Postfix behind it
    Gateway,
}

impl Postfix {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let loaded = load::load(self.config.path()?.as_deref(), 0).map_err(Failure)?;
        let listen = &loaded.configuration.listen;
        let proxy = || {
            loaded.configuration.proxies.iter().find(|proxy| !proxy.is_gateway()).ok_or(
                "error: there is no proxy\nhelp: [proxy.filter] listen = [\"127.0.0.1:10025\"] \
                 next_hop = [\"127.0.0.1:10026\"]",
            )
        };
        print::out(&match self.mode {
            Mode::Gateway => {
                let gateway = loaded.configuration.proxies.iter().find(|proxy| proxy.is_gateway());
                gateway_lines(gateway.ok_or(
                    "error: there is no gateway\nhelp: [proxy.mx] use = \"gateway\" \
                     listen = [\"0.0.0.0:25\"] domains = [\"example.org\"] \
                     next_hop = [\"127.0.0.1:10026\"]",
                )?)
            }
            Mode::Policy => lines(listen.policy.first().ok_or("error: `listen.policy` is empty")?),
            Mode::BeforeQueue => before_queue_lines(proxy()?),
            Mode::AfterQueue => after_queue_lines(proxy()?),
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

/// Where a proxy listens and where it goes on to, as Postfix writes them.
fn ends(proxy: &Proxy) -> (String, String) {
    let listen = proxy.listen.first().map_or("", String::as_str);
    let hop = proxy.hops.first().and_then(|hop| hop.servers.first());
    (listen.to_owned(), hop.map(ToString::to_string).unwrap_or_default())
}

fn before_queue_lines(proxy: &Proxy) -> String {
    let (listen, next_hop) = ends(proxy);
    format!(
        "# master.cf: every message goes through mpp before Postfix takes it. HOLD, DISCARD and FILTER of
# access tables have no effect here (postconf(5), smtpd_proxy_filter).
smtp inet n - y - 20 smtpd
    -o smtpd_proxy_filter={listen}
    -o smtpd_proxy_options=speed_adjust
# and comes back here
{next_hop} inet n - y - - smtpd
    -o smtpd_proxy_filter=
    -o smtpd_authorized_xforward_hosts=127.0.0.0/8
    -o smtpd_client_restrictions=
    -o smtpd_helo_restrictions=
    -o smtpd_sender_restrictions=
    -o smtpd_recipient_restrictions=
    -o smtpd_relay_restrictions=permit_mynetworks,reject
    -o mynetworks=127.0.0.0/8
    -o receive_override_options=no_unknown_recipient_checks"
    )
}

fn after_queue_lines(proxy: &Proxy) -> String {
    let (listen, next_hop) = ends(proxy);
    let (host, port) = listen.rsplit_once(':').unwrap_or((&listen, "25"));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    format!(
        "# main.cf: every message that is in the queue goes through mpp. What mpp refuses now, Postfix has
# to send back: prefer a way before the queue for mail from strangers.
content_filter = mpp:[{host}]:{port}
# master.cf
mpp unix - - y - 10 smtp
    -o smtp_send_xforward_command=yes
    -o disable_mime_output_conversion=yes
# and comes back here
{next_hop} inet n - y - - smtpd
    -o content_filter=
    -o smtpd_authorized_xforward_hosts=127.0.0.0/8
    -o smtpd_recipient_restrictions=
    -o smtpd_relay_restrictions=permit_mynetworks,reject
    -o mynetworks=127.0.0.0/8
    -o receive_override_options=no_header_body_checks,no_unknown_recipient_checks"
    )
}

fn gateway_lines(proxy: &Proxy) -> String {
    let (_, next_hop) = ends(proxy);
    let domains: Vec<String> = proxy.domains.all().map(|(name, _)| name).collect();
    format!(
        "# master.cf: Postfix behind the gateway. It takes mail from mpp only, and believes what mpp says
# of the client, for its log. Put the addresses of the gateways where 127.0.0.0/8 stands, or strangers
# go around them.
{next_hop} inet n - y - - smtpd
    -o smtpd_client_restrictions=permit_mynetworks,reject
    -o mynetworks=127.0.0.0/8
    -o smtpd_authorized_xforward_hosts=127.0.0.0/8
    -o smtpd_relay_restrictions=reject_unauth_destination
    -o smtpd_client_connection_count_limit=0
    -o smtpd_client_connection_rate_limit=0
    -o smtpd_hard_error_limit=1000
# main.cf: the domains of the gateway are those that Postfix takes mail for, in relay_domains,
# virtual_mailbox_domains or mydestination:
#   {}",
        domains.join(", ")
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
