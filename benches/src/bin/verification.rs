//! What recipient verification costs, beside the same decisions without it and a null source that
//! answers from memory.
//!
//!     cargo run --release --package mpp-benches --bin verification [-- SECTION ...]
//!
//! Sections: cached touched slow hung; all without one.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a measurement prints what it found, and stops where it cannot go on"
)]

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mpp_doors::listen::{Connection, Listener, Place, Places};
use mpp_doors::policy::{Door, Replay};
use mpp_hub::clock::{Clock, RealClock, VirtualClock};
use mpp_hub::directory::{Answering, Directory, Examined, Trouble, Wanted};
use mpp_hub::statistics::Statistics;
use mpp_hub::{Hub, Open, Outside, Parts};
use mpp_stores::embedded::EmbeddedStore;
use mpp_wire::policy::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, Runtime};

const USERS: u64 = 100_000;
/// Decisions of one measurement; the quickest of many counts, since others are on the machine too.
const BATCH: u64 = 5_000;
/// 2026-06-01T00:00:00Z.
const EPOCH_MS: u64 = 1_780_272_000_000;

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    println!("| measure | found | must |\n| --- | ---: | ---: |");
    for (name, section) in
        [("cached", cached as fn()), ("touched", touched), ("slow", slow), ("hung", hung)]
    {
        if chosen.is_empty() || chosen.iter().any(|it| it == name) {
            section();
        }
    }
}

fn row(measure: &str, found: &str, must: &str) {
    println!("| {measure} | {found} | {must} |");
}

/// A source that answers from memory: `u<number>` exists up to [`USERS`].
#[derive(Default)]
struct Null {
    look_ups: AtomicU64,
    takes: Mutex<Duration>,
    hangs: AtomicBool,
}

impl Directory for Null {
    fn look_up<'a>(&'a self, wanted: &'a Wanted) -> Answering<'a, Result<bool, Trouble>> {
        Box::pin(async move {
            self.look_ups.fetch_add(1, Ordering::Relaxed);
            let takes = *self.takes.lock().expect("no panic");
            if self.hangs.load(Ordering::Relaxed) && wanted.domain == "hung.example" {
                std::future::pending::<()>().await;
            }
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            let number = wanted.local.strip_prefix('u').and_then(|text| text.parse::<u64>().ok());
            Ok(number.is_some_and(|number| number < USERS))
        })
    }

    fn examine(&self) -> Answering<'_, Vec<Examined>> {
        Box::pin(async { Vec::new() })
    }
}

fn configuration(recipients: &str) -> mpp_config::Configuration {
    let directory = |name: &str| {
        format!(
            "[directory.{name}]\nkind = \"sql\"\nservers = [\"sqlite:/x\"]\n\
             query = \"SELECT 1 FROM users WHERE address = {{address}}\"\n"
        )
    };
    let text = format!(
        "{}{}{recipients}[policy.default.recipient.harvest]\nlimit = 1000000\n",
        directory("people"),
        directory("hung")
    );
    let read = mpp_config::compile("mpp.toml", &text, &BTreeMap::new(), 7);
    read.configuration.expect("a sound configuration")
}

const VERIFIED: &str = "[recipients.main]\ndomains = [\"example.org\"]\nfrom = [\"people\"]\n\
    [recipients.hung]\ndomains = [\"hung.example\"]\nfrom = [\"hung\"]\n";

/// A hub whose look-ups run in `runtime`.
fn hub(recipients: &str, null: &Arc<Null>, clock: Arc<dyn Clock>, runtime: &Handle) -> Arc<Hub> {
    let null = Arc::clone(null);
    let open: Open = Arc::new(move |_| Arc::<Null>::clone(&null));
    let parts = Parts {
        store: EmbeddedStore::in_memory(7),
        clock,
        log: None,
        statistics: Statistics::default(),
        outside: Some(Outside { runtime: runtime.clone(), open }),
        scanners: None,
    };
    Arc::new(Hub::new(parts, configuration(recipients)))
}

/// A repeatable stream of numbers (xorshift64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Zipf with exponent 1: the logarithm of the rank is evenly spread.
    fn zipf(&mut self, most: u64) -> u64 {
        let share = (self.next() % 1_000_000) as f64 / 1e6;
        (most as f64).powf(share) as u64
    }
}

fn request(time_ms: u64, client: u64, recipient: &str) -> String {
    format!(
        "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\n\
         client_address=198.{}.{}.{}\nclient_name=unknown\nreverse_client_name=unknown\n\
         helo_name=mail.x{client}.example\nsender=a{client}@x.example\nrecipient={recipient}\n\
         recipient_count=0\nqueue_id=\ninstance={client:x}.{time_ms:x}\nsize=2048\n\
         sasl_method=\nsasl_username=\nmpp_time={}.{:03}\n",
        18 + client % 2,
        client / 250 % 250,
        client % 250,
        time_ms / 1000,
        time_ms % 1000
    )
}

/// A node in virtual time.
struct Node {
    replay: Replay,
    runtime: Runtime,
    null: Arc<Null>,
}

impl Node {
    fn new(recipients: &str) -> Self {
        let null = Arc::new(Null::default());
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let clock = Arc::new(VirtualClock::default());
        let hub = hub(recipients, &null, Arc::<VirtualClock>::clone(&clock), runtime.handle());
        let replay = Replay::new(Door { hub, virtual_clock: Some(clock) });
        Self { replay, runtime, null }
    }

    fn play(&mut self, requests: &[String]) -> Duration {
        let began = Instant::now();
        self.runtime.block_on(async {
            for text in requests {
                let request = Request::parse(text.as_bytes()).expect("a request");
                self.replay.answer(&request).await.expect("a request");
            }
        });
        began.elapsed()
    }
}

/// The same decisions with verification from the cache, and without.
fn cached() {
    let mut with = Node::new(VERIFIED);
    let mut without = Node::new("");
    let mut draw = Draw(88_172_645_463_325_252);
    let mut time_ms = EPOCH_MS;
    let mut batch = |count: u64| -> Vec<String> {
        (0..count)
            .map(|_| {
                time_ms += 1;
                let recipient = format!("u{}@example.org", draw.zipf(USERS));
                request(time_ms, draw.next() % 100_000, &recipient)
            })
            .collect()
    };
    let fill = batch(400_000);
    with.play(&fill);
    without.play(&fill);
    let (mut best_with, mut best_without) = (f64::MAX, f64::MAX);
    for _ in 0..60 {
        let requests = batch(BATCH);
        // Users of whom nothing is kept yet are looked up before the measurement.
        without.play(&requests);
        with.play(&requests);
        best_with = best_with.min(with.play(&requests).as_secs_f64());
        best_without = best_without.min(without.play(&requests).as_secs_f64());
    }
    let ns = |best: f64| best / BATCH as f64 * 1e9;
    row(
        "cached verification, of a decision without it (parsed, judged, answered; no socket, no log)",
        &format!("{:.1} % of {:.0} ns", (best_with / best_without - 1.0) * 100.0, ns(best_without)),
        "3 %",
    );
}

/// How often a large site touches its source.
fn touched() {
    let mut node = Node::new(VERIFIED);
    let mut draw = Draw(1_234_567_891);
    let (mut known, mut known_asked, mut known_first) = (0_u64, 0_u64, HashSet::new());
    let (mut again, mut again_asked, mut nobodies) = (0_u64, 0_u64, HashSet::new());
    for number in 0..3_000_000_u64 {
        // 1,000 a second: fifty minutes.
        let time_ms = EPOCH_MS + number;
        let is_user = draw.next() % 10 < 4;
        let recipient = if is_user {
            format!("u{}@example.org", draw.zipf(USERS))
        } else {
            format!("x{}@example.org", draw.next() % 1_000_000)
        };
        let before = node.null.look_ups.load(Ordering::Relaxed);
        node.play(&[request(time_ms, draw.next() % 100_000, &recipient)]);
        let asked = node.null.look_ups.load(Ordering::Relaxed) - before;
        if is_user {
            known += 1;
            known_asked += asked;
            known_first.insert(recipient);
        } else if !nobodies.insert(recipient) {
            again += 1;
            again_asked += asked;
        }
    }
    let share =
        |asked: u64, all: u64| format!("{:.2} %", 100.0 - asked as f64 * 100.0 / all as f64);
    row(
        "known recipients served without the source, once each user was seen",
        &share(known_asked.saturating_sub(known_first.len() as u64), known),
        "99 %",
    );
    row("the same, the first mail to each user counted", &share(known_asked, known), "");
    row(
        "repeated unknown recipients served without the source",
        &share(again_asked, again),
        "90 %",
    );
}

/// Look-ups at a source that takes 50 ms, while many ask for the same.
fn slow() {
    let null = Arc::new(Null::default());
    *null.takes.lock().expect("no panic") = Duration::from_millis(50);
    let (address, stop) = serve(&null);
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let distinct = 2_000_u64;
    runtime.block_on(async {
        let tasks: Vec<_> = (0..50_u64)
            .map(|number| {
                tokio::spawn(async move {
                    let mut client = Client::connect(address).await;
                    let mut draw = Draw(77 + number);
                    for _ in 0..400 {
                        let recipient = format!("u{}@example.org", draw.next() % distinct);
                        client.ask(&request(EPOCH_MS, number, &recipient)).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a client");
        }
    });
    stop.store(true, Ordering::Relaxed);
    let look_ups = null.look_ups.load(Ordering::Relaxed);
    row(
        "source of 50 ms: look-ups for 20,000 requests about 2,000 new addresses on 50 connections",
        &look_ups.to_string(),
        "2000",
    );
}

/// Decisions for one domain while the directory of another hangs.
fn hung() {
    let null = Arc::new(Null::default());
    null.hangs.store(true, Ordering::Relaxed);
    let (address, stop) = serve(&null);
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut ratios = Vec::new();
    for round in 0..5 {
        let quiet = runtime.block_on(p99(address, "example.org", round));
        let beside = runtime.block_on(p99(address, "hung.example", 100 + round));
        ratios.push(beside / quiet);
    }
    stop.store(true, Ordering::Relaxed);
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).expect("a measurement");
    row(
        "p99 of 25 connections while 25 others ask about a directory that hangs, to all 50 asking alike",
        &format!("{median:.2}"),
        "1.5",
    );
}

/// The 99th percentile of 25 connections, in seconds, while 25 others ask about another domain.
async fn p99(address: SocketAddr, other: &'static str, seed: u64) -> f64 {
    let end = Instant::now() + Duration::from_secs(2);
    let mut measured = Vec::new();
    let mut tasks = Vec::new();
    for number in 0..50_u64 {
        let domain = if number % 2 == 0 { "example.org" } else { other };
        let task = async move {
            let mut client = Client::connect(address).await;
            let mut draw = Draw(seed * 1000 + number + 1);
            let mut times = Vec::new();
            while Instant::now() < end {
                let recipient = format!("u{}@{domain}", draw.zipf(USERS));
                let text = request(EPOCH_MS, number, &recipient);
                let began = Instant::now();
                let asked = tokio::time::timeout(Duration::from_secs(5), client.ask(&text));
                asked.await.expect("an answer within the deadline");
                times.push(began.elapsed().as_secs_f64());
            }
            (number % 2 == 0, times)
        };
        tasks.push(tokio::spawn(task));
    }
    for task in tasks {
        let (is_measured, times) = task.await.expect("a client");
        if is_measured {
            measured.extend(times);
        }
    }
    measured.sort_by(f64::total_cmp);
    *measured.get(measured.len() * 99 / 100).expect("a measurement")
}

struct Client(TcpStream);

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("mpp listens");
        stream.set_nodelay(true).expect("TCP");
        Self(stream)
    }

    async fn ask(&mut self, request: &str) {
        self.0.write_all(format!("{request}\n").as_bytes()).await.expect("mpp reads");
        let mut answer = [0; 512];
        let mut length = 0;
        while !answer.get(..length).is_some_and(|answer| answer.ends_with(b"\n\n")) {
            let rest = answer.get_mut(length..).expect("a short answer");
            let read = self.0.read(rest).await.expect("mpp answers");
            assert!(read > 0, "mpp answers everything");
            length += read;
        }
    }
}

/// A policy service in threads of its own, until told to stop.
fn serve(null: &Arc<Null>) -> (SocketAddr, Arc<AtomicBool>) {
    let stop = Arc::new(AtomicBool::new(false));
    let outside = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let hub = hub(VERIFIED, null, Arc::new(RealClock), outside.handle());
    let until = Arc::clone(&stop);
    let wait = move |stop: Arc<AtomicBool>| async move {
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let stopped = wait(Arc::clone(&until));
    std::thread::spawn(move || outside.block_on(stopped));
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("a port");
    drop(free);
    let listener = Listener::bind(&address.to_string()).expect("a port that was free");
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let door = Door { hub, virtual_clock: None };
            let serve = move |io: Connection, peer: Option<SocketAddr>, place: Place| {
                let door = door.clone();
                async move {
                    door.serve(io, peer.map(|peer| peer.ip())).await;
                    drop(place);
                }
            };
            tokio::select! {
                () = listener.accept(Places::new(1000), serve) => {}
                () = wait(until) => {}
            }
        });
    });
    (address, stop)
}
