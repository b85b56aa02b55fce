//! A certificate authority that lives as long as one server, and the certificate that it gives to it.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

use super::options::quoted;
use crate::port::Port;

/// The port that speaks TLS, and whom to trust there.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) port: Port,
    pub(crate) ca_file: PathBuf,
    dir: PathBuf,
}

impl Tls {
    /// Writes certificates for `localhost` and `127.0.0.1` into the folder.
    pub(crate) fn make(dir: &Path) -> Self {
        let mut authority = named("larder test authority", &[]);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority = CertifiedIssuer::self_signed(authority, key()).expect("an authority");
        let server_key = key();
        let server = named("localhost", &["localhost", "127.0.0.1"]);
        let server = server.signed_by(&server_key, &authority).expect("a server certificate");
        let made = Self { port: Port::free(), ca_file: dir.join("ca.pem"), dir: dir.into() };
        for (path, text) in [
            (made.ca_file.clone(), authority.pem()),
            (dir.join("server.pem"), server.pem()),
            (dir.join("server.key"), server_key.serialize_pem()),
        ] {
            std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        made
    }

    /// Its lines of `redis.conf`.
    pub(crate) fn conf(&self) -> String {
        let file = |name| quoted(&self.dir.join(name).display().to_string());
        format!(
            "tls-port {}\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\ntls-auth-clients no\n",
            self.port.number(),
            file("server.pem"),
            file("server.key"),
            file("ca.pem"),
        )
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
    let mut params = CertificateParams::new(hosts).expect("host names");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
