//! TLS towards servers: whom to trust, and what to say when that fails.

use std::io;
use std::sync::Arc;

use mpp_config::directory::tls::{Security, Tls};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

/// The way to encrypt what goes to a server; nothing if that is never done.
///
/// # Errors
/// As [`client`].
pub fn connector(security: &Security) -> Result<Option<Arc<ClientConfig>>, String> {
    Ok(match security.tls {
        Tls::Off => None,
        Tls::Prefer => {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?;
            let verifier = Arc::new(Anybody(provider));
            let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
            Some(Arc::new(builder.with_no_client_auth()))
        }
        Tls::Require => Some(client(security.ca.as_deref())?),
    })
}

/// What a client needs to know that verifies its server; without `ca` the authorities of the system
/// are trusted.
///
/// # Errors
/// Nobody can be trusted; the text is for people.
pub fn client(ca: Option<&str>) -> Result<Arc<ClientConfig>, String> {
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
pub fn failure(error: &io::Error, name: &str, has_ca: bool) -> String {
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

/// Takes every certificate, for encryption against listeners where nobody is verified anyway.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
