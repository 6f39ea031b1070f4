//! What comes over the policy socket and is no good: broken, huge, slow, binary, never ending. The
//! real mpp answers or closes, says why, stays small, and its other connections notice nothing.

#![allow(
    clippy::expect_used,
    reason = "helpers of tests, too: what is not as expected ends the test"
)]

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::policy::{Client, rcpt, request};
use mpp_tests::real::{PATIENCE, address, until};
use serde_json::Value;

const MPP: &str = env!("CARGO_BIN_EXE_mpp");
const NO_GREYLIST: &str = "[policy.default.greylist]\nmode = \"off\"\n";
/// No request may be longer.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// A daemon that accepts everything, and somebody who asks it without a pause.
struct Scene {
    mpp: Daemon,
    neighbour: Neighbour,
}

impl Scene {
    fn new() -> Self {
        let mpp = Daemon::start(MPP, &address(), NO_GREYLIST);
        let neighbour = Neighbour::new(mpp.address());
        Self { mpp, neighbour }
    }

    /// The daemon lives, the neighbour was answered all the time, and memory is what it was.
    fn end(self) {
        let longest = self.neighbour.end();
        assert!(longest < Duration::from_secs(2), "the neighbour waited {longest:?}");
        assert!(self.mpp.runs());
        assert!(!self.mpp.said().contains("panicked"), "{}", self.mpp.said());
        assert_eq!(self.mpp.client().ask(&usual()), "DUNNO");
    }
}

/// Asks and is answered, again and again.
struct Neighbour {
    thread: JoinHandle<Duration>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
}

impl Neighbour {
    fn new(address: &str) -> Self {
        let mut client = Client::new(address);
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let (ends, count) = (Arc::clone(&stop), Arc::clone(&answered));
        let thread = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !ends.load(Ordering::Relaxed) {
                let begun = Instant::now();
                assert_eq!(client.ask(&usual()), "DUNNO");
                longest = longest.max(begun.elapsed());
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
            longest
        });
        Self { thread, stop, answered }
    }

    /// Waits until it was answered some more.
    fn wait_for_answers(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        until("answers to the neighbour", || {
            (self.answered.load(Ordering::Relaxed) > before + 20).then_some(())
        });
    }

    fn end(self) -> Duration {
        self.wait_for_answers();
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the neighbour was always answered")
    }
}

fn usual() -> String {
    rcpt("198.51.100.1", "a@x.example", "bob@test.example")
}

/// Sends bytes; the connection must be closed without an answer, and the log must say why.
fn is_refused(mpp: &Daemon, bytes: &[u8], why: &str) {
    let mut client = mpp.client();
    // The peer may close before it has read all.
    drop(client.send(bytes));
    client.finish_sending();
    let start = String::from_utf8_lossy(bytes.get(..bytes.len().min(60)).unwrap_or_default());
    assert!(client.is_closed(), "not closed: {start:?}");
    let line = format!("policy service: connection from 127.0.0.1 closed: {why}");
    until(&format!("{line:?} for {start:?}"), || mpp.said().contains(&line).then_some(()));
}

#[test]
fn what_is_no_request_ends_the_connection_and_is_named() {
    let scene = Scene::new();
    let mpp = &scene.mpp;
    is_refused(mpp, b"request=smtpd_access_policy\nsender\n\n", "line without '='");
    is_refused(mpp, b"request=smtpd_access_policy\nsender=a\0b@x.example\n\n", "NUL byte");
    is_refused(mpp, b"sender=a@x.example\n\n", "no request attribute");
    is_refused(mpp, b"request=junk_policy\nclient_address=192.0.2.1\n\n", "no request attribute");
    is_refused(mpp, b"\n\n", "no request attribute");
    is_refused(mpp, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\n\n", "line without '='");
    is_refused(mpp, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\n\n", "NUL byte");
    is_refused(mpp, &vec![b'a'; REQUEST_BYTES_MAX + 1], "request over 65536 bytes");
    // The blank line never comes.
    is_refused(mpp, usual().trim_end().as_bytes(), "it ended inside a request");
    // CR LF is not how lines end here: the blank line is not blank.
    is_refused(mpp, usual().replace('\n', "\r\n").as_bytes(), "it ended inside a request");
    scene.end();
}

#[test]
fn what_was_asked_before_the_fault_is_answered() {
    let scene = Scene::new();
    let mut client = scene.mpp.client();
    client.send(format!("{0}{0}nonsense\n\n{0}", usual()).as_bytes()).expect("sent");
    assert_eq!(client.answer().expect("an answer").as_deref(), Some("DUNNO"));
    assert_eq!(client.answer().expect("an answer").as_deref(), Some("DUNNO"));
    assert!(client.is_closed());
    scene.end();
}

#[test]
fn the_bound_on_a_request_holds_to_the_byte() {
    let scene = Scene::new();
    let of_length = |length: usize| {
        let mut text = usual();
        text.pop();
        let filler = length - text.len() - "filler=\n".len();
        text + &format!("filler={}\n\n", "x".repeat(filler))
    };
    // The two line ends at the end are not counted.
    let mut client = scene.mpp.client();
    assert_eq!(client.ask(&of_length(REQUEST_BYTES_MAX + 1)), "DUNNO");
    is_refused(&scene.mpp, of_length(REQUEST_BYTES_MAX + 2).as_bytes(), "request over 65536 bytes");
    scene.end();
}

fn attributes(count: u32) -> String {
    (0..count).fold(String::new(), |text, number| text + &format!("a{number}=b\n"))
}

#[test]
fn a_million_attributes_are_too_many_and_cost_nothing() {
    let scene = Scene::new();
    let before = scene.mpp.resident_kib();
    let million = format!("request=smtpd_access_policy\n{}\n", attributes(1_000_000));
    for _ in 0..5 {
        is_refused(&scene.mpp, million.as_bytes(), "request over 65536 bytes");
    }
    // As many as fit are unknown attributes and no harm.
    let few = attributes(5_000);
    assert_eq!(scene.mpp.client().ask(&format!("{few}{}", usual())), "DUNNO");
    let after = scene.mpp.resident_kib();
    assert!(after < before + 8 * 1024, "{before} KiB became {after} KiB");
    scene.end();
}

#[test]
fn requests_may_be_cut_anywhere_and_come_in_heaps() {
    let scene = Scene::new();
    let whole = usual();
    let mut client = scene.mpp.client();
    for cut in 1..whole.len() {
        let (head, tail) = whole.as_bytes().split_at(cut);
        client.send(head).expect("sent");
        // Half a request waits while others are served.
        std::thread::sleep(Duration::from_micros(200));
        client.send(tail).expect("sent");
        assert_eq!(client.answer().expect("an answer").as_deref(), Some("DUNNO"), "cut at {cut}");
    }
    // Byte by byte.
    for byte in whole.as_bytes() {
        client.send(&[*byte]).expect("sent");
    }
    assert_eq!(client.answer().expect("an answer").as_deref(), Some("DUNNO"));
    // A thousand at once, the end of sending with them: each is answered before the close.
    client.send(whole.repeat(1_000).as_bytes()).expect("sent");
    client.finish_sending();
    for number in 0..1_000 {
        let answer = client.answer().expect("an answer");
        assert_eq!(answer.as_deref(), Some("DUNNO"), "number {number}");
    }
    assert!(client.is_closed());
    scene.end();
}

#[test]
fn who_never_reads_is_not_waited_for() {
    let scene = Scene::new();
    let before = scene.mpp.resident_kib();
    // Over the unix socket, whose buffers are small: TCP would take megabytes before it is full.
    let mut clients: Vec<Client> = (0..4).map(|_| Client::new(&scene.mpp.unix_address())).collect();
    let heap = usual().repeat(200);
    for client in &mut clients {
        client.push_at_most(Duration::from_millis(200));
        // Until the way there is full, or for 50 MB.
        let full = (0..1_000).find_map(|_| client.send(heap.as_bytes()).err());
        let full = full.expect("mpp stops to read where its answers are not taken").kind();
        assert!(matches!(full, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{full}");
    }
    scene.neighbour.wait_for_answers();
    let after = scene.mpp.resident_kib();
    assert!(after < before + 16 * 1024, "{before} KiB became {after} KiB");
    scene.end();
}

#[test]
fn ten_thousand_silent_connections_harm_nobody() {
    // This process holds as many as mpp does.
    let raised = rlimit::increase_nofile_limit(30_000).expect("a limit of open files");
    assert!(raised >= 12_000, "open files are limited to {raised}: raise the hard limit");
    let scene = Scene::new();
    let before = scene.mpp.resident_kib();
    let mut silent: Vec<Client> = (0..10_000).map(|_| scene.mpp.client()).collect();
    // Each tenth has said something once, and each tenth half of something.
    for (number, client) in silent.iter_mut().enumerate() {
        match number % 10 {
            0 => assert_eq!(client.ask(&usual()), "DUNNO"),
            1 => client.send(b"request=smtpd_access_policy\nsender=").expect("sent"),
            _ => {}
        }
    }
    let each = (scene.mpp.resident_kib() - before) * 1024 / 10_000;
    assert!(each < 4096, "{each} bytes for each silent connection");
    scene.neighbour.wait_for_answers();
    // They are all alive.
    for client in silent.iter_mut().skip(5).step_by(500) {
        assert_eq!(client.ask(&usual()), "DUNNO");
    }
    drop(silent);
    scene.end();
}

#[test]
fn over_the_bound_on_connections_new_ones_are_closed() {
    let address = address();
    let text = format!("[listen]\npolicy = [\"{address}:10040\"]\nconnections = 20\n{NO_GREYLIST}");
    let mpp = Daemon::start(MPP, &address, &text);
    let mut held: Vec<Client> = (0..20).map(|_| mpp.client()).collect();
    for client in &mut held {
        assert_eq!(client.ask(&usual()), "DUNNO");
    }
    assert!(mpp.client().is_closed());
    mpp.wait_for_word("over 20 connections");
    drop(held);
    until("room again", || {
        let mut client = mpp.client();
        client.send(usual().as_bytes()).ok()?;
        client.answer().ok()?
    });
}

#[test]
fn slow_bytes_hold_up_nobody() {
    let scene = Scene::new();
    let mut slow: Vec<Client> = (0..50).map(|_| scene.mpp.client()).collect();
    for byte in usual().as_bytes() {
        for client in &mut slow {
            client.send(&[*byte]).expect("sent");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    for client in &mut slow {
        assert_eq!(client.answer().expect("an answer").as_deref(), Some("DUNNO"));
    }
    scene.end();
}

#[test]
fn who_hangs_up_early_is_forgotten() {
    let scene = Scene::new();
    for round in 0..300 {
        let mut client = scene.mpp.client();
        let text = usual();
        let part = text.get(..round).unwrap_or(&text);
        client.send(part.as_bytes()).expect("sent");
        if round % 2 == 0 {
            client.finish_sending();
        }
    }
    until("connections given back", || {
        let process = scene.mpp.process();
        let open = std::fs::read_dir(format!("/proc/{process}/fd")).expect("mpp runs").count();
        (open < 50).then_some(())
    });
    scene.end();
}

#[test]
fn bytes_that_are_no_text_are_taken_and_logged() {
    let scene = Scene::new();
    let mut bytes = Vec::new();
    for name in ["sender", "recipient", "helo_name", "client_name", "instance", "queue_id"] {
        bytes.extend_from_slice(format!("{name}=").as_bytes());
        bytes.extend(1..=9_u8);
        bytes.extend(11..=255_u8);
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(
        request(&[
            ("request", "smtpd_access_policy"),
            ("protocol_state", "RCPT"),
            ("client_address", "192.0.2.77"),
        ])
        .as_bytes(),
    );
    let mut client = scene.mpp.client();
    client.send(&bytes).expect("sent");
    assert_eq!(client.answer().expect("an answer").as_deref(), Some("DUNNO"));
    // The log stays one line of JSON a decision.
    scene.mpp.json(&["stats"]);
    let log = || -> String {
        let folder = std::fs::read_dir(scene.mpp.folder().join("state/log")).expect("a log");
        let files = folder.map(|file| file.expect("a file").path());
        files.map(|file| std::fs::read_to_string(file).expect("UTF-8")).collect()
    };
    let text = until("line of the log", || Some(log()).filter(|text| text.contains("192.0.2.77")));
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert!(line["id"].is_string(), "{line}");
    }
    scene.end();
}

#[test]
fn odd_values_of_other_attributes_are_no_harm() {
    let scene = Scene::new();
    let mut client = scene.mpp.client();
    client.wait_at_most(PATIENCE);
    for (name, value) in [
        ("client_address", ""),
        ("client_address", "unknown"),
        ("client_address", "192.0.2.1.5"),
        ("client_address", "[192.0.2.1]"),
        ("client_address", "::ffff:192.0.2.1"),
        ("client_address", "fe80::1%eth0"),
        ("client_port", "65536"),
        ("client_port", "-1"),
        ("size", "99999999999999999999999"),
        ("size", "-5"),
        ("recipient_count", "4294967296"),
        ("recipient_count", "many"),
        ("protocol_state", ""),
        ("protocol_state", "LUNCH"),
        ("instance", "="),
        ("policy_context", "\u{fc}"),
        ("mpp_time", "-1"),
        ("mpp_time", "1e300"),
        ("mpp_time", "NaN"),
        ("", ""),
        ("", "x"),
        ("request ", "x"),
    ] {
        let mut text = usual();
        text.pop();
        assert_eq!(client.ask(&format!("{text}{name}={value}\n\n")), "DUNNO", "{name}={value}");
    }
    for state in
        ["CONNECT", "EHLO", "HELO", "MAIL", "DATA", "END-OF-MESSAGE", "VRFY", "ETRN", "BDAT"]
    {
        let text = usual().replace("=RCPT", &format!("={state}"));
        assert_eq!(client.ask(&text), "DUNNO", "{state}");
    }
    scene.end();
}

#[test]
fn nonsense_on_the_admin_socket_is_answered_as_such() {
    let scene = Scene::new();
    let path = format!("unix:{}", scene.mpp.folder().join("state/admin.sock").display());
    for (line, word) in [
        (&b"nonsense\n"[..], "not JSON"),
        (b"{}\n", "unknown command"),
        (b"[1]\n", "unknown command"),
        (b"{\"command\":\"blocks-add\"}\n", "for how long"),
        (b"{\"command\":\"ask\",\"client\":7}\n", "is not an address"),
        (b"{\"command\":\"blocks\",\"most\":18446744073709551615}\n", "ok"),
    ] {
        let mut admin = Client::new(&path);
        admin.send(line).expect("sent");
        let answer = admin.line().expect("an answer");
        assert!(answer.contains(word), "{answer}");
    }
    // Not UTF-8, without end, longer than any command: closed.
    for line in [&b"\xff\xfe\n"[..], b"{\"command\":", &vec![b'['; 100_000]] {
        let mut admin = Client::new(&path);
        drop(admin.send(line));
        admin.finish_sending();
        let answer = admin.line().unwrap_or_default();
        assert!(answer.is_empty() || answer.contains("not JSON"), "{answer}");
    }
    scene.end();
}
