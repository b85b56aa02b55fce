//! What a model needs and what this host has: `/v1/fit`, `/v1/plan`, `/v1/registry`, `/v1/host`. Nothing is changed by any of
//! them; those that ask the hub stop when the asker goes.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{RawQuery, State as Shared};
use axum::response::{IntoResponse as _, Response};
use futures_util::future::BoxFuture;
use larder_jobs::{Download, Invalid};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::Api;
use super::models::parameters;
use super::problem::Failure;
use crate::catalogue::{Category, Model};
use crate::error::{Result, blocking};
use crate::gpu::History;
use crate::scout::{FitAsk, FitView, HostHistory, HostView, PlanAsk, PlanView};

/// What a download would do; the worker's, handed in where all rooms are put together.
pub type Planner =
    Arc<dyn Fn(Download, CancellationToken) -> BoxFuture<'static, Result<PlanView>> + Send + Sync>;

/// The registry, or a category of it.
#[derive(Serialize, JsonSchema)]
pub(super) struct RegistryView {
    /// The models, those of the operator's own file among them.
    models: Vec<Model>,
}

/// Stops what is under way when whoever asked has gone.
pub(super) struct Stop(pub(super) CancellationToken);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn body(bytes: &Bytes) -> Result<Value, Invalid> {
    serde_json::from_slice(bytes).map_err(|error| {
        Invalid::new(format!("the body is not JSON: {error}"), r#"send {"repo": "owner/name"}"#)
    })
}

pub(super) async fn fit(Shared(api): Shared<Api>, bytes: Bytes) -> Result<Json<FitView>, Failure> {
    let ask = FitAsk::from_json(body(&bytes)?, api.scout.registry())?;
    let stop = Stop(CancellationToken::new());
    Ok(Json(api.scout.fit(&ask, &stop.0).await?))
}

pub(super) async fn plan(Shared(api): Shared<Api>, bytes: Bytes) -> Result<Response, Failure> {
    let ask = PlanAsk::from_json(body(&bytes)?, api.scout.registry())?;
    let stop = Stop(CancellationToken::new());
    Ok(match ask {
        PlanAsk::Download(want) => Json((api.planner)(*want, stop.0.clone()).await?).into_response(),
        PlanAsk::Evaluation(ask) => Json(api.scout.evaluate(&ask, &stop.0).await?).into_response(),
    })
}

pub(super) async fn registry(
    Shared(api): Shared<Api>,
    RawQuery(query): RawQuery,
) -> Result<Json<RegistryView>, Failure> {
    let [category] = parameters(query.as_deref(), ["category"])?;
    let category: Option<Category> = category.map(|word| word.parse()).transpose()?;
    let models = api.scout.registry().models().iter();
    let chosen = models.filter(|model| category.is_none_or(|category| model.category == category));
    Ok(Json(RegistryView { models: chosen.cloned().collect() }))
}

pub(super) async fn host(Shared(api): Shared<Api>) -> Result<Json<HostView>, Failure> {
    Ok(Json(api.scout.host(&api.host).await?))
}

pub(super) async fn history(Shared(api): Shared<Api>) -> Result<Json<HostHistory>, Failure> {
    let scout = api.scout.clone();
    Ok(Json(blocking(move || scout.history()).await?))
}

pub(super) async fn vram(Shared(api): Shared<Api>) -> Json<History> {
    Json(api.scout.vram_history())
}
