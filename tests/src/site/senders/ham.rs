//! Wanted mail that people write.

use std::rc::Rc;

use crate::site::chance::Chance;
use crate::site::home::{Behind, Home};
use crate::site::mail::{Kind, Mail, Retry, Route};
use crate::site::post::{Outbox, Post, World};

use super::peers::{Peers, company};
use super::{ALWAYS, DAY, HOUR, Plan, Tastes, stream};

/// Wakes people.
pub(super) fn populate(post: &mut Post<'_>, plan: &Plan, tastes: &Tastes, peers: &Peers) {
    companies(post, plan, peers);
    strangers(post, plan, tastes, peers);
    pools(post, plan, peers);
    bounces(post, plan, peers);
    forwarders(post, plan, peers);
    never_retries(post, plan, tastes, peers);
}

/// Whom somebody writes to: mostly the same few users, sometimes several, rarely nobody by a slip.
fn recipients(home: &Home, person: &Chance, chance: &mut Chance) -> Vec<(Rc<str>, Behind)> {
    let mut contacts = person.fork("contacts", 0);
    let count = contacts.few(2.0, 6);
    let friends = home.users(count, &mut contacts);
    if chance.hit(0.008) {
        return vec![(home.nobody(chance), Behind::Nobody)];
    }
    let user = |user| (user, Behind::User);
    if chance.hit(0.08) {
        let count = chance.few(3.0, 8);
        return home.users(count, chance).into_iter().map(user).collect();
    }
    if chance.hit(0.1) {
        return vec![user(home.user(chance))];
    }
    vec![user(Rc::clone(chance.pick(&friends)))]
}

fn companies(post: &mut Post<'_>, plan: &Plan, peers: &Peers) {
    for (number, company) in peers.companies.iter().enumerate() {
        let mut chance = plan.chance().fork("company", number as u64);
        // Some begin to write later in the month.
        let from = if chance.hit(0.25) { chance.between(0.0, plan.days * DAY) } else { 0.0 };
        let per_day = chance.around(1.1, 0.9).min(30.0);
        let company = Rc::clone(company);
        let people = chance.fork("people", 0);
        let make = move |now, world: &World, chance: &mut Chance, out: &mut Outbox| {
            let number = chance.below(company.people);
            let mut person = people.fork("person", number as u64);
            let sender = format!("{}.{}@{}", person.word(2), person.word(3), company.domain);
            let to = recipients(&world.home, &person, chance);
            let own = chance.split();
            let mail =
                Mail::new(Kind::Company, sender.into(), company.route.clone(), company.retry, own);
            out.send(now, mail.to(to));
        };
        stream(post, (per_day, true), (from, f64::INFINITY), chance.fork("stream", 0), make);
    }
}

/// Companies that were never heard of and write once or a few times.
fn strangers(post: &mut Post<'_>, plan: &Plan, tastes: &Tastes, peers: &Peers) {
    let (hosting, tastes) = (peers.hosting.clone(), tastes.clone());
    let per_day = tastes.strangers * plan.scale;
    let make = move |now, world: &World, chance: &mut Chance, out: &mut Outbox| {
        let company = company(world, &tastes, &hosting, chance);
        let sender: Rc<str> = format!("{}@{}", chance.word(3), company.domain).into();
        let user = world.home.user(chance);
        let mut at = now;
        for number in 0..chance.few(1.8, 6) {
            let own = chance.fork("mail", number as u64);
            let mail = Mail::new(
                Kind::Company,
                Rc::clone(&sender),
                company.route.clone(),
                company.retry,
                own,
            );
            out.send(at, mail.to_users([Rc::clone(&user)]));
            at += chance.between(2.0 * HOUR, 3.0 * DAY);
        }
    };
    stream(post, (per_day, true), ALWAYS, plan.chance().fork("strangers", 0), make);
}

fn pools(post: &mut Post<'_>, plan: &Plan, peers: &Peers) {
    let shares = [130.0, 75.0, 45.0, 30.0, 6.0];
    let all = peers.webmail.iter().zip(shares).map(|(pool, share)| (Kind::Webmail, pool, share));
    for (kind, pool, per_day) in all.chain([(Kind::CloudMail, &peers.cloud, 260.0)]) {
        let pool = Rc::clone(pool);
        let people = plan.chance().fork("pool", 0).fork(&pool.domain, 0);
        let count = (per_day * 8.0) as usize;
        let chance = people.fork("stream", 0);
        let make = move |now, world: &World, chance: &mut Chance, out: &mut Outbox| {
            // One in twenty writes for the first time.
            let is_new = chance.hit(0.05);
            let number = if is_new { chance.number() } else { chance.below(count) as u64 };
            let mut person = people.fork("person", number);
            let sender = if kind == Kind::CloudMail {
                let mut firm = people.fork("firm", number % 170);
                format!("{}.{}@{}.example", person.word(2), person.word(3), firm.word(4))
            } else {
                format!("{}{}{}@{}", person.word(2), person.word(2), person.below(100), pool.domain)
            };
            let to = recipients(&world.home, &person, chance);
            let own = chance.split();
            out.send(now, Mail::new(kind, sender.into(), pool.route(), pool.retry, own).to(to));
        };
        stream(post, (per_day * plan.scale, true), ALWAYS, chance, make);
    }
}

fn bounces(post: &mut Post<'_>, plan: &Plan, peers: &Peers) {
    let companies = peers.companies.clone();
    let pools: Vec<_> = peers.webmail.clone();
    let make = move |now, world: &World, chance: &mut Chance, out: &mut Outbox| {
        let (route, retry) = if chance.hit(0.6) {
            let company = chance.pick(&companies);
            (company.route.clone(), company.retry)
        } else {
            let pool = chance.pick(&pools);
            (pool.route(), pool.retry)
        };
        let user = world.home.user(chance);
        let own = chance.split();
        out.send(now, Mail::new(Kind::Bounce, "".into(), route, retry, own).to_users([user]));
    };
    stream(post, (12.0 * plan.scale, true), ALWAYS, plan.chance().fork("bounces", 0), make);
}

/// Wanted mail through forwarders and by our second mail exchangers.
fn forwarders(post: &mut Post<'_>, plan: &Plan, peers: &Peers) {
    let forwarders = peers.forwarders.iter().map(|host| (Kind::ForwardedHam, host, 9.0));
    let backups = peers.backups.iter().map(|host| (Kind::BackupHam, host, 3.0));
    for (number, (kind, host, per_day)) in forwarders.chain(backups).enumerate() {
        let host = Rc::clone(host);
        let chance = plan.chance().fork("forwarder", number as u64);
        let make = move |now, world: &World, chance: &mut Chance, out: &mut Outbox| {
            let sender = format!("{}@{}.example", chance.word(3), chance.word(4));
            let (sender, user) = forwarded(kind, &sender, &host.domain, &world.home, chance);
            let own = chance.split();
            let mail = Mail::new(kind, sender, host.route.clone(), host.retry, own);
            out.send(now, mail.to_users([user]));
        };
        stream(post, (per_day * plan.scale, true), ALWAYS, chance, make);
    }
}

/// Sender and user of a forwarded mail. A forwarder has few users; half of them rewrite senders.
pub(super) fn forwarded(
    kind: Kind,
    sender: &str,
    domain: &str,
    home: &Home,
    chance: &mut Chance,
) -> (Rc<str>, Rc<str>) {
    if matches!(kind, Kind::BackupHam | Kind::BackupSpam) {
        return (sender.into(), home.user(chance));
    }
    let mut own = Chance::new(3).fork(domain, 0);
    let rewrites = own.hit(0.5);
    let count = own.whole(4, 15);
    let users = home.users(count, &mut own);
    let (local, at) = sender.split_once('@').unwrap_or((sender, ""));
    let sender = if rewrites {
        format!("SRS0={}={}={at}={local}@{domain}", chance.jumble(4), chance.jumble(2))
    } else {
        sender.to_owned()
    };
    (sender.into(), Rc::clone(chance.pick(&users)))
}

fn never_retries(post: &mut Post<'_>, plan: &Plan, tastes: &Tastes, peers: &Peers) {
    let (hosting, tastes) = (peers.hosting.clone(), tastes.clone());
    let make = move |now, world: &World, chance: &mut Chance, out: &mut Outbox| {
        let company = company(world, &tastes, &hosting, chance);
        let Route::One(host) = company.route else { return };
        let sender = format!("www-data@{}", host.helo);
        let user = world.home.user(chance);
        let own = chance.fork("mail", 0);
        let mail =
            Mail::new(Kind::NeverRetries, sender.into(), Route::One(host), Retry::Never, own);
        out.send(now, mail.to_users([user]));
    };
    stream(post, (3.0 * plan.scale, true), ALWAYS, plan.chance().fork("never", 0), make);
}
