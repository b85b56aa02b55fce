//! The queue of a fleet: records in Redis, shared by every larder that has the same `queue.url`.
//!
//! Each step is one atomic script (`jobs/src/client/lua/`) by the clock of Redis; this room turns them into a
//! [`JobStore`]. Every step may be repeated after a lost answer, also the claim: it carries a number that is
//! used once, and a repeated one gets the same job again. What this process runs is remembered here, so that
//! a Redis that lost its data gets it back.

mod attend;
mod gone;
mod inbox;
mod owed;
mod steps;

#[cfg(test)]
mod absent_tests;
#[cfg(test)]
mod backlog;
#[cfg(test)]
mod fleet_tests;
#[cfg(test)]
mod hour;
#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod valkey;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use larder_jobs::client::{Address, Connection, Placed, Queue, Submitted, Title, Want};
use larder_jobs::{
    Batch, FleetLimits, HeldModel, HostName, HostRecord, Hosts, Job, JobId, Kind, Progress, Record, State,
    Target,
};
use tokio::sync::{Notify, broadcast, watch};

use super::observe::{Observer, Tell};
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
    /// The same for the workers of each kind, in the order of [`Kind::ALL`].
    ready: Vec<watch::Sender<u64>>,
    cancelled: broadcast::Sender<JobId>,
    held: Mutex<Held>,
    /// Redis has lost what runs here, and so this host's registration, too.
    emptied: Notify,
    /// What this host says of itself.
    shown: Mutex<Shown>,
    /// It says something else than before.
    changed_self: Notify,
    /// When the hosts of the fleet were looked at, and of whom it was told that they are gone.
    watched: Mutex<gone::Watched>,
    /// A program put something into the inbox.
    inbox: Notify,
    /// The queue owes somebody a notice.
    owed: Notify,
    /// Told of the ends that this process has seen.
    observer: Observer,
    /// Writes down the notices that jobs asked for; without it, others of the fleet do.
    teller: OnceLock<Tell>,
    /// Knows how large a model is.
    sizer: OnceLock<Sizer>,
}

/// Finds out how large a job's model is, where it decides who the best host for it is; soon, or says that nobody knows.
pub type Sizer = Arc<dyn Fn(Job) -> BoxFuture<'static, Want> + Send + Sync>;

/// What this host says of itself: its record, and the models in its cache.
#[derive(Debug, Default)]
struct Shown {
    record: Option<HostRecord>,
    stock: Vec<HeldModel>,
    drained: bool,
    /// Whether the fleet has limits that its hosts share.
    limited: bool,
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
            ready: Kind::ALL.iter().map(|_| watch::Sender::new(0)).collect(),
            cancelled: broadcast::Sender::new(CANCELLATIONS),
            held: Mutex::default(),
            emptied: Notify::new(),
            shown: Mutex::default(),
            changed_self: Notify::new(),
            watched: Mutex::default(),
            inbox: Notify::new(),
            owed: Notify::new(),
            observer: Observer::default(),
            teller: OnceLock::new(),
            sizer: OnceLock::new(),
        }
    }

    /// From now on tells of every job whose end this process has seen.
    pub fn on_end(&self, tell: Tell) {
        self.observer.set(tell);
    }

    /// From now on takes its part in writing down the notices that jobs asked for, wherever they ended.
    pub fn on_notice(&self, tell: Tell) {
        let _ = self.teller.set(tell);
    }

    /// From now on the best host for a request of the inbox is chosen by the size of its model, too.
    pub fn size_with(&self, sizer: Sizer) {
        let _ = self.sizer.set(sizer);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue, for questions about the fleet.
    pub fn fleet(&self) -> &Queue {
        &self.queue
    }

    /// Whether somebody said that this host takes no jobs, as far as it has heard.
    pub fn is_drained(&self) -> bool {
        self.shown().drained
    }

    /// Whether the fleet has limits that its hosts share, as far as this host has heard.
    pub fn is_limited(&self) -> bool {
        self.shown().limited
    }

    /// This host's part of the fleet's limits: what the fleet may take, and among how many hosts. `active` says whether
    /// this host is one of them.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn share(&self, active: bool) -> Result<(FleetLimits, u32)> {
        Ok(self.queue.share(&self.host, active).await?)
    }

    /// What this host is now. It is told with the next heartbeat, or at once if others decide by what changed.
    pub fn describe(&self, record: HostRecord, stock: Vec<HeldModel>) {
        let mut shown = self.shown();
        let weighty = |record: &HostRecord| (record.health.clone(), record.labels.clone(), record.gpus.len());
        let differs = shown.record.as_ref().is_none_or(|old| weighty(old) != weighty(&record));
        let differs = differs || shown.stock != stock;
        (shown.record, shown.stock) = (Some(record), stock);
        drop(shown);
        if differs {
            self.changed_self.notify_one();
        }
    }

    /// This process does not run the job any more; under a newer claim it may.
    fn let_go(&self, id: JobId, token: u64) {
        let mut held = self.held();
        if held.jobs.get(&id).is_some_and(|record| record.token == token) {
            held.jobs.remove(&id);
        }
    }

    /// Anything may have changed.
    fn announce(&self) {
        self.changed.send_modify(|n| *n += 1);
        self.ready.iter().for_each(|ready| ready.send_modify(|n| *n += 1));
    }

    /// There may be a job of `kind`.
    fn announce_kind(&self, kind: Kind) {
        if let Some(at) = Kind::ALL.iter().position(|known| *known == kind) {
            self.ready[at].send_modify(|n| *n += 1);
        }
    }

    /// The queue of jobs for one host, or the pool's. Who the best, all or several are is not asked here.
    fn target(&self, hosts: &Hosts) -> Target {
        match hosts {
            Hosts::Pool => Target::Pool,
            Hosts::Named(names) if names.len() == 1 => Target::Host(names[0].clone()),
            _ => Target::Host(self.host.clone()),
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

    async fn submit(&self, job: Job, want: Want) -> Result<Submitted> {
        Ok(self.queue.submit(&job, Some(&self.host), want).await?)
    }

    async fn enqueue_all(&self, title: Title, jobs: Vec<Job>) -> Result<(bool, JobId)> {
        let now = jiff::Timestamp::now();
        let placed = jobs.into_iter().map(|job| {
            let target = self.target(&job.common.hosts);
            Placed { id: JobId::random(now), target, job, why: None }
        });
        Ok(self.queue.enqueue_all(&title, &placed.collect::<Vec<_>>()).await?)
    }

    async fn batch(&self, id: JobId) -> Result<Option<(Batch, Vec<Record>)>> {
        Ok(self.queue.batch(id).await?)
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
        Ok(self.queue.list(kinds, filter.state, filter.host.as_ref(), filter.after, filter.limit).await?)
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

    fn ready(&self, kind: Kind) -> watch::Receiver<u64> {
        match Kind::ALL.iter().position(|known| *known == kind) {
            Some(at) => self.ready[at].subscribe(),
            None => self.changed(),
        }
    }

    fn cancellations(&self) -> broadcast::Receiver<JobId> {
        self.cancelled.subscribe()
    }
}
