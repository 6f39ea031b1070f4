//! Several nodes on one store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mpp_config::store::Topology;
use mpp_engine::question::{Answer, Effect, IdentityKind, Key, Question, Shelf};
use mpp_hub::store::Store;
use mpp_stores::shared::Options;
use mpp_tests::real::redis::{Cluster, Redis};

use crate::cases::{block, key_of, remember};
use crate::redis::{OnRedis, options};
use crate::{Backend, HOUR, T0, wait_for};

pub(crate) fn ask(store: &dyn Store, now_ms: u64, questions: &[Question]) -> Vec<Answer> {
    let mut answers = Vec::new();
    let later = store.ask(now_ms, questions, &mut answers);
    later.into_iter().for_each(wait_for);
    answers
}

fn granted(answer: &Answer) -> bool {
    matches!(answer, Answer::Counted(counted) if counted.granted)
}

/// Nodes that count the same streams at once: every sum is exact, and no limit is passed.
pub(crate) fn sums_are_exact(open: impl Fn() -> Arc<dyn Store> + Sync) {
    const EACH: u64 = 200;
    let (count, reserve, first) = (key_of(1), key_of(2), key_of(3));
    let let_through: u64 = std::thread::scope(|scope| {
        let node = |number: u64| {
            let open = &open;
            scope.spawn(move || {
                let store = open();
                let mut let_through = 0;
                for round in 0..EACH {
                    let now_ms = T0 + round;
                    let questions = [
                        Question::Count { key: count, per_ms: HOUR, amount: 1 },
                        Question::Reserve { key: reserve, per_ms: HOUR, amount: 1, limit: 250 },
                        Question::Since { shelf: Shelf::Greylisted, key: first },
                    ];
                    let answers = ask(&*store, now_ms, &questions);
                    let_through += u64::from(granted(&answers[1]));
                    store.perform(now_ms + number, &[remember(first, HOUR, false)]);
                }
                store.settle().unwrap();
                let_through
            })
        };
        let nodes: Vec<_> = (0..3).map(node).collect();
        nodes.into_iter().map(|node| node.join().unwrap()).sum()
    });
    assert_eq!(let_through, 250, "no limit is passed, and none is reached too early");
    let store = open();
    let used = |key, question: &dyn Fn(Key) -> Question| match ask(
        &*store,
        T0 + EACH,
        &[question(key)],
    )[0]
    {
        Answer::Counted(counted) => counted.used,
        ref other => panic!("{other:?}"),
    };
    let look = |key| Question::Count { key, per_ms: HOUR, amount: 0 };
    assert_eq!(used(count, &look), 3 * EACH);
    assert_eq!(used(reserve, &look), 250);
    let since = Question::Since { shelf: Shelf::Greylisted, key: first };
    let Answer::Since(Some(moment)) = ask(&*store, T0 + EACH, &[since])[0] else {
        panic!("it was remembered");
    };
    assert!(moment.at_ms < T0 + 3, "the first time stays: {}", moment.at_ms - T0);
}

/// A block, and a proven identity, of one node are known to the others within a second.
pub(crate) fn blocks_spread(open: impl Fn() -> Arc<dyn Store>) {
    let (here, there) = (open(), open());
    let (kind, key) = (IdentityKind::Client, key_of(9));
    let blocked = Question::Blocked { kind, key };
    let is_blocked =
        |store: &dyn Store| matches!(ask(store, T0 + 1, &[blocked])[0], Answer::Blocked(Some(_)));
    let until = |what: &str, wanted: bool| {
        let began = Instant::now();
        while is_blocked(&*there) != wanted {
            assert!(began.elapsed() < Duration::from_secs(10), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(began.elapsed() < Duration::from_secs(1), "{what} took {:?}", began.elapsed());
    };
    // Both are there: what follows is not the reading of all at the start.
    here.settle().unwrap();
    there.settle().unwrap();
    here.perform(T0, &[Effect::Block(block(key, HOUR, 2.0, 9 * HOUR))]);
    assert!(is_blocked(&*here));
    until("a block of another node", true);
    assert_eq!(there.blocks(T0 + 1, 5).len(), 1);
    there.perform(T0 + 2, &[Effect::Unblock { kind, key }]);
    assert!(!is_blocked(&*there));
    let began = Instant::now();
    while is_blocked(&*here) {
        assert!(began.elapsed() < Duration::from_secs(1), "the end of a block");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whoever asks the server for anything hears at once who was proven or blocked at another node before,
/// and who is so no more.
pub(crate) fn answers_know_what_was_done_before(open: impl Fn() -> Arc<dyn Store>) {
    let (here, there) = (open(), open());
    here.settle().unwrap();
    there.settle().unwrap();
    let (kind, shelf) = (IdentityKind::Client, Shelf::Proven);
    for round in 0..20 {
        let (key, now_ms) = (key_of(100 + round), T0 + 10 * round);
        let questions = [
            Question::Since { shelf, key },
            Question::Blocked { kind, key },
            Question::Since { shelf: Shelf::Greylisted, key },
        ];
        let proven = Effect::Remember { shelf, key, keep_ms: HOUR, again: true, mark: 0 };
        here.perform(now_ms, &[proven, Effect::Block(block(key, HOUR, 2.0, 9 * HOUR))]);
        here.settle().unwrap();
        let known = ask(&*there, now_ms + 1, &questions);
        assert!(matches!(known[0], Answer::Since(Some(_))), "round {round}: {known:?}");
        assert!(matches!(known[1], Answer::Blocked(Some(_))), "round {round}: {known:?}");
        // What this node says itself is newer than what it has just heard.
        there.perform(now_ms + 2, &[Effect::Forget { shelf, key }, Effect::Unblock { kind, key }]);
        for store in [&there, &here] {
            let known = ask(&**store, now_ms + 3, &questions);
            assert_eq!(known[0], Answer::Since(None), "round {round}");
            assert_eq!(known[1], Answer::Blocked(None), "round {round}");
            there.settle().unwrap();
        }
    }
}

#[test]
fn on_one_server_nodes_are_one() {
    let server = Redis::start(&[]);
    let backend = OnRedis::new(Topology::Single, &[server.place()]);
    answers_know_what_was_done_before(|| backend.open());
    let backend = OnRedis::new(Topology::Single, &[server.place()]);
    sums_are_exact(|| backend.open());
    let backend = OnRedis::new(Topology::Single, &[server.place()]);
    blocks_spread(|| backend.open());
}

#[test]
fn in_a_cluster_nodes_are_one() {
    let cluster = Cluster::start(false);
    let backend = OnRedis::new(Topology::Cluster, &cluster.places());
    answers_know_what_was_done_before(|| backend.open());
    let backend = OnRedis::new(Topology::Cluster, &cluster.places());
    sums_are_exact(|| backend.open());
    let backend = OnRedis::new(Topology::Cluster, &cluster.places());
    blocks_spread(|| backend.open());
}

#[test]
fn what_is_counted_is_counted_once_though_the_server_is_killed_and_hangs() {
    // It keeps what it was told over a kill, as a site that shares state would have it.
    let mut server = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let backend = OnRedis::new(Topology::Single, &[server.place()]);
    let options = Options { deadline: Duration::from_millis(100), ..options() };
    let store = mpp_stores::redis::open(&backend.0, &options).unwrap();
    store.settle().unwrap();
    let count = Question::Count { key: key_of(1), per_ms: HOUR, amount: 1 };
    let mut counted = 0;
    for round in 0..6 {
        for _ in 0..50 {
            let began = Instant::now();
            ask(&*store, T0, &[count]);
            counted += 1;
            assert!(began.elapsed() < Duration::from_secs(2), "nobody waits for what is away");
        }
        match round % 3 {
            0 => server.freeze(),
            1 => server.thaw(),
            _ => {
                server.kill();
                ask(&*store, T0, &[count]);
                counted += 1;
                server.launch();
            }
        }
    }
    let began = Instant::now();
    while store.settle().is_err() {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", store.health());
        std::thread::sleep(Duration::from_millis(20));
    }
    let look = Question::Count { key: key_of(1), per_ms: HOUR, amount: 0 };
    let Answer::Counted(used) = ask(&*store, T0, &[look])[0] else { panic!() };
    assert_eq!(used.used, counted);
    drop(store);
    let store = backend.open();
    let Answer::Counted(used) = ask(&*store, T0, &[look])[0] else { panic!() };
    assert_eq!(used.used, counted, "and on the server itself");
}
