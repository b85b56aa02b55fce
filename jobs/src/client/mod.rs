//! The queue of a fleet, for programs that put jobs in and want to know what came of them.
//!
//! ```no_run
//! use larder_jobs::{Hosts, Job, client::{Address, Client}};
//!
//! # async fn stage() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(Address::new("redis://redis.internal:6379", "larder")?);
//! let mut job = Job::download("Qwen/Qwen3-8B".parse()?);
//! job.common.hosts = Hosts::named("gpu-7".parse()?);
//! job.common.requested_by = Some("scheduler".into());
//! let accepted = client.enqueue(&job).await?;
//! let job = client.wait(accepted.job.id).await?;
//! match job.reason {
//!     None => println!("staged at {:?}", job.path),
//!     Some(reason) => println!("{reason}: {}", job.message.unwrap_or_default()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The same want in flight is the same job: enqueueing twice answers the same id. A job that was accepted is in
//! Redis; whether it survives a crash of Redis is up to its append-only file.

mod address;
mod choose;
mod connection;
mod error;
mod find;
mod fleet;
mod functions;
mod inbox;
mod queue;
mod row;
mod server;
mod submit;
mod urls;

use std::time::Duration;

use crate::{
    CommitId, FleetLimits, FleetLimitsChange, HeldModel, HostName, HostState, Hosts, Job, JobId, JobView,
    Kind, ModelRef, Reason, State, Target,
};

pub use address::{Address, Mode};
pub use choose::{Chosen, Want, near_hosts, why_nobody};
pub use connection::{Connection, Messages, Step};
pub use error::{Error, Result};
pub use fleet::{Notices, Placed, Run, Title};
pub use functions::{LIBRARY, Library};
pub use inbox::Entry;
pub use queue::{Outcome, Queue, keyed_otherwise, none_to_retry, strange};
/// A reply of the server.
pub use redis::Value as Reply;
pub use row::{Unreadable, read as read_record, text as reply_text, write as write_record};
pub use server::{LAYOUT, Server};
pub use submit::Submitted;

/// How often a job that is waited for is looked at, should its announcement get lost.
const LOOK: Duration = Duration::from_secs(2);

/// The answer to a request for a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// Whether it is a new one; `false` means that one in flight does the same.
    pub created: bool,
    /// The job.
    pub job: JobView,
}

/// The queue of a fleet. Cheap to clone; connects when it is first asked.
#[derive(Debug, Clone)]
pub struct Client {
    queue: Queue,
    this: Option<HostName>,
}

impl Client {
    /// The queue at `address`. Nothing is sent yet.
    pub fn new(address: Address) -> Self {
        Self { queue: Queue::new(Connection::new(address)), this: None }
    }

    /// The same for a program on the host called `this`, whose jobs are for that host unless they say otherwise.
    #[must_use]
    pub fn on_host(self, this: HostName) -> Self {
        Self { this: Some(this), ..self }
    }

    /// What the server says of itself.
    ///
    /// # Errors
    /// `queue_unavailable` if it cannot be reached or will not do.
    pub async fn server(&self) -> Result<Server> {
        self.queue.connection().server().await
    }

    /// Puts a job into the queue, or one for each host into theirs; the answer means that Redis has it.
    ///
    /// # Errors
    /// `invalid_request` for a job that breaks the contract, for hosts that the fleet does not know, or for "this" host
    /// of nobody's; `queue_unavailable` if nobody takes such a job or the queue is full or away. Asking again is safe.
    pub async fn enqueue(&self, job: &Job) -> Result<Accepted> {
        self.enqueue_sized(job, Want::default()).await
    }

    /// The same for somebody who knows how large the model is: the best host is chosen by that, too.
    ///
    /// # Errors
    /// As [`Client::enqueue`].
    pub async fn enqueue_sized(&self, job: &Job, want: Want) -> Result<Accepted> {
        let submitted = self.queue.submit(job, self.this.as_ref(), want).await?;
        Ok(Accepted { created: submitted.created(), job: submitted.view(None) })
    }

    /// The one queue that `job` goes to; `None` if that depends on who is there.
    ///
    /// # Errors
    /// `invalid_request` for "this" host, unless there is one ([`Client::on_host`]).
    pub fn target(&self, job: &Job) -> Result<Option<Target>> {
        match (&job.common.hosts, &self.this) {
            (hosts, _) if hosts.are_chosen() => Ok(None),
            (Hosts::Named(names), _) => Ok(names.first().cloned().map(Target::Host)),
            (Hosts::This, Some(name)) => Ok(Some(Target::Host(name.clone()))),
            (Hosts::This, None) => Err(submit::nobody()),
            _ => Ok(Some(Target::Pool)),
        }
    }

    /// The job, if it is known.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn get(&self, id: JobId) -> Result<Option<JobView>> {
        if let Some(record) = self.queue.get(id).await? {
            return self.queue.view(&record, None).await.map(Some);
        }
        let batch = self.queue.batch(id).await?;
        Ok(batch.map(|(batch, records)| batch.view(&records, None)))
    }

    /// Every host that the fleet knows, by name.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn hosts(&self) -> Result<Vec<HostState>> {
        self.queue.hosts().await
    }

    /// One host of the fleet.
    ///
    /// # Errors
    /// `not_found` for one that the fleet does not know, with the nearest names; `queue_unavailable`.
    pub async fn host(&self, name: &HostName) -> Result<HostState> {
        let hosts = self.queue.hosts().await?;
        match hosts.iter().find(|host| host.name == *name) {
            Some(host) => Ok(host.clone()),
            None => Err(choose::stranger(name, &hosts)),
        }
    }

    /// Which hosts have this model, and what of it. A branch or tag means every commit; a commit means that one.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn holders(&self, model: &ModelRef) -> Result<Vec<HeldModel>> {
        let mut held = self.queue.holders(model.repo()).await?;
        let commit = model.revision().and_then(|revision| revision.as_str().parse::<CommitId>().ok());
        held.retain(|held| commit.as_ref().is_none_or(|commit| held.commit == *commit));
        Ok(held)
    }

    /// What a host has in its cache.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn stock(&self, host: &HostName) -> Result<Vec<HeldModel>> {
        self.queue.stock(host).await
    }

    /// What all hosts of the fleet together may take of the network.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn limits(&self) -> Result<FleetLimits> {
        self.queue.limits().await
    }

    /// Changes that; every larder follows within seconds.
    ///
    /// # Errors
    /// `invalid_request` for more sources than may have limits; `queue_unavailable`.
    pub async fn change_limits(&self, change: &FleetLimitsChange) -> Result<()> {
        self.queue.change_limits(change).await
    }

    /// The host takes no more jobs (`true`), or takes jobs again; what runs there goes on.
    ///
    /// # Errors
    /// `not_found` for a host that the fleet does not know, with the nearest names; `queue_unavailable`.
    pub async fn drain(&self, host: &HostName, drained: bool, by: Option<&str>) -> Result<()> {
        if drained { self.queue.drain(host, by).await } else { self.queue.undrain(host).await }
    }

    /// At most `limit` jobs of all hosts, or of one, the newest first.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn list(
        &self,
        state: Option<State>,
        host: Option<&HostName>,
        limit: usize,
    ) -> Result<Vec<JobView>> {
        let records = self.queue.list(Kind::ALL, state, host, None, limit).await?;
        Ok(records.iter().map(|record| record.view(None)).collect())
    }

    /// Takes back one requester's wish, or everybody's if none is named. A running job stops within a moment.
    ///
    /// # Errors
    /// `not_found`, `queue_unavailable`.
    pub async fn cancel(&self, id: JobId, requester: Option<&str>) -> Result<(Outcome, JobView)> {
        match self.queue.cancel(id, requester).await {
            Ok((outcome, record)) => Ok((outcome, record.view(None))),
            Err(error) if error.reason() == Reason::NotFound => self.cancel_batch(id, requester, error).await,
            Err(error) => Err(error),
        }
    }

    async fn cancel_batch(
        &self,
        id: JobId,
        requester: Option<&str>,
        unknown: Error,
    ) -> Result<(Outcome, JobView)> {
        if self.queue.batch(id).await?.is_none() {
            return Err(unknown);
        }
        self.queue.cancel_all(id, requester).await?;
        let view = self.get(id).await?.ok_or(unknown)?;
        let outcome = if view.state.is_terminal() { Outcome::Ended } else { Outcome::Stopping };
        Ok((outcome, view))
    }

    /// Runs a failed or cancelled job again, with all its attempts.
    ///
    /// # Errors
    /// `not_found`, `invalid_request` if it has not failed, `queue_unavailable`.
    pub async fn retry(&self, id: JobId) -> Result<JobView> {
        match self.queue.retry(id).await {
            Ok(record) => Ok(record.view(None)),
            Err(error) if error.reason() == Reason::NotFound && self.queue.batch(id).await?.is_some() => {
                self.queue.retry_all(id).await?;
                self.get(id).await?.ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Runs every failed job again, unless something in flight does the same; returns how many.
    ///
    /// # Errors
    /// `queue_unavailable`; some may have been run again by then.
    pub async fn redrive(&self) -> Result<usize> {
        let mut count = 0;
        for kind in Kind::ALL {
            count += self.queue.redrive(*kind).await?;
        }
        Ok(count)
    }

    /// Whether a larder has been there within the last minute that takes jobs of `target`.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn is_served(&self, target: &Target) -> Result<bool> {
        self.queue.is_served(target).await
    }

    /// Waits until the job has ended. How long that takes is up to the job: put a `tokio::time::timeout` around
    /// it. While Redis is away it waits on.
    ///
    /// # Errors
    /// `not_found`; `queue_unavailable` only if the queue cannot be reached at the first look.
    pub async fn wait(&self, id: JobId) -> Result<JobView> {
        let channel = [format!("about:{id}")];
        let gone = || Error::new(Reason::NotFound, format!("there is no job {id}"), "ask for it again");
        let mut first = true;
        loop {
            // Before the look, so that nothing is missed in between.
            let mut news = self.queue.connection().listen(&channel).await.ok();
            loop {
                match self.get(id).await {
                    Ok(Some(job)) if job.state.is_terminal() => return Ok(job),
                    Ok(Some(_)) => {}
                    Ok(None) => return Err(gone()),
                    Err(error) if first || error.reason() != Reason::QueueUnavailable => return Err(error),
                    Err(_) => {}
                }
                first = false;
                let Some(messages) = &mut news else {
                    tokio::time::sleep(LOOK).await;
                    break;
                };
                if let Ok(Err(_)) = tokio::time::timeout(LOOK, messages.next()).await {
                    break;
                }
            }
        }
    }
}
