//! The keeper of the quarantine: what commands, and in time pages, ask of it. It is the only place that
//! knows both the quarantine and the proxies that released messages leave by.

use std::sync::Arc;

use mpp_config::Quarantine as Settings;
use mpp_doors::proxy::Gate;
use mpp_hub::Hub;
use mpp_hub::spool::Spool;
use mpp_quarantine::{Quarantine, Scope, Search, State};
use serde_json::{Value, json};

/// Rows of a page if nobody says otherwise.
const ROWS: u64 = 50;

/// Who answers questions about the quarantine.
pub(crate) struct Keeper {
    hub: Arc<Hub>,
    quarantine: Arc<Quarantine>,
    gates: Vec<Arc<Gate>>,
    spool: Arc<Spool>,
}

impl Keeper {
    pub(crate) fn new(
        hub: Arc<Hub>,
        quarantine: Arc<Quarantine>,
        (gates, spool): (Vec<Arc<Gate>>, Arc<Spool>),
    ) -> Self {
        Self { hub, quarantine, gates, spool }
    }

    /// Takes other limits.
    pub(crate) fn configure(&self, settings: &Settings) {
        self.quarantine.configure(settings);
    }

    /// Answers a request.
    ///
    /// # Errors
    /// Why not, for people.
    pub(crate) async fn answer(&self, request: &Value) -> Result<Value, String> {
        let text = |name: &str| request.get(name).and_then(Value::as_str).unwrap_or_default();
        let scope = scope(request)?;
        match text("command") {
            "quarantine-list" => {
                let page = self.quarantine.list(search(request, scope)?).await?;
                let rows: Vec<Value> = page.rows.iter().map(mpp_quarantine::Row::to_json).collect();
                Ok(json!({ "rows": rows, "cursor": page.cursor }))
            }
            "quarantine-show" => Ok(self.quarantine.show(text("id"), &scope).await?.to_json()),
            "quarantine-expire" => {
                let expired = self.quarantine.expire().await?;
                Ok(json!({
                    "too_old": expired.too_old,
                    "too_many": expired.too_many,
                    "of_users": expired.of_users,
                }))
            }
            other => Err(format!("unknown command `{other}`")),
        }
    }
}

/// Who is asking.
fn scope(request: &Value) -> Result<Scope, String> {
    let text = |name: &str| request.get(name).and_then(Value::as_str).unwrap_or_default();
    match (text("user"), text("domain")) {
        ("", "") => Ok(Scope::All),
        (user, "") => Ok(Scope::User(user.to_owned())),
        ("", domain) => Ok(Scope::Domain(domain.trim_start_matches('@').to_owned())),
        _ => Err("either a user or a domain".into()),
    }
}

/// What is looked for.
fn search(request: &Value, scope: Scope) -> Result<Search, String> {
    let text = |name: &str| request.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| request.get(name).and_then(Value::as_u64);
    let states = match text("state") {
        "" | "waiting" => Vec::new(),
        "all" => State::ALL.to_vec(),
        name => {
            let state = State::ALL.into_iter().find(|state| state.name() == name);
            vec![state.ok_or_else(|| {
                format!("`{name}` is no state: held, releasing, released, deleted, all")
            })?]
        }
    };
    Ok(Search {
        scope,
        sender: text("sender").to_owned(),
        recipient: text("recipient").to_owned(),
        words: text("words").to_owned(),
        reason: text("reason").to_owned(),
        since_ms: number("since_ms"),
        until_ms: number("until_ms"),
        states,
        cursor: Some(text("cursor").to_owned()).filter(|cursor| !cursor.is_empty()),
        most: usize::try_from(number("most").unwrap_or(ROWS)).unwrap_or(usize::MAX),
    })
}
