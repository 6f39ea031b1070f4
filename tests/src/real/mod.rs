//! Real servers for tests: Postfix and mpp itself, each in a folder and on an address of its own,
//! and the clients that talk to them. Nothing here knows what a test is about.

pub mod auth;
pub mod ca;
pub mod daemon;
pub mod dns;
pub mod ds389;
pub mod exim;
pub mod fake_smtp;
pub mod fake_spamd;
pub mod greylists;
pub mod ldap;
pub mod ledger;
pub mod mail_host;
pub mod mariadb;
pub mod milter_peer;
pub mod policy;
pub mod postfix;
pub mod postgres;
pub mod process;
pub mod raw_smtp;
pub mod redis;
pub mod samba;
pub mod scanners;
pub mod schemas;
pub mod sendmail;
pub mod slapd;
pub mod small_disk;
pub mod smtp;
pub mod wire;

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a test waits for what must happen. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Looks again and again until there is something to see.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "within {PATIENCE:?} there was no: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An empty folder that every user can enter, as Postfix needs it; removed when dropped.
pub fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("mpp-").tempdir().expect("a folder below /tmp");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("our own folder");
    folder
}

/// A loopback address that no other test uses, so that ports can be fixed.
pub fn address() -> String {
    static USED: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id();
    loop {
        let used = USED.fetch_add(1, Ordering::Relaxed);
        assert!(used < 250, "a test binary uses at most 250 addresses");
        // 127.0.x.y is left to real services, 127.1.x.y to people who try things out.
        let address = format!("127.{}.{}.{}", 64 + process % 64, process / 64 % 256, 1 + used);
        if TcpListener::bind((address.as_str(), policy::PORT)).is_ok() {
            return address;
        }
    }
}

/// Sends a signal, by the name that kill(1) knows. A process that is gone is none to send to.
pub fn signal(name: &str, target: &str) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), "--", target])
        .stderr(std::process::Stdio::null())
        .status();
    status.expect("kill(1) comes with the package procps");
}

/// Whether a process is there and not only waiting to be reaped.
pub fn is_alive(process: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // pid (name) state ...: the name may hold anything, a parenthesis included.
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

/// Shows what a server has said if its test has failed.
#[allow(clippy::print_stderr, reason = "what a failed test leaves behind is for people")]
fn show_if_failed(server: &str, said: &str) {
    if std::thread::panicking() {
        let lines: Vec<&str> = said.lines().collect();
        let last = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default();
        eprintln!("---- the last lines of {server}:\n{}", last.join("\n"));
    }
}
