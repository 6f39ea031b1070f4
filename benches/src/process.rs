//! What a process takes, from `/proc`; and on which core it runs.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// The core of the servers, and of whoever measures them.
pub const SERVER_CORE: &str = "0";
const OWN_CORE: &str = "1";
/// Says that this process is where it belongs.
const MOVED: &str = "MPP_BENCH_MOVED";

/// Goes on with this program on the core of whoever measures.
pub fn move_to_own_core() {
    if std::env::var_os(MOVED).is_none() {
        let program = std::env::current_exe().expect("this program");
        let failed = Command::new("taskset")
            .args(["-c", OWN_CORE])
            .arg(program)
            .args(std::env::args_os().skip(1))
            .env(MOVED, "1")
            .exec();
        panic!("taskset (Debian: util-linux) does not start, or there is one core: {failed}");
    }
}

/// A command that runs on the core of the servers.
pub fn on_server_core(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", SERVER_CORE]).arg(program);
    command
}

/// Nanoseconds that all threads of a process have run.
pub fn cpu_ns(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let of = |path: std::path::PathBuf| -> Option<u64> {
        fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
    };
    threads.flatten().filter_map(|thread| of(thread.path())).sum()
}

/// Bytes of memory that a process has resident, files mapped into it included.
pub fn resident_bytes(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:") * 1024
}

/// The most that it ever had.
pub fn peak_bytes(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:") * 1024
}

fn status_kib(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Bytes of the files in a directory and below.
pub fn disk_bytes(path: &std::path::Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => disk_bytes(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}
