//! The simulated site itself: it repeats, and references score what they should.

use std::collections::HashSet;

use mpp_tests::site::home::{Behind, Home, ListQuality};
use mpp_tests::site::judge::{AcceptAll, Reply};
use mpp_tests::site::mail::Kind;
use mpp_tests::site::senders::{Plan, Profile};
use mpp_tests::site::{chance::Chance, play, reference};

fn plan(profile: Profile, seed: u64) -> Plan {
    Plan { profile, seed, days: 10.0, scale: 0.3 }
}

#[test]
fn the_same_seed_plays_the_same_month() {
    let of = |seed| reference(&plan(Profile::Retriers, seed)).expect("no service needed").json();
    assert_eq!(of(7), of(7));
    assert_ne!(of(7), of(8));
}

#[test]
fn whoever_accepts_everything_stops_nothing() {
    let score = play(&plan(Profile::Drones, 3), &mut AcceptAll, false).expect("no service needed");
    assert!(score.spam_refused() == 0.0 && score.outbound_refused() == 0.0);
    assert_eq!(score.ham_lost(), 0);
    assert!(score.delayed_later() == 0.0);
    assert!(score.most_out() > 50, "thieves send a lot: {}", score.most_out());
    for kind in Kind::ALL {
        let row = score.row(kind);
        assert_eq!(row.recipients, row.passed, "{kind:?}");
        assert!(row.mails > 0 || kind == Kind::Secretary, "{kind:?} sent nothing");
    }
}

#[test]
fn the_triplet_greylister_gets_what_is_known_of_it() {
    let bands = [
        (Profile::Drones, 85.0..94.0),
        (Profile::Retriers, 42.0..58.0),
        (Profile::Servers, 9.0..22.0),
    ];
    for (profile, band) in bands {
        for seed in 1..5 {
            let score = reference(&plan(profile, seed)).expect("no service needed");
            let refused = score.spam_refused();
            assert!(band.contains(&refused), "{profile:?} {seed}: {refused}");
            assert_eq!(score.ham_lost(), 0, "{profile:?} {seed}");
            assert!(score.delayed_later() < 30.0, "{profile:?} {seed}: {}", score.delayed_later());
        }
    }
}

#[test]
fn the_site_is_as_its_files_say() {
    let home = Home::new();
    let users: HashSet<&str> = home.users.iter().map(AsRef::as_ref).collect();
    assert!((500..2000).contains(&users.len()));
    let mut chance = Chance::new(4);
    for _ in 0..20_000 {
        let quality = ListQuality { unknown: 0.4, traps: 0.3 };
        let (address, behind) = home.listed(quality, &mut chance);
        assert_eq!(users.contains(&*address), behind == Behind::User, "{address}");
    }
    assert!(home.retired.iter().all(|address| !users.contains(&**address)));
}

#[test]
fn actions_are_read_as_postfix_reads_them() {
    let later = |text: &str, hang_up| Reply::Later { text: text.into(), hang_up };
    let never = |text: &str, hang_up| Reply::Never { text: text.into(), hang_up };
    for (action, reply) in [
        ("DUNNO", Reply::Accept),
        ("ok", Reply::Accept),
        ("PREPEND X-Seen: yes", Reply::Accept),
        ("DEFER_IF_PERMIT 4.7.1 later", later("450 4.7.1 later", false)),
        ("450 4.7.1 later", later("450 4.7.1 later", false)),
        ("421 4.7.0 later", later("421 4.7.0 later", true)),
        ("REJECT no", never("554 no", false)),
        ("550 5.1.1 nobody", never("550 5.1.1 nobody", false)),
        ("521 5.7.1 go away", never("521 5.7.1 go away", true)),
    ] {
        assert_eq!(Reply::of_action(action), reply, "{action}");
    }
}
