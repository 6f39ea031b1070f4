//! Domains whose next hop takes mail for everybody: there "known" means nothing.
//!
//! Before the first "known" of a domain is believed, an address is asked about that cannot exist.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many domains are remembered; of one that is forgotten it is found out again.
const DOMAINS_MAX: usize = 10_000;
/// After a reply that says neither yes nor no it is tried again soon.
const RETRY: Duration = Duration::from_mins(1);

/// What is known of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// Nothing, or not lately: it is to be found out.
    Open,
    /// It refuses who does not exist.
    Verifies,
    /// It takes everybody.
    TakesAll,
}

/// All domains.
#[derive(Default)]
pub(super) struct Domains {
    all: Mutex<BTreeMap<String, (Habit, Instant)>>,
}

impl Domains {
    /// What is known of a domain, and still holds.
    pub(super) fn habit(&self, domain: &str) -> Habit {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get(domain) {
            Some((habit, until)) if Instant::now() < *until => *habit,
            _ => Habit::Open,
        }
    }

    /// Remembers what was found out about a domain, for so long.
    pub(super) fn learn(&self, domain: &str, habit: Habit, holds: Duration) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= DOMAINS_MAX && !all.contains_key(domain) {
            let now = Instant::now();
            all.retain(|_, (_, until)| now < *until);
            if all.len() >= DOMAINS_MAX {
                all.pop_first();
            }
        }
        all.insert(domain.to_owned(), (habit, Instant::now() + holds));
    }

    /// Nothing was found out: what was known before stays for a while.
    pub(super) fn put_off(&self, domain: &str) {
        let before = {
            let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(domain).map(|(habit, _)| *habit)
        };
        self.learn(domain, before.unwrap_or(Habit::Verifies), RETRY);
    }

    /// One line for each domain that takes everybody.
    pub(super) fn notices(&self) -> Vec<String> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let takes_all = all.iter().filter(|(_, (habit, _))| *habit == Habit::TakesAll);
        takes_all
            .map(|(domain, _)| {
                format!(
                    "the next hop takes mail for every address of {domain}, so nobody there can be \
                     told to be unknown; let it refuse unknown recipients"
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_out_holds_for_a_while_and_is_bounded() {
        let domains = Domains::default();
        assert_eq!(domains.habit("a.example"), Habit::Open);
        domains.learn("a.example", Habit::TakesAll, Duration::from_mins(1));
        assert_eq!(domains.habit("a.example"), Habit::TakesAll);
        domains.learn("a.example", Habit::TakesAll, Duration::ZERO);
        assert_eq!(domains.habit("a.example"), Habit::Open, "to be found out again");
        assert_eq!(domains.notices().len(), 1, "until then it is said");
        domains.put_off("a.example");
        assert_eq!(domains.habit("a.example"), Habit::TakesAll);
        domains.learn("a.example", Habit::Verifies, Duration::from_mins(1));
        assert!(domains.notices().is_empty());
        for number in 0..DOMAINS_MAX + 10 {
            domains.learn(&format!("{number}.example"), Habit::Verifies, Duration::from_mins(1));
        }
        assert!(domains.all.lock().unwrap().len() <= DOMAINS_MAX);
    }
}
