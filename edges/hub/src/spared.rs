//! What scanners were spared: an estimate, from what was counted and how long scans take.
//!
//! A try that is deferred is no message that was stopped: a serious server comes back. So of greylisting
//! one message is counted for each client that never passed it, and of refusals those for good, each for
//! a message (one of several recipients counts several times, one with more messages to come once).
//! Time is what a scan takes in its server, as mpp sees it: processor time as far as the scanner
//! does not wait for the network itself.

use serde_json::{Value, json};

/// Works it out of a report with statistics and scanners. `letters` is how many messages were scanned
/// since the scanners began to count.
pub(crate) fn spared(report: &Value, letters: u64) -> Value {
    let number = |path: &str| report.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let rows = |path: &str| report.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let is_refusal = |row: &&Value| {
        let is = |name: &str, words: &[&str]| {
            row.get(name).and_then(Value::as_str).is_some_and(|text| words.contains(&text))
        };
        is("action", &["reject", "disconnect"]) && !is("check", &["scan"])
    };
    let refused: u64 = rows("/total/decisions")
        .filter(is_refusal)
        .filter_map(|row| row.get("count").and_then(Value::as_u64))
        .sum();
    let of_clients = |name: &str| number(&format!("/total/clients/{name}"));
    let never_passed = of_clients("never_tried_again") + of_clients("never_passed");
    let of_funnel = |what: &str, unit: &str| number(&format!("/total/funnel/{what}/{unit}"));
    // A door that does not ask at the end of messages knows only of those that are scanned.
    let unscanned =
        |unit: &str| of_funnel("passed", unit).saturating_sub(of_funnel("scanned", unit));
    let all = refused + never_passed + unscanned("messages");
    let of_scanner = |row: &Value| {
        let number = |name: &str| row.get(name).and_then(Value::as_u64).unwrap_or(0);
        let scans = number("scans");
        let mean_us = number("scanned_us").checked_div(scans)?;
        // Which share of what is scanned it sees: those of `then` see what the first leave open.
        let share = ratio(scans, letters.max(scans));
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate"
        )]
        let spared_ms = (mean_us as f64 * share * all as f64 / 1000.0) as u64;
        let row = json!({
            "name": row.get("name"), "mean_us": mean_us, "share": share, "spared_ms": spared_ms,
        });
        Some((row, spared_ms))
    };
    let (scanners, times): (Vec<Value>, Vec<u64>) =
        rows("/scanners").filter_map(of_scanner).unzip();
    json!({
        "messages": {
            "refused": refused,
            "never_passed": never_passed,
            "unscanned": unscanned("messages"),
            "all": all,
            "share": ratio(all, all + of_funnel("scanned", "messages")),
        },
        "bytes": {
            "unscanned": unscanned("bytes"),
            "share": ratio(
                unscanned("bytes"),
                unscanned("bytes") + of_funnel("scanned", "bytes")
            ),
        },
        "scanners": scanners,
        "spared_ms": times.iter().sum::<u64>(),
    })
}

#[allow(clippy::cast_precision_loss, reason = "a share")]
fn ratio(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_and_what_never_came_back_was_spared() {
        let decision = |check: &str, action: &str, count: u64| json!({ "check": check, "action": action, "count": count });
        let report = json!({
            "total": {
                "decisions": [
                    decision("block", "reject", 50), decision("greylist", "defer", 900),
                    decision("scan", "reject", 7), decision("none", "accept", 30),
                    decision("connections", "disconnect", 10),
                ],
                "clients": { "never_tried_again": 15, "never_passed": 5, "passed": 9 },
                "funnel": {
                    "passed": { "messages": 40, "bytes": 4_000 },
                    "scanned": { "messages": 20, "bytes": 1_000 },
                },
            },
            "scanners": [
                { "name": "rspamd", "scans": 20, "scanned_us": 400_000 },
                { "name": "spamd", "scans": 5, "scanned_us": 1_000_000 },
                { "name": "idle", "scans": 0, "scanned_us": 0 },
            ],
        });
        let spared = spared(&report, 20);
        assert_eq!(
            spared["messages"],
            json!({ "refused": 60, "never_passed": 20, "unscanned": 20, "all": 100,
                "share": 100.0 / 120.0 })
        );
        assert_eq!(spared["bytes"], json!({ "unscanned": 3_000, "share": 0.75 }));
        // 20 ms for each of 100, and 200 ms for a quarter of them.
        assert_eq!(spared["spared_ms"], 2_000 + 5_000);
        assert_eq!(spared["scanners"].as_array().unwrap().len(), 2);
        assert_eq!(super::spared(&json!({}), 0)["spared_ms"], 0);
    }
}
