//! Tables of policyd and cluebringer in MariaDB, and sqlgrey's in MariaDB and PostgreSQL, by the schemas
//! that these programs publish.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::greylists::{Greylist, Kind};
use mpp_tests::real::mariadb::MariaDb;
use mpp_tests::real::postgres::Postgres;

use crate::{MPP, lets_through, mail, number, settings};

/// policyd 1.8.
const POLICYD: &str = "
CREATE TABLE triplet (_from varchar(60) NOT NULL DEFAULT '', _rcpt varchar(60) NOT NULL DEFAULT '',
  _host varchar(20) NOT NULL DEFAULT '', _datenew int(10) unsigned NOT NULL DEFAULT 0,
  _datelast int(10) unsigned NOT NULL DEFAULT 0, _count int(10) unsigned NOT NULL DEFAULT 0,
  PRIMARY KEY (_host, _from, _rcpt)) ENGINE=MyISAM DEFAULT CHARSET=latin1;
CREATE TABLE whitelist (_whitelist varchar(15) NOT NULL DEFAULT '', _description char(60) NOT NULL DEFAULT '',
  _expire int(10) unsigned NOT NULL DEFAULT 0, UNIQUE KEY _whitelist (_whitelist))
  ENGINE=MyISAM DEFAULT CHARSET=latin1;
";

/// cluebringer 2.0.
const CLUEBRINGER: &str = "
CREATE TABLE greylisting_autowhitelist (ID SERIAL, TrackKey VARCHAR(512) NOT NULL,
  Added BIGINT UNSIGNED NOT NULL, LastSeen BIGINT UNSIGNED NOT NULL, Comment VARCHAR(1024),
  UNIQUE (TrackKey)) ENGINE=InnoDB CHARACTER SET latin1 COLLATE latin1_bin;
CREATE TABLE greylisting_tracking (TrackKey VARCHAR(512) NOT NULL, Sender VARCHAR(255) NOT NULL,
  Recipient VARCHAR(255) NOT NULL, FirstSeen BIGINT UNSIGNED NOT NULL, LastUpdate BIGINT UNSIGNED NOT NULL,
  Tries BIGINT UNSIGNED NOT NULL, Count BIGINT UNSIGNED NOT NULL, UNIQUE(TrackKey,Sender,Recipient))
  ENGINE=InnoDB CHARACTER SET latin1 COLLATE latin1_bin;
";

/// sqlgrey 1.8, as it makes them itself.
const SQLGREY: &str = "
CREATE TABLE from_awl (sender_name varchar(64) NOT NULL, sender_domain varchar(255) NOT NULL,
  src varchar(39) NOT NULL, first_seen timestamp NOT NULL, last_seen timestamp NOT NULL,
  PRIMARY KEY (src, sender_domain, sender_name));
CREATE TABLE domain_awl (sender_domain varchar(255) NOT NULL, src varchar(39) NOT NULL,
  first_seen timestamp NOT NULL, last_seen timestamp NOT NULL, PRIMARY KEY (src, sender_domain));
CREATE TABLE connect (sender_name varchar(64) NOT NULL, sender_domain varchar(255) NOT NULL,
  src varchar(39) NOT NULL, rcpt varchar(255) NOT NULL, first_seen timestamp NOT NULL);
";

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Who passed by the tables of these tests, who tried first, and who did neither.
fn holds(new: &Daemon) {
    for client in ["198.51.100.7", "203.0.113.9"] {
        assert!(lets_through(new, &mail(client, "mx.good.example", "a@good.example")), "{client}");
    }
    let first = mail("192.0.2.77", "mx.first.example", "f@first.example");
    assert!(lets_through(new, &first), "a first try, long enough ago");
    for client in ["198.18.7.7", "192.0.2.200"] {
        let stranger = mail(client, "mx.stranger.example", "s@stranger.example");
        assert!(!lets_through(new, &stranger), "{client}");
    }
}

/// Imports with an account that has a password, into a daemon that runs.
fn import(from: &str, url: &str) -> (Daemon, serde_json::Value) {
    let new = Daemon::start(MPP, &address(), &settings(""));
    new.write("password", "only reads\n");
    let password = format!("file:{}", new.folder().join("password").display());
    let done =
        new.json(&["store", "import", "--from", from, "--database", url, "--password", &password]);
    (new, done)
}

#[test]
fn policyd_and_cluebringer_are_taken_over_from_mariadb() {
    let db = MariaDb::start(&[]);
    db.run(
        "CREATE DATABASE policyd; CREATE DATABASE cbp; \
            CREATE USER mpp@'%' IDENTIFIED BY 'only reads'; GRANT SELECT ON *.* TO mpp@'%';",
    );
    let (now, ago, old) = (now_s(), now_s() - 600, now_s() - 90 * 86_400);
    db.run(&format!(
        "USE policyd; {POLICYD}
         INSERT INTO triplet (_host, _from, _rcpt, _datenew, _datelast, _count) VALUES
         ('198.51.100', 'a@good.example', 'bob@test.example', {ago}, {now}, 3),
         ('192.0.2', 'f@first.example', 'bob@test.example', {ago}, {ago}, 0),
         ('198.18.7', 'o@old.example', 'bob@test.example', {old}, {old}, 9),
         ('nonsense', 'o@old.example', 'bob@test.example', {ago}, {ago}, 0);
         INSERT INTO whitelist VALUES ('203.0.113.%', '# autowhitelisted host', {later}),
         ('198.18.%', '# ours', 0), ('198.18.7.%', '# autowhitelisted host', {ago});",
        later = now + 86_400
    ));
    db.run(&format!(
        "USE cbp; {CLUEBRINGER}
         INSERT INTO greylisting_tracking VALUES
         ('SenderIP:198.51.100.0/24', 'a@good.example', 'bob@test.example', {ago}, {now}, 1, 3),
         ('SenderIP:192.0.2.0/24', 'f@first.example', 'bob@test.example', {ago}, {ago}, 1, 0),
         ('SenderIP:198.18.0.0/15', '', 'bob@test.example', {ago}, {now}, 1, 1),
         ('SenderIP:198.18.7.0/24', 'o@old.example', 'bob@test.example', {old}, {old}, 1, 1);
         INSERT INTO greylisting_autowhitelist (TrackKey, Added, LastSeen) VALUES
         ('SenderIP:203.0.113.9/32', {ago}, {now});"
    ));
    for (from, database) in [("policyd", "policyd"), ("cluebringer", "cbp")] {
        let (new, done) = import(from, &format!("mysql://mpp@{}/{database}", db.address()));
        assert_eq!(number(&done, "/too_old"), 1, "{done}");
        assert_eq!(number(&done, "/proven/new"), 2, "{done}");
        assert_eq!(number(&done, "/first_tries/new"), 1, "{done}");
        let useless = done["useless"].as_object().unwrap();
        assert_eq!(useless.len(), 1, "one line cannot be used: {done}");
        holds(&new);
    }
    let nothing = Daemon::new(MPP, &address(), "");
    let said = nothing.tell_in_vain(&[
        "store",
        "import",
        "--from",
        "sqlgrey",
        "--database",
        &format!("mysql://root@/policyd?socket={}", db.socket().display()),
    ]);
    assert!(said.contains("the table connect"), "{said}");
}

#[test]
fn sqlgrey_is_taken_over_from_mariadb_and_postgresql_in_any_time_zone() {
    let fill = "INSERT INTO connect VALUES ('f', 'first.example', '192.0.2', 'bob@test.example',
        LATE);
        INSERT INTO from_awl VALUES ('a', 'good.example', '198.51.100', LATE, NOW());
        INSERT INTO domain_awl VALUES ('good.example', '203.0.113.9', LATE, NOW());";
    let db = MariaDb::start(&["--default-time-zone=+05:00"]);
    db.run(
        "CREATE DATABASE sqlgrey; CREATE USER mpp@'%' IDENTIFIED BY 'only reads'; \
            GRANT SELECT ON *.* TO mpp@'%';",
    );
    db.run(&format!(
        "USE sqlgrey; {SQLGREY} {}",
        fill.replace("LATE", "NOW() - INTERVAL 10 MINUTE")
    ));
    let (new, done) = import("sqlgrey", &format!("mysql://mpp@{}/sqlgrey", db.address()));
    assert_eq!((number(&done, "/proven/new"), number(&done, "/first_tries/new")), (2, 1), "{done}");
    holds(&new);
    let db = Postgres::start(&["timezone=Asia/Karachi", "log_timezone=Asia/Karachi"]);
    db.run("postgres", "CREATE DATABASE sqlgrey");
    db.run("sqlgrey", "CREATE ROLE mpp LOGIN PASSWORD 'only reads'");
    db.run(
        "sqlgrey",
        &format!("{SQLGREY} {}", fill.replace("LATE", "NOW() - INTERVAL '10 MINUTE'")),
    );
    db.run("sqlgrey", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO mpp");
    let (new, done) = import("sqlgrey", &format!("postgres://mpp@{}/sqlgrey", db.address()));
    assert_eq!((number(&done, "/proven/new"), number(&done, "/first_tries/new")), (2, 1), "{done}");
    holds(&new);
}

/// The commands of the document, as they stand there but for names of the reader's own machine.
#[test]
fn the_examples_of_the_document_work() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/moving.md");
    let document = std::fs::read_to_string(document).unwrap();
    let db = MariaDb::start(&[]);
    db.run("CREATE USER mpp@'%' IDENTIFIED BY 'only reads'; GRANT SELECT ON *.* TO mpp@'%';");
    for (name, tables) in [("policyd", POLICYD), ("cluebringer", CLUEBRINGER), ("sqlgrey", SQLGREY)]
    {
        db.run(&format!("CREATE DATABASE {name}; USE {name}; {tables}"));
    }
    let mut postgrey = Greylist::start(Kind::Postgrey(&[]), &address());
    let mut sqlgrey = Greylist::start(Kind::Sqlgrey, &address());
    for greylist in [&mut postgrey, &mut sqlgrey] {
        greylist.ask(&mail("192.0.2.77", "mx.first.example", "f@first.example"));
        greylist.stop();
    }
    let settings = document.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let new = Daemon::start(MPP, &address(), settings.unwrap());
    new.write("password", "only reads\n");
    let at = |name: &str| new.folder().join(name).display().to_string();
    let mut seen = 0;
    for line in document.lines().filter_map(|line| line.trim().strip_prefix("$ mpp ")) {
        let line = line
            .replace("/etc/mpp/mpp.toml", &at("mpp.toml"))
            .replace("/etc/mpp/db.password", &at("password"))
            .replace("/var/lib/postgrey", &postgrey.directory().display().to_string())
            .replace("sqlite:/var/lib/sqlgrey/sqlgrey.db", &sqlgrey.database())
            .replace("db.example.org", db.address());
        let output = Command::new(MPP).args(line.split_whitespace()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "mpp {line}: {said}");
        seen += 1;
    }
    assert_eq!(seen, 7, "where are the examples?");
}
