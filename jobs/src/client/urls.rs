//! Reads the URLs that name servers of Redis, and says where they lead without what they keep secret.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo};

use super::error::{ADDRESS_HINT, Error, Result};
use crate::Reason;

/// Most URLs of one queue: sentinels, or nodes of a cluster to begin with.
const MAX_URLS: usize = 16;

/// The URLs under this key of the configuration are wrong.
pub(super) fn wrong(key: &str, why: &str) -> Error {
    Error::new(Reason::InvalidRequest, format!("{key} {why}"), ADDRESS_HINT)
}

/// Reads one URL, which is never part of a message: it may carry a password.
pub(super) fn parse(key: &str, url: &str) -> Result<ConnectionInfo> {
    let wrong = |why: &str| wrong(key, why);
    let scheme = url.split(':').next().unwrap_or_default();
    if !["redis", "rediss", "redis+unix", "unix"].contains(&scheme) {
        return Err(wrong(&format!("begins with `{}`, which is no Redis", crate::invalid::shown(scheme))));
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
    let settings = info.redis_settings().clone().set_lib_name("larder", env!("CARGO_PKG_VERSION"));
    Ok(info.set_redis_settings(settings))
}

/// Reads several URLs, at least one, which agree about TLS and the database.
pub(super) fn all(urls: &[&str]) -> Result<Vec<ConnectionInfo>> {
    let wrong = |why: &str| wrong("queue.urls", why);
    if urls.is_empty() || urls.len() > MAX_URLS {
        return Err(wrong(&format!("has {} addresses, not 1 to {MAX_URLS}", urls.len())));
    }
    let servers = urls.iter().map(|url| parse("queue.urls", url)).collect::<Result<Vec<_>>>()?;
    let kind = |server: &ConnectionInfo| match server.addr() {
        ConnectionAddr::Tcp(..) => Some(false),
        ConnectionAddr::TcpTls { .. } => Some(true),
        _ => None,
    };
    if servers.iter().any(|server| kind(server).is_none()) {
        return Err(wrong("names a unix socket, which only a Redis of this machine alone has"));
    }
    if servers.iter().any(|server| kind(server) != kind(&servers[0])) {
        return Err(wrong("mixes redis:// and rediss://; all servers have TLS or none"));
    }
    let db = |server: &ConnectionInfo| server.redis_settings().db();
    if servers.iter().any(|server| db(server) != db(&servers[0])) {
        return Err(wrong("names different databases"));
    }
    Ok(servers)
}

/// The first few of several servers.
pub(super) fn several(servers: &[ConnectionInfo]) -> String {
    let names: Vec<_> = servers.iter().take(3).map(|server| shown(server.addr())).collect();
    let more = if servers.len() > names.len() { ", …" } else { "" };
    names.join(", ") + more
}

/// A server, by its host and port or its socket.
pub(super) fn shown(address: &ConnectionAddr) -> String {
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

/// The database, if it is not the first.
pub(super) fn database(settings: &RedisConnectionInfo) -> String {
    match settings.db() {
        0 => String::new(),
        number => format!(" (database {number})"),
    }
}
