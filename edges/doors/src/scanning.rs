//! What doors that see messages have in common: which policies want one scanned, what is to become of it
//! for each recipient, and how that is written down. How it is done is each door's own.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use mpp_engine::decide::{Remark, Value};
use mpp_engine::scan::{Class, Fate, Scanned, Scanning};
use mpp_hub::quarantine::HeldFor;
use mpp_hub::scanner::Letter;
use mpp_hub::{Hub, Observed, Order};

/// A recipient that the next hop has taken.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) path: String,
    pub(crate) parameters: String,
    /// How his mail is scanned; nothing: it is not.
    pub(crate) order: Option<Order>,
    /// The policy that has it held whatever scanners say.
    pub(crate) held_by: Option<Arc<str>>,
}

impl Named {
    /// What his policy wants scanned.
    pub(crate) fn scanning(&self) -> Option<&Arc<Scanning>> {
        self.order.as_ref().filter(|order| order.spared.is_none()).map(|order| &order.scanning)
    }
}

/// What was found for one of the policies.
pub(crate) struct Found {
    pub(crate) scanning: Arc<Scanning>,
    pub(crate) scanned: Scanned,
}

/// The different policies that scan it.
fn scannings(named: &[Named]) -> Vec<Arc<Scanning>> {
    let mut all: Vec<Arc<Scanning>> = Vec::new();
    for scanning in named.iter().filter_map(Named::scanning) {
        if !all.iter().any(|known| Arc::ptr_eq(known, scanning)) {
            all.push(Arc::clone(scanning));
        }
    }
    all
}

/// Whether a message has to be there whole before anything becomes of it.
pub(crate) fn is_spooled(named: &[Named]) -> bool {
    named.iter().any(|named| named.held_by.is_some() || named.scanning().is_some())
}

/// Shows a message to the scanners that any of the policies wants.
pub(crate) async fn look_into(hub: &Hub, letter: Letter, named: &[Named]) -> Vec<Found> {
    let all = scannings(named);
    if all.is_empty() {
        return Vec::new();
    }
    let live = hub.live();
    let wanted: Vec<&Scanning> = all.iter().map(|scanning| &**scanning).collect();
    let scanned = live.scanners.scan(&wanted, &Arc::new(letter)).await;
    all.into_iter().zip(scanned).map(|(scanning, scanned)| Found { scanning, scanned }).collect()
}

/// What is to become of a message for each recipient; what is queued already is never refused.
pub(crate) fn fates(named: &[Named], found: &[Found], is_queued: bool) -> Vec<Fate> {
    let fate = |named: &Named| {
        if named.held_by.is_some() {
            return Fate::Quarantine;
        }
        let Some(scanning) = named.scanning() else { return Fate::Deliver };
        let of = found.iter().find(|found| Arc::ptr_eq(&found.scanning, scanning));
        match of.map_or(Fate::Deliver, |found| scanning.fate(&found.scanned)) {
            Fate::Reject if is_queued => Fate::Quarantine,
            fate => fate,
        }
    };
    named.iter().map(fate).collect()
}

/// What scanners have taught, if any has answered.
pub(crate) fn observed(found: &[Found]) -> Option<Observed> {
    let asked = found.iter().filter(|found| !found.scanned.findings.is_empty());
    let class = asked.map(|found| found.scanned.class).max()?;
    Some(if class == Class::Clean { Observed::Clean } else { Observed::Spam })
}

/// For whom a message is held, by the numbers of recipients; and why, in a word.
pub(crate) async fn held_for(
    hub: &Hub,
    (named, numbers): (&[Named], &[usize]),
    (worst, bare): (&Scanned, impl Fn(&str) -> String),
) -> (Vec<HeldFor>, String) {
    let held: Vec<&Named> = numbers.iter().filter_map(|number| named.get(*number)).collect();
    let mut all = Vec::with_capacity(held.len());
    for named in &held {
        let address = bare(&named.path);
        let by = named.held_by.as_ref();
        let policy = by.or_else(|| named.order.as_ref().map(|order| &order.policy));
        let policy = policy.map(ToString::to_string).unwrap_or_default();
        let user = hub.user_of(&address).await;
        let parameters = named.parameters.clone();
        all.push(HeldFor { address, user, policy, parameters });
    }
    let is_by_policy = held.iter().all(|named| named.held_by.is_some());
    let reason = if is_by_policy { "hold" } else { worst.class.name() };
    (all, reason.to_owned())
}

/// What is said of it to people.
pub(crate) fn remarks(worst: &Scanned, fate: Fate) -> Vec<Remark> {
    let remark = |what, value| Remark { check: "scan", what, value };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "points are shown in hundredths, never below nothing"
    )]
    let points = (worst.points.clamp(0.0, 1e6) * 100.0) as u64;
    let mut remarks = vec![
        remark("class", Value::Word(worst.class.name())),
        remark("points_x100", Value::Number(points)),
    ];
    for finding in &worst.findings {
        remarks.push(remark("by", Value::Name(Arc::clone(&finding.scanner))));
    }
    for scanner in &worst.missing {
        remarks.push(remark("unscanned", Value::Name(Arc::clone(scanner))));
    }
    remarks.push(remark("fate", Value::Word(fate.name())));
    remarks
}

/// The header fields that say what was found.
pub(crate) fn results(
    (host, client): (&str, Option<(IpAddr, &str)>),
    scanned: Option<&Scanned>,
    fate: Fate,
) -> String {
    let mut text = String::new();
    if let Some((address, name)) = client {
        let (result, name) = match name {
            "" => ("fail", String::new()),
            name => ("pass", format!(" ({name})")),
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "Authentication-Results: {host};\r\n\tiprev={result} policy.iprev={address}{name}\r\n"
        );
    }
    let Some(scanned) = scanned else { return text };
    if fate != Fate::Deliver {
        text.push_str("X-Spam-Flag: YES\r\n");
    }
    let word = if fate == Fate::Deliver { "No" } else { "Yes" };
    let tests: Vec<String> = scanned
        .findings
        .iter()
        .map(|finding| format!("{}:{}", finding.scanner, finding.tests))
        .collect();
    let note = if scanned.is_incomplete() { " unscanned" } else { "" };
    let _ = write!(
        text,
        "X-Spam-Score: {:.2}\r\nX-Spam-Status: {word}, score={:.2} required=5.00{note}\r\n\ttests=[{}]\r\n",
        scanned.points,
        scanned.points,
        bounded(&tests.join(" "))
    );
    text
}

/// What stands for all policies in log and header: the worst that any of them saw.
pub(crate) fn worst(found: &[Found]) -> Scanned {
    let mut worst = Scanned::default();
    for Found { scanned, .. } in found {
        let is_worse = (scanned.class, scanned.points) > (worst.class, worst.points);
        if is_worse || worst.findings.is_empty() {
            let missing = std::mem::take(&mut worst.missing);
            worst = Scanned { missing, ..scanned.clone() };
        }
        let missing = scanned.missing.iter();
        worst = missing.fold(worst, |worst, it| worst.without(it, scanned.waits));
    }
    worst
}

/// A text of others that may stand in a header.
fn bounded(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_graphic() || letter == ' ';
    text.chars().take(700).map(|letter| if plain(letter) { letter } else { '?' }).collect()
}
