//! What all who talk to SQL databases have in common: how one is reached, and its words made harmless.

use mpp_config::directory::sql::server::{Reach, Server};
use mpp_config::directory::tls::{Security, Tls};
use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// A message of a database may be so long before it is cut, in bytes.
const TEXT_BYTES_MAX: usize = 300;

/// How a MariaDB or MySQL is reached.
pub fn mysql(server: &Server, password: Option<&str>, security: &Security) -> MySqlConnectOptions {
    // The session stays as the server is set up: no mode of ours.
    let options = MySqlConnectOptions::new()
        .username(&server.user)
        .database(&server.database)
        .pipes_as_concat(false)
        .no_engine_substitution(false);
    let options = match password {
        Some(password) => options.password(password),
        None => options,
    };
    match &server.reach {
        Reach::Socket(path) | Reach::File(path) => {
            options.socket(path).ssl_mode(MySqlSslMode::Disabled)
        }
        Reach::Network { host, port } => {
            let options = options.host(host).port(*port);
            let options = match &security.ca {
                Some(ca) => options.ssl_ca_from_pem(ca.clone().into_bytes()),
                None => options,
            };
            options.ssl_mode(match security.tls {
                Tls::Off => MySqlSslMode::Disabled,
                Tls::Prefer => MySqlSslMode::Preferred,
                Tls::Require => MySqlSslMode::VerifyIdentity,
            })
        }
    }
}

/// How a PostgreSQL is reached.
pub fn postgres(server: &Server, password: Option<&str>, security: &Security) -> PgConnectOptions {
    let options = PgConnectOptions::new_without_pgpass()
        .username(&server.user)
        .database(&server.database)
        .application_name("mpp");
    let options = match password {
        Some(password) => options.password(password),
        None => options,
    };
    match &server.reach {
        Reach::Socket(path) | Reach::File(path) => {
            options.socket(path).ssl_mode(PgSslMode::Disable)
        }
        Reach::Network { host, port } => {
            let options = options.host(host).port(*port);
            let options = match &security.ca {
                Some(ca) => options.ssl_root_cert_from_pem(ca.clone().into_bytes()),
                None => options,
            };
            options.ssl_mode(match security.tls {
                Tls::Off => PgSslMode::Disable,
                Tls::Prefer => PgSslMode::Prefer,
                Tls::Require => PgSslMode::VerifyFull,
            })
        }
    }
}

/// One line, not endless: a database quotes what it was asked, and that comes from strangers.
pub fn tidied(text: &str) -> String {
    let mut tidy = String::new();
    for character in text.chars() {
        if tidy.len() + character.len_utf8() > TEXT_BYTES_MAX {
            tidy.push('…');
            break;
        }
        tidy.push(if character.is_control() { ' ' } else { character });
    }
    tidy.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_short_line() {
        assert_eq!(tidied("no\nsuch\ttable "), "no such table");
        let long = tidied(&"ü".repeat(1000));
        assert!(long.len() <= TEXT_BYTES_MAX + 3 && long.ends_with('…'));
    }
}
