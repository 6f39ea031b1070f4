//! Whole tables of another program, row by row, as text.

use std::time::Duration;

use futures_core::Stream;
use mpp_config::directory::sql::server::{Engine, Reach, Server};
use mpp_config::directory::tls::Security;
use mpp_hub::sql::postgres;
use mpp_settings::Secret;
use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row};

use super::server::{mysql, sqlite};
use super::trouble::{Fault, too_slow};

/// So long may connecting take, and each row.
const PATIENCE: Duration = Duration::from_secs(30);

/// A database whose tables are read.
pub struct Tables(Link);

enum Link {
    MySql(Box<MySqlConnection>),
    Postgres(Box<PgConnection>),
    Sqlite(Box<SqliteConnection>),
}

impl Tables {
    /// Connects and logs in. A file is only read.
    ///
    /// # Errors
    /// Why not, for people.
    pub async fn open(
        server: &Server,
        password: Option<&Secret>,
        security: &Security,
    ) -> Result<Self, String> {
        let password = password.map(Secret::reveal);
        let connected = tokio::time::timeout(PATIENCE, async {
            Ok(Self(match server.engine {
                Engine::MySql => {
                    let link = mysql(server, password, security).connect().await;
                    Link::MySql(Box::new(link.map_err(Fault::of)?))
                }
                Engine::Postgres => {
                    let link = postgres(server, password, security).connect().await;
                    Link::Postgres(Box::new(link.map_err(Fault::of)?))
                }
                Engine::Sqlite => {
                    if let Reach::File(path) = &server.reach
                        && !std::path::Path::new(path).is_file()
                    {
                        return Err(Fault::said("there is no such file"));
                    }
                    let link = sqlite(server, PATIENCE).connect().await;
                    Link::Sqlite(Box::new(link.map_err(Fault::of)?))
                }
            }))
        });
        match connected.await {
            Ok(connected) => connected.map_err(|fault| fault.text().to_owned()),
            Err(_) => Err(too_slow(PATIENCE)),
        }
    }

    /// Hands over the rows of a query, whose columns must be text: nothing where there is none, or
    /// what is no text.
    ///
    /// # Errors
    /// Why the query, or the rest of its rows, fails.
    pub async fn rows(
        &mut self,
        query: &str,
        columns: usize,
        mut take: impl FnMut(&[Option<String>]),
    ) -> Result<(), String> {
        let query = AssertSqlSafe(query.to_owned());
        let done = match &mut self.0 {
            Link::MySql(link) => {
                let rows = sqlx::raw_sql(query).fetch(&mut **link);
                each(rows, |row| take(&cells(&row, columns))).await
            }
            Link::Postgres(link) => {
                let rows = sqlx::raw_sql(query).fetch(&mut **link);
                each(rows, |row| take(&cells(&row, columns))).await
            }
            Link::Sqlite(link) => {
                let rows = sqlx::raw_sql(query).fetch(&mut **link);
                each(rows, |row| take(&cells(&row, columns))).await
            }
        };
        done.map_err(|fault| fault.text().to_owned())
    }
}

fn cells<R: Row>(row: &R, columns: usize) -> Vec<Option<String>>
where
    usize: sqlx::ColumnIndex<R>,
    for<'r> String: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    (0..columns).map(|place| row.try_get::<Option<String>, _>(place).unwrap_or_default()).collect()
}

async fn each<T>(
    rows: impl Stream<Item = Result<T, sqlx::Error>>,
    mut take: impl FnMut(T),
) -> Result<(), Fault> {
    let mut rows = std::pin::pin!(rows);
    loop {
        let next = std::future::poll_fn(|context| rows.as_mut().poll_next(context));
        match tokio::time::timeout(PATIENCE, next).await {
            Ok(Some(Ok(row))) => take(row),
            Ok(Some(Err(error))) => return Err(Fault::of(error)),
            Ok(None) => return Ok(()),
            Err(_) => return Err(Fault::said(&too_slow(PATIENCE))),
        }
    }
}
