//! Digests that go out by themselves: at their time, once, over restarts and kills.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::fake_smtp::{Act, FakeSmtp};
use mpp_tests::real::ledger::{Ledger, OFFERS};
use mpp_tests::real::{address, until};

use crate::{HELD, MPP, Scene, gateway, text};

/// A place where clocks are 5:45 hours ahead, and how many seconds that is.
const PLACE: [(&str, &str); 1] = [("TZ", "XST-5:45")];
const AHEAD_S: u64 = 5 * 3600 + 45 * 60;

/// A schedule of a policy for so many seconds from now.
fn due_in(seconds: u64, policy: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let at = (now + AHEAD_S + seconds) % 86_400;
    let (hour, minute, second) = (at / 3600, at / 60 % 60, at % 60);
    format!("[policy.{policy}.digest]\nat = \"{hour:02}:{minute:02}:{second:02}\"\n")
}

/// The names of digests that were sent to each user.
fn digests(scene: &Scene) -> BTreeMap<String, Vec<String>> {
    let mut digests: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut user = String::new();
    for line in scene.hop.heard() {
        if let Some(rest) = line.strip_prefix("RCPT TO:<") {
            rest.trim_end_matches('>').clone_into(&mut user);
        }
        if let Some(id) = line.strip_prefix("| Message-ID: <digest.") {
            digests.entry(user.clone()).or_default().push(id.to_owned());
        }
    }
    digests
}

fn wait_for(scene: &Scene, count: usize) {
    until("digests", || {
        let sent: usize = digests(scene).values().map(Vec::len).sum();
        (sent >= count).then_some(())
    });
}

#[test]
fn a_digest_goes_out_at_its_time_once_and_over_restarts() {
    let mut scene = Scene::start_with(&PLACE, HELD);
    let first = scene.hold(&["held@test.example", "eve@test.example"], "first");
    // The other policy has one of its own, and nothing.
    scene.reload(&format!(
        "{HELD}{}[policy.own]\nmatch.sender = [\"@own.example\"]\ndigest.at = []\n",
        due_in(6, "default")
    ));
    std::thread::sleep(Duration::from_secs(3));
    assert!(digests(&scene).is_empty(), "not before");
    wait_for(&scene, 2);
    assert!(scene.heard().contains(&first) && scene.heard().contains("MAIL FROM:<>"));
    scene.mpp.wait_for_word("digests of policy default: 2 sent");
    scene.mpp.kill();
    scene.mpp.launch();
    std::thread::sleep(Duration::from_millis(2_500));
    let sent = digests(&scene);
    assert!(sent.len() == 2 && sent.values().all(|ids| ids.len() == 1), "{sent:?}");
    // What is due while mpp is down goes out when it is there again.
    let second = scene.hold(&["held@test.example"], "second");
    scene.reload(&format!("{HELD}{}", due_in(4, "held")));
    std::thread::sleep(Duration::from_secs(2));
    scene.mpp.stop();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(digests(&scene).values().map(Vec::len).sum::<usize>(), 2);
    scene.mpp.launch();
    wait_for(&scene, 3);
    let printed = scene.heard();
    assert_eq!((printed.matches(&first).count() > 0, printed.contains(&second)), (true, true));
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(digests(&scene)["held@test.example"].len(), 2);
}

#[test]
fn kills_and_stops_in_the_middle_of_a_run_leave_nobody_out() {
    let all = HELD.replace("\"eve@test.example\"", "\"@test.example\"");
    let mut scene = Scene::start_with(&PLACE, &all);
    let users: Vec<String> = (0..120).map(|number| format!("u{number}@test.example")).collect();
    for some in users.chunks(40) {
        let some: Vec<&str> = some.iter().map(String::as_str).collect();
        assert!(scene.send(&some, &text("many", "Regards")).starts_with("250"));
    }
    scene.reload(&format!("{all}{}", due_in(5, "default")));
    for (number, is_killed) in [(10, true), (30, false), (60, true), (90, false)] {
        wait_for(&scene, number);
        if is_killed {
            scene.mpp.kill();
        } else {
            scene.mpp.stop();
        }
        scene.mpp.launch();
    }
    scene.mpp.wait_for_word("digests of policy default:");
    let sent = digests(&scene);
    let told: BTreeSet<&String> = sent.keys().collect();
    assert_eq!(told, users.iter().collect());
    // A kill between the next hop's word and ours sends the same again, by the same name.
    for (user, ids) in &sent {
        assert!(ids.len() <= 2 && ids.iter().all(|id| *id == ids[0]), "{user}: {ids:?}");
    }
    let twice = sent.values().filter(|ids| ids.len() > 1).count();
    assert!(twice <= 2, "{twice}: a stop sends nothing twice");
}

#[test]
fn users_are_told_of_refusals_alone_where_the_policy_wants_it() {
    let rules = format!(
        "{HELD}[policy.default.access]\ndeny.sender = [\"@spam.example\"]\n\
         [recipients.here]\naddresses = [\"bob@test.example\", \"held@test.example\"]\n"
    );
    let scene = Scene::start_with(&PLACE, &rules);
    let digest = format!("{}refused = true\n", due_in(7, "default"));
    scene.reload(&format!("{rules}{digest}"));
    let refuse = |recipient: &str| {
        let mut client = scene.client();
        client.say("MAIL FROM:<x@spam.example>");
        let reply = client.say(&format!("RCPT TO:<{recipient}>"));
        assert!(reply.starts_with("55"), "{reply}");
    };
    for recipient in ["bob+shop@test.example", "bob@test.example", "nobody@test.example"] {
        refuse(recipient);
    }
    wait_for(&scene, 1);
    scene.mpp.wait_for_word("digests of policy default: 1 sent");
    let sent = digests(&scene);
    assert_eq!(sent.keys().collect::<Vec<_>>(), ["bob@test.example"]);
    let heard = scene.heard();
    assert!(heard.contains("| Subject: 2 messages were refused for you"), "{heard}");
    assert!(heard.contains("x@spam.example") && !heard.contains("Held for"), "{heard}");
}

#[test]
fn a_digest_that_is_refused_keeps_nobody_waiting_and_is_not_lost() {
    // Of the null sender the next hop takes nothing for one of the users.
    let (is_text, is_null) = (AtomicBool::new(false), AtomicBool::new(false));
    let hop = FakeSmtp::start(move |line| match line {
        "." => {
            is_text.store(false, Ordering::SeqCst);
            Act::Say("250 2.0.0 taken".into())
        }
        _ if is_text.load(Ordering::SeqCst) => Act::Listen,
        "" => Act::Say("220 fake".into()),
        "DATA" => {
            is_text.store(true, Ordering::SeqCst);
            Act::Say("354 go on".into())
        }
        line if line.starts_with("EHLO") => Act::Say(OFFERS.into()),
        line if line.starts_with("RCPT TO:<eve@") && is_null.load(Ordering::SeqCst) => {
            Act::Say("550 5.1.1 not here".into())
        }
        line => {
            if line.starts_with("MAIL") {
                is_null.store(line.starts_with("MAIL FROM:<>"), Ordering::SeqCst);
            }
            Act::Say("250 2.0.0 ok".into())
        }
    });
    let at = address();
    let listen = format!("{at}:10025");
    let configuration = |rules: &str| gateway(&listen, hop.address(), rules);
    let mut mpp = Daemon::new(MPP, &at, &configuration(HELD));
    mpp.set_variable(PLACE[0].0, PLACE[0].1);
    mpp.launch();
    let scene = Scene { mpp, listen: listen.clone(), hop: Ledger::start(|| None) };
    let id = scene.hold(&["held@test.example", "eve@test.example"], "one");
    scene.mpp.configure(&configuration(&format!("{HELD}{}", due_in(5, "default"))));
    scene.mpp.tell(&["reload"]);
    scene.mpp.wait_for_word("1 refused by the next hop: no digest for eve@test.example: 550");
    scene.mpp.wait_for_word("digests of policy default: 1 sent");
    let of = |user: &str| scene.mpp.tell(&["quarantine", "digest", "--user", user, "--print"]);
    assert!(of("eve@test.example").contains(&id), "she was not told");
    assert!(of("held@test.example").contains("nothing was held"), "he was");
}
