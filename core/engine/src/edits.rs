//! What is done to a message that is let through: header fields added and removed, recipients added
//! or replaced. `[policy.NAME.message]` says what; a door that can, does it.
//!
//! What an administrator writes is checked when it is read (RFC 5322 section 2.2 and 3.6.8), and
//! what is filled in is made harmless, so that nothing here can end a header field early.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use mpp_settings::Reader;

use crate::address;
use crate::verdict::Action;

/// A line of a header may be so long, in bytes (RFC 5322 section 2.1.1).
const LINE_BYTES_MAX: usize = 998;
/// What is written out of a value may be so long: it leaves room for what is filled in.
const VALUE_BYTES_MAX: usize = 800;
/// The name of a header field may be so long, so that a line has room for a value.
const NAME_BYTES_MAX: usize = 76;

/// What a policy does to messages.
#[derive(Debug, Default)]
pub struct Editing {
    add: Vec<Template>,
    remove: HeaderNames,
    copy_to: Vec<String>,
    redirect_to: Option<String>,
}

/// A header field with places to be filled in.
#[derive(Debug)]
struct Template {
    name: String,
    value: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Word(Word),
}

/// What can be filled in.
#[derive(Clone, Copy, Debug)]
enum Word {
    Action,
    Client,
    Id,
    Policy,
}

const WORDS: [(&str, Word); 4] = [
    ("action", Word::Action),
    ("client", Word::Client),
    ("id", Word::Id),
    ("policy", Word::Policy),
];

/// What is filled in for one message.
#[derive(Clone, Copy, Debug)]
pub struct Filling<'a> {
    /// What was decided.
    pub action: Action,
    /// The client's address.
    pub client: IpAddr,
    /// The id in the log.
    pub id: &'a str,
    /// The name of the policy.
    pub policy: &'a str,
}

impl Editing {
    /// Reads the settings; nothing if nothing is to be done.
    pub fn read(table: &mut Reader<'_>) -> Option<Self> {
        let add = table.list("add_headers", &[], Template::parse);
        let mut remove = HeaderNames::default();
        table.list("remove_headers", &[], |text| remove.add(text));
        let copy_to = table.list("copy_to", &[], mailbox);
        let redirect_to = table.text("redirect_to", "");
        let redirect_to = match (&*redirect_to, mailbox(&redirect_to)) {
            ("", _) => None,
            (_, Ok(mailbox)) => Some(mailbox),
            (_, Err(message)) => {
                table.mistake("redirect_to", &message);
                None
            }
        };
        table.finish();
        let editing = Self { add, remove, copy_to, redirect_to };
        (!editing.is_empty()).then_some(editing)
    }

    fn is_empty(&self) -> bool {
        let Self { add, remove, copy_to, redirect_to } = self;
        add.is_empty() && remove.is_empty() && copy_to.is_empty() && redirect_to.is_none()
    }
}

/// What is to be done to one message.
#[derive(Clone, Debug)]
pub struct Edits {
    editing: Arc<Editing>,
    /// Name and value of header fields to be added above all others, the uppermost first. The value
    /// is one line of printable ASCII.
    pub added: Vec<(String, String)>,
}

impl Edits {
    /// Fills in what a policy wants.
    pub fn new(editing: &Arc<Editing>, filling: &Filling<'_>) -> Self {
        let added = editing.add.iter().map(|field| (field.name.clone(), field.filled(filling)));
        Self { editing: Arc::clone(editing), added: added.collect() }
    }

    /// Which header fields are to be removed.
    pub fn removed(&self) -> &HeaderNames {
        &self.editing.remove
    }

    /// Whether all recipients are replaced.
    pub fn is_redirected(&self) -> bool {
        self.editing.redirect_to.is_some()
    }

    /// Recipients to be added.
    pub fn recipients(&self) -> impl Iterator<Item = &str> {
        self.editing.redirect_to.iter().chain(&self.editing.copy_to).map(String::as_str)
    }

    /// Whether a recipient, without angle brackets, stays although all are replaced: whoever is to
    /// be added anyway. Postfix adds nobody whom it has just removed.
    pub fn keeps(&self, recipient: &str) -> bool {
        self.recipients().any(|added| added.eq_ignore_ascii_case(recipient))
    }
}

/// What any of the policies may do to a message, so that a door can ask for no more.
#[derive(Debug, Default)]
pub struct Needs {
    /// Header fields are added.
    pub adds_headers: bool,
    /// Recipients are added.
    pub adds_recipients: bool,
    /// Recipients are removed.
    pub removes_recipients: bool,
    /// These header fields are removed.
    pub removed: HeaderNames,
}

impl Needs {
    /// Adds what a policy may do.
    pub fn add(&mut self, editing: &Editing) {
        self.adds_headers |= !editing.add.is_empty();
        self.removes_recipients |= editing.redirect_to.is_some();
        self.adds_recipients |= self.removes_recipients || !editing.copy_to.is_empty();
        self.removed.exact.extend(editing.remove.exact.iter().cloned());
        self.removed.beginnings.extend(editing.remove.beginnings.iter().cloned());
    }

    /// Whether anything is done at all.
    pub fn is_any(&self) -> bool {
        self.adds_headers || self.adds_recipients || !self.removed.is_empty()
    }
}

/// Names of header fields, in lower case.
#[derive(Clone, Debug, Default)]
pub struct HeaderNames {
    exact: BTreeSet<String>,
    beginnings: BTreeSet<String>,
}

impl HeaderNames {
    /// These besides.
    #[must_use]
    pub fn with(mut self, names: &[&str]) -> Self {
        self.exact.extend(names.iter().map(|name| name.to_ascii_lowercase()));
        self
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.beginnings.is_empty()
    }

    /// Whether a name, as it stands in a message, is among them.
    pub fn contains(&self, name: &[u8]) -> bool {
        let Ok(name) = std::str::from_utf8(name) else { return self.begins(name) };
        self.exact.contains(&name.to_ascii_lowercase()) || self.begins(name.as_bytes())
    }

    /// Whether all of these are among them.
    pub fn cover(&self, others: &Self) -> bool {
        self.exact.is_superset(&others.exact) && self.beginnings.is_superset(&others.beginnings)
    }

    fn begins(&self, name: &[u8]) -> bool {
        self.beginnings.iter().any(|beginning| {
            let beginning = beginning.as_bytes();
            name.get(..beginning.len()).is_some_and(|head| head.eq_ignore_ascii_case(beginning))
        })
    }

    /// Reads `X-Spam-Flag`, or `X-Spam-*` for all names that begin so.
    fn add(&mut self, text: &str) -> Result<(), String> {
        let lower = text.to_ascii_lowercase();
        let (name, names) = match lower.strip_suffix('*') {
            Some(beginning) => (beginning, &mut self.beginnings),
            None => (&*lower, &mut self.exact),
        };
        if name.contains('*') || !is_name(name) {
            return Err("expected the name of a header field, such as \"X-Spam-Flag\", or how \
                        names begin, such as \"X-Spam-*\""
                .into());
        }
        names.insert(name.to_owned());
        Ok(())
    }
}

/// Printable ASCII without space and colon (RFC 5322 section 3.6.8).
fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}

/// What may stand in a value: printable ASCII and spaces.
fn is_plain(byte: u8) -> bool {
    byte == b' ' || byte.is_ascii_graphic()
}

impl Template {
    /// Reads `Name: value`, with `{action}`, `{client}`, `{id}` and `{policy}` in the value.
    fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once(':').ok_or("expected \"Name: value\"")?;
        let value = value.trim_matches(' ');
        if !is_name(name) {
            return Err("the name of a header field is printable ASCII without spaces".into());
        }
        if value.is_empty() || value.len() > VALUE_BYTES_MAX || !value.bytes().all(is_plain) {
            return Err(format!(
                "the value of a header field is one line of printable ASCII, up to \
                 {VALUE_BYTES_MAX} bytes"
            ));
        }
        Ok(Self { name: name.to_owned(), value: pieces(value)? })
    }

    fn filled(&self, filling: &Filling<'_>) -> String {
        let mut value = String::new();
        for piece in &self.value {
            match piece {
                Piece::Text(text) => value.push_str(text),
                Piece::Word(Word::Action) => value.push_str(filling.action.name()),
                Piece::Word(Word::Client) => value.push_str(&filling.client.to_string()),
                Piece::Word(Word::Id) => push_plain(filling.id, &mut value),
                // The name of a table in the configuration may hold anything.
                Piece::Word(Word::Policy) => push_plain(filling.policy, &mut value),
            }
        }
        value.truncate(LINE_BYTES_MAX - self.name.len().min(NAME_BYTES_MAX) - ": ".len());
        value
    }
}

fn push_plain(text: &str, value: &mut String) {
    let plain = |letter: char| u8::try_from(letter).is_ok_and(is_plain);
    value.extend(text.chars().map(|letter| if plain(letter) { letter } else { '?' }));
}

fn pieces(mut value: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    while let Some((text, behind)) = value.split_once('{') {
        let found = behind.split_once('}').and_then(|(word, rest)| {
            let (_, word) = WORDS.iter().find(|(name, _)| *name == word)?;
            Some((*word, rest))
        });
        let Some((word, rest)) = found else {
            let known = WORDS.map(|(name, _)| format!("{{{name}}}")).join(", ");
            return Err(format!("a brace begins one of {known}"));
        };
        if !text.is_empty() {
            pieces.push(Piece::Text(text.to_owned()));
        }
        pieces.push(Piece::Word(word));
        value = rest;
    }
    if !value.is_empty() {
        pieces.push(Piece::Text(value.to_owned()));
    }
    Ok(pieces)
}

/// Reads the address of a recipient: atoms and a domain, so that no codec has to quote it.
fn mailbox(text: &str) -> Result<String, String> {
    let (local, name) = address::split(text);
    let is_atom = |atom: &str| {
        !atom.is_empty()
            && atom
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
    };
    let name = address::domain(name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let is_fine = local.len() <= 64
        && local.split('.').all(is_atom)
        && name.len() <= 255
        && name.split('.').all(is_label);
    if is_fine {
        Ok(format!("{local}@{name}"))
    } else {
        Err("expected the address of a recipient, such as \"archive@example.org\"".into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filling(policy: &str) -> Filling<'_> {
        let client = IpAddr::from([192, 0, 2, 7]);
        Filling { action: Action::Hold, client, id: "0123456789", policy }
    }

    fn filled(text: &str) -> Result<String, String> {
        let field = Template::parse(text)?;
        Ok(format!("{}: {}", field.name, field.filled(&filling("default"))))
    }

    #[test]
    fn fields_are_read_and_filled_in() {
        for (text, wanted) in [
            ("X-Checked: {action}", "X-Checked: hold"),
            ("X-Mpp:yes", "X-Mpp: yes"),
            ("X-A:  {policy} {id}, from {client}.", "X-A: default 0123456789, from 192.0.2.7."),
            ("X-A: a:b; \"c\" }", "X-A: a:b; \"c\" }"),
        ] {
            assert_eq!(filled(text).as_deref(), Ok(wanted));
        }
        let long = format!("X-A: {}", "x".repeat(VALUE_BYTES_MAX + 1));
        for wrong in [
            "",
            "X-A",
            ": x",
            "X-A:",
            "X-A:  ",
            "X A: b",
            "X-A : b",
            "X-\u{fc}: b",
            "X-A: \u{fc}",
            "X-A: a\r\nX-B: c",
            "X-A: a\nb",
            "X-A: a\0b",
            "X-A: a\tb",
            "X-A: {who}",
            "X-A: {",
            "X-A: {}",
            &long,
        ] {
            assert!(filled(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_match_as_mail_servers_match_them() {
        let mut names = HeaderNames::default();
        for text in ["X-Spam-Flag", "x-virus-*"] {
            names.add(text).unwrap();
        }
        for name in ["X-SPAM-FLAG", "x-spam-flag", "X-Virus-", "X-VIRUS-Scanned"] {
            assert!(names.contains(name.as_bytes()), "{name}");
        }
        assert!(names.contains(b"X-Virus-\xff"));
        for name in ["X-Spam-Flags", "X-Spam-Fla", "X-Virus", "", "Subject"] {
            assert!(!names.contains(name.as_bytes()), "{name}");
        }
        assert!(!names.contains(b"\xff"));
        for wrong in ["", "*", "X-*-Flag", "X-**", "X Spam", "X-Spam:", "X\r\n", "X\0"] {
            assert!(names.add(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn recipients_are_plain_addresses() {
        for (text, wanted) in [
            ("archive@example.org", "archive@example.org"),
            ("a.b+c@Example.ORG", "a.b+c@example.org"),
            ("a@b\u{fc}ro.example", "a@xn--bro-hoa.example"),
        ] {
            assert_eq!(mailbox(text).as_deref(), Ok(wanted));
        }
        for wrong in [
            "",
            "archive",
            "@example.org",
            "a@",
            "a@b@c",
            "<a@b.example>",
            "a b@c.example",
            "a..b@c.example",
            ".a@c.example",
            "a@c..example",
            "a@c.example\r\nX: y",
            "\"a\"@c.example",
            "\u{fc}@c.example",
            "a@c.example,d@e.example",
            "a@[192.0.2.1]",
        ] {
            assert!(mailbox(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_redirection_keeps_whom_it_would_add() {
        let editing = Arc::new(Editing {
            redirect_to: Some("hold@example.org".into()),
            copy_to: vec!["archive@example.org".into()],
            ..Editing::default()
        });
        let edits = Edits::new(&editing, &filling("x"));
        assert!(edits.is_redirected());
        assert!(edits.recipients().eq(["hold@example.org", "archive@example.org"]));
        assert!(edits.keeps("Hold@Example.org") && edits.keeps("archive@example.org"));
        assert!(!edits.keeps("bob@example.org") && !edits.keeps(""));
        let mut needs = Needs::default();
        assert!(!needs.is_any());
        needs.add(&editing);
        assert!(needs.is_any() && needs.adds_recipients && needs.removes_recipients);
        assert!(!needs.adds_headers && needs.removed.is_empty());
    }

    proptest! {
        #[test]
        fn a_filled_in_field_is_one_line(text in "[ -~]{0,40}", policy in ".{0,1200}") {
            if let Ok(field) = Template::parse(&format!("X-Any: {text}{{policy}}")) {
                let value = field.filled(&filling(&policy));
                prop_assert!(value.bytes().all(is_plain));
                prop_assert!("X-Any: ".len() + value.len() <= LINE_BYTES_MAX);
            }
        }
    }
}
