//! A MariaDB of the test's own: its folder, its address, nothing shared with the system's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::process::Process;
use super::{address, folder, show_if_failed, until};

/// The program.
const MARIADBD: &str = "/usr/sbin/mariadbd";
/// The port on its own address.
pub const PORT: u16 = 3306;

/// A running MariaDB; killed when dropped.
#[derive(Debug)]
pub struct MariaDb {
    folder: TempDir,
    address: String,
    options: Vec<String>,
    process: Process,
}

impl MariaDb {
    /// Makes an empty one and starts it, with these options of mariadbd besides the usual.
    pub fn start(options: &[&str]) -> Self {
        assert!(
            Path::new(MARIADBD).exists(),
            "{MARIADBD} is missing: install the Debian package mariadb-server \
             (scripts/install-test-deps)"
        );
        let mut server = Self {
            folder: folder(),
            address: address(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            process: Process::default(),
        };
        fs::create_dir(server.file("tmp")).expect("a folder of our own");
        let log = server.file("install.log");
        let out = File::create(&log).expect("a folder of our own");
        // MariaDB refuses to run as root unless it is told that this is meant.
        let done = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--user=root", "--auth-root-authentication-method=normal"])
            .args(["--skip-test-db", "--innodb-log-file-size=8M"])
            .arg(format!("--datadir={}", server.file("data").display()))
            .arg(server.temporary())
            .stderr(out.try_clone().expect("our own file"))
            .stdout(out)
            .status();
        assert!(done.is_ok_and(|status| status.success()), "{:?}", fs::read_to_string(&log));
        server.launch();
        server
    }

    /// Starts it, also after it was killed or stopped, and waits until it answers.
    pub fn launch(&mut self) {
        let at = |name: &str| self.file(name).display().to_string();
        self.process.start(
            Command::new(MARIADBD)
                .args(["--no-defaults", "--user=root", "--skip-name-resolve"])
                .args(["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=16M"])
                .args(["--innodb-flush-log-at-trx-commit=2", "--performance-schema=0"])
                .args([format!("--datadir={}", at("data")), format!("--socket={}", at("s"))])
                .args([format!("--pid-file={}", at("pid")), format!("--log-error={}", at("log"))])
                .args([format!("--bind-address={}", self.address), format!("--port={PORT}")])
                .arg(format!("--general-log-file={}", at("queries")))
                .arg(self.temporary())
                .args(&self.options)
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        );
        until("a MariaDB that answers", || {
            self.client("SELECT 1").output().is_ok_and(|it| it.status.success()).then_some(())
        });
    }

    /// The address that it listens on.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.file("s")
    }

    /// Runs statements as root and returns what they say.
    pub fn run(&self, statements: &str) -> String {
        let output = self.client(statements).output().expect("the client comes with the server");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{statements}: {wrong}");
        said
    }

    /// What was asked of it, if it was started with `--general-log`.
    pub fn queries(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.file("queries")).unwrap_or_default()).into_owned()
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Lets it hang: connections are taken, and nothing is answered.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.thaw();
    }

    fn client(&self, statements: &str) -> Command {
        let mut client = Command::new("timeout");
        client
            .args(["20", "mariadb", "--no-defaults", "-uroot", "-N"])
            .arg(format!("--socket={}", self.file("s").display()))
            .args(["-e", statements]);
        client
    }

    /// A MariaDB that starts removes the temporary tables of all that share their folder with it.
    fn temporary(&self) -> String {
        format!("--tmpdir={}", self.file("tmp").display())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        let log = fs::read_to_string(self.file("log")).unwrap_or_default();
        show_if_failed("MariaDB", &log);
    }
}
