//! What scanners find in a message, and what its policies want done about it.
//!
//! Every scanner has its own scale; here a message has *points*, and with [`SPAM`] points the scanner
//! calls it spam. Scores are compared with what the policy of each recipient says, so that nobody's
//! mail depends on a stranger's policy: one message may be delivered to some, marked for others, and
//! held for the rest.

use std::sync::Arc;

use mpp_settings::Reader;

use crate::checks::Mode;

/// So many points are spam, whatever the scanner's own scale is.
pub const SPAM: f32 = 5.0;

/// What a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Nothing is known against it.
    #[default]
    Clean,
    /// At least one scanner calls it spam.
    Spam,
    /// It carries what does harm.
    Virus,
}

impl Class {
    /// The name in log, headers and statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Spam => "spam",
            Self::Virus => "virus",
        }
    }
}

/// What one scanner says of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The scanner.
    pub scanner: Arc<str>,
    /// What it calls the message.
    pub class: Class,
    /// How sure it is: [`SPAM`] is where spam begins; negative for what speaks for the message.
    pub points: f32,
    /// Why, in its own words: names of rules, or of a virus; printable, of bounded length.
    pub tests: String,
}

/// What all scanners together say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scanned {
    /// The worst that any of them says.
    pub class: Class,
    /// The most points.
    pub points: f32,
    /// What each says.
    pub findings: Vec<Finding>,
    /// The scanners that were to be asked and have not answered.
    pub missing: Vec<Arc<str>>,
    /// The message is to come again, since one of those must not be passed by.
    pub waits: bool,
}

impl Scanned {
    /// Puts findings together.
    pub fn of(findings: Vec<Finding>) -> Self {
        let class = findings.iter().map(|finding| finding.class).max().unwrap_or_default();
        let points = findings.iter().map(|finding| finding.points);
        let points = points.fold(f32::NEG_INFINITY, f32::max);
        let points = if points.is_finite() { points } else { 0.0 };
        Self { class, points, findings, missing: Vec::new(), waits: false }
    }

    /// The same where a scanner has not answered.
    #[must_use]
    pub fn without(mut self, scanner: &Arc<str>, waits: bool) -> Self {
        self.waits |= waits;
        if !self.missing.contains(scanner) {
            self.missing.push(Arc::clone(scanner));
        }
        self
    }

    /// Whether a scanner that was to be asked has not answered.
    pub fn is_incomplete(&self) -> bool {
        !self.missing.is_empty()
    }
}

/// What is to become of a message for one recipient, the mildest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Delivered as it is.
    #[default]
    Deliver,
    /// Delivered with a mark.
    Tag,
    /// Delivered to somebody else.
    Redirect,
    /// Held, for a person to look at.
    Quarantine,
    /// Taken and thrown away.
    Discard,
    /// Refused.
    Reject,
}

impl Fate {
    /// All of them with their names in configuration and log.
    pub const ALL: [(&'static str, Self); 6] = [
        ("deliver", Self::Deliver),
        ("tag", Self::Tag),
        ("redirect", Self::Redirect),
        ("quarantine", Self::Quarantine),
        ("discard", Self::Discard),
        ("reject", Self::Reject),
    ];

    /// The name in configuration and log.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, fate)| *fate == self).map_or("", |(name, _)| name)
    }
}

/// Whose mail need not be scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Whoever is on an allow list.
    Allowed,
    /// Accounts of ours with a clean history.
    Authenticated,
    /// Local networks.
    Local,
    /// Whom our users wrote to first.
    Correspondents,
}

/// What holds when no scanner can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// The message is to come again.
    Defer,
    /// It passes, marked as unscanned.
    Pass,
}

/// `[policy.NAME.scan]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scanning {
    /// Whether scanners are asked, and whether what they say has consequences.
    pub mode: Mode,
    /// Asked side by side.
    pub with: Vec<Arc<str>>,
    /// Asked where the first are not sure.
    pub then: Vec<Arc<str>>,
    /// With fewer points the first are sure that it is clean.
    pub sure_clean: f32,
    /// With as many they are sure that it is spam.
    pub sure_spam: f32,
    /// What is written down for scanners that cannot be asked; nothing: what each of them says.
    pub down: Option<Down>,
    /// Whose mail is not scanned.
    pub skip: Vec<Skip>,
    /// The share of it that is scanned all the same.
    pub sample: f64,
    /// What is done from so many points on, the mildest first.
    pub fates: Vec<(f32, Fate)>,
    /// What is done with a virus.
    pub virus: Fate,
    /// What stands before the subject of marked mail; may be empty.
    pub subject: String,
    /// Who gets what is redirected.
    pub redirect_to: String,
    /// Attachments that are taken out: ends of names such as `exe`, and types such as
    /// `application/x-msdownload`; in lower case.
    pub strip: Vec<String>,
    /// Where the policy service has Postfix send what is to be scanned (access(5), FILTER); empty:
    /// nowhere.
    pub filter: String,
}

/// From how many points on what is done, the mildest first.
fn read_fates(table: &mut Reader<'_>) -> Vec<(f32, Fate)> {
    let mut fates = Vec::new();
    for (name, default, fate) in [
        ("tag", 5.0, Fate::Tag),
        ("redirect", 0.0, Fate::Redirect),
        ("quarantine", 8.0, Fate::Quarantine),
        ("discard", 0.0, Fate::Discard),
        ("reject", 12.0, Fate::Reject),
    ] {
        #[allow(clippy::cast_possible_truncation, reason = "points are small numbers")]
        let from = table.number(name, default, 0.0) as f32;
        // Nobody wants all mail refused: 0 is never.
        if from > 0.0 {
            fates.push((from, fate));
        }
    }
    fates
}

fn read_filter(table: &mut Reader<'_>) -> String {
    let filter = table.text("filter", "");
    let is_word = filter.bytes().all(|byte| byte.is_ascii_graphic());
    let is_fine = filter.is_empty() || is_word && filter.contains(':');
    if !is_fine {
        let message = "expected a transport and where it goes, such as \"smtp:[127.0.0.1]:10025\"";
        table.mistake("filter", message);
    }
    filter
}

impl Down {
    /// Reads the setting `down`; nothing where it is not written.
    pub fn read(table: &mut Reader<'_>) -> Option<Self> {
        let words = [("defer", Some(Self::Defer)), ("pass", Some(Self::Pass)), ("scanner", None)];
        table.choice("down", "scanner", &words).flatten()
    }

    /// What holds where a policy and a scanner may each have said something: to wait is on the safe
    /// side, and `usual` is for where nobody has said anything.
    pub fn of(policy: Option<Self>, scanner: Option<Self>, usual: Self) -> Self {
        match (policy, scanner) {
            (Some(Self::Defer), _) | (_, Some(Self::Defer)) => Self::Defer,
            (None, None) => usual,
            _ => Self::Pass,
        }
    }
}

impl Scanning {
    /// Whether anything is held by what scanners say.
    pub fn holds(&self) -> bool {
        let by_points = self.fates.iter().any(|(_, fate)| *fate == Fate::Quarantine);
        self.mode == Mode::Enforce && (by_points || self.virus == Fate::Quarantine)
    }

    /// Reads the settings; nothing if no scanner is named. `scanners` are those that there are.
    pub fn read(table: &mut Reader<'_>, scanners: &[Arc<str>]) -> Option<Self> {
        const SKIPS: [(&str, Skip); 4] = [
            ("allowed", Skip::Allowed),
            ("authenticated", Skip::Authenticated),
            ("local", Skip::Local),
            ("correspondents", Skip::Correspondents),
        ];
        let mode = table.choice("mode", "enforce", &Mode::ALL).unwrap_or(Mode::Enforce);
        let named = |text: &str| {
            let found = scanners.iter().find(|known| &***known == text);
            found.cloned().ok_or_else(|| format!("there is no `scanner.{text}`"))
        };
        let with = table.list("with", &[], named);
        let then = table.list("then", &[], named);
        #[allow(clippy::cast_possible_truncation, reason = "points are small numbers")]
        let mut points = |name, default: f64, least| table.number(name, default, least) as f32;
        let (sure_clean, sure_spam) =
            (points("sure_clean", 1.0, -1000.0), points("sure_spam", 12.0, 0.0));
        let fates = read_fates(table);
        let down = Down::read(table);
        let skip = table.list("skip", &["allowed", "authenticated", "local"], |text| {
            let found = SKIPS.iter().find(|(name, _)| *name == text).map(|(_, skip)| *skip);
            found.ok_or_else(|| {
                format!("`{text}` is none of allowed, authenticated, local, correspondents")
            })
        });
        let sample = table.share("sample", "5%");
        let virus = table.choice("virus", "reject", &Fate::ALL).unwrap_or(Fate::Reject);
        let subject = table.text("subject", "");
        if !subject.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            table.mistake("subject", "expected plain text, such as \"[SPAM]\"");
        }
        let redirect_to = table.text("redirect_to", "");
        let redirects =
            virus == Fate::Redirect || fates.iter().any(|(_, fate)| *fate == Fate::Redirect);
        if redirects && !redirect_to.contains('@') {
            table.mistake("redirect_to", "who is to get it? expected an address");
        }
        let filter = read_filter(table);
        let strip = table.list("strip", &[], |text| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"/.+-_".contains(&b);
            let is_fine = !text.is_empty() && text.bytes().all(plain);
            let lower = text.trim_start_matches('.').to_ascii_lowercase();
            if is_fine {
                Ok(lower)
            } else {
                Err("expected the end of a file name, such as \"exe\", or a type".to_owned())
            }
        });
        table.finish();
        let is_any = !with.is_empty() || !then.is_empty();
        is_any.then_some(Self {
            mode,
            with,
            then,
            sure_clean,
            sure_spam,
            down,
            skip,
            sample,
            fates,
            virus,
            subject,
            redirect_to,
            strip,
            filter,
        })
    }

    /// Whether what the first scanners say spares the others.
    pub fn is_sure(&self, first: &Scanned) -> bool {
        !first.is_incomplete()
            && (first.class == Class::Virus
                || first.points <= self.sure_clean
                || first.points >= self.sure_spam)
    }

    /// What is to become of a message by this policy.
    pub fn fate(&self, scanned: &Scanned) -> Fate {
        if self.mode != Mode::Enforce {
            return Fate::Deliver;
        }
        if scanned.class == Class::Virus {
            return self.virus;
        }
        let reached = self.fates.iter().filter(|(from, _)| scanned.points >= *from);
        reached.map(|(_, fate)| *fate).max().unwrap_or_default()
    }
}

/// What is to be done with a message, by the numbers of its recipients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// It is refused: nobody wants it.
    pub is_rejected: bool,
    /// Delivered as it is.
    pub deliver: Vec<usize>,
    /// Delivered with a mark.
    pub tag: Vec<usize>,
    /// Redirected.
    pub redirect: Vec<usize>,
    /// Held.
    pub quarantine: Vec<usize>,
}

impl Plan {
    /// One message has one answer: it is refused only where all refuse it. Else it is taken, and
    /// held for those who would have refused it, so that they lose nothing and no bounce goes to a
    /// sender who may be forged.
    pub fn of(fates: &[Fate]) -> Self {
        let mut plan = Self {
            is_rejected: !fates.is_empty() && fates.iter().all(|fate| *fate == Fate::Reject),
            ..Self::default()
        };
        if plan.is_rejected {
            return plan;
        }
        for (number, fate) in fates.iter().enumerate() {
            match fate {
                Fate::Deliver => plan.deliver.push(number),
                Fate::Tag => plan.tag.push(number),
                Fate::Redirect => plan.redirect.push(number),
                Fate::Quarantine | Fate::Reject => plan.quarantine.push(number),
                Fate::Discard => {}
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(class: Class, points: f32) -> Finding {
        Finding { scanner: "x".into(), class, points, tests: String::new() }
    }

    fn scanned(class: Class, points: f32) -> Scanned {
        Scanned::of(vec![finding(class, points)])
    }

    fn scanning(text: &str) -> Scanning {
        let document = mpp_settings::Document::parse("x", text);
        let session = mpp_settings::Session::new(document.files);
        let mut reader = session.reader("scan", vec![&document.root]);
        let scanning = Scanning::read(&mut reader, &["x".into(), "y".into()]);
        assert!(session.is_sound(), "{:?}", session.diagnostics());
        scanning.unwrap()
    }

    #[test]
    fn points_become_fates() {
        let policy = scanning("with = [\"x\"]\n");
        for (points, fate) in [
            (-3.0, Fate::Deliver),
            (4.9, Fate::Deliver),
            (5.0, Fate::Tag),
            (8.0, Fate::Quarantine),
            (500.0, Fate::Reject),
        ] {
            assert_eq!(policy.fate(&scanned(Class::Spam, points)), fate, "{points}");
        }
        assert_eq!(policy.fate(&scanned(Class::Virus, 0.0)), Fate::Reject);
        let policy = scanning("with = [\"x\"]\nmode = \"shadow\"\n");
        assert_eq!(policy.fate(&scanned(Class::Virus, 99.0)), Fate::Deliver);
        let policy = scanning("with = [\"x\"]\nreject = 0\nquarantine = 0\nvirus = \"discard\"\n");
        assert_eq!(policy.fate(&scanned(Class::Spam, 99.0)), Fate::Tag);
        assert_eq!(policy.fate(&scanned(Class::Virus, 99.0)), Fate::Discard);
    }

    #[test]
    fn a_sure_verdict_spares_the_others() {
        let policy = scanning("with = [\"x\"]\nthen = [\"y\"]\n");
        assert!(policy.is_sure(&scanned(Class::Clean, 0.0)));
        assert!(!policy.is_sure(&scanned(Class::Spam, 6.0)));
        assert!(policy.is_sure(&scanned(Class::Spam, 12.0)));
        assert!(policy.is_sure(&scanned(Class::Virus, 5.0)));
        let nobody = Scanned::of(Vec::new()).without(&"x".into(), false);
        assert!(!policy.is_sure(&nobody), "nobody has answered");
    }

    #[test]
    fn the_worst_of_all_findings_holds() {
        let all = vec![finding(Class::Clean, -2.0), finding(Class::Spam, 7.0)];
        let scanned = Scanned::of(all);
        assert_eq!((scanned.class, scanned.points), (Class::Spam, 7.0));
        assert!(Scanned::of(Vec::new()).points.abs() < f32::EPSILON);
        let odd = Scanned::of(vec![finding(Class::Clean, f32::NAN)]);
        assert!(odd.points.abs() < f32::EPSILON);
    }

    #[test]
    fn mail_waits_for_a_scanner_where_anybody_says_so() {
        use Down::{Defer, Pass};
        for (policy, scanner, usual, holds) in [
            (None, None, Pass, Pass),
            (None, None, Defer, Defer),
            (Some(Pass), None, Defer, Pass),
            (None, Some(Pass), Defer, Pass),
            (Some(Defer), None, Pass, Defer),
            (None, Some(Defer), Pass, Defer),
            (Some(Pass), Some(Defer), Pass, Defer),
            (Some(Defer), Some(Pass), Pass, Defer),
        ] {
            assert_eq!(Down::of(policy, scanner, usual), holds, "{policy:?} {scanner:?} {usual:?}");
        }
    }

    #[test]
    fn recipients_may_disagree() {
        let plan = Plan::of(&[Fate::Reject, Fate::Reject]);
        assert!(plan.is_rejected && plan.quarantine.is_empty());
        let plan =
            Plan::of(&[Fate::Reject, Fate::Tag, Fate::Deliver, Fate::Quarantine, Fate::Discard]);
        assert!(!plan.is_rejected);
        assert_eq!((plan.deliver, plan.tag, plan.quarantine), (vec![2], vec![1], vec![0, 3]));
        assert_eq!(Plan::of(&[Fate::Discard]), Plan::default());
        assert!(!Plan::of(&[]).is_rejected);
    }
}
