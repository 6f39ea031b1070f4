//! Wanted mail that machines write: lists, newsletters, notifications.

use std::rc::Rc;

use crate::site::chance::Chance;
use crate::site::home::{Address, Behind, Home};
use crate::site::mail::{Kind, Mail};
use crate::site::net::Net;
use crate::site::post::{Outbox, Post, World};

use super::peers::{Peers, company};
use super::{ALWAYS, DAY, HOUR, Plan, Tastes, stream};

/// Wakes machines.
pub(super) fn populate(post: &mut Post<'_>, plan: &Plan, tastes: &Tastes, peers: &Peers) {
    lists(post, plan);
    newsletters(post, plan, peers);
    notifications(post, plan, tastes, peers);
    shops(post, plan);
}

/// Subscribers of a list or newsletter.
struct Members {
    alive: Vec<Address>,
    /// Who left, or is a trap by now: of issues `from` up to `until`, when bounces have them
    /// removed. Some senders never look at bounces.
    dead: Vec<(Address, usize, usize)>,
    issue: usize,
}

impl Members {
    /// `issues`: how many there are in the month, about.
    fn new(home: &Home, count: usize, issues: f64, chance: &mut Chance) -> Self {
        let users = home.users(count, chance).into_iter();
        let alive: Vec<Address> = users.map(|user| (user, Behind::User)).collect();
        let removes = chance.hit(0.85);
        let mut dead = Vec::new();
        for _ in 0..chance.about(alive.len() as f64 * 0.02) {
            let address = if chance.hit(0.85) {
                (Rc::clone(chance.pick(&home.retired)), Behind::Nobody)
            } else {
                (Rc::clone(chance.pick(&home.trapped)), Behind::Trap)
            };
            let from = chance.below(issues as usize + 1);
            let until = if removes { from + chance.whole(1, 6) } else { usize::MAX };
            dead.push((address, from, until));
        }
        Self { alive, dead, issue: 0 }
    }

    /// Whom the next issue goes to.
    fn next_issue(&mut self) -> Vec<Address> {
        let issue = self.issue;
        self.issue += 1;
        let dead = self.dead.iter().filter(|(_, from, until)| (*from..*until).contains(&issue));
        self.alive.iter().chain(dead.map(|(address, ..)| address)).cloned().collect()
    }
}

fn lists(post: &mut Post<'_>, plan: &Plan) {
    for number in 0..24_u64 {
        let mut chance = plan.chance().fork("list", number);
        let domain = format!("lists.{}{number}.example", chance.word(3));
        let mut host =
            Net::server(post.world.net.block(), chance.byte(2, 250), &domain, &mut chance);
        if chance.hit(0.08) {
            Net::unname(&mut host, &mut chance);
        }
        let host = Rc::new(host);
        let retry = crate::site::mail::Retry::server(&mut chance);
        let count = chance.few(9.0, 50);
        let per_day = chance.around(1.0, 0.8).clamp(0.2, 9.0) * plan.scale;
        let issues = per_day * plan.days;
        let mut members = Members::new(&post.world.home, count, issues, &mut chance);
        let (is_personal, name) = (chance.hit(0.5), chance.word(3));
        let mut serial = chance.below(90_000);
        let make = move |now, _: &World, chance: &mut Chance, out: &mut Outbox| {
            let route = || crate::site::mail::Route::One(Rc::clone(&host));
            serial += chance.whole(1, 40);
            if !is_personal {
                let sender = format!("{name}-bounces@{domain}");
                let mail = Mail::new(Kind::List, sender.into(), route(), retry, chance.split());
                return out.send(now, mail.to(members.next_issue()));
            }
            for (place, member) in members.next_issue().into_iter().enumerate() {
                let sender = if serial.is_multiple_of(2) {
                    format!("{name}-bounces+{}@{domain}", member.0.replace('@', "="))
                } else {
                    format!("{name}-return-{serial}-{}@{domain}", member.0.replace('@', "="))
                };
                let mail = Mail::new(Kind::List, sender.into(), route(), retry, chance.split());
                out.send(now + place as f64 * 0.4, mail.to([member]));
            }
        };
        stream(post, (per_day, true), ALWAYS, chance.fork("stream", 0), make);
    }
}

fn newsletters(post: &mut Post<'_>, plan: &Plan, peers: &Peers) {
    for number in 0..(80.0 * plan.scale) as u64 {
        let mut chance = plan.chance().fork("newsletter", number);
        let pool = Rc::clone(chance.pick(&peers.letters));
        let customer = format!("{}.example", chance.word(4));
        // A quarter of them send their first letter during the month.
        let from = if chance.hit(0.25) { chance.between(0.0, plan.days * DAY) } else { 0.0 };
        let count = chance.around(22.0, 0.8).min(250.0) as usize + 3;
        let style = chance.below(3);
        let per_day = *chance.pick(&[0.14, 0.14, 0.28, 0.07, 1.0]);
        let issues = per_day * plan.days;
        let mut members = Members::new(&post.world.home, count, issues, &mut chance);
        let mut serial = chance.below(9000);
        let make = move |now, _: &World, chance: &mut Chance, out: &mut Outbox| {
            serial += chance.whole(1, 9);
            for (place, member) in members.next_issue().into_iter().enumerate() {
                let id = 100_000 + place * 37;
                let sender = match style {
                    0 => format!(
                        "bounce-{serial}_HTML-{id}-{}@bounce.{}",
                        chance.digits(6),
                        pool.domain
                    ),
                    1 => format!(
                        "bounces+{serial}-{}-{}@em{}.{customer}",
                        chance.jumble(4),
                        member.0.replace('@', "="),
                        number % 90
                    ),
                    _ => format!("news-{id}-{serial}@{}", pool.domain),
                };
                let mail = Mail::new(
                    Kind::Newsletter,
                    sender.into(),
                    pool.route(),
                    pool.retry,
                    chance.split(),
                );
                out.send(now + place as f64 * 2.0, mail.to([member]));
            }
        };
        stream(post, (per_day, true), (from, f64::INFINITY), chance.fork("stream", 0), make);
    }
}

/// One mail from a machine: half by a pool that applications send by, half from hosts unheard of.
fn notifications(post: &mut Post<'_>, plan: &Plan, tastes: &Tastes, peers: &Peers) {
    let (hosting, tastes) = (peers.hosting.clone(), tastes.clone());
    let pool = Rc::clone(&peers.cloudses);
    let make = move |now, world: &World, chance: &mut Chance, out: &mut Outbox| {
        let user = world.home.user(chance);
        let own = chance.split();
        let mail = if chance.hit(0.8) {
            let sender = format!(
                "0102018{}-{}-000000@eu.{}",
                chance.jumble(9),
                chance.jumble(8),
                pool.domain
            );
            Mail::new(Kind::Notification, sender.into(), pool.route(), pool.retry, own)
        } else {
            let company = company(world, &tastes, &hosting, chance);
            let sender = format!("noreply-{}@{}", chance.jumble(6), company.domain);
            Mail::new(Kind::Notification, sender.into(), company.route, company.retry, own)
        };
        out.send(now, mail.to_users([user]));
    };
    stream(post, (70.0 * plan.scale, true), ALWAYS, plan.chance().fork("notifications", 0), make);
}

/// Shops and trackers that write to whoever orders, with a new sender each time.
fn shops(post: &mut Post<'_>, plan: &Plan) {
    for number in 0..50_u64 {
        let mut chance = plan.chance().fork("shop", number);
        let domain = format!("{}shop.example", chance.word(3));
        let name = format!("mail.{domain}");
        let mut host = Net::server(post.world.net.block(), chance.byte(2, 250), &name, &mut chance);
        if chance.hit(0.1) {
            Net::unname(&mut host, &mut chance);
        }
        let host = Rc::new(host);
        let retry = crate::site::mail::Retry::server(&mut chance);
        let per_day = chance.around(1.2, 0.8).min(20.0) * plan.scale;
        let make = move |now, world: &World, chance: &mut Chance, out: &mut Outbox| {
            let user = world.home.user(chance);
            let order = chance.digits(7);
            // An order, and what follows from it.
            for step in 0..chance.few(2.0, 4) {
                let sender = format!("order-{order}-{step}@{domain}");
                let route = crate::site::mail::Route::One(Rc::clone(&host));
                let mail =
                    Mail::new(Kind::Notification, sender.into(), route, retry, chance.split());
                out.send(now + step as f64 * 9.0 * HOUR, mail.to_users([Rc::clone(&user)]));
            }
        };
        stream(post, (per_day, true), ALWAYS, chance.fork("stream", 0), make);
    }
}
