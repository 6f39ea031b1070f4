//! Redis: one server, a master with sentinels, a cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mpp_config::directory::tls::Security;
use mpp_config::store::{Redis as Settings, RedisServer, Topology};
use mpp_engine::question::{Key, Shelf};
use mpp_hub::store::Store;
use mpp_stores::shared::Options;
use mpp_tests::real::redis::{Cluster, MASTER, Redis, Watched};

use crate::cases::remember;
use crate::history::does_as_the_model_does;
use crate::{Backend, HOUR, SEED, Session, T0, keeps_the_contract};

/// A name space of its own on a server.
pub(crate) struct OnRedis(pub(crate) Settings);

impl OnRedis {
    pub(crate) fn new(topology: Topology, places: &[String]) -> Self {
        static USED: AtomicU32 = AtomicU32::new(0);
        let server = |place: &String| {
            let (host, port) = place.rsplit_once(':').unwrap();
            RedisServer::Network(host.to_owned(), port.parse().unwrap())
        };
        Self(Settings {
            topology,
            servers: places.iter().map(server).collect(),
            user: None,
            password: None,
            sentinel_password: None,
            security: Security::default(),
            database: 0,
            prefix: format!("t{}", USED.fetch_add(1, Ordering::Relaxed)),
        })
    }
}

/// Nothing comes from the node's own copy, and times are those of the test.
pub(crate) fn options() -> Options {
    Options {
        deadline: Duration::from_secs(20),
        copy: None,
        follows_clock: false,
        sweep_every: Duration::ZERO,
        strangers_are_unavailable: false,
        seed: Some(SEED),
    }
}

impl Backend for OnRedis {
    fn open(&self) -> Arc<dyn Store> {
        mpp_stores::redis::open(&self.0, &options()).unwrap()
    }
}

#[test]
fn one_server_keeps_the_contract() {
    let server = Redis::start(&[]);
    let backend = || OnRedis::new(Topology::Single, &[server.place()]);
    keeps_the_contract("redis", || Box::new(backend()));
    does_as_the_model_does("redis", 40, || Box::new(backend()));
}

#[test]
fn behind_sentinels_the_contract_is_kept() {
    let servers = Watched::start();
    let backend = || OnRedis::new(Topology::Sentinel(MASTER.into()), &servers.places());
    keeps_the_contract("redis with sentinels", || Box::new(backend()));
    does_as_the_model_does("redis with sentinels", 5, || Box::new(backend()));
}

#[test]
fn in_a_cluster_the_contract_is_kept() {
    let cluster = Cluster::start(false);
    let backend = || OnRedis::new(Topology::Cluster, &cluster.places());
    keeps_the_contract("redis cluster", || Box::new(backend()));
    does_as_the_model_does("redis cluster", 15, || Box::new(backend()));
}

#[test]
fn a_table_that_is_full_gets_others_behind_it_and_nothing_is_lost() {
    const MANY: u64 = 4_000;
    let server = Redis::start(&[]);
    let backend = OnRedis::new(Topology::Single, &[server.place()]);
    let (one, other) = (backend.open(), backend.open());
    // Their first bits are the same, so they belong into one table.
    let key = |number: u64| Key(7 << 50 | number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 14);
    let session = |store: &Arc<dyn Store>, now_ms| Session {
        name: "redis",
        backend: &backend,
        store: Arc::clone(store),
        now_ms,
    };
    let (one, mut other) = (session(&one, T0), session(&other, T0));
    for number in 0..MANY {
        let it = if number % 2 == 0 { &one } else { &other };
        assert_eq!(it.since(Shelf::Greylisted, key(number)), None, "{number}");
        it.perform(remember(key(number), HOUR, false));
        if number % 100 == 0 {
            it.store.settle().unwrap();
        }
    }
    one.store.settle().unwrap();
    assert_eq!(other.counts().shelves[0], MANY);
    for number in 0..MANY {
        let it = if number % 3 == 0 { &one } else { &other };
        assert!(it.since(Shelf::Greylisted, key(number)).is_some(), "{number}");
    }
    // All of them are small: no table has grown out of the form that takes the least room.
    let encoding = server.ask(&["EVAL", SMALL, "0"]);
    assert_eq!(encoding.trim(), "0", "tables that are not listpacks");
    other.now_ms += 2 * HOUR;
    assert_eq!(other.expire(), MANY);
    assert_eq!(other.counts().shelves[0], 0);
    let left = server.ask(&["EVAL", "return #redis.call('KEYS', '*{07}0*')", "0"]);
    assert_eq!(left.trim(), "0", "empty tables leave");
}

/// How many hashes are not in the form that takes the least room.
const SMALL: &str = "local n = 0 for _, key in ipairs(redis.call('KEYS', '*{07}0*')) do \
    if redis.call('OBJECT', 'ENCODING', key) ~= 'listpack' then n = n + 1 end end return n";
