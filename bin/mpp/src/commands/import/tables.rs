//! The tables of sqlgrey, policyd and cluebringer.

use std::path::Path;

use mpp_config::directory::sql::server::{Engine, Server};
use mpp_config::directory::tls::{Security, Tls};
use mpp_directories::Tables;
use mpp_engine::foreign::{self, Known, Useless};
use mpp_settings::Secret;

use super::super::Failure;
use super::{Gathered, Greylist};

/// How the tables are reached.
pub(super) struct Options<'o> {
    pub(super) url: &'o str,
    pub(super) password: Option<&'o str>,
    pub(super) tls: &'o str,
    pub(super) time_zone: Option<&'o str>,
}

/// A query and what its rows mean.
struct Source {
    table: &'static str,
    query: String,
    columns: usize,
    line: fn(&[Option<String>]) -> Result<Known, Useless>,
}

/// Reads all tables of a greylist; says where they are.
pub(super) fn read(
    from: Greylist,
    options: &Options<'_>,
    gathered: &mut Gathered<'_>,
) -> Result<String, Failure> {
    let server = Server::parse(options.url).map_err(|why| format!("error: --database: {why}"))?;
    let security = Security { tls: tls(options.tls)?, ca: None };
    let password = options.password.map(secret).transpose()?;
    let sources = match from {
        Greylist::Sqlgrey => sqlgrey(server.engine, options.time_zone)?,
        Greylist::Policyd if server.engine != Engine::MySql => {
            return Err(Failure("error: policyd 1 has its tables in MariaDB or MySQL".to_owned()));
        }
        Greylist::Policyd => policyd(),
        Greylist::Cluebringer | Greylist::Postgrey => cluebringer(server.engine),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let tables = Tables::open(&server, password.as_ref(), &security).await;
        let mut tables = tables.map_err(|why| Failure(format!("error: {server}: {why}")))?;
        for source in sources {
            let take = |row: &[Option<String>]| gathered.take((source.line)(row));
            let read = tables.rows(&source.query, source.columns, take).await;
            if let Err(why) = read {
                let table = source.table;
                return Err(Failure(format!("error: {server}: the table {table}: {why}")));
            }
        }
        Ok(server.to_string())
    })
}

fn tls(word: &str) -> Result<Tls, Failure> {
    match word {
        "off" => Ok(Tls::Off),
        "prefer" => Ok(Tls::Prefer),
        "require" => Ok(Tls::Require),
        other => Err(Failure(format!("error: --tls {other}: expected off, prefer or require"))),
    }
}

/// The password, from where it is.
fn secret(place: &str) -> Result<Secret, Failure> {
    let text = match place.split_once(':') {
        Some(("file", path)) => std::fs::read_to_string(Path::new(path))
            .map_err(|error| format!("error: --password {place}: {error}"))?,
        Some(("env", name)) => std::env::var(name)
            .map_err(|_| format!("error: --password {place}: there is no such variable"))?,
        _ => {
            let rule = "a password does not belong here, where listings show it";
            return Err(Failure(format!(
                "error: --password: {rule}\nhelp: write file:PATH or env:NAME"
            )));
        }
    };
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

/// A list of columns, each as text.
fn text(engine: Engine, columns: &[&str]) -> String {
    let kind = if engine == Engine::MySql { "CHAR" } else { "TEXT" };
    let columns = columns.iter().map(|column| format!("CAST({column} AS {kind})"));
    columns.collect::<Vec<_>>().join(", ")
}

/// The schema of sqlgrey 1.7 and 1.8.
fn sqlgrey(engine: Engine, time_zone: Option<&str>) -> Result<Vec<Source>, Failure> {
    let zone = match time_zone {
        None => "current_setting('log_timezone')".to_owned(),
        Some(name) => {
            let is_name = |letter: char| letter.is_ascii_alphanumeric() || "/_+-".contains(letter);
            if name.is_empty() || !name.chars().all(is_name) {
                return Err(Failure(format!("error: --time-zone {name}: expected Area/City")));
            }
            format!("'{name}'")
        }
    };
    // It writes the time of its own session, in SQLite seconds.
    let seconds = |column: &str| match engine {
        Engine::MySql => format!("UNIX_TIMESTAMP({column})"),
        Engine::Postgres => format!("EXTRACT(EPOCH FROM ({column} AT TIME ZONE {zone}))"),
        Engine::Sqlite => column.to_owned(),
    };
    let (first, last) = (seconds("first_seen"), seconds("last_seen"));
    let columns = text(engine, &["sender_name", "sender_domain", "src", "rcpt", &first]);
    let awl = text(engine, &["src", &last]);
    let list = |table| Source {
        table,
        query: format!("SELECT {awl} FROM {table}"),
        columns: 2,
        line: foreign::sqlgrey_awl,
    };
    Ok(vec![
        Source {
            table: "connect",
            query: format!("SELECT {columns} FROM connect"),
            columns: 5,
            line: foreign::sqlgrey_connect,
        },
        list("from_awl"),
        list("domain_awl"),
    ])
}

/// The schema of policyd 1.8.
fn policyd() -> Vec<Source> {
    let columns =
        text(Engine::MySql, &["_host", "_from", "_rcpt", "_datenew", "_datelast", "_count"]);
    let list = text(Engine::MySql, &["_whitelist", "UNIX_TIMESTAMP()"]);
    vec![
        Source {
            table: "triplet",
            query: format!("SELECT {columns} FROM triplet"),
            columns: 6,
            line: foreign::policyd_triplet,
        },
        // What people wrote down themselves says something else, and not how long.
        Source {
            table: "whitelist",
            query: format!(
                "SELECT {list} FROM whitelist WHERE _description LIKE '# autowhitelisted%' \
                 AND (_expire = 0 OR _expire > UNIX_TIMESTAMP())"
            ),
            columns: 2,
            line: foreign::policyd_whitelist,
        },
    ]
}

/// The schema of cluebringer 2.0 and 2.1.
fn cluebringer(engine: Engine) -> Vec<Source> {
    let columns = ["TrackKey", "Sender", "Recipient", "FirstSeen", "LastUpdate", "Count"];
    let (columns, list) = (text(engine, &columns), text(engine, &["TrackKey", "LastSeen"]));
    vec![
        Source {
            table: "greylisting_tracking",
            query: format!("SELECT {columns} FROM greylisting_tracking"),
            columns: 6,
            line: foreign::cluebringer_tracking,
        },
        Source {
            table: "greylisting_autowhitelist",
            query: format!("SELECT {list} FROM greylisting_autowhitelist"),
            columns: 2,
            line: foreign::cluebringer_awl,
        },
    ]
}
