//! The links of digests: they open a page, and only its button lets a message out, once, to one user.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::ledger::Ledger;

use crate::{HELD, MPP, Scene, gateway};

/// A scene with pages on a port of its own; where they are.
fn with_pages() -> (Scene, String) {
    let (at, hop) = (address(), Ledger::start(|| None));
    let (listen, pages) = (format!("{at}:10025"), format!("{at}:10045"));
    let text = format!(
        "[listen]\npolicy = [\"{at}:10040\"]\npages = [\"{pages}\"]\n[quarantine]\n\
         links = \"https://mail.test.example/held\"\n{}",
        gateway(&listen, hop.address(), HELD)
    );
    (Scene { mpp: Daemon::start(MPP, &at, &text), listen, hop }, pages)
}

/// What a browser gets.
pub(crate) fn http(pages: &str, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(pages).expect("the pages");
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let length = if method == "POST" { "content-length: 0\r\n" } else { "" };
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: mail\r\n{length}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut said = String::new();
    let _ = stream.read_to_string(&mut said);
    said
}

/// The path of the link in a digest.
pub(crate) fn link(scene: &Scene, user: &str) -> String {
    let printed = scene.mpp.tell(&["quarantine", "digest", "--user", user, "--print"]);
    // Long lines are folded in the text of a message.
    let text = printed.replace("=\r\n", "").replace("=\n", "").replace("=3D", "=");
    let start = text.find("https://mail.test.example/held?t=").unwrap_or_else(|| panic!("{text}"));
    let link: String = text[start..]
        .trim_start_matches("https://mail.test.example")
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || "/?=-".contains(*c))
        .collect();
    link
}

#[test]
fn a_link_asks_and_its_button_delivers_once() {
    let (scene, pages) = with_pages();
    scene.hold(&["held@test.example", "eve@test.example"], "linked");
    let link = link(&scene, "held@test.example");
    // Whoever only looks, as programs do that look at every link, changes nothing.
    for _ in 0..2 {
        let page = http(&pages, "GET", &link);
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        assert!(page.contains("Deliver this message?") && page.contains("held@test.example"));
        assert!(page.contains("referrer-policy: no-referrer"), "{page}");
        assert!(!page.contains("eve@test.example"), "{page}");
    }
    assert!(scene.hop.taken().is_empty());
    let page = http(&pages, "POST", &link);
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("on its way"), "{page}");
    assert_eq!(scene.hop.taken().get("linked"), Some(&1));
    assert!(scene.heard().contains("RCPT TO:<held@test.example>\nDATA"), "{}", scene.heard());
    let again = http(&pages, "POST", &link);
    assert!(again.starts_with("HTTP/1.1 409"), "{again}");
    // There is nothing to press any more.
    let page = http(&pages, "GET", &link);
    assert!(page.contains("was delivered already") && !page.contains("<button"), "{page}");
    assert!(page.contains("name=\"viewport\""), "{page}");
    assert_eq!(scene.hop.taken().get("linked"), Some(&1));
}

#[test]
fn what_is_no_link_of_ours_opens_nothing() {
    let (scene, pages) = with_pages();
    scene.hold(&["held@test.example"], "safe");
    let link = link(&scene, "held@test.example");
    let mut changed = link.clone();
    changed.pop();
    for path in ["/", "/held", "/held?t=", "/held?t=00-00", &changed, &format!("{link}0")] {
        for method in ["GET", "POST"] {
            let page = http(&pages, method, path);
            assert!(page.starts_with("HTTP/1.1 4"), "{method} {path}: {page}");
        }
    }
    assert!(http(&pages, "DELETE", &link).starts_with("HTTP/1.1 405"));
    // What is no HTTP, and what never ends, harms nobody.
    for bytes in [&b"EHLO mx.example\r\n\r\n"[..], b"\0\x01\x02\r\n\r\n"] {
        let mut stream = TcpStream::connect(&pages).unwrap();
        stream.write_all(bytes).unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
    }
    let endless = format!("GET /held HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let mut stream = TcpStream::connect(&pages).unwrap();
    let _ = stream.write_all(endless.as_bytes());
    let mut said = String::new();
    let _ = stream.read_to_string(&mut said);
    assert!(!said.starts_with("HTTP/1.1 200"), "{said}");
    assert!(scene.hop.taken().is_empty());
    assert!(http(&pages, "GET", &link).starts_with("HTTP/1.1 200"));
}
