//! Other greylists, as they come with Debian: postgrey and sqlgrey, each in a folder of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::policy::Client;
use super::process::Process;
use super::{folder, show_if_failed, signal, until};

/// The port on its own address.
const PORT: u16 = 10_023;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// postgrey, with a delay of a second and these options besides.
    Postgrey(&'static [&'static str]),
    /// sqlgrey on SQLite, without a delay but the second that it cannot tell.
    Sqlgrey,
}

/// A greylist that runs; killed when dropped.
#[derive(Debug)]
pub struct Greylist {
    folder: TempDir,
    address: String,
    process: Process,
}

impl Greylist {
    /// Starts an empty one.
    pub fn start(kind: Kind, address: &str) -> Self {
        let name = if kind == Kind::Sqlgrey { "sqlgrey" } else { "postgrey" };
        let program = Path::new("/usr/sbin").join(name);
        assert!(
            program.exists(),
            "{} is missing: install the Debian package {name} (scripts/install-test-deps)",
            program.display()
        );
        let mut greylist = Self {
            folder: folder(),
            address: format!("{address}:{PORT}"),
            process: Process::default(),
        };
        let log = File::create(greylist.file("log")).expect("a folder of our own");
        let mut command = Command::new(program);
        match kind {
            Kind::Postgrey(options) => {
                fs::create_dir(greylist.file("db")).expect("a folder of our own");
                command.arg(format!("--inet={}", greylist.address)).args(options);
                command.arg(format!("--dbdir={}", greylist.file("db").display()));
                command.args(["--delay=1", "--user=root", "--group=root"]);
            }
            Kind::Sqlgrey => {
                let settings = format!(
                    "user = root\ngroup = root\ninet = {}\nreconnect_delay = 0\n\
                     db_dsn = DBI:SQLite:dbname={}\n",
                    greylist.address,
                    greylist.file("sqlgrey.db").display()
                );
                fs::write(greylist.file("conf"), settings).expect("a folder of our own");
                command.arg("-f").arg(greylist.file("conf"));
            }
        }
        let err = log.try_clone().expect("our own file");
        greylist.process.start(command.stdin(Stdio::null()).stdout(log).stderr(err));
        until("a greylist that listens", || Client::try_new(&greylist.address).ok());
        greylist
    }

    /// What it answers to a request.
    pub fn ask(&self, request: &str) -> String {
        Client::new(&self.address).ask(request)
    }

    /// Where it answers.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Lets it end in order.
    pub fn stop(&mut self) {
        let Some(process) = self.process.try_id() else { return };
        // They only note the signal, and may wait for the next event then: another one is one.
        until("the end of a greylist", || {
            signal("TERM", &process);
            (!super::is_alive(&process)).then_some(())
        });
        self.process.kill();
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// postgrey's directory.
    pub fn directory(&self) -> PathBuf {
        self.file("db")
    }

    /// sqlgrey's database, as mpp names it.
    pub fn database(&self) -> String {
        format!("sqlite:{}", self.file("sqlgrey.db").display())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Greylist {
    fn drop(&mut self) {
        let log = fs::read_to_string(self.file("log")).unwrap_or_default();
        show_if_failed("the greylist", &log);
    }
}
