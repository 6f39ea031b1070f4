//! Whole SMTP dialogues: a real Postfix asks the real mpp, wired as `mpp postfix` says. Clients
//! are made up with XCLIENT.

use std::time::{Duration, Instant};

use mpp_tests::real::auth;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::mail_host::MailHost;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::smtp::{Reply, Smtp, Who};
use mpp_tests::real::until;

const MPP: &str = env!("CARGO_BIN_EXE_mpp");
const GREYLIST_1S: &str = "[policy.default.greylist]\ndelay = \"1s\"\n";
const NO_GREYLIST: &str = "[policy.default.greylist]\nmode = \"off\"\n";
const DRONE: &str = "192.0.2.66";

/// A refusal without its id and without the address that Postfix puts before it.
fn bare(reply: &Reply) -> String {
    let text = reply.text.rsplit_once(" (").map_or(&*reply.text, |(text, _)| text);
    let (status, text) = text.split_once(' ').unwrap_or(("", text));
    let text = text.rsplit_once("rejected: ").map_or(text, |(_, text)| text);
    format!("{} {status} {text}", reply.code)
}

#[test]
fn a_server_that_comes_back_passes_and_is_not_asked_again() {
    let host = MailHost::start(MPP, GREYLIST_1S);
    let server = Who::at("198.51.100.7").named("mx1.sender.example");
    let begun = Instant::now();
    let first = host.attempt(server, "a@sender.example", "bob@test.example");
    assert_eq!(bare(&first), "450 4.7.1 Greylisted, try again in 1 s");
    host.retry(server, "a@sender.example", "bob@test.example");
    assert!(begun.elapsed() >= Duration::from_secs(1), "it passed after {:?}", begun.elapsed());
    // Another member of its pool, another sender, another recipient: proven is proven.
    let other = Who::at("203.0.113.80").named("mx2.sender.example");
    assert_eq!(host.attempt(other, "c@sender.example", "eve@test.example").code, 250);
    host.postfix.wait_for_delivered(2);
    // A stranger waits.
    assert_eq!(host.attempt(Who::at(DRONE), "a@sender.example", "bob@test.example").code, 450);
}

#[test]
fn early_retries_do_not_start_the_wait_anew() {
    let host = MailHost::start(MPP, "[policy.default.greylist]\ndelay = \"2s\"\n");
    let begun = Instant::now();
    let mut tries = 0;
    until("accepted message", || {
        tries += 1;
        let reply = host.attempt(Who::at(DRONE), "a@sender.example", "bob@test.example");
        (reply.code == 250).then_some(())
    });
    assert!(tries > 3 && begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn recipients_of_one_message_are_greylisted_one_by_one() {
    let host = MailHost::start(
        MPP,
        "[policy.default.greylist]\ndelay = \"1h\"\n\
         [policy.eager]\nmatch = { recipient = [\"eve@test.example\", \"@other.example\"] }\n\
         greylist.mode = \"off\"\n",
    );
    let mut smtp = Smtp::connect_as(host.postfix.address(), Who::at(DRONE));
    smtp.mail("a@sender.example");
    // Per user, per domain, and everybody else.
    assert_eq!(smtp.rcpt("eve@test.example").code, 250);
    assert_eq!(smtp.rcpt("bob@test.example").code, 450);
    assert_eq!(smtp.rcpt("ann@other.example").code, 250);
    assert_eq!(smtp.data().code, 250);
    host.postfix.wait_for_delivered(2);
}

#[test]
fn who_writes_to_a_trap_is_told_unknown_and_then_blocked() {
    let host = MailHost::start(
        MPP,
        &format!(
            "{NO_GREYLIST}[recipients.main]\naddresses = [\"bob@test.example\"]\n\
             [policy.default.trap]\naddresses = [\"old@test.example\"]\n\
             patterns = ['^trap-[0-9]+@test\\.example$']\nblock = \"1h\"\n"
        ),
    );
    let unknown = host.attempt(Who::at("198.51.100.1"), "s@x.example", "nobody@test.example");
    let trap = host.attempt(Who::at(DRONE), "s@x.example", "TRAP-17@test.example");
    assert_eq!(bare(&trap), "550 5.1.1 User unknown");
    assert_eq!(bare(&trap), bare(&unknown), "a trap cannot be told apart");
    let blocked = host.attempt(Who::at(DRONE), "s@y.example", "bob@test.example");
    assert_eq!(bare(&blocked), "450 4.7.1 Temporarily blocked");
    assert_eq!(
        host.attempt(Who::at("192.0.2.67"), "s@y.example", "bob@test.example").code,
        250,
        "its neighbour is not"
    );
    // A bounce to a forged sender says nothing of the server that sends it.
    let bouncer = Who::at("198.51.100.2");
    assert_eq!(host.attempt(bouncer, "", "old@test.example").code, 550);
    assert_eq!(host.attempt(bouncer, "a@x.example", "bob@test.example").code, 250);
}

#[test]
fn who_guesses_at_users_learns_nothing_more() {
    let host = MailHost::start(
        MPP,
        &format!(
            "{NO_GREYLIST}[recipients.main]\naddresses = [\"bob@test.example\"]\n\
             [policy.default.recipient.harvest]\nlimit = 3\nper = \"1h\"\nblock = \"1h\"\n"
        ),
    );
    let mut smtp = Smtp::connect_as(host.postfix.address(), Who::at(DRONE));
    smtp.mail("s@x.example");
    for guess in ["ann", "amy", "abe", "ada"] {
        let reply = smtp.rcpt(&format!("{guess}@test.example"));
        assert_eq!(bare(&reply), "550 5.1.1 User unknown");
    }
    let (known, unknown) = (smtp.rcpt("bob@test.example"), smtp.rcpt("al@test.example"));
    assert_eq!(bare(&known), "450 4.7.1 Temporarily blocked");
    assert_eq!(bare(&known), bare(&unknown));
    // Others are served as before, and `postmaster` is always there.
    let other = Who::at("198.51.100.1");
    assert_eq!(host.attempt(other, "s@x.example", "bob@test.example").code, 250);
    assert_eq!(host.attempt(other, "s@x.example", "postmaster@test.example").code, 250);
    assert_eq!(host.attempt(other, "s@x.example", "bob+list@test.example").code, 250);
}

#[test]
fn an_account_that_sends_too_much_is_stopped() {
    let host = MailHost::start(
        MPP,
        "[[policy.default.threshold]]\nname = \"account\"\ndirection = \"outbound\"\n\
         key = \"sasl_user\"\ncount = \"recipients\"\nlimit = 3\nper = \"1h\"\n\
         then = { block = \"1h\" }\n",
    );
    let fred = Who::at("203.0.113.9").as_user("fred");
    for number in 0..3 {
        let reply = host.attempt(fred, "fred@test.example", &format!("r{number}@far.example"));
        assert_eq!(reply.code, 250, "{reply}");
    }
    let over = host.attempt(fred, "fred@test.example", "r3@far.example");
    assert!(bare(&over).starts_with("450 4.7.1 Sending limit reached: 3 of 3 per 1h"), "{over}");
    let blocked = host.attempt(fred, "fred@test.example", "bob@test.example");
    assert_eq!(bare(&blocked), "450 4.7.1 Temporarily blocked");
    let mut smtp = Smtp::connect(host.postfix.address());
    smtp.say_expecting(&auth::plain("fred"), 235);
    smtp.say_expecting("MAIL FROM:<other@test.example>", 250);
    assert_eq!(smtp.rcpt("bob@test.example").code, 450, "he may log in from anywhere");
    // Neither the address nor the domain of the account is.
    let gina = Who::at("203.0.113.9").as_user("gina");
    assert_eq!(host.attempt(gina, "gina@test.example", "r@far.example").code, 250);
}

#[test]
fn a_message_counts_once_however_often_it_is_asked_about() {
    let host = MailHost::start(
        MPP,
        "[[policy.default.threshold]]\nname = \"mails\"\nkey = \"sasl_user\"\n\
         count = \"messages\"\nlimit = 2\nper = \"1h\"\nthen = \"defer\"\n",
    );
    let fred = Who::at("203.0.113.9").as_user("fred");
    let mut smtp = Smtp::connect_as(host.postfix.address(), fred);
    // Asked about three times at RCPT and once at END-OF-MESSAGE.
    smtp.say_expecting("MAIL FROM:<fred@test.example>", 250);
    for to in ["a@far.example", "b@far.example", "c@test.example"] {
        assert_eq!(smtp.rcpt(to).code, 250);
    }
    assert_eq!(smtp.data().code, 250);
    // Given up before DATA: it counts for nothing, however often.
    for _ in 0..4 {
        smtp.say_expecting("MAIL FROM:<fred@test.example>", 250);
        assert_eq!(smtp.rcpt("a@far.example").code, 250);
        smtp.say_expecting("RSET", 250);
    }
    smtp.say_expecting("MAIL FROM:<fred@test.example>", 250);
    assert_eq!(smtp.rcpt("a@far.example").code, 250);
    assert_eq!(smtp.data().code, 250);
    smtp.say_expecting("MAIL FROM:<fred@test.example>", 250);
    let over = smtp.rcpt("a@far.example");
    assert!(bare(&over).starts_with("450 4.7.1 Sending limit reached: 2 of 2 per 1h"), "{over}");
}

#[test]
fn our_own_networks_and_users_never_wait() {
    let host = MailHost::start(
        MPP,
        "[networks]\nlocal = [\"127.0.0.0/8\", \"192.0.2.0/25\", \"2001:db8:1::/48\"]\n\
         [policy.default.trap]\naddresses = [\"old@test.example\"]\n",
    );
    let waits = |who, code| {
        let reply = host.attempt(who, "a@sender.example", "bob@test.example");
        assert_eq!(reply.code, code, "{who:?}: {reply}");
    };
    waits(Who::at("192.0.2.66"), 250);
    waits(Who::at("IPV6:2001:db8:1::25"), 250);
    waits(Who::at("203.0.113.9").as_user("fred"), 250);
    waits(Who::at("192.0.2.166"), 450);
    waits(Who::at("IPV6:2001:db8:2::25"), 450);
    // A printer of ours that writes to a trap is not blocked.
    host.attempt(Who::at("192.0.2.66"), "printer@test.example", "old@test.example");
    waits(Who::at("192.0.2.66"), 250);
}

#[test]
fn the_answer_to_mail_of_ours_does_not_wait() {
    let host = MailHost::start(MPP, "");
    let fred = Who::at("203.0.113.9").as_user("fred");
    assert_eq!(host.attempt(fred, "fred@test.example", "ann@far.example").code, 250);
    let far = Who::at("198.51.100.7");
    assert_eq!(host.attempt(far, "ann@far.example", "fred@test.example").code, 250);
    assert_eq!(host.attempt(far, "ann@far.example", "bob@test.example").code, 450);
    assert_eq!(host.attempt(far, "eve@far.example", "fred@test.example").code, 450);
}

#[test]
fn lists_allow_and_deny() {
    let host = MailHost::start(
        MPP,
        "[policy.default.access.allow]\nclient = [\"192.0.2.0/28\"]\nname = [\".partner.example\"]\n\
         [policy.default.access.deny]\nclient = [\"198.51.100.0/24\", \"2001:db8:bad::/48\"]\n\
         sender = [\"@spam.example\", \"one@mixed.example\"]\nhelo = [\"client.example\"]\n\
         [policy.default.greylist]\ndelay = \"1h\"\n\
         [policy.quiet]\nmatch = { recipient = [\"@other.example\"] }\naccess.mode = \"off\"\n",
    );
    let to_bob = |who, sender: &str| host.attempt(who, sender, "bob@test.example");
    assert_eq!(to_bob(Who::at("192.0.2.3"), "a@x.example").code, 250);
    assert_eq!(to_bob(Who::at("203.0.113.1").named("mx.partner.example"), "a@x.example").code, 250);
    let denied = to_bob(Who::at("198.51.100.1"), "a@x.example");
    assert_eq!(bare(&denied), "554 5.7.1 Access denied");
    assert_eq!(to_bob(Who::at("IPV6:2001:db8:bad::1"), "a@x.example").code, 554);
    // Whoever is on both lists is allowed.
    assert_eq!(to_bob(Who::at("192.0.2.3"), "a@spam.example").code, 250);
    assert_eq!(to_bob(Who::at("203.0.113.1"), "a@spam.example").code, 554);
    let quiet = host.attempt(Who::at("198.51.100.1"), "a@spam.example", "ann@other.example");
    assert_eq!(quiet.code, 450, "only greylisting is left: {quiet}");
}

#[test]
fn a_shadow_only_says_what_it_would_have_done() {
    let host = MailHost::start(
        MPP,
        "[policy.default]\ngreylist.mode = \"shadow\"\n\
         trap = { mode = \"shadow\", addresses = [\"old@test.example\"] }\n",
    );
    assert_eq!(host.attempt(Who::at(DRONE), "a@x.example", "bob@test.example").code, 250);
    assert_eq!(host.attempt(Who::at(DRONE), "a@x.example", "old@test.example").code, 250);
    assert_eq!(host.attempt(Who::at(DRONE), "a@x.example", "ann@test.example").code, 250);
    let stats = host.mpp.json(&["stats"]);
    let shadow = stats["total"]["shadow"].to_string();
    assert!(shadow.contains(r#""check":"trap","action":"reject","count":1"#), "{shadow}");
    assert!(shadow.contains(r#""check":"greylist","action":"defer""#), "{shadow}");
    assert_eq!(host.mpp.json(&["blocks", "list"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn a_refusal_for_good_wins_over_greylisting() {
    // Postfix knows the users here; who does not exist is not asked to come back.
    let host = MailHost::start(MPP, "");
    let reply = host.attempt(Who::at(DRONE), "a@x.example", "bob@nowhere.example");
    assert_eq!(reply.code, 554, "relaying is refused by Postfix itself: {reply}");
}

#[test]
fn over_a_unix_socket_it_is_the_same() {
    let folder = mpp_tests::real::folder();
    let text = format!(
        "[listen]\npolicy = [\"unix:{}\"]\n{GREYLIST_1S}",
        folder.path().join("socket").display()
    );
    let host = MailHost::start(MPP, &text);
    assert!(host.mpp.tell(&["postfix"]).contains("{ unix:/"), "wired by path");
    let first = host.attempt(Who::at(DRONE), "a@sender.example", "bob@test.example");
    assert_eq!(bare(&first), "450 4.7.1 Greylisted, try again in 1 s");
    host.retry(Who::at(DRONE), "a@sender.example", "bob@test.example");
    host.postfix.wait_for_delivered(1);
}

#[test]
fn the_three_lines_that_serve_prints_are_enough() {
    let address = mpp_tests::real::address();
    let mpp = Daemon::start(MPP, &address, GREYLIST_1S);
    let said = mpp.said();
    let (_, lines) = said.split_once("for main.cf:\n").expect("lines for main.cf");
    let lines: Vec<&str> = lines.lines().take_while(|line| line.starts_with("smtpd_")).collect();
    assert_eq!(lines.len(), 3, "{said}");
    let postfix = Postfix::start(&address, &lines.join("\n"));
    let host = MailHost { mpp, postfix };
    host.retry(Who::at(DRONE), "a@sender.example", "bob@test.example");
    let fred = Who::at("203.0.113.9").as_user("fred");
    assert_eq!(host.attempt(fred, "fred@test.example", "ann@far.example").code, 250);
    let relay = host.attempt(Who::at(DRONE), "a@sender.example", "ann@far.example");
    assert_eq!(relay.code, 554, "no open relay: {relay}");
}

#[test]
fn what_only_the_whole_message_shows_is_judged_at_its_end() {
    let host = MailHost::start(
        MPP,
        "[[policy.default.threshold]]\nname = \"bytes\"\nkey = \"sasl_user\"\ncount = \"bytes\"\n\
         limit = 4096\nper = \"1h\"\nthen = \"defer\"\n",
    );
    let fred = Who::at("203.0.113.9").as_user("fred");
    let mut smtp = Smtp::connect_as(host.postfix.address(), fred);
    let send = |smtp: &mut Smtp, lines: usize| {
        smtp.say_expecting("MAIL FROM:<fred@test.example>", 250);
        smtp.say_expecting("RCPT TO:<bob@test.example>", 250);
        smtp.say_expecting("RCPT TO:<eve@test.example>", 250);
        smtp.say_expecting("DATA", 354);
        smtp.send("A line of a message.\r\n".repeat(lines).as_bytes());
        smtp.say(".")
    };
    assert_eq!(send(&mut smtp, 10).code, 250);
    let over = send(&mut smtp, 400);
    assert_eq!(over.code, 450, "{over}");
    assert!(over.text.contains("Sending limit reached"), "{over}");
    // Postfix leaves a transaction open that was refused at its end.
    smtp.say_expecting("RSET", 250);
    assert_eq!(send(&mut smtp, 10).code, 250, "what was refused does not count");
    host.postfix.wait_for_delivered(4);
}

#[test]
fn a_message_may_be_held() {
    let host = MailHost::start(
        MPP,
        "[[policy.default.threshold]]\nname = \"first\"\nkey = \"sasl_user\"\ncount = \"messages\"\n\
         limit = 1\nper = \"1h\"\nthen = \"hold\"\n",
    );
    let fred = Who::at("203.0.113.9").as_user("fred");
    for _ in 0..2 {
        assert_eq!(host.attempt(fred, "fred@test.example", "bob@test.example").code, 250);
    }
    until("message on hold", || host.postfix.log().contains("hold: RCPT").then_some(()));
    host.postfix.wait_for_delivered(1);
}

#[test]
fn a_blocked_host_may_be_hung_up_on() {
    let host =
        MailHost::start(MPP, &format!("{NO_GREYLIST}[policy.default.block]\ndisconnect = true\n"));
    host.mpp.tell(&["blocks", "add", "client", DRONE, "--for", "1h"]);
    let mut smtp = Smtp::connect_as(host.postfix.address(), Who::at(DRONE));
    smtp.say_expecting("MAIL FROM:<a@x.example>", 250);
    let reply = smtp.rcpt("bob@test.example");
    assert_eq!(bare(&reply), "421 4.7.0 Temporarily blocked");
    assert!(smtp.is_closed());
}

#[test]
fn with_delay_reject_off_every_stage_is_answered() {
    let address = mpp_tests::real::address();
    let deny = "[policy.default.access.deny]\nclient = [\"192.0.2.1\"]\nhelo = [\"bad.example\"]\n\
                sender = [\"@spam.example\"]\n";
    let mpp = Daemon::start(MPP, &address, &format!("{GREYLIST_1S}{deny}"));
    let service = format!("check_policy_service inet:{}", mpp.address());
    let lines = format!(
        "smtpd_delay_reject = no\nsmtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination\n\
         smtpd_client_restrictions = {service}\nsmtpd_helo_restrictions = {service}\n\
         smtpd_sender_restrictions = {service}\nsmtpd_recipient_restrictions = {service}\n\
         smtpd_data_restrictions = {service}\nsmtpd_end_of_data_restrictions = {service}\n\
         smtpd_etrn_restrictions = {service}\n"
    );
    let host = MailHost { mpp, postfix: Postfix::start(&address, &lines) };
    host.retry(Who::at(DRONE), "a@x.example", "bob@test.example");
    let sender = host.attempt(Who::at(DRONE), "a@spam.example", "bob@test.example");
    assert_eq!(bare(&sender), "554 5.7.1 Access denied");
    let mut smtp = Smtp::connect_as(host.postfix.address(), Who::at(DRONE));
    assert_eq!(smtp.say("EHLO bad.example").code, 554);
    smtp.say_expecting("EHLO good.example", 250);
    assert_eq!(smtp.say("ETRN test.example").code / 100, 4, "no such queue, but asked");
    let mut smtp = Smtp::connect(host.postfix.address());
    assert_eq!(smtp.say("XCLIENT ADDR=192.0.2.1 NAME=[UNAVAILABLE]").code, 554);
}

#[test]
fn a_confined_postfix_finds_the_socket_in_its_queue_directory() {
    // What `mpp postfix` prints for a socket in Postfix's usual queue directory.
    let usual = Daemon::new(
        MPP,
        "127.0.0.1",
        "[listen]\npolicy = [\"unix:/var/spool/postfix/private/mpp\"]\n",
    );
    let lines = usual.tell(&["postfix"]);
    assert!(lines.contains("{ unix:private/mpp, "), "{lines}");
    let address = mpp_tests::real::address();
    let postfix = Postfix::start_chrooted(&address, &lines);
    let socket = postfix.queue().join("private/mpp");
    let text = format!("[listen]\npolicy = [\"unix:{}\"]\n{GREYLIST_1S}", socket.display());
    let host = MailHost { mpp: Daemon::start(MPP, &address, &text), postfix };
    let first = host.attempt(Who::at(DRONE), "a@sender.example", "bob@test.example");
    assert_eq!(bare(&first), "450 4.7.1 Greylisted, try again in 1 s");
    host.retry(Who::at(DRONE), "a@sender.example", "bob@test.example");
}
