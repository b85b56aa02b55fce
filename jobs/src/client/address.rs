//! Where the queue is and how to get in. Secrets stay in here: what is printed has none.

use std::fmt;
use std::path::Path;

use redis::{ConnectionAddr, ConnectionInfo, RedisConnectionInfo};
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::urls::{all, database, parse, several, shown, wrong};
use crate::Reason;

/// Host and port of a server.
pub(super) type Place = (String, u16);

/// Longest namespace, and longest name of a master.
const MAX_NAMESPACE: usize = 64;

/// How the Redis is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One server, always at the same address.
    #[default]
    Single,
    /// A master that sentinels watch and replace.
    Sentinel,
    /// A cluster, one node of which holds the queue: all of its keys have one hash tag.
    Cluster,
}

/// Where the queue is and how to get in.
#[derive(Clone)]
pub struct Address {
    mode: Mode,
    /// What the URLs name: the server itself, the sentinels, or nodes of the cluster.
    servers: Vec<ConnectionInfo>,
    /// Login and database at the server that holds the queue.
    settings: RedisConnectionInfo,
    /// What the sentinels call the master.
    master: String,
    /// Whether this is one of the sentinels.
    watches: bool,
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
        let server = parse("queue.url", url)?;
        let place = format!("{}{}", shown(server.addr()), database(server.redis_settings()));
        let settings = server.redis_settings().clone();
        Self::of(Mode::Single, vec![server], settings, place, namespace)
    }

    /// The queue in the Redis that these sentinels call `master`. A user and a password in a URL are for that sentinel
    /// ([`Address::with_login`] has those for the Redis), a database is the Redis's; `rediss://` asks for TLS from both.
    ///
    /// # Errors
    /// As [`Address::new`], also if the URLs disagree about TLS or the database.
    pub fn sentinel(urls: &[&str], master: &str, namespace: &str) -> Result<Self> {
        let servers = all(urls)?;
        if master.is_empty() || master.len() > MAX_NAMESPACE || master.chars().any(char::is_whitespace) {
            return Err(Error::new(
                Reason::InvalidRequest,
                format!(
                    "queue.master_name = \"{}\" is not the name of a master",
                    crate::invalid::shown(master)
                ),
                "write what stands behind `sentinel monitor` in sentinel.conf, for example mymaster",
            ));
        }
        let settings = RedisConnectionInfo::default().set_db(servers[0].redis_settings().db());
        let db = database(&settings);
        let place = format!("{master}{db} of the sentinels {}", several(&servers));
        let settings = settings.set_lib_name("larder", env!("CARGO_PKG_VERSION"));
        // A sentinel has no databases.
        let bare = |server: ConnectionInfo| {
            let settings = server.redis_settings().clone().set_db(0);
            server.set_redis_settings(settings)
        };
        let servers = servers.into_iter().map(bare).collect();
        Ok(Self { master: master.into(), ..Self::of(Mode::Sentinel, servers, settings, place, namespace)? })
    }

    /// The queue in the cluster that these nodes belong to; one that answers is enough.
    ///
    /// # Errors
    /// As [`Address::new`], also if the URLs disagree about TLS or the login, or name a database.
    pub fn cluster(urls: &[&str], namespace: &str) -> Result<Self> {
        let servers = all(urls)?;
        let settings = servers[0].redis_settings().clone();
        if settings.db() != 0 {
            return Err(wrong("queue.urls", "names a database, and a cluster has only database 0"));
        }
        let login = |server: &ConnectionInfo| {
            let settings = server.redis_settings();
            (settings.username().map(str::to_owned), settings.password().map(str::to_owned))
        };
        if servers.iter().any(|server| login(server) != login(&servers[0])) {
            return Err(wrong("queue.urls", "has different users or passwords for nodes of one cluster"));
        }
        let place = format!("the cluster of {}", several(&servers));
        Self::of(Mode::Cluster, servers, settings, place, namespace)
    }

    fn of(
        mode: Mode,
        servers: Vec<ConnectionInfo>,
        settings: RedisConnectionInfo,
        place: String,
        namespace: &str,
    ) -> Result<Self> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if namespace.is_empty() || namespace.len() > MAX_NAMESPACE || !namespace.chars().all(fits) {
            return Err(Error::new(
                Reason::InvalidRequest,
                format!("queue.namespace = \"{}\" is not a name for keys", crate::invalid::shown(namespace)),
                "use letters, digits, dots, dashes and underscores, at most 64; larder is the default",
            ));
        }
        let prefix = format!("{{{namespace}}}:");
        Ok(Self { mode, servers, settings, master: String::new(), watches: false, ca: None, place, prefix })
    }

    /// With this user and password at the Redis instead of those in the URL; an empty user is the default one.
    #[must_use]
    pub fn with_login(mut self, user: &str, password: Option<&str>) -> Self {
        self.settings = login(&self.settings, user, password);
        self
    }

    /// With this user and password at the sentinels instead of those in their URLs.
    #[must_use]
    pub fn with_sentinel_login(mut self, user: &str, password: Option<&str>) -> Self {
        let with = |server: ConnectionInfo| {
            let settings = login(server.redis_settings(), user, password);
            server.set_redis_settings(settings)
        };
        self.servers = self.servers.into_iter().map(with).collect();
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

    /// Host and port, or the socket, with the database; or what leads there. No secrets.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What every key begins with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// How the Redis is run.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What the sentinels call the master.
    pub(super) fn master(&self) -> &str {
        &self.master
    }

    /// The key of the configuration that names the servers.
    pub(super) fn key(&self) -> &'static str {
        if self.mode == Mode::Single { "queue.url" } else { "queue.urls" }
    }

    /// The keys of the configuration that name user and password.
    pub(super) fn login_keys(&self) -> [&'static str; 2] {
        if self.watches {
            ["queue.sentinel_username", "queue.sentinel_password_file"]
        } else {
            ["queue.username", "queue.password_file"]
        }
    }

    /// The user, as the server names it.
    pub(super) fn user(&self) -> &str {
        self.settings.username().unwrap_or("default")
    }

    pub(super) fn has_tls(&self) -> bool {
        matches!(self.servers[0].addr(), ConnectionAddr::TcpTls { .. })
    }

    /// Each of the servers that the URLs name, to be asked which one holds the queue.
    pub(super) fn guides(&self) -> Vec<Self> {
        let guide = |server: &ConnectionInfo| {
            let settings = match self.mode {
                Mode::Sentinel => server.redis_settings().clone(),
                Mode::Single | Mode::Cluster => self.settings.clone(),
            };
            let watches = self.mode == Mode::Sentinel;
            Self {
                place: shown(server.addr()),
                servers: vec![server.clone()],
                settings,
                watches,
                ..self.clone()
            }
        };
        self.servers.iter().map(guide).collect()
    }

    /// The server that holds the queue, as sentinels or nodes name it.
    pub(super) fn at(&self, (host, port): &Place) -> Self {
        let addr = match self.servers[0].addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host.clone(), *port),
        };
        let place = format!("{}{}", shown(&addr), database(&self.settings));
        let server = self.servers[0].clone().set_addr(addr);
        Self { place, servers: vec![server], ..self.clone() }
    }

    /// Host and port of the first server.
    pub(super) fn tcp(&self) -> Option<Place> {
        match self.servers[0].addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                Some((host.clone(), *port))
            }
            _ => None,
        }
    }

    /// A client of the first server.
    pub(super) fn client(&self) -> Result<redis::Client, redis::RedisError> {
        let info = self.servers[0].clone().set_redis_settings(self.settings.clone());
        #[cfg(feature = "tls")]
        if let Some(ca) = &self.ca {
            let certificates = redis::TlsCertificates { client_tls: None, root_cert: Some(ca.clone()) };
            return redis::Client::build_with_tls(info, certificates);
        }
        redis::Client::open(info)
    }
}

fn login(settings: &RedisConnectionInfo, user: &str, password: Option<&str>) -> RedisConnectionInfo {
    let mut settings = settings.clone();
    if !user.is_empty() {
        settings = settings.set_username(user);
    }
    match password {
        Some(password) => settings.set_password(password),
        None => settings,
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

    #[test]
    fn several_servers_agree_and_keep_their_secrets() {
        let urls = ["redis://s:secret@a/2", "redis://:secret@b:7/2"];
        let address = Address::sentinel(&urls, "mymaster", "larder").expect("fine");
        assert_eq!(address.place(), "mymaster (database 2) of the sentinels a:6379, b:7");
        let address = address.with_login("u", Some("secret"));
        assert_eq!(address.user(), "u");
        let guides = address.guides();
        assert_eq!(guides.iter().map(Address::user).collect::<Vec<_>>(), ["s", "default"]);
        assert_eq!(guides[1].place(), "b:7");
        let found = address.at(&("10.0.0.7".into(), 6380));
        assert_eq!((found.place(), found.user()), ("10.0.0.7:6380 (database 2)", "u"));
        assert!(!format!("{address:?}{guides:?}{found:?}").contains("secret"));

        let address =
            Address::cluster(&["redis://a:1", "redis://b:2", "redis://c:3", "redis://d:4"], "larder");
        assert_eq!(address.expect("fine").place(), "the cluster of a:1, b:2, c:3, …");
        for (urls, word) in [
            (&[][..], "has 0 addresses"),
            (&["redis://a"; 17], "has 17 addresses"),
            (&["redis+unix:///s"], "unix socket"),
            (&["redis://a", "http://:secret@b"], "begins with `http`"),
            (&["redis://a/1", "redis://b/2"], "different databases"),
            (&["redis://a/1"], "only database 0"),
            (&["redis://:secret@a", "redis://b"], "different users or passwords"),
        ] {
            let error = Address::cluster(urls, "larder").expect_err(word).to_string();
            assert!(error.starts_with("queue.urls ") && error.contains(word), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        for master in ["", "my master"] {
            let error = Address::sentinel(&["redis://a"], master, "larder").expect_err(master);
            assert!(error.to_string().starts_with("queue.master_name"), "{error}");
        }
    }
}
