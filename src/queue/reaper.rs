//! The task that tidies the queue: jobs of vanished workers go back, old ended jobs are forgotten.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use super::JobStore;

/// Bounds of the time between two rounds.
const EVERY_MIN: Duration = Duration::from_millis(50);
const EVERY_MAX: Duration = Duration::from_secs(15);

/// Tidies `store` until `stop`, at least four times in each `lease` (`queue.lease`).
///
/// After a gap of its own (the store did not answer, the machine slept) it first waits one lease: the
/// workers could not renew either, and get the chance to do so.
pub async fn reap_until(store: &dyn JobStore, lease: Duration, stop: &CancellationToken) {
    let every = (lease / 4).clamp(EVERY_MIN, EVERY_MAX);
    let mut wait = every;
    let mut failing = false;
    loop {
        let begun = Timestamp::now();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        // The wall clock goes on while the machine sleeps, the timer does not.
        let slept = Timestamp::now().duration_since(begun);
        let gap = SignedDuration::try_from(wait + lease / 2).unwrap_or(SignedDuration::MAX);
        if slept > gap {
            tracing::info!("the clock jumped; waiting one lease before jobs are taken from their workers");
            wait = lease;
            continue;
        }
        match store.reap().await {
            Ok(_) => {
                wait = every;
                failing = false;
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "the queue cannot be tidied; trying on");
                }
                failing = true;
                wait = lease;
            }
        }
    }
}
