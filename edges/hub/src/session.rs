//! The line of the decision log that a connection leaves behind when it has ended.

use std::net::IpAddr;

use crate::hub::Hub;
use crate::line::{self, Stamp};

/// What a connection came to.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    /// Which door.
    pub door: &'static str,
    /// Its name: what `instance` of its messages begins with, and what the trace calls it.
    pub name: &'a str,
    /// The client.
    pub client: IpAddr,
    /// Its verified name; may be empty.
    pub client_name: &'a str,
    /// What it called itself; may be empty.
    pub helo: &'a str,
    /// Whether it was encrypted.
    pub is_encrypted: bool,
    /// Messages that were begun.
    pub messages: u32,
    /// Messages that the next hop has taken.
    pub passed_on: u32,
    /// Things that went wrong: commands that make no sense, and recipients that were refused.
    pub errors: u32,
    /// Bytes of all texts.
    pub bytes: u64,
    /// How long it was, in milliseconds.
    pub took_ms: u64,
    /// How it ended, in a word.
    pub end: &'static str,
}

impl Hub {
    /// Writes down that a connection has ended.
    pub fn session_ended(&self, session: &Session<'_>) {
        let Some(log) = self.log() else { return };
        let now_ms = self.now_ms();
        let letters = self.new_id(now_ms).letters();
        let mut out = String::with_capacity(256);
        out.push_str("{\"id\":\"");
        out.push_str(std::str::from_utf8(&letters).unwrap_or_default());
        out.push_str("\",\"time\":\"");
        Stamp::default().push(now_ms, &mut out);
        out.push('"');
        line::word("door", session.door, &mut out);
        line::word("session", session.name, &mut out);
        out.push_str(",\"client\":\"");
        line::push_address(session.client, &mut out);
        out.push('"');
        for (name, value) in [("name", session.client_name), ("helo", session.helo)] {
            if !value.is_empty() {
                line::field(name, value, &mut out);
            }
        }
        line::word("tls", if session.is_encrypted { "yes" } else { "no" }, &mut out);
        for (name, value) in [
            ("messages", u64::from(session.messages)),
            ("passed_on", u64::from(session.passed_on)),
            ("errors", u64::from(session.errors)),
            ("bytes", session.bytes),
            ("took_ms", session.took_ms),
        ] {
            line::number(name, value, &mut out);
        }
        line::word("end", session.end, &mut out);
        out.push_str("}\n");
        log.add(out.as_bytes());
    }
}
