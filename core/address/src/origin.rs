//! What of a sender stays the same from one message of the same origin to the next.

use crate::form::split;

/// Appends the sender to `out` with everything cut out that changes from message to message, so
/// that a retry and the next message of the same list have the same key:
///
/// * SRS: `SRS0=HHH=TT=domain=user` keeps domain and user, `SRS1=HHH=first==HHH=TT=domain=user` the
///   first forwarder too;
/// * BATV: `prvs=TAG=user` keeps the user;
/// * VERP: `list+user=domain` keeps `list`, and every word with a digit in it becomes `#`, as does a
///   word of hexadecimal digits in a local part that no person has.
///
/// A user within is reduced as it would be by itself.
///
/// The sender must be in lower case already.
pub fn push_stable_sender(sender: &str, out: &mut String) {
    let (local, domain) = split(sender);
    push_stable_local(local, out);
    out.push('@');
    out.push_str(domain);
}

/// Whether a sender may hold anything that changes from message to message. Most do not, and are
/// their own key.
pub fn may_change(sender: &str) -> bool {
    let (local, domain) = split(sender);
    domain.is_empty()
        || local.len() > PERSON_BYTES_MAX
        || local.bytes().any(|byte| byte.is_ascii_digit() || byte == b'=')
}

/// Appends the sender to `out` so that the senders of one mailing are one, and people are not: of
/// an address that a machine made up what [`push_stable_sender`] keeps, else all of it but words of
/// four digits and more.
///
/// The sender must be in lower case already.
pub fn push_steady_sender(sender: &str, out: &mut String) {
    let (local, domain) = split(sender);
    if local.len() > PERSON_BYTES_MAX || local.contains('=') {
        push_stable_local(local, out);
    } else {
        let is_number = |word: &str| word.len() >= 4 && word.bytes().all(|b| b.is_ascii_digit());
        push_words(local, is_number, out);
    }
    out.push('@');
    out.push_str(domain);
}

/// A longer local part with digits in it is no person's.
const PERSON_BYTES_MAX: usize = 24;

/// Forwarders that forward what forwarders forwarded: more of them within one address are nobody's.
const NESTED_MAX: usize = 8;

fn push_stable_local(local: &str, out: &mut String) {
    push_stable_within(local, NESTED_MAX, out);
}

/// As [`push_stable_local`], for what an address of another form holds.
fn push_stable_within(local: &str, nested_max: usize, out: &mut String) {
    let is_machine = local.len() > PERSON_BYTES_MAX;
    let changes = |word: &str| has_digit(word) || is_machine && is_hexadecimal(word);
    if let Some((kept, inner)) = rewritten(local).filter(|_| nested_max > 0) {
        for text in kept.into_iter().flatten() {
            out.push_str(text);
            out.push('=');
        }
        return push_stable_within(inner, nested_max - 1, out);
    }
    // A recipient encoded in the sender: `list+user=domain`, `bounce-user=domain`.
    let stem = match local.find('=') {
        Some(at) => {
            let head = local.get(..at).unwrap_or("");
            match head.rfind(['+', '-']) {
                Some(cut) => head.get(..=cut).unwrap_or(""),
                None => head,
            }
        }
        None => local,
    };
    push_words(stem, changes, out);
}

/// What a forwarder or a signer made of a local part: what stays the same of that, and the local part
/// within it.
fn rewritten(local: &str) -> Option<([Option<&str>; 3], &str)> {
    // The separator behind SRS0 and SRS1 is `=`, `+` or `-`.
    if let Some(rest) = local.strip_prefix("srs0").and_then(|rest| rest.get(1..)) {
        let (domain, user) = srs0(rest)?;
        return Some(([Some("srs"), Some(domain), None], user));
    }
    if let Some(rest) = local.strip_prefix("srs1").and_then(|rest| rest.get(1..)) {
        // Hash and first forwarder, then what it had made, with its own separator before it.
        let mut parts = rest.splitn(3, '=');
        let (_, first, rest) = (parts.next()?, parts.next()?, parts.next()?);
        let (domain, user) = srs0(rest.get(1..)?)?;
        return Some(([Some("srs"), Some(first), Some(domain)], user));
    }
    // BATV, with a tag between two signs.
    let signed = |prefix: &str, mark: &str| local.strip_prefix(prefix)?.split_once(mark);
    let signed = signed("prvs=", "=").or_else(|| signed("msprvs1=", "="));
    let (_, user) = signed.or_else(|| local.strip_prefix("btv1==")?.split_once("=="))?;
    Some(([None; 3], user))
}

/// Domain and user of `HASH=STAMP=domain=user`.
fn srs0(text: &str) -> Option<(&str, &str)> {
    text.splitn(3, '=').nth(2)?.split_once('=')
}

fn has_digit(word: &str) -> bool {
    word.bytes().any(|b| b.is_ascii_digit())
}

/// Whether a word may be a number in a machine's eyes: some have no digit below ten in them.
fn is_hexadecimal(word: &str) -> bool {
    word.len() >= 4 && word.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Copies words, and puts `#` for each that changes.
fn push_words(text: &str, changes: impl Fn(&str) -> bool, out: &mut String) {
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        if changes(word) {
            out.push('#');
        } else {
            out.push_str(word);
        }
        let mut chars = tail.chars();
        if let Some(mark) = chars.next() {
            out.push(mark);
        }
        rest = chars.as_str();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_of_one_origin_are_one() {
        for (sender, stable) in [
            ("bob@x.example", "bob@x.example"),
            ("", "@"),
            ("list-bounces+u=our.example@l.example", "list-bounces+@l.example"),
            ("bounce-4711-u=our.example@l.example", "bounce-#-@l.example"),
            ("news.1234.abc9f@l.example", "news.#.#@l.example"),
            ("srs0=ab1c=x9=orig.example=bob@fwd.example", "srs=orig.example=bob@fwd.example"),
            ("srs0+zz9=y8=orig.example=bob@fwd.example", "srs=orig.example=bob@fwd.example"),
            (
                "srs1=ab1c=first.example==cd2e=x9=orig.example=bob@fwd.example",
                "srs=first.example=orig.example=bob@fwd.example",
            ),
            (
                "srs1+ab1c=first.example=-cd2e=x9=orig.example=bob@fwd.example",
                "srs=first.example=orig.example=bob@fwd.example",
            ),
            (
                "srs0=ab1c=x9=list.example=bounce-123-bob=our.example@fwd.example",
                "srs=list.example=bounce-#-@fwd.example",
            ),
            (
                "srs0=ab1c=x9=orig.example=prvs=1234abcdef=bob@fwd.example",
                "srs=orig.example=bob@fwd.example",
            ),
            ("srs0@x.example", "#@x.example"),
            ("srs1=x@x.example", "#@x.example"),
            ("prvs=1234abcdef=bob@x.example", "bob@x.example"),
            ("msprvs1=18402abcdef=bounces-77@x.example", "bounces-#@x.example"),
            ("btv1==123abc==bob@x.example", "bob@x.example"),
            (
                "0102016efd995488-fe548e82-aecc-4637-8d30-01d50d8dcf81-000000@x.example",
                "#-#-#-#-#-#-#@x.example",
            ),
            (
                "0102016efd995488-feabcdef-abcd-4637-8d30-deadbeefcafe-000000@x.example",
                "#-#-#-#-#-#-#@x.example",
            ),
            ("\"odd @ one\"@x.example", "\"odd @ one\"@x.example"),
            ("jörg1@x.example", "#@x.example"),
        ] {
            let mut out = String::new();
            push_stable_sender(sender, &mut out);
            assert_eq!(out, stable, "{sender}");
        }
    }

    #[test]
    fn people_are_told_apart_and_mailings_are_not() {
        for (sender, steady) in [
            ("anna12@x.example", "anna12@x.example"),
            ("bob.smith.77@x.example", "bob.smith.77@x.example"),
            ("bounce-2210-9938271@x.example", "bounce-#-#@x.example"),
            ("offer-48105512@x.example", "offer-#@x.example"),
            ("list+anna=our.example@x.example", "list+@x.example"),
            ("010201997ab3-1c9d8e7f-aaaa-000000@x.example", "#-#-#-#@x.example"),
        ] {
            let mut out = String::new();
            push_steady_sender(sender, &mut out);
            assert_eq!(out, steady, "{sender}");
        }
        assert!(!may_change("anna@x1.example"));
        assert!(may_change("anna1@x.example") && may_change("a=b@x.example") && may_change(""));
    }

    proptest::proptest! {
        #[test]
        fn no_sender_is_too_odd(sender in "\\PC{0,80}") {
            let (mut stable, mut steady) = (String::new(), String::new());
            push_stable_sender(&sender.to_lowercase(), &mut stable);
            push_steady_sender(&sender.to_lowercase(), &mut steady);
            proptest::prop_assert!(stable.contains('@') && steady.contains('@'));
        }
    }
}
