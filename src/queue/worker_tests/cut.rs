//! Stores that fail: a lease and a source on a connection that is cut and mended.

use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use larder_jobs::client::{Submitted, Title, Want};
use larder_jobs::{Batch, Job};
use tokio::sync::{broadcast, watch};

use super::*;
use crate::error::Result;

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
    async fn submit(&self, job: Job, want: Want) -> Result<Submitted> {
        self.check()?;
        self.inner.submit(job, want).await
    }
    async fn enqueue_all(&self, title: Title, jobs: Vec<Job>) -> Result<(bool, JobId)> {
        self.check()?;
        self.inner.enqueue_all(title, jobs).await
    }
    async fn batch(&self, id: JobId) -> Result<Option<(Batch, Vec<Record>)>> {
        self.inner.batch(id).await
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

fn cut(place: &Place) -> Arc<Cut> {
    Arc::new(Cut { inner: Arc::clone(&place.store), cut: AtomicBool::new(true), refused: Notify::new() })
}

on_each_store! {
    a_store_that_does_not_answer_stops_neither_job_nor_worker
    a_lost_claim_is_told_and_cannot_settle
    a_reaper_takes_no_job_until_the_store_has_been_back_for_a_lease
}

async fn a_store_that_does_not_answer_stops_neither_job_nor_worker(open: Open) {
    let place = open(3_000).await;
    let (store, config) = (cut(&place), &place.config);
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

async fn a_lost_claim_is_told_and_cannot_settle(open: Open) {
    let place = open(300).await;
    let (store, config) = (cut(&place), &place.config);
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

async fn a_reaper_takes_no_job_until_the_store_has_been_back_for_a_lease(open: Open) {
    let place = open(400).await;
    let (store, config) = (cut(&place), &place.config);
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
