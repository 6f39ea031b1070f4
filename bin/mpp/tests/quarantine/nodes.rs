//! Several nodes on one store: what one holds, all list, release and delete.

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::ledger::Ledger;
use mpp_tests::real::mariadb::{self, MariaDb};
use mpp_tests::real::postgres::{self, Postgres};
use mpp_tests::real::redis::Redis;
use mpp_tests::real::{address, until};
use serde_json::Value;

use crate::links::{http, link};
use crate::{HELD, MPP, Scene, gateway};

/// Messages that are released while their node is killed, and how often it is.
const MESSAGES: usize = 24;
const KILLS: usize = 8;

fn on_redis(redis: &Redis) -> String {
    format!("kind = \"redis\"\nservers = [\"{}\"]\n", redis.place())
}

/// A node of that name with a next hop of its own; where its pages are.
fn node(name: &str, store: &str) -> (Scene, String) {
    let (at, hop) = (address(), Ledger::start(|| None));
    let (listen, pages) = (format!("{at}:10025"), format!("{at}:10045"));
    let text = format!(
        "[server]\nstate = \"state\"\nname = \"{name}\"\n[store]\n{store}\n\
         [listen]\npolicy = [\"{at}:10040\"]\npages = [\"{pages}\"]\n\
         [quarantine]\nsecret = \"one secret that all of the nodes have\"\n\
         links = \"https://mail.test.example/held\"\n{}",
        gateway(&listen, hop.address(), HELD)
    );
    (Scene { mpp: Daemon::start(MPP, &at, &text), listen, hop }, pages)
}

impl Scene {
    /// What a node knows of a message: who holds it, what has become of it for the first recipient, and
    /// what was asked for.
    fn knows(&self, id: &str) -> Option<(String, String, String)> {
        let rows = self.rows(&["list", "--only", "all"]);
        let row = rows.iter().find(|row| row["id"] == id)?;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let state = text(&row["recipients"][0]["state"]);
        Some((text(&row["node"]), state, text(&row["asked"])))
    }

    fn hears(&self, id: &str, node: &str, state: &str) {
        until(&format!("{id} that is {state} at {node}"), || {
            let (of, is, _) = self.knows(id)?;
            (of == node && is == state).then_some(())
        });
    }

    fn count(&self, serial: &str) -> u32 {
        self.hop.taken().get(serial).copied().unwrap_or(0)
    }
}

fn all_are_one(store: &str) {
    let [(a, _), (b, pages), (c, _)] = ["a", "b", "c"].map(|name| node(name, store));
    let one = a.hold(&["held@test.example", "eve@test.example"], "one");
    for scene in [&b, &c] {
        scene.hears(&one, "a", "held");
        assert_eq!(
            scene.rows(&["search", "minutes", "one", "--user", "eve@test.example"]).len(),
            1
        );
        let listed = scene.mpp.tell(&["quarantine", "list"]);
        assert!(listed.contains("-> eve@test.example, held@test.example on a\n"), "{listed}");
    }
    let shown = b.mpp.tell(&["quarantine", "show", &one]);
    assert!(shown.contains("its text lies on a") && shown.contains("node        a"), "{shown}");
    assert!(!shown.contains("please find"), "{shown}");
    // Released at B for one of them: A delivers it, once.
    let told = b.mpp.tell(&["quarantine", "release", &one, "--user", "held@test.example"]);
    assert!(told.contains("held@test.example: released (250 "), "{told}");
    assert_eq!((a.count("one"), b.hop.taken().len()), (1, 0));
    assert!(a.heard().contains("RCPT TO:<held@test.example>\nDATA"), "{}", a.heard());
    // Who asks when it is done is told so, here and there.
    for scene in [&a, &b, &c] {
        let again = until("a release that is known", || {
            let again =
                scene.mpp.run(&["quarantine", "release", &one, "--user", "held@test.example"]);
            assert!(!again.status.success());
            let said = String::from_utf8_lossy(&again.stderr).into_owned();
            said.contains("was released already").then_some(said)
        });
        assert!(again.contains(&one), "{again}");
    }
    // Two who ask at once at different nodes, a digest's link at another node, and one who deletes.
    let two = a.hold(&["held@test.example"], "two");
    b.hears(&two, "a", "held");
    c.hears(&two, "a", "held");
    let both = [&b, &c].map(|scene| scene.mpp.begin(&["quarantine", "release", &two]));
    let done = both.map(|child| child.wait_with_output().unwrap().status.success());
    assert_eq!(done.into_iter().filter(|done| *done).count(), 1);
    assert_eq!(a.count("two"), 1);
    let three = a.hold(&["held@test.example"], "three");
    b.hears(&three, "a", "held");
    let link = link(&a, "held@test.example");
    let page = http(&pages, "GET", &link);
    assert!(page.starts_with("HTTP/1.1 200") && page.contains(&three), "{page}");
    let page = http(&pages, "POST", &link);
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("on its way"), "{page}");
    assert_eq!(a.count("three"), 1);
    let four = a.hold(&["held@test.example"], "four");
    c.hears(&four, "a", "held");
    let told = c.mpp.tell(&["quarantine", "delete", &format!("{four}@a")]);
    assert_eq!(told.trim(), format!("{four} is deleted"));
    for scene in [&a, &b, &c] {
        scene.hears(&four, "a", "deleted");
    }
    // Only Eve's part of the first one still waits.
    assert_eq!(a.rows(&["list"]).len(), 1);
    c.mpp.tell(&["quarantine", "delete", &one]);
    for scene in [&a, &b, &c] {
        until("nothing that waits", || scene.rows(&["list"]).is_empty().then_some(()));
    }
    let files = std::fs::read_dir(a.mpp.folder().join("state/quarantine/messages"));
    assert_eq!(files.unwrap().count(), 0, "nobody waits for any of it");
    assert_eq!((a.count("one"), a.count("four")), (1, 0));
}

#[test]
fn on_a_redis_all_nodes_are_one_quarantine() {
    let redis = Redis::start(&[]);
    all_are_one(&on_redis(&redis));
}

#[test]
fn on_a_mariadb_all_nodes_are_one_quarantine() {
    let server = MariaDb::start(&[]);
    server.run(
        "CREATE DATABASE mpp; CREATE USER mpp@'%'; \
         GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP ON mpp.* TO mpp@'%'",
    );
    let place = format!("{}:{}", server.address(), mariadb::PORT);
    all_are_one(&format!("kind = \"sql\"\nservers = [\"mysql://mpp@{place}/mpp\"]\n"));
}

#[test]
fn on_a_postgresql_all_nodes_are_one_quarantine() {
    let server = Postgres::start(&[]);
    let place = format!("{}:{}", server.address(), postgres::PORT);
    all_are_one(&format!("kind = \"sql\"\nservers = [\"postgres://postgres@{place}/postgres\"]\n"));
}

#[test]
fn a_node_that_is_down_does_what_was_asked_when_it_is_back() {
    let redis = Redis::start(&[]);
    let [(mut a, _), (b, _)] = ["a", "b"].map(|name| node(name, &on_redis(&redis)));
    let one = a.hold(&["held@test.example"], "one");
    let two = a.hold(&["held@test.example"], "two");
    b.hears(&one, "a", "held");
    b.hears(&two, "a", "held");
    a.mpp.kill();
    assert_eq!(b.rows(&["list"]).len(), 2);
    let told = b.mpp.tell(&["quarantine", "release", &one]);
    assert!(told.contains("a has not answered yet; it will do so when it is back"), "{told}");
    let told = b.mpp.tell(&["quarantine", "delete", &two]);
    assert!(told.contains("a has not answered yet"), "{told}");
    let listed = b.mpp.tell(&["quarantine", "list"]);
    assert!(
        listed.contains("on a, asked to release") && listed.contains("asked to delete"),
        "{listed}"
    );
    a.mpp.launch();
    until("what was asked", || (a.count("one") == 1).then_some(()));
    for scene in [&a, &b] {
        scene.hears(&one, "a", "released");
        scene.hears(&two, "a", "deleted");
    }
    until("nothing that is asked for", || {
        let (_, _, asked) = b.knows(&one)?;
        asked.is_empty().then_some(())
    });
    // Another start does nothing again.
    a.mpp.kill();
    a.mpp.launch();
    let three = a.hold(&["held@test.example"], "three");
    b.hears(&three, "a", "held");
    b.mpp.tell(&["quarantine", "delete", &three]);
    assert_eq!((a.count("one"), a.count("two"), a.count("three")), (1, 0, 0));
    // One that is gone for good is not listed; one that is not comes back.
    let four = a.hold(&["held@test.example"], "four");
    b.hears(&four, "a", "held");
    a.mpp.kill();
    assert!(
        b.mpp.tell_in_vain(&["quarantine", "forget", "b"]).contains("no other node is called b")
    );
    b.mpp.tell(&["quarantine", "forget", "a"]);
    assert!(b.rows(&["list", "--only", "all"]).is_empty());
    a.mpp.launch();
    b.hears(&four, "a", "held");
}

#[test]
fn without_the_store_lists_go_on_and_the_rest_is_told_later() {
    let mut redis = Redis::start(&[]);
    let [(a, _), (b, _)] = ["a", "b"].map(|name| node(name, &on_redis(&redis)));
    let one = a.hold(&["held@test.example"], "one");
    b.hears(&one, "a", "held");
    redis.kill();
    let two = a.hold(&["held@test.example"], "two");
    assert_eq!(b.rows(&["list"]).len(), 1);
    let refused = b.mpp.tell_in_vain(&["quarantine", "release", &one]);
    assert!(refused.contains("a holds") && refused.contains("cannot be asked now"), "{refused}");
    a.mpp.tell(&["quarantine", "delete", &one]);
    // It comes back empty.
    redis.launch();
    b.hears(&two, "a", "held");
    b.hears(&one, "a", "deleted");
    b.mpp.tell(&["quarantine", "release", &two]);
    assert_eq!((a.count("one"), a.count("two")), (0, 1));
}

#[test]
fn a_node_that_is_killed_all_the_time_delivers_what_is_asked_once() {
    let redis = Redis::start(&[]);
    let [(mut a, _), (b, _)] = ["a", "b"].map(|name| node(name, &on_redis(&redis)));
    let serials: Vec<String> = (0..MESSAGES).map(|number| format!("m{number}")).collect();
    let ids: Vec<String> = serials.iter().map(|it| a.hold(&["held@test.example"], it)).collect();
    until("all rows", || (b.rows(&["list"]).len() == MESSAGES).then_some(()));
    let asking: Vec<_> = ids.iter().map(|id| b.mpp.begin(&["quarantine", "release", id])).collect();
    for kill in 0..KILLS {
        // At some point of some release: when so many were delivered.
        let wanted = MESSAGES * kill / KILLS;
        until("some that were delivered", || (a.hop.taken().len() >= wanted).then_some(()));
        a.mpp.kill();
        a.mpp.launch();
    }
    for child in asking {
        child.wait_with_output().unwrap();
    }
    until("nothing that is asked for", || {
        let rows = b.rows(&["list", "--only", "all"]);
        rows.iter().all(|row| row["asked"] == "").then_some(())
    });
    // Of those that were under way when it died the end is not known, and nothing was sent again.
    for (id, serial) in ids.iter().zip(&serials) {
        let (_, state, _) = a.knows(id).unwrap();
        match &*state {
            "released" => assert_eq!(a.count(serial), 1, "{serial}"),
            "releasing" => assert!(a.count(serial) <= 1, "{serial}"),
            state => panic!("{serial} is {state}"),
        }
        b.hears(id, "a", &state);
    }
}
