//! What was released is delivered as it came, at every door behind, with what its sender asked for; and
//! its mark opens nothing for anybody else.

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::fake_spamd::FakeSpamd;
use mpp_tests::real::ledger::Ledger;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::raw_smtp::RawSmtp;
use mpp_tests::real::smtp::{Smtp, Who};

use crate::{HELD, MPP, Scene, gateway, text};

/// A message with an attachment that policies take out.
const ATTACHED: &str = "From:a@good.example\r\nSubject:x\r\nContent-Type: multipart/mixed; boundary=b\r\n\
    Serial: one\r\nX-Gone: stays\r\n\r\n--b\r\nContent-Type: application/x; name=tool.exe\r\n\r\nMZ\r\n--b--";

/// Everything that a policy can do to a message.
const RULES: &str = "[policy.default.message]\nadd_headers = [\"X-Added: yes\"]\n\
    remove_headers = [\"X-Gone\"]\ncopy_to = [\"archive@test.example\"]\n[policy.default.scan]\n\
    with = [\"fake\"]\nskip = []\nsample = \"100%\"\nstrip = [\"exe\"]\nsubject = \"[SPAM]\"\n";

/// A gateway, a filter of the same daemon behind it, and a scanner that both ask.
struct Both {
    scene: Scene,
    filter: String,
    spamd: FakeSpamd,
}

impl Both {
    fn start(points: f32, more: &str) -> Self {
        let (at, hop) = (address(), Ledger::start(|| None));
        let spamd = FakeSpamd::start(move |_| points);
        let (listen, filter) = (format!("{at}:10025"), format!("{at}:10026"));
        let rules = format!(
            "{RULES}{more}[proxy.after]\nlisten = [\"{filter}\"]\npeers = [\"127.0.0.0/8\"]\n\
             next_hop = [\"{}\"]\n{}",
            hop.address(),
            spamd.lines()
        );
        let mpp = Daemon::start(MPP, &at, &gateway(&listen, &filter, &rules));
        Self { scene: Scene { mpp, listen, hop }, filter, spamd }
    }

    fn by_filter(&self, recipients: &[&str], text: &str) -> String {
        let mut client = RawSmtp::connect(&self.filter);
        client.expect("EHLO c.example", "250");
        client.expect("MAIL FROM:<a@good.example>", "250");
        for recipient in recipients {
            client.expect(&format!("RCPT TO:<{recipient}>"), "250");
        }
        client.expect("DATA", "354");
        client.say(&format!("{text}\r\n."))
    }

    fn released(&self, recipients: &[&str]) -> String {
        assert!(self.scene.send(recipients, ATTACHED).starts_with("250"));
        let id = self.scene.rows(&["list"])[0]["id"].as_str().expect("an id").to_owned();
        self.scene.mpp.tell(&["quarantine", "release", &id]);
        String::from_utf8(self.scene.hop.texts().pop().expect("it arrives")).expect("ASCII")
    }
}

#[test]
fn nothing_is_done_to_what_was_released() {
    for (points, more) in [(9.0, ""), (12.5, "reject = 0\n"), (0.0, HELD)] {
        let both = Both::start(points, more);
        let got = both.released(&["held@test.example"]);
        assert!(got.starts_with("X-Mpp-Released: "), "{got}");
        let end = got.find("From:a@good").expect("the message");
        assert_eq!(&got[end..], format!("{ATTACHED}\r\n"), "byte for byte");
        assert_eq!(both.scene.hop.count("RCPT TO:<archive@"), 0, "no copy");
        assert!(both.scene.rows(&["list"]).is_empty());
        assert_eq!(both.spamd.shown().len(), 2, "a virus would not be excused");
    }
}

#[test]
fn a_mark_opens_nothing_for_anybody_else() {
    let both = Both::start(9.0, "");
    let got = both.released(&["held@test.example", "Bob@test.example"]);
    let held = || both.scene.rows(&["list"]).len();
    let body = got.split_once("\r\n\r\n").expect("a text").1.trim_end();
    let mark = &got[..got.find("Received:").expect("a field")];
    let again = format!("{mark}Subject: again\r\n\r\n{body}");
    assert!(body.contains("tool.exe"));
    let mut count = 0;
    let mut must_be_held = |what: &str, answer: &str| {
        count += 1;
        assert!(answer.starts_with("250"), "{what}: {answer}");
        assert_eq!(held(), count, "{what}");
    };
    // By a client of ours: the same once more, somebody else, another text.
    must_be_held("once more", &both.by_filter(&["bob@test.example"], &again));
    must_be_held("somebody else", &both.by_filter(&["eve@test.example"], &again));
    let other = again.replace("MZ", "MX");
    must_be_held("another text", &both.by_filter(&["held@test.example"], &other));
    // From outside it is taken out, however it is spelled.
    for mark in [mark.to_owned(), mark.replace("X-Mpp-Released:", "x-MPP-released \t:")] {
        let forged = again.replace(&again[..again.find("Subject:").unwrap()], &mark);
        must_be_held("from outside", &both.scene.send(&["ann@test.example"], &forged));
        let id = both.scene.rows(&["list"])[0]["id"].as_str().expect("an id").to_owned();
        let shown = both.scene.mpp.tell(&["quarantine", "show", &id]).to_lowercase();
        assert!(!shown.contains("x-mpp-released"), "{shown}");
    }
}

#[test]
fn the_mark_of_a_stranger_is_taken_out_of_what_only_passes() {
    let scene = Scene::start("");
    let forged = format!("X-Mpp-Released: 0123456789 1 x\r\n\ty z\r\n{}", text("one", "Hello"));
    assert!(scene.send(&["bob@test.example"], &forged).starts_with("250"));
    let got = String::from_utf8(scene.hop.texts().remove(0)).expect("ASCII");
    assert!(!got.contains("Released") && got.contains("\r\nSerial: one\r\nFrom: A"), "{got}");
}

#[test]
fn what_was_held_behind_a_milter_alone_is_released_once_and_not_held_again() {
    let at = address();
    let spamd =
        FakeSpamd::start(
            |text| {
                if text.windows(4).any(|part| part == b"Odd:") { 9.0 } else { 0.0 }
            },
        );
    let rules = |release_to: &str| {
        format!(
            "[listen]\npolicy = [\"{at}:10040\"]\nmilter = [\"{at}:10041\"]\n{}[networks]\n\
             local = [\"127.0.0.0/8\"]\ntrusted = []\n[policy.default.greylist]\nmode = \"off\"\n\
             {RULES}[quarantine]\n{release_to}",
            spamd.lines()
        )
    };
    let mut mpp = Daemon::new(MPP, &at, &rules(""));
    let said = mpp.tell_in_vain(&["check"]);
    assert!(said.contains("held behind the milter") && said.contains("release_to"), "{said}");
    let postfix_lines = mpp.tell(&["postfix", "--mode", "milter"]);
    let postfix = Postfix::start(&at, &postfix_lines);
    mpp.configure(&rules(&format!("release_to = \"{}\"\n", postfix.address())));
    mpp.launch();
    let who = Who::at("198.51.100.7").named("mx.good.example");
    let mut smtp = Smtp::connect_as(postfix.address(), who);
    let message = format!("Odd:spacing\r\n{ATTACHED}");
    let mut send = |recipients: &[&str], message: &str| {
        assert_eq!(smtp.mail("a@good.example").code, 250);
        for recipient in recipients {
            assert_eq!(smtp.rcpt(recipient).code, 250);
        }
        let reply = smtp.text(message);
        assert_eq!(reply.code, 250, "{reply}");
    };
    send(&["bob@test.example", "eve@test.example"], &message);
    let rows = || mpp.json(&["quarantine", "list"])["rows"].as_array().expect("a list").clone();
    assert_eq!(rows().len(), 1);
    let id = rows()[0]["id"].as_str().expect("an id").to_owned();
    let told = mpp.tell(&["quarantine", "release", &id]);
    assert!(told.contains("bob@test.example: released (250"), "{told}");
    postfix.wait_for_delivered(2);
    assert!(rows().is_empty(), "{:?}", rows());
    let unix = message.replace("\r\n", "\n");
    let delivered = postfix.messages();
    for got in &delivered {
        let got = String::from_utf8_lossy(got);
        // Between the two Postfix puts the fields that it misses.
        let (header, text) = unix.split_once("\n\n").expect("both");
        assert!(got.contains(&format!("\n{header}\n")), "{got}");
        assert!(got.contains(&format!("\n\n{text}\n")), "{got}");
        assert!(got.contains("\nX-Mpp-Released: ") && !got.contains("X-Added"), "{got}");
    }
    // From outside the same mark holds nothing back, and does not go on to others.
    let got = String::from_utf8_lossy(&delivered[0]).replace('\n', "\r\n");
    let mark = &got[got.find("X-Mpp-Released").expect("a mark")..];
    let mark: String = mark
        .split_inclusive("\r\n")
        .enumerate()
        .take_while(|(number, line)| *number == 0 || line.starts_with('\t'))
        .map(|(_, line)| line)
        .collect();
    send(&["bob@test.example"], &format!("{mark}{message}"));
    assert_eq!(rows().len(), 1, "held, whatever it carries");
    send(&["ann@test.example"], &format!("{mark}From: a\r\nSubject: good\r\n\r\nx"));
    // Hers and the copy.
    postfix.wait_for_delivered(4);
    let last = postfix.messages_by_recipient();
    let (_, last) = last.iter().find(|(to, _)| to == "ann@test.example").expect("hers");
    assert!(!last.contains("Released") && last.contains("X-Added"), "{last}");
}

#[test]
fn what_the_sender_asked_for_goes_on_at_the_release() {
    const OFFERS: &str = "250-ledger\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 SIZE 0";
    let at = address();
    let hop = Ledger::offering(OFFERS, || None);
    let listen = format!("{at}:10025");
    let mpp = Daemon::start(MPP, &at, &gateway(&listen, hop.address(), HELD));
    let scene = Scene { mpp, listen, hop };
    let mut client = scene.client();
    client.expect(
        "MAIL FROM:<a@good.example> SIZE=500 RET=HDRS ENVID=QQ314159 BODY=8BITMIME SMTPUTF8",
        "250",
    );
    client.expect("RCPT TO:<held@test.example> NOTIFY=NEVER", "250");
    client.expect(
        "RCPT TO:<eve@test.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;e+2Bv@x.example",
        "250",
    );
    client.expect("DATA", "354");
    assert!(client.say(&format!("{}\r\n.", text("dsn", "Gr\u{fc}\u{df}e"))).starts_with("250"));
    let before = scene.hop.heard().len();
    let id = scene.rows(&["list"])[0]["id"].as_str().expect("an id").to_owned();
    scene.mpp.tell(&["quarantine", "release", &id]);
    let heard = scene.hop.heard()[before..].to_vec();
    let says = |head: &str| {
        heard.iter().filter(|line| line.starts_with(head)).cloned().collect::<Vec<_>>()
    };
    assert_eq!(
        says("MAIL"),
        ["MAIL FROM:<a@good.example> BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ314159"]
    );
    assert_eq!(
        says("RCPT"),
        [
            "RCPT TO:<held@test.example> NOTIFY=NEVER",
            "RCPT TO:<eve@test.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;e+2Bv@x.example",
        ]
    );
}
