//! Operations: what is asked of a running mpp and what it answers, as types. Commands, pages and
//! programs use the same; how they travel and are shown is their business.
//!
//! ```
//! use mpp_operations::log::{Query, Row};
//!
//! let query = Query { sender: Some("@example.org".into()), ..Query::default() };
//! let wanted = query.compile().unwrap();
//! let row = Row { sender: "bob@example.org".into(), ..Row::default() };
//! assert!(wanted.fits(&row));
//! ```

pub mod clean;
pub mod log;
pub mod status;
