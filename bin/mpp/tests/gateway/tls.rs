//! STARTTLS towards clients: nothing survives it, and certificates change under way.

use mpp_tests::real::ca::Authority;
use mpp_tests::real::ledger::Ledger;
use mpp_tests::real::raw_smtp::RawSmtp;
use mpp_tests::real::until;

use crate::{RULES, gateway, text};

fn starttls(certificate: &str, key: &str) -> String {
    format!("[proxy.mx.starttls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n")
}

#[test]
fn nothing_that_was_said_in_the_clear_survives_it() {
    let authority = Authority::new();
    let own = authority.sign(&["DNS:mx.test.example"]);
    let ledger = Ledger::start(|| None);
    let settings = starttls(&own.certificate.display().to_string(), &own.key.display().to_string());
    let (_mpp, listen) = gateway(ledger.address(), &format!("{settings}required = true\n"), RULES);
    let mut raw = RawSmtp::connect(&listen);
    raw.send(b"EHLO c.example\r\n");
    assert!(raw.lines().join("").contains("STARTTLS"));
    raw.expect("MAIL FROM:<a@b.example>", "530 5.7.0");
    raw.starttls(&authority.file(), "mx.test.example");
    raw.expect("MAIL FROM:<a@b.example>", "503");
    raw.send(b"EHLO c.example\r\n");
    assert!(!raw.lines().join("").contains("STARTTLS"));
    raw.expect("STARTTLS", "502");
    let reply = raw.message("a@b.example", "bob@test.example", "Serial: tls\r\n\r\nx");
    assert!(reply.starts_with("250"), "{reply}");
    assert!(ledger.heard().join("\n").contains("with ESMTPS id"));
    // Whoever puts commands behind it, in the clear, is cut off (CVE-2011-0411).
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    raw.send(b"STARTTLS\r\nRSET\r\n");
    assert!(raw.reply().starts_with("501 5.5.4"));
    assert_eq!(raw.reply(), "");
    // What is no handshake ends the connection, and nobody else's.
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    raw.expect("STARTTLS", "220");
    raw.send(b"EHLO c.example\r\nEHLO c.example\r\n");
    raw.finish();
    let mut rest = 0;
    while !raw.is_closed() && rest < 1000 {
        rest += 1;
    }
    ledger.settle(&["tls".to_owned()]);
}

#[test]
fn certificates_change_under_way_and_only_for_good_ones() {
    let (old, new) = (Authority::new(), Authority::new());
    let names = ["DNS:mx.test.example"];
    let ledger = Ledger::start(|| None);
    let (mpp, listen) = gateway(ledger.address(), "", RULES);
    let put = |authority: &Authority| {
        let own = authority.sign(&names);
        let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
        mpp.write("mx-key.pem", &read(&own.key));
        mpp.write("mx.pem", &read(&own.certificate));
    };
    put(&old);
    mpp.configure(&text(&listen, ledger.address(), &starttls("mx.pem", "mx-key.pem"), RULES));
    mpp.tell(&["reload"]);
    let mut early = RawSmtp::connect(&listen);
    early.expect("EHLO c.example", "250");
    early.starttls(&old.file(), "mx.test.example");
    early.expect("EHLO c.example", "250");
    // A key that belongs to another one is never taken.
    let other = new.sign(&names);
    mpp.write("mx-key.pem", &std::fs::read_to_string(&other.key).unwrap());
    let said = mpp.tell_in_vain(&["reload"]);
    assert!(said.contains("proxy mx") && said.contains("stays as it was"), "{said}");
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    raw.starttls(&old.file(), "mx.test.example");
    // The new one is read by itself.
    put(&new);
    until("the new certificate", || {
        let mut raw = RawSmtp::connect(&listen);
        raw.expect("EHLO c.example", "250");
        let file = new.file();
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            raw.starttls(&file, "mx.test.example");
            raw.say("EHLO c.example").starts_with("250")
        }));
        tried.is_ok_and(|works| works).then_some(())
    });
    // Whoever was there before goes on.
    let reply = early.message("a@b.example", "bob@test.example", "Serial: early\r\n\r\nx");
    assert!(reply.starts_with("250"), "{reply}");
}
