//! kill -9 in the middle of mail, two hundred times, with scanners: what was answered 250 at the
//! gateway or behind the queue is at the destination or held, each once, and can be released.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::ledger::Ledger;
use mpp_tests::real::raw_smtp::RawSmtp;

use crate::{HELD, MPP, Scene, gateway, text};

/// How often it is killed.
const LIVES: u64 = 200;
/// Of what is held, one in so many is released at the end.
const RELEASED: usize = 4;

/// A way of mail: a name, the recipients, what the body says, and where a message is to be found: how
/// often at the destination, and how often held.
type Way = (&'static str, &'static [&'static str], &'static str, (u32, u32));

const WAYS: [Way; 5] = [
    ("held", &["held@test.example"], "fine", (0, 1)),
    ("free", &["bob@test.example"], "fine", (1, 0)),
    ("spam", &["bob@test.example"], "buy", (0, 1)),
    ("both", &["held@test.example", "bob@test.example"], "fine", (1, 1)),
    ("after", &["bob@test.example", "eve@test.example"], "fine", (1, 1)),
];

/// A spamd that calls spam what says "buy".
fn spamd() -> String {
    let listener = TcpListener::bind((address(), 0)).expect("an address of our own");
    let at = listener.local_addr().expect("it listens").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    at
}

/// Answers one request; whoever is killed in the middle of it does not hear of it.
fn answer(stream: TcpStream) -> Option<()> {
    let mut out = stream.try_clone().ok()?;
    let (mut lines, mut line, mut length) = (BufReader::new(stream), String::new(), 0);
    while lines.read_line(&mut line).ok()? > 2 {
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        line.clear();
    }
    let mut message = vec![0; length];
    lines.read_exact(&mut message).ok()?;
    let is_spam = String::from_utf8_lossy(&message).contains("\r\nbuy");
    let (word, score) = if is_spam { ("True", "10.0") } else { ("False", "0.0") };
    let reply = format!(
        "SPAMD/1.1 0 EX_OK\r\nContent-length: 4\r\nSpam: {word} ; {score} / 5.0\r\n\r\nTEST"
    );
    out.write_all(reply.as_bytes()).ok()
}

/// One message; whether it was answered 250.
fn deliver(listen: &str, recipients: &[&str], text: &str) -> bool {
    let Some(mut raw) = RawSmtp::try_open(listen) else { return false };
    let mut is_taken = raw.reply().starts_with("220");
    let mut say = |line: &str| {
        is_taken =
            is_taken && raw.say(line).starts_with(if line == "DATA" { "354" } else { "250" });
    };
    say("EHLO c.example");
    say("MAIL FROM:<a@good.example>");
    for recipient in recipients {
        say(&format!("RCPT TO:<{recipient}>"));
    }
    say("DATA");
    say(&format!("{text}\r\n."));
    is_taken
}

/// Mail of one way until mpp is killed; what was answered 250.
fn send(listens: &[String; 2], way: usize, life: u64) -> Vec<String> {
    let (name, recipients, body, _) = WAYS[way];
    let listen = &listens[usize::from(name == "after")];
    let mut taken = Vec::new();
    for number in 0.. {
        let serial = format!("{name}-{life}-{number}");
        let body = format!("{body}\r\n{}", "x".repeat(3_000));
        if !deliver(listen, recipients, &text(&serial, &body)) {
            return taken;
        }
        taken.push(serial);
    }
    taken
}

fn scene() -> (Scene, [String; 2]) {
    let (at, hop) = (address(), Ledger::start(|| None));
    let (listen, after) = (format!("{at}:10025"), format!("{at}:10026"));
    let rules = format!(
        "{HELD}[scanner.spamd]\nkind = \"spamd\"\nservers = [\"{}\"]\n[policy.default.scan]\n\
         with = [\"spamd\"]\nskip = []\n[proxy.after]\nlisten = [\"{after}\"]\n\
         peers = [\"127.0.0.0/8\"]\nnext_hop = [\"{}\"]\n",
        spamd(),
        hop.address()
    );
    let text = gateway(&listen, hop.address(), &rules);
    let text = text.replace("greet_delay", "client_connections = 1000\ngreet_delay");
    let mpp = Daemon::start(MPP, &at, &text);
    (Scene { mpp, listen: listen.clone(), hop }, [listen, after])
}

#[test]
fn whatever_was_promised_is_there_exactly_once() {
    let (mut scene, listens) = scene();
    let mut promised: Vec<String> = Vec::new();
    let mut dice = 7_u64;
    for life in 0..LIVES {
        let senders: Vec<_> = (0..WAYS.len())
            .map(|way| {
                let listens = listens.clone();
                std::thread::spawn(move || send(&listens, way, life))
            })
            .collect();
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(5 + (dice >> 33) % 80));
        scene.mpp.kill();
        promised.extend(senders.into_iter().flat_map(|sender| sender.join().expect("a sender")));
        scene.mpp.launch();
    }
    let there = scene.hop.taken().clone();
    let mut held: BTreeMap<String, u32> = BTreeMap::new();
    let mut ids: Vec<(String, String)> = Vec::new();
    for row in scene.rows(&["list", "--most", "1000000"]) {
        let subject = row["subject"].as_str().expect("a subject");
        let serial = subject.strip_prefix("minutes of ").expect("one of ours").to_owned();
        *held.entry(serial.clone()).or_default() += 1;
        ids.push((row["id"].as_str().expect("an id").to_owned(), serial));
    }
    let count = |of: &BTreeMap<String, u32>, serial: &str| of.get(serial).copied().unwrap_or(0);
    for serial in &promised {
        let way = WAYS.iter().find(|(name, ..)| serial.split('-').next() == Some(name));
        let found = (count(&there, serial), count(&held, serial));
        assert_eq!(Some(found), way.map(|way| way.3), "{serial} was answered 250");
    }
    // What was not answered may be there, and once.
    let all: BTreeSet<&String> = there.keys().chain(held.keys()).collect();
    for serial in &all {
        assert!(count(&there, serial) <= 1 && count(&held, serial) <= 1, "{serial}");
    }
    for (name, ..) in WAYS {
        let many = promised.iter().filter(|serial| serial.starts_with(name)).count();
        assert!(many > 50, "a load worth the name: {many} of {name}");
    }
    // What the index has can be read, and goes to the destination.
    let some: Vec<_> = ids.iter().step_by(RELEASED).collect();
    for some in some.chunks(200) {
        let ids: Vec<&str> = some.iter().map(|(id, _)| id.as_str()).collect();
        scene.mpp.tell(&[&["quarantine", "release"], &*ids].concat());
    }
    for (_, serial) in some {
        let more = count(&scene.hop.taken(), serial) - count(&there, serial);
        assert_eq!(more, 1, "{serial} was released");
    }
    println!("{} promised, {} held, {} there", promised.len(), held.len(), there.len());
}
