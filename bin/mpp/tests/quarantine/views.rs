//! Who sees what, and how.

use mpp_tests::real::scanners::{Kind, RealScanner, gtube};

use crate::{HELD, Scene, text};

#[test]
fn what_a_scanner_finds_doubtful_is_held_for_those_who_want_it_so() {
    let scanner = RealScanner::start(Kind::Spamd);
    let rules = "[policy.default.scan]\nwith = [\"spamd\"]\nreject = 0\n\
        [policy.eve]\nmatch = { recipient = [\"eve@test.example\"] }\nscan.mode = \"off\"\n\
        [policy.strict]\nmatch = { recipient = [\"strict@test.example\"] }\nscan.reject = 5\n";
    let scene = Scene::start(&format!("{}{rules}", scanner.lines()));
    // Bob's policy holds it, the strict one would refuse it, and Eve gets it.
    let all = ["bob@test.example", "strict@test.example", "eve@test.example"];
    let reply = scene.send(&all, &text("mixed", &gtube()));
    assert!(reply.starts_with("250"), "{reply}");
    scene.hop.settle(&["mixed".to_owned()]);
    let heard = scene.heard();
    let at_end = heard.split("RSET").last().unwrap();
    assert!(at_end.contains("RCPT TO:<eve@") && !at_end.contains("RCPT TO:<bob@"), "{heard}");
    let rows = scene.rows(&["list"]);
    assert_eq!(rows.len(), 1, "{rows:?}");
    let row = &rows[0];
    assert_eq!(
        (row["reason"].as_str(), row["subject"].as_str()),
        (Some("spam"), Some("minutes of mixed"))
    );
    assert!(
        row["points_x100"].as_i64().unwrap() > 500
            && row["tests"].as_str().unwrap().contains("GTUBE")
    );
    let held: Vec<&str> = row["recipients"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["address"].as_str().unwrap())
        .collect();
    assert_eq!(held, ["bob@test.example", "strict@test.example"]);
    // To the strict one alone it is refused.
    assert!(scene.send(&["strict@test.example"], &text("alone", &gtube())).starts_with("550"));
    let told = scene.mpp.tell(&["quarantine", "list"]);
    assert!(told.contains("a@good.example -> bob@test.example, strict@test.example"), "{told}");
}

#[test]
fn users_see_only_their_own() {
    let scene = Scene::start(HELD);
    let one = scene.hold(&["held@test.example", "eve@test.example"], "one");
    let two = scene.hold(&["ann@other.example"], "two");
    let ids = |arguments: &[&str]| -> Vec<String> {
        let rows = scene.rows(arguments);
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&["list"]), [two.clone(), one.clone()]);
    assert_eq!(ids(&["list", "--user", "EVE@test.example"]), std::slice::from_ref(&one));
    assert_eq!(ids(&["list", "--domain", "other.example"]), std::slice::from_ref(&two));
    assert_eq!(ids(&["list", "--user", "bob@test.example"]), [""; 0]);
    let told = scene.mpp.tell(&["quarantine", "show", &one, "--user", "eve@test.example"]);
    assert!(told.contains("eve@test.example") && !told.contains("held@test.example"), "{told}");
    assert!(told.contains("please find the minutes"), "{told}");
    for action in ["show", "release", "delete"] {
        let refused =
            scene.mpp.tell_in_vain(&["quarantine", action, &two, "--user", "eve@test.example"]);
        assert!(refused.contains(&format!("no message {two} is here")), "{refused}");
    }
    // Eve throws hers away; the other's stays.
    scene.mpp.tell(&["quarantine", "delete", &one, "--user", "eve@test.example"]);
    assert_eq!(ids(&["list", "--user", "eve@test.example"]), [""; 0]);
    assert_eq!(ids(&["list", "--user", "held@test.example"]), std::slice::from_ref(&one));
    let again =
        scene.mpp.tell_in_vain(&["quarantine", "delete", &one, "--user", "eve@test.example"]);
    assert!(again.contains(&format!("{one} was deleted")), "{again}");
    let all = ids(&["list", "--only", "deleted"]);
    assert_eq!(all, [one]);
}

#[test]
fn details_are_the_users_own_and_the_policy_is_named() {
    let lists = "[recipients.here]\naddresses = [\"held@test.example\", \"held+own@test.example\"]\n\
        [policy.default.recipient]\nmode = \"enforce\"\n";
    let rules = HELD.replace("\"eve@test.example\"", "\"@test.example\"");
    let scene = Scene::start(&format!("{rules}{lists}"));
    let detail = scene.hold(&["Held+shop@test.example"], "detail");
    let own = scene.hold(&["held+own@test.example"], "own");
    let of = |user: &str| -> Vec<String> {
        let rows = scene.rows(&["list", "--user", user]);
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of("HELD@test.example"), std::slice::from_ref(&detail));
    assert_eq!(of("held+other@test.example"), std::slice::from_ref(&detail), "the same user");
    assert_eq!(of("held+own@test.example"), std::slice::from_ref(&own), "a user of his own");
    let row = &scene.rows(&["list"])[1];
    assert_eq!(row["policy"], "held", "a threshold holds by a policy too");
    assert_eq!(row["recipients"][0]["address"], "held+shop@test.example");
    scene.mpp.tell(&["quarantine", "release", &detail, "--user", "held@test.example"]);
    assert!(scene.heard().contains("RCPT TO:<Held+shop@test.example>"), "{}", scene.heard());
}

#[test]
fn a_threshold_on_bytes_holds_at_the_end() {
    let rules = "[[policy.default.threshold]]\nname = \"bytes\"\nkey = \"client\"\n\
        count = \"bytes\"\nlimit = 3000\nper = \"1h\"\nthen = \"hold\"\n";
    let scene = Scene::start(rules);
    let all = ["bob@test.example", "eve@test.example"];
    assert!(scene.send(&all, &text("small", "Regards")).starts_with("250"));
    assert!(scene.send(&all, &text("large", &"x".repeat(4_000))).starts_with("250"));
    assert!(scene.send(&all, &text("after", "Regards")).starts_with("250"));
    let there: Vec<String> = scene.hop.taken().keys().cloned().collect();
    assert_eq!(there, ["after", "small"], "what is held has not used the limit up");
    let rows = scene.rows(&["list"]);
    assert_eq!((rows.len(), rows[0]["policy"].as_str()), (1, Some("default")));
    assert_eq!(rows[0]["recipients"].as_array().unwrap().len(), 2);
    let id = rows[0]["id"].as_str().unwrap();
    scene.mpp.tell(&["quarantine", "release", id]);
    assert_eq!(scene.hop.taken().get("large"), Some(&1));
}

#[test]
fn a_policy_expires_what_it_holds() {
    let scene = Scene::start(&format!("{HELD}[policy.held.quarantine]\nkeep = \"1s\"\n"));
    scene.hold(&["held@test.example"], "short");
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    assert_eq!(
        scene.mpp.tell(&["quarantine", "expire"]).lines().next(),
        Some("1 too old, 0 too many, 0 of users who had too much")
    );
    assert!(scene.rows(&["list", "--only", "all"]).is_empty());
}

#[test]
fn searches_find_and_find_nothing_more() {
    let scene = Scene::start(HELD);
    for serial in ["alpha", "beta", "gamma"] {
        scene.hold(&["held@test.example"], serial);
    }
    let found = |arguments: &[&str]| scene.rows(&[&["search"], arguments].concat()).len();
    for (arguments, wanted) in [
        (&["minutes"][..], 3),
        (&["MINUTES", "of", "beta"], 1),
        (&["bet*"], 1),
        (&["bet"], 0),
        (&["\"beta\" OR alpha"], 0),
        (&["* NEAR( ) ' -- ;"], 0),
        (&["--sender", "a@good.example"], 3),
        (&["--sender", "@good.example", "gamma"], 1),
        (&["--sender", "%"], 0),
        (&["--recipient", "@test.example", "--reason", "hold"], 3),
        (&["--recipient", "held@other.example"], 0),
        (&["--reason", "virus"], 0),
        (&["--since", "1h"], 3),
        (&["--until", "1h"], 0),
        (&["--user", "held@test.example", "alpha"], 1),
        (&["--user", "eve@test.example", "alpha"], 0),
    ] {
        assert_eq!(found(arguments), wanted, "{arguments:?}");
    }
    let first = scene.mpp.json(&["quarantine", "list", "--most", "2"]);
    let cursor = first["cursor"].as_str().expect("there is more");
    let rest = scene.rows(&["list", "--most", "2", "--cursor", cursor]);
    assert_eq!((rest.len(), rest[0]["subject"].as_str()), (1, Some("minutes of alpha")));
}

#[test]
fn nothing_active_and_nothing_for_a_terminal_is_shown() {
    let scene = Scene::start(HELD);
    let odd = "Subject: \x1b]0;owned\x07 =?utf-8?b?4oCudHh0LmV4ZQ==?=\r\nFrom: a@good.example\r\n\
        MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\
        Content-Type: text/html\r\n\r\n<script>alert(1)</script><style>x{}</style><p onload=x>Hello \
        <a href='http://evil.example'>click</a>\x1b[2J</p>\r\n--b\r\nContent-Type: application/zip\r\n\
        Content-Disposition: attachment; filename=\"a\x1bb.zip\"\r\nContent-Transfer-Encoding: base64\
        \r\n\r\nUEsDBA==\r\n--b--\r\n";
    assert!(scene.send(&["held@test.example"], odd).starts_with("250"));
    let id = scene.rows(&["list"])[0]["id"].as_str().unwrap().to_owned();
    let told = scene.mpp.tell(&["quarantine", "show", &id]);
    assert!(
        told.contains("Hello click") && told.contains("attached    a b.zip, application/zip, 4 B"),
        "{told}"
    );
    for nothing in ["alert", "onload", "evil.example", "\x1b", "\x07", "\u{202e}"] {
        assert!(!told.contains(nothing), "{nothing:?}: {told}");
    }
    let table = scene.mpp.tell(&["quarantine", "list"]);
    assert!(!table.contains('\x1b') && table.contains("]0;owned"), "{table}");
}
