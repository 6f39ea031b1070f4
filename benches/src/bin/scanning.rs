//! What mpp itself costs for a message that rspamd looks into, and what many large ones take while
//! they wait.
//!
//!     cargo build --release --package mpp
//!     cargo run --release --package mpp-benches --bin scanning
//!
//! As root, with the packages postfix and rspamd.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a measurement prints what it found, and stops where it cannot go on"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::Command;

use mpp_benches::hops::{self, Hop, Sink};
use mpp_benches::process::{open_many_files, peak_bytes, resident_bytes};
use mpp_tests::real::scanners::{Kind, RealScanner};

const MESSAGES: u32 = 2_000;
const MIB: usize = 1 << 20;
/// Large messages at once, and how large each is.
const LARGE: (usize, usize) = (100, 20);

fn configuration(listen: &str, next_hop: &str, scanner: &str) -> String {
    format!(
        "[server]\nstate = \"state\"\n[proxy.measured]\nuse = \"gateway\"\nlisten = [\"{listen}\"]\n\
         next_hop = [\"{next_hop}\"]\ndomains = [\"test.example\"]\ngreet_delay = \"0s\"\n\
         resolve = false\nclient_connections = 1000\nnetwork_connections = 1000\n\
         [networks]\nlocal = [\"10.0.0.0/8\"]\n{scanner}message_size = \"1 MiB\"\n\
         [policy.default.greylist]\nmode = \"off\"\n\
         [policy.default.scan]\nwith = [\"rspamd\"]\ntag = 900\nquarantine = 0\nreject = 0\n"
    )
}

fn started(sink: &Sink, scanner: &RealScanner) -> Hop {
    let listen = hops::free_address().expect("a port");
    let text = configuration(&listen, &sink.address, &scanner.lines());
    hops::mpp(listen, &text).expect("mpp")
}

fn send(address: &str, messages: u32) {
    let status = Command::new("smtp-source")
        .args(["-d", "-s", "8", "-l", "10240", "-f", "a@x.example", "-t", "b@test.example"])
        .args(["-m", &messages.to_string(), address])
        .status()
        .expect("smtp-source comes with Postfix");
    assert!(status.success(), "smtp-source: {status}");
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

fn main() {
    open_many_files();
    let sink = Sink::start().expect("smtp-sink (Debian: postfix)");
    let scanner = RealScanner::start(Kind::Rspamd);
    let hop = started(&sink, &scanner);
    send(&hop.address, 50);
    let before = (hop.cpu_s(), scanner.cpu_ms());
    send(&hop.address, MESSAGES);
    let of = |ms: f64| ms * 1000.0 / f64::from(MESSAGES);
    let own = of((hop.cpu_s() - before.0) * 1000.0);
    let its = of((scanner.cpu_ms() - before.1) as f64);
    println!("| a message of 10 KiB, scanned | processor time, us | to rspamd |");
    println!("| --- | ---: | ---: |");
    println!("| rspamd | {its:.0} | 1.00 |\n| mpp | {own:.0} | {:.3} (must 0.05) |", own / its);
    let base = resident_bytes(hop.pid());
    let waiting: Vec<TcpStream> = (0..LARGE.0).map(|_| begin_large(&hop.address)).collect();
    let more = peak_bytes(hop.pid()).saturating_sub(base) / MIB as u64;
    println!(
        "\n{} messages of {} MiB under way: {more} MiB more at the most (the spool keeps 64 MiB in \
         memory)",
        waiting.len(),
        LARGE.1
    );
}
