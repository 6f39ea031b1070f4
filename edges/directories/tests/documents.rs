//! The examples of the documents, run as they are against real servers: only addresses, and the
//! file of the password, are replaced.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{ask, open_with, wanted};
use mpp_hub::directory::What;
use mpp_tests::real::ca::Authority;
use mpp_tests::real::ds389::{self, Ds389};
use mpp_tests::real::fake_smtp::{Act, FakeSmtp};
use mpp_tests::real::mariadb::MariaDb;
use mpp_tests::real::postgres::Postgres;
use mpp_tests::real::samba::{self, Samba};
use mpp_tests::real::schemas;
use mpp_tests::real::slapd::{self, Slapd};
use mpp_tests::real::{address, folder};

/// The toml blocks of a document.
fn blocks(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/directories").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.map(str::to_owned).collect()
}

async fn works(text: &str) {
    let directory = open_with(text, &[("/etc/mpp/db-password", "secret\n")]);
    assert_eq!(ask(&directory, "anna@one.example").await, Ok(true), "{text}");
    assert_eq!(ask(&directory, "nobody@one.example").await, Ok(false), "{text}");
    let examined = directory.examine().await;
    assert!(examined.iter().any(|one| one.result.is_ok()), "{examined:?}");
}

/// An example, with the servers that there are.
async fn finds(block: &str, (host, url): (&str, &str), more: [(&str, &str); 3], ca: &str) {
    let mut text = block.replace(&format!("{host}\""), &format!("{url}\""));
    for (from, to) in more {
        if !from.is_empty() {
            text = text.replace(from, to);
        }
    }
    let text = text.replace("ca = ", "server_name = \"localhost\"\nca = ");
    let password = if text.contains("active-directory") {
        samba::PASSWORD
    } else if text.contains("389ds") {
        ds389::PASSWORD
    } else {
        slapd::PASSWORD
    };
    let files = [("/etc/mpp/ca.pem", ca), ("/etc/mpp/ldap-password", password)];
    let directory = open_with(&text, &files);
    let domain = if text.contains("active-directory") { "ad.test" } else { "test.example" };
    assert_eq!(ask(&directory, &format!("u1@{domain}")).await, Ok(true), "{text}");
    assert_eq!(ask(&directory, &format!("nobody@{domain}")).await, Ok(false), "{text}");
    if text.contains("people:sales") {
        let member = wanted(What::Member("sales".into()), &format!("u2@{domain}"));
        assert_eq!(directory.look_up(&member).await, Ok(true), "{text}");
    }
    let examined = directory.examine().await;
    assert!(examined.iter().any(|one| one.result.is_ok()), "{examined:?}");
}

#[tokio::test]
async fn examples_with_ldap() {
    let blocks = blocks("ldap.md");
    assert_eq!(blocks.len(), 3);
    let authority = Authority::new();
    let certificate = authority.sign(&["DNS:localhost"]);
    let (open, active) = (Slapd::start(&certificate, 10, ""), Samba::start(&certificate, 10));
    let ds = Ds389::start(10);
    let none = ("", "");
    let base = ("\"dc=example,dc=org\"", "\"dc=test,dc=example\"");
    let reader = ("cn=reader,dc=example,dc=org", slapd::READER);
    let gone = ("ldaps://ldap1.example.org", "ldaps://127.0.0.1:1");
    let place = ("ldaps://ldap2.example.org", open.tls_url());
    let ca = authority.text();
    finds(&blocks[0], (place.0, &place.1), [base, reader, gone], &ca).await;
    let manager = ("cn=reader,dc=example,dc=org", ds389::READER);
    let url = ds.url();
    finds(&blocks[1], ("ldap://ds.example.org", &url), [base, manager, none], &ds.authority())
        .await;
    let base = ("\"dc=example,dc=org\"", "\"DC=ad,DC=test\"");
    let reader = ("mpp@example.org", samba::READER);
    let url = active.tls_url();
    finds(&blocks[2], ("ldaps://dc1.example.org", &url), [base, reader, none], &ca).await;
}

#[tokio::test]
async fn examples_with_databases() {
    let blocks = blocks("sql.md");
    assert_eq!(blocks.len(), 4);
    let maria = MariaDb::start(&[]);
    let (tables, users) = (schemas::POSTFIXADMIN_MYSQL, schemas::POSTFIXADMIN_USERS);
    maria.run(&format!("CREATE DATABASE postfix; USE postfix; {tables} {users}"));
    maria.run("CREATE USER mpp@'%' IDENTIFIED BY 'secret'; GRANT SELECT ON postfix.* TO mpp@'%'");
    // The first of the two is not there.
    let text = blocks[0].replace("db1.example.org", &address());
    works(&text.replace("db2.example.org", maria.address())).await;

    let postgres = Postgres::start(&[]);
    postgres.run("postgres", "CREATE USER mpp PASSWORD 'secret'");
    let own = "CREATE TABLE users (email text, enabled boolean);
        CREATE TABLE aliases (source text); CREATE TABLE domains (name text);
        INSERT INTO users VALUES ('Anna@one.example', true), ('nobody@one.example', false);";
    let iredmail = format!("{} {}", schemas::IREDMAIL_POSTGRES, schemas::IREDMAIL_USERS);
    for (block, database, tables) in [(1, "vmail", iredmail.as_str()), (2, "mail", own)] {
        postgres.run("postgres", &format!("CREATE DATABASE {database}"));
        let grant = "GRANT SELECT ON ALL TABLES IN SCHEMA public TO mpp";
        postgres.run(database, &format!("{tables} {grant}"));
        works(&blocks[block].replace("db.example.org", postgres.address())).await;
    }

    let folder = folder();
    let file = folder.path().join("users.db");
    let users = "CREATE TABLE users (email text); INSERT INTO users VALUES ('anna@one.example');";
    assert!(Command::new("sqlite3").arg(&file).arg(users).status().unwrap().success());
    works(&blocks[3].replace("/var/mail/users.db", &file.display().to_string())).await;
}

#[tokio::test]
async fn examples_with_next_hops() {
    let server = FakeSmtp::start(|line| match line.get(..4).unwrap_or_default() {
        "" => Act::Say("220 next.example ESMTP".to_owned()),
        "RCPT" if line.contains("<anna@") => Act::Say("250 2.1.5 Ok".to_owned()),
        "RCPT" => Act::Say("550 5.1.1 User unknown".to_owned()),
        _ => Act::Say("250 Ok".to_owned()),
    });
    let blocks = blocks("smtp.md");
    assert_eq!(blocks.len(), 1);
    let text = blocks[0].replace("mail.example.org:25", &format!("{}:25", address()));
    works(&text.replace("mail2.example.org:25", server.address())).await;
    assert_eq!(server.count("EHLO mx.example.org"), server.connections());
}
