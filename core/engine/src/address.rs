//! Mail addresses as keys: what is the local part, what the domain, and what of a sender stays
//! the same from one message of the same origin to the next.
//!
//! Addresses come from Postfix as RFC 5321 section 4.1.2 allows them, quoted local parts and
//! address literals included, and from anybody as anything at all; nothing here can fail.

use std::borrow::Cow;

/// The address in the one form in which it is compared and looked up. It must be in lower case as
/// far as it is ASCII.
///
/// An internationalised domain is the same as its A-labels (RFC 5890), and a local part in quotes
/// that need none the same as without (RFC 5321 section 4.1.2).
pub fn canonical(address: &str) -> Cow<'_, str> {
    if address.is_ascii() && !address.starts_with('"') {
        return Cow::Borrowed(address);
    }
    let (local, name) = split(address);
    if name.is_empty() {
        return Cow::Borrowed(address);
    }
    let local = unquoted(local);
    Cow::Owned(format!("{local}@{}", domain(name)))
}

/// A domain in lower case and A-labels, as [`canonical`] has it; one that is none as it is.
pub fn domain(name: &str) -> Cow<'_, str> {
    if name.is_ascii() {
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Cow::Owned(name.to_ascii_lowercase());
        }
        return Cow::Borrowed(name);
    }
    // A leading dot stands for all domains below.
    let (dot, rest) = name.strip_prefix('.').map_or(("", name), |rest| (".", rest));
    match idna::domain_to_ascii(rest) {
        Ok(ascii) => Cow::Owned(format!("{dot}{ascii}")),
        Err(_) => Cow::Borrowed(name),
    }
}

/// A canonical domain as people read it: in Unicode, where it has A-labels; nothing if it has none.
pub fn unicode_domain(name: &str) -> Option<String> {
    if !name.contains("xn--") {
        return None;
    }
    let (unicode, result) = idna::domain_to_unicode(name);
    (result.is_ok() && unicode != name).then_some(unicode)
}

/// What is in quotes, if it needs none: atoms and dots between them.
fn unquoted(local: &str) -> &str {
    let inside = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let is_atom = |atom: &str| {
        !atom.is_empty()
            && atom.chars().all(|letter| {
                letter.is_alphanumeric() && letter.is_ascii()
                    || !letter.is_ascii()
                    || "!#$%&'*+-/=?^_`{|}~".contains(letter)
            })
    };
    match inside {
        Some(inside) if inside.split('.').all(is_atom) => inside,
        _ => local,
    }
}

/// The parts of an address. The domain is what follows the last `@`, since a quoted local part
/// may hold others (RFC 5321 section 4.1.2); without any `@` everything is local part.
pub fn split(address: &str) -> (&str, &str) {
    match memchr::memrchr(b'@', address.as_bytes()) {
        Some(at) => (address.get(..at).unwrap_or(""), address.get(at + 1..).unwrap_or("")),
        None => (address, ""),
    }
}

/// Whether an address is one of a domain or of a subdomain of it.
pub fn is_below(domain: &str, parent: &str) -> bool {
    domain
        .strip_suffix(parent)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.') || parent.is_empty())
}

/// Appends the sender to `out` with everything cut out that changes from message to message, so
/// that a retry and the next message of the same list have the same key:
///
/// * SRS: `SRS0=HHH=TT=domain=user` keeps domain and user;
/// * BATV: `prvs=TAG=user` keeps the user;
/// * VERP: `list+user=domain` keeps `list`, and every word with a digit in it becomes `#`.
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
    domain.is_empty() || local.bytes().any(|byte| byte.is_ascii_digit() || byte == b'=')
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

fn push_stable_local(local: &str, out: &mut String) {
    if let Some(rest) = local.strip_prefix("srs0").or_else(|| local.strip_prefix("srs1")) {
        // The separator behind SRS0 is `=`, `+` or `-`; then hash and time stamp, each to a `=`.
        let kept = rest.get(1..).and_then(|rest| rest.splitn(3, '=').nth(2));
        if let Some(kept) = kept {
            out.push_str("srs=");
            out.push_str(kept);
            return;
        }
    }
    if let Some((_, user)) = local.strip_prefix("prvs=").and_then(|rest| rest.split_once('=')) {
        return push_words(user, has_digit, out);
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
    push_words(stem, has_digit, out);
}

fn has_digit(word: &str) -> bool {
    word.bytes().any(|b| b.is_ascii_digit())
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
    fn the_last_at_divides() {
        assert_eq!(split("a@b.example"), ("a", "b.example"));
        assert_eq!(split("\"a@b\"@c.example"), ("\"a@b\"", "c.example"));
        assert_eq!(split("x@[IPv6:2001:db8::1]"), ("x", "[IPv6:2001:db8::1]"));
        assert_eq!(split(""), ("", ""));
        assert_eq!(split("postmaster"), ("postmaster", ""));
        assert_eq!(split("@"), ("", ""));
    }

    #[test]
    fn one_address_has_one_form() {
        for (address, same) in [
            ("bob@x.example", "bob@x.example"),
            ("bob@bücher.example", "bob@xn--bcher-kva.example"),
            ("bob@BÜCHER.example", "bob@xn--bcher-kva.example"),
            ("jörg@x.example", "jörg@x.example"),
            ("\"bob.smith\"@x.example", "bob.smith@x.example"),
            ("\"bob smith\"@x.example", "\"bob smith\"@x.example"),
            ("\"\"@x.example", "\"\"@x.example"),
            ("\"a@b\"@x.example", "\"a@b\"@x.example"),
            ("\"bob", "\"bob"),
            ("ü", "ü"),
        ] {
            assert_eq!(canonical(address), same);
            assert_eq!(canonical(same), same, "once is enough");
        }
        assert_eq!(domain(".Bücher.example"), ".xn--bcher-kva.example");
        assert_eq!(unicode_domain("xn--bcher-kva.example").as_deref(), Some("bücher.example"));
        assert_eq!(unicode_domain("x.example"), None);
    }

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
            ("prvs=1234abcdef=bob@x.example", "bob@x.example"),
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
            ("010201997ab3-1c9d8e7f-aaaa-000000@x.example", "#-#-aaaa-#@x.example"),
        ] {
            let mut out = String::new();
            push_steady_sender(sender, &mut out);
            assert_eq!(out, steady, "{sender}");
        }
        assert!(!may_change("anna@x1.example"));
        assert!(may_change("anna1@x.example") && may_change("a=b@x.example") && may_change(""));
    }

    #[test]
    fn domains_and_their_parents() {
        assert!(is_below("a.b.example", "b.example"));
        assert!(is_below("b.example", "b.example"));
        assert!(!is_below("ab.example", "b.example"));
    }

    proptest::proptest! {
        #[test]
        fn no_address_is_too_odd(sender in "\\PC{0,80}") {
            let mut out = String::new();
            push_stable_sender(&sender.to_lowercase(), &mut out);
            let (local, domain) = split(&sender);
            proptest::prop_assert!(local.len() + domain.len() <= sender.len());
        }
    }
}
