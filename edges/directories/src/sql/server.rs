//! One server of a directory: its idle connections, and whether it failed lately.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mpp_config::directory::sql as settings;
use mpp_config::directory::sql::server::{Engine, Reach};
use mpp_config::directory::tls::{Security, Tls};
use mpp_hub::sql::postgres;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use super::connection::{Connection, Query, Target};
use super::trouble::too_slow;

/// A connection that nobody used for so long is closed: firewalls forget it without a word.
const IDLE_MAX: Duration = Duration::from_mins(2);

/// What came of a question.
pub(super) enum Asked {
    /// Whether there is a row.
    Answered(bool),
    /// Why it cannot be said.
    Failed(String),
}

/// One server.
pub(super) struct Server {
    name: String,
    account: String,
    target: Target,
    is_verified: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<(Instant, Connection)>,
    rests_until: Option<Instant>,
}

impl Server {
    pub(super) fn new(
        server: &settings::server::Server,
        settings: &settings::Sql,
        timeout: Duration,
    ) -> Self {
        let password = settings.password.as_ref().map(mpp_settings::Secret::reveal);
        let target = match server.engine {
            Engine::MySql => Target::MySql(Box::new(mysql(server, password, &settings.security))),
            Engine::Postgres => {
                Target::Postgres(Box::new(postgres(server, password, &settings.security)))
            }
            Engine::Sqlite => Target::Sqlite(Box::new(sqlite(server, timeout))),
        };
        let is_network = matches!(server.reach, Reach::Network { .. });
        Self {
            name: server.to_string(),
            account: server.user.clone(),
            target,
            is_verified: is_network && settings.security.tls == Tls::Require,
            state: Mutex::default(),
        }
    }

    /// Its name in messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What a connection to it is like, for people.
    pub(super) fn described(&self) -> String {
        let tls = if self.is_verified { "TLS verified, " } else { "" };
        match self.account.as_str() {
            "" => "opened read-only".to_owned(),
            account => format!("{tls}logged in as {account}"),
        }
    }

    /// Leaves it alone until then.
    pub(super) fn rest(&self, until: Instant) {
        self.state().rests_until = Some(until);
    }

    /// Whether it is left alone.
    pub(super) fn rests(&self, now: Instant) -> bool {
        self.state().rests_until.is_some_and(|until| now < until)
    }

    /// Connects anew.
    pub(super) async fn connect(&self) -> Result<Connection, String> {
        self.target.connect().await.map_err(|fault| fault.text().to_owned())
    }

    /// Asks on an idle connection or a new one. An idle one may have died since it was used, so
    /// whatever goes wrong with it is tried again on a new one.
    pub(super) async fn ask(&self, query: &Query, timeout: Duration) -> Asked {
        let end = Instant::now() + timeout;
        if let Some(connection) = self.take_idle() {
            let patience = timeout / 2;
            let asked = tokio::time::timeout(patience, self.ask_on(connection, query)).await;
            if let Ok(Ok(found)) = asked {
                return Asked::Answered(found);
            }
            // If one has died the others have as well: the server was started anew.
            let dead = std::mem::take(&mut self.state().idle);
            drop(dead);
        }
        let anew = async { self.ask_on(self.connect().await?, query).await };
        let left = end.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, anew).await {
            Ok(Ok(found)) => {
                self.state().rests_until = None;
                Asked::Answered(found)
            }
            Ok(Err(text)) => Asked::Failed(text),
            Err(_) => Asked::Failed(too_slow(timeout)),
        }
    }

    async fn ask_on(&self, mut connection: Connection, query: &Query) -> Result<bool, String> {
        let found = connection.ask(query).await.map_err(|fault| fault.text().to_owned())?;
        if !connection.is_spent() {
            self.state().idle.push((Instant::now(), connection));
        }
        Ok(found)
    }

    /// The connection that was used last, so that those too many grow old.
    fn take_idle(&self) -> Option<Connection> {
        let now = Instant::now();
        let mut state = self.state();
        let (young, old): (Vec<_>, Vec<_>) = std::mem::take(&mut state.idle)
            .into_iter()
            .partition(|(since, _)| now.duration_since(*since) < IDLE_MAX);
        state.idle = young;
        let taken = state.idle.pop().map(|(_, connection)| connection);
        drop(state);
        drop(old);
        taken
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn mysql(
    server: &settings::server::Server,
    password: Option<&str>,
    security: &Security,
) -> MySqlConnectOptions {
    // As the server is set up: no time zone of ours.
    mpp_hub::sql::mysql(server, password, security).timezone(None)
}

pub(super) fn sqlite(server: &settings::server::Server, timeout: Duration) -> SqliteConnectOptions {
    let path = match &server.reach {
        Reach::File(path) | Reach::Socket(path) => path.as_str(),
        Reach::Network { host, .. } => host.as_str(),
    };
    // A lock is waited for, and given up before the look-up is: the message is clearer then.
    SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .create_if_missing(false)
        .busy_timeout(timeout.mul_f32(0.4))
}
