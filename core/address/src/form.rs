//! The one form of an address, of a domain, of a host's name and of an account.
//!
//! Addresses come from Postfix as its policy protocol writes them (without quotes), from everywhere
//! else as RFC 5321 section 4.1.2 has them, and from anybody as anything at all; nothing here can
//! fail.

use std::borrow::Cow;

/// What an address of the usual kind is made of: nothing that is quoted, folded or rewritten.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let bytes = b"abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-/=?^_`{|}~.";
    let mut at = 0;
    while at < bytes.len() {
        #[allow(clippy::indexing_slicing, reason = "worked out while compiling")]
        {
            plain[bytes[at] as usize] = true;
        }
        at += 1;
    }
    plain
};

/// The address in the one form in which it is compared and looked up, the one that Postfix delivers
/// to: in lower case; without blanks around it, a source route (RFC 5321 appendix C) and the dot
/// behind a domain; `host!user` and `user%host` without a domain turned around (Postfix,
/// `swap_bangpath` and `allow_percent_hack`); the domain in A-labels (RFC 5890); a local part with
/// quotes only if it needs them, and with a quoted pair only where it must be (RFC 5321 section
/// 4.1.2).
///
/// Two dots behind a domain are no address of anybody, and stay.
pub fn canonical(address: &str) -> Cow<'_, str> {
    let bytes = address.as_bytes();
    let mut ats = 0_u32;
    let is_plain = bytes.iter().all(|byte| {
        ats += u32::from(*byte == b'@');
        PLAIN.get(usize::from(*byte)).is_some_and(|plain| *plain) || *byte == b'@'
    });
    let needs_domain = ats == 0 && memchr::memchr2(b'!', b'%', bytes).is_some();
    if is_plain && ats <= 1 && !needs_domain && bytes.last() != Some(&b'.') {
        return Cow::Borrowed(address);
    }
    let trimmed = address.trim_matches(|letter: char| letter.is_ascii_whitespace());
    let bare = trimmed.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(trimmed);
    let (local, name) = parts(without_route(bare));
    let local = unquoted(local);
    let local = if local.is_ascii() { local.to_ascii_lowercase() } else { local.to_lowercase() };
    let mut out = String::with_capacity(address.len() + 2);
    push_local(&local, |_| false, &mut out);
    if let Some(name) = name {
        out.push('@');
        out.push_str(&domain(name));
    }
    Cow::Owned(out)
}

/// An account (a SASL login): its form as an address, if it has that of one, else in lower case.
pub fn account(name: &str) -> Cow<'_, str> {
    if name.contains('@') {
        return canonical(name);
    }
    let trimmed = name.trim();
    if trimmed.chars().any(char::is_uppercase) {
        return Cow::Owned(trimmed.to_lowercase());
    }
    Cow::Borrowed(trimmed)
}

/// The name of a host, or what it says in HELO: in lower case, without the dot that makes it a name
/// of the root (RFC 1034 section 3.1), and without blanks around it.
pub fn host_name(name: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase() && byte > b' ';
    if name.bytes().all(is_plain) && !name.ends_with('.') {
        return Cow::Borrowed(name);
    }
    domain(name)
}

/// A domain in lower case and A-labels and without the dot behind it, as [`canonical`] has it; one
/// that is none as it is.
pub fn domain(name: &str) -> Cow<'_, str> {
    let name = without_dot(name.trim());
    if name.is_ascii() {
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Cow::Owned(name.to_ascii_lowercase());
        }
        return Cow::Borrowed(name);
    }
    // A leading dot stands for all domains below.
    let (dot, rest) = name.strip_prefix('.').map_or(("", name), |rest| (".", rest));
    match idna::domain_to_ascii(rest) {
        Ok(ascii) => Cow::Owned(format!("{dot}{}", without_dot(&ascii))),
        Err(_) => Cow::Owned(name.to_lowercase()),
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

/// A name without the one dot behind it.
pub(crate) fn without_dot(name: &str) -> &str {
    match name.strip_suffix('.') {
        Some(rest) if !rest.is_empty() && !rest.ends_with('.') => rest,
        _ => name,
    }
}

/// An address without its source route (RFC 5321 appendix C: it is to be ignored).
pub(crate) fn without_route(address: &str) -> &str {
    match address.split_once(':') {
        Some((route, rest)) if route.starts_with('@') && !rest.is_empty() => rest,
        _ => address,
    }
}

/// Local part and domain; the domain may stand first, or behind a percent sign.
fn parts(address: &str) -> (&str, Option<&str>) {
    if let Some((local, name)) = address.rsplit_once('@') {
        return (local, Some(name));
    }
    if let Some((name, local)) = address.split_once('!') {
        return (local, Some(name));
    }
    match address.rsplit_once('%') {
        Some((local, name)) => (local, Some(name)),
        None => (address, None),
    }
}

/// What stands between quotes, its quoted pairs undone; what is in none as it is.
pub(crate) fn unquoted(local: &str) -> Cow<'_, str> {
    let inside = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let Some(inside) = inside else { return Cow::Borrowed(local) };
    let mut out = String::with_capacity(inside.len());
    let mut letters = inside.chars();
    while let Some(letter) = letters.next() {
        match letter {
            // It ends before its end: this is not one quoted text.
            '"' => return Cow::Borrowed(local),
            '\\' => match letters.next() {
                Some(letter) => out.push(letter),
                None => return Cow::Borrowed(local),
            },
            letter => out.push(letter),
        }
    }
    // Nothing in quotes is a local part, and nothing without them is none.
    if out.is_empty() { Cow::Borrowed(local) } else { Cow::Owned(out) }
}

/// Letters of an atom (RFC 5322 section 3.2.3, with those of RFC 6531).
pub(crate) fn is_atext(letter: char) -> bool {
    letter.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(letter)
        || !letter.is_ascii() && !letter.is_control()
}

/// Appends a local part, in quotes if a letter of it or it as a whole needs them.
pub(crate) fn push_local(local: &str, is_odd: impl Fn(&str) -> bool, out: &mut String) {
    let is_fine = local.chars().all(|letter| is_atext(letter) || letter == '.');
    if local == "\"\"" || is_fine && !is_odd(local) {
        return out.push_str(local);
    }
    out.push('"');
    for letter in local.chars() {
        if matches!(letter, '"' | '\\') {
            out.push('\\');
        }
        out.push(letter);
    }
    out.push('"');
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
            ("Bob@X.example", "bob@x.example"),
            ("bob@x.example.", "bob@x.example"),
            ("bob@x.example..", "bob@x.example.."),
            (" bob@x.example ", "bob@x.example"),
            ("<bob@x.example>", "bob@x.example"),
            ("bob@ x.example", "bob@x.example"),
            ("bob@bücher.example", "bob@xn--bcher-kva.example"),
            ("bob@BÜCHER.example.", "bob@xn--bcher-kva.example"),
            ("bob@bücher。example。", "bob@xn--bcher-kva.example"),
            ("JÖRG@x.example", "jörg@x.example"),
            ("\"bob.smith\"@x.example", "bob.smith@x.example"),
            ("\"b\\ob\"@x.example", "bob@x.example"),
            ("\"bob smith\"@x.example", "\"bob smith\"@x.example"),
            ("bob smith@x.example", "\"bob smith\"@x.example"),
            ("\"bob\\ smith\"@x.example", "\"bob smith\"@x.example"),
            ("\"a\\\"b\\\\\"@x.example", "\"a\\\"b\\\\\"@x.example"),
            ("\"a..b\"@x.example", "a..b@x.example"),
            ("\"\"@x.example", "\"\"@x.example"),
            ("\"a@b\"@x.example", "\"a@b\"@x.example"),
            ("a@b@x.example", "\"a@b\"@x.example"),
            ("@a.example,@b.example:bob@x.example", "bob@x.example"),
            ("x.example!bob", "bob@x.example"),
            ("bob%x.example", "bob@x.example"),
            ("bob%y.example@x.example", "bob%y.example@x.example"),
            ("bob@[192.0.2.1]", "bob@[192.0.2.1]"),
            ("", ""),
            ("@", "@"),
            ("ü", "ü"),
        ] {
            assert_eq!(canonical(address), same, "{address}");
            assert_eq!(canonical(same), same, "once is enough");
        }
        assert_eq!(domain(".Bücher.example"), ".xn--bcher-kva.example");
        assert_eq!(unicode_domain("xn--bcher-kva.example").as_deref(), Some("bücher.example"));
        assert_eq!(unicode_domain("x.example"), None);
    }

    #[test]
    fn names_and_accounts_have_one_form_too() {
        for (name, same) in [
            ("MX.a.example", "mx.a.example"),
            ("mx.a.example.", "mx.a.example"),
            ("mx.a.example..", "mx.a.example.."),
            ("[192.0.2.1]", "[192.0.2.1]"),
            ("ärzte-pc.example", "xn--rzte-pc-4wa.example"),
            (".", "."),
        ] {
            assert_eq!(host_name(name), same, "{name}");
            assert_eq!(host_name(same), same, "once is enough");
        }
        for (name, same) in [
            ("Bob", "bob"),
            (" bob ", "bob"),
            ("Bob@Example.org.", "bob@example.org"),
            ("EXAMPLE\\bob", "example\\bob"),
            ("JÖRG", "jörg"),
        ] {
            assert_eq!(account(name), same, "{name}");
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
        fn the_form_of_the_form_is_itself(text in "[ab.@\"\\\\<>!%: ü]{0,16}") {
            let once = canonical(&text).into_owned();
            // What is quoted again could be quoted for ever; whatever else settles at once.
            if !text.contains(['"', '\\', '<', '>', ' ', '!', '%', ':']) {
                proptest::prop_assert_eq!(&canonical(&once), &once);
            }
        }

        #[test]
        fn no_address_is_too_odd(text in "\\PC{0,80}") {
            let once = canonical(&text).into_owned();
            let (local, domain) = split(&once);
            proptest::prop_assert!(local.len() + domain.len() <= once.len());
        }
    }
}
