//! The worker: plain async handlers, one for each kind of job, and the one file that puts them on apalis.

mod download;
mod planned;
mod runtime;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::disk::Reservations;
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::layout::Cache;
use crate::ledger::Ledger;
use crate::plan::KeepFree;

pub use planned::{Planned, plan};
pub use runtime::run;

/// What the handlers need.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where models come from.
    pub hub: Hub,
    /// Where they go.
    pub cache: Cache,
    /// What is known of them; `None` while only planning.
    pub ledger: Option<Arc<Ledger>>,
    /// What stays free on the cache's disk.
    pub keep_free: KeepFree,
    /// Room on that disk that was promised to running downloads.
    pub reservations: Reservations,
    /// How long a foreground command waits for a hub that it has never reached; a daemon waits for ever.
    pub patience: Option<Patience>,
    /// Fires when the worker should stop; jobs then go back, their bytes stay.
    pub drain: CancellationToken,
}

/// How long somebody in front of the terminal waits for a hub that never answered.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    since: Instant,
    at_most: Duration,
}

impl Patience {
    /// Patience from now on.
    pub fn new(at_most: Duration) -> Self {
        Self { since: Instant::now(), at_most }
    }

    fn is_over(self) -> bool {
        self.since.elapsed() >= self.at_most
    }
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::internal(format!("a blocking step died: {error}"))))
}
