//! Next hops asked by SMTP: a real Postfix for what it does, a fake server for what it does not do
//! on demand.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

mod common;

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{ask, open, open_with, trouble, wanted};
use mpp_hub::directory::{Directory, What};
use mpp_tests::real::fake_smtp::{Act, FakeSmtp};
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::{address, folder, signal};
use tempfile::TempDir;

const ANNA: &str = "anna@one.example";
const NOBODY: &str = "nobody@one.example";

/// A directory that asks these.
fn at(servers: &[&str], more: &str) -> Arc<dyn Directory> {
    open(&format!("kind = \"smtp\"\nhelo = \"mpp.example\"\nservers = {servers:?}\n{more}"))
}

fn say(text: &str) -> Act {
    Act::Say(text.to_owned())
}

/// What a well-behaved next hop says that knows Anna.
fn usual(line: &str) -> Act {
    let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
    match verb.as_str() {
        "" => say("220 next.example ESMTP"),
        "EHLO" | "LHLO" => say("250-next.example\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES"),
        "RCPT" if line.contains("<anna@") => say("250 2.1.5 Ok"),
        "RCPT" => say("550 5.1.1 User unknown"),
        "QUIT" => Act::Cut(b"221 Bye\r\n".to_vec()),
        _ => say("250 2.0.0 Ok"),
    }
}

/// A next hop that answers as usual but for what `odd` answers.
fn fake(odd: impl Fn(&str) -> Option<Act> + Send + Sync + 'static) -> FakeSmtp {
    FakeSmtp::start(move |line| odd(line).unwrap_or_else(|| usual(line)))
}

async fn works(directory: &Arc<dyn Directory>) {
    assert_eq!(ask(directory, ANNA).await, Ok(true));
    assert_eq!(ask(directory, NOBODY).await, Ok(false));
}

/// A Postfix that takes mail for a few addresses only, and the folder of the file that says so.
fn postfix_at(address: &str, lines: &str) -> (Postfix, TempDir) {
    let folder = folder();
    let file = folder.path().join("users");
    let users = "/^anna@one\\.example$/ a/\n/^a b@one\\.example$/ b/\n/@all\\.example$/ c/\n";
    std::fs::write(&file, users).unwrap();
    let known = format!(
        "virtual_mailbox_domains = one.example, all.example\nvirtual_mailbox_maps = regexp:{}\n\
         mynetworks = 192.0.2.0/24\n",
        file.display()
    );
    (Postfix::start(address, &format!("{known}{lines}")), folder)
}

fn postfix(lines: &str) -> (Postfix, TempDir) {
    postfix_at(&address(), lines)
}

#[tokio::test]
async fn postfix_says_whom_it_knows() {
    let (server, _users) = postfix("");
    let directory = at(&[server.address()], "timeout = \"5s\"");
    for _ in 0..30 {
        works(&directory).await;
    }
    assert_eq!(ask(&directory, "a b@one.example").await, Ok(true));
    assert_eq!(ask(&directory, "\"a b\"@one.example").await, Ok(true));
    assert!(directory.notices().is_empty());
    assert_eq!(ask(&directory, "whoever@all.example").await, Ok(true));
    let notices = directory.notices();
    assert!(notices.len() == 1 && notices[0].contains("all.example"), "{notices:?}");
    // A domain that it does not relay for is a mistake of the operator, not an unknown user.
    let text = trouble(ask(&directory, "anna@far.example").await);
    assert!(text.contains("not now") && text.contains("Relay access denied"), "{text}");
    let examined = directory.examine().await;
    let works = examined[0].result.as_ref().unwrap();
    assert!(works.contains("PIPELINING") && works.contains("MAIL FROM:<> taken"), "{works}");
    // It slows down and ends sessions with too many refusals: none of ours is one.
    assert!(!server.log().contains("too many errors"), "{}", server.log());
    assert_eq!(server.delivered(), 0);
}

#[tokio::test]
async fn starttls_with_postfix() {
    let folder = folder();
    let server_at = address();
    let done = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=test", "-keyout", "key", "-out", "cert"])
        .args(["-addext", &format!("subjectAltName=IP:{server_at},DNS:next.example")])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .current_dir(folder.path())
        .output()
        .expect("openssl");
    assert!(done.status.success());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let lines = format!(
        "smtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\nsmtpd_tls_loglevel = 1\n",
        file("cert"),
        file("key")
    );
    let lines = format!("{lines}smtpd_tls_security_level = encrypt");
    let (secure, _secure_users) = postfix_at(&server_at, &lines);
    let (plain, _users) = postfix("");
    let ca = std::fs::read_to_string(folder.path().join("cert")).unwrap();
    let with = |server: &Postfix, more: &str| {
        let head = "[directory.d]\nkind = \"smtp\"\nhelo = \"mpp.example\"\ntimeout = \"5s\"\n";
        let servers = format!("servers = [{:?}]", server.address());
        open_with(&format!("{head}{servers}\n{more}"), &[("ca.pem", ca.as_str())])
    };
    works(&with(&secure, "tls = \"prefer\"")).await;
    works(&with(&secure, "tls = \"require\"\nca = \"ca.pem\"")).await;
    let named = "tls = \"require\"\nca = \"ca.pem\"\nserver_name = \"next.example\"";
    works(&with(&secure, named)).await;
    assert!(secure.log().contains("TLS connection established"), "{}", secure.log());
    works(&with(&plain, "tls = \"prefer\"")).await;
    for (server, more, text) in [
        (&secure, "tls = \"require\"", "certificate"),
        (&secure, &*named.replace("next.", "other."), "certificate"),
        (&secure, "tls = \"off\"", "530 5.7.0 Must issue a STARTTLS"),
        (&plain, "tls = \"require\"", "STARTTLS is not offered"),
    ] {
        let directory = with(server, more);
        let found = trouble(ask(&directory, NOBODY).await);
        assert!(found.contains(text), "{more}: {found}");
        assert!(directory.examine().await[0].result.is_err());
    }
}

#[tokio::test]
async fn a_postfix_that_dies_or_hangs_is_trouble_until_it_is_back() {
    let (server, _users) = postfix("");
    let pid = std::fs::read_to_string(server.queue().join("pid/master.pid")).unwrap();
    let group = format!("-{}", pid.trim());
    let directory = at(&[server.address()], "timeout = \"2s\"");
    works(&directory).await;
    signal("STOP", &group);
    let began = Instant::now();
    let text = trouble(ask(&directory, NOBODY).await);
    assert!(text.contains("no answer within"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    signal("CONT", &group);
    works(&directory).await;
    signal("KILL", &group);
    let text = trouble(ask(&directory, NOBODY).await);
    assert!(["no connection", "reset", "closed"].iter().any(|it| text.contains(it)), "{text}");
}

#[tokio::test]
async fn connections_are_kept_and_nothing_is_ever_sent() {
    let server = fake(|_| None);
    let directory = at(&[server.address()], "probes = 50\nrefusals = 1000\nconnections = 1");
    for _ in 0..100 {
        assert_eq!(ask(&directory, ANNA).await, Ok(true));
    }
    assert!((2..=3).contains(&server.connections()), "{}", server.connections());
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..40 {
        let directory = Arc::clone(&directory);
        asking.spawn(async move { ask(&directory, &format!("x{number}@one.example")).await });
    }
    let before = server.count("MAIL");
    while let Some(answer) = asking.join_next().await {
        assert_eq!(answer.unwrap(), Ok(false));
    }
    assert!(server.count("MAIL") - before <= 4, "many recipients in one transaction");
    assert_eq!(server.count("DATA"), 0);
    let heard = server.heard();
    let verbs = ["", "EHLO", "MAIL FROM:<>", "RCPT TO:<", "RSET", "QUIT"];
    let is_known = |line: &String| {
        line.is_empty() || verbs.iter().any(|verb| !verb.is_empty() && line.starts_with(verb))
    };
    assert!(heard.iter().all(is_known), "{heard:?}");
}

#[tokio::test]
async fn few_refusals_are_heard_on_one_connection() {
    let server = fake(|_| None);
    let directory = at(&[server.address()], "connections = 1");
    for number in 0..30 {
        assert_eq!(ask(&directory, &format!("x{number}@one.example")).await, Ok(false));
    }
    let mut refused = 0;
    for line in server.heard() {
        refused = if line.is_empty() { 0 } else { refused + usize::from(line.starts_with("RCPT")) };
        assert!(refused <= 9, "Postfix slows down after ten");
    }
}

#[tokio::test]
async fn a_domain_that_takes_everybody_is_named_until_it_no_longer_does() {
    let takes_all = Arc::new(AtomicBool::new(true));
    let says = Arc::clone(&takes_all);
    let server = fake(move |line| {
        (line.starts_with("RCPT") && says.load(Ordering::Relaxed)).then(|| say("250 2.1.5 Ok"))
    });
    let directory = at(&[server.address()], "recheck = \"300ms\"");
    assert_eq!(ask(&directory, NOBODY).await, Ok(true));
    let notices = directory.notices();
    assert!(notices.len() == 1 && notices[0].contains("one.example"), "{notices:?}");
    let asked = server.count("RCPT");
    for _ in 0..10 {
        assert_eq!(ask(&directory, NOBODY).await, Ok(true));
    }
    assert_eq!(server.count("RCPT"), asked, "there is nothing to ask");
    takes_all.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(350)).await;
    works(&directory).await;
    assert!(directory.notices().is_empty());
}

#[tokio::test]
async fn refusals_that_are_not_about_the_recipient_answer_nothing() {
    for (odd, verb, kind) in [
        ("450 4.2.0 Greylisted", "RCPT TO:<nobody", "not now"),
        ("451 4.3.0 Try again", "MAIL", "not now"),
        ("554 5.7.1 Relay access denied", "RCPT TO:<nobody", "not now"),
        ("550 5.7.1 blocked", "RCPT TO:<nobody", "not now"),
        ("503 5.5.1 Error: need MAIL command", "RCPT TO:<nobody", "not now"),
        ("550 5.1.8 Sender rejected", "MAIL", "down"),
        ("554 5.7.1 No", "EHLO", "down"),
        ("421 4.7.0 Too busy", "RCPT TO:<nobody", "down"),
        ("421 4.7.0 Too busy", "MAIL", "down"),
        ("500 5.5.1 What?", "RSET", "down"),
    ] {
        let server = fake(move |line| line.starts_with(verb).then(|| say(odd)));
        let directory = at(&[server.address()], "");
        let text = trouble(ask(&directory, NOBODY).await);
        assert!(text.starts_with(kind), "{odd} to {verb}: {text}");
    }
    let server = fake(|line| line.is_empty().then(|| say("554 5.3.2 Closed")));
    let text = trouble(ask(&at(&[server.address()], ""), NOBODY).await);
    assert!(text.contains("connecting is answered 554 5.3.2 Closed"), "{text}");
    let domain = wanted(What::Domain, "one.example");
    trouble(at(&[server.address()], "").look_up(&domain).await);
}

#[tokio::test]
async fn odd_servers_answer_nothing_and_take_no_memory() {
    let endless = "250-".to_owned() + &"x".repeat(4_000_000);
    let many = "250-x\r\n".repeat(100_000);
    for bytes in [
        b"".to_vec(),
        b"55".to_vec(),
        b"550 5.1.1 no\n".to_vec(),
        b"550 5.1.1 no\r".to_vec(),
        b"\xff\xfe\x00garbage\r\n".to_vec(),
        b"550-5.1.1 no\r\n250 yes\r\n".to_vec(),
        endless.into_bytes(),
        many.into_bytes(),
    ] {
        for verb in ["RCPT", "EHLO", ""] {
            let bytes = bytes.clone();
            let server = fake(move |line| {
                let is_it = if verb.is_empty() { line.is_empty() } else { line.starts_with(verb) };
                is_it.then(|| Act::Cut(bytes.clone()))
            });
            trouble(ask(&at(&[server.address()], "timeout = \"2s\""), NOBODY).await);
        }
    }
    for verb in ["RCPT", "MAIL", "EHLO", "RSET"] {
        let server = fake(move |line| line.starts_with(verb).then_some(Act::Hang));
        let directory = at(&[server.address()], "timeout = \"200ms\"");
        let text = trouble(ask(&directory, NOBODY).await);
        assert!(text.contains("no answer within 200 ms"), "{verb}: {text}");
    }
}

#[tokio::test]
async fn a_421_or_a_dead_connection_is_tried_once_more() {
    let lines = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&lines);
    let server = fake(move |line| {
        let is_second = line.starts_with("MAIL") && count.fetch_add(1, Ordering::Relaxed) == 1;
        is_second.then(|| Act::Cut(b"421 4.4.2 timeout exceeded\r\n".to_vec()))
    });
    let directory = at(&[server.address()], "connections = 1");
    works(&directory).await;
    assert_eq!(server.connections(), 2);
    let gone = Arc::new(Mutex::new(0));
    let server = fake(move |line| {
        let mut gone = gone.lock().unwrap();
        *gone += usize::from(line.starts_with("RSET"));
        // Closes after the first transaction, as a server that was started anew.
        (line.starts_with("RSET") && *gone == 1).then(|| Act::Cut(b"250 Ok\r\n".to_vec()))
    });
    let directory = at(&[server.address()], "connections = 1");
    works(&directory).await;
    works(&directory).await;
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn the_next_server_answers_for_one_that_does_not() {
    let dead = format!("{}:25", address());
    let hung = FakeSmtp::start(|_| Act::Hang);
    let second = fake(|_| None);
    for first in [dead.as_str(), hung.address()] {
        let directory = at(&[first, second.address()], "timeout = \"300ms\"");
        let began = Instant::now();
        for _ in 0..10 {
            works(&directory).await;
        }
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
        let examined = directory.examine().await;
        assert!(examined[0].result.is_err() && examined[1].result.is_ok(), "{examined:?}");
    }
}

#[tokio::test]
async fn a_look_up_that_is_dropped_spoils_nothing() {
    let server = fake(|line| {
        std::thread::sleep(Duration::from_millis(u64::from(line.starts_with("RCPT")) * 15));
        None
    });
    let directory = at(&[server.address()], "connections = 1\nrefusals = 1000");
    for round in 0..40 {
        let patience = Duration::from_millis(round % 20 * 2);
        let _ = tokio::time::timeout(patience, ask(&directory, ANNA)).await;
        assert_eq!(ask(&directory, NOBODY).await, Ok(false), "round {round}");
    }
    assert!(server.connections() <= 2, "{}", server.connections());
}

#[tokio::test]
async fn what_cannot_be_said_is_not_said() {
    let server = fake(|_| None);
    let directory = at(&[server.address()], "");
    for address in [
        "anna\r\nDATA\r\n@one.example",
        "anna\n@one.example",
        "anna\0@one.example",
        "@one.example",
        "anna",
        "anna@one.example>\r\nDATA",
        "ünna@one.example",
        "anna@bücher.example",
        &format!("{}@one.example", "x".repeat(65_536)),
    ] {
        assert_eq!(ask(&directory, address).await, Ok(false), "{address:.40?}");
    }
    let heard = server.heard();
    let said = |line: &String| line.starts_with("DATA") || line.contains("nna");
    assert!(!heard.iter().any(said), "{heard:?}");
    let utf8 = fake(|line| {
        line.starts_with("EHLO").then(|| say("250-next.example\r\n250-PIPELINING\r\n250 SMTPUTF8"))
    });
    let directory = at(&[utf8.address()], "");
    assert_eq!(ask(&directory, "anna@bücher.example").await, Ok(true));
    assert!(utf8.heard().contains(&"MAIL FROM:<> SMTPUTF8".to_owned()));
}

#[tokio::test]
async fn lmtp_greets_with_lhlo() {
    let server = fake(|line| line.starts_with("EHLO").then(|| say("500 5.5.1 This is LMTP")));
    works(&at(&[server.address()], "protocol = \"lmtp\"")).await;
    assert_eq!(server.count("EHLO"), 0);
}
