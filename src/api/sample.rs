//! What a scrape shows of queue and disk, sampled on a timer, so that no scrape ever waits for either.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use larder_jobs::{Kind, State};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::disk;
use crate::gpu::Gpus;
use crate::host::{Facts, Roots};
use crate::ledger::{Calibration, Measured};
use crate::queue::{JobStore, Stats};
use crate::scout::Scout;
use crate::warm::{Night, PastRun};

/// How old a sample of the disk and of the host may be of which nothing was heard.
const INTERVAL: Duration = Duration::from_secs(10);
/// A disk that has not answered by then is unknown until it does.
const LATE: Duration = Duration::from_secs(5);
/// How old a sample of a queue may be of which nothing was heard; a Redis wants to rest, too.
const QUEUE_INTERVAL: Duration = Duration::from_secs(30);
/// How soon a queue is asked again that did not answer.
const FAILED_INTERVAL: Duration = Duration::from_secs(2);
/// Samples of the queue that follow its changes keep at least this distance.
const CALM: Duration = Duration::from_millis(200);
/// And those of the disk, which a job may have changed.
const CALM_DISK: Duration = Duration::from_secs(1);

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
    /// The last run of each manifest that is on a schedule.
    pub nights: BTreeMap<String, Night>,
    /// The last runs of schedules, the oldest first.
    pub runs: Arc<Vec<PastRun>>,
    /// Whether the last one of each manifest that is on a schedule could not be asked for.
    pub failed_nights: BTreeMap<String, bool>,
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
        let counted = count(queue).await;
        self.change(|sampled| sampled.queue = Some(counted));
        let mut look = Look::begin(cache_root);
        self.take(&mut look, scout).await;
    }

    /// How far the runs of manifests have come, told by whoever watches them.
    pub fn warmed(&self, nights: BTreeMap<String, Night>) {
        self.change(|sampled| sampled.nights = nights);
    }

    /// What became of the runs of schedules, told by whoever remembers them.
    pub fn ran(&self, runs: Vec<PastRun>, failed: BTreeMap<String, bool>) {
        self.change(|sampled| (sampled.runs, sampled.failed_nights) = (Arc::new(runs), failed));
    }

    fn change(&self, change: impl FnOnce(&mut Sampled)) {
        let mut latest = self.latest.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut latest));
    }

    /// Samples until `stop`: queue and disk each for itself, so that one which hangs does not hide the other.
    pub async fn run(
        self,
        queue: Arc<dyn JobStore>,
        cache_root: PathBuf,
        scout: Scout,
        stop: CancellationToken,
    ) {
        let sample =
            async { tokio::join!(self.count_on(&*queue), self.look_on(&*queue, &cache_root, &scout)) };
        tokio::select! {
            () = stop.cancelled() => {}
            _ = sample => {}
        }
    }

    async fn count_on(&self, queue: &dyn JobStore) {
        let mut changed = queue.changed();
        loop {
            changed.borrow_and_update();
            let counted = count(queue).await;
            // A queue that is away is asked again soon.
            let pause = if counted.value.is_some() { QUEUE_INTERVAL } else { FAILED_INTERVAL };
            self.change(|sampled| sampled.queue = Some(counted));
            wait(&mut changed, pause, CALM).await;
        }
    }

    async fn look_on(&self, queue: &dyn JobStore, cache_root: &Path, scout: &Scout) {
        let mut changed = queue.changed();
        let mut look = Look::begin(cache_root);
        loop {
            changed.borrow_and_update();
            // At most one hangs.
            if self.take(&mut look, scout).await {
                wait(&mut changed, INTERVAL, CALM_DISK).await;
                look = Look::begin(cache_root);
            }
        }
    }

    /// Keeps what the look found; false if it is late, and what it looks at unknown.
    async fn take(&self, look: &mut Look, scout: &Scout) -> bool {
        let found = tokio::time::timeout(LATE, &mut look.asked).await;
        let (is_late, found) = (found.is_err(), found.ok().and_then(Result::ok));
        self.change(|sampled| {
            let Found { usage, mountpoint, facts } = found.unwrap_or_default();
            sampled.disk = Some(Collected { value: usage, took: look.begun.elapsed() });
            sampled.mountpoint = mountpoint.or(sampled.mountpoint.take());
            sampled.facts = facts;
            sampled.gpus = scout.watched();
            sampled.rates = scout.rates();
            sampled.fetch_rate = scout.fetch_rate();
            sampled.calibrations = scout.calibrations();
        });
        !is_late
    }
}

/// Until something changes, but for `calm` at least, and for `pause` at most.
async fn wait(changed: &mut watch::Receiver<u64>, pause: Duration, calm: Duration) {
    let begun = tokio::time::Instant::now();
    // Without a sender nothing changes any more.
    if let Ok(Err(_)) = tokio::time::timeout(pause, changed.changed()).await {
        tokio::time::sleep_until(begun + pause).await;
    }
    tokio::time::sleep_until(begun + calm).await;
}

/// What a look at disk and host found.
#[derive(Default)]
struct Found {
    usage: Option<disk::Usage>,
    mountpoint: Option<PathBuf>,
    facts: Option<Arc<Facts>>,
}

/// A look that is under way: on a thread of its own, since a hung filesystem blocks whoever asks it.
struct Look {
    begun: Instant,
    asked: JoinHandle<Found>,
}

impl Look {
    fn begin(cache_root: &Path) -> Self {
        let path = cache_root.to_owned();
        let asked = tokio::task::spawn_blocking(move || Found {
            usage: disk::usage(&path).ok(),
            mountpoint: disk::mountpoint(&path),
            facts: Some(Arc::new(Facts::read(&Roots::default(), &[&path]))),
        });
        Self { begun: Instant::now(), asked }
    }
}

async fn count(queue: &dyn JobStore) -> Collected<Stats> {
    let begun = Instant::now();
    // Whoever cannot work without the queue says so at its own place.
    let stats = queue.stats().await.map_err(|error| tracing::debug!(%error, "the queue cannot be counted"));
    Collected { value: stats.ok().map(with_zeros), took: begun.elapsed() }
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
