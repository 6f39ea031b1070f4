//! Reload, check, and the lines for Postfix.

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::ledger::Ledger;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::raw_smtp::RawSmtp;

use crate::{MPP, RULES, gateway, text};

#[test]
fn a_reload_drops_no_session() {
    let (before, after) = (Ledger::start(|| None), Ledger::start(|| None));
    let (mpp, listen) = gateway(before.address(), "", RULES);
    let (mut busy, mut idle) = (RawSmtp::connect(&listen), RawSmtp::connect(&listen));
    idle.expect("EHLO c.example", "250");
    busy.begin();
    busy.send(b"Serial: busy\r\n\r\n");
    let settings = "domains = [\"test.example\", \"more.example\"]\n";
    mpp.configure(&text(&listen, after.address(), settings, RULES));
    let said = mpp.tell(&["reload"]);
    assert!(!said.contains("next start"), "{said}");
    busy.send(b"the rest\r\n.\r\n");
    assert!(busy.reply().starts_with("250"));
    let reply = idle.message("a@b.example", "bob@test.example", "Serial: idle\r\n\r\nx");
    assert!(reply.starts_with("250"), "{reply}");
    let mut new = RawSmtp::connect(&listen);
    new.expect("EHLO c.example", "250");
    let reply = new.message("a@b.example", "bob@more.example", "Serial: new\r\n\r\nx");
    assert!(reply.starts_with("250"), "{reply}");
    before.settle(&["busy", "idle"].map(str::to_owned));
    after.settle(&["new".to_owned()]);
    // Where it listens is for the next start.
    let other = listen.replace(":10025", ":10026");
    mpp.configure(&text(&other, after.address(), settings, RULES));
    assert!(mpp.tell(&["reload"]).contains("next start"));
}

#[test]
fn no_configuration_makes_an_open_relay() {
    let at = address();
    let listen = format!("{at}:10025");
    for (domains, wanted) in [
        ("[]", "a gateway needs `domains`"),
        ("[\"*\"]", "is no domain"),
        ("[\".\"]", "is no domain"),
        ("[\"com\"]", "is no domain"),
        ("[\"bob@example.org\"]", "is no domain"),
    ] {
        let settings = format!("domains = {domains}\n");
        let mpp = Daemon::new(MPP, &at, &text(&listen, "127.0.0.1:9", &settings, RULES));
        let said = mpp.tell_in_vain(&["check"]);
        assert!(said.contains(wanted), "{domains}: {said}");
        assert!(mpp.refused().contains(wanted));
    }
    let settings = "domains = [\"example.org\", \".example.net\"]\n";
    let mpp = Daemon::new(MPP, &at, &text(&listen, "127.0.0.1:9", settings, RULES));
    let said = mpp.tell(&["check"]);
    assert!(said.contains("a gateway for example.org, .example.net and postmaster"), "{said}");
    assert!(said.contains("were tried and are refused"), "{said}");
}

#[test]
fn postfix_behind_it_reads_its_lines() {
    let (mpp, _) = gateway("127.0.0.1:10026", "", RULES);
    let lines = mpp.tell(&["postfix", "--mode", "gateway"]);
    let back = Postfix::start(&address(), "");
    let folder = tempfile::tempdir().unwrap();
    let main = std::fs::read_to_string(back.configuration().join("main.cf")).unwrap();
    std::fs::write(folder.path().join("main.cf"), main).unwrap();
    std::fs::write(folder.path().join("master.cf"), &lines).unwrap();
    let output = std::process::Command::new("postconf")
        .arg("-c")
        .arg(folder.path())
        .arg("-Mf")
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let services = String::from_utf8(output.stdout).unwrap();
    assert!(services.contains("127.0.0.1:10026 inet"), "{services}");
    assert!(services.contains("smtpd_authorized_xforward_hosts=127.0.0.0/8"), "{services}");
}
