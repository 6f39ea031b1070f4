//! What MariaDB and MySQL are told.
//!
//! Lists of keys have a few sizes only, so that few statements are prepared: what is short of one is
//! filled with its last key once more.

use sqlx::mysql::{MySqlArguments, MySqlConnection, MySqlRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Row as _};

use super::link::{Fault, ROWS_MAX, Row, signed, unsigned};
use super::names::Bucket;
use crate::shared::remote::Trouble;

/// The sizes of lists.
const SIZES: [usize; 14] = [1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, ROWS_MAX];

/// A connection.
pub(super) struct MySql {
    pub(super) link: MySqlConnection,
    pub(super) prefix: String,
}

pub(super) type Asked<'q> = Query<'q, sqlx::MySql, MySqlArguments>;

/// A list filled up to the next size.
pub(super) fn filled<T>(list: &[T]) -> impl Iterator<Item = &T> {
    let size = SIZES.into_iter().find(|size| *size >= list.len()).unwrap_or(list.len());
    let missing = size - list.len();
    list.iter().chain(list.last().into_iter().cycle().take(missing))
}

/// So many times the same, with commas.
pub(super) fn marks(mark: &str, times: usize) -> String {
    let mut text = String::with_capacity((mark.len() + 1) * times);
    for number in 0..times {
        if number > 0 {
            text.push(',');
        }
        text.push_str(mark);
    }
    text
}

pub(super) fn asked<'q>(text: String) -> Asked<'q> {
    sqlx::query(AssertSqlSafe(text))
}

impl MySql {
    /// Sets up the session, and finds out whether the server takes changes.
    pub(super) async fn begin_session(&mut self, idle_s: u32) -> Result<(), Fault> {
        // Whoever stops in the middle of a transaction holds up the others for so long at the most.
        let text = format!(
            "SET SESSION wait_timeout = {idle_s}, innodb_lock_wait_timeout = 3, \
             time_zone = '+00:00'; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
        );
        self.run(text).await?;
        let no = |text: &str| Err(Fault::Broken(Trouble(text.into())));
        let found = self.numbers("SELECT @@global.read_only + @@innodb_read_only".into()).await?;
        if found != [[0]] {
            return no("it takes no changes");
        }
        if self.says("SHOW VARIABLES LIKE 'wsrep_on'", "ON").await?
            && !self.says("SHOW STATUS LIKE 'wsrep_ready'", "ON").await?
        {
            return no("it is not in step with its cluster");
        }
        Ok(())
    }

    async fn says(&mut self, text: &'static str, value: &str) -> Result<bool, Fault> {
        let rows = sqlx::raw_sql(text).fetch_all(&mut self.link).await?;
        let said = rows.first().and_then(|row| row.try_get_unchecked::<String, _>(1).ok());
        Ok(said.is_some_and(|said| said == value))
    }

    pub(super) async fn run(&mut self, text: String) -> Result<u64, Fault> {
        let done = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut self.link).await?;
        Ok(done.rows_affected())
    }

    pub(super) async fn numbers(&mut self, text: String) -> Result<Vec<Vec<i64>>, Fault> {
        let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut self.link).await?;
        let row = |row: &MySqlRow| (0..row.len()).map(|at| row.try_get_unchecked(at)).collect();
        rows.iter().map(row).collect::<Result<_, _>>().map_err(Fault::from)
    }

    async fn rows(&mut self, asked: Asked<'_>) -> Result<Vec<Row>, Fault> {
        let rows = asked.fetch_all(&mut self.link).await?;
        let row = |row: &MySqlRow| Ok((row.try_get_unchecked(0)?, row.try_get_unchecked(1)?));
        rows.iter().map(row).collect::<Result<_, sqlx::Error>>().map_err(Fault::from)
    }

    async fn keyed(&mut self, asked: Asked<'_>) -> Result<Vec<(i64, Vec<u8>)>, Fault> {
        let rows = asked.fetch_all(&mut self.link).await?;
        let row = |row: &MySqlRow| Ok((row.try_get_unchecked(0)?, row.try_get_unchecked(1)?));
        rows.iter().map(row).collect::<Result<_, sqlx::Error>>().map_err(Fault::from)
    }

    pub(super) async fn cells(&mut self, names: &[Vec<u8>]) -> Result<Vec<Row>, Fault> {
        let list = marks("?", filled(names).count());
        let text = format!("SELECT k, cell FROM {}_cells WHERE k IN ({list})", self.prefix);
        let asked = filled(names).fold(asked(text), |asked, name| asked.bind(name.clone()));
        self.rows(asked).await
    }

    pub(super) async fn firsts(
        &mut self,
        buckets: &[Bucket],
        keys: &[u64],
    ) -> Result<Vec<(Bucket, u64, Vec<u8>)>, Fault> {
        let list = marks("?", filled(keys).count());
        let parts = buckets.iter().map(|bucket| {
            let (id, name) = (bucket.id(), bucket.name());
            format!("SELECT {id} AS b, k, cell FROM {}_{name} WHERE k IN ({list})", self.prefix)
        });
        let text = parts.collect::<Vec<_>>().join(" UNION ALL ");
        let mut asked = asked(text);
        for _ in buckets {
            asked = filled(keys).fold(asked, |asked, key| asked.bind(signed(*key)));
        }
        let rows = asked.fetch_all(&mut self.link).await?;
        let row = |row: &MySqlRow| {
            let id = u32::try_from(row.try_get_unchecked::<i64, _>(0)?).unwrap_or(u32::MAX);
            let key = unsigned(row.try_get_unchecked(1)?);
            Ok((Bucket::of_id(id), key, row.try_get_unchecked(2)?))
        };
        rows.iter().map(row).collect::<Result<_, sqlx::Error>>().map_err(Fault::from)
    }

    pub(super) async fn put_cells(&mut self, rows: &[Row]) -> Result<(), Fault> {
        let list = marks("(?,?)", filled(rows).count());
        let text = format!(
            "INSERT INTO {}_cells (k, cell) VALUES {list} ON DUPLICATE KEY UPDATE cell = VALUES(cell)",
            self.prefix
        );
        let put =
            |asked: Asked<'static>, (name, cell): &Row| asked.bind(name.clone()).bind(cell.clone());
        filled(rows).fold(asked(text), put).execute(&mut self.link).await?;
        Ok(())
    }

    pub(super) async fn drop_cells(&mut self, names: &[Vec<u8>]) -> Result<(), Fault> {
        let list = marks("?", filled(names).count());
        let text = format!("DELETE FROM {}_cells WHERE k IN ({list})", self.prefix);
        let asked = filled(names).fold(asked(text), |asked, name| asked.bind(name.clone()));
        asked.execute(&mut self.link).await?;
        Ok(())
    }

    pub(super) async fn put_firsts(
        &mut self,
        bucket: Bucket,
        rows: &[(u64, Vec<u8>)],
    ) -> Result<(), Fault> {
        let list = marks("(?,?)", filled(rows).count());
        let text = format!(
            "INSERT INTO {}_{} (k, cell) VALUES {list} ON DUPLICATE KEY UPDATE cell = VALUES(cell)",
            self.prefix,
            bucket.name()
        );
        let put = |asked: Asked<'static>, (key, cell): &(u64, Vec<u8>)| {
            asked.bind(signed(*key)).bind(cell.clone())
        };
        filled(rows).fold(asked(text), put).execute(&mut self.link).await?;
        Ok(())
    }

    pub(super) async fn drop_firsts(&mut self, bucket: Bucket, keys: &[u64]) -> Result<(), Fault> {
        let list = marks("?", filled(keys).count());
        let text = format!("DELETE FROM {}_{} WHERE k IN ({list})", self.prefix, bucket.name());
        let asked = filled(keys).fold(asked(text), |asked, key| asked.bind(signed(*key)));
        asked.execute(&mut self.link).await?;
        Ok(())
    }

    pub(super) async fn put_log(&mut self, from: u64, records: &[Vec<u8>]) -> Result<(), Fault> {
        // Numbers of the log are used once, so nothing is filled up: it goes in pieces that have one of
        // the sizes. A statement of any other would be closed again; the client waits with what it says
        // behind that until the server has acknowledged it, which takes 40 ms.
        let (mut from, mut rest) = (from, records);
        while let Some(size) = SIZES.into_iter().rev().find(|size| *size <= rest.len()) {
            let (some, others) = rest.split_at(size);
            let list = marks("(?,?)", size);
            let text = format!("INSERT INTO {}_log (id, record) VALUES {list}", self.prefix);
            let asked = (from..).zip(some).fold(asked(text), |asked, (id, record)| {
                asked.bind(id.cast_signed()).bind(record.clone())
            });
            asked.execute(&mut self.link).await?;
            (from, rest) = (from + size as u64, others);
        }
        Ok(())
    }

    pub(super) async fn log(
        &mut self,
        from: u64,
        most: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, Fault> {
        let text = format!(
            "SELECT id, record FROM {}_log WHERE id >= ? ORDER BY id LIMIT {most}",
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
            "SELECT k, cell FROM {}_cells WHERE k >= ? AND k < ? ORDER BY k LIMIT {most}",
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
            "SELECT k, cell FROM {}_{} WHERE k >= ? ORDER BY k LIMIT {most}",
            self.prefix,
            bucket.name()
        );
        let rows = self.keyed(asked(text).bind(signed(from))).await?;
        Ok(rows.into_iter().map(|(key, cell)| (unsigned(key), cell)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_few_sizes() {
        assert_eq!(filled(&[1, 2, 3]).copied().collect::<Vec<_>>(), [1, 2, 3, 3]);
        let most = vec![0; ROWS_MAX];
        for length in 1..=ROWS_MAX {
            let size = filled(most.get(..length).unwrap()).count();
            assert!(size >= length && SIZES.contains(&size));
        }
        assert_eq!(marks("(?,?)", 2), "(?,?),(?,?)");
    }
}
