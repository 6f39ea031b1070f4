//! A 389 Directory Server of the test's own.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::ldap::{ldapadd, wait};
use super::process::Process;
use super::{address, folder, show_if_failed, signal, until};

/// The suffix of all entries.
pub const SUFFIX: &str = "dc=test,dc=example";
/// Who may read.
pub const READER: &str = "cn=Directory Manager";
/// The password.
pub const PASSWORD: &str = "secret12";
const INSTANCE: &str = "mpp";

/// A running ns-slapd; killed when dropped.
#[derive(Debug)]
pub struct Ds389 {
    folder: TempDir,
    address: String,
    /// For LDAP and LDAPS. The one that dscreate starts listens on every address of the machine, so
    /// they are nobody else's, not even another test run's.
    ports: (u16, u16),
    process: Process,
}

impl Ds389 {
    /// Makes one, which takes ten seconds, with `users` entries `u1` and on (`u1@test.example`,
    /// `alias1@test.example`) and the group `sales` with `u2` in it.
    pub fn start(users: u32) -> Self {
        let program = Path::new("/usr/sbin/ns-slapd");
        assert!(program.exists(), "ns-slapd is missing: install the Debian package 389-ds-base");
        let mut server = Self {
            folder: folder(),
            address: address(),
            ports: free_ports(),
            process: Process::default(),
        };
        server.prepare();
        let made = Command::new("dscreate")
            .args(["-v", "from-file"])
            .arg(server.file("ds.inf"))
            .env("PREFIX", server.folder.path())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .output()
            .expect("the package python3-lib389");
        let said = String::from_utf8_lossy(&made.stdout).into_owned();
        assert!(made.status.success(), "dscreate: {said}");
        // The one that dscreate started listens on every address: it makes room for one that does not.
        let pid = until("the process id of ns-slapd", || {
            fs::read_to_string(server.file(&format!("run/slapd-{INSTANCE}.pid"))).ok()
        });
        signal("KILL", pid.trim());
        until("the end of ns-slapd", || (!super::is_alive(pid.trim())).then_some(()));
        let path = server.file(&format!("etc/dirsrv/slapd-{INSTANCE}/dse.ldif"));
        let settings = fs::read_to_string(&path).expect("the settings of ns-slapd");
        let listen = format!(
            "dn: cn=config\nnsslapd-listenhost: {0}\nnsslapd-securelistenhost: {0}\n",
            server.address
        );
        fs::write(&path, settings.replacen("dn: cn=config\n", &listen, 1)).expect("our own file");
        server.launch();
        ldapadd(&server.url(), (READER, PASSWORD), &seed(users));
        server
    }

    /// Every path that lib389 knows is moved into our folder by a file of defaults.
    fn prepare(&self) {
        let root = self.folder.path().display().to_string();
        for name in ["share/dirsrv/inf", "etc/dirsrv", "run/lock", "log", "var", "tmp", "shm"] {
            fs::create_dir_all(self.file(name)).expect("a folder of our own");
        }
        let defaults = fs::read_to_string("/usr/share/dirsrv/inf/defaults.inf");
        let moved: String = defaults
            .expect("the package 389-ds-base")
            .lines()
            .map(|line| moved(line, &root) + "\n")
            .collect();
        fs::write(self.file("share/dirsrv/inf/defaults.inf"), moved).expect("our own folder");
        for name in ["config", "schema"] {
            let copied = Command::new("cp")
                .args(["-r", &format!("/etc/dirsrv/{name}"), &format!("{root}/etc/dirsrv/")])
                .status();
            assert!(copied.is_ok_and(|status| status.success()), "/etc/dirsrv/{name}");
        }
        let (port, tls_port) = self.ports;
        let text = format!(
            "[general]\nfull_machine_name = localhost\nstart = True\n\
             strict_host_checking = False\nselinux = False\nsystemd = False\n\
             [slapd]\ninstance_name = {INSTANCE}\nport = {port}\nsecure_port = {tls_port}\n\
             root_password = {PASSWORD}\nself_sign_cert = True\nuser = root\ngroup = root\n\
             [backend-userroot]\ncreate_suffix_entry = True\nsuffix = {SUFFIX}\n"
        );
        fs::write(self.file("ds.inf"), text).expect("our own folder");
    }

    /// Starts it, also after it was killed.
    pub fn launch(&mut self) {
        // What a killed one has left behind makes the next one believe that it still runs.
        let _ = fs::remove_file(self.file(&format!("run/slapd-{INSTANCE}.pid")));
        let _ = fs::remove_dir_all(self.file(&format!("run/lock/slapd-{INSTANCE}/server")));
        let _ = fs::create_dir_all(self.file(&format!("run/lock/slapd-{INSTANCE}/server")));
        let _ = fs::remove_file(format!("/dev/shm/sem.slapd-{INSTANCE}.stats"));
        let log = File::options().append(true).create(true).open(self.file("out"));
        self.process.start(
            Command::new("/usr/sbin/ns-slapd")
                .arg("-D")
                .arg(self.file(&format!("etc/dirsrv/slapd-{INSTANCE}")))
                .arg("-i")
                .arg(self.file(&format!("run/slapd-{INSTANCE}.pid")))
                .args(["-d", "0"])
                .stdout(Stdio::null())
                .stderr(log.expect("a folder of our own")),
        );
        wait(&self.url());
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Lets it hang.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// `ldap://…`.
    pub fn url(&self) -> String {
        format!("ldap://{}:{}", self.address, self.ports.0)
    }

    /// `ldaps://…`; its certificate is for `localhost`.
    pub fn tls_url(&self) -> String {
        format!("ldaps://{}:{}", self.address, self.ports.1)
    }

    /// The certificate of the authority that it has made for itself, in PEM.
    pub fn authority(&self) -> String {
        fs::read_to_string(self.file("etc/dirsrv/ssca/ca.crt")).expect("an authority")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Two ports below those of outgoing connections that nobody listens on, on any address.
fn free_ports() -> (u16, u16) {
    let is_free = |port: u16| TcpListener::bind(("0.0.0.0", port)).is_ok();
    let first = u16::try_from(std::process::id() % 5_000).unwrap_or_default();
    let ports = (0..5_000).map(|number| 20_000 + (first + number) % 5_000 * 2);
    let mut pairs = ports.map(|port| (port, port + 1));
    pairs.find(|&(plain, tls)| is_free(plain) && is_free(tls)).expect("two ports that are free")
}

/// A line of the defaults with its paths below `root`.
fn moved(line: &str, root: &str) -> String {
    let Some((name, value)) = line.split_once(" = ") else { return line.to_owned() };
    let value = match name {
        "with_systemd" => "0".to_owned(),
        "sysconf_dir" | "initconfig_dir" | "tmpfiles_d" => format!("{root}/etc"),
        "local_state_dir" => format!("{root}/var"),
        "tmp_dir" => format!("{root}/tmp"),
        "user" | "group" => "root".to_owned(),
        "inst_dir" => format!("{root}/inst/slapd-{{instance_name}}"),
        _ => {
            let places = [
                ("/etc/dirsrv", "etc/dirsrv"),
                ("/run/lock/dirsrv", "run/lock"),
                ("/run/dirsrv", "run"),
                ("/run/slapd-", "run/slapd-"),
                ("/var/log/dirsrv", "log"),
                ("/var/lib/dirsrv", "var"),
                ("/dev/shm", "shm"),
            ];
            let place = places.iter().find_map(|(from, to)| {
                value.strip_prefix(from).map(|rest| format!("{root}/{to}{rest}"))
            });
            place.unwrap_or_else(|| value.to_owned())
        }
    };
    format!("{name} = {value}")
}

fn seed(users: u32) -> String {
    let mut ldif = format!(
        "dn: ou=people,{SUFFIX}\nobjectClass: organizationalUnit\nou: people\n\n\
         dn: ou=groups,{SUFFIX}\nobjectClass: organizationalUnit\nou: groups\n\n"
    );
    for number in 1..=users {
        let _ = write!(
            ldif,
            "dn: uid=u{number},ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\n\
             objectClass: mailRecipient\nuid: u{number}\ncn: User {number}\nsn: {number}\n\
             mail: u{number}@test.example\nmailAlternateAddress: alias{number}@test.example\n\n"
        );
    }
    let _ = write!(
        ldif,
        "dn: cn=sales,ou=groups,{SUFFIX}\nobjectClass: groupOfUniqueNames\n\
         objectClass: mailGroup\nobjectClass: mailRecipient\ncn: sales\nmail: sales@test.example\n\
         uniqueMember: uid=u2,ou=people,{SUFFIX}\n\n"
    );
    ldif
}

impl Drop for Ds389 {
    fn drop(&mut self) {
        show_if_failed("ns-slapd", &fs::read_to_string(self.file("out")).unwrap_or_default());
    }
}
