//! The pure judge: facts, settings, answers and a time go in; a verdict and effects come out.
//!
//! Nothing here opens a socket, reads a clock or draws a random number, so the same input gives
//! the same output: live, in a replay, in a simulation and under `mpp explain`.
//!
//! The tour: [`facts`] is what is known of a transaction; [`identity`] makes keys of it;
//! [`policy`] finds the settings that hold; [`decide`] walks the [`checks`], which ask
//! [`question`]s and name effects; a [`verdict`] comes out, and [`reply`] is its SMTP form;
//! [`edits`] are what becomes of a message that is let through.

pub use mpp_address as address;
pub mod checks;
pub mod decide;
pub mod directory;
pub mod edits;
pub mod entry;
pub mod facts;
pub mod foreign;
pub mod identity;
pub mod network;
pub mod policy;
pub mod question;
pub mod recipients;
pub mod reply;
pub mod scan;
pub mod transaction;
pub mod verdict;
