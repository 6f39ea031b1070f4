//! What the LDAP servers of tests share: Debian's client programs, each with a time limit, since
//! some of them wait for ever.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::until;

/// Waits until a server answers.
pub fn wait(url: &str) {
    until(&format!("an answer of {url}"), || {
        let arguments = ["2", "ldapsearch", "-x", "-LLL", "-H", url, "-b", "", "-s", "base", "1.1"];
        let output = Command::new("timeout").args(arguments).output();
        output.is_ok_and(|output| output.status.success()).then_some(())
    });
}

/// Adds entries.
pub fn ldapadd(url: &str, (dn, password): (&str, &str), ldif: &str) {
    let mut child = Command::new("timeout")
        .args(["60", "ldapadd", "-x", "-H", url, "-D", dn, "-w", password])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the package ldap-utils");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(ldif.as_bytes()).expect("ldapadd reads");
    drop(input);
    let output = child.wait_with_output().expect("our own child");
    assert!(output.status.success(), "ldapadd: {}", String::from_utf8_lossy(&output.stderr));
}
