//! Who exists: the recipient lists of a configuration, and the directories behind them.
//!
//! `[recipients.NAME]` says of some domains who their users are: addresses written down, files, and
//! directories that are asked in order. A user exists if any of them says so. `postmaster` and
//! `abuse` exist everywhere (RFC 5321 section 4.5.1, RFC 2142).

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use mpp_settings::diagnostic::nearest;
use mpp_settings::{Diagnostic, Reader};

use crate::address;
use crate::decide::{Pause, Round, Value};
use crate::directory::{About, Found, Lifetimes, LookUp, Source};
use crate::entry;
use crate::facts::{Direction, Facts};
use crate::identity::Keyring;

/// Octets of a local part at the most; RFC 5321 section 4.5.3.1.1 allows 64. A longer one is
/// nobody's, and no directory is asked.
const LOCAL_BYTES_MAX: usize = 256;

/// Labels of a domain that are looked at in search of a parent domain.
const LABELS_MAX: usize = 32;

/// Directories that may be asked about one recipient.
const SOURCES_MAX: usize = 8;

/// The recipients of a configuration.
#[derive(Debug, Default)]
pub struct Recipients {
    sources: Vec<Source>,
    /// Domains whose users are known, with the directories that know them.
    domains: HashMap<u64, Chain>,
    /// The same for all domains below a domain.
    below: HashMap<u64, Chain>,
    /// Directories that know which domains are ours, with those that know their users.
    asked: Vec<(u16, Chain)>,
    /// Users, and domains in which everybody exists.
    known: HashSet<u64>,
    /// Local parts that exist in every domain.
    always: Vec<String>,
}

/// Who knows the users of a domain.
#[derive(Clone, Debug, Default)]
struct Chain {
    /// The numbers of directories, in the order in which they are asked.
    sources: Vec<u16>,
    /// What divides a user from a detail.
    delimiters: String,
}

impl Chain {
    /// Adds what is not in it yet.
    fn join(&mut self, other: &Self) {
        for source in &other.sources {
            if !self.sources.contains(source) {
                self.sources.push(*source);
            }
        }
        let new = other.delimiters.chars().filter(|letter| !self.delimiters.contains(*letter));
        let new: String = new.collect();
        self.delimiters.push_str(&new);
    }

    /// The local part, and what of it stands before a delimiter: before the first, as Postfix cuts
    /// (`recipient_delimiter`), and before the last.
    fn stems<'l>(&self, local: &'l str) -> [Option<&'l str>; 3] {
        if !self.has_delimiter(local) {
            return [Some(local), None, None];
        }
        let is_delimiter = |letter: char| self.delimiters.contains(letter);
        let cut = |at: Option<usize>| at.and_then(|at| local.get(..at)).filter(|s| !s.is_empty());
        // A name may begin with what is a delimiter elsewhere.
        let behind_first = local.char_indices().nth(1).map_or(local.len(), |(at, _)| at);
        let rest = local.get(behind_first..).unwrap_or_default();
        let first = cut(rest.find(is_delimiter).map(|at| at + behind_first));
        let last = cut(rest.rfind(is_delimiter).map(|at| at + behind_first));
        [Some(local), first, last.filter(|last| Some(*last) != first)]
    }

    fn has_delimiter(&self, local: &str) -> bool {
        match self.delimiters.as_bytes() {
            [one] => local.as_bytes().contains(one),
            _ => local.contains(|letter| self.delimiters.contains(letter)),
        }
    }

    /// The stems of a local part, as lengths and as hashes of the addresses they make.
    fn texts(&self, (local, domain): (&str, &str), whole: u64, ring: Keyring) -> Vec<(u16, u64)> {
        let stems = self.stems(local).into_iter().flatten();
        let text = |stem: &str| {
            let is_whole = stem.len() == local.len();
            let hash = if is_whole { whole } else { ring.text(&format!("{stem}@{domain}")) };
            (u16::try_from(stem.len()).unwrap_or(u16::MAX), hash)
        };
        stems.map(text).collect()
    }
}

/// What is known of an address, and from whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its domain is none of ours.
    Foreign,
    /// It exists.
    Known(Origin),
    /// It does not.
    Unknown(Origin),
    /// Nobody can say at the moment.
    NotNow(Origin),
}

/// Where an answer came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The directory that decided; nothing: a list.
    pub source: Option<Arc<str>>,
    /// How long ago it said so, in milliseconds; nothing: just now.
    pub age_ms: Option<u64>,
}

impl Origin {
    const LIST: Self = Self { source: None, age_ms: None };
}

impl Standing {
    /// Leaves word of where it came from, for people who ask why.
    pub fn remark(&self, round: &mut Round<'_>) {
        let (Self::Known(origin) | Self::Unknown(origin) | Self::NotNow(origin)) = self else {
            return;
        };
        // A list says it where nothing else is named.
        if let Some(name) = &origin.source {
            round.remark("says", Value::Name(Arc::clone(name)));
        }
        if let Some(age_ms) = origin.age_ms {
            round.remark("ago", Value::Period(age_ms));
        }
    }
}

/// What is known of a recipient before any directory is asked.
enum Prepared {
    Settled(Standing),
    One(Candidate),
    Open(Vec<Candidate>),
}

/// One look-up about a recipient, and what is kept of it.
struct Candidate {
    look_up: LookUp,
    kept: Option<(Found, u64)>,
}

impl Recipients {
    /// Recipients that may be looked up in these directories.
    pub fn new(sources: Vec<Source>) -> Self {
        let always = ["postmaster", "abuse"].map(str::to_owned).into();
        Self { sources, always, ..Self::default() }
    }

    /// Adds one list. Its domains are those it names, or without any those of its addresses.
    pub fn add(&mut self, table: &mut Reader<'_>, ring: Keyring) {
        let from = self.read_sources(table, "from");
        let domains_from = self.read_sources(table, "domains_from");
        if from.len() > SOURCES_MAX {
            table.mistake("from", &format!("at most {SOURCES_MAX} directories in a row"));
        }
        let domains = table.list("domains", &[], |domain| read_domain(domain, ring));
        let names_none = domains.is_empty() && domains_from.is_empty();
        let own_chain = Chain { sources: from, delimiters: table.text("delimiter", "+") };
        for (is_below, domain) in domains {
            let place = if is_below { &mut self.below } else { &mut self.domains };
            place.entry(domain).or_default().join(&own_chain);
        }
        self.asked.extend(domains_from.into_iter().map(|source| (source, own_chain.clone())));
        let own = self.add_addresses(table, ring);
        let knows_users =
            ["file", "addresses", "from"].into_iter().any(|name| table.value(name).is_some());
        let has_none = own.is_empty() && own_chain.sources.is_empty();
        if !names_none && (!knows_users || has_none) {
            let place = table.value("file").map_or(table.place(), |(at, _)| at.clone());
            let problem = Diagnostic::warning(place, "nobody exists in the domains of this list");
            table.report(problem.help("say who: `from`, `file` or `addresses`"));
        } else if names_none && has_none && table.value("domains_from").is_none() {
            let message = "this list names no domain: it verifies nobody";
            let problem = Diagnostic::warning(table.place(), message);
            table.report(problem.help("say whose users it knows: `domains` or `domains_from`"));
        }
        if names_none {
            for domain in own {
                self.domains.entry(domain).or_default().join(&own_chain);
            }
        }
        let is_local = |text: &str| {
            if text.contains(['@', '*']) || text.contains(char::is_whitespace) {
                return Err("expected a local part, such as \"hostmaster\"".to_owned());
            }
            Ok(text.to_lowercase())
        };
        self.always.extend(table.list("always", &[], is_local));
        self.always.sort_unstable();
        self.always.dedup();
    }

    /// Warns of addresses that stand in a list and in none of the domains that lists know. To be
    /// called when all lists were added: a user may be named in one list and his domain in another.
    pub fn warn_of_strangers(&self, table: &mut Reader<'_>, ring: Keyring) {
        if self.is_empty() || !self.asked.is_empty() {
            return;
        }
        let outside = |line: &str| {
            let entry = key_of(line.trim()).to_lowercase();
            let entry = address::canonical(&entry);
            let domain = address::split(&entry).1;
            let is_ours = domain.is_empty() || self.chain_of_domain(domain, ring).is_some();
            (!is_ours).then(|| format!("`{entry}` is in none of `domains`: nobody asks about it"))
        };
        table.remark("file", true, outside);
        table.remark("addresses", false, outside);
    }

    /// Adds the addresses that are written down. Returns their domains, each once.
    fn add_addresses(&mut self, table: &mut Reader<'_>, ring: Keyring) -> Vec<u64> {
        let mut own = HashSet::new();
        let known = &mut self.known;
        let formats = [("addresses", false), ("postfix", true)];
        let is_postfix = table.choice("format", "addresses", &formats) == Some(true);
        let mut add = |line: &str| -> Result<(), String> {
            // The next line of a value (postmap(1), "logical line").
            if is_postfix && line.starts_with([' ', '\t']) {
                return Ok(());
            }
            // What follows the address is ignored, as in a Postfix table: `user@example.org  OK`.
            let entry = key_of(line.trim()).to_ascii_lowercase();
            // A domain alone declares it (virtual(5)).
            if is_postfix && entry.contains('.') && !entry.contains('@') {
                own.insert(ring.text(&address::domain(&entry)));
                return Ok(());
            }
            entry::address(&entry).map_err(|fault| fault.to_string())?;
            let entry = address::canonical(&entry);
            let (local, domain) = address::split(&entry);
            own.insert(ring.text(domain));
            known.insert(if local.is_empty() {
                catch_all(ring, ring.text(domain))
            } else {
                ring.text(&entry)
            });
            Ok(())
        };
        table.files("file", &mut add);
        table.list("addresses", &[], &mut add);
        let mut own: Vec<u64> = own.into_iter().collect();
        own.sort_unstable();
        own
    }

    fn read_sources(&self, table: &mut Reader<'_>, name: &'static str) -> Vec<u16> {
        let names = || self.sources.iter().map(|source| &*source.name);
        table.list(name, &[], |text| {
            let place = names().position(|known| known == text);
            let source = place.and_then(|place| self.sources.get(place));
            if name == "domains_from" && source.is_some_and(|source| !source.knows_domains) {
                return Err("it does not know domains: give it a `domain_query` (sql) or a \
                            `domain_filter` (ldap)"
                    .to_owned());
            }
            place.and_then(|place| u16::try_from(place).ok()).ok_or_else(|| {
                match nearest(text, names()) {
                    Some(near) => format!("there is no `directory.{text}`; did you mean `{near}`?"),
                    None => format!("there is no `directory.{text}`"),
                }
            })
        })
    }

    /// Whether no domain is ours.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty() && self.below.is_empty() && self.asked.is_empty()
    }

    /// Whether the recipient's domain is written down as one of ours.
    pub fn covers(&self, facts: &Facts<'_>, ring: Keyring) -> bool {
        self.chain_of(facts, ring).is_some()
    }

    /// The directories, by number.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// What is known of a recipient.
    ///
    /// # Errors
    /// The store or a directory has to be asked first.
    pub fn standing(&self, facts: &Facts<'_>, round: &mut Round<'_>) -> Result<Standing, Pause> {
        if self.is_empty() || facts.keys.recipient_domain == 0 {
            return Ok(Standing::Foreign);
        }
        match self.chain_of(facts, round.ring) {
            Some(chain) => {
                let prepared = self.prepare(facts, chain, round)?;
                self.finish(prepared, round)
            }
            None if self.asked.is_empty() => Ok(Standing::Foreign),
            None => self.standing_by_domain(facts, round),
        }
    }

    /// Whose the recipient's mail may be: he himself, and then whoever the address without what
    /// follows a delimiter names; each with whether a list names that user.
    pub fn owners(&self, facts: &Facts<'_>, ring: Keyring) -> Vec<(String, bool)> {
        let (local, domain) = address::split(facts.recipient);
        let chain = match self.chain_of(facts, ring) {
            Some(chain) => chain.clone(),
            // It may be a domain that only directories know.
            None => self.asked.iter().fold(Chain::default(), |mut all, (_, chain)| {
                all.join(chain);
                all
            }),
        };
        let owner = |stem: &str| {
            let owner = format!("{stem}@{domain}");
            let is_listed = self.known.contains(&ring.text(&owner));
            (owner, is_listed)
        };
        chain.stems(local).into_iter().flatten().map(owner).collect()
    }

    /// The directories of a domain that is written down.
    fn chain_of(&self, facts: &Facts<'_>, ring: Keyring) -> Option<&Chain> {
        if let Some(chain) = self.domains.get(&facts.keys.recipient_domain) {
            return Some(chain);
        }
        self.chain_below(address::split(facts.recipient).1, ring)
    }

    fn chain_of_domain(&self, domain: &str, ring: Keyring) -> Option<&Chain> {
        let exact = self.domains.get(&ring.text(domain));
        exact.or_else(|| self.chain_below(domain, ring))
    }

    /// The directories of a parent domain.
    fn chain_below(&self, domain: &str, ring: Keyring) -> Option<&Chain> {
        if self.below.is_empty() {
            return None;
        }
        let parents = std::iter::successors(domain.split_once('.'), |(_, at)| at.split_once('.'));
        parents.take(LABELS_MAX).find_map(|(_, parent)| self.below.get(&ring.text(parent)))
    }

    /// As [`Recipients::standing`], for a domain that only directories may know.
    fn standing_by_domain(
        &self,
        facts: &Facts<'_>,
        round: &mut Round<'_>,
    ) -> Result<Standing, Pause> {
        let domain = address::split(facts.recipient).1;
        // Asked for together: what is kept of the domain and, should it be ours, of the user.
        let mut asked = Vec::with_capacity(self.asked.len());
        let mut is_open = false;
        for (source, chain) in &self.asked {
            let look_up = self.domain_look_up(*source, domain, round.ring);
            match (candidate(look_up, round), self.prepare(facts, chain, round)) {
                (Ok(candidate), Ok(prepared)) => asked.push((candidate, prepared)),
                (Err(Pause::Unavailable), _) | (_, Err(Pause::Unavailable)) => {
                    return Err(Pause::Unavailable);
                }
                (Err(Pause::Unanswered), _) | (_, Err(Pause::Unanswered)) => is_open = true,
            }
        }
        if is_open {
            return Err(Pause::Unanswered);
        }
        let mut not_now = None;
        for (candidate, prepared) in asked {
            match self.say(&candidate, round) {
                Ok((Found::Yes, _)) => {
                    return self.finish(prepared, round);
                }
                Ok((Found::No, _)) => {}
                Ok((Found::NotNow, age_ms)) => not_now = Some((candidate.look_up.source, age_ms)),
                Err(Pause::Unanswered) => is_open = true,
                Err(Pause::Unavailable) => return Err(Pause::Unavailable),
            }
        }
        match not_now {
            _ if is_open => Err(Pause::Unanswered),
            None => Ok(Standing::Foreign),
            // Mail of our own users goes to other domains nearly always: it does not wait.
            Some(_) if facts.direction == Direction::Outbound => Ok(Standing::Foreign),
            Some((source, age_ms)) => Ok(Standing::NotNow(self.origin(source, age_ms))),
        }
    }

    /// What the lists say; else everything that is kept of a recipient in a chain of directories,
    /// asked for at once, so that it comes with the decision's one trip.
    fn prepare(
        &self,
        facts: &Facts<'_>,
        chain: &Chain,
        round: &mut Round<'_>,
    ) -> Result<Prepared, Pause> {
        let (local, domain) = address::split(facts.recipient);
        let (ring, keys) = (round.ring, &facts.keys);
        let of_list =
            |standing: fn(Origin) -> Standing| Ok(Prepared::Settled(standing(Origin::LIST)));
        let is_listed = |hash: u64| !self.known.is_empty() && self.known.contains(&hash);
        if is_listed(keys.recipient)
            || self.always.iter().any(|always| always == local)
            || is_listed(catch_all(ring, keys.recipient_domain))
        {
            return of_list(Standing::Known);
        }
        if local.is_empty() || local.len() > LOCAL_BYTES_MAX {
            return of_list(Standing::Unknown);
        }
        if let ([source], false) = (chain.sources.as_slice(), chain.has_delimiter(local)) {
            // Nearly always: nothing is to be put aside.
            let stem = u16::try_from(local.len()).unwrap_or(u16::MAX);
            let look_up = self.recipient_look_up(*source, (stem, keys.recipient), ring);
            return Ok(Prepared::One(candidate(look_up, round)?));
        }
        let texts = chain.texts((local, domain), keys.recipient, ring);
        if texts.iter().any(|(_, hash)| self.known.contains(hash)) {
            return of_list(Standing::Known);
        }
        if chain.sources.is_empty() {
            return of_list(Standing::Unknown);
        }
        let mut candidates = Vec::new();
        let mut is_open = false;
        for look_up in self.of_chain(&chain.sources, &texts, ring) {
            match candidate(look_up, round) {
                Ok(candidate) => candidates.push(candidate),
                Err(Pause::Unanswered) => is_open = true,
                Err(Pause::Unavailable) => return Err(Pause::Unavailable),
            }
        }
        if is_open { Err(Pause::Unanswered) } else { Ok(Prepared::Open(candidates)) }
    }

    /// What a chain of directories is asked about a recipient.
    fn of_chain<'a>(
        &'a self,
        chain: &'a [u16],
        texts: &'a [(u16, u64)],
        ring: Keyring,
    ) -> impl Iterator<Item = LookUp> + 'a {
        let of_one = move |source: &'a u16| {
            texts.iter().map(move |text| self.recipient_look_up(*source, *text, ring))
        };
        chain.iter().flat_map(of_one)
    }

    fn recipient_look_up(&self, source: u16, (stem, hash): (u16, u64), ring: Keyring) -> LookUp {
        let key = self.source(source).map(|source| source.recipient_key(ring, hash));
        LookUp { source, about: About::Recipient { stem }, key: key.unwrap_or_default() }
    }

    fn domain_look_up(&self, source: u16, domain: &str, ring: Keyring) -> LookUp {
        let key = self.source(source).map(|source| source.domain_key(ring, domain));
        LookUp { source, about: About::Domain, key: key.unwrap_or_default() }
    }

    /// Everything that directories may be asked about a recipient, for people who want to see or
    /// forget what is kept of it.
    pub fn look_ups(&self, facts: &Facts<'_>, ring: Keyring) -> Vec<LookUp> {
        let parts = address::split(facts.recipient);
        let of = |chain: &Chain| -> Vec<LookUp> {
            let texts = chain.texts(parts, facts.keys.recipient, ring);
            self.of_chain(&chain.sources, &texts, ring).collect()
        };
        if let Some(chain) = self.chain_of(facts, ring) {
            return of(chain);
        }
        let asked = self.asked.iter().flat_map(|(source, chain)| {
            std::iter::once(self.domain_look_up(*source, parts.1, ring)).chain(of(chain))
        });
        let mut all: Vec<LookUp> = asked.collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn finish(&self, prepared: Prepared, round: &mut Round<'_>) -> Result<Standing, Pause> {
        match prepared {
            Prepared::Settled(standing) => Ok(standing),
            Prepared::One(candidate) => self.weigh(std::slice::from_ref(&candidate), round),
            Prepared::Open(candidates) => self.weigh(&candidates, round),
        }
    }

    /// Judges a recipient by what is kept, and looks up what is not.
    fn weigh(&self, candidates: &[Candidate], round: &mut Round<'_>) -> Result<Standing, Pause> {
        let is_kept = |candidate: &&Candidate| {
            let lifetime = self.lifetimes(candidate.look_up.source);
            matches!(candidate.kept, Some((Found::Yes, age_ms)) if age_ms < lifetime.known_ms)
        };
        if let Some(candidate) = candidates.iter().find(is_kept) {
            let (_, age_ms) = self.say(candidate, round)?;
            return Ok(Standing::Known(self.origin(candidate.look_up.source, age_ms)));
        }
        let mut not_now = None;
        let mut unknown = None;
        // One directory after the other; about one of them everything at once.
        for of_one in candidates.chunk_by(|a, b| a.look_up.source == b.look_up.source) {
            let mut is_open = false;
            for candidate in of_one {
                let source = candidate.look_up.source;
                match self.say(candidate, round) {
                    Ok((Found::Yes, age_ms)) => {
                        return Ok(Standing::Known(self.origin(source, age_ms)));
                    }
                    Ok((Found::No, age_ms)) => unknown = Some((source, age_ms)),
                    Ok((Found::NotNow, age_ms)) => not_now = Some((source, age_ms)),
                    Err(Pause::Unanswered) => is_open = true,
                    Err(pause @ Pause::Unavailable) => return Err(pause),
                }
            }
            if is_open {
                return Err(Pause::Unanswered);
            }
        }
        Ok(match (not_now, unknown) {
            (Some((source, age_ms)), _) => Standing::NotNow(self.origin(source, age_ms)),
            (None, Some((source, age_ms))) => Standing::Unknown(self.origin(source, age_ms)),
            (None, None) => Standing::Unknown(Origin::LIST),
        })
    }

    /// What a directory says, kept or asked now, and how long ago it said it.
    fn say(
        &self,
        candidate: &Candidate,
        round: &mut Round<'_>,
    ) -> Result<(Found, Option<u64>), Pause> {
        self.lifetimes(candidate.look_up.source).say(candidate.look_up, candidate.kept, round)
    }

    fn source(&self, number: u16) -> Option<&Source> {
        self.sources.get(usize::from(number))
    }

    fn lifetimes(&self, number: u16) -> Lifetimes {
        self.source(number).map(|source| source.lifetimes).unwrap_or_default()
    }

    fn origin(&self, number: u16, age_ms: Option<u64>) -> Origin {
        Origin { source: self.source(number).map(|source| Arc::clone(&source.name)), age_ms }
    }
}

fn candidate(look_up: LookUp, round: &mut Round<'_>) -> Result<Candidate, Pause> {
    Ok(Candidate { look_up, kept: round.looked(look_up.key)? })
}

/// A domain by its hash, and whether all below it are meant instead (`.example.org`).
fn read_domain(domain: &str, ring: Keyring) -> Result<(bool, u64), String> {
    let domain = domain.strip_prefix('@').unwrap_or(domain);
    entry::domain(domain).map_err(|fault| fault.to_string())?;
    let domain = address::domain(domain);
    let name = domain.strip_prefix('.').unwrap_or(&domain);
    Ok((domain.starts_with('.'), ring.text(name)))
}

/// The first word of a line; a quoted local part may hold spaces.
fn key_of(line: &str) -> &str {
    let mut is_quoted = false;
    let mut is_escaped = false;
    let end = line.find(|letter: char| {
        is_quoted ^= letter == '"' && !is_escaped;
        is_escaped = letter == '\\' && !is_escaped;
        letter.is_whitespace() && !is_quoted
    });
    line.get(..end.unwrap_or(line.len())).unwrap_or(line)
}

fn catch_all(ring: Keyring, domain: u64) -> u64 {
    ring.pair(domain, 1)
}
