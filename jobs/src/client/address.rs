//! Where the queue is and how to get in. Secrets stay in here: what is printed has none.

use std::fmt;
use std::path::Path;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo};

use super::error::{ADDRESS_HINT, Error, Result};
use crate::Reason;

/// Longest namespace.
const MAX_NAMESPACE: usize = 64;

/// Where the queue is and how to get in.
#[derive(Clone)]
pub struct Address {
    info: ConnectionInfo,
    ca: Option<Vec<u8>>,
    place: String,
    prefix: String,
}

impl Address {
    /// The queue at `url` under `namespace` (`larder` unless you share the Redis with another fleet).
    ///
    /// # Errors
    /// `invalid_request` if the URL names no Redis or the namespace has other characters than letters,
    /// digits, `.`, `_` and `-`.
    pub fn new(url: &str, namespace: &str) -> Result<Self> {
        let wrong = |why: &str| Error::new(Reason::InvalidRequest, format!("queue.url {why}"), ADDRESS_HINT);
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if namespace.is_empty() || namespace.len() > MAX_NAMESPACE || !namespace.chars().all(fits) {
            return Err(Error::new(
                Reason::InvalidRequest,
                format!("queue.namespace = \"{}\" is not a name for keys", crate::invalid::shown(namespace)),
                "use letters, digits, dots, dashes and underscores, at most 64; larder is the default",
            ));
        }
        // The URL itself is never part of a message: it may carry a password.
        let scheme = url.split(':').next().unwrap_or_default();
        if !["redis", "rediss", "redis+unix", "unix"].contains(&scheme) {
            return Err(wrong(&format!(
                "begins with `{}`, which is no Redis",
                crate::invalid::shown(scheme)
            )));
        }
        if url.contains('#') {
            return Err(wrong("has a part behind `#`; certificates are always checked"));
        }
        let info = url.into_connection_info().map_err(|error| {
            wrong(&format!("cannot be read: {}", error.to_string().split(" - ").next().unwrap_or_default()))
        })?;
        if cfg!(not(feature = "tls")) && scheme == "rediss" {
            return Err(wrong("asks for TLS, which this program was built without (feature `tls`)"));
        }
        let place = format!("{}{}", shown(info.addr()), database(info.redis_settings()));
        let settings = info.redis_settings().clone().set_lib_name("larder", env!("CARGO_PKG_VERSION"));
        let info = info.set_redis_settings(settings);
        Ok(Self { info, ca: None, place, prefix: format!("{{{namespace}}}:") })
    }

    /// With this user and password instead of those in the URL; an empty user is the default one.
    #[must_use]
    pub fn with_login(mut self, user: &str, password: Option<&str>) -> Self {
        let mut settings = self.info.redis_settings().clone();
        if !user.is_empty() {
            settings = settings.set_username(user);
        }
        if let Some(password) = password {
            settings = settings.set_password(password);
        }
        self.info = self.info.set_redis_settings(settings);
        self
    }

    /// Trusts the certificates (PEM) in this file and no others.
    ///
    /// # Errors
    /// `invalid_request` if the file cannot be read or has no certificate.
    pub fn with_ca(mut self, file: &Path) -> Result<Self> {
        let wrong = |why: String| {
            let what = format!("queue.ca_file {}: {why}", file.display());
            Error::new(Reason::InvalidRequest, what, "name a file with the CA's certificate in PEM form")
        };
        let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
        if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
            return Err(wrong("there is no certificate in it".into()));
        }
        self.ca = Some(pem);
        Ok(self)
    }

    /// Host and port, or the socket, with the database; no secrets.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What every key begins with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The user, as the server names it.
    pub(super) fn user(&self) -> &str {
        self.info.redis_settings().username().unwrap_or("default")
    }

    pub(super) fn has_tls(&self) -> bool {
        matches!(self.info.addr(), ConnectionAddr::TcpTls { .. })
    }

    pub(super) fn client(&self) -> Result<redis::Client, redis::RedisError> {
        #[cfg(feature = "tls")]
        if let Some(ca) = &self.ca {
            let certificates = redis::TlsCertificates { client_tls: None, root_cert: Some(ca.clone()) };
            return redis::Client::build_with_tls(self.info.clone(), certificates);
        }
        redis::Client::open(self.info.clone())
    }
}

fn shown(address: &ConnectionAddr) -> String {
    match address {
        ConnectionAddr::Unix(path) => path.display().to_string(),
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            if host.contains(':') {
                format!("[{host}]:{port}")
            } else {
                format!("{host}:{port}")
            }
        }
        other => other.to_string(),
    }
}

fn database(settings: &RedisConnectionInfo) -> String {
    match settings.db() {
        0 => String::new(),
        number => format!(" (database {number})"),
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("place", &self.place)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_named_without_secrets() {
        for (url, place) in [
            ("redis://h", "h:6379"),
            ("redis://u:secret@h:7000/3", "h:7000 (database 3)"),
            ("redis://:secret@[::1]:7000", "[::1]:7000"),
            ("redis+unix:///run/r.sock?db=2&pass=secret", "/run/r.sock (database 2)"),
        ] {
            let address = Address::new(url, "larder").expect(url);
            assert_eq!(address.place(), place);
            assert!(!format!("{address:?}").contains("secret"));
        }
        let address = Address::new("redis://h", "team-a").expect("fine").with_login("u", Some("secret"));
        assert_eq!((address.prefix(), address.user()), ("{team-a}:", "u"));
        assert!(!format!("{address:?}").contains("secret"));
    }

    #[test]
    fn what_is_no_address_is_refused_without_showing_it() {
        for url in [
            "http://:secret@h",
            "redis://:secret@h:x",
            "redis://:secret@h/x",
            "rediss://:secret@h#insecure",
            "",
        ] {
            let error = Address::new(url, "larder").expect_err(url);
            assert_eq!(error.reason(), Reason::InvalidRequest);
            assert!(!error.to_string().contains("secret"), "{error}");
            assert!(error.to_string().starts_with("queue.url "), "{error}");
        }
        for namespace in ["", "a b", "{x}", "a:b"] {
            assert!(Address::new("redis://h", namespace).is_err(), "{namespace}");
        }
    }
}
