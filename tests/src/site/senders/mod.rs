//! Who sends mail in a month, and how much of it.

mod bots;
mod ham;
mod machines;
mod outbound;
mod peers;
mod rented;

use std::rc::Rc;

use super::chance::Chance;
use super::mail::Kind;
use super::post::{Outbox, Post, Scanner, Sender, World};

use peers::Peers;

const HOUR: f64 = 3600.0;
const DAY: f64 = 86_400.0;

/// What sort of spam a site gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Nearly all hosts try once.
    Drones,
    /// Most hosts try again.
    Retriers,
    /// Most sources behave like mail servers.
    Servers,
}

impl Profile {
    /// How spam is shared out among its kinds, in hundredths.
    fn shares(self) -> [(Kind, f64); 12] {
        let shares = match self {
            Self::Drones => [86.0, 4.0, 1.4, 2.2, 1.6, 1.5, 0.8, 0.8, 1.2, 0.5, 0.7, 0.1],
            Self::Retriers => [42.0, 4.0, 7.0, 28.0, 6.0, 5.0, 2.2, 2.5, 3.5, 0.8, 1.2, 0.3],
            Self::Servers => [12.0, 3.0, 1.8, 8.0, 2.0, 24.0, 13.0, 10.0, 20.0, 4.0, 4.2, 0.5],
        };
        let kinds = [
            Kind::Drone,
            Kind::Dictionary,
            Kind::Hammerer,
            Kind::RetryingBot,
            Kind::Requeue,
            Kind::Snowshoe,
            Kind::WebmailSpam,
            Kind::HackedServer,
            Kind::RentedServer,
            Kind::NewsletterSpam,
            Kind::ForwardedSpam,
            Kind::BackupSpam,
        ];
        std::array::from_fn(|place| (kinds[place], shares[place]))
    }
}

/// A month to be played.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What sort of spam.
    pub profile: Profile,
    /// Everything random follows from it.
    pub seed: u64,
    /// Length of the month.
    pub days: f64,
    /// How much of everything; 1 is some 400,000 requests in 30 days.
    pub scale: f64,
}

/// Spam recipients in 30 days at scale 1.
const SPAM: f64 = 125_000.0;

/// Assumptions that differ from seed to seed, so that nobody tunes for one of them.
#[derive(Clone, Debug)]
pub struct Tastes {
    /// How bad spammers' lists are: around 1.
    pub list_badness: f64,
    /// Share of drones' recipients that come in one transaction with others.
    pub together: f64,
    /// Share of bots that come back from the same address.
    pub reuse: f64,
    /// Share of companies whose server has no name.
    pub nameless: f64,
    /// New correspondents a day.
    pub strangers: f64,
    /// Compromised accounts.
    pub thefts: usize,
}

impl Plan {
    fn chance(&self) -> Chance {
        Chance::new(self.seed).fork("site", 0)
    }

    fn tastes(&self) -> Tastes {
        let mut chance = self.chance().fork("tastes", 0);
        Tastes {
            list_badness: chance.around(1.0, 0.3).clamp(0.5, 2.0),
            together: chance.between(0.05, 0.3),
            reuse: chance.between(0.05, 0.3),
            nameless: chance.between(0.06, 0.16),
            strangers: chance.between(14.0, 30.0),
            thefts: chance.whole(6, 12),
        }
    }

    /// How good the scanner is in this month.
    pub fn scanner(&self) -> Scanner {
        let mut chance = self.chance().fork("scanner", 0);
        Scanner {
            crude: chance.between(0.92, 0.97),
            fine: chance.between(0.40, 0.60),
            wrong: chance.between(0.003, 0.007),
            wrong_newsletter: chance.between(0.015, 0.045),
        }
    }

    /// The world of this month.
    pub fn world(&self) -> World {
        let mut chance = self.chance().fork("net", 0);
        World { home: super::home::Home::new(), net: super::net::Net::new(&mut chance) }
    }

    /// Wakes everybody who sends.
    pub fn populate(&self, post: &mut Post<'_>) {
        let chance = self.chance();
        let tastes = self.tastes();
        let mut own = chance.fork("peers", 0);
        let peers = Rc::new(Peers::new(&post.world, &tastes, &mut own, self.scale));
        ham::populate(post, self, &tastes, &peers);
        machines::populate(post, self, &tastes, &peers);
        outbound::populate(post, self, &tastes, &peers);
        let mut wobble = chance.fork("wobble", 0);
        let shares = self.profile.shares().map(|(kind, share)| {
            (kind, share * wobble.around(1.0, if share > 20.0 { 0.05 } else { 0.2 }))
        });
        let sum: f64 = shares.iter().map(|(_, share)| share).sum();
        for (kind, share) in shares {
            let budget = SPAM * self.scale * self.days / 30.0 * share / sum;
            let spam = Spam { kind, budget, days: self.days, tastes: tastes.clone() };
            match kind {
                Kind::Drone | Kind::Hammerer | Kind::RetryingBot | Kind::Requeue => {
                    bots::populate(post, &spam, &chance);
                }
                Kind::Dictionary => bots::dictionary(post, &spam, &chance),
                _ => rented::populate(post, &spam, &peers, &chance),
            }
        }
    }
}

/// One kind of spam in a month.
#[derive(Clone, Debug)]
struct Spam {
    kind: Kind,
    /// Recipients in the month, about.
    budget: f64,
    days: f64,
    tastes: Tastes,
}

/// How busy people are at a time, compared with a weekday's noon. The month begins on a Monday.
fn bustle(at: f64) -> f64 {
    let hour = (at / HOUR) % 24.0;
    let by_hour = match hour {
        8.0..18.0 => 1.0,
        6.0..8.0 | 18.0..23.0 => 0.4,
        _ => 0.06,
    };
    if (at / DAY) % 7.0 >= 5.0 { by_hour * 0.3 } else { by_hour }
}

/// Share of a busy noon that an average moment has.
const BUSTLE_MEAN: f64 = 0.42;

/// When something that people do `per_day` times a day happens next.
fn next_by_day(now: f64, per_day: f64, chance: &mut Chance) -> f64 {
    let mut at = now;
    loop {
        at += chance.wait(DAY * BUSTLE_MEAN / per_day);
        if chance.hit(bustle(at)) || at > now + 400.0 * DAY {
            return at;
        }
    }
}

/// Mail that comes again and again from one source.
struct Stream<F> {
    per_day: f64,
    /// Whether people are behind it, who sleep.
    human: bool,
    until: f64,
    chance: Chance,
    make: F,
}

impl<F: FnMut(f64, &World, &mut Chance, &mut Outbox)> Sender for Stream<F> {
    fn wake(&mut self, now: f64, world: &World, post: &mut Outbox) -> Option<f64> {
        if now > self.until {
            return None;
        }
        (self.make)(now, world, &mut self.chance, post);
        Some(self.next(now))
    }
}

impl<F> Stream<F> {
    fn next(&mut self, now: f64) -> f64 {
        if self.human {
            next_by_day(now, self.per_day, &mut self.chance)
        } else {
            now + self.chance.wait(DAY / self.per_day)
        }
    }
}

/// Starts a stream: `per_day` times on average, from a time on.
fn stream(
    post: &mut Post<'_>,
    (per_day, human): (f64, bool),
    (from, until): (f64, f64),
    chance: Chance,
    make: impl FnMut(f64, &World, &mut Chance, &mut Outbox) + 'static,
) {
    if per_day <= 0.0 {
        return;
    }
    let mut stream = Stream { per_day, human, until, chance, make };
    let first = stream.next(from);
    post.wake_at(first, stream);
}

const ALWAYS: (f64, f64) = (0.0, f64::INFINITY);
