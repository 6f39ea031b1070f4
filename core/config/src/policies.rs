//! `[policy.NAME]`: a default, and policies that inherit from it whatever they do not say.

use std::sync::Arc;

use mpp_engine::checks::threshold::Thresholds;
use mpp_engine::checks::{Armed, Context, KINDS, Kind, Mode, block, threshold};
use mpp_engine::directory::{Membership, Side};
use mpp_engine::edits::Editing;
use mpp_engine::facts::Direction;
use mpp_engine::identity::Keyring;
use mpp_engine::network;
use mpp_engine::policy::{Match, Pattern, Policies, Policy, Spare};
use mpp_engine::recipients::Recipients;
use mpp_engine::scan::Scanning;
use mpp_engine::verdict::{Action, Cause, Verdict};
use mpp_settings::diagnostic::{Place, nearest};
use mpp_settings::{Diagnostic, Kind as ValueKind, Reader, Session, Table};

use crate::directory::Directory;
use crate::overlap;
use crate::quarantine::Quarantine;

/// What was read.
pub(crate) struct Read {
    pub(crate) policies: Policies,
    pub(crate) recipients: Arc<Recipients>,
    /// The names of groups, by their numbers.
    pub(crate) groups: Vec<Arc<str>>,
}

/// What policies may name.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) directories: &'a [Directory],
    pub(crate) scanners: &'a [Arc<str>],
}

/// The groups that policies name, numbered as they come.
struct Groups<'d> {
    directories: &'d [Directory],
    ring: Keyring,
    names: Vec<Arc<str>>,
}

impl Groups<'_> {
    /// Reads `DIRECTORY:GROUP`.
    fn parse(&mut self, text: &str, side: Side) -> Result<Membership, String> {
        let (name, group) = text
            .split_once(':')
            .filter(|(_, group)| !group.is_empty())
            .ok_or("expected DIRECTORY:GROUP, such as \"people:cn=nogreylist\"")?;
        let names = || self.directories.iter().map(|directory| &*directory.source.name);
        let source = names().position(|known| known == name);
        let number = source.and_then(|source| u16::try_from(source).ok());
        let (Some(directory), Some(number)) =
            (source.and_then(|source| self.directories.get(source)), number)
        else {
            return Err(match nearest(name, names()) {
                Some(near) => format!("there is no `directory.{name}`; did you mean `{near}`?"),
                None => format!("there is no `directory.{name}`"),
            });
        };
        directory.settings.knows_groups()?;
        let place = self.names.iter().position(|known| &**known == group);
        let place = place.unwrap_or_else(|| {
            self.names.push(group.into());
            self.names.len() - 1
        });
        let group_number = u16::try_from(place).map_err(|_| "too many groups")?;
        let space = directory.source.group_space(self.ring, group);
        Ok(Membership { side, source: number, group: group_number, space })
    }
}

/// Reads recipient lists and policies.
pub(crate) fn read(
    root: &mut Reader<'_>,
    session: &Session,
    ring: Keyring,
    (known, quarantine): (Known<'_>, &mut Quarantine),
) -> Read {
    let Known { directories, scanners } = known;
    let recipients = Arc::new(read_recipients(root, session, ring, directories));
    let section = root.table("policy");
    let mut tables: Vec<(&str, &Place, &Table)> = Vec::new();
    for (name, place, value) in section.names() {
        match &value.kind {
            ValueKind::Table(table) => tables.push((name, place, table)),
            _ => session.report(Diagnostic::error(
                place.clone(),
                format!("`policy.{name}` is {}, not a table", value.described()),
            )),
        }
    }
    let base = tables.iter().find(|(name, ..)| *name == "default").map(|(.., table)| *table);
    let context = Context { ring, policy: "default", recipients: &recipients, scanners };
    let default = Arc::new(read_default(base, session, &context, quarantine));
    let mut groups = Groups { directories, ring, names: Vec::new() };
    let mut others = Vec::new();
    let mut places = Vec::new();
    for (name, place, table) in tables.iter().filter(|(name, ..)| *name != "default") {
        let context = Context { ring, policy: name, recipients: &recipients, scanners };
        let chain = std::iter::once(*table).chain(base).collect();
        let mut reader = session.reader(&format!("policy.{name}"), chain);
        let wanted = read_match(&mut reader, place, &mut groups);
        let policy = read_policy(&mut reader, &context, Some(&default));
        quarantine.read_policy(&mut reader, name);
        reader.finish();
        others.push((Arc::new(policy), wanted));
        places.push((*place).clone());
    }
    for problem in overlap::find(&others, &places) {
        session.report(problem);
    }
    let policies = Policies::new(default, others, ring);
    Read { policies, recipients, groups: groups.names }
}

fn read_recipients(
    root: &mut Reader<'_>,
    session: &Session,
    ring: Keyring,
    directories: &[Directory],
) -> Recipients {
    let sources = directories.iter().map(|directory| directory.source.clone()).collect();
    let mut recipients = Recipients::new(sources);
    let section = root.table("recipients");
    for (name, place, value) in section.names() {
        let ValueKind::Table(table) = &value.kind else {
            let message = format!("`recipients.{name}` is {}, not a table", value.described());
            session.report(Diagnostic::error(place.clone(), message));
            continue;
        };
        let mut reader = session.reader(&format!("recipients.{name}"), vec![table]);
        recipients.add(&mut reader, ring);
        reader.finish();
    }
    for (name, _, value) in section.names() {
        if let ValueKind::Table(table) = &value.kind {
            let mut reader = session.reader(&format!("recipients.{name}"), vec![table]);
            recipients.warn_of_strangers(&mut reader, ring);
        }
    }
    recipients
}

fn read_default(
    base: Option<&Table>,
    session: &Session,
    context: &Context<'_>,
    quarantine: &mut Quarantine,
) -> Policy {
    let mut reader = session.reader("policy.default", base.into_iter().collect());
    if let Some((place, _)) = reader.value("match") {
        let problem = Diagnostic::error(place.clone(), "the default policy has no `match`");
        reader.report(problem.help("it holds for everything that no other policy is for"));
    }
    let policy = read_policy(&mut reader, context, None);
    quarantine.read_default(&mut reader);
    reader.finish();
    policy
}

fn read_policy(
    reader: &mut Reader<'_>,
    context: &Context<'_>,
    default: Option<&Arc<Policy>>,
) -> Policy {
    let words = [("accept", None), ("defer", Some(Action::Defer))];
    let unavailable = reader.choice("unavailable", "accept", &words).flatten();
    let mut checks = Vec::with_capacity(KINDS.len());
    let mut counts_bytes = default.is_some_and(|policy| policy.counts_bytes);
    let mut holds_at_end = default.is_some_and(|policy| policy.holds_at_end);
    for kind in KINDS {
        let inherited = default
            .and_then(|policy| policy.checks.iter().find(|armed| armed.kind.name == kind.name));
        checks.push(match inherited {
            // Nothing of its own: the very same check, which keeps ten thousand policies small.
            Some(armed) if !reader.has_own(kind.name) => armed.clone(),
            Some(_) | None if kind.name == threshold::KIND.name => {
                let check = Thresholds::read_all(reader.tables(kind.name), context);
                (counts_bytes, holds_at_end) = (check.counts_bytes(), check.holds_at_end());
                Armed { kind, mode: Mode::Enforce, check: Arc::new(check) }
            }
            Some(_) | None => read_check(kind, reader, context),
        });
    }
    let armed_block = checks.iter().find(|armed| armed.kind.name == block::KIND.name);
    let enforces_blocks = armed_block.is_some_and(|armed| armed.mode == Mode::Enforce);
    let spare = match default {
        Some(policy) if !reader.has_own(block::KIND.name) => policy.spare,
        _ => read_spare(reader),
    };
    let editing = match default {
        Some(policy) if !reader.has_own("message") => policy.editing.clone(),
        _ => Editing::read(&mut reader.table("message")).map(Arc::new),
    };
    let unavailable = unavailable.map(|action| Verdict::new(action, Cause::Unavailable));
    let name = context.policy.into();
    let scanning = match default {
        Some(policy) if !reader.has_own("scan") => policy.scanning.clone(),
        _ => Scanning::read(&mut reader.table("scan"), context.scanners).map(Arc::new),
    };
    Policy {
        name,
        checks,
        spare,
        enforces_blocks,
        unavailable,
        editing,
        scanning,
        counts_bytes,
        holds_at_end,
    }
}

fn read_check(kind: &'static Kind, reader: &mut Reader<'_>, context: &Context<'_>) -> Armed {
    let mut table = reader.table(kind.name);
    let mode = table.choice("mode", kind.default_mode, &Mode::ALL).unwrap_or(Mode::Enforce);
    let check = (kind.read)(&mut table, context);
    table.finish();
    Armed { kind, mode, check }
}

#[allow(clippy::cast_possible_truncation, reason = "both are small numbers")]
fn read_spare(reader: &mut Reader<'_>) -> Spare {
    let mut table = reader.table(block::KIND.name);
    Spare {
        clean: table.number("spare_clean", block::SPARE_CLEAN, 0.0) as f32,
        share: table.share("spare_share", block::SPARE_SHARE) as f32,
        patience_ms: table.duration_ms("patience", block::PATIENCE),
    }
}

fn read_match(reader: &mut Reader<'_>, place: &Place, groups: &mut Groups<'_>) -> Match {
    // Not inherited: `default` has none.
    let has_match = reader.value("match").is_some();
    let mut table = reader.table("match");
    let directions = [("inbound", Direction::Inbound), ("outbound", Direction::Outbound)];
    let mut members = Vec::new();
    for (name, side) in [
        ("recipient_in", Side::Recipient),
        ("sasl_user_in", Side::SaslUser),
        ("sender_in", Side::Sender),
    ] {
        members.extend(table.list(name, &[], |text| groups.parse(text, side)));
    }
    let wanted = Match {
        members,
        recipient: table.list("recipient", &[], Pattern::parse),
        sasl_user: table.list("sasl_user", &[], Pattern::parse_account),
        sender: table.list("sender", &[], Pattern::parse),
        client: table.list("client", &[], network::parse),
        direction: match table.value("direction") {
            Some(_) => table.choice("direction", "inbound", &directions),
            None => None,
        },
    };
    table.finish();
    let is_empty = wanted.recipient.is_empty()
        && wanted.sasl_user.is_empty()
        && wanted.sender.is_empty()
        && wanted.client.is_empty()
        && wanted.direction.is_none()
        && wanted.members.is_empty();
    if is_empty {
        let name = reader.path().to_owned();
        let message = if has_match { "matches nothing" } else { "has no `match`" };
        let problem = Diagnostic::error(place.clone(), format!("`{name}` {message}"));
        reader.report(
            problem.help("say for whom it is, such as match = { recipient = [\"@example.org\"] }"),
        );
    }
    wanted
}
