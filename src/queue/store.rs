//! What a job store does: the interface that the embedded queue and the Redis queue share.
//!
//! Every method is atomic. Time is the store's own (with several hosts there is only one clock that counts),
//! so waits travel as durations, never as points in time of some host.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use jiff::SignedDuration;
use larder_jobs::client::{Outcome, Submitted, Title, Want};
use larder_jobs::{Batch, Cursor, HostName, Job, JobId, Kind, Progress, State};
use tokio::sync::{broadcast, watch};

use super::{Record, Settlement};
use crate::error::Result;

/// The answer to a request for a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Enqueued {
    /// The job that will do it: a new one, or one that was there.
    pub record: Record,
    /// Whether it is a new one.
    pub created: bool,
}

/// A job that was taken by a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The job as it stands, its payload not yet decoded.
    pub record: Record,
    /// The fencing token; it grows with every claim of the job.
    pub token: u64,
}

/// The answer to a worker that asks for a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Claimed {
    /// A job.
    Job(Box<Claim>),
    /// No job may run now.
    Nothing {
        /// How long until the next waiting job of this kind may run, if there is one.
        wait: Option<Duration>,
    },
}

/// The answer to a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The claim lives for another lease.
    Held {
        /// Somebody cancelled the job; the worker should stop and settle.
        cancel: bool,
    },
    /// The token is stale: the job is another worker's, or nobody's.
    Lost,
}

/// The answer to a settlement.
#[derive(Debug, Clone, PartialEq)]
pub enum Settled {
    /// The attempt is over; the job as it stands now, with all that was asked for meanwhile (a pin).
    Done(Box<Record>),
    /// The token is stale; nothing changed.
    Fenced,
}

/// The answer to a cancel.
#[derive(Debug, Clone, PartialEq)]
pub struct Cancelled {
    /// The job as it stands now.
    pub record: Record,
    /// What the cancel did.
    pub outcome: Outcome,
}

/// Which jobs to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Only of this kind.
    pub kind: Option<Kind>,
    /// Only in this state.
    pub state: Option<State>,
    /// Only those that wait for this host of a fleet, or that it took last.
    pub host: Option<HostName>,
    /// Only those behind that one in the list.
    pub after: Option<Cursor>,
    /// At most so many.
    pub limit: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self { kind: None, state: None, host: None, after: None, limit: 100 }
    }
}

/// So many jobs of a kind are looked at for how much time they have to spare.
pub(super) const SLACK_OF: usize = 32;

/// How many jobs there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Jobs by kind and state; a pair without jobs may be absent.
    pub jobs: BTreeMap<(Kind, State), usize>,
    /// How long the oldest queued job of a kind has been waiting for a worker.
    pub oldest_queued: BTreeMap<Kind, Duration>,
    /// How long the job of a kind that has least to spare has until its deadline, less what its missing bytes take at the
    /// speed of now; below zero if it will be missed. Of the first 32 deadlines ahead; a kind without is absent.
    pub deadline_slack: BTreeMap<Kind, SignedDuration>,
}

/// What a round of tidying did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Jobs whose worker vanished and that went back.
    pub returned: usize,
    /// Jobs that ended because their worker vanished, or their deadline passed.
    pub ended: usize,
    /// Ended jobs that were forgotten.
    pub purged: usize,
}

/// A queue of jobs.
///
/// Errors are `queue_unavailable` when the store cannot be reached or is full, `io_error` when its disk
/// fails, `not_found` for an id that it does not know, and `invalid_request` for what it will not do.
#[async_trait]
pub trait JobStore: Send + Sync + 'static {
    /// Accepts a job, or joins the one in flight that does the same. The answer means that it is durable.
    async fn enqueue(&self, job: Job) -> Result<Enqueued>;

    /// Accepts a job for the hosts that it is for, which may be several; `want` is what is known of its size.
    async fn submit(&self, job: Job, want: Want) -> Result<Submitted>;

    /// Accepts all of these jobs or none, each for one host, as the batch of that title; says whether it is a new one.
    async fn enqueue_all(&self, title: Title, jobs: Vec<Job>) -> Result<(bool, JobId)>;

    /// A batch, and those of its jobs that are still known.
    async fn batch(&self, id: JobId) -> Result<Option<(Batch, Vec<Record>)>>;

    /// Takes the job that goes first, and counts an attempt.
    async fn claim(&self, kind: Kind) -> Result<Claimed>;

    /// Prolongs a claim by one lease and reports how far the job has come.
    async fn renew(&self, id: JobId, token: u64, state: State, progress: Progress) -> Result<Renewal>;

    /// Ends an attempt. May be repeated with the same token when the answer got lost.
    async fn settle(&self, id: JobId, token: u64, settlement: Settlement) -> Result<Settled>;

    /// Takes back one requester's wish, or everybody's if none is named.
    async fn cancel(&self, id: JobId, requester: Option<&str>) -> Result<Cancelled>;

    /// The job, if it is known.
    async fn get(&self, id: JobId) -> Result<Option<Record>>;

    /// Jobs that match, the newest first.
    async fn list(&self, filter: Filter) -> Result<Vec<Record>>;

    /// How many jobs there are.
    async fn stats(&self) -> Result<Stats>;

    /// Runs a failed or cancelled job again, with all its attempts.
    async fn retry(&self, id: JobId) -> Result<Record>;

    /// Runs every failed job of a kind again, unless something in flight does the same; returns how many.
    async fn redrive(&self, kind: Kind) -> Result<usize>;

    /// Returns the jobs of vanished workers and forgets old ended jobs.
    async fn reap(&self) -> Result<Reaped>;

    /// Changes whenever a job may have become ready, or due earlier than it was.
    fn changed(&self) -> watch::Receiver<u64>;

    /// Changes whenever it is this worker's turn to look for jobs of `kind`; of many workers not all need look at once.
    fn ready(&self, kind: Kind) -> watch::Receiver<u64> {
        let _ = kind;
        self.changed()
    }

    /// The running jobs that were cancelled, at best; a renewal tells for sure.
    fn cancellations(&self) -> broadcast::Receiver<JobId>;
}
