//! What a look-up asks of a session: one search for addresses and domains, a few for members.

use mpp_config::directory::ldap::{Ldap as Settings, Placeholder, Template, ToldBy};
use mpp_hub::directory::{Trouble, Wanted, What};
use mpp_wire::ldap::{Entry, Filter, Scope};

use super::session::{ENTRIES_MAX, Fault, NONE, Session, Wanted as Searched};

/// How many levels of groups within groups are followed.
const LEVELS_MAX: usize = 10;
/// How many groups are looked at for one member.
const GROUPS_MAX: usize = 500;
/// The matching rule of Active Directory that follows groups within groups.
const IN_CHAIN: &str = "1.2.840.113556.1.4.1941";

/// Asks.
pub(super) async fn run(
    session: &mut Session,
    settings: &Settings,
    wanted: &Wanted,
    who: &str,
) -> Result<bool, Fault> {
    match &wanted.what {
        What::Recipient => {
            let filter = fill(&settings.filter, wanted, "", "");
            is_any(session, &settings.base, settings.scope, &filter).await
        }
        What::Domain => {
            let Some(filter) = &settings.domain_filter else {
                return Err(not_now(
                    "it is not told what a domain looks like: write `domain_filter`",
                ));
            };
            if settings.domain_base != settings.base {
                session.check_base(&settings.domain_base, who).await?;
            }
            let filter = filter.fill(|_| wanted.address.clone());
            is_any(session, &settings.domain_base, Scope::Sub, &filter).await
        }
        What::Member(group) => is_member(session, settings, wanted, group).await,
    }
}

fn not_now(text: impl Into<String>) -> Fault {
    Fault::Said(Trouble::NotNow(text.into()))
}

fn fill(template: &Template, wanted: &Wanted, group: &str, dn: &str) -> Filter<Vec<u8>> {
    template.fill(|place| match place {
        Placeholder::Address => wanted.address.clone(),
        Placeholder::User => wanted.local.clone(),
        Placeholder::Domain => wanted.domain.clone(),
        Placeholder::Group => group.to_owned(),
        Placeholder::Dn => dn.to_owned(),
    })
}

/// Whether anything is found. Two are as good as one.
pub(super) async fn is_any(
    session: &mut Session,
    base: &str,
    scope: Scope,
    filter: &Filter<Vec<u8>>,
) -> Result<bool, Fault> {
    let wanted = Searched { base, scope, filter, attributes: NONE, entries_max: 2 };
    Ok(!session.search(&wanted).await?.entries.is_empty())
}

/// Sees that there is anything to find of this kind; else why that cannot be seen. Some servers do
/// not search for just anybody (389 Directory Server: lookthroughlimit).
pub(super) async fn finds_any(
    session: &mut Session,
    settings: &Settings,
    what: &What,
    who: &str,
) -> Result<Option<String>, Fault> {
    let people = (&settings.base, settings.scope);
    let ((base, scope), template) = match (what, &settings.domain_filter) {
        (What::Domain, Some(filter)) => ((&settings.domain_base, Scope::Sub), filter),
        (What::Recipient | What::Domain, _) => (people, &settings.filter),
        (What::Member(_), _) => (people, &settings.members.account_filter),
    };
    match is_any(session, base, scope, &template.any()).await {
        Ok(true) => Ok(None),
        Err(Fault::Said(Trouble::NotNow(text))) => Ok(Some(text)),
        Ok(false) => {
            let filter = template.text();
            let text = format!("{who} finds nobody at all below {base} with {filter}");
            // Users may be found although there is no domain or member to see.
            Err(Fault::Said(match what {
                What::Recipient => Trouble::Down(text),
                What::Domain | What::Member(_) => Trouble::NotNow(text),
            }))
        }
        Err(fault) => Err(fault),
    }
}

async fn is_member(
    session: &mut Session,
    settings: &Settings,
    wanted: &Wanted,
    group: &str,
) -> Result<bool, Fault> {
    let members = &settings.members;
    if let ToldBy::Filter(own) = &members.told_by {
        if !own.uses(Placeholder::Dn) {
            let filter = fill(own, wanted, group, "");
            return is_any(session, &settings.base, settings.scope, &filter).await;
        }
        for user in accounts(session, settings, wanted).await? {
            let filter = fill(own, wanted, group, &user.dn);
            if is_any(session, &members.group_base, Scope::Sub, &filter).await? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    let group = find_group(session, settings, group).await?;
    if members.told_by == ToldBy::User {
        let rule = members.nested.then(|| IN_CHAIN.to_owned());
        let belongs = Filter::Extensible {
            rule,
            attribute: Some("memberOf".into()),
            name_counts: false,
            value: group.into_bytes(),
        };
        let account = fill(&members.account_filter, wanted, "", "");
        let filter = Filter::And(vec![belongs, account]);
        return is_any(session, &settings.base, settings.scope, &filter).await;
    }
    let users = accounts(session, settings, wanted).await?;
    is_listed(session, settings, &group, users).await
}

/// The name of the group's entry.
async fn find_group(
    session: &mut Session,
    settings: &Settings,
    group: &str,
) -> Result<String, Fault> {
    let members = &settings.members;
    let is_name = group.contains('=');
    let filter = if is_name {
        Filter::Present("objectClass".into())
    } else {
        members.group_filter.fill(|_| group.to_owned())
    };
    let (base, scope) =
        if is_name { (group, Scope::Base) } else { (&*members.group_base, Scope::Sub) };
    let searched = Searched { base, scope, filter: &filter, attributes: NONE, entries_max: 2 };
    let found = match session.search(&searched).await {
        // A group that is missing is no reason to ask this server nothing any more.
        Err(Fault::Said(Trouble::Down(text))) if is_name => return Err(not_now(text)),
        found => found?,
    };
    let mut entries = found.entries.into_iter();
    match (entries.next(), entries.next()) {
        (Some(entry), None) => Ok(entry.dn),
        (None, _) => Err(not_now(format!("there is no group {group} below {base}"))),
        (Some(_), Some(_)) => {
            Err(not_now(format!("there is more than one group {group}: write its whole name (DN)")))
        }
    }
}

/// The entries of the account or address, with what groups of POSIX call them.
async fn accounts(
    session: &mut Session,
    settings: &Settings,
    wanted: &Wanted,
) -> Result<Vec<Entry>, Fault> {
    let filter = fill(&settings.members.account_filter, wanted, "", "");
    let searched = Searched {
        base: &settings.base,
        scope: settings.scope,
        filter: &filter,
        attributes: &["uid"],
        entries_max: ENTRIES_MAX,
    };
    whole(session, &searched).await
}

/// All that is found, or nothing at all.
async fn whole(session: &mut Session, searched: &Searched<'_>) -> Result<Vec<Entry>, Fault> {
    let found = session.search(searched).await?;
    if found.is_whole {
        return Ok(found.entries);
    }
    let shown = found.entries.len();
    Err(not_now(format!("it finds more below {} than the {shown} that it shows", searched.base)))
}

/// Whether the group lists one of these users, or a group that does.
async fn is_listed(
    session: &mut Session,
    settings: &Settings,
    group: &str,
    users: Vec<Entry>,
) -> Result<bool, Fault> {
    let members = &settings.members;
    let present = Filter::Present("objectClass".into());
    let mut sought = Filter::Or(users.iter().flat_map(lists).collect());
    let mut seen: Vec<String> = Vec::new();
    let mut is_nobody = users.is_empty();
    for _ in 0..LEVELS_MAX {
        if is_nobody {
            return Ok(false);
        }
        // The server compares names: it knows what is the same and what is not.
        if is_any(session, group, Scope::Base, &sought).await? {
            return Ok(true);
        }
        if !members.nested {
            return Ok(false);
        }
        let filter = Filter::And(vec![present.clone(), sought]);
        let searched = Searched {
            base: &members.group_base,
            scope: Scope::Sub,
            filter: &filter,
            attributes: NONE,
            entries_max: ENTRIES_MAX,
        };
        let mut above = whole(session, &searched).await?;
        above.retain(|entry| !seen.contains(&entry.dn));
        seen.extend(above.iter().map(|entry| entry.dn.clone()));
        if seen.len() > GROUPS_MAX {
            return Err(not_now(format!("more than {GROUPS_MAX} groups hold this member")));
        }
        is_nobody = above.is_empty();
        sought = Filter::Or(above.iter().flat_map(lists).collect());
    }
    if is_nobody {
        return Ok(false);
    }
    Err(not_now(format!("groups are nested deeper than {LEVELS_MAX}")))
}

/// What a group has that lists this entry.
fn lists(entry: &Entry) -> Vec<Filter<Vec<u8>>> {
    let by_name = ["member", "uniqueMember"]
        .map(|attribute| Filter::Equal(attribute.into(), entry.dn.clone().into_bytes()));
    let ids = entry.attributes.iter().filter(|(name, _)| name.eq_ignore_ascii_case("uid"));
    let ids = ids.flat_map(|(_, values)| values);
    let by_id = ids.map(|id| Filter::Equal("memberUid".into(), id.clone().into_bytes()));
    by_name.into_iter().chain(by_id).collect()
}
