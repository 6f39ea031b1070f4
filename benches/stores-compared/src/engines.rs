//! The stores: ours as mpp uses it, the others as one would use them in its place, with their
//! default settings but for durable commits every 50 ms.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mpp_engine::question::{Answer, Effect, Key, Lesson, Question, Shelf};
use mpp_hub::store::Store as _;
use mpp_stores::embedded::{self, EmbeddedStore};

use crate::load::{COMMIT_EVERY, Decide, Load, T0, TABLES, Table, Tables};

pub const ENGINES: [&str; 5] = ["ours", "fjall", "redb", "heed", "rusqlite"];

/// A store that is open.
pub trait Engine {
    /// Makes the decisions of a load.
    fn run(&mut self, load: &mut Load);
    /// Whether a triplet is known.
    fn has(&mut self, triplet: u64, now_ms: u64) -> bool;
    /// Brings it into its smallest form, if it has one.
    fn compact(&mut self) {}
}

pub fn open(name: &str, path: &Path) -> Box<dyn Engine> {
    std::fs::create_dir_all(path).expect("a directory");
    match name {
        "ours" => Box::new(Ours::open(path)),
        "fjall" => Box::new(Fjall::open(path)),
        "redb" => Box::new(Redb::open(path)),
        "heed" => Box::new(Heed::open(path)),
        "rusqlite" => Box::new(Sqlite::open(path)),
        other => panic!("no such store: {other}"),
    }
}

struct Ours {
    store: Arc<EmbeddedStore>,
    answers: Vec<Answer>,
}

impl Ours {
    fn open(path: &Path) -> Self {
        let options = embedded::Options { seed: Some(7), ..Default::default() };
        let store = embedded::open(path, &options).expect("our store");
        Self { store, answers: Vec::new() }
    }
}

impl Decide for Ours {
    fn decide(&mut self, now_ms: u64, triplet: u64, client: u64, keep_ms: u64) {
        let (key, shelf) = (Key(triplet), Shelf::Greylisted);
        let client = Key(client);
        let questions = [
            Question::Since { shelf, key },
            Question::History { key: client },
            Question::Count { key: client, per_ms: 60_000, amount: 1 },
        ];
        assert!(self.store.ask(now_ms, &questions, &mut self.answers).is_none());
        let is_known = matches!(self.answers[0], Answer::Since(Some(_)));
        let effect = if is_known {
            Effect::TooEarly { key }
        } else {
            Effect::Remember { shelf, key, keep_ms, again: false, mark: 0 }
        };
        let observe = Effect::Observe { key: client, lesson: Lesson::Bad, weight: 1.0 };
        self.store.perform(now_ms, &[effect, observe]);
    }
}

impl Engine for Ours {
    fn run(&mut self, load: &mut Load) {
        // A round over all entries ten times in a life of one; mpp does it every 10 s.
        let live = load.live;
        let every = (live / 1_000).max(1);
        while !load.is_done() {
            while load.step(|number| {
                Load::decide_ours(self, number, live);
                if number % every == 0 {
                    self.store.expire(T0 + number);
                }
            }) {}
            // The store commits by itself.
            load.waited(Instant::now());
        }
        self.store.settle().expect("durable");
    }

    fn has(&mut self, triplet: u64, now_ms: u64) -> bool {
        let question = Question::Since { shelf: Shelf::Greylisted, key: Key(triplet) };
        assert!(self.store.ask(now_ms, &[question], &mut self.answers).is_none());
        matches!(self.answers[0], Answer::Since(Some(_)))
    }

    fn compact(&mut self) {
        self.store.compact().expect("a snapshot");
    }
}

struct Fjall {
    database: fjall::Database,
    tables: Vec<fjall::Keyspace>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Fjall {
    fn open(path: &Path) -> Self {
        let database = fjall::Database::builder(path).open().expect("fjall");
        let open = |name: &&str| {
            database.keyspace(name, fjall::KeyspaceCreateOptions::default).expect("a keyspace")
        };
        let tables = TABLES.iter().map(open).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, durable) = (Arc::clone(&stop), database.clone());
        // Its writers do not wait for a thread that syncs, so that is how one would use it.
        let thread = std::thread::spawn(move || {
            while !asked.load(Ordering::Relaxed) {
                std::thread::sleep(COMMIT_EVERY);
                durable.persist(fjall::PersistMode::SyncData).expect("durable");
            }
        });
        Self { database, tables, stop, thread: Some(thread) }
    }
}

impl Drop for Fjall {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(std::thread::JoinHandle::join);
    }
}

impl Tables for Fjall {
    fn get(&mut self, table: Table, key: u64, value: &mut Vec<u8>) -> bool {
        let found = self.tables[table as usize].get(key.to_be_bytes()).expect("get");
        found.is_some_and(|found| {
            value.clear();
            value.extend_from_slice(&found);
            true
        })
    }

    fn put(&mut self, table: Table, key: u64, value: &[u8]) {
        self.tables[table as usize].insert(key.to_be_bytes(), value).expect("put");
    }

    fn delete(&mut self, table: Table, key: u64) {
        self.tables[table as usize].remove(key.to_be_bytes()).expect("delete");
    }
}

impl Engine for Fjall {
    fn run(&mut self, load: &mut Load) {
        let live = load.live;
        while !load.is_done() {
            while load.step(|number| Load::decide(self, number, live)) {}
            load.waited(Instant::now());
        }
        self.database.persist(fjall::PersistMode::SyncAll).expect("durable");
    }

    fn has(&mut self, triplet: u64, _: u64) -> bool {
        self.get(Table::Grey, triplet, &mut Vec::new())
    }

    fn compact(&mut self) {
        for table in &self.tables {
            table.rotate_memtable_and_wait().expect("a flush");
            table.major_compact().expect("a compaction");
        }
    }
}

type RedbTable = redb::TableDefinition<'static, u64, &'static [u8]>;

fn redb_table(table: usize) -> RedbTable {
    redb::TableDefinition::new(TABLES[table])
}

struct Redb(redb::Database);

impl Redb {
    fn open(path: &Path) -> Self {
        let database = redb::Database::create(path.join("redb")).expect("redb");
        let transaction = database.begin_write().expect("a transaction");
        for table in 0..TABLES.len() {
            transaction.open_table(redb_table(table)).expect("a table");
        }
        transaction.commit().expect("commit");
        Self(database)
    }
}

impl Tables for Vec<redb::Table<'_, u64, &'static [u8]>> {
    fn get(&mut self, table: Table, key: u64, value: &mut Vec<u8>) -> bool {
        use redb::ReadableTable as _;
        self[table as usize].get(key).expect("get").is_some_and(|found| {
            value.clear();
            value.extend_from_slice(found.value());
            true
        })
    }

    fn put(&mut self, table: Table, key: u64, value: &[u8]) {
        self[table as usize].insert(key, value).expect("put");
    }

    fn delete(&mut self, table: Table, key: u64) {
        self[table as usize].remove(key).expect("delete");
    }
}

impl Engine for Redb {
    fn run(&mut self, load: &mut Load) {
        let live = load.live;
        while !load.is_done() {
            let transaction = self.0.begin_write().expect("a transaction");
            {
                let open = |table| transaction.open_table(redb_table(table)).expect("a table");
                let mut tables: Vec<_> = (0..TABLES.len()).map(open).collect();
                while load.step(|number| Load::decide(&mut tables, number, live)) {}
            }
            let begun = Instant::now();
            transaction.commit().expect("commit");
            load.waited(begun);
        }
    }

    fn has(&mut self, triplet: u64, _: u64) -> bool {
        use redb::ReadableDatabase as _;
        let transaction = self.0.begin_read().expect("a transaction");
        let table = transaction.open_table(redb_table(0)).expect("a table");
        table.get(triplet).expect("get").is_some()
    }

    fn compact(&mut self) {
        self.0.compact().expect("compact");
    }
}

type HeedTable = heed::Database<heed::types::U64<heed::byteorder::BE>, heed::types::Bytes>;

struct Heed {
    environment: heed::Env,
    tables: Vec<HeedTable>,
}

struct HeedWork<'e>(heed::RwTxn<'e>, Vec<HeedTable>);

impl Heed {
    fn open(path: &Path) -> Self {
        let mut options = heed::EnvOpenOptions::new();
        options.map_size(64 << 30).max_dbs(8);
        // SAFETY: nobody else opens or changes the files of this benchmark.
        let environment = unsafe { options.open(path) }.expect("heed");
        let mut transaction = environment.write_txn().expect("a transaction");
        let mut open = |name: &&str| {
            environment.create_database(&mut transaction, Some(name)).expect("a table")
        };
        let tables = TABLES.iter().map(&mut open).collect();
        transaction.commit().expect("commit");
        Self { environment, tables }
    }
}

impl Tables for HeedWork<'_> {
    fn get(&mut self, table: Table, key: u64, value: &mut Vec<u8>) -> bool {
        self.1[table as usize].get(&self.0, &key).expect("get").is_some_and(|found| {
            value.clear();
            value.extend_from_slice(found);
            true
        })
    }

    fn put(&mut self, table: Table, key: u64, value: &[u8]) {
        self.1[table as usize].put(&mut self.0, &key, value).expect("put");
    }

    fn delete(&mut self, table: Table, key: u64) {
        self.1[table as usize].delete(&mut self.0, &key).expect("delete");
    }
}

impl Engine for Heed {
    fn run(&mut self, load: &mut Load) {
        let live = load.live;
        while !load.is_done() {
            let transaction = self.environment.write_txn().expect("a transaction");
            let mut work = HeedWork(transaction, self.tables.clone());
            while load.step(|number| Load::decide(&mut work, number, live)) {}
            let begun = Instant::now();
            work.0.commit().expect("commit");
            load.waited(begun);
        }
    }

    fn has(&mut self, triplet: u64, _: u64) -> bool {
        let transaction = self.environment.read_txn().expect("a transaction");
        self.tables[0].get(&transaction, &triplet).expect("get").is_some()
    }
}

struct Sqlite(rusqlite::Connection);

impl Sqlite {
    fn open(path: &Path) -> Self {
        let connection = rusqlite::Connection::open(path.join("sqlite")).expect("rusqlite");
        connection.pragma_update(None, "journal_mode", "WAL").expect("WAL");
        connection.pragma_update(None, "synchronous", "FULL").expect("synchronous");
        connection.set_prepared_statement_cache_capacity(32);
        for table in TABLES {
            let make = format!(
                "CREATE TABLE IF NOT EXISTS {table} (k INTEGER PRIMARY KEY, v BLOB NOT NULL)"
            );
            connection.execute_batch(&make).expect("a table");
        }
        Self(connection)
    }
}

impl Tables for Sqlite {
    fn get(&mut self, table: Table, key: u64, value: &mut Vec<u8>) -> bool {
        use rusqlite::OptionalExtension as _;
        let query = format!("SELECT v FROM {} WHERE k = ?1", TABLES[table as usize]);
        let mut statement = self.0.prepare_cached(&query).expect("a statement");
        let read = |row: &rusqlite::Row<'_>| {
            value.clear();
            value.extend_from_slice(row.get_ref(0)?.as_blob()?);
            Ok(())
        };
        statement.query_row([key.cast_signed()], read).optional().expect("get").is_some()
    }

    fn put(&mut self, table: Table, key: u64, value: &[u8]) {
        let query = format!(
            "INSERT INTO {} (k, v) VALUES (?1, ?2) ON CONFLICT (k) DO UPDATE SET v = ?2",
            TABLES[table as usize]
        );
        let mut statement = self.0.prepare_cached(&query).expect("a statement");
        statement.execute(rusqlite::params![key.cast_signed(), value]).expect("put");
    }

    fn delete(&mut self, table: Table, key: u64) {
        let query = format!("DELETE FROM {} WHERE k = ?1", TABLES[table as usize]);
        let mut statement = self.0.prepare_cached(&query).expect("a statement");
        statement.execute([key.cast_signed()]).expect("delete");
    }
}

impl Engine for Sqlite {
    fn run(&mut self, load: &mut Load) {
        let live = load.live;
        while !load.is_done() {
            self.0.execute_batch("BEGIN IMMEDIATE").expect("begin");
            while load.step(|number| Load::decide(self, number, live)) {}
            let begun = Instant::now();
            self.0.execute_batch("COMMIT").expect("commit");
            load.waited(begun);
        }
    }

    fn has(&mut self, triplet: u64, _: u64) -> bool {
        self.get(Table::Grey, triplet, &mut Vec::new())
    }

    fn compact(&mut self) {
        self.0.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); VACUUM").expect("vacuum");
    }
}
