//! larder's queue with everything that a running larder does beside the jobs: being there, tidying, counting.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use larder::config::{Config, Environment, Sources};
use larder::queue::{self, JobStore as _, Redis};
use larder_jobs::client::Address;
use tokio_util::sync::CancellationToken;

/// How often larder's metrics count a queue in which nothing happens.
const SAMPLE: Duration = Duration::from_secs(15);

/// The queue at `REDIS_URL` with larder's defaults, but for room for the large backlog.
pub(crate) fn store() -> Result<Arc<Redis>> {
    let mut config = Config::load(&Sources::default(), &Environment::of(&[]))?.queue;
    config.max_queued = 200_000;
    let address = Address::new(&queue_bench::redis_url()?, "larder")?;
    Ok(Arc::new(Redis::new(address, config, "bench".parse()?)))
}

/// What goes on beside the jobs, for as long as the process lives.
pub(crate) fn attend(store: &Arc<Redis>, lease: Duration) {
    let stop = CancellationToken::new();
    let (attending, stopped) = (Arc::clone(store), stop.clone());
    tokio::spawn(async move { attending.attend_until(&stopped).await });
    let (tidied, stopped) = (Arc::clone(store), stop.clone());
    tokio::spawn(async move { queue::reap_until(&*tidied, lease, &stopped).await });
    let counted = Arc::clone(store);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(SAMPLE).await;
            if let Err(error) = counted.stats().await {
                eprintln!("the queue cannot be counted: {error}");
            }
        }
    });
    std::mem::forget(stop);
}
