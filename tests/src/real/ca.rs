//! Certificates for tests: an authority, and what it signs, the wrong ones included.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

use super::folder;

/// An authority with a folder of its own, removed when dropped.
#[derive(Debug)]
pub struct Authority {
    folder: Arc<TempDir>,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The file of the certificate.
    pub certificate: PathBuf,
    /// The file of the key.
    pub key: PathBuf,
    /// Where they are; removed with the last that needs it.
    pub folder: Arc<TempDir>,
}

impl Authority {
    /// A new one, trusted by nobody yet.
    pub fn new() -> Self {
        let folder = folder();
        let at = |name: &str| folder.path().join(name).display().to_string();
        openssl(&format!(
            "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=ca-{} -keyout {} -out {}",
            folder.path().file_name().expect("a folder").display(),
            at("ca.key"),
            at("ca.crt")
        ));
        Self { folder: Arc::new(folder) }
    }

    /// The file of its own certificate.
    pub fn file(&self) -> PathBuf {
        self.at("ca.crt")
    }

    /// Its own certificate, in PEM.
    pub fn text(&self) -> String {
        std::fs::read_to_string(self.file()).expect("a folder of our own")
    }

    /// Signs a certificate for these names, such as `DNS:localhost` and `IP:127.0.0.1`.
    pub fn sign(&self, names: &[&str]) -> Certificate {
        self.sign_for("30", names)
    }

    /// Signs one that ran out yesterday.
    pub fn sign_expired(&self, names: &[&str]) -> Certificate {
        self.sign_for("-1", names)
    }

    fn sign_for(&self, days: &str, names: &[&str]) -> Certificate {
        let number = std::fs::read_dir(self.folder.path()).expect("our own folder").count();
        let (key, request) = (self.at(&format!("{number}.key")), self.at(&format!("{number}.csr")));
        let (extensions, certificate) =
            (self.at(&format!("{number}.ext")), self.at(&format!("{number}.crt")));
        let text = format!("subjectAltName={}\nbasicConstraints=CA:FALSE\n", names.join(","));
        std::fs::write(&extensions, text).expect("our own folder");
        let show = |path: &Path| path.display().to_string();
        openssl(&format!(
            "req -newkey rsa:2048 -nodes -subj /CN=server -keyout {} -out {}",
            show(&key),
            show(&request)
        ));
        openssl(&format!(
            "x509 -req -in {} -CA {} -CAkey {} -CAcreateserial -days {days} -extfile {} -out {}",
            show(&request),
            show(&self.file()),
            show(&self.at("ca.key")),
            show(&extensions),
            show(&certificate)
        ));
        Certificate { certificate, key, folder: Arc::clone(&self.folder) }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

fn openssl(arguments: &str) {
    let output = Command::new("openssl").args(arguments.split_whitespace()).output();
    let output = output.expect("openssl(1) comes with the package openssl");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
