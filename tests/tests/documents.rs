//! Documents say what is so: every setting, every reply, every example, every link.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mpp_engine::checks::KINDS;
use mpp_engine::reply;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|other| other == extension) {
            found.push(path);
        }
    }
}

fn all(extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(&root(), extension, &mut found);
    found.sort();
    found
}

#[test]
fn every_codec_has_a_fuzz_target() {
    let mut codecs = Vec::new();
    files(&root().join("core/wire/src"), "rs", &mut codecs);
    let face = std::fs::read_to_string(root().join("core/wire/src/lib.rs")).unwrap();
    for codec in codecs {
        let name = codec.file_name().unwrap().to_string_lossy().into_owned();
        // A part of a codec is reached through it.
        if face.contains(&format!("pub mod {};", name.trim_end_matches(".rs"))) {
            let target = root().join("fuzz/fuzz_targets").join(&name);
            assert!(target.exists(), "no {}", target.display());
        }
    }
}

/// Settings that every directory has.
const SHARED: [&str; 8] =
    ["kind", "known", "unknown", "not_now", "stale", "timeout", "look_ups", "password"];

#[test]
fn every_check_has_a_document_that_names_its_settings() {
    let index = std::fs::read_to_string(root().join("docs/README.md")).unwrap();
    for kind in KINDS {
        let path = root().join(format!("docs/checks/{}.md", kind.name));
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(kind.summary), "{} lacks: {}", path.display(), kind.summary);
        assert!(index.contains(&format!("checks/{}.md", kind.name)), "{} is in no list", kind.name);
    }
    let mut text = "[recipients.x]\naddresses = [\"a@b.example\"]\n".to_owned();
    text.push_str("[policy.x]\nmatch = { direction = \"inbound\" }\n");
    text.push_str("[directory.ldap]\nkind = \"ldap\"\n[directory.sql]\nkind = \"sql\"\n");
    text.push_str("[directory.smtp]\nkind = \"smtp\"\n");
    text.push_str("[proxy.x]\nlisten = [\"127.0.0.1:1\"]\nnext_hop = [\"127.0.0.1:2\"]\n");
    text.push_str("[proxy.x.starttls]\ncertificate = \"x.pem\"\nkey = \"x.pem\"\n");
    text.push_str("[scanner.x]\nkind = \"spamd\"\nservers = [\"127.0.0.1:1\"]\n");
    text.push_str("[[proxy.x.route]]\ndomains = [\"a.example\"]\nnext_hop = [\"127.0.0.1:2\"]\n");
    let mut all = Vec::new();
    for store in [
        "kind = \"redis\"\ntopology = \"sentinel\"\nservers = [\"127.0.0.1\"]\n",
        "kind = \"sql\"\nservers = [\"mysql://mpp@127.0.0.1/mpp\"]\n",
    ] {
        let text = format!("[store]\n{store}{text}");
        let read = mpp_config::compile("x", &text, &BTreeMap::new(), 1);
        assert!(read.effective.len() > 60);
        all.extend(read.effective);
    }
    for (setting, _) in all {
        let mut parts: Vec<&str> = setting.split('.').collect();
        let name = parts.pop().unwrap();
        let document = match parts.as_slice() {
            ["policy", "default", "message"] => "docs/policies.md".into(),
            ["policy", "default", "scan"] | ["scanner", ..] | ["spool"] => {
                "docs/scanners.md".into()
            }
            ["store"] => "docs/shared-state.md".into(),
            ["quarantine"] | ["policy", "default", "quarantine" | "digest"] => {
                "docs/quarantine.md".into()
            }
            ["policy", "default", check, ..] => format!("docs/checks/{check}.md"),
            ["policy", _, "match"] => "docs/policies.md".into(),
            ["policy", "x", ..] => continue,
            ["policy", ..] => "docs/policies.md".into(),
            ["directory", kind] if !SHARED.contains(&name) => {
                format!("docs/directories/{kind}.md")
            }
            ["proxy", ..] => "docs/mail-path.md".into(),
            ["recipients" | "directory", ..] => "docs/recipients.md".into(),
            _ => "docs/configuration.md".into(),
        };
        let text = std::fs::read_to_string(root().join(&document)).unwrap();
        assert!(text.contains(&format!("`{name}`")), "{document} does not name `{name}`");
    }
}

#[test]
fn the_table_of_replies_is_the_one_in_the_code() {
    let text = std::fs::read_to_string(root().join("docs/replies.md")).unwrap();
    for (cause, action, reply, words) in reply::table() {
        let row = format!(
            "| {} | {} | `{} {}` | {words} |",
            cause.name(),
            action.name(),
            reply.code,
            reply.status
        );
        assert!(text.contains(&row), "docs/replies.md lacks\n{row}");
    }
}

#[test]
fn every_example_is_a_sound_configuration() {
    let (mut seen, mut unsound) = (0, Vec::new());
    for path in all("md") {
        let text = std::fs::read_to_string(&path).unwrap();
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            let mut files = BTreeMap::new();
            let read = loop {
                let read = mpp_config::compile("example", block, &files, 1);
                if read.wanted.is_empty() {
                    break read;
                }
                files.extend(read.wanted.keys().map(|name| (name.clone(), content(name))));
            };
            seen += 1;
            if !read.diagnostics.is_empty() {
                unsound.push(format!("{}:\n{block}{:#?}", path.display(), read.diagnostics));
            }
        }
    }
    assert!(unsound.is_empty(), "{}", unsound.join("\n\n"));
    assert!(seen >= 10, "where are the examples?");
}

/// What a file that an example names may hold.
fn content(name: &str) -> String {
    let is_pem = Path::new(name).extension().is_some_and(|extension| extension == "pem");
    let text = "-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n";
    match name {
        _ if is_pem => text.to_owned(),
        _ if name.ends_with(".secret") => "0123456789abcdef".repeat(4),
        "recipients.txt" | "virtual" => "bob@example.org  x\n".to_owned(),
        "domains.txt" => "example.org\n".to_owned(),
        _ => String::new(),
    }
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    for path in all("md") {
        let text = std::fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split([')', '#', ' ']).next().unwrap();
            if link.is_empty() || link.contains("://") {
                continue;
            }
            let target = path.parent().unwrap().join(link);
            assert!(target.exists(), "{}: {link}", path.display());
        }
    }
}
