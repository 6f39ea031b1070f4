//! Releases: once, marked, kept when they fail, and teaching.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::fake_smtp::{Act, FakeSmtp};
use mpp_tests::real::ledger::{Ledger, OFFERS};

use crate::{HELD, MPP, Scene, gateway, text};

#[test]
fn a_message_is_released_once_and_to_those_it_was_held_for() {
    let scene = Scene::start(HELD);
    let id = scene.hold(&["Held@test.example", "eve@test.example"], "once");
    assert!(scene.hop.taken().is_empty());
    let told = scene.mpp.tell(&["quarantine", "release", &id, "--user", "held@test.example"]);
    assert!(told.contains("Held@test.example: released (250 "), "{told}");
    scene.hop.settle(&["once".to_owned()]);
    let heard = scene.heard();
    assert!(heard.contains("RCPT TO:<Held@test.example>\nDATA"), "as he was named: {heard}");
    assert!(heard.contains(&format!("| X-Mpp-Released: {id} ")), "{heard}");
    let again =
        scene.mpp.tell_in_vain(&["quarantine", "release", &id, "--user", "held@test.example"]);
    assert!(again.contains(&format!("{id} was released already")), "{again}");
    // Eve still waits for hers, and two who ask at once send it once.
    let both: Vec<_> = (0..2).map(|_| scene.mpp.begin(&["quarantine", "release", &id])).collect();
    let done = both.into_iter().map(|child| child.wait_with_output().unwrap().status.success());
    assert_eq!(done.filter(|done| *done).count(), 1);
    assert_eq!(scene.hop.taken().get("once"), Some(&2));
    let files = std::fs::read_dir(scene.mpp.folder().join("state/quarantine/messages"));
    assert_eq!(files.unwrap().count(), 0, "nobody waits for it any more");
    let shown = scene.mpp.tell(&["quarantine", "show", &id]);
    assert!(shown.contains("eve@test.example (released)"), "{shown}");
}

#[test]
fn it_is_not_caught_again_by_a_filter_of_ours() {
    // The next hop of the gateway is a filter of the same daemon, which holds the same mail.
    let (at, hop) = (address(), Ledger::start(|| None));
    let (listen, filter) = (format!("{at}:10025"), format!("{at}:10026"));
    let text_of = format!(
        "{}[proxy.after]\nlisten = [\"{filter}\"]\npeers = [\"127.0.0.0/8\"]\nnext_hop = [\"{}\"]\n",
        gateway(&listen, &filter, HELD),
        hop.address()
    );
    let scene = Scene { mpp: Daemon::start(MPP, &at, &text_of), listen, hop };
    let id = scene.hold(&["held@test.example"], "through");
    scene.mpp.tell(&["quarantine", "release", &id]);
    scene.hop.settle(&["through".to_owned()]);
    assert!(scene.rows(&["list"]).is_empty());
    // What carries its mark and is another message is held.
    let mark =
        scene.hop.heard().iter().find_map(|line| line.strip_prefix("| X-Mpp-").map(str::to_owned));
    let forged = format!("X-Mpp-{}\r\n{}", mark.expect("a mark"), text("forged", "Buy this"));
    assert!(scene.send(&["held@test.example"], &forged).starts_with("250"));
    assert_eq!(scene.rows(&["list"]).len(), 1);
    scene.hop.settle(&["through".to_owned()]);
}

#[test]
fn a_next_hop_that_is_down_leaves_it_where_it_is() {
    let scene = Scene::start(HELD);
    let id = scene.hold(&["held@test.example"], "later");
    let (here, nowhere) = (scene.hop.address().to_owned(), format!("{}:1", address()));
    scene.mpp.configure(&gateway(&scene.listen, &nowhere, HELD));
    scene.mpp.tell(&["reload"]);
    let output = scene.mpp.run(&["quarantine", "release", &id]);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        !output.status.success() && told.contains("still held") && told.contains("refused"),
        "{told}"
    );
    assert_eq!(scene.rows(&["list"])[0]["recipients"][0]["state"], "held");
    scene.mpp.configure(&gateway(&scene.listen, &here, HELD));
    scene.mpp.tell(&["reload"]);
    scene.mpp.tell(&["quarantine", "release", &id]);
    scene.hop.settle(&["later".to_owned()]);
}

#[test]
fn what_may_have_arrived_is_not_sent_again_unless_somebody_says_so() {
    let texts = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&texts);
    // The first text is taken without an answer, as by a server that dies at that moment.
    let is_text = AtomicBool::new(false);
    let fake = FakeSmtp::start(move |line| match line {
        _ if is_text.load(Ordering::SeqCst) && line != "." => Act::Listen,
        "" => Act::Say("220 fake".into()),
        "." => {
            is_text.store(false, Ordering::SeqCst);
            let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
            if is_first { Act::Cut(Vec::new()) } else { Act::Say("250 2.0.0 taken".into()) }
        }
        "DATA" => {
            is_text.store(true, Ordering::SeqCst);
            Act::Say("354 go on".into())
        }
        line if line.starts_with("EHLO") => Act::Say(OFFERS.into()),
        line if ["MAIL", "RCPT", "RSET", "QUIT", "XFOR"]
            .iter()
            .any(|verb| line.starts_with(verb)) =>
        {
            Act::Say("250 2.0.0 ok".into())
        }
        _ => Act::Listen,
    });
    let at = address();
    let listen = format!("{at}:10025");
    let mpp = Daemon::start(MPP, &at, &gateway(&listen, fake.address(), HELD));
    let mut scene = Scene { mpp, listen, hop: Ledger::start(|| None) };
    let id = scene.hold(&["held@test.example"], "unsure");
    let output = scene.mpp.run(&["quarantine", "release", &id]);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && told.contains("which nobody knows"), "{told}");
    let refused = scene.mpp.tell_in_vain(&["quarantine", "release", &id]);
    assert!(refused.contains("its end is not known"), "{refused}");
    // As after a crash in the middle of a release: it is said at the start, and stays so.
    scene.mpp.kill();
    scene.mpp.launch();
    scene.mpp.wait_for_word(&format!("the end of the release of {id} is not known"));
    scene.mpp.tell_in_vain(&["quarantine", "release", &id]);
    assert_eq!(texts.load(Ordering::SeqCst), 1);
    scene.mpp.tell(&["quarantine", "release", &id, "--force"]);
    assert_eq!(texts.load(Ordering::SeqCst), 2);
}

#[test]
fn a_release_teaches() {
    let scene = Scene::start(HELD);
    let id = scene.hold(&["held@test.example"], "taught");
    scene.mpp.tell(&["quarantine", "release", &id]);
    // This has what was not written yet written.
    scene.mpp.tell_in_vain(&["explain", "0000000000"]);
    let folder = std::fs::read_dir(scene.mpp.folder().join("state/log")).unwrap();
    let lines =
        folder.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap_or_default());
    let lines = lines.collect::<String>();
    let taught =
        lines.lines().find(|line| line.contains("\"quarantine\"")).expect("an observation");
    for word in ["198.51.100.7", "a@good.example", "verdict=clean"] {
        assert!(taught.contains(word), "{word}: {taught}");
    }
}

#[test]
fn a_digest_lists_what_is_new_and_is_sent_once() {
    let scene = Scene::start(HELD);
    let id = scene.hold(&["held@test.example", "eve@test.example"], "<b>&\"x");
    let printed =
        scene.mpp.tell(&["quarantine", "digest", "--user", "held@test.example", "--print"]);
    assert!(
        printed.contains(&id) && printed.contains("Auto-Submitted: auto-generated"),
        "{printed}"
    );
    assert!(
        printed.contains("minutes of &lt;b&gt;&amp;") && !printed.contains("eve@"),
        "{printed}"
    );
    assert!(scene.hop.taken().is_empty(), "printed, not sent");
    let told = scene.mpp.tell(&["quarantine", "digest", "--all"]);
    assert_eq!(told.lines().filter(|line| line.contains("1 messages (250")).count(), 2, "{told}");
    let heard = scene.heard();
    assert!(heard.contains("MAIL FROM:<>\nRCPT TO:<eve@test.example>\nDATA"), "{heard}");
    assert!(heard.contains("| From: \"Quarantine\" <postmaster@test.example>"), "{heard}");
    assert_eq!(scene.mpp.tell(&["quarantine", "digest", "--all"]), "", "nothing is new");
    let second = scene.hold(&["eve@test.example"], "second");
    let printed =
        scene.mpp.tell(&["quarantine", "digest", "--user", "eve@test.example", "--print"]);
    assert!(printed.contains(&second) && !printed.contains(&id), "{printed}");
}

#[test]
fn a_digest_lists_what_was_refused_once() {
    let rules = format!("{HELD}[policy.default.access]\ndeny.sender = [\"@spam.example\"]\n");
    let scene = Scene::start(&rules);
    let refuse = |sender: &str, recipient: &str| {
        let mut client = scene.client();
        client.say(&format!("MAIL FROM:<{sender}>"));
        let reply = client.say(&format!("RCPT TO:<{recipient}>"));
        assert!(reply.starts_with("55"), "{reply}");
        reply
    };
    refuse("old@spam.example", "Held@test.example");
    refuse("other@spam.example", "eve@test.example");
    scene.hold(&["held@test.example"], "first");
    let digest = |rest: &[&str]| {
        scene.mpp.tell(&[&["quarantine", "digest", "--user", "held@test.example"], rest].concat())
    };
    let printed = digest(&["--print"]);
    assert!(printed.contains("Refused for you") && printed.contains("old@spam.example"));
    assert!(!printed.contains("other@spam.example"), "{printed}");
    assert!(digest(&[]).contains("1 messages (250"));
    let reply = refuse("new@spam.example", "held@test.example");
    assert!(digest(&["--print"]).contains("nothing was held"), "a refusal alone sends nothing");
    scene.hold(&["held@test.example"], "second");
    let printed = digest(&["--print"]);
    assert!(printed.contains("new@spam.example") && !printed.contains("old@spam.example"));
    // The id by which `mpp explain` finds it.
    let id = reply.trim_end().trim_end_matches(')').rsplit('(').next().unwrap();
    assert!(printed.contains(id), "{id}: {printed}");
}
