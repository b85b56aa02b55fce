//! Jobs over HTTP: ask, look, cancel, try again.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use larder_jobs::client::Submitted;
use larder_jobs::{Invalid, Job, JobId, JobView, Kind, Reason, Work};
use serde::{Deserialize, Serialize};

use super::models::parameters;
use super::problem::Failure;
use super::{Api, place};
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

pub(super) async fn enqueue(Shared(api): Shared<Api>, body: Bytes) -> Result<Response, Failure> {
    let value = serde_json::from_slice(&body).map_err(|error| {
        Invalid::new(
            format!("the body is not JSON: {error}"),
            r#"send {"kind": "download", "repo": "owner/name"}"#,
        )
    })?;
    let job = Job::from_json(value)?;
    place::is_for_us(&api, &job.common.hosts)?;
    let (work, want) = (job.work.clone(), place::size(&api, &job).await);
    let submitted = api.queue.submit(job, want).await?;
    // A job that was joined may run here already, with the limit of those who asked before. What an idempotency
    // key answers may be another want.
    if let (Submitted::One { created: false, record }, Work::Download(download)) = (&submitted, &work)
        && record.want == work.want_hash()
    {
        api.limits.widen_job(&record.id, download.bandwidth);
    }
    let answer = Accepted { created: submitted.created(), job: submitted.view(Some(&api.host)) };
    let place = format!("/v1/jobs/{}", answer.job.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(answer)).into_response())
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
    if let Some(record) = api.queue.get(id).await? {
        return Ok(Json(record.view(Some(&api.host))));
    }
    Ok(Json(place::batch(&api, id).await?.ok_or_else(|| unknown(id))?))
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
    let (id, by) = (id.parse()?, by.requested_by.as_deref());
    let view = match api.queue.cancel(id, by).await {
        Ok(cancelled) => cancelled.record.view(Some(&api.host)),
        Err(error) if error.reason() == Reason::NotFound => place::cancel(&api, id, by, error).await?,
        Err(error) => return Err(error.into()),
    };
    Ok((StatusCode::ACCEPTED, Json(view)))
}

pub(super) async fn retry(
    Shared(api): Shared<Api>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<JobView>), Failure> {
    let id = id.parse()?;
    let view = match api.queue.retry(id).await {
        Ok(record) => record.view(Some(&api.host)),
        Err(error) if error.reason() == Reason::NotFound => place::retry(&api, id, error).await?,
        Err(error) => return Err(error.into()),
    };
    Ok((StatusCode::ACCEPTED, Json(view)))
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
