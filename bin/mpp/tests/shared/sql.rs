//! MariaDB and PostgreSQL as the store of several nodes: it fails, and nobody waits.

use std::time::Duration;

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::mariadb::{self, MariaDb};
use mpp_tests::real::postgres::{self, Postgres};
use mpp_tests::real::until;
use mpp_tests::real::wire::{Fault, Wire};

use crate::faults::{begin, holds};
use crate::{MPP, health, lets_through, settings, wait_for_store};

pub(crate) fn mariadb() -> MariaDb {
    let server = MariaDb::start(&[]);
    prepare(&server);
    server
}

/// Makes the database of a store, and its account.
pub(crate) fn prepare(server: &MariaDb) {
    server.run(
        "CREATE DATABASE mpp; CREATE USER mpp@'%'; \
         GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP ON mpp.* TO mpp@'%'",
    );
}

pub(crate) fn on_mariadb(place: &str) -> String {
    format!("kind = \"sql\"\nservers = [\"mysql://mpp@{place}/mpp\"]\n")
}

pub(crate) fn on_postgres(place: &str) -> String {
    format!("kind = \"sql\"\nservers = [\"postgres://postgres@{place}/postgres\"]\n")
}

fn network_fails(wire: &Wire, store: &str) {
    let nodes = begin(store);
    let faults = [Fault::Slow(Duration::from_millis(400)), Fault::HalfOpen, Fault::Reset];
    for (round, fault) in (0..).zip(faults) {
        wire.fail(fault);
        holds(&nodes, round);
        assert!(health(&nodes[0]).starts_with("alone"), "{fault:?}: {}", health(&nodes[0]));
        wire.fail(Fault::None);
        nodes.iter().for_each(wait_for_store);
    }
    holds(&nodes, 9);
}

#[test]
fn a_network_to_mariadb_that_fails() {
    let server = mariadb();
    let wire = Wire::to(&format!("{}:{}", server.address(), mariadb::PORT));
    network_fails(&wire, &on_mariadb(wire.place()));
}

#[test]
fn a_network_to_postgresql_that_fails() {
    let server = Postgres::start(&[]);
    let wire = Wire::to(&format!("{}:{}", server.address(), postgres::PORT));
    network_fails(&wire, &on_postgres(wire.place()));
}

#[test]
fn a_mariadb_that_is_killed_hangs_or_takes_no_changes() {
    let mut server = mariadb();
    let nodes = begin(&on_mariadb(&format!("{}:{}", server.address(), mariadb::PORT)));
    server.kill();
    holds(&nodes, 0);
    server.launch();
    nodes.iter().for_each(wait_for_store);
    server.freeze();
    holds(&nodes, 1);
    server.thaw();
    nodes.iter().for_each(wait_for_store);
    server.run("SET GLOBAL read_only = 1");
    holds(&nodes, 2);
    until("nodes that are alone", || health(&nodes[0]).starts_with("alone").then_some(()));
    server.run("SET GLOBAL read_only = 0");
    nodes.iter().for_each(wait_for_store);
    // Emptied: the nodes tell it what they know.
    server.run("DROP DATABASE mpp; CREATE DATABASE mpp");
    holds(&nodes, 3);
    until("a store that was made anew", || {
        let text = "SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'mpp_cells'";
        (server.run(text).trim() == "1").then_some(())
    });
    nodes.iter().for_each(wait_for_store);
    holds(&nodes, 4);
}

#[test]
fn a_postgresql_that_is_killed_hangs_or_takes_no_changes() {
    let mut server = Postgres::start(&[]);
    let nodes = begin(&on_postgres(&format!("{}:{}", server.address(), postgres::PORT)));
    server.kill();
    holds(&nodes, 0);
    server.launch();
    nodes.iter().for_each(wait_for_store);
    server.freeze();
    holds(&nodes, 1);
    server.thaw();
    nodes.iter().for_each(wait_for_store);
    let set = |value: &str| {
        let text = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
        server.run("postgres", &text);
        server.run("postgres", "SELECT pg_reload_conf()");
    };
    set("on");
    holds(&nodes, 2);
    until("nodes that are alone", || health(&nodes[0]).starts_with("alone").then_some(()));
    set("off");
    nodes.iter().for_each(wait_for_store);
    holds(&nodes, 3);
}

#[test]
fn a_database_is_looked_into_and_measured_and_nothing_is_left_behind() {
    let server = Postgres::start(&[]);
    server.run("postgres", "CREATE USER mpp PASSWORD 's3cret'");
    server.run("postgres", "CREATE DATABASE mpp OWNER mpp");
    let place = format!("postgres://mpp@{}:{}/mpp", server.address(), postgres::PORT);
    let store = format!(
        "kind = \"sql\"\nservers = [\"{place}\"]\npassword = \"env:MPP_TEST_SQL\"\nprefix = \"mx\"\n"
    );
    let start = |password: &str| {
        let mut node = Daemon::new(MPP, &address(), &settings(&store));
        node.set_variable("MPP_TEST_SQL", password);
        node
    };
    let mut node = start("s3cret");
    node.launch();
    assert!(!lets_through(&node, "192.0.2.1", "a@b.example"));
    let tables = || {
        let text = "SELECT count(*) FROM information_schema.tables WHERE table_name LIKE 'mx%'";
        server.run("mpp", text)
    };
    until("what was noted", || {
        let held = server.run("mpp", "SELECT sum(held) FROM mx_buckets");
        (held.trim() == "1").then_some(())
    });
    let before = tables();
    let said = node.tell(&["store", "bench", "--for", "300ms", "--at-once", "4"]);
    assert!(said.contains("decisions/s") && said.contains("PostgreSQL"), "{said}");
    assert_eq!(tables(), before, "its tables are gone");
    let info = node.tell(&["store", "info"]);
    assert!(info.contains("greylisted"), "{info}");
    let said = start("wr0ng").refused();
    assert!(said.contains("shared store") && !said.contains("wr0ng"), "{said}");
}
