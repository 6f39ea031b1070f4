//! What doors, commands and imports ask the hub.

use std::net::IpAddr;

use mpp_engine::facts::Stage;

/// What a door wants to know, as it was read.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields are those of `Facts`")]
pub struct Asked<'a> {
    pub door: &'static str,
    pub stage: Stage,
    pub client: IpAddr,
    pub client_port: u16,
    pub client_name: &'a str,
    pub reverse_name: &'a str,
    pub helo: &'a str,
    pub sender: &'a str,
    pub recipient: &'a str,
    pub sasl_user: &'a str,
    pub instance: &'a str,
    pub queue_id: &'a str,
    pub context: &'a str,
    pub size_bytes: u64,
    pub recipient_count: u32,
    pub is_early: bool,
    /// Whether the client is one of this site's own servers, which the configuration names, and speaks
    /// for itself.
    pub is_ours: bool,
    /// Whether a mail server has taken the message already and asks from behind its queue.
    pub is_queued: bool,
    /// Attributes that nobody knows: for the log.
    pub unknown: &'a [(&'a [u8], &'a [u8])],
}

impl Asked<'_> {
    /// A question about a client of which nothing else is known.
    pub fn about(door: &'static str, stage: Stage, client: IpAddr) -> Self {
        Self {
            door,
            stage,
            client,
            client_port: 0,
            client_name: "",
            reverse_name: "",
            helo: "",
            sender: "",
            recipient: "",
            sasl_user: "",
            instance: "",
            queue_id: "",
            context: "",
            size_bytes: 0,
            recipient_count: 0,
            is_early: false,
            is_ours: false,
            is_queued: false,
            unknown: &[],
        }
    }
}
