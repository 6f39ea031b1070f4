//! The real mpp as a process: started, asked, reloaded, stopped and killed.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::policy::{Client, PORT};
use super::{folder, is_alive, show_if_failed, signal, until};

/// An mpp with its configuration in a folder of its own. Killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    program: PathBuf,
    folder: TempDir,
    address: String,
    environment: Vec<(String, String)>,
    child: Option<Child>,
}

impl Daemon {
    /// Writes a configuration and starts mpp with it. The policy service listens on port 10040 of
    /// the address, and on a unix socket; `text` is the rest of the configuration.
    pub fn start(program: &str, address: &str, text: &str) -> Self {
        let mut daemon = Self::new(program, address, text);
        daemon.launch();
        daemon
    }

    /// Writes a configuration and starts nothing yet.
    pub fn new(program: &str, address: &str, text: &str) -> Self {
        let daemon = Self {
            program: program.into(),
            folder: folder(),
            address: format!("{address}:{PORT}"),
            environment: Vec::new(),
            child: None,
        };
        daemon.configure(text);
        daemon
    }

    /// Replaces the configuration on disk; mpp is not told. A `[server]` or `[listen]` of its own
    /// replaces the usual one; its state must still be `state`.
    pub fn configure(&self, text: &str) {
        let listen = if text.contains("[listen]") {
            String::new()
        } else {
            let (tcp, unix) = (&self.address, self.unix_address());
            format!("[listen]\npolicy = [\"{tcp}\", \"{unix}\"]\n\n")
        };
        let server = if text.contains("[server]") { "" } else { "[server]\nstate = \"state\"\n\n" };
        self.write("mpp.toml", &format!("{server}{listen}{text}"));
    }

    /// Writes a file beside the configuration.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).expect("a folder of our own");
    }

    /// Sets a variable in the environment of the daemon, when it is started next, and of commands.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The folder of configuration and state.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the policy service answers over TCP.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where the policy service answers on a unix socket.
    pub fn unix_address(&self) -> String {
        format!("unix:{}", self.folder.path().join("policy").display())
    }

    /// A connection to the policy service.
    pub fn client(&self) -> Client {
        Client::new(&self.address)
    }

    /// Starts the process, and returns when it answers.
    pub fn launch(&mut self) {
        self.launch_with(&[]);
    }

    /// As [`Daemon::launch`], with more arguments.
    pub fn launch_with(&mut self, arguments: &[&str]) {
        let log = File::options().append(true).create(true).open(self.log_path());
        let child = self.serve().args(arguments).stderr(log.expect("a folder of our own")).spawn();
        let child = self.child.insert(child.expect("the mpp binary"));
        let admin = self.folder.path().join("state/admin.sock");
        let log = self.folder.path().join("mpp.log");
        until("answering mpp", || {
            if let Ok(Some(status)) = child.try_wait() {
                let said = fs::read_to_string(&log).unwrap_or_default();
                panic!("mpp does not start ({status}): {said}");
            }
            // The last socket that it opens.
            UnixStream::connect(&admin).ok()
        });
    }

    /// Starts the process where it must refuse to, and returns what it says.
    pub fn refused(&self) -> String {
        ended(self.serve())
    }

    /// As [`Daemon::refused`], as another user than root.
    pub fn refused_as(&self, user: &str) -> String {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user, "--regid", "nogroup", "--clear-groups"]);
        command.arg(&self.program).args(["serve", "--config"]);
        command.arg(self.folder.path().join("mpp.toml"));
        ended(command)
    }

    fn serve(&self) -> Command {
        let mut command = self.command();
        command.args(["serve", "--config"]).arg(self.folder.path().join("mpp.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("mpp.log")
    }

    /// What it has said on standard error so far, of all its lives.
    pub fn said(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Waits until it says something.
    pub fn wait_for_word(&self, word: &str) {
        until(&format!("{word:?} said"), || self.said().contains(word).then_some(()));
    }

    /// Kills it: no chance to write anything.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(&mut self) {
        signal("TERM", &self.process());
        let mut child = self.child.take().expect("a running mpp");
        let status = until("end of mpp", || child.try_wait().ok().flatten());
        assert!(status.success(), "{status}: {}", self.said());
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        signal("HUP", &self.process());
    }

    /// The process id.
    pub fn process(&self) -> String {
        self.child.as_ref().expect("a running mpp").id().to_string()
    }

    /// Whether the process is there.
    pub fn runs(&self) -> bool {
        self.child.as_ref().is_some_and(|child| is_alive(&child.id().to_string()))
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process()));
        let status = status.expect("a running mpp");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.expect("a line VmRSS")
    }

    /// Runs a command of mpp against this one.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.about(arguments).output().expect("the mpp binary")
    }

    /// Starts a command that goes on, its output to be read. It ends with the daemon at the latest.
    pub fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = self.about(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the mpp binary")
    }

    fn about(&self, arguments: &[&str]) -> Command {
        let mut command = self.command();
        command.args(arguments).arg("--config").arg(self.folder.path().join("mpp.toml"));
        command
    }

    /// Runs a command that must succeed; what it prints.
    pub fn tell(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "mpp {arguments:?}: {out}{err}");
        out.into_owned()
    }

    /// Runs a command that must fail; what it says.
    pub fn tell_in_vain(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "mpp {arguments:?} succeeds");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs a command with `--json`; what it prints.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let out = self.tell(&[arguments, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        show_if_failed("mpp", &self.said());
        self.kill();
    }
}

/// Runs a command that must end by itself, and fail.
fn ended(mut command: Command) -> String {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("mpp");
    let process = child.id().to_string();
    let ended = (0..2000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        !is_alive(&process)
    });
    if !ended {
        // It must not outlive the test.
        let _ = child.kill();
    }
    let output = child.wait_with_output().expect("our own child");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(ended && !output.status.success(), "mpp runs, and must not: {said}");
    said
}
