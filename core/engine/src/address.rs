//! Mail addresses as keys: what is the local part, what the domain, and what of a sender stays
//! the same from one message of the same origin to the next.
//!
//! Addresses come from Postfix as RFC 5321 section 4.1.2 allows them, quoted local parts and
//! address literals included, and from anybody as anything at all; nothing here can fail.

/// The parts of an address. The domain is what follows the last `@`, since a quoted local part
/// may hold others (RFC 5321 section 4.1.2); without any `@` everything is local part.
pub fn split(address: &str) -> (&str, &str) {
    match address.rfind('@') {
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
        return push_words(user, out);
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
    push_words(stem, out);
}

/// Copies words of letters, and puts `#` for each word that holds a digit.
fn push_words(text: &str, out: &mut String) {
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        if word.bytes().any(|b| b.is_ascii_digit()) {
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
