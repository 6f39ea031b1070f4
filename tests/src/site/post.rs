//! The post office: it wakes senders in the order of time, tries mail, and takes it back to its
//! queue or to the score.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::io;
use std::rc::Rc;

use super::chance::Chance;
use super::home::Home;
use super::judge::{Ask, Judge, Reply, Stage};
use super::mail::{Fate, Mail, Nature};
use super::net::{Host, Net};
use super::score::Score;

/// What senders know of the world.
#[derive(Debug)]
pub struct World {
    /// Our site.
    pub home: Home,
    /// Where hosts come from.
    pub net: Net,
}

/// Somebody who sends mail.
pub trait Sender {
    /// Hands mail to the post office, each with the time of its first try, and says when to be
    /// woken next, if at all.
    fn wake(&mut self, now: f64, world: &World, post: &mut Outbox) -> Option<f64>;
}

/// What a sender hands over.
#[derive(Debug, Default)]
pub struct Outbox {
    mails: Vec<(f64, Mail)>,
}

impl Outbox {
    /// A mail to be tried at a time.
    pub fn send(&mut self, at: f64, mail: Mail) {
        self.mails.push((at, mail));
    }
}

enum Event {
    Wake(Box<dyn Sender>),
    Try(Box<Mail>),
    Verdict(Box<Verdict>),
}

struct Verdict {
    spam: bool,
    host: Rc<Host>,
    sender: Rc<str>,
    recipient: Rc<str>,
    recipients: usize,
    login: Option<Rc<str>>,
    instance: u64,
}

struct Entry {
    at: f64,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.total_cmp(&other.at).then(self.number.cmp(&other.number))
    }
}

/// How good the content scanner is, as shares.
#[derive(Clone, Copy, Debug)]
pub struct Scanner {
    /// Crude spam that it finds.
    pub crude: f64,
    /// Other spam that it finds.
    pub fine: f64,
    /// Wanted mail that it takes for spam.
    pub wrong: f64,
    /// Newsletters that it takes for spam.
    pub wrong_newsletter: f64,
}

/// The post office.
pub struct Post<'a> {
    /// What senders know.
    pub world: World,
    judge: &'a mut dyn Judge,
    queue: BinaryHeap<Reverse<Entry>>,
    number: u64,
    clock: f64,
    epoch: f64,
    scanner: Scanner,
    asks_at_end: bool,
    verdict_chance: Chance,
    /// What came of it.
    pub score: Score,
}

const DAY: f64 = 86_400.0;

impl<'a> Post<'a> {
    /// A post office whose month begins at `epoch` (seconds since 1970).
    pub fn new(world: World, judge: &'a mut dyn Judge, epoch: f64, scanner: Scanner) -> Self {
        Self {
            world,
            judge,
            queue: BinaryHeap::new(),
            number: 0,
            clock: 0.0,
            epoch,
            scanner,
            asks_at_end: true,
            verdict_chance: Chance::new(99),
            score: Score::default(),
        }
    }

    /// Leaves out the question at END-OF-MESSAGE.
    pub fn ask_at_rcpt_only(&mut self) {
        self.asks_at_end = false;
    }

    /// Wakes a sender at a time.
    pub fn wake_at(&mut self, at: f64, sender: impl Sender + 'static) {
        self.push(at, Event::Wake(Box::new(sender)));
    }

    fn push(&mut self, at: f64, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Entry { at, number: self.number, event }));
    }

    /// Plays so many days, and then on until every queue is empty.
    ///
    /// # Errors
    /// Where the judge does not answer.
    pub fn run(&mut self, days: f64) -> io::Result<()> {
        let mut outbox = Outbox::default();
        while let Some(Reverse(Entry { at, event, .. })) = self.queue.pop() {
            self.clock = self.clock.max(at);
            match event {
                Event::Wake(mut sender) => {
                    if at >= days * DAY {
                        continue;
                    }
                    let next = sender.wake(at, &self.world, &mut outbox);
                    for (first_at, mut mail) in std::mem::take(&mut outbox.mails) {
                        mail.first_at = first_at.max(at);
                        self.push(first_at.max(at), Event::Try(Box::new(mail)));
                    }
                    if let Some(next) = next {
                        self.push(next.max(at), Event::Wake(sender));
                    }
                }
                Event::Try(mail) => self.attempt(at, mail)?,
                Event::Verdict(verdict) => self.report(&verdict)?,
            }
        }
        Ok(())
    }

    /// A moment later, as the next question of a session comes.
    fn tick(&mut self) -> f64 {
        self.clock += 0.01;
        self.epoch + self.clock
    }

    fn attempt(&mut self, at: f64, mut mail: Box<Mail>) -> io::Result<()> {
        let host = mail.route.host(mail.tries, &mut mail.chance);
        mail.tries += 1;
        self.transaction(at, &mut mail, &host)?;
        let waiting = mail.recipients.iter().any(|recipient| recipient.fate == Fate::Waiting);
        if waiting {
            let (retry, tries) = (mail.retry, mail.tries);
            if let Some(pause) = retry.pause(tries, at - mail.first_at, &mut mail.chance) {
                self.push(at + pause, Event::Try(mail));
                return Ok(());
            }
            for recipient in &mut mail.recipients {
                if recipient.fate == Fate::Waiting {
                    let reply =
                        recipient.last_reply.clone().unwrap_or_else(|| "never asked".into());
                    recipient.fate = Fate::GivenUp(reply);
                }
            }
        }
        self.score.finish(&mail, &host);
        Ok(())
    }

    /// One session with one transaction, for the recipients that still wait.
    fn transaction(&mut self, at: f64, mail: &mut Mail, host: &Rc<Host>) -> io::Result<()> {
        let (kind, case) = (mail.kind, mail.case);
        self.number += 1;
        let instance = self.number;
        let sender = Rc::clone(&mail.sender);
        let login = mail.login.clone();
        let mut ask = Ask {
            stage: Stage::Rcpt,
            now: 0.0,
            host,
            sender: &sender,
            recipient: "",
            recipients: 0,
            login: login.as_deref().unwrap_or_default(),
            instance,
            queued: false,
            size: 900 + (instance * 613 % 60_000) as u32,
        };
        let mut taken: Vec<usize> = Vec::new();
        let mut hung_up: Option<Rc<str>> = None;
        for (place, recipient) in mail.recipients.iter_mut().enumerate() {
            if recipient.fate != Fate::Waiting {
                continue;
            }
            if let Some(text) = &hung_up {
                recipient.last_reply = Some(Rc::clone(text));
                continue;
            }
            let (now, queued) = (self.tick(), !taken.is_empty());
            let reply =
                self.judge.ask(&Ask { now, recipient: &recipient.address, queued, ..ask })?;
            self.score.answer(kind, recipient.behind, &reply);
            self.score.case(case, at, &reply);
            match reply {
                Reply::Accept => taken.push(place),
                Reply::Later { text, hang_up } => {
                    if hang_up {
                        hung_up = Some(Rc::clone(&text));
                    }
                    recipient.last_reply = Some(text);
                }
                Reply::Never { text, hang_up } => {
                    if hang_up {
                        hung_up = Some(Rc::clone(&text));
                    }
                    recipient.fate = Fate::Refused(text);
                }
            }
        }
        // After a hang-up there is no DATA: what was accepted before is lost as well.
        if let (Some(&first), None) = (taken.first(), hung_up) {
            let recipient = Rc::clone(&mail.recipients[first].address);
            ask.recipient = if taken.len() == 1 { &recipient } else { "" };
            ask.recipients = taken.len();
            ask.queued = true;
            self.message(at, mail, &taken, ask)?;
        }
        Ok(())
    }

    /// DATA and its end.
    fn message(
        &mut self,
        at: f64,
        mail: &mut Mail,
        taken: &[usize],
        mut ask: Ask<'_>,
    ) -> io::Result<()> {
        let nature = mail.kind.nature();
        if self.asks_at_end {
            ask.stage = Stage::EndOfMessage;
            ask.now = self.tick();
            let reply = self.judge.ask(&ask)?;
            self.score.asked_at_end();
            self.score.case(mail.case, at, &reply);
            // Spam refused now was not refused before DATA: it counts as taken.
            if nature != Nature::Spam {
                match reply {
                    Reply::Accept => {}
                    Reply::Later { text, .. } => {
                        for &place in taken {
                            mail.recipients[place].last_reply = Some(Rc::clone(&text));
                        }
                        return Ok(());
                    }
                    Reply::Never { text, .. } => {
                        for &place in taken {
                            mail.recipients[place].fate = Fate::Refused(Rc::clone(&text));
                        }
                        return Ok(());
                    }
                }
            }
        }
        for &place in taken {
            mail.recipients[place].fate = Fate::Accepted(at);
        }
        self.score.sent(mail.case, taken.len());
        let spam = match nature {
            Nature::Spam | Nature::Abuse if mail.kind.is_crude() => self.scanner.crude,
            Nature::Spam | Nature::Abuse => self.scanner.fine,
            Nature::Ham if mail.kind == super::mail::Kind::Newsletter => {
                self.scanner.wrong_newsletter
            }
            Nature::Ham | Nature::Outbound => self.scanner.wrong,
        };
        let verdict = Verdict {
            spam: mail.chance.hit(spam),
            host: Rc::new(ask.host.clone()),
            sender: Rc::clone(&mail.sender),
            recipient: ask.recipient.into(),
            recipients: taken.len(),
            login: mail.login.clone(),
            instance: ask.instance,
        };
        let pause = self.verdict_chance.between(1.0, 15.0);
        self.push(at + pause, Event::Verdict(Box::new(verdict)));
        Ok(())
    }

    fn report(&mut self, verdict: &Verdict) -> io::Result<()> {
        let ask = Ask {
            stage: Stage::Verdict { spam: verdict.spam },
            now: self.tick(),
            host: &verdict.host,
            sender: &verdict.sender,
            recipient: &verdict.recipient,
            recipients: verdict.recipients,
            login: verdict.login.as_deref().unwrap_or_default(),
            instance: verdict.instance,
            queued: true,
            size: 900 + (verdict.instance * 613 % 60_000) as u32,
        };
        self.score.verdicts += 1;
        self.judge.ask(&ask).map(drop)
    }
}
