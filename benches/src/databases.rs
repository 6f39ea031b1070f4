//! MariaDB and PostgreSQL as stores of several nodes, beside sqlgrey on the same server.

use std::time::Duration;

use mpp_tests::real::mariadb::{self, MariaDb};
use mpp_tests::real::postgres::{self, Postgres};

use crate::nodes::{fill, measure};
use crate::servers::{self, Server};

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// `MariaDB`.
    MariaDb,
    /// `PostgreSQL`.
    Postgres,
}

/// A server with a database and an account for each who is measured.
#[derive(Debug)]
enum Database {
    MariaDb(MariaDb),
    Postgres(Postgres),
}

impl Database {
    /// Starts one that writes as one in use does: to the disk before it answers, or soon after.
    fn start(engine: Engine, is_durable: bool) -> Self {
        match engine {
            Engine::MariaDb => {
                let flush = u8::from(is_durable) + 2 * u8::from(!is_durable);
                let server = MariaDb::start(&[
                    "--innodb-buffer-pool-size=256M",
                    "--innodb-log-file-size=256M",
                    &format!("--innodb-flush-log-at-trx-commit={flush}"),
                ]);
                for name in ["mpp", "sqlgrey"] {
                    server.run(&format!(
                        "CREATE DATABASE {name}; CREATE USER {name}@'%' IDENTIFIED BY 'x'; \
                         GRANT ALL ON {name}.* TO {name}@'%'"
                    ));
                }
                Self::MariaDb(server)
            }
            Engine::Postgres => {
                let commit =
                    format!("synchronous_commit={}", if is_durable { "on" } else { "off" });
                let server = Postgres::start(&[
                    "fsync=on",
                    "full_page_writes=on",
                    "shared_buffers=256MB",
                    &commit,
                ]);
                for name in ["mpp", "sqlgrey"] {
                    server.run("postgres", &format!("CREATE USER {name} PASSWORD 'x'"));
                    server.run("postgres", &format!("CREATE DATABASE {name} OWNER {name}"));
                }
                Self::Postgres(server)
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::MariaDb(_) => "MariaDB",
            Self::Postgres(_) => "PostgreSQL",
        }
    }

    fn node(&self) -> Server {
        let place = match self {
            Self::MariaDb(server) => {
                format!("mysql://mpp@{}:{}/mpp", server.address(), mariadb::PORT)
            }
            Self::Postgres(server) => {
                format!("postgres://mpp@{}:{}/mpp", server.address(), postgres::PORT)
            }
        };
        let settings = format!(
            "[store]\nkind = \"sql\"\nservers = [\"{place}\"]\npassword = \"env:MPP_BENCH_SQL\"\n"
        );
        servers::mpp(&settings).expect("mpp with a database")
    }

    fn sqlgrey(&self) -> Server {
        let settings = match self {
            Self::MariaDb(server) => {
                format!(
                    "db_type = mysql\ndb_host = {}\ndb_port = {}\n",
                    server.address(),
                    mariadb::PORT
                )
            }
            Self::Postgres(server) => {
                format!(
                    "db_type = Pg\ndb_host = {}\ndb_port = {}\n",
                    server.address(),
                    postgres::PORT
                )
            }
        };
        let account = "db_name = sqlgrey\ndb_user = sqlgrey\ndb_pass = x\n";
        servers::sqlgrey_on("TCP", &format!("{settings}{account}")).expect("sqlgrey")
    }

    /// Bytes of tables and of their indexes.
    fn bytes(&self, database: &str) -> u64 {
        let said = match self {
            Self::MariaDb(server) => {
                let names = server.run(&format!(
                    "SELECT table_name FROM information_schema.tables WHERE table_schema = '{database}'"
                ));
                for name in names.lines() {
                    server.run(&format!("ANALYZE TABLE {database}.{name}"));
                }
                server.run(&format!(
                    "SELECT COALESCE(SUM(data_length + index_length), 0) FROM information_schema.tables \
                     WHERE table_schema = '{database}'"
                ))
            }
            Self::Postgres(server) => server.run(
                database,
                "SELECT COALESCE(SUM(pg_total_relation_size(oid)), 0) FROM pg_class WHERE relkind = 'r' \
                 AND relnamespace = current_schema()::regnamespace",
            ),
        };
        said.trim().parse().expect("a number of bytes")
    }

    fn entries(&self, database: &str, tables: &str) -> u64 {
        let text = format!("SELECT COUNT(*) FROM {tables}");
        let said = match self {
            Self::MariaDb(server) => server.run(&format!("USE {database}; {text}")),
            Self::Postgres(server) => server.run(database, &text),
        };
        said.trim().parse().expect("a number of rows")
    }

    /// How many first tries mpp has in its tables.
    fn held(&self) -> u64 {
        let said = match self {
            Self::MariaDb(server) => server.run("SELECT SUM(held) FROM mpp.mpp_buckets"),
            Self::Postgres(server) => server.run("mpp", "SELECT SUM(held) FROM mpp_buckets"),
        };
        said.trim().parse().unwrap_or(0)
    }
}

/// Prints how many decisions a second.
pub fn rates(engine: Engine, time: Duration, base: f64) {
    for is_durable in [true, false] {
        let database = Database::start(engine, is_durable);
        let how = match (engine, is_durable) {
            (Engine::MariaDb, true) => "innodb_flush_log_at_trx_commit = 1",
            (Engine::MariaDb, false) => "innodb_flush_log_at_trx_commit = 2",
            (Engine::Postgres, true) => "synchronous_commit = on",
            (Engine::Postgres, false) => "synchronous_commit = off",
        };
        let name = |who: &str| format!("{who}, {}, {how}", database.name());
        let nodes: Vec<Server> = (0..3).map(|_| database.node()).collect();
        let all: Vec<&Server> = nodes.iter().collect();
        for many in [1, 3] {
            let some = all.get(..many).unwrap_or_default();
            measure(&name("mpp"), some, 64, (None, time), base);
        }
        drop(nodes);
        let sqlgrey = database.sqlgrey();
        measure(&name("sqlgrey"), &[&sqlgrey], 64, (None, time), base);
    }
}

/// Prints what drones that never return take, tables and indexes.
pub fn room(engine: Engine, held: u64) {
    let database = Database::start(engine, false);
    println!("\n| in {} | entries | bytes an entry |\n| --- | ---: | ---: |", database.name());
    let node = database.node();
    let empty = database.bytes("mpp");
    fill(&node, held);
    let end = std::time::Instant::now() + Duration::from_mins(1);
    while database.held() < held && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(500));
    }
    let (bytes, many) = (database.bytes("mpp") - empty, database.held());
    println!("| mpp, a drone | {many} | {:.1} |", bytes as f64 / many as f64);
    drop(node);
    let sqlgrey = database.sqlgrey();
    let empty = database.bytes("sqlgrey");
    fill(&sqlgrey, held / 20);
    let bytes = database.bytes("sqlgrey") - empty;
    let many = database.entries("sqlgrey", "connect");
    println!("| sqlgrey, a drone | {many} | {:.1} |\n", bytes as f64 / many as f64);
}
