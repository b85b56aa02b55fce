//! larder in the benchmark of queues: jobs from its store through its [`Source`], as its own worker takes
//! them, with a handler that does nothing.

mod store;

use std::convert::Infallible;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use apalis::prelude::{Data, WorkerBuilder};
use futures_util::{StreamExt as _, TryStreamExt as _};
use larder::queue::{Assignment, Done, JobStore, Settled, Source, Verdict};
use larder_jobs::{Job, Kind};
use queue_bench::{Command, Recorder, exit, now, pause, ready};
use tokio_util::sync::CancellationToken;

/// `queue.lease`, as larder has it by default.
const LEASE: Duration = Duration::from_secs(60);
/// Requests under way at once while the queue is filled.
const AT_ONCE: usize = 64;

async fn enqueue(store: &dyn JobStore, n: u64) -> Result<()> {
    // A model of its own for each, so that none joins another.
    let mut job = Job::download(format!("bench/{n}").parse()?);
    job.common.requested_by = Some(now().to_string());
    store.enqueue(job).await?;
    Ok(())
}

async fn handle(assignment: Assignment, recorder: Data<Arc<Recorder>>) -> Result<(), Infallible> {
    let at = assignment.job.common.requested_by.as_deref().and_then(|at| at.parse().ok());
    recorder.begin(at.unwrap_or_default());
    match assignment.lease.settle(Verdict::Done(Done::default())).await {
        Ok(Settled::Done(_)) => recorder.end(),
        Ok(Settled::Fenced) => eprintln!("a job was lost to another worker"),
        Err(error) => eprintln!("a job cannot be settled: {error}"),
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    exit(run().await)
}

async fn run() -> Result<()> {
    let store = store::store()?;
    match Command::from_args()? {
        Command::Preload { jobs } => {
            futures_util::stream::iter(0..jobs)
                .map(|n| enqueue(&*store, n))
                .buffer_unordered(AT_ONCE)
                .try_collect::<()>()
                .await?;
        }
        Command::Enqueue { jobs } => {
            for n in 0..jobs {
                tokio::time::sleep(pause()).await;
                enqueue(&*store, n).await?;
            }
        }
        Command::Worker { jobs, seconds, concurrency } => {
            let drain = CancellationToken::new();
            store::attend(&store, LEASE);
            let source = Source::start(store, Kind::Download, concurrency, LEASE, drain);
            let recorder = Arc::new(Recorder::new(jobs, seconds));
            let worker = WorkerBuilder::new("bench").backend(source).data(recorder).build(handle);
            ready();
            worker.run().await?;
        }
    }
    Ok(())
}
