//! `POST /v1/warm`: what a manifest would do on this host, and the jobs that do it. Nothing is asked for; whoever wants
//! the night sends the jobs to `POST /v1/jobs`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State as Shared;
use futures_util::future::BoxFuture;
use larder_jobs::Invalid;
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::Api;
use super::problem::Failure;
use super::scout::Stop;
use crate::error::Result;
use crate::warm::{Manifest, Syntax};

/// The plan of a manifest, as JSON; the worker's, handed in where all rooms are put together.
pub type Warmer = Arc<dyn Fn(Manifest, CancellationToken) -> BoxFuture<'static, Result<Value>> + Send + Sync>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    manifest: String,
    #[serde(default)]
    syntax: Syntax,
}

pub(super) async fn plan(Shared(api): Shared<Api>, bytes: Bytes) -> Result<Json<Value>, Failure> {
    let body: Body = serde_json::from_slice(&bytes).map_err(|error| {
        let hint = r#"send {"manifest": "the text of the file", "syntax": "toml"}"#;
        Invalid::new(format!("the body is not what is needed: {error}"), hint)
    })?;
    let scout = api.scout.clone();
    let read = tokio::task::spawn_blocking(move || {
        Manifest::read(&body.manifest, body.syntax, |name| scout.registry().model(name))
    });
    let manifest =
        read.await.map_err(|died| crate::error::Error::internal(format!("reading died: {died}")))??;
    let stop = Stop(CancellationToken::new());
    Ok(Json((api.warmer)(manifest, stop.0.clone()).await?))
}
