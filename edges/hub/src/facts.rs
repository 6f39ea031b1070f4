//! From what a door has read to the facts of a decision.

use std::borrow::Cow;

use mpp_config::Configuration;
use mpp_engine::address;
use mpp_engine::facts::{Direction, Facts, Repeat, Reserved, ServerSays};
use mpp_engine::identity::Parties;

use crate::hub::Asked;

/// The one form of a text of some kind, from one that is in lower case as far as it is ASCII.
type Form = fn(&str) -> Cow<'_, str>;

/// Appends a text in its one form; returns how long that is.
fn push_form(text: &str, form: Form, lower: &mut String) -> usize {
    let start = lower.len();
    lower.push_str(text);
    if let Some(added) = lower.get_mut(start..) {
        added.make_ascii_lowercase();
    }
    let added = lower.get(start..).unwrap_or_default();
    let other = match form(added) {
        Cow::Borrowed(same) if same.len() == added.len() => None,
        other => Some(other.into_owned()),
    };
    if let Some(other) = other {
        lower.truncate(start);
        lower.push_str(&other);
    }
    lower.len() - start
}

/// Makes facts of what was asked. Texts in their one form are kept in `lower`.
pub(crate) fn facts<'a>(
    configuration: &Configuration,
    asked: &Asked<'a>,
    lower: &'a mut String,
    scratch: &mut String,
) -> Facts<'a> {
    let client = asked.client.to_canonical();
    let texts: [(&str, Form); 6] = [
        (asked.client_name, address::host_name),
        (asked.reverse_name, address::host_name),
        (asked.helo, address::host_name),
        (asked.sender, address::canonical),
        (asked.recipient, address::canonical),
        (asked.sasl_user, address::account),
    ];
    lower.clear();
    let lengths = texts.map(|(text, form)| push_form(text, form, lower));
    let mut rest: &'a str = lower;
    let [client_name, reverse_name, helo, sender, recipient, sasl_user] = lengths.map(|length| {
        let (head, tail) = rest.split_at_checked(length).unwrap_or((rest, ""));
        rest = tail;
        head
    });
    let known = |name: &'a str| if name == "unknown" { "" } else { name };
    let (client_name, reverse_name) = (known(client_name), known(reverse_name));
    let is_local = configuration.networks.local.contains(client);
    let is_outbound = is_local || !sasl_user.is_empty();
    let ring = configuration.ring;
    let organisation = ring.organisation(client_name, client);
    let parties = Parties { client, organisation, sasl_user, sender, recipient, helo };
    Facts {
        stage: asked.stage,
        direction: if is_outbound { Direction::Outbound } else { Direction::Inbound },
        client,
        client_port: asked.client_port,
        client_name,
        reverse_name,
        helo,
        sender,
        recipient,
        sasl_user,
        instance: asked.instance,
        queue_id: asked.queue_id,
        context: asked.context,
        size_bytes: asked.size_bytes,
        recipient_count: asked.recipient_count,
        repeat: Repeat::No,
        has_accepted: false,
        server_says: ServerSays::Nothing,
        is_new_connection: false,
        is_early: asked.is_early,
        is_queued: asked.is_queued,
        is_spared: asked.is_ours || is_local || configuration.networks.trusted.contains(client),
        reserved: Reserved::default(),
        keys: ring.keys(&parties, scratch),
    }
}
