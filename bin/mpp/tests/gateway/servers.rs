//! Real servers on both sides: Postfix, Sendmail and Exim send through the gateway to Postfix.

use mpp_tests::real::ca::Authority;
use mpp_tests::real::exim::Exim;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::sendmail::Sendmail;
use mpp_tests::real::smtp::Smtp;
use mpp_tests::real::{address, until};

use crate::{RULES, gateway};

/// A message through a server that relays.
fn submit(server: &str, recipients: &[&str], text: &str) {
    let mut smtp = Smtp::connect(server);
    assert_eq!(smtp.say("MAIL FROM:<a@good.example> BODY=8BITMIME").code, 250);
    for recipient in recipients {
        assert_eq!(smtp.rcpt(recipient).code, 250, "{recipient}");
    }
    smtp.say_expecting("DATA", 354);
    assert_eq!(smtp.say(&format!("From: a@good.example\r\n\r\n{text}\r\n.")).code, 250);
}

#[test]
fn postfix_sends_through_it_encrypted_on_both_sides() {
    let authority = Authority::new();
    let back_at = address();
    let certificate = authority.sign(&[&format!("IP:{back_at}")]);
    let back = Postfix::start(
        &back_at,
        &format!(
            "smtpd_tls_security_level = encrypt\nsmtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\n\
             smtpd_authorized_xforward_hosts = 127.0.0.0/8\n",
            certificate.certificate.display(),
            certificate.key.display()
        ),
    );
    let own = authority.sign(&["DNS:mx.test.example"]);
    let settings = format!(
        "tls = \"require\"\nca = \"{}\"\n[proxy.mx.starttls]\ncertificate = \"{}\"\nkey = \"{}\"\n\
         required = true\n",
        authority.file().display(),
        own.certificate.display(),
        own.key.display()
    );
    let (_mpp, listen) = gateway(back.address(), &settings, RULES);
    let (host, port) = listen.rsplit_once(':').unwrap();
    let front = Postfix::start(
        &address(),
        &format!(
            "transport_maps = static:smtp:[{host}]:{port}\nsmtp_tls_security_level = verify\nsmtp_tls_CAfile = {}\n\
             smtp_tls_verify_cert_match = mx.test.example\n",
            authority.file().display()
        ),
    );
    submit(front.address(), &["bob@test.example", "eve@test.example"], "grüße");
    submit(front.address(), &["nobody@test.example"], "x");
    back.wait_for_delivered(2);
    let message = String::from_utf8(back.messages().remove(0)).unwrap();
    assert!(message.contains("with ESMTPS id proxy.") && message.contains("grüße"), "{message}");
    until("the one that may not", || front.log().contains("550 5.1.1 User unknown").then_some(()));
    // The next hop logs the client, not the gateway.
    assert!(back.log().contains(&format!("client={}", "unknown[127.")), "{}", back.log());
}

#[test]
fn sendmail_and_exim_send_through_it() {
    let back = Postfix::start(&address(), "");
    let (mpp, listen) = gateway(back.address(), "", RULES);
    // Sendmail asks a milter as well: the same mpp would do, and none need be there.
    let sendmail = Sendmail::start("127.0.0.1:9", &listen);
    let exim = Exim::start(&address(), &listen);
    let mut smtp = Smtp::connect(exim.address());
    smtp.say_expecting("MAIL FROM:<a@good.example>", 250);
    smtp.say_expecting("RCPT TO:<bob@test.example>", 250);
    smtp.say_expecting("RCPT TO:<eve@test.example>", 250);
    smtp.say_expecting("DATA", 354);
    smtp.say_expecting("From: a@good.example\r\nSubject: exim\r\n\r\nthrough exim\r\n.", 250);
    back.wait_for_delivered(2);
    let _ = sendmail;
    assert!(mpp.runs());
}
