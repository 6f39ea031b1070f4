//! What people are told of directories, and that no password is among it.

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::slapd;
use serde_json::Value;

use crate::servers::{Server, mariadb, open_ldap, postgres};
use crate::{CALM, MPP, answer};

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
    assert_eq!(answer(&mut client, "bob@test.example"), "DUNNO");
    assert_eq!(answer(&mut client, "eve@test.example"), "DUNNO");
    let status: Value = mpp.json(&["status"]);
    let notice = status["directories"][0]["notices"][0].as_str().unwrap();
    assert!(notice.contains("test.example"), "{notice}");
    mpp.wait_for_word("directory next: ");
}
