//! What only doors that pass mail on need: refusals of their own, and what became of a recipient or
//! a message at the next hop.

use mpp_engine::decide::{Decision, Remark, Value};
use mpp_engine::edits::Edits;
use mpp_engine::verdict::Verdict;

use crate::facts::facts;
use crate::hub::{Asked, Desk, Entry, Hub, Judged, edits, give_back, write_reply};
use crate::resolve;
use crate::statistics::Counted;

impl Hub {
    /// Refuses what a door has to refuse by itself (relaying, too many connections), so that it is
    /// counted, logged and explained as every refusal. Nothing is learnt of it.
    pub fn refuse(
        &self,
        asked: &Asked<'_>,
        (check, verdict): (&'static str, Verdict),
        desk: &mut Desk,
    ) -> Judged {
        self.conclude(asked, (check, verdict), Vec::new(), desk)
    }

    /// The same of whatever was concluded, with what is to be said of it to people.
    pub fn conclude(
        &self,
        asked: &Asked<'_>,
        (check, verdict): (&'static str, Verdict),
        remarks: Vec<Remark>,
        desk: &mut Desk,
    ) -> Judged {
        let live = self.live();
        let now_ms = self.now_ms();
        let mut lower = std::mem::take(&mut desk.lower);
        let facts = facts(&live.configuration, asked, &mut lower, &mut desk.scratch);
        let policy = live.configuration.policies.default_policy();
        desk.case.clear();
        desk.case.remarks = remarks;
        let decision = Decision { verdict, check };
        let id = self.new_id(now_ms);
        let reply = write_reply(&decision.verdict, id, desk);
        self.statistics().count(Counted {
            now_ms,
            policy: &policy.name,
            stage: asked.stage,
            bytes: asked.size_bytes,
            check,
            action: verdict.action,
            is_repeat: false,
            is_marked: remarks_say_marked(&desk.case.remarks),
            shadow: None,
        });
        let entry =
            Entry { asked, facts: &facts, policy, decision: &decision, shadow: None, trips: 0 };
        self.write_line(desk, &entry, (id, now_ms));
        desk.lower = lower;
        Judged { decision, reply, edits: None, id, scan: None, held_by: None }
    }

    /// What is to be done to a message whose text begins, for a door that has passed it on by the time
    /// it is judged: as if it is let through, since otherwise nobody gets it. The judgement at its
    /// end has the id that is told here.
    pub async fn editing(&self, asked: &Asked<'_>, desk: &mut Desk) -> Option<Edits> {
        let live = self.live();
        if !live.configuration.policies.needs().is_any() {
            return None;
        }
        let now_ms = self.now_ms();
        let mut lower = std::mem::take(&mut desk.lower);
        let facts = facts(&live.configuration, asked, &mut lower, &mut desk.scratch);
        let bench = resolve::bench((&live, self.store()), &facts, now_ms, desk).await;
        let id = self.new_id(now_ms);
        let decision = Decision { verdict: Verdict::ACCEPT, check: "none" };
        let edits = edits(&facts, bench.policy, &decision, id);
        desk.lower = lower;
        desk.id = edits.is_some().then_some(id);
        edits
    }

    /// The next hop has refused what was judged last on this desk, a recipient or the message: what
    /// it reserved is given back.
    pub fn take_back(&self, instance: &str, desk: &mut Desk) {
        let held = std::mem::take(&mut desk.held);
        if held.is_empty() {
            return;
        }
        // Of a message that was judged nothing is open any more.
        self.transactions().take_back(self.transaction(instance), &held);
        let mut effects = Vec::new();
        give_back(&held, &mut effects);
        self.store().perform(self.now_ms(), &effects);
    }

    /// The next hop has taken the message and calls it so: whoever sees it behind that queue sees
    /// what was counted here.
    pub fn queued(&self, queue_id: &str) {
        let ring = self.live().configuration.ring;
        let tie = crate::ties::queue_tie(ring, queue_id);
        self.transactions().answered(tie, true, self.now_ms());
    }
}

/// Whether a message was delivered otherwise than it came.
fn remarks_say_marked(remarks: &[Remark]) -> bool {
    remarks.iter().any(|remark| remark.what == "fate" && remark.value != Value::Word("deliver"))
}
