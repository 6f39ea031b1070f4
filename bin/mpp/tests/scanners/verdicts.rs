//! What real scanners say, and what becomes of the message.

use mpp_tests::real::scanners::{Kind, RealScanner, eicar, gtube};
use mpp_tests::real::until;

use crate::{Scene, text};

#[test]
fn spam_is_refused_and_clean_mail_passes_with_what_was_found() {
    for kind in [Kind::Spamd, Kind::Rspamd] {
        let scanner = RealScanner::start(kind);
        let rules = format!("[policy.default.scan]\nwith = [\"{}\"]\n", kind.name());
        let scene = Scene::start(&scanner.lines(), &rules);
        let reply = scene.send("198.51.100.7", "clean", "Regards");
        assert!(reply.starts_with("250"), "{kind:?}: {reply}");
        let reply = scene.send("198.51.100.7", "spam", &gtube());
        assert!(reply.starts_with("550 5.7.1 Refused as spam"), "{kind:?}: {reply}");
        let id = reply.rsplit_once('(').and_then(|(_, id)| id.strip_suffix(')')).expect("an id");
        let told = scene.mpp.tell(&["explain", id]);
        assert!(told.contains("class=spam") && told.contains(kind.name()), "{told}");
        scene.hop.settle(&["clean".to_owned()]);
        let heard = scene.heard();
        assert!(heard.contains("| X-Spam-Status: No, score="), "{heard}");
        assert!(
            heard.contains("iprev=pass policy.iprev=198.51.100.7 (mx.good.example)"),
            "{heard}"
        );
        assert!(!heard.contains("Serial: spam"), "nothing of it was said to the next hop: {heard}");
        assert_eq!(scene.number(kind.name(), "scans"), 2);
        let examined = scene.mpp.tell(&["check", "--live"]);
        assert!(examined.contains(&format!("scanner {}", kind.name())), "{examined}");
    }
}

#[test]
fn a_virus_is_refused_and_spares_the_dearer_scanner() {
    let (clamd, spamd) = (RealScanner::start(Kind::Clamd), RealScanner::start(Kind::Spamd));
    let rules = "[policy.default.scan]\nwith = [\"clamd\"]\nthen = [\"spamd\"]\nsure_clean = -1\n";
    let scene = Scene::start(&format!("{}{}", clamd.lines(), spamd.lines()), rules);
    let reply = scene.send("198.51.100.7", "virus", &eicar());
    assert!(reply.starts_with("554 5.7.1 Refused: it carries a virus"), "{reply}");
    assert_eq!((scene.number("clamd", "scans"), scene.number("spamd", "scans")), (1, 0));
    let reply = scene.send("198.51.100.7", "spam", &gtube());
    assert!(reply.starts_with("550 5.7.1"), "{reply}");
    assert_eq!((scene.number("clamd", "scans"), scene.number("spamd", "scans")), (2, 1));
    assert!(scene.hop.taken().is_empty());
}

#[test]
fn marked_mail_has_a_mark_and_nothing_forged() {
    let scanner = RealScanner::start(Kind::Spamd);
    let rules = "[policy.default.scan]\nwith = [\"spamd\"]\nreject = 0\nquarantine = 0\n\
        subject = \"[SPAM]\"\n[policy.default.message]\nadd_headers = [\"X-By: {policy}\"]\n";
    let scene = Scene::start(&scanner.lines(), rules);
    let forged = "X-Spam-Flag: NO\r\nAuthentication-Results: mx.test.example; spf=pass\r\n\
        Authentication-Results: other.example; spf=pass\r\n";
    let message = format!("{forged}{}", text("marked", &gtube()));
    let mut client = scene.client("198.51.100.7");
    let reply = client.message("a@good.example", "bob@test.example", &message);
    assert!(reply.starts_with("250"), "{reply}");
    let heard = scene.heard();
    for wanted in [
        "| X-Spam-Flag: YES",
        "| Subject: [SPAM] minutes of the meeting",
        "| X-Spam-Status: Yes, score=",
        "GTUBE",
        "| Authentication-Results: other.example; spf=pass",
        "| X-By: default",
    ] {
        assert!(heard.contains(wanted), "{wanted}: {heard}");
    }
    assert!(!heard.contains("X-Spam-Flag: NO"), "{heard}");
    assert!(!heard.contains("mx.test.example; spf=pass"), "{heard}");
    scene.hop.settle(&["marked".to_owned()]);
}

#[test]
fn recipients_who_disagree_each_get_what_their_policy_says() {
    let scanner = RealScanner::start(Kind::Spamd);
    let rules = "[policy.default.scan]\nwith = [\"spamd\"]\nreject = 0\nquarantine = 0\n\
        subject = \"[SPAM]\"\n\
        [policy.eve]\nmatch = { recipient = [\"eve@test.example\"] }\nscan.mode = \"off\"\n\
        [policy.desk]\nmatch = { recipient = [\"desk@test.example\"] }\nscan.tag = 0\n\
        scan.redirect = 5\nscan.redirect_to = \"abuse@test.example\"\n";
    let scene = Scene::start(&scanner.lines(), rules);
    let mut client = scene.client("198.51.100.7");
    client.expect("MAIL FROM:<a@good.example>", "250");
    for recipient in ["bob", "eve", "desk"] {
        client.expect(&format!("RCPT TO:<{recipient}@test.example>"), "250");
    }
    client.expect("DATA", "354");
    let reply = client.say(&format!("{}\r\n.", text("mixed", &gtube())));
    assert!(reply.starts_with("250"), "{reply}");
    // One text for each way: as it is, marked, and to somebody else.
    assert_eq!(scene.hop.taken().get("mixed"), Some(&3));
    let heard = scene.heard();
    let texts: Vec<&str> = heard.split("MAIL FROM:<a@good.example>").collect();
    let to = |recipient: &str| {
        let wanted = format!("RCPT TO:<{recipient}@test.example>");
        let found = texts.iter().find(|text| text.contains(&wanted) && text.contains("| Serial"));
        (*found.unwrap_or_else(|| panic!("{recipient}: {heard}"))).to_owned()
    };
    assert!(to("bob").contains("Subject: [SPAM]") && !to("bob").contains("<eve@"));
    assert!(to("eve").contains("Subject: minutes") && !to("eve").contains("X-Spam-Flag"));
    assert!(to("abuse").contains("X-Spam-Flag: YES") && !to("abuse").contains("<desk@"));
    assert_eq!(scene.number("spamd", "scans"), 1, "one message, one scan");
}

#[test]
fn who_sent_spam_is_refused_before_data_the_next_time() {
    let scanner = RealScanner::start(Kind::Spamd);
    let rules = "[policy.default.scan]\nwith = [\"spamd\"]\n\
        [[policy.default.threshold]]\nname = \"spam\"\nkey = \"client\"\ncount = \"spam\"\nlimit = 1\n\
        per = \"1h\"\nthen = { block = \"1h\" }\n";
    let scene = Scene::start(&scanner.lines(), rules);
    for number in 0..2 {
        let reply = scene.send("198.51.100.7", &format!("spam-{number}"), &gtube());
        assert!(reply.starts_with("550 5.7.1"), "{reply}");
    }
    until("a block", || scene.mpp.tell(&["blocks", "list"]).contains("198.51.100.7").then_some(()));
    let mut raw = mpp_tests::real::raw_smtp::RawSmtp::connect(&scene.listen);
    let reply = raw.become_client("ADDR=198.51.100.7");
    assert!(reply.starts_with("421 4.7.1 Temporarily blocked"), "{reply}");
    assert_eq!(scene.number("spamd", "scans"), 2);
    // An account that sends spam is stopped as well.
    let rules = "[policy.default.scan]\nwith = [\"spamd\"]\nskip = []\n\
        [[policy.default.threshold]]\nname = \"stolen\"\nkey = \"sasl_user\"\ndirection = \"outbound\"\n\
        count = \"spam\"\nlimit = 1\nper = \"1h\"\nthen = { block = \"1h\" }\n";
    let scene = Scene::start(&scanner.lines(), rules);
    let mut refused = 0;
    for number in 0..5 {
        let mut raw = mpp_tests::real::raw_smtp::RawSmtp::connect(&scene.listen);
        let reply = raw.become_client("ADDR=203.0.113.9 LOGIN=fred");
        refused += usize::from(reply.starts_with("421 4.7.1"));
        if reply.starts_with("250") {
            let message = text(&format!("out-{number}"), &gtube());
            let reply = raw.message("fred@test.example", "bob@test.example", &message);
            assert!(reply.starts_with("550 5.7.1"), "{reply}");
        }
    }
    assert_eq!((refused, scene.number("spamd", "scans")), (3, 2), "two messages told enough");
}

#[test]
fn only_what_is_undecided_is_scanned() {
    let scanner = RealScanner::start(Kind::Spamd);
    let rules = "[policy.default.scan]\nwith = [\"spamd\"]\nsample = \"0%\"\n\
        [policy.default.access]\nallow.client = [\"192.0.2.0/24\"]\n\
        [recipients.main]\naddresses = [\"bob@test.example\"]\n";
    let scene = Scene::start(&scanner.lines(), rules);
    assert!(scene.send("192.0.2.5", "allowed", &gtube()).starts_with("250"));
    assert!(scene.send("10.1.1.1", "local", &gtube()).starts_with("250"));
    let mut client = scene.client("198.51.100.7");
    assert!(client.message("a@b.example", "nobody@test.example", "x").starts_with("550 5.1.1"));
    assert_eq!(scene.number("spamd", "scans"), 0);
    assert!(scene.send("198.51.100.7", "stranger", "hi").starts_with("250"));
    assert_eq!(scene.number("spamd", "scans"), 1);
    // Some of it is scanned all the same.
    let rules = rules.replace("sample = \"0%\"", "sample = \"100%\"");
    let scene = Scene::start(&scanner.lines(), &rules);
    assert!(scene.send("192.0.2.5", "allowed", &gtube()).starts_with("550"));
}

#[test]
fn a_large_message_waits_in_a_file_and_arrives_whole() {
    let scanner = RealScanner::start(Kind::Clamd);
    let rules = "[policy.default.scan]\nwith = [\"clamd\"]\n[spool]\nmessage_memory = \"16 KiB\"\n\
        size = \"20 MiB\"\n";
    let scene = Scene::start(&scanner.lines(), rules);
    let body = "..a line of text that begins with a dot, and some more of it\r\n".repeat(40_000);
    let reply = scene.send("198.51.100.7", "large", &body);
    assert!(reply.starts_with("250"), "{reply}");
    let lines = scene.hop.heard().iter().filter(|line| line.starts_with("| ..a line")).count();
    assert_eq!(lines, 40_000);
    assert_eq!(scene.number("clamd", "scans"), 1);
    // With a virus at its very end.
    let reply = scene.send("198.51.100.7", "late", &format!("{body}{}", eicar()));
    assert!(reply.starts_with("554"), "{reply}");
    // What does not fit is to come again.
    let huge = "x".repeat(998) + "\r\n";
    let reply = scene.send("198.51.100.7", "huge", &huge.repeat(25_000));
    assert!(reply.starts_with("452 4.3.1"), "{reply}");
    scene.hop.settle(&["large".to_owned()]);
    let left = std::fs::read_dir(scene.mpp.folder().join("state/spool")).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}

#[test]
fn attachments_that_nobody_wants_are_taken_out() {
    let scanner = RealScanner::start(Kind::Clamd);
    let rules = "[policy.default.scan]\nwith = [\"clamd\"]\nstrip = [\"exe\", \"scr\"]\n";
    let scene = Scene::start(&scanner.lines(), rules);
    let message = "Serial: strip\r\nFrom: a@good.example\r\n\
        Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: text/plain\r\n\r\n\
        ..see below\r\n--x\r\nContent-Type: application/octet-stream; name=\"bill.pdf.exe\"\r\n\
        Content-Transfer-Encoding: base64\r\n\r\nTVqQAAMAAAAEAAAA\r\n--x\r\n\
        Content-Type: image/png; name=a.png\r\n\r\npng\r\n--x--\r\n";
    let mut client = scene.client("198.51.100.7");
    let reply = client.message("a@good.example", "bob@test.example", message);
    assert!(reply.starts_with("250"), "{reply}");
    let heard = scene.heard();
    for wanted in [
        "| X-Mpp-Taken-Out: bill.pdf.exe",
        "| The attachment bill.pdf.exe was taken out",
        "| ..see below",
        "| png",
        "| --x--",
    ] {
        assert!(heard.contains(wanted), "{wanted}: {heard}");
    }
    assert!(!heard.contains("TVqQ"), "{heard}");
    scene.hop.settle(&["strip".to_owned()]);
}

#[test]
fn messages_of_any_shape_are_scanned_and_pass() {
    let (clamd, rspamd) = (RealScanner::start(Kind::Clamd), RealScanner::start(Kind::Rspamd));
    let rules = "[policy.default.scan]\nwith = [\"clamd\", \"rspamd\"]\nstrip = [\"exe\"]\n\
        tag = 900\nquarantine = 0\nreject = 0\n";
    let scene = Scene::start(&format!("{}{}", clamd.lines(), rspamd.lines()), rules);
    let nested = |n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n");
    let deep = (0..10_000).map(nested).collect::<Vec<_>>().concat();
    let shapes = [
        ("no header", String::from("\r\njust text\r\n")),
        ("nothing", String::new()),
        ("NULs", "Subject: a\0b\r\n\r\n\0\0\r\n".to_owned()),
        ("long header", format!("X-Long: {}\r\n\r\nx\r\n", "a ".repeat(2 << 20))),
        ("many fields", format!("{}\r\nx\r\n", "X-Field: y\r\n".repeat(100_000))),
        ("deep", deep),
        (
            "wrong charset",
            "Subject: =?x-none?Q?=FF=FE?=\r\nContent-Type: text/plain; charset=nonsense\r\n\r\n\
             x\r\n"
                .to_owned(),
        ),
        (
            "winmail",
            "Content-Type: application/ms-tnef; name=winmail.dat\r\n\
             Content-Transfer-Encoding: base64\r\n\r\neJ8+IgAA\r\n"
                .to_owned(),
        ),
    ];
    for (name, shape) in shapes {
        let mut client = scene.client("198.51.100.7");
        let text = format!("Serial: {name}\r\n{shape}");
        let text = if name == "no header" { shape } else { text };
        let reply = client.message("a@good.example", "bob@test.example", text.trim_end());
        assert!(reply.starts_with("250"), "{name}: {reply}");
        assert!(scene.mpp.runs());
    }
}
