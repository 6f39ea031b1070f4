//! What the tests of every kind of directory share.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::sync::Arc;

use mpp_hub::directory::{Directory, Trouble, Wanted, What};

/// The directory `d` of a configuration; the texts of files that it names are handed in.
pub(crate) fn open_with(text: &str, files: &[(&str, &str)]) -> Arc<dyn Directory> {
    let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    let files: BTreeMap<_, _> = files.iter().map(owned).collect();
    let compiled = mpp_config::compile("mpp.toml", text, &files, 7);
    let Some(configuration) = compiled.configuration else {
        panic!("{:#?}\n{:?}", compiled.diagnostics, compiled.wanted);
    };
    mpp_directories::open(configuration.directories.first().expect("a directory"))
}

/// The directory of these settings; the head of the table comes before them.
pub(crate) fn open(settings: &str) -> Arc<dyn Directory> {
    open_with(&format!("[directory.d]\n{settings}"), &[])
}

/// The question about this address.
pub(crate) fn wanted(what: What, address: &str) -> Wanted {
    let (local, domain) = match what {
        What::Domain => ("", address),
        What::Recipient | What::Member(_) => address.rsplit_once('@').unwrap_or((address, "")),
    };
    Wanted { address: address.to_owned(), local: local.to_owned(), domain: domain.to_owned(), what }
}

/// Whether a recipient exists.
pub(crate) async fn ask(directory: &Arc<dyn Directory>, address: &str) -> Result<bool, Trouble> {
    directory.look_up(&wanted(What::Recipient, address)).await
}

/// The trouble that there must be, as text.
pub(crate) fn trouble(answer: Result<bool, Trouble>) -> String {
    match answer {
        Ok(found) => panic!("an answer, {found}, where there must be none"),
        Err(Trouble::Down(text)) => format!("down: {text}"),
        Err(Trouble::NotNow(text)) => format!("not now: {text}"),
    }
}
