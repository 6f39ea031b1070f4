//! `kind = "sql"`: An SQL database.

use mpp_settings::Reader;

/// An SQL database.
#[derive(Clone, Debug, PartialEq)]
pub struct Sql {
    /// The servers, asked in order until one answers.
    pub servers: Vec<String>,
}

impl Sql {
    pub(super) fn read(table: &mut Reader<'_>) -> Self {
        Self { servers: table.list("servers", &[], |server| Ok(server.to_owned())) }
    }

    /// What changes the meaning of an answer.
    pub(super) fn meaning(&self) -> String {
        String::new()
    }
}
