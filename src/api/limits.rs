//! How fast bytes may come: look and change, for the host and for a job that runs here.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use larder_jobs::client::Queue;
use larder_jobs::{Bandwidth, FleetLimits, FleetLimitsChange, Invalid, JobId, Reason};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::Api;
use super::body::object;
use super::jobs::unknown;
use super::problem::Failure;

/// The limits that hold now.
#[derive(Serialize, JsonSchema)]
pub(super) struct LimitsView {
    /// Of the host, in bytes per second; `null` is no limit.
    bandwidth: Option<Bandwidth>,
    /// Of the jobs that run here.
    jobs: Vec<JobLimitView>,
}

/// The limit of one running job.
#[derive(Serialize, JsonSchema)]
pub(super) struct JobLimitView {
    id: JobId,
    bandwidth: Option<Bandwidth>,
}

/// What a limit becomes.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["bandwidth"]))]
pub(super) struct Change {
    /// Must be there: a limit is lifted by `null`, and by nothing else.
    #[serde(deserialize_with = "present")]
    bandwidth: Option<Bandwidth>,
}

/// An `Option` that is no excuse for a missing field.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bandwidth>, D::Error> {
    Option::deserialize(deserializer)
}

fn wanted(body: &Bytes) -> Result<Option<Bandwidth>, Invalid> {
    let change: Change = object(body).map_err(|error| {
        Invalid::new(
            format!("the body is no limit: {error}"),
            r#"send {"bandwidth": 20000000} (bytes per second), or {"bandwidth": null} for no limit"#,
        )
    })?;
    Ok(change.bandwidth)
}

fn view(api: &Api) -> LimitsView {
    let jobs = api.limits.jobs().into_iter();
    LimitsView {
        bandwidth: api.limits.bandwidth(),
        jobs: jobs.map(|(id, bandwidth)| JobLimitView { id, bandwidth }).collect(),
    }
}

pub(super) async fn show(Shared(api): Shared<Api>) -> Json<LimitsView> {
    Json(view(&api))
}

pub(super) async fn change(Shared(api): Shared<Api>, body: Bytes) -> Result<Json<LimitsView>, Failure> {
    let bandwidth = wanted(&body)?;
    api.limits.set_bandwidth(bandwidth);
    tracing::info!(bandwidth = bandwidth.map(Bandwidth::bytes), "the host has another limit");
    Ok(Json(view(&api)))
}

/// The queue of the fleet, whose limits these are.
fn fleet(api: &Api) -> Result<&Queue, Failure> {
    api.fleet.as_ref().ok_or_else(|| {
        Failure::new(
            Reason::InvalidRequest,
            format!("this larder ({}) has a queue of its own, and no fleet", api.host),
            "use /v1/limits for this host, or set queue.url to the Redis of a fleet",
        )
    })
}

pub(super) async fn show_fleet(Shared(api): Shared<Api>) -> Result<Json<FleetLimits>, Failure> {
    Ok(Json(fleet(&api)?.limits().await?))
}

pub(super) async fn change_fleet(
    Shared(api): Shared<Api>,
    body: Bytes,
) -> Result<Json<FleetLimits>, Failure> {
    let change: FleetLimitsChange = object(&body).map_err(|error| {
        Invalid::new(
            format!("the body is no limit: {error}"),
            concat!(
                r#"send {"bandwidth": 1000000000, "requests_per_second": 50}, or null for no limit; of one source: "#,
                r#"{"sources": {"https://huggingface.co": {"requests_per_second": 20}}}"#,
            ),
        )
    })?;
    let fleet = fleet(&api)?;
    fleet.change_limits(&change).await?;
    let limits = fleet.limits().await?;
    tracing::info!(?limits, "the fleet has other limits");
    Ok(Json(limits))
}

pub(super) async fn change_job(
    Shared(api): Shared<Api>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<JobLimitView>, Failure> {
    let (id, bandwidth): (JobId, _) = (id.parse()?, wanted(&body)?);
    if !api.limits.set_job(&id, bandwidth) {
        let record = api.queue.get(id).await?.ok_or_else(|| unknown(id))?;
        return Err(Failure::new(
            Reason::InvalidRequest,
            format!("the job {id} is {}, but it does not run on this host ({})", record.state, api.host),
            "a running job takes another limit on the host that runs it; for one that has not begun, cancel it and \
             ask again with `bandwidth`",
        )
        .status(StatusCode::CONFLICT));
    }
    tracing::info!(job = %id, bandwidth = bandwidth.map(Bandwidth::bytes), "a job has another limit");
    Ok(Json(JobLimitView { id, bandwidth }))
}
