//! The store in its plainest form: the model that every backend is tested against.
//!
//! Nothing is compact, nothing is fast, and nothing leaves before it must: what it says is what
//! the contract says. One rounding is shared with the embedded store: how long an entry is kept
//! (at most a tenth longer than asked).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use mpp_engine::question::{
    Answer, Block, Counted, DISTINCT_MAX, Effect, History, IdentityKind, Key, Lesson, Moment,
    Question, STRIKES_KEEP_MS, Shelf, Subject,
};
use mpp_hub::store::{BlockRow, Counts, Health, Later, Store, StoreError};

use crate::moments::{class_of, keep_of};
use crate::tables::decayed;

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
    events: BTreeMap<Key, Vec<(u64, u64)>>,
    members: BTreeMap<Key, Vec<(u64, u64)>>,
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
        (now_ms < moment.at_ms.saturating_add(*keep_ms)).then_some(*moment)
    }

    fn used(&self, key: Key, per_ms: u64, now_ms: u64) -> Counted {
        let events = self.events.get(&key).map(Vec::as_slice).unwrap_or_default();
        let within = |(at_ms, amount): &&(u64, u64)| *amount > 0 && now_ms < at_ms + per_ms;
        Counted {
            granted: true,
            used: events.iter().filter(within).map(|(_, amount)| amount).sum(),
            frees_at_ms: events.iter().find(within).map_or(0, |(at_ms, _)| at_ms + per_ms),
        }
    }

    fn answer(&mut self, now_ms: u64, question: &Question) -> Answer {
        match *question {
            Question::Since { shelf, key } => Answer::Since(self.moment(shelf, key, now_ms)),
            Question::Blocked { kind, key } => {
                let block = self.blocks.get(&(kind, key)).map(|(_, block)| *block);
                Answer::Blocked(block.filter(|block| now_ms < block.until_ms))
            }
            Question::Count { key, per_ms, amount } => {
                if amount > 0 {
                    self.events.entry(key).or_default().push((now_ms, u64::from(amount)));
                }
                Answer::Counted(self.used(key, per_ms, now_ms))
            }
            Question::Reserve { key, per_ms, amount, limit } => {
                let used = self.used(key, per_ms, now_ms);
                if used.used + u64::from(amount) > limit {
                    return Answer::Counted(Counted { granted: false, ..used });
                }
                self.events.entry(key).or_default().push((now_ms, u64::from(amount)));
                Answer::Counted(self.used(key, per_ms, now_ms))
            }
            Question::Distinct { key, member, per_ms } => {
                let members = self.members.entry(key).or_default();
                members.retain(|(other, at_ms)| *other != member && now_ms < at_ms + per_ms);
                if members.len() < DISTINCT_MAX {
                    members.push((member, now_ms));
                }
                let frees_at_ms = members.iter().map(|(_, at_ms)| at_ms + per_ms).min();
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
            Effect::Remember { shelf, key, keep_ms, again } => {
                if *again || self.moment(*shelf, *key, now_ms).is_none() {
                    let keep_ms = keep_of(class_of(*keep_ms));
                    let moment = Moment { at_ms: now_ms, tries: 0 };
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
                let held = before.filter(|block| now_ms < block.until_ms);
                let remembered = before.filter(|block| now_ms < block.until_ms + STRIKES_KEEP_MS);
                let strikes = match (held, remembered) {
                    (Some(held), _) => held.strikes,
                    (None, Some(ended)) => ended.strikes + 1,
                    (None, None) => 0,
                };
                let until_ms =
                    (now_ms + new.lasts_ms(strikes)).max(held.map_or(0, |block| block.until_ms));
                let block = Block { until_ms, since_ms: now_ms, strikes, reason: new.reason };
                self.blocks.insert(place, (new.subject.clone(), block));
            }
            Effect::Unblock { kind, key } => {
                self.blocks.remove(&(*kind, *key));
            }
            Effect::GiveBack { key, at_ms, amount } => {
                let events = self.events.entry(*key).or_default();
                if let Some((_, held)) = events.iter_mut().find(|(at, _)| *at >= *at_ms) {
                    *held = held.saturating_sub(u64::from(*amount));
                }
            }
            Effect::Observe { key, lesson, weight } => {
                let (history, at_ms) = self.histories.entry(*key).or_default();
                *history = decayed(*history, *at_ms, now_ms);
                *at_ms = now_ms;
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
        let held = state.blocks.iter().filter(|(_, (_, block))| now_ms < block.until_ms);
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

    fn expire(&self, _: u64) -> u64 {
        0
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
