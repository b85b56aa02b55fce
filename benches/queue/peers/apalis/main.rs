//! apalis-redis as its documentation sets it up: `poll_with_interval`, tasks spawned on the runtime.
//!
//! The wake-up by publish of its factory is not used: version 1.0 puts every pushed job into the set of
//! scheduled ones first and publishes nothing for those.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use apalis::layers::WorkerBuilderExt as _;
use apalis::prelude::{BackendExt as _, Data, ParallelizeExt as _, TaskSink as _, WorkerBuilder};
use apalis_redis::{Config, RedisStorage};
use queue_bench::{Command, Recorder, exit, now, pause, ready, redis_url};
use serde::{Deserialize, Serialize};

/// How often an idle worker asks.
const POLL: Duration = Duration::from_millis(100);
/// Jobs in one push; the script of one push grows with it.
const BULK: u64 = 500;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Noop {
    n: u64,
    at: u64,
}

async fn handle(job: Noop, recorder: Data<Arc<Recorder>>) {
    recorder.begin(job.at);
    recorder.end();
}

/// The runtime of the documentation has a thread for each core. On it polling stops within seconds, since
/// apalis-core 1.0 replaces its interval timer without polling the new one; one thread goes on.
fn main() -> ExitCode {
    let mut runtime = match std::env::var_os("BENCH_ONE_THREAD") {
        Some(_) => tokio::runtime::Builder::new_current_thread(),
        None => tokio::runtime::Builder::new_multi_thread(),
    };
    exit(runtime.enable_all().build().map_err(Into::into).and_then(|runtime| runtime.block_on(run())))
}

async fn run() -> Result<()> {
    let config = Config::default().queue("bench").batch_size(100);
    let connection = apalis_redis::connect(redis_url()?).await?;
    let mut storage = RedisStorage::<Noop>::new(connection).with_config(config);
    match Command::from_args()? {
        Command::Preload { jobs } => {
            for start in (0..jobs).step_by(BULK as usize) {
                let bulk = (start..jobs.min(start + BULK)).map(|n| Noop { n, at: now() }).collect();
                storage.push_bulk(bulk).await?;
            }
        }
        Command::Enqueue { jobs } => {
            for n in 0..jobs {
                tokio::time::sleep(pause()).await;
                storage.push(Noop { n, at: now() }).await?;
            }
        }
        Command::Worker { jobs, seconds, concurrency } => {
            let worker = WorkerBuilder::new("bench")
                .backend(storage.poll_with_interval(POLL))
                .data(Arc::new(Recorder::new(jobs, seconds)))
                .concurrency(concurrency)
                .parallelize(tokio::spawn)
                .build(handle);
            ready();
            worker.run().await?;
        }
    }
    Ok(())
}
