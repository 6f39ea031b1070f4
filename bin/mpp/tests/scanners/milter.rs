//! The same behind a real Postfix that asks by milter.

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::scanners::{Kind, RealScanner, eicar, gtube};
use mpp_tests::real::smtp::{Reply, Smtp, Who};

use crate::{CALM, MPP, text};

struct Scene {
    mpp: Daemon,
    postfix: Postfix,
}

impl Scene {
    fn start(scanners: &str, rules: &str) -> Self {
        let at = address();
        let text = format!(
            "[listen]\npolicy = [\"{at}:10040\"]\nmilter = [\"{at}:10041\"]\n{scanners}{CALM}{rules}"
        );
        let mpp = Daemon::start(MPP, &at, &text);
        let lines = mpp.tell(&["postfix", "--mode", "milter"]);
        let postfix = Postfix::start(&at, &lines);
        Self { mpp, postfix }
    }

    fn send(&self, recipients: &[&str], message: &str) -> Reply {
        let who = Who::at("198.51.100.7").named("mx.good.example");
        let mut smtp = Smtp::connect_as(self.postfix.address(), who);
        assert_eq!(smtp.mail("a@good.example").code, 250);
        for recipient in recipients {
            assert_eq!(smtp.rcpt(recipient).code, 250, "{recipient}");
        }
        smtp.say_expecting("DATA", 354);
        smtp.say(&format!("{message}\r\n."))
    }

    fn delivered(&self, count: usize) -> Vec<String> {
        self.postfix.wait_for_delivered(count);
        let all = self.postfix.messages();
        all.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

#[test]
fn spam_and_viruses_are_refused_and_the_rest_says_what_was_found() {
    let (spamd, clamd) = (RealScanner::start(Kind::Spamd), RealScanner::start(Kind::Clamd));
    let rules = "[policy.default.scan]\nwith = [\"clamd\", \"spamd\"]\n";
    let scene = Scene::start(&format!("{}{}", spamd.lines(), clamd.lines()), rules);
    let reply = scene.send(&["bob@test.example"], &text("spam", &gtube()));
    assert_eq!(reply.code, 550, "{reply}");
    assert!(reply.text.starts_with("5.7.1 Refused as spam"), "{reply}");
    assert!(scene.mpp.tell(&["explain", reply.id()]).contains("class=spam"));
    let reply = scene.send(&["bob@test.example"], &text("virus", &eicar()));
    assert_eq!(reply.code, 554, "{reply}");
    // Folded fields, dots, a forged result: what scanners see is what is delivered.
    let forged = format!(
        "X-Spam-Flag: NO\r\nX-Folded: a\r\n\tb\r\n{}",
        text("clean", "..a dot\r\n.\u{a0}another")
    );
    assert_eq!(scene.send(&["bob@test.example"], &forged).code, 250);
    let message = scene.delivered(1).remove(0);
    assert!(message.contains("X-Spam-Status: No, score="), "{message}");
    assert!(!message.contains("X-Spam-Flag: NO"), "{message}");
    assert!(message.contains("\n.a dot\n"), "{message}");
    let status = scene.mpp.json(&["status"]);
    assert_eq!(status["scanners"][1]["scans"], 3, "{status}");
}

#[test]
fn recipients_who_disagree_and_marks() {
    let spamd = RealScanner::start(Kind::Spamd);
    let rules = "[policy.default.scan]\nwith = [\"spamd\"]\nsubject = \"[SPAM]\"\nreject = 0\n\
        quarantine = 0\n[policy.eve]\nmatch = { recipient = [\"eve@test.example\"] }\n\
        scan.reject = 12\n[policy.desk]\nmatch = { recipient = [\"desk@test.example\"] }\n\
        scan.tag = 0\nscan.redirect = 5\nscan.redirect_to = \"abuse@test.example\"\n";
    let scene = Scene::start(&spamd.lines(), rules);
    let all = ["bob@test.example", "eve@test.example", "desk@test.example"];
    let reply = scene.send(&all, &text("mixed", &gtube()));
    assert_eq!(reply.code, 250, "{reply}");
    let messages = scene.delivered(2);
    for message in &messages {
        assert!(message.contains("Subject: [SPAM] minutes of the meeting"), "{message}");
        assert!(message.contains("X-Spam-Flag: YES"), "{message}");
        assert!(!message.contains("Delivered-To: eve@"), "{message}");
    }
    assert!(messages.iter().any(|message| message.contains("abuse@test.example")));
}
