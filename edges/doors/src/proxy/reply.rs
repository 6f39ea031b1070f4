//! Replies as bytes.

use std::fmt::Write as _;

use mpp_wire::smtp::Reply;
use mpp_wire::smtp_server::Fault;

/// To whoever begins something while the daemon is about to stop.
pub(crate) const STOPPING: &str = "421 4.3.2 Stopping\r\n";
/// To whoever took too long.
pub(crate) const TOO_SLOW: &str = "421 4.4.2 You took too long\r\n";
/// Where the next hop should have answered.
pub(crate) const NO_HOP: Own = Own(451, "4.4.1 The next hop does not answer");
/// Where it has got a message and has not said what became of it.
pub(crate) const NO_ANSWER: Own = Own(451, "4.4.2 The next hop has not answered");
/// When something that a policy insists on cannot be done now.
pub(crate) const NOT_NOW: Own = Own(451, "4.3.0 Cannot be done now");
/// To a message that nobody is to get, or that all have.
pub(crate) const TAKEN: Own = Own(250, "2.0.0 Ok");

/// A reply of our own: its code, and the rest without line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Own(pub(crate) u16, pub(crate) &'static str);

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    /// All of it, with line ends.
    pub(crate) text: String,
}

impl Answer {
    /// A code, and the line behind it.
    pub(crate) fn new(code: u16, line: &str) -> Self {
        Self { code, text: format!("{code} {line}\r\n") }
    }

    /// Whether a message that is answered so was taken.
    pub(crate) fn is_taken(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Whether it will be the same if the client comes again, which makes it an error of the client.
    pub(crate) fn is_permanent(&self) -> bool {
        self.code >= 500
    }
}

impl From<Own> for Answer {
    fn from(Own(code, line): Own) -> Self {
        Self::new(code, line)
    }
}

impl From<&Reply> for Answer {
    fn from(reply: &Reply) -> Self {
        let mut text = String::new();
        push(reply, &mut text);
        Self { code: told(reply), text }
    }
}

/// The code of a next hop's reply as a client is told it: that it ends its connection is not the
/// client's business, "not now" is.
fn told(reply: &Reply) -> u16 {
    if reply.code == 421 { 451 } else { reply.code }
}

/// Appends the reply of a next hop as it was given.
fn push(reply: &Reply, out: &mut String) {
    let code = told(reply);
    for (place, line) in reply.lines.iter().enumerate() {
        let mark = if place + 1 == reply.lines.len() { ' ' } else { '-' };
        // Writing to a string cannot fail.
        let _ = write!(out, "{code}{mark}");
        if let Some((class, subject, detail)) = reply.enhanced {
            let _ = write!(out, "{class}.{subject}.{detail} ");
        }
        let _ = write!(out, "{line}\r\n");
    }
}

/// What is said to what is no command.
pub(crate) fn to_fault(fault: Fault) -> &'static str {
    match fault {
        Fault::TooLong => "500 5.5.2 Line too long\r\n",
        Fault::BareLineEnd => "500 5.5.2 A line does not end with CRLF\r\n",
        Fault::Nul => "500 5.5.2 A NUL in a command\r\n",
    }
}

/// The name that a next hop has given a message that it has taken, if it says one as Postfix, Exim
/// and Sendmail do.
pub(crate) fn queue_id(reply: &Reply) -> Option<&str> {
    let line = reply.lines.last()?;
    let id =
        ["queued as ", "id="].iter().find_map(|mark| line.split_once(mark)).map(|(_, id)| id)?;
    let id = id.split([' ', ')', ';']).next()?;
    (!id.is_empty()).then_some(id)
}

/// One reply for a message of which several recipients were answered each (RFC 2033): good only if
/// all are. Where they disagree the message has to come again, or nobody would ever hear of those
/// who did not get it.
pub(crate) fn of_all(replies: Vec<Reply>) -> Option<Reply> {
    let is_mixed = replies.iter().any(Reply::is_positive);
    let count = replies.len();
    let mut worst: Option<Reply> = None;
    let weight = |reply: &Reply| match reply.code {
        200..300 => 0,
        500.. => 1,
        // "Not now" for one: all may try again.
        _ => 2,
    };
    for reply in replies {
        if worst.as_ref().is_none_or(|worst| weight(&reply) > weight(worst)) {
            worst = Some(reply);
        }
    }
    let mut reply = worst?;
    if count > 1 && is_mixed && reply.code >= 500 {
        reply.lines.insert(0, "Some recipients have it, one has not:".to_owned());
        reply.code = 451;
        reply.enhanced = Some((4, 2, 0));
    }
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(code: u16, text: &str) -> Reply {
        Reply { code, enhanced: None, lines: vec![text.to_owned()] }
    }

    #[test]
    fn several_answers_become_one() {
        let of = |codes: &[u16]| {
            of_all(codes.iter().map(|code| reply(*code, "x")).collect()).map(|reply| reply.code)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[250, 250]), Some(250));
        assert_eq!(of(&[550, 552]), Some(550));
        assert_eq!(of(&[250, 452]), Some(452));
        assert_eq!(of(&[250, 550]), Some(451), "who did not get it would never know");
        assert_eq!(of(&[550]), Some(550));
        assert_eq!(of(&[550, 451]), Some(451));
    }

    #[test]
    fn the_name_of_a_message_is_found() {
        for (text, id) in [
            ("Ok: queued as 4F3A1B2C", Some("4F3A1B2C")),
            ("OK id=1vN3xY-000000001Ab-2Cde", Some("1vN3xY-000000001Ab-2Cde")),
            ("Ok: queued as ", None),
            ("fine", None),
        ] {
            assert_eq!(queue_id(&reply(250, text)), id, "{text}");
        }
    }
}
