//! A Redis for one test: a server process with a folder, a unix socket and ports of its own, that can be stopped,
//! killed, frozen and started again on the same data.
//!
//! All methods take `&self`, so a test may pull the plug while others hold the server.

mod cluster;
mod options;
mod resp;
#[cfg(test)]
mod tests;
mod tls;
mod watched;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::port::Port;
use crate::process::{Lines, Running, spawn_followed};
pub use cluster::Cluster;
pub use options::RedisOptions;
use options::quoted;
pub use resp::Reply;
use resp::ask;
#[cfg(test)]
pub(crate) use resp::encoded;
use tls::Tls;
pub use watched::{MASTER, Watched};

/// Variable that names the program of a Valkey.
pub const VALKEY: &str = "LARDER_TEST_VALKEY";

/// The program of a Valkey, if there is one; `tests/run.sh` installs it.
pub fn valkey() -> Option<PathBuf> {
    let named = std::env::var_os(VALKEY).filter(|path| !path.is_empty()).map(PathBuf::from);
    if named.is_none() {
        eprintln!("skipped: {VALKEY} names no valkey-server; tests/run.sh installs one and runs all tests");
    }
    named
}

/// How long it may take to start, to answer and to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// A Redis server; killed and removed when dropped.
#[derive(Debug)]
pub struct Redis {
    server: Mutex<Running>,
    lines: Lines,
    options: RedisOptions,
    port: Port,
    tls: Option<Tls>,
    dir: TempDir,
}

impl Redis {
    /// Starts one that needs no password and keeps its data.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(RedisOptions::default())
    }

    /// Starts one that is set up like this; panics with its log when it does not come up.
    #[track_caller]
    pub fn with(options: RedisOptions) -> Self {
        let dir = tempfile::Builder::new().prefix("larder-redis-").tempdir().expect("temp folder");
        // The ports are held before the server binds them, so no other test can be given the same.
        let (port, tls) = (Port::free(), options.tls.then(|| Tls::make(dir.path(), options.trust.as_ref())));
        let mut place = format!(
            "bind 127.0.0.1\nport {}\nunixsocket {}\ndir {}\n",
            port.number(),
            quoted(&dir.path().join("redis.sock").display().to_string()),
            quoted(&dir.path().display().to_string()),
        );
        place.extend(tls.as_ref().map(Tls::conf));
        std::fs::write(dir.path().join("redis.conf"), options.conf(&place)).expect("the folder takes a file");
        let lines = Lines::default();
        let server = Mutex::new(spawn(dir.path(), &options, &lines));
        let redis = Self { server, lines, options, port, tls, dir };
        redis.wait_ready();
        redis
    }

    #[track_caller]
    fn wait_ready(&self) {
        let start = Instant::now();
        while !self.try_command(&["PING"], PATIENCE).is_ok_and(|reply| reply == Reply::Text("PONG".into())) {
            if let Some(status) = self.server().wait(Duration::from_millis(10)) {
                self.lines.wait_end();
                panic!("Redis ended ({status}) before it was ready\n{}", self.logs().join("\n"));
            }
            assert!(start.elapsed() < PATIENCE, "Redis is not ready\n{}", self.logs().join("\n"));
        }
    }

    /// The process, also after a panic of somebody who looked at it.
    fn server(&self) -> MutexGuard<'_, Running> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `redis+unix:///…/redis.sock`, without a password.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// `redis://127.0.0.1:PORT`, without a password.
    pub fn tcp_url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// `rediss://localhost:PORT`, without a password; panics unless it was started with TLS.
    #[track_caller]
    pub fn tls_url(&self) -> String {
        format!("rediss://localhost:{}", self.tls_port())
    }

    /// The port that speaks TLS; panics unless it was started with it.
    #[track_caller]
    pub fn tls_port(&self) -> u16 {
        self.tls.as_ref().expect("started with TLS").port.number()
    }

    /// The certificate to trust on the TLS port, in PEM; panics unless it was started with TLS.
    #[track_caller]
    pub fn ca_file(&self) -> &Path {
        &self.certificates().authority
    }

    pub(crate) fn certificates(&self) -> &Certificates {
        &self.tls.as_ref().expect("started with TLS").certificates
    }

    /// The TCP port without TLS.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The TCP address without TLS.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// The folder with its data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its process id; another one after each start.
    pub fn pid(&self) -> u32 {
        self.server().pid()
    }

    /// Its log since the first start, line by line.
    pub fn logs(&self) -> Vec<String> {
        self.lines.all()
    }

    /// Whether it runs (frozen counts).
    pub fn is_running(&self) -> bool {
        self.server().wait(Duration::ZERO).is_none()
    }

    /// Stops it in good order, and waits; panics when it refuses, is frozen or does not run.
    #[track_caller]
    pub fn stop(&self) {
        match self.try_command(&["SHUTDOWN"], PATIENCE) {
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {}
            other => panic!("Redis does not shut down: {other:?}\n{}", self.logs().join("\n")),
        }
        let status = self.server().wait(PATIENCE);
        assert!(status.is_some_and(|status| status.success()), "{status:?}\n{}", self.logs().join("\n"));
    }

    /// Power cut for the process: SIGKILL, and wait. What it had handed to the kernel is kept.
    pub fn kill9(&self) {
        self.server().kill();
    }

    /// Starts it again after [`Redis::stop`] or [`Redis::kill9`]: same folder, socket, ports and set-up.
    #[track_caller]
    pub fn start_again(&self) {
        assert!(!self.is_running(), "Redis still runs");
        *self.server() = spawn(self.dir.path(), &self.options, &self.lines);
        self.wait_ready();
    }

    /// Stops it, leaves clients alone for that long, and starts it again.
    #[track_caller]
    pub fn restart(&self, away: Duration) {
        self.stop();
        std::thread::sleep(away);
        self.start_again();
    }

    /// Holds the process (SIGSTOP) until the guard is dropped: connections stay open, new ones are made by the kernel,
    /// and nothing is answered. Returns when it stands still; panics when it does not run.
    #[track_caller]
    pub fn freeze(&self) -> Frozen<'_> {
        assert!(self.is_running(), "Redis does not run");
        self.server().freeze();
        Frozen { redis: self }
    }

    /// Holds the process for that long; blocks until it goes on.
    #[track_caller]
    pub fn freeze_for(&self, time: Duration) {
        let _frozen = self.freeze();
        std::thread::sleep(time);
    }

    /// Runs a command as the default user, who may do everything; panics when nobody answers.
    #[track_caller]
    pub fn command(&self, words: &[&str]) -> Reply {
        let reply = self.try_command(words, PATIENCE);
        reply.unwrap_or_else(|error| panic!("{words:?}: {error}\n{}", self.logs().join("\n")))
    }

    /// Runs a command as the default user; an error says that nobody answered within `patience`.
    pub fn try_command(&self, words: &[&str], patience: Duration) -> std::io::Result<Reply> {
        match &self.options.password {
            Some(password) => ask(&self.socket(), &[&["AUTH", password], words], patience),
            None => ask(&self.socket(), &[words], patience),
        }
    }

    /// Runs a command as this ACL user; panics when nobody answers.
    #[track_caller]
    pub fn command_as(&self, user: &str, password: &str, words: &[&str]) -> Reply {
        let reply = ask(&self.socket(), &[&["AUTH", user, password], words], PATIENCE);
        reply.unwrap_or_else(|error| panic!("{words:?}: {error}\n{}", self.logs().join("\n")))
    }

    /// A field of `INFO everything`; panics when there is none.
    #[track_caller]
    pub fn info(&self, field: &str) -> String {
        let info = self.command(&["INFO", "everything"]).text();
        let found = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        found.unwrap_or_else(|| panic!("no {field} in\n{info}")).to_owned()
    }

    /// Bytes that its data and buffers take.
    #[track_caller]
    pub fn used_memory(&self) -> u64 {
        self.info("used_memory").parse().expect("a number of bytes")
    }

    /// Commands since it started, those from here included: one for each call, one more with a password.
    #[track_caller]
    pub fn commands_processed(&self) -> u64 {
        self.info("total_commands_processed").parse().expect("a number of commands")
    }

    /// Keys that fit the pattern, sorted.
    #[track_caller]
    pub fn keys(&self, pattern: &str) -> Vec<String> {
        let mut keys = self.command(&["KEYS", pattern]).list();
        keys.sort();
        keys
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.server().kill();
        if std::thread::panicking() {
            eprintln!("--- log of Redis ---\n{}", self.logs().join("\n"));
        }
    }
}

fn spawn(dir: &Path, options: &RedisOptions, lines: &Lines) -> Running {
    let mut command = Command::new(options.binary.as_deref().unwrap_or(Path::new("redis-server")));
    command.arg("redis.conf").args(options.sentinel.then_some("--sentinel")).current_dir(dir);
    spawn_followed(&mut command, lines)
}

/// A Redis that stands still; goes on when this is dropped.
#[derive(Debug)]
#[must_use = "Redis goes on when this is dropped"]
pub struct Frozen<'a> {
    redis: &'a Redis,
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.redis.server().signal(Signal::CONT);
    }
}
