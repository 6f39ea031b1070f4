//! Early talkers: clients that speak before they are greeted.
//!
//! RFC 5321 section 4.3.1 has the client wait for the greeting. Who does not wait does not read
//! either: a program that pours out its commands and leaves. Only a door that owns the connection
//! can tell, and it holds its greeting back to find out.

use std::sync::Arc;

use mpp_settings::Reader;

use super::{Check, Kind};
use crate::decide::{Pause, Round, Value};
use crate::facts::{Facts, Stage};
use crate::verdict::{Action, Cause, Verdict};

/// The check as data.
pub const KIND: Kind = Kind {
    name: "early_talker",
    summary: "Turn away clients that speak before the greeting",
    stages: &[Stage::Connect],
    default_mode: "enforce",
    read: |table, _| Arc::new(EarlyTalker::read(table)),
};

#[derive(Debug)]
struct EarlyTalker {
    then: Action,
}

impl EarlyTalker {
    fn read(table: &mut Reader<'_>) -> Self {
        const WORDS: [(&str, Action); 3] = [
            ("defer", Action::Defer),
            ("reject", Action::Reject),
            ("disconnect", Action::Disconnect),
        ];
        Self { then: table.choice("then", "reject", &WORDS).unwrap_or(Action::Reject) }
    }
}

impl Check for EarlyTalker {
    fn judge(&self, facts: &Facts<'_>, round: &mut Round<'_>) -> Result<Option<Verdict>, Pause> {
        if !facts.is_early || facts.is_spared || round.is_allowed() {
            return Ok(None);
        }
        round.remark("spoke", Value::Word("early"));
        Ok(Some(Verdict::new(self.then, Cause::EarlyTalker)))
    }
}
