//! The hours in which a download may run: outside of them it waits, or goes on at the rate that is left to it.
//!
//! The clock is that of the queue, as for every other time of a job. Somebody who joins a job may widen its window or its
//! bandwidth; a job that runs looks for that now and then, and before it stops.

use std::convert::Infallible;
use std::time::Duration;

use larder_jobs::{Bandwidth, Download, Job, Reason, Work};

use super::Context;
use crate::error::{Error, Result};
use crate::hub::{JobLimit, Limits};
use crate::plan::{Flow, Hours};
use crate::queue::Lease;

/// How often a running job looks whether its window or its bandwidth was widened.
const LOOK: Duration = Duration::from_secs(5);

/// The hours of `job`; `None` if it may run at any time.
pub(super) fn of(job: &Job) -> Option<Hours> {
    let Work::Download(Download { window, bandwidth, bandwidth_outside, .. }) = &job.work else {
        return None;
    };
    let windows = window.clone()?;
    Some(Hours { windows, inside: *bandwidth, outside: *bandwidth_outside })
}

/// The name of the bucket that all jobs with these hours share.
fn bucket(hours: &Hours) -> String {
    let bytes = |bandwidth: Option<Bandwidth>| bandwidth.map_or(0, Bandwidth::bytes);
    format!("{} {} {}", hours.windows, bytes(hours.inside), bytes(hours.outside))
}

/// Has the job share the rate of the hour.
///
/// # Errors
/// `outside_window`, with the time until the next opening, if nothing may come now.
fn apply(hours: &Hours, lease: &Lease, limit: &JobLimit) -> Result<()> {
    let until = match hours.allow(lease.now()) {
        Flow::At(rate) => {
            limit.share(&bucket(hours), rate);
            return Ok(());
        }
        Flow::Nothing { until } => until,
    };
    let when = until.map_or_else(String::new, |until| format!(", and opens at {until}"));
    Err(Error::new(
        Reason::OutsideWindow,
        format!("the window {} is closed{when}", hours.windows),
        "wait, or ask for the model without a window to have it at once",
    )
    .with_retry_after(until.map(|until| lease.until(until))))
}

/// How long nothing changes, as far as the clock is concerned.
fn rest(hours: &Hours, lease: &Lease) -> Duration {
    let until = hours.windows.phase(lease.now()).until;
    until.map_or(LOOK, |until| lease.until(until).min(LOOK))
}

/// The limit of a download that has hours; `None` for every other job.
///
/// # Errors
/// `outside_window` if it may not run now.
pub(super) fn enter(job: &Job, lease: &Lease, context: &Context) -> Result<Option<JobLimit>> {
    let Some(hours) = of(job) else { return Ok(None) };
    let limit = context.hub.limits().job(lease.id(), None);
    apply(&hours, lease, &limit)?;
    Ok(Some(limit))
}

/// Ends when the hours of a job are over, with the error that stops it; never for a job without hours.
pub(super) async fn over(lease: &Lease, hours: Option<(Hours, JobLimit)>) -> Error {
    let Some((mut hours, limit)) = hours else { return std::future::pending().await };
    loop {
        tokio::time::sleep(rest(&hours, lease)).await;
        if let Some(job) = lease.job().await {
            let Some(new) = of(&job) else {
                limit.share_nothing();
                return std::future::pending().await;
            };
            hours = new;
        }
        if let Err(over) = apply(&hours, lease, &limit) {
            return over;
        }
    }
}

/// Gives a running download the bandwidth of whoever joined it from elsewhere and allows more; never ends.
pub(super) async fn widened(job: &Job, lease: &Lease, limits: &Limits) -> Infallible {
    let of = |job: &Job| match &job.work {
        Work::Download(want) if want.window.is_none() => want.bandwidth,
        _ => None,
    };
    let mut bandwidth = of(job);
    while bandwidth.is_some() {
        tokio::time::sleep(LOOK).await;
        let now = lease.job().await.map_or(bandwidth, |job| of(&job));
        // What somebody has set for this attempt by hand stays as long as nobody joins.
        if now != bandwidth {
            limits.widen_job(&lease.id(), now);
            bandwidth = now;
        }
    }
    std::future::pending().await
}
