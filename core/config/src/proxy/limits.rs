//! How much of everything a proxy takes.

use mpp_settings::Reader;

/// The limits of a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, in all.
    pub connections: usize,
    /// Connections at once of one client; a filter has no such limit.
    pub client_connections: usize,
    /// Connections at once of one network (`ipv4_prefix` and `ipv6_prefix` of `[networks]`).
    pub network_connections: usize,
    /// Commands without a message among them.
    pub commands: u32,
    /// Commands that make no sense, and recipients that are refused.
    pub errors: u32,
    /// Recipients of a message.
    pub recipients: u32,
    /// Messages of a connection.
    pub messages: u32,
    /// Bytes of a message.
    pub message_bytes: u64,
    /// How long one command may take to come, in milliseconds.
    pub command_ms: u64,
    /// How long the text of a message may take, in milliseconds.
    pub message_ms: u64,
    /// How long a client may say nothing within a text, in milliseconds.
    pub text_ms: u64,
    /// Connections at once to one next hop; one client, and one network, has half of them at the most.
    pub hop_connections: usize,
    /// How long a connection may last, in milliseconds.
    pub session_ms: u64,
    /// For how long a connection to the next hop is kept that nobody uses, in milliseconds.
    pub keep_ms: u64,
}

impl Limits {
    pub(super) fn read(table: &mut Reader<'_>) -> Self {
        let mut many = |name, default, most| {
            usize::try_from(table.count(name, default, (1, most))).unwrap_or(usize::MAX)
        };
        let connections = many("connections", 5_000, 1_000_000);
        let client_connections = many("client_connections", 50, 1_000_000);
        let network_connections = many("network_connections", 200, 1_000_000);
        // Postfix: default_process_limit = 100.
        let hop_connections = many("hop_connections", 100, 1_000_000);
        let mut count = |name, default, range| {
            u32::try_from(table.count(name, default, range)).unwrap_or(u32::MAX)
        };
        let commands = count("commands", 100, (10, 1_000_000));
        let errors = count("errors", 20, (1, 1_000_000));
        // RFC 5321 section 4.5.3.1.8: at least a hundred.
        let recipients = count("recipients", 1_000, (100, 100_000));
        let messages = count("messages", 1_000, (1, 1_000_000));
        let message_bytes = table.size_bytes("message_size", "50 MiB");
        let mut time = |name, default| table.period_ms(name, default).max(1_000);
        Self {
            connections,
            client_connections,
            network_connections,
            commands,
            errors,
            recipients,
            messages,
            message_bytes,
            command_ms: time("command_time", "5m"),
            message_ms: time("message_time", "30m"),
            text_ms: time("text_time", "5m"),
            hop_connections,
            session_ms: time("session_time", "2h"),
            keep_ms: table.duration_ms("keep", "5s"),
        }
    }
}
