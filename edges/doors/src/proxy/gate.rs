//! What all connections of a proxy share: its settings, which may change under way, and what is
//! counted.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use mpp_config::proxy::{Limits, Proxy, Starttls};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::names::Names;
use super::offers::Offers;

/// A server that did not answer is tried again after so long; others are tried first.
const DOWN: Duration = Duration::from_secs(10);
/// So long one may be silent when places run short, in milliseconds.
const STRESSED_MS: u64 = 10_000;
/// Clients that have waited for their greeting are remembered for so long.
const GREETED: Duration = Duration::from_hours(24);
/// So many of them; each is 16 bytes.
const GREETED_MAX: usize = 1 << 14;

/// A proxy: one for all threads and listeners.
#[derive(Debug)]
pub struct Gate {
    setup: ArcSwap<Setup>,
    /// What is counted.
    pub tally: Tally,
    clients: Mutex<HashMap<IpAddr, usize>>,
    networks: Mutex<HashMap<IpNet, usize>>,
    /// Connections to next hops that messages have: all of a hop, and those of a client or network.
    hops: Mutex<HashMap<(usize, Option<IpNet>), usize>>,
    /// Servers that do not answer, until when.
    down: Mutex<HashMap<String, Instant>>,
    /// What servers offered when they were greeted last.
    offers: Mutex<HashMap<String, (Offers, Instant)>>,
    /// Clients that waited for their greeting: a place for each hash, and when.
    greeted: Mutex<Vec<(u64, Option<Instant>)>>,
}

/// The settings that hold, ready to be worked with.
pub(crate) struct Setup {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) acceptor: Option<TlsAcceptor>,
    /// How each hop is encrypted.
    pub(crate) connectors: Vec<Option<TlsConnector>>,
    pub(crate) names: Option<Names>,
    /// Connections that were opened under other settings are not used again.
    pub(crate) generation: u64,
}

impl Gate {
    /// A proxy with these settings.
    ///
    /// # Errors
    /// A certificate, key or authority cannot be used; the text is for people.
    pub fn new(proxy: &Arc<Proxy>) -> Result<Self, String> {
        Ok(Self {
            setup: ArcSwap::from_pointee(Setup::new(proxy, 1)?),
            tally: Tally::default(),
            clients: Mutex::default(),
            networks: Mutex::default(),
            hops: Mutex::default(),
            down: Mutex::default(),
            offers: Mutex::default(),
            greeted: Mutex::default(),
        })
    }

    /// What other settings would be, for connections that begin from now on; those that are open go
    /// on as they began. Nothing has changed until [`Gate::take`].
    ///
    /// # Errors
    /// As [`Gate::new`].
    pub fn prepare(&self, proxy: &Arc<Proxy>) -> Result<Change, String> {
        let generation = self.setup.load().generation + 1;
        Ok(Change(Arc::new(Setup::new(proxy, generation)?)))
    }

    /// Lets prepared settings hold.
    pub fn take(&self, change: Change) {
        self.setup.store(change.0);
    }

    /// The settings that hold.
    pub fn proxy(&self) -> Arc<Proxy> {
        Arc::clone(&self.setup.load().proxy)
    }

    pub(crate) fn setup(&self) -> Arc<Setup> {
        self.setup.load_full()
    }

    /// A place for a connection of a client, within the limits of client and network.
    pub(crate) fn enter(
        self: &Arc<Self>,
        (client, network): (IpAddr, IpNet),
        (client_most, network_most): (usize, usize),
    ) -> Option<Visit> {
        if !add(&self.clients, client, client_most) {
            self.tally.client_limit.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        if !add(&self.networks, network, network_most) {
            take(&self.clients, client);
            self.tally.network_limit.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Visit { gate: Arc::clone(self), client, network })
    }

    /// A connection to a next hop for a message of a client, within the limit of the hop and the client's
    /// share of it: half, and half for its network. Nothing at once if there is none.
    pub(crate) fn enter_hop(
        self: &Arc<Self>,
        hop: usize,
        client: Option<(IpAddr, IpNet)>,
        most: usize,
    ) -> Option<HopPlace> {
        let share = (most / 2).max(1);
        let shares =
            client.into_iter().flat_map(|(client, network)| [IpNet::from(client), network]);
        let mut wanted: Vec<((usize, Option<IpNet>), usize)> =
            shares.map(|who| ((hop, Some(who)), share)).collect();
        // An IPv6 client may be its network.
        wanted.dedup();
        wanted.push(((hop, None), most));
        let mut place = HopPlace { gate: Arc::clone(self), taken: Vec::with_capacity(3) };
        for (key, most) in wanted {
            if !add(&self.hops, key, most) {
                return None;
            }
            place.taken.push(key);
        }
        Some(place)
    }

    /// Whether places run short, at the door or at a hop: then nobody may sit on one for long (Postfix:
    /// stress-adaptive).
    pub(crate) fn is_stressed(&self, limits: &Limits) -> bool {
        let is_most = |open: usize, most: usize| open > most.saturating_mul(4) / 5;
        let open = usize::try_from(self.tally.open()).unwrap_or(usize::MAX);
        let is_full = || {
            let hops = lock(&self.hops);
            let mut whole = hops.iter().filter(|((_, who), _)| who.is_none());
            whole.any(|(_, count)| is_most(*count, limits.hop_connections))
        };
        is_most(open, limits.connections) || is_full()
    }

    /// Whether a client waited for its greeting not long ago.
    pub(crate) fn has_waited(&self, client: u64) -> bool {
        let greeted = lock(&self.greeted);
        let place = greeted.get(place_of(client));
        place.is_some_and(|(known, when)| {
            *known == client && when.is_some_and(|when| when.elapsed() < GREETED)
        })
    }

    /// Notes that a client has waited.
    pub(crate) fn waited(&self, client: u64) {
        let mut greeted = lock(&self.greeted);
        if greeted.is_empty() {
            greeted.resize(GREETED_MAX, (0, None));
        }
        if let Some(place) = greeted.get_mut(place_of(client)) {
            *place = (client, Some(Instant::now()));
        }
    }

    /// Whether a server did not answer a moment ago.
    pub(crate) fn is_down(&self, server: &str) -> bool {
        lock(&self.down).get(server).is_some_and(|until| *until > Instant::now())
    }

    /// Notes whether a server answers.
    pub(crate) fn answers(&self, server: &str, does: bool) {
        let mut down = lock(&self.down);
        if does {
            down.remove(server);
        } else {
            down.insert(server.to_owned(), Instant::now() + DOWN);
        }
    }

    /// What a server offered, and how long ago.
    pub(crate) fn offers_of(&self, server: &str) -> Option<(Offers, Duration)> {
        let offers = lock(&self.offers);
        offers.get(server).map(|(offers, when)| (offers.clone(), when.elapsed()))
    }

    /// Notes what a server offers.
    pub(crate) fn offered(&self, server: &str, offers: &Offers) {
        lock(&self.offers).insert(server.to_owned(), (offers.clone(), Instant::now()));
    }
}

/// Settings that are ready to hold.
#[derive(Debug)]
pub struct Change(Arc<Setup>);

fn place_of(client: u64) -> usize {
    usize::try_from(client).unwrap_or(0) & (GREETED_MAX - 1)
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add<K: Hash + Eq>(counts: &Mutex<HashMap<K, usize>>, key: K, most: usize) -> bool {
    let mut counts = lock(counts);
    let count = counts.entry(key).or_default();
    if *count >= most {
        return false;
    }
    *count += 1;
    true
}

fn take<K: Hash + Eq>(counts: &Mutex<HashMap<K, usize>>, key: K) {
    let mut counts = lock(counts);
    if let std::collections::hash_map::Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

/// The connection of a client, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Visit {
    gate: Arc<Gate>,
    client: IpAddr,
    network: IpNet,
}

impl Drop for Visit {
    fn drop(&mut self) {
        take(&self.gate.clients, self.client);
        take(&self.gate.networks, self.network);
    }
}

/// A connection to a next hop, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct HopPlace {
    gate: Arc<Gate>,
    taken: Vec<(usize, Option<IpNet>)>,
}

impl Drop for HopPlace {
    fn drop(&mut self) {
        for key in self.taken.drain(..) {
            take(&self.gate.hops, key);
        }
    }
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

impl Setup {
    fn new(proxy: &Arc<Proxy>, generation: u64) -> Result<Self, String> {
        let named = |text: String| format!("proxy {}: {text}", proxy.name);
        let acceptor = proxy.starttls.as_ref().map(acceptor).transpose().map_err(named)?;
        let connectors = proxy.hops.iter().map(|hop| mpp_hub::tls::connector(&hop.security));
        let connectors = connectors.collect::<Result<Vec<_>, _>>().map_err(named)?;
        let names =
            proxy.resolve.then(|| Names::new(&proxy.resolvers)).transpose().map_err(named)?;
        Ok(Self {
            proxy: Arc::clone(proxy),
            acceptor,
            connectors: connectors.into_iter().map(|it| it.map(TlsConnector::from)).collect(),
            names,
            generation,
        })
    }

    /// How long a command may take to come.
    pub(crate) fn command_time(&self, gate: &Gate) -> Duration {
        self.patience(self.proxy.limits.command_ms, gate)
    }

    /// How long a client may say nothing within a text.
    pub(crate) fn text_time(&self, gate: &Gate) -> Duration {
        self.patience(self.proxy.limits.text_ms, gate)
    }

    fn patience(&self, ms: u64, gate: &Gate) -> Duration {
        let is_stressed = gate.is_stressed(&self.proxy.limits);
        Duration::from_millis(if is_stressed { ms.min(STRESSED_MS) } else { ms })
    }
}

fn acceptor(settings: &Starttls) -> Result<TlsAcceptor, String> {
    let certificates = CertificateDer::pem_slice_iter(settings.certificate.as_bytes());
    let certificates = certificates.collect::<Result<Vec<_>, _>>();
    let certificates =
        certificates.map_err(|error| format!("`certificate` cannot be read: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(settings.key.reveal().as_bytes());
    let key = key.map_err(|error| format!("`key` cannot be read: {error}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = builder.with_no_client_auth().with_single_cert(certificates, key);
    let config = config.map_err(|error| format!("`certificate` and `key` do not work: {error}"))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What is counted of a proxy since the start.
#[derive(Debug, Default)]
pub struct Tally {
    began: AtomicU64,
    ended: AtomicU64,
    most: AtomicU64,
    /// Connections that were over the limit of their client.
    pub client_limit: AtomicU64,
    /// Connections that were over the limit of their network.
    pub network_limit: AtomicU64,
    /// Connections that were turned away before the greeting, for whatever reason.
    pub turned_away: AtomicU64,
    /// Connections that ended because a command, a message or all of it took too long.
    pub too_slow: AtomicU64,
    /// Connections that ended because of too many errors or commands.
    pub too_wrong: AtomicU64,
    /// Messages that a next hop has taken.
    pub passed_on: AtomicU64,
    /// Messages that were refused at their end.
    pub refused: AtomicU64,
    /// Messages and recipients that a next hop did not answer.
    pub unanswered: AtomicU64,
}

impl Tally {
    pub(crate) fn began(&self) {
        let began = self.began.fetch_add(1, Ordering::Relaxed) + 1;
        let open = began.saturating_sub(self.ended.load(Ordering::Relaxed));
        self.most.fetch_max(open, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn more(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that are open.
    pub fn open(&self) -> u64 {
        self.began.load(Ordering::Relaxed).saturating_sub(self.ended.load(Ordering::Relaxed))
    }

    /// All numbers with their names.
    pub fn numbers(&self) -> Vec<(&'static str, u64)> {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        vec![
            ("connections", of(&self.began)),
            ("open", self.open()),
            ("most_open", of(&self.most)),
            ("turned_away", of(&self.turned_away)),
            ("over_client_limit", of(&self.client_limit)),
            ("over_network_limit", of(&self.network_limit)),
            ("too_slow", of(&self.too_slow)),
            ("too_wrong", of(&self.too_wrong)),
            ("passed_on", of(&self.passed_on)),
            ("refused", of(&self.refused)),
            ("unanswered", of(&self.unanswered)),
        ]
    }
}
