//! The store in its plainest form: the model that every backend is tested against.
//!
//! Nothing is compact, nothing is fast, and nothing leaves before it must: what it says is what
//! the contract says. Shared with the embedded store are the roundings that every backend makes:
//! how long an entry is kept (at most a tenth longer than asked), and that an event counts until the
//! last one in the same thirty-second of its window has left.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use mpp_engine::question::{
    Answer, Block, Counted, DISTINCT_MAX, Effect, History, IdentityKind, Key, Lesson, Moment,
    Question, STRIKES_KEEP_MS, Shelf, Subject,
};
use mpp_hub::store::{BlockRow, Counts, Health, Later, Store, StoreError};

use crate::moments::{class_of, holds, keep_of};
use crate::part::decayed;
use crate::tables::{is_held, next_block};
use crate::tally::{is_of, width_of};

/// The model.
#[derive(Debug)]
pub struct MemoryStore {
    seed: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    moments: BTreeMap<(Shelf, Key), (Moment, u64)>,
    blocks: BTreeMap<(IdentityKind, Key), (Subject, Block)>,
    /// Time and amount of every event, and the window last asked for.
    events: BTreeMap<Key, Vec<(u64, u64)>>,
    windows: BTreeMap<Key, u64>,
    members: BTreeMap<Key, Vec<(u64, u64)>>,
    member_windows: BTreeMap<Key, u64>,
    histories: BTreeMap<Key, (History, u64)>,
}

impl MemoryStore {
    /// An empty one.
    pub fn new(seed: u64) -> Self {
        Self { seed, state: Mutex::default() }
    }
}

impl State {
    fn moment(&self, shelf: Shelf, key: Key, now_ms: u64) -> Option<Moment> {
        let (moment, keep_ms) = self.moments.get(&(shelf, key))?;
        holds(moment.at_ms, *keep_ms, now_ms).then_some(*moment)
    }

    /// The events of a count in order, as groups: when the last was, and their sum.
    fn groups(&self, key: Key, per_ms: u64, now_ms: u64) -> Vec<(u64, u64)> {
        let mut groups: Vec<(u64, u64)> = Vec::new();
        for (at_ms, amount) in self.events.get(&key).into_iter().flatten() {
            match groups.last_mut() {
                Some((last_ms, sum)) if *last_ms / width_of(per_ms) == at_ms / width_of(per_ms) => {
                    (*last_ms, *sum) = (*at_ms, sum.saturating_add(*amount));
                }
                _ => groups.push((*at_ms, *amount)),
            }
        }
        groups.retain(|(last_ms, sum)| *sum > 0 && holds(*last_ms, per_ms, now_ms));
        groups
    }

    fn used(&self, key: Key, per_ms: u64, now_ms: u64) -> Counted {
        let groups = self.groups(key, per_ms, now_ms);
        Counted {
            granted: true,
            used: groups.iter().fold(0, |used: u64, (_, sum)| used.saturating_add(*sum)),
            frees_at_ms: groups.first().map_or(0, |(last_ms, _)| last_ms.saturating_add(per_ms)),
        }
    }

    fn count(&mut self, key: Key, per_ms: u64, now_ms: u64, amount: u32) {
        if amount > 0 {
            let newest_ms = self.groups(key, per_ms, now_ms).last().map_or(0, |(last, _)| *last);
            let event = (now_ms.max(newest_ms), u64::from(amount));
            let groups = self.groups(key, per_ms, now_ms);
            let events = self.events.entry(key).or_default();
            // What has left the window does not come back if the clock goes back, and what is from
            // far ahead never comes to count.
            let width = width_of(per_ms);
            events.retain(|(at_ms, _)| {
                groups.iter().any(|(last_ms, _)| is_of(*last_ms, *at_ms, width))
            });
            events.push(event);
            self.windows.insert(key, per_ms);
        }
    }

    fn give_back(&mut self, key: Key, at_ms: u64, mut amount: u64) {
        let (Some(events), Some(per_ms)) = (self.events.get_mut(&key), self.windows.get(&key))
        else {
            return;
        };
        let width = width_of(*per_ms);
        let in_group = |last_ms: u64| at_ms / width == last_ms / width;
        if !events.iter().any(|(last_ms, _)| is_of(*last_ms, at_ms, width)) {
            return;
        }
        for (_, held) in events.iter_mut().filter(|(last_ms, _)| in_group(*last_ms)) {
            let taken = amount.min(*held);
            *held -= taken;
            amount -= taken;
        }
    }

    fn entries(&self) -> usize {
        self.moments.len() + self.blocks.len() + self.events.len() + self.members.len()
    }

    /// Drops what has run out, so that it does not come back with a clock that goes back.
    fn expire(&mut self, now_ms: u64) {
        let is_over = |at_ms: u64, keep_ms: u64| now_ms >= at_ms.saturating_add(keep_ms);
        let Self { moments, blocks, events, windows, members, member_windows, .. } = self;
        moments.retain(|_, (moment, keep_ms)| !is_over(moment.at_ms, *keep_ms));
        blocks.retain(|_, (_, block)| !is_over(block.until_ms, STRIKES_KEEP_MS));
        let window =
            |windows: &BTreeMap<Key, u64>, key: &Key| windows.get(key).copied().unwrap_or(0);
        events.retain(|key, events| {
            let per_ms = window(windows, key);
            events.iter().any(|(at_ms, amount)| *amount > 0 && !is_over(*at_ms, per_ms))
        });
        members.retain(|key, members| {
            let per_ms = window(member_windows, key);
            members.iter().any(|(_, at_ms)| holds(*at_ms, per_ms, now_ms))
        });
    }

    fn answer(&mut self, now_ms: u64, question: &Question) -> Answer {
        match *question {
            Question::Since { shelf, key } => Answer::Since(self.moment(shelf, key, now_ms)),
            Question::Blocked { kind, key } => {
                let block = self.blocks.get(&(kind, key)).map(|(_, block)| *block);
                Answer::Blocked(block.filter(|block| is_held(block, now_ms)))
            }
            Question::Count { key, per_ms, amount } => {
                self.count(key, per_ms, now_ms, amount);
                Answer::Counted(self.used(key, per_ms, now_ms))
            }
            Question::Reserve { key, per_ms, amount, limit } => {
                let used = self.used(key, per_ms, now_ms);
                if used.used.saturating_add(u64::from(amount)) > limit {
                    return Answer::Counted(Counted { granted: false, ..used });
                }
                self.count(key, per_ms, now_ms, amount);
                Answer::Counted(self.used(key, per_ms, now_ms))
            }
            Question::Distinct { key, member, per_ms } => {
                self.member_windows.insert(key, per_ms);
                let members = self.members.entry(key).or_default();
                members.retain(|(other, at_ms)| *other != member && holds(*at_ms, per_ms, now_ms));
                if members.len() < DISTINCT_MAX {
                    members.push((member, now_ms));
                }
                let frees_at_ms =
                    members.iter().map(|(_, at_ms)| at_ms.saturating_add(per_ms)).min();
                Answer::Counted(Counted {
                    granted: true,
                    used: members.len() as u64,
                    frees_at_ms: frees_at_ms.unwrap_or(0),
                })
            }
            Question::History { key } => {
                let known = self.histories.get(&key);
                Answer::History(known.map_or_else(History::default, |(history, at_ms)| {
                    decayed(*history, *at_ms, now_ms)
                }))
            }
        }
    }

    fn perform(&mut self, now_ms: u64, effect: &Effect) {
        match effect {
            Effect::Remember { shelf, key, keep_ms, again, mark } => {
                if *again || self.moment(*shelf, *key, now_ms).is_none() {
                    let keep_ms = keep_of(class_of(*keep_ms));
                    let moment = Moment { at_ms: now_ms, tries: (*mark).min(15) };
                    self.moments.insert((*shelf, *key), (moment, keep_ms));
                }
            }
            Effect::TooEarly { key } => {
                if self.moment(Shelf::Greylisted, *key, now_ms).is_some()
                    && let Some((moment, _)) = self.moments.get_mut(&(Shelf::Greylisted, *key))
                {
                    moment.tries = (moment.tries + 1).min(15);
                }
            }
            Effect::Forget { shelf, key } => {
                self.moments.remove(&(*shelf, *key));
            }
            Effect::Block(new) => {
                let place = (new.kind, new.key);
                let before = self.blocks.get(&place).map(|(_, block)| *block);
                let block = next_block(before, new, now_ms);
                self.blocks.insert(place, (new.subject.clone(), block));
            }
            Effect::Unblock { kind, key } => {
                self.blocks.remove(&(*kind, *key));
            }
            Effect::GiveBack { key, at_ms, amount } => {
                self.give_back(*key, *at_ms, u64::from(*amount));
            }
            Effect::Observe { key, lesson, weight } => {
                let (history, at_ms) = self.histories.entry(*key).or_default();
                *history = decayed(*history, *at_ms, now_ms);
                *at_ms = now_ms.max(*at_ms);
                match lesson {
                    Lesson::Clean => history.clean += weight,
                    Lesson::Spam => history.spam += weight,
                    Lesson::Bad => history.bad += weight,
                }
            }
            Effect::Note(_) => {}
        }
    }
}

impl Store for MemoryStore {
    fn ask<'a>(
        &'a self,
        now_ms: u64,
        questions: &'a [Question],
        answers: &'a mut Vec<Answer>,
    ) -> Option<Later<'a>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        answers.clear();
        answers.extend(questions.iter().map(|question| state.answer(now_ms, question)));
        None
    }

    fn perform(&self, now_ms: u64, effects: &[Effect]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for effect in effects {
            state.perform(now_ms, effect);
        }
    }

    fn settle(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn blocks(&self, now_ms: u64, most: usize) -> Vec<BlockRow> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let held = state.blocks.iter().filter(|(_, (_, block))| is_held(block, now_ms));
        let mut rows: Vec<BlockRow> = held
            .map(|((kind, key), (subject, block))| BlockRow {
                kind: *kind,
                key: *key,
                subject: subject.clone(),
                block: *block,
            })
            .collect();
        rows.sort_by_key(|row| (row.block.until_ms, row.key));
        rows.truncate(most);
        rows
    }

    fn expire(&self, now_ms: u64) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.entries();
        state.expire(now_ms);
        (before - state.entries()) as u64
    }

    fn counts(&self) -> Counts {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let on = |shelf: Shelf| state.moments.keys().filter(|(at, _)| *at == shelf).count() as u64;
        Counts {
            shelves: Shelf::ALL.map(on),
            blocks: state.blocks.len() as u64,
            tallies: (state.events.len() + state.members.len()) as u64,
            histories: state.histories.len() as u64,
            disk_bytes: 0,
            memory_bytes: 0,
        }
    }

    fn health(&self) -> Health {
        Health::Good
    }

    fn seed(&self) -> u64 {
        self.seed
    }
}
