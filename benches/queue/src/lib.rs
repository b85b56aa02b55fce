//! What the Rust programs share with the runner: the clock, the words of the protocol and the record of a
//! worker. The programs in other languages say the same in their own.
//!
//! - `preload N`: puts N jobs into the queue as fast as the library allows, and ends.
//! - `enqueue N`: puts N jobs in one by one, with a random pause before each, and ends.
//! - `worker N SECONDS CONCURRENCY`: prints `{"ready":true}`, then works until it is killed. After N jobs, or
//!   SECONDS after the first, it prints one [`Report`].
//!
//! `REDIS_URL` names the server. A job is `{"n": number, "at": microseconds since 1970}`.

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

/// Shortest and longest pause between two jobs of `enqueue`, in milliseconds.
const PAUSE: (u64, u64) = (20, 120);

/// What a program is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Fill the queue.
    Preload { jobs: u64 },
    /// Ask for one job after the other.
    Enqueue { jobs: u64 },
    /// Work.
    Worker { jobs: u64, seconds: u64, concurrency: usize },
}

impl Command {
    /// Reads the command line.
    pub fn from_args() -> Result<Self> {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let number = |at: usize| -> Result<u64> {
            args.get(at).context("an argument is missing")?.parse().context("an argument is no number")
        };
        Ok(match args.first().map(String::as_str) {
            Some("preload") => Self::Preload { jobs: number(1)? },
            Some("enqueue") => Self::Enqueue { jobs: number(1)? },
            Some("worker") => Self::Worker {
                jobs: number(1)?,
                seconds: number(2)?,
                concurrency: usize::try_from(number(3)?)?,
            },
            _ => bail!("say preload, enqueue or worker"),
        })
    }
}

/// `REDIS_URL`.
pub fn redis_url() -> Result<String> {
    std::env::var("REDIS_URL").context("REDIS_URL is not set")
}

/// Microseconds since 1970, `CLOCK_REALTIME`.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A pause of random length, drawn from the clock's last digits by a xorshift.
pub fn pause() -> Duration {
    let mut x = now() | 1;
    for _ in 0..3 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    Duration::from_millis(PAUSE.0 + x % (PAUSE.1 - PAUSE.0))
}

/// What a worker saw.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Jobs that ended.
    pub jobs: u64,
    /// When the first handler began.
    pub first: u64,
    /// When the last of the jobs ended.
    pub last: u64,
    /// From the enqueue to the handler's first line, microseconds, for each job.
    pub latencies: Vec<u64>,
}

/// Collects a worker's [`Report`] and prints it once.
#[derive(Debug)]
pub struct Recorder {
    jobs: u64,
    micros: u64,
    report: Mutex<Option<Report>>,
}

impl Recorder {
    /// A record of `jobs` jobs, or of as many as `seconds` allow.
    pub fn new(jobs: u64, seconds: u64) -> Self {
        Self { jobs, micros: seconds * 1_000_000, report: Mutex::new(Some(Report::default())) }
    }

    /// The first line of a handler, for a job that was asked for at `at`.
    pub fn begin(&self, at: u64) {
        let now = now();
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(report) = &mut *report {
            if report.latencies.is_empty() {
                report.first = now;
            }
            report.latencies.push(now.saturating_sub(at));
        }
    }

    /// The end of a job, as far as the program can see it.
    pub fn end(&self) {
        let now = now();
        let mut slot = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(report) = &mut *slot else { return };
        report.jobs += 1;
        report.last = now;
        if (report.jobs >= self.jobs || now - report.first >= self.micros)
            && let Ok(line) = serde_json::to_string(report)
        {
            println!("{line}");
            *slot = None;
        }
    }
}

/// Tells the runner that the worker is up.
pub fn ready() {
    println!("{{\"ready\":true}}");
}

/// The end of a program, with its error on one line, which the runner shows.
pub fn exit(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
