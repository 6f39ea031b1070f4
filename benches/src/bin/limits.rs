//! What mpp takes and how long it pauses, against the limits that it is to keep.
//!
//!     cargo build --release --package mpp
//!     cargo run --release --package mpp-benches --bin limits [-- SECTION ...] [--large]
//!
//! Sections: start memory disk silent pause log lookups; all without one. `--large` adds ten
//! million entries.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a measurement prints what it found, and stops where it cannot go on"
)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mpp_benches::drive::{Plan, Report, drive};
use mpp_benches::load::{Kind, hash};
use mpp_benches::process::{cpu_ns, disk_bytes, move_to_own_core, peak_bytes, resident_bytes};
use mpp_benches::servers::{self, Server};
use mpp_engine::question::{Effect, Key, Shelf};
use mpp_hub::store::Store as _;
use mpp_stores::embedded;
use tempfile::TempDir;

const MIB: f64 = (1 << 20) as f64;
const DAY_MS: u64 = 86_400_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if mpp_benches::null::serve_if_asked(&arguments) {
        return;
    }
    move_to_own_core();
    let is_large = arguments.iter().any(|argument| argument == "--large");
    let chosen: Vec<&String> = arguments.iter().filter(|it| !it.starts_with("--")).collect();
    println!("| measure | found | must | aim |\n| --- | ---: | ---: | ---: |");
    for (name, section) in [
        ("start", start as fn()),
        ("memory", memory),
        ("disk", disk),
        ("silent", silent),
        ("pause", pause),
        ("log", log),
        ("lookups", lookups),
    ] {
        if chosen.is_empty() || chosen.iter().any(|it| *it == name) {
            section();
        }
    }
    if is_large {
        large();
    }
}

fn row(measure: &str, found: &str, must: &str, aim: &str) {
    println!("| {measure} | {found} | {must} | {aim} |");
    // Whoever watches sees it at once.
    let _ = std::io::stdout().flush();
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    u64::try_from(since.as_millis()).expect("a time")
}

fn ask(server: &Server, kind: Kind, connections: usize, limit: (Duration, u64)) -> Report {
    let (time, requests) = limit;
    let seed = now_ms() & 0xff_ffff;
    let plan = Plan { kind, seed, connections, reconnects: false, time, requests };
    let target = server.target("TCP").expect("mpp answers over TCP");
    let report = drive(target, &plan).expect("mpp answers");
    assert_eq!(report.errors, 0, "mpp answers everything");
    report
}

const LONG: Duration = Duration::from_mins(10);

/// A directory with a store of so many entries; those of a part run out at another time.
fn filled(entries: u64, keep_ms: impl Fn(u64) -> u64) -> TempDir {
    let directory = TempDir::new().expect("a directory");
    let options = embedded::Options::default();
    let path = directory.path().join("state").join("store");
    let store = embedded::open(&path, &options).expect("a store");
    let now_ms = now_ms();
    for number in 0..entries {
        let (shelf, key, keep_ms) = (Shelf::Greylisted, Key(hash(number)), keep_ms(number));
        store.perform(now_ms, &[Effect::Remember { shelf, key, keep_ms, again: false, mark: 0 }]);
        if number.is_multiple_of(100_000) {
            store.settle().expect("a disk");
        }
    }
    store.compact().expect("a snapshot");
    directory
}

fn state(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("state").join("store")
}

fn start() {
    let server = servers::mpp("").expect("mpp");
    ask(&server, Kind::New, 1, (LONG, 1));
    let resident = resident_bytes(server.pid()) as f64 / MIB;
    row("resident memory at start, MiB", &format!("{resident:.1}"), "20", "8");
    row("start to open port, ms", &format!("{:.0}", server.start.as_secs_f64() * 1e3), "", "");
}

fn memory() {
    let server = servers::mpp("").expect("mpp");
    ask(&server, Kind::New, 64, (Duration::from_secs(2), 20_000));
    let before = resident_bytes(server.pid());
    let entries = 1_000_000;
    ask(&server, Kind::Fill, 64, (LONG, entries));
    std::thread::sleep(Duration::from_secs(2));
    let each = (resident_bytes(server.pid()) - before) as f64 / entries as f64;
    row("memory a triplet at 1 million, asked for, bytes", &format!("{each:.1}"), "40", "16");
}

fn disk() {
    let entries = 1_000_000_u64;
    let live = entries / 10;
    let (filled_at_ms, keep_ms) = (now_ms(), 15_000);
    let directory = filled(entries, |number| if number < live { 2 * DAY_MS } else { keep_ms });
    let bytes = disk_bytes(&state(&directory)) as f64;
    row(
        "disk a triplet after compaction, bytes",
        &format!("{:.1}", bytes / entries as f64),
        "48",
        "16",
    );
    let path = state(&directory);
    let server = servers::mpp_in(directory, "").expect("mpp");
    let before = resident_bytes(server.pid()) as f64 / MIB;
    // A store keeps what is asked for, or up to a tenth longer.
    let over_at_ms = filled_at_ms + keep_ms * 11 / 10;
    std::thread::sleep(Duration::from_millis(over_at_ms.saturating_sub(now_ms())));
    let (begun, need) = (Instant::now(), bytes * live as f64 / entries as f64);
    while disk_bytes(&path) as f64 > 1.2 * need && begun.elapsed() < Duration::from_secs(90) {
        std::thread::sleep(Duration::from_millis(250));
    }
    let took = begun.elapsed().as_secs_f64();
    row(
        "disk after 90 % expired, as a multiple of the live need",
        &format!("{:.2} after {took:.0} s", disk_bytes(&path) as f64 / need),
        "2 in 60 s",
        "1.2",
    );
    std::thread::sleep(Duration::from_secs(8));
    let after = resident_bytes(server.pid()) as f64 / MIB;
    row(
        "resident memory before and after 900,000 expired, MiB",
        &format!("{before:.1}, {after:.1}"),
        "given back",
        "",
    );
}

fn silent() {
    let server = servers::mpp("").expect("mpp");
    let one = || ask(&server, Kind::Known, 1, (Duration::from_secs(1), u64::MAX)).rate();
    one();
    let path = match server.target("unix") {
        Some(mpp_benches::drive::Target::Unix(path)) => path.clone(),
        _ => return,
    };
    let raised = Command::new("prlimit")
        .args(["--nofile=20000:", "--pid", &std::process::id().to_string()])
        .status();
    assert!(raised.is_ok_and(|status| status.success()), "prlimit (Debian: util-linux)");
    let memory = resident_bytes(server.pid());
    let open = || UnixStream::connect(&path).expect("mpp takes 10,000 connections");
    let mut ratios = Vec::new();
    let mut held = Vec::new();
    let mut each = 0.0;
    for _ in 0..3 {
        let without = one();
        held.extend((0..10_000).map(|_| open()));
        std::thread::sleep(Duration::from_millis(500));
        each = (resident_bytes(server.pid()) - memory) as f64 / 10_000.0;
        ratios.push(one() / without);
        held.clear();
        std::thread::sleep(Duration::from_millis(500));
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios.get(1).copied().unwrap_or_default();
    row(
        "rate of one client beside 10,000 silent ones, to that without",
        &format!("{ratio:.3}"),
        "0.9",
        "0.98",
    );
    row("memory of a silent connection, bytes", &format!("{each:.0}"), "", "1024");
}

fn pause() {
    let live = 100_000;
    let directory =
        filled(1_000_000, |number| if number < live { 2 * DAY_MS } else { 20_000 + number / 60 });
    let server = servers::mpp_in(directory, "").expect("mpp");
    let null = servers::null("TCP").expect("the null responder");
    let pid = server.pid();
    let minute = Duration::from_mins(1);
    let floor = ask(&null, Kind::Mixed, 16, (minute / 2, u64::MAX));
    let reloads = std::thread::spawn(move || {
        for _ in 0..5 {
            std::thread::sleep(Duration::from_secs(10));
            let asked = Command::new("kill").args(["-HUP", &pid.to_string()]).status();
            assert!(asked.is_ok_and(|status| status.success()), "SIGHUP");
        }
    });
    let report = ask(&server, Kind::Mixed, 16, (minute, u64::MAX));
    reloads.join().expect("reloads");
    row(
        "longest pause in a minute of reloads, snapshots and expiry, ms",
        &format!("{:.1} (null responder: {:.1})", report.max_us / 1e3, floor.max_us / 1e3),
        "20",
        "10",
    );
    row("p99 in that minute, ms", &format!("{:.2}", report.p99_us / 1e3), "", "");
    let peak = peak_bytes(pid) as f64 / MIB;
    row("most memory in that minute, MiB", &format!("{peak:.0}"), "", "");
}

/// Processor time a decision of two servers in turns, medians: microseconds, and requests/s.
fn in_turns(servers: [&Server; 2], kind: Kind) -> [(f64, f64); 2] {
    let mut rounds = [Vec::new(), Vec::new()];
    for round in 0..6 {
        for (server, held) in servers.iter().zip(&mut rounds) {
            let before = cpu_ns(server.pid());
            let report = ask(server, kind, 16, (Duration::from_millis(1_200), u64::MAX));
            let cpu_us = (cpu_ns(server.pid()) - before) as f64 / 1e3 / report.answers as f64;
            if round > 0 {
                held.push((cpu_us, report.rate()));
            }
        }
    }
    rounds.map(|mut held| {
        held.sort_by(|one, other| one.0.total_cmp(&other.0));
        held.get(held.len() / 2).copied().unwrap_or_default()
    })
}

fn log() {
    let with = servers::mpp("").expect("mpp");
    let without = servers::mpp("[server]\ndecision_log = false\n").expect("mpp");
    let [(with_us, with_rate), (without_us, without_rate)] =
        in_turns([&with, &without], Kind::Mixed);
    row(
        "rate with the decision log, to that without",
        &format!("{:.3}", with_rate / without_rate),
        "said if under 0.9",
        "",
    );
    row(
        "processor time of the decision log, share of a decision",
        &format!("{:.1} %", 100.0 * (1.0 - without_us / with_us)),
        "",
        "",
    );
}

fn lookups() {
    let plain = servers::mpp("").expect("mpp");
    let mut policies = String::new();
    for number in 0..50_000 {
        let recipient = match number % 3 {
            0 => format!("user{number}@dom{}.example.org", number % 40),
            1 => format!("@site{number}.example.org"),
            _ => format!("someone@else{number}.example.com"),
        };
        let _ = write!(
            policies,
            "[policy.p{number}]\nmatch = {{ recipient = [\"{recipient}\"] }}\n\
             greylist.delay = \"2m\"\n"
        );
    }
    let many = servers::mpp(&policies).expect("mpp with 50,000 policies");
    let [(many_us, _), (plain_us, _)] = in_turns([&many, &plain], Kind::New);
    row(
        "50,000 policies, share of a decision",
        &format!("{:.1} %", 100.0 * (1.0 - plain_us / many_us)),
        "5 %",
        "",
    );
    drop(many);
    let traps: Vec<String> = (0..1_000)
        .map(|number| match number % 4 {
            0 => format!("^trap{number}[a-z]+@"),
            1 => format!("^[a-z]+\\\\.old{number}@"),
            2 => format!("^info{number}(-[0-9]+)?@dom[0-9]+\\\\."),
            _ => format!("@honey{number}\\\\.example\\\\.org$"),
        })
        .collect();
    let listed = traps.iter().fold(String::new(), |mut all, trap| {
        let _ = write!(all, "\"{trap}\", ");
        all
    });
    let traps = format!("[policy.default.trap]\npatterns = [{listed}]\n");
    let trapped = servers::mpp(&traps).expect("mpp with 1,000 traps");
    let [(trapped_us, _), (plain_us, _)] = in_turns([&trapped, &plain], Kind::New);
    row(
        "1,000 trap expressions, share of a decision",
        &format!("{:.1} %", 100.0 * (1.0 - plain_us / trapped_us)),
        "5 %",
        "",
    );
}

fn large() {
    let entries = 10_000_000_u64;
    let empty = servers::mpp("").expect("mpp");
    ask(&empty, Kind::New, 1, (LONG, 1));
    let before = resident_bytes(empty.pid());
    drop(empty);
    let directory = filled(entries, |_| 2 * DAY_MS);
    let bytes = disk_bytes(&state(&directory)) as f64 / entries as f64;
    row("disk a triplet at 10 million, bytes", &format!("{bytes:.1}"), "48", "16");
    let mut directory = Some(directory);
    let mut starts = Vec::new();
    for round in 0..3 {
        let begun = Instant::now();
        let held = directory.take().expect("a directory");
        let server = servers::mpp_in(held, "").expect("mpp");
        ask(&server, Kind::New, 1, (LONG, 1));
        starts.push(begun.elapsed().as_secs_f64() * 1e3);
        if round == 0 {
            let each = (resident_bytes(server.pid()) - before) as f64 / entries as f64;
            row("memory a triplet at 10 million, bytes", &format!("{each:.1}"), "40", "16");
        }
        directory = server.stop();
    }
    starts.sort_by(f64::total_cmp);
    let start = starts.get(1).copied().unwrap_or_default();
    row(
        "start with 10 million entries until the first answer, ms",
        &format!("{start:.0}"),
        "2000",
        "300",
    );
}
