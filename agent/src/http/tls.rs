//! TLS for a listener: a certificate, and an authority for those of callers where they must have one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

/// Where keys and certificates are, in PEM. They are read at start and at a reload.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsFiles {
    /// The certificate, and what leads to its authority.
    pub(crate) cert_file: PathBuf,
    /// Its key.
    pub(crate) key_file: PathBuf,
    /// The authority that callers' certificates must come from; without it, callers need none.
    #[serde(default)]
    pub(crate) client_ca_file: Option<PathBuf>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("{field} {path}: {reason}")]
    File {
        field: &'static str,
        path: PathBuf,
        reason: String,
    },
    #[error("cert_file and key_file do not go together: {0}")]
    Pair(String),
    #[error("client_ca_file: {0}")]
    Authority(String),
}

/// Speaks TLS with callers.
#[derive(Clone)]
pub(crate) struct Tls(TlsAcceptor);

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that cannot be read, holds nothing of use, or does not fit the others.
    pub(crate) fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates("cert_file", &files.cert_file)?;
        let key = PrivateKeyDer::from_pem_file(&files.key_file).map_err(|error| {
            let (field, path) = ("key_file", files.key_file.clone());
            let reason = error.to_string();
            TlsError::File {
                field,
                path,
                reason,
            }
        })?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Pair(error.to_string()))?;
        let builder = match &files.client_ca_file {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let authority = |error: &dyn std::fmt::Display| {
                    TlsError::Authority(format!("{}: {error}", path.display()))
                };
                let mut roots = RootCertStore::empty();
                for certificate in certificates("client_ca_file", path)? {
                    roots.add(certificate).map_err(|error| authority(&error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .build()
                    .map_err(|error| authority(&error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder
            .with_single_cert(chain, key)
            .map_err(|error| TlsError::Pair(error.to_string()))?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.0.accept(stream).await
    }
}

fn certificates(
    field: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: String| TlsError::File {
        field,
        path: path.to_owned(),
        reason,
    };
    let found = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    let found: Result<Vec<_>, _> = found.collect();
    let found = found.map_err(|error| wrong(error.to_string()))?;
    match found.is_empty() {
        true => Err(wrong("found no certificate".to_owned())),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_files_is_said_with_field_and_path() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "nothing\n").unwrap();
        let files = |cert: PathBuf| TlsFiles {
            cert_file: cert,
            key_file: empty.clone(),
            client_ca_file: None,
        };
        let error = |files| Tls::load(&files).err().unwrap().to_string();
        let missing = error(files(dir.path().join("none.pem")));
        assert!(
            missing.starts_with("cert_file ") && missing.contains("none.pem"),
            "{missing}"
        );
        let nothing = error(files(empty.clone()));
        assert!(nothing.ends_with("found no certificate"), "{nothing}");
    }
}
