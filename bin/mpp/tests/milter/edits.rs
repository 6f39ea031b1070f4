//! What policies do to messages, seen where they are delivered: through Postfix over TCP and a unix
//! socket, and through Sendmail.

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::mail_host::MailHost;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::sendmail::Sendmail;
use mpp_tests::real::smtp::{Reply, Smtp, Who};
use mpp_tests::real::{address, until};

use crate::{CLIENT, MPP};

const RULES: &str = r#"
[networks]
local = ["10.0.0.0/8"]
trusted = []

[policy.default.greylist]
mode = "off"

[policy.default.message]
add_headers = ["X-Checked: {action} by {policy} for {client}, {id}", "X-Second: yes"]
remove_headers = ["X-Checked", "X-Spam-*"]

[policy.copied]
match = { recipient = ["copied@test.example"] }
message.copy_to = ["archive@test.example", "copied@test.example"]

[policy.moved]
match = { recipient = ["moved@test.example"] }
message.redirect_to = "desk@other.example"
message.copy_to = ["archive@test.example"]

[policy.plain]
match = { recipient = ["plain@test.example"] }
message = { add_headers = [], remove_headers = [] }

[policy.held]
match = { recipient = ["held@test.example"] }
[[policy.held.threshold]]
name = "hold"
key = "client"
count = "recipients"
limit = 0
per = "1h"
then = "hold"

[policy.lost]
match = { recipient = ["lost@test.example"] }
[[policy.lost.threshold]]
name = "discard"
key = "client"
count = "recipients"
limit = 0
per = "1h"
then = "discard"

[policy.large]
match = { recipient = ["small@test.example", "later@test.example"] }
[[policy.large.threshold]]
name = "bytes"
key = "recipient"
count = "bytes"
limit = 20000
per = "1h"
then = "reject"

[policy.later]
match = { sender = ["later@x.example"], recipient = ["later@test.example"] }
[[policy.later.threshold]]
name = "bytes"
key = "recipient"
count = "bytes"
limit = 20000
per = "1h"
then = "defer"
"#;

const TEXT: &str = "From: a@x.example\r\nX-Spam-Flag: YES\r\nx-checked: forged\r\nSubject: hi\r\n\
    X-SPAM-FLAG : again\r\nX-Spam-Level: *****\r\n\t*****\r\nX-Spam: stays\r\n\
    X-Checked: forged too\r\n\r\nX-Spam-Flag: in the body\r\nThe end.";

/// A daemon with a milter at this address.
fn daemon(at: &str, over_unix: bool, rules: &str) -> (Daemon, String) {
    let mut mpp = Daemon::new(MPP, at, "");
    let milter = if over_unix {
        format!("unix:{}", mpp.folder().join("milter").display())
    } else {
        format!("{at}:10041")
    };
    mpp.configure(&format!(
        "[listen]\npolicy = [\"{at}:10040\"]\nmilter = [\"{milter}\"]\nmilter_rejected = true\n\
         {rules}"
    ));
    mpp.launch();
    (mpp, milter)
}

/// A message to these recipients; the reply at its end.
fn send(smtp: &mut Smtp, sender: &str, recipients: &[&str], text: &str) -> Reply {
    assert_eq!(smtp.mail(sender).code, 250);
    for recipient in recipients {
        let reply = smtp.rcpt(recipient);
        assert_eq!(reply.code, 250, "{recipient}: {reply}");
    }
    smtp.text(text)
}

/// A mail server that asks, and the one that delivers.
trait Server {
    fn connect(&self) -> Smtp;
    fn back(&self) -> &Postfix;
    fn held(&self) -> usize;
    /// The client as mpp sees it.
    fn client(&self) -> &'static str;
}

impl Server for MailHost {
    fn connect(&self) -> Smtp {
        Smtp::connect_as(self.postfix.address(), Who::at(CLIENT))
    }

    fn back(&self) -> &Postfix {
        &self.postfix
    }

    fn held(&self) -> usize {
        self.postfix.queued("hold")
    }

    fn client(&self) -> &'static str {
        CLIENT
    }
}

/// Sendmail, and a Postfix that it relays to.
struct Relay {
    sendmail: Sendmail,
    hop: Postfix,
    _mpp: Daemon,
}

impl Server for Relay {
    fn connect(&self) -> Smtp {
        Smtp::connect(&self.sendmail.address())
    }

    fn back(&self) -> &Postfix {
        &self.hop
    }

    fn held(&self) -> usize {
        self.sendmail.quarantined()
    }

    fn client(&self) -> &'static str {
        "127.0.0.1"
    }
}

fn postfix(over_unix: bool) -> MailHost {
    let at = address();
    let (mpp, _) = daemon(&at, over_unix, RULES);
    let lines = mpp.tell(&["postfix", "--mode", "milter"]);
    let postfix = Postfix::start(&at, &lines);
    MailHost { mpp, postfix }
}

fn sendmail(over_unix: bool, rules: &str) -> Relay {
    let (mpp, milter) = daemon(&address(), over_unix, rules);
    let hop = Postfix::start(&address(), "");
    let sendmail = Sendmail::start(&milter, hop.address());
    Relay { sendmail, hop, _mpp: mpp }
}

/// The header of a message, as it was delivered.
fn fields(text: &str) -> Vec<&str> {
    text.split("\n\n").next().unwrap().lines().collect()
}

fn must_edit(server: &impl Server) {
    let mut smtp = server.connect();
    let mut count = 0;
    let mut delivered = |recipients: &[&str], more: usize| {
        assert_eq!(send(&mut smtp, "a@x.example", recipients, TEXT).code, 250);
        count += more;
        server.back().wait_for_delivered(count);
        server.back().messages_by_recipient()
    };
    let of = |mail: &[(String, String)], to: &str| {
        mail.iter().find(|(recipient, _)| recipient == to).map(|(_, text)| text.clone())
    };
    // Header fields: what came from outside is gone, however it is spelled, and ours is on top.
    let mail = delivered(&["bob@test.example"], 1);
    let text = of(&mail, "bob@test.example").unwrap();
    let header = fields(&text);
    let all = |name: &str| {
        let is_named = |line: &&&str| line.to_lowercase().starts_with(&name.to_lowercase());
        header.iter().filter(is_named).copied().collect::<Vec<_>>()
    };
    let checked = all("X-Checked");
    let begin = format!("X-Checked: accept by default for {}, ", server.client());
    assert_eq!(checked.len(), 1, "{text}");
    assert!(checked[0].strip_prefix(&begin).is_some_and(|id| id.len() == 10), "{checked:?}");
    assert_eq!(all("X-Second"), ["X-Second: yes"]);
    let place = |name: &str| header.iter().position(|line| line.starts_with(name)).unwrap();
    assert!(place("X-Checked") < place("X-Second") && place("X-Second") < place("From"), "{text}");
    assert_eq!(all("X-Spam"), ["X-Spam: stays"], "{text}");
    assert!(all("Subject") == ["Subject: hi"] && all("From") == ["From: a@x.example"], "{text}");
    assert!(text.ends_with("\n\nX-Spam-Flag: in the body\nThe end.\n"), "{text}");
    // A policy may turn off what it inherits.
    let text = of(&delivered(&["plain@test.example"], 1), "plain@test.example").unwrap();
    assert!(text.contains("X-Spam-Flag: YES") && text.contains("x-checked: forged"), "{text}");
    assert!(!text.contains("X-Second"), "{text}");
    // Copies, one of them to a recipient whom it has already; another recipient altogether.
    let mail = delivered(&["copied@test.example"], 2);
    assert!(
        of(&mail, "copied@test.example").is_some() && of(&mail, "archive@test.example").is_some()
    );
    let mail = delivered(&["moved@test.example"], 2);
    assert!(of(&mail, "desk@other.example").is_some_and(|text| text.contains("X-Second: yes")));
    assert!(of(&mail, "moved@test.example").is_none());
    // With several recipients the policy for nobody in particular holds.
    let mail = delivered(&["moved@test.example", "copied@test.example"], 2);
    assert!(of(&mail, "moved@test.example").is_some());
}

fn must_decide(server: &impl Server) {
    let mut smtp = server.connect();
    let small = "Subject: hi\r\n\r\nhi";
    let held = server.held();
    assert_eq!(send(&mut smtp, "a@x.example", &["held@test.example"], small).code, 250);
    until("the held message", || (server.held() == held + 1).then_some(()));
    assert_eq!(send(&mut smtp, "a@x.example", &["lost@test.example"], small).code, 250);
    let large = format!("Subject: hi\r\n\r\n{}", "0123456789\r\n".repeat(3_000));
    let reply = send(&mut smtp, "a@x.example", &["small@test.example"], &large);
    let (code, text) = (reply.code, &reply.text);
    assert!(code == 554 && text.starts_with("5.7.28 Too much mail from you"), "{reply}");
    let reply = send(&mut smtp, "later@x.example", &["later@test.example"], &large);
    let (code, text) = (reply.code, &reply.text);
    assert!(code == 450 && text.starts_with("4.7.28 Too much mail from you"), "{reply}");
    // What was refused is not there, and the connection serves others.
    let before = server.back().delivered();
    assert_eq!(send(&mut smtp, "a@x.example", &["small@test.example"], small).code, 250);
    server.back().wait_for_delivered(before + 1);
    let mail = server.back().messages_by_recipient();
    let is_there = |to: &str| mail.iter().any(|(recipient, _)| recipient == to);
    assert!(!is_there("held@test.example") && !is_there("lost@test.example"));
    assert!(is_there("small@test.example") && !is_there("later@test.example"));
}

#[test]
fn postfix_edits_as_policies_say() {
    for over_unix in [false, true] {
        let host = postfix(over_unix);
        must_edit(&host);
        must_decide(&host);
    }
}

#[test]
fn sendmail_edits_as_policies_say() {
    for over_unix in [false, true] {
        let relay = sendmail(over_unix, RULES);
        must_edit(&relay);
        must_decide(&relay);
    }
}

const HARVEST: &str = "[networks]\nlocal = [\"10.0.0.0/8\"]\ntrusted = []\n\
    [policy.default.greylist]\nmode = \"off\"\n[policy.default.recipient.harvest]\nlimit = 4\n\
    [policy.default.trap]\naddresses = [\"trap@test.example\"]\n";

/// Postfix knows its recipients itself: bob, and nobody else.
const BOB_ONLY: &str = "virtual_mailbox_maps = inline:{ { bob@test.example = all/ } }\n";

fn guess(smtp: &mut Smtp, recipient: &str) -> Reply {
    smtp.mail("a@x.example");
    let reply = smtp.rcpt(recipient);
    smtp.say("RSET");
    reply
}

#[test]
fn who_guesses_at_users_that_postfix_does_not_know_is_blocked() {
    let at = address();
    let (mpp, milter) = daemon(&at, false, HARVEST);
    let lines = format!("{BOB_ONLY}smtpd_milters = inet:{milter}\n");
    let postfix = Postfix::start(&at, &lines);
    let mut smtp = Smtp::connect_as(postfix.address(), Who::at(CLIENT));
    // A relay attempt is refused as well, and is no guess.
    for _ in 0..6 {
        assert_eq!(guess(&mut smtp, "x@elsewhere.invalid").code, 454);
    }
    for number in 0..4 {
        let reply = guess(&mut smtp, &format!("user{number}@test.example"));
        assert!(reply.code == 550 && reply.text.contains("virtual mailbox table"), "{reply}");
    }
    assert_eq!(guess(&mut smtp, "bob@test.example").code, 250, "four are no harvest");
    assert_eq!(guess(&mut smtp, "user4@test.example").code, 550);
    let reply = guess(&mut smtp, "bob@test.example");
    assert!(reply.code == 450 && reply.text.starts_with("4.7.1 "), "{reply}");
    let blocks = mpp.tell(&["blocks", "list"]);
    assert!(blocks.contains(CLIENT) && blocks.contains("harvest"), "{blocks}");
    // A trap that Postfix does not know is one nonetheless.
    let other = Who::at("198.51.100.99");
    let mut smtp = Smtp::connect_as(postfix.address(), other);
    assert_eq!(guess(&mut smtp, "trap@test.example").code, 550);
    assert_eq!(guess(&mut smtp, "bob@test.example").code, 450);
    assert!(mpp.tell(&["blocks", "list"]).contains("trap"));
}

#[test]
fn without_the_setting_postfix_keeps_its_refusals_to_itself() {
    let at = address();
    let mut mpp = Daemon::new(MPP, &at, "");
    mpp.configure(&format!(
        "[listen]\npolicy = [\"{at}:10040\"]\nmilter = [\"{at}:10041\"]\n{HARVEST}"
    ));
    mpp.launch();
    let postfix = Postfix::start(&at, &format!("{BOB_ONLY}smtpd_milters = inet:{at}:10041\n"));
    let mut smtp = Smtp::connect_as(postfix.address(), Who::at(CLIENT));
    for number in 0..8 {
        assert_eq!(guess(&mut smtp, &format!("user{number}@test.example")).code, 550);
    }
    assert_eq!(guess(&mut smtp, "bob@test.example").code, 250);
}

#[test]
fn what_the_policy_service_refused_counts_once() {
    let at = address();
    let known = "[recipients.main]\naddresses = [\"bob@test.example\"]\n";
    let (mpp, milter) = daemon(&at, false, &format!("{HARVEST}{known}"));
    let lines = format!("{}\nsmtpd_milters = inet:{milter}\n", mpp.tell(&["postfix"]));
    let postfix = Postfix::start(&at, &lines);
    let mut smtp = Smtp::connect_as(postfix.address(), Who::at(CLIENT));
    for number in 0..4 {
        let reply = guess(&mut smtp, &format!("user{number}@test.example"));
        assert!(reply.code == 550 && reply.text.contains("User unknown ("), "{reply}");
        assert_eq!(guess(&mut smtp, "bob@test.example").code, 250, "after {number}");
    }
    assert_eq!(guess(&mut smtp, "user4@test.example").code, 550);
    assert_eq!(guess(&mut smtp, "bob@test.example").code, 450);
}

#[test]
fn who_guesses_at_users_that_sendmail_does_not_know_is_blocked() {
    let relay = sendmail(false, HARVEST);
    let mut smtp = relay.connect();
    for number in 0..5 {
        assert_eq!(guess(&mut smtp, "bob@test.example").code, 250, "after {number}");
        let reply = guess(&mut smtp, &format!("user{number}@sm.test.example"));
        assert!(reply.code == 550 && reply.text.contains("... User unknown"), "{reply}");
    }
    assert_eq!(guess(&mut smtp, "bob@test.example").code, 450);
}
