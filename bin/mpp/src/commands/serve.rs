//! `mpp serve`: the daemon.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use clap::Args;
use mpp_admin::Control as _;
use mpp_config::proxy::Proxy;
use mpp_config::{Configuration, Server};
use mpp_doors::listen::{Connection, Listener, Place, Places, bind_unix};
use mpp_doors::policy::Door;
use mpp_doors::proxy::{Gate, Pool};
use mpp_doors::{milter, proxy};
use mpp_engine::facts::Stage;
use mpp_hub::Hub;
use mpp_hub::clock::RealClock;
use mpp_hub::quarantine::Quarantine as Hold;
use mpp_hub::spool::Spool;
use mpp_hub::store::{Health, Store};
use mpp_pages::Pages;
use mpp_quarantine::{Quarantine, Together};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Failure, postfix};
use crate::digests::Digests;
use crate::keeper::{Front, Keeper};
use crate::load::{self, Loaded};
use crate::place::Config;
use crate::reload::Reloader;
use crate::{place, private, wiring};

/// How often expiry, transactions, list files and the log are looked at while nothing happens; and while
/// there is much that has run out.
const TICK: Duration = Duration::from_millis(1_200);
const TICK_BUSY: Duration = Duration::from_millis(100);
/// Tasks that a worker runs before it asks the kernel what else there is: each connection of a round
/// is two.
const EVENT_INTERVAL: u32 = 512;
/// How often statistics are written.
const SLOW: Duration = Duration::from_secs(5);
/// How often nodes look what others hold, and ask of them.
const BOARD_EVERY: Duration = Duration::from_secs(1);
/// So long messages that are under way in a proxy may take to be finished when the daemon stops.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// When the store has shrunk by so much, and by a quarter, memory is given back.
const GIVE_BACK_BYTES: u64 = 4 << 20;

/// Run the daemon.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mpp serve\n  mpp serve --config /etc/mpp/mpp.toml\n  \
    mpp serve --state /tmp/mpp --listen 127.0.0.1:10040 --listen unix:/tmp/mpp/policy")]
pub(crate) struct Serve {
    #[command(flatten)]
    config: Config,
    /// Where store and log are, instead of `server.state`
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where the policy service answers, instead of `listen.policy`; may be given several times
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH")]
    listen: Vec<String>,
    /// Start with what can be read of a damaged store, and set the damaged files aside
    #[arg(long)]
    set_aside_damaged: bool,
}

impl Serve {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        // Every connection is a file descriptor; the usual soft limit is 1024.
        if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
            mpp_hub::say(&format!("cannot raise the limit of open files: {error}"));
        }
        let config = self.config.path()?;
        let config = config.as_deref();
        let first = load::load(config, 0).map_err(Failure)?;
        let state = self
            .state
            .clone()
            .unwrap_or_else(|| place::state_directory(&first.configuration.server.state, config));
        let store = wiring::store(&first.configuration.store, &state, self.set_aside_damaged)?;
        let loaded = load::load(config, store.seed()).map_err(Failure)?;
        if !has_sockets(&loaded.configuration, &state) {
            private::close(&state);
        }
        let wanted =
            if self.listen.is_empty() { &loaded.configuration.listen.policy } else { &self.listen };
        let quarantine = open_quarantine(&loaded.configuration, &state)?;
        let doors = Doors {
            quarantine,
            policy: bind(wanted)?,
            pages: bind(&loaded.configuration.listen.pages)?,
            milter: bind(&loaded.configuration.listen.milter)?,
            stages: loaded.configuration.listen.milter_stages.clone().into(),
            proxies: bind_proxies(&loaded.configuration.proxies)?,
            spool: Spool::new(&state.join("spool"), &loaded.configuration.spool),
        };
        let admin = place::admin_socket(&loaded.configuration.listen.admin, &state);
        let node = Node::new(loaded, &state, config, (store, &doors))?;
        node.run(doors, &admin)
    }
}

/// Whether a mail server finds a socket in the state directory, and so has to enter it.
fn has_sockets(configuration: &Configuration, state: &Path) -> bool {
    let listen = &configuration.listen;
    let doors = [&listen.policy, &listen.milter, &listen.pages].into_iter().flatten();
    let proxies = configuration.proxies.iter().flat_map(|proxy| &proxy.listen);
    let mut sockets = doors.chain(proxies).filter_map(|it| it.strip_prefix("unix:"));
    sockets.any(|path| Path::new(path).starts_with(state))
}

fn bind(addresses: &[String]) -> Result<Vec<Listener>, Failure> {
    let bound = addresses.iter().map(|address| Listener::bind(address));
    let bound = bound.collect::<io::Result<Vec<_>>>();
    bound.map_err(|error| {
        let help = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "\nhelp: another program has it: another mpp, or on port 25 a Postfix, whose line `smtp \
                 inet` in master.cf has to go then; `ss -ltnp` names it"
            }
            io::ErrorKind::PermissionDenied => {
                "\nhelp: a port below 1024 wants AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit of \
                 systemd"
            }
            _ => "",
        };
        Failure(format!("error: cannot listen on {error}{help}"))
    })
}

fn bind_proxies(proxies: &[Arc<Proxy>]) -> Result<Vec<(Listener, Arc<Gate>)>, Failure> {
    let mut bound = Vec::new();
    for proxy in proxies {
        let gate = Gate::new(proxy).map_err(|text| Failure(format!("error: {text}")))?;
        let gate = Arc::new(gate);
        bound.extend(bind(&proxy.listen)?.into_iter().map(|it| (it, Arc::clone(&gate))));
    }
    Ok(bound)
}

/// Where proxies hold messages; without a proxy nothing sees any.
fn open_quarantine(
    configuration: &Configuration,
    state: &Path,
) -> Result<Option<Arc<Quarantine>>, Failure> {
    let scans = !configuration.listen.milter.is_empty() && configuration.policies.scan();
    if configuration.proxies.is_empty() && !scans {
        return Ok(None);
    }
    let settings = &configuration.quarantine;
    let folder = match &*settings.folder {
        "" => state.join("quarantine"),
        folder => folder.into(),
    };
    let together = match wiring::board(&configuration.store) {
        Some(board) => {
            Some(Together { board, node: node_name(configuration)?, every: BOARD_EVERY })
        }
        None => None,
    };
    let opened = Quarantine::open(&folder, settings, Arc::new(RealClock), together);
    opened.map(Some).map_err(|text| Failure(format!("error: {text}")))
}

/// What this node is called among others.
fn node_name(configuration: &Configuration) -> Result<String, Failure> {
    if !configuration.server.name.is_empty() {
        return Ok(configuration.server.name.clone());
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if Server::is_name(name) {
        return Ok(name.to_owned());
    }
    Err(Failure(format!(
        "error: nodes that share a store are told apart by their names, and this machine's is \
         `{name}`: set `server.name`"
    )))
}

/// The sockets of all doors.
struct Doors {
    proxies: Vec<(Listener, Arc<Gate>)>,
    quarantine: Option<Arc<Quarantine>>,
    /// Where their messages wait.
    spool: Arc<Spool>,
    policy: Vec<Listener>,
    pages: Vec<Listener>,
    milter: Vec<Listener>,
    /// The stages at which the milter asks.
    stages: Arc<[Stage]>,
}

impl Doors {
    /// The proxies, each once.
    fn gates(&self) -> Vec<Arc<Gate>> {
        let mut gates: Vec<Arc<Gate>> = Vec::new();
        for (_, gate) in &self.proxies {
            if !gates.iter().any(|known| Arc::ptr_eq(known, gate)) {
                gates.push(Arc::clone(gate));
            }
        }
        gates
    }

    /// Other handles of the same sockets.
    fn copy(&self) -> io::Result<Self> {
        let copy = |list: &[Listener]| -> io::Result<Vec<Listener>> {
            list.iter().map(Listener::copy).collect()
        };
        let (policy, milter) = (copy(&self.policy)?, copy(&self.milter)?);
        let proxies = self.proxies.iter().map(|(it, gate)| Ok((it.copy()?, Arc::clone(gate))));
        let proxies = proxies.collect::<io::Result<Vec<_>>>()?;
        let (stages, spool) = (Arc::clone(&self.stages), Arc::clone(&self.spool));
        let quarantine = self.quarantine.clone();
        // The pages are served by one thread.
        let pages = Vec::new();
        Ok(Self { proxies, quarantine, spool, policy, pages, milter, stages })
    }
}

/// A running node.
struct Node {
    hub: Arc<Hub>,
    reloader: Arc<Reloader>,
    state: PathBuf,
    workers: usize,
    places: Arc<Places>,
    /// Those of the proxies, whose connections are waited for at the end.
    proxy_places: Arc<Places>,
    /// Who answers for the quarantine.
    keeper: Option<Arc<Keeper>>,
    stopping: watch::Sender<bool>,
}

impl Node {
    fn new(
        loaded: Loaded,
        state: &Path,
        config: Option<&Path>,
        (store, doors): (Arc<dyn Store>, &Doors),
    ) -> Result<Self, Failure> {
        let workers = loaded.configuration.server.workers;
        let most = loaded.configuration.listen.connections_max;
        let (places, proxy_places) = (Places::new(most), Places::new(most));
        let lists = loaded.lists.clone();
        if !loaded.warnings.is_empty() {
            mpp_hub::warn(&loaded.warnings);
        }
        if loaded.configuration.holds_for_good() {
            mpp_hub::say(&format!("warning: {}", super::check::HOLDS_FOR_GOOD));
        }
        let hub = Arc::new(wiring::hub(state, store, Arc::new(RealClock), loaded)?);
        let addresses: Vec<String> = doors.policy.iter().map(Listener::address).collect();
        for address in &addresses {
            mpp_hub::say(&format!("policy service on {address}"));
        }
        let milters: Vec<String> = doors.milter.iter().map(Listener::address).collect();
        for address in &milters {
            mpp_hub::say(&format!("milter on {address}"));
        }
        let proxies: Vec<String> = doors.proxies.iter().map(|(it, _)| it.address()).collect();
        for address in &proxies {
            mpp_hub::say(&format!("proxy on {address}"));
        }
        let pages: Vec<String> = doors.pages.iter().map(Listener::address).collect();
        for address in &pages {
            mpp_hub::say(&format!("pages on {address}"));
        }
        mpp_hub::say(&format!("state in {}", state.display()));
        // Those who come by another door have `mpp postfix --mode`.
        if let Some(first) = addresses.first().filter(|_| milters.is_empty() && proxies.is_empty())
        {
            mpp_hub::say(&format!("for main.cf:\n{}", postfix::short_lines(first)));
        }
        let keeper = doors.quarantine.as_ref().map(|quarantine| {
            let (hub, spool) = (Arc::clone(&hub), Arc::clone(&doors.spool));
            Arc::new(Keeper::new(hub, Arc::clone(quarantine), (doors.gates(), spool)))
        });
        let reloader = Reloader::new(
            Arc::clone(&hub),
            config,
            lists,
            ([addresses, milters, proxies], doors.gates(), state.to_owned()),
            keeper.clone(),
        );
        Ok(Self {
            hub,
            reloader: Arc::new(reloader),
            state: state.to_owned(),
            workers,
            places,
            proxy_places,
            keeper,
            stopping: watch::Sender::new(false),
        })
    }

    fn run(&self, doors: Doors, admin: &Path) -> Result<(), Failure> {
        let Listener::Unix(admin_listener, admin_file) =
            bind_unix(admin, 0o600).map_err(|error| {
                Failure(format!("error: admin socket {}: {error}", admin.display()))
            })?
        else {
            return Err(Failure("error: the admin socket is a unix socket".into()));
        };
        for number in 0..self.workers {
            let doors = doors.copy()?;
            let (hub, places) = (Arc::clone(&self.hub), Arc::clone(&self.places));
            let (proxy_places, stopping) =
                (Arc::clone(&self.proxy_places), self.stopping.subscribe());
            std::thread::Builder::new()
                .name(format!("doors-{number}"))
                .spawn(move || work(doors, &hub, [&places, &proxy_places], &stopping))?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (working, ended) = std::sync::mpsc::channel();
        let work = async {
            self.serve_pages(&doors)?;
            if let Some(keeper) = &self.keeper {
                let log = self.state.join(wiring::LOG);
                tokio::spawn(Digests::new(Arc::clone(keeper), log).keep());
                tokio::spawn(Arc::clone(keeper).serve_others());
            }
            self.watch(admin_listener).await?;
            self.finish_messages().await;
            if let Some(keeper) = &self.keeper {
                keeper.stop().await;
            }
            Ok::<(), Failure>(())
        };
        std::thread::scope(|scope| {
            let name = std::thread::Builder::new().name("housekeeping".into());
            let handle = runtime.handle().clone();
            name.spawn_scoped(scope, move || self.keep_house(&ended, &handle))?;
            let done = runtime.block_on(work);
            drop(working);
            done
        })?;
        wiring::write_statistics(&self.state, &self.hub);
        if let Err(error) = self.hub.store().settle() {
            mpp_hub::fail(&format!("the store could not be written: {error}"));
        }
        drop((doors, admin_file));
        mpp_hub::say("stopped");
        Ok(())
    }

    /// Answers on the pages of the quarantine, if there are any.
    fn serve_pages(&self, doors: &Doors) -> io::Result<()> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        for listener in &doors.pages {
            let pages: Arc<dyn Pages> = Arc::new(Front(Arc::clone(keeper)));
            take(listener.copy()?, &self.places, move |io, _| {
                mpp_pages::serve(io, Arc::clone(&pages))
            });
        }
        Ok(())
    }

    /// Begins no more messages in proxies, and waits a while for those that are under way.
    async fn finish_messages(&self) {
        self.stopping.send_replace(true);
        let end = tokio::time::Instant::now() + STOP_WAIT;
        while self.proxy_places.taken() > 0 && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Admin, signals and housekeeping, until a signal says stop.
    async fn watch(&self, admin: StdUnixListener) -> Result<(), Failure> {
        let (mut hang_up, mut stop, mut interrupt) = (
            signal(SignalKind::hangup())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        let control: Arc<dyn mpp_admin::Control> = self.reloader.clone();
        tokio::spawn(mpp_admin::serve(admin, Arc::clone(&self.hub), control));
        loop {
            tokio::select! {
                _ = stop.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                // What is wrong was said to the log already.
                _ = hang_up.recv() => drop(self.reloader.reload(false)),
            }
        }
    }

    /// Housekeeping, until the other end of the channel is gone. A thread of its own that sleeps wakes up
    /// once for each look; a timer of the runtime twice.
    fn keep_house(&self, ended: &Receiver<()>, runtime: &Handle) {
        let _entered = runtime.enter();
        let mut pause = TICK;
        let (mut files_at, mut slow_at) = (Instant::now() + TICK, Instant::now() + SLOW);
        let mut seen = Seen { was_good: true, most_bytes: 0 };
        while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            pause = if self.hub.tick() { TICK_BUSY } else { TICK };
            let now = Instant::now();
            if now >= files_at {
                files_at = now + TICK;
                self.look_at_files();
            }
            if now >= slow_at {
                slow_at = now + SLOW;
                self.look_around(&mut seen);
            }
        }
    }

    /// Looks whether somebody has changed a list, or removed the log.
    fn look_at_files(&self) {
        if let Some(log) = self.hub.log() {
            log.look_around();
        }
        if self.reloader.lists_changed() {
            // What is wrong was said to the log already.
            drop(self.reloader.reload(false));
        }
    }

    /// The slow part of housekeeping.
    fn look_around(&self, seen: &mut Seen) {
        wiring::write_statistics(&self.state, &self.hub);
        // Counting takes the store's lock: once serves all that want to know.
        let counts = self.hub.store().counts();
        self.hub.look_around(&counts);
        let health = self.hub.store().health();
        let is_good = !matches!(health, Health::MemoryOnly(_));
        match health {
            Health::MemoryOnly(why) if seen.was_good => {
                mpp_hub::fail(&format!("the store goes on from memory only: {why}"));
            }
            Health::Good if !seen.was_good => mpp_hub::say("the store is durable again"),
            // A shared store says by itself when it goes and comes.
            Health::Good | Health::MemoryOnly(_) | Health::Alone(_) => {}
        }
        seen.was_good = is_good;
        let bytes = counts.memory_bytes;
        seen.most_bytes = seen.most_bytes.max(bytes);
        if seen.most_bytes - bytes > GIVE_BACK_BYTES.max(seen.most_bytes / 4) {
            mpp_heap::give_back();
            seen.most_bytes = bytes;
        }
    }
}

/// What housekeeping has seen so far.
struct Seen {
    was_good: bool,
    /// The most that the store took since memory was given back.
    most_bytes: u64,
}

/// One worker thread: it takes connections and answers on them.
fn work(
    doors: Doors,
    hub: &Arc<Hub>,
    [places, proxy_places]: [&Arc<Places>; 2],
    stopping: &watch::Receiver<bool>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .event_interval(EVENT_INTERVAL)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return mpp_hub::say(&format!("a worker cannot start: {error}")),
    };
    runtime.block_on(async {
        for listener in doors.policy {
            let door = Door { hub: Arc::clone(hub), virtual_clock: None };
            take(listener, places, move |io, peer| door.clone().serve(io, address(peer)));
        }
        let quarantine = doors.quarantine.clone().map(|it| it as Arc<dyn Hold>);
        for listener in doors.milter {
            let (hub, stages) = (Arc::clone(hub), Arc::clone(&doors.stages));
            let (spool, quarantine) = (Arc::clone(&doors.spool), quarantine.clone());
            let door = milter::Door { hub, stages, spool, quarantine };
            take(listener, places, move |io, peer| door.clone().serve(io, address(peer)));
        }
        for (listener, gate) in doors.proxies {
            let pool = Arc::new(Pool::default());
            tokio::spawn(Arc::clone(&pool).sweep(Arc::clone(&gate)));
            let (hub, stopping) = (Arc::clone(hub), stopping.clone());
            let spool = Arc::clone(&doors.spool);
            let quarantine = quarantine.clone();
            let door = proxy::Door { hub, gate, pool, spool, quarantine, stopping };
            take(listener, proxy_places, move |io, peer| door.clone().serve(io, peer));
        }
        std::future::pending::<()>().await;
    });
}

fn address(peer: Option<SocketAddr>) -> Option<IpAddr> {
    peer.map(|peer| peer.ip())
}

/// Takes connections and serves each, as long as there are places.
fn take<F: Future<Output = ()> + Send + 'static>(
    listener: Listener,
    places: &Arc<Places>,
    serve: impl Fn(Connection, Option<SocketAddr>) -> F + Send + 'static,
) {
    let accept = listener.accept(Arc::clone(places), move |io, peer, place: Place| {
        let served = serve(io, peer);
        async move {
            served.await;
            drop(place);
        }
    });
    tokio::spawn(accept);
}
