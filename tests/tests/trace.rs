//! Watching a client without a network: what waits for a watcher has a bound, and what is beyond it
//! is counted where it is missing.

#![allow(clippy::unwrap_used, reason = "test code: what is not as expected ends the test")]

use mpp_hub::trace::{Heard, LINES_MAX, Speaker, TEXT_BYTES_MAX, WATCHERS_MAX, Watch};
use mpp_tests::node::Node;

const CLIENT: &str = "192.0.2.7";

fn node() -> Node {
    let folder = tempfile::tempdir().unwrap();
    Node::new("", folder.path(), None)
}

fn say(node: &Node, text: &str) {
    node.hub.trace(CLIENT.parse().unwrap(), "proxy.1f", Speaker::Client, text);
}

/// What there is now, as text.
fn heard(watch: &mut Watch) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(heard) = watch.next_now() {
        all.push(match heard {
            Heard::Line(line) => line.text.clone(),
            Heard::Lost(lost) => format!("lost {lost}"),
        });
    }
    all
}

#[test]
fn a_queue_holds_so_many_lines_and_not_one_more() {
    let node = node();
    let mut watch = node.hub.watch(CLIENT).unwrap();
    for number in 0..LINES_MAX {
        say(&node, &number.to_string());
    }
    let lines = heard(&mut watch);
    assert_eq!((lines.len(), &*lines[LINES_MAX - 1]), (LINES_MAX, "1023"));
    for number in 0..LINES_MAX + 3 {
        say(&node, &number.to_string());
    }
    // The last that fitted; what is lost is said where it is missing, whatever comes behind it.
    let first = watch.next_now();
    assert!(matches!(first, Some(Heard::Line(line)) if line.text == "0"));
    say(&node, "behind");
    let lines = heard(&mut watch);
    assert_eq!(lines[LINES_MAX - 2..], ["1023", "lost 3", "behind"]);
    for _ in 0..LINES_MAX + 2 {
        say(&node, "x");
    }
    let lines = heard(&mut watch);
    assert_eq!((lines.len(), &*lines[LINES_MAX]), (LINES_MAX + 1, "lost 2"), "and with no more");
    assert_eq!(heard(&mut watch), [""; 0]);
}

#[test]
fn who_is_watched_is_known_at_once() {
    let node = node();
    let hub = &node.hub;
    let client = |text: &str| text.parse().unwrap();
    assert!(!hub.is_watched() && !hub.traces(client(CLIENT)));
    say(&node, "to nobody");
    let mut one = hub.watch("::ffff:192.0.2.7").unwrap();
    let mut network = hub.watch("192.0.2.0/24").unwrap();
    assert!(hub.traces(client(CLIENT)) && hub.traces(client("192.0.2.8")));
    assert!(!hub.traces(client("192.0.3.7")) && !hub.traces(client("2001:db8::1")));
    say(&node, "250-mx.example\r\n250 SIZE\r\n");
    hub.trace(client("192.0.2.8"), "proxy.20", Speaker::Server, "220 hi");
    assert_eq!(heard(&mut one), ["250-mx.example", "250 SIZE"]);
    assert_eq!(heard(&mut network), ["250-mx.example", "250 SIZE", "220 hi"]);
    drop(one);
    assert!(hub.traces(client(CLIENT)));
    drop(network);
    assert!(!hub.is_watched() && !hub.traces(client(CLIENT)));
    let most: Vec<Watch> = (0..WATCHERS_MAX).map(|_| hub.watch(CLIENT).unwrap()).collect();
    assert!(hub.watch(CLIENT).is_err());
    drop(most);
    assert!(hub.watch(CLIENT).is_ok());
    assert!(hub.watch("mx.example").is_err());
}

#[test]
fn a_line_has_an_end() {
    let node = node();
    let mut watch = node.hub.watch(CLIENT).unwrap();
    say(&node, &"x".repeat(100_000));
    say(&node, &"x\n".repeat(100_000));
    let lines = heard(&mut watch);
    assert!(lines[0].len() <= TEXT_BYTES_MAX && lines[0].ends_with('…'));
    assert_eq!(lines.len(), 1 + 64, "nor has a text more lines");
}
