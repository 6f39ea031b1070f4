//! The reference: what a plain triplet greylister with a white list gets in the same month.
//!
//! It keys on /24, sender and recipient, asks for five minutes, and lets an address pass that
//! kept five appointments, like the ones that distributions ship. Unknown recipients are refused.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use super::home::Home;
use super::judge::{Ask, Judge, Reply, Stage};

const DELAY: f64 = 300.0;
const WINDOW: f64 = 2.0 * 86_400.0;
const MEMORY: f64 = 35.0 * 86_400.0;
const GOOD_AFTER: u32 = 5;

/// Organisations that never wait, as lists of distributions name the largest pools.
const WHITELIST: &[&str] = &["bigmail.example", "cloudmail.example", "cloudses.example"];

/// The reference.
#[derive(Debug)]
pub struct Triplet {
    users: HashSet<Rc<str>>,
    domains: Vec<&'static str>,
    seen: HashMap<(IpAddr, String, String), (f64, f64)>,
    good: HashMap<IpAddr, u32>,
    grey: Reply,
    unknown: Reply,
}

impl Triplet {
    /// For a site.
    pub fn new(home: &Home) -> Self {
        Self {
            users: home.users.iter().cloned().collect(),
            domains: home.domains.clone(),
            seen: HashMap::new(),
            good: HashMap::new(),
            grey: Reply::Later { text: "450 4.2.0 Greylisted".into(), hang_up: false },
            unknown: Reply::Never { text: "550 5.1.1 User unknown".into(), hang_up: false },
        }
    }
}

/// The /24 of an address, or its /64.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            Ipv4Addr::new(a, b, c, 0).into()
        }
        IpAddr::V6(v6) => {
            let bits = u128::from(v6) & !u128::from(u64::MAX);
            IpAddr::V6(bits.into())
        }
    }
}

impl Judge for Triplet {
    fn ask(&mut self, ask: &Ask<'_>) -> io::Result<Reply> {
        let local = matches!(ask.host.address, IpAddr::V4(v4) if v4.octets()[..3] == [192, 0, 2]);
        if ask.stage != Stage::Rcpt || local || !ask.login.is_empty() {
            return Ok(Reply::Accept);
        }
        let domain = ask.recipient.rsplit('@').next().unwrap_or_default();
        if self.domains.contains(&domain) && !self.users.contains(ask.recipient) {
            return Ok(self.unknown.clone());
        }
        let address = ask.host.address;
        let name = &ask.host.name;
        if self.good.get(&address).is_some_and(|kept| *kept >= GOOD_AFTER)
            || WHITELIST.iter().any(|domain| name.ends_with(domain))
        {
            return Ok(Reply::Accept);
        }
        let key = (network(address), ask.sender.to_owned(), ask.recipient.to_owned());
        let (first, last) = self.seen.entry(key).or_insert((ask.now, ask.now));
        let passed = *last - *first >= DELAY;
        if ask.now - *last > if passed { MEMORY } else { WINDOW } {
            *first = ask.now;
        }
        let was_waiting = *last - *first < DELAY;
        *last = ask.now;
        if ask.now - *first < DELAY {
            return Ok(self.grey.clone());
        }
        if was_waiting {
            *self.good.entry(address).or_default() += 1;
        }
        Ok(Reply::Accept)
    }
}
