//! Liveness and readiness; neither waits for a disk, a hub or a queue.

use axum::Json;
use axum::extract::State as Shared;
use larder_jobs::Reason;
use schemars::JsonSchema;
use serde::Serialize;

use super::Api;
use super::problem::Failure;

/// What a ready larder says of itself.
#[derive(Serialize, JsonSchema)]
pub(super) struct Ready {
    ready: bool,
    host: String,
    version: &'static str,
    /// Set for a while after the store was lost: nothing is deleted automatically until then.
    eviction_off_until: Option<jiff::Timestamp>,
}

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(Shared(api): Shared<Api>) -> Result<Json<Ready>, Failure> {
    if api.keeper.ledger().has_failed() {
        return Err(Failure::new(
            Reason::IoError,
            "larder's store has failed",
            "check the disk of state.path, then restart larder; staged models are not affected",
        ));
    }
    // As of the last look: a probe waits for nothing.
    if api.sampler.latest().queue.as_ref().is_none_or(|queue| queue.value.is_none()) {
        return Err(Failure::new(
            Reason::QueueUnavailable,
            "the queue is away; running jobs go on, new ones cannot be taken",
            "see the log for why (larder serve names the Redis); larder tries on",
        ));
    }
    let shelf = api.keeper.ledger().shelf();
    Ok(Json(Ready {
        ready: true,
        host: api.host.to_string(),
        version: env!("CARGO_PKG_VERSION"),
        eviction_off_until: shelf.eviction_off_until,
    }))
}
