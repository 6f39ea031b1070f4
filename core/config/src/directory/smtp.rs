//! `kind = "smtp"`: The next hop of a domain, asked by SMTP whom it takes mail for.

use mpp_settings::Reader;

/// The next hop of a domain, asked by SMTP whom it takes mail for.
#[derive(Clone, Debug, PartialEq)]
pub struct Smtp {
    /// The servers, asked in order until one answers.
    pub servers: Vec<String>,
}

impl Smtp {
    pub(super) fn read(table: &mut Reader<'_>) -> Self {
        Self { servers: table.list("servers", &[], |server| Ok(server.to_owned())) }
    }

    /// What changes the meaning of an answer.
    pub(super) fn meaning(&self) -> String {
        String::new()
    }
}
