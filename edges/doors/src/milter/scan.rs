//! Messages that scanners look into, behind the milter: collected as the server shows them, and then
//! refused, marked, held, or taken from some of their recipients, with the actions that were agreed on.

use std::sync::Arc;

use mpp_engine::facts::Stage;
use mpp_engine::scan::{Class, Fate, Plan, Scanned};
use mpp_engine::verdict::{Action, Cause, Verdict};
use mpp_hub::quarantine::{Holding, Mark, RELEASED_FIELD};
use mpp_hub::scanner::Letter;
use mpp_hub::spool::Spooled;
use mpp_wire::header;
use mpp_wire::milter_answer::Answer;

use super::agreement::Agreement;
use super::collected::Marked;
use super::{CONTEXT, Message, Session};
use crate::mark;
use crate::proxy::rewrite::HEAD_BYTES_MAX;
use crate::proxy::trace_header::received_from;
use crate::scanning::{self, Found, Named};

/// Header fields of scanners, which only we may say.
pub(super) const OURS: [&str; 4] = ["X-Spam-Flag", "X-Spam-Score", "X-Spam-Status", "X-Spam-Level"];

/// What is to be done to a message besides what its policies do to all.
#[derive(Debug, Default)]
pub(super) struct Additions {
    /// Header fields that are put in: name and value.
    pub(super) headers: Vec<(String, String)>,
    /// What becomes of the subject.
    pub(super) subject: Option<Marked>,
    /// The numbers of recipients who do not get it.
    pub(super) removed: Vec<usize>,
    /// Who gets it instead.
    pub(super) added: Vec<String>,
}

/// What came of it.
pub(super) enum Outcome {
    /// A reply is to be given: it is on the desk, with this code and status.
    Refused(u16, &'static str),
    /// It cannot be done now.
    NotNow,
    /// Taken and thrown away, or held for all of its recipients.
    Gone,
    /// Taken.
    Passes(Additions),
    /// Taken, and nothing is done to it.
    AsItCame,
}

impl Session {
    /// Begins to collect a message, if somebody wants to see it.
    pub(super) fn begin_collecting(&mut self) {
        let is_agreed = self.agreement.as_ref().is_some_and(|agreement| agreement.collects);
        let Some(message) = self.known.message.as_mut().filter(|_| is_agreed) else { return };
        if !message.collected.is_wanted() || message.collected.is_begun() {
            return;
        }
        let has_blanks = self.agreement.as_ref().is_some_and(Agreement::has_blanks);
        message.collected.begin(self.door.spool.begin(), has_blanks);
        if let Some(client) = &self.known.client {
            // The server adds its own only later, and scanners look who the client was.
            let who = (&*client.helo, &*client.name, client.address);
            let by = ("localhost", &*message.instance);
            let header = received_from(who, by, "ESMTP", self.door.hub.now_ms());
            message.collected.write(header.as_bytes());
        }
    }

    /// The message is there: what scanners say of it, and what follows.
    pub(super) async fn look_into(&mut self) -> Outcome {
        let Some(message) = &mut self.known.message else { return Outcome::NotNow };
        let text = match message.collected.finish() {
            Ok(text) => text,
            Err(trouble) => {
                crate::warn(&format!("milter: the spool: {trouble}"));
                return Outcome::NotNow;
            }
        };
        let Some(letter) = self.letter(&text) else { return Outcome::Passes(Additions::default()) };
        let hub = Arc::clone(&self.door.hub);
        let named =
            self.known.message.as_mut().map(|message| std::mem::take(&mut message.collected.named));
        let named = named.unwrap_or_default();
        let (mark, released) = self.released(&text, &named).await;
        let found = scanning::look_into(&hub, letter, &named).await;
        if found.iter().any(|found| found.scanned.waits) {
            let worst = scanning::worst(&found);
            self.conclude((Action::Defer, Cause::Unavailable), &worst, Fate::Deliver);
            return Outcome::NotNow;
        }
        let mut fates = scanning::fates(&named, &found, false);
        mark::excuse(&mut fates, (&named, &found), &released);
        let (plan, worst) = (Plan::of(&fates), scanning::worst(&found));
        if plan.is_rejected {
            let cause = if worst.class == Class::Virus { Cause::Virus } else { Cause::Content };
            self.learn(&found).await;
            // Last: the reply stays on the desk.
            let refusal = self.conclude((Action::Reject, cause), &worst, Fate::Reject);
            return refusal
                .map_or(Outcome::NotNow, |(code, status)| Outcome::Refused(code, status));
        }
        if let Err(trouble) = self.hold(&plan, (&named, &worst), &text).await {
            crate::warn(&format!("quarantine: {trouble}"));
            return Outcome::NotNow;
        }
        if let (Some(mark), Some(quarantine)) = (&mark, &self.door.quarantine) {
            quarantine.has_passed(mark, &released).await;
        }
        if mark::is_excused(&fates, &released) {
            self.conclude((Action::Accept, Cause::None), &worst, Fate::Deliver);
            return Outcome::AsItCame;
        }
        self.learn(&found).await;
        let goes_on = plan.deliver.len() + plan.tag.len() + plan.redirect.len() > 0;
        let action = match (goes_on, plan.quarantine.is_empty()) {
            (true, true) => Action::Accept,
            (_, false) => Action::Hold,
            (false, true) => Action::Discard,
        };
        let fate = fates.iter().copied().max().unwrap_or_default();
        self.conclude((action, Cause::None), &worst, fate);
        if !goes_on {
            return Outcome::Gone;
        }
        Outcome::Passes(self.additions(&named, &fates, &found))
    }

    /// For which recipients somebody has let this message out of the quarantine, and its mark.
    async fn released(&self, text: &Arc<Spooled>, named: &[Named]) -> (Option<Mark>, Vec<bool>) {
        let has_mark = |message: &&Message| message.collected.has_mark;
        let message = self.known.message.as_ref().filter(has_mark);
        let (Some(quarantine), Some(_)) = (&self.door.quarantine, message) else {
            return (None, Vec::new());
        };
        let head = text.head(HEAD_BYTES_MAX).unwrap_or_default();
        let Some(value) = header::value(&head, RELEASED_FIELD) else { return (None, Vec::new()) };
        let names = |named: &Named| {
            let first = mark::named_first(&named.parameters);
            first.into_iter().chain([super::message::bare(named.path.as_bytes())]).collect()
        };
        let recipients = named.iter().map(names).collect();
        let mark = Mark { value: value.to_vec(), door: CONTEXT.into(), recipients };
        let released = quarantine.released(&mark, text).await;
        (Some(mark), released)
    }

    fn letter(&self, text: &Arc<Spooled>) -> Option<Letter> {
        let (client, message) = (self.known.client.as_ref()?, self.known.message.as_ref()?);
        let named = message.collected.named.iter();
        Some(Letter {
            client: client.address?,
            client_name: client.name.clone(),
            helo: client.helo.clone(),
            sender: message.sender.clone(),
            recipients: named.map(|named| super::message::bare(named.path.as_bytes())).collect(),
            sasl_user: self.known.noted.sasl_user.clone(),
            queue_id: self.known.noted.queue_id.clone(),
            results: Vec::new(),
            text: Arc::clone(text),
        })
    }

    async fn learn(&mut self, found: &[Found]) {
        let Some(observed) = scanning::observed(found) else { return };
        if let Some(asked) = self.known.asked(Stage::EndOfMessage, "") {
            self.door.hub.observe(&asked, observed, &mut self.desk).await;
        }
    }

    /// Writes down what was concluded; returns code and status if it is a refusal.
    fn conclude(
        &mut self,
        (action, cause): (Action, Cause),
        worst: &Scanned,
        fate: Fate,
    ) -> Option<(u16, &'static str)> {
        let asked = self.known.asked(Stage::EndOfMessage, "")?;
        let what = ("scan", Verdict::new(action, cause));
        let remarks = scanning::remarks(worst, fate);
        let judged = self.door.hub.conclude(&asked, what, remarks, &mut self.desk);
        judged.reply.map(|reply| (reply.code, reply.status))
    }

    async fn hold(
        &self,
        plan: &Plan,
        (named, worst): (&[Named], &Scanned),
        text: &Arc<Spooled>,
    ) -> Result<(), String> {
        if plan.quarantine.is_empty() {
            return Ok(());
        }
        let quarantine = self.door.quarantine.as_ref().ok_or("there is none")?;
        let (Some(client), Some(message)) = (&self.known.client, &self.known.message) else {
            return Err("nothing is known of it".into());
        };
        if !plan.quarantine.iter().all(|number| message.is_text(*number)) {
            return Err("a recipient's address is no UTF-8".into());
        }
        let bare = |path: &str| super::message::bare(path.as_bytes());
        let wanted = (named, &*plan.quarantine);
        let (recipients, reason) = scanning::held_for(&self.door.hub, wanted, (worst, bare)).await;
        let tests: Vec<&str> = worst.findings.iter().map(|finding| &*finding.tests).collect();
        #[allow(clippy::cast_possible_truncation, reason = "points are small numbers")]
        let points = (worst.points.clamp(-1e6, 1e6) * 100.0) as i64;
        let holding = Holding {
            at_ms: self.door.hub.now_ms(),
            instance: message.instance.clone(),
            client: client.address,
            client_name: client.name.clone(),
            helo: client.helo.clone(),
            sasl_user: self.known.noted.sasl_user.clone(),
            sender: message.sender.clone(),
            parameters: message.parameters.clone(),
            recipients,
            reason,
            points,
            tests: tests.join(" "),
            route: CONTEXT.into(),
            header: String::new(),
        };
        quarantine.hold(&holding, text).await.map(drop)
    }

    /// What is said to the server of a message that goes on. It has one header for all who get it:
    /// it is marked where all of them want it marked.
    fn additions(&self, named: &[Named], fates: &[Fate], found: &[Found]) -> Additions {
        let mut additions = Additions::default();
        let is_marked = fates.iter().all(|fate| *fate != Fate::Deliver);
        let shown = if is_marked { Fate::Tag } else { Fate::Deliver };
        let worst = scanning::worst(found);
        let is_scanned = !found.is_empty();
        let text = scanning::results(("", None), is_scanned.then_some(&worst), shown);
        for line in text.replace("\r\n\t", " ").lines() {
            if let Some((name, value)) = line.split_once(": ") {
                additions.headers.push((name.to_owned(), value.to_owned()));
            }
        }
        for (number, (named, fate)) in named.iter().zip(fates).enumerate() {
            let redirected = named.scanning().map(|scanning| scanning.redirect_to.clone());
            match fate {
                Fate::Deliver | Fate::Tag => {}
                Fate::Redirect => {
                    additions.removed.push(number);
                    additions.added.extend(redirected.map(|address| format!("<{address}>")));
                }
                Fate::Quarantine | Fate::Discard | Fate::Reject => {
                    additions.removed.push(number);
                }
            }
        }
        let mark = named.iter().find_map(|named| {
            named
                .scanning()
                .map(|scanning| scanning.subject.clone())
                .filter(|mark| !mark.is_empty())
        });
        if let Some(mark) = mark.filter(|_| is_marked) {
            let message = self.known.message.as_ref();
            additions.subject = message.and_then(|message| message.collected.marked(&mark));
        }
        additions
    }
}

impl Additions {
    /// Says what becomes of the header.
    pub(super) fn say(&self, agreement: &Agreement, say: &mut impl FnMut(Answer<'_>)) {
        let headers = (0..).zip(&self.headers);
        for (place, (name, value)) in headers {
            let value = &agreement.value(value.as_bytes());
            say(Answer::InsertHeader { place, name, value });
        }
        match &self.subject {
            Some(Marked::Changed { name, value }) => {
                say(Answer::ChangeHeader { place: 1, name, value });
            }
            // With the other fields of ours: a broken header may end anywhere.
            Some(Marked::New(mark)) => {
                let place = u32::try_from(self.headers.len()).unwrap_or(u32::MAX);
                let value = &agreement.value(mark.as_bytes());
                say(Answer::InsertHeader { place, name: "Subject", value });
            }
            None => {}
        }
    }
}
