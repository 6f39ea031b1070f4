//! Judging without consequences, for `mpp ask`: nothing is counted, remembered or logged.

use mpp_engine::checks::Mode;
use mpp_engine::checks::greylist::{self, ByAddress};
use mpp_engine::decide::identity_key;
use mpp_engine::facts::Direction;
use mpp_engine::identity::parse_subject;
use mpp_engine::question::{
    Answer, BlockReason, Effect, IdentityKind, Key, Moment, NewBlock, Question, Shelf, Subject,
};
use mpp_operations::ask::Known;
use serde_json::{Value, json};

use crate::facts::facts;
use crate::hub::{Asked, Desk, Hub};
use crate::known::known;
use crate::resolve;
use crate::settle;
use crate::store::{BlockRow, Counts, Health, Later, Store, StoreError};

/// A store that only looks: what would count is asked about with amount 0.
#[derive(Clone, Copy)]
pub struct Dry<'s>(pub &'s dyn Store);

impl std::fmt::Debug for Dry<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dry")
    }
}

impl Store for Dry<'_> {
    fn ask<'a>(
        &'a self,
        now_ms: u64,
        questions: &'a [Question],
        answers: &'a mut Vec<Answer>,
    ) -> Option<Later<'a>> {
        Some(Box::pin(async move {
            let looks: Vec<Question> = questions.iter().map(|question| look(*question)).collect();
            if let Some(later) = self.0.ask(now_ms, &looks, answers) {
                later.await;
            }
            for (question, answer) in questions.iter().zip(answers.iter_mut()) {
                if let (Question::Reserve { amount, limit, .. }, Answer::Counted(counted)) =
                    (question, answer)
                {
                    let after = counted.used + u64::from(*amount);
                    counted.granted = after <= *limit;
                    if counted.granted {
                        counted.used = after;
                    }
                }
            }
        }))
    }

    fn perform(&self, _: u64, _: &[Effect]) {}

    fn settle(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn blocks(&self, now_ms: u64, most: usize) -> Vec<BlockRow> {
        self.0.blocks(now_ms, most)
    }

    fn expire(&self, _: u64) -> u64 {
        0
    }

    fn counts(&self) -> Counts {
        self.0.counts()
    }

    fn health(&self) -> Health {
        self.0.health()
    }

    fn seed(&self) -> u64 {
        self.0.seed()
    }
}

fn look(question: Question) -> Question {
    match question {
        Question::Count { key, per_ms, .. } | Question::Reserve { key, per_ms, .. } => {
            Question::Count { key, per_ms, amount: 0 }
        }
        // A set can only be asked by adding to it; who is new to it is not counted here.
        Question::Distinct { key, per_ms, .. } => Question::Count { key, per_ms, amount: 0 },
        other @ (Question::Since { .. } | Question::Blocked { .. } | Question::History { .. }) => {
            other
        }
    }
}

impl Hub {
    /// Judges what was asked and changes nothing. Returns the trace as JSON.
    pub async fn ask(&self, asked: &Asked<'_>) -> Value {
        let live = self.live();
        let configuration = &live.configuration;
        let (mut lower, mut scratch) = (String::new(), String::new());
        let facts = facts(configuration, asked, &mut lower, &mut scratch);
        let dry = Dry(self.store());
        let mut desk = Desk::default();
        let bench = resolve::bench((&live, &dry), &facts, self.now_ms(), &mut desk).await;
        let policy = bench.policy;
        let (decision, trips) =
            settle::settle(bench, &facts, &mut desk.case, &mut desk.fresh).await;
        let mut text = String::new();
        let reply = mpp_engine::reply::reply(&decision.verdict, &mut text);
        let pairs = || desk.case.questions.iter().zip(&desk.case.answers);
        let now_ms = self.now_ms();
        let known: Vec<Known> =
            pairs().map(|(question, answer)| known(question, answer, now_ms)).collect();
        // For who looks for a fault of mpp itself.
        let raw: Vec<Value> = pairs()
            .map(|(question, answer)| json!([format!("{question:?}"), format!("{answer:?}")]))
            .collect();
        json!({
            "policy": &*policy.name,
            "direction": facts.direction.name(),
            "checks": policy.checks.iter().map(|armed| json!({
                "check": armed.kind.name,
                "mode": Mode::ALL.iter().find(|(_, mode)| *mode == armed.mode).map(|(name, _)| name),
            })).collect::<Vec<_>>(),
            "check": decision.check,
            "verdict": decision.verdict.action.name(),
            "reason": decision.verdict.cause.name(),
            "reply": reply.map(|reply| format!("{} {} {text}", reply.code, reply.status)),
            "trace": crate::line::trace(&desk.case.remarks),
            "store_trips": trips,
            "known": known,
            "asked": raw,
            "looked_up": desk.case.look_ups.iter().zip(&desk.case.found).map(|(look_up, found)| {
                let station = live.directories.station(look_up.source);
                json!({
                    "directory": station.map(|station| station.name()),
                    "about": format!("{:?}", look_up.about),
                    "said": found.name(),
                })
            }).collect::<Vec<_>>(),
        })
    }

    /// The blocks that hold, as JSON.
    pub fn blocks(&self, most: usize) -> Value {
        let rows = self.store().blocks(self.now_ms(), most);
        json!(
            rows.iter()
                .map(|row| json!({
                    "kind": row.kind.name(),
                    "identity": row.subject.to_string(),
                    "reason": row.block.reason.name(),
                    "since_ms": row.block.since_ms,
                    "until_ms": row.block.until_ms,
                    "strikes": row.block.strikes,
                }))
                .collect::<Vec<_>>()
        )
    }

    /// Blocks an identity by hand.
    ///
    /// # Errors
    /// What is wrong with the words, for people.
    pub fn add_block(&self, kind: &str, text: &str, for_ms: u64) -> Result<(), String> {
        let (kind, subject, key) = self.subject(kind, text)?;
        let spared = &self.live().configuration.networks;
        if let Subject::Address(address) = &subject
            && (spared.local.contains(*address) || spared.trusted.contains(*address))
        {
            return Err(format!("{address} is a local or trusted peer, which is never blocked"));
        }
        let block = NewBlock {
            kind,
            key,
            subject,
            reason: BlockReason::Manual,
            for_ms,
            grow: 1.0,
            up_to_ms: for_ms,
        };
        self.store().perform(self.now_ms(), &[Effect::Block(block)]);
        Ok(())
    }

    /// Lifts a block.
    ///
    /// # Errors
    /// What is wrong with the words, for people.
    pub fn remove_block(&self, kind: &str, text: &str) -> Result<bool, String> {
        let now_ms = self.now_ms();
        // What the list shows is lifted by what the list shows, pools included.
        let listed =
            self.store().blocks(now_ms, usize::MAX).into_iter().find(|row| {
                row.kind.name() == kind && row.subject.to_string() == text.to_lowercase()
            });
        let (kind, key) = if let Some(row) = listed {
            (row.kind, row.key)
        } else {
            let (kind, _, key) = self.subject(kind, text)?;
            (kind, key)
        };
        let held = self.store().blocks(now_ms, usize::MAX).iter().any(|row| row.key == key);
        self.store().perform(now_ms, &[Effect::Unblock { kind, key }]);
        Ok(held)
    }

    fn subject(&self, kind: &str, text: &str) -> Result<(IdentityKind, Subject, Key), String> {
        let known = || IdentityKind::ALL.map(|(_, name)| name).join(", ");
        let kind = IdentityKind::from_name(kind)
            .ok_or_else(|| format!("`{kind}` is none of {}", known()))?;
        let subject = parse_subject(kind, text)?;
        // An account is blocked as a sender of ours, everybody else as somebody from outside.
        let direction = match kind {
            IdentityKind::SaslUser => Direction::Outbound,
            _ => Direction::Inbound,
        };
        let ring = self.live().configuration.ring;
        let key = identity_key(ring, direction, ring.subject(&subject));
        Ok((kind, subject, key))
    }
}

/// The state of greylisting for one transaction.
impl Hub {
    /// What is remembered of a triplet and of its client, as JSON.
    pub async fn greylist(&self, asked: &Asked<'_>) -> Value {
        let now_ms = self.now_ms();
        let ([triplet, prover], other) = self.greylist_keys(asked);
        let mut answers = Vec::new();
        let questions = [
            Question::Since { shelf: Shelf::Greylisted, key: triplet },
            Question::Since { shelf: Shelf::Proven, key: prover },
            Question::Since { shelf: Shelf::Greylisted, key: other.triplet },
            Question::Since { shelf: Shelf::Proven, key: other.host },
            Question::Since { shelf: Shelf::Proven, key: other.network },
        ];
        if let Some(later) = self.store().ask(now_ms, &questions, &mut answers) {
            later.await;
        }
        let found = |place: usize| match answers.get(place) {
            Some(Answer::Since(moment)) => *moment,
            _ => None,
        };
        let moment = |found: Option<Moment>| match found {
            Some(moment) => json!({
                "since_ms": moment.at_ms,
                "age_ms": now_ms.saturating_sub(moment.at_ms),
                "tries_too_early": moment.tries,
            }),
            None => Value::Null,
        };
        json!({
            "greylisted": moment(found(0)),
            "proven": moment(found(1)),
            "imported": {
                "greylisted": moment(found(2).filter(|_| other.triplet != triplet)),
                "proven": moment(found(3).filter(|_| other.host != prover).or(found(4))),
            },
        })
    }

    /// Forgets a triplet and what its client has proved. Returns what it did, for people.
    pub fn forget(&self, asked: &Asked<'_>) -> &'static str {
        let ([triplet, prover], other) = self.greylist_keys(asked);
        let effects = [
            Effect::Forget { shelf: Shelf::Greylisted, key: triplet },
            Effect::Forget { shelf: Shelf::Proven, key: prover },
            Effect::Forget { shelf: Shelf::Greylisted, key: other.triplet },
            Effect::Forget { shelf: Shelf::Proven, key: other.host },
            Effect::Forget { shelf: Shelf::Proven, key: other.network },
        ];
        self.store().perform(self.now_ms(), &effects);
        "forgotten: the next try is a first try"
    }

    fn greylist_keys(&self, asked: &Asked<'_>) -> ([Key; 2], ByAddress) {
        let live = self.live();
        let (mut lower, mut scratch) = (String::new(), String::new());
        let facts = facts(&live.configuration, asked, &mut lower, &mut scratch);
        let ring = live.configuration.ring;
        let own = [greylist::triplet_key(&facts, ring), greylist::prover_key(&facts, ring)];
        (own, ByAddress::of(&facts, ring))
    }
}
