//! `kind = "ldap"`: An LDAP server.

use mpp_settings::Reader;

/// An LDAP server.
#[derive(Clone, Debug, PartialEq)]
pub struct Ldap {
    /// The servers, asked in order until one answers.
    pub servers: Vec<String>,
}

impl Ldap {
    pub(super) fn read(table: &mut Reader<'_>) -> Self {
        table.text("base", "");
        table.text("filter", "");
        Self { servers: table.list("servers", &[], |server| Ok(server.to_owned())) }
    }

    /// What changes the meaning of an answer.
    pub(super) fn meaning(&self) -> String {
        String::new()
    }
}
