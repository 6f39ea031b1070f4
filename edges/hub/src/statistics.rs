//! What came, and what became of it, by day and policy.
//!
//! The greylist table is the one that greylisting is judged by: how many clients were seen, never
//! tried again, tried again and never passed, passed, and of those were never found to send spam.
//! It counts clients, not requests, with [`Sketch`]es, so it costs the same for a million drones.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use mpp_engine::checks::KINDS;
use mpp_engine::facts::Stage;
use mpp_engine::question::Note;
use mpp_engine::verdict::Action;
use serde_json::{Value, json};

use crate::funnel::Funnel;
use crate::sketch::Sketch;

const DAY_MS: u64 = 86_400_000;

/// Days kept.
pub const DAYS_MAX: u64 = 35;

/// Policies with rows of their own each day; what goes beyond is counted as of [`OTHERS`].
pub const POLICIES_MAX: usize = 1000;

/// What the rows of all policies beyond [`POLICIES_MAX`] are called.
pub const OTHERS: &str = "(others)";

/// Steps of the delay histogram per factor of two.
const STEPS: u32 = 8;
const DELAYS: usize = (40 * STEPS) as usize;

/// All statistics of a node.
#[derive(Debug, Default)]
pub struct Statistics {
    rows: Vec<(u64, Arc<str>, Row)>,
    index: HashMap<(u64, Arc<str>), usize>,
    /// The name of the row of others.
    others: Option<Arc<str>>,
    /// How many rows a day has.
    rows_of: HashMap<u64, usize>,
    /// The row that was asked for last: nearly always the one that is asked for next.
    last: usize,
    first_day: u64,
    spare: Row,
    /// Whether anything changed since it was last written.
    pub is_dirty: bool,
}

/// One day of one policy.
#[derive(Clone, Debug, Default)]
pub struct Row {
    decisions: Vec<(&'static str, Action, u64)>,
    shadow: Vec<(&'static str, Action, u64)>,
    seen: Sketch,
    came_back: Sketch,
    passed: Sketch,
    no_wait: Sketch,
    condemned: Sketch,
    delays: BTreeMap<u16, u64>,
    funnel: Funnel,
}

/// What is to be counted of one decision.
#[derive(Clone, Copy, Debug)]
pub struct Counted<'a> {
    /// When.
    pub now_ms: u64,
    /// The policy's name.
    pub policy: &'a Arc<str>,
    /// At which stage.
    pub stage: Stage,
    /// Bytes of the message, as far as it is known.
    pub bytes: u64,
    /// The check that decided.
    pub check: &'static str,
    /// What it decided.
    pub action: Action,
    /// Whether it is known from before, of this door or of one in front of it.
    pub is_repeat: bool,
    /// Whether it was delivered with a mark, or to somebody else.
    pub is_marked: bool,
    /// What a check in shadow mode would have decided.
    pub shadow: Option<(&'static str, Action)>,
}

impl Statistics {
    /// Counts a decision.
    pub fn count(&mut self, counted: Counted<'_>) {
        let row = self.row(counted.now_ms, counted.policy);
        add(&mut row.decisions, counted.check, counted.action, 1);
        let refuses = counted.action.refuses();
        if counted.check == SCAN {
            let is_caught = counted.action != Action::Accept || counted.is_marked;
            row.funnel.was_scanned((refuses, is_caught), counted.bytes);
        } else if refuses || !counted.is_repeat {
            // A message that passes two doors passes once.
            row.funnel.decided(counted.stage, refuses, counted.bytes);
        }
        if let Some((check, action)) = counted.shadow {
            add(&mut row.shadow, check, action, 1);
        }
    }

    /// Counts a line of the greylist table for a client. What happens later counts for the day of
    /// the first try.
    pub fn note(&mut self, (now_ms, policy): (u64, &Arc<str>), client: u64, note: Note) {
        match note {
            Note::FirstTry => self.row(now_ms, policy).seen.insert(client),
            Note::NoWait => self.row(now_ms, policy).no_wait.insert(client),
            Note::Condemned => self.row(now_ms, policy).condemned.insert(client),
            Note::CameBack { first_ms } => {
                let row = self.row(first_ms, policy);
                row.seen.insert(client);
                row.came_back.insert(client);
            }
            Note::Passed { first_ms } => {
                let row = self.row(first_ms, policy);
                row.seen.insert(client);
                row.came_back.insert(client);
                row.passed.insert(client);
                *row.delays.entry(step(now_ms.saturating_sub(first_ms))).or_default() += 1;
            }
        }
    }

    fn row(&mut self, at_ms: u64, policy: &Arc<str>) -> &mut Row {
        self.is_dirty = true;
        let day = at_ms / DAY_MS;
        let is_it = |(d, p, _): &(u64, Arc<str>, Row)| *d == day && Arc::ptr_eq(p, policy);
        if !self.rows.get(self.last).is_some_and(is_it) {
            self.last = self.place(day, policy);
        }
        match self.rows.get_mut(self.last) {
            Some((.., row)) => row,
            // Cannot be: the row was found or added above.
            None => &mut self.spare,
        }
    }

    fn place(&mut self, day: u64, policy: &Arc<str>) -> usize {
        if let Some(place) = self.index.get(&RowKey(day, policy)) {
            return *place;
        }
        let rows = self.rows_of.get(&day).copied().unwrap_or(0);
        if rows < POLICIES_MAX || &**policy == OTHERS {
            return self.add_row(day, Arc::clone(policy), Row::default());
        }
        let others = self.others.get_or_insert_with(|| OTHERS.into());
        let others = Arc::clone(others);
        self.place(day, &others)
    }

    fn add_row(&mut self, day: u64, policy: Arc<str>, row: Row) -> usize {
        *self.rows_of.entry(day).or_default() += 1;
        self.index.insert((day, Arc::clone(&policy)), self.rows.len());
        self.rows.push((day, policy, row));
        self.rows.len() - 1
    }

    fn sorted(&self) -> Vec<&(u64, Arc<str>, Row)> {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|(day, policy, _)| (*day, Arc::clone(policy)));
        rows
    }

    /// Drops days beyond [`DAYS_MAX`].
    pub fn expire(&mut self, now_ms: u64) {
        let first = (now_ms / DAY_MS).saturating_sub(DAYS_MAX);
        if std::mem::replace(&mut self.first_day, first) == first
            || self.rows.iter().all(|(day, ..)| *day >= first)
        {
            return;
        }
        self.index.clear();
        self.rows_of.clear();
        for (day, policy, row) in std::mem::take(&mut self.rows) {
            if day >= first {
                self.add_row(day, policy, row);
            }
        }
    }

    /// The rows by day and policy, oldest first, as JSON; see `docs/statistics.md`.
    pub fn report(&self) -> Value {
        let mut total = Row::default();
        let mut list = Vec::new();
        for (day, policy, row) in self.sorted() {
            total.merge(row);
            let mut line = row.report();
            if let Some(line) = line.as_object_mut() {
                line.insert("day".into(), json!(day_text(*day)));
                line.insert("policy".into(), json!(&**policy));
            }
            list.push(line);
        }
        json!({ "days": list, "total": total.report() })
    }

    /// Everything, to be written to a file.
    pub fn save(&self) -> Value {
        let rows = self.sorted().into_iter().map(|(day, policy, row)| {
            let mut saved = row.save();
            if let Some(saved) = saved.as_object_mut() {
                saved.insert("day".into(), json!(day));
                saved.insert("policy".into(), json!(&**policy));
            }
            saved
        });
        json!({ "version": 1, "rows": rows.collect::<Vec<_>>() })
    }

    /// What [`Statistics::save`] gave; rows that make no sense are left out.
    pub fn load(saved: &Value) -> Self {
        let mut statistics = Self::default();
        for row in saved.get("rows").and_then(Value::as_array).into_iter().flatten() {
            let day = row.get("day").and_then(Value::as_u64);
            let policy = row.get("policy").and_then(Value::as_str);
            if let (Some(day), Some(policy)) = (day, policy) {
                statistics.add_row(day, policy.into(), Row::load(row));
            }
        }
        statistics
    }
}

/// A key that borrows, so that a look-up does not touch the reference count.
#[derive(PartialEq, Eq, Hash)]
struct RowKey<'a>(u64, &'a Arc<str>);

impl hashbrown::Equivalent<(u64, Arc<str>)> for RowKey<'_> {
    fn equivalent(&self, key: &(u64, Arc<str>)) -> bool {
        self.0 == key.0 && (Arc::ptr_eq(self.1, &key.1) || **self.1 == *key.1)
    }
}

fn add(list: &mut Vec<(&'static str, Action, u64)>, check: &'static str, action: Action, by: u64) {
    match list.iter_mut().find(|(c, a, _)| *c == check && *a == action) {
        Some((.., count)) => *count += by,
        None => list.push((check, action, by)),
    }
}

impl Row {
    fn merge(&mut self, other: &Self) {
        for (check, action, count) in &other.decisions {
            add(&mut self.decisions, check, *action, *count);
        }
        for (check, action, count) in &other.shadow {
            add(&mut self.shadow, check, *action, *count);
        }
        self.seen.merge(&other.seen);
        self.came_back.merge(&other.came_back);
        self.passed.merge(&other.passed);
        self.no_wait.merge(&other.no_wait);
        self.condemned.merge(&other.condemned);
        self.funnel.merge(&other.funnel);
        for (step, count) in &other.delays {
            *self.delays.entry(*step).or_default() += count;
        }
    }

    fn report(&self) -> Value {
        let seen = self.seen.count();
        let passed = self.passed.count().min(seen);
        let came_back = self.came_back.count().clamp(passed, seen);
        let mut bad_passed = self.passed.clone();
        bad_passed.merge(&self.condemned);
        // Inclusion and exclusion: how many of those who passed were condemned.
        let both =
            (self.passed.count() + self.condemned.count()).saturating_sub(bad_passed.count());
        let list = |list: &[(&'static str, Action, u64)]| {
            let mut sorted = list.to_vec();
            sorted.sort_unstable();
            sorted
                .into_iter()
                .map(|(check, action, count)| {
                    json!({ "check": check, "action": action.name(), "count": count })
                })
                .collect::<Vec<_>>()
        };
        json!({
            "clients": {
                "seen": seen,
                "never_tried_again": seen - came_back,
                "never_passed": came_back - passed,
                "passed": passed,
                "legitimate": passed.saturating_sub(both),
                "did_not_wait": self.no_wait.count(),
            },
            "delay_ms": {
                "p50": self.delay_ms(0.50),
                "p95": self.delay_ms(0.95),
                "p99": self.delay_ms(0.99),
                "passed": self.delays.values().sum::<u64>(),
            },
            "decisions": list(&self.decisions),
            "shadow": list(&self.shadow),
            "funnel": self.funnel.report(),
        })
    }

    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among counts, rounded up"
    )]
    fn delay_ms(&self, quantile: f64) -> u64 {
        let all: u64 = self.delays.values().sum();
        let mut left = ((all as f64 * quantile).ceil() as u64).max(1);
        for (step, count) in &self.delays {
            if *count >= left {
                return 2_f64.powf(f64::from(*step) / f64::from(STEPS)).round() as u64;
            }
            left -= count;
        }
        0
    }

    fn save(&self) -> Value {
        let list = |list: &[(&'static str, Action, u64)]| {
            list.iter()
                .map(|(check, action, count)| json!([check, action.name(), count]))
                .collect::<Vec<_>>()
        };
        json!({
            "decisions": list(&self.decisions),
            "shadow": list(&self.shadow),
            "seen": save_sketch(&self.seen),
            "came_back": save_sketch(&self.came_back),
            "passed": save_sketch(&self.passed),
            "no_wait": save_sketch(&self.no_wait),
            "condemned": save_sketch(&self.condemned),
            "delays": self.delays.iter().collect::<Vec<_>>(),
            "funnel": self.funnel.save(),
        })
    }

    fn load(saved: &Value) -> Self {
        let list = |name: &str| {
            let mut list = Vec::new();
            for line in saved.get(name).and_then(Value::as_array).into_iter().flatten() {
                let text =
                    |place: usize| line.get(place).and_then(Value::as_str).unwrap_or_default();
                let action = Action::ALL.iter().find(|(_, name)| *name == text(1));
                let count = line.get(2).and_then(Value::as_u64);
                if let (Some((action, _)), Some(count)) = (action, count) {
                    add(&mut list, check_name(text(0)), *action, count);
                }
            }
            list
        };
        let mut delays = BTreeMap::new();
        for line in saved.get("delays").and_then(Value::as_array).into_iter().flatten() {
            let number = |place: usize| line.get(place).and_then(Value::as_u64).unwrap_or(0);
            delays.insert(u16::try_from(number(0)).unwrap_or(0), number(1));
        }
        Self {
            decisions: list("decisions"),
            shadow: list("shadow"),
            seen: load_sketch(saved.get("seen")),
            came_back: load_sketch(saved.get("came_back")),
            passed: load_sketch(saved.get("passed")),
            no_wait: load_sketch(saved.get("no_wait")),
            condemned: load_sketch(saved.get("condemned")),
            delays,
            funnel: Funnel::load(saved.get("funnel")),
        }
    }
}

/// What scanners decide is counted under this name.
const SCAN: &str = "scan";

/// What doors refuse by themselves.
const REFUSALS: [&str; 3] = ["relay", "connections", SCAN];

/// The check of that name, as the engine spells it.
fn check_name(name: &str) -> &'static str {
    let kinds = KINDS.iter().map(|kind| kind.name);
    kinds.chain(REFUSALS).find(|known| *known == name).unwrap_or("none")
}

fn save_sketch(sketch: &Sketch) -> Value {
    match sketch {
        Sketch::Exact(members) => {
            let mut sorted: Vec<u64> = members.iter().copied().collect();
            sorted.sort_unstable();
            json!(sorted)
        }
        // A register is at most 51: one printable byte each.
        Sketch::Registers(registers) => {
            json!(registers.iter().map(|r| char::from(b'0' + (*r).min(60))).collect::<String>())
        }
    }
}

fn load_sketch(saved: Option<&Value>) -> Sketch {
    match saved {
        Some(Value::String(registers)) => {
            let registers: Vec<u8> = registers.bytes().map(|b| b.saturating_sub(b'0')).collect();
            if registers.len() == 1 << 14 {
                return Sketch::Registers(registers.into_boxed_slice());
            }
            Sketch::default()
        }
        Some(Value::Array(members)) => {
            Sketch::Exact(members.iter().filter_map(Value::as_u64).collect())
        }
        _ => Sketch::default(),
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bucket of a histogram"
)]
fn step(ms: u64) -> u16 {
    let step = ((ms.max(1) as f64).log2() * f64::from(STEPS)).round();
    (step as u16).min(u16::try_from(DELAYS).unwrap_or(u16::MAX))
}

/// A day, counted from 1970, as people write it: 2026-11-24 (proleptic Gregorian).
pub fn day_text(day: u64) -> String {
    // Howard Hinnant's civil-from-days, for days since 1970 that are not negative.
    let shifted = day + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day_of_month:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_names() {
        for (day, text) in [
            (0, "1970-01-01"),
            (19_782, "2024-02-29"),
            (20_781, "2026-11-24"),
            (11_016, "2000-02-29"),
        ] {
            assert_eq!(day_text(day), text);
        }
    }

    #[test]
    fn thousands_of_policies_take_a_bounded_number_of_rows() {
        let mut statistics = Statistics::default();
        for number in 0..POLICIES_MAX + 500 {
            let policy: Arc<str> = format!("p{number}").into();
            statistics.note((DAY_MS, &policy), number as u64, Note::FirstTry);
            statistics.note((DAY_MS, &policy), number as u64, Note::FirstTry);
        }
        assert_eq!(statistics.rows.len(), POLICIES_MAX + 1);
        let (_, name, others) = statistics.rows.last().unwrap();
        assert_eq!((&**name, others.seen.count()), (OTHERS, 500));
    }

    #[test]
    fn the_greylist_table_and_what_is_saved_of_it() {
        let policy: Arc<str> = "default".into();
        let mut statistics = Statistics::default();
        for client in 1..=100 {
            statistics.note((1_000, &policy), client, Note::FirstTry);
        }
        for client in 1..=10 {
            statistics.note((2_000, &policy), client, Note::CameBack { first_ms: 1_000 });
        }
        for client in 1..=6 {
            statistics.note((301_000, &policy), client, Note::Passed { first_ms: 1_000 });
        }
        statistics.note((400_000, &policy), 6, Note::Condemned);
        statistics.note((400_000, &policy), 77_777, Note::NoWait);
        statistics.count(Counted {
            now_ms: 1_000,
            policy: &policy,
            stage: Stage::Rcpt,
            bytes: 0,
            check: "greylist",
            action: Action::Defer,
            is_repeat: false,
            is_marked: false,
            shadow: None,
        });
        let report = statistics.report();
        assert_eq!(
            report["total"]["clients"],
            json!({ "seen": 100, "never_tried_again": 90, "never_passed": 4, "passed": 6,
                "legitimate": 5, "did_not_wait": 1 })
        );
        assert_eq!(report["days"][0]["day"], "1970-01-01");
        let p50 = report["total"]["delay_ms"]["p50"].as_u64().unwrap();
        assert!(p50.abs_diff(300_000) < 15_000, "{p50}");
        assert_eq!(Statistics::load(&statistics.save()).report(), report);
        statistics.expire(DAYS_MAX * DAY_MS + DAY_MS);
        assert_eq!(statistics.report()["days"], json!([]));
    }
}
