//! `[quarantine]`, and what policies say of it: how long and how much is held, and when users are told.

use std::collections::BTreeMap;

use mpp_settings::form::{duration_text, size_text};
use mpp_settings::{Diagnostic, Reader, Secret};

use crate::directory::smtp::Server;

const DAY_S: i64 = 86_400;
/// So long a secret is at least.
const SECRET_BYTES: usize = 32;

/// `[quarantine]`: messages that are held for a person to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quarantine {
    /// Where they are; empty: in the state directory.
    pub folder: String,
    /// The mail server that gets what is released and no proxy sends, such as what was held behind a
    /// milter; asked in order until one answers.
    pub release_to: Vec<Server>,
    /// What holds for all together, whatever a policy says.
    pub limits: Limits,
    /// What the links of digests begin with, up to the `?`; empty: they have none.
    pub links: String,
    /// What signs links and released messages, the same on all nodes that have it; nothing: a key that
    /// the folder has.
    pub secret: Option<Secret>,
    /// What the default policy says.
    pub default: Terms,
    /// What policies say that have something of their own, by their names.
    pub policies: BTreeMap<String, Terms>,
}

/// How much is held. The oldest goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// For how long a message is kept, in milliseconds.
    pub keep_ms: u64,
    /// How many bytes all of them may take on disk.
    pub size: u64,
    /// How many bytes those of one user may take.
    pub user_size: u64,
}

/// What a policy says of the mail that it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// How much of it.
    pub limits: Limits,
    /// When its users are told; nothing: never.
    pub digest: Option<Schedule>,
}

/// `[policy.NAME.digest]`: when users are told of what was held for them, by the clock of the place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Times of the day, in seconds, in their order.
    pub at_s: Vec<u32>,
    /// Days of the week on which it goes out, from Monday on.
    pub days: [bool; 7],
    /// Whether users are told for whom nothing was held and something was refused.
    pub refused: bool,
}

impl Quarantine {
    /// What the policy of that name says; one that is not there (any more) says what `default` says.
    pub fn terms(&self, policy: &str) -> &Terms {
        self.policies.get(policy).unwrap_or(&self.default)
    }

    /// Whether any policy tells its users.
    pub fn has_digests(&self) -> bool {
        let mut all = self.policies.values().chain([&self.default]);
        all.any(|terms| terms.digest.is_some())
    }

    pub(crate) fn read(table: &mut Reader<'_>) -> Self {
        let quarantine = Self {
            folder: table.text("folder", ""),
            release_to: table.list("release_to", &[], Server::parse),
            limits: Limits {
                keep_ms: table.period_ms("keep", "30d"),
                size: table.size_bytes("size", "10 GiB"),
                user_size: table.size_bytes("user_size", "200 MiB"),
            },
            links: table.text("links", ""),
            secret: table.secret("secret"),
            ..Self::default()
        };
        let links = &quarantine.links;
        let is_web = links.starts_with("https://") || links.starts_with("http://");
        let is_plain = links.bytes().all(|b| b.is_ascii_graphic() && !b"?#<>\"'&".contains(&b));
        let is_fine = links.is_empty() || is_web && is_plain;
        if !is_fine {
            table.mistake(
                "links",
                "expected a place on the web, such as \"https://mail.example.org/held\"",
            );
        }
        let length = quarantine.secret.as_ref().map_or(SECRET_BYTES, |it| it.reveal().len());
        // One that is read from a file is empty until the file was handed in.
        if length < SECRET_BYTES {
            let message = format!("expected at least {SECRET_BYTES} letters that nobody can guess");
            table.mistake("secret", &message);
        }
        table.finish();
        quarantine
    }

    /// Reads what the default policy says.
    pub(crate) fn read_default(&mut self, policy: &mut Reader<'_>) {
        self.default = self.read_terms(policy);
    }

    /// Reads what another policy says, if it says anything of its own.
    pub(crate) fn read_policy(&mut self, policy: &mut Reader<'_>, name: &str) {
        let (has_limits, has_digest) = (policy.has_own("quarantine"), policy.has_own("digest"));
        if has_limits || has_digest {
            let terms = self.read_terms(policy);
            self.policies.insert(name.to_owned(), terms);
        }
    }

    fn read_terms(&self, policy: &mut Reader<'_>) -> Terms {
        let limits = self.read_limits(&mut policy.table("quarantine"));
        let digest = read_schedule(&mut policy.table("digest"));
        Terms { limits, digest }
    }

    /// Limits of a policy: what it does not say, and what is more than holds for all, is what holds
    /// for all.
    fn read_limits(&self, table: &mut Reader<'_>) -> Limits {
        let all = self.limits;
        let read = Limits {
            keep_ms: table.duration_ms("keep", &duration_text(all.keep_ms)).max(1),
            size: table.size_bytes("size", &size_text(all.size)),
            user_size: table.size_bytes("user_size", &size_text(all.user_size)),
        };
        for (name, is_more, most) in [
            ("keep", read.keep_ms > all.keep_ms, duration_text(all.keep_ms)),
            ("size", read.size > all.size, size_text(all.size)),
            ("user_size", read.user_size > all.user_size, size_text(all.user_size)),
        ] {
            if let Some((place, _)) = table.value(name).filter(|_| is_more) {
                let message = format!("`{name}` is more than `quarantine.{name}`, which holds");
                let problem = Diagnostic::warning(place.clone(), message);
                table.report(problem.help(format!("raise quarantine.{name}, now \"{most}\"")));
            }
        }
        table.finish();
        Limits {
            keep_ms: read.keep_ms.min(all.keep_ms),
            size: read.size.min(all.size),
            user_size: read.user_size.min(all.user_size),
        }
    }
}

fn read_schedule(table: &mut Reader<'_>) -> Option<Schedule> {
    const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let mut at_s = table.list("at", &[], time_of_day);
    at_s.sort_unstable();
    at_s.dedup();
    let days = table.list("days", &DAYS, |text| {
        let day = DAYS.iter().position(|day| text.eq_ignore_ascii_case(day));
        day.ok_or_else(|| format!("`{text}` is none of {}", DAYS.join(", ")))
    });
    let refused = table.flag("refused", false);
    if days.is_empty() && !at_s.is_empty() && table.value("days").is_some() {
        table.mistake("days", "on which days? without `days` it is every day");
    }
    table.finish();
    let mut is_on = [false; 7];
    for day in days {
        if let Some(is_on) = is_on.get_mut(day) {
            *is_on = true;
        }
    }
    (!at_s.is_empty()).then_some(Schedule { at_s, days: is_on, refused })
}

/// Reads `HH:MM`, or `HH:MM:SS`, in seconds.
fn time_of_day(text: &str) -> Result<u32, String> {
    let wrong = || "expected a time of the day, such as \"07:00\"".to_owned();
    let mut parts = text.split(':').map(|part| match part.as_bytes() {
        [b'0'..=b'9', b'0'..=b'9'] => part.parse::<u32>().ok(),
        _ => None,
    });
    let (Some(Some(hour)), Some(Some(minute))) = (parts.next(), parts.next()) else {
        return Err(wrong());
    };
    let second = parts.next().unwrap_or(Some(0)).ok_or_else(wrong)?;
    if hour > 23 || minute > 59 || second > 59 || parts.next().is_some() {
        return Err(wrong());
    }
    Ok(hour * 3600 + minute * 60 + second)
}

impl Schedule {
    /// The last time at or before a moment at which digests are to go out, both in seconds since 1970
    /// as the clock on the wall counts them: so a clock that is put back in autumn passes no time
    /// twice, and one that is put on in spring leaves none out.
    pub fn last(&self, local_s: i64) -> Option<i64> {
        let today = local_s.div_euclid(DAY_S);
        (0..=7).map(|ago| today - ago).find_map(|day| {
            // 1970 began on a Thursday.
            let weekday = usize::try_from((day + 3).rem_euclid(7)).ok()?;
            let is_on = self.days.get(weekday).copied().unwrap_or(false);
            let times = self.at_s.iter().rev().map(|at_s| day * DAY_S + i64::from(*at_s));
            times.filter(|_| is_on).find(|time| *time <= local_s)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> crate::Compiled {
        crate::compile("x", text, &BTreeMap::new(), 1)
    }

    #[test]
    fn policies_say_less_and_never_more() {
        let text = "[quarantine]\nkeep = \"20d\"\n[policy.default.quarantine]\nkeep = \"10d\"\n\
            user_size = \"1 MiB\"\n[policy.a]\nmatch.recipient = [\"@a.example\"]\n\
            quarantine.keep = \"3d\"\n[policy.b]\nmatch.recipient = [\"@b.example\"]\n\
            [policy.c]\nmatch.recipient = [\"@c.example\"]\nquarantine.keep = \"90d\"\n";
        let read = read(text);
        assert_eq!(read.diagnostics.len(), 1, "{:?}", read.diagnostics);
        assert!(read.diagnostics[0].message.contains("which holds"));
        let quarantine = read.configuration.unwrap().quarantine;
        let days = |policy: &str| quarantine.terms(policy).limits.keep_ms / 86_400_000;
        assert_eq!([days("a"), days("b"), days("c"), days("gone")], [3, 10, 20, 10]);
        assert_eq!(quarantine.terms("a").limits.user_size, 1 << 20);
        assert_eq!(quarantine.policies.len(), 2, "what says nothing takes no room");
    }

    #[test]
    fn schedules_are_read_and_inherited() {
        let text = "[policy.default.digest]\nat = \"07:00\"\nrefused = true\n[policy.a]\n\
            match.recipient = [\"@a.example\"]\ndigest.at = [\"16:30\", \"08:00:30\"]\n\
            digest.days = [\"Mon\", \"fri\"]\n[policy.b]\nmatch.recipient = [\"@b.example\"]\n\
            digest.at = []\n[proxy.x]\nlisten = [\"127.0.0.1:1\"]\nnext_hop = [\"127.0.0.1:2\"]\n";
        let read = read(text);
        assert_eq!(read.diagnostics, []);
        let quarantine = read.configuration.unwrap().quarantine;
        let of = |policy: &str| quarantine.terms(policy).digest.clone();
        assert_eq!(of("other").unwrap().at_s, [7 * 3600]);
        let own = of("a").unwrap();
        assert_eq!((own.at_s, own.refused), (vec![8 * 3600 + 30, 16 * 3600 + 1800], true));
        assert_eq!(own.days, [true, false, false, false, true, false, false]);
        assert_eq!(of("b"), None, "off");
        let alone = self::read("[policy.default.digest]\nat = \"07:00\"\n");
        assert!(alone.diagnostics[0].message.contains("there is none"));
    }

    #[test]
    fn digests_and_released_mail_leave_by_a_proxy_or_where_the_quarantine_says() {
        let text = "[quarantine]\nrelease_to = \"127.0.0.1:10026\"\n\
            [policy.default.digest]\nat = \"07:00\"\n";
        let read = read(text);
        assert_eq!(read.diagnostics, []);
        let quarantine = read.configuration.unwrap().quarantine;
        assert_eq!(
            quarantine.release_to.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["127.0.0.1:10026"]
        );
        assert!(self::read("[quarantine]\nrelease_to = \"nowhere\"\n").configuration.is_none());
    }

    #[test]
    fn what_is_held_behind_a_milter_alone_needs_a_way_out() {
        let scanner = "[listen]\nmilter = [\"127.0.0.1:1\"]\n[scanner.x]\nkind = \"clamd\"\n\
            servers = [\"127.0.0.1:2\"]\n[policy.default.scan]\nwith = [\"x\"]\n";
        let proxy = "[proxy.x]\nlisten = [\"127.0.0.1:1\"]\nnext_hop = [\"127.0.0.1:2\"]\n";
        let holds = "quarantine = 8\n";
        let never = "quarantine = 0\nvirus = \"reject\"\n";
        for (rest, wanted) in [
            (holds.to_owned(), true),
            ("quarantine = 0\nvirus = \"quarantine\"\n".to_owned(), true),
            (never.to_owned(), false),
            (
                format!(
                    "{never}[policy.a]\nmatch.sender = [\"a@b.example\"]\nscan.quarantine = 9\n"
                ),
                true,
            ),
            (format!("{holds}mode = \"shadow\"\n"), false),
            (format!("{holds}[quarantine]\nrelease_to = \"127.0.0.1:3\"\n"), false),
            (format!("{holds}{proxy}"), false),
        ] {
            let read = read(&format!("{scanner}{rest}"));
            let configuration =
                read.configuration.unwrap_or_else(|| panic!("{:?}", read.diagnostics));
            assert_eq!(configuration.holds_for_good(), wanted, "{rest}");
        }
    }

    #[test]
    fn a_secret_is_long_and_not_shown() {
        let of = |secret: &str| read(&format!("[quarantine]\nsecret = \"{secret}\"\n"));
        assert!(of("hunter2").configuration.is_none());
        let long = "0123456789abcdef0123456789abcdef";
        let read = of(long);
        assert_eq!(read.diagnostics, []);
        assert!(!format!("{:?}{:?}", read.configuration, read.effective).contains(long));
        assert!(of("file:key").wanted.contains_key("key"));
    }

    #[test]
    fn what_is_no_time_is_said() {
        for at in ["7:00", "24:00", "07:60", "noon", "07:00:00:00", "", "07", "+7:00"] {
            let text = format!("[policy.default.digest]\nat = \"{at}\"\n");
            assert!(read(&text).configuration.is_none(), "{at}");
        }
        let text = "[policy.default.digest]\nat = \"07:00\"\ndays = [\"someday\"]\nevry = 1\n";
        let errors = read(text).diagnostics.into_iter();
        let errors = errors.filter(|it| it.severity == mpp_settings::Severity::Error);
        assert_eq!(errors.count(), 3);
    }

    #[test]
    fn the_last_time_is_found_over_a_week() {
        let schedule = |days: &[usize]| {
            let mut on = [false; 7];
            for day in days {
                on[*day] = true;
            }
            Schedule { at_s: vec![3_600, 7_200], days: on, refused: false }
        };
        // 2026-11-28 is a Saturday.
        let saturday = 20_785 * DAY_S;
        let daily = schedule(&[0, 1, 2, 3, 4, 5, 6]);
        for (local_s, last) in [
            (saturday + 3_599, saturday - DAY_S + 7_200),
            (saturday + 3_600, saturday + 3_600),
            (saturday + 7_199, saturday + 3_600),
            (saturday + DAY_S - 1, saturday + 7_200),
        ] {
            assert_eq!(daily.last(local_s), Some(last));
        }
        assert_eq!(schedule(&[5]).last(saturday + 3_000), Some(saturday - 7 * DAY_S + 7_200));
        assert_eq!(schedule(&[0]).last(saturday), Some(saturday - 5 * DAY_S + 7_200));
        assert_eq!(schedule(&[]).last(saturday), None);
        assert_eq!(daily.last(-1), Some(7_200 - DAY_S), "before 1970 as well");
    }
}
