//! What settings mean, and what is said about wrong ones.

use std::collections::BTreeMap;

use mpp_settings::Severity;

use super::*;
use crate::directory::Settings;

const PLAIN: &str = "preset = \"openldap\"\nservers = [\"ldaps://a.example\"]\nbase = \"o=x\"\n";

fn compile(lines: &str) -> crate::Compiled {
    let text = format!("[directory.people]\nkind = \"ldap\"\n{lines}");
    let files = BTreeMap::from([
        ("ca.pem".to_owned(), "-----BEGIN CERTIFICATE-----\n".to_owned()),
        ("other.txt".to_owned(), "hello\n".to_owned()),
        ("word".to_owned(), "hidden\n".to_owned()),
    ]);
    crate::compile("mpp.toml", &text, &files, 1)
}

fn read(lines: &str) -> Ldap {
    let compiled = compile(lines);
    assert_eq!(compiled.diagnostics, [], "{lines}");
    let directories = compiled.configuration.unwrap().directories;
    match &directories[0].settings {
        Settings::Ldap(ldap) => (**ldap).clone(),
        other => panic!("{other:?}"),
    }
}

/// Everything that is said: message, label and help of each.
fn said(lines: &str) -> String {
    let problems = compile(lines).diagnostics;
    let texts = problems.iter().map(|problem| {
        let (level, help) = (problem.severity, problem.help.clone().unwrap_or_default());
        assert!(problem.place.is_some(), "{problem:?}");
        let level = if level == Severity::Error { "error" } else { "warning" };
        format!("{level}: {}: {}: {help}\n", problem.message, problem.label)
    });
    texts.collect()
}

#[test]
fn a_preset_is_enough() {
    for (name, preset) in Preset::ALL {
        let ldap = read(&PLAIN.replace("openldap", name));
        assert_eq!(ldap.preset, Some(preset));
        assert_eq!(ldap.filter.text(), preset.filter());
        assert_eq!(ldap.domain_filter.unwrap().text(), preset.domain_filter());
        assert_eq!(ldap.members.account_filter.text(), preset.account_filter());
        assert_eq!(ldap.members.group_filter.text(), preset.group_filter());
        assert_eq!((ldap.domain_base, ldap.members.group_base), ("o=x".into(), "o=x".into()));
    }
}

#[test]
fn what_a_site_writes_holds() {
    let ldap = read(
        "servers = [\"ldap://a.example:1389\", \"ldapi:///run/x\"]\nstarttls = true\n\
         ca = \"file:ca.pem\"\nserver_name = \"LDAP.example\"\nbase = \"o=x\"\nscope = \"one\"\n\
         bind_dn = \"cn=r\"\npassword = \"file:word\"\nfilter = \"mail={address}\"\n\
         member_filter = \"(&(cn={group})(member={dn}))\"\ngroup_base = \"o=g\"\nconnections = 7\n",
    );
    assert_eq!(
        ldap.servers.iter().map(|server| server.tls).collect::<Vec<_>>(),
        [Tls::Start, Tls::None]
    );
    assert_eq!(ldap.server_name.as_deref(), Some("ldap.example"));
    assert_eq!(ldap.bind.as_ref().unwrap().password.reveal(), "hidden");
    assert_eq!((ldap.scope, ldap.connections), (Scope::One, 7));
    assert_eq!(ldap.members.account_filter, ldap.filter);
    assert!(matches!(ldap.members.told_by, ToldBy::Filter(_)));
    assert!(!format!("{ldap:?}").contains("hidden"));
}

#[test]
fn the_meaning_knows_no_server_and_no_password() {
    let one = read(&format!("{PLAIN}bind_dn = \"cn=r\"\npassword = \"secret\"\n"));
    let other = read(&PLAIN.replace("a.example", "b.example"));
    assert_eq!(one.meaning(), other.meaning());
    for change in
        ["scope = \"one\"", "filter = \"m={user}\"", "nested = true", "group_base = \"o=y\""]
    {
        assert_ne!(read(&format!("{PLAIN}{change}\n")).meaning(), one.meaning(), "{change}");
    }
}

#[test]
fn mistakes_have_a_place_and_a_way_out() {
    let plain = |line: &str| said(&format!("{PLAIN}{line}\n"));
    for (said, words) in [
        (said("preset = \"openldap\"\n"), "needs a `base`"),
        (said("preset = \"openldap\"\n"), "needs `servers`"),
        (said("base = \"o=x\"\nservers = [\"ldaps://a\"]\n"), "neither `preset` nor `filter`"),
        (said(&PLAIN.replace("o=x", "example.org")), "no name of an entry"),
        (said(&PLAIN.replace("ldaps:", "http:")), "`http` is none of `ldap`, `ldaps`, `ldapi`"),
        (said(&PLAIN.replace("//a", "//cn=r:secret@a")), "write `bind_dn` and `password`"),
        (said(&PLAIN.replace("openldap", "openldab")), "did you mean `openldap`?"),
        (
            plain("filter = \"(mail={adress})\""),
            "`{adress}` is none of {address}, {user}, {domain}",
        ),
        (plain("filter = \"(mail={address}\""), "a `)` is missing"),
        (plain("filter = \"(mail=*)\""), "it finds the same for everybody"),
        (plain("domain_filter = \"(a={user})\""), "`{user}` is none of {domain}"),
        (plain("starttls = true"), "ldaps://a.example:636 is encrypted from the start"),
        (plain("bind_dn = \"cn=r\""), "write `password` too"),
        (plain("password = \"secret\""), "write `bind_dn` too"),
        (plain("ca = \"other.txt\""), "no certificate in PEM"),
        (plain("nested = true\nmember_filter = \"m={dn}\""), "says itself how deep"),
        (plain("scope = \"tree\""), "`tree` is none of `sub`, `one`, `base`"),
        (plain("fliter = \"x\""), "did you mean `filter`?"),
    ] {
        assert!(said.contains(words) && said.contains("error"), "{words}: {said}");
        assert!(!said.contains("secret"), "{said}");
    }
}

#[test]
fn what_is_only_unwise_is_a_warning() {
    let clear = PLAIN.replace("ldaps:", "ldap:");
    let bind = "bind_dn = \"cn=r\"\npassword = \"secret\"\n";
    let text = said(&format!("{clear}{bind}"));
    assert_eq!(
        text,
        "warning: the password goes to ldap://a.example:389 unencrypted: : \
         write ldaps://, or starttls = true if the server knows that\n"
    );
    assert_eq!(said(&format!("{clear}{bind}starttls = true\n")), "");
    assert_eq!(said(&format!("{}{bind}", clear.replace("a.example", "127.0.0.1"))), "");
    assert!(said(&format!("{clear}ca = \"ca.pem\"\n")).contains("warning: `ca` has no effect"));
}
