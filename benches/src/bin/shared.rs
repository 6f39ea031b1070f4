//! Stores that nodes share, beside the embedded one and beside a naive client, in one run: how many
//! decisions a second, what one costs each process, and what a drone that never returns takes.
//!
//!     cargo build --release --package mpp
//!     cargo run --release --package mpp-benches --bin shared [-- --quick] [--only redis|mariadb|postgresql]
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

use mpp_benches::databases::{self, Engine};
use mpp_benches::nodes::{fill, measure};
use mpp_benches::process::use_all_cores;
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
    for (name, engine) in [("mariadb", Engine::MariaDb), ("postgresql", Engine::Postgres)] {
        if wanted(name) {
            databases::rates(engine, time, base(64));
            databases::room(engine, held);
        }
    }
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
