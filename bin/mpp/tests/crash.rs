//! kill -9, a hundred times, in the middle of a load: what was acknowledged before the last group
//! commit is there when mpp starts again.

#![allow(
    clippy::expect_used,
    reason = "helpers of tests, too: what is not as expected ends the test"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::policy::{Client, rcpt};
use serde_json::{Value, json};

const MPP: &str = env!("CARGO_BIN_EXE_mpp");
const LIVES: u32 = 100;
/// What a crash may lose where nobody asks for a commit: on an idle disk 100 ms. A disk that others
/// keep busy takes longer to say that it has something, and here nobody knows how long.
const LOST_MS_MAX: u64 = 1_000;
/// Every so many requests one is to a trap.
const TRAP_EVERY: u32 = 50;

/// A request that was answered.
struct Acknowledged {
    number: u32,
    asked_ms: u64,
    answered_ms: u64,
    /// When mpp was killed after that.
    killed_ms: u64,
}

impl Acknowledged {
    fn is_trap(&self) -> bool {
        is_trap(self.number)
    }

    /// A host of a network of its own.
    fn client(&self) -> String {
        client(self.number)
    }
}

fn client(number: u32) -> String {
    format!("{}.{}.{}.1", 11 + (number >> 16), number >> 8 & 0xff, number & 0xff)
}

fn is_trap(number: u32) -> bool {
    number.is_multiple_of(TRAP_EVERY)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("before the year 584 million")
}

/// Asks about clients never seen before until the connection breaks.
fn load(mut client_of_mpp: Client, first: u32, step: u32) -> Vec<Acknowledged> {
    let mut acknowledged = Vec::new();
    for number in (first..).step_by(usize::try_from(step).expect("small")) {
        let recipient = if is_trap(number) { "old@test.example" } else { "bob@test.example" };
        let request = rcpt(&client(number), "a@x.example", recipient);
        let asked_ms = now_ms();
        if client_of_mpp.send(request.as_bytes()).is_err() {
            break;
        }
        let Ok(Some(_)) = client_of_mpp.answer() else { break };
        if number.is_multiple_of(5) {
            // The load is to be there all the time, not to be as heavy as can be.
            std::thread::sleep(Duration::from_millis(1));
        }
        acknowledged.push(Acknowledged { number, asked_ms, answered_ms: now_ms(), killed_ms: 0 });
    }
    acknowledged
}

/// One line to the admin socket, one line back.
struct Admin(Client);

impl Admin {
    fn new(mpp: &Daemon) -> Self {
        let socket = mpp.folder().join("state/admin.sock");
        Self(Client::new(&format!("unix:{}", socket.display())))
    }

    fn ask(&mut self, request: &Value) -> Value {
        self.0.send(format!("{request}\n").as_bytes()).expect("a running mpp");
        let line = self.0.line().expect("an answer");
        let mut answer: Value = serde_json::from_str(&line).expect("JSON");
        answer.get_mut("ok").map(Value::take).expect("an answer that is no error")
    }

    /// When a triplet was first seen.
    fn since_ms(&mut self, client: &str) -> Option<u64> {
        let shown = self.ask(&json!({
            "command": "greylist-show", "client": client, "sender": "a@x.example",
            "recipient": "bob@test.example",
        }));
        shown.pointer("/greylisted/since_ms").and_then(Value::as_u64)
    }

    fn blocked(&mut self) -> std::collections::HashSet<String> {
        let rows = self.ask(&json!({ "command": "blocks", "most": 10_000_000 }));
        let rows = rows.as_array().expect("a list");
        let identities = rows.iter().filter_map(|row| row.get("identity").and_then(Value::as_str));
        identities.map(str::to_owned).collect()
    }
}

/// Has mpp say that all is written, now and then, until it is gone. Returns the moment before the
/// last question that was answered: what was acknowledged by then must outlive a kill.
fn settle(mut admin: Admin) -> u64 {
    let mut safe_ms = 0;
    loop {
        let asked_ms = now_ms();
        let request = json!({ "command": "settle" });
        let sent = admin.0.send(format!("{request}\n").as_bytes());
        match sent.and_then(|()| admin.0.line()) {
            Ok(line) if line.contains("settled") => safe_ms = asked_ms,
            _ => return safe_ms,
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Everything acknowledged must be there, as it was.
fn check(admin: &mut Admin, all: &[&Acknowledged]) {
    let blocked = admin.blocked();
    for entry in all {
        let client = entry.client();
        if entry.is_trap() {
            let age_ms = entry.killed_ms - entry.answered_ms;
            assert!(blocked.contains(&client), "the block of {client}, {age_ms} ms old, is lost");
            continue;
        }
        let since_ms = admin.since_ms(&client);
        let first = entry.asked_ms..=entry.answered_ms;
        let is_right = since_ms.is_some_and(|since_ms| first.contains(&since_ms));
        let age_ms = entry.killed_ms - entry.answered_ms;
        assert!(is_right, "{client}, {age_ms} ms old: {since_ms:?} is not within {first:?}");
    }
}

#[test]
fn what_was_acknowledged_before_the_last_commit_is_there() {
    let mut mpp = Daemon::start(
        MPP,
        &address(),
        "[policy.default.greylist]\ndelay = \"1s\"\n\
         [policy.default.trap]\naddresses = [\"old@test.example\"]\nblock = \"1d\"\n",
    );
    let mut kept: Vec<Acknowledged> = Vec::new();
    let mut next = 1;
    let mut dice = 42_u64;
    let mut longest_ms = 0;
    for life in 0..LIVES {
        let admin = Admin::new(&mpp);
        let settler = std::thread::spawn(move || settle(admin));
        let mut unsure = Vec::new();
        let threads: Vec<_> = (0..3)
            .map(|number| {
                let client = mpp.client();
                let first = next + number;
                std::thread::spawn(move || load(client, first, 3))
            })
            .collect();
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(120 + (dice >> 33) % 150));
        let killed_ms = now_ms();
        mpp.kill();
        let acknowledged = threads.into_iter().flat_map(|thread| thread.join().expect("a load"));
        let safe_ms = settler.join().expect("an admin socket");
        let before = kept.len();
        for mut entry in acknowledged {
            entry.killed_ms = killed_ms;
            next = next.max(entry.number + 4);
            if entry.answered_ms < safe_ms {
                kept.push(entry);
            } else if !entry.is_trap() {
                unsure.push(entry);
            }
        }
        mpp.launch();
        // All of this life, and some of all before.
        let new = kept.iter().skip(before);
        let old = kept.iter().take(before).skip((life % 17) as usize).step_by(1 + before / 100);
        let mut admin = Admin::new(&mpp);
        check(&mut admin, &new.chain(old).collect::<Vec<_>>());
        let lost = unsure.iter().filter(|entry| admin.since_ms(&entry.client()).is_none());
        let lost_ms = lost.map(|entry| entry.killed_ms - entry.answered_ms.min(entry.killed_ms));
        longest_ms = longest_ms.max(lost_ms.max().unwrap_or(0));
    }
    assert!(longest_ms < LOST_MS_MAX, "{longest_ms} ms before a kill are lost");
    assert!(kept.len() > 10_000, "a load worth the name: {}", kept.len());
    check(&mut Admin::new(&mpp), &kept.iter().collect::<Vec<_>>());
    // And it means what it should: who waited long enough passes, who hit a trap does not.
    let mut client = mpp.client();
    for entry in kept.iter().take(kept.len() - 2_000).step_by(97) {
        let answer = client.ask(&rcpt(&entry.client(), "a@x.example", "bob@test.example"));
        let start = if entry.is_trap() { "450 4.7.1 Temporarily blocked" } else { "DUNNO" };
        assert!(answer.starts_with(start), "{}: {answer}", entry.client());
    }
    assert!(!mpp.said().contains("panicked"), "{}", mpp.said());
    println!("{LIVES} lives, {} entries, all there; at most {longest_ms} ms lost", kept.len());
}
