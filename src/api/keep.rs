//! Pins and leases: who wants a model kept, and for how long; and what was evicted by mistake.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State as Shared};
use jiff::{SignedDuration, Timestamp};
use larder_jobs::{Invalid, MAX_LEASE, MIN_LEASE, Revision, Span};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Api;
use super::body::object;
use super::models::{ModelList, model, parameters};
use super::problem::Failure;

/// Most characters of a holder's name.
const MAX_HOLDER: usize = 128;

pub(super) async fn pin(
    Shared(api): Shared<Api>,
    Path((owner, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Json<ModelList>, Failure> {
    set_pin(&api, &owner, &name, query.as_deref(), true).await
}

pub(super) async fn unpin(
    Shared(api): Shared<Api>,
    Path((owner, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Json<ModelList>, Failure> {
    set_pin(&api, &owner, &name, query.as_deref(), false).await
}

async fn set_pin(
    api: &Api,
    owner: &str,
    name: &str,
    query: Option<&str>,
    pinned: bool,
) -> Result<Json<ModelList>, Failure> {
    let [revision] = parameters(query, ["revision"])?;
    let model = model(owner, name, revision.as_deref())?;
    let models = api.keeper.pin(&model, pinned).await?;
    tracing::info!(%model, pinned, "a pin was set or taken away");
    Ok(Json(ModelList { models }))
}

/// A lease that somebody wants.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Who needs the model; asking again under the same name renews the lease.
    holder: String,
    /// For how long from now on.
    ttl: Span,
    /// Of one revision only.
    revision: Option<Revision>,
}

fn wanted(body: &Bytes) -> Result<Wanted, Invalid> {
    let wanted: Wanted = object(body).map_err(|error| {
        Invalid::new(format!("the body is no lease: {error}"), r#"send {"holder": "pod-7", "ttl": "15m"}"#)
    })?;
    if !(MIN_LEASE..=MAX_LEASE).contains(&wanted.ttl.get()) {
        return Err(Invalid::new(
            format!("a lease of {} is not between 1s and 366 days", wanted.ttl),
            "set for example 15m, and renew it while the model is needed",
        ));
    }
    checked_holder(&wanted.holder)?;
    Ok(wanted)
}

fn checked_holder(holder: &str) -> Result<(), Invalid> {
    if holder.is_empty() || holder.chars().count() > MAX_HOLDER || holder.chars().any(char::is_control) {
        return Err(Invalid::new(
            "`holder` is empty, longer than 128 characters or has control characters",
            "use a short printable name, for example that of the pod",
        ));
    }
    Ok(())
}

pub(super) async fn lease(
    Shared(api): Shared<Api>,
    Path((owner, name)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<ModelList>, Failure> {
    let wanted = wanted(&body)?;
    let model = model(&owner, &name, wanted.revision.as_ref().map(Revision::as_str))?;
    let ttl = SignedDuration::try_from(wanted.ttl.get()).unwrap_or(SignedDuration::MAX);
    let until = Timestamp::now().checked_add(ttl).unwrap_or(Timestamp::MAX);
    let models = api.keeper.lease(&model, &wanted.holder, until).await?;
    Ok(Json(ModelList { models }))
}

pub(super) async fn release(
    Shared(api): Shared<Api>,
    Path((owner, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Json<ModelList>, Failure> {
    let [revision, holder] = parameters(query.as_deref(), ["revision", "holder"])?;
    if let Some(holder) = &holder {
        checked_holder(holder)?;
    }
    let model = model(&owner, &name, revision.as_deref())?;
    let models = api.keeper.release(&model, holder.as_deref()).await?;
    Ok(Json(ModelList { models }))
}

pub(super) async fn restore(
    Shared(api): Shared<Api>,
    Path((owner, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Json<ModelList>, Failure> {
    let [revision] = parameters(query.as_deref(), ["revision"])?;
    let model = model(&owner, &name, revision.as_deref())?;
    Ok(Json(ModelList { models: api.keeper.restore(&model).await? }))
}
