//! A Redis of the test's own: one server, a master with sentinels, or a cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::process::Process;
use super::{address, folder, show_if_failed, until};

/// The program.
const SERVER: &str = "/usr/bin/redis-server";
/// The port of a server on its own address.
pub const PORT: u16 = 6379;
/// The port of a sentinel on its own address.
pub const SENTINEL_PORT: u16 = 26379;
/// What sentinels call the master.
pub const MASTER: &str = "mpp-master";

/// A running Redis; killed when dropped.
#[derive(Debug)]
pub struct Redis {
    folder: TempDir,
    address: String,
    options: Vec<String>,
    process: Process,
}

impl Redis {
    /// Starts an empty one with these options besides the usual. It keeps nothing over a restart
    /// unless an option says so.
    pub fn start(options: &[&str]) -> Self {
        Self::start_at(&address(), options)
    }

    /// The same on an address that the test has chosen.
    pub fn start_at(address: &str, options: &[&str]) -> Self {
        assert!(
            Path::new(SERVER).exists(),
            "{SERVER} is missing: install the Debian package redis-server \
             (scripts/install-test-deps)"
        );
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let (folder, address) = (folder(), address.to_owned());
        let mut server = Self { folder, address, options, process: Process::default() };
        server.launch();
        server
    }

    /// Starts it, also after it was killed, and waits until it answers.
    pub fn launch(&mut self) {
        let at = |name: &str| self.file(name).display().to_string();
        self.process.start(
            Command::new(SERVER)
                .args(["--port", &PORT.to_string(), "--bind", &self.address])
                .args(["--dir", &self.folder.path().display().to_string()])
                .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
                .args(["--protected-mode", "no", "--repl-diskless-sync-delay", "0"])
                // On a loopback address of its own others see it come from 127.0.0.1.
                .args(["--replica-announce-ip", &self.address])
                .args(["--cluster-announce-ip", &self.address])
                .args(["--logfile", &at("log"), "--unixsocket", &at("s")])
                .args(&self.options)
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        );
        until("a Redis that answers", || self.ask(&["PING"]).starts_with("PONG").then_some(()));
    }

    /// `HOST:PORT`.
    pub fn place(&self) -> String {
        format!("{}:{PORT}", self.address)
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.file("s")
    }

    /// What it says to a command; nothing while it is down.
    pub fn ask(&self, command: &[&str]) -> String {
        let mut client = Command::new("timeout");
        client.args(["10", "redis-cli", "-h", &self.address, "-p", &PORT.to_string()]);
        if let Some(password) = self.password() {
            client.args(["--no-auth-warning", "-a", &password]);
        }
        let output = client.args(command).output().expect("redis-cli comes with the server");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn password(&self) -> Option<String> {
        let place = self.options.iter().position(|option| option == "--requirepass")?;
        self.options.get(place + 1).cloned()
    }

    /// A number of its `INFO`.
    pub fn info(&self, name: &str) -> u64 {
        let all = self.ask(&["INFO", "everything"]);
        let found = all.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        found.and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    }

    /// Its process id.
    pub fn id(&self) -> Option<String> {
        self.process.try_id()
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

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        show_if_failed("Redis", &fs::read_to_string(self.file("log")).unwrap_or_default());
    }
}

/// A master, two replicas, and three sentinels that watch them.
#[derive(Debug)]
pub struct Watched {
    /// The servers; the first was the master at the start.
    pub servers: Vec<Redis>,
    sentinels: Vec<(TempDir, String, Process)>,
}

impl Watched {
    /// Starts them, and waits until the sentinels know each other and the replicas.
    pub fn start() -> Self {
        let master = Redis::start(&[]);
        let of_master = format!("{} {PORT}", master.address);
        let replica = || Redis::start(&["--replicaof", &of_master]);
        let servers = vec![replica(), replica()];
        let servers: Vec<Redis> = std::iter::once(master).chain(servers).collect();
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            let (folder, address) = (folder(), address());
            let file = folder.path().join("sentinel.conf");
            let text = format!(
                "port {SENTINEL_PORT}\nbind {address}\ndir {}\nlogfile {}/log\nprotected-mode no\n\
                 sentinel announce-ip {address}\nsentinel announce-port {SENTINEL_PORT}\n\
                 sentinel monitor {MASTER} {of_master} 2\n\
                 sentinel down-after-milliseconds {MASTER} 500\n\
                 sentinel failover-timeout {MASTER} 3000\n\
                 sentinel parallel-syncs {MASTER} 1\n",
                folder.path().display(),
                folder.path().display(),
            );
            fs::write(&file, text).expect("a folder of our own");
            let mut process = Process::default();
            process.start(
                Command::new("redis-sentinel")
                    .arg(&file)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null()),
            );
            sentinels.push((folder, address, process));
        }
        let watched = Self { servers, sentinels };
        until("sentinels that know each other", || {
            let knows = |(_, address, _): &(TempDir, String, Process)| {
                let said = ask_sentinel(address, &["info", "sentinel"]);
                said.contains("slaves=2,sentinels=3")
            };
            watched.sentinels.iter().all(knows).then_some(())
        });
        watched
    }

    /// Where the sentinels are.
    pub fn places(&self) -> Vec<String> {
        self.sentinels.iter().map(|(_, address, _)| format!("{address}:{SENTINEL_PORT}")).collect()
    }

    /// Which server is the master now, as the sentinels see it.
    pub fn master(&self) -> Option<usize> {
        let (_, sentinel, _) = self.sentinels.first()?;
        let said = ask_sentinel(sentinel, &["sentinel", "get-master-addr-by-name", MASTER]);
        let address = said.lines().next()?.to_owned();
        self.servers.iter().position(|server| server.address == address)
    }
}

fn ask_sentinel(address: &str, command: &[&str]) -> String {
    let output = Command::new("timeout")
        .args(["5", "redis-cli", "-h", address, "-p", &SENTINEL_PORT.to_string()])
        .args(command)
        .output()
        .expect("redis-cli comes with the server");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Its servers: first the masters, then as many replicas if it has any.
    pub servers: Vec<Redis>,
}

impl Cluster {
    /// Starts three masters, each with a replica if there are to be any.
    pub fn start(has_replicas: bool) -> Self {
        let many = if has_replicas { 6 } else { 3 };
        let options = [
            "--cluster-enabled",
            "yes",
            "--cluster-config-file",
            "nodes.conf",
            "--cluster-node-timeout",
            "1000",
        ];
        let servers: Vec<Redis> = (0..many).map(|_| Redis::start(&options)).collect();
        let places = servers.iter().map(Redis::place);
        let made = Command::new("timeout")
            .args(["30", "redis-cli", "--cluster", "create"])
            .args(places)
            .args(["--cluster-replicas", if has_replicas { "1" } else { "0" }, "--cluster-yes"])
            .output()
            .expect("redis-cli comes with the server");
        let said = String::from_utf8_lossy(&made.stdout);
        assert!(made.status.success(), "{said}");
        let cluster = Self { servers };
        cluster.wait_until_sound();
        until("replicas that follow", || {
            let follows =
                |it: &Redis| it.ask(&["INFO", "replication"]).contains("connected_slaves:1");
            let masters = cluster.servers.iter().filter(|it| follows(it)).count();
            (!has_replicas || masters == 3).then_some(())
        });
        cluster
    }

    /// Waits until all servers that run agree that every slot has a master.
    pub fn wait_until_sound(&self) {
        until("a cluster that is sound", || {
            let is_sound = |it: &Redis| {
                it.id().is_none() || it.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
            };
            self.servers.iter().all(is_sound).then_some(())
        });
    }

    /// Where its servers are.
    pub fn places(&self) -> Vec<String> {
        self.servers.iter().map(Redis::place).collect()
    }

    /// Moves so many slots, with what is in them, from one server to another.
    pub fn move_slots(&self, (from, to): (usize, usize), slots: u32) {
        let server = |number: usize| self.servers.get(number).expect("a server of the cluster");
        let id = |number| server(number).ask(&["CLUSTER", "MYID"]).trim().to_owned();
        let moved = Command::new("timeout")
            .args(["60", "redis-cli", "--cluster", "reshard", &server(to).place()])
            .args(["--cluster-from", &id(from)])
            .args(["--cluster-to", &id(to)])
            .args(["--cluster-slots", &slots.to_string(), "--cluster-yes"])
            .output()
            .expect("redis-cli comes with the server");
        let said = String::from_utf8_lossy(&moved.stdout);
        assert!(moved.status.success(), "{said}");
    }
}
