//! One decision: walk the checks, collect what they ask, and once it is answered, judge.
//!
//! A check that misses an answer stops with [`Pause::Unanswered`], and its question is noted. So
//! running all checks with no answers *is* the plan: the first pass collects the questions of every
//! check that can still matter, the store answers them in one trip, and the second pass decides.
//! Checks that were done in the first pass are not run again.
//!
//! What follows from facts that count against somebody (a trap, an unknown recipient, a message
//! judged spam) is worked out by [`learn`], after the reply, in the same two steps.

use std::sync::Arc;

use crate::checks::{Mode, scanning};
use crate::directory::{Found, LookUp};
use crate::facts::{Direction, Facts, Stage};
use crate::identity::Keyring;
use crate::policy::Policy;
use crate::question::{
    Answer, Block, Counted, Effect, History, IdentityKind, Key, Moment, Question, Shelf,
};
use crate::scan::Skip;
use crate::verdict::{Action, Cause, Verdict};

/// Why a check could not come to an end; raised by `?` on the methods of a [`Round`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// The question was noted and will be answered.
    Unanswered,
    /// The edge could not answer.
    Unavailable,
}

/// Something that counts for or against the identities of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It wrote to a spam trap.
    TrapHit,
    /// It wrote to a recipient who does not exist.
    UnknownRecipient,
    /// Its message was judged spam.
    Spam,
    /// Its message was judged clean.
    Clean,
    /// It passed the threshold of that number in its policy.
    OverLimit(u16),
}

impl Event {
    /// The name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::TrapHit => "trap-hit",
            Self::UnknownRecipient => "unknown-recipient",
            Self::Spam => "spam",
            Self::Clean => "clean",
            Self::OverLimit(_) => "over-limit",
        }
    }
}

/// An amount that a count holds until the transaction is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which count.
    pub key: Key,
    /// When it was added.
    pub at_ms: u64,
    /// How much.
    pub amount: u32,
}

/// A number or word that a check leaves for people who ask why.
#[derive(Clone, Debug, PartialEq)]
pub struct Remark {
    /// Which check.
    pub check: &'static str,
    /// What it is about.
    pub what: &'static str,
    /// The number or word.
    pub value: Value,
}

/// The value of a [`Remark`].
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number.
    Number(u64),
    /// A span of time in milliseconds.
    Period(u64),
    /// A share from 0 to 1.
    Share(f32),
    /// A word.
    Word(&'static str),
    /// A name out of the configuration.
    Name(Arc<str>),
}

/// The working memory of one decision, used again for the next so that nothing is allocated.
#[derive(Debug, Default)]
pub struct Case {
    /// What has been asked so far.
    pub questions: Vec<Question>,
    /// The answers, each at the place of its question.
    pub answers: Vec<Answer>,
    /// What directories are to be asked.
    pub look_ups: Vec<LookUp>,
    /// What they said, each at the place of its look-up.
    pub found: Vec<Found>,
    /// What is to be looked up again, although the decision does not wait for it.
    pub refresh: Vec<LookUp>,
    /// What follows from the decision.
    pub effects: Vec<Effect>,
    /// What was learnt while judging, for [`learn`].
    pub events: Vec<Event>,
    /// What the checks say of themselves.
    pub remarks: Vec<Remark>,
    /// What was added to counts for this request.
    pub held: Vec<Held>,
    /// The verdict of a check in shadow mode, if one had one.
    pub shadow: Option<(&'static str, Verdict)>,
    /// Why the message need not be scanned, if its policy scans and says so.
    pub unscanned: Option<Skip>,
    allowed: bool,
    settled: u64,
    /// Where the next question is likely to be: checks ask in the same order again.
    next: usize,
}

impl Case {
    /// Makes it ready for the next decision.
    pub fn clear(&mut self) {
        self.questions.clear();
        self.answers.clear();
        self.look_ups.clear();
        self.found.clear();
        self.refresh.clear();
        self.effects.clear();
        self.events.clear();
        self.remarks.clear();
        self.held.clear();
        self.shadow = None;
        self.unscanned = None;
        self.allowed = false;
        self.settled = 0;
        self.next = 0;
    }
}

/// What a pass over the checks came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The questions from this index on need answers.
    Ask(usize),
    /// The look-ups from this index on need answers. The store has none left to give.
    LookUp(usize),
    /// It is decided; effects, events and remarks are in the [`Case`].
    Done(Decision),
}

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What, and why.
    pub verdict: Verdict,
    /// The check that decided; "none" if no check had anything against it.
    pub check: &'static str,
}

/// One pass over the checks for one of them. Its methods are the whole vocabulary of a check.
#[derive(Debug)]
pub struct Round<'c> {
    /// The time of the decision, in milliseconds since 1970.
    pub now_ms: u64,
    /// Makes keys.
    pub ring: Keyring,
    /// The policy that holds.
    pub policy: &'c Policy,
    case: &'c mut Case,
    check: &'static str,
    is_shadow: bool,
}

/// Judges a transaction at its stage. Call it with an empty [`Case`], answer what it asks for, and
/// call it again with the same arguments until it is done.
pub fn decide(
    policy: &Policy,
    ring: Keyring,
    facts: &Facts<'_>,
    (now_ms, case): (u64, &mut Case),
) -> Step {
    let answered = case.answers.len();
    case.next = 0;
    let mut is_open = false;
    for (place, armed) in policy.checks.iter().enumerate() {
        let bit = 1_u64 << (place & 63);
        if case.settled & bit != 0 || armed.mode == Mode::Off || !armed.kind.is_at(facts.stage) {
            continue;
        }
        let mark = Mark::of(case);
        let is_shadow = armed.mode == Mode::Shadow;
        let mut round = Round { now_ms, ring, policy, case, check: armed.kind.name, is_shadow };
        let opinion = match armed.check.judge(facts, &mut round) {
            Err(Pause::Unanswered) => {
                // Walk on: later checks join the same trip.
                mark.rewind(case);
                is_open = true;
                continue;
            }
            Err(Pause::Unavailable) => policy.unavailable,
            Ok(opinion) => opinion,
        };
        let Some(refusal) = opinion else {
            case.settled |= bit;
            continue;
        };
        let verdict = if facts.is_queued { behind_queue(refusal) } else { Some(refusal) };
        let is_shadow = is_shadow || verdict.is_none();
        let verdict = verdict.unwrap_or(refusal);
        if is_shadow {
            case.shadow.get_or_insert((armed.kind.name, verdict));
            case.settled |= bit;
            continue;
        }
        if is_open {
            // Behind a firm verdict nothing can matter; it is judged again when all is answered.
            mark.rewind(case);
            break;
        }
        if verdict.action.refuses() {
            give_back(case);
        }
        return Step::Done(Decision { verdict, check: armed.kind.name });
    }
    is_open |= is_scan_open(policy, ring, facts, (now_ms, case));
    if is_open {
        return open_step(case, answered);
    }
    Step::Done(Decision { verdict: Verdict::ACCEPT, check: "none" })
}

/// What is left of a verdict on a message that a mail server has taken already. Nothing that was known
/// when it was taken refuses it now: it could only be sent back. What an administrator has named is held;
/// everything else passes, and is noted as what would have been.
fn behind_queue(verdict: Verdict) -> Option<Verdict> {
    match verdict.cause {
        _ if !verdict.action.refuses() => Some(verdict),
        Cause::Denied | Cause::Trap => Some(Verdict { action: Action::Hold, ..verdict }),
        _ => None,
    }
}

/// Works out whether what is let through is to be scanned; whether that needs answers first.
fn is_scan_open(
    policy: &Policy,
    ring: Keyring,
    facts: &Facts<'_>,
    (now_ms, case): (u64, &mut Case),
) -> bool {
    let Some(scanning) = policy.scanning.as_deref() else { return false };
    if facts.stage != Stage::Rcpt || scanning.mode == Mode::Off {
        return false;
    }
    let mut round = Round { now_ms, ring, policy, case, check: "scan", is_shadow: false };
    match scanning::spared(scanning, facts, &mut round) {
        Err(Pause::Unanswered) => true,
        // Who is not known is scanned.
        Err(Pause::Unavailable) => false,
        Ok(spared) => {
            case.unscanned = spared;
            false
        }
    }
}

/// Cheap before dear: directories are asked only once the store has said all it knows, which may
/// make them needless.
fn open_step(case: &Case, answered: usize) -> Step {
    if case.questions.len() > answered || case.look_ups.len() == case.found.len() {
        Step::Ask(answered)
    } else {
        Step::LookUp(case.found.len())
    }
}

/// Works out what follows from an event, for every check that cares. Used like [`decide`].
pub fn learn(
    policy: &Policy,
    ring: Keyring,
    facts: &Facts<'_>,
    event: Event,
    (now_ms, case): (u64, &mut Case),
) -> Step {
    let answered = case.answers.len();
    let mut is_open = false;
    for (place, armed) in policy.checks.iter().enumerate() {
        let bit = 1_u64 << (place & 63);
        if case.settled & bit != 0 || armed.mode == Mode::Off {
            continue;
        }
        let mark = Mark::of(case);
        let is_shadow = armed.mode == Mode::Shadow;
        let mut round = Round { now_ms, ring, policy, case, check: armed.kind.name, is_shadow };
        match armed.check.learn(facts, event, &mut round) {
            Err(Pause::Unanswered) => {
                mark.rewind(case);
                is_open = true;
            }
            Err(Pause::Unavailable) | Ok(()) => case.settled |= bit,
        }
    }
    if is_open {
        return open_step(case, answered);
    }
    Step::Done(Decision { verdict: Verdict::ACCEPT, check: "none" })
}

/// A refused request uses nothing up.
fn give_back(case: &mut Case) {
    for held in case.held.drain(..) {
        let Held { key, at_ms, amount } = held;
        case.effects.push(Effect::GiveBack { key, at_ms, amount });
    }
}

/// Where the lists of a case ended before a check ran.
struct Mark {
    effects: usize,
    events: usize,
    remarks: usize,
    held: usize,
}

impl Mark {
    fn of(case: &Case) -> Self {
        Self {
            effects: case.effects.len(),
            events: case.events.len(),
            remarks: case.remarks.len(),
            held: case.held.len(),
        }
    }

    fn rewind(&self, case: &mut Case) {
        case.effects.truncate(self.effects);
        case.events.truncate(self.events);
        case.remarks.truncate(self.remarks);
        case.held.truncate(self.held);
    }
}

impl Round<'_> {
    /// When something was noted on a shelf.
    ///
    /// # Errors
    /// Not answered yet, or not to be answered.
    pub fn since(&mut self, shelf: Shelf, key: Key) -> Result<Option<Moment>, Pause> {
        match self.ask(Question::Since { shelf, key })? {
            Answer::Since(moment) => Ok(moment),
            _ => Err(Pause::Unavailable),
        }
    }

    /// Whether an identity is blocked.
    ///
    /// # Errors
    /// Not answered yet, or not to be answered.
    pub fn blocked(&mut self, kind: IdentityKind, key: Key) -> Result<Option<Block>, Pause> {
        match self.ask(Question::Blocked { kind, key })? {
            Answer::Blocked(block) => Ok(block),
            _ => Err(Pause::Unavailable),
        }
    }

    /// Adds to a sliding count, or looks at it with amount 0.
    ///
    /// # Errors
    /// Not answered yet, or not to be answered.
    pub fn count(&mut self, key: Key, per_ms: u64, amount: u32) -> Result<Counted, Pause> {
        match self.ask(Question::Count { key, per_ms, amount })? {
            Answer::Counted(counted) => Ok(counted),
            _ => Err(Pause::Unavailable),
        }
    }

    /// Adds to a sliding count unless it would pass the limit. What was added is given back if the
    /// request is refused or the transaction abandoned.
    ///
    /// # Errors
    /// Not answered yet, or not to be answered.
    pub fn reserve(
        &mut self,
        key: Key,
        per_ms: u64,
        amount: u32,
        limit: u64,
    ) -> Result<Counted, Pause> {
        match self.ask(Question::Reserve { key, per_ms, amount, limit })? {
            Answer::Counted(counted) => {
                if counted.granted && amount > 0 {
                    self.case.held.push(Held { key, at_ms: self.now_ms, amount });
                }
                Ok(counted)
            }
            _ => Err(Pause::Unavailable),
        }
    }

    /// Adds a member to a set of different ones within a window.
    ///
    /// # Errors
    /// Not answered yet, or not to be answered.
    pub fn distinct(&mut self, key: Key, member: u64, per_ms: u64) -> Result<Counted, Pause> {
        match self.ask(Question::Distinct { key, member, per_ms })? {
            Answer::Counted(counted) => Ok(counted),
            _ => Err(Pause::Unavailable),
        }
    }

    /// What was learnt of an identity; nothing of a missing one.
    ///
    /// # Errors
    /// Not answered yet, or not to be answered.
    pub fn history(&mut self, key: Key) -> Result<History, Pause> {
        if key == Key(0) {
            return Ok(History::default());
        }
        match self.ask(Question::History { key })? {
            Answer::History(history) => Ok(history),
            _ => Err(Pause::Unavailable),
        }
    }

    /// What a directory said of somebody earlier, and how long ago, in milliseconds.
    ///
    /// # Errors
    /// Not answered yet, or not to be answered.
    pub fn looked(&mut self, key: Key) -> Result<Option<(Found, u64)>, Pause> {
        let kept = self.since(Shelf::Looked, key)?;
        Ok(kept.and_then(|kept| Found::of(kept, self.now_ms)))
    }

    /// What a directory says of somebody now.
    ///
    /// # Errors
    /// Not answered yet.
    pub fn look_up(&mut self, look_up: LookUp) -> Result<Found, Pause> {
        let asked = &mut self.case.look_ups;
        if let Some(place) = asked.iter().position(|asked| *asked == look_up) {
            return self.case.found.get(place).copied().ok_or(Pause::Unanswered);
        }
        asked.push(look_up);
        Err(Pause::Unanswered)
    }

    /// Has a directory asked again in the background, before what it said runs out.
    pub fn refresh(&mut self, look_up: LookUp) {
        if !self.case.refresh.contains(&look_up) {
            self.case.refresh.push(look_up);
        }
    }

    fn ask(&mut self, question: Question) -> Result<Answer, Pause> {
        let asked = &self.case.questions;
        let known = match asked.get(self.case.next) {
            Some(next) if *next == question => Some(self.case.next),
            _ => asked.iter().position(|asked| *asked == question),
        };
        let Some(place) = known else {
            self.case.questions.push(question);
            return Err(Pause::Unanswered);
        };
        self.case.next = place + 1;
        match self.case.answers.get(place) {
            Some(Answer::Unavailable) => Err(Pause::Unavailable),
            Some(answer) => Ok(*answer),
            None => Err(Pause::Unanswered),
        }
    }

    /// Names an effect. A check in shadow mode learns, but never blocks and never teaches others.
    pub fn effect(&mut self, effect: Effect) {
        if self.is_shadow && matches!(effect, Effect::Block(_) | Effect::Observe { .. }) {
            if matches!(effect, Effect::Block(_)) {
                self.remark("would", Value::Word("block"));
            }
            return;
        }
        self.case.effects.push(effect);
    }

    /// Names an event, for [`learn`] after the reply.
    pub fn event(&mut self, event: Event) {
        if !self.is_shadow && !self.case.events.contains(&event) {
            self.case.events.push(event);
        }
    }

    /// Leaves a number or word for people who ask why.
    pub fn remark(&mut self, what: &'static str, value: Value) {
        let check = self.check;
        self.case.remarks.push(Remark { check, what, value });
    }

    /// Spares the transaction everything that is about reputation, as an allow list does.
    pub fn allow(&mut self) {
        if !self.is_shadow {
            self.case.allowed = true;
        }
    }

    /// Whether an earlier check has spared it.
    pub fn is_allowed(&self) -> bool {
        self.case.allowed
    }

    /// The key of an identity in the name space of a direction: what is blocked as a client is not
    /// thereby blocked as a customer. `Key(0)` if the transaction has no such identity.
    pub fn identity(&self, facts: &Facts<'_>, kind: IdentityKind) -> Key {
        identity_key(self.ring, facts.direction, facts.keys.of(kind, self.ring))
    }
}

/// The key under which an identity's blocks and history are kept in one direction.
pub fn identity_key(ring: Keyring, direction: Direction, hash: u64) -> Key {
    let space = match direction {
        Direction::Inbound => 0x1b,
        Direction::Outbound => 0x0b,
    };
    ring.key(space, hash)
}

/// Whether a decision lets a recipient or message through.
pub fn lets_through(decision: &Decision) -> bool {
    matches!(decision.verdict.action, Action::Accept | Action::Hold | Action::Discard)
}
