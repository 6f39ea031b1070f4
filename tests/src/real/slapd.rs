//! An OpenLDAP server of the test's own.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::ca::Certificate;
use super::ldap::{ldapadd, wait};
use super::process::Process;
use super::{address, folder, show_if_failed};

/// The suffix of all entries.
pub const SUFFIX: &str = "dc=test,dc=example";
/// Who may read.
pub const READER: &str = "cn=reader,dc=test,dc=example";
/// The reader's password.
pub const PASSWORD: &str = "readerpw";

/// A running slapd; killed when dropped.
#[derive(Debug)]
pub struct Slapd {
    folder: TempDir,
    address: String,
    certificate: Certificate,
    process: Process,
}

impl Slapd {
    /// Starts one with `users` entries `u1` and on: `mail: u1@test.example`, and the alias
    /// `alias1@test.example`. `more` is LDIF besides.
    pub fn start(certificate: &Certificate, users: u32, more: &str) -> Self {
        let program = Path::new("/usr/sbin/slapd");
        assert!(program.exists(), "slapd is missing: install the Debian package slapd");
        let certificate = certificate.clone();
        let mut server =
            Self { folder: folder(), address: address(), certificate, process: Process::default() };
        fs::create_dir(server.file("db")).expect("a folder of our own");
        fs::write(server.file("slapd.conf"), server.configuration()).expect("a folder");
        fs::write(server.file("seed.ldif"), seed(users) + more).expect("a folder");
        let seeded = Command::new("/usr/sbin/slapadd")
            .args(["-q", "-f"])
            .arg(server.file("slapd.conf"))
            .arg("-l")
            .arg(server.file("seed.ldif"))
            .output()
            .expect("slapadd comes with slapd");
        let said = String::from_utf8_lossy(&seeded.stderr);
        assert!(seeded.status.success(), "slapadd: {said}");
        server.launch();
        server
    }

    /// Replaces its certificate; it is taken at the next start.
    pub fn certify(&mut self, certificate: &Certificate) {
        self.certificate = certificate.clone();
        fs::write(self.file("slapd.conf"), self.configuration()).expect("a folder");
    }

    /// Starts it, also after it was killed.
    pub fn launch(&mut self) {
        let log = File::options().append(true).create(true).open(self.file("log"));
        self.process.start(
            Command::new("/usr/sbin/slapd")
                .arg("-f")
                .arg(self.file("slapd.conf"))
                .args(["-h", &self.urls(), "-d", "stats"])
                .stdout(Stdio::null())
                .stderr(log.expect("a folder of our own")),
        );
        wait(&self.url());
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

    /// `ldap://…`.
    pub fn url(&self) -> String {
        format!("ldap://{}:3890", self.address)
    }

    /// `ldaps://…`.
    pub fn tls_url(&self) -> String {
        format!("ldaps://{}:6360", self.address)
    }

    /// `ldapi://…`, plain.
    pub fn unix_url(&self) -> String {
        format!("ldapi://{}", self.file("ldapi").display())
    }

    /// Its address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it was asked: one line a step of each connection.
    pub fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// Adds entries while it runs.
    pub fn add(&self, ldif: &str) {
        ldapadd(&self.url(), (&format!("cn=admin,{SUFFIX}"), "secret"), ldif);
    }

    fn urls(&self) -> String {
        let socket = self.file("ldapi").display().to_string().replace('/', "%2F");
        format!("{}/ {}/ ldapi://{socket}/", self.url(), self.tls_url())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configuration(&self) -> String {
        let at = |name: &str| self.file(name).display().to_string();
        format!(
            "include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/misc.schema
pidfile {}
argsfile {}
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload retcode
TLSCertificateFile {}
TLSCertificateKeyFile {}
database mdb
suffix \"{SUFFIX}\"
rootdn \"cn=admin,{SUFFIX}\"
rootpw secret
directory {}
maxsize 268435456
envflags nosync
index objectClass eq
index uid,mail,mailLocalAddress,cn eq
index member eq
overlay retcode
retcode-parent \"ou=codes,{SUFFIX}\"
retcode-item \"cn=busy\" 51
retcode-item \"cn=unavailable\" 52
retcode-item \"cn=timelimit\" 3
retcode-item \"cn=sizelimit\" 4
retcode-item \"cn=referral\" 10 ref=ldap://127.0.0.1:3999/{SUFFIX}
access to attrs=userPassword by anonymous auth by * none
access to dn.subtree=\"ou=hidden,{SUFFIX}\" by * none
access to dn.children=\"ou=veiled,{SUFFIX}\" by * none
access to * by * read
",
            at("pid"),
            at("args"),
            self.certificate.certificate.display(),
            self.certificate.key.display(),
            at("db")
        )
    }
}

fn seed(users: u32) -> String {
    let mut ldif = format!(
        "dn: {SUFFIX}\nobjectClass: dcObject\nobjectClass: organization\ndc: test\no: Test\n\n\
         dn: ou=people,{SUFFIX}\nobjectClass: organizationalUnit\nou: people\n\n\
         dn: ou=groups,{SUFFIX}\nobjectClass: organizationalUnit\nou: groups\n\n\
         dn: ou=hidden,{SUFFIX}\nobjectClass: organizationalUnit\nou: hidden\n\n\
         dn: ou=veiled,{SUFFIX}\nobjectClass: organizationalUnit\nou: veiled\n\n\
         dn: uid=v1,ou=veiled,{SUFFIX}\nobjectClass: inetOrgPerson\nuid: v1\ncn: V\nsn: V\n\
         mail: v1@test.example\n\n\
         dn: {READER}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\n\
         cn: reader\nuserPassword: {PASSWORD}\n\n"
    );
    for number in 1..=users {
        let _ = write!(
            ldif,
            "dn: uid=u{number},ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\n\
             objectClass: inetLocalMailRecipient\nuid: u{number}\ncn: User {number}\nsn: {number}\n\
             mail: u{number}@test.example\nmailLocalAddress: alias{number}@test.example\n\n"
        );
    }
    ldif
}

impl Drop for Slapd {
    fn drop(&mut self) {
        show_if_failed("slapd", &self.log());
    }
}
