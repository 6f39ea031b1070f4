//! One connection to a database, whichever it is.

use std::sync::Arc;

use futures_core::Stream;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _};

use super::trouble::Fault;

/// Rows that are read to the end of an answer. A query with more of them than this asks for a list;
/// its connection is closed instead, which is cheaper.
const ROWS_MAX: usize = 1000;

/// A query with the values for its parameters, in order.
pub(super) struct Query {
    /// What is asked.
    pub(super) text: Arc<str>,
    /// With what.
    pub(super) values: Vec<String>,
}

impl Query {
    /// Whether every value is plain text that any database of any character set can hold.
    fn is_plain(&self) -> bool {
        self.values.iter().all(|value| value.is_ascii() && !value.contains('\0'))
    }

    fn holds_nul(&self) -> bool {
        self.values.iter().any(|value| value.contains('\0'))
    }
}

/// Where to connect to, and how.
pub(super) enum Target {
    /// MariaDB or MySQL.
    MySql(Box<MySqlConnectOptions>),
    /// PostgreSQL.
    Postgres(Box<PgConnectOptions>),
    /// A file.
    Sqlite(Box<SqliteConnectOptions>),
}

impl Target {
    /// Connects and logs in.
    pub(super) async fn connect(&self) -> Result<Connection, Fault> {
        let link = match self {
            Self::MySql(options) => options.connect().await.map(Box::new).map(Link::MySql),
            Self::Postgres(options) => options.connect().await.map(Box::new).map(Link::Postgres),
            Self::Sqlite(options) => options.connect().await.map(Box::new).map(Link::Sqlite),
        };
        Ok(Connection { link: link.map_err(Fault::of)?, is_spent: false })
    }
}

/// A connection that is logged in.
pub(super) struct Connection {
    link: Link,
    is_spent: bool,
}

enum Link {
    MySql(Box<MySqlConnection>),
    Postgres(Box<PgConnection>),
    Sqlite(Box<SqliteConnection>),
}

impl Connection {
    /// Whether the query gives a row. After an error, or if this is dropped half-way, the
    /// connection must not be used again.
    pub(super) async fn ask(&mut self, query: &Query) -> Result<bool, Fault> {
        // PostgreSQL has no text with NUL in it, so no row has one either.
        if matches!(self.link, Link::Postgres(_)) && query.holds_nul() {
            return Ok(false);
        }
        let rows = match &mut self.link {
            Link::MySql(link) => count(bound(query).fetch(&mut **link)).await,
            Link::Postgres(link) => count(bound(query).fetch(&mut **link)).await,
            Link::Sqlite(link) => count(bound(query).fetch(&mut **link)).await,
        };
        match rows {
            Ok(rows) => {
                self.is_spent = rows > ROWS_MAX;
                Ok(rows > 0)
            }
            // What the character set of a table cannot hold is in no row of it. Of plain text the
            // same complaint would mean that the query itself is wrong.
            Err(error) if !query.is_plain() && is_foreign(&error) => {
                self.is_spent = true;
                Ok(false)
            }
            Err(error) => Err(Fault::of(error)),
        }
    }

    /// Whether it can be used for another query.
    pub(super) fn is_spent(&self) -> bool {
        self.is_spent
    }
}

fn bound<'q, D: sqlx::Database>(query: &'q Query) -> sqlx::query::Query<'q, D, D::Arguments>
where
    &'q str: sqlx::Encode<'q, D> + sqlx::Type<D>,
    D::Arguments: sqlx::IntoArguments<D>,
{
    let start = sqlx::query(AssertSqlSafe(query.text.clone()));
    query.values.iter().fold(start, |query, value| query.bind(value.as_str()))
}

/// Reads an answer to its end, or past so many rows.
async fn count<T>(rows: impl Stream<Item = Result<T, sqlx::Error>>) -> Result<usize, sqlx::Error> {
    let mut rows = std::pin::pin!(rows);
    let mut count = 0;
    while let Some(row) = std::future::poll_fn(|context| rows.as_mut().poll_next(context)).await {
        row?;
        count += 1;
        if count > ROWS_MAX {
            break;
        }
    }
    Ok(count)
}

/// Whether the database says that a value has characters that its own set lacks.
fn is_foreign(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        // Illegal mix of collations (of two, three, several), invalid or incorrect string value,
        // cannot convert string: the errors of MariaDB and MySQL by number.
        return matches!(error.number(), 1267 | 1270 | 1271 | 1300 | 1366 | 3854);
    }
    // PostgreSQL: character_not_in_repertoire, untranslatable_character.
    matches!(error.code().as_deref(), Some("22021" | "22P05"))
}
