//! What PostgreSQL is told. Lists of keys are arrays, so that a statement is prepared once.

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Row as _};

use super::link::{Fault, Row, signed, unsigned};
use super::names::Bucket;
use crate::shared::remote::Trouble;

/// A connection.
pub(super) struct Postgres {
    pub(super) link: PgConnection,
    pub(super) prefix: String,
}

pub(super) type Asked<'q> = Query<'q, sqlx::Postgres, PgArguments>;

pub(super) fn asked<'q>(text: String) -> Asked<'q> {
    sqlx::query(AssertSqlSafe(text))
}

fn columns(keys: &[u64]) -> Vec<i64> {
    keys.iter().map(|key| signed(*key)).collect()
}

impl Postgres {
    /// Sets up the session, and finds out whether the server takes changes.
    pub(super) async fn begin_session(&mut self, idle_s: u32) -> Result<(), Fault> {
        // Whoever stops in the middle of a transaction holds up the others for so long at the most.
        // Every look-up is by a primary key: the planner need not think of reading all of a table,
        // nor anew each time.
        let text = format!(
            "SET idle_in_transaction_session_timeout = '{idle_s}s'; SET lock_timeout = '3s'; \
             SET enable_seqscan = off; SET jit = off; SET plan_cache_mode = force_generic_plan; \
             SET client_min_messages = warning"
        );
        self.run(text).await?;
        let text = "SELECT (pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on')\
                    ::int::int8";
        if self.numbers(text.into()).await? != [[0]] {
            return Err(Fault::Broken(Trouble("it takes no changes".into())));
        }
        Ok(())
    }

    pub(super) async fn run(&mut self, text: String) -> Result<u64, Fault> {
        let done = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut self.link).await?;
        Ok(done.rows_affected())
    }

    pub(super) async fn numbers(&mut self, text: String) -> Result<Vec<Vec<i64>>, Fault> {
        let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut self.link).await?;
        let row = |row: &PgRow| (0..row.len()).map(|at| row.try_get_unchecked(at)).collect();
        rows.iter().map(row).collect::<Result<_, _>>().map_err(Fault::from)
    }

    async fn rows(&mut self, asked: Asked<'_>) -> Result<Vec<Row>, Fault> {
        let rows = asked.fetch_all(&mut self.link).await?;
        let row = |row: &PgRow| Ok((row.try_get_unchecked(0)?, row.try_get_unchecked(1)?));
        rows.iter().map(row).collect::<Result<_, sqlx::Error>>().map_err(Fault::from)
    }

    async fn keyed(&mut self, asked: Asked<'_>) -> Result<Vec<(i64, Vec<u8>)>, Fault> {
        let rows = asked.fetch_all(&mut self.link).await?;
        let row = |row: &PgRow| Ok((row.try_get_unchecked(0)?, row.try_get_unchecked(1)?));
        rows.iter().map(row).collect::<Result<_, sqlx::Error>>().map_err(Fault::from)
    }

    pub(super) async fn cells(&mut self, names: &[Vec<u8>]) -> Result<Vec<Row>, Fault> {
        let text = format!("SELECT k, cell FROM {}_cells WHERE k = ANY($1)", self.prefix);
        self.rows(asked(text).bind(names.to_vec())).await
    }

    pub(super) async fn firsts(
        &mut self,
        buckets: &[Bucket],
        keys: &[u64],
    ) -> Result<Vec<(Bucket, u64, Vec<u8>)>, Fault> {
        let parts = buckets.iter().map(|bucket| {
            let (id, name) = (bucket.id(), bucket.name());
            format!("SELECT {id}::int8, k, cell FROM {}_{name} WHERE k = ANY($1)", self.prefix)
        });
        let text = parts.collect::<Vec<_>>().join(" UNION ALL ");
        let rows = asked(text).bind(columns(keys)).fetch_all(&mut self.link).await?;
        let row = |row: &PgRow| {
            let id = u32::try_from(row.try_get_unchecked::<i64, _>(0)?).unwrap_or(u32::MAX);
            let key = unsigned(row.try_get_unchecked(1)?);
            Ok((Bucket::of_id(id), key, row.try_get_unchecked(2)?))
        };
        rows.iter().map(row).collect::<Result<_, sqlx::Error>>().map_err(Fault::from)
    }

    pub(super) async fn put_cells(&mut self, rows: &[Row]) -> Result<(), Fault> {
        let text = format!(
            "INSERT INTO {}_cells (k, cell) SELECT * FROM unnest($1::bytea[], $2::bytea[]) \
             ON CONFLICT (k) DO UPDATE SET cell = excluded.cell",
            self.prefix
        );
        let (names, cells): (Vec<_>, Vec<_>) = rows.iter().cloned().unzip();
        asked(text).bind(names).bind(cells).execute(&mut self.link).await?;
        Ok(())
    }

    pub(super) async fn drop_cells(&mut self, names: &[Vec<u8>]) -> Result<(), Fault> {
        let text = format!("DELETE FROM {}_cells WHERE k = ANY($1)", self.prefix);
        asked(text).bind(names.to_vec()).execute(&mut self.link).await?;
        Ok(())
    }

    pub(super) async fn put_firsts(
        &mut self,
        bucket: Bucket,
        rows: &[(u64, Vec<u8>)],
    ) -> Result<(), Fault> {
        let text = format!(
            "INSERT INTO {}_{} (k, cell) SELECT * FROM unnest($1::int8[], $2::bytea[]) \
             ON CONFLICT (k) DO UPDATE SET cell = excluded.cell",
            self.prefix,
            bucket.name()
        );
        let (keys, cells): (Vec<_>, Vec<_>) = rows.iter().cloned().unzip();
        asked(text).bind(columns(&keys)).bind(cells).execute(&mut self.link).await?;
        Ok(())
    }

    pub(super) async fn drop_firsts(&mut self, bucket: Bucket, keys: &[u64]) -> Result<(), Fault> {
        let text = format!("DELETE FROM {}_{} WHERE k = ANY($1)", self.prefix, bucket.name());
        asked(text).bind(columns(keys)).execute(&mut self.link).await?;
        Ok(())
    }

    pub(super) async fn put_log(&mut self, from: u64, records: &[Vec<u8>]) -> Result<(), Fault> {
        let text = format!(
            "INSERT INTO {}_log (id, record) SELECT * FROM unnest($1::int8[], $2::bytea[])",
            self.prefix
        );
        let ids: Vec<i64> = (from..).map(u64::cast_signed).take(records.len()).collect();
        asked(text).bind(ids).bind(records.to_vec()).execute(&mut self.link).await?;
        Ok(())
    }

    pub(super) async fn log(
        &mut self,
        from: u64,
        most: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, Fault> {
        let text = format!(
            "SELECT id, record FROM {}_log WHERE id >= $1 ORDER BY id LIMIT {most}",
            self.prefix
        );
        let rows = self.keyed(asked(text).bind(from.cast_signed())).await?;
        Ok(rows.into_iter().map(|(id, record)| (id.cast_unsigned(), record)).collect())
    }

    pub(super) async fn scan_cells(
        &mut self,
        from: &[u8],
        before: &[u8],
        most: usize,
    ) -> Result<Vec<Row>, Fault> {
        let text = format!(
            "SELECT k, cell FROM {}_cells WHERE k >= $1 AND k < $2 ORDER BY k LIMIT {most}",
            self.prefix
        );
        self.rows(asked(text).bind(from.to_vec()).bind(before.to_vec())).await
    }

    pub(super) async fn scan_firsts(
        &mut self,
        bucket: Bucket,
        from: u64,
        most: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, Fault> {
        let text = format!(
            "SELECT k, cell FROM {}_{} WHERE k >= $1 ORDER BY k LIMIT {most}",
            self.prefix,
            bucket.name()
        );
        let rows = self.keyed(asked(text).bind(signed(from))).await?;
        Ok(rows.into_iter().map(|(key, cell)| (unsigned(key), cell)).collect())
    }
}
