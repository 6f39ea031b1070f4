//! What those who watch a client are shown of doors whose protocol is not for people: the policy
//! service and the milter. What SMTP says is shown as it is said.

use std::fmt::Write as _;

use mpp_engine::facts::Stage;
use mpp_hub::Asked;
use mpp_wire::milter::{Event, Texts};

/// A request of the policy service in short: its stage, and what is known.
pub(crate) fn request(asked: &Asked<'_>) -> String {
    let mut text = asked.stage.name().to_owned();
    let is_named = !matches!(asked.stage, Stage::Connect | Stage::Helo);
    if is_named {
        push("from", &format!("<{}>", asked.sender), &mut text);
    }
    if !asked.recipient.is_empty() {
        push("to", &format!("<{}>", asked.recipient), &mut text);
    }
    for (name, value) in [
        ("name", asked.client_name),
        ("helo", asked.helo),
        ("sasl_user", asked.sasl_user),
        ("queue_id", asked.queue_id),
        ("context", asked.context),
    ] {
        // What Postfix says of a client without a name.
        if !value.is_empty() && value != "unknown" {
            push(name, value, &mut text);
        }
    }
    if asked.size_bytes > 0 {
        push("size", &asked.size_bytes.to_string(), &mut text);
    }
    if asked.recipient_count > 0 {
        push("recipients", &asked.recipient_count.to_string(), &mut text);
    }
    text
}

fn push(name: &str, value: &str, text: &mut String) {
    // Writing to a string cannot fail.
    let _ = write!(text, " {name}={value}");
}

/// A step of a milter conversation; none for what says nothing, and for what a message holds.
pub(crate) fn step(event: &Event<'_>) -> Option<String> {
    let read = String::from_utf8_lossy;
    let addressed = |verb: &str, address: &[u8], parameters: Texts<'_>| {
        let mut text = format!("{verb} {}", read(address));
        for parameter in parameters {
            let _ = write!(text, " {}", read(parameter));
        }
        text
    };
    Some(match event {
        Event::Macros { pairs, .. } => {
            let mut pairs = pairs.clone();
            let mut text = "macros".to_owned();
            while let (Some(name), Some(value)) = (pairs.next(), pairs.next()) {
                push(&read(name), &read(value), &mut text);
            }
            if text == "macros" {
                return None;
            }
            text
        }
        Event::Connect { name, port, address } => {
            format!("connect {} [{}]:{port}", read(name), read(address))
        }
        Event::Helo(name) => format!("HELO {}", read(name)),
        Event::Mail { address, parameters } => addressed("MAIL", address, parameters.clone()),
        Event::Recipient { address, parameters } => addressed("RCPT", address, parameters.clone()),
        Event::Data => "DATA".into(),
        Event::EndOfMessage => "end of message".into(),
        Event::Abort => "abort".into(),
        Event::NextClient => "the client has left".into(),
        Event::Negotiate { .. }
        | Event::Header { .. }
        | Event::EndOfHeaders
        | Event::Body { .. }
        | Event::Content { .. }
        | Event::Quit
        | Event::Unknown => return None,
    })
}

/// The answers to it, as they were written; nothing for a step that is not answered.
pub(crate) fn answers(mut bytes: &[u8]) -> Option<String> {
    let mut words = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (packet, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        let (kind, payload) = packet.split_first()?;
        let text = String::from_utf8_lossy(payload);
        let text = text.trim_end_matches('\0').replace("%%", "%");
        words.push(match kind {
            b'c' => "continue".into(),
            b'd' => "discard".into(),
            b'y' => text,
            b'q' => format!("quarantine: {text}"),
            b'i' => format!("insert {}", numbered(payload)),
            b'm' => format!("remove {}", numbered(payload)),
            b'+' => format!("add {text}"),
            b'-' => format!("remove {text}"),
            other => char::from(*other).to_string(),
        });
    }
    (!words.is_empty()).then(|| words.join(", "))
}

/// A header field behind a number: its name, and its value if it has one.
fn numbered(payload: &[u8]) -> String {
    let text = String::from_utf8_lossy(payload.get(4..).unwrap_or_default()).into_owned();
    text.trim_end_matches('\0').replace('\0', ": ")
}

#[cfg(test)]
mod tests {
    use mpp_wire::milter::Decoder;
    use mpp_wire::milter_answer::Answer;

    use super::*;

    #[test]
    fn steps_and_answers_are_words() {
        let connect = Event::Connect { name: b"mx.example", port: 1025, address: b"192.0.2.7" };
        assert_eq!(step(&connect).unwrap(), "connect mx.example [192.0.2.7]:1025");
        let mut bytes = b"\0\0\0\x0dO\0\0\0\x06\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend_from_slice(
            b"\0\0\0\x15DMi\x004XYZ\0auth_authen\0\0\0\0\x16M<a@x.example>\0SIZE=7\0",
        );
        let mut decoder = Decoder::default();
        decoder.feed(&bytes);
        let mut words = Vec::new();
        while let Ok(Some(event)) = decoder.next_event() {
            words.extend(step(&event));
        }
        assert_eq!(words, ["macros i=4XYZ", "MAIL <a@x.example> SIZE=7"]);
        assert_eq!(step(&Event::Body { size_bytes: 5, is_last: false }), None);
        let mut out = Vec::new();
        assert_eq!(answers(&out), None);
        Answer::Quarantine("held by mpp").push(&mut out);
        Answer::Continue.push(&mut out);
        assert_eq!(answers(&out).unwrap(), "quarantine: held by mpp, continue");
        out.clear();
        Answer::RemoveHeader { place: 1, name: b"x-spam" }.push(&mut out);
        Answer::InsertHeader { place: 0, name: "X-A", value: b"b" }.push(&mut out);
        Answer::AddRecipient("<a@b.example>").push(&mut out);
        Answer::RemoveRecipient(b"<c@d.example>").push(&mut out);
        let said = "remove x-spam, insert X-A: b, add <a@b.example>, remove <c@d.example>";
        assert_eq!(answers(&out).unwrap(), said);
        out.clear();
        Answer::Reply { code: 450, status: "4.7.1", text: "100 % later" }.push(&mut out);
        assert_eq!(answers(&out).unwrap(), "450 4.7.1 100 % later");
    }
}
