//! From one store to another, and looking into them.

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::postgres::{self, Postgres};
use mpp_tests::real::redis::Redis;
use mpp_tests::real::{mariadb, until};

use crate::sql::{on_mariadb, on_postgres};
use crate::{MPP, at, lets_through, prove, settings, try_at};

#[test]
fn a_site_moves_to_a_redis_and_back_while_it_serves() {
    let redis = Redis::start(&[]);
    moves(&at(&redis.place()));
}

#[test]
fn a_site_moves_to_mariadb_and_back_while_it_serves() {
    let server = crate::sql::mariadb();
    moves(&on_mariadb(&format!("{}:{}", server.address(), mariadb::PORT)));
}

#[test]
fn a_site_moves_to_postgresql_and_back_while_it_serves() {
    let server = Postgres::start(&[]);
    moves(&on_postgres(&format!("{}:{}", server.address(), postgres::PORT)));
}

fn moves(shared: &str) {
    let old = Daemon::start(MPP, &address(), &settings("kind = \"embedded\""));
    prove(&old, "198.51.100.7", "a@good.example");
    assert!(!lets_through(&old, "203.0.113.5", "s@stranger.example"));
    old.tell(&["blocks", "add", "client", "192.0.2.66", "--for", "1h"]);
    let info = old.tell(&["store", "info"]);
    for wanted in ["greylisted", "proven", "blocks"] {
        assert!(info.contains(wanted), "{info}");
    }
    // The daemon goes on while it is copied.
    old.write("new.toml", &settings(shared));
    let target = old.folder().join("new.toml").display().to_string();
    let source = old.folder().join("mpp.toml").display().to_string();
    let copy = |from: &str, to: &str| {
        let far = address().replace(':', "-");
        let far = old.folder().join(far).display().to_string();
        let mut command = std::process::Command::new(MPP);
        command.args(["store", "copy", "--from", from, "--to", to, "--progress", &far]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = copy(&source, &target);
    assert!(said.contains("entries copied"), "{said}");
    let new = Daemon::start(MPP, &address(), &settings(shared));
    assert!(lets_through(&new, "198.51.100.7", "b@good.example"), "proven stays proven");
    let blocked = try_at(&new, "192.0.2.66", "x@y.example");
    assert!(blocked != "DUNNO" && !blocked.contains("Greylisted"), "{blocked}");
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(lets_through(&new, "203.0.113.5", "s@stranger.example"), "its first try was copied");
    // What is copied later reaches a node that runs already.
    prove(&old, "198.51.100.8", "c@good.example");
    old.tell(&["blocks", "add", "client", "192.0.2.67", "--for", "1h"]);
    assert!(!lets_through(&new, "198.51.100.8", "d@good.example"));
    copy(&source, &target);
    // Each time another sender: none has waited.
    let letters = || 'e'..='z';
    let mut names = letters().flat_map(|one| letters().map(move |other| format!("{one}{other}")));
    until("a node that hears who is proven", || {
        let sender = format!("{}@good.example", names.next().unwrap());
        lets_through(&new, "198.51.100.8", &sender).then_some(())
    });
    until("a node that hears who is blocked", || {
        let said = try_at(&new, "192.0.2.67", "x@y.example");
        (said != "DUNNO" && !said.contains("Greylisted")).then_some(())
    });
    // And back to a node of its own.
    let back = new.folder().join("back");
    std::fs::create_dir(&back).unwrap();
    copy(&target, &back.display().to_string());
    let info = std::process::Command::new(MPP)
        .args(["store", "info", "--json", "--state", &back.display().to_string()])
        .output()
        .unwrap();
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info.pointer("/blocks/entries"), Some(&serde_json::json!(2)), "{info}");
    assert!(
        info.pointer("/proven/entries").and_then(serde_json::Value::as_u64) >= Some(1),
        "{info}"
    );
}

#[test]
fn the_configured_store_is_measured() {
    let redis = Redis::start(&[]);
    let node = Daemon::start(MPP, &address(), &settings(&at(&redis.place())));
    let said = node.tell(&["store", "bench", "--for", "300ms", "--at-once", "4"]);
    assert!(said.contains("decisions/s") && said.contains("redis"), "{said}");
}
