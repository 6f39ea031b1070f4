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
        Self { hub, config, lists, seen, listeners, gates, state, keeper }
    }

    /// Whether a list file is not as it was read, and nobody writes to it any more: half a list of
    /// users would refuse the others. To be called once in a while; two calls must see the same.
    pub(crate) fn lists_changed(&self) -> bool {
        let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let now: Vec<Stamp> = lists.iter().map(|(path, _)| load::stamp(path)).collect();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_still = *seen == now;
        let has_changed = lists.iter().zip(&now).any(|((_, read), now)| read != now);
        *seen = now;
        is_still && has_changed
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

impl Control for Reloader {
    fn reload(&self) -> Result<String, String> {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = load::load(self.config.as_deref(), self.hub.store().seed());
        let prepared = loaded.and_then(|loaded| {
            let changes = prepare(&self.gates, &loaded.configuration);
            Ok((changes.map_err(|text| format!("error: {text}\n"))?, loaded))
        });
        let (changes, loaded) = match prepared {
            Ok(prepared) => prepared,
            Err(problems) => {
                // What is wrong now is looked at again only when it has changed.
                for (path, stamp) in lists.iter_mut() {
                    *stamp = load::stamp(path);
                }
                let text = format!("{problems}the configuration stays as it was");
                mpp_hub::say(&format!("reload refused\n{text}"));
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
        let mut text =
            format!("configuration {} taken, {policies} policies", self.hub.live().generation);
        if changed_at_start {
            text.push_str("; [server], [store], and where doors listen, hold from the next start");
        }
        mpp_hub::say(&text);
        Ok(format!("{}{text}", loaded.warnings))
    }

    fn status(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "configuration": self.config.as_ref().map_or("defaults".into(), |path| path.display().to_string()),
            "state": self.state.display().to_string(),
            "policy_service": self.listeners[0],
            "milter": self.listeners[1],
            "proxy": self.listeners[2],
            "proxies": self.proxies(),
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
