//! A server process of a test: killed, hung and let go on.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use super::{signal, until};

/// A process, or nothing while the server is down. Killed when dropped.
#[derive(Debug, Default)]
pub struct Process(Option<Child>);

impl Process {
    /// Starts it.
    pub fn start(&mut self, command: &mut Command) {
        self.kill();
        let child = command.spawn();
        self.0 = Some(child.unwrap_or_else(|error| panic!("{command:?}: {error}")));
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Lets it hang: connections are taken, and nothing is answered.
    pub fn freeze(&self) {
        let process = self.id();
        signal("STOP", &process);
        // Each thread stops when it next has its turn.
        until("a process that stands still", || threads_stand_still(&process).then_some(()));
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        signal("CONT", &self.id());
    }

    /// The process id, while it runs.
    pub fn try_id(&self) -> Option<String> {
        self.0.as_ref().map(|child| child.id().to_string())
    }

    fn id(&self) -> String {
        self.0.as_ref().map(|child| child.id().to_string()).expect("a server that runs")
    }
}

/// Runs a shell script among names of its own, as `flags` of unshare(1) say, in a group of processes
/// of its own. Its complaints go to `log`.
pub(crate) fn unshared(flags: &str, script: &str, log: File) -> Child {
    Command::new("unshare")
        .args([flags, "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0)
        .spawn()
        .expect("unshare(1) comes with util-linux")
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether all threads of a process are stopped.
fn threads_stand_still(process: &str) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("a server that runs");
    threads.filter_map(Result::ok).all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with(['T', 'Z', 'X']))
    })
}
