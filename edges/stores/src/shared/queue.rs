//! What waits for the server: questions that somebody waits for, and changes that nobody waits for.
//!
//! While the server is away the changes stay, up to a bound. What is dear is dropped last: blocks and
//! proven identities are few, first tries and counts are many and soon worth nothing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::courier::{Asker, Reply, channel};
use super::remote::Job;
use crate::record::Record;
use mpp_engine::question::{Answer, Effect, Question, Shelf};

/// Changes that wait at the most, in bytes: some half a million first tries.
const BYTES_MAX: usize = 48 << 20;
/// Of these, cheap ones.
const CHEAP_BYTES_MAX: usize = 32 << 20;
/// Questions that are worth a trip of their own.
const ENOUGH: usize = 32;
/// What a job takes beside what it holds.
const JOB_BYTES: usize = size_of::<Waiting>();

/// A job, and who waits for its answers.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) job: Job,
    pub(super) asker: Option<Asker>,
    pub(super) since: Instant,
    /// What remains to be counted if the asker goes on alone: what was granted to him here.
    afterwards: Vec<Question>,
}

impl Waiting {
    /// Lets the asker go on without the server.
    pub(super) fn release(&mut self) {
        if self.asker.take().is_some() {
            self.job.questions = std::mem::take(&mut self.afterwards);
        }
    }
}

/// Everything that waits.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Jobs that somebody waits for.
    asking: usize,
    /// What other nodes are to know of.
    pub(super) news: Vec<Record>,
    /// Changes that were dropped because too many waited.
    pub(super) dropped: u64,
    /// Blocks made or ended here of which the server has not heard yet.
    pub(super) open_blocks: usize,
}

impl Queue {
    /// Puts questions at the end.
    pub(super) fn ask(
        &mut self,
        now_ms: u64,
        questions: Vec<Question>,
        afterwards: Vec<Question>,
    ) -> Reply {
        let (asker, answers) = channel();
        let job = Job { now_ms, questions, effects: Vec::new() };
        self.asking += 1;
        self.push(Waiting { job, asker: Some(asker), since: Instant::now(), afterwards });
        answers
    }

    /// Puts changes at the end: questions that count, or effects.
    pub(super) fn change(&mut self, now_ms: u64, questions: Vec<Question>, effects: Vec<Effect>) {
        if questions.is_empty() && effects.is_empty() {
            return;
        }
        self.open_blocks += effects.iter().filter(|effect| is_block(effect)).count();
        self.push(Waiting {
            job: Job { now_ms, questions, effects },
            asker: None,
            since: Instant::now(),
            afterwards: Vec::new(),
        });
    }

    fn push(&mut self, waiting: Waiting) {
        self.bytes += bytes_of(&waiting.job);
        self.waiting.push_back(waiting);
        if self.bytes > BYTES_MAX {
            self.make_room();
        }
    }

    /// Drops the oldest of what is cheap, then the oldest of the rest.
    fn make_room(&mut self) {
        let mut too_many = self.bytes.saturating_sub(CHEAP_BYTES_MAX);
        let (before, mut kept) = (self.waiting.len(), VecDeque::new());
        for waiting in self.waiting.drain(..) {
            let is_dear = waiting.asker.is_some() || waiting.job.effects.iter().any(is_dear);
            if too_many > 0 && !is_dear {
                too_many = too_many.saturating_sub(bytes_of(&waiting.job));
            } else {
                kept.push_back(waiting);
            }
        }
        self.waiting = kept;
        let bytes = |waiting: &Waiting| bytes_of(&waiting.job);
        self.bytes = self.waiting.iter().map(bytes).sum();
        while self.bytes > BYTES_MAX
            && let Some(gone) = self.waiting.pop_front()
        {
            self.asking -= usize::from(gone.asker.is_some());
            self.bytes -= bytes_of(&gone.job);
            self.close_blocks(&gone.job);
        }
        self.dropped += (before - self.waiting.len()) as u64;
    }

    /// Takes what came first, up to so many jobs.
    pub(super) fn take(&mut self, most: usize) -> Vec<Waiting> {
        let taken: Vec<Waiting> = self.waiting.drain(..most.min(self.waiting.len())).collect();
        self.bytes -= taken.iter().map(|waiting| bytes_of(&waiting.job)).sum::<usize>();
        self.asking -= taken.iter().filter(|waiting| waiting.asker.is_some()).count();
        if self.waiting.is_empty() && self.waiting.capacity() > 1 << 16 {
            self.waiting = VecDeque::new();
        }
        taken
    }

    /// The server has heard of the blocks of a job.
    pub(super) fn close_blocks(&mut self, job: &Job) {
        let closed = job.effects.iter().filter(|effect| is_block(effect)).count();
        self.open_blocks = self.open_blocks.saturating_sub(closed);
    }

    /// Lets all who wait go on without the server. What they counted still waits to be told.
    pub(super) fn release(&mut self) {
        self.waiting.iter_mut().for_each(Waiting::release);
        (self.bytes, self.asking) = (0, 0);
        let bytes = &mut self.bytes;
        self.waiting.retain(|waiting| {
            let is_kept = !waiting.job.questions.is_empty() || !waiting.job.effects.is_empty();
            *bytes += if is_kept { bytes_of(&waiting.job) } else { 0 };
            is_kept
        });
    }

    /// How long the one has waited who has waited longest.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.waiting.iter().find(|waiting| waiting.asker.is_some()).map(|waiting| waiting.since)
    }

    /// So many wait for an answer that nothing is gained by waiting for more.
    pub(super) fn has_enough(&self) -> bool {
        self.asking >= ENOUGH
    }

    /// Whether something has waited that long.
    pub(super) fn has_waited(&self, time: Duration) -> bool {
        self.waiting.front().is_some_and(|first| first.since.elapsed() >= time)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What remains to be told of a question that was answered here.
pub(super) fn told_later(question: &Question, answer: &Answer) -> Option<Question> {
    match (*question, answer) {
        (Question::Count { amount: 0, .. } | Question::Reserve { amount: 0, .. }, _) => None,
        (Question::Count { .. } | Question::Distinct { .. }, _) => Some(*question),
        // It was granted; that others were granted more meanwhile changes nothing any more.
        (Question::Reserve { key, per_ms, amount, .. }, Answer::Counted(counted)) => {
            counted.granted.then_some(Question::Count { key, per_ms, amount })
        }
        _ => None,
    }
}

fn is_block(effect: &Effect) -> bool {
    matches!(effect, Effect::Block(_) | Effect::Unblock { .. })
}

/// Whether a shelf is one that every node keeps whole.
pub(crate) fn is_dear_shelf(shelf: Shelf) -> bool {
    matches!(shelf, Shelf::Proven | Shelf::Correspondent)
}

fn is_dear(effect: &Effect) -> bool {
    match effect {
        Effect::Block(_) | Effect::Unblock { .. } => true,
        Effect::Remember { shelf, .. } | Effect::Forget { shelf, .. } => is_dear_shelf(*shelf),
        Effect::TooEarly { .. }
        | Effect::GiveBack { .. }
        | Effect::Observe { .. }
        | Effect::Note(_) => false,
    }
}

fn bytes_of(job: &Job) -> usize {
    JOB_BYTES
        + job.questions.capacity() * size_of::<Question>()
        + job.effects.capacity() * size_of::<Effect>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mpp_engine::question::{IdentityKind, Key};

    fn first_try(number: u64) -> Effect {
        let (shelf, key) = (Shelf::Greylisted, Key(number));
        Effect::Remember { shelf, key, keep_ms: 1_000, again: false, mark: 0 }
    }

    #[test]
    fn what_waits_is_bounded_and_blocks_stay() {
        let mut queue = Queue::default();
        let unblock = Effect::Unblock { kind: IdentityKind::Client, key: Key(7) };
        queue.change(0, Vec::new(), vec![unblock.clone()]);
        for number in 0..1_000_000 {
            queue.change(0, Vec::new(), vec![first_try(number)]);
            assert!(queue.bytes() <= BYTES_MAX);
        }
        assert!(queue.dropped > 100_000);
        assert_eq!(queue.len() as u64 + queue.dropped, 1_000_001);
        let first = queue.take(1).pop().map(|waiting| waiting.job.effects);
        assert_eq!(first, Some(vec![unblock]), "the oldest, and the dearest");
        let rest = queue.len();
        assert_eq!(queue.take(usize::MAX).len(), rest);
        assert_eq!((queue.bytes(), queue.len()), (0, 0));
    }

    #[test]
    fn who_goes_on_alone_still_has_counted() {
        let mut queue = Queue::default();
        let key = Key(1);
        let since = Question::Since { shelf: Shelf::Proven, key };
        let count = Question::Count { key, per_ms: 10, amount: 1 };
        let first = queue.ask(5, vec![since, count], vec![count]);
        let second = queue.ask(5, vec![since], Vec::new());
        queue.release();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        for reply in [first, second] {
            let polled = std::pin::pin!(reply).poll(&mut context);
            assert!(matches!(polled, std::task::Poll::Ready(None)), "he goes on");
        }
        assert_eq!(queue.oldest(), None);
        let left = queue.take(9);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].job.questions, vec![count]);
        assert_eq!(queue.bytes(), 0);
    }
}
