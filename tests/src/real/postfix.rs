//! A Postfix of the test's own: its folder, its address, nothing shared with the system's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use tempfile::TempDir;

use super::{auth, folder, is_alive, show_if_failed, signal, until};

/// The program that starts all others.
const MASTER: &str = "/usr/lib/postfix/sbin/master";
/// The port on the test's own address.
const PORT: u16 = 2525;

/// A running Postfix; stopped when dropped, also by a test that fails.
#[derive(Debug)]
pub struct Postfix {
    folder: TempDir,
    address: String,
}

impl Postfix {
    /// Starts one that takes mail for `test.example` and `other.example`. `lines` are added to its
    /// main.cf, and hold instead of what is there.
    pub fn start(address: &str, lines: &str) -> Self {
        Self::begin(address, lines, ("", "n"))
    }

    /// The same with services of `mpp postfix` in its master.cf. One for `smtp inet` takes the place of
    /// the listener; chroots, for which a test has no files, are left out.
    pub fn start_with_services(address: &str, lines: &str, services: &str) -> Self {
        Self::begin(address, lines, (services, "n"))
    }

    /// The same with an smtpd that is confined to the queue directory, as Debian's is.
    pub fn start_chrooted(address: &str, lines: &str) -> Self {
        Self::begin(address, lines, ("", "y"))
    }

    fn begin(address: &str, lines: &str, (services, chroot): (&str, &str)) -> Self {
        assert!(
            Path::new(MASTER).exists(),
            "{MASTER} is missing: install the Debian package postfix (scripts/install-test-deps)"
        );
        let postfix = Self { folder: folder(), address: format!("{address}:{PORT}") };
        postfix.make_folders();
        let usual = without(&main_cf(postfix.folder.path()), lines);
        postfix.write("main.cf", &format!("{usual}{lines}\n"));
        let own = format!("{} inet n - {chroot} - - smtpd\n", postfix.address);
        let services = services.replace(" - y - ", " - n - ");
        let named = services.replace("smtp inet ", &format!("{} inet ", postfix.address));
        let own = if named == services { own } else { String::new() };
        postfix.write("master.cf", &format!("{own}{MASTER_CF}{named}\n"));
        postfix.write("vmail", "@test.example all/\n@other.example all/\n");
        auth::serve(&postfix.queue().join("private/auth"));
        postfix.launch();
        postfix
    }

    /// Where it takes mail.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The queue directory.
    pub fn queue(&self) -> PathBuf {
        self.folder.path().join("spool")
    }

    /// The folder of main.cf and master.cf.
    pub fn configuration(&self) -> PathBuf {
        self.folder.path().join("etc")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("mail.log")).unwrap_or_default()
    }

    /// How many messages were delivered.
    pub fn delivered(&self) -> usize {
        fs::read_dir(self.mail()).map_or(0, Iterator::count)
    }

    /// The messages that were delivered, each as it lies on disk.
    pub fn messages(&self) -> Vec<Vec<u8>> {
        let files = fs::read_dir(self.mail()).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read(file.path()).ok()).collect()
    }

    fn mail(&self) -> PathBuf {
        self.folder.path().join("mail/all/new")
    }

    /// The same as recipient and text, in order.
    pub fn messages_by_recipient(&self) -> Vec<(String, String)> {
        let texts = self.messages().into_iter().filter_map(|text| String::from_utf8(text).ok());
        let mut mail: Vec<(String, String)> = texts
            .map(|text| {
                let to = text.lines().find_map(|line| line.strip_prefix("Delivered-To: "));
                (to.unwrap_or_default().to_owned(), text)
            })
            .collect();
        mail.sort();
        mail
    }

    /// How many messages lie in a queue, such as "hold".
    pub fn queued(&self, queue: &str) -> usize {
        fs::read_dir(self.queue().join(queue)).map_or(0, Iterator::count)
    }

    /// Waits until as many messages were delivered.
    pub fn wait_for_delivered(&self, count: usize) {
        until(&format!("{count} messages delivered"), || (self.delivered() >= count).then_some(()));
        assert_eq!(self.delivered(), count, "no message too many");
    }

    /// Sends many messages from this host in ten sessions at once; the sender that Postfix comes with
    /// stops at the first refusal.
    pub fn flood(&self, messages: u32) -> Child {
        Command::new("smtp-source")
            .args(["-s", "10", "-l", "2000", "-m", &messages.to_string()])
            .args(["-f", "fred@test.example", "-t", "bob@test.example", &self.address])
            .spawn()
            .expect("smtp-source comes with Postfix")
    }

    /// Starts it, also after it was killed.
    pub fn launch(&self) {
        let etc = self.folder.path().join("etc");
        let started = Command::new(MASTER).arg("-c").arg(etc).arg("-w").output().expect("Postfix");
        assert!(
            started.status.success(),
            "Postfix does not start: {}{}",
            String::from_utf8_lossy(&started.stderr),
            self.log()
        );
    }

    /// Ends it and its children as a power cut would.
    pub fn kill(&self) {
        let Some(process) = self.process() else { return };
        // master leads a process group; a polite SIGTERM would take it two seconds.
        signal("KILL", &format!("-{process}"));
        for _ in 0..1000 {
            if !is_alive(&process) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // The number may become another process's.
        let _ = fs::remove_file(self.pid_file());
    }

    /// Lets it hang with its children: connections are taken, and nothing is answered.
    pub fn freeze(&self) {
        self.signal_all("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal_all("CONT");
    }

    fn signal_all(&self, name: &str) {
        let process = self.process().expect("a Postfix that runs");
        signal(name, &format!("-{process}"));
    }

    fn process(&self) -> Option<String> {
        fs::read_to_string(self.pid_file()).ok().map(|text| text.trim().to_owned())
    }

    fn pid_file(&self) -> PathBuf {
        self.queue().join("pid/master.pid")
    }

    fn make_folders(&self) {
        let at = |name: &str| self.folder.path().join(name);
        let make = |mode: &str, owner: &str, path: PathBuf| {
            let status = Command::new("install")
                .args(["-d", "-m", mode, "-o", owner.split(':').next().unwrap_or_default()])
                .args(["-g", owner.split(':').nth(1).unwrap_or("root")])
                .arg(path)
                .status()
                .expect("install(1)");
            assert!(status.success(), "only root can start Postfix");
        };
        for name in ["etc", "spool", "spool/pid"] {
            make("755", "root", at(name));
        }
        make("700", "postfix", at("data"));
        make("755", "nobody", at("mail"));
        let queues = "active bounce corrupt defer deferred flush hold incoming private saved trace";
        for queue in queues.split(' ') {
            make("700", "postfix", at("spool").join(queue));
        }
        make("730", "postfix:postdrop", at("spool/maildrop"));
        make("710", "postfix:postdrop", at("spool/public"));
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join("etc").join(name);
        fs::write(&path, text).expect("a folder of our own");
        // Postfix waits for up to two seconds when a file is newer than that.
        let status = Command::new("touch").args(["-d", "1 minute ago"]).arg(path).status();
        assert!(status.expect("touch(1)").success());
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        show_if_failed("Postfix", &self.log());
        self.kill();
    }
}

/// The settings that `lines` do not set anew. Postfix warns of each one that is set twice, in every
/// process; postlogd itself hangs for good when more of that comes than its own socket holds.
fn without(settings: &str, lines: &str) -> String {
    let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let anew: Vec<String> = lines.lines().map(key).collect();
    let kept = settings.lines().filter(|line| !anew.contains(&key(line)));
    kept.flat_map(|line| [line, "\n"]).collect()
}

fn main_cf(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "compatibility_level = 3.6
queue_directory = {folder}/spool
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
maillog_file = {folder}/mail.log
maillog_file_prefixes = /tmp, /var
myhostname = mx.test.example
mydestination =
alias_maps =
local_recipient_maps =
inet_interfaces = 127.0.0.1
inet_protocols = all
mynetworks = 127.0.0.0/8
smtp_host_lookup = native
lmtp_host_lookup = native
disable_dns_lookups = yes
smtpd_peername_lookup = no
biff = no
virtual_mailbox_domains = test.example, other.example
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = texthash:{folder}/etc/vmail
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
transport_maps = inline:{{ {{ test.example = virtual: }} {{ other.example = virtual: }} {{ * = discard: }} }}
smtpd_authorized_xclient_hosts = 127.0.0.0/8
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = private/auth
smtpd_client_connection_count_limit = 0
smtpd_error_sleep_time = 0
"
    )
}

const MASTER_CF: &str = "pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
";
