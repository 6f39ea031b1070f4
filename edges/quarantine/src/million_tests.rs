//! Lists and searches among a million messages: the figures of docs/benchmarks.md. Not run with the other
//! tests, since it takes minutes:
//! `cargo test --release -p mpp-quarantine a_million -- --ignored --nocapture`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mpp_hub::board::MemoryBoard;
use mpp_hub::id::Ids;
use sqlx::Connection as _;

use crate::index::insert_into;
use crate::record::Message;
use crate::store_tests::{NOON, Scene, holding, settings};
use crate::{Scope, Search, Together};

const COUNT: u64 = 1_000_000;
/// Messages come over thirty days.
const GAP_MS: u64 = 30 * 86_400_000 / COUNT;
const USERS: u64 = 5_000;
const ROUNDS: usize = 20;
const POLICIES: u64 = 1_000;

fn fill(scene: &Scene) {
    let inner = &scene.store.inner;
    let ids = Ids::default();
    scene.wait(async {
        let mut write = inner.index.write.lock().await;
        let mut all = write.begin().await.unwrap();
        for number in 0..COUNT {
            let user = format!("user{}@domain{}.example", number % USERS, number % 50);
            let sender = format!("sender{}@spam{}.example", number % 70_001, number % 997);
            let at_ms = NOON - (COUNT - number) * GAP_MS;
            let mut holding = holding(at_ms, &sender, &[&user]);
            for held in &mut holding.recipients {
                held.policy = format!("policy{}", number % POLICIES);
            }
            holding.reason = if number % 1000 == 0 { "virus" } else { "spam" }.into();
            let subject = format!("offer number{number} for rare{} things", number % 9_973);
            let id = ids.next(at_ms);
            let message = Message { id, holding, subject, bytes: 9_000, disk_bytes: 3_000 };
            insert_into(&mut all, &message).await.unwrap();
            if number % 10_000 == 9_999 {
                all.commit().await.unwrap();
                all = write.begin().await.unwrap();
            }
        }
        all.commit().await.unwrap();
    });
}

/// What is looked for, and rows of its first page.
fn cases(search: &Search) -> Vec<(&'static str, Search, usize)> {
    let user = Scope::User("user4999@domain49.example".into());
    let words = |words: &str| Search { words: words.into(), ..search.clone() };
    vec![
        ("all, first page", search.clone(), 50),
        (
            "all, a page in the middle",
            Search { until_ms: Some(NOON - COUNT / 2 * GAP_MS), ..search.clone() },
            50,
        ),
        ("of a user", Search { scope: user.clone(), ..search.clone() }, 50),
        (
            "of a domain",
            Search { scope: Scope::Domain("domain49.example".into()), ..search.clone() },
            50,
        ),
        ("a sender", Search { sender: "sender7@spam7.example".into(), ..search.clone() }, 1),
        ("a domain of senders", Search { sender: "@spam5.example".into(), ..search.clone() }, 50),
        ("a word that all have", words("offer"), 50),
        ("a rare word", words("rare77"), 50),
        ("the beginning of a word", words("number99999*"), 11),
        ("two words", words("offer number31337"), 1),
        ("a word of a user", Search { scope: user, ..words("offer") }, 50),
        ("a rare reason", Search { reason: "virus".into(), ..search.clone() }, 50),
        (
            "a rare reason and a word that all have",
            Search { reason: "virus".into(), ..words("offer") },
            2,
        ),
    ]
}

#[test]
#[ignore = "a benchmark of some minutes"]
fn a_million_messages_are_listed_and_searched() {
    let scene = Scene::start();
    let begin = Instant::now();
    fill(&scene);
    let size = std::fs::metadata(scene.folder.path().join("index.sqlite")).unwrap().len();
    println!("filled in {:?}, index {} MiB", begin.elapsed(), size >> 20);
    let search = Search { most: 50, ..Search::default() };
    let cases = cases(&search);
    for (name, search, wanted) in cases {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            let page = scene.wait(scene.store.list(search.clone())).unwrap();
            times.push(begin.elapsed());
            assert_eq!(page.rows.len(), wanted, "{name}");
        }
        times.sort();
        println!("{name:40} median {:?}, most {:?}", times[ROUNDS / 2], times[ROUNDS - 1]);
    }
    // A hundred thousand grow old while lists are asked for.
    scene.clock.advance_to(NOON + 3 * 86_400_000);
    assert_eq!(expire(&scene, &search), 100_000);
    // Nothing is too old: all policies are looked at.
    assert_eq!(expire(&scene, &search), 0);
    // A tenth of the policies keeps for ten days.
    let mut settings = settings();
    let mut terms = settings.default.clone();
    terms.limits.keep_ms = 10 * 86_400_000;
    for number in 0..POLICIES / 10 {
        settings.policies.insert(format!("policy{number}"), terms.clone());
    }
    scene.store.configure(&settings);
    let old = expire(&scene, &search);
    assert!((60_000..68_000).contains(&old), "{old}");
}

/// Has it expire, and asks for lists meanwhile; how many were too old.
fn expire(scene: &Scene, search: &Search) -> u64 {
    let store = Arc::clone(&scene.store);
    let begin = Instant::now();
    let (expired, longest) = scene.wait(async {
        let mut longest = Duration::ZERO;
        let mut expire = Box::pin(store.expire());
        loop {
            let begin = Instant::now();
            let page = store.list(search.clone()).await.unwrap();
            assert_eq!(page.rows.len(), 50);
            longest = longest.max(begin.elapsed());
            let done = std::future::poll_fn(|context| {
                std::task::Poll::Ready(match expire.as_mut().poll(context) {
                    std::task::Poll::Ready(done) => Some(done),
                    std::task::Poll::Pending => None,
                })
            });
            if let Some(done) = done.await {
                break (done.unwrap(), longest);
            }
        }
    });
    println!(
        "{} expired in {:?}; a page meanwhile {longest:?} at the most",
        expired.too_old,
        begin.elapsed()
    );
    expired.too_old
}

#[test]
#[ignore = "a benchmark of some minutes"]
fn a_million_messages_of_another_node_are_told_and_read() {
    let board: Arc<MemoryBoard> = Arc::default();
    let every = Duration::from_secs(1);
    let node = |name: &str| Together { board: board.clone(), node: name.into(), every };
    let one = Scene::start_as(Some(node("one")));
    fill(&one);
    let begin = Instant::now();
    let other = Scene::start_as(Some(node("other")));
    let search = Search { most: 50, ..Search::default() };
    let file = other.folder.path().join("others/one.sqlite");
    let (mut longest, mut last) = (Duration::ZERO, 0);
    loop {
        let asked = Instant::now();
        let page = other.wait(other.store.list(search.clone())).unwrap();
        longest = longest.max(asked.elapsed());
        // The oldest are told first.
        let newest = page.rows.first().map_or(0, |row| row.at_ms);
        if newest == NOON - GAP_MS {
            break;
        }
        if begin.elapsed().as_secs() / 20 > last {
            last = begin.elapsed().as_secs() / 20;
            println!("{:?}: {} still to come", begin.elapsed(), (NOON - newest.max(1)) / GAP_MS);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let size = std::fs::metadata(file).unwrap().len();
    println!("told and read in {:?}, a page meanwhile {longest:?} at the most", begin.elapsed());
    println!("index of the other {} MiB", size >> 20);
}
