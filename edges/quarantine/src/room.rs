//! Who has how much here. A message counts once for all together, once for each policy that holds it,
//! and once for each user, of that policy and of all of them.

use std::collections::BTreeSet;

use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use crate::index::{Index, signed, trouble, unsigned};

/// All policies, or all users, together.
pub(crate) const ALL: &str = "";

/// The rooms that a message takes.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    /// Policy and user.
    of: BTreeSet<(String, String)>,
}

impl Rooms {
    /// It is held for a user by a policy.
    pub(crate) fn add(&mut self, policy: &str, user: &str) {
        for (policy, user) in [(policy, user), (policy, ALL), (ALL, user), (ALL, ALL)] {
            if !self.of.iter().any(|known| known.0 == policy && known.1 == user) {
                self.of.insert((policy.to_owned(), user.to_owned()));
            }
        }
    }

    /// It still is.
    pub(crate) fn spare(&mut self, policy: &str, user: &str) {
        for (policy, user) in [(policy, user), (policy, ALL), (ALL, user), (ALL, ALL)] {
            self.of.remove(&(policy.to_owned(), user.to_owned()));
        }
    }

    /// Counts its bytes in all of them.
    pub(crate) async fn change(
        &self,
        write: &mut SqliteConnection,
        bytes: i64,
    ) -> Result<(), sqlx::Error> {
        // What another node holds takes none here.
        if bytes == 0 {
            return Ok(());
        }
        for (policy, user) in &self.of {
            let row = sqlx::query(
                "INSERT INTO room VALUES (?1, ?2, ?3) \
                 ON CONFLICT (policy, user) DO UPDATE SET bytes = bytes + excluded.bytes",
            );
            row.bind(policy).bind(user).bind(bytes).execute(&mut *write).await?;
            if bytes < 0 {
                let none =
                    sqlx::query("DELETE FROM room WHERE policy = ?1 AND user = ?2 AND bytes <= 0");
                none.bind(policy).bind(user).execute(&mut *write).await?;
            }
        }
        Ok(())
    }
}

impl Index {
    /// How many bytes those of a policy take.
    pub(crate) async fn bytes_of(&self, policy: &str) -> Result<u64, String> {
        let mut read = self.read.lock().await;
        let row = sqlx::query("SELECT bytes FROM room WHERE policy = ?1 AND user = ''");
        let row = row.bind(policy).fetch_optional(&mut *read).await.map_err(trouble)?;
        let bytes = row.map_or(Ok(0), |row| row.try_get::<i64, _>(0)).map_err(trouble)?;
        Ok(unsigned(bytes))
    }

    /// A user who has more than so many bytes of a policy.
    pub(crate) async fn over(
        &self,
        policy: &str,
        most: u64,
    ) -> Result<Option<(String, u64)>, String> {
        let mut read = self.read.lock().await;
        let row = sqlx::query(
            "SELECT user, bytes FROM room WHERE policy = ?1 AND bytes > ?2 AND user <> '' LIMIT 1",
        );
        let row = row.bind(policy).bind(signed(most));
        let row = row.fetch_optional(&mut *read).await.map_err(trouble)?;
        let row = row.map(|row| Ok((row.try_get(0)?, unsigned(row.try_get(1)?))));
        row.transpose().map_err(trouble)
    }

    /// The next policy by name that holds anything, or has held it.
    pub(crate) async fn policy_after(&self, policy: &str) -> Result<Option<String>, String> {
        let mut read = self.read.lock().await;
        let row = sqlx::query("SELECT policy FROM held WHERE policy > ?1 ORDER BY policy LIMIT 1");
        let row = row.bind(policy).fetch_optional(&mut *read).await.map_err(trouble)?;
        row.map(|row| row.try_get(0)).transpose().map_err(trouble)
    }
}
