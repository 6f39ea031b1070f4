//! TLS towards servers: whom to trust, and what to say when that fails.

use std::io;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};

/// What a client needs to know that verifies its server.
pub(crate) fn client(ca: Option<&str>) -> Result<Arc<ClientConfig>, String> {
    let roots = roots(ca)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// The authorities of a text in PEM; without it those of the system.
fn roots(ca: Option<&str>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = ca {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate =
                certificate.map_err(|error| format!("`ca` cannot be read: {error}"))?;
            roots.add(certificate).map_err(|error| format!("`ca` cannot be read: {error}"))?;
        }
        if roots.is_empty() {
            return Err("the file of `ca` holds no certificate".into());
        }
    } else {
        // One that this system has and rustls does not take is one less to trust, and no error.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(
                "this system trusts nobody (package ca-certificates), and there is no `ca`".into(),
            );
        }
    }
    Ok(roots)
}

/// What a failed handshake means to an operator.
pub(crate) fn failure(error: &io::Error, name: &str, has_ca: bool) -> String {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match cause {
        Some(Error::InvalidCertificate(wrong)) => certificate(wrong, name, has_ca),
        Some(Error::InvalidMessage(_)) => "what it speaks is not TLS".into(),
        Some(Error::AlertReceived(alert)) => format!("it refuses TLS: {alert:?}"),
        Some(other) => format!("TLS fails: {other}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it closes the connection instead of answering in TLS".into()
        }
        None => format!("TLS fails: {error}"),
    }
}

fn certificate(wrong: &CertificateError, name: &str, has_ca: bool) -> String {
    match wrong {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: is the clock right?".into()
        }
        // Another authority of the same name signs with another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature if has_ca => {
            "its certificate is not signed by an authority in `ca`".into()
        }
        CertificateError::UnknownIssuer => {
            "its certificate is not signed by an authority that this system trusts: \
             write `ca`, the file of your own"
                .into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "its certificate is not for the name {name}: write `server_name` if it has another"
            )
        }
        CertificateError::Other(other) if other.0.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is one of an authority: give the server one of its own, signed by that"
                .into()
        }
        other => format!("its certificate is not sound: {other}"),
    }
}
