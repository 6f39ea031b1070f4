//! The one table from verdict to SMTP reply. Codecs spell it; nobody else makes up a code.
//!
//! Codes and their sources: RFC 5321 section 4.2, RFC 3463, and the IANA registry of enhanced
//! status codes (X.7.28 mail flood). Reputation is answered with 4xx, so that a wrongly judged
//! server can still deliver later; 5xx is for facts about an address or an explicit rule.

use mpp_settings::form;

use crate::verdict::{Action, Cause, Verdict};

/// A reply in SMTP terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// The enhanced status code.
    pub status: &'static str,
    /// A later refusal for good should win over this one (Postfix: `DEFER_IF_PERMIT`), which
    /// spares hopeless mail its retries.
    pub yields: bool,
}

/// What each cause is answered with, as a temporary and as a permanent failure, and the text.
/// `{wait}`, `{limit}`, `{used}` and `{per}` are filled in.
const TABLE: [(Cause, Reply, Reply, &str); 14] = [
    (Cause::Blocked, temporary(450, "4.7.1"), permanent(554, "5.7.1"), "Temporarily blocked"),
    (Cause::Denied, temporary(450, "4.7.1"), permanent(554, "5.7.1"), "Access denied"),
    // A trap and an unknown user get the same answer, so that traps cannot be told apart.
    (Cause::Trap, temporary(450, "4.1.1"), permanent(550, "5.1.1"), "User unknown"),
    (Cause::UnknownRecipient, temporary(450, "4.1.1"), permanent(550, "5.1.1"), "User unknown"),
    (
        Cause::DirectoryDown,
        temporary(451, "4.4.3"),
        permanent(451, "4.4.3"),
        "Recipient cannot be verified now",
    ),
    (
        Cause::Rate,
        temporary(450, "4.7.28"),
        permanent(554, "5.7.28"),
        "Too much mail from you: {used} of {limit} per {per}, try again in {wait}",
    ),
    (
        Cause::Quota,
        temporary(450, "4.7.1"),
        permanent(554, "5.7.1"),
        "Sending limit reached: {used} of {limit} per {per}, free again in {wait}",
    ),
    (
        Cause::Greylisted,
        Reply { code: 450, status: "4.7.1", yields: true },
        permanent(554, "5.7.1"),
        "Greylisted, try again in {wait}",
    ),
    (
        Cause::EarlyTalker,
        temporary(450, "4.5.1"),
        permanent(554, "5.5.1"),
        "You spoke before the greeting",
    ),
    (Cause::Relay, temporary(450, "4.7.1"), permanent(554, "5.7.1"), "Relay access denied"),
    (
        Cause::Connections,
        temporary(450, "4.7.0"),
        permanent(554, "5.7.0"),
        "Too many connections, try again later",
    ),
    (Cause::Content, temporary(451, "4.7.1"), permanent(550, "5.7.1"), "Refused as spam"),
    (Cause::Virus, temporary(451, "4.7.1"), permanent(554, "5.7.1"), "Refused: it carries a virus"),
    (
        Cause::Unavailable,
        temporary(451, "4.3.0"),
        permanent(451, "4.3.0"),
        "Service not available now",
    ),
];

const fn temporary(code: u16, status: &'static str) -> Reply {
    Reply { code, status, yields: false }
}

const fn permanent(code: u16, status: &'static str) -> Reply {
    Reply { code, status, yields: false }
}

/// The reply to a verdict, its text appended to `text`; nothing if it refuses nothing.
pub fn reply(verdict: &Verdict, text: &mut String) -> Option<Reply> {
    let (_, defer, reject, pattern) = TABLE.iter().find(|(cause, ..)| *cause == verdict.cause)?;
    let reply = match verdict.action {
        Action::Accept | Action::Discard | Action::Hold => return None,
        Action::Defer => *defer,
        Action::Reject => *reject,
        Action::Disconnect => Reply { code: 421, status: "4.7.0", yields: false },
    };
    fill(pattern, verdict, text);
    Some(reply)
}

fn fill(pattern: &str, verdict: &Verdict, text: &mut String) {
    let numbers = &verdict.numbers;
    let mut rest = pattern;
    while let Some((before, behind)) = rest.split_once('{') {
        text.push_str(before);
        let (name, tail) = behind.split_once('}').unwrap_or((behind, ""));
        match name {
            "wait" if verdict.cause == Cause::Greylisted => push_seconds(numbers.wait_ms, text),
            "wait" => text.push_str(&form::about(numbers.wait_ms)),
            "limit" => push_number(numbers.limit, text),
            "used" => push_number(numbers.used, text),
            _ => text.push_str(&form::duration_text(numbers.per_ms)),
        }
        rest = tail;
    }
    text.push_str(rest);
}

/// The seconds that greylisting still asks for, rounded up. Written for every drone: no allocation.
fn push_seconds(ms: u64, text: &mut String) {
    push_number(ms.div_ceil(1000), text);
    text.push_str(" s");
}

/// Appends a number in decimal digits.
pub fn push_number(mut value: u64, text: &mut String) {
    let mut digits = [0_u8; 20];
    let mut first = digits.len();
    for place in digits.iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        first -= 1;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    text.push_str(
        digits.get(first..).and_then(|tail| std::str::from_utf8(tail).ok()).unwrap_or(""),
    );
}

/// Every reply that mpp can give, for the documentation: cause, action, code, status, text.
pub fn table() -> Vec<(Cause, Action, Reply, &'static str)> {
    let mut rows = Vec::new();
    for (cause, defer, reject, text) in TABLE {
        rows.push((cause, Action::Defer, defer, text));
        rows.push((cause, Action::Reject, reject, text));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Numbers;

    fn spelled(action: Action, cause: Cause, numbers: Numbers) -> String {
        let mut text = String::new();
        match reply(&Verdict { action, cause, numbers }, &mut text) {
            Some(reply) => format!("{} {} {text}", reply.code, reply.status),
            None => String::new(),
        }
    }

    #[test]
    fn a_trap_looks_like_an_unknown_user() {
        let trap = spelled(Action::Reject, Cause::Trap, Numbers::default());
        assert_eq!(trap, spelled(Action::Reject, Cause::UnknownRecipient, Numbers::default()));
        assert_eq!(trap, "550 5.1.1 User unknown");
    }

    #[test]
    fn numbers_are_told() {
        let numbers = Numbers { wait_ms: 59_001, limit: 200, used: 200, per_ms: 3_600_000 };
        assert_eq!(
            spelled(Action::Defer, Cause::Greylisted, numbers),
            "450 4.7.1 Greylisted, try again in 60 s"
        );
        assert_eq!(
            spelled(Action::Defer, Cause::Quota, numbers),
            "450 4.7.1 Sending limit reached: 200 of 200 per 1h, free again in 60 seconds"
        );
        assert_eq!(spelled(Action::Accept, Cause::None, numbers), "");
    }

    #[test]
    fn codes_and_status_agree() {
        for (cause, _, reply, _) in table() {
            let class = reply.status.chars().next();
            assert_eq!(class, reply.code.to_string().chars().next(), "{cause:?}");
        }
    }

    #[test]
    fn numbers_in_decimal() {
        for value in [0, 7, 10, 999, u64::MAX] {
            let mut text = String::new();
            push_number(value, &mut text);
            assert_eq!(text, value.to_string());
        }
    }
}
