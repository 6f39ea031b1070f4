//! What is said about mistakes in the settings of SQL directories and next hops.
#![allow(clippy::panic, clippy::unwrap_used, reason = "test code: what is not as expected ends it")]

use std::collections::BTreeMap;

/// Everything that is said about these settings.
fn said(settings: &str) -> String {
    let files = BTreeMap::from([("ca.pem".to_owned(), "no certificate".to_owned())]);
    let text = format!("[directory.d]\n{settings}");
    let compiled = mpp_config::compile("mpp.toml", &text, &files, 7);
    for problem in &compiled.diagnostics {
        let place = problem.place.as_ref().unwrap();
        assert!(text.get(place.span.clone()).is_some_and(|it| !it.is_empty()), "{problem:?}");
    }
    let line = |it: &mpp_settings::Diagnostic| format!("{} {} {:?}", it.message, it.label, it.help);
    compiled.diagnostics.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn mistakes_in_sql_directories() {
    let sql = "kind = \"sql\"\nservers = [\"mysql://mpp@h/d\"]\n";
    let query = "query = \"SELECT 1 FROM u WHERE a = {address}\"\n";
    for (settings, message) in [
        (format!("kind = \"sql\"\n{query}"), "needs `servers`"),
        (sql.to_owned(), "set `preset` to one of"),
        (format!("{sql}query = \"SELECT 1\""), "it asks for nobody"),
        (format!("{sql}query = \"SELECT '{{address}}'\""), "inside quotes"),
        (format!("{sql}query = \"SELECT {{adress}}\""), "did you mean `{address}`?"),
        (format!("{sql}query = \"SELECT {{group}}, {{address}}\""), "`{group}` means nothing"),
        (format!("{sql}{query}domain_query = \"SELECT {{user}}\""), "`{user}` means nothing"),
        (format!("{sql}{query}member_query = \"SELECT {{user}}\""), "without `{group}`"),
        (format!("{sql}preset = \"postfixadmn\""), "did you mean `postfixadmin`?"),
        (format!("{sql}{query}ca = \"ca.pem\""), "only verified with tls = \"require\""),
        (format!("{sql}{query}tls = \"require\"\nca = \"ca.pem\""), "no certificate in PEM"),
        (format!("kind = \"sql\"\nservers = [\"sqlite:/d\"]\npassword = \"x\"\n{query}"), "SQLite"),
        (
            format!("kind = \"sql\"\nservers = [\"mysql://u@h/d\", \"postgres://u@h/d\"]\n{query}"),
            "it is PostgreSQL, the first is MariaDB or MySQL",
        ),
    ] {
        let said = said(&settings);
        assert!(said.contains(message), "{settings}\n{said}");
    }
    let leak = said(&format!("kind = \"sql\"\nservers = [\"mysql://u:hunter2@h/d\"]\n{query}"));
    assert!(leak.contains("use `password") && !leak.contains("hunter2"), "{leak}");
    assert_eq!(
        said(&format!("{sql}preset = \"iredmail\"\n{query}")),
        "",
        "a query of one's own wins"
    );
}

#[test]
fn mistakes_in_next_hops() {
    let smtp = "kind = \"smtp\"\nservers = [\"mail.example.org:25\"]\n";
    for (settings, message) in [
        ("kind = \"smtp\"\n".to_owned(), "needs `servers`"),
        ("kind = \"smtp\"\nservers = [\"mail.example.org\"]\n".to_owned(), "expected HOST:PORT"),
        (format!("{smtp}sender = \"<a@b>\""), "expected an address"),
        (format!("{smtp}helo = \"a\\r\\nDATA\""), "expected the name of this host"),
        (format!("{smtp}server_name = \"x\""), "only verified"),
        (format!("{smtp}protocol = \"lmpt\""), "did you mean `lmtp`?"),
        (format!("{smtp}probes = 0"), "between 1 and"),
    ] {
        let said = said(&settings);
        assert!(said.contains(message), "{settings}\n{said}");
    }
    assert_eq!(said(smtp), "");
}

#[test]
fn only_what_is_asked_changes_what_answers_mean() {
    let space = |settings: &str| {
        let text = format!("[directory.d]\n{settings}");
        let compiled = mpp_config::compile("mpp.toml", &text, &BTreeMap::new(), 7);
        compiled.configuration.unwrap().directories.first().unwrap().source.space
    };
    let sql = |server: &str, more: &str| {
        space(&format!("kind = \"sql\"\nservers = [\"mysql://mpp@{server}/d\"]\n{more}"))
    };
    let preset = "preset = \"postfixadmin\"";
    assert_eq!(sql("a", preset), sql("b", &format!("{preset}\npassword = \"x\"")));
    assert_ne!(sql("a", preset), sql("a", "preset = \"iredmail\""));
}
