//! A store that several nodes share, and how a node goes on without it.
//!
//! Each node keeps a copy of its own: an embedded store that sees all that the node sees. A decision is
//! made by what the server answers, in one trip; blocks, proven identities and correspondents are
//! answered from the copy, which hears of those of other nodes within a fraction of a second. If the server does not answer in time the
//! copy's answer holds, and the node goes on alone until the server is back. What it learnt meanwhile
//! waits in a bounded queue and is told then, each batch once: the server knows the number of the last
//! batch of each node.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mpp_engine::question::{Answer, Effect, Moment, Question, Shelf};
use mpp_hub::store::{BlockRow, Counts, Health, Later, Store, StoreError};
use tokio::sync::Notify;

use self::courier::ring_when_idle;
pub(crate) use self::queue::is_dear_shelf;
use self::queue::{Queue, told_later};
use self::remote::Connector;
use self::runner::Runner;
use crate::embedded::{self, EmbeddedStore};
use crate::moments::class_of;
use crate::record::Record;

pub(crate) mod cells;
mod courier;
mod queue;
pub(crate) mod remote;
mod runner;

/// How a node uses a shared store.
#[derive(Clone, Debug)]
pub struct Options {
    /// So long a decision waits for the server at the most.
    pub deadline: Duration,
    /// Where the node's copy is kept; without a place it is in memory only.
    pub copy: Option<PathBuf>,
    /// Whether times are those of the server's clock, where this machine's differs much.
    pub follows_clock: bool,
    /// How often a piece of what has run out is dropped from the server.
    pub sweep_every: Duration,
    /// Without the server, first tries that the copy does not know of cannot be answered; else they
    /// are new.
    pub strangers_are_unavailable: bool,
    /// The secret of a new store, for tests; else it is drawn.
    pub seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deadline: Duration::from_millis(250),
            copy: None,
            follows_clock: true,
            sweep_every: Duration::from_secs(1),
            strangers_are_unavailable: false,
            seed: None,
        }
    }
}

/// Whoever wants everything to be told to the server waits so long at the most.
const SETTLE_MAX: Duration = Duration::from_secs(30);

/// A shared store, as one node sees it.
#[derive(Debug)]
pub struct SharedStore {
    line: Arc<Line>,
    copy: Arc<EmbeddedStore>,
    place: String,
    thread: Mutex<Option<JoinHandle<()>>>,
    strangers_are_unavailable: bool,
}

/// What decisions and the thread that talks to the server share.
#[derive(Debug, Default)]
pub(crate) struct Line {
    queue: Mutex<Queue>,
    wake: Notify,
    /// What waits is to go: a thread that asked has nothing else to do.
    is_rung: AtomicBool,
    /// The last batch was of many.
    is_busy: AtomicBool,
    /// The node goes on alone.
    is_away: AtomicBool,
    /// What is added to this machine's time.
    offset_ms: AtomicI64,
    /// The latest moment for which expiry was asked; 0 if done.
    sweep_ms: AtomicU64,
    swept: AtomicU64,
    /// How often something was heard of that other nodes did.
    heard: AtomicU64,
    /// Decisions that waited for the server and went on without it.
    late: AtomicU64,
    stop: AtomicBool,
    state: Mutex<State>,
    settling: Mutex<Vec<mpsc::Sender<Result<(), String>>>>,
}

/// What there is to say of the server.
#[derive(Debug, Default)]
struct State {
    counts: Counts,
    trouble: Option<(String, Instant)>,
    /// How often the server was lost, and how many changes were dropped meanwhile.
    outages: u64,
    batches: u64,
    /// What the last batch took.
    latency: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    /// The time of the store.
    fn there(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }

    /// The time of this machine; 0 means never and stays.
    fn here(&self, at_ms: u64) -> u64 {
        if at_ms == 0 {
            0
        } else {
            at_ms.saturating_add_signed(-self.offset_ms.load(Ordering::Relaxed))
        }
    }

    /// What waits is to go to the server now.
    fn ring(&self) {
        self.is_rung.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// The node goes on alone from now on.
    fn leave(&self, why: &str) {
        let mut state = lock(&self.state);
        if state.trouble.is_none() {
            state.outages += 1;
            mpp_hub::say(&format!("the shared store is away, this node goes on alone: {why}"));
        }
        let since = state.trouble.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        state.trouble = Some((why.to_owned(), since));
        drop(state);
        self.release(why);
    }

    /// Lets all go on without the server.
    fn release(&self, why: &str) {
        let mut queue = lock(&self.queue);
        self.is_away.store(true, Ordering::Release);
        queue.release();
        drop(queue);
        for settling in lock(&self.settling).drain(..) {
            // Whoever waited may have gone.
            let _ = settling.send(Err(why.to_owned()));
        }
    }

    /// The server answers again, and knows what was learnt meanwhile.
    fn come_back(&self) {
        self.is_away.store(false, Ordering::Release);
        if let Some((_, since)) = lock(&self.state).trouble.take() {
            let seconds = since.elapsed().as_secs();
            let dropped = lock(&self.queue).dropped;
            let lost = if dropped == 0 {
                String::new()
            } else {
                format!("; {dropped} changes were dropped, too many waited")
            };
            mpp_hub::say(&format!("the shared store is back after {seconds} s{lost}"));
        }
    }
}

/// Opens a shared store, or the copy of it if the server is away.
///
/// # Errors
/// Neither the server answers nor is there a copy, or the copy cannot be used.
pub(crate) fn open(
    connector: Arc<dyn Connector>,
    options: &Options,
) -> Result<Arc<SharedStore>, StoreError> {
    let place = connector.place();
    let (copy, runner) = Runner::open(connector, options)?;
    let (line, is_reached) = (Arc::clone(runner.line()), runner.is_reached());
    let thread = std::thread::Builder::new()
        .name("shared-store".into())
        .spawn(move || runner.run())
        .map_err(|error| StoreError::Unusable(format!("no thread for the store: {error}")))?;
    let store = SharedStore {
        line,
        copy,
        place,
        thread: Mutex::new(Some(thread)),
        strangers_are_unavailable: options.strangers_are_unavailable,
    };
    if is_reached && let Err(error) = store.settle() {
        // It was there a moment ago: the node begins alone, as it would go on.
        mpp_hub::say(&format!("the shared store {}: {error}", store.place));
    }
    Ok(Arc::new(store))
}

impl SharedStore {
    /// Tells the server what it does not know yet, and ends the connection. Blocks.
    pub fn close(&self) {
        if !self.line.is_away.load(Ordering::Acquire) {
            // What cannot be told stays untold: the server is away.
            let _ = self.settle();
        }
        self.line.stop.store(true, Ordering::Release);
        self.line.wake.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            // A thread that panicked has nothing left to say.
            let _ = thread.join();
        }
        self.copy.close();
    }

    /// Puts the server's answers in the place of the copy's.
    fn merge(&self, questions: &[Question], theirs: Vec<Answer>, answers: &mut [Answer]) {
        let asked = questions.iter().zip(answers.iter_mut()).filter(|(it, _)| is_remote(it));
        for ((_, answer), theirs) in asked.zip(theirs) {
            *answer = theirs;
        }
        self.to_here(answers);
    }

    /// Asks the copy once more what it alone answers: it has heard of something since.
    fn ask_copy_again(&self, now_ms: u64, questions: &[Question], answers: &mut [Answer]) {
        let own: Vec<Question> = questions.iter().copied().filter(|it| !is_remote(it)).collect();
        let mut fresh = Vec::with_capacity(own.len());
        drop(self.copy.ask(now_ms, &own, &mut fresh));
        let places = questions.iter().zip(answers).filter(|(it, _)| !is_remote(it));
        for ((_, answer), fresh) in places.zip(fresh) {
            *answer = fresh;
        }
    }

    /// Lets the copy's answers stand.
    fn answer_alone(&self, questions: &[Question], answers: &mut [Answer]) {
        self.to_here(answers);
        if self.strangers_are_unavailable {
            for (question, answer) in questions.iter().zip(answers) {
                let is_first = matches!(question, Question::Since { shelf: Shelf::Greylisted, .. });
                if is_first && *answer == Answer::Since(None) {
                    *answer = Answer::Unavailable;
                }
            }
        }
    }

    fn to_here(&self, answers: &mut [Answer]) {
        if self.line.offset_ms.load(Ordering::Relaxed) == 0 {
            return;
        }
        for answer in answers {
            match answer {
                Answer::Since(Some(moment)) => moment.at_ms = self.line.here(moment.at_ms),
                Answer::Blocked(Some(block)) => {
                    block.until_ms = self.line.here(block.until_ms);
                    block.since_ms = self.line.here(block.since_ms);
                }
                Answer::Counted(counted) => {
                    counted.frees_at_ms = self.line.here(counted.frees_at_ms);
                }
                _ => {}
            }
        }
    }
}

impl Drop for SharedStore {
    fn drop(&mut self) {
        self.close();
    }
}

/// Whether it says something of what every node keeps, besides blocks.
pub(crate) fn is_dear_moment(record: &Record) -> bool {
    match record {
        Record::Moment { shelf, .. } | Record::Forget { shelf, .. } => is_dear_shelf(*shelf),
        _ => false,
    }
}

/// Blocks, proven identities and correspondents are answered by the copy: it has all of them.
fn is_remote(question: &Question) -> bool {
    match question {
        Question::Blocked { .. } => false,
        Question::Since { shelf, .. } => !is_dear_shelf(*shelf),
        _ => true,
    }
}

impl Store for SharedStore {
    fn ask<'a>(
        &'a self,
        now_ms: u64,
        questions: &'a [Question],
        answers: &'a mut Vec<Answer>,
    ) -> Option<Later<'a>> {
        let now_ms = self.line.there(now_ms);
        let heard = self.line.heard.load(Ordering::Acquire);
        // What holds if the server does not answer, and what the copy counts for itself.
        drop(self.copy.ask(now_ms, questions, answers));
        let told = questions.iter().zip(answers.iter());
        let afterwards: Vec<Question> =
            told.filter_map(|(it, answer)| told_later(it, answer)).collect();
        let mut queue = lock(&self.line.queue);
        if self.line.is_away.load(Ordering::Acquire) {
            queue.change(now_ms, afterwards, Vec::new());
            drop(queue);
            self.answer_alone(questions, answers);
            return None;
        }
        let asked: Vec<Question> = questions.iter().copied().filter(is_remote).collect();
        if asked.is_empty() {
            drop(queue);
            self.to_here(answers);
            return None;
        }
        let theirs = queue.ask(now_ms, asked, afterwards);
        let has_enough = queue.has_enough();
        drop(queue);
        if has_enough {
            self.line.wake.notify_one();
        } else {
            ring_when_idle(&self.line);
        }
        Some(Box::pin(async move {
            if let Some(theirs) = theirs.await {
                if self.line.heard.load(Ordering::Acquire) != heard {
                    self.ask_copy_again(now_ms, questions, answers);
                }
                self.merge(questions, theirs, answers);
            } else {
                self.line.late.fetch_add(1, Ordering::Relaxed);
                self.answer_alone(questions, answers);
            }
        }))
    }

    fn perform(&self, now_ms: u64, effects: &[Effect]) {
        let now_ms = self.line.there(now_ms);
        let told: Vec<Effect> =
            effects.iter().filter(|effect| !matches!(effect, Effect::Note(_))).cloned().collect();
        if told.is_empty() {
            return;
        }
        // Under the lock: what other nodes did comes either before all of it or after.
        let mut queue = lock(&self.line.queue);
        for effect in &told {
            if let Effect::Remember { shelf, key, keep_ms, again, mark } = effect
                && is_dear_shelf(*shelf)
                && self.copy.is_news((*shelf, *key), *again, (now_ms, *keep_ms))
            {
                let moment = Moment { at_ms: now_ms, tries: (*mark).min(15) };
                queue.news.push(Record::Moment {
                    shelf: *shelf,
                    key: cells::moment_key(*shelf, *key),
                    moment,
                    class: class_of(*keep_ms),
                });
            } else if let Effect::Forget { shelf, key } = effect
                && is_dear_shelf(*shelf)
            {
                queue
                    .news
                    .push(Record::Forget { shelf: *shelf, key: cells::moment_key(*shelf, *key) });
            }
        }
        self.copy.perform(now_ms, &told);
        let is_first = queue.len() == 0;
        queue.change(now_ms, Vec::new(), told);
        drop(queue);
        // Nobody waits for it: where there is much to do it goes with the next questions, or soon
        // without any.
        if !self.line.is_busy.load(Ordering::Acquire) {
            ring_when_idle(&self.line);
        } else if is_first {
            // Whoever talks to the server had nothing to wait for.
            self.line.wake.notify_one();
        }
    }

    fn settle(&self) -> Result<(), StoreError> {
        self.copy.settle()?;
        let (settled, done) = mpsc::channel();
        lock(&self.line.settling).push(settled);
        self.line.wake.notify_one();
        match done.recv_timeout(SETTLE_MAX) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(StoreError::Unusable(why)),
            Err(_) => Err(StoreError::Unusable("the shared store does not answer".into())),
        }
    }

    fn blocks(&self, now_ms: u64, most: usize) -> Vec<BlockRow> {
        let mut rows = self.copy.blocks(self.line.there(now_ms), most);
        for row in &mut rows {
            row.block.until_ms = self.line.here(row.block.until_ms);
            row.block.since_ms = self.line.here(row.block.since_ms);
        }
        rows
    }

    fn expire(&self, now_ms: u64) -> u64 {
        let now_ms = self.line.there(now_ms);
        self.copy.expire(now_ms);
        if self.line.sweep_ms.swap(now_ms.max(1), Ordering::Relaxed) == 0 {
            self.line.wake.notify_one();
        }
        self.line.swept.swap(0, Ordering::Relaxed)
    }

    fn counts(&self) -> Counts {
        if self.line.is_away.load(Ordering::Acquire) {
            return self.copy.counts();
        }
        let copy = self.copy.counts();
        Counts { memory_bytes: copy.memory_bytes, ..lock(&self.line.state).counts }
    }

    fn health(&self) -> Health {
        match &lock(&self.line.state).trouble {
            None => self.copy.health(),
            Some((why, since)) => {
                let seconds = since.elapsed().as_secs();
                let queue = lock(&self.line.queue);
                let (waiting, dropped) = (queue.len(), queue.dropped);
                Health::Alone(format!(
                    "{} is away since {seconds} s: {why}; {waiting} changes wait for it, {dropped} \
                     were dropped",
                    self.place
                ))
            }
        }
    }

    fn seed(&self) -> u64 {
        self.copy.seed()
    }

    fn place(&self) -> String {
        self.place.clone()
    }

    fn figures(&self) -> Vec<(&'static str, u64)> {
        let (waiting, waiting_bytes, dropped) = {
            let queue = lock(&self.line.queue);
            (queue.len() as u64, queue.bytes() as u64, queue.dropped)
        };
        let state = lock(&self.line.state);
        let latency_us = u64::try_from(state.latency.as_micros()).unwrap_or(u64::MAX);
        vec![
            ("batches", state.batches),
            ("trip_us", latency_us),
            ("outages", state.outages),
            ("late", self.line.late.load(Ordering::Relaxed)),
            ("waiting", waiting),
            ("waiting_bytes", waiting_bytes),
            ("dropped", dropped),
        ]
    }
}

/// A copy in memory, or on disk.
fn open_copy(options: &Options, seed: u64) -> Result<Arc<EmbeddedStore>, StoreError> {
    match &options.copy {
        None => Ok(EmbeddedStore::in_memory(seed)),
        Some(folder) => {
            let options = embedded::Options {
                seed: Some(seed),
                set_aside_damaged: true,
                ..embedded::Options::default()
            };
            embedded::open(folder, &options)
        }
    }
}
