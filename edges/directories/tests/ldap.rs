//! LDAP directories against real servers: OpenLDAP, 389 Directory Server, Samba as Active Directory.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

mod common;

use std::sync::Arc;

use common::{ask, open, open_with, trouble, wanted};
use mpp_hub::directory::{Directory, Trouble, What};
use mpp_tests::real::ca::Authority;
use mpp_tests::real::ds389::{self, Ds389};
use mpp_tests::real::samba::{self, Samba};
use mpp_tests::real::slapd::{PASSWORD, READER, SUFFIX, Slapd};

const GROUPS: &str = "dn: cn=staff,ou=groups,dc=test,dc=example\nobjectClass: groupOfNames\n\
    cn: staff\nmember: uid=u1,ou=people,dc=test,dc=example\n\
    member: cn=inner,ou=groups,dc=test,dc=example\n\n\
    dn: cn=inner,ou=groups,dc=test,dc=example\nobjectClass: groupOfNames\n\
    cn: inner\nmember: uid=u2,ou=people,dc=test,dc=example\n\
    member: cn=staff,ou=groups,dc=test,dc=example\n\n\
    dn: cn=list,ou=groups,dc=test,dc=example\nobjectClass: groupOfNames\n\
    objectClass: inetLocalMailRecipient\ncn: list\nmailLocalAddress: list@test.example\n\
    member: uid=u2,ou=people,dc=test,dc=example\n\n\
    dn: uid=twin1,ou=people,dc=test,dc=example\nobjectClass: inetOrgPerson\nuid: twin1\ncn: T\n\
    sn: T\nmail: twin@test.example\n\n\
    dn: uid=twin2,ou=people,dc=test,dc=example\nobjectClass: inetOrgPerson\nuid: twin2\ncn: T\n\
    sn: T\nmail: twin@test.example\n\n";

fn slapd(authority: &Authority, users: u32) -> Slapd {
    let certificate = authority.sign(&["DNS:localhost", "DNS:ldap.test.example"]);
    Slapd::start(&certificate, users, GROUPS)
}

/// A directory of `OpenLDAP` at these servers, with more settings.
fn openldap(servers: &[String], more: &str) -> Arc<dyn Directory> {
    open_with(&settings(servers, more), &[("ca.pem", "")])
}

fn settings(servers: &[String], more: &str) -> String {
    format!(
        "[directory.d]\nkind = \"ldap\"\npreset = \"openldap\"\nservers = {servers:?}\n\
         base = \"{SUFFIX}\"\nbind_dn = \"{READER}\"\npassword = \"{PASSWORD}\"\n{more}"
    )
}

async fn member(directory: &Arc<dyn Directory>, who: &str, group: &str) -> Result<bool, Trouble> {
    directory.look_up(&wanted(What::Member(group.into()), who)).await
}

async fn domain(directory: &Arc<dyn Directory>, domain: &str) -> Result<bool, Trouble> {
    directory.look_up(&wanted(What::Domain, domain)).await
}

#[tokio::test]
async fn openldap_knows_users_aliases_lists_groups_and_domains() {
    let authority = Authority::new();
    let server = slapd(&authority, 10_000);
    let directory = openldap(&[server.url()], "");
    for (address, exists) in [
        ("u1@test.example", true),
        ("U9999@TEST.example", true),
        ("alias77@test.example", true),
        ("list@test.example", true),
        ("twin@test.example", true),
        ("nobody@test.example", false),
        ("u1@other.example", false),
    ] {
        assert_eq!(ask(&directory, address).await, Ok(exists), "{address}");
    }
    assert_eq!(domain(&directory, "test.example").await, Ok(true));
    assert_eq!(domain(&directory, "other.example").await, Ok(false));
    let staff = format!("cn=staff,ou=groups,{SUFFIX}");
    assert_eq!(member(&directory, "u1@test.example", &staff).await, Ok(true));
    assert_eq!(member(&directory, "u1", "staff").await, Ok(true), "an account, a group's name");
    assert_eq!(member(&directory, "u2@test.example", &staff).await, Ok(false));
    assert_eq!(member(&directory, "u2@test.example", "inner").await, Ok(true));
    assert_eq!(member(&directory, "nobody@test.example", &staff).await, Ok(false));
    let nested = openldap(&[server.url()], "nested = true\n");
    assert_eq!(member(&nested, "u2@test.example", &staff).await, Ok(true), "groups in a circle");
    assert_eq!(member(&nested, "u3@test.example", &staff).await, Ok(false));
    trouble(member(&directory, "u1@test.example", &format!("cn=gone,{SUFFIX}")).await);
}

#[tokio::test]
async fn what_strangers_write_is_escaped_as_the_server_itself_says() {
    let authority = Authority::new();
    let server = slapd(&authority, 10);
    let directory = openldap(&[server.url()], "");
    assert_eq!(ask(&directory, "u1@test.example").await, Ok(true));
    let long = format!("{}@test.example", "a".repeat(65_536));
    for address in [
        "*@test.example",
        "u1)(mail=*@test.example",
        "u1*",
        "*)(objectClass=*",
        "\\2a@test.example",
        "a\0b@test.example",
        "u1@test.example\ndn: x",
        "u1@test.example\r\nQUIT",
        "jörg@test.example",
        "\u{202e}@test.example",
        "",
        long.as_str(),
    ] {
        let answer = ask(&directory, address).await;
        assert!(matches!(answer, Ok(false)), "{address:.40}: {answer:?}");
    }
    let log = server.log();
    // slapd writes filters as RFC 4515 has them: what was a star is one no more.
    assert!(log.contains("(mail=\\2A@test.example)") || log.contains("(mail=\\2a@test.example)"));
    assert!(!log.contains("(mail=*"), "a filter was changed by a stranger");
    assert!(!log.contains("(objectClass=*)(") && !log.contains("dn: x\n"));
    assert_eq!(ask(&directory, "u1@test.example").await, Ok(true), "the connection is fine");
}

#[tokio::test]
async fn tls_in_all_ways_and_what_is_wrong_with_it() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = slapd(&authority, 10);
    let with = |servers: &[String], more: &str, ca: &str| {
        let text = settings(servers, &format!("ca = \"ca.pem\"\n{more}"));
        open_with(&text, &[("ca.pem", ca)])
    };
    let named = "server_name = \"ldap.test.example\"\n";
    let start = format!("starttls = true\n{named}");
    let ca = authority.text();
    for (url, more) in [(server.tls_url(), named), (server.url(), start.as_str())] {
        let directory = with(&[url], more, &ca);
        assert_eq!(ask(&directory, "u1@test.example").await, Ok(true));
        assert_eq!(ask(&directory, "nobody@test.example").await, Ok(false));
    }
    let unix = openldap(&[server.unix_url()], "");
    assert_eq!(ask(&unix, "u1@test.example").await, Ok(true));

    let said = |text: &str, word: &str| assert!(text.contains(word), "{word}: {text}");
    for (more, ca, word) in [
        (named, other.text(), "not signed by an authority"),
        ("", ca.clone(), "is not for the name"),
    ] {
        let directory = with(&[server.tls_url()], more, &ca);
        said(&trouble(ask(&directory, "u1@test.example").await), word);
        let examined = directory.examine().await;
        said(examined[0].result.as_ref().unwrap_err(), word);
    }
    // In mid-traffic: the connections that are open go on, then the certificate has expired.
    let mut server = server;
    let directory = with(&[server.tls_url()], named, &ca);
    assert_eq!(ask(&directory, "u1@test.example").await, Ok(true));
    server.certify(&authority.sign_expired(&["DNS:ldap.test.example"]));
    server.kill();
    server.launch();
    said(&trouble(ask(&directory, "u1@test.example").await), "has expired");
    server.certify(&authority.sign(&["DNS:ldap.test.example"]));
    server.kill();
    server.launch();
    assert_eq!(ask(&directory, "u1@test.example").await, Ok(true));
}

#[tokio::test]
async fn no_trouble_is_ever_a_no() {
    let authority = Authority::new();
    let server = slapd(&authority, 600);
    let url = server.url();
    for (more, words) in [
        ("base = \"ou=gone,dc=test,dc=example\"", "there is no ou=gone"),
        ("base = \"ou=hidden,dc=test,dc=example\"", ""),
        ("base = \"cn=busy,ou=codes,dc=test,dc=example\"", "it is busy"),
        ("base = \"cn=unavailable,ou=codes,dc=test,dc=example\"", "it is not available"),
        ("base = \"cn=timelimit,ou=codes,dc=test,dc=example\"", "timeLimitExceeded"),
        ("base = \"cn=sizelimit,ou=codes,dc=test,dc=example\"", "sizeLimitExceeded"),
        ("base = \"cn=referral,ou=codes,dc=test,dc=example\"", "refers to another server"),
        ("base = \"dc=test,dc=example\"\npassword = \"wrong-secret\"", "refuses the password"),
        ("base = \"dc=test,dc=example\"\nbind_dn = \"cn=nobody,dc=test,dc=example\"", ""),
    ] {
        let mut lines = vec!["kind = \"ldap\"", "preset = \"openldap\""];
        let servers = format!("servers = [\"{url}\"]");
        lines.push(&servers);
        let dn = format!("bind_dn = \"{READER}\"");
        let password = format!("password = \"{PASSWORD}\"");
        if !more.contains("bind_dn") {
            lines.push(&dn);
        }
        if !more.contains("password") {
            lines.push(&password);
        }
        lines.push(more);
        let directory = open(&lines.join("\n"));
        for address in ["u1@test.example", "nobody@test.example"] {
            let text = trouble(ask(&directory, address).await);
            assert!(text.contains(words), "{more}: {text}");
            assert!(!text.contains("wrong-secret") && !text.contains(PASSWORD), "{text}");
        }
        let examined = directory.examine().await;
        let text = examined[0].result.as_ref().expect_err(more);
        assert!(!text.contains("wrong-secret"), "{text}");
    }
    // A connection that nobody takes, and one that only takes.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    for (url, word) in [
        ("ldap://127.0.0.1:1".to_owned(), "cannot connect"),
        (format!("ldap://{address}"), "does not answer"),
        (format!("ldaps://{address}"), "does not answer"),
    ] {
        let directory = openldap(&[url], "timeout = \"300ms\"\n");
        let text = trouble(ask(&directory, "u1@test.example").await);
        assert!(text.contains(word), "{text}");
    }
}

/// The entry of the base can be read, what is below it cannot: a search is a success that finds
/// nothing. What the server shows elsewhere says nothing about that.
#[tokio::test]
async fn what_is_hidden_below_a_base_is_no_no_either() {
    let authority = Authority::new();
    let server = slapd(&authority, 10);
    let veiled = |more: &str| {
        open(&format!(
            "kind = \"ldap\"\npreset = \"openldap\"\nservers = [\"{}\"]\n\
             base = \"ou=veiled,{SUFFIX}\"\nbind_dn = \"{READER}\"\n\
             password = \"{PASSWORD}\"\ngroup_base = \"{SUFFIX}\"\n{more}",
            server.url()
        ))
    };
    let directory = veiled("");
    let said = trouble(domain(&directory, "test.example").await);
    assert!(said.contains("finds nobody at all"), "{said}");
    let said = trouble(member(&directory, "v1@test.example", "staff").await);
    assert!(said.contains("finds nobody at all"), "{said}");
    let directory = veiled(&format!("domain_base = \"{SUFFIX}\""));
    assert_eq!(domain(&directory, "test.example").await, Ok(true));
    assert_eq!(domain(&directory, "other.example").await, Ok(false));
    let said = trouble(ask(&directory, "v1@test.example").await);
    assert!(said.contains("finds nobody at all"), "{said}");
}

/// A server that says these bytes to everybody who has said something, and closes.
fn garbage(bytes: &'static [u8]) -> String {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 100]);
            let _ = stream.write_all(bytes);
        }
    });
    format!("ldap://{address}")
}

#[tokio::test]
async fn garbage_and_answers_that_end_in_the_middle() {
    for bytes in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"\x30\x84\x7f\xff\xff\xff\x02",
        // A bind that succeeds, then half of an entry.
        b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00\x30\x1f\x02\x01\x02\x64",
        // A bind that succeeds, and the answer to another question.
        b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00\
          \x30\x0c\x02\x01\x09\x65\x07\x0a\x01\x00\x04\x00\x04\x00",
        b"",
    ] {
        let directory = openldap(&[garbage(bytes)], "timeout = \"500ms\"\n");
        trouble(ask(&directory, "u1@test.example").await);
    }
}

#[tokio::test]
async fn the_next_server_answers_and_a_restart_costs_nothing() {
    let authority = Authority::new();
    let (mut first, second) = (slapd(&authority, 10), slapd(&authority, 10));
    let directory = openldap(&[first.url(), second.url()], "timeout = \"400ms\"\n");
    let alone = openldap(&[first.url()], "timeout = \"400ms\"\n");
    assert_eq!(ask(&directory, "u1@test.example").await, Ok(true));
    assert_eq!(ask(&alone, "u1@test.example").await, Ok(true));
    first.kill();
    assert_eq!(ask(&directory, "u2@test.example").await, Ok(true), "dead");
    assert_eq!(ask(&directory, "nobody@test.example").await, Ok(false));
    first.launch();
    assert_eq!(ask(&alone, "u2@test.example").await, Ok(true), "a restart is no trouble");
    first.freeze();
    for number in 1..=10 {
        let answer = ask(&directory, &format!("u{number}@test.example")).await;
        assert_eq!(answer, Ok(true), "hung");
    }
    assert!(trouble(ask(&alone, "u3@test.example").await).contains("does not answer"));
    first.thaw();
    assert_eq!(ask(&alone, "u3@test.example").await, Ok(true));
    // Dropped half-way: what comes late is never taken for the answer to another question.
    for number in 0..50 {
        let asked = wanted(What::Recipient, "u4@test.example");
        let dropped = alone.look_up(&asked);
        let wait = std::time::Duration::from_micros(number * 20);
        let _ = tokio::time::timeout(wait, dropped).await;
        assert_eq!(ask(&alone, "nobody@test.example").await, Ok(false));
    }
}

#[tokio::test]
async fn active_directory() {
    let authority = Authority::new();
    let certificate = authority.sign(&["DNS:dc1.ad.test"]);
    let mut server = Samba::start(&certificate, 2_000);
    let settings = |url: &str, password: &str, more: &str| {
        format!(
            // A Samba that has just started, on a machine that is busy, may search for a second.
            "[directory.d]\nkind = \"ldap\"\npreset = \"active-directory\"\nservers = [\"{url}\"]\n\
             timeout = \"10s\"\nbase = \"{}\"\nbind_dn = \"{}\"\npassword = \"{password}\"\n{more}",
            samba::BASE,
            samba::READER
        )
    };
    let tls = "ca = \"ca.pem\"\nserver_name = \"dc1.ad.test\"\n";
    let text = settings(&server.tls_url(), samba::PASSWORD, tls);
    let directory = open_with(&text, &[("ca.pem", &authority.text())]);
    for (address, exists) in [
        ("u1@ad.test", true),
        ("alias1500@ad.test", true),
        ("U7@AD.test", true),
        ("u7.login@ad.test", true),
        ("sales@ad.test", true),
        ("friend@ad.test", true),
        ("off@ad.test", false),
        ("off.alias@ad.test", false),
        ("nobody@ad.test", false),
        ("*@ad.test", false),
    ] {
        assert_eq!(ask(&directory, address).await, Ok(exists), "{address}");
    }
    assert_eq!(domain(&directory, "ad.test").await, Ok(true));
    assert_eq!(domain(&directory, "other.test").await, Ok(false));
    let sales = format!("CN=Sales List,CN=Users,{}", samba::BASE);
    let all = format!("CN=Everybody,CN=Users,{}", samba::BASE);
    assert_eq!(member(&directory, "u2@ad.test", &sales).await, Ok(true));
    assert_eq!(member(&directory, "u2@ad.test", "sales").await, Ok(true));
    assert_eq!(member(&directory, "u1@ad.test", &sales).await, Ok(false));
    assert_eq!(member(&directory, "u2@ad.test", &all).await, Ok(false), "not directly");
    let text = settings(&server.url(), samba::PASSWORD, "nested = true\n");
    let nested = open_with(&text, &[]);
    assert_eq!(member(&nested, "u2@ad.test", &all).await, Ok(true), "on demand");

    let wrong = open_with(&settings(&server.url(), "no-such-secret", ""), &[]);
    let said = trouble(ask(&wrong, "u1@ad.test").await);
    assert!(said.contains("refuses the password") && !said.contains("no-such-secret"), "{said}");
    let anonymous = open(&format!(
        "kind = \"ldap\"\npreset = \"active-directory\"\nservers = [\"{}\"]\nbase = \"{}\"",
        server.url(),
        samba::BASE
    ));
    trouble(ask(&anonymous, "u1@ad.test").await);
    let examined = directory.examine().await;
    assert!(examined[0].result.is_ok(), "{examined:?}");

    server.freeze();
    trouble(ask(&directory, "u3@ad.test").await);
    server.thaw();
    server.kill();
    trouble(ask(&directory, "u3@ad.test").await);
    server.launch();
    assert_eq!(ask(&directory, "u3@ad.test").await, Ok(true));
}

#[tokio::test]
async fn directory_server_389() {
    let mut server = Ds389::start(10_000);
    let text = |url: &str, more: &str| {
        format!(
            "[directory.d]\nkind = \"ldap\"\npreset = \"389ds\"\nservers = [\"{url}\"]\n\
             base = \"{}\"\nbind_dn = \"{}\"\npassword = \"{}\"\n{more}",
            ds389::SUFFIX,
            ds389::READER,
            ds389::PASSWORD
        )
    };
    let tls = text(&server.tls_url(), "ca = \"ca.pem\"\nserver_name = \"localhost\"\n");
    let encrypted = open_with(&tls, &[("ca.pem", &server.authority())]);
    let directory = open_with(&text(&server.url(), ""), &[]);
    for (address, exists) in [
        ("u1@test.example", true),
        ("u10000@test.example", true),
        ("alias77@test.example", true),
        ("sales@test.example", true),
        ("nobody@test.example", false),
    ] {
        assert_eq!(ask(&directory, address).await, Ok(exists), "{address}");
        assert_eq!(ask(&encrypted, address).await, Ok(exists), "{address}");
    }
    assert_eq!(member(&directory, "u2@test.example", "sales").await, Ok(true));
    assert_eq!(member(&directory, "u1@test.example", "sales").await, Ok(false));
    assert_eq!(domain(&directory, "test.example").await, Ok(true));
    assert_eq!(domain(&directory, "other.example").await, Ok(false));
    // Without a bind it shows nothing, and calls that a success: nobody is unknown for it.
    let anonymous = open(&format!(
        "kind = \"ldap\"\npreset = \"389ds\"\nservers = [\"{}\"]\nbase = \"{}\"",
        server.url(),
        ds389::SUFFIX
    ));
    trouble(ask(&anonymous, "u1@test.example").await);
    trouble(domain(&anonymous, "test.example").await);
    trouble(member(&anonymous, "u2@test.example", "sales").await);
    server.kill();
    trouble(ask(&directory, "u3@test.example").await);
    server.launch();
    assert_eq!(ask(&directory, "u3@test.example").await, Ok(true));
    server.freeze();
    trouble(ask(&directory, "u4@test.example").await);
    server.thaw();
    assert_eq!(ask(&directory, "u4@test.example").await, Ok(true));
}
