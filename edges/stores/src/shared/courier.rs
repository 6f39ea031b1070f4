//! How questions and answers go between threads: many with one call.
//!
//! Waking a task of another thread's runtime is a system call each time. So a thread whose decisions
//! wait has a courier, a task of its own runtime: the thread that talks to the server hands it all that
//! a batch has answered, and calls it once. The other way it rings once for all that its thread has
//! asked, when that has nothing else to do.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use mpp_engine::question::Answer;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::yield_now;

use super::{Line, lock};

/// Rounds of the event loop that a bell waits at the most while there is always more to do.
const ROUNDS_MAX: u32 = 8;

thread_local! {
    static OWN: RefCell<Option<Arc<Courier>>> = const { RefCell::new(None) };
}

/// One thread's courier.
#[derive(Debug, Default)]
pub(super) struct Courier {
    /// Who is to be woken.
    to_wake: Mutex<Vec<Waker>>,
    /// Who is to hear of it when this thread has nothing else to do.
    bells: Mutex<Vec<Arc<Line>>>,
    /// How often this thread has asked.
    asked: AtomicU64,
    /// The courier's own task.
    own: Mutex<Option<Waker>>,
    /// Its runtime has ended.
    is_gone: AtomicBool,
}

impl Courier {
    /// The courier of this thread, if its runtime has no other threads: else tasks move about.
    fn of_this_thread() -> Option<Arc<Self>> {
        let handle = Handle::try_current().ok()?;
        if handle.runtime_flavor() != RuntimeFlavor::CurrentThread {
            return None;
        }
        OWN.with_borrow_mut(|own| {
            if let Some(courier) = own.as_ref().filter(|it| !it.is_gone.load(Ordering::Acquire)) {
                return Some(Arc::clone(courier));
            }
            let courier = Arc::new(Self::default());
            handle.spawn(Arc::clone(&courier).go_round(Leaving(Arc::clone(&courier))));
            *own = Some(Arc::clone(&courier));
            Some(courier)
        })
    }

    /// Sends it on its round.
    fn call(&self) {
        if let Some(own) = lock(&self.own).take() {
            own.wake();
        }
    }

    /// The courier's task, for as long as its runtime lives.
    async fn go_round(self: Arc<Self>, _leaving: Leaving) {
        loop {
            poll_fn(|context| self.poll_work(context)).await;
            self.wake_all();
            self.ring().await;
        }
    }

    fn poll_work(&self, context: &mut Context<'_>) -> Poll<()> {
        *lock(&self.own) = Some(context.waker().clone());
        let has_work = !lock(&self.to_wake).is_empty() || !lock(&self.bells).is_empty();
        if has_work { Poll::Ready(()) } else { Poll::Pending }
    }

    fn wake_all(&self) {
        let to_wake = std::mem::take(&mut *lock(&self.to_wake));
        // On their own thread that is no system call.
        to_wake.into_iter().for_each(Waker::wake);
    }

    /// Rings when a round of the event loop has brought nothing new, or after some rounds.
    async fn ring(&self) {
        for _ in 0..ROUNDS_MAX {
            if lock(&self.bells).is_empty() {
                return;
            }
            let before = self.asked.load(Ordering::Relaxed);
            // Behind all that is ready, and what the event loop finds then.
            yield_now().await;
            let has_more = !lock(&self.to_wake).is_empty();
            self.wake_all();
            if !has_more && self.asked.load(Ordering::Relaxed) == before {
                break;
            }
        }
        for line in std::mem::take(&mut *lock(&self.bells)) {
            line.ring();
        }
    }
}

/// Says that the courier's runtime has ended, when that drops its task.
struct Leaving(Arc<Courier>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.is_gone.store(true, Ordering::Release);
    }
}

/// Rings as soon as this thread has done what is ready: what it asks until then goes in one batch.
pub(super) fn ring_when_idle(line: &Arc<Line>) {
    let Some(courier) = Courier::of_this_thread() else {
        line.ring();
        return;
    };
    courier.asked.fetch_add(1, Ordering::Relaxed);
    let mut bells = lock(&courier.bells);
    if bells.iter().any(|known| Arc::ptr_eq(known, line)) {
        return;
    }
    bells.push(Arc::clone(line));
    drop(bells);
    courier.call();
}

/// Couriers with something to carry.
#[derive(Debug, Default)]
pub(super) struct Couriers(Vec<Arc<Courier>>);

impl Couriers {
    fn hand(&mut self, courier: &Arc<Courier>, waker: Waker) {
        lock(&courier.to_wake).push(waker);
        if !self.0.iter().any(|known| Arc::ptr_eq(known, courier)) {
            self.0.push(Arc::clone(courier));
        }
    }

    /// Sends all on their rounds.
    pub(super) fn call(self) {
        for courier in self.0 {
            courier.call();
        }
    }
}

/// What asker and answerer share.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    courier: Option<Arc<Courier>>,
}

#[derive(Debug, Default)]
struct State {
    answers: Option<Vec<Answer>>,
    is_over: bool,
    waker: Option<Waker>,
}

/// Who has asked, as the answerer knows him. Dropped, he goes on without an answer.
#[derive(Debug)]
pub(super) struct Asker(Arc<Slot>);

/// The answers that somebody waits for; nothing if he is to go on without them.
#[derive(Debug)]
pub(super) struct Reply(Arc<Slot>);

/// A question's two ends.
pub(super) fn channel() -> (Asker, Reply) {
    let slot = Arc::new(Slot { courier: Courier::of_this_thread(), ..Slot::default() });
    (Asker(Arc::clone(&slot)), Reply(slot))
}

impl Asker {
    /// Answers. The asker hears of it when the couriers are called.
    pub(super) fn send(self, answers: Vec<Answer>, couriers: &mut Couriers) {
        let waker = {
            let mut state = lock(&self.0.state);
            state.answers = Some(answers);
            state.is_over = true;
            state.waker.take()
        };
        let courier = self.0.courier.as_ref().filter(|it| !it.is_gone.load(Ordering::Acquire));
        match (waker, courier) {
            (Some(waker), Some(courier)) => couriers.hand(courier, waker),
            (Some(waker), None) => waker.wake(),
            (None, _) => {}
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        let waker = {
            let mut state = lock(&self.0.state);
            state.is_over = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Future for Reply {
    type Output = Option<Vec<Answer>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = lock(&self.0.state);
        if state.is_over {
            return Poll::Ready(state.answers.take());
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn all_who_wait_are_answered_or_let_go() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (all, replies): (Vec<Asker>, Vec<Reply>) =
            runtime.block_on(async { (0..100).map(|_| channel()).unzip() });
        let sender = std::thread::spawn(move || {
            let mut couriers = Couriers::default();
            for (number, asker) in all.into_iter().enumerate() {
                std::thread::sleep(Duration::from_micros(200));
                if number % 3 > 0 {
                    asker.send(vec![Answer::Unavailable; number], &mut couriers);
                }
            }
            couriers.call();
        });
        runtime.block_on(async {
            let mut tasks = Vec::new();
            for (number, reply) in replies.into_iter().enumerate() {
                tasks.push((number, tokio::spawn(reply)));
            }
            for (number, task) in tasks {
                let answered = task.await.unwrap().map(|answers| answers.len());
                assert_eq!(answered, (number % 3 > 0).then_some(number));
            }
        });
        sender.join().unwrap();
    }
}
