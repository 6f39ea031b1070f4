//! The server fails in every way: nobody waits, nobody good is refused, nothing is counted twice.

use std::time::{Duration, Instant};

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::redis::{Cluster, MASTER, Redis, Watched};
use mpp_tests::real::small_disk::SmallDisk;
use mpp_tests::real::until;
use mpp_tests::real::wire::{Fault, Wire};

use crate::{at, health, lets_through, nodes, prove, try_at, wait_for_store};

const GOOD: (&str, &str) = ("198.51.100.7", "a@good.example");
const DRONE: &str = "192.0.2.66";

/// Brings two nodes to a state worth keeping: a sender proven at the first, a block made there.
pub(crate) fn begin(store: &str) -> Vec<Daemon> {
    let nodes = nodes(2, store);
    let [a, b] = nodes.as_slice() else { panic!("two") };
    prove(a, GOOD.0, GOOD.1);
    a.tell(&["blocks", "add", "client", DRONE, "--for", "1h"]);
    until("a block that has spread", || {
        (!try_at(b, DRONE, "x@y.example").contains("Greylisted")).then_some(())
    });
    nodes
}

/// What holds whatever the server does: both nodes know the good sender and the block, strangers wait,
/// and no answer takes long.
pub(crate) fn holds(nodes: &[Daemon], round: usize) {
    for (number, node) in nodes.iter().enumerate() {
        let began = Instant::now();
        assert!(lets_through(node, GOOD.0, GOOD.1), "node {number}: the good sender does not wait");
        let blocked = try_at(node, DRONE, "x@y.example");
        assert!(!blocked.contains("Greylisted") && blocked != "DUNNO", "{number}: {blocked}");
        assert!(
            !lets_through(node, &stranger(round, number), "s@stranger.example"),
            "{number}: strangers wait"
        );
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
}

/// A host in a network that nobody has seen before.
fn stranger(round: usize, number: usize) -> String {
    format!("100.{}.{number}.5", 64 + round)
}

#[test]
fn a_network_that_fails_in_every_way() {
    let redis = Redis::start(&[]);
    let wire = Wire::to(&redis.place());
    let nodes = begin(&at(wire.place()));
    let faults = [
        Fault::Slow(Duration::from_millis(400)),
        Fault::HalfOpen,
        Fault::Trickle(Duration::from_millis(50)),
        Fault::Reset,
    ];
    for (round, fault) in (0..).zip(faults) {
        wire.fail(fault);
        holds(&nodes, round);
        // The first who waited in vain told the node; from then on it is alone.
        assert!(health(&nodes[0]).starts_with("alone"), "{fault:?}: {}", health(&nodes[0]));
        // A stranger who comes back to the same node passes.
        let stranger = stranger(round, 0);
        prove(&nodes[0], &stranger, "s@stranger.example");
        wire.fail(Fault::None);
        nodes.iter().for_each(wait_for_store);
        // What the first learnt alone the second knows now.
        until("a sender who was proven meanwhile", || {
            lets_through(&nodes[1], &stranger, "other@stranger.example").then_some(())
        });
    }
    holds(&nodes, 9);
}

#[test]
fn a_server_that_is_killed_and_comes_back_empty() {
    let mut redis = Redis::start(&[]);
    let nodes = begin(&at(&redis.place()));
    redis.kill();
    holds(&nodes, 0);
    assert!(health(&nodes[0]).starts_with("alone"), "{}", health(&nodes[0]));
    redis.launch();
    nodes.iter().for_each(wait_for_store);
    holds(&nodes, 1);
    // A node that knew nothing learns it from what the others told the server.
    let fresh = crate::nodes(1, &at(&redis.place()));
    until("what the nodes told the empty server", || {
        lets_through(&fresh[0], GOOD.0, GOOD.1).then_some(())
    });
    let blocked = try_at(&fresh[0], DRONE, "x@y.example");
    assert!(!blocked.contains("Greylisted") && blocked != "DUNNO", "{blocked}");
}

#[test]
fn a_server_that_hangs_is_full_or_takes_no_changes() {
    let redis = Redis::start(&["--maxmemory-policy", "noeviction"]);
    let nodes = begin(&at(&redis.place()));
    redis.freeze();
    holds(&nodes, 0);
    redis.thaw();
    nodes.iter().for_each(wait_for_store);
    // Full.
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    holds(&nodes, 1);
    until("nodes that are alone", || health(&nodes[0]).starts_with("alone").then_some(()));
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    nodes.iter().for_each(wait_for_store);
    // Read-only: it has become a replica of nobody that answers.
    redis.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    holds(&nodes, 2);
    until("nodes that are alone", || health(&nodes[0]).starts_with("alone").then_some(()));
    redis.ask(&["REPLICAOF", "NO", "ONE"]);
    nodes.iter().for_each(wait_for_store);
    holds(&nodes, 3);
}

#[test]
fn a_node_that_starts_without_the_server_goes_on_with_its_copy() {
    let mut redis = Redis::start(&[]);
    let mut nodes = begin(&at(&redis.place()));
    // With what it knows on its disk: a kill loses what was learnt in the tenth of a second before.
    for node in &mut nodes {
        node.stop();
    }
    nodes[0].launch();
    redis.kill();
    nodes[0].kill();
    for node in &mut nodes {
        node.launch();
    }
    holds(&nodes, 0);
    assert!(health(&nodes[1]).starts_with("alone"), "{}", health(&nodes[1]));
    redis.launch();
    nodes.iter().for_each(wait_for_store);
    holds(&nodes, 1);
}

#[test]
fn without_the_server_policies_say_what_becomes_of_strangers() {
    let mut redis = Redis::start(&[]);
    let store = format!("{}strangers = \"unavailable\"\n", at(&redis.place()));
    let text = format!(
        "{}[policy.careful]\nmatch = {{ recipient = \"eve@test.example\" }}\n\
         unavailable = \"defer\"\n",
        crate::settings(&store)
    );
    let node = Daemon::start(crate::MPP, &mpp_tests::real::address(), &text);
    prove(&node, GOOD.0, GOOD.1);
    redis.kill();
    until("a node that is alone", || health(&node).starts_with("alone").then_some(()));
    assert!(lets_through(&node, GOOD.0, GOOD.1), "the good sender does not wait");
    assert!(lets_through(&node, &stranger(0, 0), "s@stranger.example"), "accept is the default");
    let request = mpp_tests::real::policy::rcpt(&stranger(1, 0), "s@x.example", "eve@test.example");
    let said = node.client().ask(&request);
    assert!(said.starts_with("451 4.3.0"), "{said}");
}

#[test]
fn a_server_whose_disk_is_full() {
    let folder = mpp_tests::real::folder();
    let disk = SmallDisk::mount(&folder.path().join("disk"), "8m");
    let place = folder.path().join("disk").display().to_string();
    let redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always", "--dir", &place]);
    let nodes = begin(&at(&redis.place()));
    let filler = disk.fill();
    // What it cannot write it does not take: with fsync at each write it would rather end.
    holds(&nodes, 0);
    until("nodes that are alone", || {
        holds(&nodes, 1);
        health(&nodes[0]).starts_with("alone").then_some(())
    });
    std::fs::remove_file(filler).unwrap();
    let mut redis = redis;
    if redis.ask(&["PING"]).is_empty() {
        redis.launch();
    }
    nodes.iter().for_each(wait_for_store);
    holds(&nodes, 2);
}

#[test]
fn sentinels_choose_another_master() {
    let mut servers = Watched::start();
    let list = servers.places().iter().map(|it| format!("{it:?}")).collect::<Vec<_>>().join(", ");
    let store = format!(
        "kind = \"redis\"\ntopology = \"sentinel\"\nmaster = \"{MASTER}\"\nservers = [{list}]\n"
    );
    let nodes = begin(&store);
    let old = servers.master().unwrap();
    servers.servers[old].kill();
    holds(&nodes, 0);
    until("another master", || servers.master().filter(|master| *master != old));
    nodes.iter().for_each(wait_for_store);
    holds(&nodes, 1);
    // The old one comes back as a replica.
    servers.servers[old].launch();
    holds(&nodes, 2);
}

#[test]
fn a_cluster_loses_a_master_and_moves_a_slot() {
    let mut cluster = Cluster::start(true);
    let list = cluster.places().iter().map(|it| format!("{it:?}")).collect::<Vec<_>>().join(", ");
    let nodes = begin(&format!("kind = \"redis\"\ntopology = \"cluster\"\nservers = [{list}]\n"));
    cluster.servers[0].kill();
    holds(&nodes, 0);
    cluster.wait_until_sound();
    nodes.iter().for_each(wait_for_store);
    holds(&nodes, 1);
    // Slots move, and with them what is in them, while both nodes are asked.
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| cluster.move_slots((1, 2), 2_000));
        let mut round = 2;
        while !moving.is_finished() && round < 100 {
            holds(&nodes, round);
            round += 1;
        }
        moving.join().unwrap();
    });
    nodes.iter().for_each(wait_for_store);
    holds(&nodes, 120);
}
