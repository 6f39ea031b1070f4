//! `kind = "ldap"`: An LDAP server. Filters are read here, once, and only filled later.

mod preset;
mod server;
pub mod template;

use mpp_settings::{Diagnostic, Reader, Secret};
use mpp_wire::ldap::Scope;

pub use preset::Preset;
pub use server::{Place, Server, Tls};
pub use template::{Placeholder, Template};

/// What a filter without a group may use.
const OF_ADDRESS: [Placeholder; 3] = [Placeholder::Address, Placeholder::User, Placeholder::Domain];
/// What `member_filter` may use.
const OF_MEMBER: [Placeholder; 5] = [
    Placeholder::Address,
    Placeholder::User,
    Placeholder::Domain,
    Placeholder::Group,
    Placeholder::Dn,
];

/// An LDAP server.
#[derive(Clone, Debug, PartialEq)]
pub struct Ldap {
    /// What kind of server it is, if it is a usual one.
    pub preset: Option<Preset>,
    /// The servers, asked in order until one answers.
    pub servers: Vec<Server>,
    /// Certificates of authorities in PEM; nothing: those that the system trusts.
    pub ca: Option<String>,
    /// The name that a certificate must hold instead of the host in the URL.
    pub server_name: Option<String>,
    /// Who asks; nothing: anonymous.
    pub bind: Option<Bind>,
    /// Where people are.
    pub base: String,
    /// How far below the base.
    pub scope: Scope,
    /// The entry of an address.
    pub filter: Template,
    /// Where domains are.
    pub domain_base: String,
    /// Something that only a domain of ours has.
    pub domain_filter: Option<Template>,
    /// Who is a member.
    pub members: Members,
    /// How many connections to one server are open at most.
    pub connections: usize,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Bind {
    /// The name.
    pub dn: String,
    /// The password.
    pub password: Secret,
}

/// Who is a member of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Members {
    /// The entry of an account or address.
    pub account_filter: Template,
    /// Where groups are.
    pub group_base: String,
    /// The entry of a group that is named without its place.
    pub group_filter: Template,
    /// Whether members of a group's groups are members.
    pub nested: bool,
    /// How membership is told.
    pub told_by: ToldBy,
}

/// How membership is told.
#[derive(Clone, Debug, PartialEq)]
pub enum ToldBy {
    /// The group lists its members.
    Group,
    /// The user's entry lists its groups (`memberOf` of Active Directory).
    User,
    /// A filter of the site's own: an entry that it finds makes the user a member.
    Filter(Template),
}

impl Ldap {
    pub(super) fn read(table: &mut Reader<'_>) -> Self {
        let preset = match table.value("preset") {
            Some(_) => table.choice("preset", "openldap", &Preset::ALL),
            None => None,
        };
        let base = read_base(table, preset);
        let domain_base = table.text("domain_base", &base);
        let filter = template(table, "filter", &OF_ADDRESS).or_else(|| {
            preset.and_then(|preset| Template::parse(&preset.filter(), &OF_ADDRESS).ok())
        });
        if filter.is_none() && table.value("filter").is_none() && table.value("preset").is_none() {
            let problem = Diagnostic::error(table.place(), "it has neither `preset` nor `filter`");
            table.report(problem.help("preset = \"openldap\", \"389ds\" or \"active-directory\""));
        }
        let filter = filter.unwrap_or_else(Template::everything);
        let domain_filter =
            template(table, "domain_filter", &[Placeholder::Domain]).or_else(|| {
                let text = preset?.domain_filter();
                Template::parse(text, &[Placeholder::Domain]).ok()
            });
        let scopes = [("sub", Scope::Sub), ("one", Scope::One), ("base", Scope::Base)];
        let scope = table.choice("scope", "sub", &scopes).unwrap_or(Scope::Sub);
        let members = read_members(table, preset, &base, &filter);
        let bind = read_bind(table);
        let servers = read_servers(table, bind.is_some());
        let (ca, server_name) = read_tls(table, &servers);
        let connections = table.count("connections", 4, (1, 1_000));
        Self {
            preset,
            servers,
            ca,
            server_name,
            bind,
            base,
            scope,
            filter,
            domain_base,
            domain_filter,
            members,
            connections: usize::try_from(connections).unwrap_or(1),
        }
    }

    /// What changes the meaning of an answer.
    pub(super) fn meaning(&self) -> String {
        let members = &self.members;
        let own = match &members.told_by {
            ToldBy::Group => "group",
            ToldBy::User => "user",
            ToldBy::Filter(filter) => filter.text(),
        };
        format!(
            "{:?}\n{}\n{:?}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{own}",
            self.preset,
            self.base,
            self.scope,
            self.filter.text(),
            self.domain_base,
            self.domain_filter.as_ref().map_or("", Template::text),
            members.account_filter.text(),
            members.group_base,
            members.group_filter.text(),
            members.nested,
        )
    }
}

fn template(
    table: &mut Reader<'_>,
    name: &'static str,
    allowed: &[Placeholder],
) -> Option<Template> {
    let read = table.form(name, "a filter", |text| {
        let template = Template::parse(text, allowed)?;
        if allowed.iter().any(|place| template.uses(*place)) {
            return Ok(template);
        }
        Err("it finds the same for everybody: it holds no placeholder such as {address}".into())
    });
    if let Some(template) = &read {
        table.text(name, template.text());
    }
    read
}

fn read_base(table: &mut Reader<'_>, preset: Option<Preset>) -> String {
    let base = table.text("base", "");
    if base.is_empty() {
        let problem = Diagnostic::error(table.place(), "an LDAP directory needs a `base`");
        let example = match preset {
            Some(Preset::ActiveDirectory) => "base = \"dc=example,dc=org\", the domain as a name",
            _ => "base = \"ou=people,dc=example,dc=org\", the entry that people are below",
        };
        table.report(problem.help(example));
    } else if !base.contains('=') {
        table.mistake("base", "it is no name of an entry, such as dc=example,dc=org");
    }
    base
}

fn read_members(
    table: &mut Reader<'_>,
    preset: Option<Preset>,
    base: &str,
    filter: &Template,
) -> Members {
    let usual = preset.unwrap_or(Preset::OpenLdap);
    let account_filter = template(table, "account_filter", &OF_ADDRESS)
        .or_else(|| Template::parse(&preset?.account_filter(), &OF_ADDRESS).ok())
        .unwrap_or_else(|| filter.clone());
    let group = [Placeholder::Group];
    let group_filter =
        Template::parse(usual.group_filter(), &group).unwrap_or_else(|_| Template::everything());
    let nested = table.flag("nested", false);
    let own = template(table, "member_filter", &OF_MEMBER);
    if own.is_some() && nested {
        table.mistake("nested", "a `member_filter` says itself how deep it looks");
    }
    let told_by = match (own, usual) {
        (Some(own), _) => ToldBy::Filter(own),
        (None, Preset::ActiveDirectory) => ToldBy::User,
        (None, Preset::OpenLdap | Preset::Ds389) => ToldBy::Group,
    };
    Members {
        account_filter,
        group_base: table.text("group_base", base),
        group_filter,
        nested,
        told_by,
    }
}

fn read_bind(table: &mut Reader<'_>) -> Option<Bind> {
    let dn = table.form("bind_dn", "the name of an entry", |text| Ok(text.to_owned()));
    let written = table.value("password").is_some();
    let password = table.secret("password");
    match (dn, password) {
        (Some(dn), Some(password)) => {
            table.text("bind_dn", &dn);
            Some(Bind { dn, password })
        }
        (Some(_), None) if !written => {
            table.mistake("bind_dn", "it has no password: write `password` too");
            None
        }
        (None, Some(_)) => {
            table.mistake("password", "nobody has it: write `bind_dn` too");
            None
        }
        _ => None,
    }
}

fn read_servers(table: &mut Reader<'_>, has_password: bool) -> Vec<Server> {
    let mut servers = table.list("servers", &[], Server::parse);
    if table.value("servers").is_none() {
        let problem = Diagnostic::error(table.place(), "an LDAP directory needs `servers`");
        table.report(problem.help("servers = [\"ldaps://ldap.example.org\"]"));
    }
    if table.flag("starttls", false) {
        for server in &mut servers {
            match server.tls {
                Tls::Direct => {
                    let message = format!("{} is encrypted from the start", server.text);
                    table.mistake("starttls", &message);
                }
                Tls::None if matches!(server.place, Place::Tcp(..)) => server.tls = Tls::Start,
                Tls::None | Tls::Start => {}
            }
        }
    }
    if let Some(clear) = servers.iter().find(|server| has_password && server.is_in_the_clear()) {
        let place = table.value("servers").map_or_else(|| table.place(), |(at, _)| at.clone());
        let message = format!("the password goes to {} unencrypted", clear.text);
        table.report(
            Diagnostic::warning(place, message)
                .help("write ldaps://, or starttls = true if the server knows that"),
        );
    }
    servers
}

fn read_tls(table: &mut Reader<'_>, servers: &[Server]) -> (Option<String>, Option<String>) {
    let ca = table.content("ca");
    // An empty file is one that somebody may fill later; the first connection says so.
    if ca.as_ref().is_some_and(|ca| !ca.trim().is_empty() && !ca.contains("BEGIN CERTIFICATE")) {
        table.mistake("ca", "the file holds no certificate in PEM (BEGIN CERTIFICATE)");
    }
    let server_name =
        table.form("server_name", "the name of a host", |text| Ok(text.to_ascii_lowercase()));
    let uses_tls = servers.iter().any(|server| server.tls != Tls::None);
    for name in ["ca", "server_name"] {
        if let Some((place, _)) = table.value(name).filter(|_| !uses_tls && !servers.is_empty()) {
            let message = format!("`{name}` has no effect: no server is asked with TLS");
            table.report(
                Diagnostic::warning(place.clone(), message)
                    .help("write ldaps://, or starttls = true"),
            );
        }
    }
    (ca, server_name)
}

#[cfg(test)]
mod tests;
