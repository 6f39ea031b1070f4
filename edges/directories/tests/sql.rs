//! SQL directories against real MariaDB, PostgreSQL and SQLite: whom they know, and that no address
//! is ever part of a query. What happens when a server fails is in `sql_faults.rs`.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

mod common;

use std::process::Command;
use std::sync::Arc;

use common::{ask, open, wanted};
use mpp_hub::directory::{Directory, What};
use mpp_tests::real::mariadb::MariaDb;
use mpp_tests::real::postgres::Postgres;
use mpp_tests::real::{folder, schemas, until};

/// What every project's tables must say about the users in `schemas`.
async fn check_users(directory: &Arc<dyn Directory>, preset: &str) {
    let common = [
        ("anna@one.example", true),
        ("info@one.example", true),
        ("nobody@one.example", false),
        ("anna@far.example", false),
        ("anything@all.example", true),
        ("a_na@one.example", false),
        ("an%@one.example", false),
        ("@one.example", false),
        ("anna", false),
        ("", false),
    ];
    let with_switches = [
        ("idle@one.example", false),
        ("gone@one.example", false),
        ("otto@off.example", false),
        ("nobody@off.example", false),
        ("anna@alias.example", true),
        ("info@alias.example", true),
        ("nobody@alias.example", false),
        ("idle@alias.example", false),
        ("anybody@backup.example", true),
    ];
    let switched = if preset == "virtual-users" { &[][..] } else { &with_switches[..] };
    for (address, known) in common.iter().chain(switched) {
        assert_eq!(ask(directory, address).await, Ok(*known), "{preset}: {address}");
    }
    let mut domains = vec![("one.example", true), ("all.example", true), ("far.example", false)];
    if preset != "virtual-users" {
        domains.extend([("off.example", false), ("alias.example", true), ("backup.example", true)]);
    }
    for (domain, ours) in domains {
        let question = wanted(What::Domain, domain);
        assert_eq!(directory.look_up(&question).await, Ok(ours), "{preset}: {domain}");
    }
    for (address, group, member) in [
        ("anna@one.example", "info@one.example", true),
        ("a_c@far.example", "info@one.example", true),
        ("abc@far.example", "info@one.example", false),
        ("%@far.example", "info@one.example", false),
        ("anna@one.example", "other@one.example", false),
        ("otto@off.example", "info@one.example", false),
    ] {
        let question = wanted(What::Member(group.to_owned()), address);
        assert_eq!(directory.look_up(&question).await, Ok(member), "{preset}: {address}");
    }
    let examined = directory.examine().await;
    assert_eq!(examined.len(), 1);
    let works = examined[0].result.as_ref().unwrap();
    assert!(
        works.ends_with("`query` works, `domain_query` works, `member_query` works"),
        "{works}"
    );
}

fn mysql(server: &MariaDb, database: &str, more: &str) -> Arc<dyn Directory> {
    let address = server.address();
    let url = format!("servers = [\"mysql://mpp@{address}/{database}\"]");
    open(&format!("kind = \"sql\"\ntimeout = \"5s\"\n{url}\npassword = \"secret\"\n{more}"))
}

/// A MariaDB with an account for mpp that may read these databases.
fn maria(databases: &[(&str, &str, &str)], options: &[&str]) -> MariaDb {
    let server = MariaDb::start(options);
    for (name, tables, users) in databases {
        server.run(&format!("CREATE DATABASE {name}; USE {name}; {tables} {users}"));
    }
    server.run("CREATE USER mpp@'%' IDENTIFIED BY 'secret'; GRANT SELECT ON *.* TO mpp@'%'");
    server
}

/// A PostgreSQL with the same.
fn postgres(databases: &[(&str, &str, &str)], options: &[&str]) -> Postgres {
    let server = Postgres::start(options);
    server.run("postgres", "CREATE USER mpp PASSWORD 'secret'");
    for (name, tables, users) in databases {
        server.run("postgres", &format!("CREATE DATABASE {name}"));
        let grant = "GRANT SELECT ON ALL TABLES IN SCHEMA public TO mpp";
        server.run(name, &format!("{tables} {users} {grant}"));
    }
    server
}

fn pg(server: &Postgres, database: &str, more: &str) -> Arc<dyn Directory> {
    let address = server.address();
    let url = format!("servers = [\"postgres://mpp@{address}/{database}\"]");
    open(&format!("kind = \"sql\"\ntimeout = \"5s\"\n{url}\npassword = \"secret\"\n{more}"))
}

fn sqlite(file: &std::path::Path, statements: &str) {
    let done = Command::new("sqlite3").arg(file).arg(statements).status();
    assert!(done.expect("install the Debian package sqlite3").success());
}

#[tokio::test]
async fn presets_on_mariadb() {
    let server = maria(
        &[
            ("pa", schemas::POSTFIXADMIN_MYSQL, schemas::POSTFIXADMIN_USERS),
            ("vmail", schemas::IREDMAIL_MYSQL, schemas::IREDMAIL_USERS),
            ("mailserver", schemas::VIRTUAL_USERS, ""),
        ],
        &[],
    );
    for (preset, database) in
        [("postfixadmin", "pa"), ("iredmail", "vmail"), ("virtual-users", "mailserver")]
    {
        let directory = mysql(&server, database, &format!("preset = \"{preset}\""));
        check_users(&directory, preset).await;
    }
    // By its unix socket, where root needs no password here.
    let socket = server.socket();
    let directory = open(&format!(
        "kind = \"sql\"\nservers = [\"mysql://root@/pa?socket={}\"]\npreset = \"postfixadmin\"",
        socket.display()
    ));
    assert_eq!(ask(&directory, "anna@one.example").await, Ok(true));
}

#[tokio::test]
async fn presets_on_postgres() {
    let server = postgres(
        &[
            ("pa", schemas::POSTFIXADMIN_POSTGRES, schemas::POSTFIXADMIN_USERS),
            ("vmail", schemas::IREDMAIL_POSTGRES, schemas::IREDMAIL_USERS),
            ("mailserver", schemas::VIRTUAL_USERS, ""),
        ],
        &[],
    );
    for (preset, database) in
        [("postfixadmin", "pa"), ("iredmail", "vmail"), ("virtual-users", "mailserver")]
    {
        let directory = pg(&server, database, &format!("preset = \"{preset}\""));
        check_users(&directory, preset).await;
    }
    let folder = server.folder().display();
    let directory = open(&format!(
        "kind = \"sql\"\nservers = [\"postgres://mpp@/pa?socket={folder}\"]\n\
         preset = \"postfixadmin\"",
    ));
    assert_eq!(ask(&directory, "anna@one.example").await, Ok(true));
}

#[tokio::test]
async fn presets_on_sqlite() {
    let folder = folder();
    let booleans = schemas::POSTFIXADMIN_POSTGRES.replace("DEFAULT true", "DEFAULT 1");
    for (preset, tables, users) in [
        ("postfixadmin", booleans.as_str(), schemas::POSTFIXADMIN_USERS),
        ("iredmail", schemas::IREDMAIL_POSTGRES, schemas::IREDMAIL_USERS),
        ("virtual-users", schemas::VIRTUAL_USERS, ""),
    ] {
        let file = folder.path().join(preset);
        let tables = tables.replace("id serial PRIMARY KEY", "id integer PRIMARY KEY");
        sqlite(&file, &format!("{tables} {users}"));
        let server = format!("servers = [\"sqlite:{}\"]", file.display());
        let directory = open(&format!("kind = \"sql\"\n{server}\npreset = \"{preset}\""));
        check_users(&directory, preset).await;
    }
}

/// What strangers may send for an address.
fn attempts() -> Vec<String> {
    let mut all: Vec<String> = [
        "x' OR '1'='1",
        "x'; DROP TABLE users; -- @one.example",
        "\"x\\\"' OR 1=1 --\"@one.example",
        "x\\' OR 1=1 -- @one.example",
        "x\\",
        "x'\\''@one.example",
        "x/**/UNION/**/SELECT/**/1@one.example",
        "$1@one.example",
        "?@one.example",
        "{address}@one.example",
        "%@one.example",
        "x\n' OR 1=1\n@one.example",
        "x\0' OR 1=1 --@one.example",
        "\u{2019} OR 1=1 -- @one.example",
        "\u{1f600}@one.example",
        "\u{fffd}\u{202e}@one.example",
        "ü@one.example",
    ]
    .map(str::to_owned)
    .to_vec();
    all.push(format!("{}@one.example", "x".repeat(65_536)));
    all.push(format!("{}@one.example", "'".repeat(65_536)));
    all
}

const QUERY: &str =
    "query = \"SELECT email FROM users WHERE email = {address} OR email = CONCAT('@', {domain})\"";

#[tokio::test]
async fn mariadb_gets_addresses_beside_the_query() {
    let users = "CREATE TABLE users (email varchar(255) PRIMARY KEY) CHARSET=latin1;
        INSERT INTO users SELECT CONCAT('u', seq, '@one.example') FROM seq_1_to_10000;";
    let server = maria(&[("m", users, "")], &["--general-log"]);
    let directory = mysql(&server, "m", QUERY);
    for attempt in attempts() {
        assert_eq!(ask(&directory, &attempt).await, Ok(false), "{attempt:.80}");
        assert_eq!(ask(&directory, "u9999@one.example").await, Ok(true));
    }
    assert_eq!(server.run("SELECT COUNT(*) FROM m.users").trim(), "10000");
    let log = server.queries();
    let prepared: Vec<&str> = log.lines().filter(|line| line.contains("Prepare")).collect();
    assert!(!prepared.is_empty() && prepared.len() < 8, "prepared once for each connection");
    for line in prepared {
        assert!(line.ends_with("email = ? OR email = CONCAT('@', ?)"), "{line}");
    }
    // An executed statement is logged with its values, quoted by the server itself.
    assert!(log.contains("email = 'x\\'; DROP TABLE users; -- @one.example'"), "{log:.3000}");
    assert!(
        !log.lines()
            .any(|line| line.contains("Query\tDROP") || line.contains("Query\tSELECT email"))
    );
}

#[tokio::test]
async fn postgres_gets_addresses_beside_the_query() {
    let users =
        "CREATE TABLE users AS SELECT 'u'||g||'@one.example' email FROM generate_series(1,10000) g;
        CREATE UNIQUE INDEX ON users (email);";
    let server = postgres(&[("m", users, "")], &["log_statement=all"]);
    let directory = pg(&server, "m", QUERY);
    for attempt in attempts() {
        assert_eq!(ask(&directory, &attempt).await, Ok(false), "{attempt:.80}");
        assert_eq!(ask(&directory, "u9999@one.example").await, Ok(true));
    }
    assert_eq!(server.run("m", "SELECT COUNT(*) FROM users").trim(), "10000");
    let log = server.log();
    assert!(log.contains("email = $1 OR email = CONCAT('@', $2)"), "{log:.3000}");
    assert!(log.contains("$1 = 'x''; DROP TABLE users; -- @one.example'"), "{log:.3000}");
    assert!(!log.lines().any(|line| line.contains("statement: DROP")));
}

#[tokio::test]
async fn a_character_set_that_cannot_hold_an_address_knows_nobody_of_that_name() {
    let server = postgres(&[], &[]);
    server.run("postgres", "CREATE DATABASE l ENCODING 'LATIN1' TEMPLATE template0");
    server.run(
        "l",
        "CREATE TABLE users (email text); INSERT INTO users VALUES ('u1@one.example');
        GRANT SELECT ON users TO mpp",
    );
    let directory = pg(&server, "l", QUERY);
    assert_eq!(ask(&directory, "\u{1f600}@one.example").await, Ok(false));
    assert_eq!(ask(&directory, "u1@one.example").await, Ok(true));
}

#[tokio::test]
async fn sqlite_gets_addresses_beside_the_query_and_is_only_read() {
    let folder = folder();
    let file = folder.path().join("users.db");
    sqlite(
        &file,
        "CREATE TABLE users (email text PRIMARY KEY);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
        INSERT INTO users SELECT 'u'||i||'@one.example' FROM n;",
    );
    let before = std::fs::read(&file).unwrap();
    let server = format!("kind = \"sql\"\nservers = [\"sqlite:{}\"]", file.display());
    let directory = open(&format!("{server}\n{QUERY}"));
    for attempt in attempts() {
        assert_eq!(ask(&directory, &attempt).await, Ok(false), "{attempt:.80}");
        assert_eq!(ask(&directory, "u9999@one.example").await, Ok(true));
    }
    let writing = open(&format!(
        "{server}\nquery = \"DELETE FROM users WHERE email = {{address}} RETURNING 1\""
    ));
    let text = common::trouble(ask(&writing, "u9999@one.example").await);
    assert!(text.contains("readonly"), "{text}");
    assert_eq!(std::fs::read(&file).unwrap(), before, "not a byte has changed");
}

#[tokio::test]
async fn connections_are_kept_and_not_more_than_allowed() {
    let users =
        "CREATE TABLE users (email varchar(255)); INSERT INTO users VALUES ('u1@one.example');";
    let server = maria(&[("m", users, "")], &["--general-log"]);
    let directory = mysql(&server, "m", &format!("connections = 3\n{QUERY}"));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let directory = Arc::clone(&directory);
        asking.spawn(async move { ask(&directory, "u1@one.example").await });
    }
    while let Some(answer) = asking.join_next().await {
        assert_eq!(answer.unwrap(), Ok(true));
    }
    let connects = until("the log", || {
        let log = server.queries();
        (log.matches("Execute").count() >= 200).then(|| log.matches("Connect\tmpp").count())
    });
    assert!((1..=3).contains(&connects), "{connects} connections for 200 look-ups");
}
