//! What a scrape shows of queue and disk, sampled on a timer, so that no scrape ever waits for either.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use larder_jobs::{Kind, State};
use tokio_util::sync::CancellationToken;

use crate::disk;
use crate::gpu::Gpus;
use crate::host::{Facts, Roots};
use crate::ledger::{Calibration, Measured};
use crate::queue::{JobStore, Stats};
use crate::scout::Scout;

/// How old a sample of the disk may be.
const INTERVAL: Duration = Duration::from_secs(2);
/// How old a sample of a queue may be of which nothing was heard; a Redis wants to rest, too.
const QUEUE_INTERVAL: Duration = Duration::from_secs(30);
/// Samples that follow changes of the queue keep at least this distance.
const CALM: Duration = Duration::from_millis(200);

/// One collector's last result.
#[derive(Debug, Clone)]
pub struct Collected<T> {
    /// `None` if it failed: unknown is absent, never zero.
    pub value: Option<T>,
    /// How long it took.
    pub took: Duration,
}

/// The last samples.
#[derive(Debug, Clone, Default)]
pub struct Sampled {
    /// Jobs by kind and state.
    pub queue: Option<Collected<Stats>>,
    /// Room on the cache's disk.
    pub disk: Option<Collected<disk::Usage>>,
    /// Where that disk is mounted.
    pub mountpoint: Option<PathBuf>,
    /// Processor, memory, and how it stands with the disk.
    pub facts: Option<Arc<Facts>>,
    /// The GPUs, if this process watches them.
    pub gpus: Option<Arc<Gpus>>,
    /// The newest of what was measured on this host.
    pub rates: Measured,
    /// Bytes per second of this host's downloads, if there were any of a telling size.
    pub fetch_rate: Option<f64>,
    /// How far off predictions of VRAM were.
    pub calibrations: Vec<Calibration>,
}

/// Shares the last samples with whoever renders them.
#[derive(Debug, Clone, Default)]
pub struct Sampler {
    latest: Arc<RwLock<Arc<Sampled>>>,
}

impl Sampler {
    /// The last samples.
    pub fn latest(&self) -> Arc<Sampled> {
        Arc::clone(&self.latest.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Samples once.
    pub async fn refresh(&self, queue: &dyn JobStore, cache_root: &Path, scout: &Scout) {
        self.keep(Sampled { queue: Some(count(queue).await), ..look(cache_root, scout).await });
    }

    fn keep(&self, sampled: Sampled) {
        *self.latest.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(sampled);
    }

    /// Samples until `stop`.
    pub async fn run(
        self,
        queue: Arc<dyn JobStore>,
        cache_root: PathBuf,
        scout: Scout,
        stop: CancellationToken,
    ) {
        let mut changed = queue.changed();
        let mut counted: Option<Instant> = None;
        while !stop.is_cancelled() {
            let old = self.latest().queue.clone();
            let (due, failing) =
                (counted.is_none_or(|at| at.elapsed() >= QUEUE_INTERVAL), failed(old.as_ref()));
            let news = changed.has_changed().unwrap_or(false);
            let counts = if due || news || failing {
                changed.borrow_and_update();
                let new = count(&*queue).await;
                counted = Some(Instant::now());
                Some(new)
            } else {
                old
            };
            self.keep(Sampled { queue: counts, ..look(&cache_root, &scout).await });
            let due = async {
                tokio::select! {
                    () = tokio::time::sleep(INTERVAL) => {}
                    _ = changed.changed() => {
                        changed.mark_changed();
                        tokio::time::sleep(CALM).await;
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = due => {}
            }
        }
    }
}

fn failed(counted: Option<&Collected<Stats>>) -> bool {
    counted.is_none_or(|counted| counted.value.is_none())
}

async fn count(queue: &dyn JobStore) -> Collected<Stats> {
    let begun = Instant::now();
    // Whoever cannot work without the queue says so at its own place.
    let stats = queue.stats().await.map_err(|error| tracing::debug!(%error, "the queue cannot be counted"));
    Collected { value: stats.ok().map(with_zeros), took: begun.elapsed() }
}

/// The disk and the hardware; the queue is left out.
async fn look(cache_root: &Path, scout: &Scout) -> Sampled {
    let (path, scout) = (cache_root.to_owned(), scout.clone());
    let begun = Instant::now();
    // A hung filesystem blocks this thread, not the runtime.
    let asked = tokio::task::spawn_blocking(move || {
        let usage = disk::usage(&path).ok();
        Sampled {
            queue: None,
            disk: Some(Collected { value: usage, took: begun.elapsed() }),
            mountpoint: disk::mountpoint(&path),
            facts: Some(Arc::new(Facts::read(&Roots::default(), &[&path]))),
            gpus: scout.watched(),
            rates: scout.rates(),
            fetch_rate: scout.fetch_rate(),
            calibrations: scout.calibrations(),
        }
    });
    let nothing =
        || Sampled { disk: Some(Collected { value: None, took: begun.elapsed() }), ..Sampled::default() };
    asked.await.unwrap_or_else(|_| nothing())
}

/// Zero is reported, so that a series never appears out of nothing.
fn with_zeros(mut stats: Stats) -> Stats {
    for kind in Kind::ALL {
        for state in State::ALL {
            stats.jobs.entry((*kind, *state)).or_insert(0);
        }
        stats.oldest_queued.entry(*kind).or_insert(Duration::ZERO);
    }
    stats
}
