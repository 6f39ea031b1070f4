//! mpp beside a null responder, postgrey and sqlgrey, in one run: who is asked how, how fast it
//! answers, what an answer costs, and all of that as ratios to the null responder.
//!
//!     cargo build --release --package mpp
//!     cargo run --release --package mpp-benches --bin peers [-- --quick] [--only mpp]
//!
//! Servers run on core 0, whoever asks on core 1. Each figure is the median of the rounds, each
//! ratio that of neighbouring runs.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a measurement prints what it found, and stops where it cannot go on"
)]

use std::io;
use std::time::Duration;

use mpp_benches::drive::{Plan, Report, drive};
use mpp_benches::load::Kind;
use mpp_benches::process::{cpu_ns, move_to_own_core};
use mpp_benches::servers::{self, Server};

/// Entries that mpp holds while it is measured.
const HELD: u64 = 1_000_000;

/// What is measured of a server in one way of asking it.
#[derive(Clone, Copy)]
struct Case {
    transport: &'static str,
    kind: Kind,
    connections: usize,
    reconnects: bool,
}

/// Rates, microseconds of processor time an answer, and 99th percentiles.
struct Round {
    rate: f64,
    cpu_us: f64,
    p99_us: f64,
    rate_ratio: f64,
    cpu_ratio: f64,
    p99_ratio: f64,
}

/// How much is measured.
struct Effort {
    rounds: u64,
    null_time: Duration,
    time: Duration,
    is_quick: bool,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if mpp_benches::null::serve_if_asked(&arguments) {
        return;
    }
    move_to_own_core();
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    let only = arguments.iter().skip_while(|argument| *argument != "--only").nth(1);
    let effort = if is_quick {
        let (null_time, time) = (Duration::from_millis(300), Duration::from_millis(500));
        Effort { rounds: 3, null_time, time, is_quick }
    } else {
        let (null_time, time) = (Duration::from_secs(1), Duration::from_millis(1_500));
        Effort { rounds: 3, null_time, time, is_quick }
    };
    println!(
        "| server | over | load | connections | requests/s | to null | CPU, us | to null | \
              p99, us | to null |\n| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | \
              ---: |"
    );
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    if wanted("mpp") {
        match servers::mpp("") {
            Ok(server) => measure_mpp(&server, &effort),
            Err(error) => eprintln!("mpp is missing: {error}"),
        }
    }
    for (name, start) in [
        ("postgrey", servers::postgrey as fn(&str) -> io::Result<Server>),
        ("sqlgrey", servers::sqlgrey),
    ] {
        for transport in ["TCP", "unix"] {
            if !wanted(name) || (is_quick && transport == "unix") {
                continue;
            }
            match start(transport) {
                Ok(server) => measure_peer(&server, transport, &effort),
                Err(error) => eprintln!("{name} is missing: {error}"),
            }
        }
    }
}

fn measure_mpp(server: &Server, effort: &Effort) {
    let plan = Plan {
        kind: Kind::Fill,
        seed: 0,
        connections: 16,
        reconnects: false,
        time: Duration::from_mins(10),
        requests: if effort.is_quick { HELD / 10 } else { HELD },
    };
    let target = server.target("TCP").expect("mpp answers over TCP");
    let filled = drive(target, &plan).expect("mpp answers");
    assert_eq!(filled.errors, 0, "mpp answers");
    for transport in ["TCP", "unix"] {
        let null = servers::null(transport).expect("the null responder");
        for kind in [Kind::Known, Kind::New, Kind::Mixed] {
            for connections in [1, 16, 64] {
                let case = Case { transport, kind, connections, reconnects: false };
                measure(&null, server, case, effort);
            }
        }
        for connections in [16, 64] {
            let case = Case { transport, kind: Kind::Mixed, connections, reconnects: true };
            measure(&null, server, case, effort);
        }
    }
}

fn measure_peer(server: &Server, transport: &'static str, effort: &Effort) {
    let null = servers::null(transport).expect("the null responder");
    for kind in [Kind::Known, Kind::New, Kind::Mixed] {
        measure(
            &null,
            server,
            Case { transport, kind, connections: 16, reconnects: false },
            effort,
        );
    }
    if !effort.is_quick {
        for connections in [1, 64] {
            let case = Case { transport, kind: Kind::Mixed, connections, reconnects: false };
            measure(&null, server, case, effort);
        }
        let case = Case { transport, kind: Kind::Mixed, connections: 16, reconnects: true };
        measure(&null, server, case, effort);
    }
}

/// One run: how it went, and microseconds of processor time an answer.
fn run(server: &Server, case: Case, seed: u64, time: Duration) -> (Report, f64) {
    let plan = Plan {
        kind: case.kind,
        seed,
        connections: case.connections,
        reconnects: case.reconnects,
        time,
        requests: u64::MAX,
    };
    let target = server.target(case.transport).expect("a server on that transport");
    let before = cpu_ns(server.pid());
    let report = drive(target, &plan).expect("a server that answers");
    let cpu_us = (cpu_ns(server.pid()) - before) as f64 / 1e3 / report.answers.max(1) as f64;
    (report, cpu_us)
}

fn measure(null: &Server, server: &Server, case: Case, effort: &Effort) {
    // Known ones are known, and whatever grows with the number of connections has grown.
    let warm_time = if case.kind == Kind::Known { effort.time } else { effort.time / 4 };
    let mut errors = run(server, case, 900, warm_time).0.errors;
    let mut rounds = Vec::new();
    for round in 0..effort.rounds {
        let seed = 1
            + round
            + 10 * (case.connections as u64 + 100 * case.kind as u64)
            + 100_000 * u64::from(case.reconnects)
            + 1_000_000 * u64::from(case.transport == "unix");
        let (floor, floor_cpu_us) = run(null, case, seed, effort.null_time);
        let (report, cpu_us) = run(server, case, seed, effort.time);
        errors += report.errors;
        rounds.push(Round {
            rate: report.rate(),
            cpu_us,
            p99_us: report.p99_us,
            rate_ratio: report.rate() / floor.rate(),
            cpu_ratio: cpu_us / floor_cpu_us,
            p99_ratio: report.p99_us / floor.p99_us,
        });
    }
    let of = |value: fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    let each = if case.reconnects { ", one a request" } else { "" };
    let unanswered = if errors > 0 { format!(" ({errors} unanswered)") } else { String::new() };
    println!(
        "| {} | {} | {} | {}{each} | {:.0}{unanswered} | {:.4} | {:.1} | {:.2} | {:.0} | {:.2} |",
        server.name,
        case.transport,
        case.kind.name(),
        case.connections,
        of(|round| round.rate),
        of(|round| round.rate_ratio),
        of(|round| round.cpu_us),
        of(|round| round.cpu_ratio),
        of(|round| round.p99_us),
        of(|round| round.p99_ratio),
    );
}
