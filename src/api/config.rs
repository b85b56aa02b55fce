//! The section `[api]`: where to listen, whom to let in, and how commands reach a larder elsewhere.

use std::net::SocketAddr;

use larder_jobs::Reason;
use serde::Deserialize;

use super::access::Role;
use crate::error::{Error, Result};

/// Most tokens.
const MAX_TOKENS: usize = 64;
/// Most characters of a token's name.
const MAX_NAME: usize = 64;
/// What the audit log calls those who need no token, those who have none, and the queue.
const RESERVED: [&str; 5] = ["socket", "loopback", "public", "nobody", "redis"];

/// The section `[api]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The TCP address; empty turns TCP off.
    pub listen: String,
    /// Who may come over TCP; empty means everybody on a loopback address.
    pub tokens: Vec<TokenConfig>,
    /// Whether `/metrics`, `/healthz` and `/readyz` need no token.
    pub public_metrics: bool,
    /// The certificate.
    pub tls: TlsConfig,
    /// The API of a larder elsewhere that commands should talk to; empty means this host.
    pub url: String,
    /// A file with the token for that larder; empty means none.
    pub token_file: String,
    /// A file with the certificates to trust for that larder instead of the system's; empty means the system's.
    pub ca_file: String,
}

/// A token, or several that are worth the same.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// Who has it, for the audit log.
    pub name: String,
    /// What it is good for.
    pub role: Role,
    /// The file that holds it, one token on a line.
    pub file: String,
}

/// The certificate of the TCP listener; both empty means no TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The chain, the server's own certificate first, in PEM.
    pub cert_file: String,
    /// Its key, in PEM.
    pub key_file: String,
}

impl TlsConfig {
    /// Whether there is a certificate.
    pub fn is_on(&self) -> bool {
        !self.cert_file.is_empty()
    }
}

fn refuse<T>(what: String, hint: &str) -> Result<T> {
    Err(Error::new(Reason::InvalidRequest, what, hint))
}

impl Config {
    /// The address to listen on, if TCP is on.
    ///
    /// # Errors
    /// `invalid_request` if it is no address, or not a loopback one while there are no tokens.
    pub fn address(&self) -> Result<Option<SocketAddr>> {
        if self.listen.is_empty() {
            return Ok(None);
        }
        let Ok(address) = self.listen.parse::<SocketAddr>() else {
            return refuse(
                format!("api.listen = \"{}\" is not an address", self.listen),
                "write ip:port, for example 127.0.0.1:7717, or leave it empty for the unix socket only",
            );
        };
        if address.ip().is_loopback() || !self.tokens.is_empty() {
            return Ok(Some(address));
        }
        refuse(
            format!("api.listen = \"{address}\" is open to the network, and api.tokens is empty"),
            "add a token, [[api.tokens]] with name, role and file; or listen on 127.0.0.1",
        )
    }

    /// Refuses nonsense, naming the key.
    ///
    /// # Errors
    /// As [`Config::address`]; a token without a good name or file, half a certificate, or an `api.url` that is no HTTP
    /// address.
    pub fn validate(&self) -> Result<()> {
        self.address()?;
        self.validate_tokens()?;
        if self.tls.cert_file.is_empty() != self.tls.key_file.is_empty() {
            return refuse(
                "api.tls has only one of cert_file and key_file".into(),
                "set both, or leave both empty for no TLS",
            );
        }
        let good = self.url.is_empty() || self.url.starts_with("http://") || self.url.starts_with("https://");
        let parsed = url::Url::parse(&self.url);
        let has_login =
            parsed.as_ref().is_ok_and(|url| !url.username().is_empty() || url.password().is_some());
        if has_login {
            // The address is left out, since it holds a secret.
            return refuse(
                "api.url has a login in it".into(),
                "put a token into a file and name it in api.token_file",
            );
        }
        if good && (self.url.is_empty() || parsed.is_ok()) {
            return Ok(());
        }
        refuse(
            format!("api.url = \"{}\" is not an HTTP address", self.url),
            "write http://host:7717, or leave it empty for this host",
        )
    }

    fn validate_tokens(&self) -> Result<()> {
        if self.tokens.len() > MAX_TOKENS {
            return refuse(
                format!("api.tokens has {} entries, more than {MAX_TOKENS}", self.tokens.len()),
                "let those share a token who may do the same",
            );
        }
        for (n, token) in self.tokens.iter().enumerate() {
            let name = &token.name;
            let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(fine) {
                return refuse(
                    format!("api.tokens: the name of entry {} is not 1 to 64 of a-z A-Z 0-9 - _ .", n + 1),
                    "name who has the token, for example \"prometheus\"",
                );
            }
            if RESERVED.contains(&name.as_str()) || self.tokens[..n].iter().any(|other| other.name == *name) {
                return refuse(
                    format!("api.tokens: the name {name} is taken"),
                    "give each entry its own name; a file may hold several tokens, one on a line",
                );
            }
            if token.file.is_empty() {
                return refuse(
                    format!("api.tokens: {name} has no file"),
                    "name the file that holds its token",
                );
            }
        }
        Ok(())
    }

    /// Makes paths of the files, `~` being somebody's home.
    pub(crate) fn expand(&mut self, path: impl Fn(&str) -> String) {
        let files = self.tokens.iter_mut().map(|token| &mut token.file);
        let own = [&mut self.tls.cert_file, &mut self.tls.key_file, &mut self.token_file, &mut self.ca_file];
        for file in files.chain(own).filter(|file| !file.is_empty()) {
            *file = path(file);
        }
    }
}
