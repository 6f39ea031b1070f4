//! A Sendmail of the test's own, from files that are only unpacked: its packages and Postfix's
//! exclude each other. It relays everything to one next hop.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use tempfile::TempDir;

use super::process::unshared;
use super::{address, folder, show_if_failed, signal, until};

/// Where scripts/install-test-deps unpacks it.
const FILES: &str = "/var/cache/mpp-tests/sendmail";
const PORT: u16 = 2525;

/// A running Sendmail; killed when dropped, with all that it has started.
#[derive(Debug)]
pub struct Sendmail {
    folder: TempDir,
    address: String,
    child: Child,
}

impl Sendmail {
    /// Starts one that asks a milter at `ADDRESS:PORT` or `unix:PATH` and relays to `ADDRESS:PORT`. It
    /// knows the users of `sm.test.example` itself, of whom there are none.
    pub fn start(milter: &str, next_hop: &str) -> Self {
        let program = Path::new(FILES).join("usr/libexec/sendmail/sendmail");
        let name = program.display().to_string();
        assert!(program.exists(), "{name} is missing: run scripts/install-test-deps as root");
        let (folder, own) = (folder(), address());
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("queue")).expect("a folder of our own");
        fs::write(at("sm.mc"), configuration(folder.path(), &own, (milter, next_hop)))
            .expect("a folder of our own");
        let macros = format!("{FILES}/usr/share/sendmail/cf");
        let made = Command::new("m4")
            .args([format!("-D_CF_DIR_={macros}/"), format!("{macros}/m4/cf.m4")])
            .arg(at("sm.mc"))
            .output()
            .expect("the package m4");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::write(at("sm.cf"), made.stdout).expect("a folder of our own");
        let hosts = format!("127.0.0.1 localhost\n{own} sm.test.example sm\n");
        fs::write(at("hosts"), hosts).expect("a folder of our own");
        // With a host name that has no dot it sleeps for a minute: it gets one of its own.
        let script = format!(
            "hostname sm.test.example && mount --bind {} /etc/hosts && exec {name} -C {} -bD -q1m",
            at("hosts").display(),
            at("sm.cf").display()
        );
        let log = fs::File::create(at("log")).expect("a folder of our own");
        let child = unshared("-mu", &script, log);
        let server = Self { folder, address: own, child };
        until("a Sendmail that listens", || TcpStream::connect(server.address()).ok());
        server
    }

    /// How many messages lie in quarantine.
    pub fn quarantined(&self) -> usize {
        let queue = fs::read_dir(self.folder.path().join("queue")).into_iter().flatten().flatten();
        queue.filter(|file| file.file_name().to_string_lossy().starts_with("hf")).count()
    }

    /// Where it takes mail.
    pub fn address(&self) -> String {
        format!("{}:{PORT}", self.address)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for Sendmail {
    fn drop(&mut self) {
        show_if_failed("Sendmail", &fs::read_to_string(self.log()).unwrap_or_default());
        // The group: what it has started as well.
        signal("KILL", &format!("-{}", self.child.id()));
        let _ = self.child.wait();
    }
}

fn configuration(root: &Path, own: &str, (milter, next_hop): (&str, &str)) -> String {
    let root = root.display();
    let ends = |text: &str| {
        let (host, port) = text.rsplit_once(':').expect("ADDRESS:PORT");
        (host.to_owned(), port.to_owned())
    };
    let (hop, hop_port) = ends(next_hop);
    let milter = if milter.starts_with("unix:") {
        // Below /tmp, where everybody may write: TrustStickyBit lets it do.
        milter.replace("unix:", "local:")
    } else {
        let (host, port) = ends(milter);
        format!("inet:{port}@{host}")
    };
    format!(
        "divert(-1)
include(`{FILES}/usr/share/sendmail/cf/m4/cf.m4')
divert(0)dnl
OSTYPE(`linux')dnl
define(`QUEUE_DIR', `{root}/queue')dnl
define(`confPID_FILE', `{root}/pid')dnl
define(`STATUS_FILE', `{root}/status')dnl
define(`ALIAS_FILE', `null:none')dnl
define(`confDONT_BLAME_SENDMAIL', `TrustStickyBit')dnl
define(`SMART_HOST', `esmtp:[{hop}]')dnl
define(`ESMTP_MAILER_ARGS', `TCP [{hop}] {hop_port}')dnl
define(`RELAY_MAILER_ARGS', `TCP [{hop}] {hop_port}')dnl
define(`confDOMAIN_NAME', `sm.test.example')dnl
FEATURE(`promiscuous_relay')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`accept_unqualified_senders')dnl
FEATURE(`nocanonify')dnl
FEATURE(`no_default_msa')dnl
DAEMON_OPTIONS(`Name=MTA, Addr={own}, Port={PORT}')dnl
INPUT_MAIL_FILTER(`mpp', `S={milter}, F=T, T=S:10s;R:10s;E:30s')dnl
MAILER(`local')dnl
MAILER(`smtp')dnl
"
    )
}
