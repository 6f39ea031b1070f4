//! MariaDB and PostgreSQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mpp_config::directory::sql::server::{Engine, Reach, Server};
use mpp_config::directory::tls::Security;
use mpp_config::store::Sql as Settings;
use mpp_engine::question::{Answer, Question};
use mpp_hub::store::{Health, Store};
use mpp_stores::shared::Options;
use mpp_tests::real::mariadb::{self, MariaDb};
use mpp_tests::real::postgres::{self, Postgres};
use mpp_tests::real::until;

use crate::cases::{key_of, remember};
use crate::history::does_as_the_model_does;
use crate::nodes::{answers_know_what_was_done_before, ask, blocks_spread, sums_are_exact};
use crate::redis::options;
use crate::{Backend, DAY, HOUR, T0, keeps_the_contract};

/// A server of either kind.
pub(crate) trait Database {
    fn settings(&self) -> Settings;
    fn run(&self, settings: &Settings, text: &str) -> String;
    fn kill(&mut self);
    fn launch(&mut self);
    fn freeze(&self);
    fn thaw(&self);
    fn set_read_only(&self, is_read_only: bool);
}

fn fresh() -> u32 {
    static USED: AtomicU32 = AtomicU32::new(0);
    USED.fetch_add(1, Ordering::Relaxed)
}

fn settings(engine: Engine, host: &str, port: u16, user: &str, database: &str) -> Settings {
    let reach = Reach::Network { host: host.to_owned(), port };
    let (user, database) = (user.to_owned(), database.to_owned());
    Settings {
        servers: vec![Server { engine, reach, user, database }],
        password: None,
        security: Security::default(),
        prefix: format!("t{}", fresh()),
    }
}

impl Database for MariaDb {
    /// A database of its own: to tell sizes, the server opens every table of one.
    fn settings(&self) -> Settings {
        let settings =
            settings(Engine::MySql, self.address(), mariadb::PORT, "mpp", &format!("d{}", fresh()));
        let database = &settings.servers[0].database;
        self.run(&format!(
            "CREATE USER IF NOT EXISTS mpp@'%'; CREATE DATABASE {database}; \
             GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP ON {database}.* TO mpp@'%'"
        ));
        settings
    }

    fn run(&self, settings: &Settings, text: &str) -> String {
        Self::run(self, &format!("USE {}; {text}", settings.servers[0].database))
    }

    fn kill(&mut self) {
        Self::kill(self);
    }

    fn launch(&mut self) {
        Self::launch(self);
    }

    fn freeze(&self) {
        Self::freeze(self);
    }

    fn thaw(&self) {
        Self::thaw(self);
    }

    fn set_read_only(&self, is_read_only: bool) {
        Self::run(self, &format!("SET GLOBAL read_only = {}", u8::from(is_read_only)));
    }
}

impl Database for Postgres {
    fn settings(&self) -> Settings {
        settings(Engine::Postgres, self.address(), postgres::PORT, "postgres", "postgres")
    }

    fn run(&self, settings: &Settings, text: &str) -> String {
        Self::run(self, &settings.servers[0].database, text)
    }

    fn kill(&mut self) {
        Self::kill(self);
    }

    fn launch(&mut self) {
        Self::launch(self);
    }

    fn freeze(&self) {
        Self::freeze(self);
    }

    fn thaw(&self) {
        Self::thaw(self);
    }

    fn set_read_only(&self, is_read_only: bool) {
        let value = if is_read_only { "on" } else { "off" };
        let text = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
        Self::run(self, "postgres", &text);
        Self::run(self, "postgres", "SELECT pg_reload_conf()");
    }
}

struct OnSql(Settings);

impl Backend for OnSql {
    fn open(&self) -> Arc<dyn Store> {
        mpp_stores::sql::open(&self.0, &options()).unwrap()
    }
}

fn keeps_all_of_it(name: &str, server: &dyn Database) {
    let backend = || OnSql(server.settings());
    keeps_the_contract(name, || Box::new(backend()));
    does_as_the_model_does(name, 15, || Box::new(backend()));
}

#[test]
fn mariadb_keeps_the_contract() {
    keeps_all_of_it("mariadb", &MariaDb::start(&[]));
}

#[test]
fn postgresql_keeps_the_contract() {
    keeps_all_of_it("postgresql", &Postgres::start(&[]));
}

fn nodes_are_one(server: &dyn Database) {
    let backend = OnSql(server.settings());
    answers_know_what_was_done_before(|| backend.open());
    let backend = OnSql(server.settings());
    sums_are_exact(|| backend.open());
    let backend = OnSql(server.settings());
    blocks_spread(|| backend.open());
}

#[test]
fn on_mariadb_nodes_are_one() {
    nodes_are_one(&MariaDb::start(&[]));
}

#[test]
fn on_postgresql_nodes_are_one() {
    nodes_are_one(&Postgres::start(&[]));
}

/// Comes back to the server, and does what it still has to.
fn settle(store: &dyn Store) {
    let began = Instant::now();
    while store.settle().is_err() {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", store.health());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn used(store: &dyn Store) -> u64 {
    let look = Question::Count { key: key_of(1), per_ms: HOUR, amount: 0 };
    let Answer::Counted(used) = ask(store, T0, &[look])[0] else { panic!() };
    used.used
}

fn counts_once(server: &mut dyn Database) {
    let backend = OnSql(server.settings());
    let options = Options { deadline: Duration::from_millis(100), ..options() };
    let store = mpp_stores::sql::open(&backend.0, &options).unwrap();
    settle(&*store);
    let count = Question::Count { key: key_of(1), per_ms: HOUR, amount: 1 };
    let mut counted = 0;
    for round in 0..8 {
        for _ in 0..50 {
            let began = Instant::now();
            ask(&*store, T0, &[count]);
            counted += 1;
            assert!(began.elapsed() < Duration::from_secs(2), "nobody waits for what is away");
        }
        match round % 4 {
            0 => server.freeze(),
            1 => server.thaw(),
            2 => {
                server.kill();
                ask(&*store, T0, &[count]);
                counted += 1;
                server.launch();
                settle(&*store);
            }
            _ => {
                server.set_read_only(true);
                until("a node that is alone", || {
                    ask(&*store, T0, &[count]);
                    counted += 1;
                    matches!(store.health(), Health::Alone(_)).then_some(())
                });
                server.set_read_only(false);
            }
        }
    }
    settle(&*store);
    assert_eq!(used(&*store), counted);
    drop(store);
    let store = backend.open();
    assert_eq!(used(&*store), counted, "and on the server itself");
}

#[test]
fn on_mariadb_what_is_counted_is_counted_once_whatever_happens() {
    counts_once(&mut MariaDb::start(&[]));
}

#[test]
fn on_postgresql_what_is_counted_is_counted_once_whatever_happens() {
    counts_once(&mut Postgres::start(&[]));
}

/// Which tables of first tries there are.
fn tables(server: &dyn Database, settings: &Settings) -> u64 {
    let text = format!(
        "SELECT table_name FROM information_schema.tables WHERE table_name LIKE '{}_first_%'",
        settings.prefix
    );
    server.run(settings, &text).lines().count() as u64
}

fn time_goes_on(server: &dyn Database) {
    let settings = server.settings();
    // As in use: nothing is deleted.
    let options = Options { sweep_every: Duration::from_millis(1), ..options() };
    let store = mpp_stores::sql::open(&settings, &options).unwrap();
    let mut number = 0;
    for half_days in 0..8 {
        for _ in 0..10 {
            number += 1;
            store.perform(T0 + half_days * DAY / 2, &[remember(key_of(number), 2 * DAY, false)]);
        }
        store.settle().unwrap();
    }
    assert_eq!(store.counts().shelves[0], 80);
    assert_eq!(tables(server, &settings), 8);
    let mut gone = 0;
    let mut left = 80;
    until("whole tables that left", || {
        gone += store.expire(T0 + 5 * DAY);
        store.settle().unwrap();
        left = store.counts().shelves[0];
        (left <= 40 && left == 10 * tables(server, &settings)).then_some(())
    });
    // Of a time at which nothing has run out: what is asked for now takes the place of the last.
    gone += store.expire(T0);
    store.settle().unwrap();
    assert_eq!(gone + left, 80, "what leaves is counted");
    // Time that goes back finds none of those that are gone, and makes one of them anew.
    store.perform(T0, &[remember(key_of(1), 2 * DAY, false)]);
    store.settle().unwrap();
    assert_eq!(store.counts().shelves[0], left + 1);
    drop(store);

    mpp_stores::sql::remove(&settings).unwrap();
    let text = format!(
        "SELECT count(*) FROM information_schema.tables WHERE table_name LIKE '{}\\_%'",
        settings.prefix
    );
    assert_eq!(server.run(&settings, &text).trim(), "0");
}

#[test]
fn mariadb_drops_whole_tables() {
    time_goes_on(&MariaDb::start(&[]));
}

#[test]
fn postgresql_drops_whole_tables() {
    time_goes_on(&Postgres::start(&[]));
}

fn tables_of_a_newer_version(server: &dyn Database) {
    let settings = server.settings();
    drop(mpp_stores::sql::open(&settings, &options()).unwrap());
    // The same version once more is no reason to do anything.
    drop(mpp_stores::sql::open(&settings, &options()).unwrap());
    let text = format!("INSERT INTO {}_schema (version) VALUES (3)", settings.prefix);
    server.run(&settings, &text);
    let Err(error) = mpp_stores::sql::open(&settings, &options()) else { panic!("it opens") };
    let said = error.to_string();
    assert!(said.contains("version 3, this mpp knows 2"), "{said}");
    assert!(said.contains("another `prefix`"), "{said}");
}

#[test]
fn on_mariadb_tables_of_a_newer_version_are_left_alone() {
    tables_of_a_newer_version(&MariaDb::start(&[]));
}

#[test]
fn on_postgresql_tables_of_a_newer_version_are_left_alone() {
    tables_of_a_newer_version(&Postgres::start(&[]));
}

fn nodes_that_start_together(server: &dyn Database) {
    let settings = server.settings();
    std::thread::scope(|scope| {
        let node = || mpp_stores::sql::open(&settings, &options()).unwrap().seed();
        let nodes: Vec<_> = (0..4).map(|_| scope.spawn(node)).collect();
        for node in nodes {
            assert_eq!(node.join().unwrap(), crate::SEED);
        }
    });
}

#[test]
fn nodes_that_start_together_make_one_store() {
    nodes_that_start_together(&MariaDb::start(&[]));
    nodes_that_start_together(&Postgres::start(&[]));
}

#[test]
fn of_several_servers_the_first_is_used_that_takes_changes() {
    let (replica, other) = (Postgres::start(&[]), Postgres::start(&[]));
    replica.set_read_only(true);
    let mut settings = other.settings();
    let reach = Reach::Network { host: "127.0.0.1".into(), port: 1 };
    let nobody = Server { reach, ..settings.servers[0].clone() };
    let first = replica.settings().servers[0].clone();
    settings.servers.splice(0..0, [nobody, first]);
    let store = mpp_stores::sql::open(&settings, &options()).unwrap();
    store.perform(T0, &[remember(key_of(1), HOUR, false)]);
    store.settle().unwrap();
    assert_eq!(store.counts().shelves[0], 1);
    drop(store);
    let text = format!("SELECT sum(held) FROM {}_buckets", settings.prefix);
    assert_eq!(other.run("postgres", &text).trim(), "1");
}
