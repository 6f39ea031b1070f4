//! The contract of a store, held against every backend.
//!
//! The cases say in words what must hold; the property compares random histories, restarts
//! included, with the model. A new backend is one line in [`backends`].

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers as well"
)]

use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Waker};

use mpp_engine::question::{
    Answer, Block, BlockReason, Counted, DISTINCT_MAX, Effect, HISTORY_HALF_LIFE_MS, HISTORY_LEAST,
    History, IdentityKind, Key, Lesson, Moment, NewBlock, Question, STRIKES_KEEP_MS, Shelf,
    Subject,
};
use mpp_hub::store::{Health, Later, Store};
use mpp_stores::embedded::{self, EmbeddedStore, Options};
use mpp_stores::memory::MemoryStore;
use proptest::prelude::*;
use tempfile::TempDir;

const T0: u64 = 1_795_528_230_007;
const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;
const SEED: u64 = 77;

/// A way to keep a store between two openings.
trait Backend {
    fn open(&self) -> Arc<dyn Store>;

    /// Brings what is kept into its settled form, if the backend has one.
    fn compact(&self) {}
}

impl<S: Store + 'static> Backend for Arc<S> {
    fn open(&self) -> Arc<dyn Store> {
        self.clone()
    }
}

/// Opened anew from the disk each time.
struct OnDisk {
    directory: TempDir,
    store: Mutex<Weak<EmbeddedStore>>,
}

impl OnDisk {
    fn new() -> Self {
        Self { directory: TempDir::new().unwrap(), store: Mutex::default() }
    }
}

impl Backend for OnDisk {
    fn open(&self) -> Arc<dyn Store> {
        let options = Options { seed: Some(SEED), ..Options::default() };
        let store = embedded::open(&self.directory.path().join("store"), &options).unwrap();
        *self.store.lock().unwrap() = Arc::downgrade(&store);
        store
    }

    fn compact(&self) {
        let store = self.store.lock().unwrap().upgrade();
        EmbeddedStore::compact(&store.unwrap()).unwrap();
    }
}

fn backends() -> Vec<(&'static str, Box<dyn Backend>)> {
    vec![
        ("the model", Box::new(Arc::new(MemoryStore::new(SEED)))),
        ("embedded, in memory", Box::new(EmbeddedStore::in_memory(SEED))),
        ("embedded, on disk", Box::new(OnDisk::new())),
    ]
}

/// Runs a case on every backend; `again` gives the store after a restart.
fn on_all(case: impl Fn(&mut Session<'_>)) {
    for (name, backend) in &backends() {
        let mut session = Session { name, backend: &**backend, store: backend.open(), now_ms: T0 };
        case(&mut session);
    }
}

/// Waits for a store that does not answer at once.
fn wait_for(mut later: Later<'_>) {
    let mut context = Context::from_waker(Waker::noop());
    while later.as_mut().poll(&mut context).is_pending() {
        std::thread::yield_now();
    }
}

struct Session<'b> {
    name: &'b str,
    backend: &'b dyn Backend,
    store: Arc<dyn Store>,
    now_ms: u64,
}

impl Session<'_> {
    fn ask(&self, questions: &[Question]) -> Vec<Answer> {
        let mut answers = vec![Answer::Unavailable];
        let later = self.store.ask(self.now_ms, questions, &mut answers);
        later.into_iter().for_each(wait_for);
        assert_eq!(answers.len(), questions.len());
        answers
    }

    fn answer(&self, question: Question) -> Answer {
        self.ask(&[question])[0]
    }

    fn perform(&self, effect: Effect) {
        self.store.perform(self.now_ms, &[effect]);
    }

    fn since(&self, shelf: Shelf, key: Key) -> Option<Moment> {
        match self.answer(Question::Since { shelf, key }) {
            Answer::Since(moment) => moment,
            other => panic!("{other:?} from {}", self.name),
        }
    }

    fn counted(&self, question: Question) -> Counted {
        match self.answer(question) {
            Answer::Counted(counted) => counted,
            other => panic!("{other:?} from {}", self.name),
        }
    }

    fn used(&self, key: Key, per_ms: u64) -> u64 {
        self.counted(Question::Count { key, per_ms, amount: 0 }).used
    }

    fn blocked(&self, kind: IdentityKind, key: Key) -> Option<Block> {
        match self.answer(Question::Blocked { kind, key }) {
            Answer::Blocked(block) => block,
            other => panic!("{other:?} from {}", self.name),
        }
    }

    fn history(&self, key: Key) -> History {
        match self.answer(Question::History { key }) {
            Answer::History(history) => history,
            other => panic!("{other:?} from {}", self.name),
        }
    }

    fn restart(&mut self) {
        self.store.settle().unwrap();
        let gone = std::mem::replace(&mut self.store, Arc::new(MemoryStore::new(0)));
        drop(gone);
        self.store = self.backend.open();
    }

    /// A whole round over all that is held.
    fn expire(&self) -> u64 {
        (0..201).map(|_| self.store.expire(self.now_ms)).sum()
    }
}

fn remember(key: Key, keep_ms: u64, again: bool) -> Effect {
    Effect::Remember { shelf: Shelf::Greylisted, key, keep_ms, again, mark: 0 }
}

fn block(key: Key, for_ms: u64, grow: f32, up_to_ms: u64) -> NewBlock {
    let subject = Subject::Address("192.0.2.7".parse().unwrap());
    let (kind, reason) = (IdentityKind::Client, BlockReason::Trap);
    NewBlock { kind, key, subject, reason, for_ms, grow, up_to_ms }
}

/// Keys are hashes: a store may rely on their first 50 bits to differ.
fn key_of(number: u64) -> Key {
    Key(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

const GREY: Shelf = Shelf::Greylisted;

#[test]
fn what_is_remembered_is_known_until_it_runs_out() {
    on_all(|it| {
        for key in [Key(0), key_of(1), Key(u64::MAX)] {
            assert_eq!(it.since(GREY, key), None);
            it.perform(remember(key, HOUR, false));
            let known = Some(Moment { at_ms: T0, tries: 0 });
            assert_eq!(it.since(GREY, key), known, "{}", it.name);
            assert_eq!(it.since(Shelf::Proven, key), None, "shelves are apart");
        }
        it.restart();
        it.now_ms = T0 + HOUR - 1;
        assert!(it.since(GREY, key_of(0)).is_some());
        it.now_ms = T0 + HOUR + HOUR / 10;
        assert_eq!(it.since(GREY, key_of(0)), None, "{}", it.name);
        it.now_ms = T0;
        it.perform(Effect::Forget { shelf: GREY, key: key_of(1) });
        assert_eq!(it.since(GREY, key_of(1)), None);
    });
}

#[test]
fn remembering_again_keeps_the_time_unless_told_otherwise() {
    on_all(|it| {
        it.perform(remember(key_of(9), HOUR, false));
        it.now_ms += 60 * SECOND;
        it.perform(remember(key_of(9), HOUR, false));
        assert_eq!(it.since(GREY, key_of(9)).unwrap().at_ms, T0);
        it.perform(remember(key_of(9), HOUR, true));
        assert_eq!(it.since(GREY, key_of(9)).unwrap().at_ms, T0 + 60 * SECOND);
        it.now_ms += 2 * HOUR;
        it.perform(remember(key_of(9), HOUR, false));
        assert_eq!(it.since(GREY, key_of(9)).unwrap().at_ms, it.now_ms, "what ran out is new");
    });
}

#[test]
fn early_tries_are_counted_up_to_fifteen() {
    on_all(|it| {
        it.perform(Effect::TooEarly { key: key_of(4) });
        assert_eq!(it.since(GREY, key_of(4)), None, "it is not made by that");
        it.perform(remember(key_of(4), DAY, false));
        for tries in 1..=20_u8 {
            it.now_ms += 1;
            it.perform(Effect::TooEarly { key: key_of(4) });
            let known = Some(Moment { at_ms: T0, tries: tries.min(15) });
            assert_eq!(it.since(GREY, key_of(4)), known, "{}", it.name);
        }
        it.restart();
        assert_eq!(it.since(GREY, key_of(4)).unwrap().tries, 15);
    });
}

#[test]
fn a_count_slides_and_a_reserve_never_passes_its_limit() {
    on_all(|it| {
        let reserve =
            |amount| Question::Reserve { key: key_of(3), per_ms: HOUR, amount, limit: 10 };
        let first = it.counted(reserve(6));
        assert_eq!(first, Counted { granted: true, used: 6, frees_at_ms: T0 + HOUR });
        it.now_ms += HOUR / 2;
        let second = it.counted(reserve(5));
        assert_eq!(second, Counted { granted: false, used: 6, frees_at_ms: T0 + HOUR });
        assert!(it.counted(reserve(4)).granted);
        it.restart();
        assert_eq!(it.used(key_of(3), HOUR), 10, "{}", it.name);
        it.now_ms = T0 + HOUR;
        assert_eq!(it.used(key_of(3), HOUR), 4);
        it.perform(Effect::GiveBack { key: key_of(3), at_ms: T0 + HOUR / 2, amount: 3 });
        it.perform(Effect::GiveBack { key: key_of(3), at_ms: T0, amount: 3 });
        assert_eq!(it.used(key_of(3), HOUR), 1, "{}", it.name);
        assert_eq!(it.used(key_of(5), HOUR), 0);
    });
}

#[test]
fn looking_at_a_count_changes_nothing() {
    on_all(|it| {
        let look = Question::Reserve { key: key_of(3), per_ms: HOUR, amount: 0, limit: 0 };
        assert_eq!(it.counted(look), Counted { granted: true, used: 0, frees_at_ms: 0 });
        assert_eq!(it.store.counts().tallies, 0, "{}", it.name);
    });
}

#[test]
fn questions_of_one_trip_see_what_those_before_them_counted() {
    on_all(|it| {
        let count = Question::Count { key: key_of(8), per_ms: HOUR, amount: 1 };
        let used = |answer: &Answer| match answer {
            Answer::Counted(counted) => counted.used,
            other => panic!("{other:?}"),
        };
        let answers = it.ask(&[count, count, Question::History { key: key_of(8) }, count]);
        assert_eq!((used(&answers[0]), used(&answers[1]), used(&answers[3])), (1, 2, 3));
    });
}

#[test]
fn a_set_tells_how_many_different_members_it_has() {
    on_all(|it| {
        let distinct = |member| Question::Distinct { key: key_of(6), member, per_ms: HOUR };
        assert_eq!(it.counted(distinct(1)).used, 1);
        assert_eq!(it.counted(distinct(1)).used, 1);
        it.now_ms += HOUR / 2;
        let both = it.counted(distinct(2));
        assert_eq!(both, Counted { granted: true, used: 2, frees_at_ms: T0 + HOUR });
        it.restart();
        it.now_ms = T0 + HOUR;
        assert_eq!(it.counted(distinct(3)).used, 2, "{}: the first has left", it.name);
        for member in 0..200 {
            it.counted(distinct(member));
        }
        assert_eq!(it.counted(distinct(7)).used, DISTINCT_MAX as u64);
    });
}

#[test]
fn a_block_holds_to_its_end_and_the_next_one_longer() {
    on_all(|it| {
        let (kind, key) = (IdentityKind::Client, key_of(11));
        let new = block(key, HOUR, 2.0, 3 * HOUR);
        it.perform(Effect::Block(new.clone()));
        let first = it.blocked(kind, key).unwrap();
        assert_eq!((first.until_ms, first.strikes), (T0 + HOUR, 0), "{}", it.name);
        assert_eq!(it.blocked(IdentityKind::Network, key), None);
        it.now_ms += HOUR / 2;
        it.perform(Effect::Block(new.clone()));
        let longer = it.blocked(kind, key).unwrap();
        assert_eq!((longer.until_ms, longer.strikes), (it.now_ms + HOUR, 0), "not a new one");
        it.restart();
        it.now_ms = longer.until_ms - 1;
        assert!(it.blocked(kind, key).is_some());
        it.now_ms = longer.until_ms;
        assert_eq!(it.blocked(kind, key), None, "{}", it.name);
        it.expire();
        it.perform(Effect::Block(new.clone()));
        let second = it.blocked(kind, key).unwrap();
        assert_eq!((second.until_ms, second.strikes), (it.now_ms + 2 * HOUR, 1), "{}", it.name);
        it.now_ms = second.until_ms + STRIKES_KEEP_MS;
        it.perform(Effect::Block(new.clone()));
        assert_eq!(it.blocked(kind, key).unwrap().strikes, 0, "forgotten by then");
        it.perform(Effect::Unblock { kind, key });
        assert_eq!(it.blocked(kind, key), None);
    });
}

#[test]
fn blocks_are_listed_soonest_to_end_first() {
    on_all(|it| {
        for (number, hours) in [(1, 5), (2, 3), (3, 9), (4, 1)] {
            it.perform(Effect::Block(block(key_of(number), hours * HOUR, 1.0, DAY)));
        }
        it.restart();
        it.now_ms += HOUR;
        let keys = |most| -> Vec<Key> {
            it.store.blocks(it.now_ms, most).iter().map(|row| row.key).collect()
        };
        assert_eq!(keys(9), [2, 1, 3].map(key_of), "{}", it.name);
        assert_eq!(keys(1), [key_of(2)]);
        assert_eq!(it.store.blocks(it.now_ms, 1)[0].subject.to_string(), "192.0.2.7");
    });
}

#[test]
fn a_history_is_half_as_much_after_its_half_life() {
    on_all(|it| {
        for (lesson, weight) in [(Lesson::Clean, 4.0), (Lesson::Spam, 2.0), (Lesson::Bad, 1.0)] {
            it.perform(Effect::Observe { key: key_of(2), lesson, weight });
        }
        it.restart();
        it.now_ms += HISTORY_HALF_LIFE_MS;
        let half = History { clean: 2.0, spam: 1.0, bad: 0.5 };
        assert!(is_near(it.history(key_of(2)), half), "{}: {:?}", it.name, it.history(key_of(2)));
        it.now_ms += 40 * HISTORY_HALF_LIFE_MS;
        it.expire();
        assert!(is_near(it.history(key_of(2)), History::default()));
    });
}

#[test]
fn the_secret_stays_with_the_store() {
    on_all(|it| {
        assert_eq!(it.store.seed(), SEED, "{}", it.name);
        it.restart();
        it.restart();
        assert_eq!(it.store.seed(), SEED, "{}", it.name);
        assert_eq!(it.store.health(), Health::Good);
    });
}

#[test]
fn what_has_run_out_leaves() {
    on_all(|it| {
        for number in 0..500_u64 {
            let key = key_of(number);
            it.perform(remember(key, HOUR, false));
            it.perform(Effect::Observe { key, lesson: Lesson::Bad, weight: 1.0 });
            it.counted(Question::Count { key, per_ms: HOUR, amount: 1 });
        }
        assert_eq!(it.store.counts().shelves[0], 500);
        it.now_ms += 365 * DAY;
        let gone = it.expire();
        let counts = it.store.counts();
        let left = counts.shelves[0] + counts.histories + counts.tallies;
        assert_eq!(gone + left, 1_500, "{}: what leaves is counted", it.name);
    });
}

/// Weights are kept with five digits, and below a twentieth not at all.
fn is_near(one: History, other: History) -> bool {
    let near = |a: f32, b: f32| (a - b).abs() <= 0.06 + 1e-4 * a.abs().max(b.abs());
    // At the border of what is remembered at all, rounding decides.
    let weight = |history: History| history.clean + history.spam + history.bad;
    let is_border = |one, other| weight(one) == 0.0 && weight(other) < HISTORY_LEAST * 1.01;
    (near(one.clean, other.clean) && near(one.spam, other.spam) && near(one.bad, other.bad))
        || is_border(one, other)
        || is_border(other, one)
}

#[derive(Clone, Debug)]
enum Step {
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

fn steps() -> impl Strategy<Value = Vec<Step>> {
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

fn play(it: &mut Session<'_>, steps: &[Step]) -> Result<(), TestCaseError> {
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn in_memory_it_does_as_the_model_does(steps in steps()) {
        let backend = EmbeddedStore::in_memory(SEED);
        let (store, backend) = (backend.open(), &backend as &dyn Backend);
        play(&mut Session { name: "embedded, in memory", backend, store, now_ms: T0 }, &steps)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn on_disk_it_does_as_the_model_does(steps in steps()) {
        let backend = OnDisk::new();
        let (store, backend) = (backend.open(), &backend as &dyn Backend);
        play(&mut Session { name: "embedded, on disk", backend, store, now_ms: T0 }, &steps)?;
    }
}
