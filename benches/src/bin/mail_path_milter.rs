//! What mpp as a milter adds to Postfix's own time for a message: the same mail through a Postfix that
//! throws everything away, with the milter and without, run beside run; and what a milter adds that
//! does nothing but answer.
//!
//!     cargo build --release --package mpp
//!     cargo run --release --package mpp-benches --bin mail_path_milter [-- --quick]
//!
//! As root, with the package postfix. Postfix and mpp have core 0, smtp-source has core 1. The time
//! of a run ends when the queue is empty; its disk is that of the temporary directory. Ratios are medians of
//! those of neighbouring runs.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::struct_field_names,
    reason = "a measurement prints what it found, and stops where it cannot go on"
)]

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use mpp_benches::hops::{self, Hop};
use mpp_benches::process::{move_to_own_core, on_server_core};

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
            _ => {}
        }
    }
}

fn null(milter: &str) -> io::Result<Hop> {
    let mut command = on_server_core(std::env::current_exe()?);
    command.args(["null", milter]);
    hops::own("null", milter.to_owned(), command)
}

fn mpp(milter: &str, rules: &str) -> io::Result<Hop> {
    let text = format!("[listen]\nmilter = [\"{milter}\"]\n{STRANGERS}{rules}");
    hops::mpp(milter.to_owned(), &text)
}

/// Something that starts a milter at an address.
type Start<'a> = &'a dyn Fn(&str) -> io::Result<Hop>;

fn setup(name: &'static str, start: Option<Start<'_>>) -> io::Result<Setup> {
    let lines = "default_transport = discard\nrelay_transport = discard\n\
        milter_default_action = reject\nsmtpd_milters =";
    let Some(start) = start else {
        let postfix = hops::postfix_with("Postfix", &format!("{lines}\n"))?;
        return Ok(Setup { name, postfix, milter: None });
    };
    let address = hops::free_address()?;
    let milter = Some(start(&address)?);
    let postfix = hops::postfix_with("Postfix", &format!("{lines} inet:{address}\n"))?;
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

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, address] = &arguments[..]
        && word == "null"
    {
        return serve_null(address).expect("an address");
    }
    move_to_own_core();
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    let (rounds, messages) = if is_quick { (3, 300) } else { (15, 2000) };
    let plain = setup("(none)", None).expect("Postfix (Debian: postfix)");
    let milters = [
        setup("null", Some(&null)).expect("a milter that does nothing"),
        setup("mpp", Some(&|milter: &str| mpp(milter, ""))).expect("mpp"),
        setup("mpp, header fields changed", Some(&|milter: &str| mpp(milter, EDITS))).expect("mpp"),
    ];
    println!(
        "| milter | message | sessions | connection | us a message | to none | CPU of Postfix, us | \
         to none | CPU of the milter, us | CPU of both to none |\n\
         | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    );
    for (bytes, size) in [(4 << 10, "4 KiB"), (50 << 10, "50 KiB")] {
        for (sessions, is_kept_open) in [(1, true), (16, true), (16, false)] {
            let load = Load { bytes, sessions, is_kept_open, messages };
            compare(&plain, &milters, load, (size, rounds));
        }
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
        median(all().map(|took| took.postfix_us))
    );
    for (setup, pairs) in milters.iter().zip(&found) {
        let of = |of: fn(&[Took; 2]) -> f64| median(pairs.iter().map(of));
        println!(
            "| {} | {what} | {:.0} | {:.3} | {:.0} | {:.3} | {:.0} | {:.3} |",
            setup.name,
            of(|[_, with]| with.wall_us),
            of(|[without, with]| with.wall_us / without.wall_us),
            of(|[_, with]| with.postfix_us),
            of(|[without, with]| with.postfix_us / without.postfix_us),
            of(|[_, with]| with.milter_us),
            of(|[without, with]| (with.postfix_us + with.milter_us) / without.postfix_us),
        );
    }
    // Whoever watches sees it at once.
    let _ = io::stdout().flush();
}
