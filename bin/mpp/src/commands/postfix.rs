//! `mpp postfix`: the lines that make Postfix ask.

use std::sync::Arc;

use clap::Args;
use mpp_config::Configuration;
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
            Mode::Policy => {
                let address = listen.policy.first().ok_or("error: `listen.policy` is empty")?;
                let mut text = chroot_note(address).to_owned() + &lines(address);
                text.push_str(&filter_lines(&loaded.configuration));
                text
            }
            Mode::BeforeQueue => before_queue_lines(proxy()?),
            Mode::AfterQueue => after_queue_lines(proxy()?),
            Mode::Milter => {
                let address = listen.milter.first().ok_or(
                    "error: `listen.milter` is empty\nhelp: milter = [\"127.0.0.1:10041\"]",
                )?;
                chroot_note(address).to_owned() + &milter_lines(address)
            }
        });
        Ok(())
    }
}

/// What is to be said of a socket that a chrooted Postfix does not find: mail would flow unfiltered.
fn chroot_note(address: &str) -> &'static str {
    let is_outside =
        address.strip_prefix("unix:").is_some_and(|path| !path.starts_with("/var/spool/postfix/"));
    if is_outside {
        "# WARNING: a chrooted smtpd (as Debian has it) does not reach this socket, and mail flows as if
# mpp were not there. Let mpp listen below /var/spool/postfix, or on ADDRESS:PORT.
"
    } else {
        ""
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

/// The listener to which mail comes back from a filter: it was judged when it came, so nothing asks about
/// it once more, least of all as mail of this host. What main.cf says for all listeners is taken back
/// here, every restriction by its name.
fn way_back(next_hop: &str, overridden: &str) -> String {
    let emptied = [
        "content_filter",
        "smtpd_proxy_filter",
        "smtpd_milters",
        "smtpd_client_restrictions",
        "smtpd_helo_restrictions",
        "smtpd_sender_restrictions",
        "smtpd_recipient_restrictions",
        "smtpd_data_restrictions",
        "smtpd_end_of_data_restrictions",
        "smtpd_etrn_restrictions",
    ];
    let emptied = emptied.map(|name| ["    -o ", name, "=\n"].concat()).concat();
    format!(
        "{next_hop} inet n - y - - smtpd
{emptied}    -o smtpd_relay_restrictions=permit_mynetworks,reject
    -o mynetworks=127.0.0.0/8,[::1]/128
    -o smtpd_authorized_xforward_hosts=127.0.0.0/8,[::1]/128
    -o smtpd_client_connection_count_limit=0
    -o smtpd_client_connection_rate_limit=0
    -o receive_override_options={overridden}"
    )
}

/// In front of the queue nothing has looked at header and body yet.
const IN_FRONT: &str = "no_unknown_recipient_checks";
/// Behind it all of that was done when the message came.
const BEHIND: &str = "no_header_body_checks,no_unknown_recipient_checks";

fn before_queue_lines(proxy: &Proxy) -> String {
    let (listen, next_hop) = ends(proxy);
    format!(
        "# master.cf: every message goes through mpp before Postfix takes it. HOLD, DISCARD and FILTER of
# access tables have no effect here (postconf(5), smtpd_proxy_filter).
smtp inet n - y - 20 smtpd
    -o smtpd_proxy_filter={listen}
    -o smtpd_proxy_options=speed_adjust
# and comes back here
{}",
        way_back(&next_hop, IN_FRONT)
    )
}

/// The transport to a filter behind the queue, which says who the client was.
fn transport(name: &str) -> String {
    format!(
        "{name} unix - - y - 10 smtp
    -o smtp_send_xforward_command=yes
    -o disable_mime_output_conversion=yes"
    )
}

fn after_queue_lines(proxy: &Proxy) -> String {
    let (listen, next_hop) = ends(proxy);
    let (host, port) = listen.rsplit_once(':').unwrap_or((&listen, "25"));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    format!(
        "# main.cf: every message that is in the queue goes through mpp. Nothing is refused here any more:
# it was taken, and could only be sent back. Refuse before the queue (policy service, milter).
content_filter = mpp:[{host}]:{port}
# master.cf
{}
# and comes back here
{}",
        transport("mpp"),
        way_back(&next_hop, BEHIND)
    )
}

/// What a policy with a `filter` needs in master.cf besides the question that is answered with it;
/// nothing without such a policy.
fn filter_lines(configuration: &Configuration) -> String {
    let Some(filter) = configuration.policies.filter() else { return String::new() };
    let (name, to) = filter.split_once(':').unwrap_or((filter, ""));
    let plain = to.replace(['[', ']'], "");
    let leads_here = |proxy: &&Arc<Proxy>| {
        proxy.listen.iter().any(|listen| listen.replace(['[', ']'], "") == plain)
    };
    let back = configuration.proxies.iter().filter(|it| !it.is_gateway()).find(leads_here);
    let back = back.map_or_else(String::new, |proxy| {
        format!("\n# and comes back here\n{}", way_back(&ends(proxy).1, BEHIND))
    });
    let services = format!("{}{back}", transport(name));
    // All of it can be appended to main.cf: what belongs elsewhere is a comment there.
    let services: Vec<String> = services.lines().map(|line| format!("# {line}")).collect();
    format!(
        "\n# master.cf, without the marks: what is undecided goes by `FILTER {filter}`. Without
# XFORWARD the filter would take all of it for mail of this host.\n{}",
        services.join("\n")
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
