//! Real programs: postgrey and sqlgrey.

use std::time::Duration;

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::greylists::{Greylist, Kind};
use mpp_tests::real::redis::Redis;

use crate::{MPP, lets_through, mail, notes, number, pass, settings};

const NAMED: (&str, &str) = ("198.51.100.7", "mx.good.example");

/// The delay of mpp in these tests.
const DELAY: Duration = Duration::from_secs(2);

#[test]
fn who_passed_at_postgrey_passes_at_a_running_mpp_at_once() {
    let mut old = Greylist::start(Kind::Postgrey(&[]), &address());
    let (named, nameless) =
        (mail(NAMED.0, NAMED.1, "a@good.example"), mail("203.0.113.9", "unknown", "c@x.example"));
    let v6 = mail("2001:db8:7::25", "mx.six.example", "a@six.example");
    for mail in [&named, &nameless, &v6] {
        pass(&old, mail);
    }
    let first = mail("192.0.2.77", "mx.first.example", "f@first.example");
    assert!(old.ask(&first).contains("Greylisted"));
    let directory = old.directory().display().to_string();
    let import = ["store", "import", "--from", "postgrey", "--delay", "1s", "--directory"];
    let import = [&import[..], &[&directory]].concat();
    let new = Daemon::start(MPP, &address(), &settings(""));
    // As long as it runs, its files need not have everything.
    let dry = new.json(&[&import[..], &["--dry-run"]].concat());
    assert!(notes(&dry).contains("postgrey is running"), "{dry}");
    old.stop();
    let dry = new.json(&[&import[..], &["--dry-run"]].concat());
    assert_eq!(number(&dry, "/proven/lines"), 6, "three triplets and three clients: {dry}");
    assert_eq!(number(&dry, "/first_tries/entries"), 1, "{dry}");
    assert_eq!(notes(&dry), "[]");
    assert_eq!(number(&new.json(&["status"]), "/store/proven"), 0, "nothing was written");
    let done = new.json(&import);
    assert_eq!(number(&done, "/proven/new"), 6, "networks and addresses: {done}");
    assert_eq!(number(&done, "/first_tries/new"), 1, "{done}");
    let again = new.json(&import);
    assert_eq!(number(&again, "/proven/new") + number(&again, "/first_tries/new"), 0, "{again}");
    let shown = new.json(&[
        "greylist",
        "show",
        "--client",
        "203.0.113.9",
        "--from",
        "c@x.example",
        "--to",
        "bob@test.example",
    ]);
    assert!(shown["proven"].is_object(), "{shown}");
    for mail in [&named, &nameless, &v6] {
        assert!(lets_through(&new, mail), "{mail}");
    }
    std::thread::sleep(DELAY);
    assert!(lets_through(&new, &first), "it waited at the old one");
    assert!(!lets_through(&new, &mail("192.0.2.200", "mx.stranger.example", "s@stranger.example")));
    // Now its organisation is known, from another network as well.
    assert!(lets_through(&new, &mail("198.18.0.1", "mx2.good.example", "b@good.example")));
    let text = new.tell(&import);
    assert!(text.contains("came back") && text.contains("0 of them new"), "{text}");
}

#[test]
fn hosts_are_told_apart_where_postgrey_told_them_apart_and_hashes_are_counted() {
    let mut old = Greylist::start(Kind::Postgrey(&["--lookup-by-host"]), &address());
    pass(&old, &mail("198.51.100.7", "unknown", "a@x.example"));
    let mut hashed = Greylist::start(Kind::Postgrey(&["--privacy"]), &address());
    pass(&hashed, &mail("198.51.100.7", "unknown", "a@x.example"));
    old.stop();
    hashed.stop();
    let new = Daemon::start(MPP, &address(), &settings(""));
    let import = |directory: &std::path::Path| {
        let directory = directory.display().to_string();
        new.json(&[
            "store",
            "import",
            "--from",
            "postgrey",
            "--delay",
            "1s",
            "--directory",
            &directory,
        ])
    };
    let useless = import(&hashed.directory());
    assert_eq!(number(&useless, "/lines"), 2, "{useless}");
    assert_eq!(useless["useless"].as_object().map(serde_json::Map::len), Some(1), "{useless}");
    assert_eq!(number(&useless, "/proven/entries"), 0, "{useless}");
    let done = import(&old.directory());
    assert_eq!(number(&done, "/proven/entries"), 1, "{done}");
    assert!(lets_through(&new, &mail("198.51.100.7", "unknown", "z@x.example")));
    assert!(!lets_through(&new, &mail("198.51.100.8", "unknown", "z@x.example")), "a neighbour");
}

#[test]
fn a_log_that_was_not_written_back_is_told() {
    let mut old = Greylist::start(Kind::Postgrey(&[]), &address());
    assert!(old.ask(&mail("198.51.100.7", "unknown", "a@x.example")).contains("Greylisted"));
    std::thread::sleep(Duration::from_secs(3));
    assert!(old.ask(&mail("198.51.101.7", "unknown", "a@x.example")).contains("Greylisted"));
    old.kill();
    let new = Daemon::new(MPP, &address(), &settings(""));
    let directory = old.directory().display().to_string();
    let dry = new.json(&[
        "store",
        "import",
        "--from",
        "postgrey",
        "--dry-run",
        "--directory",
        &directory,
    ]);
    assert!(notes(&dry).contains("did not end well"), "{dry}");
}

#[test]
fn who_passed_at_sqlgrey_passes_at_mpp_at_once_by_a_shared_store_as_well() {
    let mut old = Greylist::start(Kind::Sqlgrey, &address());
    // With a name it keeps the network, without one the address.
    let (named, nameless) =
        (mail(NAMED.0, NAMED.1, "a@good.example"), mail("203.0.113.9", "unknown", "c@x.example"));
    let v6 = mail("2001:db8:7::25", "mx.six.example", "a@six.example");
    for mail in [&named, &nameless, &v6] {
        pass(&old, mail);
    }
    let first = mail("192.0.2.77", "mx.first.example", "f@first.example");
    old.ask(&first);
    let database = old.database();
    old.stop();
    std::thread::sleep(DELAY);
    let redis = Redis::start(&[]);
    for store in ["", &format!("[store]\nkind = \"redis\"\nservers = [\"{}\"]\n", redis.place())] {
        // Taken over before the first start.
        let mut new = Daemon::new(MPP, &address(), &settings(store));
        let import = ["store", "import", "--from", "sqlgrey", "--database", &database];
        let done = new.json(&import);
        assert_eq!(number(&done, "/proven/new"), 3, "{done}");
        assert_eq!(number(&done, "/first_tries/new"), 1, "{done}");
        assert_eq!(number(&new.json(&import), "/proven/new"), 0);
        new.launch();
        for mail in [&named, &nameless, &v6, &first] {
            assert!(lets_through(&new, mail), "{mail}");
        }
        assert!(!lets_through(
            &new,
            &mail("192.0.2.200", "mx.stranger.example", "s@stranger.example")
        ));
        assert!(
            !lets_through(&new, &mail("203.0.113.10", "unknown", "n@x.example")),
            "a neighbour"
        );
    }
}

#[test]
fn the_daemon_takes_nothing_else_and_from_no_other_store() {
    let new = Daemon::start(MPP, &address(), &settings(""));
    let socket = new.folder().join("state/admin.sock");
    let ask = |seed: &str, records: &str| {
        let request = serde_json::json!({
            "command": "store-import", "seed": seed, "records": records,
        });
        mpp_admin::ask(&socket, &request).map_err(|error| format!("{error:?}"))
    };
    let page = serde_json::json!({ "command": "store-page", "from": u64::MAX });
    let page = mpp_admin::ask(&socket, &page).unwrap();
    let seed = page["seed"].as_str().unwrap();
    // Tag and shelf, key, time, class, tries; shelf 1 is that of the proven.
    let moment = |tag: &str| format!("{tag}0102030405060708{}c800", "00f0ef3ca201");
    assert_eq!(ask(seed, &moment("11")).unwrap()["new"], 1);
    assert_eq!(ask(seed, &moment("11")).unwrap()["new"], 0, "it is known");
    assert!(ask("1", &moment("01")).unwrap_err().contains("another store"));
    for (what, records) in [
        ("a correspondent", moment("21")),
        ("what directories said", moment("41")),
        ("forgetting", "120102030405060708".to_owned()),
        ("an unblocking", "04000102030405060708".to_owned()),
        ("half a record", moment("11")[..20].to_owned()),
        ("no hexadecimal", "zz".to_owned()),
    ] {
        assert!(ask(seed, &records).is_err(), "{what}");
    }
    assert_eq!(number(&new.json(&["status"]), "/store/proven"), 1);
    // More than a request holds is no request.
    assert!(ask(seed, &moment("11").repeat(3000)).is_err());
    assert!(new.runs());
}
