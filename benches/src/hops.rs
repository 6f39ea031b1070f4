//! What stands in the path of mail while it is measured: each takes mail at an address of its own,
//! runs on the core of the servers, and passes everything on to one smtp-sink.

use std::fs::{self, File, Permissions};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::{on_server_core, tree_cpu_parts_s, tree_cpu_s};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where `npm install --prefix` is told to put Haraka.
pub const HARAKA: &str = "/var/tmp/haraka";

/// A server with all that it has started; they end when this is dropped.
#[derive(Debug)]
struct Running(Child);

impl Running {
    fn start(command: &Command, directory: &Path, name: &str) -> io::Result<Self> {
        let log = File::create(directory.join(format!("{name}.out")))?;
        // A session and a group of its own; Postfix hangs where it has a group and no session.
        let mut own = Command::new("setsid");
        own.arg(command.get_program()).args(command.get_args());
        own.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        own.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().map(Self)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The group: what it has started as well. It may have ended by itself.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}

/// Something that mail goes through.
#[derive(Debug)]
pub struct Hop {
    /// Its name in tables.
    pub name: &'static str,
    /// Where it takes mail.
    pub address: String,
    running: Vec<Running>,
    directory: TempDir,
}

impl Hop {
    /// Seconds of processor time that it has taken, with all that belongs to it.
    pub fn cpu_s(&self) -> f64 {
        self.running.iter().map(|running| tree_cpu_s(running.0.id())).sum()
    }

    /// The same, the user's time and the system's.
    pub fn cpu_parts_s(&self) -> (f64, f64) {
        let parts = self.running.iter().map(|running| tree_cpu_parts_s(running.0.id()));
        parts.fold((0.0, 0.0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
    }

    /// How many messages wait in its queue, if it is Postfix.
    pub fn queued(&self) -> usize {
        let spool = self.directory.path().join("spool");
        let queues = ["incoming", "active", "deferred"].map(|name| fs::read_dir(spool.join(name)));
        queues.into_iter().flatten().flatten().count()
    }

    /// Its first process.
    pub fn pid(&self) -> u32 {
        self.running.first().map_or(0, |running| running.0.id())
    }

    fn start(
        name: &'static str,
        address: String,
        directory: TempDir,
        commands: Vec<Command>,
    ) -> io::Result<Self> {
        let mut running = Vec::new();
        for (number, command) in commands.into_iter().enumerate() {
            let output = format!("{name}{number}");
            running.push(Running::start(&command, directory.path(), &output)?);
        }
        let begun = Instant::now();
        while TcpStream::connect(&address).is_err() {
            let ended = running.iter_mut().any(|it| it.0.try_wait().is_ok_and(|it| it.is_some()));
            if ended || begun.elapsed() > PATIENCE {
                let said = fs::read_to_string(directory.path().join(format!("{name}0.out")));
                let said = said.unwrap_or_default();
                return Err(io::Error::other(format!("{name} does not start: {said}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { name, address, running, directory })
    }
}

/// An address of this machine that is free now.
///
/// # Errors
/// No port is.
pub fn free_address() -> io::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// A directory that every user can enter.
///
/// # Errors
/// There can be none.
pub fn directory() -> io::Result<TempDir> {
    let directory = TempDir::new()?;
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
    Ok(directory)
}

fn parts(address: &str) -> (&str, &str) {
    address.rsplit_once(':').unwrap_or((address, "25"))
}

/// The last stop of all mail: Postfix's smtp-sink, on the core of whoever measures.
#[derive(Debug)]
pub struct Sink {
    /// Where it takes mail.
    pub address: String,
    counters: PathBuf,
    _hop: Hop,
}

impl Sink {
    /// Starts it.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn start() -> io::Result<Self> {
        let (address, directory) = (free_address()?, directory()?);
        let counters = directory.path().join("sink0.out");
        let mut command = Command::new("smtp-sink");
        command.args(["-u", "nobody", "-m", "10000", "-c", &address, "4096"]);
        let hop = Hop::start("sink", address.clone(), directory, vec![command])?;
        Ok(Self { address, counters, _hop: hop })
    }

    /// How many messages it has taken.
    pub fn count(&self) -> u64 {
        let text = fs::read(&self.counters).unwrap_or_default();
        // `sess=1 quit=1 mesg=1`, written again and again with a CR between.
        let text =
            String::from_utf8_lossy(text.get(text.len().saturating_sub(200)..).unwrap_or(&text))
                .into_owned();
        let last = text.rsplit("mesg=").next().unwrap_or_default();
        let digits: String = last.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0)
    }
}

/// The mpp that was built with this program, with this configuration, which listens there.
///
/// # Errors
/// It was not built, or does not start.
pub fn mpp(address: String, configuration: &str) -> io::Result<Hop> {
    let program = std::env::current_exe()?.with_file_name("mpp");
    if !program.exists() {
        return Err(io::Error::other("first build mpp: cargo build --release --package mpp"));
    }
    let directory = directory()?;
    let file = directory.path().join("mpp.toml");
    fs::write(&file, configuration)?;
    let mut command = on_server_core(program);
    command.arg("serve").arg("--config").arg(file);
    command.arg("--state").arg(directory.path().join("state"));
    command.args(["--listen", &free_address()?]);
    Hop::start("mpp", address, directory, vec![command])
}

/// Whatever a command starts; it must listen there.
///
/// # Errors
/// It does not start.
pub fn own(name: &'static str, address: String, command: Command) -> io::Result<Hop> {
    Hop::start(name, address, directory()?, vec![command])
}

/// `HAProxy` in TCP mode: it moves bytes and reads none.
///
/// # Errors
/// It is not installed, or does not start.
pub fn haproxy(next_hop: &str) -> io::Result<Hop> {
    let (address, directory) = (free_address()?, directory()?);
    let file = directory.path().join("haproxy.cfg");
    fs::write(
        &file,
        format!(
            "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 10s\n  \
             timeout client 5m\n  timeout server 5m\nlisten smtp\n  bind {address}\n  \
             server sink {next_hop}\n"
        ),
    )?;
    let mut command = on_server_core("haproxy");
    command.arg("-db").arg("-f").arg(file);
    Hop::start("HAProxy, TCP mode", address, directory, vec![command])
}

/// nginx's mail proxy, and the HTTP server that it asks where mail goes: this program, which must
/// know the argument `auth-http ADDRESS NEXT_HOP`.
///
/// # Errors
/// It is not installed, or does not start.
pub fn nginx(next_hop: &str) -> io::Result<Hop> {
    let (address, auth, directory) = (free_address()?, free_address()?, directory()?);
    let root = directory.path().display();
    let file = directory.path().join("nginx.conf");
    fs::write(
        &file,
        format!(
            "load_module /usr/lib/nginx/modules/ngx_mail_module.so;\ndaemon off;\n\
             worker_processes 1;\nworker_rlimit_nofile 20000;\npid {root}/pid;\n\
             error_log stderr warn;\nevents {{ worker_connections 10000; }}\nmail {{\n  \
             server_name mx.test.example;\n  auth_http {auth}/;\n  proxy_pass_error_message on;\n  \
             server {{\n    listen {address};\n    protocol smtp;\n    smtp_auth none;\n    \
             xclient off;\n    smtp_capabilities PIPELINING \"SIZE 104857600\" 8BITMIME;\n  }}\n}}\n"
        ),
    )?;
    let mut command = on_server_core("nginx");
    command.arg("-c").arg(file).arg("-e").arg("stderr").arg("-p").arg(directory.path());
    let mut asked = on_server_core(std::env::current_exe()?);
    asked.args(["auth-http", &auth, next_hop]).env("MPP_BENCH_MOVED", "1");
    Hop::start("nginx, mail proxy", address, directory, vec![command, asked])
}

/// Answers nginx's questions where mail goes, always alike, for ever.
///
/// # Errors
/// The address cannot be used.
pub fn serve_auth_http(address: &str, next_hop: &str) -> io::Result<()> {
    use std::io::{Read as _, Write as _};
    let (host, port) = parts(next_hop);
    let answer = format!(
        "HTTP/1.0 200 OK\r\nAuth-Status: OK\r\nAuth-Server: {host}\r\nAuth-Port: {port}\r\n\r\n"
    );
    let mut bytes = [0; 4096];
    for stream in TcpListener::bind(address)?.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut length = 0;
        // A request has no body; nginx sends it at once.
        while let Ok(read @ 1..) = stream.read(bytes.get_mut(length..).unwrap_or_default()) {
            length += read;
            if bytes.get(..length).is_some_and(|it| it.ends_with(b"\r\n\r\n")) {
                break;
            }
        }
        // nginx may have gone.
        let _ = stream.write_all(answer.as_bytes());
    }
    Ok(())
}

/// Haraka, where npm has put it.
///
/// # Errors
/// It is not there, or does not start.
pub fn haraka(next_hop: &str) -> io::Result<Hop> {
    let package = Path::new(HARAKA).join("node_modules/Haraka");
    if !package.exists() {
        let how = format!("Haraka is missing: npm install --prefix {HARAKA} Haraka@3.3");
        return Err(io::Error::other(how));
    }
    let (address, directory) = (free_address()?, directory()?);
    let (host, port) = parts(next_hop);
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("config"))?;
    fs::create_dir(at("plugins"))?;
    // It does not start without these, which its package holds.
    fs::copy(package.join("config/connection.ini"), at("config/connection.ini"))?;
    // Every client's name would be looked up, and there is no such name.
    let no_names = "exports.hook_lookup_rdns = (next) => next(OK, 'localhost')\n";
    for (name, text) in [
        ("plugins/no_names.js", no_names.to_owned()),
        ("config/plugins", "no_names\nrcpt_to.in_host_list\nqueue/smtp_forward\n".to_owned()),
        ("config/host_list", "test.example\n".to_owned()),
        ("config/me", "mx.test.example\n".to_owned()),
        ("config/log.ini", "[main]\nlevel=error\n".to_owned()),
        ("config/databytes", "104857600\n".to_owned()),
        ("config/smtp.ini", format!("listen={address}\nnodes=0\n")),
        ("config/smtp_forward.ini", format!("host={host}\nport={port}\n")),
    ] {
        fs::write(at(name), text)?;
    }
    let mut command = on_server_core("node");
    command.arg(package.join("bin/haraka")).arg("-c").arg(directory.path());
    Hop::start("Haraka", address, directory, vec![command])
}

/// Postfix, which takes a message into its queue and relays it from there.
///
/// # Errors
/// It is not installed, or does not start.
pub fn postfix(next_hop: &str) -> io::Result<Hop> {
    let (host, port) = parts(next_hop);
    postfix_with("Postfix", &format!("relayhost = [{host}]:{port}\n"))
}

/// Postfix with these lines in its main.cf.
///
/// # Errors
/// It is not installed, or does not start.
pub fn postfix_with(name: &'static str, lines: &str) -> io::Result<Hop> {
    let (address, directory) = (free_address()?, directory()?);
    let root = directory.path().display();
    let at = |name: &str| directory.path().join(name);
    for (name, mode, owner) in QUEUES {
        let status = Command::new("install")
            .args(["-d", "-m", mode, "-o", owner, "-g"])
            .arg(if mode == "730" || mode == "710" { "postdrop" } else { "root" })
            .arg(at(name))
            .status()?;
        if !status.success() {
            return Err(io::Error::other("only root can start Postfix"));
        }
    }
    let main = format!(
        "compatibility_level = 3.6\nqueue_directory = {root}/spool\ndata_directory = {root}/data\n\
         command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\n\
         maillog_file = {root}/mail.log\nmaillog_file_prefixes = /tmp, /var\n\
         myhostname = mx.test.example\nmydestination =\nalias_maps =\nlocal_recipient_maps =\n\
         inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmynetworks = 127.0.0.0/8\n\
         smtp_host_lookup = native\ndisable_dns_lookups = yes\nsmtpd_peername_lookup = no\n\
         biff = no\nsmtpd_client_connection_count_limit = 0\n\
         message_size_limit = 104857600\n{lines}"
    );
    fs::write(at("etc/main.cf"), main)?;
    fs::write(at("etc/master.cf"), format!("{address} inet n - n - - smtpd\n{MASTER_CF}"))?;
    let mut command = on_server_core("/usr/lib/postfix/sbin/master");
    command.arg("-c").arg(at("etc")).arg("-s");
    Hop::start(name, address, directory, vec![command])
}

/// Directories of Postfix, with mode and owner.
const QUEUES: [(&str, &str, &str); 18] = [
    ("etc", "755", "root"),
    ("spool", "755", "root"),
    ("spool/pid", "755", "root"),
    ("data", "700", "postfix"),
    ("spool/active", "700", "postfix"),
    ("spool/bounce", "700", "postfix"),
    ("spool/corrupt", "700", "postfix"),
    ("spool/defer", "700", "postfix"),
    ("spool/deferred", "700", "postfix"),
    ("spool/flush", "700", "postfix"),
    ("spool/hold", "700", "postfix"),
    ("spool/incoming", "700", "postfix"),
    ("spool/private", "700", "postfix"),
    ("spool/saved", "700", "postfix"),
    ("spool/trace", "700", "postfix"),
    ("spool/maildrop", "730", "postfix"),
    ("spool/public", "710", "postfix"),
    ("spool/tmp", "700", "postfix"),
];

const MASTER_CF: &str = "pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
";
