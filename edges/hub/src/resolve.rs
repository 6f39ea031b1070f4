//! Which policy holds. Nearly always the configuration says; where a policy is for a group that a
//! directory knows, what is kept of it is asked first, and the directory if nothing is.

use std::sync::Arc;
use std::time::Duration;

use mpp_config::Configuration;
use mpp_engine::directory::{Found, Kept, LookUp};
use mpp_engine::facts::Facts;
use mpp_engine::policy::Policy;
use mpp_engine::question::{Answer, Question, Shelf};
use tokio::time::{Instant, timeout_at};

use crate::directories::Texts;
use crate::hub::{Desk, Live};
use crate::settle::Bench;
use crate::store::Store;

/// How often memberships are asked about at the most; once is enough.
const ROUNDS_MAX: u32 = 3;

/// What a decision is made with.
pub(crate) async fn bench<'l>(
    (live, store): (&'l Live, &'l dyn Store),
    facts: &Facts<'l>,
    now_ms: u64,
    desk: &mut Desk,
) -> Bench<'l> {
    let Configuration { ring, policies, groups, server, .. } = &live.configuration;
    let deadline = Duration::from_millis(server.deadline_ms);
    let texts = Texts::of(facts, groups);
    let directories = &live.directories;
    let members = &mut desk.members;
    members.answers.clear();
    let mut end = None;
    let mut rounds = 0;
    let policy: &'l Arc<Policy> = loop {
        members.missing.clear();
        let policy = policies.resolve(facts, *ring, members);
        rounds += 1;
        if members.missing.is_empty() || rounds > ROUNDS_MAX {
            break policy;
        }
        let end = *end.get_or_insert_with(|| Instant::now() + deadline);
        let kept = Asking { live, store, texts: &texts, now_ms, end };
        kept.answer(&members.missing, &mut members.answers).await;
    };
    Bench { store, policy, ring: *ring, now_ms, deadline, directories, texts, end }
}

/// Answers what is asked about memberships.
struct Asking<'a> {
    live: &'a Live,
    store: &'a dyn Store,
    texts: &'a Texts<'a>,
    now_ms: u64,
    end: Instant,
}

impl Asking<'_> {
    async fn answer(&self, missing: &[LookUp], answers: &mut Vec<(LookUp, bool)>) {
        let directories = &self.live.directories;
        let questions: Vec<Question> = missing
            .iter()
            .map(|look_up| Question::Since { shelf: Shelf::Looked, key: look_up.key })
            .collect();
        let mut kept = Vec::new();
        if let Some(later) = self.store.ask(self.now_ms, &questions, &mut kept) {
            // Late is as good as nothing kept.
            let _ = timeout_at(self.end, later).await;
        }
        kept.resize(missing.len(), Answer::Unavailable);
        let (mut open, mut refresh) = (Vec::new(), Vec::new());
        for (look_up, kept) in missing.iter().zip(kept) {
            match self.judge(look_up, kept) {
                Kept::Holds(found, wants_refresh) => {
                    answers.push((*look_up, found == Found::Yes));
                    refresh.extend(wants_refresh.then_some(*look_up));
                }
                Kept::RanOut(was_member) => open.push((*look_up, was_member)),
            }
        }
        directories.refresh(&refresh, self.texts);
        if open.is_empty() {
            return;
        }
        let look_ups: Vec<LookUp> = open.iter().map(|(look_up, _)| *look_up).collect();
        let mut found = Vec::new();
        directories.find(&look_ups, self.texts, self.end, &mut found).await;
        for ((look_up, was_member), found) in open.into_iter().zip(found) {
            answers.push((look_up, found == Found::Yes || found == Found::NotNow && was_member));
        }
    }

    fn judge(&self, look_up: &LookUp, kept: Answer) -> Kept {
        let sources = self.live.configuration.recipients.sources();
        let source = sources.get(usize::from(look_up.source));
        let Some(source) = source else { return Kept::RanOut(false) };
        let kept = match kept {
            Answer::Since(Some(moment)) => Found::of(moment, self.now_ms),
            _ => None,
        };
        source.lifetimes.judge(kept)
    }
}
