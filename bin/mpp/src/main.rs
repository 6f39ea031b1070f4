//! `mpp`: e-mail defence beside Postfix. This crate wires the floors together and decides nothing.

mod commands;
mod digests;
mod keeper;
mod load;
mod place;
mod print;
mod private;
mod refusals;
mod reload;
mod wiring;

use std::process::ExitCode;

/// The commit that this was built from.
const COMMIT: &str = env!("MPP_COMMIT");

fn main() -> ExitCode {
    private::by_default();
    commands::run()
}
