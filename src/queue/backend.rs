//! The bridge to the worker runtime: jobs from a [`JobStore`] as an apalis backend. The only file here that
//! names apalis.
//!
//! A task of its own does the waiting: it takes a free slot, claims exactly one job for it, and hands it
//! over; while there is work it does so for a few slots at once. So nothing is prefetched, no timer runs in the task that polls the worker, and a store that fails
//! never reaches the worker as an error (apalis would end it). A claim that is not taken over, because the
//! worker stops meanwhile, goes back with its attempt.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::task::Task;
use apalis_core::task::task_id::RandomId;
use apalis_core::worker::context::WorkerContext;
use larder_jobs::{Job, Kind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Claim, Claimed, JobStore, Lease, Record, Settlement, Verdict, lease};
use crate::error::{Error, Result};

/// Claims under way at once while there is work, each for a free slot of its own; an idle worker makes one.
const AT_ONCE: usize = 4;
/// Longest wait before the store is asked again, in case a wake-up got lost.
const TICK: Duration = Duration::from_secs(60);
/// Longest pause before a store that does not answer is asked again.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Pauses between attempts to reach a store that does not answer.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// A job for a worker, with the right to run it: whoever keeps the lease has the claim and the slot.
#[derive(Debug)]
pub struct Assignment {
    /// What to do.
    pub job: Job,
    /// The job as it was claimed.
    pub record: Record,
    /// The claim, which the worker must settle. Its slot is free again when the last clone is dropped.
    pub lease: Arc<Lease>,
}

/// Jobs of one kind for one worker.
#[derive(Debug)]
pub struct Source {
    offers: mpsc::Receiver<Assignment>,
    drain: CancellationToken,
    returns: JoinSet<()>,
}

impl Source {
    /// Claims jobs of `kind` from `store`, at most `slots` at once, each for `lease` (`queue.lease`), until
    /// `drain` is cancelled. Then the worker finishes what it has and ends.
    ///
    /// Must be called within a tokio runtime.
    pub fn start(
        store: Arc<dyn JobStore>,
        kind: Kind,
        slots: usize,
        lease: Duration,
        drain: CancellationToken,
    ) -> Self {
        let (offer, offers) = mpsc::channel(1);
        let slots = Arc::new(Semaphore::new(slots));
        let changed = store.ready(kind);
        let feeder = Feeder { store, kind, slots, lease, drain: drain.clone(), changed, offer };
        tokio::spawn(feeder.run());
        Self { offers, drain, returns: JoinSet::new() }
    }

    fn give_back(&mut self, assignment: Assignment) {
        self.returns.spawn(give_back(assignment));
    }
}

async fn give_back(assignment: Assignment) {
    if let Err(error) = assignment.lease.settle(Verdict::Interrupted).await {
        tracing::warn!(job = %assignment.lease.id(), %error, "a job goes back only when its lease expires");
    }
}

impl Backend for Source {
    type Task = Task<Assignment>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Task<Assignment>, Infallible>>> {
        loop {
            match ready!(self.offers.poll_recv(cx)) {
                Some(assignment) if self.drain.is_cancelled() => self.give_back(assignment),
                Some(assignment) => return Poll::Ready(Some(Ok(Task::new(assignment)))),
                None => return Poll::Ready(None),
            }
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), Infallible>> {
        self.offers.close();
        while let Some(assignment) = ready!(self.offers.poll_recv(cx)) {
            self.give_back(assignment);
        }
        while ready!(self.returns.poll_join_next(cx)).is_some() {}
        // The end of the source alone does not end an apalis worker.
        if worker.is_running()
            && let Err(error) = worker.stop()
        {
            tracing::warn!(%error, "a worker cannot be stopped");
        }
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for Source {
    type Args = Assignment;
    type Id = RandomId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = tower::layer::util::Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Self::Layer {
        tower::layer::util::Identity::new()
    }
}

impl Drop for Source {
    /// The worker was dropped instead of drained; the claim that it did not take over still goes back.
    fn drop(&mut self) {
        self.returns.detach_all();
        let (_, nothing) = mpsc::channel(1);
        let mut offers = std::mem::replace(&mut self.offers, nothing);
        offers.close();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // One may be on its way although none is there yet, so that the end is waited for.
            runtime.spawn(async move {
                while let Some(assignment) = offers.recv().await {
                    give_back(assignment).await;
                }
            });
        }
    }
}

/// The task that waits, claims and hands over.
struct Feeder {
    store: Arc<dyn JobStore>,
    kind: Kind,
    slots: Arc<Semaphore>,
    lease: Duration,
    drain: CancellationToken,
    changed: watch::Receiver<u64>,
    offer: mpsc::Sender<Assignment>,
}

/// The slot that a claim was made for, and what came of it.
type Attempted = (OwnedSemaphorePermit, Result<Claimed>);

impl Feeder {
    async fn run(mut self) {
        let mut claims = JoinSet::new();
        let (mut at_once, mut pause) = (1, PAUSE_MIN);
        loop {
            if claims.is_empty() {
                let Some(slot) = self.free_slot().await else { return };
                // Seen before the claim, so that a change during the claim wakes the wait after it.
                self.changed.borrow_and_update();
                self.claim(slot, &mut claims);
            }
            while claims.len() < at_once
                && !self.is_stopped()
                && let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned()
            {
                self.claim(slot, &mut claims);
            }
            // A claim that was begun is also answered for, unless the queue is silent for too long.
            let claimed = tokio::select! {
                claimed = claims.join_next() => claimed,
                () = self.given_up() => return,
            };
            let wait = match claimed {
                Some(Ok((slot, Ok(Claimed::Job(claim))))) => {
                    (at_once, pause) = (AT_ONCE, PAUSE_MIN);
                    self.hand_over(*claim, slot).await;
                    continue;
                }
                Some(Ok((_, Ok(Claimed::Nothing { wait })))) => {
                    pause = PAUSE_MIN;
                    wait.unwrap_or(TICK).min(TICK)
                }
                Some(Ok((_, Err(error)))) => self.told(&error, &mut pause),
                Some(Err(died)) => self.told(&Error::internal(format!("a claim died: {died}")), &mut pause),
                None => continue,
            };
            at_once = 1;
            if claims.is_empty() {
                self.rest(wait, pause > PAUSE_MIN).await;
            }
        }
    }

    fn claim(&self, slot: OwnedSemaphorePermit, claims: &mut JoinSet<Attempted>) {
        let (store, kind) = (Arc::clone(&self.store), self.kind);
        claims.spawn(async move { (slot, store.claim(kind).await) });
    }

    /// Says once that no job can be claimed; returns how long to wait before the next attempt.
    fn told(&self, error: &Error, pause: &mut Duration) -> Duration {
        if *pause == PAUSE_MIN {
            tracing::warn!(kind = %self.kind, %error, hint = error.hint(), "no job can be claimed; trying on");
        }
        *pause = (*pause * 2).min(PAUSE_MAX);
        *pause
    }

    /// Until there may be something to claim; what a failing store says of changes is not believed.
    async fn rest(&mut self, wait: Duration, failing: bool) {
        if failing {
            self.changed.borrow_and_update();
        }
        let mut changed = self.changed.clone();
        tokio::select! {
            () = self.stopped() => {}
            () = tokio::time::sleep(wait) => {}
            // The sender lives as long as the store.
            _ = changed.changed(), if !failing => {}
        }
    }

    fn is_stopped(&self) -> bool {
        self.drain.is_cancelled() || self.offer.is_closed()
    }

    async fn stopped(&self) {
        tokio::select! {
            () = self.drain.cancelled() => {}
            () = self.offer.closed() => {}
        }
    }

    /// A while after the worker stopped.
    async fn given_up(&self) {
        self.stopped().await;
        tokio::time::sleep(lease::RELEASE).await;
    }

    /// A free slot, or nothing once the worker stops.
    async fn free_slot(&self) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = self.stopped() => None,
            slot = Arc::clone(&self.slots).acquire_owned() => slot.ok(),
        }
    }

    async fn hand_over(&self, claim: Claim, slot: OwnedSemaphorePermit) {
        let job = match claim.record.decode() {
            Ok(job) => job,
            Err(invalid) => {
                let error = Error::from(invalid);
                tracing::error!(job = %claim.record.id, %error, "a job cannot be read; it is kept as failed");
                let settlement = Settlement::from(Verdict::Cancel(error));
                let (id, token, lease) = (claim.record.id, claim.token, self.lease);
                let settled = lease::settle(&*self.store, id, token, settlement, lease, lease).await;
                if let Err(error) = settled {
                    tracing::warn!(job = %claim.record.id, %error, "its failure could not be written");
                }
                return;
            }
        };
        let lease = Lease::start(Arc::clone(&self.store), &claim, self.lease).with_slot(slot);
        let assignment = Assignment { job, record: claim.record, lease: Arc::new(lease) };
        if self.drain.is_cancelled() {
            return give_back(assignment).await;
        }
        // The receiver gives back what it does not want, also when it is dropped.
        if let Err(mpsc::error::SendError(assignment)) = self.offer.send(assignment).await {
            give_back(assignment).await;
        }
    }
}
