//! Whatever a server offers, and whatever it says then: it is told nothing that was not agreed on,
//! and everything that it waits for.

use mpp_tests::real::milter_peer::{ALL, Peer, Said, client, header, macros, offer, packet, path};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::CLIENT;
use crate::scene::Scene;

/// Something that a server says.
#[derive(Clone, Copy, Debug)]
enum Step {
    Macros,
    Connect,
    Helo,
    Mail(usize),
    Recipient(usize),
    Refused,
    Data,
    Header(usize),
    EndOfHeaders,
    Body,
    End,
    Abort,
    NextClient,
    Unknown,
}

const SENDERS: [&str; 5] =
    ["", "a@x.example", "moved@x.example", "held@x.example", "lost@x.example"];
const RECIPIENTS: [&str; 3] = ["bob@test.example", "eve@test.example", "nobody@test.example"];
const FIELDS: [&str; 4] = ["Subject", "X-Spam-Flag", "X-CHECKED", "X-Spam-Level"];

impl Step {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Macros => macros(b'M', &[("i", "QUEUED"), ("{auth_authen}", "fred")]),
            Self::Connect => client(CLIENT),
            Self::Helo => packet(b'H', b"client.example\0"),
            Self::Mail(sender) => path(b'M', SENDERS[sender]),
            Self::Recipient(recipient) => path(b'R', RECIPIENTS[recipient]),
            Self::Refused => {
                let told = [("{rcpt_mailer}", "error"), ("{rcpt_host}", "5.1.1")];
                [macros(b'R', &told), path(b'R', "nobody@test.example")].concat()
            }
            Self::Data => packet(b'T', b""),
            Self::Header(field) => header(FIELDS[field], "value"),
            Self::EndOfHeaders => packet(b'N', b""),
            Self::Body => packet(b'B', b"text"),
            Self::End => packet(b'E', b""),
            Self::Abort => packet(b'A', b""),
            Self::NextClient => packet(b'K', b""),
            Self::Unknown => packet(b'U', b"XYZZY\0"),
        }
    }

    /// Whether the server waits for an answer, if it has agreed on these steps.
    fn waits(self, steps: u32) -> bool {
        match self {
            Self::Macros | Self::Abort | Self::NextClient => false,
            Self::Connect => steps & 1 << 12 == 0,
            Self::Helo => steps & 1 << 13 == 0,
            Self::Mail(_) => steps & 1 << 14 == 0,
            Self::Header(_) => steps & 1 << 7 == 0,
            Self::Body => steps & 1 << 19 == 0,
            _ => true,
        }
    }
}

/// How far a conversation has come: a client, a message.
#[derive(Clone, Copy, Default)]
struct Phase(bool, bool);

impl Phase {
    /// Whether a step has its place here, and what comes behind it.
    fn follow(&mut self, step: Step) -> bool {
        let Self(has_client, has_message) = *self;
        match step {
            Step::Macros => true,
            Step::Abort => {
                self.1 = false;
                true
            }
            Step::NextClient => {
                *self = Self(false, false);
                true
            }
            Step::Connect => {
                self.0 = true;
                !has_client
            }
            Step::Helo | Step::Unknown => has_client,
            Step::Mail(_) => {
                self.1 = true;
                has_client
            }
            Step::End => {
                self.1 = false;
                has_message
            }
            _ => has_message,
        }
    }
}

/// The action that an answer takes.
fn action(said: &Said) -> u32 {
    match said.letter {
        b'h' | b'i' => 1,
        b'+' => 1 << 2,
        b'-' => 1 << 3,
        b'm' => 1 << 4,
        b'q' => 1 << 5,
        b'e' => 1 << 6,
        b'2' => 1 << 7,
        _ => 0,
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        1 => Just(Step::Macros),
        1 => Just(Step::Connect),
        2 => Just(Step::Helo),
        6 => (0_usize..5).prop_map(Step::Mail),
        12 => (0_usize..3).prop_map(Step::Recipient),
        2 => Just(Step::Refused),
        1 => Just(Step::Data),
        8 => (0_usize..4).prop_map(Step::Header),
        1 => Just(Step::EndOfHeaders),
        1 => Just(Step::Body),
        6 => Just(Step::End),
        1 => Just(Step::Abort),
        1 => Just(Step::NextClient),
        1 => Just(Step::Unknown),
    ];
    let begun = |rest: Vec<Step>| [vec![Step::Connect, Step::Mail(1)], rest].concat();
    prop::collection::vec(one, 0..40).prop_map(begun)
}

fn masks() -> impl Strategy<Value = (u32, u32)> {
    prop_oneof![any::<(u32, u32)>(), Just(ALL), Just((0, 0)), (0_u32..512, 0_u32..1 << 21)]
}

#[test]
fn nothing_is_said_that_was_not_agreed_on() {
    let scene = Scene::new();
    let mut runner = TestRunner::new(Config::with_cases(400));
    let outcome = runner.run(&(masks(), steps()), |(offered, steps)| {
        let mut peer = Peer::connect(&scene.milter);
        peer.send(&offer(6, offered));
        for step in &steps {
            peer.send(&step.bytes());
        }
        peer.finish();
        let answers = peer.rest();
        let mut answers = answers.iter();
        let [version, actions, agreed] = answers.next().expect("an agreement").agreed();
        prop_assert_eq!(version, 6);
        prop_assert_eq!(actions & !offered.0, 0, "an action that is not offered");
        prop_assert_eq!(agreed & !offered.1, 0, "a step that is not offered");
        let mut phase = Phase::default();
        for step in steps {
            if !phase.follow(step) {
                break;
            }
            if !step.waits(agreed) {
                continue;
            }
            for answer in answers.by_ref() {
                prop_assert_eq!(action(answer) & !actions, 0, "{:?}", answer);
                let is_end = matches!(step, Step::End);
                prop_assert!(is_end || answer.is_final(), "{:?} to {:?}", answer, step);
                if answer.is_final() {
                    break;
                }
            }
        }
        prop_assert_eq!(answers.next(), None, "more answers than questions");
        Ok(())
    });
    outcome.unwrap();
    scene.end();
}
