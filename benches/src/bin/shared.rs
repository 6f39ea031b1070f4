//! Stores that nodes share, beside the embedded one and beside a naive client, in one run: how many
//! decisions a second, what one costs each process, and what a drone that never returns takes.
//!
//!     cargo build --release --package mpp
//!     cargo run --release --package mpp-benches --bin shared [-- --quick] [--only redis]
//!
//! All processes share both cores. Each figure is the median of three rounds.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a measurement prints what it found, and stops where it cannot go on"
)]

use std::time::{Duration, Instant};

use mpp_benches::drive::{Plan, Report, drive};
use mpp_benches::load::Kind;
use mpp_benches::process::{cpu_ns, use_all_cores};
use mpp_benches::servers::{self, Server};
use mpp_tests::real::redis::Redis;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if mpp_benches::null::serve_if_asked(&arguments)
        || mpp_benches::naive::serve_if_asked(&arguments)
    {
        return;
    }
    use_all_cores();
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    let only = arguments.iter().skip_while(|argument| *argument != "--only").nth(1);
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    let (time, held) = if is_quick {
        (Duration::from_millis(700), 100_000)
    } else {
        (Duration::from_secs(3), 1_000_000)
    };
    println!(
        "| policy service | nodes | connections | decisions/s | to embedded | CPU of mpp, us | CPU \
         of the store, us | p99, us |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    );
    let embedded = servers::mpp("").expect("mpp");
    let mut bases = Vec::new();
    for connections in [16, 64] {
        let base = measure("embedded", &[&embedded], connections, (None, time), 0.0);
        bases.push((connections, base));
    }
    drop(embedded);
    let base = |connections: usize| {
        bases.iter().find(|(known, _)| *known == connections).map_or(0.0, |(_, base)| *base)
    };
    if wanted("redis") {
        let redis = Redis::start(&[]);
        let settings = format!("[store]\nkind = \"redis\"\nservers = [\"{}\"]\n", redis.place());
        let id = redis.id().and_then(|id| id.parse().ok());
        let nodes: Vec<Server> =
            (0..3).map(|_| servers::mpp(&settings).expect("mpp with a Redis")).collect();
        let all: Vec<&Server> = nodes.iter().collect();
        for connections in [16, 64] {
            for many in 1..=3 {
                let some = all.get(..many).unwrap_or_default();
                measure("redis", some, connections, (id, time), base(connections));
            }
        }
        drop(nodes);
        let naive = servers::naive(&redis.place()).expect("the naive server");
        for connections in [16, 64] {
            measure("naive GET and SET", &[&naive], connections, (id, time), base(connections));
        }
        drop(naive);
        drop(redis);
        room_in_redis(held);
    }
}

/// Drives some nodes at once; returns the decisions a second of all of them.
fn measure(
    name: &str,
    nodes: &[&Server],
    connections: usize,
    (store, time): (Option<u32>, Duration),
    base: f64,
) -> f64 {
    let mut rounds = Vec::new();
    for round in 0..4_u64 {
        let cpu = |pids: &[u32]| pids.iter().map(|pid| cpu_ns(*pid)).sum::<u64>();
        let pids: Vec<u32> = nodes.iter().map(|node| node.pid()).collect();
        let store: Vec<u32> = store.into_iter().collect();
        let before = (cpu(&pids), cpu(&store));
        let reports: Vec<Report> = std::thread::scope(|scope| {
            let runs: Vec<_> = nodes
                .iter()
                .enumerate()
                .map(|(number, node)| {
                    let plan = Plan {
                        kind: Kind::Mixed,
                        seed: 1_000 * connections as u64 + 100 * round + number as u64,
                        connections: connections / nodes.len(),
                        reconnects: false,
                        time: if round == 0 { time / 3 } else { time },
                        requests: u64::MAX,
                    };
                    let target = node.target("TCP").expect("it answers over TCP");
                    scope.spawn(move || drive(target, &plan).expect("it answers"))
                })
                .collect();
            runs.into_iter().map(|run| run.join().expect("a run")).collect()
        });
        let answers: u64 = reports.iter().map(|report| report.answers).sum();
        let errors: u64 = reports.iter().map(|report| report.errors).sum();
        assert_eq!(errors, 0, "{name} answers");
        if round == 0 {
            continue;
        }
        let each = |before: u64, after: u64| {
            after.saturating_sub(before) as f64 / 1e3 / answers.max(1) as f64
        };
        rounds.push([
            reports.iter().map(Report::rate).sum::<f64>(),
            each(before.0, cpu(&pids)),
            each(before.1, cpu(&store)),
            reports.iter().map(|report| report.p99_us).fold(0.0, f64::max),
        ]);
    }
    let of = |place: usize| {
        let mut values: Vec<f64> =
            rounds.iter().filter_map(|round| round.get(place).copied()).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    let rate = of(0);
    let ratio = if base > 0.0 { format!("{:.2}", rate / base) } else { "1".into() };
    println!(
        "| {name} | {} | {connections} | {rate:.0} | {ratio} | {:.1} | {:.1} | {:.0} |",
        nodes.len(),
        of(1),
        of(2),
        of(3),
    );
    rate
}

/// What drones that never return take in a Redis, beside a plain key for each triplet.
fn room_in_redis(held: u64) {
    println!("\n| in Redis | entries | bytes an entry |\n| --- | ---: | ---: |");
    let redis = Redis::start(&[]);
    let empty = redis.info("used_memory");
    let settings = format!("[store]\nkind = \"redis\"\nservers = [\"{}\"]\n", redis.place());
    let node = servers::mpp(&settings).expect("mpp with a Redis");
    fill(&node, held);
    until_quiet(&redis);
    let bytes = redis.info("used_memory") - empty;
    println!("| mpp, a drone | {held} | {:.1} |", bytes as f64 / held as f64);
    drop(node);
    let redis = Redis::start(&[]);
    let empty = redis.info("used_memory");
    let naive = servers::naive(&redis.place()).expect("the naive server");
    fill(&naive, held / 5);
    let keys = redis.ask(&["DBSIZE"]).trim().parse::<u64>().unwrap_or(held / 5);
    let bytes = redis.info("used_memory") - empty;
    println!("| a plain key | {keys} | {:.1} |", bytes as f64 / keys as f64);
}

fn fill(server: &Server, requests: u64) {
    let plan = Plan {
        kind: Kind::Fill,
        seed: 0,
        connections: 32,
        reconnects: false,
        time: Duration::from_mins(20),
        requests,
    };
    let filled = drive(server.target("TCP").expect("TCP"), &plan).expect("it answers");
    assert_eq!(filled.errors, 0, "it answers");
}

/// Waits until nothing is written any more.
fn until_quiet(redis: &Redis) {
    let end = Instant::now() + Duration::from_mins(1);
    let mut before = 0;
    while Instant::now() < end {
        let now = redis.info("used_memory") / 65_536;
        if now == before {
            return;
        }
        before = now;
        std::thread::sleep(Duration::from_secs(1));
    }
}
