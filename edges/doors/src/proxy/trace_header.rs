//! The header that a gateway adds (RFC 5321 section 4.4), and how many of them there are.

use mpp_wire::header::{Line, Lines, NAME_BYTES_MAX};

use super::client::Client;

/// A message with so many of them goes round in circles (Postfix: `hopcount_limit`).
pub(crate) const RECEIVED_MAX: u32 = 50;

/// What a gateway writes on top of a message.
pub(crate) fn received(
    client: &Client,
    (host, id): (&str, &str),
    (is_extended, is_encrypted): (bool, bool),
    now_ms: u64,
) -> String {
    let with = match (is_extended, is_encrypted) {
        (true, true) => "ESMTPS",
        (true, false) => "ESMTP",
        (false, _) => "SMTP",
    };
    received_from((&client.helo, &client.name, client.address), (host, id), with, now_ms)
}

/// The same for a client that is said by its greeting, name and address.
pub(crate) fn received_from(
    (helo, name, address): (&str, &str, Option<std::net::IpAddr>),
    (host, id): (&str, &str),
    with: &str,
    now_ms: u64,
) -> String {
    // A greeting may be anything; a header may not.
    let safe = |text: &str| -> String {
        let is_safe = |c: char| c.is_ascii_alphanumeric() || ".-_[]:".contains(c);
        text.chars().take(255).map(|c| if is_safe(c) { c } else { '?' }).collect()
    };
    let helo = if helo.is_empty() { "unknown".to_owned() } else { safe(helo) };
    let name = if name.is_empty() { "unknown".to_owned() } else { safe(name) };
    let address = address.map_or_else(String::new, |address| match address {
        std::net::IpAddr::V4(v4) => v4.to_string(),
        std::net::IpAddr::V6(v6) => format!("IPv6:{v6}"),
    });
    let date = date(now_ms);
    format!(
        "Received: from {helo} ({name} [{address}])\r\n\tby {host} (mpp) with {with} id {id};\r\n\t{date}\r\n"
    )
}

/// A time as RFC 5322 section 3.3 has it, in UTC.
fn date(now_ms: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = now_ms / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let text = mpp_hub::statistics::day_text(days);
    let mut parts = text.split('-');
    let (year, month, day) = (
        parts.next().unwrap_or_default(),
        parts.next().and_then(|month| month.parse::<usize>().ok()).unwrap_or(1),
        parts.next().unwrap_or_default(),
    );
    let of = |names: &[&'static str], number: usize| names.get(number).copied().unwrap_or_default();
    let weekday = of(&DAYS, usize::try_from(days % 7).unwrap_or(0));
    let month = of(&MONTHS, month.saturating_sub(1));
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{weekday}, {day} {month} {year} {hour:02}:{minute:02}:{second:02} +0000")
}

/// Looks at the text of a message as it passes, a piece at a time.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    lines: Lines,
    /// What has come of the line under way, as far as it matters.
    line: Vec<u8>,
    is_in_text: bool,
    /// Fields of the name `Received`.
    pub(crate) received: u32,
    /// What another filter has said of it: whether it is spam.
    pub(crate) verdict: Option<bool>,
    /// Whether there is anything that is not ASCII.
    pub(crate) is_eight_bit: bool,
    /// How much there is.
    pub(crate) bytes: u64,
}

impl Watch {
    /// Looks at the next piece.
    pub(crate) fn see(&mut self, text: &[u8]) {
        // As much of a line as tells what it is, and what a filter says in it.
        const WANTED: usize = NAME_BYTES_MAX + 64;
        self.bytes += text.len() as u64;
        self.is_eight_bit |= !text.is_ascii();
        if self.is_in_text {
            return;
        }
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let room = WANTED.saturating_sub(self.line.len());
            self.line.extend_from_slice(line.get(..room).unwrap_or(line));
            if !line.ends_with(b"\n") {
                return;
            }
            match self.lines.tell(&self.line) {
                Some(Line::Field { name, colon }) => self.field(name, colon),
                Some(Line::Fold | Line::Mailbox) => {}
                Some(Line::Empty | Line::Text) | None => {
                    self.is_in_text = true;
                    self.line = Vec::new();
                    return;
                }
            }
            self.line.clear();
        }
    }

    fn field(&mut self, name: usize, colon: usize) {
        let value = self.line.get(colon..).unwrap_or_default();
        let name = self.line.get(..name).unwrap_or_default();
        let said = said(name, value);
        // Who sent it may have written below the first `Received`, which the server that scans has put
        // there; that it is clean is believed only of what stands above.
        if said == Some(true) || self.received == 0 {
            self.verdict = self.verdict.max(said);
        }
        self.received += u32::from(name.eq_ignore_ascii_case(b"received"));
    }
}

/// What a filter says in a header field: `X-Spam-Flag` and `X-Spam-Status` (`SpamAssassin`), `X-Spam`
/// (rspamd).
fn said(name: &[u8], value: &[u8]) -> Option<bool> {
    let is_one = ["x-spam-flag", "x-spam-status", "x-spam"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
    let word = value.trim_ascii_start().split(|byte| !byte.is_ascii_alphabetic()).next()?;
    if !is_one {
        None
    } else if word.eq_ignore_ascii_case(b"yes") {
        Some(true)
    } else {
        word.eq_ignore_ascii_case(b"no").then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_counted_in_pieces_as_in_one() {
        let whole = b"Received: a\r\n\tb\r\nrECEIVED : c\r\nX-Received: d\r\nA: \xc3\xa4\r\n\r\nReceived: e\r\n";
        let broken = b"Received: a\r\n\tb\r\nReceived:c\r\nA: \xc3\xa4\r\ntext\r\nReceived: e\r\n";
        for (text, piece) in (1..=whole.len()).flat_map(|it| [(&whole[..], it), (&broken[..], it)])
        {
            let mut watch = Watch::default();
            text.chunks(piece).for_each(|piece| watch.see(piece));
            assert_eq!((watch.received, watch.is_eight_bit), (2, true), "pieces of {piece}");
            assert_eq!(watch.bytes, text.len() as u64);
        }
    }

    #[test]
    fn what_another_filter_says_is_heard() {
        for (text, verdict) in [
            ("X-Spam-Flag: YES\r\n", Some(true)),
            ("x-spam-status: No, score=1.0\r\n", Some(false)),
            ("X-Spam: Yes\r\n", Some(true)),
            ("X-Spam-Status: No\r\nX-Spam-Flag: YES\r\n", Some(true)),
            ("X-Spam-Score: 5\r\n", None),
            ("X-Spam-Flag: maybe\r\n", None),
            ("Subject: x\r\n\r\nX-Spam-Flag: YES\r\n", None),
            ("Subject: x\r\nno field\r\nX-Spam-Flag: YES\r\n", None),
            ("X-Spam-Flag : YES\r\n", Some(true)),
            // Whoever sent it can say so himself, below what the server that scans has written.
            ("Received: a\r\nX-Spam-Flag: NO\r\n", None),
            ("X-Spam-Flag: NO\r\nReceived: a\r\nX-Spam-Flag: NO\r\n", Some(false)),
            ("X-Spam-Flag: NO\r\nReceived: a\r\nX-Spam-Flag: YES\r\n", Some(true)),
            ("Received: a\r\nX-Spam-Status: Yes\r\n", Some(true)),
        ] {
            for piece in [1, 7, 100] {
                let mut watch = Watch::default();
                text.as_bytes().chunks(piece).for_each(|piece| watch.see(piece));
                assert_eq!(watch.verdict, verdict, "{text}");
            }
        }
    }

    #[test]
    fn times_and_names_are_fit_for_a_header() {
        let mut client = Client::default();
        client.helo = "a\"(b".into();
        client.address = "2001:db8::1".parse().ok();
        let header = received(&client, ("mx.example", "1.2"), (true, true), 1_795_528_230_007);
        assert_eq!(
            header,
            "Received: from a??b (unknown [IPv6:2001:db8::1])\r\n\tby mx.example (mpp) with ESMTPS \
             id 1.2;\r\n\tTue, 24 Nov 2026 13:50:30 +0000\r\n"
        );
    }
}
