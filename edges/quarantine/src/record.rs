//! What is known of a message that is held, in its file and in the index.

use std::io;
use std::net::IpAddr;

use mail_parser::MessageParser;
use mail_parser::decoders::charsets::map::charset_decoder;
use mpp_hub::id::Id;
use mpp_hub::quarantine::{HeldFor, Holding};
use mpp_hub::spool::Spooled;
use mpp_wire::header;
use serde_json::{Value, json};

use crate::clean;

/// So much of a message is looked at for its subject.
const HEAD_BYTES_MAX: usize = 256 * 1024;
/// So much of the field itself.
const FIELD_BYTES_MAX: usize = 4 * 1024;
/// So much behind the header is looked at for the charset of the text.
const PARTS_BYTES_MAX: usize = 64 * 1024;
/// Letters of a subject that are kept.
pub(crate) const SUBJECT_MAX: usize = 200;
/// Letters of other texts that are kept in the index.
const TEXT_MAX: usize = 1000;

/// A message that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) id: Id,
    pub(crate) holding: Holding,
    /// For people.
    pub(crate) subject: String,
    /// How long its text is.
    pub(crate) bytes: u64,
    /// How much its file takes.
    pub(crate) disk_bytes: u64,
}

impl Message {
    /// What is known of it before it is written.
    pub(crate) fn of(id: Id, holding: Holding, text: &Spooled) -> io::Result<Self> {
        let subject = subject(&text.head(HEAD_BYTES_MAX)?);
        Ok(Self { id, holding, subject, bytes: text.bytes(), disk_bytes: 0 })
    }

    /// The line at the beginning of its file, from which the index can be made anew.
    pub(crate) fn to_json(&self) -> Value {
        let Self { id, holding, subject, bytes, .. } = self;
        json!({
            "format": 1, "id": id.to_string(), "at_ms": holding.at_ms,
            "instance": holding.instance, "client": holding.client.map(|it| it.to_string()),
            "client_name": holding.client_name, "helo": holding.helo,
            "sasl_user": holding.sasl_user, "sender": holding.sender,
            "parameters": holding.parameters,
            "recipients": holding.recipients.iter().map(recipient_json).collect::<Vec<_>>(),
            "reason": holding.reason, "points": holding.points, "tests": holding.tests,
            "route": holding.route, "header": holding.header, "subject": subject, "bytes": bytes,
        })
    }

    /// Reads it back.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let number = |name: &str| value.get(name).and_then(Value::as_u64);
        if number("format") != Some(1) {
            return None;
        }
        let recipients = value.get("recipients")?.as_array()?.iter();
        let holding = Holding {
            at_ms: number("at_ms")?,
            instance: text("instance")?,
            client: text("client").and_then(|client| client.parse::<IpAddr>().ok()),
            client_name: text("client_name")?,
            helo: text("helo")?,
            sasl_user: text("sasl_user")?,
            sender: text("sender")?,
            // Files of older versions have none.
            parameters: text("parameters").unwrap_or_default(),
            recipients: recipients.map(recipient_of).collect::<Option<_>>()?,
            reason: text("reason")?,
            points: value.get("points")?.as_i64()?,
            tests: text("tests")?,
            route: text("route")?,
            header: text("header")?,
        };
        Some(Self {
            id: Id::parse(&text("id")?)?,
            holding,
            subject: text("subject")?,
            bytes: number("bytes")?,
            disk_bytes: 0,
        })
    }
}

fn recipient_json(recipient: &HeldFor) -> Value {
    let HeldFor { address, user, policy, parameters } = recipient;
    json!({ "address": address, "user": user, "policy": policy, "parameters": parameters })
}

fn recipient_of(value: &Value) -> Option<HeldFor> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(HeldFor {
        address: text("address")?,
        user: text("user")?,
        policy: text("policy")?,
        parameters: text("parameters").unwrap_or_default(),
    })
}

/// The subject of a message, decoded, for people.
pub(crate) fn subject(head: &[u8]) -> String {
    let Some(field) = header::value(head, "subject") else { return String::new() };
    let field = field.get(..FIELD_BYTES_MAX).unwrap_or(field).trim_ascii();
    clean::line(&decoded(field, head), SUBJECT_MAX)
}

/// A value of a header field, decoded: its encoded words, and what is no UTF-8 by the charset that the
/// message declares for its text, as mail programs do.
pub(crate) fn decoded(value: &[u8], head: &[u8]) -> String {
    let is_utf8 = std::str::from_utf8(value).is_ok();
    let charset = if is_utf8 { None } else { charset(head) };
    let text = charset.map(|decode| decode(value));
    let mut small = Vec::with_capacity(value.len() + 16);
    small.extend_from_slice(b"Subject:");
    small.extend_from_slice(text.as_ref().map_or(value, String::as_bytes));
    small.extend_from_slice(b"\r\n\r\n");
    let message = MessageParser::default().parse_headers(&small);
    message.as_ref().and_then(|it| it.subject()).unwrap_or_default().to_owned()
}

/// What decodes the charset that a message declares for its text: the first one that it names.
fn charset(head: &[u8]) -> Option<fn(&[u8]) -> String> {
    const NAME: &[u8] = b"charset=";
    let own = header::value(head, "content-type").unwrap_or_default();
    let parts = header::text(head);
    let parts = parts.get(..PARTS_BYTES_MAX).unwrap_or(parts);
    let name = [own, parts].into_iter().find_map(|text| {
        let at = text.windows(NAME.len()).position(|it| it.eq_ignore_ascii_case(NAME))?;
        let rest = text.get(at + NAME.len()..)?;
        let rest = rest.strip_prefix(b"\"").unwrap_or(rest);
        let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        rest.get(..rest.iter().position(|byte| !is_of_name(byte)).unwrap_or(rest.len()))
    })?;
    charset_decoder(name)
}

/// What has become of a message for one of its recipients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It waits.
    #[default]
    Held,
    /// It is being released, or the end of that is not known.
    Releasing,
    /// He got it.
    Released,
    /// Somebody threw it away, or there was no room.
    Deleted,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Held, Self::Releasing, Self::Released, Self::Deleted];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Releasing => "releasing",
            Self::Released => "released",
            Self::Deleted => "deleted",
        }
    }

    /// As it is in the index.
    pub(crate) fn number(self) -> i64 {
        self as i64
    }

    pub(crate) fn of(number: i64) -> Self {
        Self::ALL.into_iter().find(|state| state.number() == number).unwrap_or_default()
    }
}

/// A message in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Its id.
    pub id: String,
    /// When it came, in milliseconds since 1970.
    pub at_ms: u64,
    /// The envelope sender.
    pub sender: String,
    /// The recipients that may be seen, and what has become of it for each.
    pub recipients: Vec<(String, State)>,
    /// Whose mail is held for each of them, and by which policy.
    pub(crate) owners: Vec<(String, String)>,
    /// The subject, fit for people.
    pub subject: String,
    /// Why it is held.
    pub reason: String,
    /// The policy that wants it so, for the first of the recipients.
    pub policy: String,
    /// Points, in hundredths.
    pub points: i64,
    /// What scanners said.
    pub tests: String,
    /// The client.
    pub client: String,
    /// Its name in the decision log.
    pub instance: String,
    /// Where it goes when it is released.
    pub route: String,
    /// How long it is.
    pub bytes: u64,
    /// The node that holds it; empty where nodes do not know of each other.
    pub node: String,
    /// What was asked of that node and is not done yet: `release`, `delete`; else empty.
    pub asked: String,
}

impl Row {
    /// What names it among those of all nodes.
    pub(crate) fn name(&self) -> String {
        let Self { id, node, .. } = self;
        if node.is_empty() { id.clone() } else { format!("{id}@{node}") }
    }

    /// Whether anybody waits for it.
    pub(crate) fn is_waiting(&self) -> bool {
        self.recipients.iter().any(|(_, state)| *state <= State::Releasing)
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        let recipients: Vec<Value> = self
            .recipients
            .iter()
            .map(|(address, state)| json!({ "address": address, "state": state.name() }))
            .collect();
        json!({
            "id": self.id, "at_ms": self.at_ms, "sender": self.sender, "recipients": recipients,
            "subject": self.subject, "reason": self.reason, "policy": self.policy,
            "points_x100": self.points, "tests": self.tests, "client": self.client,
            "instance": self.instance, "route": self.route, "bytes": self.bytes,
            "node": self.node, "asked": self.asked,
        })
    }
}

/// A text of others as the index keeps it.
pub(crate) fn bounded(text: &str) -> String {
    clean::line(text, TEXT_MAX)
}

/// The domain of an address, in lower case; empty without one.
pub(crate) fn domain(address: &str) -> String {
    address.rsplit_once('@').map_or_else(String::new, |(_, domain)| domain.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_decoded_for_people() {
        for (head, wanted) in [
            (&b"From: a\r\nSUBJECT:  =?utf-8?q?Gr=C3=B6=C3=9Fe?=\r\n x\r\n\r\n"[..], "Größe x"),
            (b"Subject: a\r\n\tb\r\nSubject: c\r\n\r\n", "a b"),
            (b"Subject: \x1b[31mred\0\r\n", "[31mred"),
            (b"Subject: =?iso-8859-1?b?4Q==?=\r\n\r\n", "á"),
            (b"Subject: =?no-such?q?x=FF?=\r\n\r\n", "x\u{fffd}"),
            (
                b"Subject: \xcf\xf0\xe8\xe2\xe5\xf2\r\nContent-Type: text/plain; charset=windows-1251\r\n\r\n",
                "\u{41f}\u{440}\u{438}\u{432}\u{435}\u{442}",
            ),
            (
                b"Subject: \xf0\xd2\xc9\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\
                  Content-Type: text/plain;\r\n CHARSET=\"koi8-r\"\r\n\r\n",
                "\u{41f}\u{440}\u{438}",
            ),
            (b"Subject: caf\xe9\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\n", "caf\u{e9}"),
            ("Subject: Gr\u{f6}\r\nContent-Type: text/plain; charset=koi8-r\r\n".as_bytes(), "Gr\u{f6}"),
            (b"Subject: caf\xe9\r\nContent-Type: text/plain; charset=no-such\r\n\r\n", "caf\u{fffd}"),
            (b"\r\nSubject: body\r\n", ""),
            (b"From: a\r\nFirst line\r\nSubject: text\r\n", ""),
            (b"SUBJECT\t: x\r\n\r\n", "x"),
            (b"Subject", ""),
            (b"", ""),
        ] {
            assert_eq!(subject(head), wanted, "{}", String::from_utf8_lossy(head));
        }
        let long = format!("Subject: {}\r\n\r\n", "x".repeat(1 << 20));
        assert_eq!(subject(long.as_bytes()).chars().count(), SUBJECT_MAX + 1);
    }

    fn held_for(address: &str) -> HeldFor {
        HeldFor {
            address: address.into(),
            user: "u@test.example".into(),
            policy: "p".into(),
            parameters: format!("NOTIFY=NEVER ORCPT=rfc822;{address}"),
        }
    }

    #[test]
    fn what_a_file_says_is_read_back() {
        let holding = Holding {
            at_ms: 1_795_528_230_007,
            client: "2001:db8::1".parse().ok(),
            sender: "\"a b\"@x.example".into(),
            recipients: ["Bob@test.example", "ü+x@test.example"].map(held_for).into(),
            parameters: "RET=HDRS ENVID=QQ314159".into(),
            points: -150,
            header: "X: \"y\"\r\n".into(),
            ..Holding::default()
        };
        let message = Message {
            id: Id::at(holding.at_ms),
            holding,
            subject: "s".into(),
            bytes: 7,
            disk_bytes: 0,
        };
        let text = message.to_json().to_string();
        let back = Message::from_json(&serde_json::from_str(&text).unwrap());
        assert_eq!(back.as_ref(), Some(&message));
        // As a version wrote it that knew of no parameters.
        let mut older = message.to_json();
        older.as_object_mut().unwrap().remove("parameters");
        older["recipients"][0].as_object_mut().unwrap().remove("parameters");
        let back = Message::from_json(&older).unwrap();
        assert_eq!((&*back.holding.parameters, &*back.holding.recipients[0].parameters), ("", ""));
        assert_eq!(back.holding.recipients[1], message.holding.recipients[1]);
        assert_eq!(Message::from_json(&json!({ "format": 2 })), None);
    }

    proptest::proptest! {
        #[test]
        fn no_header_is_too_odd(head in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let mut text = b"Subject: ".to_vec();
            text.extend(head);
            proptest::prop_assert!(subject(&text).chars().count() <= SUBJECT_MAX + 1);
        }
    }
}
