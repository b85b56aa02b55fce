//! How many bytes per second may come: one bucket for the host, one for each running job, each with a speed that can
//! be changed while others wait for it, and one for each source. Jobs that share a window have one bucket more, together.
//! In a fleet that has limits the host has one for its share, and each source two: for bytes and for requests.
//!
//! A bucket holds a tenth of a second, so short transfers obey too. Who takes more than is there goes into debt and
//! waits until the debt is paid; who waits when the speed changes gives back what it took and asks again.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_speed_limit::Limiter;
use async_speed_limit::clock::Clock;
use serde::{Deserialize, Deserializer, de};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use larder_jobs::{Bandwidth, JobId};

/// What a bucket holds at most, in time.
const BURST: Duration = Duration::from_millis(100);
/// Shorter waits are not worth a timer; what they let through is within the burst.
const LEAST_WAIT: Duration = Duration::from_millis(10);

/// A host's share of what its fleet may take, per second; nothing is no limit.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Share {
    /// Bytes of all downloads.
    pub bytes: Option<f64>,
    /// Requests to each source that has no share of its own.
    pub requests: Option<f64>,
    /// Of single sources, by their names.
    pub sources: BTreeMap<String, SourceShare>,
}

/// A host's share of what its fleet may take of one source, per second; nothing is no limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SourceShare {
    /// Bytes.
    pub bytes: Option<f64>,
    /// Requests.
    pub requests: Option<f64>,
}

/// The limits of a host and of the jobs that run on it; clones are the same limits.
#[derive(Clone)]
pub struct Limits {
    host: Arc<Host>,
}

struct Host {
    bucket: Bucket,
    /// This host's share of what the fleet may take.
    fleet: Bucket,
    /// A job has begun.
    began: Notify,
    /// The jobs that run here; an entry goes with its job.
    jobs: Mutex<BTreeMap<JobId, Weak<Running>>>,
    /// Buckets that some of them share, by name; an entry goes when the next one comes after its last job.
    shared: Mutex<BTreeMap<String, Weak<Bucket>>>,
}

struct Running {
    id: JobId,
    bucket: Bucket,
    shared: Mutex<Option<Arc<Bucket>>>,
    host: Arc<Host>,
}

/// The limit of one running job and, behind it, its host's. The job is known by its id for as long as one of the
/// clones lives.
#[derive(Clone)]
pub struct JobLimit {
    running: Arc<Running>,
}

impl Limits {
    /// A host whose jobs together take at most `bandwidth`.
    pub fn new(bandwidth: Option<Bandwidth>) -> Self {
        let (bucket, fleet) = (Bucket::new(bandwidth), Bucket::new(None));
        let (jobs, shared) = (Mutex::default(), Mutex::default());
        Self { host: Arc::new(Host { bucket, fleet, began: Notify::new(), jobs, shared }) }
    }

    /// Changes what the host may take of what its fleet may, in bytes per second.
    pub(super) fn set_share(&self, bytes: Option<f64>) {
        self.host.fleet.set_speed(bytes.unwrap_or(f64::INFINITY));
    }

    /// Whether a job runs here.
    pub fn is_busy(&self) -> bool {
        self.host.jobs().values().any(|running| running.strong_count() > 0)
    }

    /// Until the next job begins.
    pub async fn began(&self) {
        self.host.began.notified().await;
    }

    /// What the host's jobs may take together.
    pub fn bandwidth(&self) -> Option<Bandwidth> {
        self.host.bucket.bandwidth()
    }

    /// Changes it, also for those who wait already.
    pub fn set_bandwidth(&self, bandwidth: Option<Bandwidth>) {
        self.host.bucket.set(bandwidth);
    }

    /// Registers a job that begins to run here.
    pub fn job(&self, id: JobId, bandwidth: Option<Bandwidth>) -> JobLimit {
        let host = Arc::clone(&self.host);
        let shared = Mutex::default();
        let running = Arc::new(Running { id, bucket: Bucket::new(bandwidth), shared, host });
        self.host.jobs().insert(id, Arc::downgrade(&running));
        self.host.began.notify_one();
        JobLimit { running }
    }

    /// Changes the limit of a job, also for those of its connections that wait already; false if it does not run
    /// here. It holds until the attempt ends.
    pub fn set_job(&self, id: &JobId, bandwidth: Option<Bandwidth>) -> bool {
        self.change_job(id, |_| bandwidth)
    }

    /// Gives a job that runs here at least `bandwidth`: somebody else who wants the same is more generous.
    pub fn widen_job(&self, id: &JobId, bandwidth: Option<Bandwidth>) {
        self.change_job(id, |now| Bandwidth::wider(now, bandwidth));
    }

    fn change_job(&self, id: &JobId, to: impl FnOnce(Option<Bandwidth>) -> Option<Bandwidth>) -> bool {
        let running = self.host.jobs().get(id).and_then(Weak::upgrade);
        let Some(running) = running else { return false };
        let now = running.bucket.bandwidth();
        let new = to(now);
        if new != now {
            running.bucket.set(new);
        }
        true
    }

    /// The jobs that run here with their own limits, the oldest first.
    pub fn jobs(&self) -> Vec<(JobId, Option<Bandwidth>)> {
        let running: Vec<_> = self.host.jobs().values().filter_map(Weak::upgrade).collect();
        running.iter().map(|running| (running.id, running.bucket.bandwidth())).collect()
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits").field("host", &self.bandwidth()).field("jobs", &self.jobs()).finish()
    }
}

impl Host {
    fn jobs(&self) -> MutexGuard<'_, BTreeMap<JobId, Weak<Running>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bucket of that name, with that speed from now on.
    fn shared(&self, name: &str, bandwidth: Option<Bandwidth>) -> Arc<Bucket> {
        let mut all = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, bucket| bucket.strong_count() > 0);
        if let Some(bucket) = all.get(name).and_then(Weak::upgrade) {
            if bucket.bandwidth() != bandwidth {
                bucket.set(bandwidth);
            }
            return bucket;
        }
        let bucket = Arc::new(Bucket::new(bandwidth));
        all.insert(name.to_owned(), Arc::downgrade(&bucket));
        bucket
    }
}

impl Running {
    fn shared(&self) -> MutexGuard<'_, Option<Arc<Bucket>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut jobs = self.host.jobs();
        // The next attempt of the same job may have begun here already.
        if jobs.get(&self.id).is_some_and(|entry| std::ptr::eq(entry.as_ptr(), self)) {
            jobs.remove(&self.id);
        }
    }
}

impl JobLimit {
    /// Whether the job or its host has a limit now.
    pub fn is_set(&self) -> bool {
        let Running { bucket, host, .. } = &*self.running;
        [bucket, &host.bucket, &host.fleet].iter().any(|bucket| bucket.bandwidth().is_some())
            || self.running.shared().is_some()
    }

    /// From now on the job shares `bandwidth` with all jobs of the host that name the same bucket; whoever says it last
    /// changes it for all.
    pub fn share(&self, name: &str, bandwidth: Option<Bandwidth>) {
        let bucket = self.running.host.shared(name, bandwidth);
        *self.running.shared() = Some(bucket);
    }

    /// The job shares nothing any more.
    pub fn share_nothing(&self) {
        self.running.shared().take();
    }

    /// Takes what came: waits until the job may have it, then until its host may, then until the fleet may. The bytes count from the call
    /// on, also if the future is dropped.
    pub async fn take(&self, bytes: u64) {
        self.running.bucket.take(bytes).await;
        let shared = self.running.shared().clone();
        if let Some(shared) = shared {
            shared.take(bytes).await;
        }
        self.running.host.bucket.take(bytes).await;
        self.running.host.fleet.take(bytes).await;
    }
}

impl fmt::Debug for JobLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bandwidth = self.running.bucket.bandwidth();
        f.debug_struct("JobLimit").field("id", &self.running.id).field("bandwidth", &bandwidth).finish()
    }
}

/// One speed for all who take from it.
pub(super) struct Bucket {
    limiter: Limiter<TokioClock>,
    changed: Notify,
}

impl Bucket {
    pub(super) fn new(bandwidth: Option<Bandwidth>) -> Self {
        let mut builder = Limiter::builder(speed(bandwidth));
        let limiter = builder.refill(BURST).min_wait(LEAST_WAIT).build();
        Self { limiter, changed: Notify::new() }
    }

    pub(super) fn bandwidth(&self) -> Option<Bandwidth> {
        let speed = self.limiter.speed_limit();
        if speed.is_infinite() { None } else { Bandwidth::new(speed as u64).ok() }
    }

    fn set(&self, bandwidth: Option<Bandwidth>) {
        self.set_speed(speed(bandwidth));
    }

    /// So many of whatever it counts in a second.
    pub(super) fn set_speed(&self, per_second: f64) {
        if self.limiter.speed_limit().total_cmp(&per_second).is_ne() {
            self.limiter.set_speed_limit(per_second);
            self.changed.notify_waiters();
        }
    }

    pub(super) async fn take(&self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        loop {
            // Hears of every change from here on, so none between the look at the speed and the wait is missed.
            let changed = self.changed.notified();
            tokio::select! {
                biased;
                () = self.limiter.consume(bytes) => return,
                () = changed => self.limiter.unconsume(bytes),
            }
        }
    }
}

fn speed(bandwidth: Option<Bandwidth>) -> f64 {
    bandwidth.map_or(f64::INFINITY, |bandwidth| bandwidth.bytes() as f64)
}

/// The clock of the runtime that the transfers run on.
#[derive(Debug, Clone, Copy, Default)]
struct TokioClock;

impl Clock for TokioClock {
    type Instant = Instant;
    type Delay = Pin<Box<Sleep>>;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, wait: Duration) -> Self::Delay {
        Box::pin(tokio::time::sleep(wait))
    }
}

/// `hub.bandwidth` as it is written: nothing for no limit, else a size.
pub(super) fn configured<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bandwidth>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a size per second like 20MB, or nothing for no limit")]
    enum Raw {
        Bytes(u64),
        Text(String),
    }
    let bandwidth = match Raw::deserialize(deserializer)? {
        Raw::Text(text) if text.is_empty() => return Ok(None),
        Raw::Text(text) => text.parse(),
        Raw::Bytes(bytes) => Bandwidth::new(bytes),
    };
    bandwidth
        .map(Some)
        .map_err(|invalid| de::Error::custom(format!("{invalid}; write a size per second like 20MB")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn of(bytes: u64) -> Option<Bandwidth> {
        Some(Bandwidth::new(bytes).expect("not zero"))
    }

    fn id(n: u128) -> JobId {
        JobId::new(Timestamp::UNIX_EPOCH, n)
    }

    /// Seconds of the paused clock that it takes to get `total` bytes through in pieces of a hundredth.
    async fn seconds(limit: &JobLimit, total: u64) -> f64 {
        let begun = Instant::now();
        for _ in 0..100 {
            limit.take(total / 100).await;
        }
        begun.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_that_share_a_rate_have_it_together() {
        let limits = Limits::new(None);
        let jobs = [limits.job(id(1), None), limits.job(id(2), None)];
        jobs.iter().for_each(|job| job.share("night", of(1_000_000)));
        let begun = Instant::now();
        tokio::join!(seconds(&jobs[0], 1_000_000), seconds(&jobs[1], 1_000_000));
        let both = begun.elapsed().as_secs_f64();
        assert!((1.85..2.1).contains(&both), "{both}");
        assert!(jobs[0].is_set());
        jobs[1].share("night", of(2_000_000));
        let one = seconds(&jobs[0], 2_000_000).await;
        assert!((0.85..1.1).contains(&one), "the last word holds for all: {one}");
        jobs[0].share_nothing();
        assert_eq!(seconds(&jobs[0], 1_000_000).await, 0.0);
        assert!(!jobs[0].is_set());
    }

    #[tokio::test(start_paused = true)]
    async fn the_smaller_of_both_limits_holds_and_none_costs_no_time() {
        for (host, job, least, most) in [
            (None, None, 0.0, 0.0),
            (of(1_000_000), None, 1.85, 2.1),
            (None, of(1_000_000), 1.85, 2.1),
            (of(500_000), of(1_000_000), 3.85, 4.2),
            (of(1_000_000), of(500_000), 3.85, 4.2),
            (of(1_000_000), of(1_000_000), 1.85, 2.2),
        ] {
            let took = seconds(&Limits::new(host).job(id(1), job), 2_000_000).await;
            assert!((least..=most).contains(&took), "{host:?} and {job:?}: {took} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_transfer_obeys_too_and_a_pause_saves_nothing_up() {
        let limit = Limits::new(of(100_000)).job(id(1), None);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let took = seconds(&limit, 50_000).await;
        assert!((0.35..=0.6).contains(&took), "{took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn two_jobs_share_the_host() {
        let limits = Limits::new(of(1_000_000));
        let (one, two) = (limits.job(id(1), None), limits.job(id(2), None));
        let begun = Instant::now();
        tokio::join!(seconds(&one, 1_000_000), seconds(&two, 1_000_000));
        let took = begun.elapsed().as_secs_f64();
        assert!((1.85..=2.1).contains(&took), "{took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_reaches_those_who_wait() {
        let limits = Limits::new(of(1_000));
        let job = limits.job(id(1), None);
        let change = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            limits.set_bandwidth(of(100_000));
            assert!(limits.set_job(&id(1), of(50_000)));
        };
        let begun = Instant::now();
        // A thousand seconds at the old speed.
        tokio::join!(job.take(1_000_000), change);
        let took = begun.elapsed().as_secs_f64();
        assert!((12.0..=13.5).contains(&took), "{took} s: the debt is paid at the new speed");

        let lift = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            limits.set_bandwidth(None);
            limits.set_job(&id(1), None);
        };
        let begun = Instant::now();
        tokio::join!(job.take(1_000_000_000), job.take(1_000_000_000), lift);
        assert!(begun.elapsed() < Duration::from_millis(1_100), "{:?}", begun.elapsed());
        limits.set_bandwidth(of(1_000));
        let took = seconds(&job, 2_000).await;
        assert!((1.8..=2.1).contains(&took), "no debt is left of the time before: {took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_is_known_while_it_runs() {
        let limits = Limits::new(None);
        let (first, other) = (limits.job(id(1), of(5)), limits.job(id(2), None));
        assert_eq!(limits.jobs(), [(id(1), of(5)), (id(2), None)]);
        limits.widen_job(&id(1), of(3));
        assert_eq!(limits.jobs()[0], (id(1), of(5)));
        limits.widen_job(&id(1), of(7));
        assert_eq!(limits.jobs()[0], (id(1), of(7)));
        let again = limits.job(id(1), of(9));
        drop(first);
        assert_eq!(limits.jobs()[0], (id(1), of(9)), "the end of an earlier attempt does not hide the next");
        let clone = again.clone();
        drop((again, other));
        assert_eq!(limits.jobs(), [(id(1), of(9))]);
        drop(clone);
        assert!(limits.jobs().is_empty() && !limits.set_job(&id(1), None));
    }
}
