//! Leases and sources in real time: an apalis worker on the embedded queue, and stores that fail.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apalis_core::worker::builder::WorkerBuilder;
use async_trait::async_trait;
use jiff::Timestamp;
use larder_jobs::{Job, JobId, Kind, Progress, Reason, State};
use tempfile::TempDir;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::testing::{config, folder, job, span};
use super::*;
use crate::error::{Error, Result};
use crate::store::Store;

const KIND: Kind = Kind::Download;
const SOON: Duration = Duration::from_secs(20);

fn open(dir: &TempDir, lease_ms: u64) -> (Arc<dyn JobStore>, Config) {
    let config = Config { lease: span(lease_ms), ..config() };
    let (store, _) = Store::open(dir.path()).expect("the store opens");
    (Arc::new(Embedded::open(store, config.clone(), Scope::All).expect("opens")), config)
}

async fn enqueue(store: &dyn JobStore, repo: &str) -> JobId {
    store.enqueue(job(repo)).await.expect("accepted").record.id
}

async fn claim(store: &dyn JobStore) -> Claim {
    match store.claim(KIND).await.expect("claims") {
        Claimed::Job(claim) => *claim,
        Claimed::Nothing { .. } => panic!("nothing to claim"),
    }
}

async fn get(store: &dyn JobStore, id: JobId) -> Record {
    store.get(id).await.expect("reads").expect("is known")
}

/// Waits until the queue, looked at after each of its changes, is as `done` says.
async fn until(store: &dyn JobStore, done: impl Fn(&[Record]) -> bool) -> Vec<Record> {
    let mut changed = store.changed();
    let wait = async {
        loop {
            let all = store.list(Filter { limit: usize::MAX, ..Filter::default() }).await.expect("lists");
            if done(&all) {
                return all;
            }
            changed.changed().await.expect("the store lives");
        }
    };
    timeout(SOON, wait).await.expect("in time")
}

fn all_in(state: State) -> impl Fn(&[Record]) -> bool {
    move |all| all.iter().all(|record| record.state == state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_runs_each_job_once_within_its_slots_and_survives_panics() {
    let dir = folder();
    let (store, config) = open(&dir, 5_000);
    for n in 0..50 {
        enqueue(&*store, &format!("a/{n}")).await;
    }
    let drain = CancellationToken::new();
    let source = Source::start(Arc::clone(&store), KIND, 3, config.lease.get(), drain.clone());
    let runs: Arc<Mutex<HashMap<JobId, usize>>> = Arc::default();
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let (runs, running, most) = (Arc::clone(&runs), Arc::clone(&running), Arc::clone(&most));
        move |assignment: Assignment| {
            let (runs, running, most) = (Arc::clone(&runs), Arc::clone(&running), Arc::clone(&most));
            async move {
                let first = {
                    let mut runs = runs.lock().expect("not poisoned");
                    let count = runs.entry(assignment.record.id).or_default();
                    *count += 1;
                    *count == 1
                };
                let repo = assignment.record.job["repo"].as_str().expect("a repo").to_owned();
                // A task of its own, so that a panic ends the attempt and not the worker.
                let work = tokio::spawn(async move {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    assert!(!first || !repo.ends_with('7'), "a bad day");
                    Done::default()
                });
                let verdict = match work.await {
                    Ok(done) => Verdict::Done(done),
                    Err(error) => Verdict::panicked(&error.to_string()),
                };
                assignment.lease.settle(verdict).await.expect("settles");
            }
        }
    };
    let worker = WorkerBuilder::new("test").backend(source).build(handler);
    let worker = tokio::spawn(worker.run());
    let all = until(&*store, all_in(State::Ready)).await;
    for record in &all {
        let repo = record.job["repo"].as_str().expect("a repo");
        let expected = if repo.ends_with('7') { 2 } else { 1 };
        assert_eq!(record.attempts, expected, "{repo}");
        assert_eq!(runs.lock().expect("not poisoned")[&record.id], expected as usize, "{repo}");
    }
    assert_eq!(all.len(), 50);
    assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
    drain.cancel();
    timeout(SOON, worker).await.expect("ends").expect("no panic").expect("no error");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_hands_back_what_runs_and_takes_nothing_more() {
    let dir = folder();
    let (store, config) = open(&dir, 5_000);
    for n in 0..10 {
        enqueue(&*store, &format!("a/{n}")).await;
    }
    let drain = CancellationToken::new();
    let source = Source::start(Arc::clone(&store), KIND, 2, config.lease.get(), drain.clone());
    let started = Arc::new(Notify::new());
    let handler = {
        let (started, drain) = (Arc::clone(&started), drain.clone());
        move |assignment: Assignment| {
            let (started, drain) = (Arc::clone(&started), drain.clone());
            async move {
                started.notify_one();
                drain.cancelled().await;
                assignment.lease.settle(Verdict::Interrupted).await.expect("settles");
            }
        }
    };
    let worker = tokio::spawn(WorkerBuilder::new("test").backend(source).build(handler).run());
    timeout(SOON, started.notified()).await.expect("starts");
    drain.cancel();
    timeout(SOON, worker).await.expect("ends").expect("no panic").expect("no error");
    let all = store.list(Filter::default()).await.expect("lists");
    assert!(all.iter().all(|record| (record.state, record.attempts) == (State::Queued, 0)), "{all:?}");
}

#[tokio::test]
async fn a_source_that_is_dropped_gives_its_claim_back() {
    let dir = folder();
    let (store, config) = open(&dir, 60_000);
    let id = enqueue(&*store, "a/b").await;
    let source = Source::start(Arc::clone(&store), KIND, 1, config.lease.get(), CancellationToken::new());
    let wait = async {
        // The claim itself is no change that is announced.
        while !get(&*store, id).await.state.is_running() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, wait).await.expect("claims");
    drop(source);
    let all = until(&*store, all_in(State::Queued)).await;
    assert_eq!(all[0].attempts, 0);
}

#[tokio::test]
async fn unreadable_payloads_never_reach_the_worker() {
    let dir = folder();
    let config = config();
    let (store, _) = Store::open(dir.path()).expect("the store opens");
    let queue = Embedded::open(store, config.clone(), Scope::All).expect("opens");
    let bad = JobId::new(Timestamp::now(), 1);
    let mut record = rules::accept(&job("a/b"), bad, 0, Timestamp::now()).expect("accepted");
    record.job = serde_json::json!({"v": 2, "kind": "download"});
    record.want = "another".into();
    queue.plant(record);
    let store: Arc<dyn JobStore> = Arc::new(queue);
    let good = enqueue(&*store, "a/b").await;
    let drain = CancellationToken::new();
    let source = Source::start(Arc::clone(&store), KIND, 1, config.lease.get(), drain.clone());
    let handler = async |assignment: Assignment| {
        assignment.lease.settle(Verdict::Done(Done::default())).await.expect("settles");
    };
    let worker = tokio::spawn(WorkerBuilder::new("test").backend(source).build(handler).run());
    until(&*store, |all| all.iter().all(|record| record.state.is_terminal())).await;
    assert_eq!(get(&*store, bad).await.reason, Some(Reason::UnsupportedVersion));
    assert_eq!(get(&*store, good).await.state, State::Ready);
    drain.cancel();
    timeout(SOON, worker).await.expect("ends").expect("no panic").expect("no error");
}

#[tokio::test]
async fn a_lease_outlives_its_length_reports_progress_and_ends_when_dropped() {
    let dir = folder();
    let (store, config) = open(&dir, 300);
    let id = enqueue(&*store, "a/b").await;
    let claimed = claim(&*store).await;
    let stop = CancellationToken::new();
    let reaper = {
        let (store, stop, lease) = (Arc::clone(&store), stop.clone(), config.lease.get());
        tokio::spawn(async move { reap_until(&*store, lease, &stop).await })
    };
    let lease = Lease::start(Arc::clone(&store), &claimed, config.lease.get());
    lease.set(State::Fetching, Progress { bytes_done: 7, ..Progress::default() });
    tokio::time::sleep(config.lease.get() * 3).await;
    let record = get(&*store, id).await;
    assert_eq!((record.state, record.token, record.progress.bytes_done), (State::Fetching, claimed.token, 7));
    drop(lease);
    let all = until(&*store, all_in(State::Queued)).await;
    assert_eq!(all[0].attempts, 1, "the attempt counts");
    stop.cancel();
    timeout(SOON, reaper).await.expect("ends").expect("no panic");
}

#[tokio::test]
async fn a_cancel_reaches_the_worker_at_once() {
    let dir = folder();
    let (store, config) = open(&dir, 600_000);
    let id = enqueue(&*store, "a/b").await;
    let claimed = claim(&*store).await;
    let lease = Lease::start(Arc::clone(&store), &claimed, config.lease.get());
    assert_eq!(lease.stop_cause(), None);
    store.cancel(id, None).await.expect("cancels");
    timeout(SOON, lease.stop_requested().cancelled()).await.expect("is told");
    assert_eq!(lease.stop_cause(), Some(Stop::Cancelled));
    let cancelled = Error::new(Reason::Cancelled, "it was cancelled", "ask again");
    lease.settle(Verdict::Cancel(cancelled)).await.expect("settles");
    assert_eq!(get(&*store, id).await.state, State::Cancelled);
}

/// A store whose connection can be cut.
struct Cut {
    inner: Arc<dyn JobStore>,
    cut: AtomicBool,
    refused: Notify,
}

impl Cut {
    fn check(&self) -> Result<()> {
        if self.cut.load(Ordering::SeqCst) {
            self.refused.notify_one();
            return Err(Error::new(Reason::QueueUnavailable, "the connection is cut", "wait"));
        }
        Ok(())
    }
}

#[async_trait]
impl JobStore for Cut {
    async fn enqueue(&self, job: Job) -> Result<Enqueued> {
        self.check()?;
        self.inner.enqueue(job).await
    }
    async fn claim(&self, kind: Kind) -> Result<Claimed> {
        self.check()?;
        self.inner.claim(kind).await
    }
    async fn renew(&self, id: JobId, token: u64, state: State, progress: Progress) -> Result<Renewal> {
        self.check()?;
        self.inner.renew(id, token, state, progress).await
    }
    async fn settle(&self, id: JobId, token: u64, settlement: Settlement) -> Result<Settled> {
        self.check()?;
        self.inner.settle(id, token, settlement).await
    }
    async fn cancel(&self, id: JobId, requester: Option<&str>) -> Result<Cancelled> {
        self.inner.cancel(id, requester).await
    }
    async fn get(&self, id: JobId) -> Result<Option<Record>> {
        self.check()?;
        self.inner.get(id).await
    }
    async fn list(&self, filter: Filter) -> Result<Vec<Record>> {
        self.inner.list(filter).await
    }
    async fn stats(&self) -> Result<Stats> {
        self.inner.stats().await
    }
    async fn retry(&self, id: JobId) -> Result<Record> {
        self.inner.retry(id).await
    }
    async fn redrive(&self, kind: Kind) -> Result<usize> {
        self.inner.redrive(kind).await
    }
    async fn reap(&self) -> Result<Reaped> {
        self.check()?;
        self.inner.reap().await
    }
    fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed()
    }
    fn cancellations(&self) -> broadcast::Receiver<JobId> {
        self.inner.cancellations()
    }
}

fn cut(dir: &TempDir, lease_ms: u64) -> (Arc<Cut>, Config) {
    let (inner, config) = open(dir, lease_ms);
    (Arc::new(Cut { inner, cut: AtomicBool::new(true), refused: Notify::new() }), config)
}

#[tokio::test]
async fn a_store_that_does_not_answer_stops_neither_job_nor_worker() {
    let dir = folder();
    let (store, config) = cut(&dir, 3_000);
    let drain = CancellationToken::new();
    let source = Source::start(store.clone(), KIND, 1, config.lease.get(), drain.clone());
    let handler = {
        let store = Arc::clone(&store);
        move |assignment: Assignment| {
            let store = Arc::clone(&store);
            async move {
                store.cut.store(true, Ordering::SeqCst);
                // A renewal fails, the job goes on.
                store.refused.notified().await;
                assert_eq!(assignment.lease.stop_cause(), None);
                let settled = assignment.lease.settle(Verdict::Done(Done::default()));
                let mend = async {
                    store.refused.notified().await;
                    store.refused.notified().await;
                    store.cut.store(false, Ordering::SeqCst);
                };
                let (settled, ()) = tokio::join!(settled, mend);
                assert!(matches!(settled, Ok(Settled::Done(_))));
            }
        }
    };
    let worker = tokio::spawn(WorkerBuilder::new("test").backend(source).build(handler).run());
    store.inner.enqueue(job("a/b")).await.expect("accepted");
    timeout(SOON, store.refused.notified()).await.expect("a claim is refused");
    store.cut.store(false, Ordering::SeqCst);
    let all = until(&*store.inner, all_in(State::Ready)).await;
    assert_eq!(all[0].attempts, 1);
    drain.cancel();
    timeout(SOON, worker).await.expect("ends").expect("no panic").expect("no error");
}

#[tokio::test]
async fn a_lost_claim_is_told_and_cannot_settle() {
    let dir = folder();
    let (store, config) = cut(&dir, 300);
    store.cut.store(false, Ordering::SeqCst);
    let id = store.enqueue(job("a/b")).await.expect("accepted").record.id;
    let old = claim(&*store).await;
    let lease = Lease::start(store.clone(), &old, config.lease.get());
    store.cut.store(true, Ordering::SeqCst);
    timeout(SOON, store.refused.notified()).await.expect("a renewal fails");
    tokio::time::sleep(config.lease.get()).await;
    assert_eq!(store.inner.reap().await.expect("reaps").returned, 1);
    store.cut.store(false, Ordering::SeqCst);
    timeout(SOON, lease.stop_requested().cancelled()).await.expect("is told");
    assert_eq!(lease.stop_cause(), Some(Stop::Lost));
    let settled = lease.settle(Verdict::Done(Done::default())).await;
    assert_eq!(settled, Ok(Settled::Fenced));
    assert_eq!(get(&*store, id).await.state, State::Queued);
}

#[tokio::test]
async fn a_reaper_takes_no_job_until_the_store_has_been_back_for_a_lease() {
    let dir = folder();
    let (store, config) = cut(&dir, 400);
    let lease = config.lease.get();
    store.inner.enqueue(job("a/b")).await.expect("accepted");
    claim(&*store.inner).await;
    let stop = CancellationToken::new();
    let reaper = {
        let (store, stop) = (store.clone(), stop.clone());
        tokio::spawn(async move { reap_until(&*store, lease, &stop).await })
    };
    tokio::time::sleep(lease * 2).await;
    store.cut.store(false, Ordering::SeqCst);
    let back = std::time::Instant::now();
    until(&*store.inner, all_in(State::Queued)).await;
    assert!(back.elapsed() >= lease, "the worker could renew for {:?} only", back.elapsed());
    stop.cancel();
    reaper.await.expect("no panic");
}
