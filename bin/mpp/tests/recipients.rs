//! Recipients looked up in real directories, through a real Postfix, while the directories live and
//! die: OpenLDAP, 389 Directory Server, Samba as Active Directory, MariaDB, PostgreSQL, SQLite, and a
//! Postfix as the next hop.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

use std::time::{Duration, Instant};

use mpp_tests::real::ca::Authority;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::ds389::{self, Ds389};
use mpp_tests::real::mail_host::MailHost;
use mpp_tests::real::mariadb::MariaDb;
use mpp_tests::real::policy::{Client, rcpt};
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::postgres::Postgres;
use mpp_tests::real::samba::{self, Samba};
use mpp_tests::real::slapd::{self, Slapd};
use mpp_tests::real::smtp::{Reply, Smtp, Who};
use mpp_tests::real::{address, until};
use serde_json::Value;

const MPP: &str = env!("CARGO_BIN_EXE_mpp");
const CALM: &str = "[policy.default.greylist]\nmode = \"off\"\n\
    [policy.default.recipient.harvest]\nlimit = 1000000\n";
const CLIENT: &str = "198.51.100.7";
/// What a decision may take: its deadline of 2 s, and a busy machine.
const PATIENT: Duration = Duration::from_secs(6);

/// A server that can be made to fail.
trait Server {
    /// The settings of the directory, its head included.
    fn settings(&self) -> String;
    /// The domain of its users `u1` and on.
    fn domain(&self) -> &'static str;
    fn kill(&mut self);
    fn launch(&mut self);
    fn freeze(&self);
    fn thaw(&self);
}

fn ldap(preset: &str, url: &str, base: &str, (dn, password): (&str, &str)) -> String {
    format!(
        "[directory.{preset}]\nkind = \"ldap\"\npreset = \"{preset}\"\nservers = [\"{url}\"]\n\
         base = \"{base}\"\nbind_dn = \"{dn}\"\npassword = \"{password}\"\n"
    )
}

fn sql(name: &str, url: &str) -> String {
    format!(
        "[directory.{name}]\nkind = \"sql\"\nservers = [\"{url}\"]\npassword = \"secret\"\n\
         query = \"SELECT 1 FROM users WHERE email IN ({{address}}, {{catch_all}}) AND active\"\n\
         domain_query = \"SELECT 1 FROM domains WHERE name = {{domain}}\"\n\
         member_query = \"SELECT 1 FROM members WHERE email = {{address}} AND name = {{group}}\"\n"
    )
}

const TABLES: &str = "CREATE TABLE users (email varchar(250) PRIMARY KEY, active boolean);
    CREATE TABLE domains (name varchar(250) PRIMARY KEY);
    CREATE TABLE members (email varchar(250), name varchar(250));
    INSERT INTO domains VALUES ('sql.example'), ('all.example'), ('xn--bcher-kva.example');
    INSERT INTO members VALUES ('u1@sql.example', 'impatient');
    INSERT INTO users VALUES ('off@sql.example', false), ('@all.example', true),
      ('u1@xn--bcher-kva.example', true);";

macro_rules! server {
    ($kind:ty, $domain:literal, $settings:expr) => {
        impl Server for $kind {
            fn settings(&self) -> String {
                let settings: fn(&$kind) -> String = $settings;
                settings(self)
            }
            fn domain(&self) -> &'static str {
                $domain
            }
            fn kill(&mut self) {
                Self::kill(self);
            }
            fn launch(&mut self) {
                Self::launch(self);
            }
            fn freeze(&self) {
                Self::freeze(self);
            }
            fn thaw(&self) {
                Self::thaw(self);
            }
        }
    };
}

server!(Slapd, "test.example", |server| ldap(
    "openldap",
    &server.url(),
    slapd::SUFFIX,
    (slapd::READER, slapd::PASSWORD)
));
server!(Ds389, "test.example", |server| ldap(
    "389ds",
    &server.url(),
    ds389::SUFFIX,
    (ds389::READER, ds389::PASSWORD)
));
server!(Samba, "ad.test", |server| ldap(
    "active-directory",
    &server.url(),
    samba::BASE,
    (samba::READER, samba::PASSWORD)
));
server!(MariaDb, "sql.example", |server| sql(
    "maria",
    &format!("mysql://mpp@{}/mail", server.address())
));
server!(Postgres, "sql.example", |server| sql(
    "postgres",
    &format!("postgres://mpp@{}/mail", server.address())
));

fn mariadb() -> MariaDb {
    let server = MariaDb::start(&["--general-log"]);
    server.run(&format!("CREATE DATABASE mail; USE mail; {TABLES}"));
    server.run(
        "USE mail; INSERT INTO users SELECT CONCAT('u', seq, '@sql.example'), true FROM seq_1_to_10000",
    );
    server.run("CREATE USER mpp@'%' IDENTIFIED BY 'secret'; GRANT SELECT ON mail.* TO mpp@'%'");
    server
}

fn postgres() -> Postgres {
    let server = Postgres::start(&[]);
    server.run("postgres", "CREATE USER mpp PASSWORD 'secret'");
    server.run("postgres", "CREATE DATABASE mail");
    server.run(
        "mail",
        &format!(
            "{TABLES} INSERT INTO users SELECT 'u' || g || '@sql.example', true \
             FROM generate_series(1, 10000) g; \
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO mpp"
        ),
    );
    server
}

fn open_ldap(users: u32) -> Slapd {
    let certificate = Authority::new().sign(&["DNS:localhost"]);
    let more = "dn: cn=nogreylist,ou=groups,dc=test,dc=example\nobjectClass: groupOfNames\n\
        cn: nogreylist\nmember: uid=u1,ou=people,dc=test,dc=example\n\n";
    Slapd::start(&certificate, users, more)
}

/// A Postfix that takes everything for these domains, and asks mpp.
fn host(text: &str) -> MailHost {
    let address = address();
    let mpp = Daemon::start(MPP, &address, text);
    let lines = mpp.tell(&["postfix"]);
    let postfix = Postfix::start(
        &address,
        &format!(
            "{lines}\nvirtual_mailbox_domains = test.example, sql.example, all.example, ad.test, \
             hop.example, file.example, xn--bcher-kva.example\n\
             virtual_mailbox_maps = static:all/\n"
        ),
    );
    MailHost { mpp, postfix }
}

fn attempt(host: &MailHost, recipient: &str) -> Reply {
    host.attempt(Who::at(CLIENT).named("mx.sender.example"), "a@sender.example", recipient)
}

fn must_be_unknown(host: &MailHost, recipient: &str) {
    let mut smtp = Smtp::connect_as(host.postfix.address(), Who::at(CLIENT));
    smtp.mail("a@sender.example");
    let reply = smtp.rcpt(recipient);
    assert_eq!(reply.code, 550, "{recipient}: {}", reply.text);
    assert!(reply.text.starts_with("5.1.1 "), "{}", reply.text);
}

fn must_be_known(host: &MailHost, recipient: &str) {
    // The message as a whole is accepted.
    let reply = attempt(host, recipient);
    assert_eq!(reply.code, 250, "{recipient}: {}", reply.text);
}

#[test]
fn whole_dialogues_with_users_in_every_kind_of_directory() {
    let (ldap, maria) = (open_ldap(10_000), mariadb());
    let active = Samba::start(&Authority::new().sign(&["DNS:dc1.ad.test"]), 100);
    let hop = Postfix::start(
        &address(),
        "virtual_mailbox_domains = hop.example\n\
         virtual_mailbox_maps = inline:{ {bob@hop.example=bob/} }\n",
    );
    let host = host(&format!(
        "{}{}{}[directory.next]\nkind = \"smtp\"\nservers = [\"{}\"]\n\
         [recipients.ldap]\ndomains = [\"test.example\"]\nfrom = [\"openldap\"]\n\
         [recipients.sql]\ndomains_from = [\"maria\"]\nfrom = [\"maria\"]\n\
         [recipients.active]\ndomains = [\"ad.test\"]\nfrom = [\"active-directory\"]\n\
         [recipients.hop]\ndomains = [\"hop.example\"]\nfrom = [\"next\"]\n\
         [policy.default.recipient.harvest]\nlimit = 1000\n\
         [policy.default.greylist]\ndelay = \"1h\"\n\
         [policy.impatient]\nmatch = {{ recipient_in = [\"openldap:nogreylist\", \
         \"maria:impatient\"] }}\ngreylist.mode = \"off\"\n",
        ldap.settings(),
        maria.settings(),
        active.settings(),
        hop.address()
    ));
    // Members of a group do not wait; everybody else does, and whoever does not exist is told so.
    for member in ["u1@test.example", "U1@Test.example", "u1@sql.example"] {
        must_be_known(&host, member);
    }
    for waits in [
        "u2@test.example",
        "alias77@test.example",
        "u2+news@sql.example",
        "u2@sql.example",
        "anybody@all.example",
        "u1@xn--bcher-kva.example",
        "u9@ad.test",
        "alias9@ad.test",
        "sales@ad.test",
        "bob@hop.example",
        "postmaster@test.example",
        "abuse@hop.example",
    ] {
        let reply = attempt(&host, waits);
        assert_eq!(reply.code, 450, "{waits}: {}", reply.text);
    }
    for nobody in [
        "u10001@test.example",
        "nobody+u1@test.example",
        "off@sql.example",
        "nobody@sql.example",
        "nobody@xn--bcher-kva.example",
        "off@ad.test",
        "nobody@ad.test",
        "nobody@hop.example",
        "\"u1 \"@test.example",
    ] {
        must_be_unknown(&host, nobody);
    }
}

/// One answer of the policy service, which must come in time.
fn answer(client: &mut Client, recipient: &str) -> String {
    let began = Instant::now();
    let answer = client.ask(&rcpt(CLIENT, "a@sender.example", recipient));
    assert!(began.elapsed() < PATIENT, "{recipient}: {:?}", began.elapsed());
    answer
}

/// Plays a loop of known and unknown recipients while a server dies, hangs, and comes back.
fn outlives(server: &mut dyn Server) {
    let domain = server.domain();
    let settings = server.settings();
    let name = settings.split(['.', ']']).nth(1).unwrap();
    let mut mpp = Daemon::start(
        MPP,
        &address(),
        &format!(
            "{settings}known = \"1s\"\nunknown = \"1s\"\nnot_now = \"100ms\"\ntimeout = \"700ms\"\n\
             [recipients.main]\ndomains = [\"{domain}\"]\nfrom = [\"{name}\"]\n\
             [recipients.other]\naddresses = [\"bob@other.example\"]\n{CALM}"
        ),
    );
    let mut client = mpp.client();
    assert_eq!(answer(&mut client, &format!("u1@{domain}")), "DUNNO");
    assert!(answer(&mut client, &format!("nobody@{domain}")).starts_with("550 5.1.1"));
    for fault in ["killed", "hung"] {
        if fault == "killed" {
            server.kill();
        } else {
            server.freeze();
        }
        let end = Instant::now() + Duration::from_secs(3);
        // Users who have never been asked about.
        let mut fresh = if fault == "killed" { 100 } else { 500 };
        while Instant::now() < end && fresh % 400 != 99 {
            // Kept from before, long past its time.
            assert_eq!(answer(&mut client, &format!("u1@{domain}")), "DUNNO", "{fault}");
            fresh += 1;
            let new = answer(&mut client, &format!("u{fresh}@{domain}"));
            assert!(new.starts_with("451 4.4.3"), "{fault}: u{fresh}: {new}");
            let nobody = answer(&mut client, &format!("nobody{fresh}@{domain}"));
            assert!(nobody.starts_with("451 4.4.3"), "{fault}: {nobody}");
            assert_eq!(answer(&mut client, "bob@other.example"), "DUNNO", "others");
        }
        mpp.wait_for_word(&format!("directory {name} is down"));
        let status = mpp.json(&["status"]);
        assert_eq!(status["directories"][0]["state"], "down", "{status}");
        if fault == "killed" {
            server.launch();
        } else {
            server.thaw();
        }
        until("a directory that is asked again", || {
            let known = answer(&mut client, &format!("u{fresh}@{domain}"));
            assert!(!known.starts_with('5'), "{known}");
            (known == "DUNNO").then_some(())
        });
        until("an unknown user refused again", || {
            let nobody = answer(&mut client, &format!("nobody@{domain}"));
            nobody.starts_with("550 5.1.1").then_some(())
        });
        assert_eq!(mpp.json(&["status"])["directories"][0]["state"], "works");
        mpp.wait_for_word(&format!("directory {name} answers again"));
    }
    mpp.stop();
}

#[test]
fn no_recipient_is_refused_while_openldap_dies_and_hangs() {
    outlives(&mut open_ldap(1_000));
}

#[test]
fn no_recipient_is_refused_while_active_directory_dies_and_hangs() {
    outlives(&mut Samba::start(&Authority::new().sign(&["DNS:dc1.ad.test"]), 1_000));
}

#[test]
fn no_recipient_is_refused_while_389_directory_server_dies_and_hangs() {
    outlives(&mut Ds389::start(1_000));
}

#[test]
fn no_recipient_is_refused_while_mariadb_dies_and_hangs() {
    outlives(&mut mariadb());
}

#[test]
fn no_recipient_is_refused_while_postgresql_dies_and_hangs() {
    outlives(&mut postgres());
}

#[test]
fn a_certificate_that_runs_out_in_mid_traffic_refuses_nobody() {
    let authority = Authority::new();
    let mut server = Slapd::start(&authority.sign(&["DNS:ldap.test.example"]), 1_000, "");
    let mpp = Daemon::new(
        MPP,
        &address(),
        &format!(
            "{}ca = \"ca.pem\"\nserver_name = \"ldap.test.example\"\nknown = \"1s\"\n\
             unknown = \"1s\"\n[recipients.main]\ndomains = [\"test.example\"]\n\
             from = [\"openldap\"]\n{CALM}",
            server.settings().replace(&server.url(), &server.tls_url())
        ),
    );
    mpp.write("ca.pem", &authority.text());
    let mut mpp = mpp;
    mpp.launch();
    let mut client = mpp.client();
    assert_eq!(answer(&mut client, "u1@test.example"), "DUNNO");
    server.certify(&authority.sign_expired(&["DNS:ldap.test.example"]));
    server.kill();
    server.launch();
    for number in 2..40 {
        let known = answer(&mut client, "u1@test.example");
        assert_eq!(known, "DUNNO");
        let new = answer(&mut client, &format!("u{number}@test.example"));
        assert!(new.starts_with("451 4.4.3"), "{new}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = mpp.tell_in_vain(&["check", "--live"]);
    assert!(said.contains("do not work"), "{said}");
    let live = String::from_utf8(mpp.run(&["check", "--live"]).stdout).unwrap();
    assert!(live.contains("its certificate has expired"), "{live}");
    server.certify(&authority.sign(&["DNS:ldap.test.example"]));
    server.kill();
    server.launch();
    until("a directory that is asked again", || {
        (answer(&mut client, "u2@test.example") == "DUNNO").then_some(())
    });
}

#[test]
fn one_query_however_many_ask_and_none_after_a_restart() {
    let server = open_ldap(1_000);
    let mut mpp = Daemon::start(
        MPP,
        &address(),
        &format!(
            "{}[recipients.main]\ndomains = [\"test.example\"]\nfrom = [\"openldap\"]\n{CALM}",
            server.settings()
        ),
    );
    let searches = |who: &str| server.log().matches(&format!("(mail={who}@")).count();
    // Long enough for all hundred to ask: the server answers when it is let.
    server.freeze();
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let mut client = mpp.client();
            client.send(rcpt(CLIENT, "a@sender.example", "u77@test.example").as_bytes()).unwrap();
            client
        })
        .collect();
    until("a hundred who wait for one look-up", || {
        let status = mpp.json(&["status"]);
        (status["directories"][0]["joined"].as_u64() == Some(99)).then_some(())
    });
    server.thaw();
    for mut client in asking {
        assert_eq!(client.answer().unwrap().as_deref(), Some("DUNNO"));
    }
    assert_eq!(searches("u77"), 1);
    let mut client = mpp.client();
    assert!(answer(&mut client, "nobody@test.example").starts_with("550"));
    let shown = mpp.tell(&["recipients", "show", "u77@test.example"]);
    assert!(shown.contains("openldap") && shown.contains("known, "), "{shown}");

    // What was looked up outlives a stop, and a kill once it is on disk.
    mpp.stop();
    mpp.launch();
    assert_eq!(answer(&mut mpp.client(), "u77@test.example"), "DUNNO");
    std::thread::sleep(Duration::from_millis(300));
    mpp.kill();
    mpp.launch();
    let mut client = mpp.client();
    assert_eq!(answer(&mut client, "u77@test.example"), "DUNNO");
    assert!(answer(&mut client, "nobody@test.example").starts_with("550"));
    assert_eq!((searches("u77"), searches("nobody")), (1, 1));

    // A user who was written to before there was one.
    server.add(
        "dn: uid=nobody,ou=people,dc=test,dc=example\nobjectClass: inetOrgPerson\nuid: nobody\n\
         cn: N\nsn: N\nmail: nobody@test.example\n\n",
    );
    assert!(answer(&mut client, "nobody@test.example").starts_with("550"));
    mpp.tell(&["recipients", "forget", "nobody@test.example"]);
    assert_eq!(answer(&mut client, "nobody@test.example"), "DUNNO");
    let probed = mpp.json(&["recipients", "probe", "gone@test.example"]);
    assert_eq!(probed["said"][0]["said"], "unknown", "{probed}");
    assert!(answer(&mut client, "gone@test.example").starts_with("550"));
    assert_eq!(searches("gone"), 1, "what was probed is kept");
}

/// All text that a daemon has left anywhere.
fn everything_said(mpp: &Daemon) -> String {
    fn read(folder: &std::path::Path, out: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, out);
            } else if path.extension().is_none_or(|it| it != "toml" && it != "password") {
                out.push_str(&String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()));
            }
        }
    }
    let mut out = String::new();
    read(mpp.folder(), &mut out);
    out
}

#[test]
fn live_checks_say_what_is_wrong_and_passwords_are_shown_nowhere() {
    let (ldap, maria) = (open_ldap(10), mariadb());
    let text = |ldap_password: &str, table: &str| {
        let ldap = ldap.settings().replace(slapd::PASSWORD, ldap_password);
        let maria = maria.settings().replace("\"secret\"", "\"file:db.password\"");
        format!(
            "{ldap}{}[recipients.main]\ndomains = [\"test.example\"]\nfrom = [\"openldap\"]\n\
             [recipients.sql]\ndomains = [\"sql.example\"]\nfrom = [\"maria\"]\n{CALM}",
            maria.replace("FROM users", &format!("FROM {table}"))
        )
    };
    let mut mpp = Daemon::new(MPP, &address(), &text(slapd::PASSWORD, "users"));
    mpp.write("db.password", "secret\n");
    mpp.launch();
    let sample = ["check", "--live", "--sample", "u1@test.example", "--sample", "x@sql.example"];
    let said = mpp.tell(&sample);
    assert_eq!(said.matches("  works  ").count() + said.matches(" works: ").count(), 2, "{said}");
    assert!(said.contains("u1@test.example") && said.contains("known, "), "{said}");
    assert!(said.contains("unknown, "), "{said}");

    mpp.configure(&text("wr0ng-pa55word", "people"));
    let output = mpp.run(&["check", "--live"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("refuses the password"), "{said}");
    assert!(said.contains("people"), "the missing table is named: {said}");
    let printed = mpp.tell(&["check", "--print"]);
    let mut all = said + &printed + &mpp.tell_in_vain(&["check", "--live"]);
    mpp.tell(&["reload"]);
    let mut client = mpp.client();
    for number in 0..5 {
        let answer = answer(&mut client, &format!("u{number}@test.example"));
        assert!(answer.starts_with("451"), "{answer}");
    }
    all += &mpp.json(&["status"]).to_string();
    all += &mpp.tell(&["stats"]);
    // A mistake on the very line of a password.
    mpp.configure("[directory.x]\nkind = \"ldap\"\npassword = \"wr0ng-pa55word\" nonsense\n");
    all += &mpp.tell_in_vain(&["check"]);
    all += &mpp.tell_in_vain(&["reload"]);
    mpp.stop();
    all += &everything_said(&mpp);
    for secret in ["wr0ng-pa55word", "secret\n", slapd::PASSWORD] {
        assert!(!all.contains(secret), "{secret:?} was shown");
    }
}

#[test]
fn a_next_hop_that_takes_everybody_is_named() {
    let hop = Postfix::start(&address(), "");
    let mpp = Daemon::start(
        MPP,
        &address(),
        &format!(
            "[directory.next]\nkind = \"smtp\"\nservers = [\"{}\"]\n\
             [recipients.main]\ndomains = [\"test.example\"]\nfrom = [\"next\"]\n{CALM}",
            hop.address()
        ),
    );
    let mut client = mpp.client();
    // A server that has just been started may greet after the decision's deadline.
    until("an answer of the next hop", || {
        (answer(&mut client, "bob@test.example") == "DUNNO").then_some(())
    });
    assert_eq!(answer(&mut client, "eve@test.example"), "DUNNO");
    let status: Value = mpp.json(&["status"]);
    let notice = status["directories"][0]["notices"][0].as_str().unwrap();
    assert!(notice.contains("test.example"), "{notice}");
    mpp.wait_for_word("directory next: ");
}
