//! Where a decision meets the world.
pub mod store;
