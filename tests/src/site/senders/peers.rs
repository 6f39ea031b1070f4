//! The legitimate part of the network: organisations, mailbox pools, newsletter pools.

use std::rc::Rc;

use crate::site::chance::Chance;
use crate::site::mail::{Retry, Route};
use crate::site::net::{Host, Net};
use crate::site::post::World;

use super::Tastes;

/// An organisation with a mail server of its own.
#[derive(Debug)]
pub(crate) struct Company {
    /// Its mail domain.
    pub(crate) domain: String,
    /// Its server, or two.
    pub(crate) route: Route,
    /// How it tries again.
    pub(crate) retry: Retry,
    /// How many of its people write to us.
    pub(crate) people: usize,
}

/// Hosts of one organisation that share the work.
#[derive(Debug)]
pub(crate) struct Pool {
    /// The organisation's domain.
    pub(crate) domain: String,
    /// Its hosts.
    pub(crate) hosts: Rc<[Rc<Host>]>,
    /// How it tries again.
    pub(crate) retry: Retry,
}

impl Pool {
    /// A route over any of its hosts.
    pub(crate) fn route(&self) -> Route {
        Route::Pool(Rc::clone(&self.hosts))
    }
}

/// Everybody.
#[derive(Debug)]
pub(crate) struct Peers {
    /// Small organisations.
    pub(crate) companies: Vec<Rc<Company>>,
    /// Mailbox pools.
    pub(crate) webmail: Vec<Rc<Pool>>,
    /// The pool that sends for many organisations.
    pub(crate) cloud: Rc<Pool>,
    /// The pool that applications send by.
    pub(crate) cloudses: Rc<Pool>,
    /// Newsletter pools.
    pub(crate) letters: Vec<Rc<Pool>>,
    /// Forwarders.
    pub(crate) forwarders: Vec<Rc<Company>>,
    /// Our second mail exchangers.
    pub(crate) backups: Vec<Rc<Company>>,
    /// Blocks at hosters, where anybody may have a server.
    pub(crate) hosting: Vec<([u8; 3], String)>,
}

fn pool(
    world: &World,
    (domain, naming): (&str, &str),
    (hosts, blocks): (usize, usize),
    chance: &mut Chance,
) -> Rc<Pool> {
    let blocks: Vec<[u8; 3]> = (0..blocks).map(|_| world.net.block()).collect();
    let hosts: Vec<Rc<Host>> = (0..hosts)
        .map(|number| {
            let block = blocks[number % blocks.len()];
            let name = format!("{}.{domain}", naming.replace('#', &(number + 11).to_string()));
            let mut host = Net::server(block, 10 + (number * 3 % 240) as u8, &name, chance);
            if naming.is_empty() {
                host.helo = Rc::from(format!("smtp.{domain}"));
                Net::unname(&mut host, chance);
            }
            Rc::new(host)
        })
        .collect();
    Rc::new(Pool { domain: domain.to_owned(), hosts: hosts.into(), retry: Retry::pool(chance) })
}

impl Peers {
    /// The peers of a month.
    pub(crate) fn new(world: &World, tastes: &Tastes, chance: &mut Chance, scale: f64) -> Self {
        let hosting: Vec<([u8; 3], String)> = (0..16)
            .map(|number| (world.net.block(), format!("hoster{}.example", number / 2)))
            .collect();
        let webmail = vec![
            pool(world, ("bigmail.example", "mail-ej1-f#"), (60, 4), chance),
            pool(world, ("hotpost.example", "snt#-out.prod"), (40, 6), chance),
            pool(world, ("sonnenpost.example", "mout#"), (14, 2), chance),
            pool(world, ("yondermail.example", "sonic#.consmr"), (30, 5), chance),
            pool(world, ("postkasten.example", ""), (10, 2), chance),
        ];
        let letters = (0..6)
            .map(|number| {
                let (hosts, blocks) = (chance.whole(8, 30), chance.whole(1, 3));
                let domain = format!("letterbox{number}.example");
                pool(world, (&domain, "o#.ptr"), (hosts, blocks), chance)
            })
            .collect();
        let companies = (0..(260.0 * scale.sqrt()) as usize)
            .map(|_| Rc::new(company(world, tastes, &hosting, chance)))
            .collect();
        let mut of_one = |name: String| {
            let host = Net::server(world.net.block(), 25, &name, chance);
            let domain = name.split_once('.').map_or("", |(_, domain)| domain).to_owned();
            let retry = Retry::server(chance);
            Rc::new(Company { domain, route: Route::One(Rc::new(host)), retry, people: 12 })
        };
        let forwarders =
            (0..8).map(|number| of_one(format!("fwd{number}.alumni{number}.example"))).collect();
        let backups =
            (0..2).map(|number| of_one(format!("mx{}.backupmx.example", number + 2))).collect();
        Self {
            companies,
            webmail,
            cloud: pool(
                world,
                ("cloudmail.example", "mail-west#.outbound.protection"),
                (60, 6),
                chance,
            ),
            cloudses: pool(world, ("cloudses.example", "a#-out.smtp"), (40, 3), chance),
            letters,
            forwarders,
            backups,
            hosting,
        }
    }

    /// Somebody at another site whom a user of ours may write to, by number.
    pub(crate) fn correspondent(&self, number: u64, chance: &Chance) -> Correspondent {
        let mut own = chance.fork("correspondent", number);
        if own.hit(0.35) {
            let pool = Rc::clone(own.pick(&self.webmail));
            let address = Rc::from(format!("{}.{}@{}", own.word(2), own.word(3), pool.domain));
            Correspondent { address, route: pool.route(), retry: pool.retry }
        } else if own.hit(0.2) {
            let address = Rc::from(format!("{}@{}.example", own.word(3), own.word(4)));
            Correspondent { address, route: self.cloud.route(), retry: self.cloud.retry }
        } else {
            let company = own.pick(&self.companies);
            let address = Rc::from(format!("{}@{}", own.word(3), company.domain));
            Correspondent { address, route: company.route.clone(), retry: company.retry }
        }
    }
}

/// Somebody at another site.
#[derive(Clone, Debug)]
pub(crate) struct Correspondent {
    /// Their address.
    pub(crate) address: Rc<str>,
    /// How their mail comes.
    pub(crate) route: Route,
    /// How it is tried again.
    pub(crate) retry: Retry,
}

/// A company somewhere: in a block of its own, or at a hoster; some without a name.
pub(crate) fn company(
    world: &World,
    tastes: &Tastes,
    hosting: &[([u8; 3], String)],
    chance: &mut Chance,
) -> Company {
    let domain = format!("{}{}.example", chance.word(3), chance.below(100));
    let at_hoster = chance.hit(0.45);
    let (block, hoster) = chance.pick(hosting).clone();
    let block = if at_hoster { block } else { world.net.block() };
    let last = chance.byte(2, 250);
    let name = if at_hoster && chance.hit(0.3) {
        format!("srv{}{last}.{hoster}", block[2])
    } else {
        format!("{}.{domain}", chance.pick(&["mail", "mx", "smtp", "mail01", "exchange"]))
    };
    let mut host = if chance.hit(0.12) {
        world.net.server_v6(&name)
    } else {
        Net::server(block, last, &name, chance)
    };
    if chance.hit(tastes.nameless) {
        Net::unname(&mut host, chance);
    }
    let route = if chance.hit(0.08) {
        let mut second = host.clone();
        let other = Net::server(world.net.block(), last, &name, chance);
        second.address = other.address;
        Route::Pool(vec![Rc::new(host), Rc::new(second)].into())
    } else {
        Route::One(Rc::new(host))
    };
    Company { domain, route, retry: Retry::server(chance), people: chance.few(4.0, 30) }
}
