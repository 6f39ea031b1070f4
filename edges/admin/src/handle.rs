//! What each command does.

use std::net::{IpAddr, Ipv4Addr};

use mpp_engine::facts::Stage;
use mpp_engine::identity::parse_subject;
use mpp_engine::question::{IdentityKind, Subject};
use mpp_hub::hex::{hex, unhex};
use mpp_hub::{Asked, Desk, Hub, Observed};
use serde_json::{Value, json};

use crate::Control;
use crate::status::status;

/// Rows that a list shows at the most if nobody says otherwise.
const ROWS: u64 = 1000;

/// Answers one request.
pub(crate) async fn answer(
    hub: &Hub,
    control: &dyn Control,
    request: &Value,
) -> Result<Value, String> {
    let text = |name: &str| request.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| request.get(name).and_then(Value::as_u64);
    match text("command") {
        "status" => Ok(status(hub, control)),
        "stats" => {
            let mut report = hub.statistics().report();
            if let Some(report) = report.as_object_mut() {
                report.insert("directories".into(), json!(hub.directories()));
                report.insert("proxies".into(), control.proxies());
                report.insert("scanners".into(), hub.scanner_numbers());
            }
            let spared = hub.spared(&report);
            if let Some(report) = report.as_object_mut() {
                report.insert("spared".into(), spared);
            }
            Ok(report)
        }
        "settle" => {
            if let Some(log) = hub.log() {
                log.settle();
            }
            hub.store().settle().map_err(|error| error.to_string())?;
            Ok(json!("settled"))
        }
        "reload" => {
            control.reload(request.get("force") == Some(&Value::Bool(true))).map(|text| json!(text))
        }
        "blocks" => {
            let most = number("most").unwrap_or(ROWS);
            Ok(hub.blocks(usize::try_from(most).unwrap_or(usize::MAX)))
        }
        "blocks-add" => {
            let for_ms = number("for_ms").ok_or("for how long?")?;
            is_asked_about(hub, text("kind"), text("identity"))?;
            hub.add_block(text("kind"), text("identity"), for_ms)?;
            Ok(json!(format!("{} {} is blocked", text("kind"), text("identity"))))
        }
        "blocks-remove" => {
            let held = hub.remove_block(text("kind"), text("identity"))?;
            let state = if held { "was blocked and no longer is" } else { "was not blocked" };
            Ok(json!(format!("{} {} {state}", text("kind"), text("identity"))))
        }
        "recipients-show" => hub.recipient(text("address")).await,
        "recipients-forget" => {
            let count = hub.forget_recipient(text("address"))?;
            Ok(json!(format!("{} is looked up anew ({count} look-ups)", text("address"))))
        }
        "recipients-probe" => hub.probe_recipient(text("address")).await,
        "verdict" => {
            let (observed, word) = match text("verdict") {
                "spam" => (Observed::Spam, "spam"),
                "clean" => (Observed::Clean, "clean"),
                other => return Err(format!("`{other}` is neither spam nor clean")),
            };
            hub.observe(&asked(request)?, observed, &mut Desk::default()).await;
            Ok(json!(format!("counted as {word}")))
        }
        "ask" => Ok(hub.ask(&asked(request)?).await),
        "greylist-show" => Ok(hub.greylist(&asked(request)?).await),
        "greylist-forget" => Ok(json!(hub.forget(&asked(request)?))),
        "store-page" => Ok(store_page(hub, request)),
        "store-import" => store_import(hub, request),
        name if name.starts_with("quarantine-") => control.quarantine(request).await,
        other => Err(format!("unknown command `{other}`")),
    }
}

/// A page of what the store holds, for `mpp store`.
fn store_page(hub: &Hub, request: &Value) -> Value {
    let from = request.get("from").and_then(Value::as_u64).unwrap_or(0);
    let seed = hub.store().seed().to_string();
    let Some(page) = hub.store().export(from, hub.now_ms()) else {
        return json!({ "seed": seed });
    };
    json!({ "seed": seed, "records": hex(&page), "next": from + 1 })
}

/// Takes in records of another greylist, for `mpp store import`. A request bounds how many they are.
fn store_import(hub: &Hub, request: &Value) -> Result<Value, String> {
    let text = request.get("records").and_then(Value::as_str).unwrap_or_default();
    let bytes = unhex(text).ok_or("records are hexadecimal")?;
    let seed = request.get("seed").and_then(Value::as_str).unwrap_or_default();
    if seed != hub.store().seed().to_string() {
        return Err("these records were made with the secret of another store".to_owned());
    }
    let new = hub.store().import(&bytes, hub.now_ms()).map_err(|error| error.to_string())?;
    Ok(json!({ "new": new }))
}

/// Whether a block of an identity would ever be looked at. One that would not must not be taken: who
/// made it would trust in it.
fn is_asked_about(hub: &Hub, kind: &str, identity: &str) -> Result<(), String> {
    let ring = hub.live().configuration.ring;
    match IdentityKind::from_name(kind) {
        Some(IdentityKind::Helo | IdentityKind::Recipient | IdentityKind::RecipientDomain) => {
            Err(format!("blocks of kind {kind} are never asked about"))
        }
        Some(IdentityKind::Network) => match parse_subject(IdentityKind::Network, identity)? {
            Subject::Network(network) if ring.network_of(network.addr()) != network => {
                let own = ring.network_of(network.addr());
                Err(format!(
                    "blocks of networks are asked about by the /{} here, such as `{own}`; \
                     deny others with `access.deny.client`",
                    own.prefix_len()
                ))
            }
            _ => Ok(()),
        },
        Some(IdentityKind::Organisation) => {
            let name = identity.to_lowercase();
            match ring.organisation(&name, IpAddr::V4(Ipv4Addr::UNSPECIFIED)) {
                Some(organisation) if organisation == name => Ok(()),
                Some(organisation) => {
                    Err(format!("`{identity}` is a part of `{organisation}`, which is one"))
                }
                None => Err(format!("`{identity}` is not the domain of an organisation")),
            }
        }
        _ => Ok(()),
    }
}

/// A transaction as the command line describes it.
pub(crate) fn asked(request: &Value) -> Result<Asked<'_>, String> {
    let text = |name: &str| request.get(name).and_then(Value::as_str).unwrap_or_default();
    let client: IpAddr =
        text("client").parse().map_err(|_| format!("`{}` is not an address", text("client")))?;
    let stage = match text("stage") {
        "" => Stage::Rcpt,
        name => Stage::ALL
            .iter()
            .find(|(_, known)| known.eq_ignore_ascii_case(name))
            .map(|(stage, _)| *stage)
            .ok_or_else(|| format!("`{name}` is no stage"))?,
    };
    Ok(Asked {
        client_name: text("name"),
        reverse_name: text("name"),
        helo: text("helo"),
        sender: text("sender"),
        recipient: text("recipient"),
        sasl_user: text("sasl_user"),
        context: text("context"),
        size_bytes: request.get("size").and_then(Value::as_u64).unwrap_or(0),
        ..Asked::about("ask", stage, client)
    })
}
