//! From TOML text to values with places, and from values to settings or diagnostics.
//!
//! This crate knows no word of mail: it reads durations, shares, sizes, networks and lists as
//! people write them, remembers where each stood, and collects *every* mistake with its place and
//! a suggestion, so that one run of `mpp check` shows them all.
//!
//! ```
//! use mpp_settings::{Document, Session};
//!
//! let document = Document::parse("mpp.toml", "delay = \"5 m\"\ndelya = \"1h\"\n");
//! let mut session = Session::new(document.files);
//! let mut table = session.reader("greylist", vec![&document.root]);
//! assert_eq!(table.duration_ms("delay", "1m"), 300_000);
//! table.finish();
//! let problems = session.diagnostics();
//! assert_eq!(problems[0].message, "unknown setting `delya` in `greylist`");
//! assert_eq!(problems[0].help.as_deref(), Some("did you mean `delay`?"));
//! ```

pub mod diagnostic;
pub mod form;
pub mod hide;
mod reader;
pub mod secret;
pub mod text;
mod value;

pub use diagnostic::{Diagnostic, Place, Severity};
pub use reader::{Reader, Session};
pub use secret::Secret;
pub use value::{Document, File, Kind, Table, Value};
