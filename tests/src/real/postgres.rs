//! A PostgreSQL of the test's own: its folder, its address, nothing shared with the system's.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{address, folder, show_if_failed, signal, until};

/// Where Debian puts the programs.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// The port on its own address.
pub const PORT: u16 = 5432;
/// It refuses to run as root; this is the account `nobody`.
pub const ACCOUNT: u32 = 65534;

/// A running PostgreSQL; killed when dropped.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    address: String,
    options: Vec<String>,
    child: Option<Child>,
}

impl Postgres {
    /// Makes an empty one and starts it, with these settings (`name=value`) besides the usual.
    /// Everybody may log in as `postgres`; others need their password over the network.
    pub fn start(options: &[&str]) -> Self {
        assert!(
            Path::new(PROGRAMS).exists(),
            "{PROGRAMS} is missing: install the Debian package postgresql-15 \
             (scripts/install-test-deps)"
        );
        let mut server = Self {
            folder: folder(),
            address: address(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            child: None,
        };
        chown(server.folder.path(), Some(ACCOUNT), Some(ACCOUNT)).expect("only root can do this");
        let log = server.file("install.log");
        let done = server
            .as_nobody("initdb")
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N", "-D"])
            .arg(server.file("data"))
            .stdout(File::create(&log).expect("a folder of our own"))
            .stderr(Stdio::null())
            .status();
        assert!(done.is_ok_and(|status| status.success()), "{:?}", fs::read_to_string(&log));
        let rules = "local all all trust\nhost all postgres all trust\n\
                     host all all all scram-sha-256\n";
        fs::write(server.file("data/pg_hba.conf"), rules).expect("a folder of our own");
        server.launch();
        server
    }

    /// Starts it, also after it was killed or stopped, and waits until it answers.
    pub fn launch(&mut self) {
        let log = File::options().append(true).create(true).open(self.file("log"));
        let log = log.expect("a folder of our own");
        let mut command = self.as_nobody("postgres");
        command
            .args(["-h", &self.address, "-p", &PORT.to_string(), "-D"])
            .arg(self.file("data"))
            .arg("-k")
            .arg(self.folder.path())
            .args(["-c", "fsync=off"])
            .args(["-c", "full_page_writes=off", "-c", "shared_buffers=16MB"]);
        for option in &self.options {
            command.args(["-c", option]);
        }
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().expect("postgres"));
        until("a PostgreSQL that answers", || {
            let output = self.client("postgres", "SELECT 1").output();
            output.is_ok_and(|it| it.status.success()).then_some(())
        });
    }

    /// The address that it listens on.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The folder that its unix socket is in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs statements as its administrator and returns what they say.
    pub fn run(&self, database: &str, statements: &str) -> String {
        let output = self.client(database, statements).output().expect("psql");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{statements}: {wrong}");
        said
    }

    /// What it has logged: with `log_statement=all`, every query with its parameters.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.file("log")).unwrap_or_default()).into_owned()
    }

    /// Ends it and its children as a power cut would.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let children = children(child.id());
        let _ = child.kill();
        let _ = child.wait();
        for process in children {
            signal("KILL", &process);
        }
        // It would find its lock held by a process of another test that got the same number.
        let _ = fs::remove_file(self.file("data/postmaster.pid"));
    }

    /// Lets it hang, with the children that serve the connections there are.
    pub fn freeze(&self) {
        self.signal_all("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal_all("CONT");
    }

    fn signal_all(&self, name: &str) {
        let process = self.child.as_ref().map(Child::id).expect("a server that runs");
        signal(name, &process.to_string());
        for process in children(process) {
            signal(name, &process);
        }
    }

    fn client(&self, database: &str, statements: &str) -> Command {
        let mut client = Command::new("timeout");
        client
            .args(["20", &format!("{PROGRAMS}/psql"), "-X", "-q", "-A", "-t", "-U", "postgres"])
            .args(["-v", "ON_ERROR_STOP=1", "-p", &PORT.to_string(), "-h"])
            .arg(self.folder.path())
            .args(["-d", database, "-c", statements]);
        client
    }

    fn as_nobody(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        let account = ACCOUNT.to_string();
        command
            .args(["--reuid", &account, "--regid", &account, "--clear-groups"])
            .arg(format!("{PROGRAMS}/{program}"))
            .current_dir(self.folder.path());
        command
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        show_if_failed("PostgreSQL", &self.log());
        self.kill();
    }
}

/// The processes that a process has started.
fn children(process: u32) -> Vec<String> {
    let output = Command::new("pgrep").args(["-P", &process.to_string()]).output();
    let output = output.expect("pgrep(1) comes with the package procps");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}
