//! What a server offers in its answer to EHLO, and what follows from it for the client.

use std::fmt::Write as _;

use mpp_wire::smtp::Reply;

/// The extensions of a next hop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "they are extensions, each of its own")]
pub(crate) struct Offers {
    /// PIPELINING (RFC 2920).
    pub(crate) pipelining: bool,
    /// 8BITMIME (RFC 6152).
    pub(crate) eight_bit: bool,
    /// SMTPUTF8 (RFC 6531).
    pub(crate) utf8: bool,
    /// DSN (RFC 3461).
    pub(crate) dsn: bool,
    /// STARTTLS (RFC 3207).
    pub(crate) starttls: bool,
    /// SIZE (RFC 1870); 0 is no limit that is known.
    pub(crate) size: Option<u64>,
    /// The attributes of XFORWARD.
    pub(crate) xforward: Vec<String>,
}

impl Offers {
    /// From the answer to EHLO; its first line is a name.
    pub(crate) fn of(reply: &Reply) -> Self {
        let mut offers = Self::default();
        for line in reply.lines.iter().skip(1) {
            let mut words = line.split(' ');
            match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
                "PIPELINING" => offers.pipelining = true,
                "8BITMIME" => offers.eight_bit = true,
                "SMTPUTF8" => offers.utf8 = true,
                "DSN" => offers.dsn = true,
                "STARTTLS" => offers.starttls = true,
                "SIZE" => {
                    offers.size = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0));
                }
                "XFORWARD" => offers.xforward = words.map(str::to_ascii_uppercase).collect(),
                _ => {}
            }
        }
        offers
    }

    /// What both have, for a proxy with several next hops.
    pub(crate) fn both(&self, other: &Self) -> Self {
        let size = match (self.size, other.size) {
            (Some(0), size) | (size, Some(0)) => size,
            (Some(a), Some(b)) => Some(a.min(b)),
            (None, _) | (_, None) => None,
        };
        Self {
            pipelining: self.pipelining && other.pipelining,
            eight_bit: self.eight_bit && other.eight_bit,
            utf8: self.utf8 && other.utf8,
            dsn: self.dsn && other.dsn,
            starttls: false,
            size,
            xforward: Vec::new(),
        }
    }

    /// The lines for a client, each with its mark; the last of the answer is not among them.
    pub(crate) fn push_lines(&self, out: &mut String) {
        for (is_offered, word) in
            [(self.eight_bit, "8BITMIME"), (self.utf8, "SMTPUTF8"), (self.dsn, "DSN")]
        {
            if is_offered {
                // Writing to a string cannot fail.
                let _ = write!(out, "250-{word}\r\n");
            }
        }
        match self.size {
            Some(0) => out.push_str("250-SIZE\r\n"),
            Some(size) => drop(write!(out, "250-SIZE {size}\r\n")),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(lines: &[&str]) -> Offers {
        let lines = ["mx"].iter().chain(lines).map(|&line| line.to_owned()).collect();
        Offers::of(&Reply { code: 250, enhanced: None, lines })
    }

    #[test]
    fn what_both_offer_is_offered() {
        let one = offers(&["PIPELINING", "size 1000", "8bitmime", "DSN", "XFORWARD NAME addr"]);
        assert_eq!(one.xforward, ["NAME", "ADDR"]);
        let both = one.both(&offers(&["SIZE", "8BITMIME", "SMTPUTF8"]));
        let mut text = String::new();
        both.push_lines(&mut text);
        assert_eq!(text, "250-8BITMIME\r\n250-SIZE 1000\r\n");
        assert_eq!(one.both(&Offers::default()), Offers::default());
    }
}
