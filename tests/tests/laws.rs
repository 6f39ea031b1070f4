//! Laws that hold for whatever is asked, whenever.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

use std::fmt::Write as _;
use std::path::Path;

use mpp_tests::node::Node;
use proptest::prelude::*;

const EPOCH_MS: u64 = 1_780_272_000_000;
const LISTS: &str = "[recipients.main]\n\
    domains = [\"our.example\"]\naddresses = [\"u0@our.example\", \"u1@our.example\"]\n";

/// Somebody asks, so many milliseconds after the question before.
#[derive(Clone, Copy, Debug)]
struct Asks {
    after_ms: u64,
    client: u8,
    sender: u8,
    recipient: u8,
    user: u8,
    stage: u8,
    is_spam: bool,
}

fn asks() -> impl Strategy<Value = Vec<Asks>> {
    let after = prop_oneof![0_u64..5_000, 0_u64..7_200_000, Just(86_400_000_u64)];
    let one = (after, 0_u8..4, 0_u8..4, 0_u8..5, 0_u8..3, 0_u8..8, any::<bool>()).prop_map(
        |(after_ms, client, sender, recipient, user, stage, is_spam)| Asks {
            after_ms,
            client,
            sender,
            recipient,
            user,
            stage,
            is_spam,
        },
    );
    prop::collection::vec(one, 1..60)
}

impl Asks {
    fn lines(self, now_ms: u64, number: usize) -> String {
        let client =
            ["203.0.113.7", "203.0.113.8", "2001:db8::7", "127.0.0.1"][usize::from(self.client)];
        let name = ["mx1.far.example", "unknown", "mx2.far.example", "localhost"]
            [usize::from(self.client)];
        let sender =
            ["", "a@far.example", "u0@our.example", "b=c@far.example"][usize::from(self.sender)];
        let recipient = [
            "u0@our.example",
            "u1@our.example",
            "nobody@our.example",
            "trap@our.example",
            "x@y.example",
        ][usize::from(self.recipient)];
        let user = ["", "", "fred"][usize::from(self.user)];
        let (stage, verdict) = match self.stage {
            0 => ("CONNECT", ""),
            1 => ("DATA", ""),
            2 => ("END-OF-MESSAGE", ""),
            3 if self.is_spam => ("END-OF-MESSAGE", "spam"),
            3 => ("END-OF-MESSAGE", "ham"),
            _ => ("RCPT", ""),
        };
        let kind = if verdict.is_empty() { "smtpd_access_policy" } else { "mpp_verdict" };
        format!(
            "request={kind}\nprotocol_state={stage}\nmpp_time={}.{:03}\nclient_address={client}\n\
             client_name={name}\nreverse_client_name={name}\nhelo_name={name}\nsender={sender}\n\
             recipient={recipient}\nsasl_username={user}\ninstance={}\nverdict={verdict}\n",
            now_ms / 1000,
            now_ms % 1000,
            number / 3,
        )
    }
}

fn answers(configuration: &str, asks: &[Asks]) -> Vec<String> {
    let mut node = Node::new(configuration, Path::new("."), None);
    let mut now_ms = EPOCH_MS;
    asks.iter()
        .enumerate()
        .map(|(number, asks)| {
            now_ms += asks.after_ms;
            node.answer(&asks.lines(now_ms, number))
        })
        .collect()
}

fn all_checks(mode: &str) -> String {
    let mut text = LISTS.to_owned();
    for check in ["access", "trap", "block", "recipient", "greylist"] {
        let _ = writeln!(text, "[policy.default.{check}]\nmode = \"{mode}\"");
        if check == "trap" {
            text.push_str("addresses = [\"trap@our.example\"]\n");
        }
    }
    for (name, what) in [("m", "messages"), ("r", "recipients"), ("s", "spam"), ("t", "traps")] {
        for key in ["client", "sasl_user"] {
            let _ = write!(
                text,
                "[[policy.default.threshold]]\nname = \"{name}-{key}\"\nmode = \"{mode}\"\n\
                 key = \"{key}\"\ncount = \"{what}\"\nlimit = 1\nper = \"1h\"\nthen = {{ block = \"1h\" }}\n"
            );
        }
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn shadow_and_off_never_act(asks in asks()) {
        for mode in ["shadow", "off"] {
            for answer in answers(&all_checks(mode), &asks) {
                prop_assert_eq!(answer, "DUNNO", "{}", mode);
            }
        }
    }

    #[test]
    fn the_same_questions_get_the_same_answers(asks in asks()) {
        let text = all_checks("enforce");
        prop_assert_eq!(answers(&text, &asks), answers(&text, &asks));
    }

    #[test]
    fn local_networks_are_never_greylisted_or_blocked(asks in asks()) {
        let local: Vec<Asks> = asks.iter().map(|asks| Asks { client: 3, user: 0, ..*asks }).collect();
        let text = all_checks("enforce").replace("limit = 1", "limit = 1000");
        for answer in answers(&text, &local) {
            prop_assert!(answer == "DUNNO" || answer.starts_with("550 5.1.1"), "{}", answer);
        }
    }

    #[test]
    fn no_window_passes_more_than_its_limit(
        steps in prop::collection::vec(prop_oneof![0_u64..200_000, Just(0), Just(3_600_000)], 1..80),
        limit in 1_usize..6,
    ) {
        let text = format!(
            "[[policy.default.threshold]]\nname = \"x\"\nkey = \"sasl_user\"\ncount = \"recipients\"\n\
             limit = {limit}\nper = \"10m\"\n"
        );
        let mut node = Node::new(&text, Path::new("."), None);
        let mut now_ms = EPOCH_MS;
        let mut passed: Vec<u64> = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            now_ms += step;
            let lines = Asks {
                after_ms: 0, client: 0, sender: 1, recipient: 4, user: 2, stage: 4, is_spam: false,
            }.lines(now_ms, number * 3);
            let in_window =
                passed.iter().filter(|at_ms| now_ms - **at_ms < 600_000).count();
            if node.answer(&lines) == "DUNNO" {
                prop_assert!(in_window < limit, "one too many");
                passed.push(now_ms);
            } else {
                // Counted a thirty-second of the window too long at the most.
                let surely = passed.iter().filter(|at_ms| now_ms - **at_ms < 620_000).count();
                prop_assert!(surely >= limit, "refused with {} of {}", surely, limit);
            }
        }
    }

    #[test]
    fn greylisting_is_delay_window_and_memory(
        steps in prop::collection::vec(
            prop_oneof![0_u64..90_000, 0_u64..200_000_000, Just(60_000), Just(59_999)], 1..30),
    ) {
        let text = "[policy.default.greylist]\ndelay = \"1m\"\nwindow = \"1d\"\nmemory = \"10d\"\n";
        let mut node = Node::new(text, Path::new("."), None);
        let mut now_ms = EPOCH_MS;
        let (mut first_ms, mut proven_ms): (Option<u64>, Option<u64>) = (None, None);
        for (number, step) in steps.iter().enumerate() {
            now_ms += step;
            let lines = Asks {
                after_ms: 0, client: 0, sender: 1, recipient: 4, user: 0, stage: 4, is_spam: false,
            }.lines(now_ms, number * 3);
            let passes = node.answer(&lines) == "DUNNO";
            let age = |since: Option<u64>| since.map(|at_ms| now_ms - at_ms);
            // Kept for up to a tenth longer than asked: in between both answers are right.
            match age(proven_ms) {
                Some(0..864_000_000) => {
                    prop_assert!(passes, "proven");
                    if age(proven_ms) > Some(86_400_000) {
                        proven_ms = Some(now_ms);
                    }
                    continue;
                }
                Some(864_000_000..=950_400_000) if passes => {
                    proven_ms = Some(now_ms);
                    continue;
                }
                _ => proven_ms = None,
            }
            match age(first_ms) {
                Some(60_000..86_400_000) => {
                    prop_assert!(passes, "it waited");
                    proven_ms = Some(now_ms);
                }
                Some(0..60_000) => prop_assert!(!passes, "too early"),
                _ => {
                    prop_assert!(!passes, "a first try");
                    first_ms = Some(now_ms);
                }
            }
        }
    }
}
