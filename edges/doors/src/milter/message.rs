//! What is kept of a client and of its message under way.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mpp_address::Path;
use mpp_engine::edits::{Edits, HeaderNames};
use mpp_engine::facts::Stage;
use mpp_hub::Asked;
use mpp_hub::quarantine::RELEASED_FIELD;
use mpp_wire::milter::Texts;
use mpp_wire::milter_answer::Answer;

use super::CONTEXT;
use super::agreement::Agreement;
use super::collected::Collected;
use super::scan::{Additions, OURS};

/// Bytes of a name or address that are kept; more is cut off.
const TEXT_BYTES_MAX: usize = 4 * 1024;
/// Bytes of all recipients of a message, where they may have to be removed again.
pub(super) const RECIPIENTS_BYTES_MAX: usize = 1 << 20;
/// Header fields of a message that may have to be removed. Mail servers take long for each.
pub(super) const REMOVED_MAX: u32 = 1000;

/// What becomes of a message that nobody refuses; the greater one holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    #[default]
    Passes,
    Held,
    Discarded,
}

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The client, once it has connected.
    pub(super) client: Option<Client>,
    /// The message, from MAIL on.
    pub(super) message: Option<Message>,
    pub(super) noted: Noted,
}

impl Known {
    /// What is asked; nothing of mail of local tools, which has no client.
    pub(super) fn asked<'a>(&'a self, stage: Stage, recipient: &'a str) -> Option<Asked<'a>> {
        let client = self.client.as_ref()?;
        let message = self.message.as_ref();
        let text = |of: fn(&Message) -> &str| message.map(of).unwrap_or_default();
        let is_at_end = matches!(stage, Stage::Data | Stage::EndOfMessage);
        let recipients = message.map_or(0, |message| message.recipients);
        // As the policy service has it: at the end only if there is one.
        let last = text(|message| &message.last_recipient);
        let recipient = if is_at_end && recipients == 1 { last } else { recipient };
        Some(Asked {
            client_port: client.port,
            client_name: &client.name,
            reverse_name: &client.reverse_name,
            helo: &client.helo,
            sender: text(|message| &message.sender),
            recipient,
            sasl_user: if message.is_some() { &self.noted.sasl_user } else { "" },
            instance: text(|message| &message.instance),
            queue_id: if message.is_some() { &self.noted.queue_id } else { "" },
            context: CONTEXT,
            size_bytes: message.map_or(0, |message| message.size_bytes),
            recipient_count: if is_at_end { recipients } else { 0 },
            ..Asked::about(CONTEXT, stage, client.address?)
        })
    }
}

/// What is known of the client.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) name: String,
    pub(super) reverse_name: String,
    pub(super) helo: String,
    /// What was decided before it had a message.
    pub(super) fate: Fate,
}

/// What macros have told.
#[derive(Debug, Default)]
pub(super) struct Noted {
    pub(super) sasl_user: String,
    pub(super) queue_id: String,
    pub(super) reverse_name: String,
    /// A name that does not lead back to the address proves nothing.
    pub(super) is_forged: bool,
    pub(super) recipient_mailer: String,
    pub(super) recipient_host: String,
    /// What the server made of the sender and of the recipient that a client wrote.
    pub(super) sender: String,
    pub(super) recipient: String,
}

impl Noted {
    /// Macros of a command, the letter of which is given, replace those it had before.
    pub(super) fn note<'b>(&mut self, command: u8, mut texts: impl Iterator<Item = &'b [u8]>) {
        match command {
            b'C' => (self.is_forged, self.reverse_name) = Default::default(),
            b'M' => (self.sasl_user, self.queue_id, self.sender) = Default::default(),
            b'R' => {
                (self.recipient_mailer, self.recipient_host, self.recipient) = Default::default();
            }
            _ => {}
        }
        while let Some(name) = texts.next() {
            let value = texts.next().unwrap_or_default();
            // Sendmail writes long names in braces, Postfix does so for some.
            let name =
                name.strip_prefix(b"{").and_then(|name| name.strip_suffix(b"}")).unwrap_or(name);
            match name {
                b"i" => self.queue_id = readable(value),
                b"auth_authen" => self.sasl_user = readable(value),
                b"client_ptr" => self.reverse_name = readable(value),
                b"client_resolve" => self.is_forged = value != b"OK",
                b"mail_addr" => self.sender = readable(value),
                b"rcpt_addr" => self.recipient = readable(value),
                b"rcpt_mailer" => self.recipient_mailer = readable(value),
                b"rcpt_host" => self.recipient_host = readable(value),
                _ => {}
            }
        }
    }

    /// A message is over.
    pub(super) fn forget_message(&mut self) {
        (self.sasl_user, self.queue_id, self.sender) = Default::default();
    }

    /// The recipient that is named, from how the client wrote it.
    pub(super) fn recipient(&self, address: &[u8]) -> String {
        // Where the server refuses it, the macro says why.
        let told = if self.recipient_mailer == "error" { "" } else { &*self.recipient };
        resolved(told, address)
    }

    /// The enhanced status code for which the server itself refuses the recipient that is named
    /// next, if it does; empty if it does not say.
    pub(super) fn refused(&mut self) -> Option<String> {
        let mailer = std::mem::take(&mut self.recipient_mailer);
        let host = std::mem::take(&mut self.recipient_host);
        // Sendmail leaves the host of the recipient there where it has no status.
        let is_status = host.starts_with(['4', '5'])
            && host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        (mailer == "error").then(|| if is_status { host } else { String::new() })
    }
}

/// Status codes of a refusal for good that say that there is no such user. 5.1.0 is among them not:
/// Postfix says it of senders.
pub(super) const UNKNOWN: [&str; 3] = ["5.1.1", "5.1.6", "5.1.10"];

/// What is known of the message.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) instance: String,
    pub(super) sender: String,
    /// The parameters of MAIL.
    pub(super) parameters: String,
    /// What the client has announced, until it is known.
    size_bytes: u64,
    /// How many recipients nothing stands against, and the last one of them.
    pub(super) recipients: u32,
    pub(super) last_recipient: String,
    pub(super) fate: Fate,
    /// Whether the mark of a released message is looked at.
    pub(super) is_believed: bool,
    fields: Fields,
    /// The recipients, as the server has named them, if any policy adds or removes some.
    named: Vec<Vec<u8>>,
    named_bytes: usize,
    /// How much came of header and body.
    seen_bytes: u64,
    /// What of it is collected for scanners.
    pub(super) collected: Collected,
}

impl Message {
    /// One that begins.
    pub(super) fn begin(instance: String, sender: String, size_bytes: u64, fate: Fate) -> Self {
        Self { instance, sender, size_bytes, fate, ..Self::default() }
    }

    /// Whether there is room for another recipient.
    pub(super) fn has_room(&self, address: &[u8]) -> bool {
        self.named_bytes + address.len() <= RECIPIENTS_BYTES_MAX
    }

    /// Remembers a recipient.
    pub(super) fn name(&mut self, address: &[u8]) {
        self.named_bytes += address.len();
        self.named.push(address.to_owned());
    }

    /// Whether a recipient can be written down without loss, by his number.
    pub(super) fn is_text(&self, number: usize) -> bool {
        self.named.get(number).is_none_or(|path| std::str::from_utf8(path).is_ok())
    }

    /// Sees a header field.
    pub(super) fn see(&mut self, (name, is_cut): (&[u8], bool), wanted: &HeaderNames) {
        self.fields.see((name, is_cut), wanted);
    }

    /// Sees so many bytes.
    pub(super) fn measure(&mut self, size_bytes: usize) {
        self.seen_bytes = self.seen_bytes.saturating_add(size_bytes as u64);
    }

    /// All of it was seen, if that was agreed on.
    pub(super) fn weigh(&mut self, agreement: &Agreement) {
        if agreement.measures {
            // The empty line between header and body.
            self.size_bytes = self.seen_bytes.saturating_add(2);
        }
    }

    /// Whether there were more header fields that may have to be removed than can be.
    pub(super) fn has_too_many_fields(&self) -> bool {
        self.fields.are_too_many
    }

    /// Says what is to be done to the message. Returns whether all of it was agreed on; nothing is
    /// said if not.
    pub(super) fn push(
        &self,
        edits: Option<&Edits>,
        (is_held, additions): (bool, Option<&Additions>),
        agreement: &Agreement,
        out: &mut Vec<u8>,
    ) -> bool {
        let start = out.len();
        let mut is_agreed = true;
        let mut say = |answer: Answer<'_>| {
            is_agreed &= agreement.allows(answer.action());
            answer.push(out);
        };
        // What a stranger has read somewhere opens nothing, here and behind us.
        let marks = self.fields.found.get(RELEASED_FIELD.to_ascii_lowercase().as_bytes());
        for place in (1..=marks.copied().unwrap_or(0)).rev().filter(|_| !self.is_believed) {
            say(Answer::RemoveHeader { place, name: RELEASED_FIELD.as_bytes() });
        }
        if additions.is_some() {
            // Nobody else may say what scanners say.
            for (name, count) in &self.fields.found {
                let is_ours = OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours.as_bytes()));
                let is_removed = edits.is_some_and(|edits| edits.removed().contains(name));
                if is_ours && !is_removed {
                    let places = (1..=*count).rev();
                    places.for_each(|place| say(Answer::RemoveHeader { place, name }));
                }
            }
        }
        if let Some(edits) = edits {
            // Before anything is inserted: places are those of the message as it came.
            for (name, count) in &self.fields.found {
                if edits.removed().contains(name) {
                    let places = (1..=*count).rev();
                    places.for_each(|place| say(Answer::RemoveHeader { place, name }));
                }
            }
            for (place, (name, value)) in (0..).zip(&edits.added) {
                let value = &agreement.value(value.as_bytes());
                say(Answer::InsertHeader { place, name, value });
            }
            for address in self.named.iter().filter(|_| edits.is_redirected()) {
                if !edits.keeps(&bare(address)) {
                    say(Answer::RemoveRecipient(address));
                }
            }
            for address in edits.recipients() {
                // Postfix would deliver to such a recipient twice.
                if !self.named.iter().any(|named| bare(named).eq_ignore_ascii_case(address)) {
                    say(Answer::AddRecipient(&format!("<{address}>")));
                }
            }
        }
        if let Some(additions) = additions {
            additions.say(agreement, &mut say);
            for number in &additions.removed {
                // As the server has named it, whatever bytes those are.
                say(Answer::RemoveRecipient(self.named.get(*number).map_or(b"", Vec::as_slice)));
            }
            additions.added.iter().for_each(|path| say(Answer::AddRecipient(path)));
        }
        if is_held {
            say(Answer::Quarantine("held by mpp"));
        }
        is_agreed &= additions.is_none_or(|additions| {
            additions.removed.iter().all(|number| *number < self.named.len())
        });
        // What nobody wanted when it was agreed on was not remembered either.
        is_agreed &= edits.is_none_or(|edits| {
            agreement.removed.cover(edits.removed())
                && (!edits.is_redirected() || agreement.removes_recipients())
        });
        if !is_agreed {
            out.truncate(start);
        }
        is_agreed
    }
}

/// How often header fields came that may have to be removed.
#[derive(Debug, Default)]
struct Fields {
    /// By their names, in lower case.
    found: BTreeMap<Vec<u8>, u32>,
    total: u32,
    are_too_many: bool,
}

impl Fields {
    fn see(&mut self, (name, is_cut): (&[u8], bool), wanted: &HeaderNames) {
        let name = name.trim_ascii_end();
        if !wanted.contains(name) {
            return;
        }
        // One with a cut name cannot be removed: nobody knows how it is called.
        if is_cut || self.total == REMOVED_MAX {
            self.are_too_many = true;
            return;
        }
        self.total += 1;
        *self.found.entry(name.to_ascii_lowercase()).or_default() += 1;
    }
}

/// A text of bounded length. What is no UTF-8 gets replacement characters.
pub(super) fn readable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..TEXT_BYTES_MAX).unwrap_or(bytes)).into_owned()
}

/// Parameters as a client says them, with a space between two. Such as are no UTF-8, which none may be
/// (RFC 6531 section 3.4), are left out.
pub(super) fn joined(parameters: Texts<'_>) -> String {
    let mut text = String::new();
    for parameter in parameters.filter_map(|it| std::str::from_utf8(it).ok()) {
        if text.len() + parameter.len() >= TEXT_BYTES_MAX {
            break;
        }
        text.push_str(if text.is_empty() { "" } else { " " });
        text.push_str(parameter);
    }
    text
}

/// The address in what a client wrote for a path, as the mail server reads it.
pub(super) fn bare(bytes: &[u8]) -> String {
    if let Ok(path) = Path::resolve(bytes.get(..TEXT_BYTES_MAX).unwrap_or(bytes)) {
        return path.as_str().to_owned();
    }
    let inside = bytes.strip_prefix(b"<").and_then(|rest| rest.strip_suffix(b">"));
    readable(inside.unwrap_or(bytes))
}

/// The same, if the mail server has told in a macro what it made of it: that is whom it delivers to.
/// Sendmail names local users without a domain there, which says less than the client did.
pub(super) fn resolved(macro_value: &str, bytes: &[u8]) -> String {
    match Path::resolve(macro_value.as_bytes()) {
        Ok(path) if path.as_str().contains('@') => path.as_str().to_owned(),
        _ => bare(bytes),
    }
}
