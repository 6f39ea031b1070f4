//! Messages stay what they were, byte for byte, from the client by way of the milter to scanners and to
//! the mailbox.

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::fake_spamd::FakeSpamd;
use mpp_tests::real::milter_peer::{ALL, Peer, client, offer, packet, path};
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::smtp::{Smtp, Who};

use crate::{CALM, MPP, Scene};

/// Header fields as nobody would write them. Blanks before a colon are not among them: Postfix itself
/// takes those away.
const ODD: &[u8] = b"Message-ID:\r\n <odd@good.example>\r\nFrom:a@good.example\r\nTo:  bob@test.example\r\n\
    X-Tab:\tone\r\n\t two  \r\nX-Raw: \xcf\xf0\xe8\xe2\xe5\xf2\r\n\
    X-Empty:\r\nDate: Tue, 24 Nov 2026 13:50:30 +0000\r\nSubject:x\r\n\r\n one\r\n\r\n\ttwo  \r\n.three\r\n\r\n";

fn configuration(at: &str, spamd: &FakeSpamd, rules: &str) -> String {
    format!(
        "[listen]\npolicy = [\"{at}:10040\"]\nmilter = [\"{at}:10041\"]\n{}{CALM}\
         [policy.default.scan]\nwith = [\"fake\"]\n{rules}",
        spamd.lines()
    )
}

/// What stands behind the fields that we have put before a message.
fn behind<'t>(text: &'t [u8], first: &[u8]) -> &'t [u8] {
    let at = text.windows(first.len()).position(|part| part == first);
    &text[at.unwrap_or_else(|| panic!("{}", text.escape_ascii()))..]
}

fn through_postfix(rules: &str, points: f32, message: &[u8]) -> (FakeSpamd, Vec<u8>) {
    let spamd = FakeSpamd::start(move |_| points);
    let at = address();
    let mpp = Daemon::start(MPP, &at, &configuration(&at, &spamd, rules));
    let postfix = Postfix::start(&at, &mpp.tell(&["postfix", "--mode", "milter"]));
    let who = Who::at("198.51.100.7").named("mx.good.example");
    let mut smtp = Smtp::connect_as(postfix.address(), who);
    assert_eq!(smtp.mail("a@good.example").code, 250);
    assert_eq!(smtp.rcpt("bob@test.example").code, 250);
    smtp.say_expecting("DATA", 354);
    let stuffed = String::from_utf8_lossy(message).contains("\r\n.");
    let mut wire = Vec::new();
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") && stuffed {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    smtp.send(&wire);
    let reply = smtp.reply();
    assert_eq!(reply.code, 250, "{reply}");
    postfix.wait_for_delivered(1);
    let delivered = postfix.messages().remove(0);
    (spamd, delivered)
}

#[test]
fn scanners_see_what_the_client_sent_through_a_real_postfix() {
    let (spamd, delivered) = through_postfix("", 0.0, ODD);
    let shown = spamd.shown().remove(0);
    assert_eq!(
        behind(&shown, b"Message-ID:").escape_ascii().to_string(),
        ODD.escape_ascii().to_string()
    );
    // What the mailbox has is what the client sent, and our fields are fields.
    let text = String::from_utf8_lossy(&delivered).into_owned();
    assert!(text.contains("\nX-Spam-Score: 0.00\n"), "{text}");
    let unix: Vec<u8> = ODD.iter().copied().filter(|byte| *byte != b'\r').collect();
    let end = behind(&delivered, b"Message-ID:");
    assert!(end.starts_with(&unix), "{}", end.escape_ascii());
}

#[test]
fn a_subject_is_marked_and_stays_byte_for_byte_through_a_real_postfix() {
    let rules = "subject = \"[SPAM]\"\nreject = 0\nquarantine = 0\n";
    let words = |count: usize| {
        let word: &[u8] = b" =?utf-8?q?Gr=C3=B6=C3=9Fe_und_mehr_davon?=";
        (0..count).map(|_| [word, b"\r\n"].concat()).collect::<Vec<_>>().concat()
    };
    let long = words(40);
    let longer = words(1000);
    for (subject, wanted) in [
        (
            &b": \xcf\xf0\xe8\xe2\xe5\xf2\r\n"[..],
            Some(&b": [SPAM] \xcf\xf0\xe8\xe2\xe5\xf2\r\n"[..]),
        ),
        (b":caf\xe9\r\n\t au lait \r\n", Some(b": [SPAM] caf\xe9\r\n\t au lait \r\n")),
        (&[b":", &*long].concat(), Some(&[b": [SPAM]", &*long].concat())),
        // It cannot be kept: it is not marked, and not cut.
        (&[b":", &*longer].concat(), None),
        (b": [SPAM]  again\r\n", None),
    ] {
        let message = |subject: &[u8]| {
            [
                b"Message-ID: <m@good.example>\r\nDate: Tue, 24 Nov 2026 13:50:30 +0000\r\n\
                From: a@good.example\r\nSUBJECT",
                subject,
                b"\r\ntext\r\n",
            ]
            .concat()
        };
        let (_, delivered) = through_postfix(rules, 6.0, &message(subject));
        let marked = message(wanted.unwrap_or(subject));
        let unix: Vec<u8> = marked.iter().copied().filter(|byte| *byte != b'\r').collect();
        let end = behind(&delivered, b"Message-ID:");
        assert!(end.starts_with(&unix), "{}\n{}", end.escape_ascii(), unix.escape_ascii());
    }
}

#[test]
fn the_last_piece_of_a_body_may_come_with_the_end_of_the_message() {
    let spamd = FakeSpamd::start(|_| 0.0);
    let at = address();
    let mpp = Daemon::start(MPP, &at, &configuration(&at, &spamd, ""));
    let mut peer = Peer::connect(&format!("{at}:10041"));
    peer.send(&offer(6, ALL));
    peer.answer().expect("an agreement");
    peer.send(&client("198.51.100.7"));
    peer.send(&packet(b'H', b"client.example\0"));
    let ends: [(&[&[u8]], &[u8]); 3] =
        [(&[b"one\r\n"], b"two\r\n"), (&[], b"all\r\n"), (&[b"all\r\n"], b"")];
    for (pieces, last) in ends {
        peer.send(&path(b'M', "a@good.example"));
        assert_eq!(peer.ask(&path(b'R', "bob@test.example")), ["c"]);
        peer.send(&packet(b'L', b"From\0 a@good.example\0"));
        for piece in pieces {
            peer.send(&packet(b'B', piece));
        }
        let said = peer.ask(&packet(b'E', last));
        assert_eq!(said.last().map(String::as_str), Some("c"), "{said:?}");
        let shown = spamd.shown().pop().expect("it was scanned");
        let wanted = [b"From: a@good.example\r\n\r\n", &*pieces.concat(), last].concat();
        assert_eq!(
            behind(&shown, b"From:").escape_ascii().to_string(),
            wanted.escape_ascii().to_string()
        );
    }
    assert!(mpp.runs());
}

#[test]
fn a_header_that_ends_early_gets_its_mark_on_top_and_the_text_stays() {
    let spamd = FakeSpamd::start(|_| 6.0);
    let rules = "[policy.default.scan]\nwith = [\"fake\"]\nsubject = \"[SPAM]\"\n\
        [policy.default.message]\nremove_headers = [\"X-Gone\"]\n";
    let scene = Scene::start(&spamd.lines(), rules);
    let texts = [
        "First line of the text\r\n\r\nSubject: not one\r\nX-Gone: stays\r\nX-Spam-Flag: NO\r\n",
        " begins with a blank\r\nSubject: not one\r\n",
        "\r\nSubject: not one\r\n",
    ];
    for (number, text) in texts.iter().enumerate() {
        let header = if number == 1 { "" } else { "From: a\r\nX-Gone: x\r\nX-Mailer:Foo\r\n" };
        let reply = scene.client("198.51.100.7").message(
            "a@good.example",
            "bob@test.example",
            &format!("{header}{}", text.trim_end()),
        );
        assert!(reply.starts_with("250"), "{reply}");
        let got = String::from_utf8(scene.hop.texts().pop().expect("a text")).expect("ASCII");
        let header = got.strip_suffix(text).unwrap_or_else(|| panic!("{got}"));
        assert!(header.contains("\r\nSubject: [SPAM]\r\n"), "{got}");
        assert_eq!(header.matches("Subject").count(), 1, "{got}");
        assert!(!header.contains("X-Gone"), "{got}");
        assert_eq!(header.contains("X-Mailer:Foo\r\n"), number != 1, "{got}");
        assert_eq!(header.ends_with("\r\n\r\n"), number == 1, "{got}");
    }
}
