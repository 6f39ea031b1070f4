//! Starting what is measured, each in a directory of its own, on the core of the servers.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::drive::Target;
use crate::process::on_server_core;

/// Where a server answers, by transport.
type Targets = Vec<(&'static str, Target)>;

/// A server that runs; it ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    /// Its name in tables.
    pub name: &'static str,
    /// Where it answers, TCP first.
    targets: Targets,
    /// From its start to its first open port.
    pub start: Duration,
    child: Child,
    directory: Option<TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which the measurement has seen.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The target of a kind.
    pub fn target(&self, kind: &str) -> Option<&Target> {
        self.targets.iter().find(|(name, _)| *name == kind).map(|(_, target)| target)
    }

    /// Ends it as a service manager does, and waits for that.
    pub fn stop(mut self) -> Option<TempDir> {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").arg(&pid).status();
        if asked.is_ok_and(|status| status.success()) {
            let _ = self.child.wait();
        }
        self.directory.take()
    }

    fn start(
        name: &'static str,
        mut command: Command,
        directory: TempDir,
        targets: Targets,
    ) -> io::Result<Self> {
        let log = File::create(directory.path().join("output"))?;
        let begun = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let (start, directory) = (Duration::ZERO, Some(directory));
        let mut server = Self { name, targets, start, child, directory };
        while !server.targets.iter().all(|(_, target)| is_open(target)) {
            let ended = server.child.try_wait()?;
            if ended.is_some() || begun.elapsed() > Duration::from_mins(2) {
                let path = server.directory.as_ref().map(|held| held.path().join("output"));
                let output = path.and_then(|path| fs::read_to_string(path).ok());
                return Err(io::Error::other(format!(
                    "{name} does not start: {}",
                    output.unwrap_or_default()
                )));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        server.start = begun.elapsed();
        Ok(server)
    }
}

fn is_open(target: &Target) -> bool {
    match target {
        Target::Tcp(address) => std::net::TcpStream::connect(address).is_ok(),
        Target::Unix(path) => std::os::unix::net::UnixStream::connect(path).is_ok(),
    }
}

/// A port of this machine that is free now.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Two places to listen at.
fn places(directory: &Path) -> io::Result<(String, PathBuf, Targets)> {
    let tcp = format!("127.0.0.1:{}", free_port()?);
    let unix = directory.join("socket");
    let target = Target::Tcp(tcp.parse().map_err(io::Error::other)?);
    let targets = vec![("TCP", target), ("unix", Target::Unix(unix.clone()))];
    Ok((tcp, unix, targets))
}

/// The null responder of this program, which must know the argument `null ADDRESS`.
///
/// # Errors
/// It does not start.
pub fn null(transport: &str) -> io::Result<Server> {
    let directory = TempDir::new()?;
    let (tcp, unix, targets) = places(directory.path())?;
    let address = if transport == "TCP" { tcp } else { format!("unix:{}", unix.display()) };
    let mut command = on_server_core(std::env::current_exe()?);
    command.args(["null", &address]).env("MPP_BENCH_MOVED", "1");
    let targets = targets.into_iter().filter(|(name, _)| *name == transport).collect();
    Server::start("null", command, directory, targets)
}

/// The naive client of a Redis, as a policy server; this program must know `naive ADDRESS REDIS`.
///
/// # Errors
/// It does not start.
pub fn naive(redis: &str) -> io::Result<Server> {
    let directory = TempDir::new()?;
    let (tcp, _, targets) = places(directory.path())?;
    let mut command = on_server_core(std::env::current_exe()?);
    command.args(["naive", &tcp, redis]).env("MPP_BENCH_MOVED", "1");
    let targets = targets.into_iter().filter(|(name, _)| *name == "TCP").collect();
    Server::start("naive", command, directory, targets)
}

/// The mpp that was built with this program.
///
/// # Errors
/// It was not built, or does not start.
pub fn mpp(configuration: &str) -> io::Result<Server> {
    mpp_in(TempDir::new()?, configuration)
}

/// The same with a state directory `state` that is there already.
///
/// # Errors
/// As above.
pub fn mpp_in(directory: TempDir, configuration: &str) -> io::Result<Server> {
    let program = std::env::current_exe()?.with_file_name("mpp");
    if !program.exists() {
        return Err(io::Error::other("first build mpp: cargo build --release --package mpp"));
    }
    let (tcp, unix, targets) = places(directory.path())?;
    let state = directory.path().join("state");
    let mut command = on_server_core(program);
    command.arg("serve").arg("--state").arg(state).env("MPP_BENCH_SQL", "x");
    command.args(["--listen", &tcp]).arg("--listen").arg(format!("unix:{}", unix.display()));
    if !configuration.is_empty() {
        let file = directory.path().join("mpp.toml");
        fs::write(&file, configuration)?;
        command.arg("--config").arg(file);
    }
    Server::start("mpp", command, directory, targets)
}

/// Who runs this program: user and group.
fn me() -> io::Result<(String, String)> {
    let ask = |flag: &str| -> io::Result<String> {
        let output = Command::new("id").arg(flag).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    Ok((ask("-un")?, ask("-gn")?))
}

fn installed(program: &str) -> io::Result<PathBuf> {
    let known = ["/usr/sbin", "/usr/bin"].map(|place| Path::new(place).join(program));
    let missing = || io::Error::other(format!("{program} is not installed (Debian: {program})"));
    known.into_iter().find(|path| path.exists()).ok_or_else(missing)
}

/// postgrey, on one transport since it serves one.
///
/// # Errors
/// It is not installed, or does not start.
pub fn postgrey(transport: &str) -> io::Result<Server> {
    let program = installed("postgrey")?;
    let directory = TempDir::new()?;
    let (tcp, unix, targets) = places(directory.path())?;
    let (user, group) = me()?;
    let mut command = on_server_core(program);
    if transport == "TCP" {
        command.arg(format!("--inet={tcp}"));
    } else {
        command.arg(format!("--unix={}", unix.display()));
    }
    command.arg(format!("--dbdir={}", directory.path().display()));
    command.arg(format!("--user={user}")).arg(format!("--group={group}"));
    let targets = targets.into_iter().filter(|(name, _)| *name == transport).collect();
    Server::start("postgrey", command, directory, targets)
}

/// sqlgrey with `SQLite`, on one transport since it serves one.
///
/// # Errors
/// It is not installed, or does not start.
pub fn sqlgrey(transport: &str) -> io::Result<Server> {
    sqlgrey_on(transport, "")
}

/// sqlgrey with another database, that these settings of its own name.
///
/// # Errors
/// As above.
pub fn sqlgrey_on(transport: &str, database: &str) -> io::Result<Server> {
    let program = installed("sqlgrey")?;
    let directory = TempDir::new()?;
    let (tcp, unix, targets) = places(directory.path())?;
    let (user, group) = me()?;
    let listen = if transport == "TCP" {
        format!("inet = {tcp}")
    } else {
        format!("unix = {}", unix.display())
    };
    let path = directory.path().display();
    let database = if database.is_empty() {
        format!("db_type = SQLite\ndb_name = {path}/sqlgrey.db\n")
    } else {
        database.to_owned()
    };
    let file = directory.path().join("sqlgrey.conf");
    fs::write(
        &file,
        format!(
            "{listen}\nuser = {user}\ngroup = {group}\nconfdir = /etc/sqlgrey\nloglevel = 0\n\
             pidfile = {path}/pid\n{database}prepend = 0\n"
        ),
    )?;
    let mut command = on_server_core(program);
    command.arg("-f").arg(&file);
    let targets = targets.into_iter().filter(|(name, _)| *name == transport).collect();
    Server::start("sqlgrey", command, directory, targets)
}
