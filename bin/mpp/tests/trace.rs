//! `mpp trace`: what a client says and is answered, at the doors of a real daemon, as it happens.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout};
use std::sync::mpsc::{self, Receiver};

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::mail_host::MailHost;
use mpp_tests::real::policy::rcpt;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::smtp::{Smtp, Who, attempt};
use mpp_tests::real::{PATIENCE, address, until};
use serde_json::Value;

const MPP: &str = env!("CARGO_BIN_EXE_mpp");
const RULES: &str = "[recipients.main]\naddresses = [\"bob@test.example\"]\n\
    [policy.default.greylist]\nmode = \"off\"\n";
const CLIENT: &str = "192.0.2.66";
const OTHER: &str = "198.51.100.7";

/// A `mpp trace` that has begun to watch.
struct Watching {
    child: Child,
    lines: Receiver<String>,
}

impl Watching {
    fn start(mpp: &Daemon, arguments: &[&str]) -> Self {
        let mut child = mpp.begin(&[&["trace"], arguments].concat());
        let mut said = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        stderr.read_line(&mut said).unwrap();
        assert!(said.starts_with("watching "), "{said}");
        let (sender, lines) = mpsc::channel();
        let stdout: ChildStdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody waits for it any more.
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// The lines up to one that holds this, without their time.
    fn up_to(&self, word: &str) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no line with {word:?} in {all:#?}"));
            let (time, rest) = line.split_once(' ').unwrap();
            assert!(time.starts_with("20") && time.ends_with('Z') && time.len() == 24, "{line}");
            all.push(rest.to_owned());
            if line.contains(word) {
                return all;
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines without the name of their session, which must be one and the same.
fn of_one_session(lines: &[String], door: &str) -> Vec<String> {
    let mut session = None;
    let mut bare = Vec::new();
    for line in lines {
        let mut words = line.splitn(3, ' ');
        assert_eq!(words.next(), Some(CLIENT), "{line}");
        let its = words.next().unwrap();
        assert!(its.starts_with(door), "{line}");
        assert_eq!(*session.get_or_insert(its), its, "two sessions in {lines:#?}");
        bare.push(words.next().unwrap().to_owned());
    }
    bare
}

#[test]
fn the_policy_service_is_watched() {
    let host = MailHost::start(MPP, RULES);
    let watching = Watching::start(&host.mpp, &[CLIENT]);
    let client = Who::at(CLIENT).named("mx.x.example");
    assert_eq!(host.attempt(Who::at(OTHER), "o@y.example", "bob@test.example").code, 250);
    let refused = host.attempt(client, "a@x.example", "nobody@test.example");
    assert_eq!(refused.code, 550);
    let lines = of_one_session(&watching.up_to("S: "), "policy.");
    let [request, answer] = &lines[..] else { panic!("{lines:#?}") };
    for word in ["C: RCPT", "from=<a@x.example>", "to=<nobody@test.example>", "name=mx.x.example"] {
        assert!(request.contains(word), "{word} is not in {request}");
    }
    // What is shown is what the client was told, its id included.
    assert!(answer.starts_with("S: 550 5.1.1 User unknown ("), "{answer}");
    assert!(answer.contains(refused.id()), "{answer} {refused}");
    // Another message: asked about at RCPT and at its end, and what it holds is not shown.
    assert_eq!(host.attempt(client, "b@x.example", "bob@test.example").code, 250);
    let lines = of_one_session(&watching.up_to("S: DUNNO"), "policy.");
    assert!(lines[0].starts_with("C: RCPT from=<b@x.example> to=<bob@test.example>"), "{lines:#?}");
}

#[test]
fn the_milter_is_watched() {
    let at = address();
    let mut mpp = Daemon::new(MPP, &at, "");
    mpp.configure(&format!(
        "[listen]\npolicy = [\"{}\"]\nmilter = [\"{at}:10041\"]\n\n{RULES}",
        mpp.address()
    ));
    mpp.launch();
    let lines = mpp.tell(&["postfix", "--mode", "milter"]);
    let postfix = Postfix::start(&at, &lines);
    let watching = Watching::start(&mpp, &[CLIENT]);
    let client = Who::at(CLIENT).named("mx.x.example");
    let mut smtp = Smtp::connect_as(postfix.address(), client);
    smtp.mail("a@x.example");
    assert_eq!(smtp.rcpt("nobody@test.example").code, 550);
    assert_eq!(smtp.rcpt("bob@test.example").code, 250);
    assert_eq!(
        attempt(postfix.address(), Who::at(OTHER), "o@y.example", "bob@test.example").code,
        250
    );
    assert_eq!(smtp.data().code, 250);
    let mut lines = of_one_session(&watching.up_to("end of message"), "milter.");
    lines.extend(of_one_session(&watching.up_to("S: continue"), "milter."));
    let shown = lines.join("\n");
    let mut rest = &*shown;
    for word in [
        "C: connect mx.x.example [192.0.2.66]:",
        "C: HELO client.example",
        "C: MAIL <a@x.example>",
        "C: RCPT <nobody@test.example>",
        "S: 550 5.1.1 User unknown (",
        "C: RCPT <bob@test.example>",
        "S: continue",
        "C: end of message",
        "S: continue",
    ] {
        let at = rest.find(word).unwrap_or_else(|| panic!("{word} is not next in {shown}"));
        rest = &rest[at + word.len()..];
    }
    // Nothing of the message that `data` sends, and nobody else.
    for word in ["A message.", "Subject", "y.example", OTHER] {
        assert!(!shown.contains(word), "{word} is in {shown}");
    }
}

#[test]
fn a_network_is_watched_as_json_until_the_time_is_over() {
    let mpp = Daemon::start(MPP, &address(), RULES);
    let mut watching = Watching::start(&mpp, &["192.0.2.0/24", "--json", "--for", "3s"]);
    let mut six = Watching::start(&mpp, &["2001:db8::/32"]);
    let mut client = mpp.client();
    client.ask(&rcpt("192.0.3.1", "a@x.example", "bob@test.example"));
    client.ask(&rcpt("2001:db8::7", "\u{1b}[2J@x.example", "bob@test.example"));
    client.ask(&rcpt("192.0.2.99", "a@x.example", "bob@test.example"));
    let line: Value = serde_json::from_str(&watching.lines.recv().unwrap()).unwrap();
    for (name, value) in [("client", "192.0.2.99"), ("session", "policy"), ("speaker", "client")] {
        assert_eq!(line[name], value, "{line}");
    }
    assert_eq!(line["text"], "RCPT from=<a@x.example> to=<bob@test.example> helo=client.example");
    let line: Value = serde_json::from_str(&watching.lines.recv().unwrap()).unwrap();
    assert_eq!((&line["speaker"], &line["text"]), (&"server".into(), &"DUNNO".into()), "{line}");
    let status = until("the end of it", || watching.child.try_wait().unwrap());
    assert!(status.success());
    // What a stranger writes steers no terminal.
    assert_eq!(
        six.up_to("C: ")[0],
        "2001:db8::7 policy C: RCPT from=<?[2J@x.example> to=<bob@test.example> helo=client.example"
    );
    // With the daemon it ends, and says so.
    drop(mpp);
    let status = until("the end of it", || six.child.try_wait().unwrap());
    assert!(!status.success());
}

#[test]
fn who_may_watch() {
    let mpp = Daemon::start(MPP, &address(), RULES);
    for (client, word) in [
        ("mx.x.example", "neither an address nor a network"),
        ("192.0.2.66/24", "did you mean `192.0.2.0/24`"),
    ] {
        assert!(mpp.tell_in_vain(&["trace", client]).contains(word));
    }
    assert!(mpp.tell_in_vain(&["trace", CLIENT, "--for", "soon"]).contains("soon"));
    let watching: Vec<Watching> = (0..8).map(|_| Watching::start(&mpp, &[CLIENT])).collect();
    assert!(mpp.tell_in_vain(&["trace", CLIENT]).contains("8 are watching already"));
    mpp.client().ask(&rcpt("::ffff:192.0.2.66", "a@x.example", "bob@test.example"));
    for one in &watching {
        assert!(one.up_to("S: ")[0].starts_with(CLIENT), "an address has one form");
    }
    // Whoever has gone leaves his place.
    drop(watching);
    until("a place", || mpp.run(&["trace", CLIENT, "--for", "1ms"]).status.success().then_some(()));
}

#[test]
fn who_does_not_take_his_lines_loses_them_and_is_told() {
    let mpp = Daemon::start(MPP, &address(), RULES);
    let mut slow = UnixStream::connect(mpp.folder().join("state/admin.sock")).unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("{{\"command\":\"trace\",\"client\":\"{CLIENT}\",\"for_ms\":3600000}}\n");
    slow.write_all(request.as_bytes()).unwrap();
    let mut begun = [0; "{\"ok\":\"watching\"}\n".len()];
    slow.read_exact(&mut begun).unwrap();
    // Far more than what a socket and a queue hold.
    let requests: u64 = 5000;
    let mut client = mpp.client();
    for _ in 0..requests {
        let answer = client.ask(&rcpt(CLIENT, "a@x.example", "bob@test.example"));
        assert_eq!(answer, "DUNNO", "the door waits for nobody");
    }
    let (mut lines, mut lost) = (0, 0);
    for line in BufReader::new(slow).lines() {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        match line["lost"].as_u64() {
            Some(count) => lost += count,
            None => lines += 1,
        }
        if lines + lost == requests * 2 {
            break;
        }
    }
    assert!(lost > 0 && lines > 1024, "{lines} lines, {lost} lost");
}
