//! What was refused for users, by the decision log.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;

use mpp_quarantine::Refused;
use serde_json::Value;

/// Refusals of one user that are told of: the newest.
pub(crate) const MOST: usize = 20;

/// Who is nobody, or none of ours: nobody misses this mail.
const NOBODYS: [&str; 3] = ["unknown-recipient", "trap", "relay"];

/// The newest refusals, by what `wanted` makes of a recipient and a line; oldest first.
///
/// # Errors
/// A file of the log cannot be read.
pub(crate) fn read(
    log: &Path,
    mut wanted: impl FnMut(&Refused, &str) -> Option<String>,
) -> io::Result<BTreeMap<String, VecDeque<Refused>>> {
    let mut all: BTreeMap<String, VecDeque<Refused>> = BTreeMap::new();
    mpp_hub::log::each_line(log, |line| {
        if !line.contains(r#""verdict":"reject""#) {
            return;
        }
        let Ok(line) = serde_json::from_str::<Value>(line) else { return };
        let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
        if NOBODYS.contains(&text("reason")) {
            return;
        }
        let Some(refused) = Refused::of(&line) else { return };
        let Some(key) = wanted(&refused, text("policy")) else { return };
        let own = all.entry(key).or_default();
        own.push_back(refused);
        if own.len() > MOST {
            own.pop_front();
        }
    })?;
    Ok(all)
}

/// Whose an address may be: what stands before each letter that may be a delimiter, the whole first.
pub(crate) fn owners(recipient: &str) -> impl Iterator<Item = String> {
    let (local, domain) = recipient.rsplit_once('@').unwrap_or((recipient, ""));
    let cuts = local.char_indices().filter(|(at, letter)| *at > 0 && !letter.is_alphanumeric());
    let cuts = cuts.filter_map(|(at, _)| local.get(..at));
    std::iter::once(local).chain(cuts).map(move |local| format!("{local}@{domain}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_somebodys_detail() {
        let of = |recipient: &str| owners(recipient).collect::<Vec<_>>();
        assert_eq!(of("bob@x.example"), ["bob@x.example"]);
        assert_eq!(of("a.b+c@x.example"), ["a.b+c@x.example", "a@x.example", "a.b@x.example"]);
        assert_eq!(of("+a@x.example"), ["+a@x.example"]);
    }
}
