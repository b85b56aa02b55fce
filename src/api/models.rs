//! The models in this host's cache.

use axum::Json;
use axum::extract::{Path, State as Shared};
use larder_jobs::{Reason, RepoId};
use serde::Serialize;

use super::Api;
use super::problem::Failure;
use crate::ledger::ModelView;

#[derive(Serialize)]
pub(super) struct ModelList {
    models: Vec<ModelView>,
}

pub(super) async fn list(Shared(api): Shared<Api>) -> Json<ModelList> {
    Json(ModelList { models: api.ledger.shelf().views() })
}

pub(super) async fn show(
    Shared(api): Shared<Api>,
    Path((owner, name)): Path<(String, String)>,
) -> Result<Json<ModelList>, Failure> {
    let repo: RepoId = format!("{owner}/{name}").parse()?;
    let models: Vec<_> = api.ledger.shelf().views().into_iter().filter(|view| view.repo == repo).collect();
    if models.is_empty() {
        return Err(Failure::new(
            Reason::NotFound,
            format!("{repo} is not in the cache of this host"),
            format!("stage it: larder stage {repo}"),
        ));
    }
    Ok(Json(ModelList { models }))
}
