//! The seam: which store the benchmark measures. Nothing else in this program knows.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use larder::queue::{Concurrency, Config, Embedded, JobStore, Scope};
use larder::store::{StateLock, Store};
use larder_jobs::Span;

/// The store at `REDIS_URL`.
// SEAM: the next two statements become the opening of the Redis store with `queue_bench::redis_url()?` and
// `config()`; `embedded()` goes.
pub(crate) async fn store() -> Result<Arc<dyn JobStore>> {
    let store = embedded()?;
    Ok(Arc::new(Embedded::open(store, config(), Scope::All)?))
}

/// A stand-in without Redis: it makes the program compile, and each process has a queue of its own.
fn embedded() -> Result<Store> {
    let folder = tempfile::tempdir()?.keep();
    let lock = StateLock::acquire(&folder)?.ok().context("the folder is in use")?;
    // Held until the process ends.
    std::mem::forget(lock);
    Ok(Store::open(&folder)?.0)
}

/// larder's defaults, but for room for the large backlog.
fn config() -> Config {
    let seconds = |seconds| Span(Duration::from_secs(seconds));
    Config {
        max_attempts: 8,
        max_queued: 200_000,
        lease: seconds(60),
        retention: seconds(7 * 24 * 3_600),
        max_finished: 10_000,
        backoff_min: seconds(1),
        backoff_max: seconds(600),
        concurrency: Concurrency { download: 64 },
    }
}
