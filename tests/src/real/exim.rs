//! An Exim of the test's own, from files that are only unpacked: its packages and Postfix's exclude
//! each other. It relays everything to one next hop, or keeps it.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Child;

use tempfile::TempDir;

use super::process::unshared;
use super::{folder, show_if_failed, signal, until};

/// Where scripts/install-test-deps unpacks it.
const FILES: &str = "/var/cache/mpp-tests/exim";
const PORT: u16 = 2525;
/// The user that it runs as: `nobody`, under the name that is compiled into Debian's Exim.
const USER: u32 = 65534;

/// A running Exim; killed when dropped, with all that it has started.
#[derive(Debug)]
pub struct Exim {
    folder: TempDir,
    address: String,
    child: Child,
}

impl Exim {
    /// Starts one on this address that takes mail for everybody and relays it to `ADDRESS:PORT`.
    pub fn start(address: &str, next_hop: &str) -> Self {
        let (host, port) = next_hop.rsplit_once(':').expect("ADDRESS:PORT");
        Self::begin(
            address,
            &format!(
                "begin routers
hop:
  driver = manualroute
  route_list = * {host}::{port} byname
  self = send
  transport = out
begin transports
out:
  driver = smtp
  hosts_try_fastopen =
  hosts_try_dane =
"
            ),
        )
    }

    /// Starts one on this address that keeps mail: one file a recipient.
    pub fn storing(address: &str) -> Self {
        Self::begin(
            address,
            "begin routers
here:
  driver = accept
  transport = keep
begin transports
keep:
  driver = appendfile
  directory = SPOOL/mail
  create_directory
  maildir_format
  envelope_to_add
  return_path_add
",
        )
    }

    fn begin(address: &str, routes: &str) -> Self {
        let program = Path::new(FILES).join("usr/sbin/exim4");
        let name = program.display().to_string();
        assert!(program.exists(), "{name} is missing: run scripts/install-test-deps as root");
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        for name in ["", "spool", "log"] {
            if !name.is_empty() {
                fs::create_dir(at(name)).expect("a folder of our own");
            }
            chown(at(name), Some(USER), Some(USER)).expect("we are root");
        }
        let text = format!("{}{routes}begin retry\n* * F,1h,1m\n", main(folder.path(), address));
        let text = text.replace("SPOOL", &at("spool").display().to_string());
        fs::write(at("exim.conf"), text).expect("a folder of our own");
        // It wants its user and group to be there: other names of two that are.
        for (file, entry) in [
            ("passwd", format!("Debian-exim:x:{USER}:{USER}::/nonexistent:/usr/sbin/nologin\n")),
            ("group", format!("Debian-exim:x:{USER}:\n")),
        ] {
            let others = fs::read_to_string(Path::new("/etc").join(file)).expect("it is there");
            fs::write(at(file), entry + &others).expect("a folder of our own");
        }
        let script = format!(
            "mount --bind {} /etc/passwd && mount --bind {} /etc/group && exec setpriv \
             --reuid={USER} --regid={USER} --clear-groups {name} -C {} -bdf -q1m",
            at("passwd").display(),
            at("group").display(),
            at("exim.conf").display()
        );
        let log = fs::File::create(at("output")).expect("a folder of our own");
        let child = unshared("-m", &script, log);
        let mut server = Self { folder, address: format!("{address}:{PORT}"), child };
        until("an Exim that listens", || {
            let ended = server.child.try_wait().ok().flatten();
            assert!(ended.is_none(), "Exim does not start: {}", server.log());
            TcpStream::connect(server.address()).ok()
        });
        server
    }

    /// Where it takes mail.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it has logged: arrivals and deliveries, with `L` where it said several commands at
    /// once, and `K` where it used BDAT.
    pub fn log(&self) -> String {
        let of = |name: &str| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        [of("output"), of("log/main"), of("log/panic")].concat()
    }

    /// The messages that it keeps, each as it lies on disk.
    pub fn messages(&self) -> Vec<Vec<u8>> {
        let files = fs::read_dir(self.mail()).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read(file.path()).ok()).collect()
    }

    /// Waits until it keeps as many.
    pub fn wait_for_messages(&self, count: usize) -> Vec<Vec<u8>> {
        until(&format!("{count} messages"), || (self.messages().len() >= count).then_some(()));
        let messages = self.messages();
        assert_eq!(messages.len(), count, "no message too many");
        messages
    }

    fn mail(&self) -> PathBuf {
        self.folder.path().join("spool/mail/new")
    }
}

impl Drop for Exim {
    fn drop(&mut self) {
        show_if_failed("Exim", &self.log());
        // The group: what it has started as well.
        signal("KILL", &format!("-{}", self.child.id()));
        let _ = self.child.wait();
    }
}

/// What both kinds have in common. It refuses one recipient, for tests of what is passed on.
fn main(root: &Path, address: &str) -> String {
    let root = root.display();
    format!(
        "primary_hostname = exim.test.example
exim_path = {FILES}/usr/sbin/exim4
spool_directory = {root}/spool
log_file_path = {root}/log/%s
log_selector = +pipelining +received_recipients +smtp_confirmation +8bitmime
pid_file_path = {root}/spool/pid
exim_user = {USER}
exim_group = {USER}
never_users =
local_interfaces = {address}
daemon_smtp_ports = {PORT}
keep_environment =
tls_advertise_hosts =
rfc1413_hosts =
smtputf8_advertise_hosts = *
dsn_advertise_hosts = *
acl_smtp_rcpt = recipients
begin acl
recipients:
  deny local_parts = not-here
       message = Not here, says Exim
  accept
"
    )
}
