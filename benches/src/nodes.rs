//! Several nodes that are asked at once.

use std::time::Duration;

use crate::drive::{Plan, Report, drive};
use crate::load::Kind;
use crate::process::cpu_ns;
use crate::servers::Server;

/// Drives some nodes at once; returns the decisions a second of all of them.
pub fn measure(
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

/// Asks a server about so many drones that never return.
pub fn fill(server: &Server, requests: u64) {
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
