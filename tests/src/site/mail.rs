//! One mail on its way: from whom, to whom, over which hosts, and how often it is tried.

use std::rc::Rc;

use super::chance::Chance;
use super::home::{Address, Behind};
use super::net::Host;

/// Every kind of sender in the month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "`Kind::about` says what each is")]
pub enum Kind {
    Company,
    Webmail,
    CloudMail,
    List,
    Newsletter,
    Notification,
    Bounce,
    ForwardedHam,
    BackupHam,
    Reply,
    NeverRetries,
    Drone,
    Dictionary,
    Hammerer,
    RetryingBot,
    Requeue,
    Snowshoe,
    WebmailSpam,
    HackedServer,
    RentedServer,
    NewsletterSpam,
    ForwardedSpam,
    BackupSpam,
    Person,
    Secretary,
    CustomerLetter,
    Application,
    Owner,
    Compromised,
}

/// Which way, and whether it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// Wanted mail to us.
    Ham,
    /// Spam to us.
    Spam,
    /// Mail of our users.
    Outbound,
    /// Spam through an account of ours.
    Abuse,
}

impl Kind {
    /// Every kind, in the order in which they are shown.
    pub const ALL: [Self; 29] = [
        Self::Company,
        Self::Webmail,
        Self::CloudMail,
        Self::List,
        Self::Newsletter,
        Self::Notification,
        Self::Bounce,
        Self::ForwardedHam,
        Self::BackupHam,
        Self::Reply,
        Self::NeverRetries,
        Self::Drone,
        Self::Dictionary,
        Self::Hammerer,
        Self::RetryingBot,
        Self::Requeue,
        Self::Snowshoe,
        Self::WebmailSpam,
        Self::HackedServer,
        Self::RentedServer,
        Self::NewsletterSpam,
        Self::ForwardedSpam,
        Self::BackupSpam,
        Self::Person,
        Self::Secretary,
        Self::CustomerLetter,
        Self::Application,
        Self::Owner,
        Self::Compromised,
    ];

    /// Name and explanation.
    pub fn about(self) -> (&'static str, &'static str) {
        match self {
            Self::Company => ("company", "small organisations with a mail server of their own"),
            Self::Webmail => {
                ("webmail", "people at large mailbox pools; a retry comes from elsewhere")
            }
            Self::CloudMail => ("cloud-mail", "organisations that a shared pool sends for"),
            Self::List => ("list", "mailing lists, half of them with an address per subscriber"),
            Self::Newsletter => {
                ("newsletter", "newsletters from shared pools, numbers in the sender")
            }
            Self::Notification => {
                ("notification", "a machine's one mail, the sender never seen again")
            }
            Self::Bounce => ("bounce", "answers with the null sender"),
            Self::ForwardedHam => ("forwarded-ham", "wanted mail through a forwarder"),
            Self::BackupHam => ("backup-ham", "wanted mail that came by our second mail exchanger"),
            Self::Reply => ("reply", "people whom our users wrote to first"),
            Self::NeverRetries => ("never-retries", "wanted mail from software that tries once"),
            Self::Drone => ("drone", "infected machines that try once"),
            Self::Dictionary => ("dictionary", "guessers of addresses"),
            Self::Hammerer => ("hammerer", "drones that try again within seconds"),
            Self::RetryingBot => ("retrying-bot", "drones with a queue"),
            Self::Requeue => ("requeue", "botnets that try again from another machine"),
            Self::Snowshoe => ("snowshoe", "spam spread over a /24 of named servers"),
            Self::WebmailSpam => ("webmail-spam", "spam accounts at mailbox pools"),
            Self::HackedServer => {
                ("hacked-server", "spam through a company's server that sends ham too")
            }
            Self::RentedServer => ("rented-server", "spam from a rented, well kept server"),
            Self::NewsletterSpam => ("newsletter-spam", "a bad customer of a newsletter pool"),
            Self::ForwardedSpam => ("forwarded-spam", "spam through a forwarder"),
            Self::BackupSpam => ("backup-spam", "spam by our second mail exchanger"),
            Self::Person => ("person", "users and their correspondents"),
            Self::Secretary => ("secretary", "a mail to all members of a club"),
            Self::CustomerLetter => ("customer-letter", "a weekly letter to 300 customers"),
            Self::Application => ("application", "servers in our network, without a login"),
            Self::Owner => ("owner", "what owners of compromised accounts send meanwhile"),
            Self::Compromised => ("compromised", "spam through accounts whose password was stolen"),
        }
    }

    /// Which way, and whether it is wanted.
    pub fn nature(self) -> Nature {
        match self {
            Self::Company
            | Self::Webmail
            | Self::CloudMail
            | Self::List
            | Self::Newsletter
            | Self::Notification
            | Self::Bounce
            | Self::ForwardedHam
            | Self::BackupHam
            | Self::Reply
            | Self::NeverRetries => Nature::Ham,
            Self::Drone
            | Self::Dictionary
            | Self::Hammerer
            | Self::RetryingBot
            | Self::Requeue
            | Self::Snowshoe
            | Self::WebmailSpam
            | Self::HackedServer
            | Self::RentedServer
            | Self::NewsletterSpam
            | Self::ForwardedSpam
            | Self::BackupSpam => Nature::Spam,
            Self::Person
            | Self::Secretary
            | Self::CustomerLetter
            | Self::Application
            | Self::Owner => Nature::Outbound,
            Self::Compromised => Nature::Abuse,
        }
    }

    /// Whether a scanner finds its spam easily.
    pub fn is_crude(self) -> bool {
        matches!(
            self,
            Self::Drone | Self::Dictionary | Self::Hammerer | Self::RetryingBot | Self::Requeue
        )
    }
}

/// Over which hosts a mail is tried.
#[derive(Clone, Debug)]
pub enum Route {
    /// Always the same.
    One(Rc<Host>),
    /// Any of a pool, each time.
    Pool(Rc<[Rc<Host>]>),
    /// One after the other.
    Chain(Vec<Rc<Host>>),
}

impl Route {
    /// The host of a try, counted from 0.
    pub fn host(&self, tries: u32, chance: &mut Chance) -> Rc<Host> {
        match self {
            Self::One(host) => Rc::clone(host),
            Self::Pool(pool) => Rc::clone(chance.pick(pool)),
            Self::Chain(hosts) => Rc::clone(&hosts[tries as usize % hosts.len()]),
        }
    }
}

/// When a mail is tried again. Times in seconds.
#[derive(Clone, Copy, Debug)]
pub enum Retry {
    /// Never.
    Never,
    /// A queue.
    Queue {
        /// Whether it tries another mail exchanger at once, first.
        soon: bool,
        /// First pause.
        first: f64,
        /// By what each pause is longer than the one before.
        factor: f64,
        /// Longest pause.
        most: f64,
        /// Age at which it gives up.
        give_up: f64,
    },
    /// A pause that grows with the square of the number of tries.
    Quadratic {
        /// Pause after the first try.
        unit: f64,
        /// Age at which it gives up.
        give_up: f64,
    },
    /// A pause between two bounds, so many times.
    Times {
        /// Shortest.
        low: f64,
        /// Longest.
        high: f64,
        /// How many tries follow the first.
        times: u32,
    },
}

const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;
const DAY: f64 = 86_400.0;

impl Retry {
    /// How long to wait after the try number `tries` (from 1), `age` after the first.
    pub fn pause(self, tries: u32, age: f64, chance: &mut Chance) -> Option<f64> {
        match self {
            Self::Never => None,
            Self::Queue { soon: true, .. } if tries == 1 => Some(chance.between(1.0, 4.0)),
            Self::Queue { soon, first, factor, most, give_up } => {
                let step = tries - 1 - u32::from(soon);
                let pause =
                    (first * factor.powi(step as i32)).min(most) * chance.between(0.95, 1.1);
                (age + pause < give_up).then_some(pause)
            }
            Self::Quadratic { unit, give_up } => {
                let next = unit * f64::from(tries) * f64::from(tries);
                (next < give_up).then(|| (next - age).max(1.0))
            }
            Self::Times { low, high, times } => (tries <= times).then(|| chance.between(low, high)),
        }
    }

    /// How a legitimate server does it, out of what servers do.
    pub fn server(chance: &mut Chance) -> Self {
        let soon = chance.hit(0.2);
        let queue = |first, factor, most, days| Self::Queue {
            soon,
            first,
            factor,
            most,
            give_up: days * DAY,
        };
        match chance.weighted(&[38.0, 8.0, 18.0, 12.0, 10.0, 5.0, 5.0, 1.5]) {
            0 => queue(chance.between(5.0, 10.0) * MINUTE, 2.0, 70.0 * MINUTE, 5.0),
            1 => queue(MINUTE, 2.0, 2.0 * HOUR, 3.0),
            2 => queue(15.0 * MINUTE, 1.25, 6.0 * HOUR, 4.0),
            3 => queue(10.0 * MINUTE, 1.0, 15.0 * MINUTE, 2.0),
            4 => queue(30.0 * MINUTE, 1.0, 30.0 * MINUTE, 5.0),
            5 => Self::Quadratic { unit: 400.0, give_up: 7.0 * DAY },
            6 => queue(chance.between(11.0, 20.0) * MINUTE, 1.6, 4.0 * HOUR, 4.0),
            _ => queue(4.0 * HOUR, 1.0, 4.0 * HOUR, 5.0),
        }
    }

    /// How a large pool does it.
    pub fn pool(chance: &mut Chance) -> Self {
        Self::Queue {
            soon: chance.hit(0.3),
            first: chance.between(1.0, 15.0) * MINUTE,
            factor: chance.between(1.3, 2.2),
            most: chance.between(0.5, 3.0) * HOUR,
            give_up: chance.between(1.5, 4.0) * DAY,
        }
    }

    /// A person who presses the button again.
    pub fn person(chance: &mut Chance) -> Self {
        let low = chance.between(3.0, 20.0) * MINUTE;
        Self::Times { low, high: low * 4.0, times: 4 }
    }

    /// Whether there is any second try.
    pub fn is_any(self) -> bool {
        !matches!(self, Self::Never)
    }
}

/// What became of a recipient.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// Still to be tried.
    Waiting,
    /// Taken, at this time.
    Accepted(f64),
    /// Refused for good, with this reply.
    Refused(Rc<str>),
    /// Given up after this last reply.
    GivenUp(Rc<str>),
}

/// A recipient of a mail.
#[derive(Clone, Debug)]
pub struct Recipient {
    /// The address.
    pub address: Rc<str>,
    /// Who is behind it.
    pub behind: Behind,
    /// What became of it.
    pub fate: Fate,
    /// The last reply that was no acceptance.
    pub last_reply: Option<Rc<str>>,
}

/// A mail.
#[derive(Debug)]
pub struct Mail {
    /// What sent it.
    pub kind: Kind,
    /// Envelope sender; empty is the null sender.
    pub sender: Rc<str>,
    /// Its recipients.
    pub recipients: Vec<Recipient>,
    /// Over which hosts.
    pub route: Route,
    /// When it is tried again.
    pub retry: Retry,
    /// The account it is sent through.
    pub login: Option<Rc<str>>,
    /// Which compromised account, if it is one's spam.
    pub case: Option<usize>,
    /// Its own chance.
    pub chance: Chance,
    /// Time of the first try; set by the post office.
    pub first_at: f64,
    /// Tries so far.
    pub tries: u32,
}

impl Mail {
    /// A mail from outside.
    pub fn new(kind: Kind, sender: Rc<str>, route: Route, retry: Retry, chance: Chance) -> Self {
        Self {
            kind,
            sender,
            recipients: Vec::new(),
            route,
            retry,
            login: None,
            case: None,
            chance,
            first_at: 0.0,
            tries: 0,
        }
    }

    /// With recipients.
    #[must_use]
    pub fn to(mut self, recipients: impl IntoIterator<Item = Address>) -> Self {
        self.recipients.extend(recipients.into_iter().map(|(address, behind)| Recipient {
            address,
            behind,
            fate: Fate::Waiting,
            last_reply: None,
        }));
        self
    }

    /// With users of ours as recipients.
    #[must_use]
    pub fn to_users(self, users: impl IntoIterator<Item = Rc<str>>) -> Self {
        self.to(users.into_iter().map(|user| (user, Behind::User)))
    }

    /// Through an account of ours.
    #[must_use]
    pub fn through(mut self, login: Rc<str>) -> Self {
        self.login = Some(login);
        self
    }
}
