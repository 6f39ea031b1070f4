//! How a directory's connection is protected: the same settings for every kind that talks over the
//! network.

use mpp_settings::Reader;

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Never.
    Off,
    /// If the server offers it, whoever it is: against listeners, not against impostors.
    #[default]
    Prefer,
    /// Always, and only with a server whose certificate is verified.
    Require,
}

/// The settings that say whom to trust.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// Whether a connection is encrypted.
    pub tls: Tls,
    /// Certificates of the authorities to trust, as PEM; those of the system if there are none.
    pub ca: Option<String>,
}

impl Security {
    /// Reads `tls` and `ca`.
    pub(crate) fn read(table: &mut Reader<'_>) -> Self {
        const WORDS: [(&str, Tls); 3] =
            [("off", Tls::Off), ("prefer", Tls::Prefer), ("require", Tls::Require)];
        let tls = table.choice("tls", "prefer", &WORDS).unwrap_or_default();
        Self::with_authorities(table, tls)
    }

    /// Reads `tls` and `ca` for a protocol that cannot begin in plain text: a port speaks TLS or not.
    pub(crate) fn read_strict(table: &mut Reader<'_>) -> Self {
        const WORDS: [(&str, Tls); 2] = [("off", Tls::Off), ("require", Tls::Require)];
        let tls = table.choice("tls", "off", &WORDS).unwrap_or(Tls::Off);
        Self::with_authorities(table, tls)
    }

    fn with_authorities(table: &mut Reader<'_>, tls: Tls) -> Self {
        let ca = table.content("ca");
        if ca.as_ref().is_some_and(|text| !text.contains("-----BEGIN CERTIFICATE-----")) {
            table.mistake("ca", "the file holds no certificate in PEM form");
        }
        if tls != Tls::Require && table.has_own("ca") {
            table.mistake("ca", "certificates are only verified with tls = \"require\"");
        }
        Self { tls, ca }
    }
}
