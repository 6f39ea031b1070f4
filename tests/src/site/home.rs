//! Our site: its domains, its users, those that left, and the traps. The same for every seed.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::rc::Rc;

use super::chance::Chance;

const FIRST: &[&str] = &[
    "anna", "ben", "carla", "david", "emma", "felix", "greta", "henry", "ida", "jonas", "karin",
    "leon", "maria", "nils", "olga", "paul", "quentin", "rosa", "simon", "tina", "ulrich", "vera",
    "walter", "xenia", "yusuf", "zoe", "martin", "julia", "peter", "sarah", "thomas", "laura",
];
const LAST: &[&str] = &[
    "adler", "bauer", "clark", "dietz", "evans", "fischer", "graf", "hughes", "iverson", "jansen",
    "keller", "lopez", "meyer", "novak", "olsen", "price", "quinn", "richter", "schmidt", "turner",
    "urban", "vogel", "weber", "young", "ziegler", "moore", "walker", "becker", "haas", "frank",
];
const ROLES: &[&str] = &["info", "sales", "office", "support", "postmaster", "abuse"];
/// Names that dictionary attackers try and that nobody here has.
const GUESSES: &[&str] = &[
    "admin",
    "test",
    "user",
    "mail",
    "john",
    "mike",
    "chris",
    "alex",
    "root",
    "backup",
    "scan",
    "david1",
    "linda",
    "webmaster",
    "marketing",
    "hr",
    "jobs",
    "press",
    "order",
    "account",
];

/// What stands behind an address, as the site sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behind {
    /// A user.
    User,
    /// Nobody.
    Nobody,
    /// A spam trap.
    Trap,
    /// Somebody at another site.
    Elsewhere,
}

/// A recipient of a mail.
pub type Address = (Rc<str>, Behind);

/// Our site.
#[derive(Debug)]
pub struct Home {
    /// Domains that we receive for; the first is the largest.
    pub domains: Vec<&'static str>,
    /// Addresses of users.
    pub users: Vec<Rc<str>>,
    /// Users that left and whose addresses are refused.
    pub retired: Vec<Rc<str>>,
    /// Users that left long ago and whose addresses are traps now.
    pub trapped: Vec<Rc<str>>,
}

/// How good a list of addresses is.
#[derive(Clone, Copy, Debug)]
pub struct ListQuality {
    /// Share of addresses that nobody has.
    pub unknown: f64,
    /// Share of addresses that are traps.
    pub traps: f64,
}

impl Home {
    /// The site.
    pub fn new() -> Self {
        let mut chance = Chance::new(1).fork("home", 0);
        let domains =
            vec!["northgate.example", "mill-lane.example", "orchard.example", "elm.example"];
        let mut seen = HashSet::new();
        let mut make = |place: usize, count: usize| {
            let mut made: Vec<Rc<str>> = Vec::new();
            while made.len() < count {
                let (first, last) = (*chance.pick(FIRST), *chance.pick(LAST));
                let local = match place {
                    0 => format!("{first}.{last}"),
                    1 => format!("{}{last}", &first[..1]),
                    2 => format!("{first}_{}", &last[..2]),
                    _ => first.to_owned(),
                };
                let address = format!("{local}@{}", domains[place]);
                if seen.insert(address.clone()) {
                    made.push(address.into());
                }
            }
            made
        };
        let mut users = make(0, 520);
        users.extend(make(1, 200));
        users.extend(make(2, 90));
        users.extend(make(3, 20));
        let (mut retired, mut trapped) = (make(0, 70), make(0, 40));
        retired.extend(make(1, 40));
        trapped.extend(make(1, 20));
        for domain in &domains {
            users.extend(ROLES.iter().map(|role| Rc::from(format!("{role}@{domain}"))));
        }
        // Popularity goes by place in the list, so it must not go by domain.
        for place in (1..users.len()).rev() {
            users.swap(place, chance.below(place + 1));
        }
        Self { domains, users, retired, trapped }
    }

    /// An address from a spammer's list of a quality. Some users are on more lists than others.
    pub fn listed(&self, quality: ListQuality, chance: &mut Chance) -> Address {
        let draw = chance.unit();
        if draw < quality.traps {
            (self.trap(chance), Behind::Trap)
        } else if draw < quality.traps + quality.unknown {
            (self.nobody(chance), Behind::Nobody)
        } else if chance.hit(0.5) {
            (Rc::clone(chance.popular(&self.users)), Behind::User)
        } else {
            (Rc::clone(chance.pick(&self.users)), Behind::User)
        }
    }

    /// A trap: a made-up address that a pattern matches, or a user's of long ago.
    pub fn trap(&self, chance: &mut Chance) -> Rc<str> {
        match chance.below(4) {
            0 => {
                let role = *chance.pick(&["", "sales", "info"]);
                format!("{role}{}@northgate.example", chance.digits(6)).into()
            }
            1 => format!("{}{}trap@mill-lane.example", letters(chance, 3), chance.digits(2)).into(),
            2 => format!("contact-20{}@orchard.example", chance.whole(10, 25)).into(),
            _ => Rc::clone(chance.pick(&self.trapped)),
        }
    }

    /// An address that nobody has: somebody that left, a guess, or a user's name mutilated.
    pub fn nobody(&self, chance: &mut Chance) -> Rc<str> {
        match chance.below(4) {
            0 => Rc::clone(chance.pick(&self.retired)),
            1 => {
                let (first, last) = (*chance.pick(FIRST), *chance.pick(LAST));
                format!("{first}-{last}@{}", chance.pick(&self.domains)).into()
            }
            2 => format!("x{}", chance.pick(&self.users)).into(),
            _ => self.guess(chance),
        }
    }

    /// What a dictionary attacker tries.
    pub fn guess(&self, chance: &mut Chance) -> Rc<str> {
        let name = *chance.pick(GUESSES);
        let tail =
            if chance.hit(0.6) { chance.whole(1, 99).to_string() } else { letters(chance, 1) };
        format!("{name}{tail}@{}", chance.popular(&self.domains)).into()
    }

    /// A user, some of whom get more mail than others.
    pub fn user(&self, chance: &mut Chance) -> Rc<str> {
        let list =
            if chance.hit(0.4) { chance.popular(&self.users) } else { chance.pick(&self.users) };
        Rc::clone(list)
    }

    /// Different users.
    pub fn users(&self, count: usize, chance: &mut Chance) -> Vec<Rc<str>> {
        let mut all: Vec<Rc<str>> = Vec::new();
        while all.len() < count.min(self.users.len()) {
            let user = self.user(chance);
            if !all.contains(&user) {
                all.push(user);
            }
        }
        all
    }

    /// Writes `domains.txt`, `recipients.txt` and `traps.regex`.
    ///
    /// # Errors
    /// Where the folder cannot be made or written.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("domains.txt"), self.domains.join("\n") + "\n")?;
        let mut sorted: Vec<&str> = self.users.iter().map(AsRef::as_ref).collect();
        sorted.sort_unstable();
        std::fs::write(folder.join("recipients.txt"), sorted.join("\n") + "\n")?;
        let mut traps = String::new();
        traps.push_str("^(sales|info)?[0-9]{6}@northgate\\.example$\n");
        traps.push_str("^[a-z]{3}[0-9]+trap@mill-lane\\.example$\n");
        traps.push_str("^contact-20(1[0-9]|2[0-5])@orchard\\.example$\n");
        for address in &self.trapped {
            let _ = writeln!(traps, "^{}$", address.replace('.', "\\."));
        }
        std::fs::write(folder.join("traps.regex"), traps)
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

fn letters(chance: &mut Chance, count: usize) -> String {
    (0..count).map(|_| char::from(chance.byte(b'a', b'z'))).collect()
}
