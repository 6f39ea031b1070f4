//! What mpp itself costs for a message that rspamd looks into, and what many large ones take while
//! they wait.
//!
//!     cargo build --release --package mpp
//!     cargo run --release --package mpp-benches --bin scanning
//!
//! As root, with the packages postfix and rspamd. The same messages go through a gateway that has
//! nothing looked into and through gateways that have each looked into, in turn; the difference is what
//! the scan costs mpp.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a measurement prints what it found, and stops where it cannot go on"
)]

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use mpp_benches::hops::{self, Hop, Sink};
use mpp_benches::process::{open_many_files, peak_bytes, resident_bytes};
use mpp_tests::real::dns::NameServer;
use mpp_tests::real::scanners::{Extras, Kind, RealScanner};
use tempfile::TempDir;

/// Messages of a round: of lines of one letter, and of ordinary ones, which take a scanner longer.
const MESSAGES: [u32; 2] = [2_000, 500];
/// Rounds; each row is the median of its own.
const ROUNDS: usize = 3;
const MIB: usize = 1 << 20;
/// Large messages at once, and how large each is.
const LARGE: (usize, usize) = (100, 20);

fn configuration(listen: &str, next_hop: &str, scanner: &str) -> String {
    let scan = if scanner.is_empty() {
        ""
    } else {
        "[policy.default.scan]\nwith = [\"rspamd\"]\ntag = 900\nquarantine = 0\nreject = 0\n"
    };
    format!(
        "[server]\nstate = \"state\"\n[proxy.measured]\nuse = \"gateway\"\nlisten = [\"{listen}\"]\n\
         next_hop = [\"{next_hop}\"]\ndomains = [\"test.example\"]\ngreet_delay = \"0s\"\n\
         resolve = false\nclient_connections = 1000\nnetwork_connections = 1000\n\
         [networks]\nlocal = [\"10.0.0.0/8\"]\n{scanner}\
         [policy.default.greylist]\nmode = \"off\"\n{scan}"
    )
}

/// Messages of 10 KiB.
enum Mail {
    /// Lines of one letter: a scanner has hardly anything to do.
    Plain,
    /// One as companies send them, in this file of this folder.
    Ordinary(TempDir),
}

impl Mail {
    /// Text and HTML with links, some fields of a header, and 10 KiB in all.
    fn ordinary() -> Self {
        let mut text = String::from(
            "Received: from app.shop.example (app.shop.example [198.51.100.7])\n\tby out.shop.example \
             with ESMTPS id 4XYZ\n\tfor <b@test.example>; Sat, 28 Nov 2026 10:00:00 +0000\n\
             From: The Shop <news@shop.example>\nTo: <b@test.example>\nSubject: Your order of Friday\n\
             Date: Sat, 28 Nov 2026 10:00:00 +0000\nMessage-ID: <1.2.3@shop.example>\n\
             List-Unsubscribe: <https://shop.example/leave>\nMIME-Version: 1.0\n\
             Content-Type: multipart/alternative; boundary=\"=_x\"\n\n",
        );
        let line = |number: usize| {
            format!("Item {number}: a kettle of copper, two litres, leaves our house on Monday")
        };
        text.push_str("--=_x\nContent-Type: text/plain; charset=utf-8\n\n");
        for number in 0..40 {
            let _ = writeln!(text, "{}\n", line(number));
        }
        text.push_str("--=_x\nContent-Type: text/html; charset=utf-8\n\n<html><body>\n");
        for number in 0..40 {
            let link = format!("https://shop{}.example/item/{number}", number % 5);
            let _ = writeln!(text, "<p><a href=\"{link}\">{}</a></p>", line(number));
        }
        text.push_str("</body></html>\n--=_x--\n");
        let folder = hops::directory().expect("a folder");
        fs::write(folder.path().join("mail"), text).expect("a folder of our own");
        Self::Ordinary(folder)
    }

    fn messages(&self) -> u32 {
        let [plain, ordinary] = MESSAGES;
        if matches!(self, Self::Plain) { plain } else { ordinary }
    }

    fn send(&self, address: &str, messages: u32) {
        let mut command = Command::new("smtp-source");
        command.args(["-d", "-s", "8", "-f", "a@x.example", "-t", "b@test.example"]);
        match self {
            Self::Plain => command.args(["-l", "10240"]),
            Self::Ordinary(folder) => command.arg("-F").arg(folder.path().join("mail")),
        };
        command.args(["-m", &messages.to_string(), address]);
        let status = command.status().expect("smtp-source comes with Postfix");
        assert!(status.success(), "smtp-source: {status}");
    }
}

/// Processor time, in microseconds a message.
#[derive(Clone, Copy)]
struct Cost {
    user: f64,
    system: f64,
    /// Of the scanner.
    its: f64,
}

impl Cost {
    fn all(self) -> f64 {
        self.user + self.system
    }
}

/// A gateway, what goes through it, and who looks into that.
struct Row<'r> {
    name: &'static str,
    hop: Hop,
    mail: &'r Mail,
    scanner: Option<&'r RealScanner>,
    costs: Vec<Cost>,
}

impl<'r> Row<'r> {
    fn start(
        name: &'static str,
        sink: &Sink,
        mail: &'r Mail,
        scanner: Option<(&'r RealScanner, &str)>,
    ) -> Self {
        let listen = hops::free_address().expect("a port");
        let lines = scanner.map(|(scanner, at)| scanner.lines_at(at)).unwrap_or_default();
        let hop = hops::mpp(listen.clone(), &configuration(&listen, &sink.address, &lines));
        let hop = hop.expect("mpp");
        mail.send(&hop.address, 50);
        Self { name, hop, mail, scanner: scanner.map(|(scanner, _)| scanner), costs: Vec::new() }
    }

    fn round(&mut self) {
        let its = || self.scanner.map_or(0, RealScanner::cpu_ms) as f64 / 1000.0;
        let before = (self.hop.cpu_parts_s(), its());
        let messages = self.mail.messages();
        self.mail.send(&self.hop.address, messages);
        let after = (self.hop.cpu_parts_s(), its());
        let of = |seconds: f64| seconds * 1e6 / f64::from(messages);
        self.costs.push(Cost {
            user: of(after.0.0 - before.0.0),
            system: of(after.0.1 - before.0.1),
            its: of(after.1 - before.1),
        });
    }

    /// What half of the rounds were below.
    fn median(&self) -> Cost {
        let of = |part: fn(&Cost) -> f64| {
            let mut all: Vec<f64> = self.costs.iter().map(part).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or_default()
        };
        Cost { user: of(|it| it.user), system: of(|it| it.system), its: of(|it| it.its) }
    }
}

/// Waits until a scanner has done what it does when it starts.
fn settle(scanner: &RealScanner) {
    loop {
        let before = scanner.cpu_ms();
        std::thread::sleep(Duration::from_secs(2));
        if scanner.cpu_ms() - before < 30 {
            return;
        }
    }
}

/// A message up to its last line; the connection on which it waits.
fn begin_large(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the gateway");
    let mut lines = BufReader::new(stream.try_clone().expect("a socket"));
    let mut out = stream;
    let mut answered = |out: &mut TcpStream, command: &str| {
        out.write_all(command.as_bytes()).expect("the gateway listens");
        let mut line = String::new();
        loop {
            line.clear();
            lines.read_line(&mut line).expect("an answer");
            assert!(line.starts_with(['2', '3']), "{command}: {line}");
            if line.as_bytes().get(3) == Some(&b' ') {
                return;
            }
        }
    };
    answered(&mut out, "");
    answered(&mut out, "EHLO c.example\r\n");
    answered(&mut out, "MAIL FROM:<a@x.example>\r\n");
    answered(&mut out, "RCPT TO:<b@test.example>\r\n");
    answered(&mut out, "DATA\r\n");
    let line = "x".repeat(1022) + "\r\n";
    let mib = line.repeat(1024);
    for _ in 0..LARGE.1 {
        out.write_all(mib.as_bytes()).expect("the gateway listens");
    }
    out
}

fn print(rows: &[Row<'_>]) {
    println!("| a message of 10 KiB | mpp, user | system | in all | rspamd | mpp to rspamd |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    let alone = |row: &Row<'_>| {
        let is_it = |it: &&Row<'_>| it.scanner.is_none() && std::ptr::eq(it.mail, row.mail);
        rows.iter().find(is_it).map(Row::median)
    };
    for row in rows {
        let cost = row.median();
        print!("| {} | {:.0} | {:.0} | {:.0} |", row.name, cost.user, cost.system, cost.all());
        if row.scanner.is_none() {
            println!(" | |");
            continue;
        }
        println!(" {:.0} | {:.3} |", cost.its, cost.all() / cost.its);
        let Some(alone) = alone(row) else { continue };
        let (user, system) = (cost.user - alone.user, cost.system - alone.system);
        println!(
            "| of that the scan: what the gateway alone does not take | {user:.0} | {system:.0} | {:.0} | | \
             {:.3} (must 0.05) |",
            user + system,
            (user + system) / cost.its
        );
    }
}

fn main() {
    open_many_files();
    let sink = Sink::start().expect("smtp-sink (Debian: postfix)");
    let nobody = NameServer::start(&[], &[]);
    let least = RealScanner::start(Kind::Rspamd);
    let whole = RealScanner::rspamd_with(Extras { name_server: Some(nobody.address().into()) });
    let (plain, ordinary) = (Mail::Plain, Mail::ordinary());
    let near = least.near_address();
    let mut rows = [
        Row::start("gateway alone, lines of one letter", &sink, &plain, None),
        Row::start(
            "gateway, rspamd that does its least, TCP",
            &sink,
            &plain,
            Some((&least, &least.address())),
        ),
        Row::start(
            "gateway, rspamd that does its least, unix socket",
            &sink,
            &plain,
            Some((&least, &near)),
        ),
        Row::start("gateway alone, ordinary mail", &sink, &ordinary, None),
        Row::start(
            "gateway, rspamd with its own modules, TCP",
            &sink,
            &ordinary,
            Some((&whole, &whole.address())),
        ),
        Row::start(
            "gateway, rspamd with its own modules, unix socket",
            &sink,
            &ordinary,
            Some((&whole, &whole.near_address())),
        ),
    ];
    settle(&whole);
    let asked = nobody.asked();
    for _ in 0..ROUNDS {
        rows.iter_mut().for_each(Row::round);
    }
    print(&rows);
    let [_, tcp, ..] = &rows;
    let [.., ordinary] = MESSAGES;
    // Two rows have it scanned so.
    let questions = (nobody.asked() - asked) / ROUNDS / 2 / ordinary as usize;
    println!(
        "\nMicroseconds of processor time a message, medians of {ROUNDS} rounds. rspamd with its own \
         modules asks its name server {questions} times about an ordinary message; none of the names is there."
    );
    let base = resident_bytes(tcp.hop.pid());
    let waiting: Vec<TcpStream> = (0..LARGE.0).map(|_| begin_large(&tcp.hop.address)).collect();
    let more = peak_bytes(tcp.hop.pid()).saturating_sub(base) / MIB as u64;
    println!(
        "\n{} messages of {} MiB under way: {more} MiB more at the most (the spool keeps 64 MiB in \
         memory)",
        waiting.len(),
        LARGE.1
    );
}
