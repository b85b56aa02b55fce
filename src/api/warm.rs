//! `POST /v1/warm`: what a manifest would do, and the jobs that do it; nothing is asked for. `POST /v1/warm/jobs` asks for
//! them, for all or for none.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::future::BoxFuture;
use larder_jobs::client::Title;
use larder_jobs::{Common, Invalid, JobId, JobView, Kind, Reason};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use tokio_util::sync::CancellationToken;

use super::body::object;
use super::guard::Subject;
use super::jobs::{about, key_of};
use super::problem::Failure;
use super::scout::Stop;
use super::{Api, place};
use crate::error::{Error, Result};
use crate::plan::{Dropped, Finish};
use crate::warm::{Impossible, Manifest, NightView, Syntax};

/// Most characters of a manifest's name.
const MAX_NAME: usize = 128;

/// Dropped models that an error names.
const MAX_TOLD: usize = 3;

/// The plan of a manifest; the worker's, handed in where all rooms are put together.
pub type Warmer =
    Arc<dyn Fn(Manifest, CancellationToken) -> BoxFuture<'static, Result<NightView>> + Send + Sync>;

/// A manifest, and who asks for its jobs.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WarmBody")]
pub(super) struct Body {
    /// The text of the file, at most 1 MiB.
    manifest: String,
    /// How it is written.
    #[serde(default)]
    syntax: Syntax,
    /// What the batch is called.
    #[serde(default)]
    #[schemars(length(min = 1, max = MAX_NAME))]
    name: Option<String>,
    /// Who asks.
    #[serde(default)]
    requested_by: Option<String>,
    /// A second request with this key answers the batch of the first.
    #[serde(default)]
    idempotency_key: Option<String>,
    /// Who is told when all of it has ended.
    #[serde(default)]
    notify: Option<String>,
}

/// What became of a manifest that was asked for.
#[derive(Serialize, JsonSchema)]
pub(super) struct WarmView {
    /// The batch.
    id: JobId,
    /// False if the batch was asked for before with the same key.
    created: bool,
    /// The batch as one job.
    batch: Option<JobView>,
    /// Whether all of it is there by the deadline.
    finishes: Finish,
    /// What is not asked for.
    dropped: Vec<Dropped>,
}

pub(super) async fn plan(Shared(api): Shared<Api>, bytes: Bytes) -> Result<Json<NightView>, Failure> {
    Ok(Json(planned(&api, body(&bytes)?).await?))
}

pub(super) async fn ask(
    Shared(api): Shared<Api>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Failure> {
    let mut body = body(&bytes)?;
    body.idempotency_key = key_of(&headers, body.idempotency_key.take())?;
    if let Some(url) = &body.notify {
        api.notifier.check(url)?;
    }
    let title = Title {
        id: JobId::random(jiff::Timestamp::now()),
        requested_by: body.requested_by.clone().or_else(|| Some("warm".into())),
        idempotency_key: body.idempotency_key.clone(),
        name: body.name.clone().or_else(|| Some("manifest".into())),
        job: None,
        asks: hex::encode(sha2::Sha256::digest(&body.manifest)),
        notify: body.notify.clone(),
    };
    let view = planned(&api, body).await?;
    if view.jobs.is_empty() {
        return Err(nothing(&view).status(StatusCode::CONFLICT));
    }
    let NightView { plan, jobs, .. } = view;
    let subject =
        Subject { kind: Some(Kind::Download.word()), name: title.name.clone(), ..Subject::default() };
    let (created, id) = api.queue.enqueue_all(title, jobs).await?;
    let batch = place::batch(&api, id).await?;
    let place = format!("/v1/jobs/{id}");
    let answer = WarmView { id, created, batch, finishes: plan.finishes, dropped: plan.dropped };
    let subject = Subject { job: Some(id.to_string()), ..subject };
    Ok(about(subject, (StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(answer)).into_response()))
}

/// Why a plan comes to no jobs: the first of what it drops is named.
fn nothing(view: &NightView) -> Failure {
    let dropped = &view.plan.dropped;
    let told = dropped.iter().take(MAX_TOLD).map(|one| format!("{}: {}", one.model, one.why));
    let mut told: Vec<_> = told.collect();
    if dropped.len() > MAX_TOLD {
        told.push(format!("and {} more", dropped.len() - MAX_TOLD));
    }
    let (what, hint) = match view.impossible {
        Impossible::Warn => ("none of the manifest can be there", "drop them, or move the deadline"),
        Impossible::Refuse => (
            "not all of the manifest can be there, and it refuses the rest",
            "drop them, move the deadline, or set impossible = \"warn\"",
        ),
    };
    let what = format!("nothing is asked for: {what}; {}", told.join("; "));
    Failure::new(Reason::InvalidRequest, what, format!("{hint}; see `dropped` of POST /v1/warm"))
}

fn body(bytes: &Bytes) -> Result<Body, Invalid> {
    let hint = r#"send {"manifest": "the text of the file", "syntax": "toml"}"#;
    let body: Body = object(bytes)
        .map_err(|error| Invalid::new(format!("the body is not what is needed: {error}"), hint))?;
    let is_long = |text: &String| text.is_empty() || text.chars().count() > MAX_NAME;
    if body.name.as_ref().is_some_and(|text| is_long(text) || text.chars().any(char::is_control)) {
        let what = "`name` is empty, longer than 128 characters or has control characters";
        return Err(Invalid::new(what, "use a short printable text"));
    }
    let (requested_by, idempotency_key) = (body.requested_by.clone(), body.idempotency_key.clone());
    Common { requested_by, idempotency_key, notify: body.notify.clone(), ..Common::default() }.validate()?;
    Ok(body)
}

async fn planned(api: &Api, body: Body) -> Result<NightView, Failure> {
    let scout = api.scout.clone();
    let read = tokio::task::spawn_blocking(move || {
        Manifest::read(&body.manifest, body.syntax, |name| scout.registry().model(name))
    });
    let manifest = read.await.map_err(|died| Error::internal(format!("reading died: {died}")))??;
    let stop = Stop(CancellationToken::new());
    Ok((api.warmer)(manifest, stop.0.clone()).await?)
}
