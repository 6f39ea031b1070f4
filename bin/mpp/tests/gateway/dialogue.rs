//! Commands and texts as a client may say them.

use mpp_tests::real::ledger::Ledger;
use mpp_tests::real::raw_smtp::RawSmtp;
use mpp_tests::real::{address, until};

use crate::{RULES, gateway};

const FULL: &str = "250-ledger\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250-SIZE 1000000\r\n\
    250-PIPELINING\r\n250 XFORWARD NAME ADDR PORT PROTO HELO IDENT";

#[test]
fn who_is_refused_never_reaches_the_next_hop() {
    let ledger = Ledger::start(|| None);
    let (mpp, listen) = gateway(ledger.address(), "", RULES);
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    // What it offers is learnt once, with a connection of its own.
    let before = ledger.heard();
    assert!(before.iter().all(|line| line.starts_with("EHLO")), "{before:?}");
    for (recipient, wanted) in [
        ("nobody@test.example", "550 5.1.1 User unknown"),
        ("bob@stranger.example", "554 5.7.1 Relay access denied"),
        ("bob%stranger.example@test.example", "554 5.7.1 Relay access denied"),
        ("stranger.example!bob@test.example", "554 5.7.1 Relay access denied"),
        ("\"bob@stranger.example\"@test.example", "554 5.7.1 Relay access denied"),
        ("bob@[127.0.0.1]", "554 5.7.1 Relay access denied"),
        ("@relay.example:bob@stranger.example", "554 5.7.1 Relay access denied"),
    ] {
        raw.expect("MAIL FROM:<a@b.example>", "250");
        let reply = raw.say(&format!("RCPT TO:<{recipient}>"));
        assert!(reply.starts_with(wanted), "{recipient}: {reply}");
        let id = reply.rsplit_once('(').and_then(|(_, id)| id.strip_suffix(')')).expect("an id");
        let told = mpp.tell(&["explain", id]);
        assert!(told.contains("proxy"), "{told}");
        raw.expect("RSET", "250");
    }
    let mut raw = RawSmtp::connect(&listen);
    assert!(raw.become_client("ADDR=192.0.2.13").starts_with("554 5.7.1 Access denied"));
    assert_eq!(raw.reply(), "", "who is denied is turned away when he connects");
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    assert!(raw.message("a@b.example", "trap@test.example", "x").starts_with("550 5.1.1"));
    let mut raw = RawSmtp::open(&listen);
    let reply = raw.reply();
    assert!(reply.starts_with("421 4.7.1 Temporarily blocked"), "{reply}");
    assert_eq!(ledger.count("MAIL"), 0);
    let status = mpp.json(&["status"]);
    assert_eq!(status["proxies"][0]["name"], "mx");
    assert!(status["proxies"][0]["turned_away"].as_u64() >= Some(1), "{status}");
}

#[test]
fn mail_passes_in_every_form() {
    let ledger = Ledger::offering(FULL, || None);
    let (_mpp, listen) = gateway(ledger.address(), "", RULES);
    let mut raw = RawSmtp::connect(&listen);
    raw.send(b"EHLO c.example\r\n");
    let offers = raw.lines().join("\n");
    for word in [
        "PIPELINING",
        "CHUNKING",
        "8BITMIME",
        "SMTPUTF8",
        "DSN",
        "SIZE 1000000",
        "ENHANCEDSTATUSCODES",
    ] {
        assert!(offers.contains(word), "{word}: {offers}");
    }
    // Command by command.
    assert!(
        raw.message("a@b.example", "bob@test.example", "Serial: plain\r\n\r\nhi")
            .starts_with("250")
    );
    // All at once.
    raw.send(
        b"MAIL FROM:<a@b.example> SIZE=100 BODY=8BITMIME RET=HDRS\r\n\
          RCPT TO:<bob@test.example> NOTIFY=NEVER ORCPT=rfc822;bob@test.example\r\n\
          RCPT TO:<nobody@test.example>\r\nRCPT TO:<eve@test.example>\r\nDATA\r\n",
    );
    let codes: Vec<String> = (0..5).map(|_| raw.reply()[..3].to_owned()).collect();
    assert_eq!(codes, ["250", "250", "550", "250", "354"]);
    raw.send("Serial: pipelined\r\n\r\n..grüße\r\n.\r\nNOOP\r\n".as_bytes());
    let replies = [raw.reply(), raw.reply()];
    assert!(replies.iter().all(|reply| reply.starts_with("250")), "{replies:?}");
    // In chunks, one of them in the middle of a line end.
    raw.expect("MAIL FROM:<> SMTPUTF8", "250");
    raw.expect("RCPT TO:<jörg@test.example>", "250");
    raw.send(b"BDAT 18\r\nSerial: chunks\r\n\r\r\n");
    let reply = raw.reply();
    assert!(reply.starts_with("554 5.6.0"), "a CR alone is none in chunks either: {reply}");
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    raw.expect("MAIL FROM:<> SMTPUTF8", "250");
    raw.expect("RCPT TO:<jörg@test.example>", "250");
    raw.send(b"BDAT 17\r\nSerial: chunks\r\n\r");
    assert!(raw.reply().starts_with("250"));
    raw.expect("RCPT TO:<bob@test.example>", "503");
    raw.expect("DATA", "503");
    raw.send(b"BDAT 14\r\n\n.one\r\n..two\r\nBDAT 0 LAST\r\n");
    assert!(raw.reply().starts_with("250") && raw.reply().starts_with("250"));
    // A chunk that nobody wants is read to its end.
    raw.send(b"BDAT 12 LAST\r\nQUIT\r\nQUIT\r\n");
    assert!(raw.reply().starts_with("503"));
    raw.expect("NOOP", "250");
    ledger.settle(&["plain", "pipelined", "chunks"].map(str::to_owned));
    let heard = ledger.heard().join("\n");
    for wanted in [
        "MAIL FROM:<a@b.example> SIZE=100 BODY=8BITMIME RET=HDRS",
        "RCPT TO:<bob@test.example> NOTIFY=NEVER ORCPT=rfc822;bob@test.example",
        "MAIL FROM:<> SMTPUTF8",
        "| ..grüße",
        "| ..one\n| ...two",
        "XFORWARD NAME=[UNAVAILABLE] ADDR=127.",
        "| Received: from c.example (unknown [127.",
        "by mx.test.example (mpp) with ESMTP id proxy.",
    ] {
        assert!(heard.contains(wanted), "{wanted}\nin\n{heard}");
    }
    assert!(!heard.contains("nobody@test.example"));
    // One connection served them all, but for what was cut off.
    assert!(ledger.count("EHLO") <= 3, "{heard}");
}

#[test]
fn what_the_next_hop_does_not_offer_is_neither_offered_nor_said() {
    let ledger = Ledger::offering("250 ledger", || None);
    let (_mpp, listen) = gateway(ledger.address(), "message_size = \"2 KiB\"\n", RULES);
    let mut raw = RawSmtp::connect(&listen);
    raw.send(b"EHLO c.example\r\n");
    let offers = raw.lines().join("\n");
    assert!(!offers.contains("8BITMIME") && !offers.contains("DSN"), "{offers}");
    assert!(offers.contains("SIZE 2048"), "{offers}");
    raw.expect("MAIL FROM:<a@b.example> SIZE=3000", "552 5.3.4");
    raw.expect("MAIL FROM:<a@b.example> AUTH=<>", "555 5.5.4");
    raw.expect("MAIL FROM:<jörg@b.example>", "553 5.6.7");
    raw.expect("MAIL FROM:<a@b.example> BODY=8BITMIME", "250");
    raw.expect("RCPT TO:<bob@test.example>", "554 5.6.3");
    raw.expect("RSET", "250");
    raw.expect("MAIL FROM:<a@b.example> SMTPUTF8", "250");
    raw.expect("RCPT TO:<bob@test.example>", "553 5.6.7");
    raw.expect("RSET", "250");
    let reply = raw.message("a@b.example", "bob@test.example", "Serial: eight\r\n\r\ngrüße");
    assert!(reply.starts_with("554 5.6.1"), "{reply}");
    let reply = raw.message("a@b.example", "bob@test.example", &"long\r\n".repeat(500));
    assert!(reply.starts_with("552 5.3.4"), "{reply}");
    let reply = raw.message("a@b.example", "bob@test.example", &"Received: x\r\n".repeat(60));
    assert!(reply.starts_with("554 5.4.6"), "{reply}");
    assert!(
        raw.message("a@b.example", "bob@test.example", "Serial: fine\r\n\r\nx").starts_with("250")
    );
    ledger.settle(&["fine".to_owned()]);
    assert_eq!(ledger.taken().len(), 1);
}

#[test]
fn commands_out_of_order_and_what_is_none() {
    let ledger = Ledger::start(|| None);
    let (mpp, listen) = gateway(ledger.address(), "", RULES);
    let mut raw = RawSmtp::connect(&listen);
    for (line, code) in [
        ("MAIL FROM:<a@b.example>", "503"),
        ("RCPT TO:<bob@test.example>", "503"),
        ("DATA", "503"),
        ("EHLO c.example", "250"),
        ("EHLO", "501"),
        ("XFORWARD NAME=x", "502"),
        ("STARTTLS", "502"),
        ("MAIL FROM:<a@b.example>", "250"),
        ("MAIL FROM:<a@b.example>", "503"),
        ("DATA", "554"),
        ("RCPT TO:<>", "501"),
        ("RCPT TO:<bob@test.example> XYZ=1", "555"),
        ("RCPT TO:<jörg@test.example>", "553"),
        ("HELO c.example", "250"),
        ("RCPT TO:<bob@test.example>", "503"),
        ("VRFY bob", "252"),
        ("HELP", "214"),
    ] {
        let reply = raw.say(line);
        assert!(reply.starts_with(code), "{line}: {reply}");
    }
    let endless = "x".repeat(100_000);
    for bytes in [&b"NOOP\n"[..], b"NO\0OP\r\n", endless.as_bytes(), b"NOOP\rNOOP\r\n"] {
        let mut raw = RawSmtp::connect(&listen);
        raw.send(bytes);
        let reply = raw.reply();
        assert!(reply.starts_with("500 5.5.2"), "{reply}");
        assert_eq!(raw.reply(), "");
    }
    // Both directions of smuggling, in DATA.
    for end in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r\n", "\r.\r", "\r\n.\r", "\n\n.\r\n"] {
        let mut raw = RawSmtp::connect(&listen);
        raw.begin();
        raw.send(format!("hi{end}MAIL FROM:<evil@b.example>\r\nDATA\r\nevil\r\n.\r\n").as_bytes());
        let reply = raw.reply();
        assert!(reply.starts_with("554 5.6.0"), "{end:?}: {reply}");
        assert_eq!(raw.reply(), "");
    }
    assert!(ledger.taken().is_empty());
    assert!(mpp.runs());
}

#[test]
fn what_the_next_hop_refuses_uses_nothing_up() {
    let ledger = Ledger::start(|| None);
    let rules = format!(
        "{RULES}\n[[policy.default.threshold]]\nname = \"mails\"\nkey = \"client\"\n\
         count = \"recipients\"\nlimit = 2\nper = \"1h\"\nthen = \"defer\"\n"
    );
    let (_mpp, listen) = gateway(ledger.address(), "", &rules);
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    for _ in 0..5 {
        raw.expect("MAIL FROM:<a@b.example>", "250");
        raw.expect("RCPT TO:<full@test.example>", "452 4.2.2 mailbox full");
        raw.expect("RSET", "250");
    }
    for number in 0..2 {
        let reply =
            raw.message("a@b.example", "bob@test.example", &format!("Serial: {number}\r\n\r\nx"));
        assert!(reply.starts_with("250"), "{number}: {reply}");
    }
    raw.expect("MAIL FROM:<a@b.example>", "250");
    raw.expect("RCPT TO:<bob@test.example>", "450 4.7.28");
}

#[test]
fn one_client_is_heard_on_demand() {
    let ledger = Ledger::start(|| None);
    let (mpp, listen) = gateway(ledger.address(), "", RULES);
    let mut watcher = mpp.begin(&["trace", "127.0.0.0/8", "--for", "20s"]);
    let mut said = std::io::BufReader::new(watcher.stdout.take().expect("its output"));
    // Whoever watches hears what is said from then on.
    let heard = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let copy = std::sync::Arc::clone(&heard);
    std::thread::spawn(move || {
        let mut line = String::new();
        while std::io::BufRead::read_line(&mut said, &mut line).unwrap_or(0) > 0 {
            copy.lock().unwrap().push_str(&line);
            line.clear();
        }
    });
    until("a dialogue that is heard", || {
        let mut raw = RawSmtp::connect(&listen);
        raw.expect("EHLO c.example", "250");
        raw.message("a@b.example", "bob@test.example", "Subject: secret\r\n\r\nnot for others");
        let text = heard.lock().unwrap().clone();
        text.contains("RCPT TO:<bob@test.example>").then_some(())
    });
    until("the end of it", || heard.lock().unwrap().contains("a text of ").then_some(()));
    let text = heard.lock().unwrap().clone();
    assert!(text.contains("354 End data") && !text.contains("secret"), "{text}");
    assert!(!text.contains("not for others"), "{text}");
    let _ = watcher.kill();
    let _ = watcher.wait();
    let _ = address();
}

#[test]
fn messages_are_edited_as_their_policy_wants() {
    let ledger = Ledger::start(|| None);
    let rules = format!(
        "{RULES}\n[policy.default.message]\nadd_headers = [\"X-Mpp: {{action}} {{id}} {{policy}}\"]\n\
         remove_headers = [\"X-Spam-*\"]\ncopy_to = [\"archive@other.example\"]\n\n\
         [policy.eve]\nmatch = {{ recipient = [\"eve@test.example\"] }}\n\
         message.redirect_to = \"bob@test.example\"\n"
    );
    let (mpp, listen) = gateway(ledger.address(), "", &rules);
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    let text = "Serial: one\r\nX-Spam-Flag: NO\r\n folded\r\nSubject: x\r\n\r\nX-Spam-Flag: body";
    assert!(raw.message("a@b.example", "bob@test.example", text).starts_with("250"));
    let heard = ledger.heard().join("\n");
    for wanted in ["RCPT TO:<archive@other.example>", "| X-Mpp: accept ", "| X-Spam-Flag: body"] {
        assert!(heard.contains(wanted), "{wanted}: {heard}");
    }
    assert!(!heard.contains("X-Spam-Flag: NO") && !heard.contains("folded"), "{heard}");
    assert!(heard.find("Received:") < heard.find("X-Mpp:"), "above all others: {heard}");
    // The id leads to the decision.
    let id = heard.split("X-Mpp: accept ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(mpp.tell(&["explain", id]).contains("END-OF-MESSAGE"), "{id}");
    let before = ledger.heard().len();
    let text = "Serial: two\r\n\r\nx";
    assert!(raw.message("a@b.example", "eve@test.example", text).starts_with("250"));
    let heard = ledger.heard().split_off(before);
    let last = heard.iter().rfind(|line| line.starts_with("RCPT") || line.starts_with("RSET"));
    assert!(heard.contains(&"RSET".to_owned()), "{heard:?}");
    assert!(last.is_some_and(|line| line.starts_with("RCPT TO:<")), "{heard:?}");
    let behind: Vec<&String> = heard.iter().skip_while(|line| *line != "RSET").collect();
    assert!(!behind.iter().any(|line| line.contains("eve@test.example")), "{heard:?}");
    ledger.settle(&["one", "two"].map(str::to_owned));
    // Who cannot be copied to is no reason to lose the copy.
    let rules = format!("{RULES}\n[policy.default.message]\ncopy_to = [\"full@test.example\"]\n");
    let (_mpp, listen) = gateway(ledger.address(), "", &rules);
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    let reply = raw.message("a@b.example", "bob@test.example", "Serial: three\r\n\r\nx");
    assert!(reply.starts_with("451 4.3.0"), "{reply}");
}

#[test]
fn a_connection_leaves_a_line_with_the_id_of_its_messages() {
    let ledger = Ledger::start(|| None);
    let (mpp, listen) = gateway(ledger.address(), "", RULES);
    let mut raw = RawSmtp::connect(&listen);
    raw.expect("EHLO c.example", "250");
    let text = "Serial: one\r\n\r\nx";
    assert!(raw.message("a@b.example", "bob@test.example", text).starts_with("250"));
    raw.expect("QUIT", "221");
    let folder = mpp.folder().join("state/log");
    let line = until("the line of the connection", || {
        let files = std::fs::read_dir(&folder).unwrap();
        let text: String =
            files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
        text.lines().find(|line| line.contains("\"session\":\"proxy.")).map(str::to_owned)
    });
    for wanted in
        ["\"passed_on\":1", "\"end\":\"quit\"", "\"helo\":\"c.example\"", "\"tls\":\"no\""]
    {
        assert!(line.contains(wanted), "{wanted}: {line}");
    }
    let session = line.split("\"session\":\"").nth(1).and_then(|it| it.split('"').next()).unwrap();
    assert!(ledger.heard().join("\n").contains(&format!("id {session}.1;")), "{session}");
    assert!(mpp.tell(&["stats"]).contains("Proxy mx, since the start"));
}
