//! The pure judge.
pub mod question;
