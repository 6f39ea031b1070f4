//! `mpp check`: what is wrong with a configuration, and what holds.

use std::fmt::Write as _;

use clap::Args;
use mpp_address::Path;
use mpp_config::proxy::{Proxy, Taking};
use mpp_doors::proxy::Gate;
use serde_json::Value;

use super::{Failure, recipients};
use crate::place::Config;
use crate::{load, print, wiring};

/// Diagnose a configuration.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mpp check --config /etc/mpp/mpp.toml\n  \
    mpp check --print                  every setting and its default\n  \
    mpp check --config /etc/mpp/mpp.toml --live --sample bob@example.org")]
pub(crate) struct Check {
    #[command(flatten)]
    config: Config,
    /// Print the effective configuration, every default included
    #[arg(long)]
    print: bool,
    /// Connect to every server of every directory, and say what works
    #[arg(long)]
    live: bool,
    /// Look an address up as well; may be given several times
    #[arg(long, value_name = "ADDRESS", requires = "live")]
    sample: Vec<String>,
}

impl Check {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let path = self.config.path()?;
        let loaded = load::load(path.as_deref(), 0).map_err(Failure)?;
        if !loaded.warnings.is_empty() {
            print::error(&loaded.warnings);
        }
        // Certificates and keys as they are used, before anything is called sound.
        for proxy in &loaded.configuration.proxies {
            Gate::new(proxy).map_err(|text| Failure(format!("error: {text}")))?;
        }
        let proved = loaded.configuration.proxies.iter().map(|proxy| proved(proxy));
        let proved = proved.collect::<Result<Vec<String>, Failure>>()?;
        if self.print {
            print::out(&effective(&loaded.effective));
        } else if self.live {
            return self.try_out(loaded);
        } else {
            let policies = loaded.configuration.policies.count();
            let lists = loaded.lists.len();
            let policies = print::many(policies, "policy");
            print::out(&format!("sound: {policies}, {}", print::many(lists, "list file")));
            for line in &proved {
                print::out(line);
            }
            if path.is_none() {
                print::error("no configuration: these are the defaults");
            }
            if loaded.configuration.holds_for_good() {
                return Err(Failure(format!("error: {HOLDS_FOR_GOOD}")));
            }
        }
        Ok(())
    }

    /// Tries every server out. Fails if any does not work.
    fn try_out(&self, loaded: load::Loaded) -> Result<(), Failure> {
        let hub = wiring::passing_hub(loaded.configuration)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut out = String::new();
        let mut failures = 0;
        runtime.block_on(async {
            let examined = hub.examine_directories().await;
            for row in examined.as_array().into_iter().flatten() {
                failures += usize::from(row.get("works") != Some(&Value::Bool(true)));
                push_examined(row, &mut out);
            }
            let examined = hub.examine_scanners().await;
            for row in examined.as_array().into_iter().flatten() {
                failures += usize::from(row.get("works") != Some(&Value::Bool(true)));
                push_examined(row, &mut out);
            }
            for sample in &self.sample {
                match hub.probe_recipient(sample).await {
                    Ok(said) => {
                        let rows = said.get("said").and_then(Value::as_array);
                        let trouble = |row: &&Value| !row["trouble"].is_null();
                        failures += rows.into_iter().flatten().filter(trouble).count();
                        let _ = writeln!(out, "{}", recipients::said_now(&said));
                    }
                    Err(text) => {
                        failures += 1;
                        let _ = writeln!(out, "{text}");
                    }
                }
            }
            // Known by a look-up means nothing where everybody is.
            for directory in hub.directories() {
                push_notices(&directory, &mut out);
            }
        });
        if out.is_empty() {
            out.push_str("no directories and no scanners are configured");
        }
        print::out(&out);
        match failures {
            0 => Ok(()),
            _ => Err(Failure(format!("error: {failures} of these do not work"))),
        }
    }
}

/// What is wrong where what is held behind a milter stays there for good.
pub(crate) const HOLDS_FOR_GOOD: &str = "a policy has mail held behind the milter, and nothing can \
    release it\n  = help: say where released mail goes: release_to = \"HOST:PORT\" in [quarantine], \
    or configure a [proxy]; or hold nothing: scan.quarantine = 0, scan.virus = \"reject\"";

/// What a proxy takes mail for, tried out.
fn proved(proxy: &Proxy) -> Result<String, Failure> {
    if !proxy.is_gateway() {
        let peers = if proxy.peers.is_some() { "`peers`" } else { "`networks.trusted`" };
        return Ok(format!("proxy {}: a filter, for {peers} only", proxy.name));
    }
    let domains: Vec<String> = proxy.domains.all().map(|(name, _)| name).collect();
    let mut probes: Vec<String> = STRANGERS.iter().map(|domain| format!("bob@{domain}")).collect();
    let spelled = |domain: &str| SPELLED.map(|between| format!("bob@{STRANGER}{between}{domain}"));
    for domain in &domains {
        let domain = domain.trim_start_matches('.');
        probes.extend(ROUTED.iter().map(|local| format!("{local}@{domain}")));
        probes.push(format!("bob@{domain}.{STRANGER}"));
        probes.push(format!("bob@{domain}@{STRANGER}"));
        probes.extend(spelled(domain));
        probes.extend(spelled(&format!(".{domain}")));
    }
    // As RCPT has it: what is no path is refused before anything is asked.
    let takes = |probe: &&String| {
        Path::parse_bare(probe).is_ok_and(|path| matches!(proxy.takes(&path), Taking::Yes(_)))
    };
    let taken = probes.iter().find(takes);
    match taken {
        Some(probe) => Err(Failure(format!("error: proxy {} takes mail for {probe}", proxy.name))),
        None => Ok(format!(
            "proxy {}: a gateway for {} and postmaster; {} addresses of strangers, and such as \
             lead elsewhere, were tried and are refused",
            proxy.name,
            domains.join(", "),
            probes.len()
        )),
    }
}

/// Domains that are nobody's who configures a gateway.
const STRANGERS: [&str; 4] = [STRANGER, "[192.0.2.1]", "invalid", "localhost"];
const STRANGER: &str = "mpp-check.invalid";
/// What may stand between a stranger's domain and one of ours so that some mail servers see the
/// first and some the second.
const SPELLED: [&str; 14] =
    ["(", " (", ")", ",", ";", "\t", "\u{b}", "\u{1b}", ">", "\\", "\"", "[", "]", "(\\\")> X=\""];
/// Local parts that would have a mail server relay.
const ROUTED: [&str; 3] =
    ["bob%mpp-check.invalid", "mpp-check.invalid!bob", "\"bob@mpp-check.invalid\""];

fn push_examined(row: &Value, out: &mut String) {
    let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();
    let works = row.get("works") == Some(&Value::Bool(true));
    let what = if row.get("scanner").is_some() { "scanner" } else { "directory" };
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{what} {} ({})  {}  {}: {}, {} ms",
        text(what),
        text("kind"),
        text("server"),
        if works { "works" } else { "DOES NOT WORK" },
        text("result"),
        row.get("took_ms").and_then(Value::as_u64).unwrap_or(0)
    );
}

fn push_notices(directory: &Value, out: &mut String) {
    let name = directory.get("name").and_then(Value::as_str).unwrap_or_default();
    for notice in directory.get("notices").and_then(Value::as_array).into_iter().flatten() {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "notice: directory {name}: {}", notice.as_str().unwrap_or_default());
    }
}

/// Settings as TOML that reads back to the same.
pub(crate) fn effective(settings: &[(String, String)]) -> String {
    let mut text = String::new();
    let mut section = String::new();
    let mut written = std::collections::BTreeSet::new();
    for (path, value) in settings {
        let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
        let last = table.rsplit_once('.').map_or(table, |(_, last)| last);
        let is_rule = table != last && last == "threshold";
        // A rule begins with its name; the same setting of a table is read once for each check
        // that looks at it.
        if !is_rule && last != "then" && !written.insert(path.clone()) {
            continue;
        }
        if is_rule && name == "name" {
            let _ = write!(text, "\n[[{table}]]\n");
        } else if section != table && !(is_rule && section.starts_with(table)) {
            let _ = write!(text, "\n[{table}]\n");
        }
        table.clone_into(&mut section);
        let _ = writeln!(text, "{name} = {value}");
    }
    text.trim_start().to_owned()
}
