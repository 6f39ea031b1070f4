//! Policies: the settings that hold for one transaction, found in constant time among thousands.
//!
//! The most specific policy wins: an address over a domain over a parent domain over a client
//! network over a direction over `default`; being in a group of a directory comes right behind an
//! address. At the same step a recipient goes before an account,
//! an account before a sender; inside one dimension no two policies may claim the same thing.

use std::sync::Arc;

use hashbrown::HashMap;
use ipnet::IpNet;

use crate::address;
use crate::checks::{Armed, Mode};
use crate::directory::{Membership, Memberships, Side};
use crate::edits::{Editing, Needs};
use crate::entry;
use crate::facts::{Direction, Facts};
use crate::identity::Keyring;
use crate::network::{NetworkMap, NetworkSet};
use crate::scan::Scanning;
use crate::verdict::Verdict;

/// The settings that hold for a transaction.
#[derive(Debug)]
pub struct Policy {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The checks, cheap before dear, in the order of [`crate::checks::KINDS`].
    pub checks: Vec<Armed>,
    /// Which identities count as shared or well known and are spared.
    pub spare: Spare,
    /// Whether blocks are enforced, so that other checks may leave the answer to them.
    pub enforces_blocks: bool,
    /// What holds when a check cannot be answered; nothing: it has no opinion then.
    pub unavailable: Option<Verdict>,
    /// What is done to messages that are let through; nothing, as mostly.
    pub editing: Option<Arc<Editing>>,
    /// How messages are scanned; nothing: they are not.
    pub scanning: Option<Arc<Scanning>>,
    /// Whether it counts the bytes of messages.
    pub counts_bytes: bool,
    /// Whether it may hold a message at its end that was let through until then.
    pub holds_at_end: bool,
}

/// When an identity has a history good enough that no single fact blocks it, and who is let
/// through although somebody else at the same host earned a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spare {
    /// So many clean messages at least.
    pub clean: f32,
    /// And at least this share of all that is known of it is clean.
    pub share: f32,
    /// A sender of whom nothing bad is known is let through once it has tried for so long, in
    /// milliseconds.
    pub patience_ms: u64,
}

/// What a policy is for. All that is given must fit; of a list one entry must.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// Recipients: addresses, domains, parent domains.
    pub recipient: Vec<Pattern>,
    /// Accounts.
    pub sasl_user: Vec<Pattern>,
    /// Senders: addresses, domains, parent domains.
    pub sender: Vec<Pattern>,
    /// Client networks.
    pub client: Vec<IpNet>,
    /// The direction.
    pub direction: Option<Direction>,
    /// Groups of a directory.
    pub members: Vec<Membership>,
}

/// Which addresses are meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// One address, or one account name.
    Address(String),
    /// All addresses of a domain.
    Domain(String),
    /// All addresses of a domain and of all domains below it.
    Below(String),
}

impl Pattern {
    /// Reads `user@example.org`, `@example.org` or `example.org` (a domain), and `.example.org`
    /// or `@.example.org` (a domain and all below it).
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.to_ascii_lowercase();
        let name = text.strip_prefix('@').filter(|rest| !rest.contains('@'));
        if name.is_some() || !text.contains('@') {
            let name = name.unwrap_or(&text);
            entry::domain(name).map_err(|fault| fault.to_string())?;
            return Ok(Self::domain(name));
        }
        entry::address(&text).map_err(|fault| fault.to_string())?;
        Ok(Self::Address(address::canonical(&text).into_owned()))
    }

    /// Reads an account name: one with an `@` may be a whole domain, as in `@example.org`.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn parse_account(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("expected an account name".into());
        }
        match text.strip_prefix('@') {
            Some(domain) => {
                entry::domain(domain).map_err(|fault| fault.to_string())?;
                Ok(Self::domain(domain))
            }
            None => Ok(Self::Address(address::account(text).into_owned())),
        }
    }

    fn domain(text: &str) -> Self {
        let text = &*address::domain(text);
        match text.strip_prefix('.') {
            Some(parent) => Self::Below(parent.to_owned()),
            None => Self::Domain(text.to_owned()),
        }
    }
}

/// All policies of a configuration.
#[derive(Debug)]
pub struct Policies {
    default: Arc<Policy>,
    entries: Vec<Entry>,
    index: HashMap<(Side, u64), Numbers>,
    networks: NetworkMap,
    directed: Vec<u32>,
    /// Policies that only a membership leads to.
    grouped: Vec<u32>,
    sides: [bool; 3],
    has_parents: [bool; 3],
    needs: Needs,
    count_bytes: bool,
    hold_at_end: bool,
    scan: bool,
}

#[derive(Debug)]
struct Entry {
    policy: Arc<Policy>,
    /// What is to be verified when it is found; nothing if the index says it all, as mostly. Kept
    /// apart, so that tens of thousands of entries lie close together.
    wanted: Option<Box<Wanted>>,
}

/// The rest of a match, to be verified for a policy that the index has found.
#[derive(Debug)]
struct Wanted {
    sides: [Vec<Pattern>; 3],
    client: NetworkSet,
    direction: Option<Direction>,
    members: Vec<Membership>,
}

impl Wanted {
    /// In how many ways it narrows down what is meant: among equals the narrower policy wins.
    fn dimensions(&self) -> usize {
        let sides = self.sides.iter().filter(|patterns| !patterns.is_empty()).count();
        sides
            + usize::from(!self.client.is_empty())
            + usize::from(self.direction.is_some())
            + usize::from(!self.members.is_empty())
    }
}

/// The numbers of entries, nearly always one.
#[derive(Debug)]
struct Numbers {
    first: u32,
    more: Vec<u32>,
}

impl Numbers {
    fn sort_by_key<K: Ord>(&mut self, key: impl FnMut(&u32) -> K) {
        if self.more.is_empty() {
            return;
        }
        self.more.insert(0, self.first);
        self.more.sort_by_key(key);
        self.first = self.more.remove(0);
    }
}

const SIDES: [Side; 3] = [Side::Recipient, Side::SaslUser, Side::Sender];

impl Policies {
    /// Builds the index. `others` are all policies but the default.
    pub fn new(default: Arc<Policy>, others: Vec<(Arc<Policy>, Match)>, ring: Keyring) -> Self {
        let needs = needs(&default, &others);
        let count_bytes =
            default.counts_bytes || others.iter().any(|(policy, _)| policy.counts_bytes);
        let hold_at_end =
            default.holds_at_end || others.iter().any(|(policy, _)| policy.holds_at_end);
        let scans = |policy: &Policy| {
            policy.scanning.as_ref().is_some_and(|scanning| scanning.mode != Mode::Off)
        };
        let scan = scans(&default) || others.iter().any(|(policy, _)| scans(policy));
        let mut policies = Self {
            default,
            needs,
            count_bytes,
            hold_at_end,
            scan,
            entries: Vec::with_capacity(others.len()),
            index: HashMap::new(),
            networks: NetworkMap::default(),
            directed: Vec::new(),
            grouped: Vec::new(),
            sides: [false; 3],
            has_parents: [false; 3],
        };
        for (policy, wanted) in others {
            policies.add(policy, wanted, ring);
        }
        let Self { entries, index, directed, grouped, networks, .. } = &mut policies;
        let narrower = |number: &u32| {
            let entry = entries.get(*number as usize);
            let wanted = entry.and_then(|entry| entry.wanted.as_deref());
            std::cmp::Reverse(wanted.map_or(1, Wanted::dimensions))
        };
        index.values_mut().for_each(|numbers| numbers.sort_by_key(narrower));
        directed.sort_by_key(narrower);
        grouped.sort_by_key(narrower);
        networks.for_each(|numbers| numbers.sort_by_key(narrower));
        policies
    }

    fn add(&mut self, policy: Arc<Policy>, wanted: Match, ring: Keyring) {
        let number = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        let sides = [wanted.recipient, wanted.sasl_user, wanted.sender];
        // Indexed by its first dimension only: the others are verified when it is found.
        let first = sides.iter().position(|patterns| !patterns.is_empty());
        match first.and_then(|first| Some((first, SIDES.get(first)?, sides.get(first)?))) {
            Some((first, side, patterns)) => {
                if let Some(used) = self.sides.get_mut(first) {
                    *used = true;
                }
                for pattern in patterns {
                    let (kind, text) = match pattern {
                        Pattern::Address(address) => (0, address),
                        Pattern::Domain(domain) => (1, domain),
                        Pattern::Below(domain) => (2, domain),
                    };
                    if let (2, Some(used)) = (kind, self.has_parents.get_mut(first)) {
                        *used = true;
                    }
                    let key = ring.key(kind + 1, ring.text(text)).0;
                    self.index
                        .entry((*side, key))
                        .and_modify(|numbers| numbers.more.push(number))
                        .or_insert(Numbers { first: number, more: Vec::new() });
                }
            }
            None if !wanted.members.is_empty() => self.grouped.push(number),
            None if wanted.client.is_empty() => self.directed.push(number),
            None => wanted.client.iter().for_each(|network| self.networks.add(*network, number)),
        }
        let client = wanted.client.into_iter().collect();
        let Match { direction, members, .. } = wanted;
        let wanted = Wanted { sides, client, direction, members };
        let is_found_by_all =
            wanted.dimensions() == 1 && wanted.direction.is_none() && wanted.members.is_empty();
        self.entries.push(Entry { policy, wanted: (!is_found_by_all).then(|| Box::new(wanted)) });
    }

    /// The policy that holds, as far as memberships are known. If any are noted as missing, answer
    /// them and ask again.
    pub fn resolve(
        &self,
        facts: &Facts<'_>,
        ring: Keyring,
        members: &mut Memberships,
    ) -> &Arc<Policy> {
        if self.entries.is_empty() {
            return &self.default;
        }
        let mut search = Search { facts, ring, members };
        if let Some(found) = self.by_sides(&mut search).or_else(|| self.by_network(&mut search)) {
            return found;
        }
        let mut directed = self.directed.iter();
        directed
            .find_map(|number| self.fitting(*number, &mut search, None))
            .unwrap_or(&self.default)
    }

    fn by_sides(&self, search: &mut Search<'_, '_>) -> Option<&Arc<Policy>> {
        let (facts, ring) = (search.facts, search.ring);
        let keys = &facts.keys;
        let used = || SIDES.iter().zip(self.sides).filter(|(_, used)| *used).map(|(side, _)| *side);
        for side in used() {
            let hash = match side {
                Side::Recipient => keys.recipient,
                Side::SaslUser => keys.sasl_user,
                Side::Sender => keys.sender,
            };
            if let Some(found) = self.at(side, ring.key(1, hash).0, search) {
                return Some(found);
            }
        }
        for number in &self.grouped {
            if let Some(found) = self.fitting(*number, search, None) {
                return Some(found);
            }
        }
        for side in used() {
            let hash = match side {
                Side::Recipient => keys.recipient_domain,
                Side::SaslUser => ring.text(address::split(facts.sasl_user).1),
                Side::Sender => keys.sender_domain,
            };
            if let Some(found) = self.at(side, ring.key(2, hash).0, search) {
                return Some(found);
            }
        }
        let parents = SIDES.iter().zip(self.has_parents).filter(|(_, used)| *used);
        parents.map(|(side, _)| side).find_map(|side| {
            let mut domain = address::split(side_text(*side, facts)).1;
            while !domain.is_empty() {
                if let Some(found) = self.at(*side, ring.key(3, ring.text(domain)).0, search) {
                    return Some(found);
                }
                domain = domain.split_once('.').map_or("", |(_, parent)| parent);
            }
            None
        })
    }

    fn at(&self, side: Side, key: u64, search: &mut Search<'_, '_>) -> Option<&Arc<Policy>> {
        let Numbers { first, more } = self.index.get(&(side, key))?;
        let mut numbers = std::iter::once(first).chain(more);
        numbers.find_map(|number| self.fitting(*number, search, Some(side)))
    }

    fn by_network(&self, search: &mut Search<'_, '_>) -> Option<&Arc<Policy>> {
        let found = self.networks.containing(search.facts.client);
        found.flatten().find_map(|number| self.fitting(*number, search, None))
    }

    /// The policy of that number if all that it wants fits; `found` has been looked up already.
    fn fitting(
        &self,
        number: u32,
        search: &mut Search<'_, '_>,
        found: Option<Side>,
    ) -> Option<&Arc<Policy>> {
        let facts = search.facts;
        let entry = self.entries.get(number as usize)?;
        let Some(wanted) = &entry.wanted else { return Some(&entry.policy) };
        let sides_fit = wanted.sides.iter().zip(SIDES).all(|(patterns, side)| {
            patterns.is_empty()
                || found == Some(side)
                || patterns.iter().any(|pattern| fits(pattern, side_text(side, facts)))
        });
        // Last: this is what may have to be looked up.
        let fits = sides_fit
            && wanted.direction.is_none_or(|direction| direction == facts.direction)
            && (wanted.client.is_empty() || wanted.client.contains(facts.client))
            && (wanted.members.is_empty() || search.is_member(&wanted.members));
        fits.then_some(&entry.policy)
    }

    /// The default policy.
    pub fn default_policy(&self) -> &Arc<Policy> {
        &self.default
    }

    /// The policy of that name.
    pub fn named(&self, name: &str) -> Option<&Arc<Policy>> {
        let all = self.entries.iter().map(|entry| &entry.policy);
        all.chain([&self.default]).find(|policy| &*policy.name == name)
    }

    /// What any of them may do to a message.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Whether any of them counts the bytes of messages.
    pub fn count_bytes(&self) -> bool {
        self.count_bytes
    }

    /// Whether any of them may hold a message at its end, so that a door has to keep it until then.
    pub fn hold_at_end(&self) -> bool {
        self.hold_at_end
    }

    /// The first transport and place that any policy has Postfix send mail to (`FILTER` of access(5)).
    pub fn filter(&self) -> Option<&str> {
        let all = self.entries.iter().map(|entry| &entry.policy).chain([&self.default]);
        let mut filters = all.filter_map(|policy| policy.scanning.as_deref()).map(|it| &*it.filter);
        filters.find(|filter| !filter.is_empty())
    }

    /// Whether any of them has messages held by what scanners say.
    pub fn hold_scanned(&self) -> bool {
        let mut all = self.entries.iter().map(|entry| &entry.policy).chain([&self.default]);
        all.any(|policy| policy.scanning.as_ref().is_some_and(|scanning| scanning.holds()))
    }

    /// Whether any of them has messages scanned, so that a door has to see them whole.
    pub fn scan(&self) -> bool {
        self.scan
    }

    /// How many there are, the default included.
    pub fn count(&self) -> usize {
        self.entries.len() + 1
    }
}

fn needs(default: &Policy, others: &[(Arc<Policy>, Match)]) -> Needs {
    let mut needs = Needs::default();
    let all = std::iter::once(default).chain(others.iter().map(|(policy, _)| &**policy));
    let mut before: Option<&Arc<Editing>> = None;
    for editing in all.filter_map(|policy| policy.editing.as_ref()) {
        // Tens of thousands may have that of the default.
        if before.is_none_or(|before| !Arc::ptr_eq(before, editing)) {
            needs.add(editing);
        }
        before = Some(editing);
    }
    needs
}

/// One search for a policy.
struct Search<'s, 'f> {
    facts: &'s Facts<'f>,
    ring: Keyring,
    members: &'s mut Memberships,
}

impl Search<'_, '_> {
    /// Whether the transaction is in one of these groups.
    fn is_member(&mut self, wanted: &[Membership]) -> bool {
        let mut is_member = false;
        for membership in wanted {
            let keys = &self.facts.keys;
            let who = match membership.side {
                Side::Recipient => keys.recipient,
                Side::SaslUser => keys.sasl_user,
                Side::Sender => keys.sender,
            };
            // All of them are asked at once; nobody is in no group.
            is_member |= !side_text(membership.side, self.facts).is_empty()
                && self.members.is_member(membership.look_up(self.ring, who));
        }
        is_member
    }
}

fn side_text<'a>(side: Side, facts: &Facts<'a>) -> &'a str {
    match side {
        Side::Recipient => facts.recipient,
        Side::SaslUser => facts.sasl_user,
        Side::Sender => facts.sender,
    }
}

/// Whether an address, or an account name, is one that the pattern means.
pub fn fits(pattern: &Pattern, text: &str) -> bool {
    match pattern {
        Pattern::Address(address) => address == text,
        Pattern::Domain(domain) => address::split(text).1 == domain,
        Pattern::Below(domain) => {
            let own = address::split(text).1;
            !own.is_empty() && address::is_below(own, domain)
        }
    }
}
