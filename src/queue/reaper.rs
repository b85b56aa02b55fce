//! The task that tidies the queue: jobs of vanished workers go back, old ended jobs are forgotten.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use larder_jobs::JobId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::JobStore;

/// Bounds of the time between two rounds.
const EVERY_MIN: Duration = Duration::from_millis(50);
const EVERY_MAX: Duration = Duration::from_secs(15);

/// Tidies `store` until `stop`, at least four times in each `lease` (`queue.lease`).
///
/// Jobs are taken from their workers only after the store has answered every round for one lease. After a gap
/// (the store was away, the machine slept, this process has just begun) the workers could not renew either, and
/// get the chance to do so; a pause that is counted from the failure would end before the store is back.
pub async fn reap_until(store: &dyn JobStore, lease: Duration, stop: &CancellationToken) {
    let every = (lease / 4).clamp(EVERY_MIN, EVERY_MAX);
    let gap = SignedDuration::try_from(every + lease / 2).unwrap_or(SignedDuration::MAX);
    let nobody = JobId::new(Timestamp::UNIX_EPOCH, 0);
    let mut answering = None;
    let mut failing = false;
    let mut last = Timestamp::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        // The wall clock goes on while the machine sleeps, the timer does not.
        let now = Timestamp::now();
        if now.duration_since(last) > gap {
            tracing::info!("the clock jumped; waiting one lease before jobs are taken from their workers");
            answering = None;
        }
        last = now;
        let ripe = answering.is_some_and(|since: Instant| since.elapsed() >= lease);
        let round = if ripe { store.reap().await.map(drop) } else { store.get(nobody).await.map(drop) };
        match round {
            Ok(()) => {
                answering.get_or_insert_with(Instant::now);
                failing = false;
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, hint = error.hint(), "the queue cannot be tidied; trying on");
                }
                answering = None;
                failing = true;
            }
        }
    }
}
