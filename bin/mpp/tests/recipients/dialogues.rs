//! Whole SMTP dialogues through Postfix with users in every kind of directory.

use mpp_tests::real::ca::Authority;
use mpp_tests::real::mariadb::MariaDb;
use mpp_tests::real::postfix::Postfix;
use mpp_tests::real::postgres::Postgres;
use mpp_tests::real::samba::Samba;
use mpp_tests::real::smtp::{Reply, Smtp, Who};
use mpp_tests::real::{address, schemas, until};

use crate::servers::{Server, mariadb, open_ldap, sqlite};
use crate::{CALM, CLIENT, attempt, host, must_be_known, must_be_unknown};

#[test]
fn whole_dialogues_with_users_in_every_kind_of_directory() {
    let (ldap, maria) = (open_ldap(10_000), mariadb());
    let active = Samba::start(&Authority::new().sign(&["DNS:dc1.ad.test"]), 100);
    let hop = Postfix::start(
        &address(),
        "virtual_mailbox_domains = hop.example\n\
         virtual_mailbox_maps = inline:{ {bob@hop.example=bob/} }\n",
    );
    let host = host(&format!(
        "{}{}{}[directory.next]\nkind = \"smtp\"\nservers = [\"{}\"]\n\
         [recipients.ldap]\ndomains = [\"test.example\"]\nfrom = [\"openldap\"]\n\
         [recipients.sql]\ndomains_from = [\"maria\"]\nfrom = [\"maria\"]\n\
         [recipients.active]\ndomains = [\"ad.test\"]\nfrom = [\"active-directory\"]\n\
         [recipients.hop]\ndomains = [\"hop.example\"]\nfrom = [\"next\"]\n\
         [policy.default.recipient.harvest]\nlimit = 1000\n\
         [policy.default.greylist]\ndelay = \"1h\"\n\
         [policy.impatient]\nmatch = {{ recipient_in = [\"openldap:nogreylist\", \
         \"maria:impatient\"] }}\ngreylist.mode = \"off\"\n",
        ldap.settings(),
        maria.settings(),
        active.settings(),
        hop.address()
    ));
    until("an answer of the next hop, which may greet late at first", || {
        (attempt(&host, "bob@hop.example").code == 450).then_some(())
    });
    // Members of a group do not wait; everybody else does, and whoever does not exist is told so.
    for member in ["u1@test.example", "U1@Test.example", "u1@sql.example"] {
        must_be_known(&host, member);
    }
    for waits in [
        "u2@test.example",
        "alias77@test.example",
        "u2+news@sql.example",
        "u2@sql.example",
        "anybody@all.example",
        "u1@xn--bcher-kva.example",
        "u9@ad.test",
        "alias9@ad.test",
        "sales@ad.test",
        "bob@hop.example",
        "postmaster@test.example",
        "abuse@hop.example",
    ] {
        let reply = attempt(&host, waits);
        assert_eq!(reply.code, 450, "{waits}: {}", reply.text);
    }
    for nobody in [
        "u10001@test.example",
        "nobody+u1@test.example",
        "off@sql.example",
        "nobody@sql.example",
        "nobody@xn--bcher-kva.example",
        "off@ad.test",
        "nobody@ad.test",
        "nobody@hop.example",
        "\"u1 \"@test.example",
    ] {
        must_be_unknown(&host, nobody);
    }
}

/// The users of these tables, in domains below a name of their own.
fn below(name: &str, users: &str) -> String {
    users.replace(".example", &format!(".{name}.example"))
}

/// PostfixAdmin's tables with `u1` to `u10000` at `one.maria.example`.
fn postfixadmin() -> MariaDb {
    let server = MariaDb::start(&[]);
    let users = below("maria", schemas::POSTFIXADMIN_USERS);
    server.run(&format!(
        "CREATE DATABASE mail; USE mail; {} {users}
         INSERT INTO mailbox (username, password, name, maildir, local_part, domain)
           SELECT CONCAT('u', seq, '@one.maria.example'), 'x', '', '', CONCAT('u', seq),
           'one.maria.example' FROM seq_1_to_10000;
         INSERT INTO domain (domain, description, transport)
           VALUES ('xn--bcher-kva.maria.example', '', 'virtual');
         INSERT INTO mailbox (username, password, name, maildir, local_part, domain)
           VALUES ('anna@xn--bcher-kva.maria.example', 'x', '', '', 'anna',
           'xn--bcher-kva.maria.example');
         CREATE USER mpp@'%' IDENTIFIED BY 'secret'; GRANT SELECT ON mail.* TO mpp@'%'",
        schemas::POSTFIXADMIN_MYSQL
    ));
    server
}

/// iRedMail's tables with `u1` to `u10000` at `one.pg.example`.
fn iredmail() -> Postgres {
    let server = Postgres::start(&[]);
    server.run("postgres", "CREATE USER mpp PASSWORD 'secret'");
    server.run("postgres", "CREATE DATABASE mail");
    let users = below("pg", schemas::IREDMAIL_USERS);
    server.run(
        "mail",
        &format!(
            "{} {users}
             INSERT INTO mailbox (username, domain)
               SELECT 'u' || g || '@one.pg.example', 'one.pg.example' FROM generate_series(1, 10000) g;
             INSERT INTO forwardings (address, forwarding, domain, is_forwarding)
               SELECT username, username, domain, 1 FROM mailbox WHERE username LIKE 'u%';
             INSERT INTO domain (domain) VALUES ('xn--bcher-kva.pg.example');
             INSERT INTO mailbox (username, domain)
               VALUES ('anna@xn--bcher-kva.pg.example', 'xn--bcher-kva.pg.example');
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO mpp",
            schemas::IREDMAIL_POSTGRES
        ),
    );
    server
}

/// The tutorial's tables with `u1` to `u10000` at `one.lite.example`; one domain is in Unicode.
fn virtual_users() -> String {
    below("lite", schemas::VIRTUAL_USERS)
        + "INSERT INTO virtual_users (id, domain_id, email, password)
             SELECT 10 + value, 1, 'u' || value || '@one.lite.example', 'x'
             FROM generate_series(1, 10000);
           INSERT INTO virtual_domains VALUES (3, 'bücher.lite.example');
           INSERT INTO virtual_users (id, domain_id, email, password)
             VALUES (20000, 3, 'anna@bücher.lite.example', 'x');"
}

fn preset(name: &str, preset: &str, server: &str) -> String {
    let password = if server.starts_with("sqlite:") { "" } else { "password = \"secret\"\n" };
    format!(
        "[directory.{name}]\nkind = \"sql\"\npreset = \"{preset}\"\nservers = [\"{server}\"]\n\
         {password}[recipients.{name}]\ndomains_from = [\"{name}\"]\nfrom = [\"{name}\"]\n"
    )
}

/// One message to a recipient outside ASCII.
fn attempt_in_unicode(server: &str, recipient: &str) -> Reply {
    let mut smtp = Smtp::connect_as(server, Who::at(CLIENT));
    smtp.say_expecting("MAIL FROM:<a@sender.example> SMTPUTF8", 250);
    let rcpt = smtp.rcpt(recipient);
    if rcpt.code == 250 { smtp.data() } else { rcpt }
}

#[test]
fn whole_dialogues_with_users_of_the_usual_tables() {
    let (maria, postgres, lite) = (postfixadmin(), iredmail(), sqlite(&virtual_users()));
    let host = host(&format!(
        "{}{}{}{CALM}[policy.waits]\n\
         match = {{ recipient_in = [\"maria:info@one.maria.example\", \
         \"pg:info@one.pg.example\", \"lite:info@one.lite.example\"] }}\n\
         greylist.mode = \"enforce\"\ngreylist.delay = \"1h\"\n",
        preset("maria", "postfixadmin", &format!("mysql://mpp@{}/mail", maria.address())),
        preset("pg", "iredmail", &format!("postgres://mpp@{}/mail", postgres.address())),
        preset("lite", "virtual-users", &format!("sqlite:{}/users", lite.path().display())),
    ));
    for name in ["maria", "pg", "lite"] {
        let at = |address: &str| below(name, address);
        for known in [
            "u1@one.example",
            "U10000@One.example",
            "u2+news@one.example",
            "info@one.example",
            "anybody@all.example",
            "postmaster@one.example",
            "anna@xn--bcher-kva.example",
        ] {
            must_be_known(&host, &at(known));
        }
        for nobody in [
            "u10001@one.example",
            "nobody@one.example",
            "nobody+u1@one.example",
            "nobody@xn--bcher-kva.example",
        ] {
            must_be_unknown(&host, &at(nobody));
        }
        let reply = attempt_in_unicode(host.postfix.address(), &at("anna@bücher.example"));
        assert_eq!(reply.code, 250, "{name}: {reply}");
        let reply = attempt_in_unicode(host.postfix.address(), &at("nobody@bücher.example"));
        assert!(reply.code == 550 && reply.text.starts_with("5.1.1 "), "{name}: {reply}");
        let member = attempt(&host, &at("anna@one.example"));
        assert_eq!(member.code, 450, "{name}: {member}");
        if name == "lite" {
            continue;
        }
        // Those tables have switches, alias domains and backup domains.
        for known in ["info@alias.example", "anybody@backup.example", "anybody@off.example"] {
            must_be_known(&host, &at(known));
        }
        for nobody in ["idle@one.example", "gone@one.example", "nobody@alias.example"] {
            must_be_unknown(&host, &at(nobody));
        }
    }
}
