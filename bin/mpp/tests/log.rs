//! Decisions are found by whatever is known of them, and what strangers wrote obeys no terminal.

use std::io::{BufRead as _, BufReader};

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::policy::request;

const MPP: &str = env!("CARGO_BIN_EXE_mpp");
const RULES: &str = "[policy.default.greylist]\ndelay = \"1h\"\n\
    [policy.default.access.deny]\nsender = [\"@spam.example\"]\n";

fn ask(mpp: &Daemon, client: &str, sender: &str, recipient: &str, queue_id: &str) -> String {
    mpp.client().ask(&request(&[
        ("request", "smtpd_access_policy"),
        ("protocol_state", "RCPT"),
        ("client_address", client),
        ("client_name", "mx.good.example"),
        ("reverse_client_name", "mx.good.example"),
        ("helo_name", "mx.good.example"),
        ("sender", sender),
        ("recipient", recipient),
        ("queue_id", queue_id),
    ]))
}

fn lines(mpp: &Daemon, arguments: &[&str]) -> Vec<String> {
    let out = mpp.tell(&[&["log"], arguments].concat());
    out.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn decisions_are_found_by_what_is_known_of_them() {
    let mut mpp = Daemon::start(MPP, &address(), RULES);
    let refused = ask(&mpp, "192.0.2.66", "alice@sender.example", "bob@test.example", "");
    ask(&mpp, "192.0.2.67", "x@spam.example", "bob@test.example", "4bX1Yz");
    ask(&mpp, "198.51.100.7", "", "eve@test.example", "");
    let id = refused.rsplit('(').next().unwrap_or_default().trim_end_matches(')').to_owned();
    for is_running in [true, false] {
        for (arguments, many) in [
            (&[][..], 3),
            (&["--sender", "alice@sender.example"], 1),
            (&["--sender", "@spam.example"], 1),
            (&["--sender", "<>"], 1),
            (&["--recipient", "bob@test.example"], 2),
            (&["--recipient", "bob@test.example", "--client", "192.0.2.67"], 1),
            (&["--client", "192.0.2.0/24"], 2),
            (&["--name", ".good.example"], 3),
            (&["--id", &id], 1),
            (&["--queue-id", "4bX1Yz"], 1),
            (&["--verdict", "reject"], 1),
            (&["--check", "greylist"], 2),
            (&["--since", "1h"], 3),
            (&["--until", "1h"], 0),
            (&["--since", "2020-01-01", "--until", "2021"], 0),
            (&["--limit", "1"], 1),
            (&["--sender", "nobody@else.example"], 0),
        ] {
            assert_eq!(lines(&mpp, arguments).len(), many, "{arguments:?}");
            let json = lines(&mpp, &[arguments, &["--json"]].concat());
            assert_eq!(json.len(), many, "{arguments:?}");
            for line in json {
                let row: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                assert!(row["id"].is_string() && row["verdict"].is_string(), "{line}");
            }
        }
        let line = lines(&mpp, &["--limit", "1"]).remove(0);
        assert!(line.contains("mx.good.example[198.51.100.7] <> -> eve@test.example"), "{line}");
        let explained = mpp.tell(&["explain", "4bX1Yz"]);
        assert!(
            explained.contains("x@spam.example") && explained.contains("denied"),
            "{explained}"
        );
        for (arguments, word) in [
            (["--client", "nobody"], "neither an address nor a network"),
            (["--verdict", "refuse"], "none of accept, defer"),
            (["--since", "soon"], "is no time"),
        ] {
            let said = mpp.tell_in_vain(&[&["log"], &arguments[..]].concat());
            assert!(said.contains(word), "{said}");
        }
        if is_running {
            mpp.stop();
        }
    }
}

#[test]
fn what_is_decided_from_now_on_is_followed() {
    let mpp = Daemon::start(MPP, &address(), RULES);
    ask(&mpp, "192.0.2.1", "old@sender.example", "bob@test.example", "");
    let mut child = mpp.begin(&["log", "--follow", "--recipient", "bob@test.example"]);
    let mut out = BufReader::new(child.stdout.take().unwrap_or_else(|| panic!("its output")));
    let mut line = String::new();
    let _ = out.read_line(&mut line);
    assert!(line.contains("old@sender.example"), "{line}");
    ask(&mpp, "192.0.2.1", "new@sender.example", "eve@test.example", "");
    ask(&mpp, "192.0.2.1", "new@sender.example", "bob@test.example", "");
    line.clear();
    let _ = out.read_line(&mut line);
    assert!(line.contains("new@sender.example -> bob@test.example"), "{line}");
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn nothing_that_a_stranger_wrote_moves_a_cursor() {
    let mpp = Daemon::start(MPP, &address(), RULES);
    let bad = "\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}\u{2066}\u{2028}\u{8}";
    let answer = mpp.client().ask(&request(&[
        ("request", "smtpd_access_policy"),
        ("protocol_state", "RCPT"),
        ("client_address", "192.0.2.66"),
        ("client_name", &format!("mx{bad}.example")),
        ("helo_name", &format!("h{bad}")),
        ("sender", &format!("a{bad}@x.example")),
        ("recipient", "bob@test.example"),
        ("queue_id", &format!("q{bad}")),
        ("unheard_of", bad),
    ]));
    let id = answer.rsplit('(').next().unwrap_or_default().trim_end_matches(')').to_owned();
    for arguments in [&["explain", &id][..], &["log"], &["status"], &["stats"]] {
        let said = mpp.tell(arguments);
        let is_bad = |letter: char| {
            letter.is_control() && letter != '\n'
                || matches!(letter, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert!(!said.contains(is_bad), "{arguments:?}: {said:?}");
    }
    let vain = mpp.tell_in_vain(&["explain", "\u{1b}[2J"]);
    assert!(!vain.contains('\u{1b}'), "{vain:?}");
}
