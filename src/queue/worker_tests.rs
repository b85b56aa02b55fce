//! Leases and sources in real time: an apalis worker on each store, and stores that fail.

mod cut;

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apalis_core::worker::builder::WorkerBuilder;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use larder_jobs::client::{Address, Connection, Step, write_record};
use larder_jobs::{JobId, Kind, Progress, Reason, State, Target};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::testing::{config, folder, job, span};
use super::*;
use crate::error::Error;
use crate::store::Store;

const KIND: Kind = Kind::Download;
const SOON: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);

/// A store under test.
struct Place {
    store: Arc<dyn JobStore>,
    config: Config,
    /// Puts a queued record there as another program would have.
    plant: Box<dyn Fn(Record) -> BoxFuture<'static, ()> + Send + Sync>,
    /// What must live as long as the store.
    _keep: Box<dyn Any + Send + Sync>,
}

/// Opens an empty store whose leases last so many milliseconds.
type Open = fn(u64) -> BoxFuture<'static, Place>;

fn embedded(lease_ms: u64) -> BoxFuture<'static, Place> {
    let (dir, config) = (folder(), Config { lease: span(lease_ms), ..config() });
    let (store, _) = Store::open(dir.path()).expect("the store opens");
    let store = Arc::new(Embedded::open(store, config.clone(), Scope::All).expect("opens"));
    let planted = Arc::clone(&store);
    let plant = Box::new(move |record| {
        planted.plant(record);
        Box::pin(async {}) as BoxFuture<'static, ()>
    });
    Box::pin(async move { Place { store, config, plant, _keep: Box::new(dir) } })
}

fn redis(lease_ms: u64) -> BoxFuture<'static, Place> {
    Box::pin(async move {
        let (server, config) = (support::Redis::start(), Config { lease: span(lease_ms), ..config() });
        let address = Address::new(&server.url(), "test").expect("an address");
        let host: larder_jobs::HostName = "gpu-1".parse().expect("a name");
        let connection = Connection::new(address.clone());
        let store = Arc::new(Redis::new(address, config.clone(), host.clone()));
        let (stop, mut changed) = (CancellationToken::new(), store.changed());
        let (attending, stopped) = (Arc::clone(&store), stop.clone());
        tokio::spawn(async move { attending.attend_until(&stopped).await });
        // It says so when it listens.
        changed.changed().await.expect("the store lives");
        let plant = Box::new(move |record| {
            let (connection, target) = (connection.clone(), Target::Host(host.clone()));
            let fields = write_record(&Record { target, ..record });
            let step = Step::new("restore").arg("");
            let step = fields.iter().fold(step, |step, (name, value)| step.arg(name).arg(value));
            Box::pin(async move { drop(connection.run(&step).await.expect("planted")) })
                as BoxFuture<'static, ()>
        });
        Place { store, config, plant, _keep: Box::new((stop.drop_guard(), server)) }
    })
}

/// Runs each case on each store.
macro_rules! on_each_store {
    ($($case:ident)*) => {
        on_each_store!(@ embedded; $($case)*);
        on_each_store!(@ redis; $($case)*);
    };
    (@ $store:ident; $($case:ident)*) => {
        mod $store {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case(super::$store).await;
                }
            )*
        }
    };
}
use on_each_store;

on_each_store! {
    a_worker_runs_each_job_once_within_its_slots_and_survives_panics
    a_drain_hands_back_what_runs_and_takes_nothing_more
    a_source_that_is_dropped_gives_its_claim_back
    unreadable_payloads_never_reach_the_worker
    a_lease_outlives_its_length_reports_progress_and_ends_when_dropped
    a_cancel_reaches_the_worker_at_once
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

/// Waits until the queue is as `done` says. Not every change is announced to everybody.
async fn until(store: &dyn JobStore, done: impl Fn(&[Record]) -> bool) -> Vec<Record> {
    let mut changed = store.changed();
    let wait = async {
        loop {
            let all = store.list(Filter { limit: usize::MAX, ..Filter::default() }).await.expect("lists");
            if done(&all) {
                return all;
            }
            let _ = timeout(LOOK, changed.changed()).await;
        }
    };
    timeout(SOON, wait).await.expect("in time")
}

fn all_in(state: State) -> impl Fn(&[Record]) -> bool {
    move |all| all.iter().all(|record| record.state == state)
}

async fn a_worker_runs_each_job_once_within_its_slots_and_survives_panics(open: Open) {
    let place = open(5_000).await;
    let (store, config) = (Arc::clone(&place.store), &place.config);
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

async fn a_drain_hands_back_what_runs_and_takes_nothing_more(open: Open) {
    let place = open(5_000).await;
    let (store, config) = (Arc::clone(&place.store), &place.config);
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

async fn a_source_that_is_dropped_gives_its_claim_back(open: Open) {
    let place = open(60_000).await;
    let (store, config) = (Arc::clone(&place.store), &place.config);
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

async fn unreadable_payloads_never_reach_the_worker(open: Open) {
    let place = open(1_000).await;
    let (store, config) = (Arc::clone(&place.store), &place.config);
    let bad = JobId::new(Timestamp::now(), 1);
    let mut record = rules::accept(&job("a/b"), bad, 0, Timestamp::now()).expect("accepted");
    record.job = serde_json::json!({"v": 2, "kind": "download"});
    record.want = "another".into();
    (place.plant)(record).await;
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

async fn a_lease_outlives_its_length_reports_progress_and_ends_when_dropped(open: Open) {
    let place = open(300).await;
    let (store, config) = (Arc::clone(&place.store), &place.config);
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

async fn a_cancel_reaches_the_worker_at_once(open: Open) {
    let place = open(600_000).await;
    let (store, config) = (Arc::clone(&place.store), &place.config);
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
