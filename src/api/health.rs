//! Liveness and readiness; neither waits for a disk, a hub or a queue.

use axum::Json;
use axum::extract::State as Shared;
use larder_jobs::Reason;
use serde::Serialize;

use super::Api;
use super::problem::Failure;

/// What a ready larder says of itself.
#[derive(Serialize)]
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
    if api.ledger.has_failed() {
        return Err(Failure::new(
            Reason::IoError,
            "larder's store has failed",
            "check the disk of state.path, then restart larder; staged models are not affected",
        ));
    }
    let shelf = api.ledger.shelf();
    Ok(Json(Ready {
        ready: true,
        host: api.host.to_string(),
        version: env!("CARGO_PKG_VERSION"),
        eviction_off_until: shelf.eviction_off_until,
    }))
}
