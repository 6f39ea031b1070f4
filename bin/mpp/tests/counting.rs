//! Two-phase counting over the policy socket: whatever Postfix asks, repeats or gives up, a message
//! counts once if it was accepted, and not at all if it was not.

use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::policy::{Client, request};
use mpp_tests::real::{address, until};

const MPP: &str = env!("CARGO_BIN_EXE_mpp");
const TWO_MESSAGES: &str = "[[policy.default.threshold]]\nname = \"mails\"\nkey = \"sasl_user\"\n\
    count = \"messages\"\nlimit = 2\nper = \"1h\"\nthen = \"defer\"\n";
const THREE_RECIPIENTS: &str = "[[policy.default.threshold]]\nname = \"people\"\n\
    key = \"sasl_user\"\ncount = \"recipients\"\nlimit = 3\nper = \"1h\"\nthen = \"reject\"\n";

/// A request of fred's.
fn of_fred(state: &str, instance: &str, recipient: &str, recipients: u32) -> String {
    request(&[
        ("request", "smtpd_access_policy"),
        ("protocol_state", state),
        ("client_address", "203.0.113.9"),
        ("sasl_username", "fred"),
        ("sender", "fred@test.example"),
        ("instance", instance),
        ("recipient", recipient),
        ("recipient_count", &recipients.to_string()),
    ])
}

fn at_rcpt(client: &mut Client, instance: &str, recipient: &str) -> String {
    client.ask(&of_fred("RCPT", instance, recipient, 0))
}

fn at_end(client: &mut Client, instance: &str, recipients: u32) -> String {
    let recipient = if recipients == 1 { "a@far.example" } else { "" };
    let data = client.ask(&of_fred("DATA", instance, recipient, recipients));
    assert_eq!(data, "DUNNO");
    client.ask(&of_fred("END-OF-MESSAGE", instance, recipient, recipients))
}

/// One whole message to one recipient.
fn message(client: &mut Client, instance: &str) -> String {
    match at_rcpt(client, instance, "a@far.example") {
        taken if taken == "DUNNO" => at_end(client, instance, 1),
        refused => refused,
    }
}

#[test]
fn a_request_repeated_after_a_lost_connection_counts_once() {
    let mpp = Daemon::start(MPP, &address(), TWO_MESSAGES);
    let mut client = mpp.client();
    assert_eq!(message(&mut client, "1.1"), "DUNNO");
    // The answer is lost, and Postfix asks the same on another connection.
    drop(client);
    let mut client = mpp.client();
    assert_eq!(at_rcpt(&mut client, "1.2", "a@far.example"), "DUNNO");
    drop(client);
    let mut client = mpp.client();
    assert_eq!(at_rcpt(&mut client, "1.2", "a@far.example"), "DUNNO");
    assert_eq!(at_end(&mut client, "1.2", 1), "DUNNO");
    let over = message(&mut client, "1.3");
    assert!(over.starts_with("450 4.7.1 Sending limit reached: 2 of 2"), "{over}");
    // A refusal that is repeated is the same refusal.
    let again = at_rcpt(&mut mpp.client(), "1.3", "a@far.example");
    assert!(again.starts_with("450 4.7.1 Sending limit reached: 2 of 2"), "{again}");
}

#[test]
fn a_connection_that_ends_gives_back_what_was_not_finished() {
    let mpp = Daemon::start(MPP, &address(), TWO_MESSAGES);
    assert_eq!(message(&mut mpp.client(), "1.1"), "DUNNO");
    for number in 0..5 {
        let instance = format!("2.{number}");
        // What was given back comes a moment after the close.
        until("room for one more", || {
            let mut client = mpp.client();
            (at_rcpt(&mut client, &instance, "a@far.example") == "DUNNO").then_some(())
        });
    }
    until("room for one more", || (message(&mut mpp.client(), "3.1") == "DUNNO").then_some(()));
    assert!(message(&mut mpp.client(), "3.2").starts_with("450 4.7.1"));
}

#[test]
fn recipients_count_one_by_one_or_at_the_end() {
    let mpp = Daemon::start(MPP, &address(), THREE_RECIPIENTS);
    let mut client = mpp.client();
    for recipient in ["a@far.example", "b@far.example"] {
        assert_eq!(at_rcpt(&mut client, "1.1", recipient), "DUNNO");
    }
    assert_eq!(at_end(&mut client, "1.1", 2), "DUNNO", "they were counted already");
    // A front end that asks at the end only: two more are one too many, one is not.
    let over = client.ask(&of_fred("END-OF-MESSAGE", "1.2", "", 2));
    assert!(over.starts_with("554 5.7.1 Sending limit reached: 2 of 3"), "{over}");
    assert_eq!(client.ask(&of_fred("END-OF-MESSAGE", "1.3", "a@far.example", 1)), "DUNNO");
    let over = at_rcpt(&mut client, "1.4", "c@far.example");
    assert!(over.starts_with("554 5.7.1 Sending limit reached: 3 of 3"), "{over}");
}

#[test]
fn who_asks_at_rcpt_only_counts_what_was_answered_with_accept() {
    let mpp = Daemon::start(MPP, &address(), TWO_MESSAGES);
    let mut client = mpp.client();
    assert_eq!(at_rcpt(&mut client, "1.1", "a@far.example"), "DUNNO");
    assert_eq!(at_rcpt(&mut client, "1.1", "b@far.example"), "DUNNO", "the same message");
    assert_eq!(at_rcpt(&mut client, "1.2", "a@far.example"), "DUNNO");
    assert!(at_rcpt(&mut client, "1.3", "a@far.example").starts_with("450 4.7.1"));
}
