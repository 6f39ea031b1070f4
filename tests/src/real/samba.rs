//! An Active Directory of the test's own: Samba as domain controller of `ad.test`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::ca::Certificate;
use super::ldap::wait;
use super::process::Process;
use super::{address, folder, show_if_failed};

/// The base of everything.
pub const BASE: &str = "DC=ad,DC=test";
/// Who may read: the administrator, as user principal name.
pub const READER: &str = "administrator@ad.test";
/// The password.
pub const PASSWORD: &str = "Passw0rd.1";

/// A running Samba; killed when dropped.
#[derive(Debug)]
pub struct Samba {
    folder: TempDir,
    address: String,
    process: Process,
}

impl Samba {
    /// Starts one with `users` enabled users `u1` and on (`u1@ad.test`, `alias1@ad.test`), the
    /// disabled `off@ad.test`, the contact `friend@ad.test`, and the group `sales@ad.test` with `u2`
    /// in it, which is itself in the group `all`.
    pub fn start(certificate: &Certificate, users: u32) -> Self {
        let program = Path::new("/usr/sbin/samba");
        assert!(program.exists(), "samba is missing: install the Debian package samba-ad-dc");
        let mut server = Self { folder: folder(), address: address(), process: Process::default() };
        let root = server.folder.path().display().to_string();
        run(Command::new("samba-tool").args([
            "domain",
            "provision",
            "--realm=AD.TEST",
            "--domain=ADT",
            &format!("--adminpass={PASSWORD}"),
            "--server-role=dc",
            "--dns-backend=NONE",
            "--host-ip=127.0.0.1",
            "--host-name=dc1",
            "--use-rfc2307",
            &format!("--targetdir={root}"),
            "--option=interfaces=lo",
            "--option=bind interfaces only=yes",
            &format!("--option=posix:eadb={root}/eadb.tdb"),
        ]));
        fs::create_dir_all(server.file("cache")).expect("a folder of our own");
        server.certify(certificate);
        let configuration = server.configuration();
        fs::write(server.file("etc/smb.conf"), configuration).expect("a folder of our own");
        fs::write(server.file("seed.ldif"), seed(users)).expect("a folder of our own");
        run(Command::new("ldbadd")
            .arg("-H")
            .arg(server.file("private/sam.ldb"))
            .arg(server.file("seed.ldif"))
            .arg(format!("--configfile={root}/etc/smb.conf")));
        server.launch();
        server
    }

    /// Replaces its certificate; it is taken at the next start.
    pub fn certify(&self, certificate: &Certificate) {
        use std::os::unix::fs::PermissionsExt as _;
        // A key that others may read turns TLS off without a word.
        let key = self.file("private/t.key");
        fs::copy(&certificate.key, &key).expect("a folder of our own");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("our own file");
        fs::copy(&certificate.certificate, self.file("private/t.crt")).expect("our own folder");
    }

    /// Starts it, also after it was killed.
    pub fn launch(&mut self) {
        let log = File::options().append(true).create(true).open(self.file("out"));
        self.process.start(
            Command::new("/usr/sbin/samba")
                .args(["-F", "-M", "single", "--no-process-group", "-s"])
                .arg(self.file("etc/smb.conf"))
                .stdin(Stdio::null())
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
        format!("ldap://{}", self.address)
    }

    /// `ldaps://…`.
    pub fn tls_url(&self) -> String {
        format!("ldaps://{}", self.address)
    }

    /// Its address.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configuration(&self) -> String {
        let (root, address) = (self.folder.path().display(), &self.address);
        format!(
            "[global]
  workgroup = ADT
  realm = AD.TEST
  netbios name = DC1
  server role = active directory domain controller
  server services = ldap, cldap
  interfaces = {address}/8
  bind interfaces only = yes
  private dir = {root}/private
  state directory = {root}/state
  lock directory = {root}
  cache directory = {root}/cache
  ncalrpc dir = {root}/ncalrpc
  pid directory = {root}
  log file = {root}/log.samba
  ldap server require strong auth = no
  tls enabled = yes
  tls keyfile = {root}/private/t.key
  tls certfile = {root}/private/t.crt
  tls cafile = {root}/private/t.crt
  posix:eadb = {root}/eadb.tdb
"
        )
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("the packages samba-ad-provision, ldb-tools");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

fn seed(users: u32) -> String {
    let mut ldif = String::new();
    let mut user = |name: &str, alias: &str, control: u32| {
        let _ = write!(
            ldif,
            "dn: CN=User {name},CN=Users,{BASE}\nobjectClass: user\ncn: User {name}\n\
             sAMAccountName: {name}\nuserPrincipalName: {name}.login@ad.test\n\
             mail: {name}@ad.test\nproxyAddresses: SMTP:{name}@ad.test\n\
             proxyAddresses: smtp:{alias}@ad.test\nuserAccountControl: {control}\n\n"
        );
    };
    for number in 1..=users {
        user(&format!("u{number}"), &format!("alias{number}"), 512);
    }
    user("off", "off.alias", 514);
    let _ = write!(
        ldif,
        "dn: CN=A Friend,CN=Users,{BASE}\nobjectClass: contact\ncn: A Friend\n\
         mail: friend@ad.test\nproxyAddresses: SMTP:friend@ad.test\n\n\
         dn: CN=Sales List,CN=Users,{BASE}\nobjectClass: group\ncn: Sales List\n\
         sAMAccountName: sales\nmail: sales@ad.test\nproxyAddresses: SMTP:sales@ad.test\n\
         groupType: -2147483640\nmember: CN=User u2,CN=Users,{BASE}\n\n\
         dn: CN=Everybody,CN=Users,{BASE}\nobjectClass: group\ncn: Everybody\n\
         sAMAccountName: all\ngroupType: -2147483640\nmember: CN=Sales List,CN=Users,{BASE}\n\n"
    );
    ldif
}

impl Drop for Samba {
    fn drop(&mut self) {
        show_if_failed("samba", &fs::read_to_string(self.file("out")).unwrap_or_default());
    }
}
