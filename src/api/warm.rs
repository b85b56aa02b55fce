//! `POST /v1/warm`: what a manifest would do, and the jobs that do it; nothing is asked for. `POST /v1/warm/jobs` asks for
//! them, for all or for none.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::future::BoxFuture;
use larder_jobs::client::Title;
use larder_jobs::{Invalid, Job, JobId, Reason};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::problem::Failure;
use super::scout::Stop;
use super::{Api, place};
use crate::error::{Error, Result};
use crate::warm::{Manifest, Syntax};

/// Most characters of a manifest's name.
const MAX_NAME: usize = 128;

/// The plan of a manifest, as JSON; the worker's, handed in where all rooms are put together.
pub type Warmer = Arc<dyn Fn(Manifest, CancellationToken) -> BoxFuture<'static, Result<Value>> + Send + Sync>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    manifest: String,
    #[serde(default)]
    syntax: Syntax,
    /// What the batch is called.
    #[serde(default)]
    name: Option<String>,
    /// Who asks.
    #[serde(default)]
    requested_by: Option<String>,
}

pub(super) async fn plan(Shared(api): Shared<Api>, bytes: Bytes) -> Result<Json<Value>, Failure> {
    Ok(Json(planned(&api, body(&bytes)?).await?))
}

pub(super) async fn ask(Shared(api): Shared<Api>, bytes: Bytes) -> Result<Response, Failure> {
    let body = body(&bytes)?;
    let title = Title {
        id: JobId::random(jiff::Timestamp::now()),
        requested_by: body.requested_by.clone().or_else(|| Some("warm".into())),
        idempotency_key: None,
        name: body.name.clone().or_else(|| Some("manifest".into())),
        job: None,
    };
    let plan = planned(&api, body).await?;
    let jobs: Vec<Job> = serde_json::from_value(plan["jobs"].clone())
        .map_err(|error| Error::internal(format!("a plan with jobs that are none: {error}")))?;
    if jobs.is_empty() {
        return Err(Failure::new(
            Reason::InvalidRequest,
            "nothing of the manifest can be asked for: what must be there by the deadline cannot be, or no host takes it",
            "see `dropped` of POST /v1/warm; drop some models, move the deadline, or set impossible = \"warn\"",
        )
        .status(StatusCode::CONFLICT));
    }
    let (created, id) = api.queue.enqueue_all(title, jobs).await?;
    let batch = place::batch(&api, id).await?;
    let place = format!("/v1/jobs/{id}");
    let answer = json!({
        "id": id, "created": created, "batch": batch, "finishes": plan["finishes"], "dropped": plan["dropped"],
    });
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(answer)).into_response())
}

fn body(bytes: &Bytes) -> Result<Body, Invalid> {
    let hint = r#"send {"manifest": "the text of the file", "syntax": "toml"}"#;
    let body: Body = serde_json::from_slice(bytes)
        .map_err(|error| Invalid::new(format!("the body is not what is needed: {error}"), hint))?;
    for (field, text) in [("name", &body.name), ("requested_by", &body.requested_by)] {
        let is_long = |text: &String| text.is_empty() || text.chars().count() > MAX_NAME;
        if text.as_ref().is_some_and(|text| is_long(text) || text.chars().any(char::is_control)) {
            let what = format!("`{field}` is empty, longer than 128 characters or has control characters");
            return Err(Invalid::new(what, "use a short printable text"));
        }
    }
    Ok(body)
}

async fn planned(api: &Api, body: Body) -> Result<Value, Failure> {
    let scout = api.scout.clone();
    let read = tokio::task::spawn_blocking(move || {
        Manifest::read(&body.manifest, body.syntax, |name| scout.registry().model(name))
    });
    let manifest = read.await.map_err(|died| Error::internal(format!("reading died: {died}")))??;
    let stop = Stop(CancellationToken::new());
    Ok((api.warmer)(manifest, stop.0.clone()).await?)
}
