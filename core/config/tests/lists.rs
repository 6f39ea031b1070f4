//! Lists of domains and users: what can never match is a mistake, with its place.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "test code: what is not as expected ends the test"
)]

use std::collections::BTreeMap;

use mpp_config::{Compiled, compile};
use mpp_settings::Severity;

const OWN: &str = "[recipients.own]\ndomains = [\"example.org\"]\nfile = \"users.txt\"\n";

/// Reads a configuration with one file `users.txt` as it would come from a disk.
fn read(text: &str, list: &[u8]) -> Compiled {
    let list = mpp_settings::text::decode(list);
    let files = BTreeMap::from([("users.txt".to_owned(), list)]);
    compile("mpp.toml", text, &files, 1)
}

/// What is said, as `severity file:line:column message`.
fn said(compiled: &Compiled) -> Vec<String> {
    let of = |problem: &mpp_settings::Diagnostic| {
        let place = problem.place.as_ref().unwrap();
        let file = &compiled.files[place.file];
        let before = &file.text[..place.span.start];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
        let word = if problem.severity == Severity::Error { "error" } else { "warning" };
        let text = format!("{} {}", problem.message, problem.label);
        format!("{word} {}:{line}:{column} {}", file.name, text.trim_end())
    };
    compiled.diagnostics.iter().map(of).collect()
}

#[test]
fn a_byte_order_mark_hides_no_user() {
    let list = b"\xef\xbb\xbfbob@example.org\n";
    let compiled = read(OWN, list);
    assert_eq!(said(&compiled), Vec::<String>::new());
    assert_eq!(compiled.entries["users.txt"], 1);
}

#[test]
fn what_is_no_text_is_an_error_with_its_place() {
    let wide: Vec<u8> = "bob@example.org\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marked: Vec<u8> = [0xff, 0xfe].into_iter().chain(wide.clone()).collect();
    for (list, wanted) in [
        (&wide[..], "error users.txt:1:1 this is UTF-16"),
        (&marked[..], "error users.txt:1:1 this is UTF-16"),
        (
            b"eve@example.org\nbob@example.org\0\n",
            "error users.txt:2:16 a control character: U+0000",
        ),
        (b"eve@example.org\nj\xf6rg@example.org\n", "error users.txt:2:2 this is not UTF-8"),
        (b"# M\xfcller\nbob@example.org\n", "error users.txt:1:4 this is not UTF-8"),
        (b"bob@example.org\x1b[m\n", "error users.txt:1:16 a control character: U+001B"),
        (
            b"eve@example.org\n\xef\xbb\xbfbob@example.org\n",
            "error users.txt:2:1 a byte order mark",
        ),
    ] {
        for setting in ["users.txt\"", "file:users.txt\"", "\""] {
            let text = match setting {
                "\"" => OWN.replace("file = \"users.txt\"", "addresses = \"file:users.txt\""),
                other => OWN.replace("users.txt\"", other),
            };
            let compiled = read(&text, list);
            let said = said(&compiled);
            assert!(said.iter().any(|it| it.starts_with(wanted)), "{wanted}: {said:?}");
            assert!(compiled.configuration.is_none());
        }
    }
}

#[test]
fn an_entry_that_can_never_match_is_a_mistake_wherever_lists_are_read() {
    let mut text = String::from("[policy.default.trap]\naddresses = [\"file:users.txt\"]\n");
    for dimension in ["sender", "recipient", "name", "helo"] {
        let deny = format!("[policy.default.access.deny]\n{dimension} = \"file:users.txt\"\n");
        text.push_str(&deny);
        let compiled = read(&text, b"*.wild.example\n");
        let wanted = "`*.wild.example` matches nothing";
        assert!(said(&compiled).iter().any(|it| it.contains(wanted) || it.contains("is not an")));
        text.truncate(0);
    }
    for (setting, list, wanted) in [
        (OWN, "foo@bar@baz", "error users.txt:1:1 `foo@bar@baz` is not an address: there is more"),
        (OWN, "*@example.org", "did you mean `@example.org`?"),
        (OWN, "\nbob@example.org\n bob\n", "error users.txt:3:1 `bob` is not an address"),
        (
            "[recipients.own]\ndomains = \"file:users.txt\"\naddresses = []",
            "*.wild.example",
            "error users.txt:1:1 `*.wild.example` matches nothing: a `*` is no wildcard here; did you \
             mean `.wild.example`?",
        ),
        ("[policy.x]\nmatch = { recipient = [\"file:users.txt\"] }", "bob@exa mple.org", "blanks"),
        ("[policy.x]\nmatch = { sender = [\"file:users.txt\"] }", "a@b@c", "more than one `@`"),
        ("[policy.x]\nmatch = { sasl_user = [\"file:users.txt\"] }", "@*.example", ".example"),
        (
            "[policy.default.trap]\naddresses = [\"file:users.txt\"]",
            "@example.org",
            "is no address",
        ),
        ("[policy.default.trap]\naddresses = [\"file:users.txt\"]", "trap", "is not an address"),
    ] {
        let compiled = read(setting, list.as_bytes());
        let said = said(&compiled);
        assert!(
            said.iter().any(|it| it.starts_with("error users.txt") && it.contains(wanted)),
            "{list}: {said:?}"
        );
    }
}

#[test]
fn users_of_no_domain_and_lists_of_nobody_are_warned_of() {
    let none = "[recipients.own]\ndomains = []\nfile = \"users.txt\"\n";
    for (text, list, wanted) in [
        (
            OWN,
            "bob@example.org\neve@exampel.org\n",
            "warning users.txt:2:1 `eve@exampel.org` is in none of `domains`",
        ),
        (OWN, "", "warning mpp.toml:3:1 nobody exists in the domains of this list"),
        (OWN, "# nobody yet\n\n", "warning mpp.toml:3:1 nobody exists in the domains of this list"),
        (none, "", "warning mpp.toml:1:1 this list names no domain"),
    ] {
        let compiled = read(text, list.as_bytes());
        let said = said(&compiled);
        assert!(said.len() == 1 && said[0].starts_with(wanted), "{list}: {said:?}");
        assert!(compiled.configuration.is_some());
    }
    // The domain stands in another list, or below one that is ours.
    let two = format!("{OWN}[recipients.other]\ndomains = [\".example.net\"]\naddresses = []\n");
    let compiled = read(&two, b"bob@example.org\neve@mail.example.net\n");
    assert!(said(&compiled).iter().all(|it| !it.contains("in none of")), "{:?}", said(&compiled));
}
