//! Real scanners of the test's own: spamd, rspamd, clamd. None asks anybody else, so that what they
//! say depends on the message alone.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub use mpp_config::scanner::Kind;
use tempfile::TempDir;

use super::process::Process;
use super::{address, folder, show_if_failed, until};

/// What every scanner of spam calls spam; in two halves, since other scanners may read this file.
pub fn gtube() -> String {
    ["XJS*C4JDBQADN1.NSBN3*2IDNEN*", "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"].concat()
}

/// What clamd is told to call a virus here.
pub fn eicar() -> String {
    ["X5O!P%@AP[4\\PZX54(P^)7CC)7}$", "EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"].concat()
}

fn program(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Spamd => ("/usr/sbin/spamd", "spamd"),
        Kind::Rspamd => ("/usr/bin/rspamd", "rspamd"),
        Kind::Clamd => ("/usr/sbin/clamd", "clamav-daemon"),
    }
}

fn port(kind: Kind) -> u16 {
    match kind {
        Kind::Spamd => 7830,
        Kind::Rspamd => 11333,
        Kind::Clamd => 3310,
    }
}

/// Modules of rspamd that ask others, or need to learn first.
const LEFT_OUT: [&str; 12] = [
    "rbl",
    "surbl",
    "dkim",
    "arc",
    "spf",
    "dmarc",
    "fuzzy_check",
    "phishing",
    "asn",
    "mx_check",
    "emails",
    "neural",
];

/// What an rspamd has on top of the least that it can have.
#[derive(Debug, Default)]
pub struct Extras {
    /// With a name server it is left as its package has it, with all its modules and with what they
    /// ask by DNS, but for its long list of public suffixes, which it compiles for many seconds. It has
    /// no Redis.
    pub name_server: Option<String>,
}

/// A running scanner; killed when dropped.
#[derive(Debug)]
pub struct RealScanner {
    kind: Kind,
    extras: Extras,
    folder: TempDir,
    address: String,
    process: Process,
}

impl RealScanner {
    /// Starts one.
    pub fn start(kind: Kind) -> Self {
        Self::start_with(kind, Extras::default())
    }

    /// Starts an rspamd with extras.
    pub fn rspamd_with(extras: Extras) -> Self {
        Self::start_with(Kind::Rspamd, extras)
    }

    fn start_with(kind: Kind, extras: Extras) -> Self {
        let (program, package) = program(kind);
        assert!(
            Path::new(program).exists(),
            "{program} is missing: install the Debian package {package}"
        );
        let (folder, address, process) = (folder(), address(), Process::default());
        let mut scanner = Self { kind, extras, folder, address, process };
        match kind {
            Kind::Spamd => scanner.configure_spamd(),
            Kind::Rspamd => scanner.configure_rspamd(),
            Kind::Clamd => scanner.configure_clamd(),
        }
        scanner.own_folder();
        scanner.launch();
        scanner
    }

    /// Where it answers.
    pub fn address(&self) -> String {
        format!("{}:{}", self.address, port(self.kind))
    }

    /// Where an rspamd answers over a unix socket.
    pub fn near_address(&self) -> String {
        format!("unix:{}", self.file("run/normal").display())
    }

    /// The lines of mpp's configuration for it, under the name of its kind.
    pub fn lines(&self) -> String {
        self.lines_at(&self.address())
    }

    /// The same, by the way of this address.
    pub fn lines_at(&self, address: &str) -> String {
        let name = self.kind.name();
        format!(
            "[scanner.{name}]\nkind = \"{name}\"\nservers = [\"{address}\"]\ntimeout = \"20s\"\n"
        )
    }

    /// Starts it, also after it was killed.
    pub fn launch(&mut self) {
        let log = File::options().append(true).create(true).open(self.file("out"));
        let log = log.expect("a folder of our own");
        let copy = log.try_clone().expect("a file");
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(copy).stderr(log);
        self.process.start(&mut command);
        until(&format!("answering {}", self.kind.name()), || self.answers().then_some(()));
    }

    /// Ends it as a power cut would, with all its children.
    pub fn kill(&mut self) {
        let children = self.children();
        self.process.kill();
        for child in children {
            super::signal("KILL", &child);
        }
    }

    /// Lets it hang, with all its children.
    pub fn freeze(&self) {
        self.process.freeze();
        for child in self.children() {
            super::signal("STOP", &child);
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        for child in self.children() {
            super::signal("CONT", &child);
        }
        self.process.thaw();
    }

    /// CPU time that it and its children have used so far, in milliseconds.
    pub fn cpu_ms(&self) -> u64 {
        let mut all = self.children();
        all.extend(self.process.try_id());
        all.iter()
            .filter_map(|process| {
                let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
                let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
                // utime and stime, in ticks of 10 ms.
                let of = |place: usize| fields.get(place)?.parse::<u64>().ok();
                Some((of(11)? + of(12)?) * 10)
            })
            .sum()
    }

    fn children(&self) -> Vec<String> {
        let Some(parent) = self.process.try_id() else { return Vec::new() };
        let output = Command::new("pgrep").args(["-P", &parent]).output();
        let output = output.expect("pgrep(1) comes with the package procps");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.file(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder of our own");
        fs::write(path, text).expect("a folder of our own");
    }

    /// None of them wants to be root.
    fn own_folder(&self) {
        let mut command = Command::new("chown");
        let owned = command.args(["-R", "nobody:nogroup"]).arg(self.folder.path()).status();
        assert!(owned.expect("chown(1)").success());
    }

    fn command(&self) -> Command {
        let root = self.folder.path().display().to_string();
        let own = &self.address;
        let line = match self.kind {
            Kind::Spamd => format!(
                "/usr/sbin/spamd -L -x --siteconfigpath={root}/site --helper-home-dir={root}/home \
                 -A 127.0.0.0/8 -i {own} -p {} -m 2 --min-children=1 -s stderr",
                port(self.kind)
            ),
            Kind::Rspamd => format!(
                "/usr/bin/rspamd -f -c {root}/conf/rspamd.conf --var=CONFDIR={root}/conf \
                 --var=LOCAL_CONFDIR={root}/conf --var=DBDIR={root}/db --var=RUNDIR={root}/run \
                 --var=LOGDIR={root}/log -p {root}/run/pid"
            ),
            Kind::Clamd => format!("/usr/sbin/clamd -c {root}/clamd.conf"),
        };
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]);
        command.args(line.split_whitespace()).current_dir(&root);
        command
    }

    fn answers(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.address())?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(match self.kind {
                Kind::Spamd => b"PING SPAMC/1.2\r\n\r\n",
                Kind::Rspamd => b"GET /ping HTTP/1.0\r\n\r\n",
                Kind::Clamd => b"zPING\0",
            })?;
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            Ok(said)
        };
        ask().is_ok_and(|said| said.to_ascii_lowercase().contains("pong"))
    }

    fn configure_spamd(&self) {
        let site = self.file("site");
        fs::create_dir_all(&site).expect("a folder of our own");
        fs::create_dir_all(self.file("home")).expect("a folder of our own");
        for file in fs::read_dir("/etc/spamassassin").expect("the package spamd").flatten() {
            if file.path().extension().is_some_and(|extension| extension == "pre") {
                fs::copy(file.path(), site.join(file.file_name())).expect("a folder of our own");
            }
        }
        self.write(
            "site/local.cf",
            "dns_available no\nskip_rbl_checks 1\nuse_bayes 0\nuse_razor2 0\nuse_pyzor 0\n\
             required_score 5.0\nreport_safe 0\n",
        );
    }

    fn configure_rspamd(&self) {
        let copied = Command::new("cp").args(["-r", "/etc/rspamd"]).arg(self.file("conf")).status();
        assert!(copied.expect("cp(1)").success());
        for name in ["db", "run", "log", "conf/local.d", "conf/override.d"] {
            fs::create_dir_all(self.file(name)).expect("a folder of our own");
        }
        let root = self.folder.path().display();
        let port = port(self.kind);
        let worker = format!(
            "bind_socket = \"{}:{port}\";\nbind_socket = \"{root}/run/normal mode=0666\";\ncount = 1;\n",
            self.address
        );
        self.write("conf/local.d/worker-normal.inc", &worker);
        for name in ["proxy", "controller", "fuzzy"] {
            self.write(&format!("conf/local.d/worker-{name}.inc"), "enabled = false;\n");
        }
        self.write(
            "conf/local.d/logging.inc",
            &format!("type = \"file\"; filename = \"{root}/log/rspamd.log\"; level = \"info\";\n"),
        );
        let control = format!("control_socket = \"{root}/run/rspamd.sock mode=0600\";\n");
        self.write("tld.dat", "com\nnet\norg\nexample\ntest\n");
        let control = format!("{control}url_tld = \"{root}/tld.dat\";\n");
        if let Some(server) = &self.extras.name_server {
            let options = format!("{control}dns {{ nameserver = [\"{server}\"]; }}\n");
            return self.write("conf/local.d/options.inc", &options);
        }
        let options = format!(
            "{control}filters = \"regexp,chartable\";\n\
             dns {{ nameserver = [\"127.0.0.1:53535\"]; timeout = 0.2s; retransmits = 1; }}\n"
        );
        self.write("conf/local.d/options.inc", &options);
        for name in LEFT_OUT {
            self.write(&format!("conf/local.d/{name}.conf"), "enabled = false;\n");
        }
    }

    fn configure_clamd(&self) {
        let mut hex = String::new();
        for byte in eicar().bytes() {
            let _ = write!(hex, "{byte:02x}");
        }
        self.write("db/test.ndb", &format!("Eicar-Test-Signature:0:*:{hex}\n"));
        fs::create_dir_all(self.file("tmp")).expect("a folder of our own");
        let root = self.folder.path().display();
        self.write(
            "clamd.conf",
            &format!(
                "DatabaseDirectory {root}/db\nTCPSocket {}\nTCPAddr {}\nLogFile {root}/log\n\
                 TemporaryDirectory {root}/tmp\nForeground yes\nMaxThreads 4\nStreamMaxLength 25M\n",
                port(self.kind),
                self.address
            ),
        );
    }
}

impl Drop for RealScanner {
    fn drop(&mut self) {
        let said = fs::read_to_string(self.file("out")).unwrap_or_default();
        show_if_failed(self.kind.name(), &said);
        self.kill();
    }
}
