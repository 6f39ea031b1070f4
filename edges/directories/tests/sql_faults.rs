//! SQL directories when something is wrong: an error is never the answer that somebody does not
//! exist, names what is wrong, holds no password, and is over once the cause is.
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
use std::time::{Duration, Instant};

use common::{ask, open, open_with, trouble};
use mpp_hub::directory::Directory;
use mpp_tests::real::mariadb::MariaDb;
use mpp_tests::real::postgres::Postgres;
use mpp_tests::real::{address, folder};

const USERS: &str = "CREATE TABLE users (email varchar(255));
    INSERT INTO users VALUES ('anna@one.example');";
const QUERY: &str = "query = \"SELECT 1 FROM users WHERE email = {address}\"";
const ANNA: &str = "anna@one.example";
const NOBODY: &str = "nobody@one.example";

fn maria(options: &[&str]) -> MariaDb {
    let server = MariaDb::start(options);
    server.run(&format!("CREATE DATABASE m; USE m; {USERS}"));
    server.run("CREATE USER mpp@'%' IDENTIFIED BY 'secret'; GRANT SELECT ON m.* TO mpp@'%'");
    server
}

fn postgres(options: &[&str]) -> Postgres {
    let server = Postgres::start(options);
    server.run("postgres", "CREATE USER mpp PASSWORD 'secret'");
    server.run("postgres", "CREATE DATABASE m");
    server.run("m", &format!("{USERS} GRANT SELECT ON users TO mpp"));
    server
}

/// A directory of these servers, `m` and `p` standing for the schemes, with more settings.
fn at(servers: &[String], more: &str) -> Arc<dyn Directory> {
    open(&format!("kind = \"sql\"\nservers = {servers:?}\npassword = \"secret\"\n{more}"))
}

fn url(server: &MariaDb) -> String {
    format!("mysql://mpp@{}/m", server.address())
}

fn pg_url(server: &Postgres) -> String {
    format!("postgres://mpp@{}/m", server.address())
}

async fn works(directory: &Arc<dyn Directory>) {
    assert_eq!(ask(directory, ANNA).await, Ok(true));
    assert_eq!(ask(directory, NOBODY).await, Ok(false));
}

/// What is wrong must be named, without the password, by look-up and examination alike.
async fn names(directory: &Arc<dyn Directory>, wanted: &[&str]) {
    let looked = trouble(ask(directory, NOBODY).await);
    let examined = directory.examine().await;
    let examined = examined.first().unwrap().result.as_ref().unwrap_err();
    for text in [&looked, examined] {
        assert!(wanted.iter().any(|wanted| text.contains(wanted)), "{wanted:?}: {text}");
        assert!(!text.contains("hunter2") && !text.contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn mistakes_of_the_operator_are_named_and_answer_nothing() {
    let (maria, postgres) = (maria(&[]), postgres(&[]));
    for (url, wrong_password) in
        [(url(&maria), "Access denied"), (pg_url(&postgres), "password authentication failed")]
    {
        let head = format!("kind = \"sql\"\nservers = [{url:?}]\n");
        let login = open(&format!("{head}password = \"hunter2\"\n{QUERY}"));
        names(&login, &[wrong_password]).await;
        let login = open(&format!("{head}{QUERY}"));
        names(&login, &["Access denied", "password", "28P01"]).await;
        let table = QUERY.replace("users", "user_s");
        let tables = ["doesn't exist", "does not exist"];
        names(&at(std::slice::from_ref(&url), &table), &tables).await;
        let column = QUERY.replace("email", "e_mail");
        names(&at(std::slice::from_ref(&url), &column), &["Unknown column", "does not exist"])
            .await;
        let syntax = QUERY.replace("FROM", "FORM");
        names(&at(std::slice::from_ref(&url), &syntax), &["syntax"]).await;
        let database = url.replace("/m", "/z").replace("//zpp", "//mpp");
        names(&at(&[database], QUERY), &["denied", "does not exist"]).await;
        let counting = "query = \"SELECT COUNT(*) FROM users WHERE email = {address}\"";
        let counting = at(std::slice::from_ref(&url), counting);
        let examined = counting.examine().await;
        assert!(examined[0].result.as_ref().unwrap_err().contains("COUNT(*)"), "{examined:?}");
        let offered = at(&[url], &format!("{QUERY}\ntls = \"require\""));
        names(&offered, &["TLS", "tls"]).await;
    }
    let nowhere = at(&[format!("mysql://mpp@{}/m", address())], QUERY);
    names(&nowhere, &["refused"]).await;
    let nowhere = at(&["postgres://mpp@no-such-host.invalid/m".to_owned()], QUERY);
    names(&nowhere, &["no connection", "no answer"]).await;
}

#[tokio::test]
async fn a_dead_mariadb_is_trouble_until_it_is_back() {
    let mut server = maria(&[]);
    let directory = at(&[url(&server)], QUERY);
    works(&directory).await;
    server.kill();
    for _ in 0..5 {
        let text = trouble(ask(&directory, NOBODY).await);
        assert!(text.contains("no connection"), "{text}");
    }
    server.launch();
    works(&directory).await;
    // Started anew between two look-ups: the next one does not notice.
    server.kill();
    server.launch();
    assert_eq!(ask(&directory, ANNA).await, Ok(true));
    // A connection that the server itself has ended.
    server.run("SELECT CONCAT('KILL ', id) FROM information_schema.processlist WHERE user = 'mpp'");
    let connections =
        server.run("SELECT id FROM information_schema.processlist WHERE user = 'mpp'");
    for id in connections.lines() {
        server.run(&format!("KILL {id}"));
    }
    assert_eq!(ask(&directory, ANNA).await, Ok(true));
}

#[tokio::test]
async fn a_dead_postgres_is_trouble_until_it_is_back() {
    let mut server = postgres(&[]);
    let directory = at(&[pg_url(&server)], QUERY);
    works(&directory).await;
    server.kill();
    for _ in 0..5 {
        let text = trouble(ask(&directory, NOBODY).await);
        assert!(text.contains("no connection"), "{text}");
    }
    server.launch();
    works(&directory).await;
    server.kill();
    server.launch();
    assert_eq!(ask(&directory, ANNA).await, Ok(true));
    server.run("m", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mpp'");
    assert_eq!(ask(&directory, ANNA).await, Ok(true));
}

#[tokio::test]
async fn a_server_that_hangs_takes_one_time_out() {
    let (maria, postgres) = (maria(&[]), postgres(&[]));
    let first = at(&[url(&maria)], &format!("{QUERY}\n timeout = \"300ms\""));
    let second = at(&[pg_url(&postgres)], &format!("{QUERY}\n timeout = \"300ms\""));
    for directory in [&first, &second] {
        works(directory).await;
    }
    maria.freeze();
    postgres.freeze();
    for directory in [&first, &second] {
        for _ in 0..3 {
            let began = Instant::now();
            let text = trouble(ask(directory, NOBODY).await);
            assert!(text.contains("no answer within 300 ms"), "{text}");
            let took = began.elapsed();
            assert!(took < Duration::from_millis(600), "{took:?}");
        }
        let text = directory.examine().await[0].result.clone().unwrap_err();
        assert!(text.contains("no answer within"), "{text}");
    }
    maria.thaw();
    postgres.thaw();
    for directory in [&first, &second] {
        works(directory).await;
    }
}

#[tokio::test]
async fn the_next_server_answers_for_one_that_does_not() {
    let (mut first, second) = (maria(&[]), maria(&[]));
    second.run("INSERT INTO m.users VALUES ('only@second.example')");
    let directory = at(&[url(&first), url(&second)], &format!("{QUERY}\ntimeout = \"400ms\""));
    let of_second = "only@second.example";
    assert_eq!(ask(&directory, of_second).await, Ok(false), "the first is asked");
    first.freeze();
    let began = Instant::now();
    assert_eq!(ask(&directory, of_second).await, Ok(true));
    assert!(began.elapsed() >= Duration::from_millis(300), "the first was given its time");
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(ask(&directory, of_second).await, Ok(true));
    }
    assert!(began.elapsed() < Duration::from_millis(400), "and is then left alone");
    first.thaw();
    first.kill();
    assert_eq!(ask(&directory, ANNA).await, Ok(true));
    first.launch();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(ask(&directory, of_second).await, Ok(false), "the first is asked again");
    let examined = directory.examine().await;
    assert!(examined.len() == 2 && examined.iter().all(|one| one.result.is_ok()), "{examined:?}");
}

#[tokio::test]
async fn a_look_up_that_is_dropped_spoils_nothing() {
    let (maria, postgres) = (maria(&[]), postgres(&[]));
    let slow = "SELECT 1 FROM users WHERE email = {address} AND ";
    let slow_maria = format!("query = \"{slow} SLEEP(0.05) = 0\"\nconnections = 2");
    let slow_postgres = format!("query = \"{slow} pg_sleep(0.05)::text = ''\"\nconnections = 2");
    for directory in [at(&[url(&maria)], &slow_maria), at(&[pg_url(&postgres)], &slow_postgres)] {
        for round in 0..60_u64 {
            // Anna's answer is yes; dropped after a varying time, it must never be the next one's.
            let patience = Duration::from_millis(round % 30 * 3);
            let _ = tokio::time::timeout(patience, ask(&directory, ANNA)).await;
            assert_eq!(ask(&directory, NOBODY).await, Ok(false), "round {round}");
        }
        assert_eq!(ask(&directory, ANNA).await, Ok(true));
    }
}

#[tokio::test]
async fn too_many_connections_are_trouble() {
    let server = maria(&["--max-connections=10", "--extra-max-connections=2"]);
    let mut others = Vec::new();
    // One more than the limit is kept for an administrator.
    for _ in 0..20 {
        let other = at(&[url(&server)], QUERY);
        if let Err(trouble) = ask(&other, ANNA).await {
            assert!(trouble.to_string().contains("Too many connections"), "{trouble}");
            others.clear();
            break;
        }
        others.push(other);
    }
    assert!(others.is_empty(), "the limit was reached");
    let directory = at(&[url(&server)], QUERY);
    tokio::time::sleep(Duration::from_millis(200)).await;
    works(&directory).await;
}

#[tokio::test]
async fn a_locked_or_missing_file_is_trouble() {
    let folder = folder();
    let file = folder.path().join("users.db");
    let server = format!("sqlite:{}", file.display());
    let settings = format!("kind = \"sql\"\nservers = [{server:?}]\n{QUERY}\ntimeout = \"400ms\"");
    let directory = open(&settings);
    names(&directory, &["unable to open"]).await;
    let sqlite = |statements: &[&str]| {
        Command::new("sqlite3").arg(&file).args(statements).spawn().expect("sqlite3")
    };
    assert!(sqlite(&[USERS]).wait().unwrap().success());
    works(&directory).await;
    let mut locking = sqlite(&["BEGIN EXCLUSIVE", ".shell sleep 2"]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    // The runtime has one thread here: it must go on while a look-up waits for the lock.
    let ticking = tokio::spawn(async {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Instant::now()
    });
    let text = trouble(ask(&directory, NOBODY).await);
    assert!(text.contains("locked"), "{text}");
    let ended = Instant::now();
    assert!(
        ticking.await.unwrap() <= ended + Duration::from_millis(100),
        "the runtime stood still"
    );
    assert!(locking.wait().unwrap().success());
    works(&directory).await;
    std::fs::write(&file, "this is no database, whatever its name says").unwrap();
    let text = trouble(ask(&open(&settings), NOBODY).await);
    assert!(text.contains("not a database"), "{text}");
}

#[tokio::test]
async fn certificates_are_verified_when_tls_is_required() {
    let folder = folder();
    let (maria_at, files) = (MariaDb::start(&[]), folder.path());
    let address = maria_at.address().to_owned();
    drop(maria_at);
    certificate(files, &address);
    let file = |name: &str| files.join(name).display().to_string();
    let [key, cert] =
        [format!("--ssl-key={}", file("key")), format!("--ssl-cert={}", file("cert"))];
    let server = maria(&[&key, &cert, "--general-log", &format!("--bind-address={address}")]);
    let ca = std::fs::read_to_string(files.join("cert")).unwrap();
    let url = format!("mysql://mpp@{address}/m");
    let with = |more: &str, ca: &str| {
        let head = "[directory.d]\nkind = \"sql\"\npassword = \"secret\"\n";
        open_with(&format!("{head}servers = [{url:?}]\n{QUERY}\n{more}"), &[("ca.pem", ca)])
    };
    works(&with("tls = \"require\"\nca = \"ca.pem\"", &ca)).await;
    assert!(server.queries().contains("using SSL/TLS"), "{}", server.queries());
    works(&with("tls = \"prefer\"", "")).await;
    works(&with("tls = \"off\"", "")).await;
    names(&with("tls = \"require\"", ""), &["certificate"]).await;
    certificate(files, "127.0.0.9");
    let other = std::fs::read_to_string(files.join("cert")).unwrap();
    names(&with("tls = \"require\"\nca = \"ca.pem\"", &other), &["certificate"]).await;
}

/// A certificate for this address, its own authority.
fn certificate(folder: &std::path::Path, address: &str) {
    let done = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=test", "-keyout", "key", "-out", "cert"])
        .args(["-addext", &format!("subjectAltName=IP:{address}")])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .current_dir(folder)
        .output()
        .expect("openssl");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
