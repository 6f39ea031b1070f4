//! Messages that are looked into before they are answered: collected in the spool, shown to the
//! scanners, and then delivered, marked, held or refused as the policy of each recipient says.

use std::io;
use std::sync::Arc;

use mpp_engine::edits::Edits;
use mpp_engine::facts::Stage;
use mpp_engine::scan::{Class, Fate, Plan, Scanned, Scanning};
use mpp_engine::verdict::{Action, Cause, Verdict};
use mpp_hub::Observed;
use mpp_hub::quarantine::{Holding, Mark, RELEASED_FIELD};
use mpp_hub::scanner::Letter;
use mpp_hub::spool::Spooled;
use mpp_wire::header;
use mpp_wire::smtp::Reply;

use super::deliver::Group;
use super::gate::Tally;
use super::reply::{self, Answer, NO_ANSWER, NO_HOP, NOT_NOW, Own, TAKEN};
use super::rewrite::HEAD_BYTES_MAX;
use super::session::{Next, Session, asked};
use super::transaction::Transaction;
use crate::mark;
use crate::scanning::{self, Found, Named};

impl Transaction {
    /// Whether the message has to be there whole before it is passed on.
    pub(crate) fn is_spooled(&self) -> bool {
        scanning::is_spooled(&self.named)
    }
}

impl Session {
    /// The message lies in the spool: it is judged, and what follows is done before it is answered.
    pub(super) async fn end_of_spooled(&mut self) -> io::Result<Next> {
        let text = self.transaction.as_mut().and_then(|message| message.spool.take());
        let Some(text) = text.map(mpp_hub::spool::Writer::finish) else {
            return Ok(self.end_message(&NO_HOP.into()));
        };
        let (mark, released) = self.released(&text).await;
        let found = self.look_into(&text).await;
        if found.iter().any(|found| found.scanned.waits) {
            let worst = scanning::worst(&found);
            self.conclude((Action::Defer, Cause::Unavailable), &worst, Fate::Deliver);
            return Ok(self.end_message(&Own(451, "4.7.1 Cannot be scanned now").into()));
        }
        // What was queued already could only be sent back, to a sender who may be forged.
        let is_queued = !self.client.queue_id.is_empty();
        let named = self.transaction.as_ref().map_or(&[][..], |message| &message.named);
        let mut fates = scanning::fates(named, &found, is_queued);
        mark::excuse(&mut fates, (named, &found), &released);
        let is_excused = mark::is_excused(&fates, &released);
        let plan = Plan::of(&fates);
        let worst = scanning::worst(&found);
        if plan.is_rejected {
            Tally::more(&self.tally().refused);
            let cause = if worst.class == Class::Virus { Cause::Virus } else { Cause::Content };
            let refusal = self.conclude((Action::Reject, cause), &worst, Fate::Reject);
            self.learn(&found).await;
            return Ok(self.end_message(&refusal));
        }
        let held = match self.hold(&plan, &worst, &text).await {
            Ok(held) => held,
            Err(trouble) => {
                crate::warn(&format!("quarantine: {trouble}"));
                return Ok(self.end_message(&NOT_NOW.into()));
            }
        };
        let answer = self.deliver_all(&plan, (&found, &released), &text).await;
        if let (Some(id), Some(quarantine)) = (&held, &self.door.quarantine)
            && !answer.as_ref().is_some_and(Answer::is_taken)
        {
            // It comes again for all of its recipients.
            quarantine.withdraw(id).await;
        }
        let is_taken = answer.as_ref().is_some_and(Answer::is_taken);
        if let (Some(mark), Some(quarantine), true) = (&mark, &self.door.quarantine, is_taken) {
            quarantine.has_passed(mark, &released).await;
        }
        let is_only_parted = self.transaction.as_ref().is_none_or(|message| message.is_parted);
        if answer.is_some() && !is_only_parted {
            // Somebody has said already what it is.
            if !is_excused {
                self.learn(&found).await;
            }
            let action = match (plan.quarantine.is_empty(), plan == Plan::default()) {
                (_, true) => Action::Discard,
                (false, _) => Action::Hold,
                (true, _) => Action::Accept,
            };
            let fate = fates.iter().copied().max().unwrap_or_default();
            self.conclude((action, Cause::None), &worst, fate);
        }
        let answer = answer.unwrap_or_else(|| NO_ANSWER.into());
        Ok(self.end_message(&answer))
    }

    /// Shows it to the scanners that any of the policies wants.
    async fn look_into(&self, text: &Arc<Spooled>) -> Vec<Found> {
        let Some(message) = &self.transaction else { return Vec::new() };
        let Some(client) = self.client.address else { return Vec::new() };
        let letter = Letter {
            client,
            client_name: self.client.name.clone(),
            helo: self.client.helo.clone(),
            sender: message.sender.clone(),
            recipients: message.named.iter().map(|named| named.path.clone()).collect(),
            sasl_user: self.client.login.clone(),
            queue_id: message.instance.clone(),
            results: Vec::new(),
            text: Arc::clone(text),
        };
        scanning::look_into(&self.door.hub, letter, &message.named).await
    }

    /// What scanners found enters the histories: the next message is judged before DATA.
    async fn learn(&mut self, found: &[Found]) {
        let Some(observed) = scanning::observed(found) else { return };
        let Self { door, client, transaction, desk, .. } = self;
        let Some(message) = transaction.as_deref() else { return };
        if let Some(asked) = asked(client, message, Stage::EndOfMessage, false) {
            door.hub.observe(&asked, observed, desk).await;
        }
    }

    /// What another filter has said enters the histories too, if its server's word counts.
    pub(super) async fn believe(&mut self, is_spam: bool) {
        let from = &self.setup.proxy.verdicts_from;
        if !self.peer.is_some_and(|peer| from.iter().any(|network| network.contains(&peer))) {
            return;
        }
        let Self { door, client, transaction, desk, .. } = self;
        let Some(message) = transaction.as_deref() else { return };
        let observed = if is_spam { Observed::Spam } else { Observed::Clean };
        if let Some(asked) = asked(client, message, Stage::EndOfMessage, false) {
            door.hub.observe(&asked, observed, desk).await;
        }
    }

    /// Writes down what was concluded; returns the reply if it is a refusal.
    fn conclude(
        &mut self,
        (action, cause): (Action, Cause),
        worst: &Scanned,
        fate: Fate,
    ) -> Answer {
        let Self { door, client, transaction, desk, .. } = self;
        let nothing = Transaction::default();
        let message = transaction.as_deref().unwrap_or(&nothing);
        let Some(asked) = asked(client, message, Stage::EndOfMessage, false) else {
            return NOT_NOW.into();
        };
        let remarks = scanning::remarks(worst, fate);
        let verdict = Verdict::new(action, cause);
        let judged = door.hub.conclude(&asked, ("scan", verdict), remarks, desk);
        let Some(reply) = judged.reply else { return TAKEN.into() };
        Answer::new(reply.code, &format!("{} {}", reply.status, desk.reply))
    }

    /// Whether the mark of a released message is looked at: from ours, never from outside.
    pub(super) fn believes_marks(&self) -> bool {
        let proxy = &self.setup.proxy;
        let peers = proxy.peers.as_deref().unwrap_or_default();
        let is_peer = |it: std::net::IpAddr| peers.iter().any(|network| network.contains(&it));
        self.door.quarantine.is_some()
            && (mark::is_believed(self.client.address, &self.door.hub.live().configuration)
                || !proxy.is_gateway()
                    && self.client.address.is_some_and(|it| it.is_loopback() || is_peer(it)))
    }

    /// For which recipients somebody has let this message out of the quarantine, and its mark.
    async fn released(&self, text: &Arc<Spooled>) -> (Option<Mark>, Vec<bool>) {
        let (Some(quarantine), Some(message)) = (&self.door.quarantine, &self.transaction) else {
            return (None, Vec::new());
        };
        let head = text.head(HEAD_BYTES_MAX).unwrap_or_default();
        let value = header::value(&head, RELEASED_FIELD).filter(|_| self.believes_marks());
        let Some(value) = value.map(<[u8]>::to_vec) else { return (None, Vec::new()) };
        drop(head);
        let names = |named: &Named| {
            let first = mark::named_first(&named.parameters);
            first.into_iter().chain([named.path.clone()]).collect()
        };
        let recipients = message.named.iter().map(names).collect();
        let mark = Mark { value, door: format!("proxy {}", self.setup.proxy.name), recipients };
        let released = quarantine.released(&mark, text).await;
        (Some(mark), released)
    }

    /// Holds it for those who are not to get it; returns its name in the quarantine.
    async fn hold(
        &self,
        plan: &Plan,
        worst: &Scanned,
        text: &Arc<Spooled>,
    ) -> Result<Option<String>, String> {
        let Some(message) = self.transaction.as_ref().filter(|_| !plan.quarantine.is_empty())
        else {
            return Ok(None);
        };
        let quarantine = self.door.quarantine.as_ref().ok_or("there is none")?;
        let wanted = (&*message.named, &*plan.quarantine);
        let (recipients, reason) =
            scanning::held_for(&self.door.hub, wanted, (worst, str::to_owned)).await;
        let tests = worst.findings.iter().map(|finding| &*finding.tests).collect::<Vec<_>>();
        #[allow(clippy::cast_possible_truncation, reason = "points are small numbers")]
        let points = (worst.points.clamp(-1e6, 1e6) * 100.0) as i64;
        let holding = Holding {
            at_ms: self.door.hub.now_ms(),
            instance: message.instance.clone(),
            client: self.client.address,
            client_name: self.client.name.clone(),
            helo: self.client.helo.clone(),
            sasl_user: self.client.login.clone(),
            sender: message.sender.clone(),
            parameters: message.parameters.all().to_owned(),
            recipients,
            reason,
            points,
            tests: tests.join(" "),
            route: format!("{}/{}", self.setup.proxy.name, message.route.unwrap_or(0)),
            header: String::new(),
        };
        quarantine.hold(&holding, text).await.map(Some)
    }

    /// Delivers to all who want it; returns the answer, and nothing if the next hop has not given one.
    async fn deliver_all(
        &mut self,
        plan: &Plan,
        (found, released): (&[Found], &[bool]),
        text: &Spooled,
    ) -> Option<Answer> {
        let mut groups = self.groups(plan, found, released).await;
        let left_out = self.leave_out_delivered(&mut groups, text).await;
        let mut delivered = match left_out {
            Ok(delivered) => delivered,
            Err(trouble) => {
                crate::warn(&format!("spool: {trouble}"));
                return Some(NOT_NOW.into());
            }
        };
        let total: usize = groups.iter().map(|group| group.recipients.len()).sum();
        let named = self.transaction.as_ref().map_or(0, |message| message.named.len());
        let mut answers: Vec<Reply> = Vec::new();
        for group in &groups {
            let has_hop = self.transaction.as_ref().is_some_and(|message| message.hop.is_some());
            let is_as_named = has_hop
                && groups.len() == 1
                && total == named
                && group.edits.is_none()
                && !group.is_redirected;
            match self.deliver(group, (text, is_as_named)).await {
                Ok(replies) => {
                    delivered.note(group, &replies);
                    answers.extend(replies);
                }
                Err(trouble) => {
                    crate::warn(&format!(
                        "proxy {}: the next hop: {trouble}",
                        self.setup.proxy.name
                    ));
                    Tally::more(&self.tally().unanswered);
                    if let Some(message) = &mut self.transaction {
                        message.hop = None;
                    }
                    self.note_parted(&delivered);
                    return None;
                }
            }
        }
        let Some(answer) = reply::of_all(answers) else {
            // Nobody gets it, or all who do get it by way of the quarantine.
            self.put_hop_back();
            return Some(TAKEN.into());
        };
        if answer.is_positive() {
            Tally::more(&self.tally().passed_on);
            self.passed_on += 1;
            if let Some(id) = reply::queue_id(&answer) {
                self.door.hub.queued(id);
            }
        } else {
            self.note_parted(&delivered);
            Tally::more(&self.tally().refused);
        }
        if answer.code != 421 {
            self.put_hop_back();
        }
        Some(Answer::from(&answer))
    }

    /// Keeps the connection to the next hop for the next message.
    fn put_hop_back(&mut self) {
        let Some(message) = &mut self.transaction else { return };
        if let Some(hop) = message.hop.take().filter(|_| !message.is_text) {
            self.door.pool.give_back((hop, message.is_begun), None, &self.setup);
        }
    }

    /// Recipients who get it in the same way.
    async fn groups(&mut self, plan: &Plan, found: &[Found], released: &[bool]) -> Vec<Group> {
        let edits = {
            let Self { door, client, transaction, desk, .. } = &mut *self;
            let message = transaction.as_deref();
            match message.and_then(|message| asked(client, message, Stage::EndOfMessage, false)) {
                Some(asked) => door.hub.editing(&asked, desk).await,
                None => None,
            }
        };
        let Some(message) = &self.transaction else { return Vec::new() };
        let mut groups: Vec<(Fate, *const Scanning, Group)> = Vec::new();
        let is_released = |number: &usize| released.get(*number).copied().unwrap_or(false);
        if let Some(group) =
            as_it_came(&message.named, plan.deliver.iter().filter(|it| is_released(it)))
        {
            groups.push((Fate::Deliver, std::ptr::dangling(), group));
        }
        for (numbers, fate) in [
            (&plan.deliver, Fate::Deliver),
            (&plan.tag, Fate::Tag),
            (&plan.redirect, Fate::Redirect),
        ] {
            let numbers = numbers.iter().filter(|it| fate != Fate::Deliver || !is_released(it));
            for named in numbers.filter_map(|number| message.named.get(*number)) {
                // Whose policies are the same get it in the same way.
                let scanning = named.scanning();
                let policy = scanning.map_or(std::ptr::null(), Arc::as_ptr);
                let known = groups.iter_mut().find(|(f, p, _)| (*f, *p) == (fate, policy));
                if let Some((.., group)) = known {
                    if fate != Fate::Redirect {
                        group.recipients.push((named.path.clone(), named.parameters.clone()));
                    }
                    continue;
                }
                let group = self.group((named, fate), found, edits.as_ref());
                groups.push((fate, policy, group));
            }
        }
        groups.into_iter().map(|(.., group)| group).collect()
    }

    /// Those who get it as this recipient does.
    fn group(
        &self,
        (named, fate): (&Named, Fate),
        found: &[Found],
        edits: Option<&Edits>,
    ) -> Group {
        let scanning = named.scanning();
        let own = scanning
            .and_then(|scanning| found.iter().find(|found| Arc::ptr_eq(&found.scanning, scanning)));
        let host = &self.setup.proxy.name_of_host;
        let client = self.client.address.map(|address| (address, &*self.client.name));
        let mut before = scanning::results((host, client), own.map(|found| &found.scanned), fate);
        for (name, value) in edits.iter().flat_map(|edits| &edits.added) {
            for part in [name.as_str(), ": ", value, "\r\n"] {
                before.push_str(part);
            }
        }
        let recipient = match scanning {
            Some(scanning) if fate == Fate::Redirect => {
                (scanning.redirect_to.clone(), String::new())
            }
            _ => (named.path.clone(), named.parameters.clone()),
        };
        let mark = scanning.filter(|_| fate != Fate::Deliver);
        Group {
            recipients: vec![recipient],
            before,
            mark: mark.map(|scanning| scanning.subject.clone()).unwrap_or_default(),
            strip: scanning.map(|scanning| scanning.strip.clone()).unwrap_or_default(),
            edits: edits.cloned(),
            is_redirected: fate == Fate::Redirect,
            is_as_it_came: false,
        }
    }
}

/// Those for whom it was released: nothing is done to it.
fn as_it_came<'n>(named: &[Named], numbers: impl Iterator<Item = &'n usize>) -> Option<Group> {
    let all = numbers.filter_map(|number| named.get(*number));
    let recipients: Vec<_> =
        all.map(|named| (named.path.clone(), named.parameters.clone())).collect();
    let is_anybody = !recipients.is_empty();
    is_anybody.then(|| Group { recipients, is_as_it_came: true, ..Group::default() })
}
