//! Spam from infected machines: those that try once, hammer, queue, or pass a mail on to another.

use std::rc::Rc;

use crate::site::chance::Chance;
use crate::site::home::{Address, Behind, Home, ListQuality};
use crate::site::mail::{Kind, Mail, Retry, Route};
use crate::site::net::Host;
use crate::site::post::{Outbox, Post, Sender, World};

use super::{DAY, HOUR, Spam};

/// Recipients that one machine is given in one go, on average.
const RUN_MEAN: f64 = 2.2;
const BOTNETS: u64 = 5;
const REMEMBERED_MAX: usize = 4000;

/// Wakes botnets.
pub(super) fn populate(post: &mut Post<'_>, spam: &Spam, chance: &Chance) {
    for number in 0..BOTNETS {
        let mut chance = chance.fork("botnet", number).fork(spam.kind.about().0, 0);
        let per_day = spam.budget / spam.days / BOTNETS as f64 / RUN_MEAN;
        let campaign = Campaign::new(spam, &mut chance);
        let first = chance.wait(DAY / per_day.max(1e-6));
        post.wake_at(
            first,
            Botnet { spam: spam.clone(), per_day, campaign, seen: Vec::new(), chance },
        );
    }
}

/// How a campaign makes its mail.
#[derive(Debug)]
struct Campaign {
    until: f64,
    /// Compared with the average.
    intensity: f64,
    forging: Forging,
    domain: String,
    list: ListQuality,
    retry: Retry,
}

#[derive(Debug)]
enum Forging {
    /// Another sender each time, of domains that do not exist.
    Random,
    /// Another user of a large mailbox pool each time.
    Freemail,
    /// The same sender all the time.
    Constant(Rc<str>),
    /// The recipient itself, or another user of ours.
    Ours,
    /// The null sender.
    Null,
}

/// The quality of a spammer's list.
pub(super) fn list(
    unknown: (f64, f64),
    traps: (f64, f64),
    badness: f64,
    chance: &mut Chance,
) -> ListQuality {
    ListQuality {
        unknown: (chance.between(unknown.0, unknown.1) * badness).min(0.6),
        traps: (chance.between(traps.0, traps.1) * badness).min(0.2),
    }
}

impl Campaign {
    fn new(spam: &Spam, chance: &mut Chance) -> Self {
        let retry = match spam.kind {
            Kind::Hammerer => {
                let low = chance.between(4.0, 12.0);
                let times = chance.around(22.0, 0.8).clamp(4.0, 90.0) as u32;
                Retry::Times { low, high: low * 2.0, times }
            }
            Kind::RetryingBot => {
                let low = chance.between(3.0, 12.0) * 60.0;
                Retry::Times { low, high: low * 1.6, times: chance.whole(2, 8) as u32 }
            }
            Kind::Requeue => {
                let low = chance.between(5.0, 60.0) * 60.0;
                Retry::Times { low, high: low * 2.0, times: chance.whole(1, 4) as u32 }
            }
            _ => Retry::Never,
        };
        let forging = match chance.weighted(&[0.45, 0.2, 0.25, 0.06, 0.04]) {
            0 => Forging::Random,
            1 => Forging::Freemail,
            2 => Forging::Constant(format!("{}@{}.example", chance.word(3), chance.word(4)).into()),
            3 => Forging::Ours,
            _ => Forging::Null,
        };
        Self {
            until: 0.0,
            intensity: chance.around(1.0, 0.8).clamp(0.15, 6.0),
            forging,
            domain: format!("{}.example", chance.word(4)),
            list: list((0.05, 0.30), (0.01, 0.07), spam.tastes.list_badness, chance),
            retry,
        }
    }

    fn sender(&self, home: &Home, recipient: &str, chance: &mut Chance) -> Rc<str> {
        match &self.forging {
            Forging::Random if chance.hit(0.5) => {
                format!("{}{}@{}.example", chance.word(2), chance.below(99), chance.word(4)).into()
            }
            Forging::Random => format!("{}@{}", chance.word(4), self.domain).into(),
            Forging::Freemail => {
                let pool =
                    chance.pick(&["bigmail.example", "hotpost.example", "yondermail.example"]);
                format!("{}{}@{pool}", chance.word(3), chance.below(9999)).into()
            }
            Forging::Constant(sender) => Rc::clone(sender),
            Forging::Ours if chance.hit(0.5) => recipient.into(),
            Forging::Ours => home.user(chance),
            Forging::Null => "".into(),
        }
    }
}

struct Botnet {
    spam: Spam,
    per_day: f64,
    campaign: Campaign,
    seen: Vec<Rc<Host>>,
    chance: Chance,
}

impl Botnet {
    /// A machine; some come back for days.
    fn machine(&mut self, world: &World) -> Rc<Host> {
        if !self.seen.is_empty() && self.chance.hit(self.spam.tastes.reuse) {
            let recent = self.seen.len().saturating_sub(800);
            return Rc::clone(self.chance.pick(&self.seen[recent..]));
        }
        let host = Rc::new(world.net.home(&mut self.chance));
        if self.seen.len() >= REMEMBERED_MAX {
            self.seen.drain(..REMEMBERED_MAX / 2);
        }
        self.seen.push(Rc::clone(&host));
        host
    }

    fn route(&mut self, world: &World, host: &Rc<Host>) -> Route {
        if self.spam.kind != Kind::Requeue {
            return Route::One(Rc::clone(host));
        }
        let mut chain = vec![Rc::clone(host)];
        chain.extend((0..4).map(|_| self.machine(world)));
        Route::Chain(chain)
    }
}

impl Sender for Botnet {
    fn wake(&mut self, now: f64, world: &World, post: &mut Outbox) -> Option<f64> {
        if now > self.campaign.until {
            self.campaign = Campaign::new(&self.spam, &mut self.chance);
            self.campaign.until = now + self.chance.between(2.0, 30.0) * HOUR;
        }
        let host = self.machine(world);
        let count = self.chance.few(RUN_MEAN, 8);
        let to: Vec<Address> =
            (0..count).map(|_| world.home.listed(self.campaign.list, &mut self.chance)).collect();
        let groups: Vec<Vec<Address>> = if count > 1 && self.chance.hit(self.spam.tastes.together) {
            vec![to]
        } else {
            to.into_iter().map(|address| vec![address]).collect()
        };
        let mut at = now;
        for group in groups {
            let first = group.first().map_or("", |(address, _)| address);
            let sender = self.campaign.sender(&world.home, first, &mut self.chance);
            let route = self.route(world, &host);
            let mail =
                Mail::new(self.spam.kind, sender, route, self.campaign.retry, self.chance.split());
            post.send(at, mail.to(group));
            at += self.chance.between(0.5, 40.0);
        }
        let per_day = self.per_day * self.campaign.intensity / 1.25;
        // A little less at night, when infected machines are switched off.
        Some(now + self.chance.wait(DAY / per_day) * self.chance.pick(&[0.8, 1.2]))
    }
}

/// Guessers: one machine or several share a long list of names, mostly of nobody.
pub(super) fn dictionary(post: &mut Post<'_>, spam: &Spam, chance: &Chance) {
    let chance = chance.fork("dictionary", 0);
    let guesses_per_day = spam.budget / spam.days;
    post.wake_at(
        chance.clone().between(0.0, DAY),
        Guesser { spam: spam.clone(), guesses_per_day, chance },
    );
}

struct Guesser {
    spam: Spam,
    guesses_per_day: f64,
    chance: Chance,
}

impl Sender for Guesser {
    fn wake(&mut self, now: f64, world: &World, post: &mut Outbox) -> Option<f64> {
        let chance = &mut self.chance;
        let guesses = chance.around(120.0, 0.7).clamp(30.0, 600.0);
        let machines: Vec<Rc<Host>> = match chance.below(3) {
            0 => (0..chance.whole(3, 20)).map(|_| Rc::new(world.net.home(chance))).collect(),
            1 => vec![Rc::new(world.net.home(chance))],
            _ => {
                let name = format!("vps{}.{}.example", chance.below(999), chance.word(3));
                let block = world.net.block();
                vec![Rc::new(crate::site::net::Net::server(
                    block,
                    chance.byte(2, 250),
                    &name,
                    chance,
                ))]
            }
        };
        let together = *chance.pick(&[1, 1, 5, 15, 30]);
        let pause = chance.around(4.0, 0.9);
        let sender: Rc<str> = format!("{}@{}.example", chance.word(3), chance.word(3)).into();
        let badness = self.spam.tastes.list_badness;
        let traps = chance.between(0.01, 0.06) * badness;
        let (mut at, mut left) = (now, guesses as usize);
        while left > 0 {
            let count = together.min(left);
            left -= count;
            let to: Vec<Address> = (0..count)
                .map(|_| match chance.weighted(&[0.82, traps, 0.12]) {
                    0 => (world.home.guess(chance), Behind::Nobody),
                    1 => (world.home.trap(chance), Behind::Trap),
                    _ => (world.home.user(chance), Behind::User),
                })
                .collect();
            let route = Route::One(Rc::clone(chance.pick(&machines)));
            let mail = Mail::new(
                Kind::Dictionary,
                Rc::clone(&sender),
                route,
                Retry::Never,
                chance.split(),
            );
            post.send(at, mail.to(to));
            at += chance.wait(pause * count as f64);
        }
        Some(now + chance.wait(DAY * guesses / self.guesses_per_day))
    }
}
