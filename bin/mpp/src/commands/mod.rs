//! The command line: one file a command, one line each below.

mod ask;
mod check;
mod explain;
mod import;
mod log;
mod postfix;
mod quarantine;
mod recipients;
mod replay;
mod serve;
mod state;
mod status;
mod store;
mod trace;
mod verdict;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::print;

/// Which mpp this is.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("MPP_COMMIT"), ")");

/// E-mail defence beside Postfix: stops spam before DATA.
#[derive(Debug, Parser)]
#[command(name = "mpp", version = VERSION, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon (without a configuration: safe defaults, embedded store)
    Serve(serve::Serve),
    /// Diagnose a configuration
    Check(check::Check),
    /// Print the main.cf lines for a configuration
    Postfix(postfix::Postfix),
    /// Judge one made-up transaction, print the trace, change nothing
    Ask(ask::Ask),
    /// Say why a message was refused, by the id in the reply, a queue id, or the id of a held message
    Explain(explain::Explain),
    /// Find decisions by sender, recipient, client, and whatever else is known of them
    Log(log::Log),
    /// Show what came and what became of it
    Stats(state::Stats),
    /// Show how the daemon is
    Status(status::Status),
    /// List, add and remove blocks
    Blocks(state::Blocks),
    /// Show and forget what greylisting remembers of a transaction
    Greylist(state::Greylist),
    /// Show, forget and ask anew what directories said of an address
    Recipients(recipients::Recipients),
    /// List, search, show, release and delete what is held
    Quarantine(quarantine::Quarantine),
    /// Look into the store, move it to another one, measure it
    Store(store::Store),
    /// Show what a client says and is answered, at every door, as it happens
    Trace(trace::Trace),
    /// Tell what a message was: it counts as if a scanner had found it
    Verdict(verdict::Verdict),
    /// Take a new configuration, or say why not
    Reload(state::Reload),
    /// Run recorded requests against a configuration, in virtual time
    Replay(replay::Replay),
}

/// Why a command failed: the text is for people.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Runs what the command line says.
pub(crate) fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Postfix(command) => command.run(),
        Command::Ask(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::Log(command) => command.run(),
        Command::Stats(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Blocks(command) => command.run(),
        Command::Greylist(command) => command.run(),
        Command::Recipients(command) => command.run(),
        Command::Quarantine(command) => command.run(),
        Command::Store(command) => command.run(),
        Command::Trace(command) => command.run(),
        Command::Verdict(command) => command.run(),
        Command::Reload(command) => command.run(),
        Command::Replay(command) => command.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(text)) => {
            print::error(text.trim_end());
            ExitCode::FAILURE
        }
    }
}
