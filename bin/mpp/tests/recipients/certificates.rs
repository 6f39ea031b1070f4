//! Servers whose certificate goes bad in mid-traffic.

use std::fs;

use mpp_tests::real::ca::{Authority, Certificate};
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::slapd::Slapd;
use mpp_tests::real::{address, folder};
use tempfile::TempDir;

use crate::servers::{NextHop, Server, mariadb_with, name_of};
use crate::{CALM, MPP, answer, until_known, until_unknown};

/// A server that proves who it is.
struct Secured<'a> {
    domain: &'static str,
    /// The settings of the directory, its head and its trust in `ca.pem` included.
    settings: String,
    /// The names of its certificate.
    names: Vec<&'a str>,
    /// Starts it anew with another certificate.
    certify: Box<dyn FnMut(&Certificate) + 'a>,
}

/// New users are put off while the certificate is wrong, users who were looked up before are not.
fn outlives_wrong_certificates(mut server: Secured<'_>, authority: &Authority, expired: &str) {
    let right = authority.sign(&server.names);
    (server.certify)(&right);
    let (domain, name) = (server.domain, name_of(&server.settings).to_owned());
    let mut mpp = Daemon::new(
        MPP,
        &address(),
        &format!(
            "{}known = \"1s\"\nunknown = \"1s\"\nnot_now = \"100ms\"\n\
             [recipients.main]\ndomains = [\"{domain}\"]\nfrom = [\"{name}\"]\n{CALM}",
            server.settings
        ),
    );
    mpp.write("ca.pem", &authority.text());
    mpp.launch();
    let mut client = mpp.client();
    until_known(&mut client, &format!("u1@{domain}"));
    let wrong = [
        (authority.sign_expired(&server.names), expired),
        (authority.sign(&["DNS:other.example"]), "certificate"),
        (Authority::new().sign(&server.names), "certificate"),
    ];
    let mut fresh = 100;
    for (certificate, said) in wrong {
        (server.certify)(&certificate);
        for _ in 0..15 {
            fresh += 1;
            assert_eq!(answer(&mut client, &format!("u1@{domain}")), "DUNNO", "{said}");
            for never_asked in [format!("u{fresh}@{domain}"), format!("nobody{fresh}@{domain}")] {
                let answer = answer(&mut client, &never_asked);
                assert!(answer.starts_with("451 4.4.3"), "{never_asked}: {answer}");
            }
        }
        let output = mpp.run(&["check", "--live"]);
        assert_eq!(output.status.code(), Some(1));
        let live = String::from_utf8(output.stdout).unwrap();
        assert!(live.contains("DOES NOT WORK") && live.contains(said), "{said}: {live}");
    }
    (server.certify)(&right);
    until_known(&mut client, &format!("u{fresh}@{domain}"));
    until_unknown(&mut client, &format!("nobody@{domain}"));
}

#[test]
fn a_wrong_certificate_of_openldap_refuses_nobody() {
    let authority = Authority::new();
    let mut server = Slapd::start(&authority.sign(&["DNS:localhost"]), 1_000, "");
    let settings = server.settings().replace(&server.url(), &server.tls_url());
    let secured = Secured {
        domain: server.domain(),
        settings: format!("{settings}ca = \"ca.pem\"\nserver_name = \"ldap.test.example\"\n"),
        names: vec!["DNS:ldap.test.example"],
        certify: Box::new(|certificate| {
            server.certify(certificate);
            server.kill();
            server.launch();
        }),
    };
    outlives_wrong_certificates(secured, &authority, "its certificate has expired");
}

/// A folder with a certificate and a key where a server reads them.
fn install(folder: &TempDir, certificate: &Certificate) {
    fs::copy(&certificate.certificate, folder.path().join("cert")).unwrap();
    fs::copy(&certificate.key, folder.path().join("key")).unwrap();
}

#[test]
fn a_wrong_certificate_of_mariadb_refuses_nobody() {
    let (authority, files) = (Authority::new(), folder());
    install(&files, &authority.sign(&["DNS:localhost"]));
    let at = |name: &str| files.path().join(name).display().to_string();
    let mut server =
        mariadb_with(&[&format!("--ssl-cert={}", at("cert")), &format!("--ssl-key={}", at("key"))]);
    let name = format!("IP:{}", server.address());
    let secured = Secured {
        domain: server.domain(),
        settings: format!("{}tls = \"require\"\nca = \"ca.pem\"\n", server.settings()),
        names: vec![&name],
        certify: Box::new(|certificate| {
            install(&files, certificate);
            server.kill();
            server.launch();
        }),
    };
    outlives_wrong_certificates(secured, &authority, "certificate");
}

#[test]
fn a_wrong_certificate_of_a_next_hop_refuses_nobody() {
    let (authority, files) = (Authority::new(), folder());
    install(&files, &authority.sign(&["DNS:localhost"]));
    let at = |name: &str| files.path().join(name).display().to_string();
    let lines = format!(
        "smtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\nsmtpd_tls_security_level = encrypt\n",
        at("cert"),
        at("key")
    );
    let mut server = NextHop::start(&address(), &lines);
    let secured = Secured {
        domain: server.domain(),
        settings: format!(
            "{}tls = \"require\"\nca = \"ca.pem\"\nserver_name = \"next.example\"\n",
            server.settings()
        ),
        names: vec!["DNS:next.example"],
        certify: Box::new(|certificate| {
            install(&files, certificate);
            Server::kill(&mut server);
            Server::launch(&mut server);
        }),
    };
    outlives_wrong_certificates(secured, &authority, "certificate");
}
