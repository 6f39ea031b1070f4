//! The notice board, on every server that has one, and the model of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mpp_config::store::Topology;
use mpp_hub::board::{Board, Changes, MemoryBoard, Post, ROWS_MAX, TEXT_BYTES_MAX};
use mpp_tests::real::mariadb::MariaDb;
use mpp_tests::real::postgres::Postgres;
use mpp_tests::real::redis::{Cluster, Redis};
use mpp_tests::real::until;

use crate::redis::{OnRedis, options};
use crate::sql::Database;
use crate::{Backend, HOUR};

const TOPIC: &str = "held/mx1.test.example";

/// A node that uses a board.
struct Node {
    board: Box<dyn Board>,
    runtime: tokio::runtime::Runtime,
}

impl Node {
    fn new(board: impl Board + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { board: Box::new(board), runtime }
    }

    fn post(&self, topic: &str, posts: &[Post]) {
        self.runtime.block_on(self.board.post(topic, posts)).unwrap();
    }

    fn read(&self, topic: &str, since: u64, most: usize) -> Changes {
        self.runtime.block_on(self.board.changes(topic, since, most)).unwrap()
    }

    /// Everything from a number on, in pages: ids and texts in their order, and where it ends.
    fn all(&self, topic: &str, mut since: u64, most: usize) -> (Vec<(String, String)>, u64) {
        let mut found = Vec::new();
        loop {
            let read = self.read(topic, since, most);
            assert!(read.changes.len() <= most && read.next >= since);
            since = read.next;
            found.extend(read.changes.into_iter().map(|change| {
                let text = change.text.map(|text| String::from_utf8(text).unwrap());
                (change.id, text.unwrap_or_else(|| "-".into()))
            }));
            if !read.is_more {
                return (found, since);
            }
        }
    }
}

fn says(id: &str, text: &str) -> Post {
    Post { id: id.into(), text: Some(text.into()), keep_ms: HOUR }
}

fn gone(id: &str) -> Post {
    Post { id: id.into(), text: None, keep_ms: 0 }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(id, text)| ((*id).to_owned(), (*text).to_owned())).collect()
}

/// Each node connects by itself.
fn keeps_what_is_posted<B: Board + 'static>(open: impl Fn() -> B) {
    let (one, other) = (Node::new(open()), Node::new(open()));
    assert_eq!(other.all(TOPIC, 0, 5).0, [], "nothing stands");
    one.post(TOPIC, &[says("a", "1"), says("b", "2"), says("c", "")]);
    one.post("another", &[says("a", "x")]);
    one.post(TOPIC, &[]);
    let (found, first) = other.all(TOPIC, 0, 2);
    assert_eq!(found, pairs(&[("a", "1"), ("b", "2"), ("c", "")]));
    // What says the same has not changed; of what changes several times the last word counts.
    one.post(TOPIC, &[says("b", "2")]);
    assert_eq!(other.all(TOPIC, first, 5).0, []);
    other.post(TOPIC, &[says("a", "3"), says("d", "\u{0}:ü"), says("a", "4")]);
    let (found, second) = one.all(TOPIC, first, 5);
    assert_eq!(found, pairs(&[("d", "\u{0}:ü"), ("a", "4")]));
    // What is removed is seen as removed, also by those who read from the start, and may come back.
    other.post(TOPIC, &[gone("b"), gone("never"), says("c", "5")]);
    let (found, third) = one.all(TOPIC, second, 1);
    assert_eq!(found, pairs(&[("b", "-"), ("never", "-"), ("c", "5")]));
    let (found, _) = one.all(TOPIC, 0, 2);
    let stands: Vec<_> = found.into_iter().filter(|(_, text)| text != "-").collect();
    assert_eq!(stands, pairs(&[("d", "\u{0}:ü"), ("a", "4"), ("c", "5")]));
    one.post(TOPIC, &[says("b", "2")]);
    assert_eq!(other.all(TOPIC, third, 5).0, pairs(&[("b", "2")]));
    assert_eq!(one.all("another", 0, 5).0, pairs(&[("a", "x")]), "topics are apart");
    assert_eq!(one.read(TOPIC, 0, 5).epoch, other.read("another", 0, 5).epoch);
    // Many at once, and as long as they may be.
    let text = "x".repeat(TEXT_BYTES_MAX / 20);
    let many: Vec<Post> = (0..ROWS_MAX).map(|row| says(&format!("row {row}"), &text)).collect();
    one.post("many", &many);
    assert_eq!(other.all("many", 0, 77).0.len(), ROWS_MAX);
    one.post("many", &[says("long", &"y".repeat(TEXT_BYTES_MAX))]);
    for posts in [
        vec![says("long", &"y".repeat(TEXT_BYTES_MAX + 1))],
        vec![says("", "x")],
        vec![says(&"i".repeat(101), "x")],
        vec![says("x", "x"); ROWS_MAX + 1],
    ] {
        one.runtime.block_on(one.board.post(TOPIC, &posts)).unwrap_err();
    }
}

/// A row that nobody removes does not stay for ever.
fn forgets_what_has_run_out(open: impl Fn() -> Node, left: impl Fn() -> u64) {
    let node = open();
    let short = |id: &str| Post { keep_ms: 1, ..says(id, "short") };
    node.post(TOPIC, &[short("a"), short("b"), says("c", "long")]);
    until("rows that have run out", || {
        (node.all(TOPIC, 0, 1).0 == pairs(&[("c", "long")])).then_some(())
    });
    let before = left();
    node.post(TOPIC, &[says("d", "new")]);
    assert_eq!(left(), before - 1, "two have left, and one has come");
    assert_eq!(node.all(TOPIC, 0, 5).0, pairs(&[("c", "long"), ("d", "new")]));
    // One that would run out stands longer when it is posted again.
    node.post(TOPIC, &[Post { keep_ms: 300, ..says("e", "again") }]);
    node.post(TOPIC, &[says("e", "again")]);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(400) {
        assert_eq!(node.all(TOPIC, 0, 5).0.len(), 3);
    }
}

/// Several post at once while one follows: no change is missed, and the last word of each row holds.
fn nobody_misses_a_change<B: Board + 'static>(open: impl Fn() -> B + Sync) {
    const POSTERS: u32 = 4;
    const ROUNDS: u32 = 60;
    let mut seen = BTreeMap::new();
    std::thread::scope(|scope| {
        let post = |number: u32| {
            let open = &open;
            scope.spawn(move || {
                let node = Node::new(open());
                for round in 0..ROUNDS {
                    let row = |row: u32| says(&format!("{number}/{row}"), &round.to_string());
                    let own = [row(1_000 + round), row(round % 7), row(round % 3)];
                    let shared = says("shared", &format!("{number} {round}"));
                    node.post(TOPIC, &own);
                    node.post(TOPIC, &[shared]);
                }
            })
        };
        let posters: Vec<_> = (0..POSTERS).map(post).collect();
        let reader = Node::new(open());
        let mut since = 0;
        loop {
            let are_done = posters.iter().all(std::thread::ScopedJoinHandle::is_finished);
            let (found, next) = reader.all(TOPIC, since, 5);
            since = next;
            seen.extend(found);
            if are_done {
                break;
            }
        }
    });
    for number in 0..POSTERS {
        for round in 0..ROUNDS {
            let id = format!("{number}/{}", 1_000 + round);
            assert_eq!(seen.get(&id), Some(&round.to_string()), "{id} was missed");
        }
    }
    let whole: BTreeMap<String, String> =
        Node::new(open()).all(TOPIC, 0, 500).0.into_iter().collect();
    assert_eq!(seen, whole);
}

#[test]
fn the_model_keeps_what_is_posted() {
    let model: &'static MemoryBoard = Box::leak(Box::default());
    keeps_what_is_posted(|| Borrowed(model));
    nobody_misses_a_change(|| Borrowed(model));
}

struct Borrowed(&'static MemoryBoard);

impl Board for Borrowed {
    fn post<'a>(
        &'a self,
        topic: &'a str,
        posts: &'a [Post],
    ) -> mpp_hub::directory::Answering<'a, Result<(), String>> {
        self.0.post(topic, posts)
    }

    fn changes<'a>(
        &'a self,
        topic: &'a str,
        since: u64,
        most: usize,
    ) -> mpp_hub::directory::Answering<'a, Result<Changes, String>> {
        self.0.changes(topic, since, most)
    }
}

fn on_redis(topology: &Topology, places: &[String], count: impl Fn(&str) -> u64) {
    let fresh = || {
        let backend = OnRedis::new(topology.clone(), places);
        let node = Node::new(mpp_stores::redis::board(&backend.0));
        let early = node.runtime.block_on(node.board.changes(TOPIC, 0, 5)).unwrap_err();
        assert!(early.contains("not made yet"), "{early}");
        drop(backend.open());
        backend.0
    };
    let settings = fresh();
    keeps_what_is_posted(|| mpp_stores::redis::board(&settings));
    let settings = fresh();
    nobody_misses_a_change(|| mpp_stores::redis::board(&settings));
    let settings = fresh();
    let texts = format!("{}{{all}}qt/{TOPIC}", settings.prefix);
    forgets_what_has_run_out(|| Node::new(mpp_stores::redis::board(&settings)), || count(&texts));
}

fn number(said: &str) -> u64 {
    said.trim().parse().unwrap_or_else(|_| panic!("{said}"))
}

#[test]
fn on_one_redis_a_board_keeps_its_contract() {
    let server = Redis::start(&[]);
    on_redis(&Topology::Single, &[server.place()], |key| number(&server.ask(&["HLEN", key])));
    // Every key has a time to live, and what is emptied is another board.
    let keys = "local n = 0 for _, key in ipairs(redis.call('KEYS', '*{all}q*')) do \
        if redis.call('TTL', key) < 0 then n = n + 1 end end return n";
    assert_eq!(server.ask(&["EVAL", keys, "0"]).trim(), "0");
    let backend = OnRedis::new(Topology::Single, &[server.place()]);
    drop(backend.open());
    let node = Node::new(mpp_stores::redis::board(&backend.0));
    let before = node.read(TOPIC, 0, 5).epoch;
    server.ask(&["FLUSHALL"]);
    drop(backend.open());
    assert_ne!(node.read(TOPIC, 0, 5).epoch, before);
}

#[test]
fn in_a_redis_cluster_a_board_keeps_its_contract() {
    let cluster = Cluster::start(false);
    on_redis(&Topology::Cluster, &cluster.places(), |key| {
        let answers = cluster.servers.iter().map(|server| server.ask(&["HLEN", key]));
        answers.filter_map(|said| said.trim().parse::<u64>().ok()).sum()
    });
}

#[test]
fn a_board_that_lost_its_redis_finds_it_again() {
    let mut server = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let backend = OnRedis::new(Topology::Single, &[server.place()]);
    drop(mpp_stores::redis::open(&backend.0, &options()).unwrap());
    let node = Node::new(mpp_stores::redis::board(&backend.0));
    node.post(TOPIC, &[says("a", "1")]);
    server.kill();
    node.runtime.block_on(node.board.post(TOPIC, &[says("b", "2")])).unwrap_err();
    server.launch();
    until("a board that is back", || {
        node.runtime.block_on(node.board.post(TOPIC, &[says("b", "2")])).ok()
    });
    assert_eq!(node.all(TOPIC, 0, 5).0, pairs(&[("a", "1"), ("b", "2")]));
}

fn on_sql(server: &dyn Database) {
    let fresh = || {
        let settings = server.settings();
        let node = Node::new(mpp_stores::sql::board(&settings));
        let early = node.runtime.block_on(node.board.changes(TOPIC, 0, 5)).unwrap_err();
        assert!(early.contains("not made yet"), "{early}");
        drop(mpp_stores::sql::open(&settings, &options()).unwrap());
        settings
    };
    let settings = fresh();
    keeps_what_is_posted(|| mpp_stores::sql::board(&settings));
    let settings = fresh();
    nobody_misses_a_change(|| mpp_stores::sql::board(&settings));
    let settings = fresh();
    let count = format!("SELECT count(*) FROM {}_board", settings.prefix);
    forgets_what_has_run_out(
        || Node::new(mpp_stores::sql::board(&settings)),
        || number(&server.run(&settings, &count)),
    );
    // Tables of the version before, that had none, are brought up to date.
    let text = format!(
        "DROP TABLE {p}_board; DROP TABLE {p}_board_head; DELETE FROM {p}_schema WHERE version = 2",
        p = settings.prefix
    );
    server.run(&settings, &text);
    let node = Node::new(mpp_stores::sql::board(&settings));
    node.post(TOPIC, &[says("a", "1")]);
    assert_eq!(node.all(TOPIC, 0, 5).0, pairs(&[("a", "1")]));
    // Nothing of it is left with the store.
    mpp_stores::sql::remove(&settings).unwrap();
    let text = format!(
        "SELECT count(*) FROM information_schema.tables WHERE table_name LIKE '{}\\_%'",
        settings.prefix
    );
    assert_eq!(number(&server.run(&settings, &text)), 0);
}

#[test]
fn on_mariadb_a_board_keeps_its_contract() {
    on_sql(&MariaDb::start(&[]));
}

#[test]
fn on_postgresql_a_board_keeps_its_contract() {
    on_sql(&Postgres::start(&[]));
}
