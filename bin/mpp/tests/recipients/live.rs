//! What people are told of directories, and that no password is among it.

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::mariadb::MariaDb;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::postgres::Postgres;
use mpp_tests::real::slapd::{self, Slapd};
use serde_json::Value;

use crate::servers::{Server, mariadb, open_ldap, postgres};
use crate::{CALM, MPP, answer, until_known};

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

/// Three directories whose passwords come in the three ways there are. `table` is where MariaDB
/// shall look for users.
struct Three {
    ldap: Slapd,
    maria: MariaDb,
    postgres: Postgres,
}

impl Three {
    fn start() -> Self {
        let three = Self { ldap: open_ldap(10), maria: mariadb(), postgres: postgres() };
        three.maria.run(&format!("ALTER USER mpp@'%' IDENTIFIED BY '{IN_FILE}'"));
        three.postgres.run("postgres", &format!("ALTER USER mpp PASSWORD '{IN_VARIABLE}'"));
        three
    }

    fn text(&self, ldap_password: &str, table: &str) -> String {
        let ldap = self.ldap.settings().replace(slapd::PASSWORD, ldap_password);
        let maria = self.maria.settings().replace("\"secret\"", "\"file:db.password\"");
        let maria = maria.replace("FROM users", &format!("FROM {table}"));
        let postgres = self.postgres.settings().replace("\"secret\"", "\"env:MPP_DB_PASSWORD\"");
        format!(
            "{ldap}{maria}{postgres}\
             [recipients.main]\ndomains = [\"test.example\"]\nfrom = [\"openldap\"]\n\
             [recipients.sql]\ndomains = [\"sql.example\"]\nfrom = [\"maria\"]\n\
             [recipients.more]\ndomains = [\"pg.example\"]\nfrom = [\"postgres\"]\n{CALM}"
        )
    }
}

const IN_FILE: &str = "f1le-pa55word";
const IN_VARIABLE: &str = "var1able-pa55word";
const WRONG: &str = "wr0ng-pa55word";

/// What a command prints on either stream, however it ends; and how it ends.
fn told(mpp: &Daemon, arguments: &[&str]) -> (Option<i32>, String) {
    let output = mpp.run(arguments);
    let streams = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(streams).unwrap())
}

#[test]
fn live_checks_say_what_is_wrong_and_passwords_are_shown_nowhere() {
    let mut three = Three::start();
    let mut mpp = Daemon::new(MPP, &address(), &three.text(slapd::PASSWORD, "users"));
    mpp.write("db.password", &format!("{IN_FILE}\n"));
    let (code, mut all) = told(&mpp, &["check"]);
    assert!(code == Some(1) && all.contains("MPP_DB_PASSWORD"), "the variable is named: {all}");
    mpp.set_variable("MPP_DB_PASSWORD", IN_VARIABLE);
    mpp.launch();
    let sample = ["check", "--live", "--sample", "u1@test.example", "--sample", "x@sql.example"];
    let (code, said) = told(&mpp, &sample);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("  works: ").count(), 3, "{said}");
    assert!(said.contains("u1@test.example") && said.contains("known, "), "{said}");
    assert!(said.contains("unknown, "), "{said}");
    all += &said;

    mpp.configure(&three.text(WRONG, "people"));
    mpp.set_variable("MPP_DB_PASSWORD", WRONG);
    let (code, said) = told(&mpp, &["check", "--live"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("refuses the password"), "{said}");
    assert!(said.contains("people"), "the missing table is named: {said}");
    assert!(said.contains("password authentication failed"), "{said}");
    all += &said;
    for arguments in [&["check"][..], &["check", "--print"], &["reload"]] {
        all += &told(&mpp, arguments).1;
    }
    let mut client = mpp.client();
    for number in 0..5 {
        for domain in ["test.example", "sql.example"] {
            let answer = answer(&mut client, &format!("u{number}@{domain}"));
            assert!(answer.starts_with("451"), "{answer}");
        }
    }
    // Servers that are gone.
    three.maria.kill();
    three.ldap.kill();
    let (code, said) = told(&mpp, &["check", "--live", "--sample", "u1@sql.example"]);
    assert_eq!(code, Some(1), "{said}");
    for gone in [three.maria.address(), three.ldap.address()] {
        let line = said.lines().find(|line| line.contains(gone)).unwrap();
        assert!(line.contains("DOES NOT WORK") && line.contains("refused"), "{line}");
    }
    all += &said;
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["stats"],
        &["recipients", "show", "u1@test.example"],
    ] {
        all += &told(&mpp, arguments).1;
    }
    // A mistake on the very line of a password.
    mpp.configure(&format!("[directory.x]\nkind = \"ldap\"\npassword = \"{WRONG}\" nonsense\n"));
    for arguments in [["check"], ["reload"]] {
        let (code, said) = told(&mpp, &arguments);
        assert_eq!(code, Some(1), "{said}");
        all += &said;
    }
    mpp.stop();
    let left = everything_said(&mpp);
    assert!(left.contains("u3@sql.example"), "the decision log is among what was searched");
    assert!(left.contains("is down"), "the log is among what was searched");
    all += &left;
    for secret in [WRONG, IN_FILE, IN_VARIABLE, slapd::PASSWORD] {
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
    until_known(&mut client, "bob@test.example");
    assert_eq!(answer(&mut client, "eve@test.example"), "DUNNO");
    let status: Value = mpp.json(&["status"]);
    let notice = status["directories"][0]["notices"][0].as_str().unwrap();
    assert!(notice.contains("test.example"), "{notice}");
    mpp.wait_for_word("directory next: ");
    let (code, said) = told(&mpp, &["check", "--live", "--sample", "bob@test.example"]);
    assert_eq!(code, Some(0), "{said}");
    let line = said.lines().find(|line| line.starts_with("notice: directory next: ")).unwrap();
    assert!(line.contains("every address of test.example"), "{line}");
}
