//! The hub: from what was asked to what is answered, with everything that follows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use mpp_config::Configuration;
use mpp_engine::checks::Mode;
use mpp_engine::decide::{Case, Decision, Event, Held, Remark, Value, lets_through};
use mpp_engine::directory::Memberships;
use mpp_engine::edits::{Edits, Filling};
use mpp_engine::facts::{Facts, Repeat, ServerSays, Stage};
use mpp_engine::policy::Policy;
use mpp_engine::question::{Answer, Effect, Shelf};
use mpp_engine::reply::{self, Reply};
use mpp_engine::scan::{Scanning, Skip};
use mpp_engine::transaction::Transactions;
use mpp_engine::verdict::{Action, Cause, Verdict};

pub use crate::asked::Asked;
use crate::clock::Clock;
use crate::directories::{Directories, Outside};
use crate::facts::facts;
use crate::id::{Id, Ids};
use crate::last_asked::Doors;
use crate::line::{self, Line, Stamp};
use crate::log::DecisionLog;
use crate::resolve;
use crate::scanner::{OpenScanner, Scanners};
use crate::settle::{self, Bench};
use crate::statistics::{Counted, Statistics};
use crate::store::{Counts, Store};
use crate::ties::Ties;
use crate::trace::Traces;

/// What a line of the log says beyond what lies on the desk.
pub(crate) struct Entry<'a> {
    pub(crate) asked: &'a Asked<'a>,
    pub(crate) facts: &'a Facts<'a>,
    pub(crate) policy: &'a Policy,
    pub(crate) decision: &'a Decision,
    pub(crate) shadow: Option<(&'static str, Verdict)>,
    /// How often the store was asked.
    pub(crate) trips: u32,
}

/// The working memory of one decision. Whoever judges has one and uses it again and again.
#[derive(Debug, Default)]
pub struct Desk {
    pub(crate) case: Case,
    pub(crate) fresh: Vec<Answer>,
    pub(crate) lower: String,
    pub(crate) members: Memberships,
    /// What the recipient that was judged last reserved, or the message at its end.
    pub(crate) held: Vec<Held>,
    /// The id that the next judgement has, if it was told before.
    pub(crate) id: Option<Id>,
    pub(crate) scratch: String,
    stamp: Stamp,
    line: String,
    /// The text of the reply to the last judgement, its id included; empty if nothing is refused.
    pub reply: String,
}

/// What a door is to answer.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The decision.
    pub decision: Decision,
    /// Code and status if it refuses; the text is in [`Desk::reply`].
    pub reply: Option<Reply>,
    /// The id in the log.
    pub id: Id,
    /// What is to be done to the message; only at its end, and only if it is let through.
    pub edits: Option<Edits>,
    /// How the recipient's mail is scanned; only at RCPT, and only if it is let through.
    pub scan: Option<Order>,
    /// The policy, if it wants the mail held.
    pub held_by: Option<Arc<str>>,
}

/// How the mail of a recipient is scanned.
#[derive(Clone, Debug)]
pub struct Order {
    /// What his policy wants.
    pub scanning: Arc<Scanning>,
    /// The policy's name.
    pub policy: Arc<str>,
    /// Why it need not be, if so.
    pub spared: Option<Skip>,
}

/// What was learnt of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// It was spam.
    Spam,
    /// It was clean.
    Clean,
}

/// The configuration that holds.
#[derive(Debug)]
pub struct Live {
    /// Its settings.
    pub configuration: Configuration,
    /// Counts the configurations of this process, from 1.
    pub generation: u64,
    pub(crate) directories: Directories,
    /// Who looks into messages.
    pub scanners: Scanners,
}

/// What a hub is put together from.
pub struct Parts {
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// What the time is.
    pub clock: Arc<dyn Clock>,
    /// Where decisions are written down, if anywhere.
    pub log: Option<DecisionLog>,
    /// What was counted before.
    pub statistics: Statistics,
    /// How directories are asked; without, every look-up is answered "not now".
    pub outside: Option<Outside>,
    /// How scanners are asked; without, none is.
    pub scanners: Option<OpenScanner>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parts")
    }
}

/// The parts of a node that a decision needs.
pub struct Hub {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    live: ArcSwap<Live>,
    outside: Option<Outside>,
    open_scanner: Option<OpenScanner>,
    log: Option<DecisionLog>,
    ids: Ids,
    transactions: Mutex<Transactions>,
    statistics: Mutex<Statistics>,
    started_ms: u64,
    pub(crate) last_asked: Doors,
    pub(crate) traces: Arc<Traces>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    /// A hub with a configuration. Without a log nothing can be explained later.
    pub fn new(parts: Parts, configuration: Configuration) -> Self {
        let Parts { store, clock, log, statistics, outside, scanners: open_scanner } = parts;
        let directories = Directories::open(
            &configuration,
            &Directories::default(),
            outside.as_ref(),
            (&store, &clock),
        );
        let started_ms = clock.now_ms();
        let scanners =
            Scanners::open(&configuration.scanners, &Scanners::default(), open_scanner.as_ref());
        let live =
            ArcSwap::from_pointee(Live { configuration, generation: 1, directories, scanners });
        Self {
            store,
            clock,
            live,
            outside,
            open_scanner,
            log,
            ids: Ids::default(),
            started_ms,
            last_asked: Doors::default(),
            transactions: Mutex::default(),
            statistics: Mutex::new(statistics),
            traces: Arc::default(),
        }
    }

    /// The configuration that holds now.
    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Puts another configuration in place for every decision that begins from now on. Returns
    /// the old one, whose end the caller may pay for.
    pub fn replace(&self, configuration: Configuration) -> Arc<Live> {
        let before = self.live.load();
        let generation = before.generation + 1;
        let directories = Directories::open(
            &configuration,
            &before.directories,
            self.outside.as_ref(),
            (&self.store, &self.clock),
        );
        let open = self.open_scanner.as_ref();
        let scanners = Scanners::open(&configuration.scanners, &before.scanners, open);
        drop(before);
        self.live.swap(Arc::new(Live { configuration, generation, directories, scanners }))
    }

    /// The store.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// The decision log, if there is one.
    pub fn log(&self) -> Option<&DecisionLog> {
        self.log.as_ref()
    }

    /// The time.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// When it was put together, as [`Hub::now_ms`] has it.
    pub fn started_ms(&self) -> u64 {
        self.started_ms
    }

    /// The statistics.
    pub fn statistics(&self) -> MutexGuard<'_, Statistics> {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn transactions(&self) -> MutexGuard<'_, Transactions> {
        self.transactions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges what was asked, performs what follows, counts and logs it.
    pub async fn judge(&self, asked: &Asked<'_>, desk: &mut Desk) -> Judged {
        self.judge_as(asked, ServerSays::Nothing, desk).await
    }

    /// Learns that the mail server itself has refused the recipient that is asked about, since it
    /// knows no such user. That counts as if mpp had found it out; what is decided nobody is told.
    pub async fn note_refused(&self, asked: &Asked<'_>, desk: &mut Desk) {
        self.judge_as(asked, ServerSays::NoSuchUser, desk).await;
    }

    async fn judge_as(&self, asked: &Asked<'_>, says: ServerSays, desk: &mut Desk) -> Judged {
        let live = self.live.load();
        let configuration = &live.configuration;
        let now_ms = self.clock.now_ms();
        self.last_asked.note(asked, now_ms);
        let mut lower = std::mem::take(&mut desk.lower);
        let mut facts = facts(configuration, asked, &mut lower, &mut desk.scratch);
        let ties = Ties::of(&facts, asked.door, configuration);
        facts.server_says = says;
        self.recall(&ties, now_ms, &mut facts);
        let bench = resolve::bench((&live, &*self.store), &facts, now_ms, desk).await;
        let policy = bench.policy;
        desk.case.clear();
        let (decision, trips) =
            settle::settle(bench, &facts, &mut desk.case, &mut desk.fresh).await;
        if facts.is_refused() {
            self.transactions().answered(ties.request, false, now_ms);
            // Whatever it would have used of a limit: it is not taken.
            give_back(&std::mem::take(&mut desk.case.held), &mut desk.case.effects);
        } else {
            self.keep_account(&facts, &ties, (&decision, now_ms), desk);
        }
        let unscanned = desk.case.unscanned;
        self.follow_up(bench, &facts, desk).await;

        let id = desk.id.take().unwrap_or_else(|| self.ids.next(now_ms));
        let reply = write_reply(&decision.verdict, id, desk);
        if facts.is_refused() {
            desk.reply.clear();
        }
        let shadow = desk.case.shadow;
        let scan = order(&facts, policy, &decision, unscanned);
        self.statistics().count(Counted {
            now_ms,
            policy: &policy.name,
            stage: facts.stage,
            bytes: facts.size_bytes,
            check: decision.check,
            action: decision.verdict.action,
            is_repeat: facts.repeat != Repeat::No,
            is_marked: false,
            shadow: shadow.map(|(check, verdict)| (check, verdict.action)),
        });
        let entry = Entry { asked, facts: &facts, policy, decision: &decision, shadow, trips };
        self.write_line(desk, &entry, (id, now_ms));
        let edits = edits(&facts, policy, &decision, id);
        let is_held = decision.verdict.action == Action::Hold;
        let held_by = is_held.then(|| Arc::clone(&policy.name));
        desk.lower = lower;
        Judged { decision, reply, id, edits, scan, held_by }
    }

    /// What is known of the transaction from before.
    fn recall(&self, ties: &Ties, now_ms: u64, facts: &mut Facts<'_>) {
        let mut transactions = self.transactions();
        facts.repeat = transactions.repeat(ties.request, now_ms);
        if facts.repeat == Repeat::No {
            facts.repeat = transactions.repeat(ties.queued, now_ms);
        }
        if facts.repeat == Repeat::No && !facts.is_refused() {
            facts.repeat = transactions.repeat(ties.there, now_ms);
            // It is the same recipient of the same message once only.
            transactions.forget(ties.there);
        }
        if facts.repeat == Repeat::No && facts.is_refused() {
            // It may have been refused because mpp said so, at another door.
            facts.repeat = transactions.repeat(ties.unknown, now_ms);
        }
        facts.reserved = transactions.reserved(ties.instance);
        facts.has_accepted = transactions.repeat(ties.transaction, now_ms) != Repeat::No;
        facts.is_new_connection = transactions.repeat(ties.connection, now_ms) == Repeat::No;
        if facts.is_new_connection {
            transactions.answered(ties.connection, true, now_ms);
        }
    }

    /// Learns that a message was spam or clean. The transaction's attributes say whose.
    pub async fn observe(&self, asked: &Asked<'_>, observed: Observed, desk: &mut Desk) -> Id {
        let live = self.live.load();
        let configuration = &live.configuration;
        let now_ms = self.clock.now_ms();
        let mut lower = std::mem::take(&mut desk.lower);
        let facts = facts(configuration, asked, &mut lower, &mut desk.scratch);
        let bench = resolve::bench((&live, &*self.store), &facts, now_ms, desk).await;
        let policy = bench.policy;
        let (event, word) = match observed {
            Observed::Spam => (Event::Spam, "spam"),
            Observed::Clean => (Event::Clean, "clean"),
        };
        desk.case.clear();
        let remark = Remark { check: "observed", what: "verdict", value: Value::Word(word) };
        desk.case.remarks.push(remark);
        desk.case.events.push(event);
        self.follow_up(bench, &facts, desk).await;
        let id = self.ids.next(now_ms);
        desk.reply.clear();
        let decision = Decision { verdict: Verdict::ACCEPT, check: "observed" };
        let entry =
            Entry { asked, facts: &facts, policy, decision: &decision, shadow: None, trips: 0 };
        self.write_line(desk, &entry, (id, now_ms));
        desk.lower = lower;
        id
    }

    /// Performs the effects of a decision, and of what was learnt in it.
    async fn follow_up(&self, bench: Bench<'_>, facts: &Facts<'_>, desk: &mut Desk) {
        if !desk.case.refresh.is_empty() {
            // Answers that will be asked for again are asked for before they run out.
            bench.directories.refresh(&desk.case.refresh, &bench.texts);
        }
        self.perform(bench, facts, &mut desk.case);
        if desk.case.events.is_empty() {
            return;
        }
        let mut events = std::mem::take(&mut desk.case.events);
        let remarks = std::mem::take(&mut desk.case.remarks);
        let shadow = desk.case.shadow;
        let mut learnt = Vec::new();
        for event in events.drain(..) {
            desk.case.clear();
            settle::draw_conclusions(bench, facts, event, &mut desk.case, &mut desk.fresh).await;
            self.perform(bench, facts, &mut desk.case);
            learnt.append(&mut desk.case.remarks);
        }
        desk.case.clear();
        desk.case.shadow = shadow;
        desk.case.remarks = remarks;
        desk.case.remarks.append(&mut learnt);
    }

    fn perform(&self, bench: Bench<'_>, facts: &Facts<'_>, case: &mut Case) {
        if case.effects.is_empty() {
            return;
        }
        let mut for_store = false;
        let mut statistics = None;
        for effect in &case.effects {
            if let Effect::Note(note) = effect {
                let when = (bench.now_ms, &bench.policy.name);
                let statistics = statistics.get_or_insert_with(|| self.statistics());
                statistics.note(when, facts.keys.client, *note);
            } else {
                for_store = true;
            }
        }
        drop(statistics);
        if for_store {
            self.store.perform(bench.now_ms, &case.effects);
        }
        case.effects.clear();
    }

    /// Two-phase counting: what was reserved stays, waits for the end, or is given back.
    fn keep_account(
        &self,
        facts: &Facts<'_>,
        ties: &Ties,
        (decision, now_ms): (&Decision, u64),
        desk: &mut Desk,
    ) {
        let passes = lets_through(decision);
        desk.held.clear();
        let mut transactions = self.transactions();
        transactions.answered(ties.request, passes, now_ms);
        if matches!(decision.verdict.cause, Cause::UnknownRecipient | Cause::Trap) {
            transactions.answered(ties.unknown, false, now_ms);
        }
        if passes && facts.stage == Stage::Rcpt {
            transactions.answered(ties.transaction, true, now_ms);
            if facts.repeat == Repeat::No {
                transactions.answered(ties.here, true, now_ms);
            }
        }
        let mut back = Vec::new();
        if facts.stage == Stage::EndOfMessage {
            transactions.asks_at_end(ties.context);
            let held = transactions.end(ties.instance);
            if passes {
                // Whoever sees it behind the queue sees what was counted here.
                transactions.answered(ties.queued, true, now_ms);
                if transactions.repeat(ties.counted, now_ms) == Repeat::LetThrough {
                    // Reserved before it could be known by its name in the queue.
                    back = held;
                } else if !held.is_empty() {
                    transactions.answered(ties.counted, true, now_ms);
                    desk.held = held;
                }
            } else {
                back = held;
            }
        } else if passes {
            transactions.hold((ties.instance, ties.context), &desk.case.held, now_ms);
            desk.held.extend_from_slice(&desk.case.held);
        } else if facts.stage == Stage::Data {
            back = transactions.end(ties.instance);
        }
        drop(transactions);
        give_back(&back, &mut desk.case.effects);
    }

    /// Notes that whoever asks in this context asks at the end of a message too, so that what an
    /// abandoned one reserved is given back. Others are found out when they do.
    pub fn asks_at_end(&self, context: &str) {
        let context = self.live.load().configuration.ring.text(context);
        self.transactions().asks_at_end(context);
    }

    /// What [`Hub::leave`] calls the transaction of that `instance`; 0 without one.
    pub fn transaction(&self, instance: &str) -> u64 {
        self.live.load().configuration.ring.text(instance)
    }

    /// A connection has gone on to another transaction, or was closed.
    pub fn leave(&self, instance: u64) {
        let back = self.transactions().leave(instance);
        if !back.is_empty() {
            let mut effects = Vec::new();
            give_back(&back, &mut effects);
            self.store.perform(self.clock.now_ms(), &effects);
        }
    }

    /// Drops what has run out, a piece at a time; whether there was anything. To be called once a second,
    /// and soon again where there was.
    pub fn tick(&self) -> bool {
        let now_ms = self.clock.now_ms();
        let expired = self.store.expire(now_ms);
        let back = self.transactions().expire(now_ms);
        let mut effects = Vec::new();
        give_back(&back, &mut effects);
        if !effects.is_empty() {
            self.store.perform(now_ms, &effects);
        }
        self.statistics().expire(now_ms);
        expired > 0 || !effects.is_empty()
    }

    /// The slow part of housekeeping: what directories have to tell. To be called every few seconds.
    pub fn look_around(&self, counts: &Counts) {
        let kept = counts.shelves.get(Shelf::Looked as usize).copied();
        self.live.load().directories.look_around(kept.unwrap_or(0));
    }

    pub(crate) fn new_id(&self, now_ms: u64) -> Id {
        self.ids.next(now_ms)
    }

    pub(crate) fn write_line(&self, desk: &mut Desk, entry: &Entry<'_>, (id, now_ms): (Id, u64)) {
        let Some(log) = &self.log else { return };
        let Desk { case, line, stamp, reply, scratch, .. } = desk;
        scratch.clear();
        scratch.push_str(std::str::from_utf8(&id.letters()).unwrap_or_default());
        line.clear();
        let told = Line {
            id: scratch,
            now_ms,
            door: entry.asked.door,
            facts: entry.facts,
            policy: &entry.policy.name,
            decision: entry.decision,
            reply,
            shadow: entry.shadow,
            remarks: &case.remarks,
            trips: entry.trips,
            unknown: entry.asked.unknown,
        };
        line::push(&told, stamp, line);
        log.add(line.as_bytes());
    }
}

/// How the mail of a recipient is scanned, if it is let through and its policy scans.
fn order(
    facts: &Facts<'_>,
    policy: &Policy,
    decision: &Decision,
    spared: Option<Skip>,
) -> Option<Order> {
    let is_taken = matches!(decision.verdict.action, Action::Accept | Action::Hold);
    let scanning = policy.scanning.as_ref().filter(|_| facts.stage == Stage::Rcpt && is_taken)?;
    (scanning.mode != Mode::Off).then(|| Order {
        scanning: Arc::clone(scanning),
        policy: Arc::clone(&policy.name),
        spared,
    })
}

/// What is to be done to a message, if it is the end of one that is let through.
pub(crate) fn edits(
    facts: &Facts<'_>,
    policy: &Policy,
    decision: &Decision,
    id: Id,
) -> Option<Edits> {
    let action = decision.verdict.action;
    if facts.stage != Stage::EndOfMessage || !matches!(action, Action::Accept | Action::Hold) {
        return None;
    }
    let editing = policy.editing.as_ref()?;
    let letters = id.letters();
    let id = std::str::from_utf8(&letters).unwrap_or_default();
    let filling = Filling { action, client: facts.client, id, policy: &policy.name };
    Some(Edits::new(editing, &filling))
}

/// Writes the text of the reply to the desk.
pub(crate) fn write_reply(verdict: &Verdict, id: Id, desk: &mut Desk) -> Option<Reply> {
    desk.reply.clear();
    let reply = reply::reply(verdict, &mut desk.reply)?;
    desk.reply.push_str(" (");
    desk.reply.push_str(std::str::from_utf8(&id.letters()).unwrap_or_default());
    desk.reply.push(')');
    Some(reply)
}

pub(crate) fn give_back(held: &[Held], effects: &mut Vec<Effect>) {
    effects.extend(held.iter().map(|held| {
        let Held { key, at_ms, amount } = *held;
        Effect::GiveBack { key, at_ms, amount }
    }));
}
