//! Ours beside fjall, redb, heed (LMDB) and rusqlite on the load of a policy service.
//!
//! Each store runs in processes of its own: one fills it and makes decisions, one opens it again,
//! one is killed in the middle of its work. The table says what each took, in units and as a ratio
//! to ours.
//!
//!     cargo run --release -- [--entries 1000000] [--seconds 10] [--only ours,redb]

mod engines;
mod load;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use engines::{ENGINES, open};
use load::{Load, T0, triplet};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "child") {
        return child(&arguments[1..]);
    }
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let number = |name: &str, default: u64| {
        value(name).map_or(default, |value| value.parse().expect("a number"))
    };
    let (entries, seconds) = (number("--entries", 1_000_000), number("--seconds", 10));
    let only = value("--only").unwrap_or_else(|| ENGINES.join(","));
    println!(
        "{entries} live entries, then {seconds} s of decisions: 90 % new triplets, three entries \
         read and written each, one expired for each that comes; durable every 50 ms\n"
    );
    let directory = tempfile::tempdir().expect("a directory");
    let rows: Vec<(String, Vec<f64>)> = only
        .split(',')
        .map(|name| {
            (name.to_owned(), measure(name, &directory.path().join(name), entries, seconds))
        })
        .collect();
    print(&rows);
}

const MEASURES: [&str; 12] = [
    "fill, entries/s",
    "decisions/s",
    "p50, us",
    "p99, us",
    "p99.9, us",
    "longest, us",
    "memory, bytes an entry",
    "disk while it runs, bytes an entry",
    "disk compacted, bytes an entry",
    "start to first answer, ms",
    "decisions lost by kill -9",
    "the same in ms",
];

fn print(rows: &[(String, Vec<f64>)]) {
    print!("| measure |");
    rows.iter().for_each(|(name, _)| print!(" {name} |"));
    print!("\n| --- |");
    rows.iter().for_each(|_| print!(" ---: |"));
    println!();
    for (number, measure) in MEASURES.iter().enumerate() {
        print!("| {measure} |");
        let ours = rows[0].1[number];
        for (column, (_, values)) in rows.iter().enumerate() {
            let value = values[number];
            let text = if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") };
            if column == 0 || ours == 0.0 {
                print!(" {text} |");
            } else {
                print!(" {text} ({:.2}) |", value / ours);
            }
        }
        println!();
    }
}

fn spawn(arguments: &[&str]) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .arg("child")
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child")
}

/// The numbers that a child prints.
fn numbers(child: Child) -> Vec<f64> {
    let output = child.wait_with_output().expect("a child");
    assert!(output.status.success(), "a child failed");
    let text = String::from_utf8(output.stdout).expect("text");
    text.split_whitespace().map(|word| word.parse().expect("a number")).collect()
}

fn measure(name: &str, path: &Path, entries: u64, seconds: u64) -> Vec<f64> {
    eprintln!("{name} ...");
    let directory = path.to_str().expect("a path");
    let (entries_text, seconds_text) = (entries.to_string(), seconds.to_string());
    let mut figures = numbers(spawn(&["work", name, directory, &entries_text, &seconds_text]));
    let next = figures.pop().expect("where it ended") as u64;
    figures.extend(numbers(spawn(&["start", name, directory, &entries_text, &next.to_string()])));
    figures.extend(kill(name, directory, &entries_text, next));
    fs::remove_dir_all(path).expect("removed");
    figures
}

/// Kills a child that makes decisions; what was lost, as decisions and milliseconds.
fn kill(name: &str, directory: &str, entries: &str, next: u64) -> Vec<f64> {
    let noted = format!("{directory}.progress");
    let mut child = spawn(&["die", name, directory, entries, &next.to_string(), &noted]);
    let read = || {
        let bytes = fs::read(&noted).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    };
    while read() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (first, begun) = (read(), Instant::now());
    std::thread::sleep(Duration::from_millis(2_345));
    child.kill().expect("kill -9");
    let rate = (read() - first) as f64 / begun.elapsed().as_secs_f64() / 1e3;
    child.wait().expect("dead");
    let last = read().to_string();
    let lost = numbers(spawn(&["lost", name, directory, entries, &last]))[0];
    vec![lost, lost / rate]
}

fn child(arguments: &[String]) {
    let [task, name, directory, entries, rest @ ..] = arguments else { panic!("arguments") };
    let (path, entries): (&Path, u64) = (directory.as_ref(), entries.parse().expect("a number"));
    let first: u64 = rest.first().map_or(0, |text| text.parse().expect("a number"));
    match task.as_str() {
        "work" => work(name, path, entries, first),
        "start" => {
            let begun = Instant::now();
            let mut engine = open(name, path);
            let is_known = engine.has(triplet(first - 10 + first % 10), T0 + first);
            println!("{}", begun.elapsed().as_secs_f64() * 1e3);
            assert!(is_known, "what was there is there");
        }
        "die" => {
            let mut engine = open(name, path);
            let mut load = Load::new(first, u64::MAX, entries, Some(600));
            load.note_progress(File::create(&rest[1]).expect("a file"));
            engine.run(&mut load);
        }
        "lost" => {
            let mut engine = open(name, path);
            let mut is_there = |number| engine.has(triplet(number), T0 + number);
            // Triplets that come back do not tell.
            let mut found = (0..=first).rev().filter(|number| number % 10 != 9);
            let last = found.find(|number| is_there(*number)).expect("something is left");
            let holes = found.take(20_000).filter(|number| !is_there(*number)).count();
            assert_eq!(holes, 0, "{name} has holes");
            let lost = first - last;
            println!("{lost}");
        }
        other => panic!("{other}"),
    }
}

/// Fills a store and makes decisions.
fn work(name: &str, path: &Path, entries: u64, seconds: u64) {
    let before = resident_bytes();
    let mut engine = open(name, path);
    let mut fill = Load::new(0, entries, entries, None);
    engine.run(&mut fill);
    let mut load = Load::new(entries, u64::MAX, entries, Some(seconds));
    engine.run(&mut load);
    let held = entries as f64;
    println!("{}", fill.figures()[0]);
    load.figures().iter().for_each(|figure| println!("{figure}"));
    println!("{}", resident_bytes().saturating_sub(before) as f64 / held);
    println!("{}", disk_bytes(path) as f64 / held);
    engine.compact();
    drop(engine);
    println!("{}", disk_bytes(path) as f64 / held);
    println!("{}", load.next);
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

fn disk_bytes(path: &Path) -> u64 {
    let entries = fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry"));
    let of = |path: &Path| {
        let data = fs::symlink_metadata(path).expect("a file");
        if data.is_dir() { disk_bytes(path) } else { data.blocks() * 512 }
    };
    entries.map(|entry| of(&entry.path())).sum()
}
