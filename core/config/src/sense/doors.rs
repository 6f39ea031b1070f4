//! Doors that do not see what policies want to look into, and numbers out of order.

use mpp_engine::facts::Stage;
use mpp_settings::Diagnostic;

use super::{Tree, error, warning};
use crate::schema::Configuration;

/// Postfix's queue directory, where a chrooted server finds its sockets.
const QUEUE_DIRECTORY: &str = "/var/spool/postfix/";

pub(super) fn look(tree: Tree<'_>, configuration: &Configuration) -> Vec<Diagnostic> {
    let mut problems = scanning(tree, configuration);
    problems.extend(tree.names("policy").into_iter().flat_map(|policy| fates(tree, policy)));
    problems.extend(pages(tree));
    problems.extend(sockets(tree));
    problems.extend(limits(tree, configuration));
    problems
}

/// Whether a policy's own table has messages scanned.
fn scans(tree: Tree<'_>, policy: &str) -> bool {
    let names = ["with", "then"];
    let is_off = tree.texts(&["policy", policy, "scan", "mode"]).iter().any(|(it, _)| it == "off");
    !is_off && names.iter().any(|name| !tree.texts(&["policy", policy, "scan", name]).is_empty())
}

/// Scanners that nobody asks, and policies whose messages no door sees.
fn scanning(tree: Tree<'_>, configuration: &Configuration) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    let has_proxy = !configuration.proxies.is_empty();
    let listen = &configuration.listen;
    let has_milter =
        !listen.milter.is_empty() && listen.milter_stages.contains(&Stage::EndOfMessage);
    for policy in tree.names("policy").into_iter().filter(|policy| scans(tree, policy)) {
        if !has_proxy && !has_milter {
            let problem = error(
                tree.place(&["policy", policy, "scan", "with"]),
                "this policy has messages scanned, and no door sees any: all pass unscanned",
                "add [proxy.NAME], or listen.milter with \"END-OF-MESSAGE\" in milter_stages: the \
                 policy service sees no message",
            );
            problems.push(problem);
        }
        let path = ["policy", policy, "scan", "filter"];
        for (filter, place) in tree.texts(&path).into_iter().filter(|(it, _)| !it.is_empty()) {
            if !has_proxy {
                let message =
                    "mail is sent to a filter, and there is no proxy: it passes unscanned";
                problems.push(error(place.clone(), message, "add [proxy.NAME] with its `listen`"));
            }
            if filter.starts_with("smtp:") {
                let message = "Postfix's own `smtp:` tells a filter nothing of the client: all mail \
                               looks as if it came from this host";
                let help = "\"mpp:…\", with the transport that `mpp postfix` prints";
                problems.push(warning(place.clone(), message, help));
            }
        }
    }
    let is_asked = |name: &str| {
        tree.names("policy").into_iter().any(|policy| {
            let lists = ["with", "then"].map(|list| tree.texts(&["policy", policy, "scan", list]));
            lists.iter().flatten().any(|(text, _)| text == name)
        })
    };
    for scanner in &configuration.scanners {
        if !is_asked(&scanner.name) {
            problems.push(warning(
                tree.place(&["scanner", &scanner.name]),
                format!("no policy asks `scanner.{}`", scanner.name),
                "name it in [policy.default.scan]: with = [\"NAME\"]",
            ));
        }
    }
    problems
}

/// Thresholds of a policy that a harder one is before.
fn fates(tree: Tree<'_>, policy: &str) -> Vec<Diagnostic> {
    // The mildest first, with the defaults of those that have one.
    const FATES: [(&str, f64); 5] =
        [("tag", 5.0), ("redirect", 0.0), ("quarantine", 8.0), ("discard", 0.0), ("reject", 12.0)];
    let own = |name: &str| tree.number(&["policy", policy, "scan", name]);
    let holds = |(name, default): (&str, f64)| {
        own(name).or_else(|| tree.number(&["policy", "default", "scan", name])).unwrap_or(default)
    };
    let mut problems = Vec::new();
    for (at, (name, _)) in FATES.iter().enumerate() {
        let Some(from) = own(name).filter(|from| *from > 0.0) else { continue };
        let harder = FATES.iter().skip(at + 1).map(|fate| (fate.0, holds(*fate)));
        if let Some((other, before)) = harder.clone().find(|(_, it)| *it > 0.0 && *it <= from) {
            problems.push(warning(
                tree.place(&["policy", policy, "scan", name]),
                format!("`{name}` is never done: from {before} points on it is `{other}`"),
                "the milder comes first: tag, redirect, quarantine, discard, reject; 0 is never",
            ));
        }
    }
    let sure = |name: &str, default: f64| {
        let inherited = tree.number(&["policy", "default", "scan", name]);
        own(name).or(inherited).unwrap_or(default)
    };
    let is_own = own("sure_clean").is_some() || own("sure_spam").is_some();
    if is_own && sure("sure_clean", 1.0) >= sure("sure_spam", 12.0) {
        problems.push(warning(
            tree.place(&["policy", policy, "scan"]),
            "`sure_clean` is not below `sure_spam`: those in `then` are never asked",
            "sure_clean = 1, sure_spam = 12",
        ));
    }
    problems
}

/// Pages that nobody is sent to, and links that lead nowhere.
fn pages(tree: Tree<'_>) -> Option<Diagnostic> {
    let has_pages = !tree.texts(&["listen", "pages"]).is_empty();
    let links = tree.texts(&["quarantine", "links"]);
    let has_links = links.iter().any(|(text, _)| !text.is_empty());
    match (has_pages, has_links) {
        (true, false) => Some(warning(
            tree.place(&["listen", "pages"]),
            "pages are served, and no digest has a link to them",
            "quarantine.links = \"https://mail.example.org/held\"",
        )),
        (false, true) => Some(warning(
            tree.place(&["quarantine", "links"]),
            "digests have links, and no pages are served: they lead nowhere",
            "listen.pages = [\"127.0.0.1:10080\"], and a web server in front",
        )),
        _ => None,
    }
}

/// Sockets that a chrooted Postfix does not find.
fn sockets(tree: Tree<'_>) -> Vec<Diagnostic> {
    let lists = ["policy", "milter"].map(|list| tree.texts(&["listen", list]));
    let sockets = lists.into_iter().flatten();
    let outside = sockets.filter(|(text, _)| {
        text.strip_prefix("unix:")
            .is_some_and(|path| !path.is_empty() && !path.starts_with(QUEUE_DIRECTORY))
    });
    outside
        .map(|(_, place)| {
            warning(
                place.clone(),
                "Postfix finds this socket only where it is not chrooted, as Debian has it",
                "unix:/var/spool/postfix/private/…, or ADDRESS:PORT",
            )
        })
        .collect()
}

/// Limits that another one is before.
fn limits(tree: Tree<'_>, configuration: &Configuration) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    let mut unreached = |path: [&str; 3], is_unreached: bool, by: &str| {
        // Where both have their defaults nothing is to be said.
        let path = if path[2].is_empty() { &path[..2] } else { &path[..] };
        let name = path.last().copied().unwrap_or_default();
        if is_unreached && tree.find(path).is_some() {
            let message = format!("`{name}` is never reached: `{by}` is before it");
            let help = format!("raise `{by}`, or lower `{name}`");
            problems.push(warning(tree.place(path), message, &help));
        }
    };
    for proxy in &configuration.proxies {
        let (name, it) = (&*proxy.name, &proxy.limits);
        let all = [
            ("client_connections", it.client_connections > it.connections, "connections"),
            ("network_connections", it.network_connections > it.connections, "connections"),
            ("message_time", it.message_ms > it.session_ms, "session_time"),
            ("command_time", it.command_ms > it.session_ms, "session_time"),
            ("message_size", it.message_bytes > configuration.spool.size, "spool.size"),
        ];
        for (setting, is_unreached, by) in all {
            unreached(["proxy", name, setting], is_unreached, by);
        }
        if !proxy.is_gateway() {
            continue;
        }
        let is_less = it.client_connections > it.network_connections;
        unreached(["proxy", name, "client_connections"], is_less, "network_connections");
    }
    let spool = &configuration.spool;
    unreached(["spool", "message_memory", ""], spool.message_memory > spool.memory, "memory");
    unreached(["spool", "memory", ""], spool.memory > spool.size, "size");
    let held = &configuration.quarantine.limits;
    unreached(["quarantine", "user_size", ""], held.user_size > held.size, "size");
    problems
}
