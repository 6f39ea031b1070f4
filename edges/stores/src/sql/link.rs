//! A connection to a database, whichever it is, and the statements that differ between them.
//!
//! What is written into the text of a statement is the configured prefix, which has small letters only,
//! and numbers of ours; all else is bound.

use std::time::Duration;

use mpp_config::directory::sql::server::{Engine, Server};
use mpp_config::store::Sql as Settings;
use mpp_hub::sql::{mysql, postgres, tidied};
use sqlx::ConnectOptions as _;
use tokio::time::timeout;

use super::mysql::MySql;
use super::names::Bucket;
use super::postgres::Postgres;
use super::schema;
use crate::shared::remote::Trouble;

/// All servers together may take so long to take a connection; each has its part of it before the next
/// is tried.
const CONNECT_MAX: Duration = Duration::from_millis(2_400);
/// Less than that is no time for a server that is far away.
const CONNECT_LEAST: Duration = Duration::from_millis(500);
/// Prepared statements that a connection keeps.
pub(super) const STATEMENTS_MAX: usize = 500;
/// Keys or rows of one statement at the most.
pub(super) const ROWS_MAX: usize = 512;

/// Why a statement was not done.
#[derive(Debug)]
pub(super) enum Fault {
    /// Others were at it: the transaction is to be done again.
    Again(Trouble),
    /// There is no such table, or it has just been dropped.
    NoTable(Trouble),
    /// Whatever else: the connection is of no use any more.
    Broken(Trouble),
}

impl Fault {
    /// What an error of the client means.
    pub(super) fn of(error: &sqlx::Error) -> Self {
        let text = match error {
            sqlx::Error::Database(error) => error.message().to_owned(),
            sqlx::Error::Io(error) => format!("no connection: {error}"),
            sqlx::Error::Tls(error) => format!("TLS: {error}"),
            other => other.to_string(),
        };
        let trouble = Trouble(tidied(&text));
        let Some(error) = error.as_database_error() else { return Self::Broken(trouble) };
        if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
            return match error.number() {
                // A deadlock, or what a cluster calls one; a row or a table that changed meanwhile.
                1213 | 1020 | 1412 => Self::Again(trouble),
                1146 => Self::NoTable(trouble),
                _ => Self::Broken(trouble),
            };
        }
        match error.code().as_deref() {
            // Serialization failure, deadlock.
            Some("40001" | "40P01") => Self::Again(trouble),
            Some("42P01") => Self::NoTable(trouble),
            _ => Self::Broken(trouble),
        }
    }

    /// What happened.
    pub(super) fn trouble(self) -> Trouble {
        let (Self::Again(trouble) | Self::NoTable(trouble) | Self::Broken(trouble)) = self;
        trouble
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::of(&error)
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        fault.trouble()
    }
}

/// A connection.
pub(super) enum Link {
    MySql(Box<MySql>),
    Postgres(Box<Postgres>),
}

/// Does the same with either.
macro_rules! either {
    ($link:expr, $it:ident => $done:expr) => {
        match $link {
            Link::MySql($it) => $done,
            Link::Postgres($it) => $done,
        }
    };
}

/// The name of a cell with the cell.
pub(super) type Row = (Vec<u8>, Vec<u8>);

impl Link {
    /// Connects to the first server that answers and takes changes, with its tables in place. The
    /// server may end the connection after so many seconds in which nothing was said.
    pub(super) async fn open(settings: &Settings, idle_s: u32) -> Result<Self, Trouble> {
        let mut troubles = Vec::new();
        for server in &settings.servers {
            match Self::to(settings, server, idle_s).await {
                Ok(link) => return Ok(link),
                Err(trouble) => troubles.push(Trouble::of(&server.to_string(), trouble).0),
            }
        }
        Err(Trouble(troubles.join("; ")))
    }

    async fn to(settings: &Settings, server: &Server, idle_s: u32) -> Result<Self, Trouble> {
        let password = settings.password.as_ref().map(mpp_settings::Secret::reveal);
        let prefix = settings.prefix.clone();
        let connecting = async {
            match server.engine {
                Engine::MySql => {
                    let options = mysql(server, password, &settings.security)
                        .statement_cache_capacity(STATEMENTS_MAX);
                    let link = options.connect().await?;
                    Ok(Self::MySql(Box::new(MySql { link, prefix })))
                }
                Engine::Postgres => {
                    let options = postgres(server, password, &settings.security)
                        .statement_cache_capacity(STATEMENTS_MAX);
                    let link = options.connect().await?;
                    Ok(Self::Postgres(Box::new(Postgres { link, prefix })))
                }
                Engine::Sqlite => Err(Fault::Broken(Trouble("it is not shared".into()))),
            }
        };
        let servers = u32::try_from(settings.servers.len()).unwrap_or(u32::MAX).max(1);
        let patience = (CONNECT_MAX / servers).max(CONNECT_LEAST);
        let connected = timeout(patience, connecting).await;
        let mut link = connected.map_err(|_| Trouble("it does not answer".into()))??;
        either!(&mut link, it => it.begin_session(idle_s).await)?;
        schema::bring_up_to_date(&mut link, &settings.prefix).await?;
        Ok(link)
    }

    pub(super) fn is_mysql(&self) -> bool {
        matches!(self, Self::MySql(_))
    }

    /// Runs statements that give nothing; says how many rows they touched.
    pub(super) async fn run(&mut self, text: String) -> Result<u64, Fault> {
        either!(self, it => it.run(text).await)
    }

    /// Runs statements that give rows of numbers.
    pub(super) async fn numbers(&mut self, text: String) -> Result<Vec<Vec<i64>>, Fault> {
        either!(self, it => it.numbers(text).await)
    }

    /// Cells by their names.
    pub(super) async fn cells(&mut self, names: &[Vec<u8>]) -> Result<Vec<Row>, Fault> {
        let mut found = Vec::with_capacity(names.len());
        for some in names.chunks(ROWS_MAX) {
            found.extend(either!(self, it => it.cells(some).await)?);
        }
        Ok(found)
    }

    /// First tries by their keys, with the tables in which they are.
    pub(super) async fn firsts(
        &mut self,
        buckets: &[Bucket],
        keys: &[u64],
    ) -> Result<Vec<(Bucket, u64, Vec<u8>)>, Fault> {
        let mut found = Vec::new();
        if buckets.is_empty() {
            return Ok(found);
        }
        for some in keys.chunks(ROWS_MAX) {
            found.extend(either!(self, it => it.firsts(buckets, some).await)?);
        }
        Ok(found)
    }

    pub(super) async fn put_cells(&mut self, rows: &[Row]) -> Result<(), Fault> {
        for some in rows.chunks(ROWS_MAX) {
            either!(self, it => it.put_cells(some).await)?;
        }
        Ok(())
    }

    pub(super) async fn drop_cells(&mut self, names: &[Vec<u8>]) -> Result<(), Fault> {
        for some in names.chunks(ROWS_MAX) {
            either!(self, it => it.drop_cells(some).await)?;
        }
        Ok(())
    }

    pub(super) async fn put_firsts(
        &mut self,
        bucket: Bucket,
        rows: &[(u64, Vec<u8>)],
    ) -> Result<(), Fault> {
        for some in rows.chunks(ROWS_MAX) {
            either!(self, it => it.put_firsts(bucket, some).await)?;
        }
        Ok(())
    }

    pub(super) async fn drop_firsts(&mut self, bucket: Bucket, keys: &[u64]) -> Result<(), Fault> {
        for some in keys.chunks(ROWS_MAX) {
            either!(self, it => it.drop_firsts(bucket, some).await)?;
        }
        Ok(())
    }

    /// Puts entries at the end of the log, from that number on.
    pub(super) async fn put_log(&mut self, from: u64, records: &[Vec<u8>]) -> Result<(), Fault> {
        let mut from = from;
        for some in records.chunks(ROWS_MAX) {
            either!(self, it => it.put_log(from, some).await)?;
            from += some.len() as u64;
        }
        Ok(())
    }

    /// Entries of the log from that number on.
    pub(super) async fn log(
        &mut self,
        from: u64,
        most: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, Fault> {
        either!(self, it => it.log(from, most).await)
    }

    /// Cells in the order of their names, from one place on and before another.
    pub(super) async fn scan_cells(
        &mut self,
        from: &[u8],
        before: &[u8],
        most: usize,
    ) -> Result<Vec<Row>, Fault> {
        either!(self, it => it.scan_cells(from, before, most).await)
    }

    /// First tries of a table in the order of their keys.
    pub(super) async fn scan_firsts(
        &mut self,
        bucket: Bucket,
        from: u64,
        most: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, Fault> {
        either!(self, it => it.scan_firsts(bucket, from, most).await)
    }
}

/// A key as a column that knows signed numbers only holds it, in the same order.
pub(super) fn signed(key: u64) -> i64 {
    (key ^ 1 << 63).cast_signed()
}

/// The key that a column holds.
pub(super) fn unsigned(column: i64) -> u64 {
    column.cast_unsigned() ^ 1 << 63
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_order() {
        let keys = [0, 1, 1 << 63, u64::MAX];
        assert!(keys.map(signed).is_sorted());
        assert_eq!(keys.map(signed).map(unsigned), keys);
    }
}
