//! Shared stores over TLS: only a server with the right certificate is trusted.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use mpp_tests::real::ca::{Authority, Certificate};
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::mariadb::{self, MariaDb};
use mpp_tests::real::postgres::{self, Postgres};
use mpp_tests::real::redis::Redis;
use mpp_tests::real::{address, folder};

use crate::{MPP, lets_through, settings};

/// A node on a store, with the certificate of an authority beside its settings.
fn node(store: &str, authority: &Authority) -> Daemon {
    let store = format!("{store}tls = \"require\"\nca = \"file:ca.pem\"\n");
    let node = Daemon::new(MPP, &address(), &settings(&store));
    node.write("ca.pem", &authority.text());
    node
}

fn is_refused(store: &str, authority: &Authority) {
    let said = node(store, authority).refused();
    assert!(said.contains("shared store"), "{said}");
}

/// The server has a certificate of the first authority for another name, then, by `certify`, the right
/// one.
fn trusts_the_right_one_alone(store: &str, authority: &Authority, certify: impl FnOnce()) {
    let stranger = Authority::new();
    is_refused(store, authority);
    is_refused(store, &stranger);
    certify();
    is_refused(store, &stranger);
    let mut node = node(store, authority);
    node.launch();
    assert!(!lets_through(&node, "192.0.2.1", "a@b.example"));
    let status = node.json(&["status"]);
    assert_eq!(status.pointer("/store/health"), Some(&serde_json::json!("good")), "{status}");
}

/// Puts a certificate and its key where a server reads them, which may run as nobody.
fn install(folder: &Path, certificate: &Certificate) {
    for (from, to) in [(&certificate.certificate, "cert"), (&certificate.key, "key")] {
        let to = folder.join(to);
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, Permissions::from_mode(0o600)).unwrap();
        chown(&to, Some(postgres::ACCOUNT), None).unwrap();
    }
}

#[test]
fn of_a_redis() {
    let (authority, host, files) = (Authority::new(), address(), folder());
    let start = || {
        let at = |name: &str| files.path().join(name).display().to_string();
        let (pem, key) = (at("cert"), at("key"));
        let certificate = ["--tls-cert-file", &pem, "--tls-key-file", &key];
        let others = ["--tls-ca-cert-file", &pem, "--tls-port", "6380", "--tls-auth-clients", "no"];
        Redis::start_at(&host, &[certificate.as_slice(), others.as_slice()].concat())
    };
    install(files.path(), &authority.sign(&["DNS:redis.test.example"]));
    let redis = std::cell::RefCell::new(Some(start()));
    let store = format!("kind = \"redis\"\nservers = [\"{host}:6380\"]\n");
    trusts_the_right_one_alone(&store, &authority, || {
        install(files.path(), &authority.sign(&[&format!("IP:{host}")]));
        drop(redis.take());
        redis.replace(Some(start()));
    });
}

#[test]
fn of_a_mariadb() {
    let (authority, files) = (Authority::new(), folder());
    install(files.path(), &authority.sign(&["DNS:sql.test.example"]));
    let at = |name: &str| files.path().join(name).display().to_string();
    let options = [format!("--ssl-cert={}", at("cert")), format!("--ssl-key={}", at("key"))];
    let mut server = MariaDb::start(&options.each_ref().map(String::as_str));
    crate::sql::prepare(&server);
    let place = format!("{}:{}", server.address(), mariadb::PORT);
    let right = authority.sign(&[&format!("IP:{}", server.address())]);
    trusts_the_right_one_alone(&crate::sql::on_mariadb(&place), &authority, || {
        install(files.path(), &right);
        server.kill();
        server.launch();
    });
}

#[test]
fn of_a_postgresql() {
    let (authority, files) = (Authority::new(), folder());
    install(files.path(), &authority.sign(&["DNS:sql.test.example"]));
    let at = |name: &str| files.path().join(name).display().to_string();
    let (cert, key) = (at("cert"), at("key"));
    let (cert, key) = (format!("ssl_cert_file={cert}"), format!("ssl_key_file={key}"));
    let mut server = Postgres::start(&["ssl=on", &cert, &key]);
    let place = format!("{}:{}", server.address(), postgres::PORT);
    let right = authority.sign(&[&format!("IP:{}", server.address())]);
    trusts_the_right_one_alone(&crate::sql::on_postgres(&place), &authority, || {
        install(files.path(), &right);
        server.kill();
        server.launch();
    });
}
