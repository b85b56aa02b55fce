//! The hosts of the fleet: who is there, who has what, who takes no jobs. A larder with a queue of its own knows one host.

use axum::Json;
use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::StatusCode;
use larder_jobs::client::{Queue, near_hosts};
use larder_jobs::{CommitId, HeldModel, HostName, HostState, Invalid, Labels, ModelRef, Presence, Reason};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Api;
use super::jobs::requester;
use super::models::parameters;
use super::problem::Failure;
use crate::error::Result;

/// Several hosts.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HostList {
    /// The hosts, by name.
    pub hosts: Vec<HostView>,
}

/// A host and, if somebody asked, models in its cache.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HostView {
    /// The host.
    #[serde(flatten)]
    pub host: HostState,
    /// All of its models, or those that were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Vec<HeldModel>>,
}

/// Every host that is known, those with the labels and with the model if some are named.
pub(super) async fn list(
    Shared(api): Shared<Api>,
    RawQuery(query): RawQuery,
) -> Result<Json<HostList>, Failure> {
    let [model, labels] = parameters(query.as_deref(), ["model", "labels"])?;
    if labels.as_ref().is_some_and(String::is_empty) {
        return Err(Invalid::new("`labels` is empty", "name one, such as zone=a, or leave it out").into());
    }
    let labels: Labels = labels.map(|text| text.parse()).transpose()?.unwrap_or_default();
    let model: Option<ModelRef> = model.map(|text| text.parse()).transpose()?;
    let hosts = all(&api).await?.into_iter().filter(|host| labels.select(&host.labels()));
    let Some(model) = model else {
        return Ok(Json(HostList { hosts: hosts.map(|host| HostView { host, held: None }).collect() }));
    };
    let mut held = match &api.fleet {
        Some(fleet) => fleet.holders(model.repo()).await?,
        None => api.portrait.stock().into_iter().filter(|held| held.repo == *model.repo()).collect(),
    };
    // A branch is the hub's to resolve, and means every commit; a commit says which one it is.
    let commit = model.revision().and_then(|revision| revision.as_str().parse::<CommitId>().ok());
    held.retain(|held| commit.as_ref().is_none_or(|commit| held.commit == *commit));
    let of = |name: &HostName| held.iter().filter(|held| held.host == *name).cloned().collect::<Vec<_>>();
    let with = hosts.map(|host| HostView { held: Some(of(&host.name)), host });
    Ok(Json(HostList {
        hosts: with.filter(|view| view.held.as_ref().is_some_and(|held| !held.is_empty())).collect(),
    }))
}

/// One host with all of its models.
pub(super) async fn show(
    Shared(api): Shared<Api>,
    Path(name): Path<String>,
) -> Result<Json<HostView>, Failure> {
    Ok(Json(one(&api, &name.parse()?).await?))
}

pub(super) async fn drain(
    Shared(api): Shared<Api>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<(StatusCode, Json<HostView>), Failure> {
    let (name, by) = (name.parse()?, requester(query.as_deref())?);
    fleet(&api)?.drain(&name, by.as_deref()).await?;
    Ok((StatusCode::OK, Json(one(&api, &name).await?)))
}

pub(super) async fn undrain(
    Shared(api): Shared<Api>,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<HostView>), Failure> {
    let name = name.parse()?;
    fleet(&api)?.undrain(&name).await?;
    Ok((StatusCode::OK, Json(one(&api, &name).await?)))
}

fn fleet(api: &Api) -> Result<&Queue, Failure> {
    api.fleet.as_ref().ok_or_else(|| {
        Failure::new(
            Reason::InvalidRequest,
            format!("this larder ({}) has a queue of its own, and no fleet", api.host),
            "stop larder serve to let nothing start, or set queue.url to the Redis of a fleet",
        )
    })
}

async fn all(api: &Api) -> Result<Vec<HostState>> {
    match &api.fleet {
        Some(fleet) => Ok(fleet.hosts().await?),
        None => Ok(vec![alone(api).await?]),
    }
}

async fn one(api: &Api, name: &HostName) -> Result<HostView, Failure> {
    let hosts = all(api).await?;
    let Some(host) = hosts.iter().find(|host| host.name == *name).cloned() else {
        let what = format!("no host of the fleet is called {name}");
        return Err(Failure::new(Reason::NotFound, what, near_hosts(name, &hosts)));
    };
    let held = match &api.fleet {
        Some(fleet) => fleet.stock(name).await?,
        None => api.portrait.stock(),
    };
    Ok(HostView { host, held: Some(held) })
}

/// The only host of a machine without a fleet.
async fn alone(api: &Api) -> Result<HostState> {
    let stats = api.queue.stats().await?;
    let count = |of: fn(larder_jobs::State) -> bool| -> u64 {
        let counts = stats.jobs.iter().filter(|((_, state), _)| of(*state));
        counts.map(|(_, count)| *count as u64).sum()
    };
    Ok(HostState {
        name: api.portrait.name.clone(),
        state: Presence::Up,
        seen_at: Some(jiff::Timestamp::now()),
        drained: None,
        queued: count(|state| state == larder_jobs::State::Queued),
        waiting: count(|state| state == larder_jobs::State::Waiting),
        running: Some(count(larder_jobs::State::is_running)),
        about: Some(api.portrait.record().await?),
    })
}
