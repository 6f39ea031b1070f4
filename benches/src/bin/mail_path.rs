//! mpp in the path of mail beside what else can stand there, in one run: smtp-source straight into
//! smtp-sink, then through mpp, HAProxy, nginx, Haraka and Postfix. Then what many sessions and a
//! large message take, and how fast clients that are not wanted are turned away.
//!
//!     cargo build --release --package mpp
//!     npm install --prefix /var/tmp/haraka Haraka@3.3
//!     cargo run --release --package mpp-benches --bin mail_path [-- SECTION ...] [--quick]
//!
//! Sections: throughput memory turned-away; all without one. As root, with the packages postfix,
//! haproxy, nginx and libnginx-mod-mail. What is measured has core 0; smtp-source and smtp-sink share
//! core 1, straight into each other as well. Each figure is the median of the rounds, each ratio
//! that of neighbouring runs.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a measurement prints what it found, and stops where it cannot go on"
)]

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use mpp_benches::hops::{self, Hop, Sink};
use mpp_benches::process::{
    move_to_own_core, open_many_files, others_cpu_s, peak_bytes, resident_bytes,
};
use mpp_benches::turned_away::{self, NETWORK};

/// Sessions at once.
const SESSIONS: u32 = 32;
/// What others may take during a run, in cores; interrupts, which are nobody's, among it.
const OTHERS_MAX: f64 = 0.15;
/// How often a run that others disturb is tried.
const ATTEMPTS: u32 = 8;
const MIB: f64 = (1 << 20) as f64;

/// The configuration of mpp that is measured, all of it: mail for `test.example` that comes to
/// `listen` goes on to `next_hop`.
fn configuration(listen: &str, next_hop: &str) -> String {
    format!(
        "[proxy.mx]\nuse = \"gateway\"\nlisten = [\"{listen}\"]\nname = \"mx.test.example\"\n\
         domains = [\"test.example\"]\nnext_hop = [\"{next_hop}\"]\nresolve = false\n\
         message_size = \"100 MiB\"\n"
    )
}

/// The same where clients of a network are not wanted, and loopback is a network like others.
fn unwelcoming(listen: &str, next_hop: &str) -> String {
    format!(
        "{}[networks]\nlocal = [\"10.0.0.0/8\"]\n[policy.default.access]\n\
         deny.client = [\"{NETWORK}\"]\n",
        configuration(listen, next_hop)
    )
}

fn mpp(make: fn(&str, &str) -> String, next_hop: &str) -> io::Result<Hop> {
    let listen = hops::free_address()?;
    let text = make(&listen, next_hop);
    hops::mpp(listen, &text)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, address, next_hop] = &arguments[..]
        && word == "auth-http"
    {
        return hops::serve_auth_http(address, next_hop).expect("an HTTP server");
    }
    move_to_own_core();
    open_many_files();
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    let chosen: Vec<&String> = arguments.iter().filter(|it| !it.starts_with("--")).collect();
    for (name, section) in [
        ("throughput", throughput as fn(bool)),
        ("memory", memory),
        ("turned-away", turned_away_by_mpp),
    ] {
        if chosen.is_empty() || chosen.iter().any(|it| *it == name) {
            section(is_quick);
        }
    }
}

/// What smtp-source sends.
#[derive(Clone, Copy)]
struct Load {
    bytes: u32,
    /// All messages of a session on one connection, or each on a connection of its own.
    is_kept_open: bool,
}

fn send(address: &str, load: Load, (sessions, messages): (u32, u32)) {
    let mut command = Command::new("smtp-source");
    if load.is_kept_open {
        command.arg("-d");
    }
    command.args(["-s", &sessions.to_string(), "-m", &messages.to_string()]);
    command.args(["-l", &load.bytes.to_string(), "-f", "a@x.example", "-t", "b@test.example"]);
    let status = command.arg(address).status().expect("smtp-source comes with Postfix");
    assert!(status.success(), "smtp-source: {status}");
}

/// One run, until smtp-sink has every message: messages a second, and microseconds of processor
/// time that the hop took for each.
fn run(hop: Option<&Hop>, sink: &Sink, load: Load, messages: u32) -> (f64, f64) {
    let address = hop.map_or(&sink.address, |hop| &hop.address);
    let wanted = sink.count() + u64::from(messages);
    let cpu_s = hop.map_or(0.0, Hop::cpu_s);
    let begun = Instant::now();
    send(address, load, (SESSIONS, messages));
    while sink.count() < wanted {
        assert!(begun.elapsed() < Duration::from_mins(5), "messages are missing");
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = begun.elapsed().as_secs_f64();
    assert_eq!(sink.count(), wanted, "no message twice");
    let cpu_s = hop.map_or(0.0, Hop::cpu_s) - cpu_s;
    (f64::from(messages) / took, cpu_s * 1e6 / f64::from(messages))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn throughput(is_quick: bool) {
    let sink = Sink::start().expect("smtp-sink (Debian: postfix)");
    let next_hop = &*sink.address;
    let mut hops = Vec::new();
    for started in [
        mpp(configuration, next_hop),
        hops::haproxy(next_hop),
        hops::nginx(next_hop),
        hops::haraka(next_hop),
        hops::postfix(next_hop),
    ] {
        match started {
            Ok(hop) => hops.push(hop),
            Err(error) => eprintln!("left out: {error}"),
        }
    }
    let (rounds, time_s) = if is_quick { (1, 0.5) } else { (5, 2.0) };
    println!(
        "| through | message | connection | messages/s | to direct | CPU, us | CPU to HAProxy |\n\
         | --- | ---: | --- | ---: | ---: | ---: | ---: |"
    );
    for (bytes, size) in [(4 << 10, "4 KiB"), (50 << 10, "50 KiB")] {
        for is_kept_open in [false, true] {
            let load = Load { bytes, is_kept_open };
            let kind = if is_kept_open { "kept" } else { "one a message" };
            measure(&hops, &sink, load, &format!("{size} | {kind}"), (rounds, time_s));
        }
    }
}

/// Rounds of runs, each beside one straight into the sink.
fn measure(hops: &[Hop], sink: &Sink, load: Load, what: &str, (rounds, time_s): (u32, f64)) {
    // As many as fill the time; the run that finds out warms everything up.
    let enough = |rate: f64| ((rate * time_s) as u32).max(SESSIONS * 4);
    let direct_messages = enough(run(None, sink, load, 1000).0);
    let messages: Vec<u32> =
        hops.iter().map(|hop| enough(run(Some(hop), sink, load, 200).0)).collect();
    let (mut direct, mut disturbed) = (Vec::new(), 0);
    let mut found = vec![(Vec::new(), Vec::new(), Vec::new()); hops.len()];
    for _ in 0..rounds {
        for ((hop, messages), found) in hops.iter().zip(&messages).zip(&mut found) {
            let pair = || {
                let (floor, _) = run(None, sink, load, direct_messages);
                (floor, run(Some(hop), sink, load, *messages))
            };
            let (floor, (rate, cpu_us)) = undisturbed(pair, &mut disturbed);
            direct.push(floor);
            found.0.push(rate);
            found.1.push(rate / floor);
            found.2.push(cpu_us);
        }
    }
    println!("| (direct) | {what} | {:.0} | 1.00 | | |", median(direct));
    let cpus: Vec<f64> = found.iter().map(|(_, _, cpu_us)| median(cpu_us.clone())).collect();
    let haproxy = hops.iter().position(|hop| hop.name.starts_with("HAProxy"));
    let haproxy = haproxy.and_then(|place| cpus.get(place)).copied();
    for ((hop, (rate, ratio, _)), cpu_us) in hops.iter().zip(found).zip(cpus) {
        let to_haproxy = haproxy.map_or_else(String::new, |it| format!("{:.2}", cpu_us / it));
        println!(
            "| {} | {what} | {:.0} | {:.2} | {cpu_us:.0} | {to_haproxy} |",
            hop.name,
            median(rate),
            median(ratio)
        );
    }
    if disturbed > 0 {
        eprintln!("{what}: {disturbed} runs count although others used the machine");
    }
    // Whoever watches sees it at once.
    let _ = io::stdout().flush();
}

/// Runs again, some times at the most, while others take more than a part of the machine.
fn undisturbed<T>(mut run: impl FnMut() -> T, disturbed: &mut u32) -> T {
    for attempt in 1.. {
        let (begun, others_s) = (Instant::now(), others_cpu_s());
        let found = run();
        let share = (others_cpu_s() - others_s) / begun.elapsed().as_secs_f64();
        if share < OTHERS_MAX || attempt == ATTEMPTS {
            *disturbed += u32::from(share >= OTHERS_MAX);
            return found;
        }
    }
    unreachable!("the last attempt is taken");
}

/// Sessions that have said EHLO and say nothing more.
fn idle_sessions(address: &str, count: usize) -> Vec<TcpStream> {
    let begin = |_| {
        let mut stream = TcpStream::connect(address).expect("a server that listens");
        let mut lines = BufReader::new(stream.try_clone().expect("a file")).lines();
        let mut hear = || {
            let line = lines.by_ref().map_while(Result::ok);
            let last = line.into_iter().find(|line| line.as_bytes().get(3) != Some(&b'-'));
            let last = last.expect("a reply");
            assert!(last.starts_with('2'), "{last}");
        };
        hear();
        stream.write_all(b"EHLO idle.example\r\n").expect("a server that reads");
        hear();
        stream
    };
    (0..count).map(begin).collect()
}

/// What sessions and a large message take of memory.
fn memory(_is_quick: bool) {
    let sink = Sink::start().expect("smtp-sink (Debian: postfix)");
    let load = Load { bytes: 4 << 10, is_kept_open: false };
    let started = || {
        let hop = mpp(configuration, &sink.address).expect("mpp");
        send(&hop.address, load, (1, 5));
        let base = resident_bytes(hop.pid());
        (hop, base)
    };
    println!("\n| measure | found | must |\n| --- | ---: | ---: |");
    let above = |peak: u64, base: u64| format!("{:.1}", peak.saturating_sub(base) as f64 / MIB);
    let (hop, base) = started();
    println!("| resident memory with no session, MiB | {:.1} | |", base as f64 / MIB);
    let idle = idle_sessions(&hop.address, 1000);
    println!("| 1,000 idle sessions, MiB more | {} | |", above(resident_bytes(hop.pid()), base));
    send(&hop.address, load, (200, 20_000));
    println!(
        "| 1,000 idle and 200 busy sessions, MiB more at the most | {} | 30 |",
        above(peak_bytes(hop.pid()), base)
    );
    drop(idle);
    drop(hop);
    let (hop, base) = started();
    let large = Load { bytes: 50 << 20, is_kept_open: false };
    let begun = Instant::now();
    send(&hop.address, large, (1, 1));
    let took = begun.elapsed().as_secs_f64();
    println!(
        "| a message of 50 MiB, MiB more at the most | {} | its bounded buffer |",
        above(peak_bytes(hop.pid()), base)
    );
    println!("| the same, MiB/s | {:.0} | |", 50.0 / took);
}

/// How many unwanted clients a second are sent away.
fn turned_away_by_mpp(is_quick: bool) {
    let sink = Sink::start().expect("smtp-sink (Debian: postfix)");
    let hop = mpp(unwelcoming, &sink.address).expect("mpp");
    let address = hop.address.parse().expect("an address");
    turned_away::call(address, Duration::from_millis(300)).expect("ports");
    let time = Duration::from_secs(if is_quick { 1 } else { 5 });
    let cpu_s = hop.cpu_s();
    let count = turned_away::call(address, time).expect("ports");
    let cpu_s = hop.cpu_s() - cpu_s;
    println!("\n| measure | found | must |\n| --- | ---: | ---: |");
    println!(
        "| unwanted clients turned away, a second | {:.0} | 10,000 |",
        count.turned_away as f64 / time.as_secs_f64()
    );
    let all = count.turned_away + count.silent + count.welcomed;
    println!("| processor time for each, us | {:.1} | 100 |", cpu_s * 1e6 / all.max(1) as f64);
    println!("| closed without a word, welcomed | {}, {} | 0, 0 |", count.silent, count.welcomed);
}
