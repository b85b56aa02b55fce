//! A certificate authority that lives as long as one server, and the certificate that it gives to it.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// Files in PEM.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority, whom a client has to trust.
    pub authority: PathBuf,
    /// The chain that the server shows.
    pub server: PathBuf,
    /// The key of it.
    pub key: PathBuf,
}

impl Certificates {
    /// Writes them into the folder, for `localhost` and `127.0.0.1`.
    pub fn make(dir: &Path) -> Self {
        let mut authority = named("larder test authority", &[]);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority = CertifiedIssuer::self_signed(authority, key()).expect("an authority");
        let server_key = key();
        let server = named("localhost", &["localhost", "127.0.0.1"]);
        let server = server.signed_by(&server_key, &authority).expect("a server certificate");
        let made = Self {
            authority: dir.join("ca.pem"),
            server: dir.join("server.pem"),
            key: dir.join("server.key"),
        };
        for (path, text) in [
            (&made.authority, authority.pem()),
            (&made.server, server.pem()),
            (&made.key, server_key.serialize_pem()),
        ] {
            std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        made
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
