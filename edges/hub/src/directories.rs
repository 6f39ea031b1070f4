//! The directories of a configuration: what the engine wants to know of them is asked here, side by
//! side and within the decision's deadline.

use std::sync::Arc;

use mpp_config::Configuration;
use mpp_config::directory::Directory as Configured;
use mpp_engine::address;
use mpp_engine::directory::{About, Found, LookUp, Side};
use mpp_engine::facts::Facts;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use crate::clock::Clock;
use crate::directory::{Directory, Examined, Trouble, Wanted, What};
use crate::room::Room;
use crate::station::{Station, Surroundings};
use crate::store::Store;

/// How a directory is opened.
pub type Open = Arc<dyn Fn(&Configured) -> Arc<dyn Directory> + Send + Sync>;

/// Where look-ups run, and how directories are opened.
#[derive(Clone)]
pub struct Outside {
    /// The runtime of look-ups. It goes on while others rest, since connections belong to it.
    pub runtime: Handle,
    /// Opens a directory.
    pub open: Open,
}

impl std::fmt::Debug for Outside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outside")
    }
}

/// The directories of a configuration, by number.
#[derive(Clone, Default)]
pub(crate) struct Directories {
    stations: Vec<Arc<Station>>,
    around: Option<Surroundings>,
}

impl std::fmt::Debug for Directories {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.stations.iter().map(|station| station.name())).finish()
    }
}

impl Directories {
    /// Those of a configuration. One that is as it was before is the one it was, with its
    /// connections and what is known of its health.
    pub(crate) fn open(
        configuration: &Configuration,
        before: &Self,
        outside: Option<&Outside>,
        (store, clock): (&Arc<dyn Store>, &Arc<dyn Clock>),
    ) -> Self {
        let Some(outside) = outside else { return Self::default() };
        let stations = configuration.directories.iter().map(|configured| {
            let same = before.stations.iter().find(|station| station.configured == *configured);
            same.map_or_else(
                || Arc::new(Station::new(configured.clone(), (outside.open)(configured))),
                Arc::clone,
            )
        });
        let room = before.around.as_ref().map(|around| Arc::clone(&around.room));
        let around = Surroundings {
            store: Arc::clone(store),
            clock: Arc::clone(clock),
            runtime: outside.runtime.clone(),
            room: room.unwrap_or_else(|| Arc::new(Room::default())),
        };
        Self { stations: stations.collect(), around: Some(around) }
    }

    /// Asks everything at once and waits for the answers until `end`. Appends one to `found` for
    /// each.
    pub(crate) async fn find(
        &self,
        look_ups: &[LookUp],
        texts: &Texts<'_>,
        end: Instant,
        found: &mut Vec<Found>,
    ) {
        let begun: Vec<_> =
            look_ups.iter().map(|look_up| self.begin(*look_up, false, texts)).collect();
        for flight in begun {
            found.push(match flight {
                Err(found) => found,
                Ok(mut flight) => match timeout_at(end, flight.wait_for(Option::is_some)).await {
                    Ok(Ok(landed)) => landed.unwrap_or(Found::NotNow),
                    Ok(Err(_)) | Err(_) => Found::NotNow,
                },
            });
        }
    }

    /// Asks again what nobody waits for.
    pub(crate) fn refresh(&self, look_ups: &[LookUp], texts: &Texts<'_>) {
        for look_up in look_ups {
            // Whether it can be asked now or not: what is kept holds.
            drop(self.begin(*look_up, true, texts));
        }
    }

    fn begin(
        &self,
        look_up: LookUp,
        is_refresh: bool,
        texts: &Texts<'_>,
    ) -> Result<tokio::sync::watch::Receiver<Option<Found>>, Found> {
        let station = self.stations.get(usize::from(look_up.source)).ok_or(Found::NotNow)?;
        let around = self.around.as_ref().ok_or(Found::NotNow)?;
        station.begin(look_up.key, is_refresh, around, || texts.wanted(look_up.about))
    }

    /// Asks a directory where look-ups run, past all that is kept; with how long it took, in
    /// milliseconds.
    pub(crate) async fn probe(
        &self,
        station: &Arc<Station>,
        wanted: &[Wanted],
    ) -> (Result<bool, Trouble>, u64) {
        let began = Instant::now();
        let (station, wanted) = (Arc::clone(station), wanted.to_vec());
        let asked = self.outside(async move { station.probe(&wanted).await }).await;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        (asked.unwrap_or_else(|| Err(Trouble::Down("it was not asked".into()))), took_ms)
    }

    /// Examines a directory.
    pub(crate) async fn examine(&self, station: &Arc<Station>) -> Vec<Examined> {
        let directory = Arc::clone(station.directory());
        self.outside(async move { directory.examine().await }).await.unwrap_or_default()
    }

    /// Runs something where connections belong.
    async fn outside<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.around.as_ref()?.runtime.spawn(work).await.ok()
    }

    /// The directory of that number.
    pub(crate) fn station(&self, number: u16) -> Option<&Arc<Station>> {
        self.stations.get(usize::from(number))
    }

    /// All directories.
    pub(crate) fn all(&self) -> &[Arc<Station>] {
        &self.stations
    }

    /// How they are.
    pub(crate) fn status(&self, now_ms: u64) -> Vec<Value> {
        self.stations.iter().map(|station| station.status(now_ms)).collect()
    }

    /// Notes how many answers the store keeps, and tells the operator what is new.
    pub(crate) fn look_around(&self, kept: u64) {
        if let Some(around) = &self.around {
            around.room.measure(kept);
        }
        for station in &self.stations {
            station.look_around();
        }
    }
}

/// The texts of a transaction that are looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Texts<'a> {
    pub(crate) recipient: &'a str,
    pub(crate) sasl_user: &'a str,
    pub(crate) sender: &'a str,
    /// The groups of the configuration, by number.
    pub(crate) groups: &'a [Arc<str>],
}

impl<'a> Texts<'a> {
    pub(crate) fn of(facts: &Facts<'a>, groups: &'a [Arc<str>]) -> Self {
        let Facts { recipient, sasl_user, sender, .. } = *facts;
        Self { recipient, sasl_user, sender, groups }
    }

    /// What a directory is asked: twice where the domain has a form in Unicode, since nobody knows
    /// in which one it is kept.
    pub(crate) fn wanted(&self, about: About) -> Vec<Wanted> {
        let (what, text, stem) = match about {
            About::Recipient { stem } => (What::Recipient, self.recipient, Some(stem)),
            About::Domain => (What::Domain, self.recipient, None),
            About::Member { side, group } => {
                let group = self.groups.get(usize::from(group)).map_or("", |group| group);
                let text = match side {
                    Side::Recipient => self.recipient,
                    Side::SaslUser => self.sasl_user,
                    Side::Sender => self.sender,
                };
                (What::Member(group.to_owned()), text, None)
            }
        };
        let (local, domain) = address::split(text);
        let stem = stem.map_or(local.len(), usize::from);
        let local = local.get(..stem).unwrap_or(local);
        let one = |domain: &str| Wanted {
            what: what.clone(),
            address: match what {
                What::Domain => domain.to_owned(),
                What::Recipient | What::Member(_) if domain.is_empty() => local.to_owned(),
                What::Recipient | What::Member(_) => format!("{local}@{domain}"),
            },
            local: local.to_owned(),
            domain: domain.to_owned(),
        };
        let unicode = address::unicode_domain(domain);
        std::iter::once(one(domain)).chain(unicode.as_deref().map(one)).collect()
    }
}
