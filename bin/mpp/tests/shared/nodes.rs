//! Three nodes, each beside a Postfix of its own, on one Redis.

use std::sync::atomic::{AtomicU32, Ordering};

use mpp_tests::real::address;
use mpp_tests::real::mail_host::MailHost;
use mpp_tests::real::policy::request;
use mpp_tests::real::redis::Redis;
use mpp_tests::real::smtp::Who;
use mpp_tests::real::until;

use crate::{MPP, at, lets_through, nodes, settings};

#[test]
fn three_front_ends_have_one_memory() {
    let redis = Redis::start(&[]);
    let text = settings(&at(&redis.place()));
    let hosts: Vec<MailHost> = (0..3).map(|_| MailHost::start(MPP, &text)).collect();
    let [a, b, c] = hosts.as_slice() else { panic!("three") };
    // Greylisted at A, retried at B: it passes, and is proven at C.
    let server = Who::at("198.51.100.7").named("mx1.sender.example");
    assert_eq!(a.attempt(server, "a@sender.example", "bob@test.example").code, 450);
    b.retry(server, "a@sender.example", "bob@test.example");
    assert_eq!(c.attempt(server, "new@sender.example", "eve@test.example").code, 250);
    // A block at A refuses at C.
    let drone = Who::at("192.0.2.66");
    a.attempt(drone, "x@drone.example", "trap@test.example");
    until("a block that has spread", || {
        let said = c.attempt(drone, "y@drone.example", "bob@test.example");
        (said.text.contains("4.7.1") && !said.text.contains("Greylisted")).then_some(())
    });
    b.mpp.tell(&["blocks", "remove", "client", "192.0.2.66"]);
    until("a block that has ended everywhere", || {
        let said = a.attempt(drone, "y@drone.example", "bob@test.example");
        said.text.contains("Greylisted").then_some(())
    });
}

/// A request of an account of ours, each in a transaction of its own that stays open.
fn of_fred(number: u32) -> String {
    request(&[
        ("request", "smtpd_access_policy"),
        ("protocol_state", "RCPT"),
        ("client_address", "203.0.113.9"),
        ("sasl_username", "fred"),
        ("sender", "fred@test.example"),
        ("instance", &format!("1.{number}")),
        ("recipient", &format!("u{number}@far.example")),
        ("recipient_count", "0"),
    ])
}

#[test]
fn what_a_killed_node_answered_is_counted_and_nothing_else() {
    const LIMIT: u32 = 400;
    const ASKERS: u32 = 8;
    let redis = Redis::start(&[]);
    let text = settings(&at(&redis.place())).replace("limit = 10", &format!("limit = {LIMIT}"));
    let start = || mpp_tests::real::daemon::Daemon::start(MPP, &address(), &text);
    let (mut a, b) = (start(), start());
    let (answered, number) = (AtomicU32::new(0), AtomicU32::new(0));
    let place = a.address().to_owned();
    std::thread::scope(|scope| {
        for _ in 0..ASKERS {
            scope.spawn(|| {
                let mut client = mpp_tests::real::policy::Client::new(&place);
                loop {
                    let request = of_fred(number.fetch_add(1, Ordering::Relaxed));
                    let asked = client.send(request.as_bytes());
                    match asked.and_then(|()| client.answer()) {
                        Ok(Some(said)) if said == "DUNNO" => {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        _ => return,
                    }
                }
            });
        }
        until("a node under load", || (answered.load(Ordering::Relaxed) > 100).then_some(()));
        a.kill();
    });
    let answered = answered.load(Ordering::Relaxed);
    let mut clients = Vec::new();
    let mut left = 0;
    for number in 10_000.. {
        let mut client = b.client();
        if client.ask(&of_fred(number)) != "DUNNO" {
            break;
        }
        left += 1;
        clients.push(client);
    }
    let used = LIMIT - left;
    assert!((answered..=answered + ASKERS).contains(&used), "{used} used, {answered} answered");
}

#[test]
fn limits_sum_across_nodes_and_none_is_passed() {
    let redis = Redis::start(&[]);
    let nodes = nodes(3, &at(&redis.place()));
    // Each transaction stays open, so that what it reserved is not given back.
    let mut clients = Vec::new();
    let mut taken = 0;
    for (number, node) in (0..30).zip(nodes.iter().cycle()) {
        let mut client = node.client();
        let said = client.ask(&of_fred(number));
        assert!(said == "DUNNO" || said.contains("10 of 10"), "{said}");
        taken += u32::from(said == "DUNNO");
        clients.push(client);
    }
    assert_eq!(taken, 10);
}

#[test]
fn a_password_a_socket_and_a_wrong_password() {
    let redis = Redis::start(&["--requirepass", "s3cret", "--unixsocketperm", "777"]);
    let socket = format!("unix:{}", redis.socket().display());
    let store = format!("{}password = \"env:MPP_TEST_REDIS\"\n", at(&socket));
    let mut node = mpp_tests::real::daemon::Daemon::new(MPP, &address(), &settings(&store));
    node.set_variable("MPP_TEST_REDIS", "s3cret");
    node.launch();
    assert!(!lets_through(&node, "192.0.2.1", "a@b.example"));
    node.stop();
    let mut other = mpp_tests::real::daemon::Daemon::new(MPP, &address(), &settings(&store));
    other.set_variable("MPP_TEST_REDIS", "wr0ng");
    let said = other.refused();
    assert!(said.contains("shared store") && !said.contains("wr0ng"), "{said}");
}

#[test]
fn the_account_that_the_document_shows_is_enough() {
    let redis = Redis::start(&[]);
    let document = include_str!("../../../../docs/shared-state.md");
    let rule = document.lines().find(|line| line.starts_with("ACL SETUSER mpp on"));
    let rule = rule.expect("the document shows an account").replace("PASSWORD", "s3cret");
    let words: Vec<&str> = rule.split(' ').collect();
    assert_eq!(redis.ask(&words).trim(), "OK");
    let store = format!("{}user = \"mpp\"\npassword = \"file:word\"\n", at(&redis.place()));
    let mut node = mpp_tests::real::daemon::Daemon::new(MPP, &address(), &settings(&store));
    node.write("word", "s3cret\n");
    node.launch();
    assert!(!lets_through(&node, "192.0.2.1", "a@b.example"));
    crate::prove(&node, "192.0.2.1", "a@b.example");
    node.tell(&["blocks", "add", "client", "192.0.2.66", "--for", "1h"]);
    let status = node.json(&["status"]);
    assert_eq!(status.pointer("/store/health"), Some(&serde_json::json!("good")), "{status}");
    assert_eq!(redis.ask(&["ACL", "LOG"]).trim(), "", "nothing was denied");
}
