//! Who has a message already that comes again, because others were not to be had: remembered in the
//! store, so that all nodes know it, and nobody gets it twice.

use mpp_engine::address;
use mpp_engine::question::{Answer, Effect, Key, Question, Shelf};

use crate::hub::Hub;

/// Mail is tried for so long and a little longer, in milliseconds (RFC 5321 section 4.5.4.1).
const KEEP_MS: u64 = 8 * 86_400_000;
/// What makes these keys differ from others.
const SPACE: u64 = 0xde11;

/// A message to one of its recipients, by what stays the same when it is sent again.
#[derive(Clone, Copy, Debug)]
pub struct Leg<'a> {
    /// The sender.
    pub sender: &'a str,
    /// The recipient.
    pub recipient: &'a str,
    /// A hash of all of its text; 0 for whatever text.
    pub text: u64,
}

impl Hub {
    /// Which of these were delivered lately although their messages were not taken. A store that does not
    /// answer knows of none: a message twice is better than none.
    pub async fn were_delivered(&self, legs: &[Leg<'_>]) -> Vec<bool> {
        let questions: Vec<Question> = legs
            .iter()
            .map(|leg| Question::Since { shelf: Shelf::Delivered, key: self.leg_key(leg) })
            .collect();
        let mut answers = Vec::new();
        if let Some(later) = self.store().ask(self.now_ms(), &questions, &mut answers) {
            later.await;
        }
        let mut known = answers.into_iter().map(|it| matches!(it, Answer::Since(Some(_))));
        legs.iter().map(|_| known.next().unwrap_or(false)).collect()
    }

    /// Remembers what was delivered of messages that come again.
    pub fn note_delivered(&self, legs: &[Leg<'_>]) {
        let effects: Vec<Effect> = legs
            .iter()
            .map(|leg| Effect::Remember {
                shelf: Shelf::Delivered,
                key: self.leg_key(leg),
                keep_ms: KEEP_MS,
                again: true,
                mark: 0,
            })
            .collect();
        self.store().perform(self.now_ms(), &effects);
    }

    fn leg_key(&self, leg: &Leg<'_>) -> Key {
        let ring = self.live().configuration.ring;
        let of = |text: &str| ring.text(&address::canonical(text)).max(1);
        let pair = ring.pair(of(leg.sender), of(leg.recipient));
        ring.key(SPACE, ring.pair(pair, leg.text.max(1)))
    }
}
