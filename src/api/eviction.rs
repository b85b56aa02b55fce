//! What an eviction would do, and nothing else.

use axum::Json;
use axum::extract::{RawQuery, State as Shared};
use jiff::Timestamp;
use larder_jobs::{Evict, Invalid, ModelRef};

use super::Api;
use super::models::parameters;
use super::problem::Failure;
use crate::error::blocking;
use crate::keeper::PlanView;

/// `model=owner/name[@revision]`, `free=20GB` or `older_than=30d`; without any of them what the watermarks ask for.
fn wanted(query: Option<&str>) -> Result<Evict, Invalid> {
    let [model, free, older_than] = parameters(query, ["model", "free", "older_than"])?;
    let model: Option<ModelRef> = model.map(|text| text.parse()).transpose()?;
    let wanted = Evict {
        repo: model.as_ref().map(|model| model.repo().clone()),
        revision: model.and_then(|model| model.revision().cloned()),
        free_bytes: free.map(|text| text.parse()).transpose()?,
        older_than: older_than.map(|text| text.parse()).transpose()?,
        dry_run: true,
    };
    let is_empty = wanted.repo.is_none() && wanted.free_bytes.is_none() && wanted.older_than.is_none();
    if !is_empty {
        wanted.validate()?;
    }
    Ok(wanted)
}

pub(super) async fn plan(
    Shared(api): Shared<Api>,
    RawQuery(query): RawQuery,
) -> Result<Json<PlanView>, Failure> {
    let (wanted, keeper) = (wanted(query.as_deref())?, api.keeper.clone());
    let plan = blocking(move || {
        let now = Timestamp::now();
        keeper.plan_view(&keeper.goal(&wanted, now)?, now)
    });
    Ok(Json(plan.await?))
}
