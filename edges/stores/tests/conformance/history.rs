//! Random histories, compared with the model.

use mpp_engine::question::{
    Answer, BlockReason, Effect, HISTORY_LEAST, History, IdentityKind, Key, Lesson, NewBlock,
    Question, Shelf, Subject,
};
use mpp_hub::store::Store as _;
use mpp_stores::memory::MemoryStore;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::cases::key_of;
use crate::{Backend, DAY, HOUR, SECOND, SEED, Session, T0};

/// Weights are kept with five digits, and below a twentieth not at all.
pub(crate) fn is_near(one: History, other: History) -> bool {
    let near = |a: f32, b: f32| (a - b).abs() <= 0.06 + 1e-4 * a.abs().max(b.abs());
    // At the border of what is remembered at all, rounding decides.
    let weight = |history: History| history.clean + history.spam + history.bad;
    let is_border = |one, other| weight(one) == 0.0 && weight(other) < HISTORY_LEAST * 1.01;
    (near(one.clean, other.clean) && near(one.spam, other.spam) && near(one.bad, other.bad))
        || is_border(one, other)
        || is_border(other, one)
}

/// A piece of work.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Ask(Vec<Question>),
    Perform(Vec<Effect>),
    Later(u64),
    Earlier(u64),
    Expire,
    Compact,
    Restart,
}

fn key() -> impl Strategy<Value = Key> {
    // Few, so that histories meet; the first and the last; and neighbours within one shard.
    prop_oneof![
        prop::sample::select(vec![Key(0), Key(u64::MAX), Key(1 << 63), Key(1 << 63 | 1 << 30)]),
        (1_u64..5).prop_map(key_of),
    ]
}

fn shelf() -> impl Strategy<Value = Shelf> {
    prop::sample::select(Shelf::ALL.to_vec())
}

fn kind() -> impl Strategy<Value = IdentityKind> {
    prop::sample::select(vec![IdentityKind::Client, IdentityKind::SaslUser])
}

/// The window of a key: it does not change, as in a configuration that does not.
fn per(key: Key) -> u64 {
    [1, 40, 10_000, HOUR, DAY][usize::try_from(key.0 % 5).unwrap()]
}

fn question() -> impl Strategy<Value = Question> {
    let amount = prop_oneof![Just(0), 1_u32..4, Just(70_000)];
    prop_oneof![
        (shelf(), key()).prop_map(|(shelf, key)| Question::Since { shelf, key }),
        (kind(), key()).prop_map(|(kind, key)| Question::Blocked { kind, key }),
        (key(), amount.clone())
            .prop_map(|(key, amount)| { Question::Count { key, per_ms: per(key), amount } }),
        (key(), amount, 0_u64..12).prop_map(|(key, amount, limit)| {
            Question::Reserve { key, per_ms: per(key), amount, limit }
        }),
        (key(), 0_u64..90)
            .prop_map(|(key, member)| { Question::Distinct { key, member, per_ms: per(key) } }),
        key().prop_map(|key| Question::History { key }),
    ]
}

fn effect(now: std::ops::Range<u64>) -> impl Strategy<Value = Effect> {
    let keep = prop::sample::select(vec![SECOND, 61 * SECOND, HOUR, 2 * DAY, 35 * DAY]);
    let lesson = prop::sample::select(vec![Lesson::Clean, Lesson::Spam, Lesson::Bad]);
    let new_block =
        (kind(), key(), 1_u64..3 * HOUR, 1.0_f32..3.0).prop_map(|(kind, key, for_ms, grow)| {
            let subject = Subject::Name("someone".into());
            let (reason, up_to_ms) = (BlockReason::Rate, 5 * HOUR);
            NewBlock { kind, key, subject, reason, for_ms, grow, up_to_ms }
        });
    prop_oneof![
        3 => (shelf(), key(), keep, any::<bool>(), 0_u8..18).prop_map(
            |(shelf, key, keep_ms, again, mark)| {
            Effect::Remember { shelf, key, keep_ms, again, mark }
        }),
        2 => key().prop_map(|key| Effect::TooEarly { key }),
        1 => (shelf(), key()).prop_map(|(shelf, key)| Effect::Forget { shelf, key }),
        2 => new_block.prop_map(Effect::Block),
        1 => (kind(), key()).prop_map(|(kind, key)| Effect::Unblock { kind, key }),
        2 => (key(), now, 0_u32..5).prop_map(|(key, back, amount)| {
            // Counted back from the time at which it is performed; see `play`.
            Effect::GiveBack { key, at_ms: back, amount }
        }),
        2 => (key(), lesson, 0.1_f32..9.0).prop_map(|(key, lesson, weight)| {
            Effect::Observe { key, lesson, weight }
        }),
    ]
}

/// Work of any kind.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let later = prop_oneof![
        0_u64..60,
        0_u64..20_000,
        0_u64..2 * HOUR,
        Just(HOUR),
        0_u64..3 * DAY,
        Just(40 * DAY)
    ];
    let step = prop_oneof![
        8 => prop::collection::vec(question(), 1..5).prop_map(Step::Ask),
        8 => prop::collection::vec(effect(0..20_000), 1..4).prop_map(Step::Perform),
        6 => later.prop_map(Step::Later),
        1 => (0_u64..3_000).prop_map(Step::Earlier),
        1 => Just(Step::Expire),
        1 => Just(Step::Compact),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..80)
}

fn same(one: &Answer, other: &Answer) -> bool {
    match (one, other) {
        (Answer::History(one), Answer::History(other)) => is_near(*one, *other),
        _ => one == other,
    }
}

/// Does the same with a store and with the model.
pub(crate) fn play(it: &mut Session<'_>, steps: &[Step]) -> Result<(), TestCaseError> {
    let model = MemoryStore::new(SEED);
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Ask(questions) => {
                let mut expected = Vec::new();
                drop(model.ask(it.now_ms, questions, &mut expected));
                let got = it.ask(questions);
                for ((question, got), expected) in questions.iter().zip(&got).zip(&expected) {
                    let what = format!("{}, step {number}, {question:?}", it.name);
                    prop_assert!(same(got, expected), "{what}: {got:?}, not {expected:?}");
                }
            }
            Step::Perform(effects) => {
                let mut effects = effects.clone();
                for effect in &mut effects {
                    if let Effect::GiveBack { at_ms, .. } = effect {
                        *at_ms = it.now_ms - *at_ms;
                    }
                }
                model.perform(it.now_ms, &effects);
                it.store.perform(it.now_ms, &effects);
            }
            Step::Later(by_ms) => it.now_ms += by_ms,
            Step::Earlier(by_ms) => {
                // Whether something that has run out holds again depends on whether it was swept,
                // and after a restart on whether the files still have it.
                it.expire();
                it.backend.compact();
                model.expire(it.now_ms);
                it.now_ms -= by_ms;
            }
            Step::Expire => drop(it.expire()),
            Step::Compact => it.backend.compact(),
            Step::Restart => it.restart(),
        }
        prop_assert_eq!(it.store.blocks(it.now_ms, 5), model.blocks(it.now_ms, 5));
    }
    Ok(())
}

/// Random histories on a store of a server, each in a name space of its own.
pub(crate) fn does_as_the_model_does(
    name: &str,
    cases: u32,
    backend: impl Fn() -> Box<dyn Backend>,
) {
    let mut runner = TestRunner::new(Config { cases, ..Config::default() });
    let done = runner.run(&steps(), |steps| {
        let backend = backend();
        let store = backend.open();
        play(&mut Session { name, backend: &*backend, store, now_ms: T0 }, &steps)
    });
    done.unwrap_or_else(|error| panic!("{name}: {error}"));
}
