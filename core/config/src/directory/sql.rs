//! `kind = "sql"`: MariaDB, MySQL, PostgreSQL or SQLite.

pub mod presets;
pub mod server;
pub mod template;

use mpp_settings::{Diagnostic, Reader, Secret};

use self::presets::PRESETS;
use self::server::{Engine, Server};
use self::template::{Placeholder, Template};
use super::tls::Security;

/// An SQL database.
#[derive(Clone, Debug, PartialEq)]
pub struct Sql {
    /// The servers, asked in order until one answers. All are of one kind.
    pub servers: Vec<Server>,
    /// The password of the account on all of them.
    pub password: Option<Secret>,
    /// Whether a recipient exists: any row says that it does.
    pub query: Template,
    /// Whether a domain is ours.
    pub domain_query: Option<Template>,
    /// Whether an address or account is a member of a group.
    pub member_query: Option<Template>,
    /// Whether a connection is encrypted, and whom to trust.
    pub security: Security,
    /// How many connections there may be.
    pub connections: usize,
}

impl Sql {
    pub(super) fn read(table: &mut Reader<'_>) -> Self {
        let servers = read_servers(table);
        let password = table.secret("password");
        let preset = read_preset(table);
        let mut template = |name: &'static str, preset: Option<&'static str>| {
            if preset.is_some() || table.has_own(name) {
                // For the listing of what holds.
                table.text(name, preset.unwrap_or_default());
            }
            let default = preset.and_then(|text| Template::parse(text).ok());
            let written = table.form(name, "a query", |text| {
                Template::parse(text).and_then(|template| checked(name, template))
            });
            written.or(default)
        };
        let query = template("query", preset.map(|preset| preset.query));
        let domain_query = template("domain_query", preset.map(|preset| preset.domain_query));
        let member_query = template("member_query", preset.map(|preset| preset.member_query));
        if query.is_none() && !table.has_own("query") && !table.has_own("preset") {
            let problem = Diagnostic::error(table.place(), "it is not said what to ask");
            let known = PRESETS.map(|preset| format!("\"{}\"", preset.name)).join(", ");
            table.report(problem.help(format!("set `preset` to one of {known}, or `query`")));
        }
        let security = Security::read(table);
        let connections = table.count("connections", 4, (1, 1000));
        if servers.first().is_some_and(|server| server.engine == Engine::Sqlite) {
            for name in ["password", "tls", "ca"] {
                if table.has_own(name) {
                    table.mistake(name, "a file of SQLite has no such thing");
                }
            }
        }
        Self {
            servers,
            password,
            // Without one the configuration is not taken.
            query: query.unwrap_or_else(Template::nothing),
            domain_query,
            member_query,
            security,
            connections: usize::try_from(connections).unwrap_or(1),
        }
    }

    /// What changes the meaning of an answer.
    pub(super) fn meaning(&self) -> String {
        let text =
            |template: &Option<Template>| template.as_ref().map_or("", Template::text).to_owned();
        let queries = [self.query.text(), &text(&self.domain_query), &text(&self.member_query)];
        queries.join("\u{1}")
    }
}

fn read_servers(table: &mut Reader<'_>) -> Vec<Server> {
    let mut first: Option<Engine> = None;
    let servers = table.list("servers", &[], |text| {
        let server = Server::parse(text)?;
        let engine = *first.get_or_insert(server.engine);
        if engine == server.engine {
            return Ok(server);
        }
        let (wanted, found) = (engine.name(), server.engine.name());
        Err(format!("it is {found}, the first is {wanted}: write two directories"))
    });
    if servers.is_empty() && !table.has_own("servers") {
        let problem = Diagnostic::error(table.place(), "a directory of this kind needs `servers`");
        table.report(problem.help("servers = [\"mysql://mpp@db.example.org/postfix\"]"));
    }
    servers
}

fn read_preset(table: &mut Reader<'_>) -> Option<presets::Preset> {
    table.value("preset")?;
    let choices = PRESETS.map(|preset| (preset.name, preset));
    table.choice("preset", "", &choices)
}

/// A query that asks with what is there when it is asked.
fn checked(name: &str, template: Template) -> Result<Template, String> {
    use Placeholder::{Address, CatchAll, Domain, Group, User};
    let (is_allowed, wanted): (fn(Placeholder) -> bool, &[Placeholder]) = match name {
        "domain_query" => (|it| matches!(it, Domain | CatchAll), &[Domain, CatchAll]),
        "member_query" => (|_| true, &[Address, User]),
        _ => (|it| it != Group, &[Address, User, Domain, CatchAll]),
    };
    let names = |all: &[Placeholder]| {
        let of = |it: &Placeholder| template::PLACEHOLDERS.iter().find(|(_, other)| other == it);
        let names = all.iter().filter_map(of).map(|(name, _)| format!("`{{{name}}}`"));
        names.collect::<Vec<_>>().join(" or ")
    };
    let all = template::PLACEHOLDERS.map(|(_, placeholder)| placeholder);
    let odd: Vec<_> = all.into_iter().filter(|it| template.uses(*it) && !is_allowed(*it)).collect();
    if !odd.is_empty() {
        return Err(format!("{} means nothing in `{name}`", names(&odd)));
    }
    if name == "member_query" && !template.uses(Group) {
        return Err("without `{group}` everybody would be a member of every group".to_owned());
    }
    if wanted.iter().any(|it| template.uses(*it)) {
        Ok(template)
    } else {
        Err(format!("it asks for nobody: {} is missing", names(wanted)))
    }
}
