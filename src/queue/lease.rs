//! The lease on a running job: a task beside the worker that keeps the claim alive, reports progress, and
//! notices when the job was cancelled or taken over.
//!
//! The task does not depend on the worker's future being polled, so a worker that computes for a minute or
//! drains for an hour keeps its claim. A renewal that fails stops nothing; only a lost token does. A lease
//! that is dropped without a settlement is not renewed any more, so the job goes back when it expires.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use larder_jobs::{Job, JobId, Progress, Reason, State};
use tokio::sync::{OwnedSemaphorePermit, broadcast, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Claim, JobStore, Renewal, Settled, Settlement, Verdict};
use crate::error::{Error, Result};

/// Least time between two reports of progress.
const REPORT: Duration = Duration::from_millis(500);
/// Pauses between attempts to reach a store that does not answer.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Attempts to deliver a result in each lease: a queue that is back must have it well before the job is given to another.
const SETTLE_TRIES: u32 = 12;
/// Longest time for which a result is kept for a queue that cannot be reached; after that the job runs again.
const SETTLE: Duration = Duration::from_secs(24 * 3_600);
/// Longest time for which handing a job back is tried, silence of the queue included.
pub const RELEASE: Duration = Duration::from_secs(10);

/// Why a worker should stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Somebody cancelled the job; settle it as cancelled.
    Cancelled,
    /// The claim is lost; what the worker still does has no effect on the job.
    Lost,
}

/// The lease on a running job.
pub struct Lease {
    store: Arc<dyn JobStore>,
    id: JobId,
    token: u64,
    length: Duration,
    /// When the claim was made, by the clock of the queue and by this process' own.
    claimed: (Timestamp, Instant),
    report: watch::Sender<(State, Progress)>,
    signal: Signal,
    renewer: AbortHandle,
    /// Free again when the lease is dropped.
    _slot: Option<OwnedSemaphorePermit>,
}

#[derive(Debug, Clone, Default)]
struct Signal {
    token: CancellationToken,
    cause: Arc<OnceLock<Stop>>,
}

impl Signal {
    fn raise(&self, cause: Stop) {
        // The first cause stays.
        let _ = self.cause.set(cause);
        self.token.cancel();
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("id", &self.id).field("token", &self.token).finish_non_exhaustive()
    }
}

impl Lease {
    /// Keeps `claim` alive from now on, renewed three times in each `length` (`queue.lease`).
    ///
    /// Must be called within a tokio runtime.
    pub fn start(store: Arc<dyn JobStore>, claim: &Claim, length: Duration) -> Self {
        let (id, token) = (claim.record.id, claim.token);
        let report = watch::Sender::new((claim.record.state, claim.record.progress.clone()));
        let signal = Signal::default();
        let renewer = Renewer {
            cancellations: store.cancellations(),
            store: Arc::clone(&store),
            id,
            token,
            every: length / 3,
            report: report.subscribe(),
            signal: signal.clone(),
        };
        let renewer = tokio::spawn(renewer.run()).abort_handle();
        // The queue gave the claim for one length from its now on.
        let ends = claim.record.lease_until.unwrap_or_else(Timestamp::now);
        let begun = SignedDuration::try_from(length).ok().and_then(|length| ends.checked_sub(length).ok());
        let claimed = (begun.unwrap_or(ends), Instant::now());
        Self { store, id, token, length, claimed, report, signal, renewer, _slot: None }
    }

    /// Keeps `slot` taken for as long as the lease is kept.
    #[must_use]
    pub fn with_slot(mut self, slot: OwnedSemaphorePermit) -> Self {
        self._slot = Some(slot);
        self
    }

    /// The job's id.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Asks for another job in the queue that this one is from.
    ///
    /// # Errors
    /// As [`JobStore::enqueue`].
    pub async fn follow_up(&self, job: Job) -> Result<()> {
        self.store.enqueue(job).await.map(|_| ())
    }

    /// How long until `time` by the clock of the queue; that of this host may be hours off.
    pub fn until(&self, time: Timestamp) -> Duration {
        let (begun, since) = self.claimed;
        let left = Duration::try_from(time.duration_since(begun)).unwrap_or_default();
        left.saturating_sub(since.elapsed())
    }

    /// The time by the clock of the queue.
    pub fn now(&self) -> Timestamp {
        let (begun, since) = self.claimed;
        super::rules::after(begun, since.elapsed())
    }

    /// The job as its queue has it now: others may have joined it. `None` if the queue does not say.
    pub async fn job(&self) -> Option<Job> {
        self.store.get(self.id).await.ok()??.decode().ok()
    }

    /// Where the job stands now; others see it within half a second. Cheap, the latest wins.
    pub fn set(&self, state: State, progress: Progress) {
        self.report.send_if_modified(|report| {
            let new = (state, progress);
            let differs = *report != new;
            *report = new;
            differs
        });
    }

    /// Cancelled when the worker should stop; [`Lease::stop_cause`] then says why.
    pub fn stop_requested(&self) -> &CancellationToken {
        &self.signal.token
    }

    /// Why the worker should stop, once it should.
    pub fn stop_cause(&self) -> Option<Stop> {
        self.signal.cause.get().copied()
    }

    /// Ends the attempt. While the queue cannot be reached it is tried again, for a day at most; whoever has to end before
    /// may drop this at any time.
    ///
    /// # Errors
    /// Those of the store; the job then goes back when the lease expires.
    pub async fn settle(&self, verdict: Verdict) -> Result<Settled> {
        self.renewer.abort();
        if !matches!(verdict, Verdict::Interrupted) {
            return self.end(verdict, SETTLE).await;
        }
        // Somebody waits for this process to end, and the job goes back by itself in the end.
        let patience = self.length.min(RELEASE);
        tokio::time::timeout(patience, self.end(verdict, patience)).await.unwrap_or_else(|_| {
            Err(Error::new(
                Reason::QueueUnavailable,
                format!("the queue has been silent for {} s", patience.as_secs()),
                "nothing to do: the job goes back when its lease expires",
            ))
        })
    }

    async fn end(&self, verdict: Verdict, patience: Duration) -> Result<Settled> {
        if !matches!(verdict, Verdict::Done(_)) {
            let (state, progress) = self.report.borrow().clone();
            // The last progress is worth a try, not a failure.
            let _ = self.store.renew(self.id, self.token, state, progress).await;
        }
        settle(&*self.store, self.id, self.token, verdict.into(), self.length, patience).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewer.abort();
    }
}

/// Settles, and tries again for `patience` while the queue cannot be reached; `lease` is the claim's length.
pub(super) async fn settle(
    store: &dyn JobStore,
    id: JobId,
    token: u64,
    settlement: Settlement,
    lease: Duration,
    patience: Duration,
) -> Result<Settled> {
    let begun = Instant::now();
    let mut pause = PAUSE_MIN;
    // Nobody renews any more, so a queue that is back must be seen well within a lease.
    let longest = (lease / SETTLE_TRIES).clamp(PAUSE_MIN, PAUSE_MAX);
    loop {
        match store.settle(id, token, settlement.clone()).await {
            Err(error) if error.reason() == Reason::QueueUnavailable && begun.elapsed() < patience => {
                if pause == PAUSE_MIN {
                    tracing::warn!(job = %id, %error, hint = error.hint(), "the end of an attempt cannot be written yet; trying on");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
            other => return other,
        }
    }
}

struct Renewer {
    store: Arc<dyn JobStore>,
    cancellations: broadcast::Receiver<JobId>,
    id: JobId,
    token: u64,
    every: Duration,
    report: watch::Receiver<(State, Progress)>,
    signal: Signal,
}

impl Renewer {
    async fn run(mut self) {
        let mut failing = false;
        let mut last = Instant::now();
        let mut wait = self.every;
        loop {
            self.until_next(last, wait).await;
            let (state, progress) = self.report.borrow_and_update().clone();
            match self.store.renew(self.id, self.token, state, progress).await {
                Ok(Renewal::Held { cancel }) => {
                    if cancel {
                        self.signal.raise(Stop::Cancelled);
                    }
                    failing = false;
                    wait = self.every;
                }
                Ok(Renewal::Lost) => {
                    tracing::warn!(job = %self.id, "the claim on a job is lost");
                    return self.signal.raise(Stop::Lost);
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(job = %self.id, %error, hint = error.hint(), "a claim cannot be renewed; trying on");
                    }
                    failing = true;
                    wait = (self.every / 4).max(PAUSE_MIN).min(self.every);
                }
            }
            last = Instant::now();
        }
    }

    /// Until the next renewal is due, sooner if there is news to report or a cancel to look at.
    async fn until_next(&mut self, last: Instant, wait: Duration) {
        let mut at = last + wait;
        let mut reported = false;
        let mut listening = !self.signal.token.is_cancelled();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(at) => return,
                // An error means that the lease is gone, and with it this task at its next await.
                news = self.report.changed(), if !reported => {
                    reported = true;
                    if news.is_ok() {
                        at = at.min(last + REPORT.min(wait));
                    }
                }
                cancelled = self.cancellations.recv(), if listening => match cancelled {
                    Ok(id) if id != self.id => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                    Err(broadcast::error::RecvError::Closed) => listening = false,
                },
            }
        }
    }
}
