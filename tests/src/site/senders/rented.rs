//! Spam that comes as good mail servers send: from rented and hacked servers, over mailbox and
//! newsletter pools, through forwarders.

use std::rc::Rc;

use crate::site::chance::Chance;
use crate::site::home::{Address, ListQuality};
use crate::site::mail::{Kind, Mail, Retry, Route};
use crate::site::net::{Host, Net};
use crate::site::post::{Outbox, Post, Sender, World};

use super::bots::list;
use super::ham::forwarded;
use super::peers::{Company, Peers};
use super::{ALWAYS, DAY, HOUR, Spam, stream};

/// Wakes one kind of it.
pub(super) fn populate(post: &mut Post<'_>, spam: &Spam, peers: &Peers, chance: &Chance) {
    let mut chance = chance.fork("rented", 0).fork(spam.kind.about().0, 0);
    match spam.kind {
        Kind::ForwardedSpam => through(post, spam, &peers.forwarders, &chance),
        Kind::BackupSpam => through(post, spam, &peers.backups, &chance),
        _ => {
            let mut left = spam.budget;
            while left > 0.0 {
                let wave = Wave::new(&post.world, spam, peers, &mut chance);
                left -= wave.total;
                post.wake_at(wave.from, wave);
            }
        }
    }
}

/// Spam to the users of forwarders, and by our second mail exchangers.
fn through(post: &mut Post<'_>, spam: &Spam, hosts: &[Rc<Company>], chance: &Chance) {
    let kind = spam.kind;
    let per_day = spam.budget / spam.days / hosts.len() as f64;
    for (number, host) in hosts.iter().enumerate() {
        let host = Rc::clone(host);
        let quality = list((0.02, 0.1), (0.0, 0.01), spam.tastes.list_badness, &mut chance.clone());
        let make = move |now, world: &World, chance: &mut Chance, out: &mut Outbox| {
            let sender =
                format!("{}{}@{}.example", chance.word(3), chance.below(99), chance.word(4));
            let (sender, user) = forwarded(kind, &sender, &host.domain, &world.home, chance);
            let to: Address = if kind == Kind::BackupSpam {
                world.home.listed(quality, chance)
            } else {
                (user, crate::site::home::Behind::User)
            };
            out.send(
                now,
                Mail::new(kind, sender, host.route.clone(), host.retry, chance.split()).to([to]),
            );
        };
        stream(post, (per_day, false), ALWAYS, chance.fork("through", number as u64), make);
    }
}

/// So much spam from one source in so much time.
struct Wave {
    kind: Kind,
    from: f64,
    until: f64,
    total: f64,
    list: ListQuality,
    hosts: Vec<Rc<Host>>,
    route: Option<Route>,
    /// Domains that it sends as; a snowshoe has several.
    domains: Vec<String>,
    retry: Retry,
    /// Share of mails with several recipients.
    together: f64,
    chance: Chance,
}

impl Wave {
    fn new(world: &World, spam: &Spam, peers: &Peers, chance: &mut Chance) -> Self {
        let badness = spam.tastes.list_badness;
        let month = spam.days * DAY;
        let from = chance.between(-0.05, 1.0) * month;
        let mut wave = Self {
            kind: spam.kind,
            from: from.max(0.0),
            until: 0.0,
            total: 0.0,
            list: ListQuality { unknown: 0.0, traps: 0.0 },
            hosts: Vec::new(),
            route: None,
            domains: Vec::new(),
            retry: Retry::server(chance),
            together: 0.0,
            chance: chance.split(),
        };
        // Share of the budget at most, so that small months have several waves too.
        let most = (spam.budget / 4.0).max(20.0);
        let mut size = |median: f64| chance.around(median, 0.7).clamp(8.0, most);
        match spam.kind {
            Kind::Snowshoe => {
                wave.total = size(900.0);
                wave.snowshoe(world, badness, chance);
            }
            Kind::WebmailSpam => {
                wave.total = size(45.0);
                wave.webmail(peers, badness, chance);
            }
            Kind::HackedServer => {
                wave.total = size(230.0);
                wave.hacked(peers, badness, chance);
            }
            Kind::RentedServer => {
                wave.total = size(260.0);
                wave.rented(world, peers, badness, chance);
            }
            _ => {
                wave.total = size(200.0);
                wave.newsletter(peers, badness, chance);
            }
        }
        wave
    }

    fn lasts(&mut self, low: f64, high: f64, chance: &mut Chance) {
        self.until = self.from + chance.between(low, high);
    }

    fn snowshoe(&mut self, world: &World, badness: f64, chance: &mut Chance) {
        let block = world.net.block();
        let hosts = chance.whole(12, 120);
        self.domains = (0..=hosts / 8)
            .map(|_| format!("{}-{}.example", chance.word(2), chance.word(2)))
            .collect();
        self.hosts = (0..hosts)
            .map(|number| {
                let domain = &self.domains[number % self.domains.len()];
                let name =
                    format!("{}{number}.{domain}", chance.pick(&["mx", "host-", "out", "r"]));
                Rc::new(Net::server(block, (2 + number * 2) as u8, &name, chance))
            })
            .collect();
        self.list = list((0.02, 0.12), (0.003, 0.025), badness, chance);
        self.lasts(2.0 * DAY, 12.0 * DAY, chance);
    }

    fn webmail(&mut self, peers: &Peers, badness: f64, chance: &mut Chance) {
        let pool = &peers.webmail[chance.weighted(&[0.5, 0.25, 0.05, 0.18, 0.02])];
        self.route = Some(pool.route());
        self.retry = pool.retry;
        let name = format!("{}{}{}", chance.word(2), chance.word(2), chance.below(9999));
        self.domains = vec![format!("{name}@{}", pool.domain)];
        self.list = list((0.04, 0.2), (0.005, 0.04), badness, chance);
        self.lasts(0.5 * HOUR, 8.0 * HOUR, chance);
        self.together = 0.2;
    }

    fn hacked(&mut self, peers: &Peers, badness: f64, chance: &mut Chance) {
        let company = chance.pick(&peers.companies);
        self.route = Some(company.route.clone());
        self.retry = company.retry;
        self.domains = if chance.hit(0.5) {
            vec![company.domain.clone()]
        } else {
            (0..6).map(|_| format!("{}.example", chance.word(4))).collect()
        };
        self.list = list((0.08, 0.3), (0.01, 0.05), badness, chance);
        self.lasts(3.0 * HOUR, 3.0 * DAY, chance);
        self.together = 0.1;
    }

    fn rented(&mut self, world: &World, peers: &Peers, badness: f64, chance: &mut Chance) {
        let hosts = chance.few(1.6, 5);
        let domain = format!("{}{}.example", chance.word(3), chance.below(100));
        for number in 0..hosts {
            let (block, hoster) = if chance.hit(0.5) {
                chance.pick(&peers.hosting).clone()
            } else {
                (world.net.block(), String::new())
            };
            let last = chance.byte(2, 250);
            let name = if !hoster.is_empty() && chance.hit(0.3) {
                format!("srv{}{last}.{hoster}", block[2])
            } else {
                format!("mail{number}.{domain}")
            };
            self.hosts.push(Rc::new(Net::server(block, last, &name, chance)));
        }
        self.domains = vec![domain];
        self.list = list((0.05, 0.28), (0.008, 0.05), badness, chance);
        self.lasts(6.0 * HOUR, 5.0 * DAY, chance);
        self.together = chance.between(0.0, 0.3);
    }

    fn newsletter(&mut self, peers: &Peers, badness: f64, chance: &mut Chance) {
        let pool = chance.pick(&peers.letters);
        self.route = Some(pool.route());
        self.retry = pool.retry;
        self.domains = if chance.hit(0.5) {
            vec![format!("bounce.{}", pool.domain)]
        } else {
            vec![format!("em{}.{}.example", chance.below(90), chance.word(4))]
        };
        self.list = list((0.04, 0.2), (0.005, 0.04), badness, chance);
        self.lasts(1.0 * HOUR, 12.0 * HOUR, chance);
    }

    fn sender(&mut self) -> Rc<str> {
        let chance = &mut self.chance;
        let domain = chance.pick(&self.domains);
        match self.kind {
            Kind::WebmailSpam => domain.as_str().into(),
            Kind::NewsletterSpam => {
                format!("bounce-{}-{}@{domain}", chance.digits(4), chance.digits(7)).into()
            }
            Kind::Snowshoe if chance.hit(0.5) => {
                format!("{}-{}@{domain}", chance.pick(&["deal", "offer", "news"]), chance.digits(8))
                    .into()
            }
            _ => format!("{}@{domain}", chance.pick(&["info", "news", "office", "hello", "anna"]))
                .into(),
        }
    }
}

impl Sender for Wave {
    fn wake(&mut self, now: f64, world: &World, post: &mut Outbox) -> Option<f64> {
        if now > self.until {
            return None;
        }
        let count = if self.chance.hit(self.together) { self.chance.whole(2, 10) } else { 1 };
        let to: Vec<Address> =
            (0..count).map(|_| world.home.listed(self.list, &mut self.chance)).collect();
        let route = match &self.route {
            Some(route) => route.clone(),
            None => Route::One(Rc::clone(self.chance.pick(&self.hosts))),
        };
        let sender = self.sender();
        let mail = Mail::new(self.kind, sender, route, self.retry, self.chance.split());
        post.send(now, mail.to(to));
        let mean = (self.until - self.from) / self.total * (1.0 + self.together * 5.0);
        Some(now + self.chance.wait(mean))
    }
}
