//! Messages that scanners look into, behind the milter: collected as the server shows them, and then
//! refused, marked, held, or taken from some of their recipients, with the actions that were agreed on.

use std::io;
use std::sync::Arc;

use mpp_engine::facts::Stage;
use mpp_engine::scan::{Class, Fate, Plan, Scanned};
use mpp_engine::verdict::{Action, Cause, Verdict};
use mpp_hub::quarantine::Holding;
use mpp_hub::scanner::Letter;
use mpp_hub::spool::{Spooled, Writer};
use mpp_wire::milter_answer::Answer;

use super::{CONTEXT, Session};
use crate::proxy::trace_header::received_from;
use crate::scanning::{self, Found, Named};

/// So much of a subject is kept to be marked.
const SUBJECT_BYTES_MAX: usize = 900;
/// Header fields of scanners, which only we may say.
pub(super) const OURS: [&str; 4] = ["X-Spam-Flag", "X-Spam-Score", "X-Spam-Status", "X-Spam-Level"];

/// A message that is collected.
#[derive(Debug, Default)]
pub(super) struct Collected {
    /// The recipients, with what their policies want.
    pub(super) named: Vec<Named>,
    spool: Option<Writer>,
    /// Why it could not be collected.
    trouble: Option<String>,
    is_in_body: bool,
    is_subject: bool,
    subject: Option<Vec<u8>>,
    last: u8,
}

/// What is to be done to a message besides what its policies do to all.
#[derive(Debug, Default)]
pub(super) struct Additions {
    /// Header fields that are put in: name and value.
    pub(super) headers: Vec<(String, String)>,
    /// Another subject.
    pub(super) subject: Option<String>,
    /// Recipients who do not get it, as the server has named them.
    pub(super) removed: Vec<String>,
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
}

impl Collected {
    /// Whether it has to be collected.
    pub(super) fn is_wanted(&self) -> bool {
        scanning::is_spooled(&self.named)
    }

    /// Whether it is collected, or should have been.
    pub(super) fn is_begun(&self) -> bool {
        self.spool.is_some() || self.trouble.is_some()
    }

    /// A header field begins.
    pub(super) fn field(&mut self, name: &[u8]) {
        if self.spool.is_none() {
            return;
        }
        self.is_subject = name.eq_ignore_ascii_case(b"subject") && self.subject.is_none();
        if self.is_subject {
            self.subject = Some(Vec::new());
        }
        self.write(&[name, b": "].concat());
        self.last = 0;
    }

    /// A part of a value or of the body.
    pub(super) fn content(&mut self, bytes: &[u8], is_last: bool) {
        if self.spool.is_none() {
            return;
        }
        if self.is_in_body {
            return self.write(bytes);
        }
        let value = if is_last { bytes.strip_suffix(&[0]).unwrap_or(bytes) } else { bytes };
        if let Some(subject) = self.subject.as_mut().filter(|_| self.is_subject) {
            let room = SUBJECT_BYTES_MAX.saturating_sub(subject.len());
            subject.extend_from_slice(value.get(..room.min(value.len())).unwrap_or_default());
        }
        // Folded lines come with LF alone.
        let mut text = Vec::with_capacity(value.len() + 2);
        for byte in value {
            if *byte == b'\n' && self.last != b'\r' {
                text.push(b'\r');
            }
            text.push(*byte);
            self.last = *byte;
        }
        if is_last {
            text.extend_from_slice(b"\r\n");
        }
        self.write(&text);
    }

    /// The body begins, if it has not.
    pub(super) fn body(&mut self) {
        if !std::mem::replace(&mut self.is_in_body, true) {
            self.write(b"\r\n");
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let Some(spool) = &mut self.spool else { return };
        if let Err(error) = spool.write(bytes) {
            self.trouble = Some(error.to_string());
            self.spool = None;
        }
    }

    fn finish(&mut self) -> io::Result<Arc<Spooled>> {
        self.body();
        match (self.spool.take(), self.trouble.take()) {
            (Some(spool), _) => Ok(spool.finish()),
            (None, trouble) => Err(io::Error::other(trouble.unwrap_or_default())),
        }
    }
}

impl Session {
    /// Begins to collect a message, if somebody wants to see it.
    pub(super) fn begin_collecting(&mut self) {
        let is_agreed = self.agreement.as_ref().is_some_and(|agreement| agreement.scans);
        let Some(message) = self.known.message.as_mut().filter(|_| is_agreed) else { return };
        if !message.collected.is_wanted() || message.collected.is_begun() {
            return;
        }
        message.collected.spool = Some(self.door.spool.begin());
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
        let found = scanning::look_into(&hub, letter, &named).await;
        if found.iter().any(|found| found.scanned.waits) {
            let worst = scanning::worst(&found);
            self.conclude((Action::Defer, Cause::Unavailable), &worst, Fate::Deliver);
            return Outcome::NotNow;
        }
        let fates = scanning::fates(&named, &found, false);
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

    fn letter(&self, text: &Arc<Spooled>) -> Option<Letter> {
        let (client, message) = (self.known.client.as_ref()?, self.known.message.as_ref()?);
        let named = message.collected.named.iter();
        Some(Letter {
            client: client.address?,
            client_name: client.name.clone(),
            helo: client.helo.clone(),
            sender: message.sender.clone(),
            recipients: named.map(|named| super::bare(named.path.as_bytes())).collect(),
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
        let bare = |path: &str| super::bare(path.as_bytes());
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
        for (named, fate) in named.iter().zip(fates) {
            let redirected = named.scanning().map(|scanning| scanning.redirect_to.clone());
            match fate {
                Fate::Deliver | Fate::Tag => {}
                Fate::Redirect => {
                    additions.removed.push(named.path.clone());
                    additions.added.extend(redirected.map(|address| format!("<{address}>")));
                }
                Fate::Quarantine | Fate::Discard | Fate::Reject => {
                    additions.removed.push(named.path.clone());
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
            let subject = message.and_then(|message| message.collected.subject.as_deref());
            let old = String::from_utf8_lossy(subject.unwrap_or_default()).into_owned();
            let old = old.trim_start();
            additions.subject =
                Some(if old.starts_with(&mark) { old.to_owned() } else { format!("{mark} {old}") });
        }
        additions
    }
}

impl Additions {
    /// Says it; returns the answers in their order.
    pub(super) fn answers(&self, has_subject: bool) -> Vec<Answer<'_>> {
        let mut answers = Vec::new();
        for (place, (name, value)) in (0..).zip(&self.headers) {
            answers.push(Answer::InsertHeader { place, name, value });
        }
        if let Some(value) = &self.subject {
            answers.push(if has_subject {
                Answer::ChangeHeader { place: 1, name: "Subject", value }
            } else {
                Answer::AddHeader { name: "Subject", value }
            });
        }
        answers.extend(self.removed.iter().map(|path| Answer::RemoveRecipient(path.as_bytes())));
        answers.extend(self.added.iter().map(|path| Answer::AddRecipient(path)));
        answers
    }
}

/// Whether a subject came with the message.
pub(super) fn has_subject(collected: &Collected) -> bool {
    collected.subject.is_some()
}
