//! What each step stopped of all that came, and what was left for scanners to look into.

use mpp_engine::facts::Stage;
use serde_json::{Value, json};

/// The steps, in their order.
const STEPS: [&str; 7] = ["CONNECT", "HELO", "MAIL", "RCPT", "DATA", "END-OF-MESSAGE", "scanner"];

/// Counts of one day of one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Funnel {
    /// What each step refused.
    stopped: [u64; STEPS.len()],
    /// Messages that were let through at their end, and their bytes.
    passed: [u64; 2],
    /// Messages that were scanned, and their bytes.
    scanned: [u64; 2],
    /// Of those: what was not delivered as it was (marked, held, thrown away, refused).
    caught: u64,
}

impl Funnel {
    /// Counts a decision at a stage.
    pub(crate) fn decided(&mut self, stage: Stage, refuses: bool, bytes: u64) {
        let step = STEPS.iter().position(|step| *step == stage.name());
        if let Some(count) = step.and_then(|step| self.stopped.get_mut(step)).filter(|_| refuses) {
            *count += 1;
        } else if stage == Stage::EndOfMessage && !refuses {
            add(&mut self.passed, bytes);
        }
    }

    /// Counts what became of a message that was scanned.
    pub(crate) fn was_scanned(&mut self, (refuses, is_caught): (bool, bool), bytes: u64) {
        add(&mut self.scanned, bytes);
        self.caught += u64::from(is_caught);
        if let Some(count) = self.stopped.last_mut().filter(|_| refuses) {
            *count += 1;
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        let pairs = self.stopped.iter_mut().zip(other.stopped);
        let pairs = pairs.chain(self.passed.iter_mut().zip(other.passed));
        for (mine, its) in pairs.chain(self.scanned.iter_mut().zip(other.scanned)) {
            *mine += its;
        }
        self.caught += other.caught;
    }

    pub(crate) fn report(&self) -> Value {
        let of = |pair: [u64; 2]| json!({ "messages": pair[0], "bytes": pair[1] });
        let steps: Vec<Value> = STEPS
            .iter()
            .zip(self.stopped)
            .map(|(step, stopped)| json!({ "step": step, "stopped": stopped }))
            .collect();
        json!({
            "steps": steps,
            "passed": of(self.passed),
            "scanned": of(self.scanned),
            "caught_by_scanners": self.caught,
        })
    }

    pub(crate) fn save(&self) -> Value {
        json!([self.stopped, self.passed, self.scanned, self.caught])
    }

    /// What [`Funnel::save`] gave; what is missing is nothing.
    pub(crate) fn load(saved: Option<&Value>) -> Self {
        let number = |place: usize, at: usize| {
            let list = saved.and_then(|saved| saved.get(place))?;
            list.get(at).and_then(Value::as_u64)
        };
        let pair = |place| [number(place, 0).unwrap_or(0), number(place, 1).unwrap_or(0)];
        let mut funnel = Self { passed: pair(1), scanned: pair(2), ..Self::default() };
        for (at, count) in funnel.stopped.iter_mut().enumerate() {
            *count = number(0, at).unwrap_or(0);
        }
        funnel.caught = saved.and_then(|saved| saved.get(3)?.as_u64()).unwrap_or(0);
        funnel
    }
}

fn add(pair: &mut [u64; 2], bytes: u64) {
    pair[0] += 1;
    pair[1] += bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_saved_and_summed() {
        let mut funnel = Funnel::default();
        funnel.decided(Stage::Connect, true, 0);
        funnel.decided(Stage::Rcpt, true, 0);
        funnel.decided(Stage::Rcpt, false, 0);
        funnel.decided(Stage::EndOfMessage, false, 1000);
        funnel.was_scanned((true, true), 1000);
        let mut twice = Funnel::load(Some(&funnel.save()));
        assert_eq!(twice, funnel);
        twice.merge(&funnel);
        let report = twice.report();
        let stopped: Vec<u64> = report["steps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|step| step["stopped"].as_u64().unwrap())
            .collect();
        assert_eq!(stopped, [2, 0, 0, 2, 0, 0, 2]);
        assert_eq!(
            (&report["passed"]["bytes"], &report["caught_by_scanners"]),
            (&json!(2000), &json!(2))
        );
        assert_eq!(Funnel::load(None), Funnel::default());
    }
}
