//! What door and mail server agree on before anything else: only the steps at which something is
//! asked, and only the actions that a policy needs. What was not agreed on is never said.

use std::borrow::Cow;

use mpp_engine::edits::{HeaderNames, Needs};
use mpp_engine::facts::Stage;
use mpp_hub::quarantine::RELEASED_FIELD;
use mpp_wire::milter::{VERSION, actions, protocol};
use mpp_wire::milter_answer::{Answer, MacroStage};

use super::scan::OURS;

/// Older servers know neither replies of a filter's own nor half of the rest.
const VERSION_LEAST: u32 = 2;

/// The macros that are worked with, by the step that they come with.
const MACROS: [(MacroStage, &str); 4] = [
    (MacroStage::Connect, "j {client_ptr} {client_resolve}"),
    (MacroStage::Helo, "{tls_version}"),
    (MacroStage::Mail, "i {auth_authen}"),
    (MacroStage::Recipient, "i"),
];
/// Those that tell a recipient whom the server refuses; finding them out costs it something.
const REJECTED_MACROS: (MacroStage, &str) =
    (MacroStage::Recipient, "i {rcpt_mailer} {rcpt_host} {rcpt_addr}");

/// What a server can.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    pub(super) version: u32,
    pub(super) actions: u32,
    pub(super) protocol: u32,
}

/// What the door would like.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "they are facts, each of its own")]
pub(super) struct Wishes<'a> {
    /// The stages at which it asks.
    pub(super) stages: &'a [Stage],
    /// Whether it wants to hear of recipients whom the server refuses.
    pub(super) rejected: bool,
    /// What policies do to messages.
    pub(super) needs: &'a Needs,
    /// Whether policies count the bytes of messages.
    pub(super) size: bool,
    /// Whether policies have messages scanned.
    pub(super) scans: bool,
    /// Whether messages may carry the mark of what was released from a quarantine.
    pub(super) marks: bool,
}

/// What holds on a connection.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    version: u32,
    actions: u32,
    protocol: u32,
    /// Header fields to be remembered; none if the server does not show them.
    pub(super) removed: HeaderNames,
    /// Whether the header and the body come, so that their size is known.
    pub(super) measures: bool,
    /// Whether messages can be collected, for scanners or to see what was released.
    pub(super) collects: bool,
}

impl Agreement {
    /// Takes of the wishes what is offered.
    ///
    /// # Errors
    /// What is wrong with the offer.
    pub(super) fn new(offer: Offer, wishes: &Wishes<'_>) -> Result<Self, String> {
        if offer.version < VERSION_LEAST {
            return Err(format!("version {} of the protocol is not spoken", offer.version));
        }
        let Wishes { stages, rejected, needs, size, scans, marks } = *wishes;
        let mut wanted = actions::QUARANTINE | actions::MACROS;
        for (is_needed, action) in [
            (needs.adds_headers || scans, actions::ADD_HEADERS),
            (!needs.removed.is_empty() || scans || marks, actions::CHANGE_HEADERS),
            (needs.adds_recipients || scans, actions::ADD_RECIPIENTS),
            (needs.removes_recipients || scans, actions::REMOVE_RECIPIENTS),
        ] {
            wanted |= if is_needed { action } else { 0 };
        }
        let actions = wanted & offer.actions;
        let removes = actions & actions::CHANGE_HEADERS != 0;
        let asks = |stage: Stage| stages.contains(&stage);
        let collects = (scans || marks) && asks(Stage::EndOfMessage);
        let measures = collects || size && asks(Stage::EndOfMessage);
        let sees_headers = removes || measures;
        let mut steps = protocol::NO_END_OF_HEADERS | protocol::NO_UNKNOWN;
        for (is_wanted, flag) in [
            (!sees_headers, protocol::NO_HEADERS),
            (sees_headers, protocol::QUIET_HEADERS),
            (!measures, protocol::NO_BODY),
            (measures, protocol::QUIET_BODY),
            (rejected, protocol::REJECTED_RECIPIENTS),
            (collects, protocol::LEADING_BLANK),
            (!asks(Stage::Connect), protocol::QUIET_CONNECT),
            (!asks(Stage::Helo), protocol::QUIET_HELO),
            (!asks(Stage::Mail), protocol::QUIET_MAIL),
            (!asks(Stage::Data), protocol::NO_DATA),
        ] {
            steps |= if is_wanted { flag } else { 0 };
        }
        let removed = if removes { needs.removed.clone() } else { HeaderNames::default() };
        let removed =
            if removes && collects { removed.with(&OURS).with(&[RELEASED_FIELD]) } else { removed };
        let version = offer.version.min(VERSION);
        Ok(Self { version, actions, protocol: steps & offer.protocol, removed, measures, collects })
    }

    /// Says it to the server.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        let Self { version, actions, protocol, .. } = *self;
        let mut macros = MACROS;
        if self.hears_of_rejected()
            && let Some(last) = macros.last_mut()
        {
            *last = REJECTED_MACROS;
        }
        let macros: &[(MacroStage, &str)] =
            if actions & actions::MACROS == 0 { &[] } else { &macros };
        Answer::Negotiated { version, actions, protocol, macros }.push(out);
    }

    /// Whether the server may be told so.
    pub(super) fn allows(&self, action: u32) -> bool {
        self.actions & action == action
    }

    /// Whether recipients may have to be removed again.
    pub(super) fn removes_recipients(&self) -> bool {
        self.allows(actions::REMOVE_RECIPIENTS)
    }

    /// Whether the recipients of a message are to be remembered: to be removed, or not to be added
    /// once more.
    pub(super) fn names_recipients(&self) -> bool {
        self.removes_recipients() || self.allows(actions::ADD_RECIPIENTS)
    }

    /// Whether the server does not wait for an answer to a step.
    pub(super) fn is_quiet(&self, step: u32) -> bool {
        self.protocol & step != 0
    }

    /// Whether values of header fields have the blank behind the colon, if there is one.
    pub(super) fn has_blanks(&self) -> bool {
        self.protocol & protocol::LEADING_BLANK != 0
    }

    /// A value of our own, as it is said to the server.
    pub(super) fn value<'v>(&self, value: &'v [u8]) -> Cow<'v, [u8]> {
        if self.has_blanks() { [b" ", value].concat().into() } else { value.into() }
    }

    /// Whether the server tells of recipients whom it refuses.
    pub(super) fn hears_of_rejected(&self) -> bool {
        self.protocol & protocol::REJECTED_RECIPIENTS != 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn agreed(offered: (u32, u32), text: &str, rejected: bool) -> Agreement {
        let text = format!("[listen]\nmilter = [\"127.0.0.1:1\"]\n{text}");
        let read = mpp_config::compile("x", &text, &BTreeMap::new(), 1);
        let configuration = read.configuration.unwrap();
        let stages = &configuration.listen.milter_stages;
        let policies = &configuration.policies;
        let (needs, size, scans) = (policies.needs(), policies.count_bytes(), policies.scan());
        let offer = Offer { version: 6, actions: offered.0, protocol: offered.1 };
        let marks = false;
        Agreement::new(offer, &Wishes { stages, rejected, needs, size, scans, marks }).unwrap()
    }

    const ALL: (u32, u32) = (0x1ff, 0x1f_ffff);

    #[test]
    fn no_more_is_asked_for_than_a_policy_needs() {
        let plain = agreed(ALL, "", false);
        assert_eq!(plain.actions, actions::QUARANTINE | actions::MACROS);
        assert!(plain.is_quiet(protocol::NO_HEADERS) && !plain.is_quiet(protocol::QUIET_HEADERS));
        assert!(!plain.hears_of_rejected());
        for (setting, action) in [
            ("add_headers = [\"X-A: b\"]", actions::ADD_HEADERS),
            ("remove_headers = [\"X-A\"]", actions::CHANGE_HEADERS),
            ("copy_to = [\"a@b.example\"]", actions::ADD_RECIPIENTS),
            ("redirect_to = \"a@b.example\"", actions::ADD_RECIPIENTS | actions::REMOVE_RECIPIENTS),
        ] {
            let text = format!(
                "[policy.x]\nmatch = {{ sender = [\"a@b.example\"] }}\n[policy.x.message]\n{setting}"
            );
            let agreement = agreed(ALL, &text, true);
            assert_eq!(agreement.actions, plain.actions | action, "{setting}");
            let removes = action == actions::CHANGE_HEADERS;
            assert_eq!(agreement.is_quiet(protocol::QUIET_HEADERS), removes, "{setting}");
            assert_eq!(agreement.is_quiet(protocol::NO_HEADERS), !removes, "{setting}");
            assert_eq!(agreement.removed.contains(b"x-a"), removes, "{setting}");
            assert!(!agreement.has_blanks(), "nobody wants the bytes: {setting}");
            assert!(agreement.hears_of_rejected());
            // Nothing that is not offered.
            assert!(!agreement.measures);
            let poor = agreed((0, 0), &text, true);
            assert_eq!((poor.actions, poor.protocol), (0, 0));
            assert!(poor.removed.is_empty() && !poor.hears_of_rejected());
        }
    }

    #[test]
    fn a_message_is_shown_only_where_its_bytes_are_counted() {
        let plain = agreed(ALL, "", false);
        assert!(!plain.measures && plain.is_quiet(protocol::NO_BODY));
        let text = "[[policy.default.threshold]]\nname = \"x\"\nkey = \"client\"\n\
            count = \"bytes\"\nlimit = 5\nper = \"1h\"\n";
        let shown = protocol::QUIET_HEADERS | protocol::QUIET_BODY;
        let agreement = agreed(ALL, text, false);
        assert!(agreement.measures && agreement.protocol & shown == shown);
        assert!(!agreement.is_quiet(protocol::NO_HEADERS | protocol::NO_BODY));
        // Where nothing is asked at the end nobody wants to know.
        let text = format!("milter_stages = [\"RCPT\"]\n{text}");
        assert!(!agreed(ALL, &text, false).measures);
    }

    #[test]
    fn blanks_are_asked_for_where_messages_are_collected_and_offered() {
        let text = "[scanner.x]\nkind = \"clamd\"\nservers = [\"127.0.0.1:1\"]\n\
            [policy.default.scan]\nwith = [\"x\"]\n";
        let agreement = agreed(ALL, text, false);
        assert!(agreement.collects && agreement.has_blanks());
        assert_eq!(&*agreement.value(b"a"), b" a");
        let older = agreed((ALL.0, ALL.1 & !protocol::LEADING_BLANK), text, false);
        assert!(older.collects && !older.has_blanks());
        assert_eq!(&*older.value(b"a"), b"a");
    }

    #[test]
    fn versions_that_are_too_old_are_refused_and_newer_ones_spoken_to_as_ours() {
        let needs = Needs::default();
        let wishes = Wishes {
            stages: &[],
            rejected: false,
            needs: &needs,
            size: false,
            scans: false,
            marks: false,
        };
        let of = |version| {
            Agreement::new(Offer { version, actions: 0, protocol: 0 }, &wishes).map(|it| it.version)
        };
        assert!(of(0).is_err() && of(1).is_err());
        assert_eq!((of(2), of(6), of(7), of(u32::MAX)), (Ok(2), Ok(6), Ok(6), Ok(6)));
    }
}
