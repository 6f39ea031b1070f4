//! What a mail server is answered by a filter, in the milter protocol, version 6. What it says is
//! read by [`crate::milter`].
//!
//! Every answer that does something to a message names the action that must have been agreed on
//! ([`Answer::action`]): a server that did not offer it may take the answer for nonsense, and the
//! message is lost with the connection.

use crate::milter::actions;
#[cfg(doc)]
use crate::milter::protocol;

/// Which step macros belong to (`SMFIM_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacroStage {
    /// The connection.
    Connect = 0,
    /// HELO.
    Helo = 1,
    /// MAIL.
    Mail = 2,
    /// RCPT.
    Recipient = 3,
}

/// What a server is answered. What changes a message is understood only at its end, before the
/// answer that ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// What the filter will do and wants to see, and which macros it wants.
    Negotiated {
        /// The version, never above the server's.
        version: u32,
        /// The actions that it may take.
        actions: u32,
        /// The steps that are to be left out.
        protocol: u32,
        /// Macros for some steps; only where [`actions::MACROS`] is among the actions.
        macros: &'a [(MacroStage, &'a str)],
    },
    /// Nothing against it: go on.
    Continue,
    /// Throw the message away, and say that it was taken.
    Discard,
    /// A reply of our own: code, enhanced code and text.
    Reply {
        /// Three digits from 400 to 599; 421 ends the connection.
        code: u16,
        /// The enhanced status code.
        status: &'a str,
        /// The text, one line.
        text: &'a str,
    },
    /// Keep the message in the queue for a person to look at.
    Quarantine(&'a str),
    /// Add a header field below all others.
    AddHeader {
        /// The name.
        name: &'a str,
        /// The value; with the blank before it where [`protocol::LEADING_BLANK`] was agreed on. A
        /// line break that a blank follows is a fold, and stays one.
        value: &'a [u8],
    },
    /// Insert a header field.
    InsertHeader {
        /// How many are above it, that of the server itself (Received) counted.
        place: u32,
        /// The name.
        name: &'a str,
        /// The value; with the blank before it where [`protocol::LEADING_BLANK`] was agreed on. A
        /// line break that a blank follows is a fold, and stays one.
        value: &'a [u8],
    },
    /// Give a header field another value.
    ChangeHeader {
        /// Which one of this name, from 1.
        place: u32,
        /// The name, as the server has given it.
        name: &'a [u8],
        /// The value as above, which is not empty: that would remove it.
        value: &'a [u8],
    },
    /// Remove a header field.
    RemoveHeader {
        /// Which one of this name, from 1. Of several the last one first, since servers differ in
        /// whether those behind it move up.
        place: u32,
        /// The name, as the server has given it.
        name: &'a [u8],
    },
    /// Add a recipient, an address in angle brackets.
    AddRecipient(&'a str),
    /// Add a recipient with ESMTP parameters.
    AddRecipientWith {
        /// The address in angle brackets.
        address: &'a str,
        /// The parameters of RCPT, separated by spaces.
        parameters: &'a str,
    },
    /// Remove a recipient, as the server has named it.
    RemoveRecipient(&'a [u8]),
    /// Replace the envelope sender.
    ChangeSender {
        /// The address in angle brackets.
        address: &'a str,
        /// The parameters of MAIL, separated by spaces; may be empty.
        parameters: &'a str,
    },
}

impl Answer<'_> {
    /// The action that a server must have offered before it may be told so; 0 if none.
    pub fn action(&self) -> u32 {
        match self {
            Self::Negotiated { .. } | Self::Continue | Self::Discard | Self::Reply { .. } => 0,
            Self::Quarantine(_) => actions::QUARANTINE,
            Self::AddHeader { .. } | Self::InsertHeader { .. } => actions::ADD_HEADERS,
            Self::ChangeHeader { .. } | Self::RemoveHeader { .. } => actions::CHANGE_HEADERS,
            Self::AddRecipient(_) => actions::ADD_RECIPIENTS,
            Self::AddRecipientWith { .. } => actions::ADD_RECIPIENTS_WITH_PARAMETERS,
            Self::RemoveRecipient(_) => actions::REMOVE_RECIPIENTS,
            Self::ChangeSender { .. } => actions::CHANGE_SENDER,
        }
    }

    /// Appends the packet.
    pub fn push(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        match *self {
            Self::Negotiated { version, actions, protocol, macros } => {
                out.push(b'O');
                for number in [version, actions, protocol] {
                    push_number(number, out);
                }
                for (stage, names) in macros {
                    push_number(*stage as u32, out);
                    push_text(names.as_bytes(), out);
                }
            }
            Self::Continue => out.push(b'c'),
            Self::Discard => out.push(b'd'),
            Self::Reply { code, status, text } => {
                out.push(b'y');
                // A percent sign has a meaning in replies (milter8.c), and is itself when doubled.
                let text = text.replace('%', "%%");
                push_text(format!("{code} {status} {text}").as_bytes(), out);
            }
            Self::Quarantine(reason) => push(b'q', &[reason.as_bytes()], out),
            Self::AddHeader { name, value } => {
                out.push(b'h');
                push_field(name.as_bytes(), value, out);
            }
            Self::InsertHeader { place, name, value } => {
                out.push(b'i');
                push_number(place, out);
                push_field(name.as_bytes(), value, out);
            }
            Self::ChangeHeader { place, name, value } => {
                out.push(b'm');
                push_number(place, out);
                push_field(name, value, out);
            }
            Self::RemoveHeader { place, name } => {
                out.push(b'm');
                push_number(place, out);
                push_field(name, b"", out);
            }
            Self::AddRecipient(address) => push(b'+', &[address.as_bytes()], out),
            Self::AddRecipientWith { address, parameters } => {
                push(b'2', &[address.as_bytes(), parameters.as_bytes()], out);
            }
            Self::RemoveRecipient(address) => push(b'-', &[address], out),
            Self::ChangeSender { address, parameters: "" } => {
                push(b'e', &[address.as_bytes()], out);
            }
            Self::ChangeSender { address, parameters } => {
                push(b'e', &[address.as_bytes(), parameters.as_bytes()], out);
            }
        }
        let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
        if let Some(place) = out.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }
}

fn push_number(number: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&number.to_be_bytes());
}

fn push(letter: u8, texts: &[&[u8]], out: &mut Vec<u8>) {
    out.push(letter);
    for text in texts {
        push_text(text, out);
    }
}

/// Name and value of a header field. Folds go as the server itself says them: with LF alone.
fn push_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    push_text(name, out);
    let start = out.len();
    push_text(value, out);
    let Some(said) = out.get_mut(start..) else { return };
    for at in memchr::memchr_iter(b'\n', value) {
        let is_fold = matches!(value.get(at + 1), Some(b' ' | b'\t'));
        if let Some(byte) = said.get_mut(at).filter(|_| is_fold) {
            *byte = b'\n';
        }
    }
}

/// A text without what would end it early or begin another line.
fn push_text(text: &[u8], out: &mut Vec<u8>) {
    out.extend(
        text.iter().map(|byte| if matches!(byte, 0 | b'\r' | b'\n') { b' ' } else { *byte }),
    );
    out.push(0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::milter::protocol;

    fn pushed(answer: Answer<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        answer.push(&mut out);
        out
    }

    #[test]
    fn answers_are_packets() {
        let (name, value) = ("X-A", &b"b"[..]);
        for (answer, bytes) in [
            (Answer::Continue, &b"\0\0\0\x01c"[..]),
            (Answer::Discard, b"\0\0\0\x01d"),
            (
                Answer::Reply { code: 450, status: "4.7.1", text: "5% of\r\nit" },
                b"\0\0\0\x16y450 4.7.1 5%% of  it\0",
            ),
            (Answer::Quarantine("held"), b"\0\0\0\x06qheld\0"),
            (Answer::AddHeader { name, value }, b"\0\0\0\x07hX-A\0b\0"),
            (Answer::InsertHeader { place: 1, name, value }, b"\0\0\0\x0bi\0\0\0\x01X-A\0b\0"),
            (
                Answer::ChangeHeader { place: 2, name: b"X-A", value },
                b"\0\0\0\x0bm\0\0\0\x02X-A\0b\0",
            ),
            (
                Answer::ChangeHeader { place: 1, name: b"A", value: b" \xef\n\tb\nc\rd\0e\n" },
                b"\0\0\0\x14m\0\0\0\x01A\0 \xef\n\tb c d e \0",
            ),
            (Answer::RemoveHeader { place: 3, name: b"X-A" }, b"\0\0\0\x0am\0\0\0\x03X-A\0\0"),
            (Answer::AddRecipient("<a@b.example>"), b"\0\0\0\x0f+<a@b.example>\0"),
            (
                Answer::AddRecipientWith { address: "<a@b.example>", parameters: "NOTIFY=NEVER" },
                b"\0\0\0\x1c2<a@b.example>\0NOTIFY=NEVER\0",
            ),
            (Answer::RemoveRecipient(b"<\xff@b.example>"), b"\0\0\0\x0f-<\xff@b.example>\0"),
            (Answer::ChangeSender { address: "<>", parameters: "" }, b"\0\0\0\x04e<>\0"),
            (
                Answer::ChangeSender { address: "<>", parameters: "RET=HDRS" },
                b"\0\0\0\x0de<>\0RET=HDRS\0",
            ),
            (
                Answer::Negotiated {
                    version: 6,
                    actions: actions::QUARANTINE | actions::MACROS,
                    protocol: protocol::NO_BODY,
                    macros: &[(MacroStage::Mail, "i")],
                },
                b"\0\0\0\x13O\0\0\0\x06\0\0\x01\x20\0\0\0\x10\0\0\0\x02i\0",
            ),
        ] {
            assert_eq!(pushed(answer), bytes, "{answer:?}");
        }
    }

    #[test]
    fn what_changes_a_message_names_its_action() {
        let (name, value) = ("X", &b"y"[..]);
        let all = [
            Answer::Quarantine(""),
            Answer::AddHeader { name, value },
            Answer::InsertHeader { place: 0, name, value },
            Answer::ChangeHeader { place: 1, name: b"X", value },
            Answer::RemoveHeader { place: 1, name: b"X" },
            Answer::AddRecipient("<a>"),
            Answer::AddRecipientWith { address: "<a>", parameters: "" },
            Answer::RemoveRecipient(b"<a>"),
            Answer::ChangeSender { address: "<a>", parameters: "" },
        ];
        assert!(all.iter().all(|answer| answer.action().is_power_of_two()));
        let reply = Answer::Reply { code: 550, status: "5.7.1", text: "" };
        assert!([Answer::Continue, Answer::Discard, reply].iter().all(|it| it.action() == 0));
    }

    proptest! {
        #[test]
        fn no_text_can_end_its_packet_early(name in ".*", value in "[ \t\r\n]*.*[ \t\n]*", place: u32) {
            for answer in [
                Answer::InsertHeader { place, name: &name, value: value.as_bytes() },
                Answer::AddHeader { name: &name, value: value.as_bytes() },
                Answer::AddRecipient(&name),
                Answer::ChangeSender { address: &name, parameters: &value },
                Answer::Reply { code: 550, status: "5.7.1", text: &value },
            ] {
                let bytes = pushed(answer);
                let (length, packet) = bytes.split_first_chunk::<4>().unwrap();
                prop_assert_eq!(u32::from_be_bytes(*length) as usize, packet.len());
                let texts = match answer {
                    Answer::InsertHeader { .. } => &packet[5..],
                    _ => &packet[1..],
                };
                let wanted = match answer {
                    Answer::AddRecipient(_)
                    | Answer::Reply { .. }
                    | Answer::ChangeSender { parameters: "", .. } => 1,
                    _ => 2,
                };
                prop_assert_eq!(memchr::memchr_iter(0, texts).count(), wanted);
                prop_assert!(!texts.contains(&b'\r'));
                let is_field = matches!(answer, Answer::InsertHeader { .. } | Answer::AddHeader { .. });
                let is_fold = |at| is_field && matches!(texts[at + 1], b' ' | b'\t');
                prop_assert!(memchr::memchr_iter(b'\n', texts).all(is_fold));
            }
        }
    }
}
