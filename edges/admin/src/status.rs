//! How the daemon is, for people and for monitoring: the same to both.

use std::collections::BTreeMap;

use mpp_hub::Hub;
use mpp_hub::store::Health;
use mpp_operations::status::Trouble;
use serde_json::{Value, json};

use crate::Control;

/// All of it.
pub(crate) fn status(hub: &Hub, control: &dyn Control) -> Value {
    let counts = hub.store().counts();
    let [greylisted, proven, correspondents, faults, looked_up, _] = counts.shelves;
    let (log_lines_dropped, log_trouble) =
        hub.log().map_or((0, None), mpp_hub::log::DecisionLog::health);
    let mut status = control.status();
    let troubles = troubles(hub, log_trouble.as_deref(), &status);
    if let Some(status) = status.as_object_mut() {
        status.insert("generation".into(), json!(hub.live().generation));
        status.insert("troubles".into(), json!(troubles));
        status.insert("asked".into(), json!(hub.last_asked()));
        let uptime_ms = hub.now_ms().saturating_sub(hub.started_ms());
        status.insert("uptime_ms".into(), json!(uptime_ms));
        status.insert("pid".into(), json!(std::process::id()));
        status.insert(
            "store".into(),
            json!({
                "health": match hub.store().health() {
                    Health::Good => "good".to_owned(),
                    Health::MemoryOnly(why) => format!("memory only: {why}"),
                    Health::Alone(why) => format!("alone: {why}"),
                },
                "place": hub.store().place(),
                "figures": hub.store().figures().into_iter().collect::<BTreeMap<_, _>>(),
                "greylisted": greylisted,
                "proven": proven,
                "correspondents": correspondents,
                "faults": faults,
                "looked_up": looked_up,
                "blocks": counts.blocks,
                "tallies": counts.tallies,
                "histories": counts.histories,
                "disk_bytes": counts.disk_bytes,
                "memory_bytes": counts.memory_bytes,
            }),
        );
        status.insert("directories".into(), json!(hub.directories()));
        status.insert("scanners".into(), hub.scanner_numbers());
        status.insert(
            "log".into(),
            json!({ "lines_dropped": log_lines_dropped, "trouble": log_trouble }),
        );
    }
    status
}

/// What does not work now.
fn troubles(hub: &Hub, log: Option<&str>, status: &Value) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    let mut add = |what: String, text: &str, for_ms: Option<u64>| {
        troubles.push(Trouble { what, text: text.to_owned(), for_ms });
    };
    match hub.store().health() {
        Health::Good => {}
        Health::MemoryOnly(why) => add("store".into(), &format!("memory only: {why}"), None),
        Health::Alone(why) => add("store".into(), &format!("alone: {why}"), None),
    }
    if let Some(why) = log {
        add("log".into(), &format!("decisions are not written: {why}"), None);
    }
    let reload = status.get("last_reload").unwrap_or(&Value::Null);
    if let Some(why) = reload.get("refused").and_then(Value::as_str) {
        let for_ms = reload.get("age_ms").and_then(Value::as_u64);
        add("reload".into(), &format!("refused, the old configuration holds: {why}"), for_ms);
    }
    for (kind, rows) in
        [("scanner", hub.scanner_numbers()), ("directory", json!(hub.directories()))]
    {
        for row in rows.as_array().into_iter().flatten() {
            let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();
            if text("state") != "down" {
                continue;
            }
            let last = row.pointer("/last_trouble/text").and_then(Value::as_str);
            let why = last.unwrap_or_else(|| text("trouble"));
            let for_ms = row.get("down_ms").and_then(Value::as_u64);
            add(format!("{kind} {}", text("name")), &format!("down: {why}"), for_ms);
        }
    }
    troubles
}
