//! The milter door: real servers that ask through it, and peers that do what they like.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

mod agreement;
mod edits;
mod faults;
mod scene;
mod verdicts;

const MPP: &str = env!("CARGO_BIN_EXE_mpp");
/// A client that nothing is known of.
const CLIENT: &str = "198.51.100.7";
