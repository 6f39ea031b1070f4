//! Dialogues in virtual time, as an administrator would write them down: what is asked, what is
//! answered, and what the checks say of it.
//!
//! `golden/AREA/CASE.in` is a configuration, a line `---`, and questions; `CASE.out` is the same
//! with the answers. `MPP_GOLDEN=write cargo test --test golden` writes the answers anew: read the
//! difference before you commit it.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use mpp_hub::directory::Trouble;
use mpp_settings::form;
use mpp_tests::book::Shelf;
use mpp_tests::node::Node;
use serde_json::Value;

/// 2026-06-01T00:00:00Z.
const EPOCH_MS: u64 = 1_780_272_000_000;

/// What a word in front of `=` means in the protocol.
const NAMES: [(&str, &str); 14] = [
    ("client", "client_address"),
    ("port", "client_port"),
    ("name", "client_name"),
    ("reverse", "reverse_client_name"),
    ("helo", "helo_name"),
    ("from", "sender"),
    ("to", "recipient"),
    ("user", "sasl_username"),
    ("stage", "protocol_state"),
    ("instance", "instance"),
    ("size", "size"),
    ("count", "recipient_count"),
    ("context", "policy_context"),
    ("verdict", "verdict"),
];

#[test]
fn dialogues_go_as_written_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut cases = Vec::new();
    collect(&root, &mut cases);
    assert!(cases.len() >= 10, "where are the cases?");
    let writes = std::env::var_os("MPP_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for case in cases {
        let text = std::fs::read_to_string(&case).unwrap();
        let played = play(&text, case.parent().unwrap());
        let out = case.with_extension("out");
        if writes {
            std::fs::write(&out, &played).unwrap();
            continue;
        }
        let wanted = std::fs::read_to_string(&out).unwrap_or_default();
        if played != wanted {
            wrong.push(format!("{}:\n{}", out.display(), first_difference(&wanted, &played)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn collect(folder: &Path, cases: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, cases);
        } else if path.extension().is_some_and(|extension| extension == "in") {
            cases.push(path);
        }
    }
}

fn first_difference(wanted: &str, got: &str) -> String {
    let lines = wanted.lines().chain(std::iter::repeat("")).zip(got.lines());
    let found = lines.enumerate().find(|(_, (wanted, got))| wanted != got);
    match found {
        Some((number, (wanted, got))) => {
            format!("  line {}\n  wanted {wanted}\n  got    {got}", number + 1)
        }
        None => "  the end is missing".into(),
    }
}

/// The trace of the last decision.
fn trace(node: &Node, log: &Path, known: &mut usize) -> String {
    node.hub.log().unwrap().settle();
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(log).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        lines.extend(text.lines().map(ToOwned::to_owned));
    }
    assert_eq!(lines.len(), *known + 1, "one line a decision");
    *known += 1;
    let line: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    let of = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let shadow = match of("shadow") {
        check if check.is_empty() => String::new(),
        check => format!(" (in shadow, {check} would {})", of("shadow_verdict")),
    };
    format!("{}: {}{shadow}", of("policy"), of("trace"))
}

fn play(text: &str, folder: &Path) -> String {
    let (configuration, questions) = text.split_once("\n---\n").expect("a line of three dashes");
    let log = tempfile::tempdir().unwrap();
    let shelf = Shelf::default();
    let open = Some(shelf.open());
    let mut node = Node::with_directories(configuration, (folder, Some(log.path())), open);
    let mut out = format!("{configuration}\n---\n");
    let mut known = 0;
    for line in questions.lines() {
        out.push_str(line);
        out.push('\n');
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(order) = line.strip_prefix("! ") {
            obey(order, &shelf);
            continue;
        }
        let (repeat, lines) = request(line);
        for _ in 0..repeat {
            let _ = writeln!(out, "    {}", without_id(&node.answer(&lines)));
            let _ = writeln!(out, "    . {}", trace(&node, log.path(), &mut known));
            for name in shelf.names() {
                for asked in shelf.book(&name).asked() {
                    let _ = writeln!(out, "    ? {name}: {asked}");
                }
            }
        }
    }
    out
}

/// `! NAME has ENTRY`, `! NAME lost ENTRY`, `! NAME is down`, `! NAME says not now`, `! NAME works`:
/// what becomes of a directory.
fn obey(order: &str, shelf: &Shelf) {
    let (name, order) = order.split_once(' ').expect("a directory and an order");
    let book = shelf.book(name);
    match order.split_once(' ').unwrap_or((order, "")) {
        ("has", entry) => book.add(entry),
        ("lost", entry) => book.remove(entry),
        ("is", "down") => book.trouble(Some(Trouble::Down("gone".into()))),
        ("says", "not now") => book.trouble(Some(Trouble::NotNow("busy".into()))),
        ("works", "") => book.trouble(None),
        _ => panic!("`{order}` is no order"),
    }
}

/// `TIME word=value ...` in the words of the protocol, and how often to ask.
fn request(line: &str) -> (u32, String) {
    let mut words = line.split_whitespace();
    let at_ms = EPOCH_MS + form::duration_ms(words.next().unwrap()).unwrap();
    let mut lines = format!("mpp_time={}.{:03}\n", at_ms / 1000, at_ms % 1000);
    let (mut repeat, mut kind, mut has_stage) = (1, "smtpd_access_policy", false);
    for word in words {
        let (name, value) = word.split_once('=').expect("word=value");
        if name == "times" {
            repeat = value.parse().unwrap();
            continue;
        }
        let full = NAMES.iter().find(|(short, _)| *short == name).expect("a known word").1;
        has_stage |= name == "stage";
        if name == "verdict" {
            kind = "mpp_verdict";
        }
        let value = if value == "<>" { "" } else { &*value.replace('~', " ") };
        let _ = writeln!(lines, "{full}={value}");
        if name == "name" && !line.contains("reverse=") {
            let _ = writeln!(lines, "reverse_client_name={value}");
        }
    }
    if !has_stage {
        lines.push_str("protocol_state=RCPT\n");
    }
    (repeat, format!("request={kind}\n{lines}"))
}

/// An answer without the id at its end, which grows with time.
fn without_id(answer: &str) -> String {
    match answer.rsplit_once(" (") {
        Some((text, id)) if id.len() == 11 => format!("{text} (ID)"),
        _ => answer.to_owned(),
    }
}
