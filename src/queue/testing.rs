//! What the tests of the queue share: settings, jobs, a clock that is moved by hand, an embedded queue.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use larder_jobs::client::Mode;
use larder_jobs::{Job, Span};
use tempfile::TempDir;

use super::config::{Gone, Url};
use super::{Clock, Concurrency, Config, Embedded, Scope, rules};
use crate::store::Store;

pub(super) fn span(millis: u64) -> Span {
    Span(Duration::from_millis(millis))
}

/// Times are short, so that a store with a clock of its own can be tested in real time.
pub(super) fn config() -> Config {
    Config {
        mode: Mode::Single,
        url: Url::default(),
        urls: Vec::new(),
        master_name: String::new(),
        namespace: "larder".into(),
        username: String::new(),
        password_file: String::new(),
        sentinel_username: String::new(),
        sentinel_password_file: String::new(),
        ca_file: String::new(),
        functions: false,
        max_attempts: 3,
        max_queued: 1_000,
        lease: span(1_000),
        gone_after: span(120_000),
        gone: Gone::Keep,
        retention: span(5_000),
        max_finished: 100,
        backoff_min: span(100),
        backoff_max: span(1_000),
        concurrency: Concurrency { download: 3, evict: 1, verify: 1, profile: 1, preload: 1 },
    }
}

pub(super) fn job(repo: &str) -> Job {
    Job::download(repo.parse().expect("a model"))
}

/// A clock that stands still until it is moved.
#[derive(Clone)]
pub(super) struct Hands(Arc<Mutex<Timestamp>>);

impl Hands {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new("2026-01-02T03:04:05Z".parse().expect("a time"))))
    }

    pub(super) fn now(&self) -> Timestamp {
        *self.0.lock().expect("not poisoned")
    }

    pub(super) fn pass(&self, time: Duration) {
        let mut now = self.0.lock().expect("not poisoned");
        *now = rules::after(*now, time);
    }

    pub(super) fn clock(&self) -> Clock {
        let hands = self.clone();
        Arc::new(move || hands.now())
    }
}

pub(super) fn folder() -> TempDir {
    tempfile::tempdir().expect("temp dir")
}

/// The queue in `dir` as of the time that `hands` show.
pub(super) fn open(dir: &TempDir, config: Config, scope: Scope, hands: &Hands) -> Embedded {
    let mut tries = 0;
    let store = loop {
        match Store::open(dir.path()) {
            Ok((store, _)) => break store,
            // sled's threads give up the file lock a moment after the last handle is dropped.
            Err(error) if tries < 500 && error.to_string().contains("could not acquire lock") => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("the store does not open: {error}"),
        }
    };
    Embedded::open_with_clock(store, config, scope, hands.clock()).expect("the queue opens")
}
