//! The configuration of mpp: TOML text in, settings or diagnostics out. No file is read here: what
//! a setting names as `file:NAME` is handed in, or asked for.
//!
//! ```
//! let text = "[policy.default.greylist]\ndelay = \"2m\"\n";
//! let read = mpp_config::compile("mpp.toml", text, &Default::default(), 1);
//! assert!(read.diagnostics.is_empty());
//! assert_eq!(read.configuration.unwrap().listen.policy, ["127.0.0.1:10040"]);
//! ```

pub mod directory;
mod overlap;
mod policies;
pub mod proxy;
pub mod quarantine;
pub mod scanner;
mod schema;
mod sense;
pub mod store;

use std::collections::BTreeMap;
use std::rc::Rc;

use mpp_settings::diagnostic::Place;
use mpp_settings::{Diagnostic, Document, File, Session};

pub use quarantine::Quarantine;
pub use schema::{Configuration, Listen, Networks, Server, Spool};

/// What came of reading a configuration.
#[derive(Debug)]
pub struct Compiled {
    /// The settings; nothing if there is any error.
    pub configuration: Option<Configuration>,
    /// Every problem, errors first.
    pub diagnostics: Vec<Diagnostic>,
    /// The files, by the number that a [`Place`] has.
    pub files: Vec<Rc<File>>,
    /// Files that settings name and that were not handed in. Hand them in and compile again.
    pub wanted: BTreeMap<String, Place>,
    /// Where secrets are written out.
    pub secrets: Vec<Place>,
    /// How many entries each list file has, by the names that settings use.
    pub entries: BTreeMap<String, usize>,
    /// Every setting with the value that holds, in the order of reading.
    pub effective: Vec<(String, String)>,
}

/// Reads a configuration. `files` holds the texts of list files by the names that settings use;
/// `seed` is the secret of the store, with which keys are made.
pub fn compile(name: &str, text: &str, files: &BTreeMap<String, String>, seed: u64) -> Compiled {
    let document = Document::parse(name, text);
    let mut session = Session::new(document.files);
    for (name, text) in files {
        session.give(name, text.clone());
    }
    for mistake in document.mistakes {
        session.report(mistake);
    }
    let configuration = schema::read(&document.root, &session, seed);
    let sound = session.is_sound() && session.wanted().is_empty();
    Compiled {
        configuration: sound.then_some(configuration),
        diagnostics: session.diagnostics(),
        files: session.files(),
        wanted: session.wanted(),
        secrets: session.secrets(),
        entries: session.entries(),
        effective: session.effective(),
    }
}
