//! Who is compared, and how each program is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::server::mortal;

/// One queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contender {
    /// Its name on the command line and in the table.
    pub(crate) name: &'static str,
    /// Jobs that its worker runs at once.
    pub(crate) concurrency: usize,
    /// How it is set up, for the notes below the table.
    pub(crate) setup: &'static str,
}

/// All of them, in the order of the table.
pub(crate) const ALL: [Contender; 6] = [
    Contender {
        name: "larder",
        concurrency: 64,
        setup: "`Source` on the Redis store with 64 slots, the most that `queue.concurrency` allows; preloaded by \
                64 `enqueue` calls at a time, since there is no bulk call",
    },
    Contender {
        name: "bullmq",
        concurrency: 50,
        setup: "`concurrency: 50`, the figure of its guide to concurrency; `addBulk`; the last 1,000 finished jobs \
                kept",
    },
    Contender {
        name: "celery",
        concurrency: 100,
        setup: "`--pool=gevent --concurrency=100`, the pool that its guide names for I/O-bound tasks; prefetch \
                multiplier 64, results ignored, gossip, mingle and heartbeat off",
    },
    Contender {
        name: "rq",
        concurrency: 1,
        setup: "one `SimpleWorker`: one job at a time, no fork; `enqueue_many`",
    },
    Contender {
        name: "apalis",
        concurrency: 100,
        setup: "`poll_with_interval` of 100 ms, `batch_size` 100, tasks spawned in parallel, 100 at once; \
                `push_bulk`. Its wake-up by publish is not used: version 1.0.0 puts every pushed job into the \
                set of scheduled ones and publishes nothing for it",
    },
    Contender {
        name: "apalis-one-thread",
        concurrency: 100,
        setup: "the same on tokio's single-threaded runtime. With the threads of its documentation polling stops \
                within seconds (apalis-core 1.0.0 replaces its interval timer without polling the new one), and \
                the worker asks again only at its heartbeat, every 30 s",
    },
];

/// The folder of this package.
pub(crate) fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

impl Contender {
    /// Its program.
    pub(crate) fn program(&self) -> Command {
        let home = home();
        let python = |peer: &str| {
            let mut command = mortal(home.join("target/venv/bin/python"));
            command.arg(home.join("peers").join(peer).join("peer.py"));
            command.env("PYTHONPATH", home.join("peers/shared")).env("PYTHONDONTWRITEBYTECODE", "1");
            command
        };
        match self.name {
            "bullmq" => {
                let mut command = mortal("node");
                command.arg(home.join("peers/bullmq/peer.mjs"));
                command
            }
            peer @ ("celery" | "rq") => python(peer),
            "apalis-one-thread" => {
                let mut command = mortal(home.join("target/cargo/release/queue-bench-apalis"));
                command.env("BENCH_ONE_THREAD", "1");
                command
            }
            peer => mortal(home.join("target/cargo/release").join(format!("queue-bench-{peer}"))),
        }
    }

    /// The name and version of what is compared.
    pub(crate) fn version(&self) -> Result<String> {
        let home = home();
        Ok(match self.name {
            "larder" => "larder (this commit)".into(),
            "bullmq" => {
                let lock = read(&home.join("peers/bullmq/package-lock.json"))?;
                let lock: serde_json::Value = serde_json::from_str(&lock)?;
                let of = |name: &str| {
                    lock["packages"][format!("node_modules/{name}")]["version"]
                        .as_str()
                        .unwrap_or("?")
                        .to_owned()
                };
                format!("BullMQ {} (ioredis {})", of("bullmq"), of("ioredis"))
            }
            "celery" | "rq" => {
                let pins = read(&home.join("requirements.txt"))?;
                let of = |name: &str| {
                    let pin = pins.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("=="));
                    pin.unwrap_or("?").to_owned()
                };
                match self.name {
                    "celery" => {
                        format!("Celery {} (kombu {}, gevent {})", of("celery"), of("kombu"), of("gevent"))
                    }
                    _ => format!("RQ {} (redis-py {})", of("rq"), of("redis")),
                }
            }
            _ => {
                let lock = read(&home.join("peers/apalis/Cargo.lock"))?;
                let mut lines = lock.lines().skip_while(|line| *line != "name = \"apalis-redis\"");
                let version = lines.nth(1).and_then(|line| line.split('"').nth(1)).unwrap_or("?");
                let runtime = if self.name == "apalis" { "" } else { ", one thread" };
                format!("apalis-redis {version}{runtime}")
            }
        })
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}
