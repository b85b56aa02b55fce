//! TLS in front of a private Redis.

use std::path::Path;

use super::options::quoted;
use crate::certificates::Certificates;
use crate::port::Port;

/// The port that speaks TLS, and whom to trust there.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) port: Port,
    pub(crate) certificates: Certificates,
}

impl Tls {
    /// With these certificates, or new ones for `localhost` and `127.0.0.1` in the folder.
    pub(crate) fn make(dir: &Path, trust: Option<&Certificates>) -> Self {
        let certificates = trust.cloned().unwrap_or_else(|| Certificates::make(dir));
        Self { port: Port::free(), certificates }
    }

    /// Its lines of `redis.conf`.
    pub(crate) fn conf(&self) -> String {
        let file = |path: &Path| quoted(&path.display().to_string());
        format!(
            "tls-port {}\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\ntls-auth-clients no\n",
            self.port.number(),
            file(&self.certificates.server),
            file(&self.certificates.key),
            file(&self.certificates.authority),
        )
    }
}
