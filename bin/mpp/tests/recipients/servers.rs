//! The servers that users are looked up in: each is one entry in the table, and can be made to fail.

use std::process::Command;

use mpp_tests::real::ca::Authority;
use mpp_tests::real::ds389::{self, Ds389};
use mpp_tests::real::mariadb::MariaDb;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::postgres::Postgres;
use mpp_tests::real::samba::{self, Samba};
use mpp_tests::real::slapd::{self, Slapd};
use mpp_tests::real::{address, folder};
use tempfile::TempDir;

/// A server that can be made to fail.
pub(crate) trait Server {
    /// The settings of the directory, its head included.
    fn settings(&self) -> String;
    /// The domain of its users `u1` and on.
    fn domain(&self) -> &'static str;
    fn kill(&mut self);
    fn launch(&mut self);
    fn freeze(&self);
    fn thaw(&self);
}

/// A server whose own log shows every question.
pub(crate) trait Logged: Server {
    /// How often somebody asked about this local part.
    fn asked(&self, local: &str) -> usize;
}

/// The name of the directory that these settings are of.
pub(crate) fn name_of(settings: &str) -> &str {
    settings.split(['.', ']']).nth(1).unwrap()
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

server!(NextHop, "hop.example", |hop| format!(
    "[directory.next]\nkind = \"smtp\"\nhelo = \"mpp.example\"\nservers = [\"{}\"]\n",
    hop.postfix.address()
));

impl Logged for Slapd {
    fn asked(&self, local: &str) -> usize {
        self.log().matches(&format!("(mail={local}@")).count()
    }
}

impl Logged for MariaDb {
    fn asked(&self, local: &str) -> usize {
        lines(&self.queries(), "Execute", &format!("'{local}@"))
    }
}

impl Logged for Postgres {
    fn asked(&self, local: &str) -> usize {
        lines(&self.log(), "parameters:", &format!("'{local}@"))
    }
}

impl Logged for NextHop {
    fn asked(&self, local: &str) -> usize {
        lines(&self.postfix.log(), " info: RCPT ", &format!(" to=<{local}@"))
    }
}

fn lines(log: &str, first: &str, second: &str) -> usize {
    log.lines().filter(|line| line.contains(first) && line.contains(second)).count()
}

/// A Postfix that knows its users and is asked about them by SMTP.
pub(crate) struct NextHop {
    pub(crate) postfix: Postfix,
    _users: TempDir,
}

impl NextHop {
    /// Starts one with these lines in its main.cf besides.
    pub(crate) fn start(address: &str, more: &str) -> Self {
        let users = folder();
        let file = users.path().join("users");
        std::fs::write(&file, "/^(u[0-9]+|alias[0-9]+|bob)@hop\\.example$/ x/\n").unwrap();
        // INFO logs each recipient and lets the rest of the rules decide.
        let postfix = Postfix::start(
            address,
            &format!(
                "virtual_mailbox_domains = hop.example\nvirtual_mailbox_maps = regexp:{}\n\
                 smtpd_recipient_restrictions = check_recipient_access static:{{INFO asked}}\n\
                 smtpd_relay_restrictions = reject_unauth_destination\n{more}",
                file.display()
            ),
        );
        Self { postfix, _users: users }
    }

    fn kill(&self) {
        self.postfix.kill();
    }

    fn launch(&self) {
        self.postfix.launch();
    }

    fn freeze(&self) {
        self.postfix.freeze();
    }

    fn thaw(&self) {
        self.postfix.thaw();
    }
}

pub(crate) fn next_hop() -> NextHop {
    NextHop::start(&address(), "")
}

pub(crate) fn mariadb() -> MariaDb {
    mariadb_with(&[])
}

/// The same, with more options.
pub(crate) fn mariadb_with(options: &[&str]) -> MariaDb {
    let server = MariaDb::start(&[&["--general-log"], options].concat());
    server.run(&format!("CREATE DATABASE mail; USE mail; {TABLES}"));
    server.run(
        "USE mail; INSERT INTO users SELECT CONCAT('u', seq, '@sql.example'), true FROM seq_1_to_10000",
    );
    server.run("CREATE USER mpp@'%' IDENTIFIED BY 'secret'; GRANT SELECT ON mail.* TO mpp@'%'");
    server
}

pub(crate) fn postgres() -> Postgres {
    let server = Postgres::start(&["log_statement=all"]);
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

pub(crate) fn open_ldap(users: u32) -> Slapd {
    let certificate = Authority::new().sign(&["DNS:localhost"]);
    let more = "dn: cn=nogreylist,ou=groups,dc=test,dc=example\nobjectClass: groupOfNames\n\
        cn: nogreylist\nmember: uid=u1,ou=people,dc=test,dc=example\n\n";
    Slapd::start(&certificate, users, more)
}

/// An SQLite file with these tables; it cannot hang, so it stands for a directory that works.
pub(crate) fn sqlite(tables: &str) -> TempDir {
    let folder = folder();
    let done = Command::new("sqlite3").arg(folder.path().join("users")).arg(tables).status();
    assert!(done.expect("install the Debian package sqlite3").success());
    folder
}
