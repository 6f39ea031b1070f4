//! Servers that die, hang and come back in mid-traffic: nobody who exists is refused for it.

use std::time::{Duration, Instant};

use mpp_tests::real::ca::Authority;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::ds389::Ds389;
use mpp_tests::real::samba::Samba;
use tempfile::TempDir;

use crate::servers::{Server, mariadb, name_of, next_hop, open_ldap, postgres, sqlite};
use crate::{
    CALM, answer, attempt, host, must_be_known, must_be_unknown, status, until_known, until_unknown,
};

/// A directory of another domain, which is asked again and again as well, and never fails.
fn other() -> (TempDir, String) {
    let file = sqlite("CREATE TABLE users (email); INSERT INTO users VALUES ('bob@other.example')");
    let settings = format!(
        "[directory.other]\nkind = \"sql\"\nservers = [\"sqlite:{}/users\"]\n\
         query = \"SELECT 1 FROM users WHERE email = {{address}}\"\n\
         known = \"1s\"\nunknown = \"1s\"\n\
         [recipients.other]\ndomains = [\"other.example\"]\nfrom = [\"other\"]\n",
        file.path().display()
    );
    (file, settings)
}

/// Plays a loop of known and unknown recipients while a server dies, hangs, and comes back: quickly
/// through the policy service, and slowly through Postfix.
fn outlives(server: &mut dyn Server) {
    let (_file, other) = other();
    let (domain, settings) = (server.domain(), server.settings());
    let name = name_of(&settings);
    let mut host = host(&format!(
        "{settings}known = \"1s\"\nunknown = \"1s\"\nnot_now = \"100ms\"\ntimeout = \"700ms\"\n\
         [recipients.main]\ndomains = [\"{domain}\"]\nfrom = [\"{name}\"]\n{other}{CALM}"
    ));
    let mut client = host.mpp.client();
    until_known(&mut client, &format!("u1@{domain}"));
    must_be_known(&host, &format!("u1@{domain}"));
    must_be_unknown(&host, &format!("nobody@{domain}"));
    for (fault, first) in [("killed", 100), ("hung", 500)] {
        if fault == "killed" {
            server.kill();
        } else {
            server.freeze();
        }
        let end = Instant::now() + Duration::from_secs(3);
        // Users who have never been asked about.
        let mut fresh = first;
        while Instant::now() < end && fresh < first + 399 {
            // Kept from before, long past its time.
            assert_eq!(answer(&mut client, &format!("u1@{domain}")), "DUNNO", "{fault}");
            fresh += 1;
            for never_asked in [format!("u{fresh}@{domain}"), format!("nobody{fresh}@{domain}")] {
                let answer = answer(&mut client, &never_asked);
                assert!(answer.starts_with("451 4.4.3"), "{fault}: {never_asked}: {answer}");
            }
            assert_eq!(answer(&mut client, "bob@other.example"), "DUNNO", "{fault}");
            let nobody = answer(&mut client, &format!("nobody{fresh}@other.example"));
            assert!(nobody.starts_with("550 5.1.1"), "{fault}: another directory: {nobody}");
        }
        must_be_known(&host, &format!("u1@{domain}"));
        for never_asked in [format!("u999@{domain}"), format!("stranger@{domain}")] {
            let reply = attempt(&host, &never_asked);
            assert_eq!(reply.code, 451, "{fault}: {never_asked}: {reply}");
            assert!(reply.text.starts_with("4.4.3 "), "{fault}: {reply}");
        }
        is_shown_as_down(&host.mpp, name);
        if fault == "killed" {
            server.launch();
        } else {
            server.thaw();
        }
        until_known(&mut client, &format!("u{fresh}@{domain}"));
        until_unknown(&mut client, &format!("nobody@{domain}"));
        must_be_known(&host, &format!("u{}@{domain}", first - 1));
        must_be_unknown(&host, &format!("stranger{first}@{domain}"));
        assert_eq!(status(&host.mpp, name)["state"], "works");
        host.mpp.wait_for_word(&format!("directory {name} answers again"));
    }
    host.mpp.stop();
}

/// People are told that a directory is down and why, and that the other one works.
fn is_shown_as_down(mpp: &Daemon, name: &str) {
    mpp.wait_for_word(&format!("directory {name} is down"));
    let down = status(mpp, name);
    assert_eq!(down["state"], "down", "{down}");
    let trouble = down["last_trouble"]["text"].as_str().unwrap();
    assert!(!trouble.is_empty());
    // With a trouble it ends with 1, for whoever watches.
    let shown = mpp.run(&["status"]);
    assert_eq!(shown.status.code(), Some(1));
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&format!("directory      {name} (")), "{shown}");
    assert!(shown.contains("): down") && shown.contains(" ago: "), "{shown}");
    let works = status(mpp, "other");
    assert_eq!((&works["state"], &works["failed"]), (&"works".into(), &0.into()), "{works}");
}

#[test]
fn no_recipient_is_refused_while_openldap_dies_and_hangs() {
    outlives(&mut open_ldap(1_000));
}

#[test]
fn no_recipient_is_refused_while_active_directory_dies_and_hangs() {
    outlives(&mut Samba::start(&Authority::new().sign(&["DNS:dc1.ad.test"]), 1_000));
}

#[test]
fn no_recipient_is_refused_while_389_directory_server_dies_and_hangs() {
    outlives(&mut Ds389::start(1_000));
}

#[test]
fn no_recipient_is_refused_while_mariadb_dies_and_hangs() {
    outlives(&mut mariadb());
}

#[test]
fn no_recipient_is_refused_while_postgresql_dies_and_hangs() {
    outlives(&mut postgres());
}

#[test]
fn no_recipient_is_refused_while_the_next_hop_dies_and_hangs() {
    outlives(&mut next_hop());
}
