//! The queue of a fleet: records in Redis, shared by every larder that has the same `queue.url`.
//!
//! Each step is one atomic script (`jobs/src/client/lua/`) by the clock of Redis; this room turns them into a
//! [`JobStore`]. Every step may be repeated after a lost answer, also the claim: it carries a number that is
//! used once, and a repeated one gets the same job again. What this process runs is remembered here, so that
//! a Redis that lost its data gets it back.

mod attend;
mod steps;

#[cfg(test)]
mod backlog;
#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use larder_jobs::client::{Address, Connection, Queue};
use larder_jobs::{HostName, Hosts, Job, JobId, Kind, Progress, Record, State, Target};
use tokio::sync::{Notify, broadcast, watch};

use super::observe::{Ended, Observer};
use super::{
    Cancelled, Claimed, Config, Enqueued, Filter, JobStore, Outcome, Reaped, Renewal, Settled, Settlement,
    Stats,
};
use crate::error::{Error, Result};

/// Cancellations that a slow listener may miss; its next renewal tells it anyway.
const CANCELLATIONS: usize = 64;

/// The queue of a fleet, as the larder on one host sees it.
pub struct Redis {
    queue: Queue,
    config: Config,
    host: HostName,
    changed: watch::Sender<u64>,
    cancelled: broadcast::Sender<JobId>,
    held: Mutex<Held>,
    /// Redis has lost what runs here, and so this host's registration, too.
    emptied: Notify,
    observer: Observer,
}

/// What this process holds.
#[derive(Default)]
struct Held {
    /// The jobs that it runs, as they were when it took them.
    jobs: HashMap<JobId, Record>,
    /// Numbers of claims whose answer never came: the job that they got is still to be fetched.
    unanswered: Vec<(Kind, String)>,
    /// Why it is not registered, while it is not: it hears of no job then, and others ask it for none.
    absent: Option<Error>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("queue", &self.queue).field("host", &self.host).finish_non_exhaustive()
    }
}

impl Redis {
    /// The queue at `address` for the larder on `host`. Nothing is sent yet: Redis may be away.
    pub fn new(address: Address, config: Config, host: HostName) -> Self {
        Self::over(Connection::new(address), config, host)
    }

    fn over(connection: Connection, config: Config, host: HostName) -> Self {
        Self {
            queue: Queue::new(connection).with_bounds(config.max_queued, config.retention.get()),
            config,
            host,
            changed: watch::Sender::new(0),
            cancelled: broadcast::Sender::new(CANCELLATIONS),
            held: Mutex::default(),
            emptied: Notify::new(),
            observer: Observer::default(),
        }
    }

    /// From now on tells of every job whose end this process has seen.
    pub fn on_end(&self, ended: Ended) {
        self.observer.set(ended);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process does not run the job any more; under a newer claim it may.
    fn let_go(&self, id: JobId, token: u64) {
        let mut held = self.held();
        if held.jobs.get(&id).is_some_and(|record| record.token == token) {
            held.jobs.remove(&id);
        }
    }

    fn announce(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    fn target(&self, hosts: &Hosts) -> Target {
        match hosts {
            Hosts::This => Target::Host(self.host.clone()),
            Hosts::Pool => Target::Pool,
            Hosts::Named(name) => Target::Host(name.clone()),
        }
    }
}

#[async_trait]
impl JobStore for Redis {
    async fn enqueue(&self, job: Job) -> Result<Enqueued> {
        let id = JobId::random(jiff::Timestamp::now());
        let (created, record) = self.queue.enqueue(id, &job, &self.target(&job.common.hosts)).await?;
        Ok(Enqueued { record, created })
    }

    async fn claim(&self, kind: Kind) -> Result<Claimed> {
        self.take(kind).await
    }

    async fn renew(&self, id: JobId, token: u64, state: State, progress: Progress) -> Result<Renewal> {
        self.prolong(id, token, state, progress).await
    }

    async fn settle(&self, id: JobId, token: u64, settlement: Settlement) -> Result<Settled> {
        self.end_attempt(id, token, settlement).await
    }

    async fn cancel(&self, id: JobId, requester: Option<&str>) -> Result<Cancelled> {
        let (outcome, record) = self.queue.cancel(id, requester).await?;
        if outcome == Outcome::Ended {
            self.observer.step(None, &record);
        }
        Ok(Cancelled { record, outcome })
    }

    async fn get(&self, id: JobId) -> Result<Option<Record>> {
        Ok(self.queue.get(id).await?)
    }

    async fn list(&self, filter: Filter) -> Result<Vec<Record>> {
        let kinds = filter.kind.as_ref().map_or(Kind::ALL, std::slice::from_ref);
        Ok(self.queue.list(kinds, filter.state, filter.after, filter.limit).await?)
    }

    async fn stats(&self) -> Result<Stats> {
        self.count().await
    }

    async fn retry(&self, id: JobId) -> Result<Record> {
        Ok(self.queue.retry(id).await?)
    }

    async fn redrive(&self, kind: Kind) -> Result<usize> {
        Ok(self.queue.redrive(kind).await?)
    }

    async fn reap(&self) -> Result<Reaped> {
        self.tidy().await
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn cancellations(&self) -> broadcast::Receiver<JobId> {
        self.cancelled.subscribe()
    }
}
