//! The text of a digest: plain and HTML, and nothing in it that a stranger could make active.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mail_builder::MessageBuilder;
use mail_builder::headers::raw::Raw;
use mpp_hub::html::escaped;
use mpp_settings::form::duration_text;

use crate::digest::Refused;
use crate::record::{Row, domain};
use crate::seal::Seal;

/// What a digest is made of.
pub(crate) struct Made<'a> {
    /// What links begin with, and what signs them; nothing: there are none.
    pub(crate) links: Option<(&'a str, &'a Seal)>,
    pub(crate) user: &'a str,
    pub(crate) rows: &'a [Row],
    /// Newest first.
    pub(crate) refused: &'a [Refused],
    pub(crate) is_more: bool,
    pub(crate) now_ms: u64,
    /// How moments are said here, as `at` means them; those that are not among them are in UTC.
    pub(crate) times: &'a BTreeMap<u64, String>,
    /// What says for how long they are kept.
    pub(crate) quarantine: &'a mpp_config::Quarantine,
}

impl Made<'_> {
    pub(crate) fn message(&self, name: &str) -> std::io::Result<Vec<u8>> {
        let domain = domain(self.user);
        let (count, what) = match self.rows.len() {
            0 => (self.refused.len(), "refused"),
            count => (count, "held"),
        };
        let plural = if count == 1 { "message was" } else { "messages were" };
        let subject = format!("{count} {plural} {what} for you");
        let seconds = i64::try_from(self.now_ms / 1000).unwrap_or(0);
        MessageBuilder::new()
            .from(("Quarantine", format!("postmaster@{domain}").as_str()))
            .to(self.user)
            .subject(subject.as_str())
            .date(seconds)
            // The same for the same digest: one that has come twice is found out by mail stores.
            .message_id(format!("digest.{name}@{domain}"))
            // No holiday reply answers it (RFC 3834), and no list takes it.
            .header("Auto-Submitted", Raw::new("auto-generated"))
            .header("X-Auto-Response-Suppress", Raw::new("All"))
            .text_body(self.plain())
            .html_body(self.html())
            .write_to_vec()
    }

    /// The link that lets a message out.
    fn link(&self, row: &Row) -> Option<String> {
        let (base, seal) = self.links?;
        let keep_ms = self.quarantine.terms(&row.policy).limits.keep_ms;
        let until_ms = row.at_ms.saturating_add(keep_ms);
        let token = seal.token(&row.name(), self.user, until_ms);
        Some(format!("{base}?t={token}"))
    }

    fn when(&self, ms: u64) -> String {
        self.times.get(&ms).cloned().unwrap_or_else(|| time_text(ms))
    }

    fn how(&self) -> String {
        let policy = self.rows.first().map_or("", |row| &row.policy);
        let kept = duration_text(self.quarantine.terms(policy).limits.keep_ms);
        if self.links.is_some() {
            return format!(
                "A link opens a page where you can have the message delivered. They are kept for {kept}."
            );
        }
        format!(
            "To have one of them delivered, ask postmaster@{} and name its id. They are kept for {kept}.",
            domain(self.user)
        )
    }

    fn plain(&self) -> String {
        let mut out = String::new();
        if !self.rows.is_empty() {
            let _ = writeln!(out, "Held for {} since the last digest:", self.user);
        }
        for row in self.rows {
            // Writing to a string cannot fail.
            let _ = write!(
                out,
                "\n{}  {}\n  From:    {}\n  Subject: {}\n  Why:     {}\n",
                row.id,
                self.when(row.at_ms),
                sender(&row.sender),
                row.subject,
                row.reason
            );
            if let Some(link) = self.link(row) {
                let _ = writeln!(out, "  Deliver: {link}");
            }
        }
        if self.is_more {
            out.push_str("\nThere are more.\n");
        }
        if !self.rows.is_empty() {
            let _ = write!(out, "\n{}\n\n", self.how());
        }
        if !self.refused.is_empty() {
            let _ = writeln!(out, "{REFUSED}");
        }
        for refused in self.refused {
            let _ = write!(
                out,
                "\n{}  {}\n  From:    {}\n  Why:     {}\n",
                refused.id,
                self.when(refused.id.ms()),
                sender(&refused.sender),
                refused.why
            );
        }
        out
    }

    fn html(&self) -> String {
        let mut out = String::from("<!DOCTYPE html>\n<html><body>\n");
        if !self.rows.is_empty() {
            self.html_held(&mut out);
        }
        if !self.refused.is_empty() {
            self.html_refused(&mut out);
        }
        out.push_str("</body></html>\n");
        out
    }

    fn html_held(&self, out: &mut String) {
        let _ = write!(
            out,
            "<p>Held for {} since the last digest:</p>\n\
             <table border=\"1\" cellpadding=\"4\">\n<tr><th>Id</th><th>When</th><th>From</th>\
             <th>Subject</th><th>Why</th></tr>\n",
            escaped(self.user)
        );
        for row in self.rows {
            out.push_str("<tr>");
            let (when, from) = (self.when(row.at_ms), sender(&row.sender));
            cells(&[&row.id, &when, from, &row.subject, &row.reason], out);
            if let Some(link) = self.link(row) {
                let _ = write!(out, "<td><a href=\"{}\">deliver</a></td>", escaped(&link));
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</table>\n");
        if self.is_more {
            out.push_str("<p>There are more.</p>\n");
        }
        let _ = writeln!(out, "<p>{}</p>", escaped(&self.how()));
    }

    fn html_refused(&self, out: &mut String) {
        let _ = write!(
            out,
            "<p>{REFUSED}</p>\n<table border=\"1\" cellpadding=\"4\">\n<tr><th>Id</th>\
             <th>When</th><th>From</th><th>Why</th></tr>\n"
        );
        for refused in self.refused {
            let (id, when) = (refused.id.to_string(), self.when(refused.id.ms()));
            out.push_str("<tr>");
            cells(&[&id, &when, sender(&refused.sender), &refused.why], out);
            out.push_str("</tr>\n");
        }
        out.push_str("</table>\n");
    }
}

/// What stands above what was refused.
const REFUSED: &str = "Refused for you, newest first. Whoever sent these was told so, and nothing \
    of them was kept:";

fn sender(envelope: &str) -> &str {
    if envelope.is_empty() { "(nobody)" } else { envelope }
}

fn cells(texts: &[&str], out: &mut String) {
    for text in texts {
        // Writing to a string cannot fail.
        let _ = write!(out, "<td>{}</td>", escaped(text));
    }
}

/// A time for people, in UTC.
pub fn time_text(ms: u64) -> String {
    time_text_of(ms, 0)
}

/// A time for people by a clock that is so many seconds ahead of UTC, by which it is said already.
pub(crate) fn time_text_of(local_ms: u64, offset_s: i64) -> String {
    let (days, minutes) = (local_ms / 86_400_000, local_ms / 60_000 % 1440);
    let day = mpp_hub::statistics::day_text(days);
    let zone = match offset_s {
        0 => "UTC".to_owned(),
        ahead => {
            let (sign, minutes) = (if ahead < 0 { '-' } else { '+' }, ahead.unsigned_abs() / 60);
            format!("{sign}{:02}{:02}", minutes / 60, minutes % 60)
        }
    };
    format!("{day} {:02}:{:02} {zone}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_say_by_which_clock() {
        let noon = 20_785 * 86_400_000 + 43_200_000;
        for (offset_s, wanted) in [
            (0, "2026-11-28 12:00 UTC"),
            (3_600, "2026-11-28 12:00 +0100"),
            (-12_600, "2026-11-28 12:00 -0330"),
        ] {
            assert_eq!(time_text_of(noon, offset_s), wanted);
        }
    }
}
