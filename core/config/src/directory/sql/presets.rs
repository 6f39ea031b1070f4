//! Queries for the tables of known projects. They are plain SQL that MariaDB, MySQL, PostgreSQL and
//! SQLite (3.44 and later, for CONCAT) all take; `active = '1'` suits both numbers and booleans.
//!
//! They ask what Postfix with the project's own maps would take, domain and user both active. Where
//! a project knows less than Postfix (a backup MX has no list of users), the answer is "known":
//! mail is never refused for want of knowledge.

/// The queries of one project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// The name in the configuration.
    pub name: &'static str,
    /// Whether a recipient exists.
    pub query: &'static str,
    /// Whether a domain is ours.
    pub domain_query: &'static str,
    /// Whether an address is a member of a group.
    pub member_query: &'static str,
}

/// All of them.
pub const PRESETS: [Preset; 3] = [
    Preset {
        name: "postfixadmin",
        query: POSTFIXADMIN,
        domain_query: "SELECT 1 FROM domain WHERE domain = {domain} AND active = '1'
UNION ALL SELECT 1 FROM alias_domain WHERE alias_domain = {domain} AND active = '1'",
        // `goto` is a list with commas; LIKE would take `_` and `%` of an address for wildcards.
        member_query: "SELECT 1 FROM alias WHERE address = {group} AND active = '1'
AND REPLACE(CONCAT(',', goto, ','), CONCAT(',', {address}, ','), '') <> CONCAT(',', goto, ',')",
    },
    Preset {
        name: "iredmail",
        query: IREDMAIL,
        domain_query: "SELECT 1 FROM domain WHERE domain = {domain} AND active = '1'
UNION ALL SELECT 1 FROM alias_domain x JOIN domain d ON d.domain = x.target_domain
WHERE x.alias_domain = {domain} AND x.active = '1' AND d.active = '1'",
        member_query: "SELECT 1 FROM forwardings WHERE address = {group} AND forwarding = {address}
AND active = '1'",
    },
    Preset {
        name: "virtual-users",
        query: "SELECT 1 FROM virtual_users WHERE email = {address}
UNION ALL SELECT 1 FROM virtual_aliases WHERE source IN ({address}, {catch_all})",
        domain_query: "SELECT 1 FROM virtual_domains WHERE name = {domain}",
        member_query: "SELECT 1 FROM virtual_aliases WHERE source = {group}
AND destination = {address}",
    },
];

/// Mailboxes have an alias to themselves, which PostfixAdmin switches off with the mailbox; a
/// mailbox that was switched off by hand is unknown as well.
const POSTFIXADMIN: &str = "SELECT 1 FROM domain
WHERE domain = {domain} AND active = '1' AND backupmx = '1'
UNION ALL SELECT 1 FROM mailbox m JOIN domain d ON d.domain = m.domain
WHERE m.username = {address} AND m.active = '1' AND d.active = '1'
UNION ALL SELECT 1 FROM alias a JOIN domain d ON d.domain = a.domain
WHERE a.address IN ({address}, {catch_all}) AND a.active = '1' AND d.active = '1'
AND NOT EXISTS (SELECT 1 FROM mailbox o WHERE o.username = a.address AND o.active = '0')
UNION ALL SELECT 1 FROM alias_domain x JOIN domain d ON d.domain = x.target_domain
JOIN mailbox m ON m.username = CONCAT({user}, '@', x.target_domain)
WHERE x.alias_domain = {domain} AND x.active = '1' AND m.active = '1' AND d.active = '1'
UNION ALL SELECT 1 FROM alias_domain x JOIN domain d ON d.domain = x.target_domain
JOIN alias a ON a.address IN (CONCAT({user}, '@', x.target_domain), CONCAT('@', x.target_domain))
WHERE x.alias_domain = {domain} AND x.active = '1' AND a.active = '1' AND d.active = '1'
AND NOT EXISTS (SELECT 1 FROM mailbox o WHERE o.username = a.address AND o.active = '0')";

/// Lists, aliases, and every mailbox itself are in `forwardings`; a catch-all is a row with the bare
/// domain for an address.
const IREDMAIL: &str = "SELECT 1 FROM domain
WHERE domain = {domain} AND active = '1' AND backupmx = '1'
UNION ALL SELECT 1 FROM mailbox m JOIN domain d ON d.domain = m.domain
WHERE m.username = {address} AND m.active = '1' AND m.enabledeliver = '1' AND d.active = '1'
UNION ALL SELECT 1 FROM forwardings f JOIN domain d ON d.domain = f.domain
WHERE f.address IN ({address}, {domain}) AND f.active = '1' AND d.active = '1'
AND NOT EXISTS (SELECT 1 FROM mailbox o WHERE o.username = f.address AND o.active = '0')
AND NOT EXISTS (SELECT 1 FROM alias o WHERE o.address = f.address AND o.active = '0')
UNION ALL SELECT 1 FROM alias_domain x JOIN domain d ON d.domain = x.target_domain
JOIN forwardings f ON f.address IN (CONCAT({user}, '@', x.target_domain), x.target_domain)
WHERE x.alias_domain = {domain} AND x.active = '1' AND f.active = '1' AND d.active = '1'
AND NOT EXISTS (SELECT 1 FROM mailbox o WHERE o.username = f.address AND o.active = '0')
AND NOT EXISTS (SELECT 1 FROM alias o WHERE o.address = f.address AND o.active = '0')";

#[cfg(test)]
mod tests {
    use super::super::template::Template;
    use super::*;

    #[test]
    fn every_preset_is_a_query() {
        for preset in PRESETS {
            for text in [preset.query, preset.domain_query, preset.member_query] {
                assert!(Template::parse(text).is_ok(), "{text}");
            }
        }
    }
}
