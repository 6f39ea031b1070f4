//! Redis: one server, a master with sentinels, a cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mpp_config::directory::tls::Security;
use mpp_config::store::{Redis as Settings, RedisServer, Topology};
use mpp_hub::store::Store;
use mpp_stores::shared::Options;
use mpp_tests::real::redis::{Cluster, MASTER, Redis, Watched};
use proptest::test_runner::{Config, TestRunner};

use crate::history::{play, steps};
use crate::{Backend, SEED, Session, T0, keeps_the_contract};

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
        seed: Some(SEED),
    }
}

impl Backend for OnRedis {
    fn open(&self) -> Arc<dyn Store> {
        mpp_stores::redis::open(&self.0, &options()).unwrap()
    }
}

fn does_as_the_model_does(name: &str, cases: u32, backend: impl Fn() -> OnRedis) {
    let mut runner = TestRunner::new(Config { cases, ..Config::default() });
    let done = runner.run(&steps(), |steps| {
        let backend = backend();
        let store = backend.open();
        play(&mut Session { name, backend: &backend, store, now_ms: T0 }, &steps)
    });
    done.unwrap_or_else(|error| panic!("{name}: {error}"));
}

#[test]
fn one_server_keeps_the_contract() {
    let server = Redis::start(&[]);
    let backend = || OnRedis::new(Topology::Single, &[server.place()]);
    keeps_the_contract("redis", || Box::new(backend()));
    does_as_the_model_does("redis", 40, backend);
}

#[test]
fn behind_sentinels_the_contract_is_kept() {
    let servers = Watched::start();
    let backend = || OnRedis::new(Topology::Sentinel(MASTER.into()), &servers.places());
    keeps_the_contract("redis with sentinels", || Box::new(backend()));
    does_as_the_model_does("redis with sentinels", 5, backend);
}

#[test]
fn in_a_cluster_the_contract_is_kept() {
    let cluster = Cluster::start(false);
    let backend = || OnRedis::new(Topology::Cluster, &cluster.places());
    keeps_the_contract("redis cluster", || Box::new(backend()));
    does_as_the_model_does("redis cluster", 15, backend);
}
