//! `mpp-site`: a month of mail at a simulated site, against a policy service in virtual time.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is what it is for")]

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use mpp_tests::site::home::Home;
use mpp_tests::site::judge::{AcceptAll, Judge, Remote};
use mpp_tests::site::senders::{Plan, Profile};
use mpp_tests::site::triplet::Triplet;
use mpp_tests::site::{play, reference};

/// Play a month of mail at a simulated site against a policy service in virtual time.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:\n  \
    mpp-site --write examples\n  \
    mpp replay --listen 127.0.0.1:10050 --config examples/recommended.toml &\n  \
    mpp-site --to 127.0.0.1:10050 --profile retriers --seed 3\n  \
    mpp-site --against triplet --profile servers")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
struct Site {
    /// The policy service, which must honour `mpp_time`
    #[arg(long, value_name = "ADDRESS:PORT", required_unless_present_any = ["against", "write"])]
    to: Option<String>,
    /// A reference instead of a service
    #[arg(long, conflicts_with = "to")]
    against: Option<Reference>,
    /// What sort of spam the site gets
    #[arg(long, default_value = "drones")]
    profile: Sort,
    /// Everything random follows from it, shares and habits too
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Length of the month
    #[arg(long, default_value_t = 30.0)]
    days: f64,
    /// How much of everything
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Ask at RCPT only, not at END-OF-MESSAGE
    #[arg(long)]
    rcpt_only: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also count the replies by kind of sender
    #[arg(long)]
    why: bool,
    /// Do not play the reference beside it
    #[arg(long)]
    alone: bool,
    /// Also write the requests to a file
    #[arg(long, value_name = "FILE", requires = "to")]
    record: Option<PathBuf>,
    /// Write domains.txt, recipients.txt and traps.regex of the site, and stop
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Reference {
    /// A triplet greylister with a white list
    Triplet,
    /// Accepts everything
    Accept,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    /// Nearly all hosts try once
    Drones,
    /// Most hosts try again
    Retriers,
    /// Most sources behave like mail servers
    Servers,
}

impl Site {
    fn run(&self) -> io::Result<()> {
        if let Some(folder) = &self.write {
            return Home::new().write(folder);
        }
        let profile = match self.profile {
            Sort::Drones => Profile::Drones,
            Sort::Retriers => Profile::Retriers,
            Sort::Servers => Profile::Servers,
        };
        let plan = Plan { profile, seed: self.seed, days: self.days, scale: self.scale };
        let mut judge = self.judge()?;
        let score = play(&plan, judge.as_mut(), self.rcpt_only)?;
        if self.json {
            println!("{}", score.json());
            return Ok(());
        }
        let beside = if self.alone { None } else { Some(reference(&plan)?) };
        print!("{}", score.table(beside.as_ref()));
        if self.why {
            print!("\n{}", score.why());
        }
        Ok(())
    }

    fn judge(&self) -> io::Result<Box<dyn Judge>> {
        Ok(match (self.against, &self.to) {
            (Some(Reference::Accept), _) => Box::new(AcceptAll),
            (_, None) | (Some(Reference::Triplet), _) => Box::new(Triplet::new(&Home::new())),
            (None, Some(to)) => {
                let mut remote = Remote::connect(to)?;
                if let Some(file) = &self.record {
                    remote.record(std::fs::File::create(file)?);
                }
                Box::new(remote)
            }
        })
    }
}

fn main() -> ExitCode {
    match Site::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
