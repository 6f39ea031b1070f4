//! The line of the decision log: facts, policy, verdict and what each check said.

use mpp_engine::decide::{Decision, Remark, Value};
use mpp_engine::facts::Facts;
use mpp_engine::reply::push_number;
use mpp_engine::verdict::Verdict;

use crate::statistics::day_text;

/// What a line is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line<'a> {
    /// The id, as letters.
    pub(crate) id: &'a str,
    /// When, in milliseconds since 1970.
    pub(crate) now_ms: u64,
    /// Which door.
    pub(crate) door: &'static str,
    /// What was asked about.
    pub(crate) facts: &'a Facts<'a>,
    /// The name of the policy.
    pub(crate) policy: &'a str,
    /// What was decided.
    pub(crate) decision: &'a Decision,
    /// What the peer was told, if it was refused.
    pub(crate) reply: &'a str,
    /// What a check in shadow mode would have decided.
    pub(crate) shadow: Option<(&'static str, Verdict)>,
    /// What the checks said of themselves.
    pub(crate) remarks: &'a [Remark],
    /// Trips to the store.
    pub(crate) trips: u32,
    /// Attributes that nobody knows: name and value.
    pub(crate) unknown: &'a [(&'a [u8], &'a [u8])],
}

/// The day part of a time stamp, made once a day.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stamp {
    second: u64,
    text: String,
}

impl Stamp {
    /// Appends a time as RFC 3339 has it, in UTC with milliseconds.
    pub(crate) fn push(&mut self, now_ms: u64, out: &mut String) {
        let second = now_ms / 1000;
        if self.second != second || self.text.is_empty() {
            let (day, of_day) = (second / 86_400, second % 86_400);
            let (hour, minute, second_of) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
            self.text = format!("{}T{hour:02}:{minute:02}:{second_of:02}", day_text(day));
            self.second = second;
        }
        out.push_str(&self.text);
        out.push('.');
        let ms = now_ms % 1000;
        if ms < 100 {
            out.push('0');
        }
        if ms < 10 {
            out.push('0');
        }
        push_number(ms, out);
        out.push('Z');
    }
}

/// Appends a line, its line end included. The id comes first: it is what lines are found by.
pub(crate) fn push(line: &Line<'_>, stamp: &mut Stamp, out: &mut String) {
    let facts = line.facts;
    out.push_str("{\"id\":\"");
    out.push_str(line.id);
    out.push_str("\",\"time\":\"");
    stamp.push(line.now_ms, out);
    out.push('"');
    word("door", line.door, out);
    word("stage", facts.stage.name(), out);
    word("direction", facts.direction.name(), out);
    out.push_str(",\"client\":\"");
    push_address(facts.client, out);
    out.push('"');
    for (name, value) in [
        ("name", facts.client_name),
        ("reverse_name", if facts.client_name.is_empty() { facts.reverse_name } else { "" }),
        ("helo", if facts.helo == facts.client_name { "" } else { facts.helo }),
    ] {
        if !value.is_empty() {
            field(name, value, out);
        }
    }
    field("sender", facts.sender, out);
    for (name, value) in [
        ("recipient", facts.recipient),
        ("sasl_user", facts.sasl_user),
        ("queue_id", facts.queue_id),
        ("instance", facts.instance),
        ("context", facts.context),
    ] {
        if !value.is_empty() {
            field(name, value, out);
        }
    }
    number("size", facts.size_bytes, out);
    if facts.recipient_count > 0 {
        number("recipients", u64::from(facts.recipient_count), out);
    }
    field("policy", line.policy, out);
    word("check", line.decision.check, out);
    word("verdict", line.decision.verdict.action.name(), out);
    word("reason", line.decision.verdict.cause.name(), out);
    if !line.reply.is_empty() {
        word("reply", line.reply, out);
    }
    if let Some((check, verdict)) = line.shadow {
        word("shadow", check, out);
        word("shadow_verdict", verdict.action.name(), out);
    }
    push_trace(line.remarks, out);
    number("store_trips", u64::from(line.trips), out);
    push_unknown(line.unknown, out);
    out.push_str("}\n");
}

pub(crate) fn push_address(address: std::net::IpAddr, out: &mut String) {
    use std::fmt::Write as _;
    if let std::net::IpAddr::V4(v4) = address {
        for (place, octet) in v4.octets().into_iter().enumerate() {
            if place > 0 {
                out.push('.');
            }
            push_number(u64::from(octet), out);
        }
    } else {
        // Writing to a string cannot fail.
        let _ = write!(out, "{address}");
    }
}

/// A field whose value is one of our own words, which need no escape.
pub(crate) fn word(name: &str, value: &str, out: &mut String) {
    debug_assert!(is_plain(value.as_bytes()), "{value}");
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":\"");
    out.push_str(value);
    out.push('"');
}

pub(crate) fn field(name: &str, value: &str, out: &mut String) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":\"");
    push_escaped(value, out);
    out.push('"');
}

pub(crate) fn number(name: &str, value: u64, out: &mut String) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":");
    push_number(value, out);
}

/// Whether a text needs no escape: no control character, quote or backslash. Eight bytes at once,
/// since most of a line is looked at here.
fn is_plain(text: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = ONES << 7;
    // The high bit of each byte that is below `limit`, if no byte before it is (which is enough).
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGHS;
    let has = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let is_odd =
        |word: u64| below(word, 0x20) | has(word, b'"') | has(word, b'\\') | has(word, 0x7f) != 0;
    let (words, rest) = text.as_chunks::<8>();
    let mut last = [b' '; 8];
    last.iter_mut().zip(rest).for_each(|(place, byte)| *place = *byte);
    !words.iter().chain([&last]).any(|word| is_odd(u64::from_le_bytes(*word)))
}

/// Appends a text as the inside of a JSON string.
fn push_escaped(value: &str, out: &mut String) {
    if is_plain(value.as_bytes()) {
        out.push_str(value);
        return;
    }
    for letter in value.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control.is_control() => {
                use std::fmt::Write as _;
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
}

/// What the checks said: `greylist: age=30s delay=1m; block: ...`.
fn push_trace(remarks: &[Remark], out: &mut String) {
    if remarks.is_empty() {
        return;
    }
    out.push_str(",\"trace\":\"");
    push_remarks(remarks, out);
    out.push('"');
}

/// What the checks said, for people.
pub(crate) fn trace(remarks: &[Remark]) -> String {
    let mut out = String::new();
    push_remarks(remarks, &mut out);
    out
}

fn push_remarks(remarks: &[Remark], out: &mut String) {
    let mut last = "";
    for remark in remarks {
        if remark.check != last {
            out.push_str(if last.is_empty() { "" } else { "; " });
            out.push_str(remark.check);
            out.push(':');
            last = remark.check;
        }
        out.push(' ');
        out.push_str(remark.what);
        out.push('=');
        match &remark.value {
            Value::Number(number) => push_number(*number, out),
            Value::Period(ms) if ms % 1000 == 0 => {
                push_number(ms / 1000, out);
                out.push('s');
            }
            Value::Period(ms) => {
                push_number(*ms, out);
                out.push_str("ms");
            }
            Value::Share(share) => {
                use std::fmt::Write as _;
                // Writing to a string cannot fail.
                let _ = write!(out, "{:.1}%", share * 100.0);
            }
            Value::Word(word) => out.push_str(word),
            // Names in a configuration need no escape: it takes no others.
            Value::Name(name) => out.push_str(name),
        }
    }
}

fn push_unknown(unknown: &[(&[u8], &[u8])], out: &mut String) {
    let mut is_first = true;
    for (name, value) in unknown.iter().filter(|(name, _)| !name.is_empty()) {
        out.push_str(if is_first { ",\"unknown\":{\"" } else { ",\"" });
        is_first = false;
        push_escaped(&String::from_utf8_lossy(name), out);
        out.push_str("\":\"");
        push_escaped(&String::from_utf8_lossy(value), out);
        out.push('"');
    }
    if !is_first {
        out.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        let mut stamp = Stamp::default();
        let mut out = String::new();
        stamp.push(1_795_528_230_007, &mut out);
        assert_eq!(out, "2026-11-24T13:50:30.007Z");
        out.clear();
        stamp.push(1_795_528_230_120, &mut out);
        assert_eq!(out, "2026-11-24T13:50:30.120Z");
    }

    proptest::proptest! {
        #[test]
        fn eight_bytes_at_once_see_what_one_sees(text in proptest::collection::vec(0_u8.., 0..40)) {
            let is_odd = |byte: &u8| matches!(byte, 0..0x20 | b'"' | b'\\' | 0x7f);
            proptest::prop_assert_eq!(is_plain(&text), !text.iter().any(is_odd));
        }
    }

    #[test]
    fn texts_stay_inside_their_quotes() {
        let mut out = String::new();
        push_escaped("a\"b\\c\u{7}\u{7f}ö", &mut out);
        assert_eq!(out, "a\\\"b\\\\c\\u0007\\u007fö");
        let back: serde_json::Value = serde_json::from_str(&format!("\"{out}\"")).unwrap();
        assert_eq!(back, "a\"b\\c\u{7}\u{7f}ö");
    }
}
