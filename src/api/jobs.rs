//! Jobs over HTTP: ask, look, cancel, try again.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, RawQuery, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use larder_jobs::{Hosts, Invalid, Job, JobId, JobView, Kind, Reason, Work};
use serde::{Deserialize, Serialize};

use super::Api;
use super::access::Caller;
use super::guard::{Subject, forbidden};
use super::models::parameters;
use super::problem::Failure;
use super::routes::role_of;
use crate::queue::Filter;

/// Most jobs in one answer.
const MAX_LIST: usize = 1_000;

/// The answer to a request for a job.
#[derive(Serialize)]
struct Accepted {
    /// Whether the job is a new one; `false` means that an equal want was there.
    created: bool,
    #[serde(flatten)]
    job: JobView,
}

#[derive(Serialize)]
pub(super) struct JobList {
    jobs: Vec<JobView>,
}

#[derive(Serialize)]
pub(super) struct Redriven {
    redriven: usize,
}

pub(super) async fn enqueue(
    Shared(api): Shared<Api>,
    caller: Option<Extension<Caller>>,
    body: Bytes,
) -> Result<Response, Failure> {
    let value = serde_json::from_slice(&body).map_err(|error| {
        Invalid::new(
            format!("the body is not JSON: {error}"),
            r#"send {"kind": "download", "repo": "owner/name"}"#,
        )
    })?;
    let job = Job::from_json(value)?;
    if let Hosts::Named(name) = &job.common.hosts
        && !api.fleet
        && name.as_str() != &*api.host
    {
        return Err(Failure::new(
            Reason::InvalidRequest,
            format!("the job is for {name}, and this larder ({}) has a queue of its own", api.host),
            "leave `hosts` out, or set queue.url to the Redis that both hosts share",
        ));
    }
    let (kind, model) = (job.work.kind(), job.work.model().0.map(ToString::to_string));
    // Whoever calls within this process is no stranger.
    if let Some(Extension(caller)) = caller.filter(|caller| caller.role < role_of(kind)) {
        return Ok(forbidden(&caller, role_of(kind)));
    }
    let work = job.work.clone();
    let accepted = api.queue.enqueue(job).await?;
    // A job that was joined may run here already, with the limit of those who asked before. What an idempotency
    // key answers may be another want.
    if let Work::Download(download) = &work
        && !accepted.created
        && accepted.record.want == work.want_hash()
    {
        api.limits.widen_job(&accepted.record.id, download.bandwidth);
    }
    let place = format!("/v1/jobs/{}", accepted.record.id);
    let answer = Accepted { created: accepted.created, job: accepted.record.view(Some(&api.host)) };
    let subject = Subject { job: Some(accepted.record.id.to_string()), kind: Some(kind.word()), model };
    let mut response = (StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(answer)).into_response();
    response.extensions_mut().insert(subject);
    Ok(response)
}

fn filter(query: Option<&str>) -> Result<Filter, Invalid> {
    let [state, kind, limit] = parameters(query, ["state", "kind", "limit"])?;
    let mut filter = Filter {
        state: state.map(|word| word.parse()).transpose()?,
        kind: kind.map(|word| word.parse()).transpose()?,
        ..Filter::default()
    };
    if let Some(limit) = limit {
        let number = limit.parse().ok().filter(|n| (1..=MAX_LIST).contains(n));
        filter.limit = number.ok_or_else(|| {
            Invalid::new("`limit` is not a number from 1 to 1000", "leave it out for the newest hundred")
        })?;
    }
    Ok(filter)
}

pub(super) async fn list(
    Shared(api): Shared<Api>,
    RawQuery(query): RawQuery,
) -> Result<Json<JobList>, Failure> {
    let records = api.queue.list(filter(query.as_deref())?).await?;
    Ok(Json(JobList { jobs: records.iter().map(|record| record.view(Some(&api.host))).collect() }))
}

pub(super) async fn show(Shared(api): Shared<Api>, Path(id): Path<String>) -> Result<Json<JobView>, Failure> {
    let id: JobId = id.parse()?;
    let record = api.queue.get(id).await?.ok_or_else(|| unknown(id))?;
    Ok(Json(record.view(Some(&api.host))))
}

/// Who takes the wish back; nobody named means everybody's, so a typo in the name must not pass.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct By {
    requested_by: Option<String>,
}

pub(super) async fn cancel(
    Shared(api): Shared<Api>,
    Path(id): Path<String>,
    axum::extract::Query(by): axum::extract::Query<By>,
) -> Result<(StatusCode, Json<JobView>), Failure> {
    let cancelled = api.queue.cancel(id.parse()?, by.requested_by.as_deref()).await?;
    Ok((StatusCode::ACCEPTED, Json(cancelled.record.view(Some(&api.host)))))
}

pub(super) async fn retry(
    Shared(api): Shared<Api>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<JobView>), Failure> {
    let record = api.queue.retry(id.parse()?).await?;
    Ok((StatusCode::ACCEPTED, Json(record.view(Some(&api.host)))))
}

pub(super) async fn redrive(Shared(api): Shared<Api>) -> Result<(StatusCode, Json<Redriven>), Failure> {
    let mut redriven = 0;
    for kind in Kind::ALL {
        redriven += api.queue.redrive(*kind).await?;
    }
    Ok((StatusCode::ACCEPTED, Json(Redriven { redriven })))
}

pub(super) fn unknown(id: JobId) -> Failure {
    Failure::new(
        Reason::NotFound,
        format!("there is no job {id}"),
        "list them with larder jobs or GET /v1/jobs; ended jobs are forgotten after queue.retention",
    )
}
