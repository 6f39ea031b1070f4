//! How answers reach those who wait for them: many with one call.
//!
//! Waking a task of another thread's runtime is a system call each time. So a thread whose decisions
//! wait has a courier, a task of its own runtime: the thread that talks to the server hands it all that
//! a batch has answered, and calls it once.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use mpp_engine::question::Answer;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::lock;

thread_local! {
    static OWN: RefCell<Option<Arc<Courier>>> = const { RefCell::new(None) };
}

/// One thread's courier.
#[derive(Debug, Default)]
pub(super) struct Courier {
    /// Who is to be woken.
    to_wake: Mutex<Vec<Waker>>,
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
            handle.spawn(Round(Arc::clone(&courier)));
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
}

/// The courier's task, for as long as its runtime lives.
struct Round(Arc<Courier>);

impl Future for Round {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        *lock(&self.0.own) = Some(context.waker().clone());
        let to_wake = std::mem::take(&mut *lock(&self.0.to_wake));
        // On their own thread that is no system call.
        to_wake.into_iter().for_each(Waker::wake);
        Poll::Pending
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        self.0.is_gone.store(true, Ordering::Release);
    }
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
