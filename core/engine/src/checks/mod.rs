//! The checks: one file each, one line each in [`KINDS`].
//!
//! A check is a pure function of facts and answers. To add one, write its file and add its `KIND`
//! here: configuration, log, shadow mode, `mpp check --print` and the documentation follow.

use std::fmt::Debug;
use std::sync::Arc;

use mpp_settings::Reader;

use crate::decide::{Event, Pause, Round};
use crate::facts::{Facts, Stage};
use crate::identity::Keyring;
use crate::recipients::Recipients;
use crate::verdict::Verdict;

pub mod access;
mod blame;
pub mod block;
pub mod early_talker;
pub mod greylist;
pub mod recipient;
pub(crate) mod scanning;
pub mod threshold;
pub mod trap;

/// All kinds of checks, in the order in which they are asked: cheap before dear, and greylisting
/// last, since it costs the honest most.
pub const KINDS: [&Kind; 7] = [
    &access::KIND,
    &early_talker::KIND,
    &trap::KIND,
    &block::KIND,
    &threshold::KIND,
    &recipient::KIND,
    &greylist::KIND,
];

/// One kind of check, as data.
#[derive(Debug)]
pub struct Kind {
    /// Its name in configuration, log and metrics, and of its file.
    pub name: &'static str,
    /// One sentence for people.
    pub summary: &'static str,
    /// At which stages it can judge.
    pub stages: &'static [Stage],
    /// The mode it has where nothing is said.
    pub default_mode: &'static str,
    /// Reads its settings.
    pub read: fn(&mut Reader<'_>, &Context<'_>) -> Arc<dyn Check>,
}

impl Kind {
    /// Whether it judges at a stage.
    pub fn is_at(&self, stage: Stage) -> bool {
        self.stages.contains(&stage)
    }
}

/// What the reading of settings may need besides the table.
#[derive(Debug)]
pub struct Context<'a> {
    /// Makes keys.
    pub ring: Keyring,
    /// The name of the policy.
    pub policy: &'a str,
    /// The recipients of the configuration.
    pub recipients: &'a Arc<Recipients>,
    /// The names of the scanners that there are.
    pub scanners: &'a [Arc<str>],
}

/// Whether a check acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is not asked.
    Off,
    /// It is asked, counted and logged, and never acts.
    Shadow,
    /// It acts.
    Enforce,
}

impl Mode {
    /// All modes with their names.
    pub const ALL: [(&'static str, Self); 3] =
        [("off", Self::Off), ("shadow", Self::Shadow), ("enforce", Self::Enforce)];
}

/// A check with its settings, in a policy.
#[derive(Clone, Debug)]
pub struct Armed {
    /// What kind.
    pub kind: &'static Kind,
    /// Whether it acts.
    pub mode: Mode,
    /// The check.
    pub check: Arc<dyn Check>,
}

/// One pure rule. It may run several times for one decision, so it keeps no state of its own.
pub trait Check: Send + Sync + Debug {
    /// Judges a transaction; `None` is no opinion. A check that needs several answers asks for all
    /// of them before its first `?`, so that one trip answers them.
    ///
    /// # Errors
    /// An answer is missing; only `?` on a method of [`Round`] raises this.
    fn judge(&self, facts: &Facts<'_>, round: &mut Round<'_>) -> Result<Option<Verdict>, Pause>;

    /// Draws conclusions from something that was learnt of a transaction.
    ///
    /// # Errors
    /// As [`Check::judge`].
    fn learn(&self, facts: &Facts<'_>, event: Event, round: &mut Round<'_>) -> Result<(), Pause> {
        let _ = (facts, event, round);
        Ok(())
    }
}
