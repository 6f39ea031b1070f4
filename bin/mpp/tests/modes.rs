//! Every way in which `mpp postfix` wires a Postfix, as it prints it: what is asked about a message, and
//! that nothing is asked about it once more when it comes back.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::smtp::{Who, attempt};
use mpp_tests::real::until;
use serde_json::Value;

const MPP: &str = env!("CARGO_BIN_EXE_mpp");

/// More messages than mail of this host may be, were it taken for that.
const MESSAGES: usize = 4;

fn rules(at: &str, filter: &str) -> String {
    format!(
        "[listen]\npolicy = [\"{at}:10040\"]\nmilter = [\"{at}:10041\"]\n\
         [proxy.filter]\nlisten = [\"{at}:10025\"]\nnext_hop = [\"{at}:10026\"]\n\
         [recipients.main]\naddresses = [\"bob@test.example\", \"eve@test.example\"]\n\
         [policy.default.greylist]\nmode = \"off\"\n\
         [[policy.default.threshold]]\nname = \"own\"\ndirection = \"outbound\"\nkey = \"client\"\n\
         count = \"messages\"\nlimit = 2\nper = \"1h\"\nthen = \"defer\"\n\
         [[policy.default.threshold]]\nname = \"theirs\"\ndirection = \"inbound\"\nkey = \"client\"\n\
         count = \"messages\"\nlimit = {MESSAGES}\nper = \"1h\"\nthen = \"defer\"\n{filter}"
    )
}

/// What `mpp postfix` prints, main.cf and master.cf apart.
fn printed(mpp: &Daemon, mode: &str) -> (String, String) {
    let lines = mpp.tell(&["postfix", "--mode", mode]);
    match lines.split_once("# master.cf, without the marks") {
        // Everything is for main.cf, where the services are comments.
        Some((_, services)) => {
            let services: Vec<&str> = services
                .lines()
                .skip(2)
                .map(|line| line.strip_prefix("# ").expect("a comment"))
                .collect();
            (lines.clone(), services.join("\n"))
        }
        None => match lines.find("# master.cf") {
            Some(at) => (lines[..at].to_owned(), lines[at..].to_owned()),
            None => (lines, String::new()),
        },
    }
}

/// Questions about messages: the door, the client, the stage and the recipient of each.
fn asked(mpp: &Daemon) -> Vec<(String, String, String, String)> {
    mpp.json(&["status"]);
    let folder = mpp.folder().join("state/log");
    let files = std::fs::read_dir(folder).unwrap();
    let text: String =
        files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let judged = lines.filter(|line| line["stage"].is_string());
    let of = |line: Value| {
        (of(&line, "door"), of(&line, "client"), of(&line, "stage"), of(&line, "recipient"))
    };
    judged.map(of).collect()
}

fn count(asked: &[(String, String, String)], door: &str, stage: &str) -> usize {
    asked.iter().filter(|(of, _, at)| of == door && at == stage).count()
}

/// Sends messages from outside, and says what was asked about them.
fn sent(mode: &str, filter: &str, with_policy: bool) -> Vec<(String, String, String)> {
    let at = address();
    let mpp = Daemon::start(MPP, &at, &rules(&at, &filter.replace("AT", &at)));
    let (policy, of_filter) = printed(&mpp, "policy");
    let (main, master) =
        if mode == "policy" { (policy.clone(), of_filter) } else { printed(&mpp, mode) };
    let main = if with_policy && mode != "policy" { format!("{policy}\n{main}") } else { main };
    let postfix = Postfix::start_with_services(&at, &main, &master);
    let client = Who::at("198.51.100.7").named("mx.good.example");
    for number in 1..=MESSAGES {
        let reply = attempt(postfix.address(), client, "a@good.example", "bob@test.example");
        assert_eq!(reply.code, 250, "{mode}, message {number}: {}", reply.text);
        postfix.wait_for_delivered(number);
    }
    // A message that was counted by each door would have gone over half as early.
    let reply = attempt(postfix.address(), client, "a@good.example", "eve@test.example");
    assert_eq!(reply.code, 450, "{mode}: {}", reply.text);
    let all = until("the last line of the log", || {
        let all = asked(&mpp);
        all.iter().any(|(.., recipient)| recipient.starts_with("eve@")).then_some(all)
    });
    let all: Vec<_> =
        all.into_iter().map(|(door, client, stage, _)| (door, client, stage)).collect();
    for (door, client, stage) in &all {
        assert!(!client.starts_with("127."), "{mode}: {door} asked about {client} at {stage}");
    }
    all
}

#[test]
fn the_policy_service_asks_at_rcpt_and_at_the_end() {
    let all = sent("policy", "", true);
    assert_eq!(count(&all, "policy", "RCPT"), MESSAGES + 1);
    assert_eq!(count(&all, "policy", "END-OF-MESSAGE"), MESSAGES);
}

#[test]
fn the_milter_asks_at_rcpt_and_at_the_end() {
    let all = sent("milter", "", false);
    assert_eq!(count(&all, "milter", "RCPT"), MESSAGES + 1);
    assert_eq!(count(&all, "milter", "END-OF-MESSAGE"), MESSAGES);
}

#[test]
fn policy_service_and_milter_of_one_postfix_count_once() {
    let all = sent("milter", "", true);
    assert_eq!(count(&all, "policy", "END-OF-MESSAGE"), MESSAGES);
    assert_eq!(count(&all, "milter", "END-OF-MESSAGE"), MESSAGES);
}

#[test]
fn before_the_queue_nothing_is_asked_when_mail_comes_back() {
    let all = sent("before-queue", "", false);
    assert_eq!(count(&all, "proxy", "RCPT"), MESSAGES + 1);
    assert_eq!(count(&all, "policy", "RCPT"), 0);
}

#[test]
fn after_the_queue_nothing_is_asked_when_mail_comes_back() {
    let all = sent("after-queue", "", true);
    assert_eq!(count(&all, "policy", "RCPT"), MESSAGES + 1);
    assert_eq!(count(&all, "policy", "END-OF-MESSAGE"), MESSAGES);
    assert_eq!(count(&all, "proxy", "RCPT"), MESSAGES);
}

/// The way of scanners.md: what is undecided goes through the filter, and is known there as whose it is.
#[test]
fn what_is_undecided_goes_by_filter_as_whose_it_is() {
    let scan = "[scanner.rspamd]\nkind = \"rspamd\"\nservers = [\"AT:1\"]\n\
                [policy.default.scan]\nwith = [\"rspamd\"]\nfilter = \"mpp:[AT]:10025\"\n";
    let all = sent("policy", scan, true);
    assert_eq!(count(&all, "proxy", "RCPT"), MESSAGES);
}

#[test]
fn behind_the_queue_nothing_is_refused_or_made_to_wait() {
    let at = address();
    let greylist = rules(&at, "").replace("mode = \"off\"", "mode = \"enforce\"");
    let mpp = Daemon::start(
        MPP,
        &at,
        &format!("{greylist}[policy.default.access]\ndeny.sender = [\"@denied.example\"]\n"),
    );
    let (main, master) = printed(&mpp, "after-queue");
    let postfix = Postfix::start_with_services(&at, &main, &master);
    let client = Who::at("198.51.100.7").named("mx.good.example");
    // A stranger, a user who does not exist, and more than the limit: all were taken already.
    for (number, to) in ["bob", "nobody", "eve", "bob", "eve", "bob"].into_iter().enumerate() {
        let to = format!("{to}@test.example");
        assert_eq!(attempt(postfix.address(), client, "a@good.example", &to).code, 250);
        postfix.wait_for_delivered(number + 1);
    }
    let log = postfix.log();
    assert!(!log.contains("status=deferred") && !log.contains("status=bounced"), "{log}");
    // Whom the administrator denies is held, and nothing goes to who may be forged.
    let reply = attempt(postfix.address(), client, "x@denied.example", "bob@test.example");
    assert_eq!(reply.code, 250);
    until("what is denied is held", || {
        let held = mpp.json(&["quarantine", "list"]);
        held.to_string().contains("x@denied.example").then_some(())
    });
    assert_eq!(postfix.delivered(), 6);
    assert!(!postfix.log().contains("status=bounced"));
}
