//! The score of a month: what was stopped, what was lost, who waited how long.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::home::Behind;
use super::judge::Reply;
use super::mail::{Fate, Kind, Mail, Nature};
use super::net::Host;

const WEEK: f64 = 7.0 * 86_400.0;
const LOST_SHOWN: usize = 40;
/// A wanted mail that waits for longer is shown, in seconds.
const LATE: f64 = 45.0 * 60.0;
const LATE_SHOWN: usize = 200;

/// Counts of one kind of sender. Recipients are counted once for each mail to them.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Mails.
    pub mails: u64,
    /// Recipients that exist (users of ours, or addresses elsewhere).
    pub recipients: u64,
    /// Recipients that do not exist, and traps.
    pub nobodies: u64,
    /// Questions at RCPT.
    pub asked: u64,
    /// Answers 4xx.
    pub deferred: u64,
    /// Answers 5xx.
    pub refused: u64,
    /// Existing recipients that got the mail.
    pub passed: u64,
    /// Existing recipients of whom the mail was refused for good.
    pub lost_to_5xx: u64,
    /// Existing recipients for whom the sender gave up.
    pub given_up: u64,
    /// Existing recipients that got the mail later than at the first try.
    pub delayed: u64,
}

/// A compromised account.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// First message of the thief.
    pub first_at: Option<f64>,
    /// First answer that was not yes.
    pub stopped_at: Option<f64>,
    /// Messages out before that.
    pub out_before: u64,
    /// Messages out in all.
    pub out: u64,
    /// Recipients of those.
    pub recipients: u64,
    /// Questions at RCPT.
    pub tried: u64,
    /// What sort of theft it is.
    pub sort: &'static str,
}

/// The score.
#[derive(Clone, Debug, Default)]
pub struct Score {
    rows: BTreeMap<Kind, Row>,
    replies: BTreeMap<(Kind, String), u64>,
    /// Delay and time of the first try, of every wanted recipient that got its mail.
    delays: Vec<(f64, f64)>,
    lost: Vec<String>,
    lost_count: u64,
    late: Vec<String>,
    /// Compromised accounts.
    pub cases: Vec<Case>,
    /// Requests in all, verdicts included.
    pub verdicts: u64,
    asked_at_end: u64,
}

/// A reply without what differs from one to the next: numbers, ids, addresses.
fn class(text: &str) -> String {
    let mut out = String::new();
    for word in text.split(' ').take(9) {
        let is_code = out.len() < 10;
        let has_digit = word.bytes().any(|byte| byte.is_ascii_digit());
        out.push_str(match (is_code, has_digit || word.contains('@')) {
            (true, _) | (_, false) => word,
            (false, true) => "#",
        });
        out.push(' ');
    }
    out.trim_end().to_owned()
}

fn late(mail: &Mail, recipient: &str, (delay, host): (f64, &Host), reply: &str) -> String {
    format!(
        "day {:.2} {} {:.0} min late: {} -> {recipient} from {} {}: {reply}",
        mail.first_at / 86_400.0,
        mail.kind.about().0,
        delay / 60.0,
        mail.sender,
        host.address,
        host.name,
    )
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(0.0)
}

impl Score {
    /// An answer at RCPT.
    pub fn answer(&mut self, kind: Kind, behind: Behind, reply: &Reply) {
        let row = self.rows.entry(kind).or_default();
        row.asked += 1;
        let text = match reply {
            Reply::Accept => return,
            Reply::Later { text, .. } => {
                row.deferred += 1;
                text
            }
            Reply::Never { text, .. } => {
                row.refused += 1;
                text
            }
        };
        if matches!(behind, Behind::User | Behind::Elsewhere) {
            *self.replies.entry((kind, class(text))).or_default() += 1;
        }
    }

    /// An answer to the thief of an account.
    pub fn case(&mut self, case: Option<usize>, at: f64, reply: &Reply) {
        let Some(case) = case.and_then(|case| self.cases.get_mut(case)) else {
            return;
        };
        case.first_at.get_or_insert(at);
        case.tried += 1;
        if *reply != Reply::Accept {
            case.stopped_at.get_or_insert(at);
        }
    }

    /// A message went out.
    pub fn sent(&mut self, case: Option<usize>, recipients: usize) {
        let Some(case) = case.and_then(|case| self.cases.get_mut(case)) else {
            return;
        };
        case.out += 1;
        case.recipients += recipients as u64;
        if case.stopped_at.is_none() {
            case.out_before += 1;
        }
    }

    /// A mail that nobody tries any more.
    pub fn finish(&mut self, mail: &Mail, host: &Host) {
        let row = self.rows.entry(mail.kind).or_default();
        row.mails += 1;
        for recipient in &mail.recipients {
            if matches!(recipient.behind, Behind::Nobody | Behind::Trap) {
                row.nobodies += 1;
                continue;
            }
            row.recipients += 1;
            let (how, text) = match &recipient.fate {
                Fate::Accepted(at) => {
                    row.passed += 1;
                    row.delayed += u64::from(*at > mail.first_at);
                    if mail.kind.nature() == Nature::Ham && mail.retry.is_any() {
                        let delay = at - mail.first_at;
                        self.delays.push((delay, mail.first_at));
                        if delay > LATE && self.late.len() < LATE_SHOWN {
                            let reply = recipient.last_reply.as_deref().unwrap_or_default();
                            self.late.push(late(mail, &recipient.address, (delay, host), reply));
                        }
                    }
                    continue;
                }
                Fate::Refused(text) => {
                    row.lost_to_5xx += 1;
                    ("refused", text)
                }
                Fate::GivenUp(text) => {
                    row.given_up += 1;
                    ("given up", text)
                }
                Fate::Waiting => continue,
            };
            let is_lost = mail.kind.nature() == Nature::Ham && mail.retry.is_any();
            self.lost_count += u64::from(is_lost);
            if is_lost && self.lost.len() < LOST_SHOWN {
                let (address, name) = (host.address, &host.name);
                self.lost.push(format!(
                    "day {:.2} {} {how} after {} tries: {} -> {} from {address} {name}: {text}",
                    mail.first_at / 86_400.0,
                    mail.kind.about().0,
                    mail.tries,
                    mail.sender,
                    recipient.address,
                ));
            }
        }
    }

    /// A question at END-OF-MESSAGE was asked.
    pub fn asked_at_end(&mut self) {
        self.asked_at_end += 1;
    }

    /// Counts of a kind.
    pub fn row(&self, kind: Kind) -> Row {
        self.rows.get(&kind).cloned().unwrap_or_default()
    }

    fn sum(&self, nature: Nature, of: impl Fn(&Row) -> u64) -> u64 {
        let rows = self.rows.iter().filter(|(kind, _)| kind.nature() == nature);
        rows.map(|(_, row)| of(row)).sum()
    }

    /// Requests of the month.
    pub fn requests(&self) -> u64 {
        self.rows.values().map(|row| row.asked).sum::<u64>() + self.verdicts + self.asked_at_end
    }

    /// Share of spam to users that was refused before DATA, in percent.
    pub fn spam_refused(&self) -> f64 {
        let all = self.sum(Nature::Spam, |row| row.recipients);
        share(all - self.sum(Nature::Spam, |row| row.passed), all)
    }

    /// Wanted mail that did not arrive although its sender tried again.
    pub fn ham_lost(&self) -> u64 {
        self.lost_count
    }

    /// Share of wanted recipients that had to wait, first week left out, in percent.
    pub fn delayed_later(&self) -> f64 {
        let later = self.delays.iter().filter(|(_, at)| *at >= WEEK);
        let (all, delayed) = later.fold((0, 0), |(all, delayed), (delay, _)| {
            (all + 1, delayed + u64::from(*delay > 0.0))
        });
        share(delayed, all)
    }

    /// Delay given in seconds, of those that had to wait: p50, p95, p99. `later`: without the
    /// first week.
    pub fn delay(&self, later: bool) -> [f64; 3] {
        let from = if later { WEEK } else { 0.0 };
        let waited = self.delays.iter().filter(|(delay, at)| *delay > 0.0 && *at >= from);
        let mut sorted: Vec<f64> = waited.map(|(delay, _)| *delay).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        [quantile(&sorted, 0.5), quantile(&sorted, 0.95), quantile(&sorted, 0.99)]
    }

    /// Share of the wanted mail of our users that did not go out, in percent.
    pub fn outbound_refused(&self) -> f64 {
        let row = |of: fn(&Row) -> u64| self.sum(Nature::Outbound, of) - of(&self.row(Kind::Owner));
        let all = row(|row| row.recipients);
        share(all - row(|row| row.passed), all)
    }

    /// The most messages that went out through one compromised account.
    pub fn most_out(&self) -> u64 {
        self.cases.iter().map(|case| case.out).max().unwrap_or(0)
    }

    /// All of it, for programs.
    pub fn json(&self) -> Value {
        let kinds: serde_json::Map<String, Value> = Kind::ALL
            .iter()
            .filter(|kind| self.rows.contains_key(kind))
            .map(|kind| {
                let row = self.row(*kind);
                let value = json!({
                    "mails": row.mails, "recipients": row.recipients, "nobodies": row.nobodies,
                    "asked": row.asked, "deferred": row.deferred, "refused": row.refused,
                    "passed": row.passed, "lost_to_5xx": row.lost_to_5xx,
                    "given_up": row.given_up, "delayed": row.delayed,
                });
                (kind.about().0.to_owned(), value)
            })
            .collect();
        let cases: Vec<Value> = self.cases.iter().map(Case::json).collect();
        json!({
            "requests": self.requests(),
            "spam_refused_percent": self.spam_refused(),
            "ham_lost": self.ham_lost(),
            "ham_delayed_after_week_one_percent": self.delayed_later(),
            "delay_seconds": self.delay(false),
            "delay_seconds_after_week_one": self.delay(true),
            "outbound_refused_percent": self.outbound_refused(),
            "most_out_of_a_compromised_account": self.most_out(),
            "compromised": cases,
            "kinds": kinds,
            "lost": self.lost,
            "late": self.late,
        })
    }

    /// All of it, for people. `against`: the reference's score of the same month.
    pub fn table(&self, against: Option<&Self>) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "{} requests\n", self.requests());
        self.summary(against, &mut out);
        self.cases_table(&mut out);
        self.kinds_table(against, &mut out);
        if !self.lost.is_empty() {
            let _ =
                writeln!(out, "\nLost wanted mail, {} of {}:", self.lost.len(), self.lost_count);
            for line in &self.lost {
                let _ = writeln!(out, "  {line}");
            }
        }
        out
    }

    fn summary(&self, against: Option<&Self>, out: &mut String) {
        let mut line = |label: &str, of: &dyn Fn(&Self) -> String| {
            let other = against.map_or_else(String::new, |other| format!("{:>22}", of(other)));
            let _ = writeln!(out, "{label:56}{:>22}{other}", of(self));
        };
        let minutes =
            |of: [f64; 3]| format!("{:.1} {:.1} {:.1}", of[0] / 60.0, of[1] / 60.0, of[2] / 60.0);
        line("", &|score| if std::ptr::eq(score, self) { "judged" } else { "triplet" }.into());
        line("spam to users refused before DATA, %", &|score| {
            format!("{:.2}", score.spam_refused())
        });
        line("wanted mail lost though its sender retries", &|score| score.ham_lost().to_string());
        line("wanted recipients delayed after week one, %", &|score| {
            format!("{:.2}", score.delayed_later())
        });
        line("delay where there was one, min: p50 p95 p99", &|score| minutes(score.delay(false)));
        line("  the same after week one", &|score| minutes(score.delay(true)));
        line("outbound wanted mail refused, %", &|score| {
            format!("{:.3}", score.outbound_refused())
        });
        line("most messages out of one compromised account", &|score| score.most_out().to_string());
    }

    fn cases_table(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "\n{:28}{:>9}{:>9}{:>9}{:>12}{:>10}{:>14}",
            "compromised account",
            "from day",
            "tried",
            "out",
            "recipients",
            "before",
            "stopped after"
        );
        for (number, case) in self.cases.iter().enumerate() {
            let stopped = match (case.first_at, case.stopped_at) {
                (Some(first), Some(stopped)) => format!("{:.1} min", (stopped - first) / 60.0),
                (Some(_), None) => "never".into(),
                (None, _) => "not begun".into(),
            };
            let _ = writeln!(
                out,
                "{:28}{:>9.2}{:>9}{:>9}{:>12}{:>10}{stopped:>14}",
                format!("{number} {}", case.sort),
                case.first_at.unwrap_or(0.0) / 86_400.0,
                case.tried,
                case.out,
                case.recipients,
                case.out_before,
            );
        }
    }

    fn kinds_table(&self, against: Option<&Self>, out: &mut String) {
        let _ = writeln!(
            out,
            "\n{:16}{:>8}{:>9}{:>9}{:>9}{:>8}{:>8}{:>9}{:>8}{:>9}{:>10}",
            "kind",
            "mails",
            "nobody",
            "asked",
            "4xx",
            "5xx",
            "users",
            "passed",
            "delay%",
            "stop%",
            if against.is_some() { "triplet%" } else { "" },
        );
        for kind in Kind::ALL {
            let row = self.row(kind);
            let stopped = |row: &Row| share(row.recipients - row.passed, row.recipients);
            let other = against.map(|other| format!("{:.1}", stopped(&other.row(kind))));
            let _ = writeln!(
                out,
                "{:16}{:>8}{:>9}{:>9}{:>9}{:>8}{:>8}{:>9}{:>8.1}{:>9.1}{:>10}",
                kind.about().0,
                row.mails,
                row.nobodies,
                row.asked,
                row.deferred,
                row.refused,
                row.recipients,
                row.passed,
                share(row.delayed, row.recipients),
                stopped(&row),
                other.unwrap_or_default(),
            );
        }
    }

    /// Which replies were given for existing recipients, by kind.
    pub fn why(&self) -> String {
        let mut out = String::from("replies other than yes, for existing recipients\n");
        for ((kind, text), count) in &self.replies {
            let _ = writeln!(out, "  {:16}{count:>9}  {text}", kind.about().0);
        }
        out
    }
}

impl Case {
    fn json(&self) -> Value {
        let stopped = self.stopped_at.zip(self.first_at).map(|(stopped, first)| stopped - first);
        json!({
            "sort": self.sort, "first_at": self.first_at, "stopped_after_seconds": stopped,
            "out_before": self.out_before, "out": self.out, "recipients": self.recipients,
            "tried": self.tried,
        })
    }
}
