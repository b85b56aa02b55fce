//! The models in this host's cache, and what would become of one.

use axum::Json;
use axum::extract::{Path, RawQuery, Request, State as Shared};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use larder_jobs::{Invalid, ModelRef};
use schemars::JsonSchema;
use serde::Serialize;

use super::problem::Failure;
use super::{Api, guard, openapi, page};
use crate::error::blocking;
use crate::keeper::Verdict;
use crate::ledger::{ModelView, Repaired};

/// Models after something was done to them.
#[derive(Serialize, JsonSchema)]
pub(super) struct ModelList {
    pub(super) models: Vec<ModelView>,
}

/// The models in the cache, or a page of them.
#[derive(Serialize, JsonSchema)]
pub(super) struct ModelPage {
    models: Vec<ModelView>,
    /// The `cursor` of the next page; `null` on the last one.
    next: Option<String>,
}

/// One model: all its revisions, each with why it would be kept or evicted.
#[derive(Serialize, JsonSchema)]
pub(super) struct VerdictList {
    models: Vec<Verdict>,
}

pub(super) async fn list(
    Shared(api): Shared<Api>,
    RawQuery(query): RawQuery,
) -> Result<Json<ModelPage>, Failure> {
    let [limit, cursor] = parameters(query.as_deref(), ["limit", "cursor"])?;
    let limit = page::limit(limit.as_deref())?.unwrap_or(usize::MAX);
    let mut models = api.keeper.ledger().shelf().views(Timestamp::now());
    models.sort_by_cached_key(place);
    if let Some(cursor) = cursor {
        models.retain(|model| place(model) > cursor);
    }
    let next = page::cut(&mut models, limit, place);
    Ok(Json(ModelPage { models, next }))
}

/// The place of a revision in the list, which a page ends with: it is good also when that revision is gone.
fn place(model: &ModelView) -> String {
    format!("{}@{}", model.repo, model.commit)
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
        let place = known.iter().position(|name| *name == key).ok_or_else(|| stray(&key, &known))?;
        values[place] = Some(value.into_owned());
    }
    Ok(values)
}

/// Refuses parameters that a route does not know, also where it takes none. Probes let them pass: what asks them is
/// often told to add some.
pub(super) async fn no_stray(request: Request, next: Next) -> Response {
    let known = guard::route_of(&request).filter(|route| !route.is_probe).map(openapi::parameters_of);
    let query = request.uri().query().unwrap_or("").as_bytes();
    let stray = known.and_then(|known| {
        let (key, _) = url::form_urlencoded::parse(query).find(|(key, _)| !known.contains(&&**key))?;
        Some(stray(&key, known))
    });
    match stray {
        Some(invalid) => Failure::from(invalid).into_response(),
        None => next.run(request).await,
    }
}

fn stray(key: &str, known: &[&str]) -> Invalid {
    let what = format!("unknown parameter `{}`", key.escape_debug().take(64).collect::<String>());
    let hint =
        if known.is_empty() { "this path takes none".into() } else { format!("known: {}", known.join(", ")) };
    Invalid::new(what, hint)
}
