//! Policies that claim the same thing equally specifically: nobody could say which one holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use mpp_engine::directory::Membership;
use mpp_engine::policy::{Match, Pattern, Policy};
use mpp_settings::Diagnostic;
use mpp_settings::diagnostic::Place;

/// What two policies may both claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim<'a> {
    Pattern(usize, &'a Pattern),
    Network(IpNet),
    Member(Membership),
    Direction,
}

/// One problem for each pair of neighbours that claim the same.
pub(crate) fn find(policies: &[(Arc<Policy>, Match)], places: &[Place]) -> Vec<Diagnostic> {
    let mut claims: BTreeMap<(Claim<'_>, [bool; 6]), Vec<usize>> = BTreeMap::new();
    let mut problems = Vec::new();
    for (number, (policy, wanted)) in policies.iter().enumerate() {
        let shape = shape(wanted);
        let mut reported = false;
        for claim in claims_of(wanted) {
            let others = claims.entry((claim.clone(), shape)).or_default();
            let clash = others.iter().find(|other| {
                policies.get(**other).is_some_and(|(_, other)| may_both_fit(wanted, other))
            });
            if let (Some(other), false) = (clash, reported) {
                reported = true;
                let (Some(place), Some(other_place)) = (places.get(number), places.get(*other))
                else {
                    continue;
                };
                let other_name = policies.get(*other).map_or("", |(policy, _)| &*policy.name);
                let message = format!(
                    "policies `{}` and `{other_name}` are for the same {}",
                    policy.name,
                    described(&claim)
                );
                problems.push(
                    Diagnostic::error(place.clone(), message)
                        .label("this one")
                        .also(other_place.clone(), "and this one are equally specific")
                        .help("take it out of one of them, or narrow one of them down"),
                );
            }
            others.push(number);
        }
    }
    problems
}

fn shape(wanted: &Match) -> [bool; 6] {
    [
        !wanted.recipient.is_empty(),
        !wanted.sasl_user.is_empty(),
        !wanted.sender.is_empty(),
        !wanted.client.is_empty(),
        wanted.direction.is_some(),
        !wanted.members.is_empty(),
    ]
}

/// What the policy is found by: its first dimension.
fn claims_of(wanted: &Match) -> Vec<Claim<'_>> {
    let sides = [&wanted.recipient, &wanted.sasl_user, &wanted.sender];
    if let Some((side, patterns)) = sides.iter().enumerate().find(|(_, list)| !list.is_empty()) {
        return patterns.iter().map(|pattern| Claim::Pattern(side, pattern)).collect();
    }
    if !wanted.members.is_empty() {
        return wanted.members.iter().map(|member| Claim::Member(*member)).collect();
    }
    if wanted.client.is_empty() {
        return vec![Claim::Direction];
    }
    wanted.client.iter().map(|network| Claim::Network(network.trunc())).collect()
}

/// Whether the dimensions behind the first leave room for both.
fn may_both_fit(one: &Match, other: &Match) -> bool {
    let patterns = |one: &[Pattern], other: &[Pattern]| {
        one.is_empty() || other.is_empty() || one.iter().any(|pattern| other.contains(pattern))
    };
    let networks = one.client.is_empty()
        || other.client.is_empty()
        || one.client.iter().any(|network| other.client.contains(network));
    let directions = match (one.direction, other.direction) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    };
    // Nobody knows who is in two groups; of the same group everybody is.
    let members = one.members.is_empty()
        || other.members.is_empty()
        || one.members.iter().any(|member| other.members.contains(member));
    patterns(&one.sasl_user, &other.sasl_user)
        && patterns(&one.sender, &other.sender)
        && networks
        && directions
        && members
}

fn described(claim: &Claim<'_>) -> String {
    match claim {
        Claim::Pattern(side, pattern) => {
            let side = ["recipient", "account", "sender"].get(*side).copied().unwrap_or_default();
            match pattern {
                Pattern::Address(address) => format!("{side} {address}"),
                Pattern::Domain(domain) => format!("{side} domain {domain}"),
                Pattern::Below(domain) => format!("{side} domains .{domain}"),
            }
        }
        Claim::Member(_) => "group".into(),
        Claim::Network(network) => format!("network {network}"),
        Claim::Direction => "direction".into(),
    }
}
