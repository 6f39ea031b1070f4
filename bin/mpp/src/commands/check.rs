//! `mpp check`: what is wrong with a configuration, and what holds.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::{load, print};

/// Diagnose a configuration.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mpp check --config /etc/mpp/mpp.toml\n  \
    mpp check --print                  every setting and its default")]
pub(crate) struct Check {
    /// The configuration; without one, the defaults
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the effective configuration, every default included
    #[arg(long)]
    print: bool,
}

impl Check {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let loaded = load::load(self.config.as_deref(), 0).map_err(Failure)?;
        if !loaded.warnings.is_empty() {
            print::error(&loaded.warnings);
        }
        if self.print {
            print::out(&effective(&loaded.effective));
        } else {
            let policies = loaded.configuration.policies.count();
            let lists = loaded.lists.len();
            print::out(&format!("sound: {policies} policies, {lists} list files"));
        }
        Ok(())
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
