//! What is said about mistakes in the settings of a store that nodes share.
#![allow(clippy::panic, clippy::unwrap_used, reason = "test code: what is not as expected ends it")]

use std::collections::BTreeMap;

use mpp_config::store::{Backend, Store};

/// Everything that is said about these settings.
fn said(settings: &str) -> String {
    let text = format!("[store]\n{settings}");
    let compiled = mpp_config::compile("mpp.toml", &text, &BTreeMap::new(), 7);
    let line = |it: &mpp_settings::Diagnostic| format!("{} {} {:?}", it.message, it.label, it.help);
    compiled.diagnostics.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn mistakes_in_databases_as_stores() {
    let good = "kind = \"sql\"\nservers = [\"mysql://mpp@h/d\"]\n";
    assert_eq!(said(good), "");
    for (settings, message) in [
        ("kind = \"sql\"\n".to_owned(), "needs `servers`"),
        ("kind = \"sql\"\nservers = [\"sqlite:/d\"]\n".to_owned(), "not shared"),
        (
            "kind = \"sql\"\nservers = [\"mysql://m@h/d\", \"postgres://m@h/d\"]\n".to_owned(),
            "the first is MariaDB or MySQL",
        ),
        (format!("{good}prefix = \"mx-1\"\n"), "small letters"),
        (format!("{good}prefix = \"1mx\"\n"), "small letters"),
        (format!("{good}prefix = \"{}\"\n", "m".repeat(25)), "up to 24"),
        (format!("{good}database = 1\n"), "database"),
    ] {
        let said = said(&settings);
        assert!(said.contains(message), "{settings}: {said}");
    }
}

#[test]
fn tables_have_the_name_that_is_asked_for() {
    let text = "[store]\nkind = \"sql\"\nservers = [\"postgres://m@h/d\"]\nprefix = \"mx_1\"\n";
    let compiled = mpp_config::compile("mpp.toml", text, &BTreeMap::new(), 7);
    let Some(configuration) = compiled.configuration else { panic!("{:?}", compiled.diagnostics) };
    let Store::Shared(shared) = configuration.store else { panic!("it is shared") };
    let Backend::Sql(sql) = shared.server else { panic!("it is a database") };
    assert_eq!(sql.prefix, "mx_1");
}

#[test]
fn a_node_is_called_as_hosts_are() {
    let of = |name: &str| {
        let text = format!("[server]\nname = \"{name}\"\n");
        mpp_config::compile("mpp.toml", &text, &BTreeMap::new(), 7)
    };
    for name in ["", "mx1", "MX-1_a.example.org", &"m".repeat(64)] {
        let compiled = of(name);
        assert_eq!(compiled.diagnostics, [], "{name}");
        assert_eq!(compiled.configuration.unwrap().server.name, name);
    }
    for name in ["mx 1", "../mx", ".mx", "-mx", "mx/1", "mx@1", "mü", &"m".repeat(65)] {
        let compiled = of(name);
        assert!(compiled.configuration.is_none(), "{name}");
        assert!(compiled.diagnostics[0].label.contains("up to 64 letters"), "{name}");
    }
}
