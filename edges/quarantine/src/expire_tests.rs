//! What policies say of how long and how much is held.

use mpp_config::Quarantine as Settings;
use mpp_config::quarantine::{Limits, Terms};
use mpp_hub::quarantine::{Holding, Quarantine as _};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::store_tests::{NOON, Scene, files, held_for, holding, settings, spooled};
use crate::{Scope, Search, State};

const DAY: u64 = 24 * 3600 * 1000;

/// Settings where one policy has limits of its own.
fn with(policy: &str, change: impl Fn(&mut Limits)) -> Settings {
    let mut settings = settings();
    let mut terms = Terms { limits: settings.limits, digest: None };
    change(&mut terms.limits);
    settings.policies.insert(policy.to_owned(), terms);
    settings
}

impl Scene {
    /// Holds a message of some KiB that cannot be compressed, for these recipients by these policies.
    fn hold_by(&self, at_ms: u64, recipients: &[(&str, &str)]) -> String {
        let noise = (0..4096_u64).map(|n| {
            let mixed = (n + at_ms).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
            char::from(b'0' + (mixed.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 58) as u8)
        });
        let text = format!("Subject: {at_ms}\r\n\r\n{}\r\n", noise.collect::<String>());
        let recipients = recipients.iter().map(|(to, policy)| held_for(to, policy)).collect();
        let holding = Holding { recipients, ..holding(at_ms, "a@x.example", &[]) };
        self.wait(self.store.hold(&holding, &spooled(text.as_bytes()))).unwrap()
    }

    fn states(&self, id: &str) -> Vec<State> {
        let shown = self.wait(self.store.show(id, &Scope::All));
        shown.map_or_else(|_| Vec::new(), |it| it.row.recipients.iter().map(|it| it.1).collect())
    }

    fn ids(&self, search: Search) -> Vec<String> {
        let page = self.wait(self.store.list(Search { most: 500, ..search })).unwrap();
        page.rows.into_iter().map(|row| row.id).collect()
    }

    fn expire(&self) -> [u64; 3] {
        let expired = self.wait(self.store.expire()).unwrap();
        [expired.too_old, expired.too_many, expired.of_users]
    }
}

#[test]
fn a_policy_keeps_for_as_long_as_it_says_and_others_as_they_say() {
    let scene = Scene::start();
    let short = scene.hold_by(NOON - 4 * DAY, &[("a@test.example", "short")]);
    let both =
        scene.hold_by(NOON - 3 * DAY - 1, &[("a@test.example", "short"), ("b@test.example", "p")]);
    let young = scene.hold_by(NOON - 2 * DAY, &[("a@test.example", "short")]);
    scene.store.configure(&with("short", |limits| limits.keep_ms = 3 * DAY));
    // The thread of the quarantine may have been first.
    scene.expire();
    assert_eq!(scene.states(&short), [], "nothing is known of it any more");
    assert_eq!(scene.states(&both), [State::Held], "it is kept for the other");
    assert_eq!(scene.ids(Search::default()), [young.clone(), both.clone()]);
    assert_eq!(files(scene.folder.path()).len(), 2);
    let scope = Scope::User("a@test.example".into());
    assert_eq!(scene.ids(Search { scope, ..Search::default() }), std::slice::from_ref(&young));
    // One whose policy is gone from the configuration is kept as `default` says.
    scene.clock.advance_to(NOON + 27 * DAY);
    scene.expire();
    assert_eq!(scene.ids(Search::default()), [""; 0]);
    assert!(files(scene.folder.path()).is_empty());
    assert_eq!((scene.number("messages"), scene.number("disk_bytes")), (0, 0));
}

#[test]
fn a_policy_holds_as_much_as_it_says_and_counts_a_message_once() {
    let scene = Scene::start();
    let mut ids = Vec::new();
    for number in 0..8 {
        let to =
            [("a@test.example", "small"), ("b@test.example", "small"), ("c@test.example", "p")];
        ids.push(scene.hold_by(NOON + number, &to));
    }
    let one = scene.number("disk_bytes") / 8;
    let five = with("small", |limits| limits.size = one * 11 / 2);
    scene.store.configure(&five);
    scene.expire();
    for (number, id) in ids.iter().enumerate() {
        let small = if number < 3 { State::Deleted } else { State::Held };
        assert_eq!(scene.states(id), [small, small, State::Held], "{number}");
    }
    assert_eq!(files(scene.folder.path()).len(), 8, "one still waits for them");
    assert_eq!(scene.expire(), [0, 0, 0]);
    // What is deleted by hand makes room.
    let scope = Scope::User("a@test.example".into());
    scene.wait(scene.store.delete(&ids[7], &scope)).unwrap();
    scene.wait(scene.store.delete(&ids[6], &Scope::All)).unwrap();
    scene.hold_by(NOON + 9, &[("a@test.example", "small")]);
    assert_eq!(scene.expire(), [0, 0, 0]);
    assert_eq!(scene.states(&ids[3])[0], State::Held);
}

#[test]
fn a_user_has_as_much_as_his_policy_says_with_his_details() {
    let scene = Scene::start();
    let mut ids = Vec::new();
    for number in 0..6 {
        ids.push(scene.hold_by(NOON + number, &[("a+x@test.example", "small")]));
        scene.hold_by(NOON + number, &[("b@test.example", "p")]);
    }
    let one = scene.number("disk_bytes") / 12;
    scene.store.configure(&with("small", |limits| limits.user_size = one * 9 / 2));
    scene.expire();
    let scope = Scope::User("A@test.example".into());
    let left = scene.ids(Search { scope, ..Search::default() });
    assert_eq!(left, [&*ids[5], &*ids[4], &*ids[3], &*ids[2]]);
    let scope = Scope::User("b@test.example".into());
    assert_eq!(scene.ids(Search { scope, ..Search::default() }).len(), 6);
    let scope = Scope::User("a+x@test.example".into());
    assert_eq!(scene.ids(Search { scope, ..Search::default() }), [""; 0], "nobody of that name");
}

#[test]
fn what_is_too_much_goes_soon_after_it_was_held() {
    let scene = Scene::start();
    scene.store.configure(&with("small", |limits| limits.size = 0));
    let begin = std::time::Instant::now();
    while scene.number("messages") == 0 {
        scene.hold_by(NOON, &[("a@test.example", "small")]);
    }
    while scene.number("messages") > 0 {
        assert!(begin.elapsed().as_secs() < 20, "it is looked at within seconds");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn an_index_of_another_layout_is_made_anew() {
    let scene = Scene::start();
    let id = scene.hold_by(NOON, &[("a+x@test.example", "small")]);
    let scene = scene.again(|folder| {
        let path = folder.join("index.sqlite");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut index = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
            sqlx::raw_sql("PRAGMA user_version = 1").execute(&mut index).await.unwrap();
            index.close().await.unwrap();
        });
    });
    assert!(scene.folder.path().join("index.sqlite.damaged").exists());
    let scope = Scope::User("a@test.example".into());
    let page =
        scene.wait(scene.store.list(Search { scope, most: 5, ..Search::default() })).unwrap();
    assert_eq!((&*page.rows[0].id, &*page.rows[0].policy), (&*id, "small"));
}
