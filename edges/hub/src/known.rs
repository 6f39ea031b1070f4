//! What the store was asked for a made-up transaction, as people and programs read it.

use mpp_engine::question::{Answer, Question, Shelf};
use mpp_operations::ask::Known;

/// A question with its answer.
pub(crate) fn known(question: &Question, answer: &Answer, now_ms: u64) -> Known {
    match (question, answer) {
        (Question::Since { shelf, .. }, Answer::Since(moment)) => Known::Remembered {
            shelf: shelf_name(*shelf).to_owned(),
            age_ms: moment.map(|moment| now_ms.saturating_sub(moment.at_ms)),
            // On the shelf of look-ups it is a mark, not a number of tries.
            tries: moment.filter(|_| *shelf != Shelf::Looked).map_or(0, |moment| moment.tries),
        },
        (Question::Blocked { kind, .. }, Answer::Blocked(block)) => Known::Block {
            identity: kind.name().to_owned(),
            left_ms: block.map(|block| block.until_ms.saturating_sub(now_ms)),
            reason: block.map(|block| block.reason.name().to_owned()),
        },
        (Question::Reserve { limit, .. }, Answer::Counted(counted)) => {
            Known::Count { used: counted.used, limit: Some(*limit) }
        }
        (Question::Distinct { .. }, Answer::Counted(counted)) => {
            Known::Different { used: counted.used }
        }
        (_, Answer::Counted(counted)) => Known::Count { used: counted.used, limit: None },
        (_, Answer::History(history)) => {
            Known::History { clean: history.clean, spam: history.spam, bad: history.bad }
        }
        (_, Answer::Since(_) | Answer::Blocked(_) | Answer::Unavailable) => Known::Unavailable,
    }
}

fn shelf_name(shelf: Shelf) -> &'static str {
    match shelf {
        Shelf::Greylisted => "greylisted",
        Shelf::Proven => "proven",
        Shelf::Correspondent => "written to first",
        Shelf::Fault => "faults",
        Shelf::Looked => "looked up",
        Shelf::Delivered => "delivered already",
    }
}
