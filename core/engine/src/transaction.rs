//! Transactions that are under way: what they have reserved, and which requests were answered.
//!
//! Postfix ties the requests of a transaction together by `instance`. It asks again when it loses
//! the connection before an answer, and it never says that a transaction was abandoned: a request
//! of another transaction on the same connection, or the end of the connection, says it.
//!
//! What a recipient uses of a limit is reserved at RCPT. It stays counted when the message is
//! accepted at END-OF-MESSAGE, and is given back when it is refused there or abandoned before. A
//! site that asks at RCPT only gives no such notice: there, recipients answered with accept count.

use std::collections::VecDeque;

use hashbrown::{HashMap, HashSet};

use crate::decide::Held;
use crate::facts::{Repeat, Reserved};

/// Answers remembered to recognise a request that is asked again.
const RECENT_MAX: usize = 1 << 15;
const _: () = assert!(RECENT_MAX.is_power_of_two(), "a place is found by its low bits");

/// How long an answer is remembered, in milliseconds: longer than Postfix tries again (twice, one
/// second apart, 100 s each at the most).
const RECENT_MS: u64 = 300_000;

/// Transactions tracked at once; beyond it the oldest counts as accepted.
pub const OPEN_MAX: usize = 100_000;

/// A transaction of which nothing was heard for so long is over, in milliseconds.
pub const OPEN_MS: u64 = 3_600_000;

/// Requests answered a moment ago, and transactions under way.
#[derive(Debug, Default)]
pub struct Transactions {
    recent: Vec<Recent>,
    open: HashMap<u64, Open>,
    order: VecDeque<(u64, u64)>,
    contexts_with_end: HashSet<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    request: u64,
    at_ms: u64,
    let_through: bool,
}

#[derive(Debug, Default)]
struct Open {
    held: Vec<Held>,
    reserved: Reserved,
    context: u64,
    at_ms: u64,
}

impl Transactions {
    /// Whether a request, by its hash, was answered a moment ago.
    pub fn repeat(&self, request: u64, now_ms: u64) -> Repeat {
        match self.slot(request).and_then(|slot| self.recent.get(slot)) {
            Some(recent)
                if recent.request == request
                    && request != 0
                    && now_ms.abs_diff(recent.at_ms) < RECENT_MS =>
            {
                if recent.let_through {
                    Repeat::LetThrough
                } else {
                    Repeat::Refused
                }
            }
            _ => Repeat::No,
        }
    }

    /// Notes the answer to a request.
    pub fn answered(&mut self, request: u64, let_through: bool, now_ms: u64) {
        if request == 0 {
            return;
        }
        if self.recent.is_empty() {
            self.recent.resize(RECENT_MAX, Recent::default());
        }
        if let Some(place) = self.slot(request).and_then(|slot| self.recent.get_mut(slot)) {
            *place = Recent { request, at_ms: now_ms, let_through };
        }
    }

    /// Forgets the answer to a request.
    pub fn forget(&mut self, request: u64) {
        let slot = self.slot(request).and_then(|slot| self.recent.get_mut(slot));
        if let Some(place) = slot.filter(|place| place.request == request) {
            *place = Recent::default();
        }
    }

    fn slot(&self, request: u64) -> Option<usize> {
        Some(usize::try_from(request).ok()? & self.recent.len().checked_sub(1)?)
    }

    /// What a transaction has reserved so far.
    pub fn reserved(&self, instance: u64) -> Reserved {
        self.open.get(&instance).map(|open| open.reserved).unwrap_or_default()
    }

    /// Keeps what a recipient of a transaction reserved until the transaction is over.
    pub fn hold(&mut self, (instance, context): (u64, u64), held: &[Held], now_ms: u64) {
        if instance == 0 || held.is_empty() {
            return;
        }
        if !self.open.contains_key(&instance) {
            self.order.push_back((now_ms, instance));
        }
        let open = self.open.entry(instance).or_default();
        open.held.extend_from_slice(held);
        open.reserved.message = true;
        open.reserved.recipients += 1;
        open.context = context;
        open.at_ms = now_ms;
        while self.order.len() > OPEN_MAX {
            if let Some((_, oldest)) = self.order.pop_front() {
                self.open.remove(&oldest);
            }
        }
    }

    /// The last recipient of a transaction was refused elsewhere: it holds nothing any more.
    pub fn take_back(&mut self, instance: u64, held: &[Held]) {
        let Some(open) = self.open.get_mut(&instance) else { return };
        for gone in held {
            if let Some(place) = open.held.iter().rposition(|held| held == gone) {
                open.held.remove(place);
            }
        }
        open.reserved.recipients = open.reserved.recipients.saturating_sub(1);
        // It was the first one, with which the message itself was counted.
        open.reserved.message &= open.reserved.recipients > 0;
    }

    /// Notes that a context (a listener's `policy_context`) asks at END-OF-MESSAGE.
    pub fn asks_at_end(&mut self, context: u64) {
        self.contexts_with_end.insert(context);
    }

    /// The transaction is over; returns what it held. To accept it is to drop that, to refuse it
    /// is to give it back.
    pub fn end(&mut self, instance: u64) -> Vec<Held> {
        self.open.remove(&instance).map(|open| open.held).unwrap_or_default()
    }

    /// The connection went on to another transaction, or was closed. Returns what is to be given
    /// back: all of it where the end would have been asked about, nothing elsewhere.
    pub fn leave(&mut self, instance: u64) -> Vec<Held> {
        let Some(open) = self.open.remove(&instance) else { return Vec::new() };
        if self.contexts_with_end.contains(&open.context) { open.held } else { Vec::new() }
    }

    /// Drops transactions that nobody will end. Returns what is to be given back.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Held> {
        let mut back = Vec::new();
        while let Some(&(at_ms, instance)) = self.order.front() {
            let last_ms = self.open.get(&instance).map_or(0, |open| open.at_ms);
            if now_ms.saturating_sub(at_ms.max(last_ms)) < OPEN_MS {
                break;
            }
            self.order.pop_front();
            back.append(&mut self.leave(instance));
        }
        back
    }

    /// How many are under way.
    pub fn count(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::Key;

    fn held(amount: u32) -> Held {
        Held { key: Key(7), at_ms: 5, amount }
    }

    #[test]
    fn a_request_is_known_again_for_a_while() {
        let mut transactions = Transactions::default();
        assert_eq!(transactions.repeat(9, 0), Repeat::No);
        transactions.answered(9, true, 1_000);
        transactions.answered(10, false, 1_000);
        assert_eq!(transactions.repeat(9, 2_000), Repeat::LetThrough);
        assert_eq!(transactions.repeat(10, 2_000), Repeat::Refused);
        assert_eq!(transactions.repeat(9, 1_000 + RECENT_MS), Repeat::No);
        assert_eq!(transactions.repeat(0, 2_000), Repeat::No, "without instance nothing repeats");
    }

    #[test]
    fn abandoned_is_given_back_only_where_the_end_is_asked() {
        let mut transactions = Transactions::default();
        transactions.hold((1, 50), &[held(1)], 0);
        assert_eq!(transactions.leave(1), []);
        transactions.asks_at_end(50);
        transactions.hold((2, 50), &[held(1)], 0);
        transactions.hold((2, 50), &[held(3)], 0);
        assert_eq!(transactions.reserved(2), Reserved { message: true, recipients: 2 });
        assert_eq!(transactions.leave(2), [held(1), held(3)]);
        assert_eq!(transactions.leave(2), []);
    }

    #[test]
    fn a_recipient_that_is_taken_back_holds_nothing() {
        let mut transactions = Transactions::default();
        transactions.hold((1, 0), &[held(1), held(3)], 0);
        transactions.take_back(1, &[held(1), held(3)]);
        assert_eq!(transactions.reserved(1), Reserved::default(), "the message neither");
        transactions.hold((1, 0), &[held(1), held(3)], 0);
        transactions.hold((1, 0), &[held(3)], 0);
        transactions.take_back(1, &[held(3)]);
        assert_eq!(transactions.reserved(1), Reserved { message: true, recipients: 1 });
        assert_eq!(transactions.end(1), [held(1), held(3)]);
    }

    #[test]
    fn nothing_is_held_for_ever() {
        let mut transactions = Transactions::default();
        transactions.asks_at_end(0);
        transactions.hold((1, 0), &[held(1)], 0);
        assert_eq!(transactions.expire(OPEN_MS - 1), []);
        assert_eq!(transactions.expire(OPEN_MS), [held(1)]);
        for instance in 1..=OPEN_MAX as u64 + 5 {
            transactions.hold((instance, 0), &[held(1)], 0);
        }
        assert_eq!(transactions.count(), OPEN_MAX);
    }
}
