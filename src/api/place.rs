//! Where a job goes: whether this larder can pass it on, and what a batch of jobs is as one.

use larder_jobs::client::none_to_retry;
use larder_jobs::{Batch, Hosts, Job, JobId, JobView, Reason, Record, State, Work};

use super::Api;
use super::problem::Failure;
use crate::error::{Error, Result};

/// Refuses a job that this larder's own queue cannot pass on.
pub(super) fn is_for_us(api: &Api, hosts: &Hosts) -> Result<(), Failure> {
    let ours = match hosts {
        Hosts::This | Hosts::Pool | Hosts::All => true,
        Hosts::Named(names) => names.iter().all(|name| *name == api.portrait.name),
        Hosts::Best(labels) | Hosts::Labelled(labels) => labels.select(&api.portrait.labels),
    };
    if ours || api.fleet.is_some() {
        return Ok(());
    }
    Err(Failure::new(
        Reason::InvalidRequest,
        format!("the job is for {hosts}, and this larder ({}) has a queue of its own", api.host),
        "leave `hosts` out, or set queue.url to the Redis that the hosts share",
    ))
}

/// Refuses a download for this host with a token that it does not have; another host may have it.
pub(super) fn has_token(api: &Api, job: &Job) -> Result<(), Failure> {
    if let (Hosts::This, Work::Download(download)) = (&job.common.hosts, &job.work)
        && let Err(error) = api.scout.knows_token(download.token_ref.as_ref())
    {
        return Err(Failure::new(Reason::InvalidRequest, error.to_string(), error.hint()));
    }
    Ok(())
}

/// A batch as one job; none if there is none of that id.
pub(super) async fn batch(api: &Api, id: JobId) -> Result<Option<JobView>> {
    let batch = api.queue.batch(id).await?;
    Ok(batch.map(|(batch, records)| batch.view(&records, Some(&api.host))))
}

/// Takes a wish for every job of a batch back.
pub(super) async fn cancel(api: &Api, id: JobId, by: Option<&str>, unknown: Error) -> Result<JobView> {
    let (batch, _) = members(api, id, unknown).await?;
    for job in &batch.jobs {
        match api.queue.cancel(*job, by).await {
            Err(error) if error.reason() != Reason::NotFound => return Err(error),
            _ => {}
        }
    }
    again(api, id).await
}

/// Runs those jobs of a batch again that failed or were cancelled, unless something in flight does the same.
pub(super) async fn retry(api: &Api, id: JobId, unknown: Error) -> Result<JobView> {
    let (_, records) = members(api, id, unknown).await?;
    let is_over = |job: &&Record| matches!(job.state, State::Failed | State::Cancelled);
    let mut ended = records.iter().filter(is_over).peekable();
    if ended.peek().is_none() {
        return Err(none_to_retry(id).into());
    }
    for record in ended {
        match api.queue.retry(record.id).await {
            Err(error) if error.reason() == Reason::QueueUnavailable => return Err(error),
            _ => {}
        }
    }
    again(api, id).await
}

async fn members(api: &Api, id: JobId, unknown: Error) -> Result<(Batch, Vec<Record>)> {
    api.queue.batch(id).await?.ok_or(unknown)
}

async fn again(api: &Api, id: JobId) -> Result<JobView> {
    let view = batch(api, id).await?;
    view.ok_or_else(|| Error::internal(format!("the batch {id} is gone")))
}
