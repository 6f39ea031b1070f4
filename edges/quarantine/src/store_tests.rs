//! The quarantine as doors and commands use it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mpp_config::{Quarantine as Settings, Spool as SpoolSettings};
use mpp_hub::clock::VirtualClock;
use mpp_hub::quarantine::{Holding, Quarantine as _};
use mpp_hub::spool::{Spool, Spooled};

use crate::{Quarantine, Scope, Search, State};

pub(crate) const NOON: u64 = 1_795_528_230_000;
const DAY: u64 = 24 * 3600 * 1000;

/// A quarantine of its own.
pub(crate) struct Scene {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: Arc<VirtualClock>,
    pub(crate) store: Arc<Quarantine>,
    runtime: tokio::runtime::Runtime,
}

pub(crate) fn settings() -> Settings {
    Settings { folder: String::new(), keep_ms: 30 * DAY, size: 10 << 30, user_size: 1 << 30 }
}

pub(crate) fn spooled(text: &[u8]) -> Arc<Spooled> {
    let settings = SpoolSettings { message_memory: 1 << 30, memory: 1 << 30, size: 1 << 30 };
    let mut writer = Spool::new(Path::new("/nowhere"), &settings).begin();
    writer.write(text).unwrap();
    writer.finish()
}

pub(crate) fn holding(at_ms: u64, sender: &str, recipients: &[&str]) -> Holding {
    Holding {
        at_ms,
        instance: "1.1".into(),
        client: "192.0.2.7".parse().ok(),
        sender: sender.into(),
        recipients: recipients.iter().map(|&it| it.to_owned()).collect(),
        policy: "default".into(),
        reason: "spam".into(),
        points: 950,
        route: "mx/0".into(),
        ..Holding::default()
    }
}

impl Scene {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(VirtualClock::default());
        clock.advance_to(NOON);
        let store = Quarantine::open(folder.path(), &settings(), clock.clone()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { folder, clock, store, runtime }
    }

    /// As after a crash, with whatever was done to the files meanwhile.
    pub(crate) fn again(self, meanwhile: impl FnOnce(&Path)) -> Self {
        let Self { folder, clock, store, runtime } = self;
        drop(store);
        meanwhile(folder.path());
        let store = Quarantine::open(folder.path(), &settings(), clock.clone()).unwrap();
        Self { folder, clock, store, runtime }
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
