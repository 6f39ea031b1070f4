//! What an operator does with a running mpp: commands, new configurations, restarts. With a real
//! Postfix in front of it wherever mail is part of it.

use std::time::Duration;

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::mail_host::MailHost;
use mpp_tests::real::policy::{Client, rcpt, request};
use mpp_tests::real::smtp::{Smtp, Who};
use mpp_tests::real::{address, until};
use serde_json::Value;

const MPP: &str = env!("CARGO_BIN_EXE_mpp");
const GREYLIST_1S: &str = "[policy.default.greylist]\ndelay = \"1s\"\n";
const NO_GREYLIST: &str = "[policy.default.greylist]\nmode = \"off\"\n";
const DRONE: &str = "192.0.2.66";
/// What a crash may lose; a little more, so that nothing is at its edge.
const GROUP_COMMIT: Duration = Duration::from_millis(150);

fn daemon(text: &str) -> Daemon {
    Daemon::start(MPP, &address(), text)
}

#[test]
fn a_refusal_is_explained_by_its_id() {
    let mut host = MailHost::start(MPP, "[policy.default.greylist]\ndelay = \"1h\"\n");
    let server = Who::at("198.51.100.7").named("mx1.sender.example");
    let reply = host.attempt(server, "news+17@sender.example", "Bob@test.example");
    let explained = host.mpp.tell(&["explain", reply.id()]);
    for word in [
        "198.51.100.7",
        "mx1.sender.example",
        "client.example",
        "news+17@sender.example",
        "bob@test.example",
        "default",
        "greylist",
        "defer",
        "Greylisted, try again in 3600 s",
    ] {
        assert!(explained.contains(word), "{word} is not in:\n{explained}");
    }
    // Brackets as copied from a bounce, after a crash, without a daemon: it is still known.
    std::thread::sleep(GROUP_COMMIT);
    host.mpp.kill();
    assert_eq!(host.mpp.tell(&["explain", &format!("({})", reply.id())]), explained);
    host.mpp.launch();
    assert_eq!(host.mpp.tell(&["explain", reply.id()]), explained);
    let line = host.mpp.json(&["explain", reply.id()]);
    assert_eq!(line["id"], reply.id());
    assert!(host.mpp.tell_in_vain(&["explain", "0000000000"]).contains("no decision 0000000000"));
    assert!(host.mpp.tell_in_vain(&["explain", "what?"]).contains("is no id"));
}

#[test]
fn statistics_tell_who_came_back() {
    let mut mpp = daemon(GREYLIST_1S);
    let mut client = mpp.client();
    for network in 1..=8 {
        client.ask(&rcpt(&format!("10.7.{network}.1"), "a@x.example", "bob@test.example"));
    }
    until("first pass", || {
        let answer = client.ask(&rcpt("10.7.1.1", "a@x.example", "bob@test.example"));
        (answer == "DUNNO").then_some(())
    });
    let clients = |mpp: &Daemon| mpp.json(&["stats"])["total"]["clients"].clone();
    let seen = clients(&mpp);
    assert_eq!((&seen["seen"], &seen["never_tried_again"]), (&8.into(), &7.into()), "{seen}");
    assert_eq!((&seen["passed"], &seen["legitimate"]), (&1.into(), &1.into()), "{seen}");
    let text = mpp.tell(&["stats"]);
    assert!(text.contains("never tried again") && text.contains("87.5 %"), "{text}");
    mpp.stop();
    mpp.launch();
    assert_eq!(clients(&mpp), seen, "a restart keeps them");
}

#[test]
fn blocks_are_listed_made_and_lifted() {
    let host = MailHost::start(MPP, NO_GREYLIST);
    let code = |who| host.attempt(who, "a@x.example", "bob@test.example").code;
    let fred = Who::at("203.0.113.9").as_user("fred");
    for (kind, identity, who) in [
        ("client", DRONE, Who::at(DRONE)),
        ("client", "2001:db8::5", Who::at("IPV6:2001:db8::5")),
        ("client", "192.0.2.77", Who::at("IPV6:::ffff:192.0.2.77")),
        ("network", "192.0.2.0/24", Who::at(DRONE)),
        ("organisation", "x.example", Who::at(DRONE).named("mx.x.example")),
        ("sender", "a@x.example", Who::at(DRONE)),
        ("sender_domain", "x.example", Who::at(DRONE)),
        ("sasl_user", "fred", fred),
    ] {
        assert_eq!(code(who), 250, "before {kind} {identity}");
        host.mpp.tell(&["blocks", "add", kind, identity, "--for", "1h"]);
        assert_eq!(code(who), 450, "{kind} {identity}");
        let list = host.mpp.tell(&["blocks", "list"]);
        assert!(list.contains(kind) && list.contains(identity), "{list}");
        host.mpp.tell(&["blocks", "remove", kind, identity]);
        assert_eq!(code(who), 250, "after {kind} {identity}");
    }
    assert_eq!(host.mpp.tell(&["blocks", "list"]), "nothing is blocked\n");
    // The same address in another spelling.
    host.mpp.tell(&["blocks", "add", "client", "::ffff:192.0.2.66", "--for", "1h"]);
    assert_eq!(code(Who::at(DRONE)), 450);
    host.mpp.tell(&["blocks", "remove", "client", "::FFFF:192.0.2.66"]);
    assert_eq!(code(Who::at(DRONE)), 250);
    // It never outlives its period.
    host.mpp.tell(&["blocks", "add", "client", DRONE, "--for", "1s"]);
    assert_eq!(code(Who::at(DRONE)), 450);
    until("end of the block", || (code(Who::at(DRONE)) == 250).then_some(()));
    for (arguments, word) in [
        (["client", "127.0.0.1", "--for", "1h"], "never blocked"),
        (["client", "nobody", "--for", "1h"], "nobody"),
        (["network", "192.0.2.0/25", "--for", "1h"], "by the /24 here, such as `192.0.2.0/24`"),
        (["organisation", "mx.x.example", "--for", "1h"], "part of `x.example`"),
        (["organisation", "example", "--for", "1h"], "not the domain of an organisation"),
        (["helo", "x.example", "--for", "1h"], "never asked about"),
        (["clint", DRONE, "--for", "1h"], "`clint` is none of client, network"),
        (["client", DRONE, "--for", "soon"], "soon"),
    ] {
        let said = host.mpp.tell_in_vain(&[&["blocks", "add"], &arguments[..]].concat());
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
}

#[test]
fn what_greylisting_remembers_is_shown_and_forgotten() {
    let mpp = daemon("[policy.default.greylist]\ndelay = \"1h\"\n");
    let triplet = ["--client", DRONE, "--from", "a@x.example", "--to", "bob@test.example"];
    let show = || mpp.json(&[&["greylist", "show"], &triplet[..]].concat());
    assert_eq!(show()["greylisted"], Value::Null);
    let mut client = mpp.client();
    client.ask(&rcpt(DRONE, "a@x.example", "bob@test.example"));
    client.ask(&rcpt(DRONE, "a@x.example", "bob@test.example"));
    let shown = show();
    assert_eq!(shown["greylisted"]["tries_too_early"], 1, "{shown}");
    assert_eq!(shown["proven"], Value::Null);
    mpp.tell(&[&["greylist", "forget"], &triplet[..]].concat());
    assert_eq!(show()["greylisted"], Value::Null);
}

#[test]
fn to_ask_changes_nothing() {
    let mut mpp = daemon("[policy.default.greylist]\ndelay = \"1h\"\n");
    let triplet = ["--client", DRONE, "--from", "a@x.example", "--to", "bob@test.example"];
    let ask = [&["ask"], &triplet[..]].concat();
    for _ in 0..2 {
        let asked = mpp.json(&ask);
        assert_eq!(asked["verdict"], "defer", "{asked}");
        assert_eq!(asked["check"], "greylist", "{asked}");
    }
    let text = mpp.tell(&ask);
    assert!(text.contains("450 4.7.1 Greylisted, try again in 3600 s"), "{text}");
    let shown = mpp.json(&[&["greylist", "show"], &triplet[..]].concat());
    assert_eq!(shown["greylisted"], Value::Null);
    assert_eq!(mpp.json(&["stats"])["total"]["clients"]["seen"], 0);
    // An account of ours does not wait; a wrong stage is named.
    let account = mpp.json(&["ask", "--client", DRONE, "--user", "fred", "--to", "a@y.example"]);
    assert_eq!(account["verdict"], "accept", "{account}");
    assert_eq!(account["direction"], "outbound", "{account}");
    assert!(mpp.tell_in_vain(&["ask", "--client", DRONE, "--stage", "LUNCH"]).contains("LUNCH"));
    assert!(mpp.tell_in_vain(&["ask", "--client", "nobody"]).contains("nobody"));
    mpp.stop();
    assert_eq!(mpp.json(&ask)["verdict"], "defer", "without a daemon, with an empty memory");
    assert!(mpp.tell_in_vain(&["stats"]).contains("no daemon answers"));
}

fn verdict(verdict: &str, client: &str, sender: &str) -> String {
    request(&[
        ("request", "mpp_verdict"),
        ("verdict", verdict),
        ("client_address", client),
        ("client_name", "unknown"),
        ("sender", sender),
        ("recipient", "bob@test.example"),
    ])
}

#[test]
fn verdicts_of_trusted_peers_teach() {
    let mpp = daemon(
        "[networks]\ntrusted = [\"192.0.2.1\"]\n\
         [policy.default.greylist]\ndelay = \"1h\"\n\
         [[policy.default.threshold]]\nname = \"spam\"\nkey = \"client\"\nshare = \"spam\"\n\
         limit = \"50%\"\nover = 5\nper = \"1h\"\nthen = { block = \"1h\" }\n",
    );
    let at_rcpt = |client: &str| mpp.client().ask(&rcpt(client, "a@x.example", "bob@test.example"));
    // This test is 127.0.0.1 over TCP, which is not trusted here.
    let mut stranger = mpp.client();
    for _ in 0..20 {
        let spam = verdict("spam", DRONE, "a@x.example");
        assert_eq!(stranger.ask(&spam), "DUNNO not a trusted peer");
    }
    assert!(at_rcpt(DRONE).contains("Greylisted"));
    // Who can reach the unix socket is.
    let mut scanner = Client::new(&mpp.unix_address());
    for number in 0..20 {
        // A host is known by how many of its senders are good or bad, not by how busy one is.
        let sender = format!("user{number}@x{number}.example");
        assert_eq!(scanner.ask(&verdict("spam", DRONE, &sender)), "DUNNO");
        assert_eq!(scanner.ask(&verdict("ham", "198.51.100.1", &sender)), "DUNNO");
    }
    assert!(at_rcpt(DRONE).starts_with("450 4.7.1 Temporarily blocked"), "{}", at_rcpt(DRONE));
    assert_eq!(at_rcpt("198.51.100.1"), "DUNNO", "clean mail speaks for it");
    let odd = scanner.ask(&verdict("maybe", DRONE, "a@x.example"));
    assert_eq!(odd, "DUNNO verdict is neither spam nor ham");
    mpp.tell(&["blocks", "remove", "client", DRONE]);
}

#[test]
fn a_new_configuration_is_taken_and_a_wrong_one_is_not() {
    let host = MailHost::start(MPP, "[policy.default.greylist]\ndelay = \"1h\"\n");
    let code = || host.attempt(Who::at(DRONE), "a@x.example", "bob@test.example").code;
    // A session that is open throughout sees each change.
    let mut smtp = Smtp::connect_as(host.postfix.address(), Who::at(DRONE));
    smtp.say_expecting("MAIL FROM:<a@x.example>", 250);
    assert_eq!(smtp.rcpt("bob@test.example").code, 450);
    host.mpp.configure(NO_GREYLIST);
    assert_eq!(code(), 450, "it was not told yet");
    let said = host.mpp.tell(&["reload"]);
    assert!(said.contains("configuration 2 taken"), "{said}");
    assert_eq!((code(), smtp.rcpt("bob@test.example").code), (250, 250));

    host.mpp.configure("[policy.default.gerylist]\nmode = \"enforce\"\n");
    let said = host.mpp.tell_in_vain(&["reload"]);
    assert!(said.contains("did you mean `greylist`?") && said.contains("mpp.toml"), "{said}");
    assert!(said.contains("stays as it was"), "{said}");
    assert_eq!(code(), 250);
    host.mpp.hang_up();
    until("second refusal", || {
        (host.mpp.said().matches("reload refused").count() == 2).then_some(())
    });
    assert_eq!(code(), 250);

    host.mpp
        .configure(&format!("{NO_GREYLIST}[policy.default.access.deny]\nclient = [\"{DRONE}\"]\n"));
    host.mpp.hang_up();
    host.mpp.wait_for_word("configuration 3 taken");
    assert_eq!(code(), 554);
    std::fs::remove_file(host.mpp.folder().join("mpp.toml")).expect("our own file");
    host.mpp.hang_up();
    host.mpp.wait_for_word("cannot read the configuration");
    assert_eq!(code(), 554);
}

#[test]
fn a_changed_list_is_noticed() {
    let mpp = Daemon::new(
        MPP,
        &address(),
        &format!(
            "{NO_GREYLIST}[recipients.main]\nfile = \"users\"\n\
             [policy.default.recipient.harvest]\nlimit = 1000000\n\
             [policy.default.access.deny]\nclient = \"file:denied\"\n"
        ),
    );
    mpp.write("users", "bob@test.example\n");
    mpp.write("denied", "# nobody yet\n");
    let mut mpp = mpp;
    mpp.launch();
    let mut client = mpp.client();
    let mut ask = |who: &str, to: &str| client.ask(&rcpt(who, "a@x.example", to));
    assert!(ask("192.0.2.1", "eve@test.example").starts_with("550 5.1.1"));
    mpp.write("users", "bob@test.example\neve@test.example  OK\n");
    until("eve known", || (ask("192.0.2.2", "eve@test.example") == "DUNNO").then_some(()));
    mpp.write("denied", "192.0.2.0/29\n198.51.100.1\n");
    until("denied", || ask("192.0.2.3", "bob@test.example").starts_with("554").then_some(()));
    // A list that cannot be read as one changes nothing.
    mpp.write("denied", "192.0.2.0/99\n");
    mpp.wait_for_word("reload refused");
    assert!(mpp.said().contains("denied:1"), "{}", mpp.said());
    assert!(ask("192.0.2.3", "bob@test.example").starts_with("554"));
}

#[test]
fn mail_flows_while_mpp_is_away_and_memory_comes_back() {
    let mut host = MailHost::start(
        MPP,
        "[policy.default.greylist]\ndelay = \"1s\"\n\
         [policy.default.trap]\naddresses = [\"old@test.example\"]\nblock = \"1h\"\n",
    );
    let server = Who::at("198.51.100.7");
    let triplet = ["--client", "198.51.100.7", "--from", "a@x.example", "--to", "bob@test.example"];
    let since = |mpp: &Daemon| {
        let shown = mpp.json(&[&["greylist", "show"], &triplet[..]].concat());
        shown["greylisted"]["since_ms"].as_u64()
    };
    assert_eq!(host.attempt(server, "a@x.example", "bob@test.example").code, 450);
    assert_eq!(host.attempt(Who::at(DRONE), "a@x.example", "old@test.example").code, 550);
    let first = since(&host.mpp).expect("a first try");
    let mut open = Smtp::connect_as(host.postfix.address(), Who::at(DRONE));
    open.say_expecting("MAIL FROM:<a@x.example>", 250);
    assert_eq!(open.rcpt("bob@test.example").code, 450, "blocked");
    std::thread::sleep(GROUP_COMMIT);
    host.mpp.kill();
    // In the middle of a session, and for a new one: `default_action` lets it pass.
    assert_eq!(open.rcpt("bob@test.example").code, 250);
    assert_eq!(open.data().code, 250);
    assert_eq!(host.attempt(server, "new@x.example", "ann@test.example").code, 250);
    host.mpp.launch();
    assert_eq!(since(&host.mpp), Some(first), "the first try is where it was");
    assert_eq!(open.mail("a@x.example").code, 250);
    assert_eq!(open.rcpt("bob@test.example").code, 450, "blocked still");
    host.retry(server, "a@x.example", "bob@test.example");
    host.postfix.wait_for_delivered(3);
    host.mpp.stop();
    host.mpp.launch();
    assert_eq!(host.attempt(server, "other@x.example", "eve@test.example").code, 250, "proven");
    assert_eq!(host.attempt(Who::at(DRONE), "a@x.example", "bob@test.example").code, 450);
}

#[test]
fn a_stream_of_mail_survives_reloads_and_restarts() {
    let mut host = MailHost::start(MPP, "[policy.default.greylist]\ndelay = \"1h\"\n");
    let mut sender = host.postfix.flood(1_500);
    for round in 1..4 {
        until("some more mail", || (host.postfix.delivered() > round * 100).then_some(()));
        host.mpp.tell(&["reload"]);
        host.mpp.hang_up();
        host.mpp.kill();
        host.mpp.launch();
    }
    let sent = until("the end of the stream", || sender.try_wait().ok().flatten());
    assert!(sent.success(), "{sent}: some message was refused");
    host.postfix.wait_for_delivered(1_500);
    // The last life of mpp was asked: about recipients, and at the end of messages.
    let stats = host.mpp.json(&["stats"]).to_string();
    assert!(stats.contains(r#""action":"accept""#), "{stats}");
    let log = host.postfix.log();
    let bad = log.lines().find(|line| line.contains("fatal") || line.contains("unknown action"));
    assert_eq!(bad, None);
}

#[test]
fn the_status_names_what_runs() {
    let mpp = daemon(NO_GREYLIST);
    let status = mpp.json(&["status"]);
    assert_eq!(status["store"]["health"], "good", "{status}");
    assert_eq!(status["policy_service"][0], mpp.address());
    assert_eq!(status["policy_service"][1], mpp.unix_address());
    let text = mpp.tell(&["status"]);
    for word in
        ["process        ", ", up ", "policy service ", "; never asked", "decision log   written"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
    mpp.client().ask(&rcpt(DRONE, "a@x.example", "bob@test.example"));
    let text = mpp.tell(&["status"]);
    assert!(
        text.contains("last asked 0 seconds ago, about 192.0.2.66")
            || text.contains("about 192.0.2.66"),
        "{text}"
    );
    assert_eq!(mpp.json(&["status"])["troubles"], serde_json::json!([]));
    // What is wrong comes first, and monitoring hears of it.
    mpp.configure("[policy.default.greylist]\ndelya = \"1m\"\n");
    mpp.tell_in_vain(&["reload"]);
    let output = mpp.run(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("TROUBLE        reload, for "), "{text}");
    assert!(text.contains("unknown setting `delya`"), "{text}");
    let status = mpp.json(&["status"]);
    assert_eq!(status["troubles"][0]["what"], "reload", "{status}");
    mpp.configure(NO_GREYLIST);
    mpp.tell(&["reload"]);
    assert!(mpp.tell(&["status"]).starts_with("version"));
    let version = std::process::Command::new(MPP).arg("--version").output().expect("mpp");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let commit = status["commit"].as_str().unwrap_or("-");
    assert!(version.contains(commit), "{version}");
    let checked = mpp.tell(&["check"]);
    assert!(checked.starts_with("sound: 1 policy"), "{checked}");
}
