//! What must hold, in words.

use mpp_engine::question::{
    Answer, BlockReason, Counted, DISTINCT_MAX, Effect, HISTORY_HALF_LIFE_MS, History,
    IdentityKind, Key, Lesson, Moment, NewBlock, Question, STRIKES_KEEP_MS, Shelf, Subject,
};
use mpp_hub::store::Health;

use crate::history::is_near;
use crate::{DAY, HOUR, SECOND, SEED, Session, T0};

/// One case.
type Case = fn(&mut Session<'_>);

/// All cases by name.
pub(crate) const ALL: &[(&str, Case)] = &[
    (
        "what is remembered is known until it runs out",
        what_is_remembered_is_known_until_it_runs_out,
    ),
    (
        "remembering again keeps the time unless told otherwise",
        remembering_again_keeps_the_time_unless_told_otherwise,
    ),
    ("early tries are counted up to fifteen", early_tries_are_counted_up_to_fifteen),
    (
        "a count slides and a reserve never passes its limit",
        a_count_slides_and_a_reserve_never_passes_its_limit,
    ),
    ("looking at a count changes nothing", looking_at_a_count_changes_nothing),
    (
        "questions of one trip see what those before them counted",
        questions_of_one_trip_see_what_those_before_them_counted,
    ),
    (
        "a set tells how many different members it has",
        a_set_tells_how_many_different_members_it_has,
    ),
    (
        "a block holds to its end and the next one longer",
        a_block_holds_to_its_end_and_the_next_one_longer,
    ),
    ("blocks are listed soonest to end first", blocks_are_listed_soonest_to_end_first),
    (
        "a history is half as much after its half life",
        a_history_is_half_as_much_after_its_half_life,
    ),
    ("the secret stays with the store", the_secret_stays_with_the_store),
    ("what has run out leaves", what_has_run_out_leaves),
];

pub(crate) fn remember(key: Key, keep_ms: u64, again: bool) -> Effect {
    Effect::Remember { shelf: Shelf::Greylisted, key, keep_ms, again, mark: 0 }
}

pub(crate) fn block(key: Key, for_ms: u64, grow: f32, up_to_ms: u64) -> NewBlock {
    let subject = Subject::Address("192.0.2.7".parse().unwrap());
    let (kind, reason) = (IdentityKind::Client, BlockReason::Trap);
    NewBlock { kind, key, subject, reason, for_ms, grow, up_to_ms }
}

/// Keys are hashes: a store may rely on their first 50 bits to differ.
pub(crate) fn key_of(number: u64) -> Key {
    Key(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

const GREY: Shelf = Shelf::Greylisted;

fn what_is_remembered_is_known_until_it_runs_out(it: &mut Session<'_>) {
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
}

fn remembering_again_keeps_the_time_unless_told_otherwise(it: &mut Session<'_>) {
    it.perform(remember(key_of(9), HOUR, false));
    it.now_ms += 60 * SECOND;
    it.perform(remember(key_of(9), HOUR, false));
    assert_eq!(it.since(GREY, key_of(9)).unwrap().at_ms, T0);
    it.perform(remember(key_of(9), HOUR, true));
    assert_eq!(it.since(GREY, key_of(9)).unwrap().at_ms, T0 + 60 * SECOND);
    it.now_ms += 2 * HOUR;
    it.perform(remember(key_of(9), HOUR, false));
    assert_eq!(it.since(GREY, key_of(9)).unwrap().at_ms, it.now_ms, "what ran out is new");
}

fn early_tries_are_counted_up_to_fifteen(it: &mut Session<'_>) {
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
}

fn a_count_slides_and_a_reserve_never_passes_its_limit(it: &mut Session<'_>) {
    let reserve = |amount| Question::Reserve { key: key_of(3), per_ms: HOUR, amount, limit: 10 };
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
}

fn looking_at_a_count_changes_nothing(it: &mut Session<'_>) {
    let look = Question::Reserve { key: key_of(3), per_ms: HOUR, amount: 0, limit: 0 };
    assert_eq!(it.counted(look), Counted { granted: true, used: 0, frees_at_ms: 0 });
    assert_eq!(it.counts().tallies, 0, "{}", it.name);
}

fn questions_of_one_trip_see_what_those_before_them_counted(it: &mut Session<'_>) {
    let count = Question::Count { key: key_of(8), per_ms: HOUR, amount: 1 };
    let used = |answer: &Answer| match answer {
        Answer::Counted(counted) => counted.used,
        other => panic!("{other:?}"),
    };
    let answers = it.ask(&[count, count, Question::History { key: key_of(8) }, count]);
    assert_eq!((used(&answers[0]), used(&answers[1]), used(&answers[3])), (1, 2, 3));
}

fn a_set_tells_how_many_different_members_it_has(it: &mut Session<'_>) {
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
}

fn a_block_holds_to_its_end_and_the_next_one_longer(it: &mut Session<'_>) {
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
}

fn blocks_are_listed_soonest_to_end_first(it: &mut Session<'_>) {
    for (number, hours) in [(1, 5), (2, 3), (3, 9), (4, 1)] {
        it.perform(Effect::Block(block(key_of(number), hours * HOUR, 1.0, DAY)));
    }
    it.restart();
    it.now_ms += HOUR;
    let keys =
        |most| -> Vec<Key> { it.store.blocks(it.now_ms, most).iter().map(|row| row.key).collect() };
    assert_eq!(keys(9), [2, 1, 3].map(key_of), "{}", it.name);
    assert_eq!(keys(1), [key_of(2)]);
    assert_eq!(it.store.blocks(it.now_ms, 1)[0].subject.to_string(), "192.0.2.7");
}

fn a_history_is_half_as_much_after_its_half_life(it: &mut Session<'_>) {
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
}

fn the_secret_stays_with_the_store(it: &mut Session<'_>) {
    assert_eq!(it.store.seed(), SEED, "{}", it.name);
    it.restart();
    it.restart();
    assert_eq!(it.store.seed(), SEED, "{}", it.name);
    assert_eq!(it.store.health(), Health::Good);
}

fn what_has_run_out_leaves(it: &mut Session<'_>) {
    for number in 0..500_u64 {
        let key = key_of(number);
        it.perform(remember(key, HOUR, false));
        it.perform(Effect::Observe { key, lesson: Lesson::Bad, weight: 1.0 });
        it.counted(Question::Count { key, per_ms: HOUR, amount: 1 });
    }
    assert_eq!(it.counts().shelves[0], 500);
    it.now_ms += 365 * DAY;
    let gone = it.expire();
    let counts = it.counts();
    let left = counts.shelves[0] + counts.histories + counts.tallies;
    assert_eq!(gone + left, 1_500, "{}: what leaves is counted", it.name);
}
