//! What commands say to people about what is held.

use crate::{HELD, Scene, text};

#[test]
fn what_is_asked_wrongly_is_said() {
    let scene = Scene::start(HELD);
    scene.hold(&["held@test.example"], "one");
    let said = scene.mpp.tell_in_vain(&["quarantine", "search", "--reason", "bogus"]);
    assert!(said.contains("`bogus`") && said.contains("spam, virus, hold"), "{said}");
    let said = scene.mpp.tell_in_vain(&["quarantine", "digest"]);
    assert!(said.contains("--user") && said.contains("--all"), "{said}");
}

#[test]
fn a_message_is_shown_as_it_came() {
    let scene = Scene::start(HELD);
    let lines = (0..60_000_u64).map(|it| it.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string());
    let noise = lines.collect::<Vec<_>>().join("\r\n");
    let sent = text("raw", &format!("caf\u{e9}\r\n{noise}"));
    assert!(scene.send(&["held@test.example"], sent.trim_end()).starts_with("250"));
    let id = scene.rows(&["list"])[0]["id"].as_str().expect("an id").to_owned();
    let output = scene.mpp.run(&["quarantine", "show", &id, "--raw"]);
    assert!(output.status.success() && output.stdout.len() > 1 << 20);
    assert!(output.stdout.starts_with(b"Received: "));
    let sent = format!("{}\r\n", sent.trim_end());
    assert!(output.stdout.ends_with(sent.as_bytes()), "byte for byte");
}

#[test]
fn a_raw_subject_is_read_by_the_charset_of_its_text() {
    let scene = Scene::start(HELD);
    let mut client = scene.client();
    for line in ["MAIL FROM:<a@good.example>", "RCPT TO:<held@test.example>"] {
        client.expect(line, "250");
    }
    client.expect("DATA", "354");
    client.send(
        b"From: \xc8\xe2\xe0\xed <a@good.example>\r\nSubject: \xcf\xf0\xe8\xe2\xe5\xf2\r\n\
          Content-Type: text/plain; charset=windows-1251\r\n\r\n\xcf\xf0\xe8\r\n.\r\n",
    );
    assert!(client.reply().starts_with("250"));
    let row = scene.rows(&["list"]).remove(0);
    assert_eq!(row["subject"], "\u{41f}\u{440}\u{438}\u{432}\u{435}\u{442}");
    let shown = scene.mpp.tell(&["quarantine", "show", row["id"].as_str().expect("an id")]);
    assert!(shown.contains("Subject: \u{41f}\u{440}\u{438}\u{432}\u{435}\u{442}"), "{shown}");
    assert!(shown.contains("From: \u{418}\u{432}\u{430}\u{43d}"), "{shown}");
    let found = scene.rows(&["search", "\u{43f}\u{440}\u{438}\u{432}\u{435}\u{442}"]);
    assert_eq!(found.len(), 1);
}
