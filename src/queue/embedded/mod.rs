//! The queue of a single machine: records in the embedded store, no server.
//!
//! One mutex around every read-modify-write makes each step atomic; one write per step makes it atomic
//! across a crash. Nobody else can write, since one process owns the state folder.

mod batch;
mod index;
mod recover;
mod steps;

#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use larder_jobs::client::{Submitted, Title, Want};
use larder_jobs::{Batch, Job, JobId, Kind, Progress, Reason, State};
use serde_json::Value;
use tokio::sync::{broadcast, watch};

use super::observe::{Observer, Tell};
use super::{
    Cancelled, Claimed, Config, Enqueued, Filter, JobStore, Outcome, Reaped, Record, Renewal, Settled,
    Settlement, Stats,
};
use crate::error::{Error, Result};
use crate::store::{Store, Table};
use index::Index;

/// The records of all jobs, by id.
const JOBS: Table<Record> = Table::new("jobs");
/// The same table, for records that may be damaged.
const RAW: Table<Value> = Table::new("jobs");
/// Cancellations that a slow listener may miss; its next renewal tells it anyway.
const CANCELLATIONS: usize = 64;

/// Tells the time; a test moves it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Which jobs a process takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every job.
    All,
    /// Only those that were asked for through this handle: a foreground command does its own work and no
    /// other.
    Own,
}

/// The queue of a single machine.
pub struct Embedded {
    store: Store,
    config: Config,
    scope: Scope,
    clock: Clock,
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    cancelled: broadcast::Sender<JobId>,
    observer: Observer,
}

struct Inner {
    index: Index,
    /// Jobs that were asked for through this handle, with [`Scope::Own`].
    own: HashSet<JobId>,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the queue in `store`, which no other queue may use at the same time. Jobs whose worker
    /// vanished in a crash go back with their attempt counted. Blocks for one fsync at most.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub fn open(store: Store, config: Config, scope: Scope) -> Result<Self> {
        Self::open_with_clock(store, config, scope, Arc::new(Timestamp::now))
    }

    /// The same with a clock of the caller's.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn open_with_clock(store: Store, config: Config, scope: Scope, clock: Clock) -> Result<Self> {
        let index = recover::recover(&store, &config, clock())?;
        Ok(Self {
            store,
            config,
            scope,
            clock,
            inner: Mutex::new(Inner { index, own: HashSet::new() }),
            changed: watch::Sender::new(0),
            cancelled: broadcast::Sender::new(CANCELLATIONS),
            observer: Observer::default(),
        })
    }

    /// From now on tells of every job that ends.
    pub fn on_end(&self, tell: Tell) {
        self.observer.set(tell);
    }

    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// The state behind the mutex. A step changes the index only after its write succeeded, so a panic
    /// elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    fn find(&self, id: JobId) -> Result<Record> {
        self.store.get(JOBS, &key(id))?.ok_or_else(|| {
            Error::new(
                Reason::NotFound,
                format!("there is no job {id}"),
                "see `larder jobs list`; ended jobs are forgotten after queue.retention",
            )
        })
    }
}

fn full(backlog: usize) -> Error {
    Error::new(
        Reason::QueueUnavailable,
        format!("{backlog} jobs are queued, which is queue.max_queued"),
        "try again when some are done, cancel some, or raise queue.max_queued",
    )
}

fn key(id: JobId) -> Vec<u8> {
    id.to_string().into_bytes()
}

#[async_trait]
impl JobStore for Embedded {
    async fn enqueue(&self, job: Job) -> Result<Enqueued> {
        let enqueued = self.accept(JobId::random(self.now()), &job)?;
        self.announce();
        self.store.durable().await?;
        Ok(enqueued)
    }

    /// Whoever asks has made sure that the job is for this machine.
    async fn submit(&self, job: Job, _want: Want) -> Result<Submitted> {
        let Enqueued { record, created } = self.enqueue(job).await?;
        Ok(Submitted::One { created, record: record.into() })
    }

    async fn enqueue_all(&self, title: Title, jobs: Vec<Job>) -> Result<(bool, JobId)> {
        let accepted = self.accept_all(title, &jobs)?;
        self.announce();
        self.store.durable().await?;
        Ok(accepted)
    }

    async fn batch(&self, id: JobId) -> Result<Option<(Batch, Vec<Record>)>> {
        self.look_up(id)
    }

    async fn claim(&self, kind: Kind) -> Result<Claimed> {
        self.take(kind)
    }

    async fn renew(&self, id: JobId, token: u64, state: State, progress: Progress) -> Result<Renewal> {
        self.prolong(id, token, state, progress)
    }

    async fn settle(&self, id: JobId, token: u64, settlement: Settlement) -> Result<Settled> {
        let settled = self.end_attempt(id, token, settlement)?;
        self.announce();
        if let Settled::Done(record) = &settled
            && record.state.is_terminal()
        {
            self.store.durable().await?;
        }
        Ok(settled)
    }

    async fn cancel(&self, id: JobId, requester: Option<&str>) -> Result<Cancelled> {
        let cancelled = self.call_off(id, requester)?;
        if cancelled.outcome == Outcome::Stopping {
            // Nobody listens while nothing runs here.
            let _ = self.cancelled.send(id);
        }
        self.announce();
        self.store.durable().await?;
        Ok(cancelled)
    }

    async fn get(&self, id: JobId) -> Result<Option<Record>> {
        self.store.get(JOBS, &key(id))
    }

    async fn list(&self, filter: Filter) -> Result<Vec<Record>> {
        let ids = self.lock().index.list(filter);
        // One that was forgotten since is left out.
        ids.into_iter().filter_map(|id| self.store.get(JOBS, &key(id)).transpose()).collect()
    }

    async fn stats(&self) -> Result<Stats> {
        let now = self.now();
        let (mut stats, ahead) = {
            let index = &self.lock().index;
            let ahead = Kind::ALL.iter().map(|kind| (*kind, index.ahead(*kind, now)));
            (index.stats(now), ahead.collect::<Vec<_>>())
        };
        for (kind, jobs) in ahead {
            let mut slack = Vec::with_capacity(jobs.len());
            for (id, deadline) in jobs {
                let record: Option<Record> = self.store.get(JOBS, &key(id))?;
                slack.extend(record.map(|record| super::rules::slack(deadline, now, &record.progress)));
            }
            stats.deadline_slack.extend(slack.into_iter().min().map(|least| (kind, least)));
        }
        Ok(stats)
    }

    async fn retry(&self, id: JobId) -> Result<Record> {
        let record = self.run_again(id)?;
        self.announce();
        self.store.durable().await?;
        Ok(record)
    }

    async fn redrive(&self, kind: Kind) -> Result<usize> {
        let count = self.run_failed_again(kind)?;
        self.announce();
        self.store.durable().await?;
        Ok(count)
    }

    async fn reap(&self) -> Result<Reaped> {
        let reaped = self.tidy()?;
        if reaped.returned + reaped.ended > 0 {
            self.announce();
        }
        Ok(reaped)
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn cancellations(&self) -> broadcast::Receiver<JobId> {
        self.cancelled.subscribe()
    }
}
