//! `mysql://USER@HOST:PORT/DATABASE` and its like: where a database is.

use std::fmt;

/// Which database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// MariaDB or MySQL.
    MySql,
    /// PostgreSQL.
    Postgres,
    /// A file of SQLite.
    Sqlite,
}

impl Engine {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MySql => "MariaDB or MySQL",
            Self::Postgres => "PostgreSQL",
            Self::Sqlite => "SQLite",
        }
    }
}

/// How it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Over the network.
    Network {
        /// The name or address.
        host: String,
        /// The port.
        port: u16,
    },
    /// By a unix socket: the socket itself, for PostgreSQL the folder that it is in.
    Socket(String),
    /// By a file of this host.
    File(String),
}

/// A database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Which it is.
    pub engine: Engine,
    /// How it is reached.
    pub reach: Reach,
    /// The account; empty for a file.
    pub user: String,
    /// The database on the server; empty for a file.
    pub database: String,
}

impl fmt::Display for Server {
    /// The server as messages name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reach {
            Reach::Network { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Reach::Network { host, port } => write!(f, "{host}:{port}"),
            Reach::Socket(path) | Reach::File(path) => f.write_str(path),
        }
    }
}

const FORMS: &str = "expected mysql://USER@HOST/DATABASE, postgres://USER@HOST/DATABASE or \
                     sqlite:/PATH";

impl Server {
    /// Reads a server as it is written.
    ///
    /// # Errors
    /// What is wrong, for people. It never holds what might be a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once(':').ok_or(FORMS)?;
        let engine = match scheme {
            "mysql" | "mariadb" => Engine::MySql,
            "postgres" | "postgresql" => Engine::Postgres,
            "sqlite" => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                if path.is_empty() || path.contains('?') {
                    return Err("expected sqlite:/PATH, the file of the database".to_owned());
                }
                let reach = Reach::File(path.to_owned());
                let (user, database) = (String::new(), String::new());
                return Ok(Self { engine: Engine::Sqlite, reach, user, database });
            }
            _ => return Err(format!("`{scheme}` is no database that mpp knows; {FORMS}")),
        };
        Self::parse_network(engine, rest.strip_prefix("//").ok_or(FORMS)?)
    }

    fn parse_network(engine: Engine, text: &str) -> Result<Self, String> {
        // The last `@`: a password that nobody should have written here may hold others.
        let (user, rest) =
            text.rsplit_once('@').ok_or_else(|| format!("the account is missing: {FORMS}"))?;
        if user.contains(':') {
            let rule = "a password does not belong here, where listings show it";
            return Err(format!(
                "{rule}; use `password = \"file:NAME\"` or `password = \"env:NAME\"`"
            ));
        }
        let (place, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (database, options) = database.split_once('?').unwrap_or((database, ""));
        if user.is_empty() || database.is_empty() {
            let what = if user.is_empty() { "account" } else { "database" };
            return Err(format!("the {what} is missing: {FORMS}"));
        }
        let reach = match options.strip_prefix("socket=") {
            Some(path) if place.is_empty() && path.starts_with('/') => {
                Reach::Socket(decoded(path)?)
            }
            None if options.is_empty() && !place.is_empty() => network(engine, place)?,
            _ => {
                return Err("expected HOST:PORT before the database, or `?socket=/PATH` behind it"
                    .to_owned());
            }
        };
        Ok(Self { engine, reach, user: decoded(user)?, database: decoded(database)? })
    }
}

fn network(engine: Engine, place: &str) -> Result<Reach, String> {
    let default = if engine == Engine::Postgres { 5432 } else { 3306 };
    let (host, port) = super::super::host_and_port(place, Some(default))?;
    Ok(Reach::Network { host, port })
}

/// A text with `%41` for `A`, as addresses of this kind write what would otherwise end a part.
fn decoded(text: &str) -> Result<String, String> {
    let wrong = || "a `%` is followed by two hexadecimal digits".to_owned();
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(rest.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
        bytes.push(high * 16 + low);
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err("expected text".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_as_people_write_them() {
        let network = |engine, host: &str, port, user: &str, database: &str| Server {
            engine,
            reach: Reach::Network { host: host.to_owned(), port },
            user: user.to_owned(),
            database: database.to_owned(),
        };
        for (text, wanted) in [
            (
                "mysql://mpp@db1.example.org/postfix",
                network(Engine::MySql, "db1.example.org", 3306, "mpp", "postfix"),
            ),
            (
                "postgresql://m%40pp@[2001:db8::1]:6543/mail",
                network(Engine::Postgres, "2001:db8::1", 6543, "m@pp", "mail"),
            ),
        ] {
            assert_eq!(Server::parse(text).as_ref(), Ok(&wanted), "{text}");
        }
        let socket = Server::parse("mariadb://mpp@/postfix?socket=/run/mysqld/mysqld.sock");
        let path = "/run/mysqld/mysqld.sock".to_owned();
        assert_eq!(socket.map(|server| server.reach), Ok(Reach::Socket(path)));
        for text in ["sqlite:/var/mail/users.db", "sqlite:///var/mail/users.db"] {
            assert_eq!(Server::parse(text).unwrap().to_string(), "/var/mail/users.db");
        }
    }

    #[test]
    fn mistakes_are_named_without_the_password() {
        for (text, message) in [
            ("db1.example.org", "expected mysql://"),
            ("oracle://u@h/d", "no database that mpp knows"),
            ("mysql://mpp:hunter2@h/d", "use `password"),
            ("postgres://mpp:hun@ter2@h/d", "use `password"),
            ("mysql://h/d", "account is missing"),
            ("mysql://@h/d", "account is missing"),
            ("mysql://u@h", "database is missing"),
            ("mysql://u@h:x/d", "port"),
            ("mysql://u@/d", "HOST:PORT"),
            ("postgres://u@h/d?sslmode=disable", "HOST:PORT"),
            ("mysql://u%4@h/d", "hexadecimal"),
            ("sqlite:", "file of the database"),
        ] {
            let wrong = Server::parse(text).unwrap_err();
            assert!(wrong.contains(message), "{text}: {wrong}");
            assert!(!wrong.contains("hun"), "{wrong}");
        }
    }
}
