//! `mpp check`: everything that is wrong at once, each with file, line, column and what was meant.
//!
//! `golden/check/CASE.toml` is a configuration, `CASE.out` what people read of it. `MPP_GOLDEN=write`
//! writes the latter anew.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/check")
}

fn check(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mpp"));
    command.arg("check").args(arguments).current_dir(golden()).output().expect("mpp runs")
}

#[test]
fn mistakes_are_shown_as_written_down() {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    cases.sort();
    assert!(cases.len() >= 6, "where are the cases?");
    for case in cases {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let output = check(&["--config", &name]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        assert!(output.stdout.is_empty(), "{name}");
        let out = case.with_extension("out");
        if std::env::var_os("MPP_GOLDEN").is_some() {
            std::fs::write(&out, &text).unwrap();
        }
        let wanted = std::fs::read_to_string(&out).unwrap_or_default();
        assert_eq!(text, wanted, "{name}");
    }
}

#[test]
fn what_is_printed_is_a_configuration_of_the_same_meaning() {
    let printed = |arguments: &[&str]| {
        let output = check(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for name in ["domains.txt", "recipients.txt", "traps.regex"] {
        std::fs::copy(examples.join(name), folder.path().join(name)).unwrap();
    }
    let recommended = examples.join("recommended.toml");
    for first in [printed(&["--print"]), printed(&["--print", "-c", recommended.to_str().unwrap()])]
    {
        let again = folder.path().join("again.toml");
        std::fs::write(&again, &first).unwrap();
        assert_eq!(printed(&["--print", "-c", again.to_str().unwrap()]), first);
    }
}

#[test]
fn a_password_may_come_from_the_environment_and_is_never_printed() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[directory.people]\nkind = \"ldap\"\npreset = \"openldap\"\n\
        servers = [\"ldaps://ldap.example.org\"]\nbase = \"dc=example,dc=org\"\n\
        bind_dn = \"cn=reader,dc=example,dc=org\"\npassword = \"env:MPP_TEST_PASSWORD\"\n";
    let path = folder.path().join("mpp.toml");
    std::fs::write(&path, text).unwrap();
    let run = |password: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mpp"));
        command.args(["check", "--print", "--config"]).arg(&path).env_remove("MPP_TEST_PASSWORD");
        command.envs(password.map(|password| ("MPP_TEST_PASSWORD", password)));
        command.output().expect("mpp runs")
    };
    let output = run(Some("hunter2"));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(printed.contains("password = \"env:MPP_TEST_PASSWORD\""), "{printed}");
    assert!(!printed.contains("hunter2"));
    let output = run(None);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("mpp.toml:7:12"), "{said}");
    assert!(said.contains("the environment has no variable `MPP_TEST_PASSWORD`"), "{said}");
}

#[test]
fn a_socket_that_a_chrooted_postfix_does_not_find_is_warned_of_where_its_lines_are_printed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mpp.toml");
    for (socket, is_warned) in [
        ("unix:/run/mppd/policy", true),
        ("unix:/var/spool/postfix/private/mpp", false),
        ("127.0.0.1:10040", false),
    ] {
        let text = format!("[listen]\npolicy = [\"{socket}\"]\nmilter = [\"{socket}\"]\n");
        std::fs::write(&path, text).unwrap();
        for mode in ["policy", "milter"] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_mpp"));
            let output = command.args(["postfix", "--mode", mode, "--config"]).arg(&path).output();
            let printed = String::from_utf8(output.unwrap().stdout).unwrap();
            let warning = printed.starts_with("# WARNING: a chrooted smtpd");
            assert_eq!(warning, is_warned, "{socket} {mode}: {printed}");
        }
    }
}
