//! What our users send, what answers they get, and what thieves of their accounts send.

use std::rc::Rc;

use crate::site::chance::Chance;
use crate::site::home::Behind;
use crate::site::mail::{Kind, Mail, Retry, Route};
use crate::site::net::{Host, Net};
use crate::site::post::{Outbox, Post, Sender, World};
use crate::site::score::Case;

use super::peers::{Correspondent, Peers};
use super::{ALWAYS, DAY, HOUR, Plan, Tastes, next_by_day, stream};

/// Wakes our users, and thieves.
pub(super) fn populate(post: &mut Post<'_>, plan: &Plan, tastes: &Tastes, peers: &Rc<Peers>) {
    let chance = plan.chance().fork("outbound", 0);
    let count = (330.0 * plan.scale) as usize;
    let users: Vec<Rc<str>> = post.world.home.users.iter().take(count.max(30)).cloned().collect();
    let mut thefts = chance.fork("thefts", 0);
    let mut stolen: Vec<(usize, f64)> = Vec::new();
    let wanted = ((tastes.thefts as f64 * plan.days / 30.0).ceil() as usize).min(users.len());
    while stolen.len() < wanted {
        let victim = thefts.below(users.len());
        if stolen.iter().all(|(other, _)| *other != victim) {
            stolen.push((victim, thefts.between(0.05, 0.95) * plan.days * DAY));
        }
    }
    for (number, user) in users.iter().enumerate() {
        let stolen_at = stolen.iter().find(|(victim, _)| *victim == number).map(|(_, at)| *at);
        let own = chance.fork("account", number as u64);
        let mut account = Account::new((user, stolen_at), &post.world, peers, own);
        let first = account.next(0.0);
        post.wake_at(first, account);
    }
    for (victim, at) in stolen {
        let thief = Thief::new(post, &users[victim], thefts.split());
        post.wake_at(at, thief);
    }
    special(post, &users, peers, &chance);
    application(post, peers, &chance, plan);
}

/// Where a user sends from.
#[derive(Debug)]
struct Places {
    fixed: Vec<Rc<Host>>,
    /// Share of mail from a phone, whose address changes.
    roams: f64,
}

impl Places {
    fn new(world: &World, chance: &mut Chance) -> Self {
        let count = chance.whole(1, 3);
        let mut fixed: Vec<Rc<Host>> =
            (0..count).map(|_| Rc::new(world.net.home(chance))).collect();
        if chance.hit(0.4) {
            // The office that many share.
            let host = Net::server([139, 7, 7], 9, "office.northgate.example", &mut Chance::new(1));
            fixed.push(Rc::new(host));
        }
        let roams = if chance.hit(0.04) { 0.9 } else { chance.between(0.0, 0.3) };
        Self { fixed, roams }
    }

    fn host(&self, world: &World, chance: &mut Chance) -> Rc<Host> {
        if chance.hit(self.roams) {
            Rc::new(world.net.mobile(chance))
        } else {
            Rc::clone(chance.popular(&self.fixed))
        }
    }
}

/// A user's account.
struct Account {
    user: Rc<str>,
    places: Places,
    per_day: f64,
    /// Those that it writes to mostly.
    friends: Vec<Correspondent>,
    stolen_at: Option<f64>,
    peers: Rc<Peers>,
    chance: Chance,
}

impl Account {
    fn new(
        (user, stolen_at): (&Rc<str>, Option<f64>),
        world: &World,
        peers: &Rc<Peers>,
        mut chance: Chance,
    ) -> Self {
        let friends = (0..chance.whole(3, 30))
            .map(|_| {
                let number = chance.number();
                peers.correspondent(number, &Chance::new(5))
            })
            .collect();
        Self {
            user: Rc::clone(user),
            places: Places::new(world, &mut chance),
            per_day: chance.around(1.1, 0.9).min(25.0),
            friends,
            stolen_at,
            peers: Rc::clone(peers),
            chance,
        }
    }

    fn next(&mut self, now: f64) -> f64 {
        next_by_day(now, self.per_day, &mut self.chance)
    }

    fn kind(&self, now: f64) -> Kind {
        if self.stolen_at.is_some_and(|at| now >= at) { Kind::Owner } else { Kind::Person }
    }

    /// One message; whoever gets it may answer, sooner or later.
    fn write(&mut self, at: f64, world: &World, post: &mut Outbox) {
        let kind = self.kind(at);
        let chance = &mut self.chance;
        let route = Route::One(self.places.host(world, chance));
        let mail =
            Mail::new(kind, Rc::clone(&self.user), route, Retry::person(chance), chance.split())
                .through(Rc::clone(&self.user));
        if chance.hit(0.25) {
            let count = chance.few(1.5, 6);
            let users = world.home.users(count, chance);
            return post.send(at, mail.to_users(users));
        }
        let count = chance.few(1.25, 8);
        let to: Vec<Correspondent> = (0..count)
            .map(|_| {
                if chance.hit(0.25) {
                    let number = chance.number();
                    self.peers.correspondent(number, &Chance::new(5))
                } else {
                    chance.popular(&self.friends).clone()
                }
            })
            .collect();
        for who in &to {
            if chance.hit(0.3) {
                let back = chance.around(3.0 * HOUR, 1.5).clamp(60.0, 12.0 * DAY);
                let answer = Mail::new(
                    Kind::Reply,
                    Rc::clone(&who.address),
                    who.route.clone(),
                    who.retry,
                    chance.split(),
                );
                post.send(at + back, answer.to_users([Rc::clone(&self.user)]));
            }
        }
        post.send(at, mail.to(to.into_iter().map(|who| (who.address, Behind::Elsewhere))));
    }
}

impl Sender for Account {
    fn wake(&mut self, now: f64, world: &World, post: &mut Outbox) -> Option<f64> {
        // Mail comes in bursts: an inbox is worked off.
        let count = if self.chance.hit(0.01) {
            self.chance.whole(15, 45)
        } else {
            self.chance.few(1.5, 12)
        };
        let mut at = now;
        for _ in 0..count {
            self.write(at, world, post);
            at += self.chance.around(70.0, 0.9);
        }
        Some(self.next(now.max(at)))
    }
}

/// The secretary of a club, and a shop with a weekly letter to its customers.
fn special(post: &mut Post<'_>, users: &[Rc<str>], peers: &Rc<Peers>, chance: &Chance) {
    let specials = [
        (Kind::Secretary, 0.12, 80, 80),
        (Kind::Secretary, 0.07, 45, 45),
        (Kind::CustomerLetter, 1.0 / 7.0, 300, 1),
        (Kind::CustomerLetter, 1.0 / 7.0, 300, 30),
    ];
    for (number, (kind, per_day, people, together)) in specials.into_iter().enumerate() {
        let mut chance = chance.fork("special", number as u64);
        let user = Rc::clone(&users[number * 7 % users.len()]);
        let places = Places::new(&post.world, &mut chance);
        let people = (f64::from(people) * chance.between(0.8, 1.1)) as u64;
        let all: Vec<Rc<str>> = (0..people)
            .map(|_| peers.correspondent(chance.number(), &Chance::new(5)).address)
            .collect();
        let pause = chance.between(1.0, 6.0);
        let make = move |now, world: &World, chance: &mut Chance, out: &mut Outbox| {
            let host = places.host(world, chance);
            for (place, group) in all.chunks(together).enumerate() {
                let retry = Retry::person(chance);
                let mail = Mail::new(
                    kind,
                    Rc::clone(&user),
                    Route::One(Rc::clone(&host)),
                    retry,
                    chance.split(),
                );
                let to = group.iter().map(|address| (Rc::clone(address), Behind::Elsewhere));
                out.send(now + place as f64 * pause, mail.through(Rc::clone(&user)).to(to));
            }
        };
        stream(post, (per_day, true), ALWAYS, chance.fork("stream", 0), make);
    }
}

/// Servers in our network: single mails all day, and an invoice run now and then.
fn application(post: &mut Post<'_>, peers: &Rc<Peers>, chance: &Chance, plan: &Plan) {
    for (number, runs) in [(20_u8, true), (50, false)] {
        let name = format!("app{number}.northgate.example");
        let host = Rc::new(Net::server([192, 0, 2], number, &name, &mut chance.fork("app", 0)));
        let peers = Rc::clone(peers);
        let sender: Rc<str> = format!("service{number}@northgate.example").into();
        let make = move |now, world: &World, chance: &mut Chance, out: &mut Outbox| {
            let count = if runs && chance.hit(0.002) { chance.whole(150, 500) } else { 1 };
            for place in 0..count {
                let retry = Retry::server(chance);
                let route = Route::One(Rc::clone(&host));
                let mail =
                    Mail::new(Kind::Application, Rc::clone(&sender), route, retry, chance.split());
                let mail = if chance.hit(0.4) {
                    mail.to_users([world.home.user(chance)])
                } else {
                    let who = peers.correspondent(chance.number(), &Chance::new(5));
                    mail.to([(who.address, Behind::Elsewhere)])
                };
                out.send(now + place as f64 * 0.7, mail);
            }
        };
        stream(
            post,
            (60.0 * plan.scale, false),
            ALWAYS,
            chance.fork("application", number.into()),
            make,
        );
    }
}

/// Somebody with the password of one of our users.
struct Thief {
    case: usize,
    user: Rc<str>,
    machines: Vec<Rc<Host>>,
    pause: f64,
    together: usize,
    forged: Option<Rc<str>>,
    until: Option<f64>,
    lasts: f64,
    tests_first: bool,
    left: usize,
    chance: Chance,
}

impl Thief {
    fn new(post: &mut Post<'_>, user: &Rc<str>, mut chance: Chance) -> Self {
        let chance_of = &mut chance;
        let (sort, pause, machines, together) = match chance_of.weighted(&[0.4, 0.2, 0.25, 0.15]) {
            0 => ("fast", chance_of.between(1.0, 20.0), chance_of.whole(15, 300), 1),
            1 => ("fast, few machines", chance_of.between(1.0, 20.0), chance_of.whole(1, 5), 1),
            2 => (
                "many recipients",
                chance_of.between(5.0, 60.0),
                chance_of.whole(5, 80),
                chance_of.whole(5, 50),
            ),
            _ => ("slow", chance_of.between(120.0, 600.0), chance_of.whole(3, 40), 1),
        };
        let machines = (0..machines).map(|_| Rc::new(post.world.net.home(chance_of))).collect();
        let forged = chance_of
            .hit(0.35)
            .then(|| Rc::from(format!("{}@{}.example", chance_of.word(3), chance_of.word(4))));
        let case = post.score.cases.len();
        post.score.cases.push(Case { sort, ..Case::default() });
        let lasts = chance_of.between(3.0, 40.0) * HOUR;
        let tests_first = chance_of.hit(0.3);
        let left = chance_of.around(600.0, 0.8).clamp(100.0, 4000.0) as usize;
        Self {
            case,
            user: Rc::clone(user),
            machines,
            pause,
            together,
            forged,
            until: None,
            lasts,
            tests_first,
            left,
            chance,
        }
    }
}

impl Sender for Thief {
    fn wake(&mut self, now: f64, _: &World, post: &mut Outbox) -> Option<f64> {
        let is_first = self.until.is_none();
        let until = *self.until.get_or_insert(now + self.lasts);
        if now > until || self.left == 0 {
            return None;
        }
        self.left -= 1;
        let chance = &mut self.chance;
        let route = Route::One(Rc::clone(chance.pick(&self.machines)));
        let sender = self.forged.clone().unwrap_or_else(|| Rc::clone(&self.user));
        let retry = if chance.hit(0.3) {
            Retry::Times { low: 60.0, high: 600.0, times: 2 }
        } else {
            Retry::Never
        };
        let mut mail = Mail::new(Kind::Compromised, sender, route, retry, chance.split())
            .through(Rc::clone(&self.user));
        mail.case = Some(self.case);
        let together = if is_first && self.tests_first { 1 } else { self.together };
        let to: Vec<(Rc<str>, Behind)> = (0..together)
            .map(|_| {
                (
                    format!("{}{}@{}.example", chance.word(3), chance.below(99), chance.word(3))
                        .into(),
                    Behind::Elsewhere,
                )
            })
            .collect();
        post.send(now, mail.to(to));
        if is_first && self.tests_first {
            return Some(now + chance.between(0.2, 5.0) * HOUR);
        }
        Some(now + chance.around(self.pause, 0.4))
    }
}
