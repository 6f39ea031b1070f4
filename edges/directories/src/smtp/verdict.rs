//! What a reply to RCPT says about the recipient, and whether it is about the recipient at all.
//!
//! A refusal only means "unknown" if the server says so: by an enhanced status code (RFC 3463), or,
//! as Exim does by default, by one of the codes for mailboxes with a text that speaks of nothing
//! else. Policy, relaying, protocol and trouble are "not now": they are mistakes between two of our
//! own servers, and no reason to tell a sender that a recipient does not exist.

use mpp_wire::smtp::Reply;

/// What a reply to RCPT says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The recipient is taken, or exists and cannot take mail at the moment.
    Known,
    /// There is no such recipient.
    Unknown,
    /// The server cannot or will not say.
    NotNow,
    /// There are too many recipients in this transaction.
    TooMany,
    /// The server ends the connection.
    Over,
}

/// Words of refusals that are not about the recipient, in texts without an enhanced status code.
const POLICY: [&str; 17] = [
    "relay",
    "polic",
    "denied",
    "block",
    "blacklist",
    "spam",
    "spf",
    "dmarc",
    "dkim",
    "sender",
    "prohibit",
    "authenti",
    "not permitted",
    "greylist",
    "reputation",
    "rcpthosts",
    "listed",
];

/// Reads a reply.
pub(super) fn judge(reply: &Reply) -> Verdict {
    let detail =
        reply.enhanced.or_else(|| of_qmail(reply)).map(|(_, subject, detail)| (subject, detail));
    match (reply.code, detail) {
        (421, _) => Verdict::Over,
        // 251 and 252 are promises to try, which is what 250 is as well; whether a server says so
        // to everybody is found out by asking about nobody.
        (200..=299, _) => Verdict::Known,
        (400..=599, Some((5, 3))) => Verdict::TooMany,
        (452, None) if says(reply, &["too many"]) => Verdict::TooMany,
        (500..=599, Some(detail)) if detail != (0, 0) => by_detail(reply, detail),
        (500..=599, _) => by_code(reply),
        _ => Verdict::NotNow,
    }
}

fn by_detail(reply: &Reply, detail: (u16, u16)) -> Verdict {
    match detail {
        // Other address status, bad mailbox, bad domain, bad syntax, ambiguous, moved, null MX and
        // Exchange's own "recipient not found". 5.1.7 and 5.1.8 are about the sender. 5.2.1 is a
        // mailbox that is disabled: it takes no mail, and is not to be told apart.
        (1, 0 | 1 | 2 | 3 | 4 | 6 | 10) | (2, 1) => Verdict::Unknown,
        // Full, or the message too long: Dovecot says this at RCPT of somebody who exists.
        (2, 2 | 3) => Verdict::Known,
        // Exchange Online says "550 5.4.1 Recipient address rejected: Access denied" of everybody
        // that is not in its directory.
        (4, 1) if says(reply, &["recipient address rejected"]) => Verdict::Unknown,
        _ => Verdict::NotNow,
    }
}

fn by_code(reply: &Reply) -> Verdict {
    // 554 ("transaction failed") and 552 are said for any reason; 500 to 504 are about syntax.
    match reply.code {
        550 | 551 | 553 if !says(reply, &POLICY) => Verdict::Unknown,
        _ => Verdict::NotNow,
    }
}

fn says(reply: &Reply, words: &[&str]) -> bool {
    let text = reply.text().to_ascii_lowercase();
    words.iter().any(|word| text.contains(word))
}

/// qmail writes the enhanced code at the end: "sorry, no mailbox here by that name. (#5.1.1)".
fn of_qmail(reply: &Reply) -> Option<(u16, u16, u16)> {
    let text = reply.text();
    let (code, _) = text.rsplit_once("(#")?.1.split_once(')')?;
    let mut numbers = code.split('.').map(|number| number.parse::<u16>().ok());
    let mut next = || numbers.next().flatten();
    Some((next()?, next()?, next()?))
}

#[cfg(test)]
mod tests {
    use mpp_wire::smtp::Decoder;

    use super::*;

    #[test]
    fn what_servers_say() {
        use Verdict::{Known, NotNow, Over, TooMany, Unknown};
        for (line, wanted) in [
            ("250 2.1.5 Ok", Known),
            ("251 will forward", Known),
            ("252 cannot verify", Known),
            (
                "550 5.1.1 <a@b>: Recipient address rejected: User unknown in virtual mailbox table",
                Unknown,
            ),
            (
                "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",
                Unknown,
            ),
            ("550 5.1.1 <a@b> User doesn't exist: a@b", Unknown),
            ("550 5.2.1 The email account that you tried to reach is disabled", Unknown),
            ("550 5.4.1 Recipient address rejected: Access denied.", Unknown),
            ("550 Unknown user", Unknown),
            ("550 Unrouteable address", Unknown),
            ("550 No such user here", Unknown),
            ("551 User not local", Unknown),
            ("550 sorry, no mailbox here by that name. (#5.1.1)", Unknown),
            ("553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", NotNow),
            ("554 5.7.1 <a@b>: Relay access denied", NotNow),
            ("550 relay not permitted", NotNow),
            ("550 5.7.1 Service unavailable; client blocked", NotNow),
            ("550 5.1.8 Sender address rejected: Domain not found", NotNow),
            ("550 Administrative prohibition", NotNow),
            ("550 5.7.23 SPF fail", NotNow),
            ("554 no", NotNow),
            ("552 5.2.2 Quota exceeded (mailbox for user is full)", Known),
            ("503 5.5.1 Error: need MAIL command", NotNow),
            ("500 unrecognized", NotNow),
            ("501 5.1.3 Bad recipient address syntax", Unknown),
            ("530 5.7.0 Must issue a STARTTLS command first", NotNow),
            ("450 4.2.0 <a@b>: Recipient address rejected: Greylisted", NotNow),
            ("450 4.1.1 <a@b>: unverified address", NotNow),
            ("452 4.5.3 Error: too many recipients", TooMany),
            ("452 too many recipients", TooMany),
            ("552 5.5.3 too many recipients", TooMany),
            ("452 4.3.1 Insufficient system storage", NotNow),
            ("421 4.7.0 Error: too many errors", Over),
            ("354 go on", NotNow),
        ] {
            let mut decoder = Decoder::default();
            decoder.feed(format!("{line}\r\n").as_bytes());
            assert_eq!(judge(&decoder.next_reply().unwrap().unwrap()), wanted, "{line}");
        }
    }
}
