//! Configurations that can never do what they say: each with how bad it is and where.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "test code: what is not as expected ends the test"
)]

use std::collections::BTreeMap;

use mpp_config::compile;
use mpp_settings::Severity;

const SCANNER: &str = "[scanner.r]\nkind = \"rspamd\"\nservers = [\"127.0.0.1:11333\"]\n";
const FILTER: &str =
    "[proxy.f]\nlisten = [\"127.0.0.1:10025\"]\nnext_hop = [\"127.0.0.1:10026\"]\n";
const GATEWAY: &str = "[proxy.mx]\nuse = \"gateway\"\ndomains = [\"example.org\"]\n";
const SCAN: &str = "[policy.default.scan]\nwith = [\"r\"]\n";

/// What is said of a configuration: how bad, the line of it, and the text.
fn said(text: &str) -> Vec<(Severity, String, String)> {
    let files = BTreeMap::from([
        ("all.txt".to_owned(), "192.0.2.0/24\n0.0.0.0/0\n".to_owned()),
        ("traps.txt".to_owned(), "^old@\n.*\n".to_owned()),
    ]);
    let compiled = compile("mpp.toml", text, &files, 1);
    let of = |problem: &mpp_settings::Diagnostic| {
        let place = problem.place.as_ref().unwrap();
        let text = &compiled.files[place.file].text;
        let from = text[..place.span.start].rfind('\n').map_or(0, |at| at + 1);
        let line = text[from..].lines().next().unwrap_or_default();
        let said = format!("{} {}", problem.message, problem.label);
        (problem.severity, line.to_owned(), said)
    };
    compiled.diagnostics.iter().map(of).collect()
}

fn holds(text: &str, severity: Severity, line: &str, wanted: &str) {
    let all = said(text);
    let is_it = |(of, at, said): &(Severity, String, String)| {
        *of == severity && at.starts_with(line) && said.contains(wanted)
    };
    assert!(all.iter().any(is_it), "{severity:?} {line:?} {wanted:?}\n{text}\n{all:#?}");
}

#[test]
fn mail_that_would_pass_unscanned_is_an_error() {
    use Severity::{Error, Warning};
    let with = "with = [";
    for (text, severity, line, wanted) in [
        (format!("{SCANNER}{SCAN}"), Error, with, "no door sees any"),
        (
            format!(
                "[listen]\nmilter = [\"127.0.0.1:1\"]\nmilter_stages = [\"RCPT\"]\n{SCANNER}{SCAN}"
            ),
            Error,
            with,
            "no door sees any",
        ),
        (
            format!(
                "{SCANNER}[policy.x]\nmatch = {{ direction = \"inbound\" }}\nscan = {{ then = [\"r\"] }}\n"
            ),
            Error,
            "scan = ",
            "no door sees any",
        ),
        (
            format!(
                "[listen]\nmilter = [\"127.0.0.1:1\"]\n{SCANNER}{SCAN}filter = \"mpp:[127.0.0.1]:10025\"\n"
            ),
            Error,
            "filter",
            "there is no proxy",
        ),
        (
            format!("{SCANNER}{FILTER}{SCAN}filter = \"smtp:[127.0.0.1]:10025\"\n"),
            Warning,
            "filter",
            "nothing of the client",
        ),
        (format!("{SCANNER}{FILTER}"), Warning, "[scanner.r]", "no policy asks"),
    ] {
        holds(&text, severity, line, wanted);
    }
    assert_eq!(said(&format!("{SCANNER}{FILTER}{SCAN}")), []);
    assert_eq!(said(&format!("[listen]\nmilter = [\"127.0.0.1:1\"]\n{SCANNER}{SCAN}")), []);
}

#[test]
fn fates_that_a_harder_one_is_before_are_warned_of() {
    for (fates, line, wanted) in [
        ("quarantine = 8\nreject = 5\ntag = 9\n", "quarantine", "from 5 points on it is `reject`"),
        ("quarantine = 8\nreject = 5\ntag = 9\n", "tag", "never done"),
        ("tag = 8\n", "tag", "from 8 points on it is `quarantine`"),
        ("quarantine = 12\n", "quarantine", "from 12 points on it is `reject`"),
        ("sure_clean = 20\n", "[policy.default.scan]", "`sure_clean` is not below"),
    ] {
        holds(&format!("{SCANNER}{FILTER}{SCAN}{fates}"), Severity::Warning, line, wanted);
    }
    for fates in
        ["reject = 5\n", "tag = 0\nquarantine = 0\nreject = 3\n", "tag = 2\nquarantine = 4\n"]
    {
        assert_eq!(said(&format!("{SCANNER}{FILTER}{SCAN}{fates}")), [], "{fates}");
    }
}

#[test]
fn a_next_hop_that_is_mpp_itself_is_an_error_however_it_is_spelled() {
    for (listen, hop) in [
        ("127.0.0.1:2525", "127.0.0.1:2525"),
        ("0.0.0.0:2525", "127.0.0.1:2525"),
        ("0.0.0.0:2525", "127.9.9.9:2525"),
        ("[::]:2525", "127.0.0.1:2525"),
        ("[::]:2525", "[::1]:2525"),
        ("127.0.0.1:2525", "localhost:2525"),
        ("0.0.0.0:2525", "localhost:2525"),
        ("0.0.0.0:2525", "mx.example.org:2525"),
        ("192.0.2.1:2525", "192.0.2.1:2525"),
        ("[::1]:2525", "[::1]:2525"),
        ("unix:/run/mx", "unix:/run/mx"),
    ] {
        let gateway = format!("{GATEWAY}name = \"mx.example.org\"\nlisten = [\"{listen}\"]\n");
        let direct = format!("{gateway}next_hop = [\"{hop}\"]\n");
        holds(&direct, Severity::Error, "next_hop", "is mpp itself");
        let route = format!(
            "{gateway}next_hop = [\"127.0.0.1:26\"]\n\
             [[proxy.mx.route]]\ndomains = [\"example.net\"]\nnext_hop = [\"{hop}\"]\n"
        );
        holds(&route, Severity::Error, "next_hop", "is mpp itself");
        let directory = format!(
            "{gateway}next_hop = [\"127.0.0.1:26\"]\n\
             [directory.next]\nkind = \"smtp\"\nservers = [\"{hop}\"]\n"
        );
        if !hop.starts_with("mx.") {
            holds(&directory, Severity::Error, "servers", "asks mpp itself");
        }
    }
    // Another proxy of ours, and the policy service.
    let two = format!(
        "{FILTER}{GATEWAY}listen = [\"127.0.0.1:2525\"]\nnext_hop = [\"127.0.0.1:10025\"]\n"
    );
    // A gateway before a filter of the same daemon is none; one that the filter leads back to is.
    assert!(
        !said(&two).iter().any(|(_, _, said)| said.contains("is mpp itself")),
        "{:?}",
        said(&two)
    );
    let circle = two.replace("10026", "2525");
    holds(&circle, Severity::Error, "next_hop", "is mpp itself");
    for (listen, hop) in [
        ("0.0.0.0:25", "192.0.2.5:25"),
        ("127.0.0.1:25", "127.0.0.2:25"),
        ("0.0.0.0:25", "127.0.0.1:26"),
        ("0.0.0.0:25", "store.example.org:25"),
        ("127.0.0.1:25", "mx.example.org:25"),
    ] {
        let text = format!(
            "{GATEWAY}name = \"mx.example.org\"\nlisten = [\"{listen}\"]\nnext_hop = [\"{hop}\"]\n"
        );
        assert_eq!(said(&text), [], "{listen} {hop}");
    }
}

#[test]
fn lists_that_hold_everybody_are_not_sound() {
    use Severity::{Error, Warning};
    for (text, severity, line, wanted) in [
        ("[networks]\nlocal = [\"0.0.0.0/0\"]\n", Error, "local", "every IPv4 address"),
        ("[networks]\nlocal = [\"::/0\"]\n", Error, "local", "every IPv6 address"),
        ("[networks]\nlocal = [\"0.0.0.0/1\", \"128.0.0.0/1\"]\n", Error, "local", "every IPv4"),
        ("[networks]\nlocal = \"file:all.txt\"\n", Error, "0.0.0.0/0", "every IPv4 address"),
        ("[networks]\ntrusted = [\"0.0.0.0/0\"]\n", Error, "trusted", "every IPv4 address"),
        (
            "[policy.default.access.allow]\nclient = [\"0.0.0.0/0\"]\n",
            Warning,
            "client",
            "every IPv4",
        ),
        ("[policy.default]\naccess.allow.client = [\"::/0\"]\n", Warning, "access", "every IPv6"),
        ("[policy.default.access.deny]\nclient = [\"0.0.0.0/0\"]\n", Error, "client", "all mail"),
        ("[policy.default.trap]\npatterns = [\".\"]\n", Error, "patterns", "fits every address"),
        ("[policy.default.trap]\npatterns = [\"\"]\n", Error, "patterns", "fits every address"),
        ("[policy.default.trap]\npatterns = [\"^old@\", \"@\"]\n", Error, "patterns", "fits every"),
        (
            "[policy.default.trap]\npatterns = \"file:traps.txt\"\n",
            Error,
            ".*",
            "fits every address",
        ),
    ] {
        holds(text, severity, line, wanted);
    }
    for name in ["peers", "xclient", "proxy_protocol", "verdicts_from"] {
        let text = format!("{FILTER}{name} = [\"0.0.0.0/0\"]\n");
        holds(&text, Error, name, "every IPv4 address: anybody");
    }
    for text in [
        "[networks]\nlocal = [\"10.0.0.0/8\", \"fd00::/8\"]\n",
        "[policy.default.trap]\npatterns = [\"^old@\", \"@traps\\\\.example$\"]\n",
        "[policy.default.access.allow]\nclient = [\"192.0.2.0/24\"]\n",
    ] {
        assert_eq!(said(text), [], "{text}");
    }
}

#[test]
fn periods_that_do_not_fit_are_not_sound() {
    use Severity::{Error, Warning};
    let rule = "[[policy.default.threshold]]\nname = \"x\"\ncount = \"messages\"\nlimit = 1\n";
    let rule = format!("{rule}then = {{ block = \"1h\" }}\nper = \"0s\"\n");
    for (text, severity, line, wanted) in [
        (
            "[policy.default]\ngreylist.delay = \"3d\"\ngreylist.window = \"1d\"\n",
            Error,
            "greylist.delay",
            "nobody ever passes",
        ),
        ("[policy.default.greylist]\ndelay = \"2d\"\n", Error, "delay", "nobody ever passes"),
        ("[policy.default.greylist]\nline_delay = \"3d\"\n", Error, "line_delay", "nobody ever"),
        (
            "[policy.default.greylist]\nwindow = \"1d\"\n[policy.x]\nmatch = { sender = [\"a.example\"] }\n\
          greylist.delay = \"30h\"\n",
            Error,
            "greylist.delay",
            "nobody ever passes",
        ),
        ("[policy.default.greylist]\nwindow = \"1h\"\n", Warning, "window", "shorter than a day"),
        ("[policy.default.greylist]\nmemory = \"0s\"\n", Error, "memory", "longer than nothing"),
        (&rule, Error, "per", "longer than nothing"),
        ("[server]\ndeadline = \"0s\"\n", Error, "deadline", "longer than nothing"),
        ("[quarantine]\nkeep = \"0s\"\n", Error, "keep", "longer than nothing"),
    ] {
        holds(text, severity, line, wanted);
    }
    holds(&format!("{SCANNER}timeout = \"0s\"\n"), Error, "timeout", "longer than nothing");
    holds(
        &format!("{FILTER}command_time = \"0s\"\n"),
        Error,
        "command_time",
        "longer than nothing",
    );
}

#[test]
fn pages_limits_and_sockets_that_nobody_reaches_are_warned_of() {
    for (text, line, wanted) in [
        ("[listen]\npages = [\"127.0.0.1:10080\"]\n".to_owned(), "pages", "no digest has a link"),
        ("[quarantine]\nlinks = \"https://example.org/held\"\n".to_owned(), "links", "nowhere"),
        ("[listen]\npolicy = [\"unix:/run/mppd/policy\"]\n".to_owned(), "policy", "chrooted"),
        ("[listen]\nmilter = [\"unix:/run/mppd/milter\"]\n".to_owned(), "milter", "chrooted"),
        (
            format!("{FILTER}connections = 10\nclient_connections = 50\n"),
            "client_conn",
            "`connections`",
        ),
        (format!("{FILTER}message_time = \"3h\"\n"), "message_time", "`session_time`"),
        (format!("{FILTER}message_size = \"5 GiB\"\n"), "message_size", "`spool.size`"),
        ("[spool]\nmessage_memory = \"1 GiB\"\n".to_owned(), "message_memory", "`memory`"),
        ("[quarantine]\nuser_size = \"20 GiB\"\n".to_owned(), "user_size", "`size`"),
    ] {
        holds(&text, Severity::Warning, line, wanted);
    }
    for text in [
        "[listen]\npages = [\"127.0.0.1:10080\"]\n[quarantine]\nlinks = \"https://example.org/held\"\n",
        "[listen]\npolicy = [\"unix:/var/spool/postfix/private/mpp\"]\n",
    ] {
        assert_eq!(said(text), [], "{text}");
    }
}
