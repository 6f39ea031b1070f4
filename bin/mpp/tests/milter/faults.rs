//! What the other side may do wrong: packets cut and lying, steps out of order, a connection that ends
//! anywhere, more than anybody can hold.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use mpp_tests::real::milter_peer::{ALL, Peer, Said, client, header, macros, offer, packet, path};
use mpp_tests::real::until;
use serde_json::Value;

use crate::CLIENT;
use crate::scene::{ORDINARY, RULES, Scene, message};

#[test]
fn what_is_out_of_order_ends_the_connection_and_nothing_else() {
    let scene = Scene::new();
    let hello = [offer(6, ALL), client(CLIENT)].concat();
    let mail = [hello.clone(), path(b'M', "a@x.example")].concat();
    let over = [mail.clone(), path(b'R', "bob@test.example"), packet(b'E', b"")].concat();
    for (before, wrong, what) in [
        (&b""[..], client(CLIENT), "a client"),
        (b"", path(b'M', "a@x.example"), "MAIL"),
        (b"", packet(b'E', b""), "the end of a message"),
        (b"", packet(b'A', b""), "an abort"),
        (b"", macros(b'C', &[("j", "x")]), "macros"),
        (&hello, offer(6, ALL), "negotiation"),
        (&hello, client(CLIENT), "a client"),
        (&hello, path(b'R', "bob@test.example"), "RCPT"),
        (&hello, packet(b'T', b""), "DATA"),
        (&hello, header("X", "y"), "a header"),
        (&hello, packet(b'N', b""), "a header"),
        (&hello, packet(b'B', b"x"), "a body"),
        (&hello, packet(b'E', b""), "the end of a message"),
        (&over, packet(b'E', b""), "the end of a message"),
        (&over, path(b'R', "bob@test.example"), "RCPT"),
        (&mail, client(CLIENT), "a client"),
        (b"", offer(1, ALL), "version 1"),
        (b"", offer(0, ALL), "version 0"),
    ] {
        let mut peer = Peer::connect(&scene.tcp);
        peer.send(&[before, &wrong].concat());
        // It closes by itself, and says why in the log.
        let answers = peer.rest().len();
        assert!(answers <= 5, "{what}: {answers}");
    }
    for what in ["a client out of place", "RCPT out of place", "version 1 of the protocol"] {
        scene.mpp.wait_for_word("milter: connection from 127");
        scene.mpp.wait_for_word(what);
    }
    scene.end();
}

#[test]
fn lengths_that_lie_and_commands_that_are_none_end_the_connection() {
    let scene = Scene::new();
    let hello = [offer(6, ALL), client(CLIENT), path(b'M', "a@x.example")].concat();
    let mut wrong: Vec<Vec<u8>> = [
        &b"\0\0\0\0"[..],
        b"\xff\xff\xff\xffR",
        b"\x7f\xff\xff\xffB",
        b"\0\x01\0\x01R",
        b"\0\0\0\x04R<a>",
        b"\0\0\0\x03L\xff\xff",
        b"\0\0\0\x01H",
        b"\0\0\0\x01D",
        b"EHLO mail.example\r\n",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    let known = b"ODCHMRTLNBEAQKU";
    wrong.extend((0..=255).filter(|it| !known.contains(it)).map(|it| packet(it, b"")));
    for bytes in wrong {
        let mut peer = Peer::connect(&scene.milter);
        peer.send(&[&hello, &bytes[..]].concat());
        assert_eq!(peer.rest().len(), 1, "{bytes:?}: only the agreement");
    }
    scene.end();
}

/// A conversation with a message of an account, in packets; the last is the end of the message.
fn dialogue() -> Vec<Vec<u8>> {
    vec![
        offer(6, ALL),
        macros(b'C', &[("j", "mx"), ("{client_ptr}", "c.example"), ("{client_resolve}", "OK")]),
        client(CLIENT),
        packet(b'H', b"client.example\0"),
        // One that is given up, and one that is not.
        macros(b'M', &[("{auth_authen}", "fred")]),
        path(b'M', "a@x.example"),
        path(b'R', "bob@test.example"),
        packet(b'A', b""),
        macros(b'M', &[("i", ""), ("{auth_authen}", "fred")]),
        path(b'M', "a@x.example"),
        path(b'R', "bob@test.example"),
        macros(b'R', &[("i", "4Q")]),
        path(b'R', "eve@test.example"),
        header("Subject", "hi"),
        header("X-Spam-Flag", "YES"),
        packet(b'E', b""),
    ]
}

#[test]
fn packets_may_be_cut_anywhere() {
    let scene = Scene::new();
    let bytes = dialogue().concat();
    let said = |pieces: [&[u8]; 2]| {
        let mut peer = Peer::connect(&scene.tcp);
        for piece in pieces {
            peer.send(piece);
            std::thread::yield_now();
        }
        peer.finish();
        peer.rest().iter().map(Said::text).skip(1).collect::<Vec<_>>()
    };
    let whole = said([&bytes, b""]);
    let end = ["m X-Spam-Flag|", ORDINARY[0], ORDINARY[1], "c"];
    let end = end.map(|text| text.replace("X-Spam-Flag", "x-spam-flag"));
    assert_eq!(whole, [&["c", "c", "c"].map(String::from)[..], &end].concat());
    for cut in 1..bytes.len() {
        let (head, tail) = bytes.split_at(cut);
        assert_eq!(said([head, tail]), whole, "cut at {cut}");
    }
    // Byte by byte.
    let mut peer = Peer::connect(&scene.tcp);
    for byte in &bytes {
        peer.send(&[*byte]);
    }
    peer.finish();
    assert_eq!(peer.rest().iter().map(Said::text).skip(1).collect::<Vec<_>>(), whole);
    scene.end();
}

#[test]
fn what_a_message_reserved_is_given_back_wherever_the_connection_ends() {
    let scene = Scene::new();
    let bytes = dialogue().concat();
    let mut ended = 0;
    for length in 0..=bytes.len() {
        let mut peer = Peer::connect(&scene.milter);
        peer.send(&bytes[..length]);
        if length % 2 == 0 {
            peer.finish();
            peer.rest();
        }
        ended += u64::from(length == bytes.len());
    }
    // Only the whole conversation has a message that was taken.
    assert_eq!(ended, 1);
    until("the account's limit as it was", || (scene.used("fred") == 1).then_some(()));
    until("all connections given back", || (scene.open_files() < 40).then_some(()));
    scene.end();
}

#[test]
fn several_messages_and_clients_share_a_connection() {
    let scene = Scene::new();
    let mut peer = scene.peer();
    for _ in 0..3 {
        assert_eq!(message(&mut peer, "a@x.example", &["bob@test.example"]), ORDINARY);
        // Given up in the middle, at every step.
        let parts = [
            path(b'M', "held@x.example"),
            path(b'R', "bob@test.example"),
            header("X-Spam-Flag", "YES"),
        ];
        for length in 0..=parts.len() {
            peer.send(&[&parts[..length].concat()[..], &packet(b'A', b"")].concat());
        }
        for _ in 0..2 {
            // To the two recipients; what was said of those messages holds for no other.
            assert_eq!(peer.answer().unwrap().text(), "c");
        }
    }
    peer.send(&[packet(b'K', b""), client("192.0.2.99")].concat());
    let said = message(&mut peer, "a@x.example", &["bob@test.example", "eve@test.example"]);
    assert_eq!(said[0], "i X-Checked|accept by default for 192.0.2.99");
    // One that is begun before the other was ended takes its place.
    peer.send(&path(b'M', "held@x.example"));
    assert_eq!(peer.ask(&path(b'R', "bob@test.example")), ["c"]);
    let said = message(&mut peer, "a@x.example", &["bob@test.example"]);
    assert_eq!(said[0], "i X-Checked|accept by default for 192.0.2.99");
    scene.end();
}

#[test]
fn a_step_that_is_not_answered_keeps_nobody_waiting() {
    let scene = Scene::new();
    // As Postfix does it: what is sent next waits until the kernel says that the last has come.
    let mut stream = TcpStream::connect(&scene.tcp).unwrap();
    stream.write_all(&[offer(6, ALL), client(CLIENT)].concat()).unwrap();
    let hear = |length: usize| {
        let mut answer = vec![0; length];
        (&stream).read_exact(&mut answer).unwrap();
        answer
    };
    let agreed = hear(4);
    let length = u32::from_be_bytes(agreed.try_into().unwrap());
    hear(usize::try_from(length).unwrap());
    let mut took: Vec<Duration> = (0..60)
        .map(|_| {
            let begun = Instant::now();
            (&stream).write_all(&path(b'M', "a@x.example")).unwrap();
            (&stream).write_all(&path(b'R', "bob@test.example")).unwrap();
            assert_eq!(hear(5), b"\0\0\0\x01c");
            (&stream).write_all(&packet(b'A', b"")).unwrap();
            begun.elapsed()
        })
        .collect();
    took.sort();
    // The kernel would take 40 ms over it.
    assert!(took[30] < Duration::from_millis(25), "{took:?}");
    scene.end();
}

#[test]
fn what_cannot_be_done_is_deferred() {
    let scene = Scene::new();
    let said = |actions: u32, sender: &str| {
        let mut peer = Peer::connect(&scene.milter);
        peer.send(&[offer(6, (actions, ALL.1)), client(CLIENT)].concat());
        peer.answer().expect("an agreement");
        message(&mut peer, sender, &["bob@test.example"])
    };
    let cannot = ["y 451 4.3.0 Cannot be done now"];
    let all = ALL.0;
    assert_eq!(said(all, "a@x.example"), ORDINARY);
    assert_eq!(said(all, "held@x.example")[2..], ["q held by mpp", "c"]);
    assert_eq!(said(all, "lost@x.example"), ["d"]);
    assert_eq!(
        said(all, "moved@x.example")[1..],
        ["- <bob@test.example>", "+ <desk@example.org>", "+ <archive@example.org>", "c"]
    );
    // Without quarantine, adding header fields, adding or removing recipients, changing the header.
    for (missing, sender) in [
        (1 << 5, "held@x.example"),
        (1, "a@x.example"),
        (1 << 2, "a@x.example"),
        (1 << 3, "moved@x.example"),
        (1 << 4, "a@x.example"),
    ] {
        assert_eq!(said(all & !missing, sender), cannot, "{missing:#x} {sender}");
    }
    // What needs nothing of it is not kept from anybody.
    assert_eq!(said(0, "lost@x.example"), ["d"]);
    scene.mpp.wait_for_word("does not let a message be held or changed");
    scene.end();
}

#[test]
fn a_reload_holds_for_connections_that_are_open() {
    let scene = Scene::new();
    let mut before = scene.peer();
    assert_eq!(message(&mut before, "a@x.example", &["bob@test.example"]), ORDINARY);
    let reload = |rules: &str| {
        let (at, _) = scene.tcp.rsplit_once(':').unwrap();
        scene.mpp.configure(&Scene::text(at, &scene.milter, rules));
        scene.mpp.tell(&["reload"]);
    };
    // Less than was agreed on is fine; more waits for the next connection.
    reload(&RULES.replace("copy_to = [\"archive@example.org\"]", ""));
    assert_eq!(message(&mut before, "a@x.example", &["bob@test.example"]), [ORDINARY[0], "c"]);
    reload(&RULES.replace("\"X-Spam-*\"", "\"X-Spam-*\", \"X-Virus\""));
    let said = message(&mut before, "a@x.example", &["bob@test.example"]);
    assert_eq!(said, ["y 451 4.3.0 Cannot be done now"]);
    scene.end();
}

#[test]
fn header_fields_without_end_take_no_memory() {
    let scene = Scene::new();
    let before = scene.mpp.resident_kib();
    let mut peer = scene.peer();
    let begin = |peer: &mut Peer| {
        peer.send(&path(b'M', "a@x.example"));
        assert_eq!(peer.ask(&path(b'R', "bob@test.example")), ["c"]);
    };
    // A hundred megabytes that nobody asked for, one field of fifty, names without end.
    begin(&mut peer);
    let field = header("X-Other", &"x".repeat(100_000));
    (0..1_000).for_each(|_| peer.send(&field));
    peer.send(&header(&"n".repeat(5_000_000), "x"));
    peer.send(&packet(b'B', &vec![0; 10_000_000]));
    assert_eq!(peer.answer().unwrap().text(), "c", "to the body, which was negotiated away");
    assert_eq!(peer.ask(&packet(b'E', b"")), ORDINARY);
    // As many to be removed as can be: the last first.
    begin(&mut peer);
    (0..999).for_each(|_| peer.send(&header("X-Spam-Flag", "YES")));
    peer.send(&header("X-SPAM-LEVEL", "9"));
    let said = peer.ask(&packet(b'E', b""));
    assert_eq!(said.len(), 1_000 + ORDINARY.len());
    assert_eq!((&*said[0], &*said[999]), ("m x-spam-flag|", "m x-spam-level|"));
    // One more, a name of its own each, or one whose name nobody can hold.
    for fields in [
        (0..1_001).map(|_| header("X-Spam-Flag", "YES")).collect::<Vec<_>>(),
        (0..100_000).map(|number| header(&format!("X-Spam-{number}"), "")).collect(),
        vec![header(&format!("X-Spam-{}", "x".repeat(1_000)), "")],
    ] {
        begin(&mut peer);
        peer.send(&fields.concat());
        let said = peer.ask(&packet(b'E', b""));
        assert_eq!(said, ["y 554 5.6.0 Too many header fields of one kind"]);
    }
    assert_eq!(message(&mut peer, "a@x.example", &["bob@test.example"]), ORDINARY);
    let after = scene.mpp.resident_kib();
    assert!(after < before + 16 * 1024, "{before} KiB became {after} KiB");
    scene.end();
}

#[test]
fn macros_and_recipients_by_the_thousand_are_bound() {
    let scene = Scene::new();
    let before = scene.mpp.resident_kib();
    let mut peer = scene.peer();
    let many: Vec<_> = (0..4_000).map(|_| ("{auth_authen}", "f")).collect();
    let empty = packet(b'D', &[vec![b'M'], vec![0; 60_000]].concat());
    for _ in 0..500 {
        peer.send(&macros(b'M', &many));
        peer.send(&empty);
        peer.send(&macros(b'M', &[("i", &"x".repeat(60_000)), ("{client_ptr}", "")]));
    }
    assert_eq!(message(&mut peer, "a@x.example", &["bob@test.example"]), ORDINARY);
    // Recipients are remembered, since a policy may replace them: up to a mebibyte.
    peer.send(&path(b'M', "moved@x.example"));
    let recipient = path(b'R', &format!("\"{}\"@elsewhere.example", "x".repeat(60_000)));
    let said: Vec<_> = (0..40).map(|_| peer.ask(&recipient).remove(0)).collect();
    let taken = said.iter().filter(|said| *said == "c").count();
    assert_eq!(taken, (1 << 20) / (recipient.len() - 6));
    assert!(said[taken..].iter().all(|said| said == "y 452 4.5.3 Too many recipients"));
    let said = peer.ask(&packet(b'E', b""));
    assert_eq!(said.iter().filter(|said| said.starts_with("- <")).count(), taken);
    let after = scene.mpp.resident_kib();
    assert!(after < before + 16 * 1024, "{before} KiB became {after} KiB");
    scene.end();
}

#[test]
fn five_hundred_connections_at_once_are_served() {
    let scene = Scene::new();
    let before = scene.mpp.resident_kib();
    let mut peers: Vec<Peer> = (0..500).map(|_| scene.peer()).collect();
    // Each is in the middle of a message, and of a packet that says to be long.
    for peer in &mut peers {
        peer.send(&macros(b'M', &[("{auth_authen}", "fred")]));
        peer.send(&path(b'M', "a@x.example"));
        assert_eq!(peer.ask(&path(b'R', "bob@test.example")), ["c"]);
    }
    assert_eq!(scene.used("fred"), 500);
    let long = path(b'R', &format!("\"{}\"@elsewhere.example", "x".repeat(60_000)));
    let (head, tail) = long.split_at(50_000);
    for peer in &mut peers {
        peer.send(head);
    }
    let after = scene.mpp.resident_kib();
    assert!(after < before + 64 * 1024, "{before} KiB became {after} KiB");
    scene.end();
    // Half of them end in the middle of it, the others finish.
    for (number, peer) in peers.iter_mut().enumerate() {
        if number % 2 == 0 {
            peer.finish();
            assert_eq!(peer.rest(), []);
        } else {
            assert_eq!(peer.ask(tail), ["c"]);
            assert_eq!(peer.ask(&packet(b'E', b"")), ORDINARY);
        }
    }
    drop(peers);
    until("what was not sent given back", || (scene.used("fred") == 250).then_some(()));
    scene.end();
}

#[test]
fn recipients_whom_the_server_refuses_are_no_question() {
    let scene = Scene::new();
    let mut peer = scene.peer();
    peer.send(&path(b'M', "a@x.example"));
    let mut ask = |told: &[(&str, &str)], recipient: &str| {
        let packets = [macros(b'R', told), path(b'R', recipient)].concat();
        peer.ask(&packets).concat()
    };
    let error = ("{rcpt_mailer}", "error");
    for status in ["5.1.1", "5.7.1", "4.1.1", "5.1.10", "", "2.1.5", "mx.x.example"] {
        let told = [error, ("{rcpt_host}", status), ("{rcpt_addr}", "User unknown")];
        assert_eq!(ask(&told, "other@test.example"), "c", "{status}");
    }
    // It holds for no other recipient, and not for those that the server would take.
    assert!(ask(&[("{rcpt_mailer}", "smtp")], "nobody@test.example").contains("5.1.1"));
    assert!(ask(&[("{rcpt_host}", "5.1.1")], "nobody@test.example").contains("5.1.1"));
    let lines: Vec<Value> = until("lines of the log", || {
        let folder = std::fs::read_dir(scene.mpp.folder().join("state/log")).ok()?;
        let text: String =
            folder.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let lines: Vec<_> =
            lines.filter(|line| line["recipient"] == "other@test.example").collect();
        (lines.len() >= 2).then_some(lines)
    });
    // Two of them are users who do not exist; nobody is told what is thought of it.
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in lines {
        assert_eq!(line["reason"], "unknown-recipient");
        assert!(line["trace"].as_str().unwrap().contains("says=mail-server"), "{line}");
        assert!(line["reply"].is_null(), "{line}");
    }
    // A server that has not agreed to tell of them means nothing by it.
    let mut peer = Peer::connect(&scene.milter);
    peer.send(&[offer(6, (0, 0)), client(CLIENT), path(b'M', "a@x.example")].concat());
    let told = macros(b'R', &[error, ("{rcpt_host}", "5.1.1")]);
    peer.send(&[told, path(b'R', "bob@test.example"), path(b'R', "no@test.example")].concat());
    peer.finish();
    let said: Vec<String> = peer.rest().iter().skip(1).map(Said::text).collect();
    assert!(said[..3] == ["c"; 3] && said[3].contains("5.1.1"), "{said:?}");
    scene.end();
}
