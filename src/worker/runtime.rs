//! The handlers on apalis: the only file of this room that names it.
//!
//! A job runs in a task of its own, so a panic is a verdict and not the end of the worker, and a job that
//! computes does not hold the worker's polling. Every attempt ends in exactly one verdict.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use apalis::prelude::{Data, WorkerBuilder};
use jiff::Timestamp;
use larder_jobs::{Job, Kind, Progress, Reason, Work};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::download::Earlier;
use super::{Context, download, evict, hours, preload, profile, verify};
use crate::error::{Error, Result};
use crate::queue::{Assignment, Done, JobStore, Lease, RELEASE, Settled, Source, Stop, Verdict};

/// Works off the jobs of `kind` until `context.drain` fires and the running ones have gone back.
pub async fn run(kind: Kind, slots: usize, lease: Duration, store: Arc<dyn JobStore>, context: Context) {
    let source = Source::start(store, kind, slots, lease, context.drain.clone());
    let worker = WorkerBuilder::new(format!("larder-{kind}")).backend(source).data(context).build(handle);
    if let Err(error) = worker.run().await {
        tracing::error!(%error, %kind, "the worker ended early");
    }
}

async fn handle(assignment: Assignment, context: Data<Context>) -> Result<(), Infallible> {
    let context = (*context).clone();
    let Assignment { job, record, lease } = assignment;
    let model = job.work.model().0.map(ToString::to_string);
    let (id, kind, attempt) = (record.id, record.kind, record.attempts);
    let span = tracing::info_span!("job", %id, %kind, model, attempt);
    let Progress { bytes_fetched, evicted, .. } = record.progress;
    let begun = Begun { earlier: Earlier { bytes_fetched, evicted }, asked_at: record.created_at };
    let body = perform(job, begun, Arc::clone(&lease), context.clone()).instrument(span.clone());
    let verdict = match tokio::spawn(body).await {
        Ok(result) => verdict(result, &context),
        Err(died) if died.is_panic() => Verdict::panicked(&panic_text(died.into_panic())),
        Err(_) => Verdict::Interrupted,
    };
    settle(&lease, verdict, &context).instrument(span).await;
    Ok(())
}

/// What earlier attempts of a job left to the next one.
struct Begun {
    earlier: Earlier,
    asked_at: Timestamp,
}

/// Runs the job, and stops it when the lease, the drain or the deadline says so.
async fn perform(job: Job, begun: Begun, lease: Arc<Lease>, context: Context) -> Result<Done> {
    let stop = CancellationToken::new();
    let limit = hours::enter(&job, &lease, &context)?;
    let cause = {
        let (stop, lease, drain, deadline) =
            (stop.clone(), Arc::clone(&lease), context.drain.clone(), job.common.deadline);
        let hours = hours::of(&job).zip(limit.clone());
        let (asked, limits) = (job.clone(), context.hub.limits().clone());
        tokio::spawn(async move {
            let cause = tokio::select! {
                never = hours::widened(&asked, &lease, &limits) => match never {},
                () = lease.stop_requested().cancelled() => stopped(&lease),
                () = drain.cancelled() => interrupted(),
                () = passed(&lease, deadline) => missed(),
                over = hours::over(&lease, hours) => over,
            };
            stop.cancel();
            cause
        })
    };
    let report = |state, progress| lease.set(state, progress);
    let result = match &job.work {
        Work::Download(want) => {
            tracing::info!(model = %want.model(), "staging");
            let limit = limit.unwrap_or_else(|| context.hub.limits().job(lease.id(), want.bandwidth));
            download::variant(&context, want, begun.earlier, limit, report, &stop).await
        }
        Work::Evict(want) => evict::evict(&context, want, report, &stop).await,
        Work::Verify(want) => {
            let (result, again) = verify::verify(&context, want, begun.asked_at, report, &stop).await;
            for job in again {
                if let Err(error) = lease.follow_up(job).await {
                    tracing::warn!(%error, "what was found damaged cannot be asked for again");
                }
            }
            result
        }
        Work::Profile(want) => profile::profile(&context, want, report, &stop).await,
        Work::Preload(want) => preload::preload(&context, want, report, &stop).await,
        work => Err(Error::new(
            Reason::InvalidRequest,
            format!("this larder does not serve {} jobs", work.kind()),
            "upgrade larder on this host",
        )),
    };
    if !stop.is_cancelled() {
        cause.abort();
        return result;
    }
    // The step that was stopped reports its own error; the cause is the better word.
    match (result, cause.await) {
        (Err(_), Ok(cause)) => Err(cause),
        (result, _) => result,
    }
}

fn stopped(lease: &Lease) -> Error {
    match lease.stop_cause() {
        Some(Stop::Lost) => {
            Error::new(Reason::LeaseLost, "another worker took the job over", "nothing to do")
        }
        Some(Stop::Cancelled) | None => Error::new(
            Reason::Cancelled,
            "the job was cancelled",
            "ask for it again to go on; what was done is kept",
        ),
    }
}

fn interrupted() -> Error {
    Error::new(Reason::Interrupted, "the worker stops", "the job goes on when larder runs again")
}

fn missed() -> Error {
    Error::new(
        Reason::DeadlineMissed,
        "the job was not done by its deadline",
        "ask for it again with a later deadline; what was done is kept",
    )
}

async fn passed(lease: &Lease, deadline: Option<Timestamp>) {
    let Some(deadline) = deadline else { return std::future::pending().await };
    tokio::time::sleep(lease.until(deadline)).await;
}

fn verdict(result: Result<Done>, context: &Context) -> Verdict {
    match Verdict::of(result) {
        // Somebody waits in front of the terminal, and no hub has ever answered.
        Verdict::RetryAfter(error)
            if error.reason() == Reason::SourceUnavailable
                && !context.hub.reached()
                && context.patience.is_some_and(super::Patience::is_over) =>
        {
            Verdict::Cancel(error)
        }
        // Its class says permanent, since a plan that does not fit never will. With a wait the plan did fit.
        Verdict::Cancel(error)
            if error.reason() == Reason::InsufficientDisk && error.retry_after().is_some() =>
        {
            let wait = error.retry_after().unwrap_or_default();
            Verdict::Snooze { error, wait }
        }
        verdict => verdict,
    }
}

async fn settle(lease: &Lease, verdict: Verdict, context: &Context) {
    announce(&verdict);
    let settled = tokio::select! {
        settled = lease.settle(verdict) => settled,
        () = over(context) => Err(Error::new(
            Reason::Interrupted,
            "the worker ends before the queue is back",
            "nothing to do: what was done is kept",
        )),
    };
    let settled = match settled {
        Ok(Settled::Done(record)) => record,
        Ok(Settled::Fenced) => return tracing::warn!("the job was another worker's by now"),
        Err(error) => return tracing::warn!(%error, "the result cannot be recorded; the job will run again"),
    };
    // What was asked for while the job ran came too late for the receipt.
    if let Err(error) = download::late_wishes(context, &settled).await {
        tracing::warn!(%error, "a late pin or lease cannot be recorded");
    }
}

/// This process is to end, and a result that the queue did not take has had its time.
async fn over(context: &Context) {
    context.drain.cancelled().await;
    tokio::time::sleep(RELEASE).await;
}

/// The one line about how an attempt ended.
fn announce(verdict: &Verdict) {
    match verdict {
        Verdict::Done(done) => tracing::info!(path = done.path.as_deref(), "done"),
        Verdict::Cancel(error) => {
            tracing::warn!(reason = %error.reason(), hint = error.hint(), "failed: {error}");
        }
        Verdict::RetryAfter(error) => {
            tracing::warn!(reason = %error.reason(), "will be tried again: {error}");
        }
        Verdict::Snooze { error, .. } => tracing::warn!(reason = %error.reason(), "waits: {error}"),
        Verdict::Interrupted => tracing::info!("goes back, its bytes are kept"),
    }
}

fn panic_text(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".into())
}
