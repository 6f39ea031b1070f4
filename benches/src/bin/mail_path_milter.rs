//! What mpp as a milter adds to Postfix's own time for a message: the same mail through a Postfix that
//! throws everything away, with the milter and without, run beside run; and what a milter adds that
//! does nothing but answer.
//!
//!     cargo build --release --package mpp
//!     cargo run --release --package mpp-benches --bin mail_path_milter [-- LOAD ...] [--quick]
//!
//! Loads: one kept many large; all without one.
//! As root, with the package postfix. Postfix and mpp have core 0, smtp-source has core 1. The time
//! of a run ends when the queue is empty; its disk is that of the temporary directory. Ratios of time are
//! medians of those of neighbouring runs, of which there are many and short ones, since disks have moods;
//! processor time is summed up over all runs.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::struct_field_names,
    reason = "a measurement prints what it found, and stops where it cannot go on"
)]

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mpp_benches::hops::{self, Hop};
use mpp_benches::process::{move_to_own_core, on_server_core};
use socket2::SockRef;

/// Clients are strangers, and nobody is told to come back.
const STRANGERS: &str = "[networks]\nlocal = [\"10.0.0.0/8\"]\ntrusted = []\n\
    [policy.default.greylist]\nmode = \"off\"\n";
/// The same, and every message is changed: its header is seen for that.
const EDITS: &str = "[policy.default.message]\nadd_headers = [\"X-Checked: {action} {id}\"]\n\
    remove_headers = [\"X-Spam-*\"]\n";

/// How mail comes.
#[derive(Clone, Copy)]
struct Load {
    bytes: u32,
    sessions: u32,
    /// All messages of a session on one connection, or each on a connection of its own.
    is_kept_open: bool,
    messages: u32,
}

/// What a message took, in microseconds.
#[derive(Clone, Copy)]
struct Took {
    wall_us: f64,
    postfix_us: f64,
    milter_us: f64,
}

/// A Postfix, with the milter that it asks.
struct Setup {
    name: &'static str,
    postfix: Hop,
    milter: Option<Hop>,
}

/// A milter that asks for what mpp asks for and goes on whatever comes.
fn serve_null(address: &str) -> io::Result<()> {
    for stream in TcpListener::bind(address)?.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            // Postfix may have gone.
            let _ = answer(&stream);
        });
    }
    Ok(())
}

fn answer(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut packet = Vec::new();
    loop {
        let mut length = [0; 4];
        reader.read_exact(&mut length)?;
        packet.resize(u32::from_be_bytes(length) as usize, 0);
        reader.read_exact(&mut packet)?;
        match packet.first() {
            // Version 6, no actions; no body, header, end of it, unknown commands, DATA.
            Some(b'O') => stream.write_all(b"\0\0\0\x0dO\0\0\0\x06\0\0\0\0\0\0\x03\x70")?,
            Some(b'C' | b'H' | b'M' | b'R' | b'E') => stream.write_all(b"\0\0\0\x01c")?,
            // What is not answered is acknowledged, or Postfix holds back what follows for 40 ms.
            _ => SockRef::from(stream).set_tcp_quickack(true)?,
        }
    }
}

fn null(places: &Places) -> io::Result<Hop> {
    let mut command = on_server_core(std::env::current_exe()?);
    command.args(["null", &places.tcp]);
    hops::own("null", places.tcp.clone(), command)
}

/// Where the milter of a setup listens: at an address, and at a path as well if it is mpp.
struct Places {
    tcp: String,
    unix: String,
}

fn mpp(places: &Places, rules: &str) -> io::Result<Hop> {
    let Places { tcp, unix } = places;
    let text = format!("[listen]\nmilter = [\"{tcp}\", \"unix:{unix}\"]\n{STRANGERS}{rules}");
    hops::mpp(tcp.clone(), &text)
}

/// Something that starts a milter.
type Start<'a> = &'a dyn Fn(&Places) -> io::Result<Hop>;

/// A Postfix that asks a milter over TCP or a unix socket, or none.
fn setup(
    name: &'static str,
    directory: &Path,
    start: Option<(Start<'_>, bool)>,
) -> io::Result<Setup> {
    let lines = "default_transport = discard\nrelay_transport = discard\n\
        milter_default_action = reject\nsmtpd_milters =";
    let Some((start, is_unix)) = start else {
        let postfix = hops::postfix_with("Postfix", &format!("{lines}\n"))?;
        return Ok(Setup { name, postfix, milter: None });
    };
    let tcp = hops::free_address()?;
    let unix = directory.join(tcp.replace(':', "-")).display().to_string();
    let places = Places { tcp, unix };
    let milter = Some(start(&places)?);
    let Places { tcp, unix } = &places;
    let service = if is_unix { format!("unix:{unix}") } else { format!("inet:{tcp}") };
    let postfix = hops::postfix_with("Postfix", &format!("{lines} {service}\n"))?;
    Ok(Setup { name, postfix, milter })
}

fn run(setup: &Setup, load: Load) -> Took {
    let cpu_s = || (setup.postfix.cpu_s(), setup.milter.as_ref().map_or(0.0, Hop::cpu_s));
    let (before, begun) = (cpu_s(), Instant::now());
    let mut command = Command::new("smtp-source");
    if load.is_kept_open {
        command.arg("-d");
    }
    command.args(["-s", &load.sessions.to_string(), "-m", &load.messages.to_string()]);
    command.args(["-l", &load.bytes.to_string(), "-f", "a@x.example", "-t", "b@test.example"]);
    let status = command.arg(&setup.postfix.address).status();
    assert!(status.expect("smtp-source comes with Postfix").success(), "smtp-source fails");
    while setup.postfix.queued() > 0 {
        assert!(begun.elapsed() < Duration::from_mins(5), "messages stay in the queue");
        std::thread::sleep(Duration::from_millis(1));
    }
    let wall_us = begun.elapsed().as_secs_f64() * 1e6;
    let (after, messages) = (cpu_s(), f64::from(load.messages));
    Took {
        wall_us: wall_us / messages,
        postfix_us: (after.0 - before.0) * 1e6 / messages,
        milter_us: (after.1 - before.1) * 1e6 / messages,
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / count
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, address] = &arguments[..]
        && word == "null"
    {
        return serve_null(address).expect("an address");
    }
    move_to_own_core();
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    let (rounds, messages) = if is_quick { (5, 200) } else { (31, 300) };
    let directory = hops::directory().expect("a temporary directory");
    let make = |name, start| setup(name, directory.path(), start).expect(name);
    let plain = make("(none)", None);
    let mpp_plain = |places: &Places| mpp(places, "");
    let mpp_edits = |places: &Places| mpp(places, EDITS);
    let milters = [
        make("null, TCP", Some((&null, false))),
        make("mpp, TCP", Some((&mpp_plain, false))),
        make("mpp, unix socket", Some((&mpp_plain, true))),
        make("the same, header fields changed", Some((&mpp_edits, true))),
    ];
    println!(
        "| milter | message | sessions | connection | us a message | to none | CPU of Postfix, us | \
         to none | CPU of the milter, us | CPU of both to none |\n\
         | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    );
    let chosen: Vec<&String> = arguments.iter().filter(|it| !it.starts_with("--")).collect();
    for (name, kib, sessions, is_kept_open) in [
        ("one", 4, 1, true),
        ("kept", 4, 16, true),
        ("many", 4, 16, false),
        ("large", 50, 16, false),
    ] {
        if !chosen.is_empty() && !chosen.iter().any(|it| *it == name) {
            continue;
        }
        let load = Load { bytes: kib << 10, sessions, is_kept_open, messages };
        compare(&plain, &milters, load, (&format!("{kib} KiB"), rounds));
    }
}

/// Rounds of runs, each beside one without a milter.
fn compare(plain: &Setup, milters: &[Setup], load: Load, (size, rounds): (&str, u32)) {
    let warm = Load { messages: 100, ..load };
    for setup in milters.iter().chain([plain]) {
        run(setup, warm);
    }
    let mut found: Vec<Vec<[Took; 2]>> = vec![Vec::new(); milters.len()];
    for round in 0..rounds {
        for (setup, found) in milters.iter().zip(&mut found) {
            // Who comes first has no advantage.
            let pair = if round % 2 == 0 {
                let without = run(plain, load);
                [without, run(setup, load)]
            } else {
                let with = run(setup, load);
                [run(plain, load), with]
            };
            found.push(pair);
        }
    }
    let kind = if load.is_kept_open { "kept" } else { "one a message" };
    let what = format!("{size} | {} | {kind}", load.sessions);
    let all = || found.iter().flatten().map(|[without, _]| *without);
    println!(
        "| {} | {what} | {:.0} | | {:.0} | | | |",
        plain.name,
        median(all().map(|took| took.wall_us)),
        mean(all().map(|took| took.postfix_us))
    );
    for (setup, pairs) in milters.iter().zip(&found) {
        let with = || pairs.iter().map(|[_, with]| *with);
        let own_us = mean(pairs.iter().map(|[without, _]| without.postfix_us));
        let postfix_us = mean(with().map(|took| took.postfix_us));
        let milter_us = mean(with().map(|took| took.milter_us));
        println!(
            "| {} | {what} | {:.0} | {:.3} | {postfix_us:.0} | {:.3} | {milter_us:.0} | {:.3} |",
            setup.name,
            median(with().map(|took| took.wall_us)),
            median(pairs.iter().map(|[without, with]| with.wall_us / without.wall_us)),
            postfix_us / own_us,
            (postfix_us + milter_us) / own_us,
        );
    }
    // Whoever watches sees it at once.
    let _ = io::stdout().flush();
}
