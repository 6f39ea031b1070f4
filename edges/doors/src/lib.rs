//! Doors: bytes to facts, decision to bytes.

mod dialogue;
pub mod listen;
mod mark;
pub mod milter;
pub mod policy;
pub mod proxy;
mod scanning;

/// Says something to the operator that anybody out there may cause.
pub(crate) fn warn(text: &str) {
    mpp_hub::warn_of_strangers(text);
}
