//! Mail in every form through every set-up of real Postfix: policy service, milter, before the queue,
//! after the queue, and the gateway.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

use mpp_tests::real::ca::{Authority, Certificate};
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::raw_smtp::RawSmtp;
use mpp_tests::real::{address, until};

const MPP: &str = env!("CARGO_BIN_EXE_mpp");
const RULES: &str = "[networks]\nlocal = [\"10.0.0.0/8\"]\n\
    [recipients.main]\ndomains = [\"test.example\"]\n\
    addresses = [\"bob@test.example\", \"eve@test.example\", \"jörg@test.example\"]\n\
    [policy.default.greylist]\nmode = \"off\"\n[policy.default.recipient.harvest]\nlimit = 100000\n";

/// The forms, each with what is said and how many recipients get it.
const FORMS: [(&str, &str, usize); 6] = [
    (
        "plain",
        "MAIL FROM:<a@b.example>\r\n|RCPT TO:<bob@test.example>\r\n|DATA\r\n|\
         Subject: plain\r\n\r\n..dot\r\n.\r\n",
        1,
    ),
    (
        "pipelined",
        "MAIL FROM:<a@b.example>\r\nRCPT TO:<bob@test.example>\r\nRCPT TO:<nobody@test.example>\r\n\
         RCPT TO:<eve@test.example>\r\nDATA\r\n|Subject: pipelined\r\n\r\nx\r\n.\r\n",
        2,
    ),
    (
        "eightbit",
        "MAIL FROM:<a@b.example> BODY=8BITMIME SIZE=100\r\n|RCPT TO:<bob@test.example>\r\n|DATA\r\n|\
         Subject: eightbit\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\ngrüße\r\n.\r\n",
        1,
    ),
    (
        "utf8",
        "MAIL FROM:<jürgen@b.example> SMTPUTF8 BODY=8BITMIME\r\n|RCPT TO:<jörg@test.example>\r\n|\
         DATA\r\n|Subject: utf8\r\n\r\nx\r\n.\r\n",
        1,
    ),
    (
        "chunks",
        "MAIL FROM:<a@b.example>\r\n|RCPT TO:<bob@test.example>\r\n|BDAT 15\r\nSubject: chunks|\
         BDAT 11 LAST\r\n\r\n\r\n.text\r\n",
        1,
    ),
    (
        "dsn",
        "MAIL FROM:<a@b.example> RET=HDRS ENVID=QQ314159\r\n|\
         RCPT TO:<bob@test.example> NOTIFY=NEVER ORCPT=rfc822;bob@test.example\r\n|DATA\r\n|\
         Subject: dsn\r\n\r\nx\r\n.\r\n",
        1,
    ),
];

/// A set-up: where mail is taken and where it ends, and what has to live.
struct Scene {
    name: &'static str,
    listen: String,
    /// Where the mail ends comes first.
    servers: Vec<Postfix>,
    _mpp: Daemon,
    _certificate: Certificate,
}

impl Scene {
    /// How many recipients of a form that mpp would refuse a server has taken before it is asked: behind
    /// the queue nobody is refused.
    fn taken_before(&self, form: &str) -> usize {
        usize::from(self.name == "after-queue" && form == "pipelined")
    }
}

/// What the first Postfix needs for STARTTLS.
fn tls_lines(own: &Certificate) -> String {
    format!(
        "smtpd_tls_security_level = may\nsmtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\n",
        own.certificate.display(),
        own.key.display()
    )
}

fn beside(name: &'static str, mode: &str, authority: &Authority) -> Scene {
    let at = address();
    let listen = format!("[listen]\npolicy = [\"{at}:10040\"]\nmilter = [\"{at}:10041\"]\n{RULES}");
    let mpp = Daemon::start(MPP, &at, &listen);
    let lines = mpp.tell(&["postfix", "--mode", mode]);
    let own = authority.sign(&["DNS:mx.test.example"]);
    let postfix = Postfix::start(&at, &format!("{}{lines}\n", tls_lines(&own)));
    let listen = postfix.address().to_owned();
    Scene { name, listen, servers: vec![postfix], _mpp: mpp, _certificate: own }
}

fn around(name: &'static str, authority: &Authority) -> Scene {
    let back = Postfix::start(&address(), "smtpd_authorized_xforward_hosts = 127.0.0.0/8\n");
    let at = address();
    let filter = format!(
        "[proxy.filter]\nlisten = [\"{at}:10025\"]\nnext_hop = [\"{}\"]\n{RULES}",
        back.address()
    );
    let mpp = Daemon::start(MPP, &at, &filter);
    let lines = match name {
        "before-queue" => format!("smtpd_proxy_filter = {at}:10025\n"),
        _ => format!(
            "content_filter = smtp:[{at}]:10025\nsmtp_send_xforward_command = yes\n\
             disable_mime_output_conversion = yes\n"
        ),
    };
    let own = authority.sign(&["DNS:mx.test.example"]);
    let front = Postfix::start(&at, &format!("{}{lines}", tls_lines(&own)));
    let listen = front.address().to_owned();
    Scene { name, listen, servers: vec![back, front], _mpp: mpp, _certificate: own }
}

fn gateway(authority: &Authority) -> Scene {
    let back = Postfix::start(&address(), "smtpd_authorized_xforward_hosts = 127.0.0.0/8\n");
    let at = address();
    let own = authority.sign(&["DNS:mx.test.example"]);
    let text = format!(
        "[proxy.mx]\nuse = \"gateway\"\nlisten = [\"{at}:10025\"]\nnext_hop = [\"{}\"]\n\
         domains = [\"test.example\"]\nresolve = false\ngreet_delay = \"0s\"\n\
         [proxy.mx.starttls]\ncertificate = \"{}\"\nkey = \"{}\"\n{RULES}",
        back.address(),
        own.certificate.display(),
        own.key.display()
    );
    let mpp = Daemon::start(MPP, &at, &text);
    let listen = format!("{at}:10025");
    Scene { name: "gateway", listen, servers: vec![back], _mpp: mpp, _certificate: own }
}

/// Says a form step by step; whether the message was taken.
fn say(raw: &mut RawSmtp, form: &str) -> bool {
    let mut last = String::new();
    for step in form.split('|') {
        raw.send(step.as_bytes());
        // One reply a command; a text, and a chunk, has one as well.
        let is_text = step.starts_with("Subject") || step.starts_with("BDAT");
        let replies = if is_text { 1 } else { step.matches("\r\n").count() };
        for _ in 0..replies {
            last = raw.reply();
            assert!(!last.is_empty(), "{step:?}");
        }
    }
    last.starts_with("250")
}

#[test]
fn mail_passes_in_every_form_through_every_set_up() {
    let authority = Authority::new();
    let scenes = [
        beside("policy", "policy", &authority),
        beside("milter", "milter", &authority),
        around("before-queue", &authority),
        around("after-queue", &authority),
        gateway(&authority),
    ];
    for scene in &scenes {
        let mut wanted = 0;
        for (name, form, recipients) in FORMS {
            for is_encrypted in [false, true] {
                let mut raw = RawSmtp::connect(&scene.listen);
                raw.expect("EHLO c.example", "250");
                if is_encrypted {
                    raw.starttls(&authority.file(), "mx.test.example");
                    raw.expect("EHLO c.example", "250");
                }
                assert!(say(&mut raw, form), "{name} through {}", scene.name);
                wanted += recipients + scene.taken_before(name);
                raw.expect("QUIT", "221");
            }
        }
        let end = &scene.servers[0];
        until(&format!("{wanted} messages through {}", scene.name), || {
            (end.delivered() >= wanted).then_some(())
        });
        let messages: Vec<String> = end
            .messages()
            .iter()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .collect();
        for (name, _, recipients) in FORMS {
            let subject = format!("Subject: {name}");
            let found = messages.iter().filter(|text| text.contains(&subject)).count();
            let wanted = (recipients + scene.taken_before(name)) * 2;
            assert_eq!(found, wanted, "{name} through {}", scene.name);
        }
        for body in ["\n.dot\n", "grüße", "\n.text"] {
            assert!(messages.iter().any(|text| text.contains(body)), "{body:?}: {}", scene.name);
        }
    }
}
