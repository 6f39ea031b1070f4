//! The quarantine as doors and commands use it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mpp_config::quarantine::{Limits, Terms};
use mpp_config::{Quarantine as Settings, Spool as SpoolSettings};
use mpp_hub::clock::VirtualClock;
use mpp_hub::quarantine::{HeldFor, Holding, Quarantine as _};
use mpp_hub::spool::{Spool, Spooled};

use crate::{Quarantine, Scope, Search, State, Together};

pub(crate) const NOON: u64 = 1_795_528_230_000;
const DAY: u64 = 24 * 3600 * 1000;

/// A quarantine of its own.
pub(crate) struct Scene {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: Arc<VirtualClock>,
    pub(crate) store: Arc<Quarantine>,
    pub(crate) together: Option<Together>,
    runtime: tokio::runtime::Runtime,
}

pub(crate) fn settings() -> Settings {
    let limits = Limits { keep_ms: 30 * DAY, size: 10 << 30, user_size: 1 << 30 };
    let default = Terms { limits, digest: None };
    Settings { limits, default, ..Settings::default() }
}

fn limited(change: impl Fn(&mut Limits)) -> Settings {
    let mut settings = settings();
    change(&mut settings.limits);
    settings
}

pub(crate) fn spooled(text: &[u8]) -> Arc<Spooled> {
    let settings = SpoolSettings { message_memory: 1 << 30, memory: 1 << 30, size: 1 << 30 };
    let mut writer = Spool::new(Path::new("/nowhere"), &settings).begin();
    writer.write(text).unwrap();
    writer.finish()
}

/// A recipient, whose mail a policy holds; `user+detail@` is the user.
pub(crate) fn held_for(address: &str, policy: &str) -> HeldFor {
    let lower = address.to_lowercase();
    let (local, domain) = lower.rsplit_once('@').unwrap();
    let user = format!("{}@{domain}", local.split('+').next().unwrap());
    HeldFor { address: address.into(), user, policy: policy.into(), parameters: String::new() }
}

pub(crate) fn holding(at_ms: u64, sender: &str, recipients: &[&str]) -> Holding {
    Holding {
        at_ms,
        instance: "1.1".into(),
        client: "192.0.2.7".parse().ok(),
        sender: sender.into(),
        recipients: recipients.iter().map(|it| held_for(it, "default")).collect(),
        reason: "spam".into(),
        points: 950,
        route: "mx/0".into(),
        ..Holding::default()
    }
}

impl Scene {
    pub(crate) fn start() -> Self {
        Self::start_as(None)
    }

    /// One of several nodes.
    pub(crate) fn start_as(together: Option<Together>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(VirtualClock::default());
        clock.advance_to(NOON);
        let store = Quarantine::open(folder.path(), &settings(), clock.clone(), together.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { folder, clock, store: store.unwrap(), together, runtime }
    }

    /// As after a crash, with whatever was done to the files meanwhile.
    pub(crate) fn again(self, meanwhile: impl FnOnce(&Path)) -> Self {
        let Self { folder, clock, store, together, runtime } = self;
        drop(store);
        meanwhile(folder.path());
        let store = Quarantine::open(folder.path(), &settings(), clock.clone(), together.clone());
        Self { folder, clock, store: store.unwrap(), together, runtime }
    }

    pub(crate) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(crate) fn hold(&self, at_ms: u64, sender: &str, recipients: &[&str], text: &str) -> String {
        let text = spooled(text.as_bytes());
        self.wait(self.store.hold(&holding(at_ms, sender, recipients), &text)).unwrap()
    }

    pub(crate) fn list(&self, search: Search) -> Vec<String> {
        let search = Search { most: 100, ..search };
        let page = self.wait(self.store.list(search)).unwrap();
        page.rows.into_iter().map(|row| row.subject).collect()
    }

    pub(crate) fn number(&self, name: &str) -> u64 {
        let numbers = self.wait(self.store.numbers()).unwrap();
        numbers.iter().find(|(known, _)| *known == name).unwrap().1
    }
}

/// All files of messages.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.join("messages")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[test]
fn what_is_held_is_found_and_shown() {
    let scene = Scene::start();
    let text = "Subject: =?utf-8?q?Gr=C3=B6=C3=9Fe?= \x1b[31m\r\nFrom: a@x.example\r\n\r\nbuy \x07this\r\n";
    let id = scene.hold(NOON, "A@X.example", &["Bob@test.example", "eve@other.example"], text);
    assert_eq!(scene.list(Search::default()), ["Größe [31m"]);
    let scope = Scope::User("BOB@test.example".into());
    let shown = scene.wait(scene.store.show(&id.to_lowercase(), &scope)).unwrap();
    assert_eq!(shown.text.trim(), "buy this");
    assert_eq!(shown.row.recipients, [("bob@test.example".to_owned(), State::Held)]);
    assert_eq!((shown.row.sender.as_str(), shown.row.points), ("a@x.example", 950));
    assert_eq!(shown.headers[0], ("Subject".into(), "Größe [31m".into()));
    for stranger in [Scope::User("mallory@test.example".into()), Scope::Domain("x.example".into())]
    {
        let refused = scene.wait(scene.store.show(&id, &stranger)).unwrap_err();
        assert_eq!(refused, format!("no message {id} is here"));
    }
    for none in ["", "x", "0000000000", "../../etc/passwd", "'; DROP TABLE held; --"] {
        scene.wait(scene.store.show(none, &Scope::All)).unwrap_err();
    }
    let scene = scene.again(|_| {});
    assert_eq!(scene.list(Search::default()).len(), 1, "it is there after a restart");
}

#[test]
fn what_a_crash_leaves_is_repaired() {
    let scene = Scene::start();
    for (number, name) in ["a", "b", "c", "d"].iter().enumerate() {
        let text = format!("Subject: {name}\r\n\r\nx\r\n");
        scene.hold(NOON + number as u64 * 40_000_000, "a@x.example", &["bob@test.example"], &text);
    }
    let scene = scene.again(|folder| {
        let files = files(folder);
        // A file that was not finished, a row without its file, and a file that is damaged.
        fs::write(files[0].with_extension("tmp"), "{\"for").unwrap();
        fs::remove_file(&files[1]).unwrap();
        // The index has gone altogether: all of it is made anew.
        for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
            let _ = fs::remove_file(folder.join(name));
        }
        let whole = fs::read(&files[2]).unwrap();
        fs::write(&files[2], &whole[..whole.len() - 3]).unwrap();
    });
    assert_eq!(scene.list(Search::default()), ["d", "a"]);
    let left: Vec<_> = files(scene.folder.path())
        .iter()
        .map(|path| path.extension().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(left, ["msg", "damaged", "msg"]);
    // A row without a file is dropped, and a file that nobody waits for is removed.
    let scene = scene.again(|folder| fs::remove_file(&files(folder)[0]).unwrap());
    assert_eq!(scene.list(Search::default()), ["d"]);
    let id = scene.wait(scene.store.list(Search::default())).unwrap().rows[0].id.clone();
    let path = files(scene.folder.path()).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    scene.wait(scene.store.delete(&id, &Scope::All)).unwrap();
    assert!(!path.exists());
    let scene = scene.again(|_| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &whole).unwrap();
    });
    assert!(!path.exists() && scene.list(Search::default()).is_empty(), "it does not come back");
    assert_eq!(scene.number("disk_bytes"), 0);
    // An index that is none is set aside.
    let scene = scene.again(|folder| {
        fs::write(folder.join("index.sqlite"), "no database, however long it may be ".repeat(100))
            .unwrap();
    });
    scene.hold(NOON, "a@x.example", &["bob@test.example"], "Subject: new\r\n\r\n");
    assert_eq!(scene.list(Search::default()), ["new"]);
    assert!(scene.folder.path().join("index.sqlite.damaged").exists());
}

#[test]
fn two_processes_do_not_share_it() {
    let scene = Scene::start();
    let second = Quarantine::open(scene.folder.path(), &settings(), scene.clock.clone(), None);
    assert!(second.unwrap_err().contains("another process uses it"));
}

#[test]
fn what_is_taken_back_is_gone() {
    let scene = Scene::start();
    let id = scene.hold(NOON, "a@x.example", &["bob@test.example"], "Subject: a\r\n\r\n");
    scene.wait(scene.store.withdraw(&id));
    assert!(scene.list(Search::default()).is_empty() && files(scene.folder.path()).is_empty());
    assert_eq!((scene.number("messages"), scene.number("disk_bytes")), (0, 0));
}

#[test]
fn what_is_too_old_or_too_much_goes_and_the_oldest_first() {
    let scene = Scene::start();
    let noise = |number: u64| {
        let mut dice = number;
        let mut text = format!("Subject: {number}\r\n\r\n");
        for _ in 0..500 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text.push_str(&dice.to_string());
        }
        text
    };
    for number in 0..10 {
        let to: &[&str] = if number % 2 == 0 {
            &["even@test.example", "all@test.example"]
        } else {
            &["all@test.example"]
        };
        scene.hold(NOON + number * 1000, "a@x.example", to, &noise(number));
    }
    let of =
        |user: &str| scene.list(Search { scope: Scope::User(user.into()), ..Search::default() });
    let one = scene.number("disk_bytes") / 10;
    // A user has room for six.
    scene.store.configure(&limited(|limits| limits.user_size = one * 13 / 2));
    scene.wait(scene.store.expire()).unwrap();
    assert_eq!(of("all@test.example"), ["9", "8", "7", "6", "5", "4"]);
    assert_eq!(of("even@test.example"), ["8", "6", "4", "2", "0"], "others keep theirs");
    // There is room for four.
    scene.store.configure(&limited(|limits| limits.size = one * 9 / 2));
    scene.wait(scene.store.expire()).unwrap();
    assert_eq!(scene.list(Search::default()), ["9", "8", "7", "6"]);
    assert_eq!(files(scene.folder.path()).len(), 4);
    // Some grow old.
    scene.clock.advance_to(NOON + 7_500 + 30 * DAY);
    scene.store.configure(&settings());
    scene.wait(scene.store.expire()).unwrap();
    assert_eq!(scene.list(Search::default()), ["9", "8"]);
    scene.clock.advance_to(NOON + 60 * DAY);
    scene.wait(scene.store.expire()).unwrap();
    assert!(files(scene.folder.path()).is_empty());
    assert_eq!((scene.number("messages"), scene.number("disk_bytes")), (0, 0));
    let left = fs::read_dir(scene.folder.path().join("messages")).unwrap().count();
    assert_eq!(left, 0, "no empty folders remain");
}

#[test]
fn messages_that_are_built_to_hurt_are_held_and_shown() {
    let nested = |what: &str| {
        let mut text = String::from("Subject: deep\r\n");
        for depth in 0..10_000 {
            text.push_str(&what.replace('#', &depth.to_string()));
        }
        text
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("no header", b"\r\nonly text\r\n".to_vec()),
        ("no end of header", b"Subject: x".to_vec()),
        ("NULs", b"Subject: \0a\0\r\n\0: \0\r\n\r\n\0\0text\0\r\n".to_vec()),
        ("a header of 10 MiB", format!("X: {}\r\n\r\nx", "y".repeat(10 << 20)).into_bytes()),
        ("a million fields", "a:\r\n".repeat(1 << 20).into_bytes()),
        ("parts in parts", nested("Content-Type: multipart/mixed; boundary=b#\r\n\r\n--b#\r\n").into()),
        ("messages in messages", nested("Content-Type: message/rfc822\r\n\r\n").into()),
        (
            "digests",
            nested("Content-Type: multipart/digest; boundary=b#\r\n\r\n--b#\r\n\r\n").into(),
        ),
        (
            "boundaries",
            format!(
                "Content-Type: multipart/mixed; boundary=\"\"\r\n\r\n{}",
                "--\r\n\r\n".repeat(1 << 20)
            )
            .into(),
        ),
        (
            "a wrong charset",
            b"Content-Type: text/plain; charset=utf-16\r\nSubject: =?x?q?a?=\r\n\r\n\xff\xfe\xd8".to_vec(),
        ),
        (
            "html that does not end",
            format!("Content-Type: text/html\r\n\r\n{}", "<a <!-- &#x110000; &#".repeat(100_000)).into(),
        ),
        (
            "a bomb",
            format!(
                "Content-Type: application/zip; name=bomb.zip\r\nContent-Transfer-Encoding: base64\r\n\
                 \r\n{}",
                format!("{}\r\n", "A".repeat(76)).repeat(400_000)
            )
            .into(),
        ),
        ("base64 that is none", b"Content-Transfer-Encoding: base64\r\n\r\n====\r\n--\r\n".to_vec()),
        ("uuencode", b"Content-Type: application/ms-tnef; name=winmail.dat\r\n\r\n\x78\x9f\x3e".to_vec()),
    ];
    let scene = Scene::start();
    for (name, text) in cases {
        let held = holding(NOON, "a@x.example", &["bob@test.example"]);
        let id = scene.wait(scene.store.hold(&held, &spooled(&text))).unwrap();
        let shown = scene.wait(scene.store.show(&id, &Scope::All)).unwrap();
        assert_eq!(shown.trouble, "", "{name}");
        assert_eq!(shown.row.bytes, text.len() as u64, "{name}");
        let json = shown.to_json().to_string();
        assert!(json.len() < 400_000, "{name}: {}", json.len());
        assert!(!json.contains("\\u0000") && !json.contains("\\u001b"), "{name}");
        if name == "a bomb" {
            assert_eq!(shown.attachments[0].name, "bomb.zip");
            assert_eq!(shown.attachments[0].bytes, 76 / 4 * 3 * 400_000);
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(24))]
    #[test]
    fn a_search_finds_what_a_reader_of_all_would_find(
        messages in proptest::collection::vec((0..3_usize, 0..3_usize, 0..3_usize, "[a-c'\"*% ]{0,6}"), 1..30),
        searches in proptest::collection::vec(
            (0..4_usize, 0..5_usize, 0..5_usize, 0..4_usize, "[a-c'\"*% ]{0,3}"), 1..12),
    ) {
        let senders = ["a@x.example", "b@x.example", "c@y.example"];
        let people = ["bob@test.example", "eve@test.example", "ann@other.example"];
        let scene = Scene::start();
        for (number, (sender, first, second, subject)) in messages.iter().enumerate() {
            let text = format!("Subject: {subject}\r\n\r\n");
            let to = [people[*first], people[*second]];
            scene.hold(NOON + number as u64, senders[*sender], &to, &text);
        }
        for (scope, sender, recipient, most, words) in searches {
            let search = Search {
                scope: match scope {
                    0 => Scope::All,
                    1 => Scope::User("bob@test.example".into()),
                    2 => Scope::Domain("test.example".into()),
                    _ => Scope::Domain("nowhere.example".into()),
                },
                sender: ["", "A@x.example", "@x.example", "@y.example", "x"][sender].into(),
                recipient: ["", "eve@test.example", "@other.example", "@test.example", "%"][recipient].into(),
                words,
                most: most + 1,
                ..Search::default()
            };
            let mut found = Vec::new();
            let mut cursor = None;
            loop {
                let search = Search { cursor, ..search.clone() };
                let page = scene.wait(scene.store.list(search)).unwrap();
                proptest::prop_assert!(page.rows.len() <= most + 1);
                found.extend(page.rows.into_iter().map(|row| row.at_ms - NOON));
                cursor = page.cursor;
                if cursor.is_none() { break }
            }
            let is_of = |address: &str, wanted: &str| {
                wanted.is_empty() || address == wanted.to_lowercase()
                    || wanted.starts_with('@') && address.ends_with(wanted)
            };
            let may_see = |address: &str| match &search.scope {
                Scope::All => true,
                Scope::User(user) => address == user,
                Scope::Domain(name) => address.ends_with(&format!("@{name}")),
            };
            let wanted: Vec<u64> = (0..messages.len()).rev().filter(|number| {
                let (from, first, second, subject) = &messages[*number];
                let has = |word: &str, is_beginning: bool| subject
                    .split(|letter: char| !letter.is_alphanumeric())
                    .any(|it| it == word || is_beginning && !word.is_empty() && it.starts_with(word));
                let words = search.words.split_whitespace().all(|part| {
                    let all: Vec<&str> =
                        part.split(|letter: char| !letter.is_alphanumeric()).filter(|it| !it.is_empty()).collect();
                    all.iter().enumerate().all(|(place, word)| {
                        has(word, part.ends_with('*') && place + 1 == all.len())
                    })
                });
                let to = [people[*first], people[*second]];
                words && is_of(senders[*from], &search.sender)
                    && to.iter().any(|it| is_of(it, &search.recipient) && may_see(it))
            }).map(|number| number as u64).collect();
            proptest::prop_assert_eq!(found, wanted, "{:?}", search);
        }
    }
}
