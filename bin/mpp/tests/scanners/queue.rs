//! The policy service has Postfix send only what is undecided through the filter behind the queue,
//! which scans it.

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::raw_smtp::RawSmtp;
use mpp_tests::real::scanners::{Kind, RealScanner, gtube};
use mpp_tests::real::smtp::{Smtp, Who};
use mpp_tests::real::until;

use crate::{CALM, MPP, Scene, text};

#[test]
fn only_what_is_undecided_goes_through_the_filter() {
    let scanner = RealScanner::start(Kind::Spamd);
    let back = Postfix::start(&address(), "smtpd_authorized_xforward_hosts = 127.0.0.0/8\n");
    let at = address();
    let rules = format!(
        "[proxy.filter]\nlisten = [\"{at}:10025\"]\nnext_hop = [\"{}\"]\npeers = [\"127.0.0.0/8\"]\n\
         {}{CALM}[policy.default.scan]\nwith = [\"spamd\"]\nsample = \"0%\"\nquarantine = 0\n\
         reject = 0\nfilter = \"smtp:[{at}]:10025\"\n\
         [policy.default.access]\nallow.client = [\"192.0.2.0/24\"]\n\
         deny.sender = [\"@spam.example\"]\n",
        back.address(),
        scanner.lines()
    );
    let mpp = Daemon::start(MPP, &at, &rules);
    let lines = mpp.tell(&["postfix"]);
    let front = Postfix::start(&at, &format!("{lines}\nsmtp_send_xforward_command = yes\n"));
    let send = |client: &str, serial: &str, body: &str| {
        let who = Who::at(client).named("mx.good.example");
        let mut smtp = Smtp::connect_as(front.address(), who);
        assert_eq!(smtp.mail("a@good.example").code, 250);
        assert_eq!(smtp.rcpt("bob@test.example").code, 250);
        smtp.say_expecting("DATA", 354);
        let reply = smtp.say(&format!("{}\r\n.", text(serial, body)));
        assert_eq!(reply.code, 250, "{reply}");
    };
    // Who is allowed is delivered by the first Postfix itself; the others come out behind the filter.
    send("192.0.2.5", "allowed", &gtube());
    until("the one that is not scanned", || (front.delivered() == 1).then_some(()));
    send("198.51.100.7", "stranger", &gtube());
    back.wait_for_delivered(1);
    let message = String::from_utf8(back.messages().remove(0)).unwrap();
    assert!(message.contains("X-Spam-Flag: YES") && message.contains("GTUBE"), "{message}");
    assert_eq!(front.delivered(), 1);
    let stats = mpp.json(&["stats"]);
    let funnel = &stats["total"]["funnel"];
    assert_eq!(funnel["scanned"]["messages"], 1, "{funnel}");
    assert_eq!(funnel["caught_by_scanners"], 1, "{funnel}");
    let told = mpp.tell(&["stats"]);
    assert!(told.contains("messages that passed the SMTP level"), "{told}");
    assert!(told.contains("caught by scanners"), "{told}");
    // Three are refused at RCPT: they cost no scan.
    for user in ["one", "two", "three"] {
        let mut smtp = Smtp::connect_as(front.address(), Who::at("203.0.113.9"));
        assert_eq!(smtp.mail("a@spam.example").code, 250);
        assert_eq!(smtp.rcpt(&format!("{user}@test.example")).code, 554);
    }
    let stats = mpp.json(&["stats"]);
    let spared = &stats["spared"];
    assert_eq!(spared["messages"]["refused"], 3, "{spared}");
    assert_eq!(spared["messages"]["unscanned"], 1, "what passes two doors passes once: {spared}");
    assert!(spared["messages"]["share"].as_f64().unwrap() >= 0.75, "{spared}");
    let (mean_us, all) = (&spared["scanners"][0]["mean_us"], &spared["messages"]["all"]);
    let wanted = mean_us.as_u64().unwrap() * all.as_u64().unwrap() / 1000;
    assert!(wanted > 0 && spared["spared_ms"].as_u64().unwrap().abs_diff(wanted) <= 1, "{spared}");
    let told = mpp.tell(&["stats"]);
    println!("{told}");
    assert!(told.contains("time of spamd") && told.contains("messages that never reached one"));
}

#[test]
fn a_verdict_from_outside_counts() {
    let at = address();
    let rules = format!(
        "{CALM}[[policy.default.threshold]]\nname = \"spam\"\nkey = \"client\"\ncount = \"spam\"\n\
         limit = 1\nper = \"1h\"\nthen = {{ block = \"1h\" }}\n"
    );
    let mpp = Daemon::start(MPP, &at, &rules);
    let tell = |what: &str| {
        mpp.tell(&[
            "verdict",
            what,
            "--client",
            "203.0.113.7",
            "--from",
            "a@x.example",
            "--to",
            "bob@test.example",
        ])
    };
    assert!(tell("clean").contains("counted as clean"));
    for _ in 0..2 {
        assert!(tell("spam").contains("counted as spam"));
    }
    until("a block", || mpp.tell(&["blocks", "list"]).contains("203.0.113.7").then_some(()));
}

#[test]
fn what_another_filter_says_counts_from_its_server_only() {
    for (networks, wanted) in [("127.0.0.0/8", true), ("192.0.2.0/24", false)] {
        let rules = "[[policy.default.threshold]]\nname = \"spam\"\nkey = \"client\"\n\
            count = \"spam\"\nlimit = 1\nper = \"1h\"\nthen = { block = \"1h\" }\n";
        let settings = format!("verdicts_from = [\"{networks}\"]\n");
        let scene = Scene::start(&settings, rules);
        for number in 0..2 {
            let message = format!("X-Spam-Flag: YES\r\n{}", text(&number.to_string(), "x"));
            let mut client = scene.client("198.51.100.7");
            let reply = client.message("a@good.example", "bob@test.example", &message);
            assert!(reply.starts_with("250"), "{reply}");
        }
        let mut raw = RawSmtp::connect(&scene.listen);
        let reply = raw.become_client("ADDR=198.51.100.7");
        assert_eq!(reply.starts_with("421 4.7.1"), wanted, "{networks}: {reply}");
    }
}

#[test]
fn drones_never_reach_a_scanner() {
    let scanner = RealScanner::start(Kind::Spamd);
    let back = Postfix::start(&address(), "smtpd_authorized_xforward_hosts = 127.0.0.0/8\n");
    let at = address();
    let rules = format!(
        "[proxy.filter]\nlisten = [\"{at}:10025\"]\nnext_hop = [\"{}\"]\npeers = [\"127.0.0.0/8\"]\n\
         {}[networks]\nlocal = [\"10.0.0.0/8\"]\ntrusted = []\n\
         [policy.default.greylist]\ndelay = \"1s\"\n\
         [policy.default.scan]\nwith = [\"spamd\"]\nfilter = \"smtp:[{at}]:10025\"\n",
        back.address(),
        scanner.lines()
    );
    let mpp = Daemon::start(MPP, &at, &rules);
    let lines = mpp.tell(&["postfix"]);
    let front = Postfix::start(&at, &format!("{lines}\nsmtp_send_xforward_command = yes\n"));
    let attempt = |client: &str, sender: &str, serial: &str| {
        let mut smtp = Smtp::connect_as(front.address(), Who::at(client));
        assert_eq!(smtp.mail(sender).code, 250);
        let reply = smtp.rcpt("bob@test.example");
        if reply.code != 250 {
            return reply.code;
        }
        smtp.say_expecting("DATA", 354);
        smtp.say(&format!("{}\r\n.", text(serial, "Regards"))).code
    };
    // Nine of ten try once and never again.
    for number in 0..90 {
        let client = format!("203.0.{}.{}", 100 + number / 30, 1 + number);
        assert_eq!(attempt(&client, &format!("x{number}@drone.example"), "drone"), 450);
    }
    for number in 0..10 {
        let (client, sender) =
            (format!("198.51.{}.7", 100 + number), format!("a{number}@good.example"));
        let serial = format!("good-{number}");
        assert_eq!(attempt(&client, &sender, &serial), 450);
        until("a message that is taken", || {
            (attempt(&client, &sender, &serial) == 250).then_some(())
        });
    }
    back.wait_for_delivered(10);
    let status = mpp.json(&["status"]);
    assert_eq!(status["scanners"][0]["scans"], 10, "of 100 who tried: {status}");
    let stats = mpp.json(&["stats"]);
    let funnel = &stats["total"]["funnel"];
    let at_rcpt = funnel["steps"][3]["stopped"].as_u64().expect("a number");
    assert!(at_rcpt >= 100, "{funnel}");
}
