//! Messages that somebody has let out of the quarantine, as a door meets them again: they are delivered as
//! they came, whatever policies do to messages. Only a virus is not excused.

use std::net::IpAddr;
use std::sync::LazyLock;

use mpp_config::Configuration;
use mpp_engine::edits::HeaderNames;
use mpp_engine::scan::{Class, Fate};
use mpp_hub::quarantine::RELEASED_FIELD;

use crate::scanning::{Found, Named};

/// The field that a stranger cannot have.
pub(crate) static FIELD: LazyLock<HeaderNames> =
    LazyLock::new(|| HeaderNames::default().with(&[RELEASED_FIELD]));

/// Whether the mark of a client is looked at: of ours, since others may have read it somewhere. Who has
/// no address came by a unix socket, and is one of ours.
pub(crate) fn is_believed(client: Option<IpAddr>, configuration: &Configuration) -> bool {
    let networks = &configuration.networks;
    client.is_none_or(|client| networks.local.contains(client) || networks.trusted.contains(client))
}

/// Delivers to those for whom it was released, but for what carries a virus.
pub(crate) fn excuse(fates: &mut [Fate], (named, found): (&[Named], &[Found]), released: &[bool]) {
    let all = fates.iter_mut().zip(named).zip(released);
    for ((fate, named), _) in all.filter(|(_, is_released)| **is_released) {
        let of = named.scanning().and_then(|scanning| {
            found.iter().find(|found| std::sync::Arc::ptr_eq(&found.scanning, scanning))
        });
        let virus = of.filter(|found| found.scanned.class == Class::Virus);
        *fate = virus.map_or(Fate::Deliver, |found| found.scanning.fate(&found.scanned));
    }
}

/// Whether it goes through as it came: it was released for all of its recipients, and no policy has
/// anything against it any more.
pub(crate) fn is_excused(fates: &[Fate], released: &[bool]) -> bool {
    !released.is_empty()
        && released.iter().all(|is_released| *is_released)
        && fates.iter().all(|fate| *fate == Fate::Deliver)
}

/// The address that a recipient was named by first (RFC 3461 section 4.2), if his parameters say it.
pub(crate) fn named_first(parameters: &str) -> Option<String> {
    let orcpt = parameters.split(' ').find_map(|word| {
        let (name, value) = word.split_once('=')?;
        name.eq_ignore_ascii_case("ORCPT").then_some(value)
    })?;
    let (kind, address) = orcpt.split_once(';')?;
    if !kind.eq_ignore_ascii_case("rfc822") && !kind.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    // RFC 3461 section 4: what is no plain letter is `+` and two digits.
    let mut parts = address.split('+');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|it| it.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => bytes.push(byte),
            None => bytes.push(b'+'),
        }
        bytes.extend_from_slice(part.get(digits.map_or(0, str::len)..)?.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_named_first_is_read() {
        for (parameters, wanted) in [
            ("NOTIFY=NEVER ORCPT=rfc822;bob@x.example", Some("bob@x.example")),
            ("orcpt=RFC822;a+2Bb@x.example", Some("a+b@x.example")),
            ("ORCPT=rfc822;a+zz+4", Some("a+zz+4")),
            ("ORCPT=x400;bob", None),
            ("ORCPT=rfc822", None),
            ("NOTIFY=NEVER", None),
            ("", None),
        ] {
            assert_eq!(named_first(parameters).as_deref(), wanted, "{parameters}");
        }
    }

    #[test]
    fn what_was_released_is_delivered_but_for_a_virus() {
        use std::sync::Arc;

        use mpp_engine::scan::{Scanned, Scanning};
        use mpp_hub::Order;

        let text = "[proxy.x]\nlisten = [\"127.0.0.1:2\"]\nnext_hop = [\"127.0.0.1:3\"]\n\
            [scanner.x]\nkind = \"clamd\"\nservers = [\"127.0.0.1:1\"]\n\
            [policy.default.scan]\nwith = [\"x\"]\n";
        let read = mpp_config::compile("x", text, &std::collections::BTreeMap::new(), 1);
        let policies = read.configuration.unwrap().policies;
        let scanning: Arc<Scanning> = policies.default_policy().scanning.clone().unwrap();
        let named = |held_by: Option<&str>| Named {
            path: "b@x.example".into(),
            parameters: String::new(),
            order: Some(Order {
                policy: "default".into(),
                scanning: scanning.clone(),
                spared: None,
            }),
            held_by: held_by.map(Into::into),
        };
        let all = [named(None), named(Some("held")), named(None)];
        for (class, points, wanted) in [
            (Class::Clean, 0.0, [Fate::Deliver, Fate::Deliver, Fate::Reject]),
            (Class::Spam, 99.0, [Fate::Deliver, Fate::Deliver, Fate::Reject]),
            (Class::Virus, 0.0, [Fate::Reject; 3]),
        ] {
            let scanned = Scanned { class, points, ..Scanned::default() };
            let found = [Found { scanning: scanning.clone(), scanned }];
            let mut fates = [Fate::Reject, Fate::Quarantine, Fate::Reject];
            excuse(&mut fates, (&all, &found), &[true, true, false]);
            assert_eq!(fates, wanted);
            assert!(!is_excused(&fates, &[true, true, false]));
        }
        assert!(is_excused(&[Fate::Deliver], &[true]) && !is_excused(&[], &[]));
        // Without a mark nothing is excused.
        let mut fates = [Fate::Reject];
        excuse(&mut fates, (&all, &[]), &[]);
        assert_eq!(fates, [Fate::Reject]);
    }

    #[test]
    fn marks_are_believed_from_ours_only() {
        let text = "[networks]\nlocal = [\"10.0.0.0/8\"]\ntrusted = [\"192.0.2.0/24\"]\n";
        let read = mpp_config::compile("x", text, &std::collections::BTreeMap::new(), 1);
        let configuration = read.configuration.unwrap();
        for (client, wanted) in
            [("127.0.0.1", false), ("10.1.1.1", true), ("192.0.2.1", true), ("198.51.100.7", false)]
        {
            assert_eq!(is_believed(client.parse().ok(), &configuration), wanted, "{client}");
        }
        assert!(is_believed(None, &configuration));
    }
}
