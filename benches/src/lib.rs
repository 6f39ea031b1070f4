//! Measurements, each beside a reference in the same run.
//!
//! `peers` holds mpp against a null responder, postgrey and sqlgrey; `mail_path` against what else
//! can stand in the path of mail; `limits` measures what mpp takes: memory, disk, pauses, start. Servers run on one core, whoever measures on the other. No
//! figure here is asserted: machines differ. What came out is in `docs/benchmarks.md`.
//!
//! The stores of others are compared in a workspace of their own, `benches/stores-compared`.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::missing_panics_doc,
    reason = "a measurement that cannot go on stops, and says why to whoever started it"
)]

pub mod databases;
pub mod drive;
pub mod hops;
pub mod load;
pub mod naive;
pub mod nodes;
pub mod null;
pub mod process;
pub mod servers;
pub mod turned_away;
