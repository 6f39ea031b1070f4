//! Names the commit that mpp is built from, for `mpp --version` and `mpp status`.
#![allow(clippy::print_stdout, reason = "it is how cargo is told")]

use std::process::Command;

fn main() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let said = String::from_utf8(output.stdout).ok()?;
        Some(said.trim().to_owned()).filter(|said| output.status.success() && !said.is_empty())
    };
    // Sources without a repository have none.
    let commit = git(&["rev-parse", "--short=12", "HEAD"]);
    println!("cargo::rustc-env=MPP_COMMIT={}", commit.as_deref().unwrap_or("unknown commit"));
    println!("cargo::rerun-if-changed=build.rs");
    for path in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", path]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}
