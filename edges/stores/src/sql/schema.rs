//! The tables, and how older ones are brought up to date.
//!
//! `PREFIX_schema` holds the numbers of the steps that were done. Nodes that start at the same time do
//! them one after the other; a step can be done again after an interruption.

use super::link::{Fault, Link};
use super::names::{Bucket, SUMS};
use crate::shared::remote::Trouble;

/// The steps in order, for all databases; their number is the version of the tables.
const STEPS: [&[&str]; 2] = [
    &[
        // Row 1: what the store is, where its log ends, and how much it holds. Whoever changes anything
        // holds this row until it is done, so that batches come one after the other.
        "CREATE TABLE IF NOT EXISTS {p}_meta (id SMALLINT NOT NULL PRIMARY KEY, seed BIGINT NOT NULL, \
     epoch BIGINT NOT NULL, turn BIGINT NOT NULL DEFAULT 0, lists BIGINT NOT NULL DEFAULT 0, logged BIGINT NOT NULL DEFAULT 0, \
     {sums}){engine}",
        // Who sweeps.
        "CREATE TABLE IF NOT EXISTS {p}_lease (id SMALLINT NOT NULL PRIMARY KEY, node BIGINT NOT NULL, \
     until_ms BIGINT NOT NULL){engine}",
        // Which tables of first tries there are; `lists` of the first table changes with it.
        "CREATE TABLE IF NOT EXISTS {p}_buckets (id INT NOT NULL PRIMARY KEY, \
     held BIGINT NOT NULL DEFAULT 0, is_over SMALLINT NOT NULL DEFAULT 0){engine}",
        // What every node is to hear of.
        "CREATE TABLE IF NOT EXISTS {p}_log (id BIGINT NOT NULL PRIMARY KEY, record {blob} NOT NULL)\
     {engine}",
        // Everything but first tries.
        "CREATE TABLE IF NOT EXISTS {p}_cells (k {name} NOT NULL PRIMARY KEY, cell {blob} NOT NULL)\
     {engine}{room}",
    ],
    &[
        // The notice board. Its indexes are written as constraints, which are made with the table in all
        // databases, and only if it is not there.
        "CREATE TABLE IF NOT EXISTS {p}_board (topic {word} NOT NULL, id {word} NOT NULL, \
     seq BIGINT NOT NULL, until_ms BIGINT NOT NULL, body {blob}, PRIMARY KEY (topic, id), \
     UNIQUE (topic, seq), UNIQUE (until_ms, topic, id)){engine}",
        // Whoever posts holds its one row until that is done.
        "CREATE TABLE IF NOT EXISTS {p}_board_head (id SMALLINT NOT NULL PRIMARY KEY, \
     last BIGINT NOT NULL){engine}",
        "INSERT INTO {p}_board_head (id, last) SELECT 1, 0 FROM (SELECT 1) AS one \
     WHERE NOT EXISTS (SELECT id FROM {p}_board_head)",
    ],
];

/// A text for one of the databases.
fn spelled(text: &str, prefix: &str, is_mysql: bool) -> String {
    let sums: Vec<String> =
        (0..SUMS).map(|sum| format!("h{sum} BIGINT NOT NULL DEFAULT 0")).collect();
    let words = if is_mysql {
        [
            ("{blob}", "MEDIUMBLOB"),
            ("{name}", "VARBINARY(9)"),
            ("{word}", "VARBINARY(100)"),
            ("{engine}", " ENGINE=InnoDB"),
            ("{room}", ""),
        ]
    } else {
        // Room in each page, so that a count that is counted on stays in its page.
        let room = " WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05)";
        [
            ("{blob}", "bytea"),
            ("{name}", "bytea"),
            ("{word}", "bytea"),
            ("{engine}", ""),
            ("{room}", room),
        ]
    };
    let text = text.replace("{p}", prefix).replace("{sums}", &sums.join(", "));
    words.iter().fold(text, |text, (word, meant)| text.replace(word, meant))
}

/// Makes the tables what this program knows.
///
/// They may be of a version that it does not know yet: then it leaves them alone.
pub(super) async fn bring_up_to_date(link: &mut Link, prefix: &str) -> Result<(), Trouble> {
    let is_mysql = link.is_mysql();
    if version(link, prefix).await? == STEPS.len() {
        return Ok(());
    }
    let number = crc32fast::hash(prefix.as_bytes());
    let (take, give) = if is_mysql {
        (format!("SELECT GET_LOCK('mpp {number}', 2)"), format!("DO RELEASE_LOCK('mpp {number}')"))
    } else {
        (
            format!("SELECT 1::int8 FROM pg_advisory_lock({number})"),
            format!("SELECT pg_advisory_unlock({number})"),
        )
    };
    if link.numbers(take).await? != [[1]] {
        return Err(Trouble("another node makes its tables".into()));
    }
    let text = "CREATE TABLE IF NOT EXISTS {p}_schema (version INT NOT NULL PRIMARY KEY){engine}";
    link.run(spelled(text, prefix, is_mysql)).await?;
    let begun = version(link, prefix).await?;
    for (step, texts) in STEPS.iter().enumerate().skip(begun) {
        for text in *texts {
            link.run(spelled(text, prefix, is_mysql)).await?;
        }
        let done = step + 1;
        link.run(format!("INSERT INTO {prefix}_schema (version) VALUES ({done})")).await?;
    }
    link.run(give).await?;
    Ok(())
}

/// The version of the tables; 0 if there are none.
async fn version(link: &mut Link, prefix: &str) -> Result<usize, Trouble> {
    let found = if link.is_mysql() { "version" } else { "version::int8" };
    let text = format!("SELECT {found} FROM {prefix}_schema ORDER BY version DESC LIMIT 1");
    let found = match link.numbers(text).await {
        Ok(rows) => rows.into_iter().flatten().next().unwrap_or(0),
        Err(Fault::NoTable(_)) => 0,
        Err(fault) => return Err(fault.trouble()),
    };
    let found = usize::try_from(found).unwrap_or(usize::MAX);
    let known = STEPS.len();
    if found > known {
        return Err(Trouble(format!(
            "its tables are of version {found}, this mpp knows {known}: a newer mpp made them; \
             start that one, or set another `prefix`"
        )));
    }
    Ok(found)
}

/// Makes a table of first tries, and notes that there is one.
pub(super) async fn make_bucket(
    link: &mut Link,
    prefix: &str,
    bucket: Bucket,
) -> Result<(), Fault> {
    let (id, name) = (bucket.id(), bucket.name());
    let lock = format!("BEGIN; SELECT id FROM {prefix}_meta WHERE id = 1 FOR UPDATE");
    let note = format!("UPDATE {prefix}_meta SET lists = lists + 1 WHERE id = 1; COMMIT");
    // A statement that makes a table ends a transaction of MariaDB and MySQL.
    let text = if link.is_mysql() {
        format!(
            "CREATE TABLE IF NOT EXISTS {prefix}_{name} (k BIGINT NOT NULL PRIMARY KEY, \
             cell VARBINARY(8) NOT NULL) ENGINE=InnoDB; {lock}; \
             INSERT IGNORE INTO {prefix}_buckets (id) VALUES ({id}); {note}"
        )
    } else {
        format!(
            "{lock}; CREATE TABLE IF NOT EXISTS {prefix}_{name} (k int8 NOT NULL PRIMARY KEY, \
             cell bytea NOT NULL); INSERT INTO {prefix}_buckets (id) VALUES ({id}) \
             ON CONFLICT DO NOTHING; {note}"
        )
    };
    link.run(text).await?;
    Ok(())
}

/// Drops a table of first tries that nobody looks into any more.
pub(super) async fn drop_bucket(
    link: &mut Link,
    prefix: &str,
    bucket: Bucket,
) -> Result<(), Fault> {
    let (id, name) = (bucket.id(), bucket.name());
    link.run(format!("DROP TABLE IF EXISTS {prefix}_{name}")).await?;
    link.run(format!("DELETE FROM {prefix}_buckets WHERE id = {id} AND is_over = 1")).await?;
    Ok(())
}

/// Drops everything.
pub(super) async fn drop_all(link: &mut Link, prefix: &str) -> Result<(), Fault> {
    let id = if link.is_mysql() { "id" } else { "id::int8" };
    let mut names: Vec<String> =
        ["meta", "lease", "log", "cells", "board", "board_head", "buckets", "schema"]
            .into_iter()
            .map(str::to_owned)
            .collect();
    for row in link.numbers(format!("SELECT {id} FROM {prefix}_buckets")).await? {
        let id = row.first().and_then(|id| u32::try_from(*id).ok());
        names.extend(id.map(|id| Bucket::of_id(id).name()));
    }
    for name in names {
        link.run(format!("DROP TABLE IF EXISTS {prefix}_{name}")).await?;
    }
    Ok(())
}
