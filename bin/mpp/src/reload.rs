//! Taking a new configuration: all of it or nothing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use mpp_admin::Control;
use mpp_config::Configuration;
use mpp_doors::proxy::{Change, Gate};
use mpp_hub::Hub;
use mpp_hub::directory::Answering;
use serde_json::{Value, json};

use crate::keeper::Keeper;
use crate::load::{self, Lists, Stamp};
use crate::print;

/// Reads the configuration again when told to, or when a list file has changed.
pub(crate) struct Reloader {
    hub: Arc<Hub>,
    config: Option<PathBuf>,
    lists: Mutex<Lists>,
    /// The stamps of the list files at the last look.
    seen: Mutex<Vec<Stamp>>,
    /// Where policy service, milter and proxies are.
    listeners: [Vec<String>; 3],
    gates: Vec<Arc<Gate>>,
    state: PathBuf,
    keeper: Option<Arc<Keeper>>,
    last: Mutex<Option<LastReload>>,
}

/// How the last attempt at a new configuration ended.
#[derive(Clone, Debug)]
struct LastReload {
    at_ms: u64,
    /// The first line of the reason, if it was refused.
    refused: Option<String>,
}

impl Reloader {
    pub(crate) fn new(
        hub: Arc<Hub>,
        config: Option<&Path>,
        lists: Lists,
        (listeners, gates, state): ([Vec<String>; 3], Vec<Arc<Gate>>, PathBuf),
        keeper: Option<Arc<Keeper>>,
    ) -> Self {
        let config = config.map(Path::to_owned);
        let (lists, seen) = (Mutex::new(lists), Mutex::default());
        Self { hub, config, lists, seen, listeners, gates, state, keeper, last: Mutex::default() }
    }

    /// Whether a list file is not as it was read, and nobody writes to it any more: half a list of
    /// users would refuse the others. To be called once in a while; two calls must see the same.
    pub(crate) fn lists_changed(&self) -> bool {
        let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let now: Vec<Stamp> = lists.iter().map(|file| load::stamp(&file.path)).collect();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_still = *seen == now;
        let has_changed = lists.iter().zip(&now).any(|(file, now)| file.stamp != *now);
        *seen = now;
        is_still && has_changed
    }
}

impl Reloader {
    /// Keeps how a reload ended; `problems` is why it was refused.
    fn note(&self, problems: Option<&str>) {
        let first = problems.map(|text| text.lines().next().unwrap_or_default().to_owned());
        let ended = LastReload { at_ms: self.hub.now_ms(), refused: first };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
    }

    fn last_reload(&self) -> Option<mpp_operations::status::LastReload> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let age_ms = self.hub.now_ms().saturating_sub(last.at_ms);
        Some(mpp_operations::status::LastReload { age_ms, refused: last.refused })
    }
}

/// What a configuration changes of the proxies that are there: all of it can be done, or none.
fn prepare<'g>(
    gates: &'g [Arc<Gate>],
    configuration: &Configuration,
) -> Result<Vec<(&'g Gate, Change)>, String> {
    let mut changes = Vec::new();
    for gate in gates {
        let before = gate.proxy();
        let now = configuration.proxies.iter().find(|proxy| proxy.name == before.name);
        // Where it listens is for the next start; what it does there is for now.
        if let Some(now) = now.filter(|now| ***now != *before) {
            changes.push((&**gate, gate.prepare(now)?));
        }
    }
    Ok(changes)
}

/// What is counted of a proxy.
fn tally(gate: &Gate) -> Value {
    let mut row = serde_json::Map::new();
    row.insert("name".into(), json!(&*gate.proxy().name));
    row.extend(gate.tally.numbers().into_iter().map(|(name, n)| (name.to_owned(), json!(n))));
    Value::Object(row)
}

/// Where proxies listen, by their names.
fn places(configuration: &Configuration) -> Vec<(&str, &[String])> {
    configuration.proxies.iter().map(|proxy| (&*proxy.name, &*proxy.listen)).collect()
}

impl Reloader {
    /// Why nothing can be held, if so.
    fn held_up(&self) -> Value {
        let Some(keeper) = &self.keeper else { return Value::Null };
        match keeper.quarantine().trouble() {
            Some(trouble) => json!({ "trouble": trouble.text, "since_ms": trouble.since_ms }),
            None => json!({ "trouble": null, "since_ms": null }),
        }
    }
}

impl Control for Reloader {
    fn reload(&self, is_forced: bool) -> Result<String, String> {
        // Whoever reloads may have moved the log away, whatever becomes of the configuration.
        if let Some(log) = self.hub.log() {
            log.reopen();
        }
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = load::load(self.config.as_deref(), self.hub.store().seed());
        let prepared = loaded.and_then(|loaded| {
            let losses = load::losses(&lists, &loaded.lists);
            if !losses.is_empty() && !is_forced {
                let each: Vec<String> =
                    losses.iter().map(|loss| format!("error: {loss}")).collect();
                let help = "help: if that is meant: mpp reload --force\n";
                return Err(format!("{}\n{help}", each.join("\n")));
            }
            let changes = prepare(&self.gates, &loaded.configuration);
            Ok((changes.map_err(|text| format!("error: {text}\n"))?, loaded))
        });
        let (changes, loaded) = match prepared {
            Ok(prepared) => prepared,
            Err(problems) => {
                // What is wrong now is looked at again only when it has changed.
                for file in lists.iter_mut() {
                    file.stamp = load::stamp(&file.path);
                }
                let text = format!("{}\nthe configuration stays as it was", problems.trim_end());
                mpp_hub::say(&format!("reload refused\n{text}"));
                self.note(Some(problems.trim_start()));
                return Err(text);
            }
        };
        *lists = loaded.lists;
        let old = self.hub.live();
        let (now, then) = (&loaded.configuration, &old.configuration);
        let changed_at_start = then.server != now.server
            || then.listen != now.listen
            || then.store != now.store
            || places(then) != places(now);
        let policies = loaded.configuration.policies.count();
        drop(old);
        drop(self.hub.replace(loaded.configuration));
        for (gate, change) in changes {
            gate.take(change);
        }
        if let Some(keeper) = &self.keeper {
            keeper.configure(&self.hub.live().configuration.quarantine);
        }
        let mut text = format!(
            "configuration {} taken, {}",
            self.hub.live().generation,
            print::many(policies, "policy")
        );
        if changed_at_start {
            text.push_str("; [server], [store], and where doors listen, hold from the next start");
        }
        mpp_hub::say(&text);
        self.note(None);
        Ok(format!("{}{text}", loaded.warnings))
    }

    fn status(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": crate::COMMIT,
            "configuration": self.config.as_ref().map_or("defaults".into(), |path| path.display().to_string()),
            "state": self.state.display().to_string(),
            "policy_service": self.listeners[0],
            "milter": self.listeners[1],
            "proxy": self.listeners[2],
            "proxies": self.proxies(),
            "last_reload": self.last_reload(),
            "quarantine": self.held_up(),
        })
    }

    fn proxies(&self) -> Value {
        self.gates.iter().map(|gate| tally(gate)).collect()
    }

    fn quarantine<'a>(&'a self, request: &'a Value) -> Answering<'a, Result<Value, String>> {
        Box::pin(async move {
            match &self.keeper {
                Some(keeper) => keeper.answer(request).await,
                None => Err("there is no quarantine: no proxy is configured".into()),
            }
        })
    }
}
