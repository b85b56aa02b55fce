//! How a Redis is set up, and the `redis.conf` that says so.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::certificates::Certificates;

/// What a Redis is started with. Unless said otherwise: no password, no TLS, an append-only file synced every second.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    pub(crate) password: Option<String>,
    users: Vec<String>,
    pub(crate) tls: bool,
    pub(crate) trust: Option<Certificates>,
    pub(crate) sentinel: bool,
    pub(crate) binary: Option<PathBuf>,
    volatile: bool,
    directives: Vec<String>,
}

impl RedisOptions {
    /// The password of the default user.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Adds an ACL user with rules such as `~queue:*` and `+@read`. The default user stays, and may do everything.
    pub fn user(mut self, name: &str, password: &str, rules: &[&str]) -> Self {
        let password = format!(">{password}");
        let words = [name, "on", &password].into_iter().chain(rules.iter().copied()).map(quoted);
        self.users.push(words.collect::<Vec<_>>().join(" "));
        self
    }

    /// Listens with TLS as well, on a port of its own.
    pub fn tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }

    /// Listens with TLS under the certificates of another server, whom its clients trust already.
    pub fn tls_like(self, other: &super::Redis) -> Self {
        Self { trust: Some(other.certificates().clone()), ..self.tls(true) }
    }

    /// Starts a sentinel, which watches others (`directive("sentinel", "monitor …")`) and holds no data.
    pub fn sentinel(mut self) -> Self {
        self.sentinel = true;
        self
    }

    /// Starts another program than `redis-server`, such as `valkey-server`.
    pub fn binary(mut self, path: &Path) -> Self {
        self.binary = Some(path.to_owned());
        self
    }

    /// Whether data outlive the process; true unless said otherwise.
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.volatile = !persistent;
        self
    }

    /// Any further line of `redis.conf`; it wins over what stands there by default.
    pub fn directive(mut self, name: &str, value: &str) -> Self {
        self.directives.push(format!("{name} {value}"));
        self
    }

    /// The text of `redis.conf`, `place` being the lines that say where it lives.
    pub(crate) fn conf(&self, place: &str) -> String {
        let append = if self.volatile { "no" } else { "yes" };
        let mut conf = format!("{place}daemonize no\nlogfile \"\"\n");
        if !self.sentinel {
            // A replica is served at once, and not when others may want the same.
            let rest = "appendfsync everysec\nrepl-diskless-sync-delay 0";
            writeln!(conf, "save \"\"\nappendonly {append}\n{rest}").expect("strings take everything");
        }
        if let Some(password) = &self.password {
            writeln!(conf, "requirepass {}", quoted(password)).expect("strings take everything");
        }
        for user in &self.users {
            writeln!(conf, "user {user}").expect("strings take everything");
        }
        for directive in &self.directives {
            writeln!(conf, "{directive}").expect("strings take everything");
        }
        conf
    }
}

/// As one word of `redis.conf`.
pub(crate) fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}
