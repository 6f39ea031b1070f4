//! The proxy door between real Postfix instances: before the queue (`smtpd_proxy_filter`), after it
//! (`content_filter`), and what becomes of mail when a side dies.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::ledger::{Ledger, deliver};
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::raw_smtp::RawSmtp;
use mpp_tests::real::smtp::{Who, attempt};
use mpp_tests::real::{address, until};

const MPP: &str = env!("CARGO_BIN_EXE_mpp");
const RULES: &str = "[recipients.main]\naddresses = [\"bob@test.example\", \"eve@test.example\"]\n\
    [policy.default.greylist]\nmode = \"off\"\n[policy.default.recipient.harvest]\nlimit = 100000\n\
    [policy.default.access]\ndeny.client = [\"192.0.2.13\"]\n\
    [[policy.default.threshold]]\nname = \"mails\"\nkey = \"client\"\ncount = \"messages\"\n\
    limit = 3\nper = \"1h\"\nthen = \"defer\"\n";

/// A daemon with a proxy in front of this next hop; its address.
fn proxy(next_hop: &str, rules: &str) -> (Daemon, String) {
    let at = address();
    let listen = format!("{at}:10025");
    let text =
        format!("[proxy.filter]\nlisten = [\"{listen}\"]\nnext_hop = [\"{next_hop}\"]\n{rules}");
    (Daemon::start(MPP, &at, &text), listen)
}

#[test]
fn before_the_queue_postfix_passes_what_mpp_says() {
    let back = Postfix::start(&address(), "");
    let (mpp, listen) = proxy(back.address(), RULES);
    let front = Postfix::start(&address(), &format!("smtpd_proxy_filter = {listen}\n"));
    let client = Who::at("198.51.100.7").named("mx.good.example");
    let said = |who: Who<'_>, to: &str| {
        let reply = attempt(front.address(), who, "a@good.example", to);
        (reply.code, reply.text)
    };
    assert_eq!(said(client, "bob@test.example").0, 250);
    back.wait_for_delivered(1);
    let (code, text) = said(client, "nobody@test.example");
    assert!(code == 550 && text.starts_with("5.1.1 User unknown"), "{text}");
    assert_eq!(said(Who::at("192.0.2.13"), "bob@test.example").0, 554, "by the client's address");
    // The client's name and address came with XFORWARD.
    mpp.json(&["status"]);
    let log = mpp.folder().join("state/log");
    until("a line of the log", || {
        let text: String = std::fs::read_dir(&log)
            .unwrap()
            .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect();
        let line = text.lines().find(|line| line.contains("\"door\":\"proxy\""))?.to_owned();
        assert!(line.contains("mx.good.example") && line.contains("198.51.100.7"), "{line}");
        Some(())
    });
    // Three messages an hour of one client: a message counts when it was taken.
    for _ in 0..2 {
        assert_eq!(said(client, "eve@test.example").0, 250);
    }
    assert_eq!(said(client, "eve@test.example").0, 450);
    back.wait_for_delivered(3);
}

#[test]
fn after_the_queue_mail_comes_back_through_the_filter() {
    let back = Postfix::start(&address(), "");
    let (_mpp, listen) = proxy(back.address(), RULES);
    let (host, port) = listen.rsplit_once(':').unwrap();
    let front = Postfix::start(
        &address(),
        &format!("content_filter = smtp:[{host}]:{port}\nsmtp_send_xforward_command = yes\n"),
    );
    let client = Who::at("198.51.100.7");
    for to in ["bob@test.example", "nobody@test.example"] {
        assert_eq!(attempt(front.address(), client, "a@good.example", to).code, 250, "{to}");
    }
    // Nobody is refused who was taken already: a bounce would go to whoever was forged.
    back.wait_for_delivered(2);
    assert!(!front.log().contains("status=bounced"), "{}", front.log());
}

#[test]
fn what_two_doors_see_of_a_message_counts_once() {
    let back = Postfix::start(&address(), "");
    let at = address();
    let listen = format!("{at}:10025");
    let text = format!(
        "[proxy.filter]\nlisten = [\"{listen}\"]\nnext_hop = [\"{}\"]\n{RULES}",
        back.address()
    );
    let mpp = Daemon::start(MPP, &at, &text);
    let policy = mpp.tell(&["postfix"]);
    let front = Postfix::start(
        &at,
        &format!(
            "{policy}\ncontent_filter = smtp:[{at}]:10025\nsmtp_send_xforward_command = yes\n"
        ),
    );
    let client = Who::at("198.51.100.7");
    // Three messages an hour: each is seen by the policy service, and again behind the queue.
    for number in 1..=3 {
        let reply = attempt(front.address(), client, "a@good.example", "bob@test.example");
        assert_eq!(reply.code, 250, "{number}: {}", reply.text);
        back.wait_for_delivered(number);
    }
    assert_eq!(attempt(front.address(), client, "a@good.example", "bob@test.example").code, 450);
}

#[test]
fn nothing_is_smuggled_in_either_direction() {
    let back = Postfix::start(&address(), "");
    let (mpp, listen) = proxy(back.address(), &RULES.replace("limit = 3\n", "limit = 1000\n"));
    let evil = "MAIL FROM:<evil@b.example>\r\nRCPT TO:<eve@test.example>\r\nDATA\r\nevil\r\n.\r\n";
    for end in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r\n", "\r.\r", "\r\n.\r", "\n\n.\r\n"] {
        let mut raw = RawSmtp::connect(&listen);
        raw.begin();
        raw.send(format!("Subject: x\r\n\r\nhi{end}{evil}").as_bytes());
        let reply = raw.reply();
        assert!(reply.starts_with("554 5.6.0"), "{end:?}: {reply}");
        assert_eq!(raw.reply(), "", "and the connection is closed");
    }
    // Commands likewise.
    let mut raw = RawSmtp::connect(&listen);
    raw.send(b"EHLO x\nMAIL FROM:<a@b.example>\r\n");
    assert!(raw.reply().starts_with("500"));
    // A clean message passes whole, with its dots.
    let mut raw = RawSmtp::connect(&listen);
    raw.begin();
    raw.send(b"Subject: dots\r\n\r\n..one\r\n.two\r\n\r\n.\r\nNOOP\r\n");
    assert!(raw.reply().starts_with("250"));
    assert!(raw.reply().starts_with("250"), "what was pipelined behind it");
    back.wait_for_delivered(1);
    assert!(mpp.runs());
}

#[test]
fn commands_out_of_order_endless_lines_and_strangers() {
    let back = Postfix::start(&address(), "");
    let (mpp, listen) = proxy(back.address(), RULES);
    let mut raw = RawSmtp::connect(&listen);
    for (line, code) in [
        ("MAIL", "501"),
        ("RCPT TO:<bob@test.example>", "503"),
        ("DATA", "503"),
        ("XYZZY", "500"),
        ("EHLO c.example", "250"),
        ("MAIL FROM:<a@b.example>", "250"),
        ("MAIL FROM:<a@b.example>", "503"),
        ("DATA", "554"),
        ("RCPT TO:<nobody@test.example>", "550"),
        ("DATA", "554"),
        ("RSET", "250"),
        ("VRFY bob", "252"),
        ("NOOP", "250"),
    ] {
        let reply = raw.say(line);
        assert!(reply.starts_with(code), "{line}: {reply}");
    }
    let mut last = String::new();
    for _ in 0..40 {
        last = raw.say("XYZZY");
        if last.starts_with("421") {
            break;
        }
    }
    assert!(last.starts_with("421"), "{last}");
    let mut raw = RawSmtp::connect(&listen);
    raw.send(&vec![b'x'; 100_000]);
    assert!(raw.reply().starts_with("500 5.5.2"));
    // Who is no peer is told nothing more.
    let closed = address();
    let text = format!(
        "[proxy.filter]\nlisten = [\"{closed}:10025\"]\nnext_hop = [\"{}\"]\npeers = [\"192.0.2.1\"]\n",
        back.address()
    );
    let other = Daemon::start(MPP, &closed, &text);
    let mut stream = TcpStream::connect(format!("{closed}:10025")).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "554 5.7.1 Not for you\r\n");
    other.wait_for_word("is no configured peer");
    assert!(mpp.runs());
}

#[test]
fn what_was_answered_250_is_at_the_next_hop_wherever_either_side_dies() {
    let rules = RULES.replace("limit = 3\n", "limit = 100000\n");
    // The next hop dies after every number of bytes of a dialogue.
    let place = Arc::new(Mutex::new(0_usize));
    let places = Arc::clone(&place);
    let ledger = Ledger::start(move || {
        let mut place = places.lock().unwrap();
        *place += 3;
        (*place < 700).then_some(*place)
    });
    let (mut mpp, listen) = proxy(ledger.address(), &rules);
    let mut promised = Vec::new();
    for number in 0..260 {
        let serial = format!("hop-{number}");
        if deliver(&listen, &serial) {
            promised.push(serial);
        }
    }
    assert!(promised.len() > 10, "{}", promised.len());
    // mpp is killed in the middle of messages.
    for round in 0..20_u64 {
        let sender = {
            let listen = listen.clone();
            std::thread::spawn(move || {
                let serials = (0..50).map(|number| format!("kill-{round}-{number}"));
                serials.filter(|serial| deliver(&listen, serial)).collect::<Vec<_>>()
            })
        };
        std::thread::sleep(Duration::from_millis(5 + round * 3));
        mpp.kill();
        promised.extend(sender.join().unwrap());
        mpp.launch();
    }
    ledger.settle(&promised);
    assert!(deliver(&listen, "last"));
}

#[test]
fn a_stop_lets_messages_finish_and_begins_no_more() {
    let ledger = Ledger::start(|| None);
    let (mut mpp, listen) = proxy(ledger.address(), RULES);
    let (mut busy, mut idle) = (RawSmtp::connect(&listen), RawSmtp::connect(&listen));
    busy.begin();
    busy.send(b"Serial: busy\r\n\r\n");
    let finisher = std::thread::spawn(move || {
        // What is idle is told at once.
        assert!(idle.reply().starts_with("421 4.3.2"));
        let stream = TcpStream::connect(&listen).unwrap();
        let mut late = String::new();
        let _ = BufReader::new(stream).read_line(&mut late);
        assert!(late.starts_with("421"), "{late}");
        busy.send(b"the rest\r\n.\r\n");
        assert!(busy.reply().starts_with("250"));
        assert!(busy.reply().starts_with("421 4.3.2"));
    });
    mpp.stop();
    finisher.join().unwrap();
    assert_eq!(ledger.taken().get("busy"), Some(&1));
}

#[test]
fn the_lines_for_postfix_are_what_postfix_reads() {
    let back = Postfix::start(&address(), "");
    let (mpp, listen) = proxy("127.0.0.1:10026", RULES);
    for (mode, wanted) in [
        ("before-queue", format!("-o smtpd_proxy_filter={listen}")),
        ("after-queue", "-o smtp_send_xforward_command=yes".to_owned()),
    ] {
        let lines = mpp.tell(&["postfix", "--mode", mode]);
        let folder = tempfile::tempdir().unwrap();
        let main = std::fs::read_to_string(back.configuration().join("main.cf")).unwrap();
        let (for_main, for_master) = if mode == "after-queue" {
            lines.split_once("# master.cf\n").expect("two files")
        } else {
            ("", lines.as_str())
        };
        std::fs::write(folder.path().join("main.cf"), format!("{main}{for_main}")).unwrap();
        std::fs::write(folder.path().join("master.cf"), for_master).unwrap();
        let read = |option: &str| {
            let mut command = std::process::Command::new("postconf");
            let output = command.arg("-c").arg(folder.path()).arg(option).output().unwrap();
            assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let services = read("-Mf");
        assert!(services.contains(&wanted), "{services}");
        assert!(services.contains("127.0.0.1:10026 inet"), "{services}");
        if mode == "after-queue" {
            let filter = read("content_filter");
            assert!(filter.contains(&format!("[{}]:10025", listen.split(':').next().unwrap())));
        }
    }
}
