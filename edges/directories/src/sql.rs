//! `kind = "sql"`: asks a database whether there is a row.
//!
//! A connection belongs to the look-up that uses it and goes back among the idle ones only after a
//! complete answer. Whatever else happens (an error, a time-out, a look-up that is dropped half-way)
//! closes it, so that no look-up ever finds half an answer to another one.

mod connection;
mod server;
mod tables;
mod trouble;

pub use self::tables::Tables;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use mpp_config::directory::sql as settings;
use mpp_config::directory::sql::template::{Marks, Placeholder, Template};
use mpp_hub::directory::{Answering, Directory, Examined, Trouble, Wanted, What};
use tokio::sync::Semaphore;

use self::connection::Query;
use self::server::{Asked, Server};

/// For so long a server that did not answer is asked last.
const REST: Duration = Duration::from_secs(3);

/// The directory.
pub(crate) struct Sql {
    servers: Vec<Server>,
    queries: Queries,
    /// One permit for each connection that there may be.
    permits: Semaphore,
    timeout: Duration,
}

struct Queries {
    recipient: Statement,
    domain: Option<Statement>,
    member: Option<Statement>,
}

/// A query as the database takes it.
struct Statement {
    text: std::sync::Arc<str>,
    values: Vec<Placeholder>,
}

impl Sql {
    pub(crate) fn new(settings: &settings::Sql, timeout: Duration) -> Self {
        let engine = settings.servers.first().map(|server| server.engine);
        let marks = match engine {
            Some(settings::server::Engine::Postgres) => Marks::Dollar,
            Some(settings::server::Engine::Sqlite) => Marks::NumberedQuestion,
            Some(settings::server::Engine::MySql) | None => Marks::Question,
        };
        let statement = |template: &Template| {
            let (text, values) = template.render(marks);
            Statement { text: text.into(), values }
        };
        let queries = Queries {
            recipient: statement(&settings.query),
            domain: settings.domain_query.as_ref().map(statement),
            member: settings.member_query.as_ref().map(statement),
        };
        let servers = settings.servers.iter();
        let servers = servers.map(|server| Server::new(server, settings, timeout)).collect();
        let permits = Semaphore::new(settings.connections.min(Semaphore::MAX_PERMITS));
        Self { servers, queries, permits, timeout }
    }

    async fn ask(&self, wanted: &Wanted) -> Result<bool, Trouble> {
        let query = self.queries.query(wanted)?;
        let queued = tokio::time::timeout(self.timeout, self.permits.acquire()).await;
        let Ok(Ok(_permit)) = queued else {
            let wait = self.timeout.as_millis();
            return Err(Trouble::Down(format!("all connections were busy for {wait} ms")));
        };
        let mut troubles = String::new();
        for server in self.in_order() {
            match server.ask(&query, self.timeout).await {
                Asked::Answered(found) => return Ok(found),
                Asked::Failed(text) => {
                    server.rest(Instant::now() + REST);
                    let gap = if troubles.is_empty() { "" } else { "; " };
                    let _ = write!(troubles, "{gap}{}: {text}", server.name());
                }
            }
        }
        Err(Trouble::Down(troubles))
    }

    /// The servers as they are written, those that failed lately behind the others.
    fn in_order(&self) -> impl Iterator<Item = &Server> {
        let now = Instant::now();
        let (tired, fresh): (Vec<_>, Vec<_>) =
            self.servers.iter().partition(|server| server.rests(now));
        // A server that rests is only asked if nobody else is there to be asked.
        if fresh.is_empty() { tired } else { fresh }.into_iter()
    }

    async fn examine_one(&self, server: &Server) -> Examined {
        let began = Instant::now();
        let result = match tokio::time::timeout(self.timeout, self.try_out(server)).await {
            Ok(result) => result,
            Err(_) => Err(trouble::too_slow(self.timeout)),
        };
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Examined { server: server.name().to_owned(), result, took_ms }
    }

    async fn try_out(&self, server: &Server) -> Result<String, String> {
        let nobody = impossible();
        let mut connection = server.connect().await?;
        let mut works = server.described();
        for (what, name) in [
            (What::Recipient, "query"),
            (What::Domain, "domain_query"),
            (What::Member(nobody.address.clone()), "member_query"),
        ] {
            let wanted = Wanted { what, ..nobody.clone() };
            let Ok(query) = self.queries.query(&wanted) else { continue };
            match connection.ask(&query).await {
                Ok(false) => {
                    let _ = write!(works, ", `{name}` works");
                }
                Ok(true) => {
                    return Err(format!(
                        "{works}, but `{name}` gives a row for {}, which cannot exist: any row \
                         means \"known\", and COUNT(*) always gives one",
                        nobody.address
                    ));
                }
                Err(error) => return Err(format!("{works}, but `{name}`: {}", error.text())),
            }
        }
        Ok(works)
    }
}

impl Directory for Sql {
    fn look_up<'a>(&'a self, wanted: &'a Wanted) -> Answering<'a, Result<bool, Trouble>> {
        Box::pin(self.ask(wanted))
    }

    fn examine(&self) -> Answering<'_, Vec<Examined>> {
        Box::pin(async move {
            let mut all = Vec::new();
            for server in &self.servers {
                all.push(self.examine_one(server).await);
            }
            all
        })
    }
}

impl Queries {
    /// The query for this, with its values.
    fn query(&self, wanted: &Wanted) -> Result<Query, Trouble> {
        let (statement, name, group) = match &wanted.what {
            What::Recipient => (Some(&self.recipient), "query", ""),
            What::Domain => (self.domain.as_ref(), "domain_query", ""),
            What::Member(group) => (self.member.as_ref(), "member_query", group.as_str()),
        };
        let statement = statement.ok_or_else(|| {
            Trouble::Down(format!("`{name}` is not set, so this cannot be asked"))
        })?;
        // The account's name without a domain, and a domain alone, are asked about as well.
        let domain = match wanted.what {
            What::Domain if wanted.domain.is_empty() => &wanted.address,
            What::Domain | What::Recipient | What::Member(_) => &wanted.domain,
        };
        let value = |placeholder: &Placeholder| match placeholder {
            Placeholder::Address => wanted.address.clone(),
            Placeholder::User => wanted.local.clone(),
            Placeholder::Domain => domain.clone(),
            Placeholder::CatchAll => format!("@{domain}"),
            Placeholder::Group => group.to_owned(),
        };
        let values = statement.values.iter().map(value).collect();
        Ok(Query { text: statement.text.clone(), values })
    }
}

/// An address that no database has: its domain is reserved for that (RFC 2606).
fn impossible() -> Wanted {
    Wanted {
        what: What::Recipient,
        address: "mpp-check-nobody@mpp-check.invalid".to_owned(),
        local: "mpp-check-nobody".to_owned(),
        domain: "mpp-check.invalid".to_owned(),
    }
}
