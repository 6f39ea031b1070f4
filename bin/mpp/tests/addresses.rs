//! Addresses of every legal and illegal form, as they come over the policy socket.

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::policy::rcpt;

const MPP: &str = env!("CARGO_BIN_EXE_mpp");

#[rustfmt::skip]
const ODD: [&str; 54] = [
    "", "<>", "@", "@@", "a@", "@b", "a", "a@b@c", "a@b.", "a@.b", ".a@b", "a..b@c", " ", "a b@c",
    r#""a b"@test.example"#, r#""a\"b"@test.example"#, r#""@"@test.example"#, r#"""@test.example"#,
    "a@[192.0.2.1]", "a@[IPv6:2001:db8::1]", "a@[", "a@[]", "a=b@c.example", "=@=", "a%b@c",
    "a!b!c", "a@xn--mller-kva.example", "j\u{f6}rg@m\u{fc}ller.example", "\u{202e}a@b",
    "\u{1f4a9}@\u{1f4a9}.example", "SRS0=HHH=TT=b.example=a@c.example", "a+b+c+d@test.example",
    "+@test.example", "++++@test.example", "bounce-12345-67890@lists.example", "a@b,c@d", "a;b@c",
    "a\t@b", "a\r@b", "\u{7f}@b", "'@b", "a@-b-.example", "a@b_c.example", "postmaster",
    "POSTMASTER@TEST.EXAMPLE", "mailer-daemon", "\u{130}@test.example", "\u{feff}bob@test.example",
    "bob@test.example\u{0}\u{0}", "bob@TEST.example.", "0@0", "a@1.2.3.4", "-@-", "\\@\\",
];

const LISTS: &str = "[recipients.main]
domains = [\"test.example\"]
addresses = [\"bob@test.example\", '\"odd..user\"@test.example', \"o'brien@test.example\"]
[policy.default.recipient.harvest]
limit = 1000000
[policy.default.trap]
patterns = ['^trap@']
[policy.default.access.deny]
sender = [\"@spam.example\"]
[policy.default.greylist]
delay = \"1h\"
";

#[test]
fn every_form_gets_an_answer() {
    let mpp = Daemon::start(MPP, &address(), LISTS);
    let long = format!("{}@test.example", "a".repeat(10 * 1024));
    let labels = format!("a@{}example", "b.".repeat(2_000));
    let plus = format!("{}@test.example", "+".repeat(5_000));
    let mut client = mpp.client();
    let all = ODD.into_iter().chain([&*long, &*labels, &*plus]);
    for (number, text) in all.enumerate() {
        // A NUL ends the connection, which other tests look at.
        let text = text.replace('\0', "");
        let pairs = [(&*text, "bob@test.example"), ("a@x.example", &*text), (&*text, &*text)];
        for (sender, recipient) in pairs {
            let answer = client.ask(&rcpt(&format!("10.9.{number}.1"), sender, recipient));
            let fit = ["DUNNO", "DEFER_IF_PERMIT 4.7.1 Greylisted", "550 5.1.1 User unknown"];
            let is_fit = fit.iter().any(|start| answer.starts_with(start));
            assert!(is_fit, "{sender:?} to {recipient:?}: {answer}");
        }
    }
    assert!(!mpp.said().contains("panicked"), "{}", mpp.said());
}

#[test]
fn the_same_address_in_another_spelling_is_the_same() {
    let mpp = Daemon::start(MPP, &address(), LISTS);
    let mut client = mpp.client();
    for (number, (recipient, start)) in [
        ("bob@test.example", "DEFER_IF_PERMIT"),
        ("BOB@Test.Example", "DEFER_IF_PERMIT"),
        ("bob+lists@test.example", "DEFER_IF_PERMIT"),
        ("o'brien@test.example", "DEFER_IF_PERMIT"),
        ("\"odd..user\"@test.example", "DEFER_IF_PERMIT"),
        ("POSTMASTER@TEST.EXAMPLE", "DEFER_IF_PERMIT"),
        ("bobby@test.example", "550 5.1.1"),
        ("trap@test.example", "550 5.1.1"),
        ("bob@elsewhere.example", "DEFER_IF_PERMIT"),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = client.ask(&rcpt(&format!("10.8.{number}.1"), "b@x.example", recipient));
        assert!(answer.starts_with(start), "{recipient}: {answer}");
    }
    let spam = client.ask(&rcpt("10.8.99.1", "\"a@b\"@SPAM.example", "bob@test.example"));
    assert!(spam.starts_with("554 5.7.1 Access denied"), "{spam}");
}
