//! What is kept of a recipient, for `mpp recipients`: to see, to forget, to ask anew.

use std::sync::Arc;

use mpp_engine::address;
use mpp_engine::directory::{About, Found, Kept, LookUp};
use mpp_engine::facts::{Facts, Stage};
use mpp_engine::question::{Answer, Effect, Question, Shelf};
use serde_json::{Value, json};

use crate::directories::Texts;
use crate::directory::{Wanted, found};
use crate::facts::facts;
use crate::hub::{Asked, Hub, Live};

/// What directories may be asked about an address, with the texts they are asked with.
struct Inquiry {
    live: Arc<Live>,
    address: String,
    look_ups: Vec<(LookUp, Vec<Wanted>)>,
    /// As [`mpp_engine::recipients::Recipients::owners`] has them.
    owners: Vec<(String, bool)>,
    /// Whether its domain is written down as one of ours.
    is_ours: bool,
}

impl Inquiry {
    fn of(live: Arc<Live>, recipient: &str) -> Result<Self, String> {
        let configuration = &live.configuration;
        let asked = asked_about(recipient);
        let (mut lower, mut scratch) = (String::new(), String::new());
        let facts: Facts<'_> = facts(configuration, &asked, &mut lower, &mut scratch);
        if address::split(facts.recipient).1.is_empty() {
            return Err(format!("`{recipient}` is not an address"));
        }
        let texts = Texts::of(&facts, &configuration.groups);
        let look_ups = configuration
            .recipients
            .look_ups(&facts, configuration.ring)
            .into_iter()
            .map(|look_up| (look_up, texts.wanted(look_up.about)))
            .collect();
        let address = facts.recipient.to_owned();
        let owners = configuration.recipients.owners(&facts, configuration.ring);
        let is_ours = configuration.recipients.covers(&facts, configuration.ring);
        Ok(Self { live, address, look_ups, owners, is_ours })
    }
}

fn asked_about(recipient: &str) -> Asked<'_> {
    let nobody = std::net::Ipv4Addr::UNSPECIFIED.into();
    Asked { recipient, ..Asked::about("recipients", Stage::Rcpt, nobody) }
}

fn subject(about: About, wanted: &[Wanted]) -> String {
    let first = wanted.first();
    match about {
        About::Domain => format!("domain {}", first.map_or("", |wanted| &wanted.domain)),
        About::Recipient { .. } | About::Member { .. } => {
            first.map_or_else(String::new, |wanted| wanted.address.clone())
        }
    }
}

impl Hub {
    /// What is kept of an address, as JSON: from which directory it came, and when.
    ///
    /// # Errors
    /// It is no address.
    pub async fn recipient(&self, recipient: &str) -> Result<Value, String> {
        let inquiry = Inquiry::of(self.live(), recipient)?;
        let answers = self.kept_of(&inquiry).await;
        let directories = &inquiry.live.directories;
        let rows = inquiry.look_ups.iter().zip(answers).map(|((look_up, wanted), kept)| {
            let station = directories.station(look_up.source);
            let lifetimes = station.map(|station| station.configured.source.lifetimes);
            let holds = matches!(lifetimes.unwrap_or_default().judge(kept), Kept::Holds(..));
            json!({
                "directory": station.map(|station| station.name()),
                "about": subject(look_up.about, wanted),
                "said": kept.map(|(found, _)| found.name()),
                "age_ms": kept.map(|(_, age_ms)| age_ms),
                "holds": kept.map(|_| holds),
            })
        });
        let rows: Vec<Value> = rows.collect();
        Ok(json!({ "address": inquiry.address, "kept": rows }))
    }

    /// Whose the mail for an address is: of `user+detail@` it is the user's, where a delimiter is
    /// configured. Lists know best, then what directories have said lately; without either what stands
    /// before the first delimiter is the user.
    pub async fn user_of(&self, recipient: &str) -> String {
        let whole = address::canonical(recipient).into_owned();
        let Ok(inquiry) = Inquiry::of(self.live(), &whole) else { return whole };
        let owners = &inquiry.owners;
        let mut owner = owners.iter().find(|(_, is_listed)| *is_listed).map(|(owner, _)| owner);
        if owner.is_none() && owners.len() > 1 {
            let known = self.known_of(&inquiry).await;
            owner = owners.iter().map(|(owner, _)| owner).find(|owner| known.contains(owner));
            owner = owner.or_else(|| owners.get(1).map(|(owner, _)| owner));
        }
        // The rest as it was named: an address of another spelling is another row of lists.
        let stem = owner.map_or("", |owner| address::split(owner).0);
        match whole.rsplit_once('@') {
            Some((local, domain)) if !stem.is_empty() && local.starts_with(stem) => {
                format!("{stem}@{domain}")
            }
            _ => whole,
        }
    }

    /// Whether an address is a user's, as lists and directories say now; nothing: none is asked about
    /// its domain.
    pub async fn is_user(&self, address: &str) -> Option<bool> {
        let inquiry = Inquiry::of(self.live(), address).ok()?;
        if inquiry.owners.iter().any(|(_, is_listed)| *is_listed) {
            return Some(true);
        }
        let is_his = |look_up: &LookUp| matches!(look_up.about, About::Recipient { .. });
        let mut asked = false;
        for (look_up, wanted) in inquiry.look_ups.iter().filter(|(look_up, _)| is_his(look_up)) {
            asked = true;
            let directories = &inquiry.live.directories;
            let Some(station) = directories.station(look_up.source) else { continue };
            let (answer, _) = directories.probe(station, wanted).await;
            if found(&answer) == Found::Yes {
                return Some(true);
            }
        }
        (asked || inquiry.is_ours).then_some(false)
    }

    /// Users that directories have said exist, of all that they may be asked about an address.
    async fn known_of(&self, inquiry: &Inquiry) -> Vec<String> {
        let answers = self.kept_of(inquiry).await;
        let rows = inquiry.look_ups.iter().zip(answers);
        let known = rows.filter(|((look_up, _), kept)| {
            matches!(look_up.about, About::Recipient { .. })
                && matches!(kept, Some((Found::Yes, _)))
        });
        known.flat_map(|((_, wanted), _)| wanted.iter().map(|it| it.address.clone())).collect()
    }

    /// What is kept of each of these look-ups, and how old it is.
    async fn kept_of(&self, inquiry: &Inquiry) -> Vec<Option<(Found, u64)>> {
        let now_ms = self.now_ms();
        let keys = inquiry.look_ups.iter().map(|(look_up, _)| look_up.key);
        let questions: Vec<Question> =
            keys.map(|key| Question::Since { shelf: Shelf::Looked, key }).collect();
        let mut answers = Vec::new();
        if let Some(later) = self.store().ask(now_ms, &questions, &mut answers) {
            later.await;
        }
        let kept = |answer| match answer {
            Answer::Since(Some(moment)) => Found::of(moment, now_ms),
            _ => None,
        };
        answers.into_iter().map(kept).collect()
    }

    /// Forgets what is kept of an address. Returns of how many directories.
    ///
    /// # Errors
    /// It is no address.
    pub fn forget_recipient(&self, recipient: &str) -> Result<usize, String> {
        let inquiry = Inquiry::of(self.live(), recipient)?;
        let effects: Vec<Effect> = inquiry
            .look_ups
            .iter()
            .map(|(look_up, _)| Effect::Forget { shelf: Shelf::Looked, key: look_up.key })
            .collect();
        self.store().perform(self.now_ms(), &effects);
        for (look_up, _) in &inquiry.look_ups {
            if let Some(station) = inquiry.live.directories.station(look_up.source) {
                station.forget(look_up.key);
            }
        }
        Ok(effects.len())
    }

    /// Asks every directory anew about an address, past all that is kept, and keeps what it says.
    ///
    /// # Errors
    /// It is no address.
    pub async fn probe_recipient(&self, recipient: &str) -> Result<Value, String> {
        let inquiry = Inquiry::of(self.live(), recipient)?;
        let mut rows = Vec::new();
        for (look_up, wanted) in &inquiry.look_ups {
            let Some(station) = inquiry.live.directories.station(look_up.source) else {
                continue;
            };
            let (answer, took_ms) = inquiry.live.directories.probe(station, wanted).await;
            let found = found(&answer);
            if found != Found::NotNow {
                let lifetimes = station.configured.source.lifetimes;
                let effect = lifetimes.remember(look_up.key, found);
                self.store().perform(self.now_ms(), &[effect]);
                station.forget(look_up.key);
            }
            rows.push(json!({
                "directory": station.name(),
                "about": subject(look_up.about, wanted),
                "said": found.name(),
                "trouble": answer.err().map(|trouble| trouble.to_string()),
                "took_ms": took_ms,
            }));
        }
        Ok(json!({ "address": inquiry.address, "said": rows }))
    }

    /// Connects to every server of every directory and says what works, as JSON.
    pub async fn examine_directories(&self) -> Value {
        let live = self.live();
        let mut rows = Vec::new();
        for station in live.directories.all() {
            for examined in live.directories.examine(station).await {
                rows.push(json!({
                    "directory": station.name(),
                    "kind": station.configured.settings.kind(),
                    "server": examined.server,
                    "works": examined.result.is_ok(),
                    "result": examined.result.unwrap_or_else(|trouble| trouble),
                    "took_ms": examined.took_ms,
                }));
            }
        }
        json!(rows)
    }

    /// How the directories are, as JSON.
    pub fn directories(&self) -> Vec<Value> {
        self.live().directories.status(self.now_ms())
    }
}
