//! The certificate of the TCP listener, which can be replaced while it is in use.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use larder_jobs::Reason;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::config::TlsConfig;
use crate::error::{Error, Result};
use crate::secret;

/// A certificate with its key. A clone is the same one.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// `invalid_request` if a file cannot be read, is not PEM, or key and certificate do not belong together.
    pub(super) fn open(config: &TlsConfig) -> Result<Self> {
        let (cert, key) = (Path::new(&config.cert_file), Path::new(&config.key_file));
        secret::warn_if_readable(key, "api.tls.key_file");
        let bad = |key: &str, path: &Path, error: &dyn std::fmt::Display| {
            let what = format!("api.tls.{key}, {}, is of no use: {error}", path.display());
            Error::new(Reason::InvalidRequest, what, "name a certificate chain and its key, both in PEM")
        };
        let chain: Vec<_> = CertificateDer::pem_file_iter(cert)
            .and_then(Iterator::collect)
            .map_err(|error| bad("cert_file", cert, &error))?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad("key_file", key, &error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal(error.to_string()))?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(|error| bad("cert_file", cert, &error))?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { current: Arc::new(RwLock::new(Arc::new(server))) })
    }

    /// From now on new connections get the other one.
    pub(super) fn replace(&self, other: &Self) {
        let new = other.now();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    fn now(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// For the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.now())
    }
}
