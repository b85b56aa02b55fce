//! The models in this host's cache, and what would become of one.

use axum::Json;
use axum::extract::{Path, RawQuery, State as Shared};
use jiff::Timestamp;
use larder_jobs::{Invalid, ModelRef};
use serde::Serialize;

use super::Api;
use super::problem::Failure;
use crate::error::blocking;
use crate::keeper::Verdict;
use crate::ledger::{ModelView, Repaired};

#[derive(Serialize)]
pub(super) struct ModelList {
    pub(super) models: Vec<ModelView>,
}

/// One model: all its revisions, each with why it would be kept or evicted.
#[derive(Serialize)]
pub(super) struct VerdictList {
    models: Vec<Verdict>,
}

pub(super) async fn list(Shared(api): Shared<Api>) -> Json<ModelList> {
    Json(ModelList { models: api.keeper.ledger().shelf().views(Timestamp::now()) })
}

pub(super) async fn show(
    Shared(api): Shared<Api>,
    Path((owner, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Json<VerdictList>, Failure> {
    let [revision] = parameters(query.as_deref(), ["revision"])?;
    let (model, keeper) = (model(&owner, &name, revision.as_deref())?, api.keeper.clone());
    let models = blocking(move || keeper.why(&model, Timestamp::now())).await?;
    Ok(Json(VerdictList { models }))
}

/// Walks the whole cache and repairs the records; tells what was repaired since this was last asked for.
pub(super) async fn reconcile(Shared(api): Shared<Api>) -> Result<Json<Repaired>, Failure> {
    let keeper = api.keeper.clone();
    Ok(Json(blocking(move || keeper.reconcile(Timestamp::now())).await?))
}

/// The model that a path and a parameter name.
pub(super) fn model(owner: &str, name: &str, revision: Option<&str>) -> Result<ModelRef, Invalid> {
    let revision = revision.map(str::parse).transpose()?;
    Ok(ModelRef::new(format!("{owner}/{name}").parse()?, revision))
}

/// The values of the parameters that a path knows; any other is refused, so that a typo does not widen what is asked for.
pub(super) fn parameters<const N: usize>(
    query: Option<&str>,
    known: [&str; N],
) -> Result<[Option<String>; N], Invalid> {
    let mut values = [const { None }; N];
    for (key, value) in url::form_urlencoded::parse(query.unwrap_or("").as_bytes()) {
        let Some(place) = known.iter().position(|name| *name == key) else {
            let what = format!("unknown parameter `{}`", key.escape_debug().take(64).collect::<String>());
            return Err(Invalid::new(what, format!("known: {}", known.join(", "))));
        };
        values[place] = Some(value.into_owned());
    }
    Ok(values)
}
