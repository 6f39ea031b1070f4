//! Several nodes that know of each other's quarantines, over a board in memory.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mpp_hub::board::{Board as _, GONE_KEEP_MS, MemoryBoard, Post};
use mpp_hub::quarantine::Quarantine as _;
use serde_json::json;

use crate::store_tests::{NOON, Scene, files, settings};
use crate::{Errand, Scope, Search, State, Together, What};

const EVERY: Duration = Duration::from_millis(10);

fn node(board: &Arc<MemoryBoard>, name: &str) -> Scene {
    let board = Arc::<MemoryBoard>::clone(board);
    Scene::start_as(Some(Together { board, node: name.into(), every: EVERY }))
}

fn pair() -> (Arc<MemoryBoard>, Scene, Scene) {
    let board = Arc::default();
    let (a, b) = (node(&board, "a"), node(&board, "b"));
    (board, a, b)
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "there was no: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Scene {
    fn hold_one(&self, at_ms: u64, to: &str, subject: &str) -> String {
        self.hold(at_ms, "a@x.example", &[to], &format!("Subject: {subject}\r\n\r\n{subject}\r\n"))
    }

    /// Subjects with the nodes that hold them, of all or of one state.
    fn rows(&self, search: Search) -> Vec<String> {
        let page = self.wait(self.store.list(Search { most: 500, ..search })).unwrap();
        let rows = page.rows.into_iter();
        rows.map(|row| format!("{} {} {}", row.subject, row.node, row.recipients[0].1.name()))
            .collect()
    }

    fn all(&self) -> Vec<String> {
        self.rows(Search { states: State::ALL.to_vec(), ..Search::default() })
    }

    fn waits_for(&self, wanted: &[&str]) {
        let mut seen = Vec::new();
        let began = Instant::now();
        while seen != wanted {
            assert!(began.elapsed() < Duration::from_secs(20), "{seen:?} is not {wanted:?}");
            std::thread::sleep(Duration::from_millis(2));
            seen = self.all();
        }
    }

    /// Stays so for a while in which the nodes have talked.
    fn stays(&self, wanted: &[&str]) {
        let began = Instant::now();
        while began.elapsed() < EVERY * 20 {
            assert_eq!(self.all(), wanted);
        }
    }

    /// Does what others ask of this node, once.
    fn serve(&self, what: What) -> Errand {
        let errands = self.wait(self.store.errands()).unwrap();
        let [errand] = errands.as_slice() else { panic!("{errands:?}") };
        assert_eq!(errand.what, what);
        let done = self.wait(self.store.delete(&errand.message, &errand.scope));
        let answer = done.map(|()| json!({ "id": errand.message }));
        self.wait(self.store.errand_done(errand, &answer)).unwrap();
        errand.clone()
    }

    fn order(&self, name: &str, scope: Scope, what: What) -> Result<Option<crate::Answer>, String> {
        let (message, node) = self.wait(self.store.holder(name, &scope))?;
        let errand = Errand { message, what, scope, ..Errand::default() };
        self.wait(self.store.order(&node.expect("another node"), errand))
    }
}

#[test]
fn what_one_holds_the_others_list_search_and_show() {
    let (_, a, b) = pair();
    let id = a.hold_one(NOON, "bob@test.example", "first offer");
    b.hold_one(NOON + 1, "eve@test.example", "second offer");
    for scene in [&a, &b] {
        scene.waits_for(&["second offer b held", "first offer a held"]);
        let words = Search { words: "first".into(), ..Search::default() };
        assert_eq!(scene.rows(words), ["first offer a held"]);
        let scope = Scope::User("eve@test.example".into());
        assert_eq!(scene.rows(Search { scope, ..Search::default() }), ["second offer b held"]);
    }
    let shown = b.wait(b.store.show(&id, &Scope::All)).unwrap();
    assert!(shown.trouble.contains("its text lies on a"), "{}", shown.trouble);
    assert_eq!((&*shown.row.sender, &*shown.row.node, shown.text.len()), ("a@x.example", "a", 0));
    assert_eq!(a.wait(a.store.show(&id, &Scope::All)).unwrap().text.trim(), "first offer");
    let eve = Scope::User("eve@test.example".into());
    let refused = b.wait(b.store.show(&id, &eve)).unwrap_err();
    assert_eq!(refused, format!("no message {id} is here"));
    // What becomes of it, others hear as well; and that it is not there any more.
    a.wait(a.store.delete(&id, &Scope::All)).unwrap();
    b.waits_for(&["second offer b held", "first offer a deleted"]);
    let third = a.hold_one(NOON + 2, "bob@test.example", "third");
    b.waits_for(&["third a held", "second offer b held", "first offer a deleted"]);
    a.wait(a.store.withdraw(&third));
    b.waits_for(&["second offer b held", "first offer a deleted"]);
    a.clock.advance_to(NOON + 31 * 24 * 3_600_000);
    a.wait(a.store.expire()).unwrap();
    b.waits_for(&["second offer b held"]);
}

#[test]
fn nothing_is_lost_and_nothing_doubled_by_a_crash_or_while_the_board_is_away() {
    let (board, a, b) = pair();
    a.hold_one(NOON, "bob@test.example", "1");
    b.waits_for(&["1 a held"]);
    board.set_away(true);
    a.hold_one(NOON + 1, "bob@test.example", "2");
    // Lists go on, with what is known.
    a.stays(&["2 a held", "1 a held"]);
    b.stays(&["1 a held"]);
    let a = a.again(|_| {});
    a.hold_one(NOON + 2, "bob@test.example", "3");
    let b = b.again(|_| {});
    b.stays(&["1 a held"]);
    board.set_away(false);
    b.waits_for(&["3 a held", "2 a held", "1 a held"]);
    a.stays(&["3 a held", "2 a held", "1 a held"]);
    // A crash that leaves a file without a row, and one that loses the index: repaired, and told.
    let a = a.again(|folder| {
        fs::remove_file(&files(folder)[0]).unwrap();
        for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
            let _ = fs::remove_file(folder.join(name));
        }
    });
    b.waits_for(&["3 a held", "2 a held"]);
    a.stays(&["3 a held", "2 a held"]);
    // What others told is damaged, which is found at the start, or under way: it is read again.
    let damage = |folder: &Path| {
        let other = folder.join("others/a.sqlite");
        fs::write(other, "no database, however long it may be ".repeat(100)).unwrap();
    };
    let b = b.again(|folder| {
        damage(folder);
        for name in ["a.sqlite-wal", "a.sqlite-shm"] {
            let _ = fs::remove_file(folder.join("others").join(name));
        }
    });
    b.waits_for(&["3 a held", "2 a held"]);
    let b = b.again(damage);
    until("a file that was made anew", || {
        let file = fs::read(b.folder.path().join("others/a.sqlite")).ok()?;
        (!file.starts_with(b"no database")).then_some(())
    });
    let mut seen = Vec::new();
    until("all rows", || {
        // In the middle of it the index may be damaged still.
        let page = b.wait(b.store.list(Search { most: 5, ..Search::default() })).ok()?;
        seen = page.rows.into_iter().map(|row| row.subject).collect();
        (seen == ["3", "2"]).then_some(())
    });
    drop(a);
    let b = b.again(|_| {});
    b.stays(&["3 a held", "2 a held"]);
}

#[test]
fn a_board_that_comes_back_empty_is_told_everything() {
    let (board, a, b) = pair();
    let id = a.hold_one(NOON, "bob@test.example", "1");
    a.hold_one(NOON + 1, "bob@test.example", "2");
    b.waits_for(&["2 a held", "1 a held"]);
    board.lose_all();
    a.wait(a.store.delete(&id, &Scope::All)).unwrap();
    b.waits_for(&["2 a held", "1 a deleted"]);
    // A node that is new knows all of it.
    node(&board, "c").waits_for(&["2 a held", "1 a deleted"]);
}

#[test]
fn a_node_that_was_away_for_long_begins_anew() {
    let (board, a, b) = pair();
    a.hold_one(NOON, "bob@test.example", "1");
    let id = a.hold_one(NOON + 1, "bob@test.example", "2");
    b.waits_for(&["2 a held", "1 a held"]);
    let b = b.again(|_| {
        a.wait(a.store.withdraw(&id));
        let gone = || board_says(&a, &board, &id).is_none().then_some(());
        until("a row that is gone", gone);
    });
    b.waits_for(&["1 a held"]);
    b.clock.advance_to(NOON + GONE_KEEP_MS);
    b.waits_for(&["1 a held"]);
}

fn board_says(scene: &Scene, board: &MemoryBoard, id: &str) -> Option<Vec<u8>> {
    let rows = scene.wait(board.changes("held/a", 0, 500)).unwrap().changes;
    rows.into_iter().find(|row| row.id == id).and_then(|row| row.text)
}

#[test]
fn limits_digests_and_repair_know_nothing_of_others() {
    let (_, a, b) = pair();
    for number in 0..20 {
        a.hold_one(NOON + number, "bob@test.example", "theirs");
    }
    b.hold_one(NOON + 30, "eve@test.example", "own");
    until("all rows", || (b.all().len() == 21).then_some(()));
    assert_eq!(b.number("messages"), 1);
    let mut small = settings();
    small.limits.user_size = b.number("disk_bytes");
    small.limits.size = b.number("disk_bytes");
    b.store.configure(&small);
    let expired = b.wait(b.store.expire()).unwrap();
    assert_eq!((expired.too_many, expired.of_users), (0, 0));
    let (users, _) = b.wait(b.store.digest_users("")).unwrap();
    assert_eq!(users, ["eve@test.example"]);
    let b = b.again(|_| {});
    assert_eq!((b.number("messages"), b.all().len()), (1, 21));
    assert_eq!(files(b.folder.path()).len(), 1);
    // What a node that is gone held is not kept for ever.
    drop(a);
    b.clock.advance_to(NOON + 90 * 24 * 3_600_000);
    b.wait(b.store.expire()).unwrap();
    let b = b.again(|_| {});
    b.waits_for(&[]);
}

#[test]
fn what_is_asked_of_another_node_is_done_once() {
    let (board, a, b) = pair();
    let id = a.hold(
        NOON,
        "a@x.example",
        &["bob@test.example", "eve@test.example"],
        "Subject: 1\r\n\r\n",
    );
    until("a row", || (b.all().len() == 1).then_some(()));
    let bob = Scope::User("bob@test.example".into());
    std::thread::scope(|scope| {
        let served = scope.spawn(|| a.serve(What::Delete));
        let told = until("an answer", || b.order(&id, bob.clone(), What::Delete).transpose());
        // Whoever asks again before the answer is there may hear of the deed first.
        let is_done =
            told == Ok(Ok(json!({ "id": id }))) || told == Err(format!("{id} was deleted"));
        assert!(is_done, "{told:?}");
        assert_eq!(served.join().unwrap().scope, bob);
    });
    b.waits_for(&["1 a deleted"]);
    let refused = b.order(&id, bob, What::Delete).unwrap_err();
    assert_eq!(refused, format!("{id} was deleted"), "nobody is asked");
    // While the other node is away it is only noted, and everybody sees that.
    let c = node(&board, "c");
    let eve = Scope::User("eve@test.example".into());
    let asked = |scene: &Scene| {
        let page = scene.wait(scene.store.list(Search { most: 5, ..Search::default() })).unwrap();
        page.rows.first().map(|row| row.asked.clone())
    };
    let mut order = None;
    let a = a.again(|_| {
        assert_eq!(b.order(&id, eve.clone(), What::Delete), Ok(None));
        let orders = b.wait(board.changes("orders", 0, 500)).unwrap().changes;
        order = orders.into_iter().find(|row| row.text.is_some());
        assert_eq!(asked(&b).as_deref(), Some("delete"));
        until("what is asked", || (asked(&c).as_deref() == Some("delete")).then_some(()));
    });
    // It begins, and ends before it can say what came of it: what is found then is said.
    let begun = a.wait(a.store.errands()).unwrap();
    assert_eq!(begun.len(), 1);
    a.wait(a.store.delete(&id, &eve)).unwrap();
    let a = a.again(|_| {});
    let again = a.wait(a.store.errands()).unwrap();
    assert_eq!(again, begun, "it is known that it was begun");
    let done = a.wait(a.store.delete(&id, &eve)).map(|()| json!({}));
    assert_eq!(done, Err(format!("{id} was deleted")));
    a.wait(a.store.errand_done(&again[0], &done)).unwrap();
    for scene in [&b, &c] {
        until("what is done", || {
            let page = scene.list(Search::default());
            page.is_empty().then_some(())
        });
    }
    let no_orders = || {
        let rows = a.wait(board.changes("orders", 0, 500)).unwrap().changes;
        rows.iter().all(|row| row.text.is_none()).then_some(())
    };
    until("a board without orders", no_orders);
    // A server that lost its last moments has the order once more.
    let order = order.unwrap();
    let again = Post { id: order.id, text: order.text, keep_ms: 1_000 };
    a.wait(board.post("orders", &[again])).unwrap();
    until("a board without orders", no_orders);
    let hands_over_nothing = async {
        tokio::select! {
            biased;
            errands = a.store.errands() => panic!("{errands:?}"),
            () = std::future::ready(()) => {}
        }
    };
    a.wait(hands_over_nothing);
}

#[test]
fn an_errand_that_was_begun_is_not_forced_again() {
    let (_, a, b) = pair();
    let id = a.hold_one(NOON, "bob@test.example", "1");
    b.waits_for(&["1 a held"]);
    let errand = Errand { message: id, is_forced: true, ..Errand::default() };
    drop(b.wait(b.store.order("a", errand)).unwrap());
    let first = a.wait(a.store.errands()).unwrap();
    assert!(first[0].is_forced && first[0].what == What::Release);
    let second = a.again(|_| {});
    let second = second.wait(second.store.errands()).unwrap();
    assert!(!second[0].is_forced && second[0].id == first[0].id);
}

#[test]
fn nobody_is_asked_while_the_board_is_away() {
    let (board, a, b) = pair();
    let id = a.hold_one(NOON, "bob@test.example", "1");
    b.waits_for(&["1 a held"]);
    board.set_away(true);
    let refused = b.order(&id, Scope::All, What::Delete).unwrap_err();
    assert!(refused.starts_with(&format!("a holds {id}, and cannot be asked now")), "{refused}");
}

#[test]
fn messages_of_one_id_are_told_apart() {
    let (_, a, b) = pair();
    let ids = [&a, &b].map(|it| it.hold_one(NOON + 5, "bob@test.example", "same"));
    assert_eq!(ids[0], ids[1], "they came in the same moment");
    let id = &ids[0];
    for scene in [&a, &b] {
        scene.waits_for(&["same a held", "same b held"]);
        let several = scene.wait(scene.store.holder(id, &Scope::All)).unwrap_err();
        assert_eq!(several, format!("there are several: say which, {id}@a or {id}@b"));
    }
    let holder =
        |scene: &Scene, name: &str| scene.wait(scene.store.holder(name, &Scope::All)).unwrap();
    assert_eq!(holder(&a, &format!("{id}@a")), (id.clone(), None));
    assert_eq!(holder(&a, &format!("{id}@b")), (id.clone(), Some("b".into())));
    // The links of digests say which.
    let wanted = crate::Wanted { user: "bob@test.example".into(), ..crate::Wanted::default() };
    let mut with_links = settings();
    with_links.links = "https://mail.test.example/held".into();
    b.store.configure(&with_links);
    let digest = b.wait(b.store.digest(wanted)).unwrap().unwrap();
    let text = String::from_utf8(digest.text).unwrap().replace("=\r\n", "").replace("=3D", "=");
    let token = text.split("held?t=").nth(1).unwrap();
    let token: String =
        token.chars().take_while(|it| it.is_ascii_alphanumeric() || *it == '-').collect();
    assert_eq!(b.store.opened(&token).unwrap().id, format!("{id}@b"));
}

#[test]
fn pages_lead_through_the_rows_of_all_nodes_once() {
    let board = Arc::default();
    let nodes = ["a", "b", "c"].map(|name| node(&board, name));
    let mut wanted = Vec::new();
    for number in 0..60_u64 {
        let scene = &nodes[usize::try_from(number * number % 7 % 3).unwrap()];
        // Some of one id, and many of one node in a row.
        scene.hold_one(NOON + number / 2, "bob@test.example", &number.to_string());
        wanted.push(number);
    }
    for scene in &nodes {
        until("all rows", || (scene.all().len() == 60).then_some(()));
        for most in [1, 7, 59, 60, 100] {
            let (mut found, mut cursor) = (Vec::new(), None);
            loop {
                let search = Search { cursor, most, ..Search::default() };
                let page = scene.wait(scene.store.list(search)).unwrap();
                assert!(!page.rows.is_empty() && page.rows.len() < most + 3);
                assert!(page.rows.is_sorted_by(|one, other| one.id >= other.id));
                found.extend(page.rows.into_iter().map(|row| row.subject.parse::<u64>().unwrap()));
                cursor = page.cursor;
                if cursor.is_none() || found.len() == 60 {
                    break;
                }
            }
            found.sort_unstable();
            assert_eq!(found, wanted, "{most}");
        }
    }
}

#[test]
fn two_nodes_of_one_name_do_not_mix() {
    let (board, a, b) = pair();
    a.hold_one(NOON, "bob@test.example", "1");
    b.waits_for(&["1 a held"]);
    // It came later, by its clock.
    let second =
        Scene::start_as(Some(Together { board: board.clone(), node: "a".into(), every: EVERY }));
    second.clock.advance_to(NOON + 1);
    let second = second.again(|_| {});
    second.hold_one(NOON + 7, "bob@test.example", "not told");
    second.stays(&["not told a held"]);
    b.stays(&["1 a held"]);
    a.hold_one(NOON + 2, "bob@test.example", "2");
    b.waits_for(&["2 a held", "1 a held"]);
}

#[test]
fn a_node_that_is_called_otherwise_is_one_node() {
    let (_, mut a, b) = pair();
    a.hold_one(NOON, "bob@test.example", "1");
    b.waits_for(&["1 a held"]);
    a.together.as_mut().unwrap().node = "z".into();
    let mut a = a.again(|_| {});
    b.waits_for(&["1 z held"]);
    a.waits_for(&["1 z held"]);
    a.together.as_mut().unwrap().node = "a".into();
    let a = a.again(|_| {});
    a.hold_one(NOON + 1, "bob@test.example", "2");
    for scene in [&a, &b] {
        scene.waits_for(&["2 a held", "1 a held"]);
        scene.stays(&["2 a held", "1 a held"]);
    }
}

#[test]
fn nothing_that_stands_on_a_board_does_harm() {
    let (board, a, b) = pair();
    a.hold_one(NOON, "bob@test.example", "1");
    b.waits_for(&["1 a held"]);
    let post = |topic: &str, id: &str, text: &str| {
        let post = Post { id: id.into(), text: Some(text.into()), keep_ms: 1 };
        a.wait(board.post(topic, &[post])).unwrap();
    };
    for text in [
        "",
        "x",
        "[]",
        "[1]",
        "{}",
        "[1,1,1]",
        "\u{0}",
        "[1,-1,\"\",\"\",\"\",1,\"\",\"\",\"\",\"\",1,[[1]]]",
    ] {
        for (topic, id) in [
            ("held/a", "0000000001"),
            ("held/a", "no id"),
            ("held/b", "0000000001"),
            ("orders", "x"),
            ("answers", "x"),
            ("nodes", "a"),
            ("nodes", "d"),
            ("nodes", "../../etc/passwd"),
            ("nodes", "."),
        ] {
            post(topic, id, text);
        }
    }
    let odd =
        "[1,1,\"s\\n\\u001b\",\"sub\\nject\",\"\",1,\"\",\"\",\"\",\"\",99999999999999999999,[]]";
    post("held/a", "0000000002", odd);
    post(
        "held/a",
        "ZZZZZZZZZZ",
        &odd.replace("99999999999999999999", "18446744073709551615")
            .replace("[]]", "[[\"x\\u001f\\n@y\",7,\"p\\n\",null],[\"x@y\",-3,\"p\",\"u\"]]]"),
    );
    a.hold_one(NOON + 1, "bob@test.example", "2");
    until("the rows behind", || (b.all().len() == 3).then_some(()));
    assert_eq!(b.all()[1..], ["2 a held", "1 a held"]);
    assert!(!b.all()[0].contains('\n'));
    assert!(!b.folder.path().join("others/..sqlite").exists());
    b.again(|_| {});
}
