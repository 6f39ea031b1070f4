//! One look-up however many ask, and none for what is kept.

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::policy::rcpt;
use mpp_tests::real::{address, until};

use crate::servers::{Logged, Server, mariadb, name_of, next_hop, open_ldap, postgres};
use crate::{CALM, CLIENT, MPP, answer, status};

/// Servers are frozen here until all have asked, however long that takes: nothing may end before.
const SLOW: &str = "[server]\nstate = \"state\"\ndeadline = \"20s\"\n";

fn start(server: &dyn Server) -> Daemon {
    let settings = server.settings();
    let (domain, name) = (server.domain(), name_of(&settings));
    Daemon::start(
        MPP,
        &address(),
        &format!(
            "{SLOW}{settings}timeout = \"20s\"\n[recipients.main]\n\
             domains = [\"{domain}\"]\nfrom = [\"{name}\"]\n{CALM}"
        ),
    )
}

/// A hundred ask for the same address, and the server says itself how many questions reached it.
fn is_asked_once(server: &dyn Logged) {
    let (domain, settings) = (server.domain(), server.settings());
    let name = name_of(&settings);
    let mut mpp = start(server);
    server.freeze();
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let mut client = mpp.client();
            let request = rcpt(CLIENT, "a@sender.example", &format!("u77@{domain}"));
            client.send(request.as_bytes()).unwrap();
            client
        })
        .collect();
    until("a hundred who wait for one look-up", || {
        (status(&mpp, name)["joined"].as_u64() == Some(99)).then_some(())
    });
    server.thaw();
    for mut client in asking {
        assert_eq!(client.answer().unwrap().as_deref(), Some("DUNNO"));
    }
    let mut client = mpp.client();
    assert!(answer(&mut client, &format!("nobody@{domain}")).starts_with("550"));
    // A log may be written after the answer.
    until("both questions in the log of the server", || {
        ((server.asked("u77"), server.asked("nobody")) == (1, 1)).then_some(())
    });
    let shown = mpp.tell(&["recipients", "show", &format!("u77@{domain}")]);
    assert!(shown.contains(name) && shown.contains("known, "), "{shown}");

    // What was looked up outlives a stop, and a kill once it is on disk.
    mpp.stop();
    mpp.launch();
    assert_eq!(answer(&mut mpp.client(), &format!("u77@{domain}")), "DUNNO");
    mpp.kill();
    mpp.launch();
    let mut client = mpp.client();
    assert_eq!(answer(&mut client, &format!("u77@{domain}")), "DUNNO");
    assert!(answer(&mut client, &format!("nobody@{domain}")).starts_with("550"));
    // Whatever is asked after this stands behind it in the log.
    assert_eq!(answer(&mut client, &format!("u78@{domain}")), "DUNNO");
    until("the last question in the log of the server", || {
        (server.asked("u78") == 1).then_some(())
    });
    assert_eq!((server.asked("u77"), server.asked("nobody")), (1, 1));
}

#[test]
fn openldap_is_asked_once() {
    is_asked_once(&open_ldap(1_000));
}

#[test]
fn mariadb_is_asked_once() {
    is_asked_once(&mariadb());
}

#[test]
fn postgresql_is_asked_once() {
    is_asked_once(&postgres());
}

#[test]
fn the_next_hop_is_asked_once() {
    is_asked_once(&next_hop());
}

#[test]
fn a_user_who_was_written_to_before_there_was_one() {
    let server = open_ldap(10);
    let mpp = start(&server);
    let mut client = mpp.client();
    assert!(answer(&mut client, "nobody@test.example").starts_with("550"));
    server.add(
        "dn: uid=nobody,ou=people,dc=test,dc=example\nobjectClass: inetOrgPerson\nuid: nobody\n\
         cn: N\nsn: N\nmail: nobody@test.example\n\n",
    );
    assert!(answer(&mut client, "nobody@test.example").starts_with("550"));
    mpp.tell(&["recipients", "forget", "nobody@test.example"]);
    assert_eq!(answer(&mut client, "nobody@test.example"), "DUNNO");
    let probed = mpp.json(&["recipients", "probe", "gone@test.example"]);
    assert_eq!(probed["said"][0]["said"], "unknown", "{probed}");
    assert!(answer(&mut client, "gone@test.example").starts_with("550"));
    assert_eq!(server.asked("gone"), 1, "what was probed is kept");
}
