//! What the tests of mpp stand on: a simulated site, real Postfix instances, and clients.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a simulation draws small numbers; a rounded one is as good"
)]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

pub mod book;
pub mod node;
pub mod real;
pub mod site;
