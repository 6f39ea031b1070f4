//! Lists that hold everybody: networks of all there are, and patterns that fit every address.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mpp_engine::network;
use mpp_settings::Diagnostic;
use mpp_settings::diagnostic::{Place, Severity};
use regex::RegexBuilder;

use super::Tree;

/// Addresses that have nothing in common.
const STRANGERS: [&str; 6] = [
    "bob@example.org",
    "x9@mail.invalid",
    "o'hara_k+2@sub.host-7.example",
    "jörg@xn--bcher-kva.example",
    "\"odd one\"@[192.0.2.1]",
    "z@q",
];

pub(super) fn look(tree: Tree<'_>) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    let mut held = |path: &[&str], severity: Severity, what: &str| {
        if let Some((family, place)) = family(&tree.texts(path)) {
            let name = path.join(".");
            let message = format!("`{name}` holds every {family} address: {what}");
            problems.push(Diagnostic { severity, ..Diagnostic::error(place, message) });
        }
    };
    let error = Severity::Error;
    held(&["networks", "local"], error, "all mail is taken for our own, and nothing is checked");
    held(&["networks", "trusted"], error, "anybody may report verdicts, and nobody is blocked");
    for proxy in tree.names("proxy") {
        for (name, what) in [
            ("peers", "anybody may send mail to anywhere"),
            ("xclient", "anybody may say that he is somebody else"),
            ("proxy_protocol", "anybody may say that he is somebody else"),
            ("verdicts_from", "anybody may say that his message is clean"),
        ] {
            held(&["proxy", proxy, name], error, what);
        }
    }
    for policy in tree.names("policy") {
        let list = |list| ["policy", policy, "access", list, "client"];
        held(&list("allow"), Severity::Warning, "nothing is checked but recipients");
        held(&list("deny"), error, "all mail is refused");
    }
    let traps = tree.names("policy").into_iter().flat_map(|policy| traps(tree, policy));
    problems.extend(traps);
    problems
}

/// Traps that every address is.
fn traps(tree: Tree<'_>, policy: &str) -> Vec<Diagnostic> {
    let patterns = tree.texts(&["policy", policy, "trap", "patterns"]);
    let fits_all = |pattern: &str| {
        let regex = RegexBuilder::new(pattern).case_insensitive(true).size_limit(1 << 20).build();
        regex.is_ok_and(|regex| STRANGERS.iter().all(|address| regex.is_match(address)))
    };
    let wide = patterns.into_iter().filter(|(pattern, _)| fits_all(pattern));
    wide.map(|(pattern, place)| {
        let message = format!("the trap `{pattern}` fits every address: every host is blocked");
        let help = "an expression fits anywhere in an address: begin with ^, end with $";
        Diagnostic::error(place.clone(), message).help(help)
    })
    .collect()
}

/// The family of which a list of networks holds all, and where it says so.
fn family(texts: &[(String, Place)]) -> Option<(&'static str, Place)> {
    let networks: Vec<(IpNet, &Place)> = texts
        .iter()
        .filter_map(|(text, place)| network::parse(text).ok().map(|network| (network, place)))
        .collect();
    let v4 = networks.iter().filter_map(|(network, _)| match network {
        IpNet::V4(network) => Some(*network),
        IpNet::V6(_) => None,
    });
    let v6 = networks.iter().filter_map(|(network, _)| match network {
        IpNet::V6(network) => Some(*network),
        IpNet::V4(_) => None,
    });
    let (v4, v6): (Vec<_>, Vec<_>) = (v4.collect(), v6.collect());
    let has_v4 = Ipv4Net::aggregate(&v4).iter().any(|network| network.prefix_len() == 0);
    let has_v6 = Ipv6Net::aggregate(&v6).iter().any(|network| network.prefix_len() == 0);
    let place_of = |is_v4: bool| {
        let own = networks.iter().filter(|(it, _)| matches!(it, IpNet::V4(_)) == is_v4);
        own.min_by_key(|(network, _)| network.prefix_len()).map(|(_, place)| (*place).clone())
    };
    match (has_v4, has_v6) {
        (true, _) => Some(("IPv4", place_of(true)?)),
        (false, true) => Some(("IPv6", place_of(false)?)),
        (false, false) => None,
    }
}
