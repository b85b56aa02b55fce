//! TLS in front of a private Redis.

use std::path::{Path, PathBuf};

use super::options::quoted;
use crate::certificates::Certificates;
use crate::port::Port;

/// The port that speaks TLS, and whom to trust there.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) port: Port,
    pub(crate) ca_file: PathBuf,
    server: PathBuf,
    key: PathBuf,
}

impl Tls {
    /// Writes certificates for `localhost` and `127.0.0.1` into the folder.
    pub(crate) fn make(dir: &Path) -> Self {
        let Certificates { authority, server, key } = Certificates::make(dir);
        Self { port: Port::free(), ca_file: authority, server, key }
    }

    /// Its lines of `redis.conf`.
    pub(crate) fn conf(&self) -> String {
        let file = |path: &Path| quoted(&path.display().to_string());
        format!(
            "tls-port {}\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\ntls-auth-clients no\n",
            self.port.number(),
            file(&self.server),
            file(&self.key),
            file(&self.ca_file),
        )
    }
}
